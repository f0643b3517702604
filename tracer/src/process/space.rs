//! The address space of a process: which mapping an address lies in, and which address of a file that is.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Read};

use super::maps::MapsLine;
use super::{AddressSpace, Backing, Image, Mapping, Module, Modules, Segment};

/// Most mappings kept of a process. The kernel's own default limit for all mappings of a process is 65,530.
pub const MAX_MAPPINGS: usize = 65_536;
/// Most text of a process's maps that is read: room for 300,000 lines or more.
const MAX_TEXT_BYTES: u64 = 32 << 20;

/// Why there is no address space.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// It has ended, or is ending.
    #[error("process {pid} has no mappings any more: it has ended")]
    ProcessGone {
        /// The process.
        pid: u32,
    },
    /// Its maps cannot be read.
    #[error("the mappings of process {pid} cannot be read (/proc/{pid}/maps, run as root): {source}")]
    Unreadable {
        /// The process.
        pid: u32,
        /// Why.
        source: std::io::Error,
    },
}

impl AddressSpace {
    /// Reads the mappings of a live process, and opens the files that it has not seen before.
    pub fn read(pid: u32, modules: &mut Modules) -> Result<Self, SpaceError> {
        let mut text = Vec::new();
        let read =
            File::open(format!("/proc/{pid}/maps")).and_then(|file| file.take(MAX_TEXT_BYTES).read_to_end(&mut text));
        match read {
            Ok(0) => return Err(SpaceError::ProcessGone { pid }),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {
                return Err(SpaceError::ProcessGone { pid });
            }
            Err(source) => return Err(SpaceError::Unreadable { pid, source }),
        }
        let mut space = Self::of_maps(&text, |line| modules.backing(pid, line));
        space.cut |= text.len() as u64 >= MAX_TEXT_BYTES;
        Ok(space)
    }

    /// From the text of a maps file. `backing` is asked once for each file (device, inode and name) and each line without one.
    pub fn of_maps(text: &[u8], mut backing: impl FnMut(&MapsLine<'_>) -> Backing) -> Self {
        let lines: Vec<_> = text.split(|byte| *byte == b'\n').filter_map(MapsLine::parse).collect();
        let file = |line: &MapsLine<'_>| line.is_file().then_some((line.device, line.inode));
        let with_code: HashSet<_> = lines.iter().filter(|line| line.permissions.execute).filter_map(file).collect();
        let matters =
            |line: &&MapsLine<'_>| line.permissions.execute || file(line).is_some_and(|file| with_code.contains(&file));
        let mut seen = HashMap::new();
        let mut space = Self::default();
        for line in lines.iter().filter(matters) {
            if space.mappings.len() >= MAX_MAPPINGS {
                space.cut = true;
                break;
            }
            let backing = match file(line) {
                Some((device, inode)) => {
                    seen.entry((device, inode, line.name)).or_insert_with(|| backing(line)).clone()
                }
                None => backing(line),
            };
            let executable = line.permissions.execute;
            space.mappings.push(Mapping { start: line.start, end: line.end, offset: line.offset, executable, backing });
        }
        space.arrange();
        space
    }

    /// Sorts, and drops what overlaps: the kernel writes the text in several pieces, between which a mapping can move.
    fn arrange(&mut self) {
        self.mappings.sort_by_key(|mapping| mapping.start);
        let mut end = 0;
        self.mappings.retain(|mapping| {
            let apart = mapping.start >= end;
            end = end.max(mapping.end);
            apart
        });
    }

    /// About the memory that it takes, without the files, which all processes share.
    pub fn byte_len(&self) -> usize {
        let name = |mapping: &Mapping| match &mapping.backing {
            Backing::Anonymous(name) => name.capacity(),
            Backing::Module(_) => 0,
        };
        self.mappings.iter().map(|mapping| size_of::<Mapping>() + name(mapping)).sum()
    }

    /// The mapping that this address lies in.
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        let behind = self.mappings.partition_point(|mapping| mapping.start <= address);
        self.mappings.get(behind.checked_sub(1)?).filter(|mapping| address < mapping.end)
    }
}

impl Mapping {
    /// The file behind it.
    pub fn module(&self) -> Option<&std::sync::Arc<Module>> {
        match &self.backing {
            Backing::Module(module) => Some(module),
            Backing::Anonymous(_) => None,
        }
    }

    /// Where in its file this address lies.
    pub fn file_offset(&self, address: u64) -> u64 {
        address.wrapping_sub(self.start).wrapping_add(self.offset)
    }

    /// The address in the file's own numbering. None: no segment of the file covers it, so it is none of its code or data. For a
    /// file whose segments are not known it is the offset in the file.
    pub fn module_address(&self, address: u64) -> Option<u64> {
        let offset = self.file_offset(address);
        match &self.module()?.image {
            Ok(image) => image.address_of(offset, self.executable),
            Err(_) => Some(offset),
        }
    }
}

impl Image {
    /// The address at which the file's byte at this offset is loaded. Where two segments share a page, the one that is as executable
    /// as asked comes first, and one that truly holds the byte before one that has it only by the rounding to pages.
    pub fn address_of(&self, offset: u64, executable: bool) -> Option<u64> {
        let holds =
            |segment: &&Segment| offset.checked_sub(segment.offset).is_some_and(|inside| inside < segment.len_bytes);
        let rounded = |segment: &&Segment| {
            let page = 4096;
            let start = segment.offset & !(page - 1);
            let end =
                segment.offset.saturating_add(segment.len_bytes).checked_next_multiple_of(page).unwrap_or(u64::MAX);
            start <= offset && offset < end
        };
        let alike = |segment: &&Segment| segment.executable == executable;
        let segments = || self.segments.iter();
        let segment = (segments().filter(alike).find(holds))
            .or_else(|| segments().find(holds))
            .or_else(|| segments().filter(alike).find(rounded))
            .or_else(|| segments().find(rounded))?;
        Some(segment.address.wrapping_add(offset.wrapping_sub(segment.offset)))
    }

    /// Where in the file the byte at this address of its own numbering stands, and how many bytes of its segment follow it there.
    pub fn offset_of(&self, address: u64) -> Option<(u64, u64)> {
        self.segments.iter().find_map(|segment| {
            let inside = address.checked_sub(segment.address)?;
            let left = segment.len_bytes.checked_sub(inside).filter(|left| *left > 0)?;
            Some((segment.offset.checked_add(inside)?, left))
        })
    }

    /// Bytes from an address of the file's own numbering on: at most `len_bytes`, fewer at the end of the segment or file.
    pub fn bytes_at(&self, address: u64, len_bytes: u64) -> Option<&[u8]> {
        let (offset, left) = self.offset_of(address)?;
        let start = usize::try_from(offset).ok()?;
        let end = usize::try_from(offset.checked_add(left.min(len_bytes))?).ok()?.min(self.bytes.len());
        self.bytes.get(start..end)
    }
}
