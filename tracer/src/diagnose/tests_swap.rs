//! The rule on pages that come back from swap, on constructed runs as the kernel's documentation describes them: no host of the tests has
//! swap. What tells it from files, from first touches and from pages that were swapped out long ago.

use tracer_common::memory::FaultKind;
use tracer_common::sched::Switch;
use tracer_common::stack::{Sampled, origin};

use super::tests::{assert_evidence_resolves, run, status};
use super::tests_memory::{FAULTING, FILE, LONG_MS, MIB, MS, START, WORKING, computing, faults, of_class};
use crate::model::event::{Event, Meta};
use crate::model::meta::{CgroupMemory, HostMemory, MemoryRecord, ProcessMemory, TargetRecord};
use crate::model::report::{Finding, Report, RuleStatus, Severity};
use crate::testing::stacks::sample;
use crate::testing::{Leave, meta_event, switch};

const CLASS: &str = "swap-in";

/// A reading: the process has so much swapped out, and so many pages came back on the host until then.
fn reading(at_ms: u64, swapped: u64, swapped_in: u64) -> Event {
    let process = ProcessMemory {
        pid: 10,
        anonymous: 100 * MIB,
        swapped,
        cgroup: Some("/job".to_owned()),
        ..ProcessMemory::default()
    };
    let host = HostMemory {
        total: 4096 * MIB,
        available: 100 * MIB,
        swap_total: 1024 * MIB,
        swap_free: 724 * MIB,
        swapped_in: Some(swapped_in),
        swapped_out: Some(90_000),
        ..HostMemory::default()
    };
    let cgroup = CgroupMemory {
        path: "/job".to_owned(),
        usage: 128 * MIB,
        limit: Some(128 * MIB),
        refaults_anonymous: Some(swapped_in),
        swapped: Some(swapped),
        ..CgroupMemory::default()
    };
    let record = MemoryRecord {
        at_ns: START + at_ms * MS,
        host: Some(host),
        processes: vec![process],
        cgroups: vec![cgroup],
        ..MemoryRecord::default()
    };
    meta_event(START + at_ms * MS, Meta::Memory(record))
}

/// The main thread (10) waits in page faults for half of its time, for pages of this file; 0: for none.
fn waiting(inode: u64) -> Vec<Event> {
    let mut events = computing(WORKING);
    for round in 0..LONG_MS / 10 {
        let at = |ms: u64| START + round * 10 * MS + ms * MS;
        let mut leaves: Switch = switch(at(5), 0, 10, 0, Leave::Fault);
        if inode != 0 {
            (leaves.fd_kind, leaves.object, leaves.arg0) = (1, inode, u32::MAX);
        }
        events.push(Event::Switch(leaves));
        events.push(Event::Switch(switch(at(10), 0, 0, 10, Leave::Preempted)));
    }
    events
}

/// It is attached to, so there is no critical path.
fn attached(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        if let Event::Meta(_, meta) = event
            && let Meta::Target(target) = &mut **meta
        {
            *target = TargetRecord { mode: "record".to_owned(), pids: vec![10], ..TargetRecord::default() };
        }
    }
    events
}

fn with(mut events: Vec<Event>, more: impl IntoIterator<Item = Event>) -> Report {
    events.extend(more);
    run(events, LONG_MS)
}

fn swaps() -> [Event; 3] {
    [reading(10, 300 * MIB, 1_000), faults(FaultKind::SwapIn, 10, 40_000, 25_000), reading(1_990, 280 * MIB, 41_000)]
}

fn finding(report: &Report) -> &Finding {
    of_class(report, CLASS).unwrap_or_else(|| panic!("{:?}", report.rules))
}

fn reason(report: &Report) -> &str {
    report.rules.iter().find(|rule| rule.class == CLASS).map_or("", |rule| rule.reason.as_str())
}

fn assert_silent(report: &Report, why: &str) {
    let seen = report.findings.iter().chain(&report.observed).find(|finding| finding.class == CLASS);
    assert!(seen.is_none(), "{why}: {seen:?}");
    assert_eq!(status(report, CLASS), RuleStatus::Silent, "{why}: {}", reason(report));
}

#[test]
fn pages_that_come_back_while_a_thread_waits_are_told_with_process_cgroup_and_seconds() {
    for events in [waiting(0), attached(waiting(0))] {
        let report = with(events, swaps());
        let found = finding(&report);
        assert!((found.lost_s.expect("seconds") - 1.0).abs() < 0.05, "half of 2 s: {found:?}");
        assert_eq!((found.severity, found.confidence), (Severity::Critical, 0.85));
        let culprit = found.culprit.as_ref().expect("who touched them");
        assert_eq!((culprit.pid, culprit.tid), (Some(10), Some(10)));
        for part in ["156.2 MiB", "300.0 MiB", "/job", "128.0 MiB"] {
            assert!(found.summary.contains(part), "{part} is missing: {}", found.summary);
        }
        assert!(found.hypothesis.contains("swap device"), "{}", found.hypothesis);
        assert!(found.evidence.iter().any(|row| row.source == "/memory/host/swapped_in_bytes"), "{found:?}");
        assert_evidence_resolves(&report);
        assert_eq!(status(&report, CLASS), RuleStatus::Fired, "{}", reason(&report));
        assert!(of_class(&report, "cold-file-mapping").is_none() && of_class(&report, "page-fault-storm").is_none());
    }
}

