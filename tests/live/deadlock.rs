//! `deadlock`: threads that can never go on, attached to and run; and what looks like it.

use serde_json::Value;

use crate::harness::{Background, Report, Tracer, close, list, number, python, report::state, text, whole, workload};

/// Starts a workload that hangs and attaches to it.
fn attached(arguments: &str) -> (Value, Report) {
    let mut program = Background::command(&workload(&format!("deadlock {arguments}")));
    let truth = program.next_json();
    let pid = truth["pid"].to_string();
    let traced = Tracer::record(&["--pid", &pid, "--duration", "1s", "--family", "sched,cpu"]).go().expect_code(0);
    (truth, traced.report())
}

/// The one finding of the class.
#[track_caller]
fn finding(report: &Report) -> &Value {
    let found = report.findings("deadlock");
    assert_eq!(found.len(), 1, "one deadlock: {}", report.0["findings"]);
    assert_eq!(found[0]["severity"], "critical", "{}", found[0]);
    assert_eq!(report.0["verdict"], "bottleneck", "{}", report.0["verdict_reason"]);
    found[0]
}

fn subjects(finding: &Value) -> Vec<&Value> {
    std::iter::once(&finding["culprit"]).chain(list(finding, "victims")).collect()
}

/// Fails unless each thread of the circle is named with the lock that it holds, the one that it waits for, and where it waits.
#[track_caller]
fn assert_circle(truth: &Value, finding: &Value, with_stacks: bool) {
    let waits = list(truth, "waits");
    let named = subjects(finding);
    for wait in waits {
        let subject = named.iter().find(|subject| subject["tid"] == wait["tid"]);
        let subject = subject.unwrap_or_else(|| panic!("thread {} is not named: {finding}", wait["tid"]));
        let held = waits.iter().find(|other| other["owner"] == wait["tid"]).expect("a circle");
        let (lock, waits_for) = (text(subject, "lock"), text(subject, "waits_for"));
        assert!(lock.ends_with(text(held, "lock")), "it holds {}: {subject}", held["lock"]);
        assert!(waits_for.ends_with(text(wait, "lock")), "it waits for {}: {subject}", wait["lock"]);
        if with_stacks {
            let stack = list(subject, "stack");
            let there = stack.iter().any(|line| line.as_str().is_some_and(|line| line.contains("take_the_other")));
            assert!(there, "the stack says where it waits: {subject}");
            assert!(text(subject, "function").ends_with("take_the_other"), "{subject}");
        }
        assert!(text(finding, "summary").contains(&wait["tid"].to_string()), "{}", finding["summary"]);
    }
}

#[test]
fn two_threads_in_a_circle_are_named_with_locks_and_stacks_by_attaching() {
    let (truth, report) = attached("");
    report.assert_states();
    let found = finding(&report);
    assert_circle(&truth, found, true);
    assert_eq!(report.rule("user-lock-contention"), "silent", "{}", report.0["rules"]);
    let at_attach = &report.0["stacks"]["at_attach"];
    // Two in the circle and the one that waits for them to end.
    assert_eq!((whole(at_attach, "threads"), whole(at_attach, "taken")), (3, 3), "{at_attach}");
    for wait in list(&truth, "waits") {
        let row = report.thread(whole(wait, "tid"));
        close("futex", state(row, "futex"), number(row, "wall_s"), 0.001, 0.001);
    }
}

#[test]
fn a_larger_circle_is_one_finding_and_those_behind_it_are_victims() {
    let (truth, report) = attached("--threads 5 --behind 3");
    let found = finding(&report);
    assert_circle(&truth, found, true);
    assert_eq!(subjects(found).len(), 8, "{found}");
}

#[test]
fn a_thread_that_waits_for_itself_is_a_deadlock() {
    let (truth, report) = attached("--shape itself");
    let found = finding(&report);
    assert_circle(&truth, found, true);
    assert!(text(found, "summary").contains("holds itself"), "{}", found["summary"]);
}

#[test]
fn a_lock_whose_owner_has_ended_is_never_given_back() {
    let (truth, report) = attached("--shape abandoned");
    let found = finding(&report);
    let wait = &list(&truth, "waits")[0];
    assert_eq!(found["culprit"]["ns_tid"], wait["owner"], "the thread that ended with it: {found}");
    assert_eq!(list(found, "victims")[0]["tid"], wait["tid"], "{found}");
    assert!(number(found, "confidence") < 0.7, "it was not seen to end: {found}");
}

