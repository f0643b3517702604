//! Stacks of what is damaged, freed, replaced or hidden in namespaces, and of very many: fewer names perhaps, never a wrong one.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::native::{build, build_as, built, line};
use crate::harness::python::{chain, holds, interpreters};
use crate::harness::stacks::{Function, Origin, Sample, Stacks, assert_share, count, of_origin};
use crate::harness::{Traced, Tracer, list, text, whole};

fn trace(command: Vec<OsString>) -> (Traced, Stacks) {
    let traced = Tracer::run(command).options(&["--family", "cpu"]).go().expect_code(0);
    let stacks = Stacks::of(&traced);
    (traced, stacks)
}

fn spell(truth: &Value) -> &Value {
    list(truth, "threads").first().unwrap_or_else(|| panic!("no thread: {truth}"))
}

/// The functions of a sample that lie in the file of this name.
fn of_file<'a>(sample: &'a Sample, file: &Path) -> Vec<&'a str> {
    let in_file = |function: &&Function| function.module.as_deref().is_some_and(|module| Path::new(module) == file);
    sample.functions.iter().filter(in_file).map(|function| function.name.as_str()).collect()
}

#[test]
fn python_in_namespaces_of_its_own_has_its_files_and_lines() {
    let chain = chain("compute");
    for interpreter in interpreters().iter().filter(|interpreter| interpreter.root.is_none()) {
        let mut command: Vec<OsString> = ["unshare", "-Upfr", "--mount-proc"].map(OsString::from).to_vec();
        command.extend(interpreter.line("chain_outer.py", "compute 2"));
        let (traced, stacks) = trace(command);
        let (truth, report) = (traced.truth(), traced.report());
        assert!(whole(&truth, "pid") < 10, "it runs in a namespace of its own: {truth}");
        for own in list(&truth, "threads") {
            // It knows the ids of its namespace only.
            let mut spell = own.clone();
            spell["tid"] = report.thread_by_ns(whole(own, "tid"))["tid"].clone();
            let samples = of_origin(&stacks.within(&spell), Origin::OnCpu);
            let what = format!("{} in namespaces of its own, thread {}", interpreter.shown(), own["tid"]);
            let good = |sample: &Sample| holds(sample, &chain, interpreter.version) && sample.end == "whole";
            assert_share(&what, &samples, 20, good);
        }
    }
}

#[test]
fn code_that_was_freed_has_no_name_or_its_own() {
    for interpreter in &interpreters() {
        let (traced, stacks) = trace(interpreter.line("short_lived_code.py", "4"));
        let truth = traced.truth();
        let turn = |turn: &Value| {
            let numbers = turn.as_array().and_then(|turn| turn.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>());
            numbers.unwrap_or_else(|| panic!("three numbers: {turn}"))
        };
        let turns: Vec<Vec<u64>> = list(&truth, "turns").iter().map(turn).collect();
        let (mut named, mut unnamed) = (0, 0);
        for sample in stacks.samples.iter().filter(|sample| sample.tgid == whole(&truth, "pid")) {
            let Some(turn) = turns.iter().find(|turn| (turn[1]..=turn[2]).contains(&sample.ts_ns)) else { continue };
            let own = format!("made_{}", turn[0]);
            for function in sample.functions.iter().filter(|function| function.kind == "python") {
                let file = function.file.as_deref().unwrap_or_default();
                let made = function.name.starts_with("made_") || file.starts_with("made_");
                named += usize::from(made);
                unnamed += usize::from(function.file.is_none());
                let right = file == format!("{own}.py") && (function.name == own || function.name == "<module>");
                assert!(!made || right, "{}: {function:?} while {own} ran: {}", interpreter.shown(), sample.shown());
            }
        }
        println!("{}: {named} frames of freed code have their names, {unnamed} have none", interpreter.shown());
        assert!(named > 100, "{}: most code is looked at in time: {named} of {}", interpreter.shown(), named + unnamed);
    }
}

/// The eight functions that lead to a wait in many.c, innermost first, if they are a chain of it.
fn chain_of_many(sample: &Sample) -> Option<Vec<&str>> {
    let inner = sample.functions.iter().position(|function| is_row(&function.name, 'h'))?;
    let names: Vec<&str> = sample.functions.get(inner..inner + 9)?.iter().map(|function| &*function.name).collect();
    let row = |index: usize| names[index].get(1..).and_then(|row| row.parse::<u64>().ok());
    let (h, g, f) = (row(0)?, row(1)?, row(2)?);
    let as_called = ('a'..='e')
        .rev()
        .zip(1..)
        .zip(&names[3..8])
        .all(|((level, factor), name)| *name == format!("{level}{:02}", (h + factor * g + f) % 100));
    (as_called && is_row(names[1], 'g') && is_row(names[2], 'f') && names[8] == "work").then_some(names)
}

