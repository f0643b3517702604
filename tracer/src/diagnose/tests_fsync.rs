//! The rule `fsync-stall` on constructed runs.

use tracer_common::sched::WakeContext;

use super::tests::{assert_evidence_resolves, run, status};
use crate::model::event::{Event, Meta};
use crate::model::meta::TargetRecord;
use crate::model::report::{Report, RuleStatus};
use crate::testing::{Leave, meta_event, new_task, switch, woken};

const START: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
/// fsync(3) of a file.
const FSYNC: Leave = Leave::Sleep { syscall: 74, fd_kind: 1, object: 88 };

/// The main thread (10) computes; in each 10 ms it, or else a thread beside it (11), syncs for 8 ms, then queues for 1 ms.
fn saving(rounds: u64, who: u32) -> Report {
    let target = TargetRecord { mode: "run".to_owned(), pids: vec![10], ..TargetRecord::default() };
    let mut events = vec![
        meta_event(START, Meta::Target(target)),
        Event::NewTask(new_task(START, 10, 10, 1, "main")),
        Event::NewTask(new_task(START, 11, 10, 10, "saver")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(START, 1, 0, 11, Leave::Preempted)),
    ];
    let cpu = if who == 10 { 0 } else { 1 };
    for round in 0..rounds {
        let at = |ms: u64| START + round * 10 * MS + ms * MS;
        events.push(Event::Switch(switch(at(1), cpu, who, 0, FSYNC)));
        let ready = woken(switch(at(10), cpu, 0, who, Leave::Preempted), WakeContext::Device, 0, MS as u32);
        events.push(Event::Switch(ready));
    }
    run(events, rounds * 10)
}

#[test]
fn syncs_on_the_path_count_with_the_queueing_after_them() {
    let report = saving(100, 10);
    let finding = report.findings.iter().find(|finding| finding.class == "fsync-stall").expect("a finding");
    assert!((finding.lost_s.expect("seconds") - 0.9).abs() < 0.02, "8 ms in the call and 1 ms of 10: {finding:?}");
    assert_eq!(finding.culprit.as_ref().and_then(|culprit| culprit.tid), Some(10));
    assert_evidence_resolves(&report);
}

#[test]
fn syncs_beside_the_path_are_observed_only() {
    let report = saving(100, 11);
    assert_eq!(status(&report, "fsync-stall"), RuleStatus::Silent);
    let seen = report.observed.iter().find(|finding| finding.class == "fsync-stall").expect("observed");
    assert_eq!(seen.lost_s, Some(0.0), "nothing waits for it: {seen:?}");
    assert!(seen.summary.contains("nothing that CMD's main thread waited for"), "{}", seen.summary);
    assert_evidence_resolves(&report);
}

#[test]
fn a_run_without_syncs_is_silent() {
    let report = saving(0, 10);
    assert_ne!(status(&report, "fsync-stall"), RuleStatus::Fired);
}
