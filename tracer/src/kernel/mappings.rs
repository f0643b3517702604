//! What a process's resident memory consists of, by mapping (/proc/PID/smaps). Reads; decides nothing but which class a mapping is of. The
//! kernel walks the page tables for it, so it is read seldom.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use crate::model::meta::MappingSum;

/// A longer text is not used: some 20,000 mappings.
const MAX_TEXT_BYTES: u64 = 16 << 20;
/// Files told by their paths; the others are one row.
const MAX_FILES: usize = 24;
/// glibc's arenas beyond the first one begin at a multiple of this, and reserve as much.
const ARENA_BYTES: u64 = 64 << 20;
/// Paths of shared memory that lies in no file system that is mounted.
const UNMOUNTED: [&[u8]; 4] = [b"/memfd:", b"/SYSV", b"/dev/zero", b"[anon_shmem"];

/// Resident memory of a process by mapping, and its proportional share (of a page that n processes have, 1/n).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mappings {
    /// By class and path.
    pub sums: Vec<MappingSum>,
    /// Proportional share of all of them.
    pub proportional: u64,
}

/// Those of a process; none where it is gone, not ours to read, or has too many.
pub fn read(pid: u32) -> Option<Mappings> {
    let mut text = Vec::new();
    let file = std::fs::File::open(format!("/proc/{pid}/smaps")).ok()?;
    let len = file.take(MAX_TEXT_BYTES).read_to_end(&mut text).ok()? as u64;
    (len > 0 && len < MAX_TEXT_BYTES).then(|| mappings_in(&text, &super::tmpfs::devices(pid)))
}

/// One mapping.
#[derive(Clone, Copy, Debug, Default)]
struct Mapping<'a> {
    start: u64,
    end: u64,
    writable: bool,
    none: bool,
    device: (u32, u32),
    path: &'a [u8],
    rss: u64,
    anonymous: u64,
    proportional: u64,
}

impl Mapping<'_> {
    fn is_anonymous(&self) -> bool {
        self.path.is_empty() || self.path.starts_with(b"[anon:")
    }
}

/// The head of a mapping: "start-end rwxp offset major:minor inode path" (proc_pid_maps(5)).
fn head(line: &[u8]) -> Option<Mapping<'_>> {
    let hex = |field: &[u8]| u64::from_str_radix(std::str::from_utf8(field).ok()?, 16).ok();
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let range = fields.next()?;
    let dash = range.iter().position(|byte| *byte == b'-')?;
    let (start, end) = (hex(range.get(..dash)?)?, hex(range.get(dash + 1..)?)?);
    let access = fields.next()?;
    let device = fields.nth(1)?;
    let colon = device.iter().position(|byte| *byte == b':')?;
    let part = |bytes: Option<&[u8]>| u32::try_from(hex(bytes?)?).ok();
    let device = (part(device.get(..colon))?, part(device.get(colon + 1..))?);
    let path = fields.nth(1).unwrap_or_default().trim_ascii();
    let (writable, none) = (access.starts_with(b"rw"), access.starts_with(b"---"));
    Some(Mapping { start, end, writable, none, device, path, ..Mapping::default() })
}

fn all_in(text: &[u8]) -> Vec<Mapping<'_>> {
    let mut all: Vec<Mapping<'_>> = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        // A key ends with a colon and is followed by blanks; a range has none before its first one.
        let key = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        let Some(key) = key.strip_suffix(b":") else {
            all.extend(head(line));
            continue;
        };
        let value = || {
            let text = std::str::from_utf8(line.get(key.len() + 1..)?).ok()?;
            text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        let Some(last) = all.last_mut() else { continue };
        match key {
            b"Rss" => last.rss = value().unwrap_or(0),
            b"Pss" => last.proportional = value().unwrap_or(0),
            b"Anonymous" => last.anonymous = value().unwrap_or(0),
            _ => {}
        }
    }
    all
}

/// Class and path of a mapping. `next` is the one behind it.
fn class(mapping: &Mapping<'_>, next: Option<&Mapping<'_>>, tmpfs: &BTreeSet<(u32, u32)>) -> (&'static str, String) {
    let path = String::from_utf8_lossy(mapping.path).into_owned();
    if mapping.is_anonymous() {
        // What an arena may still grow into is reserved without access.
        let reserves = |next: &Mapping<'_>| {
            next.none && next.is_anonymous() && next.start == mapping.end && next.end.is_multiple_of(ARENA_BYTES)
        };
        let arena = mapping.writable && mapping.start.is_multiple_of(ARENA_BYTES) && next.is_some_and(reserves);
        return (if arena { "arena" } else { "anonymous" }, String::new());
    }
    match mapping.path {
        b"[heap]" => ("heap", String::new()),
        path if path.starts_with(b"[stack") => ("stack", String::new()),
        shared if UNMOUNTED.iter().any(|start| shared.starts_with(start)) => ("shared", path),
        _ if tmpfs.contains(&mapping.device) => ("shared", path),
        special if special.starts_with(b"[") => ("special", String::new()),
        _ => ("file", path),
    }
}

