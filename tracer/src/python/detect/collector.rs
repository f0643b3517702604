//! Where in a file CPython's collector of cyclic garbage is: by its symbols, or in a stripped file by the probe for tracers that
//! stands in it (`python:gc__start`, in builds with such probes, as Debian's are).
//!
//! A compiler that splits the function puts that probe into its cold part; the rest of it is the functions that jump there.

use std::ops::Range;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection};
use object::{Object, ObjectSection, read::elf::ElfFile64};

use super::parts::{ENOUGH_JUMPS, MOST_ENTRIES, begins_in_mid_frame, jumps};
use crate::{process::Image, symbol::usdt};

/// Most functions that are taken for parts of the collector.
const MOST_PARTS: usize = 8;
/// Longest code that is searched for jumps into the cold part.
const MOST_CODE_BYTES: u64 = 64 << 20;

/// A range of code, and whether it is a part of a function that was put elsewhere.
type Holder = (Range<u64>, bool);

/// Whether a symbol is of a function below which all is collecting. `collect` is 3.8's and 3.9's, the second line 3.14's.
pub fn is_collector(symbol: &[u8]) -> bool {
    const NAMES: [&[u8]; 6] = [
        b"collect",
        b"gc_collect_main",
        b"gc_collect_young",
        b"gc_collect_increment",
        b"gc_collect_full",
        b"gc_collect_region",
    ];
    // The compiler's own copies: ".constprop.0", ".cold" and the like.
    let base = symbol.split(|byte| *byte == b'.').next().unwrap_or(symbol);
    NAMES.contains(&base)
}

/// The collector of a file without such symbols; empty: the file has no such probe.
pub fn by_probe(file: &ElfFile64<'_>, image: &Image) -> Vec<Range<u64>> {
    let Some(probe) = probe(file) else { return Vec::new() };
    let (functions, holder) = functions(file, probe);
    let Some((found, is_cold)) = holder else { return Vec::new() };
    let mut parts = vec![found.clone()];
    let len_bytes: u64 = functions.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add);
    if is_cold && len_bytes <= MOST_CODE_BYTES {
        let into = |range: &&Range<u64>| {
            let targets = jumps(image, range);
            **range != found && targets.iter().filter(|target| found.contains(target)).count() >= ENOUGH_JUMPS
        };
        parts.extend(functions.iter().filter(into).take(MOST_PARTS - 1).cloned());
    }
    parts
}

/// Every range that call frame information covers; and the one with this address.
fn functions(file: &ElfFile64<'_>, probe: u64) -> (Vec<Range<u64>>, Option<Holder>) {
    let (mut functions, mut holder) = (Vec::new(), None);
    let Some(section) = file.section_by_name(".eh_frame") else { return (functions, holder) };
    let Ok(data) = section.data() else { return (functions, holder) };
    let frames = EhFrame::new(data, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(section.address());
    let mut entries = frames.entries(&bases);
    for _ in 0..MOST_ENTRIES {
        let Ok(Some(entry)) = entries.next() else { break };
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(fde) = partial.parse(EhFrame::cie_from_offset) else { continue };
        let range = fde.initial_address()..fde.initial_address().saturating_add(fde.len());
        if range.contains(&probe) {
            holder = Some((range.clone(), begins_in_mid_frame(&frames, &bases, &fde)));
        }
        functions.push(range);
    }
    (functions, holder)
}

/// Address of the probe at the start of a collection.
fn probe(file: &ElfFile64<'_>) -> Option<u64> {
    usdt::probes(file)
        .find(|probe| (probe.provider, probe.name) == (b"python", b"gc__start"))
        .map(|probe| probe.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_of_the_collector_are_known_with_what_compilers_add() {
        for name in ["gc_collect_main", "collect.constprop.0", "gc_collect_main.cold", "gc_collect_region"] {
            assert!(is_collector(name.as_bytes()), "{name}");
        }
        for name in ["collections_exec", "gc_collect", "PyGC_Collect", "_collect_alloc_stats", ""] {
            assert!(!is_collector(name.as_bytes()), "{name}: what it calls may be the program's own code");
        }
    }
}
