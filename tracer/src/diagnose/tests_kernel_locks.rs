//! Kernel locks on constructed runs: from records to rows, states and findings.

use serde_json::Value;
use tracer_common::lock::{Contended, Kind, contended_flags};
use tracer_common::sched::WakeContext;

use crate::model::event::{Event, Meta};
use crate::model::meta::{FamilyRecord, LocksRecord, ShortContentions};
use crate::model::report::{Finding, KernelLock, Report, Row, RuleStatus, Verdict};
use crate::testing::{self, Leave, contended, for_kernel_lock, meta_event, new_task, switch, woken};

const START: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// `rounds` of 100 ms, in each of which thread 11 waits 60 ms for a lock that thread 10 holds, and then 2 ms for a CPU.
fn run(kind: Kind, rounds: u64, change: impl Fn(&mut Contended), told: bool) -> Report {
    let munmap = Leave::Sleep { syscall: 11, fd_kind: 0, object: 5 };
    let mut events = vec![
        Event::NewTask(new_task(START, 10, 10, 1, "churn")),
        Event::NewTask(new_task(START, 11, 10, 10, "nibbler")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(START, 1, 0, 11, Leave::Preempted)),
    ];
    for round in 0..rounds {
        let at = |ms: u64| START + (round * 100 + ms) * MS;
        events.push(Event::Switch(for_kernel_lock(switch(at(10), 1, 11, 0, munmap), kind)));
        let back = switch(at(72), 1, 0, 11, Leave::Preempted);
        events.push(Event::Switch(woken(back, WakeContext::Task, 10, 2 * MS as u32)));
        let mut record = contended(at(73), 11, 10, kind, 10);
        record.duration_ns = 63 * MS;
        change(&mut record);
        events.push(Event::Contended(record));
    }
    let end_ns = START + rounds * 100 * MS;
    let kernel = events.iter().filter(|event| event.header().kind >> 8 == 1).count() as u64;
    let short = vec![ShortContentions { tgid: 10, kind: kind as u8, count: 4, ns: 8_000 }];
    events.push(meta_event(end_ns, Meta::Locks(LocksRecord { short })));
    let mut all = testing::prologue(START);
    if told {
        let family = FamilyRecord { family: "lock".to_owned(), status: "ready".to_owned(), reason: None };
        all.push(meta_event(START, Meta::Families(family)));
    }
    all.extend(events);
    all.extend(testing::epilogue(end_ns, kernel));
    testing::analyse(&all)
}

fn only_row(report: &Report) -> &KernelLock {
    let rows = &report.locks.as_ref().expect("sched ran").kernel;
    assert_eq!(rows.len(), 1, "{rows:?}");
    &rows[0]
}

fn status(report: &Report, class: &str) -> RuleStatus {
    report.rules.iter().find(|rule| rule.class == class).expect("the rule is listed").status
}

fn assert_evidence_resolves(report: &Report, finding: &Finding) {
    let json = serde_json::to_value(report).expect("a report");
    for evidence in &finding.evidence {
        let found = json.pointer(&evidence.source).and_then(Value::as_f64);
        assert_eq!(found, Some(evidence.value), "{} at {}", evidence.metric, evidence.source);
    }
}

