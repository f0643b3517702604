//! The critical path: who is to blame for the wall time of CMD's main thread.

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{self, Traced, Tracer, list, number, python, text, trace, whole};

/// Traces a command with its stacks.
fn with_stacks(command: Vec<OsString>) -> Traced {
    Tracer::run(command).options(&["--family", "cpu"]).go().expect_code(0)
}

/// A consumer and the child that produces for it.
fn pipe(arguments: &str) -> (Value, harness::Report) {
    let traced = with_stacks(python("pipe_producer.py", arguments));
    traced.report().assert_path();
    (traced.truth(), traced.report())
}

fn names(part: &Value, function: &str) -> bool {
    part["functions"].as_array().is_some_and(|functions| functions.iter().any(|known| known["function"] == function))
}

#[test]
fn the_wait_for_a_computing_producer_is_what_the_producer_computes() {
    let (truth, report) = pipe("compute");
    let child = whole(&truth, "child");
    let of_child = |part: &Value| part["pid"] == child && part["within"]["state"] == "pipe";
    // It had to queue for a CPU now and then: that is its own time as well.
    let (by_child, _) =
        report.on_path(|part| of_child(part) && (part["state"] == "on_cpu" || part["state"] == "runnable"));
    let waited = number(&truth, "waited_s");
    let path = &report.0["critical_path"];
    assert!(by_child >= 0.8 * waited, "the child explains {by_child} of {waited} s: {path}");
    let (decoding, _) = report.on_path(|part| of_child(part) && names(part, "decode_sample"));
    assert!(decoding >= 0.3 * waited, "decode_sample explains {decoding} of {waited} s: {path}");
    let (own, _) = report.on_path(|part| part["state"] == "pipe" && part["pid"] == truth["pid"]);
    assert!(own <= 0.05 * waited, "a wait for a pipe is never a cause itself: {path}");
}

#[test]
fn the_wait_for_a_sleeping_producer_is_its_sleep() {
    let (truth, report) = pipe("sleep");
    let child = whole(&truth, "child");
    let slept = |part: &Value| part["pid"] == child && part["state"] == "timer" && names(part, "decode_sample");
    let (asleep, _) = report.on_path(|part| slept(part) && part["within"]["state"] == "pipe");
    let waited = number(&truth, "waited_s");
    assert!(asleep >= 0.7 * waited, "the child's sleep explains {asleep} of {waited} s: {}", report.0["critical_path"]);
}

#[test]
fn of_a_slow_consumer_the_producer_is_not_on_the_path() {
    let (truth, report) = pipe("compute slow-consumer");
    let child = whole(&truth, "child");
    let (by_child, total) = report.on_path(|part| part["pid"] == child);
    assert!(by_child <= 0.25 * total, "the child is {by_child} of {total} s: {}", report.0["critical_path"]);
    let (own, _) = report.on_path(|part| part["pid"] == truth["pid"] && part["within"].is_null());
    assert!(own >= 0.7 * total, "the consumer itself is {own} of {total} s: {}", report.0["critical_path"]);
}

/// A launcher with its workers: what it says itself, and the report.
fn launcher(how: &str) -> (Value, harness::Report) {
    let workload = harness::workload("");
    let workload = workload.first().and_then(|path| path.to_str()).expect("a path in UTF-8");
    let traced = with_stacks(python("launcher.py", &format!("{how} {workload}")));
    traced.report().assert_path();
    (traced.truth(), traced.report())
}

#[test]
fn who_sleeps_and_looks_until_a_worker_has_ended_waits_for_what_the_worker_does() {
    for how in ["agent", "timeout"] {
        let (truth, report) = launcher(how);
        // The first worker may be waited for by itself: rows of one name are one row.
        let of_worker = |part: &Value| part["process"] == "workload" && part["within"]["state"] == "timer";
        let (by_workers, total) = report.on_path(of_worker);
        assert!(
            by_workers >= 0.7 * total,
            "{how}: workers are {by_workers} of {total} s: {}",
            report.0["critical_path"]
        );
        let own_waits = list(&report.0["critical_path"], "own_waits");
        let polls = own_waits.iter().find(|wait| wait["state"] == "timer" && wait["of"]["pid"] == truth["pid"]);
        let polls = polls.unwrap_or_else(|| panic!("{how}: it is told as its wait: {own_waits:?}"));
        let ended = list(polls, "ended_by").iter().any(|by| by["pid"] == truth["worker"]);
        assert!(ended && polls["by_end"] == true, "{how}: by the end of the one that mattered: {polls}");
    }
}

