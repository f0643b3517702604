//! Rule `deadlock` on constructed runs: circles of all sizes, locks that nobody will give back, and what looks like them.

use super::tests::{assert_evidence_resolves, run, status};
use crate::model::event::{Event, Meta};
use crate::model::meta::{SeedRecord, TargetRecord};
use crate::model::report::{Report, RuleStatus, Severity, Verdict};
use crate::testing::{Leave, meta_event, new_task, on_mutex, seed, switch, woken};
use tracer_common::sched::WakeContext;

const START: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// A thread of process 10 that waited for a lock when tracing began.
fn waits(tid: u32, address: u64, owner: u32) -> Event {
    meta_event(
        START,
        Meta::Seed(SeedRecord {
            syscall: Some(202),
            args: [address, 128, 2, 0, 0, 0],
            futex_words: Some([2, 0, owner, 1, 0, 0]),
            ..seed(tid, 10, "stuck", "S")
        }),
    )
}

fn sleeps(tid: u32) -> Event {
    meta_event(START, Meta::Seed(SeedRecord { syscall: Some(230), ..seed(tid, 10, "sleeper", "S") }))
}

fn on_futex(object: u64) -> Leave {
    Leave::Sleep { syscall: 202, fd_kind: 0, object }
}

fn attached() -> Event {
    let target = TargetRecord { mode: "record".to_owned(), pids: vec![10], ..TargetRecord::default() };
    meta_event(START, Meta::Target(target))
}

#[track_caller]
fn assert_fired(report: &Report) {
    assert_eq!(status(report, "deadlock"), RuleStatus::Fired, "{:?}", report.rules);
    assert_eq!(report.verdict, Verdict::Bottleneck, "{}", report.verdict_reason);
    assert_eq!(status(report, "user-lock-contention"), RuleStatus::Silent, "{:?}", report.rules);
    assert_evidence_resolves(report);
}

fn tids(report: &Report) -> Vec<u32> {
    let finding = &report.findings[0];
    finding.culprit.iter().chain(&finding.victims).filter_map(|subject| subject.tid).collect()
}

#[test]
fn two_threads_that_wait_for_each_other_are_named_with_both_locks() {
    let report = run(vec![waits(10, 0x1000, 11), waits(11, 0x2000, 10)], 10_000);
    assert_fired(&report);
    let finding = &report.findings[0];
    assert_eq!((finding.class.as_str(), finding.severity), ("deadlock", Severity::Critical));
    let (culprit, victim) = (finding.culprit.as_ref().expect("one of them"), &finding.victims[0]);
    let locks = |subject: &crate::model::report::Subject| {
        (subject.tid, subject.lock.clone().expect("held"), subject.waits_for.clone().expect("waited for"))
    };
    let (low, high) = ("pthread mutex at 0x1000".to_owned(), "pthread mutex at 0x2000".to_owned());
    assert_eq!(locks(culprit), (Some(10), high.clone(), low.clone()), "{finding:?}");
    assert_eq!(locks(victim), (Some(11), low, high), "{finding:?}");
    for part in ["2 threads of process", "stuck (10)", "stuck (11)", "0x1000", "0x2000", "10.0 s"] {
        assert!(finding.summary.contains(part), "{part}: {}", finding.summary);
    }
    assert_eq!(finding.lost_s, Some(10.0));
}

#[test]
fn a_circle_of_five_is_one_finding_with_those_behind_it() {
    let mut events: Vec<Event> = (0..5).map(|i| waits(10 + i, 0x1000 + u64::from(i), 10 + (i + 1) % 5)).collect();
    events.extend([waits(20, 0x1000, 11), waits(21, 0x5000, 20), sleeps(30), waits(31, 0x6000, 30)]);
    let report = run(events, 2_000);
    assert_fired(&report);
    assert_eq!(report.findings.iter().filter(|finding| finding.class == "deadlock").count(), 1);
    assert_eq!(tids(&report), [10, 11, 12, 13, 14, 20, 21], "{:?}", report.findings[0]);
    assert!(report.findings[0].summary.contains("2 more threads behind them"), "{}", report.findings[0].summary);
}