fn mappings_in(text: &[u8], tmpfs: &BTreeSet<(u32, u32)>) -> Mappings {
    let all = all_in(text);
    let mut sums: BTreeMap<(&'static str, String), MappingSum> = BTreeMap::new();
    let mut proportional = 0u64;
    for (index, mapping) in all.iter().enumerate() {
        proportional = proportional.saturating_add(mapping.proportional);
        if mapping.rss == 0 {
            continue;
        }
        let (class, path) = class(mapping, all.get(index + 1), tmpfs);
        let sum = sums.entry((class, path)).or_default();
        let anonymous = mapping.anonymous.min(mapping.rss);
        let rest = mapping.rss - anonymous;
        sum.anonymous = sum.anonymous.saturating_add(anonymous);
        let rest_of = if class == "shared" { &mut sum.shared } else { &mut sum.file };
        *rest_of = rest_of.saturating_add(rest);
    }
    let mut sums: Vec<MappingSum> =
        sums.into_iter().map(|((class, path), sum)| MappingSum { class: class.to_owned(), path, ..sum }).collect();
    // Those without a path come first, then the largest.
    sums.sort_by_key(|sum| (!sum.path.is_empty(), std::cmp::Reverse(sum.total())));
    let without_path = sums.iter().filter(|sum| sum.path.is_empty()).count();
    let rest = sums.split_off(sums.len().min(without_path + MAX_FILES));
    for sum in rest {
        let known = sums.iter_mut().find(|known| known.path.is_empty() && known.class == sum.class);
        match known {
            Some(known) => known.add(&sum),
            None => sums.push(MappingSum { path: String::new(), ..sum }),
        }
    }
    Mappings { sums, proportional }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"00400000-00500000 r-xp 00000000 fe:00 77   /usr/bin/python3\n\
        Size: 1024 kB\nRss: 100 kB\nPss: 50 kB\nAnonymous: 4 kB\nVmFlags: rd ex\n\
        01000000-02000000 rw-p 00000000 00:00 0    [heap]\nRss: 200 kB\nPss: 200 kB\nAnonymous: 200 kB\n\
        7f0000000000-7f0000100000 rw-p 00000000 00:00 0 \nRss: 300 kB\nPss: 300 kB\nAnonymous: 300 kB\n\
        7f0000100000-7f0004000000 ---p 00000000 00:00 0 \nRss: 0 kB\n\
        7f0008000000-7f0008100000 rw-p 00000000 00:00 0 \nRss: 40 kB\nPss: 40 kB\nAnonymous: 40 kB\n\
        7f0010000000-7f0011000000 rw-s 00000000 00:01 9    /memfd:x (deleted)\nRss: 500 kB\nPss: 250 kB\nAnonymous: 0 kB\n\
        7f0012000000-7f0013000000 rw-s 00000000 00:1b 9    /dev/shm/a b\nRss: 60 kB\nPss: 60 kB\nAnonymous: 0 kB\n\
        7ffc00000000-7ffc00100000 rw-p 00000000 00:00 0    [stack]\nRss: 8 kB\nPss: 8 kB\nAnonymous: 8 kB\n";

    #[test]
    fn each_mapping_is_of_one_class_and_the_sums_are_those_of_the_text() {
        let found = mappings_in(TEXT, &BTreeSet::from([(0, 0x1b)]));
        let rows: Vec<(&str, &str, [u64; 3])> = found
            .sums
            .iter()
            .map(|sum| (&*sum.class, &*sum.path, [sum.anonymous, sum.file, sum.shared].map(|bytes| bytes / 1024)))
            .collect();
        let expected = [
            ("arena", "", [300, 0, 0]),
            ("heap", "", [200, 0, 0]),
            ("anonymous", "", [40, 0, 0]),
            ("stack", "", [8, 0, 0]),
            ("shared", "/memfd:x (deleted)", [0, 0, 500]),
            ("file", "/usr/bin/python3", [4, 96, 0]),
            ("shared", "/dev/shm/a b", [0, 0, 60]),
        ];
        assert_eq!((rows, found.proportional), (expected.to_vec(), 908 * 1024));
    }

    #[test]
    fn files_beyond_the_bound_stay_in_the_sum_and_hostile_texts_do_no_harm() {
        let mut text = Vec::new();
        for number in 0..100u64 {
            let start = (number + 1) << 20;
            let line = format!("{start:x}-{:x} r--p 0 08:01 5  /lib/{number}\nRss: {} kB\n", start + 4096, number + 1);
            text.extend_from_slice(line.as_bytes());
        }
        let found = mappings_in(&text, &BTreeSet::new());
        assert_eq!(found.sums.len(), MAX_FILES + 1);
        assert_eq!(found.sums.iter().map(MappingSum::total).sum::<u64>(), 5_050 * 1024);
        for text in
            [&b""[..], b"Rss: 4 kB\n", b"1-2\nRss: 99999999999999999999 kB\n", b"\xff-\xff rw-p 0 0:0 0\n", b"-\n:\n :"]
        {
            assert_eq!(mappings_in(text, &BTreeSet::new()).sums, []);
        }
    }

    #[test]
    fn this_process_has_some() {
        let own = read(std::process::id()).expect("its own can be read");
        assert!(own.sums.iter().any(|sum| sum.class == "file" && sum.file > 0) && own.proportional > 0, "{own:?}");
        assert_eq!(read(u32::MAX), None);
    }
}
