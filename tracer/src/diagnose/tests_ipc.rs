//! The rule `ipc-wait` on constructed runs, and `input-starvation` beside it.

use tracer_common::sched::WakeContext;

use super::tests::{assert_evidence_resolves, run, status};
use crate::model::event::{Event, Meta};
use crate::model::meta::TargetRecord;
use crate::model::report::{Finding, Report, RuleStatus};
use crate::testing::stacks::{START, cpu_ready, definitions, kernel, python, sample, stack, symbol};
use crate::testing::{Leave, meta_event, moved, new_task, switch, woken};

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;
const PIPE: u64 = 77;
const ROUNDS: u64 = 200;

/// Stacks: below the reading and the writing of a pipe, packing, importing what is unpickled, computing.
const READS: u64 = 200;
const WRITES: u64 = 201;
const PACKS: u64 = 202;
const IMPORTS: u64 = 203;
const COMPUTES: u64 = 100;

/// What of the run differs: of each round of 10 ms `main` (10) waits so many for `sender` (20) at the pipe, else it computes.
struct Shape {
    waits_ms: u64,
    main: fn(u64) -> u64,
    sender: fn(u64) -> u64,
    /// Bytes of each of the calls, one per round; none: not counted.
    bytes: Option<u64>,
    /// The sender waits for room in each round.
    full: bool,
}

const BULK: Shape = Shape { waits_ms: 2, main: |_| READS, sender: |_| WRITES, bytes: Some(4 * MIB), full: true };

fn names() -> Vec<Event> {
    let connection = "/usr/lib/python3.11/multiprocessing/connection.py";
    let mut events = definitions();
    events.extend([
        kernel(40, 0xffff_8000_1000),
        kernel(41, 0xffff_8000_2000),
        symbol(40, &[("anon_pipe_read", None)]),
        symbol(41, &[("anon_pipe_write", None)]),
        python(42, "Connection._recv", connection, 395),
        python(43, "Connection._send", connection, 384),
        python(44, "_call_with_frames_removed", "<frozen importlib._bootstrap>", 241),
        stack(READS, &[40, 42, 2, 10, 13]),
        stack(WRITES, &[41, 43, 2, 10, 13]),
        stack(PACKS, &[12, 42, 2, 10, 13]),
        stack(IMPORTS, &[12, 44, 42, 2, 10, 13]),
    ]);
    events
}

fn report(shape: &Shape) -> Report {
    let target = TargetRecord { mode: "run".to_owned(), pids: vec![10], ..TargetRecord::default() };
    let read = Leave::Sleep { syscall: 0, fd_kind: 2, object: PIPE };
    let write = Leave::Sleep { syscall: 1, fd_kind: 2, object: PIPE };
    let mut events = vec![
        meta_event(START, Meta::Target(target)),
        cpu_ready(),
        Event::NewTask(new_task(START, 10, 10, 1, "main")),
        Event::NewTask(new_task(START, 20, 20, 10, "sender")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(START, 1, 0, 20, Leave::Preempted)),
    ];
    for round in 0..ROUNDS {
        let at = |us: u64| START + round * 10 * MS + us * 1000;
        if shape.full {
            events.push(Event::Switch(switch(at(100), 1, 20, 0, write)));
            events.push(Event::Switch(woken(switch(at(900), 1, 0, 20, Leave::Preempted), WakeContext::Task, 10, 1000)));
        }
        events.push(Event::Switch(switch(at(1000), 0, 10, 0, read)));
        let back = switch(at(1000 + 1000 * shape.waits_ms), 0, 0, 10, Leave::Preempted);
        events.push(Event::Switch(woken(back, WakeContext::Task, 20, 1000)));
    }
    let end = START + ROUNDS * 10 * MS - 1000;
    if let Some(bytes) = shape.bytes {
        events.push(Event::Moved(moved(end - 1000, 10, 10, [ROUNDS * bytes, 0, ROUNDS, 0])));
        events.push(Event::Moved(moved(end, 20, 20, [0, ROUNDS * bytes, 0, ROUNDS])));
    }
    events.extend(names());
    for round in 0..ROUNDS {
        let at = |us: u64| START + round * 10 * MS + us * 1000;
        events.push(sample(at(9500), 10, 10, (shape.main)(round), 10 * MS));
        events.push(sample(at(1500), 20, 20, (shape.sender)(round), 10 * MS));
    }
    run(events, ROUNDS * 10)
}