#[test]
fn two_circles_are_two_findings() {
    let events = vec![waits(10, 1, 11), waits(11, 2, 10), waits(12, 3, 13), waits(13, 4, 12)];
    let report = run(events, 2_000);
    assert_fired(&report);
    assert_eq!(report.findings.iter().filter(|finding| finding.class == "deadlock").count(), 2);
}

#[test]
fn a_thread_that_waits_for_its_own_lock_never_gets_it() {
    let report = run(vec![waits(10, 0x1000, 10)], 2_000);
    assert_fired(&report);
    assert!(report.findings[0].summary.contains("holds itself"), "{}", report.findings[0].summary);
    let futex = &report.locks.as_ref().expect("sched ran").futexes[0];
    assert_eq!(futex.waits_with_owner, 0, "elsewhere the waiter is no owner: {futex:?}");
}

#[test]
fn a_lock_that_an_ended_thread_held_is_less_sure_where_its_end_was_not_seen() {
    let report = run(vec![attached(), sleeps(10), waits(11, 0x1000, 99)], 2_000);
    assert_fired(&report);
    let culprit = report.findings[0].culprit.as_ref().expect("who ended");
    assert_eq!((culprit.tid, culprit.ns_tid), (None, Some(99)), "{culprit:?}");
    assert!(report.findings[0].confidence < 0.7, "{}", report.findings[0].confidence);
    let report = run(vec![sleeps(10), waits(11, 0x1000, 99)], 2_000);
    assert_eq!(status(&report, "deadlock"), RuleStatus::Silent, "of CMD all threads are known: that was no lock");
}

#[test]
fn a_lock_that_was_passed_on_since_may_have_another_owner() {
    let on = |ts_ms: u64, tid: u32, address: u64, owner: u32| {
        Event::SwitchFutex(on_mutex(switch(START + ts_ms * MS, 0, tid, 0, on_futex(address)), address, owner))
    };
    let runs = |ts_ms: u64, tid: u32| Event::Switch(switch(START + ts_ms * MS, 0, 0, tid, Leave::Preempted));
    let events = |passed_on: bool| {
        let mut events: Vec<Event> =
            (10..13).map(|tid| Event::NewTask(new_task(START, tid, 10, 10, "worker"))).collect();
        events.extend([runs(1, 10), on(2, 10, 0x1000, 11), runs(3, 12), on(4, 12, 0x1000, 11)]);
        if passed_on {
            let wakes = woken(switch(START + 50 * MS, 0, 0, 12, Leave::Preempted), WakeContext::Task, 11, 1000);
            events.extend([Event::Switch(wakes), Event::Switch(switch(START + 60 * MS, 0, 12, 0, on_futex(0x3000)))]);
        }
        events.extend([runs(70, 11), on(80, 11, 0x2000, 10)]);
        run(events, 5_000)
    };
    let report = events(false);
    assert_fired(&report);
    assert_eq!(tids(&report), [10, 11, 12]);
    let report = events(true);
    assert_eq!(status(&report, "deadlock"), RuleStatus::Silent, "{:?}", report.locks.map(|locks| locks.open));
}

#[test]
fn a_lock_whose_holder_sleeps_is_said_to_be_held_by_it() {
    let report = run(vec![sleeps(10), waits(11, 0x1000, 10)], 10_000);
    assert_eq!(status(&report, "deadlock"), RuleStatus::Silent, "{:?}", report.rules);
    assert_eq!(report.verdict, Verdict::Inconclusive, "{}", report.verdict_reason);
    assert!(report.verdict_reason.contains("sleeper (10) holds it and sleeps"), "{}", report.verdict_reason);
}

#[test]
fn waits_that_have_hardly_begun_are_no_deadlock() {
    let report = run(vec![waits(10, 0x1000, 11), waits(11, 0x2000, 10)], 50);
    assert_eq!(status(&report, "deadlock"), RuleStatus::Silent, "{:?}", report.rules);
}
