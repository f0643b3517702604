//! What Python's runtime takes: waits for the interpreter lock, with every interpreter that is here, and the collector of garbage; and
//! programs that look alike, for which the rules must be silent.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::Value;

use crate::harness::python::{Interpreter, interpreters};
use crate::harness::{Background, Report, Tracer, list, number, python, text, until, whole};

const REQUESTS: &str = "gil_requests.py";

/// Ahead of whatever else this host does, or all of it waits in the run queue.
fn ahead(line: Vec<OsString>) -> Vec<OsString> {
    ["nice", "-n", "-15"].into_iter().map(OsString::from).chain(line).collect()
}

/// What the program says of itself, and the report.
fn trace(line: Vec<OsString>) -> (Value, Report) {
    let traced = Tracer::run(ahead(line)).options(&["--family", "cpu"]).go().expect_code(0);
    traced.report().assert_states();
    (traced.truth(), traced.report())
}

/// The only finding of a class.
#[track_caller]
fn only<'a>(report: &'a Report, class: &str, what: &str) -> &'a Value {
    let findings = report.findings(class);
    let (rules, observed) = (&report.0["rules"], &report.0["observed"]);
    assert_eq!(findings.len(), 1, "{what}: findings of {class}: {findings:?}; observed {observed}; {rules}");
    findings[0]
}

/// The function of a subject, without its class.
fn function(subject: &Value) -> &str {
    subject["function"].as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default()
}

#[track_caller]
fn assert_every_number_is_in_the_report(report: &Report, finding: &Value) {
    for evidence in list(finding, "evidence") {
        let found = report.0.pointer(text(evidence, "source")).and_then(Value::as_f64);
        assert_eq!(found, evidence["value"].as_f64(), "{evidence}");
    }
}

#[track_caller]
fn assert_holder_blamed(interpreter: &Interpreter) {
    let what = interpreter.shown();
    let (truth, report) = trace(interpreter.line(REQUESTS, "thread 250"));
    let finding = only(&report, "gil-contention", &what);
    assert_every_number_is_in_the_report(&report, finding);
    let culprit = &finding["culprit"];
    assert_eq!(culprit["tid"], truth["holder"], "{what}: who is to blame: {finding}");
    assert_eq!(function(culprit), "preprocess", "{what}: what it did: {finding}");
    let victims: Vec<&Value> = list(finding, "victims").iter().map(|victim| &victim["tid"]).collect();
    assert!(victims.contains(&&truth["tid"]) && !victims.contains(&&truth["holder"]), "{what}: {finding}");
    let (lost_s, beyond_s) = (number(finding, "lost_s"), number(&truth, "beyond_answer_s"));
    let fits = lost_s >= 0.5 * beyond_s && lost_s <= 1.1 * beyond_s + 0.1;
    assert!(fits, "{what}: {lost_s} s lost, of {beyond_s} s that requests took beyond the answer: {finding}");
    let of_lock = report.futexes().iter().filter(|futex| futex["kind"] == "python interpreter lock");
    let addresses: Vec<&Value> = of_lock.filter(|futex| futex["pid"] == truth["pid"]).map(|f| &f["address"]).collect();
    assert_eq!(addresses.len(), 1, "{what}: all words of the lock are one: {addresses:?}");
    assert_ne!(report.rule("user-lock-contention"), "fired", "{what}: {}", report.0["findings"]);
}

#[test]
fn who_computes_with_the_interpreter_lock_is_blamed_for_slow_requests() {
    let interpreters = interpreters();
    assert!(!interpreters.is_empty(), "these tests need a CPython from 3.8 on in PATH");
    if !crate::harness::host::kernel_is_at_least(5, 15) {
        eprintln!(
            "not tested: on such an old kernel it is not known whether a thread ended a wait, so nobody is to blame"
        );
        return;
    }
    for interpreter in interpreters.iter().filter(|interpreter| interpreter.version <= (3, 13)) {
        assert_holder_blamed(interpreter);
    }
}

#[test]
fn who_waits_in_native_code_with_the_interpreter_lock_is_said_to_keep_it() {
    let (truth, report) = trace(python(REQUESTS, "holding 60"));
    let finding = only(&report, "gil-contention", "a sleep under the lock");
    assert_eq!(finding["culprit"]["tid"], truth["holder"], "{finding}");
    assert_eq!(function(&finding["culprit"]), "flush_under_lock", "{finding}");
    let summary = text(finding, "summary");
    assert!(summary.contains("slept") && summary.contains("kept the lock"), "{summary}");
}

