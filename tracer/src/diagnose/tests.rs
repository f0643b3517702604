//! Rules and verdict on constructed runs: sick ones, and healthy ones that look sick.

use serde_json::Value;

use crate::model::event::{Event, Meta};
use crate::model::meta::LossRecord;
use crate::model::report::{Finding, Report, RuleStatus, Severity, Verdict};
use crate::testing::{self, Leave, meta_event, new_task, on_mutex, seed, switch};

const START: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

pub(super) fn run(events: Vec<Event>, end_ms: u64) -> Report {
    let kernel = events.iter().filter(|event| event.header().kind >> 8 == 1).count() as u64;
    let end = testing::epilogue(START + end_ms * MS, kernel);
    testing::analyse(&testing::prologue(START).into_iter().chain(events).chain(end).collect::<Vec<_>>())
}

pub(super) fn status(report: &Report, class: &str) -> RuleStatus {
    let rule = report.rules.iter().find(|rule| rule.class == class);
    rule.unwrap_or_else(|| panic!("{class} is in {:?}", report.rules)).status
}

/// Each number that a finding cites stands where the finding says.
pub(super) fn assert_evidence_resolves(report: &Report) {
    let json: Value = serde_json::to_value(report).expect("a report");
    for Finding { class, evidence, .. } in report.findings.iter().chain(&report.observed) {
        assert!(!evidence.is_empty(), "{class} has evidence");
        for evidence in evidence {
            let found = json.pointer(&evidence.source).and_then(Value::as_f64);
            assert_eq!(found, Some(evidence.value), "{class}: {} at {}", evidence.metric, evidence.source);
        }
    }
}

#[test]
fn a_contended_mutex_names_holder_and_victims() {
    let report = testing::contended_report();
    assert_eq!((report.verdict, status(&report, "user-lock-contention")), (Verdict::Bottleneck, RuleStatus::Fired));
    let finding = &report.findings[0];
    assert_eq!(
        (finding.class.as_str(), finding.rank, finding.severity),
        ("user-lock-contention", 1, Severity::Critical)
    );
    let lost_s = finding.lost_s.expect("measured");
    assert!((lost_s - 3.0).abs() < 0.001, "worker waited 60 ms in each of 50 rounds: {lost_s}");
    assert!(finding.speedup_bound.is_some_and(|bound| (bound - 2.5).abs() < 0.01), "{:?}", finding.speedup_bound);
    assert_eq!(finding.share_of_wall, None, "there is no critical path");
    assert_eq!(finding.confidence, 0.9);
    let culprit = finding.culprit.as_ref().expect("the holder");
    assert_eq!((culprit.tid, culprit.thread.as_deref()), (Some(10), Some("main")));
    assert_eq!(culprit.lock.as_deref(), Some("pthread mutex at 0x7f001000"));
    assert_eq!(finding.victims.iter().map(|victim| victim.tid).collect::<Vec<_>>(), [Some(11), Some(10)]);
    assert_eq!(status(&report, "cpu-bound"), RuleStatus::Silent);
    assert_evidence_resolves(&report);
}

#[test]
fn contention_that_costs_little_is_only_observed() {
    // Three rounds of 60 ms, then ten quiet seconds.
    let mut events = testing::contended_run(3);
    events.retain(|event| event.header().kind >> 8 == 1);
    let report = run(events, 10_000);
    assert_eq!(status(&report, "user-lock-contention"), RuleStatus::Silent);
    assert!(report.findings.iter().all(|finding| finding.class != "user-lock-contention"), "{:?}", report.findings);
    assert_eq!(report.observed.len(), 1, "{:?}", report.observed);
    assert_evidence_resolves(&report);
}

#[test]
fn an_sleepers_is_healthy() {
    let mut events = Vec::new();
    for tid in 10..42 {
        events.push(Event::NewTask(new_task(START, tid, 10, 10, "pool")));
        let cpu = (tid % 2) as u16;
        events.push(Event::Switch(switch(START + u64::from(tid) * MS, cpu, 0, tid, Leave::Preempted)));
        // A condition variable: the memory there looks like no mutex.
        let mut idle = on_mutex(switch(START + u64::from(tid) * MS + MS, cpu, tid, 0, Leave::Preempted), 0x5000, 0);
        idle.words = [3, 7, 0, 0, 0, 0];
        idle.switch.flags &= !1;
        events.push(Event::SwitchFutex(idle));
    }
    let report = run(events, 10_000);
    assert_eq!(report.verdict, Verdict::Healthy, "{}", report.verdict_reason);
    assert!(report.findings.is_empty() && report.observed.is_empty());
    let futexes = &report.locks.as_ref().expect("sched ran").futexes;
    assert_eq!((futexes.len(), futexes[0].threads), (1, 32));
}

#[test]
fn a_thread_that_computes_all_the_time_is_cpu_bound() {
    let events = vec![
        Event::NewTask(new_task(START, 10, 10, 1, "loop")),
        Event::Switch(switch(START + MS, 0, 0, 10, Leave::Preempted)),
    ];
    let report = run(events, 5000);
    assert_eq!((report.verdict, report.findings[0].severity), (Verdict::CpuBound, Severity::Info));
    assert_evidence_resolves(&report);
}