#[test]
fn compressed_swap_shows_as_computing_in_page_faults() {
    let stacks = (0..10).filter_map(|number| {
        let Event::Sampled(sampled) = sample(START + number * MS, 10, 10, FAULTING, 512) else { return None };
        Some(Event::Sampled(Sampled { origin: origin::FAULT, place: FaultKind::Anonymous as u32, ..sampled }))
    });
    let report = with(computing(FAULTING), stacks.chain(swaps()));
    let found = finding(&report);
    assert!((found.lost_s.expect("seconds") - 1.17).abs() < 0.05, "half of the samples, at the upper end: {found:?}");
    assert!(found.hypothesis.contains("zram"), "{}", found.hypothesis);
    assert_eq!(found.culprit.as_ref().and_then(|culprit| culprit.function.as_deref()), Some("touch"));
    assert_evidence_resolves(&report);
}

#[test]
fn what_was_swapped_out_long_ago_and_stays_there_says_nothing() {
    let readings = || [reading(10, 300 * MIB, 1_000), reading(1_990, 300 * MIB, 1_000)];
    let report = with(waiting(0), readings());
    assert_silent(&report, "it waits in page faults, for something else");
    assert!(reason(&report).contains("no page") && reason(&report).contains("300.0 MiB"), "{}", reason(&report));
    // Some pages come back at once, as of a program that was idle for long.
    let few = with(computing(WORKING), readings().into_iter().chain([faults(FaultKind::SwapIn, 10, 2_000, 25_000)]));
    assert_silent(&few, "they came back in no time");
}

#[test]
fn files_first_touches_and_other_waits_in_page_faults_are_not_taken_for_it() {
    let file = with(waiting(FILE), [faults(FaultKind::FileMajor, 10, 200, 25_000)]);
    assert_silent(&file, "a mapped file");
    let both = with(waiting(FILE), swaps());
    assert_silent(&both, "pages came back, but what it waits for is a file");
    let touch = with(computing(FAULTING), [faults(FaultKind::Anonymous, 10, 262_144, 262_000)]);
    assert_silent(&touch, "memory that is new");
    assert!(of_class(&touch, "page-fault-storm").is_some(), "{:?}", touch.rules);
    let few = with(waiting(0), [faults(FaultKind::SwapIn, 10, 20, 25_000)]);
    assert_silent(&few, "20 pages do not explain 200 waits");
    let mixed = [faults(FaultKind::SwapIn, 10, 40_000, 25_000), faults(FaultKind::Anonymous, 10, 262_144, 262_000)];
    assert_silent(&with(computing(FAULTING), mixed), "most of what the kernel computes is for new memory");
    let other = with(waiting(0), [faults(FaultKind::SwapIn, 20, 40_000, 25_000)]);
    assert_silent(&other, "they are another process's");
}

#[test]
fn who_swaps_its_own_pages_out_in_page_faults_gets_none_back() {
    let out =
        [reading(10, MIB, 1_000), faults(FaultKind::SwapIn, 10, 40_000, 25_000), reading(1_990, 157 * MIB, 1_000)];
    let report = with(waiting(0), out);
    assert_silent(&report, "the host read none back");
    assert!(reason(&report).contains("no page"), "{}", reason(&report));
}

#[test]
fn without_the_counts_it_cannot_look() {
    let mut events = waiting(0);
    events.retain(|event| !matches!(event, Event::Meta(_, meta) if matches!(&**meta, Meta::Families(family) if family.family == "fault")));
    let report = run(events, LONG_MS);
    assert_eq!(status(&report, CLASS), RuleStatus::CouldNotRun);
}

#[test]
fn damaged_counts_do_no_harm() {
    let mut events = waiting(0);
    for at_ms in [10, 500, 1_000] {
        events.push(reading(at_ms, u64::MAX, u64::MAX - 2_000 + at_ms));
        events.push(faults(FaultKind::SwapIn, 10, u32::MAX, u64::MAX));
        events.push(faults(FaultKind::Anonymous, 10, u32::MAX, u64::MAX));
    }
    let report = run(events, LONG_MS);
    assert_eq!(finding(&report).severity, Severity::Critical);
    assert_evidence_resolves(&report);
}