#[test]
fn a_lock_held_by_a_thread_that_sleeps_is_no_deadlock_but_not_healthy() {
    let (truth, report) = attached("--shape sleeper");
    assert_eq!(report.rule("deadlock"), "silent", "{}", report.0["rules"]);
    assert_eq!(report.0["verdict"], "inconclusive", "{}", report.0["verdict_reason"]);
    let reason = text(&report.0, "verdict_reason");
    let owner = list(&truth, "waits")[0]["owner"].to_string();
    assert!(reason.contains(&owner) && reason.contains("sleeps"), "who holds it and what it does: {reason}");
}

fn hung(arguments: &str) -> (Value, Report) {
    let traced = Tracer::run(workload(&format!("deadlock {arguments} --duration 4s")))
        .options(&["--family", "cpu", "--duration", "2500ms"])
        .go();
    let truth = traced.truth();
    (truth, traced.report())
}

#[test]
fn a_run_that_hangs_after_its_locks_were_fought_for_names_the_circle() {
    let (truth, report) = hung("--rounds 200 --threads 3");
    let found = finding(&report);
    assert_circle(&truth, found, true);
    assert_eq!(
        report.rule("user-lock-contention"),
        "silent",
        "it does not claim the same locks: {}",
        report.0["rules"]
    );
}

#[test]
fn a_run_in_which_a_thread_ended_with_its_lock_names_that_thread() {
    let (truth, report) = hung("--shape abandoned");
    let found = finding(&report);
    let owner = &list(&truth, "waits")[0]["owner"];
    assert_eq!(&found["culprit"]["tid"], owner, "{found}");
    assert!(found["culprit"]["thread"].is_string(), "its name is known: {found}");
}

#[test]
fn threads_that_come_on_are_no_deadlock() {
    for arguments in [
        "deadlock --healthy --rounds 300 --threads 4",
        "mutex --hog --hold 300ms --threads 3 --duration 1500ms",
        "idle-pool --duration 800ms",
        "semaphore --duration 600ms",
    ] {
        let traced = Tracer::run(workload(arguments)).options(&["--family", "cpu"]).go().expect_code(0);
        let report = traced.report();
        assert_eq!(report.rule("deadlock"), "silent", "{arguments}: {}", report.0["rules"]);
        assert!(report.findings("deadlock").is_empty(), "{arguments}: {}", report.0["findings"]);
    }
}

#[test]
fn sleeping_python_threads_are_attached_to_with_their_python_frames() {
    let mut program = Background::command(&python("stuck_locks.py", ""));
    let truth = program.next_json();
    let pid = truth["pid"].to_string();
    let traced = Tracer::record(&["--pid", &pid, "--duration", "1s", "--family", "sched,cpu"]).go().expect_code(0);
    let report = traced.report();
    assert_eq!(report.rule("deadlock"), "silent", "Python's locks have no owner: {}", report.0["rules"]);
    let places = |tid: &Value| -> Vec<Value> {
        let row = report.thread(tid.as_u64().expect("a number"));
        list(row, "waits").iter().flat_map(|wait| list(wait, "places")).cloned().collect()
    };
    for tid in list(&truth, "tids") {
        let found = places(tid);
        assert!(found.iter().any(|place| place["function"] == "wants_the_other"), "thread {tid}: {found:?}");
    }
    let main = places(&truth["pid"]);
    assert!(main.iter().any(|place| place["language"] == "python"), "it waits in a function of threading: {main:?}");
}

#[test]
fn a_thread_that_wakes_after_attaching_is_counted_once() {
    let mut program = Background::command(&workload("sleep --period 700ms --duration 30s --announce"));
    let truth = program.next_json();
    let pid = truth["pid"].to_string();
    let traced = Tracer::record(&["--pid", &pid, "--duration", "2s", "--family", "sched,cpu"]).go().expect_code(0);
    let report = traced.report();
    report.assert_states();
    let stacks = &report.0["stacks"];
    let waited: f64 =
        report.threads().map(|row| number(row, "wall_s") - state(row, "on_cpu") - state(row, "runnable")).sum();
    close("waits with and without stacks", number(stacks, "waited_s"), waited, 0.01, 0.01);
    close("all waits have stacks", number(stacks, "waited_with_stack_s"), number(stacks, "waited_s"), 0.01, 0.01);
}