#[test]
fn a_wait_for_mmap_lock_is_a_state_a_row_and_a_finding() {
    let report = run(Kind::MmapWrite, 50, |_| {}, true);
    let row = only_row(&report);
    assert_eq!((row.pid, row.kind.as_str(), row.count, row.short_count), (10, "mmap_lock (write)", 54, 4));
    assert_eq!((row.slept_s, row.spun_s, row.max_s, row.locks), (3.0, 0.0, 0.063, 1));
    assert!((row.total_s - 3.150008).abs() < 1e-9, "63 ms of each round and 8 us: {}", row.total_s);
    let (waiter, owner) = (&row.waiters[0], &row.owners[0]);
    assert_eq!((waiter.tid, waiter.thread.as_deref(), waiter.count), (11, Some("nibbler"), 50));
    assert_eq!((waiter.slept_s, waiter.total_s), (3.0, 3.15), "the rest it was ready without a CPU, or ran");
    assert_eq!((owner.tid, owner.thread.as_deref(), owner.count, owner.reading), (10, Some("churn"), 50, 0));
    assert_eq!((row.wakers[0].tid, row.wakers[0].count), (Some(10), 50));
    let thread = report.threads.iter().find_map(|row| match row {
        Row::Thread(thread) if thread.tid == 11 => Some(thread),
        _ => None,
    });
    let thread = thread.expect("a row");
    assert_eq!(thread.states["kernel_lock"], 3.0);
    let wait = &thread.waits[0];
    assert_eq!((wait.state.as_str(), wait.detail.as_deref()), ("kernel_lock", Some("mmap_lock (write), munmap")));
    assert_eq!(wait.object, None, "what the call is about is not what it waits for");

    assert_eq!((report.verdict, status(&report, "mmap-lock-contention")), (Verdict::Bottleneck, RuleStatus::Fired));
    assert_eq!(status(&report, "kernel-lock-contention"), RuleStatus::Silent);
    let finding = &report.findings[0];
    assert_eq!((finding.lost_s, finding.confidence), (Some(3.0), 0.9));
    let culprit = finding.culprit.as_ref().expect("the owner");
    assert_eq!((culprit.tid, culprit.lock.as_deref()), (Some(10), Some("mmap_lock")));
    assert_eq!(finding.victims.iter().map(|victim| victim.tid).collect::<Vec<_>>(), [Some(11)]);
    assert_evidence_resolves(&report, finding);
}

#[test]
fn a_reader_that_the_kernel_remembers_is_less_sure_an_owner() {
    let report = run(Kind::MmapWrite, 50, |record| record.flags = contended_flags::OWNER_READS, true);
    assert_eq!(only_row(&report).owners[0].reading, 50);
    assert_eq!(report.findings[0].confidence, 0.75);
    let stranger = |record: &mut Contended| (record.flags, record.owner_tid) = (contended_flags::OWNER_READS, 4_000);
    assert!(
        only_row(&run(Kind::MmapWrite, 5, stranger, true)).owners.is_empty(),
        "an old reader may be anybody by now"
    );
    let itself = |record: &mut Contended| record.owner_tid = record.tid;
    assert!(only_row(&run(Kind::MmapWrite, 5, itself, true)).owners.is_empty(), "nobody waits for itself");
}

#[test]
fn without_an_owner_the_one_that_gave_it_back_is_blamed_with_doubt() {
    let report = run(Kind::RwsemWrite, 50, |record| record.owner_tid = 0, true);
    assert_eq!(status(&report, "kernel-lock-contention"), RuleStatus::Fired);
    let finding = &report.findings[0];
    assert_eq!(finding.confidence, 0.6);
    assert_eq!(finding.culprit.as_ref().and_then(|culprit| culprit.tid), Some(10), "{finding:?}");
}

#[test]
fn spinning_counts_as_lost_though_nobody_sleeps() {
    let report = run(Kind::Spin, 50, |record| (record.spun_ns, record.owner_tid) = (63 * MS as u32, 0), true);
    let row = only_row(&report);
    // The switches of this run say that it slept for the lock, which a real one never does for a spinlock.
    assert_eq!((row.spun_s, row.kind.as_str()), (3.15, "spinlock"));
    assert!(report.findings.iter().any(|finding| finding.class == "kernel-lock-contention"), "{:?}", report.rules);
}

#[test]
fn what_costs_little_is_only_observed_and_without_the_family_the_rules_say_so() {
    let brief = run(Kind::Mutex, 4, |_| {}, true);
    assert_eq!(status(&brief, "kernel-lock-contention"), RuleStatus::Silent);
    assert!(brief.observed.iter().any(|finding| finding.class == "kernel-lock-contention"), "{:?}", brief.observed);
    let absent = testing::contended_report();
    for class in ["mmap-lock-contention", "kernel-lock-contention"] {
        assert_eq!(status(&absent, class), RuleStatus::CouldNotRun, "{class}");
    }
    let Row::Thread(first) = &absent.threads[0] else { panic!("a thread") };
    assert!(
        !first.states.contains_key("kernel_lock"),
        "a recording without the family cannot tell: {:?}",
        first.states
    );
}
