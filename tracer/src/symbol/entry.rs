//! Where in a file a function begins, by its name: the other way round than naming. Any bytes may come; symbols are bounded.

use std::collections::{BTreeMap, BTreeSet};

use object::elf::PT_LOAD;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, ObjectSymbolTable, SymbolKind};

use super::demangle::readable;
use super::usdt;

/// Most symbols that are looked at in one table.
const MOST_SYMBOLS: usize = 8 << 20;
/// Copies of one function, or places of one probe; compilers make some.
pub const MOST_COPIES: usize = 64;
/// Names that are offered where none fits.
const MOST_OFFERED: usize = 3;
/// Names that differ by more letters are not near.
const NEAR: usize = 3;
/// Longer names are not compared by letter.
const LONG: usize = 80;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Offset in the file of an instruction.
    pub offset: u64,
    /// Offset in the file of the counter of those who look; 0: there is none.
    pub counter: u64,
}

/// What a file's symbols say of a name.
#[derive(Default)]
struct Seen {
    /// Addresses of the functions that are called so, by their whole names.
    found: BTreeMap<String, BTreeSet<u64>>,
    /// It is used here and defined elsewhere.
    is_called: bool,
    /// Distance and name of near ones.
    near: BTreeSet<(usize, String)>,
    functions: u64,
}

/// Where a function begins. `wanted` is its symbol, or what that is in the source, perhaps without what it is in.
pub fn function(bytes: &[u8], wanted: &str) -> Result<Vec<Place>, String> {
    let file = parse(bytes)?;
    let mut seen = Seen::default();
    for table in [file.symbol_table(), file.dynamic_symbol_table()].into_iter().flatten() {
        for symbol in table.symbols().take(MOST_SYMBOLS) {
            let Ok(name) = symbol.name() else { continue };
            if symbol.is_undefined() {
                seen.is_called |= name == wanted;
            } else if symbol.kind() == SymbolKind::Text && symbol.address() != 0 {
                seen.take(name, symbol.address(), wanted);
            }
        }
    }
    let is_stripped = file.section_by_name(".symtab").is_none();
    let exact = seen.found.remove(wanted);
    let addresses = match (exact, seen.found.len()) {
        (Some(addresses), _) => addresses,
        (None, 1) => seen.found.into_values().next().unwrap_or_default(),
        (None, 0) => return Err(seen.missing(wanted, is_stripped)),
        (None, _) => {
            let names: Vec<String> =
                seen.found.into_keys().take(MOST_OFFERED).map(|name| format!("`{name}`")).collect();
            return Err(format!(
                "several of its functions are called `{wanted}`: write one of them whole, as {}",
                names.join(" or ")
            ));
        }
    };
    places(&file, addresses.into_iter().map(|address| (address, 0)), wanted)
}

/// Where a probe is that the program's author put there.
pub fn probe(bytes: &[u8], provider: &str, name: &str) -> Result<Vec<Place>, String> {
    let file = parse(bytes)?;
    let (mut found, mut others) = (Vec::new(), BTreeSet::new());
    for probe in usdt::probes(&file) {
        if (probe.provider, probe.name) == (provider.as_bytes(), name.as_bytes()) {
            found.push((probe.address, probe.semaphore));
        } else if others.len() < MOST_COPIES {
            others.insert(format!("{}:{}", text(probe.provider), text(probe.name)));
        }
    }
    let wanted = format!("{provider}:{name}");
    if found.is_empty() {
        return Err(match others.len() {
            0 => "it has no probes (USDT) at all".to_owned(),
            _ => {
                let names: Vec<String> = others.into_iter().take(8).collect();
                format!("it has no probe {wanted}, but {}", names.join(", "))
            }
        });
    }
    places(&file, found.into_iter(), &wanted)
}

fn text(bytes: &[u8]) -> String {
    super::demangle::printable(&String::from_utf8_lossy(bytes))
}

fn parse(bytes: &[u8]) -> Result<ElfFile64<'_, Endianness>, String> {
    ElfFile64::parse(bytes).map_err(|error| format!("it is no 64-bit program or library: {error}"))
}

/// Addresses as offsets in the file.
pub(super) fn places(
    file: &ElfFile64<'_, Endianness>,
    addresses: impl Iterator<Item = (u64, u64)>,
    wanted: &str,
) -> Result<Vec<Place>, String> {
    let endian = file.endian();
    let offset = |address: u64| {
        let inside = file.elf_program_headers().iter().find(|segment| {
            let start = segment.p_vaddr(endian);
            segment.p_type(endian) == PT_LOAD && start <= address && address - start < segment.p_filesz(endian)
        })?;
        (address - inside.p_vaddr(endian)).checked_add(inside.p_offset(endian))
    };
    let place = |(address, counter): (u64, u64)| {
        let counter = if counter == 0 { Some(0) } else { offset(counter) };
        Some(Place { offset: offset(address)?, counter: counter? })
    };
    let places: Option<BTreeSet<Place>> = addresses.map(place).collect();
    match places {
        Some(places) if places.len() <= MOST_COPIES => Ok(places.into_iter().collect()),
        Some(places) => Err(format!("it has {} copies of `{wanted}`, more than {MOST_COPIES}", places.len())),
        None => Err(format!("`{wanted}` lies outside of what is loaded of it: the file is damaged")),
    }
}

