//! Stacks of native programs without frame pointers, on CPU and waiting: whole, and with the right names. What the programs do is in
//! `native/`; they are compiled here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::native::{build, build_as, built, line};
use crate::harness::stacks::{Function, Origin, Sample, Stacks, assert_share, count, of_origin};
use crate::harness::{Traced, Tracer, close, list, report::state, shell, text, whole};

/// The functions of deep20.c, innermost first.
const DEEP20: [&str; 20] = [
    "f20", "f19", "f18", "f17", "f16", "f15", "f14", "f13", "f12", "f11", "f10", "f09", "f08", "f07", "f06", "f05",
    "f04", "f03", "f02", "f01",
];

/// Traces a command with stacks.
fn trace(command: Vec<OsString>) -> (Traced, Stacks) {
    let traced = Tracer::run(command).options(&["--family", "cpu"]).go().expect_code(0);
    let stacks = Stacks::of(&traced);
    (traced, stacks)
}

/// The one thread that a program tells of.
fn spell(truth: &Value) -> &Value {
    list(truth, "threads").first().unwrap_or_else(|| panic!("no thread: {truth}"))
}

/// The chain of deep20.c down to where its thread begins.
fn deep20(place: &str) -> Vec<&'static str> {
    let outermost: &[&str] = if place == "main" { &["descend", "main"] } else { &["descend"] };
    DEEP20.iter().chain(outermost).copied().collect()
}

fn is_whole_with(sample: &Sample, chain: &[&str]) -> bool {
    sample.end == "whole" && sample.holds_adjoining(chain)
}

/// Stacks of a thread that computes at the end of this chain, to which it goes down again each turn: a few may catch it on its way,
/// and are right if nothing is missing from where it was.
fn assert_chain(what: &str, samples: &[&Sample], at_least: usize, chain: &[&str]) {
    let is_on_its_way = |sample: &Sample| {
        let names = sample.names();
        let at = names.first().and_then(|inner| chain.iter().position(|name| name == inner));
        at.is_some_and(|at| sample.end == "whole" && names.starts_with(&chain[at..]))
    };
    assert_share(what, samples, at_least, |sample| is_whole_with(sample, chain) || is_on_its_way(sample));
    let on_their_way = samples.iter().filter(|sample| !is_whole_with(sample, chain)).count();
    assert!(on_their_way * 20 <= samples.len(), "{what}: {on_their_way} of {} are of less than all", samples.len());
}

#[test]
fn on_cpu_stacks_reach_main() {
    let program = build("deep20.c");
    for place in ["main", "thread"] {
        let (traced, stacks) = trace(line(&program, &format!("cpu {place} 3")));
        let truth = traced.truth();
        let samples = of_origin(&stacks.within(spell(&truth)), Origin::OnCpu);
        let chain = deep20(place);
        assert_chain(&format!("on CPU in {place}"), &samples, 80, &chain);
        assert!(samples.iter().all(|sample| sample.tgid == whole(&truth, "pid")), "samples name their process");
        // Each stands for the time since the one before; a sleepless thread's sum to its time on CPU.
        let (report, tid) = (traced.report(), whole(spell(&truth), "tid"));
        let sampled_s = samples.iter().map(|sample| sample.weight_ns as f64 / 1e9).sum();
        close("time sampled", sampled_s, state(report.thread(tid), "on_cpu"), 0.05, 0.1 + traced.stolen_s);
    }
}

#[test]
fn wait_stacks_reach_main() {
    let program = build("deep20.c");
    for (mode, place) in
        [("sleep", "main"), ("read", "main"), ("futex", "main"), ("sleep", "thread"), ("futex", "thread")]
    {
        let (traced, stacks) = trace(line(&program, &format!("{mode} {place} 1.5")));
        let truth = traced.truth();
        let samples = of_origin(&stacks.within(spell(&truth)), Origin::Wait);
        let chain = deep20(place);
        assert_share(&format!("waits by {mode} in {place}"), &samples, 50, |sample| is_whole_with(sample, &chain));
        // The kernel does not count the runs of a program that another one goes on with: none are told, rather than nought.
        let report = traced.report();
        let mut programs = list(&report.0["overhead"], "programs").iter();
        assert!(programs.all(|program| program["name"] != "wait_stack"), "{}", report.0["overhead"]);
    }
}

#[test]
fn the_share_of_whole_stacks_is_not_below_that_of_perf() {
    if Command::new("perf").arg("--version").output().is_err() {
        println!("not compared: there is no perf here");
        return;
    }
    let program = build("deep20.c");
    let chain = deep20("main");
    let (traced, stacks) = trace(line(&program, "cpu main 3"));
    let truth = traced.truth();
    let samples = of_origin(&stacks.within(spell(&truth)), Origin::OnCpu);
    let right = |sample: &Sample| sample.end == "whole" && is_in_chain(&sample.names(), &chain);
    let ours = count(&samples, right);
    let (theirs, all) = perf(&program, &chain);
    println!("tracer: {ours} of {}, perf record --call-graph dwarf: {theirs} of {all}", samples.len());
    assert!(!samples.is_empty() && all > 0, "both took samples: {} and {all}", samples.len());
    for bad in samples.iter().filter(|sample| !right(sample)).take(3) {
        println!("not whole: {}", bad.shown());
    }
    assert!(ours * all >= theirs * samples.len(), "tracer: {ours} of {}, perf: {theirs} of {all}", samples.len());
}

