//! What tracer wants of an ELF file's headers: loadable segments, entry point, build id. Any bytes may come; nothing is believed
//! without a check, and counts are bounded.

use object::Endianness;
use object::elf::{FileHeader32, FileHeader64, PF_X, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};

use super::Segment;

/// Most loadable segments that are kept. Real files have 2 to 10.
const MAX_SEGMENTS: usize = 256;
/// Most notes looked at for a build id.
const MAX_NOTES: usize = 256;
/// Longest build id that is one: SHA-512 has 64 bytes.
const MAX_BUILD_ID_BYTES: usize = 64;

/// See the file's head.
#[derive(Debug)]
pub(super) struct Headers {
    pub segments: Vec<Segment>,
    pub entry: u64,
    pub machine: u16,
    pub is_64: bool,
    pub build_id: Option<String>,
}

/// Reads the headers, or says why they cannot be.
pub(super) fn headers(bytes: &[u8]) -> Result<Headers, String> {
    if !bytes.starts_with(b"\x7fELF") {
        return Err("not an ELF file".to_owned());
    }
    match (bytes.get(4), bytes.get(5)) {
        (Some(2), Some(1)) => read::<FileHeader64<Endianness>>(bytes, true),
        (Some(1), Some(1)) => read::<FileHeader32<Endianness>>(bytes, false),
        _ => Err("not an ELF file of this machine's byte order".to_owned()),
    }
}

fn read<E: FileHeader<Endian = Endianness>>(bytes: &[u8], is_64: bool) -> Result<Headers, String> {
    let damaged = |error: object::read::Error| format!("damaged ELF file: {error}");
    let header = E::parse(bytes).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let programs = header.program_headers(endian, bytes).map_err(damaged)?;
    let mut segments = Vec::new();
    let mut build_id = None;
    for program in programs {
        match program.p_type(endian) {
            PT_LOAD if segments.len() < MAX_SEGMENTS => segments.push(Segment {
                offset: program.p_offset(endian).into(),
                address: program.p_vaddr(endian).into(),
                len_bytes: program.p_filesz(endian).into(),
                executable: program.p_flags(endian) & PF_X != 0,
            }),
            PT_NOTE if build_id.is_none() => build_id = build_id_of::<E>(program, endian, bytes),
            _ => {}
        }
    }
    if segments.is_empty() {
        return Err("damaged ELF file: it has no loadable segment".to_owned());
    }
    Ok(Headers { segments, entry: header.e_entry(endian).into(), machine: header.e_machine(endian), is_64, build_id })
}

fn build_id_of<E: FileHeader<Endian = Endianness>>(
    program: &E::ProgramHeader,
    endian: Endianness,
    bytes: &[u8],
) -> Option<String> {
    let mut notes = program.notes(endian, bytes).ok()??;
    for _ in 0..MAX_NOTES {
        let note = notes.next().ok()??;
        if note.name() == b"GNU" && note.n_type(endian) == object::elf::NT_GNU_BUILD_ID {
            let id = note.desc();
            let usable = !id.is_empty() && id.len() <= MAX_BUILD_ID_BYTES;
            return usable.then(|| id.iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }
    None
}
