//! One pass over a symbol table for a sorted list of addresses: no index of the table is built, so memory is that of the answers.
//!
//! Of the symbols that cover an address the one that starts last wins (the innermost), then a global one over a weak over a local
//! one, a function over one without type, the shorter name, the first in the alphabet: the same whatever the order of the table.
//! A symbol without size covers its first byte only.

use std::{cmp::Ordering, io::Read, time::Instant};

use object::elf::{SHN_ABS, SHN_UNDEF, STB_GLOBAL, STB_WEAK, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE};
use xz2::{read::XzDecoder, stream::Stream};

use crate::{
    process::Bytes,
    symbol::elf::{Elf, ElfError, Section, Source, u16_at, u32_at, u64_at},
};

/// Size that the format fixes.
const SYMBOL_BYTES: usize = 24;
/// Symbols read at once.
const CHUNK: usize = 4096;
/// Longest name read, mangled; the rest is cut.
const MAX_NAME_BYTES: usize = 4096;
/// Most bytes that `.gnu_debugdata` may unpack to.
const MAX_UNPACKED_BYTES: u64 = 64 << 20;
/// Most memory that unpacking may take.
const UNPACKING_BYTES: u64 = 128 << 20;
/// Comparisons between two looks at the clock.
const STEPS_PER_LOOK: u32 = 1 << 16;

/// The symbol that an address lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Mangled; bytes that are not UTF-8 are replaced.
    pub name: String,
    start: u64,
    rank: u8,
}

impl Found {
    /// The better one is the greater one.
    fn order(&self, other: &Self) -> Ordering {
        let key = |found: &Self| (found.start, found.rank);
        key(self)
            .cmp(&key(other))
            .then_with(|| other.name.len().cmp(&self.name.len()))
            .then_with(|| other.name.cmp(&self.name))
    }
}

/// A search through any number of tables.
#[derive(Debug)]
pub struct Search<'a> {
    addresses: &'a [u64],
    found: Vec<Option<Found>>,
    deadline: Instant,
    steps: u32,
    timed_out: bool,
    symbols: u64,
}

impl<'a> Search<'a> {
    /// For sorted addresses.
    pub fn new(addresses: &'a [u64], deadline: Instant) -> Self {
        Self { addresses, found: vec![None; addresses.len()], deadline, steps: 0, timed_out: false, symbols: 0 }
    }

    /// Functions seen in all tables.
    pub fn symbols(&self) -> u64 {
        self.symbols
    }

    /// The deadline came before the end.
    pub fn timed_out(&self) -> bool {
        self.timed_out
    }

    /// What was found, in the order of the addresses.
    pub fn finish(self) -> Vec<Option<Found>> {
        self.found
    }

    /// Looks through `.symtab`, `.dynsym` and the symbols packed in `.gnu_debugdata`.
    pub fn tables_of(&mut self, file: &Elf<'_>) -> Result<(), ElfError> {
        // One damaged table must not hide what the others say.
        let mut outcome = Ok(());
        for name in [".symtab", ".dynsym"] {
            if let Some(table) = file.section(name)
                && let Err(error) = self.table(file, table)
            {
                outcome = Err(error);
            }
        }
        if file.section(".symtab").is_none()
            && let Some(packed) = file.section(".gnu_debugdata")
            && let Err(error) = self.packed(file, packed)
        {
            outcome = Err(error);
        }
        if self.symbols > 0 { Ok(()) } else { outcome }
    }

    fn packed(&mut self, file: &Elf<'_>, packed: &Section) -> Result<(), ElfError> {
        let bytes = file.content(packed)?;
        let stream = Stream::new_stream_decoder(UNPACKING_BYTES, 0)
            .map_err(|_| ElfError::Damaged("its .gnu_debugdata cannot be unpacked"))?;
        let mut unpacked = Vec::new();
        XzDecoder::new_stream(&bytes[..], stream).take(MAX_UNPACKED_BYTES).read_to_end(&mut unpacked)?;
        let source = Source::Bytes(Bytes::Owned(unpacked.into()));
        let inner = Elf::read(&source)?;
        match inner.section(".symtab") {
            Some(table) => self.table(&inner, table),
            None => Ok(()),
        }
    }