/// Whether a stack, innermost first, holds the whole chain without a gap; or, of a thread that is just going down or up the chain, all
/// of it from the function where it stands.
fn is_in_chain(names: &[&str], chain: &[&str]) -> bool {
    let standing = chain.iter().position(|function| names.first() == Some(function));
    let rest = standing.and_then(|at| chain.get(at..));
    names.windows(chain.len()).any(|window| window == chain) || rest.is_some_and(|rest| names.starts_with(rest))
}

/// How many of perf's stacks hold the chain, of those taken while the program was in it.
fn perf(program: &Path, chain: &[&str]) -> (usize, usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("perf.data");
    let options = ["-q", "-k", "CLOCK_MONOTONIC", "-e", "cpu-clock", "-F", "99", "--call-graph", "dwarf,65528", "-o"];
    let mut record = Command::new("perf");
    record.arg("record").args(options).arg(&data).arg("--").arg(program).args(["cpu", "main", "3"]);
    let record = record.output().expect("perf runs");
    assert!(record.status.success(), "perf record: {}", String::from_utf8_lossy(&record.stderr));
    let printed = String::from_utf8_lossy(&record.stdout).into_owned();
    let truth: Value = printed.lines().find_map(|line| serde_json::from_str(line).ok()).expect("a line of JSON");
    let (from, to) = (whole(spell(&truth), "from_ns"), whole(spell(&truth), "to_ns"));
    let script = Command::new("perf")
        .args(["script", "--ns", "-F", "time,ip,sym", "-i"])
        .arg(&data)
        .output()
        .expect("perf runs");
    let script = String::from_utf8_lossy(&script.stdout).into_owned();
    let (mut good, mut all) = (0, 0);
    // A line with the time, a line per frame (address, name), an empty line.
    for block in script.split("\n\n") {
        let mut lines = block.lines().filter(|line| !line.trim().is_empty());
        let time = lines.next().and_then(|line| nanoseconds(line.trim().trim_end_matches(':')));
        if time.is_some_and(|time| (from..=to).contains(&time)) {
            let names: Vec<&str> = lines.filter_map(|line| line.split_whitespace().nth(1)).collect();
            all += 1;
            good += usize::from(is_in_chain(&names, chain));
        }
    }
    (good, all)
}

fn nanoseconds(time: &str) -> Option<u64> {
    let (seconds, rest) = time.split_once('.')?;
    Some(seconds.trim().parse::<u64>().ok()? * 1_000_000_000 + format!("{rest:0<9}").get(..9)?.parse::<u64>().ok()?)
}

#[test]
fn stacks_pass_through_callbacks_of_libc_and_libstdcxx() {
    let program = build("callbacks.cpp");
    let inside = ["inner03", "inner02", "inner01"];
    for (via, callback, library, outermost) in
        [("qsort", "compare", "libc.so", "main"), ("stream", "Buffer::sync", "libstdc++", "")]
    {
        for (mode, origin) in [("cpu", Origin::OnCpu), ("sleep", Origin::Wait)] {
            let (traced, stacks) = trace(line(&program, &format!("{via} {mode} 2")));
            let truth = traced.truth();
            let samples = of_origin(&stacks.within(spell(&truth)), origin);
            let inner: Vec<&str> = inside.iter().copied().chain([callback]).collect();
            let outer: Vec<&str> = ["outer03", "outer02", "outer01"]
                .into_iter()
                .chain([outermost])
                .filter(|name| !name.is_empty())
                .collect();
            let both: Vec<&str> = inner.iter().chain(&outer).copied().collect();
            let good = |sample: &Sample| {
                sample.end == "whole"
                    && sample.holds_adjoining(&inner)
                    && sample.holds_adjoining(&outer)
                    && sample.holds(&both)
                    && is_in_library(&sample.functions, callback, library)
            };
            // With few places there are few wait stacks: every one is looked at again now and then only.
            let at_least = if origin == Origin::OnCpu { 50 } else { 1 };
            assert_share(&format!("{via}, {mode}"), &samples, at_least, good);
        }
    }
}

/// Whether the callback was called by that library, and the library by outer03.
fn is_in_library(functions: &[Function], callback: &str, library: &str) -> bool {
    let at = |name: &str| functions.iter().position(|function| function.name.split('(').next() == Some(name));
    let (Some(callback), Some(outer)) = (at(callback), at("outer03")) else { return false };
    let between = functions.get(callback + 1..outer).unwrap_or_default();
    let in_library = |function: &Function| function.module.as_deref().is_some_and(|module| module.contains(library));
    !between.is_empty() && between.iter().all(in_library)
}