#[test]
fn who_sleeps_at_a_pace_of_its_own_waits_for_nobody() {
    for _ in 0..crate::healthy::repeats() {
        let (truth, report) = launcher("paced");
        let slept = |part: &Value| part["pid"] == truth["pid"] && part["state"] == "timer";
        let (slept, total) = report.on_path(slept);
        assert!(slept >= 0.7 * total, "it slept for {slept} of {total} s: {}", report.0["critical_path"]);
        let (by_worker, _) = report.on_path(|part| part["pid"] == truth["worker"]);
        assert!(by_worker <= 0.1 * total, "{by_worker} of {total} s: {}", report.0["critical_path"]);
    }
}

#[test]
fn input_and_output_under_a_lock_is_what_the_others_wait_for() {
    let folder = PathBuf::from(harness::storage::disk());
    let traced =
        with_stacks(harness::workload(&format!("mutex --threads 3 --duration 2s --sync-in {}", folder.display())));
    let (truth, report) = (traced.truth(), traced.report());
    report.assert_path();
    let futex = report.futex(list(&truth, "locks")[0].as_str().expect("an address"));
    let did = list(&futex["explanation"], "did");
    // On a busy machine they queue for a CPU as well, and who waits for two waits for the second of them first.
    let own = |row: &&Value| row["state"] != "runnable" && row["state"] != "futex";
    let own: f64 = did.iter().filter(own).map(|row| number(row, "share")).sum();
    let syncing = |row: &&Value| row["state"] == "file" && row["detail"] == "fsync";
    let share: f64 = did.iter().filter(syncing).map(|row| number(row, "share")).sum();
    assert!(share >= 0.3 * own, "the disk explains {share} of {own} of the waits: {futex}");
    let sync = did.iter().find(syncing).expect("a row");
    assert!(
        list(sync, "functions").iter().any(|known| text(known, "function").contains("flush_index")),
        "the function under the lock is named: {sync}"
    );
    let path = text(sync, "path");
    assert!(path.starts_with(&folder.display().to_string()), "the file under the lock is named: {sync}");
    let found = report.findings("user-lock-contention");
    let finding = found.first().unwrap_or_else(|| panic!("the lock is reported: {}", report.0["rules"]));
    if did[0]["state"] == "file" {
        assert_eq!(finding["culprit"]["path"], path, "the finding names the file: {finding}");
        assert!(text(finding, "summary").contains(path), "so does its summary: {finding}");
    }
    let (on_disk, _) = report.on_path(|part| part["state"] == "file" && part["detail"] == "fsync");
    let (all, _) = report.on_path(|part| part["state"] != "runnable");
    assert!(on_disk >= 0.3 * all, "the disk is {on_disk} of {all} s of the path: {}", report.0["critical_path"]);
}

#[test]
fn of_a_running_program_the_path_is_that_of_the_thread_that_is_asked_for() {
    let command = harness::workload("mutex --sleep --threads 2 --hold 4ms --duration 30s --announce");
    let mut program = harness::Background::command(&command);
    let truth = program.next_json();
    let thread = &list(&truth, "threads")[1];
    let pid = truth["pid"].to_string();
    let focused =
        |focus: &str| Tracer::record(&["--pid", &pid, "--duration", "800ms", "--focus", focus]).go().expect_code(0);
    for focus in [thread["tid"].to_string(), text(thread, "name").to_owned()] {
        let report = focused(&focus).report();
        report.assert_path();
        let path = &report.0["critical_path"];
        assert_eq!(path["of"]["tid"], thread["tid"], "{path}");
        // It holds the lock or waits for the other one, who sleeps while it holds it.
        let (asleep, total) = report.on_path(|part| part["state"] == "timer");
        assert!(asleep >= 0.7 * total, "asleep under the lock: {asleep} of {total} s: {path}");
        let (own, total) = report.on_path(|part| part["state"] == "timer" && part["tid"] == thread["tid"]);
        assert!(own <= 0.98 * total && own >= 0.02 * total, "both hold it in turn: {own} of {total} s: {path}");
    }
    let traced = focused("no-such-thread");
    assert!(traced.report().0["critical_path"].is_null(), "{}", traced.report().0["critical_path"]);
    let said = &traced.ended.stderr;
    assert!(said.contains("no traced thread has the id or the name no-such-thread"), "{said}");
}

#[test]
fn a_thread_that_joins_is_explained_by_the_thread_that_it_joins() {
    let traced = trace("cpu --threads 1 --duration 600ms");
    let report = traced.report();
    report.assert_path();
    let (computed, total) = report.on_path(|part| part["state"] == "on_cpu" || part["state"] == "runnable");
    assert!(computed >= 0.9 * total, "computing is {computed} of {total} s: {}", report.0["critical_path"]);
}
