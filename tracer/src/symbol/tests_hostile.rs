//! Files that are cut, damaged, or made to break readers: symbol tables, names, maps of JITs. Damaged debug information is tried
//! with the real helper, in the tests that have the `tracer` program.

use std::{fs, path::Path, time::Instant};

use proptest::prelude::*;

use super::{
    elf::{Elf, Source},
    perf_map::PerfMap,
    table::Search,
    tests::build,
    *,
};
use crate::process::Bytes;

/// What a damaged file's tables say of every 5th address of its code; nothing is asserted but that it ends.
fn search(bytes: Vec<u8>) -> Vec<Option<Found>> {
    let addresses: Vec<u64> = (0..0x4000).step_by(5).chain([u64::MAX, u64::MAX - 1]).collect();
    let source = Source::Bytes(Bytes::Owned(bytes.into()));
    let Ok(elf) = Elf::read(&source) else { return Vec::new() };
    let mut search = Search::new(&addresses, Instant::now() + Duration::from_secs(5));
    let _ = (search.tables_of(&elf), elf.build_id(), elf.debug_link());
    search.finish()
}

fn sample() -> Option<Vec<u8>> {
    let source = "int shared(int x) { return x + 1; }\nstatic int other(int x) { return x; }\nint (*p)(int) = other;\n";
    let built = build("gcc", "sample.c", source, &["-O2", "-shared", "-fPIC"])?;
    Some(fs::read(&built.path).expect("reads the file"))
}

#[test]
fn a_file_cut_anywhere_names_nothing_wrong() {
    let Some(bytes) = sample() else { return };
    let whole: Vec<_> = search(bytes.clone());
    assert!(whole.iter().flatten().any(|found| found.name == "shared"), "the whole file has its symbols");
    for length in (0..bytes.len()).step_by(7) {
        for (cut, whole) in search(bytes[..length].to_vec()).into_iter().zip(&whole) {
            assert!(cut.is_none() || cut == *whole, "cut at {length}: {cut:?} instead of {whole:?}");
        }
    }
}

#[test]
fn a_table_that_covers_everything_many_times_over_ends_in_time() {
    let Some(mut bytes) = sample() else { return };
    let source = Source::Bytes(Bytes::Owned(bytes.clone().into()));
    let elf = Elf::read(&source).expect("a good file");
    let table = elf.section(".symtab").expect("it has one").clone();
    // Every symbol becomes a function from 0 to the end of all addresses.
    for at in (table.offset as usize..(table.offset + table.len_bytes) as usize).step_by(24) {
        bytes[at + 4] = 0x12;
        bytes[at + 6..at + 8].copy_from_slice(&1_u16.to_le_bytes());
        bytes[at + 8..at + 16].fill(0);
        bytes[at + 16..at + 24].fill(0xff);
    }
    let addresses: Vec<u64> = (0..100_000).collect();
    let source = Source::Bytes(Bytes::Owned(bytes.into()));
    let elf = Elf::read(&source).expect("still one");
    let started = Instant::now();
    let mut search = Search::new(&addresses, started + Duration::from_millis(50));
    search.tables_of(&elf).expect("readable");
    assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
}

#[test]
fn names_of_any_kind_come_out_printable_and_short() {
    let growing = format!("_Z1fI{}E", "St4pairI".repeat(200));
    let doubling = format!("_ZN1a{}E", (0..60).map(|_| "1bIS_S_E").collect::<String>());
    for symbol in [growing.as_str(), &doubling, "\u{1b}[31mred\u{7}", "_RNvC6_123foo3bar", "_ZN", "_Z", ""] {
        let name = demangle::readable(symbol);
        assert!(name.len() < 1100 && !name.chars().any(char::is_control), "{symbol:.40} gives {} bytes", name.len());
    }
}

#[test]
fn a_perf_map_names_what_was_written_last_and_skips_what_is_damaged() {
    let text = "7f0000001000 100 py::first:/a b.py\nnonsense\n7f0000002000 0x40 second\n\
                7f0000001080 10 newer\n7f0000003000 0 empty\n-5 10 signed\nffffffffffffffff ff end\n\n7f0000004000 10 cut";
    let map = PerfMap::parse(text.as_bytes()).expect("memory can be read");
    assert_eq!(map.find(0x7f00_0000_1080), Some("newer"));
    assert_eq!(map.find(0x7f00_0000_1000), None, "its memory was used again");
    assert_eq!(map.find(0x7f00_0000_203f), Some("second"));
    assert_eq!(map.find(0x7f00_0000_2040), None);
    assert_eq!(map.find(0x7f00_0000_4000), None, "the last line was still being written");
    assert_eq!((map.len(), map.bad_lines(), map.cut()), (2, 6, false));
}

