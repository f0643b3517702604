//! Finds the type information in a kernel as it is booted: x86's boot image, in it the compressed kernel, in that a section of an ELF
//! file. Knows the two compressions that kernels of the matrix have; others are refused by name.
//!
//! Format: Documentation/arch/x86/boot.rst.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection};

/// Where the header says these things.
const SETUP_SECTORS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

const SECTOR_BYTES: usize = 512;

/// Type information of a kernel; what is type information already (/sys/kernel/btf/vmlinux) is handed through.
pub fn type_information(image: &[u8]) -> Result<Vec<u8>> {
    if image.starts_with(&[0x9f, 0xeb]) {
        return Ok(image.to_vec());
    }
    let kernel = unpacked(image)?;
    let file = object::File::parse(&*kernel).context("what is compressed in the image is no ELF file")?;
    let section = file.section_by_name(".BTF").context("the kernel has no section .BTF")?;
    Ok(section.data().context("the section .BTF cannot be read")?.to_vec())
}

fn unpacked(image: &[u8]) -> Result<Vec<u8>> {
    ensure!(image.get(HEADER_MAGIC..HEADER_MAGIC + 4) == Some(b"HdrS"), "this is no boot image of x86");
    let number = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("the header is cut off")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    // 0 stands for 4, for ancient loaders.
    let sectors = match image[SETUP_SECTORS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR_BYTES + number(PAYLOAD_OFFSET)?;
    let payload = start.checked_add(number(PAYLOAD_LENGTH)?).and_then(|end| image.get(start..end));
    // Its last word is the kernel's size, which neither compression knows.
    let (data, size) = payload.and_then(<[u8]>::split_last_chunk::<4>).context("the image is cut off")?;
    let size_bytes = u32::from_le_bytes(*size) as usize;
    let mut kernel = Vec::with_capacity(size_bytes);
    match data.first_chunk::<4>() {
        Some([0x28, 0xb5, 0x2f, 0xfd]) => {
            zstd::Decoder::new(data)?.single_frame().read_to_end(&mut kernel).context("zstd")?
        }
        // The legacy frame of LZ4.
        Some([0x02, 0x21, 0x4c, 0x18]) => {
            lz4_flex::frame::FrameDecoder::new(data).read_to_end(&mut kernel).context("LZ4")?
        }
        other => bail!("the kernel is compressed in a way that is not known here: it starts with {other:02x?}"),
    };
    ensure!(kernel.len() == size_bytes, "{} bytes were unpacked, the image says {size_bytes}", kernel.len());
    Ok(kernel)
}