fn is_row(name: &str, level: char) -> bool {
    name.strip_prefix(level).is_some_and(|row| row.len() == 2 && row.bytes().all(|byte| byte.is_ascii_digit()))
}

#[test]
fn ten_thousand_distinct_stacks_have_names_within_three_seconds() {
    let program = build_as("many.c", "many", &["-g"]);
    let (traced, stacks) = trace(line(&program, "6500"));
    let truth = traced.truth();
    let samples: Vec<&Sample> = list(&truth, "threads").iter().flat_map(|spell| stacks.within(spell)).collect();
    let samples = of_origin(&samples, Origin::Wait);
    assert_share("many stacks", &samples, 10_000, |sample| sample.end == "whole" && chain_of_many(sample).is_some());
    let distinct: HashSet<_> = samples.iter().filter_map(|sample| chain_of_many(sample)).collect();
    assert!(distinct.len() >= 10_000, "{} distinct chains in {} stacks", distinct.len(), samples.len());
    let ended_ns = list(&truth, "threads").iter().map(|spell| whole(spell, "to_ns")).max().unwrap_or(0);
    let events = traced.events();
    let named_ns = events.iter().filter(|event| event["kind"] == "symbol").map(|event| whole(event, "ts_ns")).max();
    let took_s = named_ns.unwrap_or(u64::MAX).saturating_sub(ended_ns) as f64 / 1e9;
    println!("{} distinct stacks: the last name {took_s:.2} s after the program's end", distinct.len());
    assert!(took_s <= 3.0, "{} distinct stacks took {took_s:.2} s", distinct.len());
}

#[test]
fn a_map_of_a_jit_gives_names_also_when_it_is_damaged_or_comes_late_and_no_wrong_ones() {
    let program = build("jit.c");
    let named = Some("jit_loop");
    for (kind, expected) in [("right", named), ("damaged", None), ("mixed", named), ("late", named)] {
        let (traced, stacks) = trace(line(&program, &format!("{kind} 2")));
        let truth = traced.truth();
        let _ = std::fs::remove_file(format!("/tmp/perf-{}.map", whole(&truth, "pid")));
        let samples = of_origin(&stacks.within(spell(&truth)), Origin::OnCpu);
        let wrong = count(&samples, |sample| sample.names().iter().any(|name| name.starts_with("wrong")));
        assert_eq!(wrong, 0, "{kind}: names of other addresses");
        assert_share(&format!("a JIT with a {kind} map"), &samples, 40, |sample| {
            let made = sample.functions.iter().find(|function| function.kind == "jit");
            let named = made.is_none_or(|made| match expected {
                Some(name) => made.name == name,
                None => made.name.starts_with("jit+"),
            });
            named && sample.end == "whole" && sample.holds(&["call_made", "main"])
        });
    }
}

/// Runs a tool of binutils.
fn binutils(tool: &str, arguments: &[&str]) {
    let answer = Command::new(tool).args(arguments).output();
    let answer = answer.unwrap_or_else(|error| panic!("these tests need {tool} (binutils): {error}"));
    assert!(answer.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&answer.stderr));
}

/// Bytes that differ from what they were, from a fixed seed.
fn damage(bytes: &mut [u8], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..bytes.len().div_ceil(8) {
        let at = random.usize(..bytes.len());
        bytes[at] = random.u8(..);
    }
}

/// deep20.c with its debug information in a file of its own, which `harm` may harm before the link to it is made (with the harmed
/// file's checksum). `keep`: what is left in the program.
fn with_debug_file(name: &str, keep: &str, harm: impl Fn(&Path)) -> PathBuf {
    let program = build_as("deep20.c", name, &["-g"]);
    let debug = built().join(format!("{name}.debug"));
    let (shown, debug_shown) = (program.display().to_string(), debug.display().to_string());
    binutils("objcopy", &["--only-keep-debug", &shown, &debug_shown]);
    harm(&debug);
    binutils("objcopy", &[keep, &format!("--add-gnu-debuglink={debug_shown}"), &shown]);
    program
}

fn harm_dwarf(debug: &Path) {
    for (seed, section) in [".debug_info", ".debug_abbrev", ".debug_line", ".debug_str"].iter().enumerate() {
        let content = debug.with_extension("section");
        let content_shown = content.display().to_string();
        let debug = debug.display().to_string();
        binutils("objcopy", &["--dump-section", &format!("{section}={content_shown}"), &debug]);
        let mut bytes = std::fs::read(&content).expect("it was written");
        damage(&mut bytes, seed as u64);
        std::fs::write(&content, bytes).expect("it can be written");
        binutils("objcopy", &["--update-section", &format!("{section}={content_shown}"), &debug]);
    }
}