fn found<'a>(list: &'a [Finding], class: &str) -> Option<&'a Finding> {
    list.iter().find(|finding| finding.class == class)
}

fn reason<'a>(report: &'a Report, class: &str) -> &'a str {
    report.rules.iter().find(|rule| rule.class == class).map_or("", |rule| &rule.reason)
}

#[test]
fn copying_large_messages_is_what_the_run_takes_and_nobody_starves() {
    let report = report(&BULK);
    let finding = found(&report.findings, "ipc-wait").unwrap_or_else(|| panic!("{:?}", report.rules));
    let lost_s = finding.lost_s.expect("measured");
    assert!((1.9..=report.window.duration_s).contains(&lost_s), "both ends copy all the time: {lost_s}");
    let culprit = finding.culprit.as_ref().expect("who copies most");
    assert_eq!((culprit.tid, culprit.function.as_deref()), (Some(10), Some("Connection._recv")));
    assert_eq!(culprit.peer.as_deref(), Some("pipe from sender (20) to main (10)"));
    assert!(finding.summary.contains("400.0 MiB a second"), "{}", finding.summary);
    assert_eq!((finding.confidence, status(&report, "input-starvation")), (0.9, RuleStatus::Silent));
    let objects = report.objects.as_ref().expect("a section");
    let bytes = objects.list.first().and_then(|object| object.bytes.clone()).expect("both ends are counted");
    assert_eq!((bytes.at_most, bytes.ends_agree, bytes.per_write), (800 * MIB, true, Some(4.0 * MIB as f64)));
    assert_evidence_resolves(&report);
}

#[test]
fn small_messages_are_a_conversation() {
    let report = report(&Shape { bytes: Some(200), full: false, ..BULK });
    assert_eq!(status(&report, "ipc-wait"), RuleStatus::Silent);
    assert!(reason(&report, "ipc-wait").contains("small messages"), "{}", reason(&report, "ipc-wait"));
}

#[test]
fn where_nobody_counts_the_bytes_waits_for_room_tell_a_transport() {
    let report = |full: bool| report(&Shape { bytes: None, full, ..BULK });
    let transport = report(true);
    let finding = found(&transport.findings, "ipc-wait").unwrap_or_else(|| panic!("{:?}", transport.rules));
    assert!(finding.summary.contains("how much is not known"), "{}", finding.summary);
    assert_eq!(finding.confidence, 0.75);
    assert_evidence_resolves(&transport);
    assert_eq!(status(&report(false), "ipc-wait"), RuleStatus::Silent);
}

#[test]
fn packing_counts_and_what_unpickling_imports_does_not() {
    let packing = report(&Shape { main: |_| PACKS, ..BULK });
    assert_eq!(status(&packing, "ipc-wait"), RuleStatus::Fired, "{:?}", packing.rules);
    let importing = report(&Shape { main: |_| IMPORTS, sender: |_| COMPUTES, ..BULK });
    assert_eq!(status(&importing, "ipc-wait"), RuleStatus::Silent);
    assert!(reason(&importing, "ipc-wait").contains("hardly any time"), "{}", reason(&importing, "ipc-wait"));
}

#[test]
fn a_producer_that_computes_and_then_copies_is_charged_once_with_each() {
    let half = |round: u64| if round.is_multiple_of(2) { WRITES } else { COMPUTES };
    let report = report(&Shape { waits_ms: 8, main: |_| COMPUTES, sender: half, ..BULK });
    let lost_s = |class: &str| {
        let finding = found(&report.findings, class);
        finding.and_then(|finding| finding.lost_s).unwrap_or_else(|| panic!("{class}: {:?}", report.rules))
    };
    let (copied_s, starved_s) = (lost_s("ipc-wait"), lost_s("input-starvation"));
    assert!(
        (0.8..1.0).contains(&copied_s),
        "half of the 1.6 s waited, at the upper end of what samples tell: {copied_s}"
    );
    assert!((0.75..0.85).contains(&starved_s), "the other half: {starved_s}");
    assert_evidence_resolves(&report);
}

#[test]
fn a_producer_that_computes_is_starvation_alone() {
    let report = report(&Shape { waits_ms: 8, main: |_| COMPUTES, sender: |_| COMPUTES, ..BULK });
    assert_eq!(status(&report, "ipc-wait"), RuleStatus::Silent);
    assert_eq!(status(&report, "input-starvation"), RuleStatus::Fired);
}
