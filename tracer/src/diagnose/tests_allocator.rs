//! Rule `allocator-contention` on constructed runs, where arenas are told by their place in memory.

use super::tests::{assert_evidence_resolves, run, status};
use crate::model::event::Event;
use crate::model::report::{Report, RuleStatus, Severity};
use crate::testing::{Leave, new_task, on_mutex, switch, woken};
use tracer_common::sched::WakeContext;

const START: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
const HEAP: u64 = 0x7f12_c000_0000;

/// Two threads take turns: thread 11 waits 60 ms of each 100 ms at this address, which holds these words.
fn waits_at(address: u64, words: [u32; 6], rounds: u64) -> Report {
    let mut events = vec![
        Event::NewTask(new_task(START, 10, 10, 1, "main")),
        Event::NewTask(new_task(START, 11, 10, 10, "allocator")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
    ];
    for round in 0..rounds {
        let at = START + round * 100 * MS;
        let mut wait =
            on_mutex(switch(at + 30 * MS, 1, 11, 0, Leave::Sleep { syscall: 202, fd_kind: 0, object: 0 }), address, 0);
        wait.words = words;
        events.push(Event::Switch(switch(at + MS, 1, 0, 11, Leave::Preempted)));
        events.push(Event::SwitchFutex(wait));
        let runs = switch(at + 90 * MS, 1, 0, 11, Leave::Preempted);
        events.push(Event::Switch(woken(runs, WakeContext::Task, 10, 1000)));
        events.push(Event::Switch(switch(
            at + 95 * MS,
            1,
            11,
            0,
            Leave::Sleep { syscall: 230, fd_kind: 0, object: 0 },
        )));
    }
    run(events, rounds * 100)
}

#[test]
fn waits_at_the_beginning_of_a_heap_are_the_allocators() {
    let report = waits_at(HEAP + 0x30, [2, 0, 1, 0, 0, 0], 50);
    assert_eq!(status(&report, "allocator-contention"), RuleStatus::Fired, "{:?}", report.rules);
    let futex = &report.locks.as_ref().expect("sched ran").futexes[0];
    assert_eq!((futex.kind.as_deref(), futex.kind_source.as_deref()), (Some("malloc arena"), Some("memory")));
    let finding = report.findings.iter().find(|finding| finding.class == "allocator-contention").expect("it fired");
    assert_eq!((finding.severity, finding.victims[0].tid), (Severity::Critical, Some(11)));
    assert!(finding.lost_s.is_some_and(|lost_s| (lost_s - 3.0).abs() < 0.1), "60 ms of each 100: {finding:?}");
    assert!(finding.confidence < 0.8, "no stack says so: {}", finding.confidence);
    assert!(finding.culprit.as_ref().is_some_and(|culprit| culprit.function.is_none()), "no name is made up");
    assert_evidence_resolves(&report);
}

#[test]
fn a_few_short_waits_are_only_observed() {
    let report = waits_at(HEAP + 0x30, [2, 0, 1, 0, 0, 0], 3);
    assert_eq!(status(&report, "allocator-contention"), RuleStatus::Silent, "{:?}", report.rules);
    assert!(report.observed.iter().any(|finding| finding.class == "allocator-contention"), "{:?}", report.observed);
}

#[test]
fn the_same_words_elsewhere_are_not_the_allocators() {
    let report = waits_at(HEAP + 0x5030, [2, 0, 1, 0, 0, 0], 50);
    assert_eq!(status(&report, "allocator-contention"), RuleStatus::CouldNotRun, "without stacks nobody knows");
    assert!(report.locks.as_ref().expect("sched ran").futexes[0].kind.is_none());
}