#[test]
fn a_stack_of_60_kib_is_whole() {
    let program = build("deep60k.cpp");
    let names: Vec<String> = (1..=24).rev().map(|number| format!("k{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).chain(["descend"]).collect();
    for (mode, place, origin) in
        [("cpu", "main", Origin::OnCpu), ("cpu", "thread", Origin::OnCpu), ("read", "thread", Origin::Wait)]
    {
        let (traced, stacks) = trace(line(&program, &format!("{mode} {place} 2")));
        let truth = traced.truth();
        assert!(whole(&truth, "depth_bytes") >= 60 << 10, "the program's own measure: {truth}");
        let samples = of_origin(&stacks.within(spell(&truth)), origin);
        let at_least = if origin == Origin::OnCpu { 50 } else { 1 };
        assert_chain(&format!("60 KiB, {mode} in {place}"), &samples, at_least, &names);
    }
}

#[test]
fn processes_that_live_for_50_ms_have_names() {
    let program = build("short50ms.c");
    let script = format!("for turn in $(seq 30); do '{}'; done", program.display());
    let (traced, stacks) = trace(shell(&script));
    let truths = traced.truths();
    assert_eq!(truths.len(), 30, "each of them ran: {}", traced.ended);
    let samples: Vec<&Sample> = truths.iter().flat_map(|truth| stacks.within(spell(truth))).collect();
    let samples = of_origin(&samples, Origin::OnCpu);
    let chain = ["s05", "s04", "s03", "s02", "s01", "main"];
    assert_chain("30 processes of 50 ms", &samples, 60, &chain);
}

#[test]
fn a_program_that_was_deleted_or_replaced_after_its_start_has_its_own_names() {
    let chain = deep20("main");
    for what in ["unlink", "replace"] {
        let name = format!("deep20-{what}");
        let program = build_as("deep20.c", &name, &[]);
        // Same code under other names: the names of the file that lies there now would be wrong ones, not missing ones.
        let renames: Vec<String> = DEEP20.iter().map(|name| format!("-D{name}=wrong_{name}")).collect();
        let renames: Vec<&str> = renames.iter().map(String::as_str).collect();
        let other = build_as("deep20.c", &format!("{name}-other"), &renames);
        let (traced, stacks) = trace(line(&program, &format!("cpu main 2 {what} {}", other.display())));
        let truth = traced.truth();
        let samples = of_origin(&stacks.within(spell(&truth)), Origin::OnCpu);
        assert_chain(what, &samples, 100, &chain);
        let module = stacks.modules.values().find(|module| text(module, "path").contains(&name));
        let module = module.unwrap_or_else(|| panic!("the program is no module: {:?}", stacks.modules));
        assert!(text(module, "build_id").len() >= 16, "its file is told by its build id: {module}");
    }
}

#[test]
fn a_library_at_the_same_path_inside_and_outside_of_a_chroot_keeps_its_names_apart() {
    let library_folder = built().join("chroot-library");
    let library = build_as("library.c", "chroot-library/libchain.so", &["-shared", "-fPIC", "-DNAME=outside"]);
    let inside = build_as("library.c", "chroot-library-inside.so", &["-shared", "-fPIC", "-DNAME=inside"]);
    let search = format!("-Wl,-rpath,{}", library_folder.display());
    let program = build_as("uses_library.c", "uses_library", &[&library.display().to_string(), &search]);
    let root = tempfile::tempdir().expect("a temporary folder");
    put_in_root(root.path(), &program, Path::new("/program"));
    put_in_root(root.path(), &inside, &library);
    for needed in libraries(&program).iter().filter(|needed| **needed != library) {
        put_in_root(root.path(), needed, needed);
    }
    let (chroot, program) = (root.path().display(), program.display());
    for (mode, origin) in [("cpu", Origin::OnCpu), ("sleep", Origin::Wait)] {
        let script = format!("chroot '{chroot}' /program {mode} 3 inside & '{program}' {mode} 3 outside; wait");
        let (traced, stacks) = trace(shell(&script));
        for role in ["inside", "outside"] {
            let truths = traced.truths();
            let truth = truths.iter().find(|truth| truth["role"] == role);
            let truth = truth.unwrap_or_else(|| panic!("{role} did not end well: {}", traced.ended));
            let samples = of_origin(&stacks.within(spell(truth)), origin);
            let chain =
                [format!("{role}03"), format!("{role}02"), format!("{role}01"), "enter".to_owned(), "main".to_owned()];
            let chain: Vec<&str> = chain.iter().map(String::as_str).collect();
            let at_least = if origin == Origin::OnCpu { 50 } else { 1 };
            assert_share(&format!("{role}, {mode}"), &samples, at_least, |sample| is_whole_with(sample, &chain));
        }
    }
}

/// Copies a file to an absolute path within a root.
fn put_in_root(root: &Path, file: &Path, at: &Path) {
    let target = root.join(at.strip_prefix("/").expect("an absolute path"));
    let folder = target.parent().expect("it lies in a folder");
    std::fs::create_dir_all(folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    std::fs::copy(file, &target).unwrap_or_else(|error| panic!("cannot copy {}: {error}", file.display()));
}

/// What the dynamic linker loads for a program, itself included.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let answer = Command::new("ldd").arg(program).output().expect("ldd is part of every libc");
    let answer = String::from_utf8(answer.stdout).expect("paths in UTF-8");
    answer.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}
