//! Stacks of Python programs: the chain of calls over two files, in main and in a thread, with every interpreter that is here; and
//! native code below Python code.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::python::{Interpreter, chain, holds, interpreters, shown};
use crate::harness::stacks::{Origin, Sample, Stacks, assert_share, of_origin};
use crate::harness::{Background, Traced, Tracer, list, text, whole};

fn trace(interpreter: &Interpreter, script: &str, arguments: &str) -> (Traced, Stacks) {
    let traced = Tracer::run(interpreter.line(script, arguments)).options(&["--family", "cpu"]).go().expect_code(0);
    let stacks = Stacks::of(&traced);
    (traced, stacks)
}

/// The chain in main and in a thread: `mode` is what the innermost function does.
fn check(mode: &str, origins: &[(Origin, usize)]) {
    let interpreters = interpreters();
    assert!(!interpreters.is_empty(), "these tests need a CPython from 3.8 on in PATH");
    let chain = chain(mode);
    for interpreter in &interpreters {
        let (traced, stacks) = trace(interpreter, "chain_outer.py", &format!("{mode} 2"));
        let truth = traced.truth();
        assert_eq!(list(&truth, "threads").len(), 2, "main and a thread: {truth}");
        for spell in list(&truth, "threads") {
            let thread = if spell["tid"] == truth["pid"] { "main" } else { "a thread" };
            for (origin, at_least) in origins {
                let samples = of_origin(&stacks.within(spell), *origin);
                let what = format!("{}, {mode} in {thread}, {origin:?}", interpreter.shown());
                let good = |sample: &Sample| holds(sample, &chain, interpreter.version) && sample.end == "whole";
                for bad in samples.iter().filter(|sample| !good(sample)).take(2) {
                    println!("{what}: {}\n  {}", shown(bad), bad.shown());
                }
                assert_share(&what, &samples, *at_least, good);
            }
        }
    }
}

#[test]
fn a_computing_python_chain_has_its_files_and_lines() {
    // Two threads share the interpreter lock: each computes for half of the time and waits for it at the places where it gave it up.
    check("compute", &[(Origin::OnCpu, 20), (Origin::Wait, 1)]);
}

#[test]
fn a_sleeping_python_chain_has_its_files_and_lines() {
    check("sleep", &[(Origin::Wait, 1)]);
}

/// Threads' Python functions, innermost first: name without its class, file, line.
type Dump = HashMap<u64, Vec<(String, String, u64)>>;

#[test]
fn python_stacks_agree_with_py_spy() {
    let py_spy = std::env::var("PY_SPY").unwrap_or_else(|_| "py-spy".to_owned());
    if Command::new(&py_spy).arg("--version").output().is_err() {
        println!("not compared: there is no py-spy in PATH, and PY_SPY names none");
        return;
    }
    for interpreter in interpreters() {
        let program = Background::command(&interpreter.line("chain_outer.py", "sleep 30"));
        let pid = program.pid().to_string();
        let mut dump = None;
        crate::harness::until("both threads sleep", Duration::from_secs(15), || {
            dump = dumped(&py_spy, &pid);
            dump.is_some()
        });
        let dump = dump.unwrap_or_default();
        let options = ["--duration", "2s", "--family", "cpu"];
        let traced = Tracer::record(&["--pid", &pid]).options(&options).go().expect_code(0);
        let stacks = Stacks::of(&traced);
        for (tid, theirs) in &dump {
            // Python frames are read from the moment at which the tracer has seen that there is an interpreter.
            let known_ns = stacks.samples.iter().map(|sample| sample.ts_ns).min().unwrap_or(0) + 300_000_000;
            let late = |sample: &&Sample| sample.tid == *tid && sample.ts_ns > known_ns;
            let samples: Vec<&Sample> = stacks.samples.iter().filter(late).collect();
            let samples = of_origin(&samples, Origin::Wait);
            let what = format!("{}, thread {tid} against py-spy", interpreter.shown());
            assert_share(&what, &samples, 1, |sample| ours(sample) == *theirs);
        }
    }
}

/// What py-spy sees, once both threads are in the line that sleeps; none before.
fn dumped(py_spy: &str, pid: &str) -> Option<Dump> {
    let answer = Command::new(py_spy).args(["dump", "--json", "--pid", pid]).output().ok()?;
    let threads: Value = serde_json::from_slice(&answer.stdout).ok()?;
    let function = |frame: &Value| {
        let name = text(frame, "name").rsplit('.').next().unwrap_or_default().to_owned();
        (name, text(frame, "filename").to_owned(), whole(frame, "line"))
    };
    let thread = |thread: &Value| {
        Some((thread["os_thread_id"].as_u64()?, list(thread, "frames").iter().map(function).collect()))
    };
    let dump: Dump = threads.as_array()?.iter().filter_map(thread).collect();
    let sleeping = crate::harness::python::line_of("chain_inner.py", "in rest");
    let sleeps = |frames: &Vec<(String, String, u64)>| frames.first().is_some_and(|(.., line)| *line == sleeping);
    (dump.len() == 2 && dump.values().all(sleeps)).then_some(dump)
}

fn ours(sample: &Sample) -> Vec<(String, String, u64)> {
    let python = sample.functions.iter().filter(|function| function.kind == "python");
    let plain = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    python.map(|f| (plain(&f.name), f.file.clone().unwrap_or_default(), f.line.unwrap_or(0))).collect()
}

#[test]
fn numpy_in_a_thread_pool_shows_native_frames_below_the_python_ones() {
    let with_numpy = interpreters().into_iter().filter(|interpreter| interpreter.imports("numpy")).collect::<Vec<_>>();
    if with_numpy.is_empty() {
        println!("not tested: no interpreter here can import numpy");
        return;
    }
    for interpreter in &with_numpy {
        let (traced, stacks) = trace(interpreter, "numpy_pool.py", "3");
        let truth = traced.truth();
        for spell in list(&truth, "threads") {
            let samples = of_origin(&stacks.within(spell), Origin::OnCpu);
            let what = format!("{}, NumPy in thread {}", interpreter.shown(), whole(spell, "tid"));
            assert_share(&what, &samples, 50, is_python_above_numpy);
        }
    }
}

/// `multiply` in Python, and inside of it native frames of NumPy or its linear algebra, in one whole stack.
fn is_python_above_numpy(sample: &Sample) -> bool {
    let Some(python) = sample.functions.iter().position(|f| f.kind == "python" && f.name == "multiply") else {
        return false;
    };
    let in_numpy = |module: &str| ["numpy", "openblas", "mkl"].iter().any(|name| module.contains(name));
    let native = sample.functions[..python].iter().filter(|function| function.kind == "native");
    native.clone().any(|function| function.module.as_deref().is_some_and(in_numpy))
        && sample.functions[..python].iter().all(|function| function.kind != "python")
        && sample.end == "whole"
}
