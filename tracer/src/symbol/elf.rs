//! The sections of an ELF file, by bounded reads. Not a mapping: a file that is cut short under us gives an error, not a signal.

use std::{fs::File, io, os::unix::fs::FileExt};

use object::elf::{ELFCLASS64, ELFDATA2LSB, NT_GNU_BUILD_ID, SHN_XINDEX, SHT_NOBITS};

use crate::process::{Bytes, Module};

/// Most sections looked at; the linker makes some 40, `-ffunction-sections` objects (never mapped) a million.
const MAX_SECTIONS: u64 = 100_000;
/// Most bytes of section names.
const MAX_SECTION_NAMES_BYTES: u64 = 4 << 20;
/// Most bytes that [`Elf::content`] reads.
const MAX_CONTENT_BYTES: u64 = 64 << 20;

/// Why a file's symbols cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// Opening or reading failed.
    #[error("reading it failed: {0}")]
    Io(#[from] io::Error),
    /// There is nothing to read from.
    #[error("its bytes are not known: {0}")]
    NoBytes(String),
    /// Not a 64-bit little-endian ELF file, or a part of it is not what it says.
    #[error("it is damaged or not a 64-bit little-endian ELF file: {0}")]
    Damaged(&'static str),
}

/// Where bytes come from.
#[derive(Debug)]
pub enum Source {
    /// A file that is read when asked.
    File(File),
    /// Bytes that are there.
    Bytes(Bytes),
}

impl Source {
    /// Of a module: its file where it has one, else its bytes.
    pub fn of(module: &Module) -> Result<Self, ElfError> {
        match (&module.open_path, &module.image) {
            (Some(path), _) => Ok(Self::File(File::open(path)?)),
            (None, Ok(image)) => Ok(Self::Bytes(image.bytes.clone())),
            (None, Err(why)) => Err(ElfError::NoBytes(why.clone())),
        }
    }

    /// Fills `into` or fails.
    pub fn read_exact(&self, offset: u64, into: &mut [u8]) -> Result<(), ElfError> {
        match self {
            Self::File(file) => Ok(file.read_exact_at(into, offset)?),
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).map_err(|_| ElfError::Damaged("an offset is beyond its end"))?;
                let end = start.checked_add(into.len()).ok_or(ElfError::Damaged("an offset is beyond its end"))?;
                into.copy_from_slice(bytes.get(start..end).ok_or(ElfError::Damaged("an offset is beyond its end"))?);
                Ok(())
            }
        }
    }

    /// Reads up to `into.len()` bytes; fewer at the file's end.
    pub fn read_some(&self, offset: u64, into: &mut [u8]) -> Result<usize, ElfError> {
        match self {
            Self::File(file) => {
                let mut read = 0;
                while read < into.len() {
                    match file.read_at(&mut into[read..], offset.saturating_add(read as u64)) {
                        Ok(0) => break,
                        Ok(more) => read += more,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(read)
            }
            Self::Bytes(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
                let len = rest.len().min(into.len());
                into[..len].copy_from_slice(&rest[..len]);
                Ok(len)
            }
        }
    }

    fn len_bytes(&self) -> Result<u64, ElfError> {
        Ok(match self {
            Self::File(file) => file.metadata()?.len(),
            Self::Bytes(bytes) => bytes.len() as u64,
        })
    }
}

/// A section's header.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Where its bytes start in the file.
    pub offset: u64,
    /// How many there are; inside the file.
    pub len_bytes: u64,
    /// Number of the section that it refers to: a symbol table's strings.
    pub link: u32,
    /// It is not in the file, as in files that hold debug information only.
    pub absent: bool,
}

/// A file's sections.
#[derive(Debug)]
pub struct Elf<'a> {
    /// Where its bytes come from.
    pub source: &'a Source,
    /// All of them, in order.
    pub sections: Vec<Section>,
}

/// Sizes that the format fixes.
const HEADER_BYTES: usize = 64;
const SECTION_HEADER_BYTES: usize = 64;

/// The number at an offset of bytes that are long enough; 0 where they are not.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