#[test]
fn the_perf_map_of_a_process_is_found_and_one_that_is_no_file_is_refused() {
    let pid = std::process::id();
    let path = format!("/tmp/perf-{pid}.map");
    assert!(matches!(PerfMap::read(pid, pid), Ok(None)), "there is none yet");
    fs::write(&path, "1000 10 compiled\n").expect("writes a map");
    let read = PerfMap::read(pid, pid);
    fs::remove_file(&path).expect("removes it");
    let map = read.expect("it can be read").expect("it is there");
    assert_eq!(map.find(0x100f), Some("compiled"));
    assert_a_growing_map_is_followed(&path);
    fs::create_dir(&path).expect("a folder in its place");
    let refused = PerfMap::read(pid, pid);
    fs::remove_dir(&path).expect("removes it");
    assert!(refused.as_ref().is_err_and(|error| error.to_string().contains("regular file")), "{refused:?}");
    assert!(PerfMap::read(u32::MAX, 1).is_err(), "no such process");
}

/// A JIT writes on while it is looked at.
fn assert_a_growing_map_is_followed(path: &str) {
    let pid = std::process::id();
    let mut map = PerfMap::default();
    assert!(matches!(map.follow(pid, pid), Ok(false)), "there is none");
    let long = "x".repeat(20_000);
    let mut text = String::new();
    // Each part, and what is found then at 1000, 2000 and 3000.
    let parts = [
        ("1000 10 first\n2000 1", [Some("first"), None, None]),
        ("0 sec", [Some("first"), None, None]),
        ("ond\n", [Some("first"), Some("second"), None]),
        (&long, [Some("first"), Some("second"), None]),
        ("\n3000 10 third\n", [Some("first"), Some("second"), Some("third")]),
        ("1008 20 newer\n", [None, Some("second"), Some("third")]),
    ];
    for (part, wanted) in parts {
        text.push_str(part);
        fs::write(path, &text).expect("writes a map");
        assert!(map.follow(pid, pid).expect("it can be read"), "it has grown");
        assert!(!map.follow(pid, pid).expect("it can be read"), "it has not");
        assert_eq!([0x1000, 0x2000, 0x3000].map(|address| map.find(address)), wanted, "after {part:.20}");
    }
    fs::write(path, "2000 10 other\n").expect("writes a map");
    assert!(map.follow(pid, pid).expect("it can be read"), "it is shorter");
    fs::remove_file(path).expect("removes it");
    assert_eq!((map.find(0x2000), map.find(0x3000)), (Some("other"), None));
}

#[test]
fn a_module_that_is_no_elf_file_or_is_gone_is_unreadable_and_said_to_be() {
    let mut symboliser = Symboliser::new(Limits::default());
    for path in ["/proc/self/status", "/no/such/file"] {
        let named = symboliser.module(&super::tests::module_at(Path::new(path)), &[1, 2], &mut |_| {});
        assert_eq!(named, vec![Named::missing(missing::UNREADABLE); 2]);
    }
    assert_eq!(symboliser.problems().len(), 2, "{:?}", symboliser.problems());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_with_flipped_bits_never_ends_the_tracer(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..40)) {
        static SAMPLE: std::sync::OnceLock<Option<Vec<u8>>> = std::sync::OnceLock::new();
        let Some(sample) = SAMPLE.get_or_init(sample) else { return Ok(()) };
        let mut bytes = sample.clone();
        for (index, bit) in &flips {
            let at = index.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        // The headers too, which chance would seldom hit.
        let near = flips[0].0.index(64);
        bytes[near] ^= 1 << flips[0].1;
        search(bytes);
    }

    #[test]
    fn any_symbol_gives_a_name_that_can_be_printed(tail in "[A-Za-z0-9_.]{0,200}", start in "_Z|_ZN|_R|_RNv|_ZNSt|_ZZ|_ZTI|") {
        let name = demangle::readable(&format!("{start}{tail}"));
        prop_assert!(name.len() < 1100 && !name.chars().any(char::is_control));
    }

    #[test]
    fn any_bytes_are_a_perf_map_whose_functions_do_not_overlap(lines in prop::collection::vec((0..64_u64, 0..16_u64, "[a-z]{0,3}"), 0..60)) {
        let text: String = lines.iter().map(|(start, size, name)| format!("{start:x} {size:x} {name}\n")).collect();
        let map = PerfMap::parse(text.as_bytes()).expect("memory can be read");
        for address in 0..90 {
            // The last line written over the address, unless a later one took a byte of that function away.
            let last = lines.iter().rposition(|(start, size, name)| !name.is_empty() && (*start..start + size).contains(&address));
            let still = last.filter(|last| {
                let (start, size, _) = &lines[*last];
                !lines[last + 1..].iter().any(|(s, n, name)| !name.is_empty() && *n > 0 && *s < start + size && start < &(s + n))
            });
            prop_assert_eq!(map.find(address), still.map(|index| lines[index].2.as_str()));
        }
    }
}