#[test]
fn much_lost_lowers_confidence_and_forbids_healthy() {
    let lose = |mut events: Vec<Event>| {
        for event in &mut events {
            if let Event::Meta(_, meta) = event
                && let Meta::Loss(LossRecord { families }) = &mut **meta
            {
                let cpu = &mut families[0].cpus[0];
                cpu.seen *= 2;
                cpu.lost[0] = cpu.seen - cpu.submitted;
            }
        }
        testing::analyse(&events)
    };
    let report = lose(testing::contended_run(50));
    assert_eq!((report.verdict, report.findings[0].confidence), (Verdict::Bottleneck, 0.45));
    let sched = &report.coverage.families[0];
    assert_eq!(sched.seen, sched.submitted.zip(sched.lost).map(|(submitted, lost)| submitted + lost));
    assert_eq!(sched.share, Some(0.5));
    let quiet = [
        testing::prologue(START),
        vec![Event::NewTask(new_task(START, 10, 10, 1, "t"))],
        testing::epilogue(START + MS, 1),
    ];
    assert_eq!(lose(quiet.concat()).verdict, Verdict::Inconclusive);
}

#[test]
fn nothing_recorded_is_inconclusive() {
    let report = run(Vec::new(), 1000);
    assert_eq!(report.verdict, Verdict::Inconclusive, "{}", report.verdict_reason);
    let report = testing::analyse(&[]);
    assert_eq!((report.verdict, report.window.complete), (Verdict::Inconclusive, false));
    assert_eq!(status(&report, "user-lock-contention"), RuleStatus::CouldNotRun);
}

#[test]
fn the_same_records_give_the_same_bytes() {
    let json = || crate::export::to_json(&testing::contended_report()).expect("a report");
    assert_eq!(json(), json());
    assert!(!json().contains("null"), "what is not known is absent:\n{}", json());
}

#[test]
fn one_busy_thread_among_idle_ones_is_named_as_the_one_that_limits() {
    let busy = |tid: u32, cpu: u16| Event::Switch(switch(START + MS, cpu, 0, tid, Leave::Preempted));
    let idle = |tid: u32| {
        let sleep = Leave::Sleep { syscall: 230, fd_kind: 0, object: 0 };
        Event::Switch(switch(START + 2 * MS, 1, tid, 0, sleep))
    };
    let made = |tid: u32| Event::NewTask(new_task(START, tid, 10, 1, "t"));
    let one = run(vec![made(10), made(11), made(12), busy(10, 0), busy(11, 1), idle(11), busy(12, 1), idle(12)], 5000);
    assert_eq!(one.verdict, Verdict::CpuBound);
    assert!(one.verdict_reason.contains("this one thread limits; the other 2"), "{}", one.verdict_reason);
    let both = run(vec![made(10), made(11), busy(10, 0), busy(11, 1)], 5000);
    assert!(!both.verdict_reason.contains("this one thread"), "{}", both.verdict_reason);
}

#[test]
fn waiting_for_a_cpu_is_mentioned_where_nothing_else_is_found() {
    let queued = |off_ms: u64| {
        let mut events = vec![Event::NewTask(new_task(START, 10, 10, 1, "t"))];
        for round in 0..10 {
            let at = START + round * 100 * MS;
            events.push(Event::Switch(switch(at, 0, 0, 10, Leave::Preempted)));
            events.push(Event::Switch(switch(at + (100 - off_ms) * MS, 0, 10, 0, Leave::Preempted)));
        }
        run(events, 1000)
    };
    let report = queued(60);
    assert_eq!(report.verdict, Verdict::Healthy, "{}", report.verdict_reason);
    assert!(report.verdict_reason.contains("without a CPU for 60 %"), "{}", report.verdict_reason);
    let report = queued(18);
    assert!(!report.verdict_reason.contains("without a CPU"), "{}", report.verdict_reason);
}

#[test]
fn a_recording_without_an_end_says_so_in_the_verdict() {
    let events = [testing::contended_run(50)].concat();
    let cut: Vec<Event> = events
        .into_iter()
        .filter(|event| !matches!(event, Event::Meta(_, meta) if matches!(**meta, Meta::End(_))))
        .collect();
    let report = testing::analyse(&cut);
    assert_eq!(report.verdict, Verdict::Bottleneck);
    assert!(report.verdict_reason.contains("until the recording was cut"), "{}", report.verdict_reason);
    assert!(report.coverage.counters_age_s.is_some(), "{:?}", report.coverage);
}

#[test]
fn unknown_time_names_its_threads_and_what_to_do() {
    let report = run(vec![meta_event(START, Meta::Seed(seed(10, 10, "dark", "?")))], 1000);
    assert_eq!(report.verdict, Verdict::Inconclusive);
    for part in ["100 % of the threads' time", "dark (10) with 1.00 s", "could not be read", "tracer run"] {
        assert!(report.verdict_reason.contains(part), "{part} is missing: {}", report.verdict_reason);
    }
}

#[test]
fn a_lock_that_several_hold_in_turn_blames_no_single_thread() {
    let mut report = testing::contended_report();
    let futex = &mut report.locks.as_mut().expect("sched ran").futexes[0];
    let mut owner = futex.owners[0].clone();
    owner.count = 10;
    futex.owners = (0..4).map(|n| crate::model::report::Owner { tid: owner.tid + n, ..owner.clone() }).collect();
    futex.waits_with_owner = 40;
    // What one of them did says nothing of all.
    futex.explanation = None;
    super::diagnose(&mut report);
    let finding = &report.findings[0];
    assert!(finding.summary.contains("its 4 holders held it in turn (most often"), "{}", finding.summary);
    assert!(finding.fix.contains("in each of its 4 holders"), "{}", finding.fix);
    assert!(!finding.hypothesis.contains("main"), "{}", finding.hypothesis);
}
