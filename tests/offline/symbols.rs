//! Damaged debug information: read by the helper of the real binary, since it may end what reads it. Needs TRACER_BIN and a C
//! compiler; says so and passes without them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tracer::process::{Module, ModuleId};
use tracer::symbol::helper::HelperKind;
use tracer::symbol::{Limits, Named, Symboliser};

const SOURCE: &str = "\
volatile int sink;
static inline __attribute__((always_inline)) int inner(int x) { sink = x; return x * 3; }
__attribute__((noinline)) int outer(int x) { sink = 7; return inner(x) + sink; }
int main(int argc, char **argv) { (void)argv; return outer(argc); }
";

struct Sample {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
    helper: HelperKind,
}

fn sample(options: &[&str]) -> Option<Sample> {
    let Some(binary) = std::env::var_os("TRACER_BIN") else {
        eprintln!("not tested: TRACER_BIN names no binary; `cargo xtask test offline` sets it");
        return None;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, program) = (folder.path().join("sample.c"), folder.path().join("sample"));
    fs::write(&source, SOURCE).expect("writes the source");
    let compiled = Command::new("cc").args(["-O2", "-g"]).args(options).arg("-o").args([&program, &source]).status();
    let Ok(compiled) = compiled else {
        eprintln!("not tested: there is no cc here");
        return None;
    };
    assert!(compiled.success(), "cc failed with {options:?}");
    let bytes = fs::read(&program).expect("reads the program");
    let helper = HelperKind::Program(PathBuf::from(binary), vec!["symbol-helper".to_owned()]);
    Some(Sample { folder, bytes, helper })
}

/// Names of the first 64 KiB of code, every 9th byte, and the problems.
fn names(helper: &HelperKind, file: &Path) -> (Vec<Named>, Vec<String>) {
    let module = Module::of_file(ModuleId(1), file.to_owned());
    let limits = Limits { helper: helper.clone(), debug_info: Duration::from_secs(2), ..Limits::default() };
    let mut symboliser = Symboliser::new(limits);
    let addresses: Vec<u64> = (0x1000..0x1800).step_by(9).collect();
    let named = symboliser.module(&module, &addresses, &mut |_| {});
    let problems = symboliser.problems().to_vec();
    (named, problems)
}

/// Where a section's bytes are in the file, as the file's own table says.
fn section(bytes: &[u8], name: &str) -> std::ops::Range<usize> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
    let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2 bytes")) as usize;
    let (table, count, names) = (word(40), half(60), half(62));
    let header = |index: usize| table + index * 64;
    let strings = word(header(names) + 24);
    for index in 0..count {
        let at = header(index);
        let start = strings + u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize;
        if bytes[start..].starts_with(name.as_bytes()) && bytes[start + name.len()] == 0 {
            return word(at + 24)..word(at + 24) + word(at + 32);
        }
    }
    panic!("no section {name}");
}

fn functions(named: &[Named]) -> Vec<Option<&str>> {
    named.iter().map(|named| named.names.last().map(|name| name.function.as_str())).collect()
}

#[test]
fn damaged_debug_information_costs_lines_and_neither_names_nor_the_tracer() {
    for options in [&["-gdwarf-5"][..], &["-gdwarf-4"], &["-gdwarf-5", "-gz"]] {
        let Some(sample) = sample(options) else { return };
        let file = sample.folder.path().join("damaged");
        fs::write(&file, &sample.bytes).expect("writes the file");
        let (whole, problems) = names(&sample.helper, &file);
        assert_eq!(problems, [] as [String; 0], "{options:?}");
        assert!(whole.iter().any(|named| named.names.len() == 2), "{options:?}: inlined functions: {whole:?}");

        let mut random = fastrand::Rng::with_seed(7);
        for name in [".debug_info", ".debug_abbrev", ".debug_line", ".debug_str"] {
            let range = section(&sample.bytes, name);
            for round in 0..25 {
                let mut bytes = sample.bytes.clone();
                for _ in 0..=round / 3 {
                    bytes[random.usize(range.clone())] = random.u8(..);
                }
                fs::write(&file, &bytes).expect("writes the file");
                let started = Instant::now();
                let (named, problems) = names(&sample.helper, &file);
                let what = format!("{options:?}, {name}, round {round}, {problems:?}");
                assert!(started.elapsed() < Duration::from_secs(5), "{what}: took {:?}", started.elapsed());
                for (damaged, whole) in functions(&named).into_iter().zip(functions(&whole)) {
                    assert!(damaged == whole || whole.is_none(), "{what}: {damaged:?} instead of {whole:?}");
                }
            }
        }
    }
}

