//! Writes an archive in the format that kernels unpack their first file system from (cpio, `newc`). Only what a guest needs: folders,
//! files and device nodes, all root's; nothing is read back.
//!
//! Source: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.

/// An archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

impl Archive {
    /// An empty folder; its parent has to be there.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, (0, 0), &[]);
    }

    /// A file that anybody may read and execute.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, (0, 0), content);
    }

    /// A character device: without /dev/console the first program has no output.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        // inode, mode, owner, group, links, time, size, the device it lies on (2), the device it is (2), length of the name, sum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_format_says_byte_for_byte() {
        let mut archive = Archive::default();
        archive.file("a", b"xyz");
        let bytes = archive.finish();
        let header = "070701\
            00000001000081ed000000000000000000000001000000000000000300000000000000000000000000000000\
            0000000200000000a\0xyz\0";
        // 6 + 13 fields of 8, the name with its zero, padded to 4; then the content, padded to 4.
        assert_eq!(String::from_utf8_lossy(&bytes[..116]), header);
        assert_eq!(bytes.len() % 4, 0, "the kernel wants each part at a multiple of four");
        assert_eq!(&bytes[116 + 110..116 + 121], b"TRAILER!!!\0");
    }

    #[test]
    fn a_device_has_its_numbers_and_a_folder_its_mode() {
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.character_device("dev/console", 5, 1);
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        assert!(text.contains("000041ed"), "a folder's mode: {text}");
        let at = text.find("dev/console").unwrap();
        assert_eq!(&text[at - 32..at - 16], "0000000500000001", "major and minor number: {text}");
    }
}
