//! Maps that JITs write for profilers: `/tmp/perf-PID.map`, a line `START SIZE NAME` (hexadecimal) for each function.
//!
//! Read while the process lives, from its own root and under the number that it has in its own pid namespace. Anybody may write to
//! /tmp: only a file of the process's user, or of root, counts.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode,
};

use crate::symbol::demangle;

/// Most bytes read of a map.
const MAX_BYTES: u64 = 64 << 20;
/// Most functions kept: some 40 bytes each, and their names.
const MAX_ENTRIES: usize = 1 << 19;
/// Longest line; what is longer is skipped.
const MAX_LINE_BYTES: usize = 8192;
/// No function of a JIT is larger.
const MAX_FUNCTION_BYTES: u64 = 1 << 30;

/// Why a map cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PerfMapError {
    /// Opening or reading failed.
    #[error("the perf map of process {pid} was not read: {error}")]
    Io {
        /// The process.
        pid: u32,
        /// Why.
        error: io::Error,
    },
    /// It is not a regular file, or it is of another user.
    #[error("the perf map of process {pid} was not used: {why}")]
    NotTrusted {
        /// The process.
        pid: u32,
        /// Why.
        why: &'static str,
    },
}

/// A map: at most half a million functions.
#[derive(Clone, Debug, Default)]
pub struct PerfMap {
    /// By their start; they do not overlap.
    entries: BTreeMap<u64, Entry>,
    names: String,
    bad_lines: u64,
    /// The last line has no end: it may still be written.
    unfinished: bool,
    cut: bool,
    /// Whole lines read.
    read_bytes: u64,
    /// The file read: its device, inode and size then.
    file: (u64, u64, u64),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    end: u64,
    name_at: u32,
    name_bytes: u32,
}

impl PerfMap {
    /// The map of a process that lives; `ns_pid` is its number in its own pid namespace. None: it has no map.
    pub fn read(pid: u32, ns_pid: u32) -> Result<Option<Self>, PerfMapError> {
        let mut map = Self::default();
        map.follow(pid, ns_pid)?;
        Ok((map.file != Self::default().file).then_some(map))
    }

    /// Reads what was written since the last time; all, if it is another file or a shorter one now. True: there was something.
    pub fn follow(&mut self, pid: u32, ns_pid: u32) -> Result<bool, PerfMapError> {
        let Some((mut file, metadata)) = open(pid, ns_pid)? else { return Ok(false) };
        let now = (metadata.dev(), metadata.ino(), metadata.len());
        if now == self.file {
            return Ok(false);
        }
        if (now.0, now.1) != (self.file.0, self.file.1) || now.2 < self.file.2 {
            *self = Self::default();
        }
        self.file = now;
        let failed = |error| PerfMapError::Io { pid, error };
        file.seek(SeekFrom::Start(self.read_bytes)).map_err(failed)?;
        self.go_on(BufReader::with_capacity(1 << 16, file)).map_err(failed)?;
        Ok(true)
    }

    /// Of text; at most 64 MiB and half a million functions of it.
    pub fn parse(text: impl BufRead) -> io::Result<Self> {
        let mut map = Self::default();
        map.go_on(text)?;
        Ok(map)
    }

    /// Adds what follows the lines read so far.
    fn go_on(&mut self, text: impl BufRead) -> io::Result<()> {
        let mut text = text.take(MAX_BYTES.saturating_sub(self.read_bytes));
        let mut line = Vec::new();
        self.unfinished = false;
        while !self.cut {
            let (mut line_bytes, mut parts) = (0, 0);
            let ended = loop {
                line.clear();
                let read = (&mut text).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line)?;
                (line_bytes, parts) = (line_bytes + read as u64, parts + 1);
                if read < MAX_LINE_BYTES || line.last() == Some(&b'\n') {
                    break line.last() == Some(&b'\n');
                }
            };
            // Without its end it may be cut, and a cut size or name is a wrong one: it is read again when there is more.
            if !ended {
                self.unfinished = line_bytes > 0;
                break;
            }
            match parse_line(&line).filter(|_| parts == 1) {
                Some(_) if self.entries.len() == MAX_ENTRIES => self.cut = true,
                Some((start, end, name)) => self.insert(start, end, name),
                None => self.bad_lines += 1,
            }
            self.read_bytes += line_bytes;
        }
        self.cut |= text.limit() == 0;
        Ok(())
    }

    /// Name of the function at an address.
    pub fn find(&self, address: u64) -> Option<&str> {
        let (_, entry) = self.entries.range(..=address).next_back().filter(|(_, entry)| address < entry.end)?;
        self.names.get(entry.name_at as usize..)?.get(..entry.name_bytes as usize)
    }

    /// Functions.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// It names nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Memory that it takes, about.
    pub fn byte_len(&self) -> usize {
        const ENTRY_BYTES: usize = 40;
        self.names.capacity() + self.entries.len() * ENTRY_BYTES
    }

    /// Lines that are not entries.
    pub fn bad_lines(&self) -> u64 {
        self.bad_lines + u64::from(self.unfinished)
    }

    /// It was longer than what is read.
    pub fn cut(&self) -> bool {
        self.cut
    }

    /// A JIT reuses memory: an earlier function that shares a byte with this one is no longer there.
    fn insert(&mut self, start: u64, end: u64, name: &str) {
        while let Some((older, _)) = self.entries.range(..end).next_back().filter(|(_, entry)| entry.end > start) {
            let older = *older;
            self.entries.remove(&older);
        }
        let name = demangle::printable(name);
        if let (Ok(name_at), Ok(name_bytes)) = (u32::try_from(self.names.len()), u32::try_from(name.len())) {
            self.names.push_str(&name);
            self.entries.insert(start, Entry { end, name_at, name_bytes });
        }
    }
}

/// The file, if there is one and it can be trusted.
fn open(pid: u32, ns_pid: u32) -> Result<Option<(File, Metadata)>, PerfMapError> {
    let failed = |error| PerfMapError::Io { pid, error };
    let root = File::options().read(true).custom_flags(libc::O_PATH).open(format!("/proc/{pid}/root"));
    let root = root.map_err(failed)?;
    // Links are followed as the process would follow them: an absolute one must not lead out of its root.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root.as_fd(), format!("tmp/perf-{ns_pid}.map").as_str(), how) {
        Ok(file) => File::from(file),
        Err(nix::errno::Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(failed(error.into())),
    };
    let metadata = file.metadata().map_err(failed)?;
    let process = std::fs::metadata(format!("/proc/{pid}")).map_err(failed)?;
    if !metadata.is_file() {
        return Err(PerfMapError::NotTrusted { pid, why: "it is not a regular file" });
    }
    if metadata.uid() != process.uid() && metadata.uid() != 0 {
        return Err(PerfMapError::NotTrusted { pid, why: "it belongs to another user" });
    }
    Ok(Some((file, metadata)))
}

fn parse_line(line: &[u8]) -> Option<(u64, u64, &str)> {
    let line = str::from_utf8(line).ok()?.trim_end_matches(['\n', '\r']);
    let (start, rest) = line.split_once(' ')?;
    let (size, name) = rest.split_once(' ')?;
    let number = |text: &str| {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        // `from_str_radix` takes a sign.
        digits
            .starts_with(|first: char| first.is_ascii_hexdigit())
            .then(|| u64::from_str_radix(digits, 16).ok())
            .flatten()
    };
    let (start, size, name) = (number(start)?, number(size)?, name.trim());
    let end = start.checked_add(size).filter(|_| size > 0 && size <= MAX_FUNCTION_BYTES)?;
    (!name.is_empty()).then_some((start, end, name))
}