#[test]
fn a_section_that_claims_to_unpack_to_everything_ends_the_helper_at_most() {
    let Some(sample) = sample(&["-gz"]) else { return };
    let mut bytes = sample.bytes.clone();
    let range = section(&bytes, ".debug_info");
    // The size in the header of a compressed section.
    bytes[range.start + 8..range.start + 16].copy_from_slice(&(1_u64 << 46).to_le_bytes());
    let file = sample.folder.path().join("bomb");
    fs::write(&file, &bytes).expect("writes the file");
    let (named, problems) = names(&sample.helper, &file);
    assert!(functions(&named).contains(&Some("outer")), "{named:?}");
    assert!(problems.len() == 1 && problems[0].contains("debug information"), "{problems:?}");
}

#[test]
fn nesting_deeper_than_any_stack_ends_the_helper_at_most() {
    let Some(sample) = sample(&["-gdwarf-4"]) else { return };
    let mut bytes = sample.bytes.clone();
    let (info, abbrev) = (section(&bytes, ".debug_info"), section(&bytes, ".debug_abbrev"));
    let (deep_at, unit_bytes) = (bytes.len(), 40_000_000_usize);
    // One unit of version 4: a unit of a function of endless functions inlined, each the child of the one before.
    let abbreviations = [
        1, 0x11, 1, 0x11, 0x01, 0x12, 0x07, 0x10, 0x17, 0, 0, // the unit: its low and high address, its lines
        2, 0x2e, 1, 0x11, 0x01, 0x12, 0x07, 0, 0, // the function
        3, 0x1d, 1, 0, 0, // inlined, with children, without attributes
        0,
    ];
    bytes[abbrev.start..abbrev.start + abbreviations.len()].copy_from_slice(&abbreviations);
    let mut unit = Vec::with_capacity(unit_bytes + 64);
    unit.extend_from_slice(&(unit_bytes as u32).to_le_bytes());
    unit.extend_from_slice(&4_u16.to_le_bytes());
    unit.extend_from_slice(&0_u32.to_le_bytes());
    unit.push(8);
    for code in [1, 2] {
        unit.push(code);
        unit.extend_from_slice(&0x1000_u64.to_le_bytes());
        unit.extend_from_slice(&0x1000_u64.to_le_bytes());
        if code == 1 {
            unit.extend_from_slice(&0_u32.to_le_bytes());
        }
    }
    unit.resize(unit_bytes + 4, 3);
    bytes.extend_from_slice(&unit);
    move_section(&mut bytes, &info, deep_at, unit.len());
    let file = sample.folder.path().join("deep");
    fs::write(&file, &bytes).expect("writes the file");
    let (named, problems) = names(&sample.helper, &file);
    assert!(functions(&named).contains(&Some("outer")), "{named:?}");
    assert!(problems.len() == 1 && problems[0].contains("ended"), "{problems:?}");
}

/// Lets the section whose bytes were at `old` begin at `offset`; the tables of ranges, which would lead past it, go.
fn move_section(bytes: &mut [u8], old: &std::ops::Range<usize>, offset: usize, len_bytes: usize) {
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
    let (table, count) = (word(bytes, 40), u16::from_le_bytes([bytes[60], bytes[61]]) as usize);
    let ranges = section(bytes, ".debug_aranges");
    for at in (0..count).map(|index| table + index * 64) {
        if word(bytes, at + 24) == old.start && word(bytes, at + 32) == old.len() {
            bytes[at + 24..at + 32].copy_from_slice(&(offset as u64).to_le_bytes());
            bytes[at + 32..at + 40].copy_from_slice(&(len_bytes as u64).to_le_bytes());
        } else if word(bytes, at + 24) == ranges.start && word(bytes, at + 32) == ranges.len() {
            bytes[at + 32..at + 40].fill(0);
        }
    }
}
