//! The rule on file systems in memory that run full, on constructed runs: what tells it from other deaths by SIGBUS, and how sure it is.

use tracer_common::memory::{FAULT_KINDS, FaultKind, Faults};
use tracer_common::record::{fault, sched};
use tracer_common::sched::Exit;

use super::tests::{assert_evidence_resolves, run, status};
use crate::model::event::{Event, Meta};
use crate::model::meta::{FamilyRecord, MemoryRecord, ProcessMemory, TargetRecord, TmpfsMemory};
use crate::model::report::{Finding, Report, RuleStatus, Severity};
use crate::testing::{Leave, comm, header, meta_event, new_task, switch};

const START: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;
const LONG_MS: u64 = 2_000;
const SIGBUS: u32 = 7;
const CLASS: &str = "shm-exhaustion";
/// The mount namespace of the processes.
const NAMESPACE: u64 = 4_026_531_841;

/// A reading of two file systems: the second one is large, and always a quarter full.
fn reading(at_ms: u64, used_mib: u64) -> Event {
    let tmpfs = |device: &str, path: &str, size: u64, used: u64| TmpfsMemory {
        device: device.to_owned(),
        path: path.to_owned(),
        pid: 10,
        namespaces: vec![NAMESPACE],
        size,
        used,
    };
    let main = ProcessMemory { pid: 10, anonymous: MIB, mount_namespace: Some(NAMESPACE), ..ProcessMemory::default() };
    let record = MemoryRecord {
        at_ns: START + at_ms * MS,
        processes: vec![main],
        tmpfs: vec![tmpfs("0:50", "/dev/shm", 64 * MIB, used_mib * MIB), tmpfs("0:51", "/run", 4096 * MIB, 1024 * MIB)],
        ..MemoryRecord::default()
    };
    meta_event(START + at_ms * MS, Meta::Memory(record))
}

/// The main thread (10) has a child (20), which ends so after 1.9 s.
fn ended(readings: &[(u64, u64)], exit_code: u32) -> Vec<Event> {
    let target = TargetRecord { mode: "run".to_owned(), pids: vec![10], ..TargetRecord::default() };
    let family = FamilyRecord { family: "fault".to_owned(), status: "ready".to_owned(), reason: None };
    let mut events = vec![
        meta_event(START, Meta::Families(family)),
        meta_event(START, Meta::Target(target)),
        Event::NewTask(new_task(START, 10, 10, 1, "main")),
        Event::NewTask(new_task(START + MS, 20, 20, 10, "loader")),
        Event::Switch(switch(START + MS, 0, 0, 20, Leave::Preempted)),
    ];
    events.extend(readings.iter().map(|(at_ms, used_mib)| reading(*at_ms, *used_mib)));
    events.push(Event::Exit(Exit {
        header: header(sched::EXIT, START + 1_900 * MS, 0),
        tid: 20,
        tgid: 20,
        exit_code,
        reserved: 0,
        sum_exec_runtime_ns: 0,
        comm: comm("loader"),
    }));
    events
}

fn finding(report: &Report) -> &Finding {
    let found = report.findings.iter().find(|finding| finding.class == CLASS);
    found.unwrap_or_else(|| panic!("{:?}", report.rules))
}

fn touched(pages: u32) -> Event {
    let mut counts = [0; FAULT_KINDS];
    counts[FaultKind::Shared as usize] = pages;
    Event::Faults(Faults {
        header: header(fault::FAULTS, START + 1_800 * MS, 0),
        tid: 20,
        tgid: 20,
        since_ts_ns: START + MS,
        anonymous_pages: 0,
        counts,
    })
}

#[test]
fn the_nearer_to_full_it_was_seen_the_surer_is_the_cause_of_a_death() {
    let cases: [(&[(u64, u64)], f64); 4] = [
        (&[(500, 20), (1_000, 40), (1_500, 62)], 0.9),
        // 40 MiB, 50 MiB/s, and 0.4 s more.
        (&[(500, 0), (1_100, 15), (1_500, 40)], 0.8),
        (&[(500, 20), (1_000, 38), (1_500, 40)], 0.7),
        (&[(500, 20), (1_000, 40), (1_500, 40)], 0.6),
    ];
    for (readings, expected) in cases {
        let report = run(ended(readings, SIGBUS), LONG_MS);
        let finding = finding(&report);
        assert_eq!((finding.severity, finding.confidence), (Severity::Critical, expected), "{readings:?}: {finding:?}");
        let culprit = finding.culprit.as_ref().expect("who died");
        assert_eq!((culprit.pid, culprit.path.as_deref()), (Some(20), Some("/dev/shm")), "{finding:?}");
        assert_eq!(finding.victims.len(), 1);
        assert!(finding.summary.contains("64.0 MiB") && finding.summary.contains("SIGBUS"), "{}", finding.summary);
        assert_evidence_resolves(&report);
    }
}

#[test]
fn what_fills_between_two_readings_is_told_by_the_pages_that_were_touched() {
    let of = |pages: u32| {
        let mut events = ended(&[(500, 0), (1_500, 0)], SIGBUS);
        events.insert(events.len() - 1, touched(pages));
        run(events, LONG_MS)
    };
    let full = of(16_384);
    assert_eq!(finding(&full).confidence, 0.6);
    assert_evidence_resolves(&full);
    assert_eq!(status(&of(8_000), CLASS), RuleStatus::Silent, "a half of it");
    assert_eq!(status(&of(32_000), CLASS), RuleStatus::Silent, "twice of it: elsewhere");
}

#[test]
fn other_deaths_and_other_ends_say_nothing() {
    let empty: &[(u64, u64)] = &[(500, 0), (1_500, 1)];
    let report = run(ended(empty, SIGBUS), LONG_MS);
    let rule = report.rules.iter().find(|rule| rule.class == CLASS).expect("it is in the table");
    assert_eq!(rule.status, RuleStatus::Silent);
    assert!(rule.reason.contains("SIGBUS") && rule.reason.contains("1 process"), "{}", rule.reason);
    let still = run(ended(&[(500, 40), (1_500, 40)], SIGBUS), LONG_MS);
    assert_eq!(status(&still, CLASS), RuleStatus::Silent, "more than half full all the time");
    let killed = run(ended(&[(500, 20), (1_500, 50)], 9), LONG_MS);
    assert_eq!(status(&killed, CLASS), RuleStatus::Silent, "SIGKILL");
    let coded = run(ended(&[(500, 20), (1_500, 50)], SIGBUS << 8), LONG_MS);
    assert_eq!(status(&coded, CLASS), RuleStatus::Silent, "it ended by itself with the code 7");
    let nothing = run(ended(&[], SIGBUS), LONG_MS);
    assert_eq!(status(&nothing, CLASS), RuleStatus::CouldNotRun, "nothing was read");
}

#[test]
fn one_that_ran_full_is_told_though_nobody_died_and_one_that_was_full_before_is_not() {
    let report = run(ended(&[(500, 20), (1_500, 64)], 0), LONG_MS);
    let found = finding(&report);
    assert_eq!((found.severity, found.confidence), (Severity::Warning, 0.7), "{found:?}");
    assert_evidence_resolves(&report);
    let before = run(ended(&[(500, 64), (1_500, 64)], 0), LONG_MS);
    assert_eq!(status(&before, CLASS), RuleStatus::Silent, "{:?}", before.findings);
    assert!(before.observed.iter().any(|finding| finding.class == CLASS), "but seen");
}