#[test]
fn a_thread_that_is_attached_to_while_it_computes_is_blamed_too() {
    let program = Background::command(&ahead(python(REQUESTS, "thread 100000")));
    // `nice` becomes the program, so that this is its pid.
    let pid = program.pid().to_string();
    let threads = format!("/proc/{pid}/task");
    until("there are two threads", Duration::from_secs(20), || {
        std::fs::read_dir(&threads).is_ok_and(|threads| threads.count() == 2)
    });
    let options = ["--family", "cpu", "--duration", "3s"];
    let traced = Tracer::record(&["--pid", &pid]).options(&options).go().expect_code(0);
    let report = traced.report();
    let finding = only(&report, "gil-contention", "attached");
    assert_ne!(finding["culprit"]["tid"], program.pid(), "main only makes requests: {finding}");
    assert_eq!(function(&finding["culprit"]), "preprocess", "{finding}");
    assert!(finding["share_of_wall"].is_null(), "without a path there is no such share: {finding}");
}

/// No finding, and what else is said is that it computes, or nothing.
#[track_caller]
fn assert_silent(class: &str, what: &str, line: Vec<OsString>) -> (Value, Report) {
    let (truth, report) = trace(line);
    assert_eq!(report.rule(class), "silent", "{what}: {}", report.0["rules"]);
    assert!(report.findings(class).is_empty(), "{what}: {}", report.0["findings"]);
    (truth, report)
}

/// It is healthy or computes; or this host is so busy that all of it waits for a CPU.
#[track_caller]
fn assert_well(what: &str, report: &Report) {
    let well = ["healthy", "cpu-bound"].contains(&text(&report.0, "verdict"));
    // Others on this machine, or a main thread that waits for the answers to its own requests: neither is about the interpreter.
    let elsewhere = ["run-queue-wait", "input-starvation"].iter().any(|class| !report.findings(class).is_empty());
    assert!(well || elsewhere, "{what}: {}", report.0["verdict_reason"]);
}

#[test]
fn the_same_computing_elsewhere_or_alone_is_no_contention() {
    for (what, arguments) in [
        ("computing in a subprocess", "subprocess 500"),
        ("requests and no computing", "nobody 500"),
        ("one thread computes, another sleeps", "alone 1200"),
    ] {
        let (_, report) = assert_silent("gil-contention", what, python(REQUESTS, arguments));
        assert_well(what, &report);
    }
}

#[test]
fn a_main_thread_that_only_looks_now_and_then_is_no_victim() {
    let (_, report) = assert_silent("gil-contention", "looks every 50 ms", python(REQUESTS, "poller 1500"));
    assert_ne!(report.0["verdict"], "inconclusive", "{}", report.0["verdict_reason"]);
}

#[test]
fn steps_that_collect_garbage_among_many_objects_are_found_with_every_interpreter() {
    for interpreter in interpreters().iter().filter(|interpreter| interpreter.version <= (3, 13)) {
        let what = interpreter.shown();
        let (truth, report) = trace(interpreter.line("gc_steps.py", "400000 30"));
        let finding = only(&report, "gc-pauses", &what);
        assert_every_number_is_in_the_report(&report, finding);
        assert_eq!(finding["culprit"]["tid"], whole(&truth, "pid"), "{what}: {finding}");
        assert_eq!(function(&finding["culprit"]), "train_step", "{what}: who started it: {finding}");
        let (lost_s, truth_s) = (number(finding, "lost_s"), number(&truth, "gc_cpu_s"));
        let fits = (0.7..=1.3).contains(&(lost_s / truth_s));
        assert!(fits, "{what}: {lost_s} s in the collector, by the interpreter's own account {truth_s} s: {truth}");
    }
}

#[test]
fn steps_that_collect_garbage_where_all_else_is_frozen_are_no_pauses() {
    let (truth, report) = assert_silent("gc-pauses", "frozen", python("gc_steps.py", "400000 100 freeze"));
    let collected = number(&truth, "gc_cpu_s") / number(&truth, "loop_cpu_s");
    assert!(collected < 0.05, "the twin is healthy: {truth}");
    assert_well("frozen", &report);
}