    fn table(&mut self, file: &Elf<'_>, table: &Section) -> Result<(), ElfError> {
        let Some(names) = file.sections.get(table.link as usize).filter(|names| !names.absent) else {
            return Err(ElfError::Damaged("a symbol table has no names"));
        };
        let count = table.len_bytes / SYMBOL_BYTES as u64;
        let mut buffer = vec![0; CHUNK * SYMBOL_BYTES];
        let mut first = 0;
        while first < count {
            self.look_at_clock();
            if self.timed_out {
                break;
            }
            let chunk = (count - first).min(CHUNK as u64) as usize;
            let bytes = &mut buffer[..chunk * SYMBOL_BYTES];
            file.source.read_exact(table.offset + first * SYMBOL_BYTES as u64, bytes)?;
            for symbol in bytes.chunks_exact(SYMBOL_BYTES) {
                self.symbol(symbol, file.source, names)?;
            }
            first += chunk as u64;
        }
        Ok(())
    }

    fn symbol(&mut self, symbol: &[u8], source: &Source, names: &Section) -> Result<(), ElfError> {
        self.step();
        let (kind, binding, section) = (symbol[4] & 0xf, symbol[4] >> 4, u16_at(symbol, 6));
        if section == SHN_UNDEF || section == SHN_ABS || ![STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE].contains(&kind) {
            return Ok(());
        }
        let (start, size) = (u64_at(symbol, 8), u64_at(symbol, 16));
        self.symbols += u64::from(kind != STT_NOTYPE);
        let last = start.saturating_add(size.max(1) - 1);
        let from = self.addresses.partition_point(|address| *address < start);
        if self.addresses.get(from).is_none_or(|address| *address > last) {
            return Ok(());
        }
        let mut candidate = Found { name: String::new(), start, rank: rank(binding, kind, size) };
        for index in from..self.addresses.len() {
            if self.addresses[index] > last {
                break;
            }
            self.step();
            if self.timed_out {
                return Ok(());
            }
            let better = |candidate: &Found| match &self.found[index] {
                Some(found) => (candidate.start, candidate.rank).cmp(&(found.start, found.rank)),
                None => Ordering::Greater,
            };
            if better(&candidate) == Ordering::Less {
                continue;
            }
            // The name costs a read: only now.
            if candidate.name.is_empty() {
                match name(u32_at(symbol, 0), source, names)? {
                    Some(name) => candidate.name = name,
                    None => return Ok(()),
                }
            }
            if self.found[index].as_ref().is_none_or(|found| candidate.order(found) == Ordering::Greater) {
                self.found[index] = Some(candidate.clone());
            }
        }
        Ok(())
    }

    fn step(&mut self) {
        self.steps += 1;
        if self.steps >= STEPS_PER_LOOK {
            self.look_at_clock();
        }
    }

    fn look_at_clock(&mut self) {
        self.steps = 0;
        self.timed_out |= Instant::now() >= self.deadline;
    }
}

/// How much a symbol is to be believed: size, type, binding.
fn rank(binding: u8, kind: u8, size: u64) -> u8 {
    let binding = match binding {
        STB_GLOBAL => 2,
        STB_WEAK => 1,
        _ => 0,
    };
    u8::from(size > 0) * 8 + u8::from(kind != STT_NOTYPE) * 4 + binding
}

/// None: it has no name, or one that tells nothing (`$x` and `.L` mark places in code).
fn name(offset: u32, source: &Source, names: &Section) -> Result<Option<String>, ElfError> {
    let offset = u64::from(offset);
    if offset >= names.len_bytes {
        return Ok(None);
    }
    let mut buffer = [0; MAX_NAME_BYTES];
    let mut wanted = 64;
    loop {
        let within = (names.len_bytes - offset).min(wanted as u64) as usize;
        let read = source.read_some(names.offset + offset, &mut buffer[..within])?;
        let end = buffer[..read].iter().position(|byte| *byte == 0);
        if end.is_none() && read == wanted && wanted < MAX_NAME_BYTES {
            wanted = MAX_NAME_BYTES;
            continue;
        }
        let name = &buffer[..end.unwrap_or(read)];
        let tells = !name.is_empty() && !name.starts_with(b"$") && !name.starts_with(b".L");
        return Ok(tells.then(|| String::from_utf8_lossy(name).into_owned()));
    }
}
