//! Reads the text of /proc/PID/maps, line by line. The paths in it are the process's own choice: any byte but a newline, which
//! the kernel writes as `\012`. Not here: opening what a line names.

/// What the process may do with a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Read.
    pub read: bool,
    /// Write.
    pub write: bool,
    /// Execute.
    pub execute: bool,
}

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapsLine<'a> {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What may be done with it.
    pub permissions: Permissions,
    /// Where in the file it starts.
    pub offset: u64,
    /// The file system's device number, major and minor. On some file systems (btrfs, overlays) not what stat(2) says.
    pub device: (u32, u32),
    /// The file's number there; 0: no file.
    pub inode: u64,
    /// As it stands there, with `\012` for newlines and perhaps ` (deleted)` at its end; empty: no name.
    pub name: &'a [u8],
}

impl<'a> MapsLine<'a> {
    /// Reads a line without its newline. None where it is none of the kernel's lines.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut rest = line;
        let range = field(&mut rest)?;
        let permissions = field(&mut rest)?;
        let offset = hex(field(&mut rest)?)?;
        let device = field(&mut rest)?;
        let inode = decimal(field(&mut rest)?)?;
        let name = rest.trim_ascii_start();
        let (start, end) = split(range, b'-')?;
        let (start, end) = (hex(start)?, hex(end)?);
        let (major, minor) = split(device, b':')?;
        let device = (u32::try_from(hex(major)?).ok()?, u32::try_from(hex(minor)?).ok()?);
        let &[r, w, x, _] = permissions else { return None };
        let permissions = Permissions { read: r == b'r', write: w == b'w', execute: x == b'x' };
        (start < end).then_some(Self { start, end, permissions, offset, device, inode, name })
    }

    /// Whether a file lies behind it, as opposed to plain memory.
    pub fn is_file(&self) -> bool {
        self.inode != 0 && self.name.starts_with(b"/")
    }

    /// The name with its newlines back, and without the mark of a deleted file, if it has one. A file may well be called
    /// `x (deleted)`, or have the four characters `\012` in its name: this path is tried, shown, but never believed.
    pub fn path(&self) -> (Vec<u8>, bool) {
        let (name, marked) = match self.name.strip_suffix(b" (deleted)") {
            Some(name) if self.inode != 0 => (name, true),
            _ => (self.name, false),
        };
        (unescape(name), marked)
    }
}

/// `\012` to a newline.
pub(super) fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, behind)) = rest.split_first() {
        match rest.strip_prefix(b"\\012") {
            Some(behind) => {
                out.push(b'\n');
                rest = behind;
            }
            None => {
                out.push(first);
                rest = behind;
            }
        }
    }
    out
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
    let (field, behind) = rest.split_at(end);
    *rest = behind.strip_prefix(b" ").unwrap_or(behind);
    (!field.is_empty()).then_some(field)
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = text.iter().position(|byte| *byte == at)?;
    Some((&text[..position], &text[position + 1..]))
}

fn hex(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let line = b"7f1c2a000000-7f1c2a021000 r-xp 00028000 fe:01 1234567                    /usr/lib/libc.so.6";
        let line = MapsLine::parse(line).expect("a line");
        assert_eq!((line.start, line.end, line.offset), (0x7f1c_2a00_0000, 0x7f1c_2a02_1000, 0x28000));
        assert_eq!((line.device, line.inode), ((0xfe, 1), 1_234_567));
        assert!(line.permissions.read && !line.permissions.write && line.permissions.execute);
        assert_eq!((line.name, line.is_file()), (&b"/usr/lib/libc.so.6"[..], true));

        let plain = MapsLine::parse(b"00400000-00401000 rwxp 00000000 00:00 0 ").expect("a line");
        assert_eq!((plain.name, plain.is_file()), (&b""[..], false));
        let vdso =
            MapsLine::parse(b"7ffd1-7ffd2 r-xp 00000000 00:00 0                          [vdso]").expect("a line");
        assert_eq!((vdso.name, vdso.is_file()), (&b"[vdso]"[..], false));
    }

    #[test]
    fn hostile_names_stay_names() {
        let line = b"1000-2000 r-xp 00000000 00:01 9       /tmp/a b\\012c (deleted)";
        let line = MapsLine::parse(line).expect("a line");
        assert_eq!(line.path(), (b"/tmp/a b\nc".to_vec(), true));
        let line = MapsLine::parse(b"1000-2000 r-xp 0 0:1 9 /tmp/\xff\xfe\\01").expect("a line");
        assert_eq!(line.path(), (b"/tmp/\xff\xfe\\01".to_vec(), false));
        let named = MapsLine::parse(b"1000-2000 r-xp 0 0:0 0 [anon: x (deleted)").expect("a line");
        assert!(!named.is_file() && !named.path().1, "memory without a file cannot be deleted");
    }

    #[test]
    fn what_is_no_line_gives_none() {
        for text in [
            &b""[..],
            b"x",
            b"2000-1000 r-xp 0 0:0 0 ",
            b"1000-2000 r-x 0 0:0 0 ",
            b"1000-2000 r-xp zz 0:0 0 ",
            b"1000-2000 r-xp 0 00 0 ",
            b"1000-2000 r-xp 0 0:0 -1 ",
            b"1000-2000",
            b"fffffffffffffffff-2 r-xp 0 0:0 0 ",
        ] {
            assert_eq!(MapsLine::parse(text), None, "{:?}", String::from_utf8_lossy(text));
        }
    }
}