/// See [`u16_at`].
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// See [`u16_at`].
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl<'a> Elf<'a> {
    /// Reads the headers.
    pub fn read(source: &'a Source) -> Result<Self, ElfError> {
        let file_bytes = source.len_bytes()?;
        let mut header = [0; HEADER_BYTES];
        source.read_exact(0, &mut header)?;
        if header[..4] != *b"\x7fELF" || header[4] != ELFCLASS64 || header[5] != ELFDATA2LSB {
            return Err(ElfError::Damaged("its header says so"));
        }
        // Offsets of e_shoff, e_shentsize, e_shnum, e_shstrndx.
        let table_offset = u64_at(&header, 40);
        if table_offset == 0 {
            return Ok(Self { source, sections: Vec::new() });
        }
        if usize::from(u16_at(&header, 58)) != SECTION_HEADER_BYTES {
            return Err(ElfError::Damaged("its section headers have another size"));
        }
        let mut count = u64::from(u16_at(&header, 60));
        let mut names_index = u32::from(u16_at(&header, 62));
        if count == 0 || names_index == u32::from(SHN_XINDEX) {
            let (first, _) = section_headers(source, table_offset, 1)?.pop().ok_or(ElfError::Damaged("no sections"))?;
            count = if count == 0 { first.len_bytes } else { count };
            names_index = if names_index == u32::from(SHN_XINDEX) { first.link } else { names_index };
        }
        if count > MAX_SECTIONS {
            return Err(ElfError::Damaged("it has more than 100,000 sections"));
        }
        let headers = section_headers(source, table_offset, count)?;
        let names = match headers.get(names_index as usize) {
            Some((names, _)) if !names.absent && names.len_bytes <= MAX_SECTION_NAMES_BYTES => {
                let mut bytes = vec![0; names.len_bytes as usize];
                source.read_exact(names.offset, &mut bytes)?;
                bytes
            }
            _ => return Err(ElfError::Damaged("its sections have no names")),
        };
        let sections = headers.into_iter().map(|(section, name)| named(section, name, &names, file_bytes)).collect();
        Ok(Self { source, sections })
    }

    /// The first section of that name whose bytes are in the file.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name && !section.absent && section.len_bytes > 0)
    }

    /// All bytes of a section, if they are at most 64 MiB.
    pub fn content(&self, section: &Section) -> Result<Vec<u8>, ElfError> {
        if section.len_bytes > MAX_CONTENT_BYTES {
            return Err(ElfError::Damaged("a section is larger than 64 MiB"));
        }
        let mut bytes = vec![0; section.len_bytes as usize];
        self.source.read_exact(section.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Whether it holds what tells lines or inlined functions.
    pub fn has_debug_info(&self) -> bool {
        self.section(".debug_info").is_some() || self.section(".zdebug_info").is_some()
    }

    /// Its build id, in hexadecimal.
    pub fn build_id(&self) -> Option<String> {
        let notes = self.content(self.section(".note.gnu.build-id")?).ok()?;
        let (name_bytes, id_bytes, kind) = (u32_at(&notes, 0), u32_at(&notes, 4) as usize, u32_at(&notes, 8));
        if kind != NT_GNU_BUILD_ID || name_bytes != 4 || notes.get(12..16)? != b"GNU\0" {
            return None;
        }
        let id = notes.get(16..)?.get(..id_bytes)?;
        Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// File name and checksum (CRC-32) of `.gnu_debuglink`.
    pub fn debug_link(&self) -> Option<(String, u32)> {
        let link = self.content(self.section(".gnu_debuglink")?).ok()?;
        let end = link.iter().position(|byte| *byte == 0)?;
        let name = str::from_utf8(&link[..end]).ok()?;
        let at = (end + 4) & !3;
        let checksum = link.get(at..at + 4).map(|bytes| u32_at(bytes, 0))?;
        // A name only: a path would lead out of the directories that are looked in.
        (!name.is_empty() && name != ".." && !name.contains('/')).then(|| (name.to_owned(), checksum))
    }
}

/// Headers with the offsets of their names.
fn section_headers(source: &Source, offset: u64, count: u64) -> Result<Vec<(Section, u32)>, ElfError> {
    let mut bytes = vec![0; count.min(MAX_SECTIONS) as usize * SECTION_HEADER_BYTES];
    source.read_exact(offset, &mut bytes)?;
    let section = |header: &[u8]| {
        let section = Section {
            name: String::new(),
            offset: u64_at(header, 24),
            len_bytes: u64_at(header, 32),
            link: u32_at(header, 40),
            absent: u32_at(header, 4) == SHT_NOBITS,
        };
        (section, u32_at(header, 0))
    };
    Ok(bytes.chunks_exact(SECTION_HEADER_BYTES).map(section).collect())
}

fn named(mut section: Section, name: u32, names: &[u8], file_bytes: u64) -> Section {
    let name = names.get(name as usize..).unwrap_or_default();
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(0);
    section.name = String::from_utf8_lossy(&name[..end]).into_owned();
    // A part beyond the file's end cannot be read: what is left may still be of use, but is no longer what its header says.
    let inside = section.offset.checked_add(section.len_bytes).is_some_and(|end| end <= file_bytes);
    section.absent |= !inside;
    section
}