impl Seen {
    fn take(&mut self, name: &str, address: u64, wanted: &str) {
        self.functions += 1;
        if name == wanted {
            self.found.entry(wanted.to_owned()).or_default().insert(address);
            return;
        }
        // Only names that have the last part of the wanted one can be it, and unmangling costs.
        let last = wanted.rsplit("::").next().unwrap_or(wanted);
        if name.starts_with("_R") || name.starts_with("_Z") {
            if !name.contains(last) {
                return;
            }
            let readable = readable(name);
            let whole = without_arguments(&readable);
            let is_wanted =
                whole.strip_suffix(wanted).is_some_and(|before| before.is_empty() || before.ends_with("::"));
            if is_wanted {
                self.found.entry(whole.to_owned()).or_default().insert(address);
            } else if whole.len() <= LONG {
                self.offer(whole, wanted);
            }
        } else {
            self.offer(name, wanted);
        }
    }

    fn offer(&mut self, name: &str, wanted: &str) {
        let near = if name.len() > LONG || wanted.len() > LONG {
            None
        } else if name.contains(wanted) {
            Some(NEAR)
        } else {
            distance(name, wanted)
        };
        if let Some(near) = near {
            self.near.insert((near, super::demangle::printable(name)));
            if self.near.len() > MOST_OFFERED {
                self.near.pop_last();
            }
        }
    }

    fn missing(&self, wanted: &str, is_stripped: bool) -> String {
        let mut said = match (self.is_called, is_stripped) {
            (true, _) => return format!("it calls `{wanted}`, which is in another file: name the library that has it"),
            (false, true) => format!(
                "it is stripped, and `{wanted}` is none of the {} functions that it exports: build it with symbols, or name an exported one",
                self.functions
            ),
            (false, false) => {
                format!("it has no function `{wanted}`, or the compiler has put it into those that call it")
            }
        };
        let near: Vec<String> = self.near.iter().map(|(_, name)| format!("`{name}`")).collect();
        if !near.is_empty() {
            said.push_str(&format!("; is {} meant?", near.join(" or ")));
        }
        said
    }
}

/// A C++ name without arguments: `ns::f(int)` is `ns::f`. Rust's have none.
fn without_arguments(name: &str) -> &str {
    let end = match name.find("operator()") {
        Some(at) => name[at + "operator()".len()..].find('(').map(|more| at + "operator()".len() + more),
        None => name.find('('),
    };
    // A name that begins so is in an anonymous namespace.
    end.filter(|end| *end > 0).map_or(name, |end| &name[..end])
}

/// By how many letters two names differ, if they are near.
fn distance(left: &str, right: &str) -> Option<usize> {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len().abs_diff(right.len()) > NEAR || right.len() <= NEAR {
        return None;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, byte) in left.iter().enumerate() {
        let mut before = std::mem::replace(&mut row[0], at + 1);
        for (other, known) in right.iter().enumerate() {
            let changed = before + usize::from(byte != known);
            before = row[other + 1];
            row[other + 1] = changed.min(before + 1).min(row[other] + 1);
        }
    }
    row.last().copied().filter(|distance| *distance < NEAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A symbol of every Rust program whose name is as it is in the source.
    const OWN: &str = "rust_eh_personality";

    fn own() -> Vec<u8> {
        std::fs::read("/proc/self/exe").expect("this program")
    }

    #[test]
    fn a_function_of_this_program_is_found_by_its_symbol_and_by_what_it_is_in_the_source() {
        let bytes = own();
        let by_symbol = function(&bytes, OWN).expect("it is there");
        assert_eq!((by_symbol.len(), by_symbol[0].counter), (1, 0));
        let mangled = function(&bytes, "symbol::demangle::readable").expect("a function of this crate");
        assert!(!mangled.is_empty() && mangled[0].offset < bytes.len() as u64);
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is_near() {
        let bytes = own();
        let near = function(&bytes, "rust_eh_personalyti").expect_err("a slip");
        assert!(near.contains("it has no function `rust_eh_personalyti`"), "{near}");
        assert!(near.contains("is `rust_eh_personality` meant?"), "{near}");
        let elsewhere = function(&bytes, "malloc").expect_err("the C library's");
        assert!(elsewhere.contains("it calls `malloc`, which is in another file"), "{elsewhere}");
        assert!(function(b"#!/bin/sh", "main").expect_err("a script").contains("no 64-bit program"));
        assert!(probe(&bytes, "no", "such").expect_err("none").contains("no prob"));
    }

    #[test]
    fn names_are_near_by_letters() {
        assert_eq!(distance("train_step", "train_stpe"), Some(2));
        assert_eq!(distance("train_step", "train_step2"), Some(1));
        assert_eq!(distance("train_step", "other_thing"), None);
        assert_eq!(distance("abc", "abd"), None, "too short to tell");
        assert_eq!(without_arguments("ns::f(int)"), "ns::f");
        assert_eq!(without_arguments("ns::Call::operator()(int) const"), "ns::Call::operator()");
        assert_eq!(without_arguments("(anonymous namespace)::f"), "(anonymous namespace)::f");
    }
}