fn harm_by_cutting(debug: &Path) {
    let len = std::fs::metadata(debug).expect("it is there").len();
    let file = std::fs::File::options().write(true).open(debug).expect("it can be written");
    file.set_len(len / 2).expect("it can be cut");
}

fn harm_by_replacing(debug: &Path) {
    let renames: Vec<String> = (1..=20).map(|number| format!("-Df{number:02}=wrong_f{number:02}")).collect();
    let options: Vec<&str> = renames.iter().map(String::as_str).chain(["-g"]).collect();
    let other = build_as("deep20.c", "deep20-other-debug", &options);
    binutils("objcopy", &["--only-keep-debug", &other.display().to_string(), &debug.display().to_string()]);
}

#[test]
fn a_damaged_debug_file_gives_no_wrong_names() {
    let names: Vec<String> = (1..=20).rev().map(|number| format!("f{number:02}")).collect();
    let chain: Vec<&str> = names.iter().map(String::as_str).chain(["descend", "main"]).collect();
    // With its symbol table left in the program all names are there; without it only an unharmed file has them.
    type Harm = fn(&Path);
    let harms: [(&str, &str, Harm, bool); 5] = [
        ("unharmed", "--strip-all", |_| {}, true),
        ("dwarf", "--strip-debug", harm_dwarf, true),
        ("cut", "--strip-debug", harm_by_cutting, true),
        ("cut-stripped", "--strip-all", harm_by_cutting, false),
        ("replaced", "--strip-all", harm_by_replacing, false),
    ];
    for (what, keep, harm, has_names) in harms {
        let program = with_debug_file(&format!("deep20-debug-{what}"), keep, harm);
        let (traced, stacks) = trace(line(&program, "cpu main 2"));
        let truth = traced.truth();
        let samples = of_origin(&stacks.within(spell(&truth)), Origin::OnCpu);
        for sample in &samples {
            let own = of_file(sample, &program);
            let inline = ["run_in", "do_as_asked", "compute_here", "clock_ns", "begin"];
            let known = |name: &str| chain.contains(&name) || inline.contains(&name) || name == "_start";
            let wrong = own.iter().find(|name| !known(name) && !name.contains("+0x"));
            assert!(wrong.is_none(), "{what}: {wrong:?} in {}", sample.shown());
        }
        assert_share(&format!("a debug file, {what}"), &samples, 40, |sample| {
            let own = of_file(sample, &program);
            let right = if has_names { sample.holds(&chain) } else { own.len() >= chain.len() };
            right && sample.end == "whole"
        });
    }
}

#[test]
fn a_program_that_executes_others_keeps_their_names_apart() {
    // At fixed addresses, so that what is known of one fits the other one, but for the names.
    let make = |name: &str| build_as("exec_chain.c", &format!("exec_{name}"), &["-no-pie", &format!("-DNAME={name}")]);
    let (first, second) = (make("first"), make("second"));
    let pass = build_as("exec_chain.c", "exec_pass", &["-DPASS"]);
    // The one that passes on is gone before anyone looks: of the two others the kernel may number the address spaces alike.
    let shown = [&first, &pass, &second, &pass].map(|path| path.display().to_string());
    let turn = format!("{} 0.15 {} {} 0.15 {}", shown[0], shown[1], shown[2], shown[3]);
    let all = format!("{turn} {turn} {turn} {turn} {} 0.15", shown[0]);
    let command: Vec<OsString> = all.split_whitespace().map(OsString::from).collect();
    let (traced, stacks) = trace(command);
    let truths = traced.truths();
    assert_eq!(truths.len(), 9, "each of them ran: {}", traced.ended);
    let mut right = Vec::new();
    for truth in &truths {
        let role = text(truth, "role");
        let other = if role == "first" { "second" } else { "first" };
        let samples = of_origin(&stacks.within(spell(truth)), Origin::OnCpu);
        let wrong = samples.iter().find(|sample| sample.names().iter().any(|name| name.starts_with(other)));
        assert!(wrong.is_none(), "{role}: {:?}", wrong.map(|sample| sample.shown()));
        let chain = [format!("{role}02"), format!("{role}01"), "main".to_owned()];
        right.extend(samples.into_iter().map(|sample| (chain.clone(), sample)));
    }
    let samples: Vec<&Sample> = right.iter().map(|(_, sample)| *sample).collect();
    let chains =
        |sample: &Sample| right.iter().find(|(_, of)| std::ptr::eq(*of, sample)).map(|(chain, _)| chain.clone());
    assert_share("nine programs in one process", &samples, 40, |sample| {
        let chain = chains(sample).unwrap_or_default();
        let chain: Vec<&str> = chain.iter().map(String::as_str).collect();
        sample.end == "whole" && sample.holds_adjoining(&chain)
    });
}
