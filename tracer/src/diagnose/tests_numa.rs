//! The rule on memory of other NUMA nodes, on constructed runs with two nodes of one CPU each: no host of the tests has two. What tells it
//! from threads that each use what is near them, and from memory that is spread on purpose.

use super::tests::{assert_evidence_resolves, run, status};
use crate::model::event::{Event, Meta};
use crate::model::meta::{
    FamilyRecord, MemoryRecord, NodeBytes, NodeMemory, ProcessMemory, ProcessNodes, TargetRecord,
};
use crate::model::report::{Finding, Report, RuleStatus, Severity, Verdict};
use crate::testing::{Leave, meta_event, new_task, switch};

const START: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
const LONG_MS: u64 = 2_000;
const GIB: u64 = 1 << 30;
const CLASS: &str = "numa-remote";

/// A node with this one CPU, and its counter of pages that had to be taken elsewhere.
fn node(number: u32, foreign: u64) -> NodeMemory {
    NodeMemory {
        node: number,
        cpus: vec![(number as u16, number as u16)],
        total: 64 * GIB,
        free: GIB,
        miss: Some(0),
        foreign: Some(foreign),
        other: Some(0),
    }
}

fn record(at_ms: u64, nodes: Vec<NodeMemory>, numa: Vec<ProcessNodes>) -> Event {
    let process =
        ProcessMemory { pid: 10, anonymous: GIB, cgroup: Some("/job".to_owned()), ..ProcessMemory::default() };
    let at_ns = START + at_ms * MS;
    let record = MemoryRecord { at_ns, processes: vec![process], nodes, numa, ..MemoryRecord::default() };
    meta_event(at_ns, Meta::Memory(record))
}

/// Where the memory of process 10 lies, by node.
fn lies(bytes: [u64; 2], interleaved: u64) -> ProcessNodes {
    let nodes = [NodeBytes { node: 0, bytes: bytes[0] }, NodeBytes { node: 1, bytes: bytes[1] }];
    ProcessNodes { pid: 10, at_ns: START + 500 * MS, took_ns: MS, interleaved, nodes: nodes.to_vec() }
}

/// Two threads of the process, which run on these CPUs all the time; the readings come with them.
fn with(cpus: &[u16], readings: [Event; 3]) -> Report {
    let target = TargetRecord { mode: "run".to_owned(), pids: vec![10], ..TargetRecord::default() };
    let family = FamilyRecord { family: "rss".to_owned(), status: "ready".to_owned(), reason: None };
    let [first, middle, last] = readings;
    let mut events = vec![meta_event(START, Meta::Families(family)), meta_event(START, Meta::Target(target)), first];
    for (number, cpu) in cpus.iter().enumerate() {
        let tid = 10 + number as u32;
        events.push(Event::NewTask(new_task(START, tid, 10, 1, "t")));
        events.push(Event::Switch(switch(START + MS, *cpu, 0, tid, Leave::Preempted)));
    }
    events.push(middle);
    events.push(last);
    run(events, LONG_MS)
}

fn on_two_nodes(cpus: &[u16], lies: ProcessNodes) -> Report {
    let nodes = |foreign: u64| vec![node(0, 7), node(1, foreign)];
    with(cpus, [record(0, nodes(7), vec![]), record(500, vec![], vec![lies]), record(1_990, nodes(1_007), vec![])])
}

fn finding(report: &Report) -> &Finding {
    let found = report.findings.iter().find(|finding| finding.class == CLASS);
    found.unwrap_or_else(|| panic!("{:?}", report.rules))
}

fn reason(report: &Report) -> &str {
    report.rules.iter().find(|rule| rule.class == CLASS).map_or("", |rule| rule.reason.as_str())
}

#[test]
fn memory_on_one_node_and_threads_on_the_other_is_told_without_seconds() {
    let report = on_two_nodes(&[1], lies([3 * GIB, GIB], 0));
    let found = finding(&report);
    assert_eq!((found.severity, found.confidence, found.lost_s), (Severity::Info, 0.5, None));
    assert_eq!(found.culprit.as_ref().and_then(|culprit| culprit.pid), Some(10));
    for part in ["75 %", "4.0 GiB", "node 0", "node 1", "not known"] {
        assert!(found.summary.contains(part), "{part} is missing: {}", found.summary);
    }
    assert!(found.fix.contains("--cpunodebind=1 --membind=1"), "where it runs: {}", found.fix);
    assert!(
        found.hypothesis.contains("1,000 pages") && found.hypothesis.contains("correlation"),
        "{}",
        found.hypothesis
    );
    assert_evidence_resolves(&report);
    assert_eq!(status(&report, CLASS), RuleStatus::Fired);
    assert_eq!(status(&report, "cpu-bound"), RuleStatus::Fired, "it explains nothing away");
    let numa = report.memory.as_ref().and_then(|memory| memory.numa.as_ref()).expect("the section");
    let process = numa.processes.first().expect("the process");
    assert_eq!((process.remote_share, process.least_remote_share), (Some(0.75), Some(0.75)));
    assert!((process.on_cpu_s - 1.999).abs() < 1e-6, "{process:?}");
    assert_eq!((numa.nodes[1].cpus.as_str(), numa.nodes[1].foreign_pages), ("1", Some(1_000)));
}

#[test]
fn threads_on_both_nodes_use_at_least_the_rest_of_it_from_afar() {
    let report = on_two_nodes(&[0, 1], lies([4 * GIB, GIB], 0));
    let found = finding(&report);
    assert_eq!(found.severity, Severity::Info, "{found:?}");
    assert!(found.summary.contains("50 %") && found.summary.contains("30 % at least"), "{}", found.summary);
    assert_ne!(report.verdict, Verdict::Bottleneck);
    assert_evidence_resolves(&report);
}

#[test]
fn what_is_near_or_may_be_near_says_nothing() {
    let near = on_two_nodes(&[0], lies([4 * GIB, GIB / 8], 0));
    let each_its_own = on_two_nodes(&[0, 1], lies([2 * GIB, 2 * GIB], 0));
    let small = on_two_nodes(&[1], lies([GIB / 8, 0], 0));
    for (report, why) in [(&near, "near"), (&each_its_own, "each may use its own"), (&small, "it fits into caches")] {
        assert!(report.findings.iter().chain(&report.observed).all(|finding| finding.class != CLASS), "{why}");
        assert!(reason(report).starts_with("of the "), "{why}: {}", reason(report));
    }
}

#[test]
fn what_was_spread_on_purpose_is_only_observed() {
    let report = on_two_nodes(&[0], lies([2 * GIB, 2 * GIB], 4 * GIB));
    assert!(report.findings.iter().all(|finding| finding.class != CLASS), "{:?}", report.findings);
    let seen = report.observed.iter().find(|finding| finding.class == CLASS).expect("but seen");
    assert!(seen.summary.contains("on purpose") && seen.severity == Severity::Info, "{seen:?}");
    assert_evidence_resolves(&report);
}

#[test]
fn one_node_has_nothing_to_be_remote_and_without_readings_nobody_knows() {
    let one = || vec![node(0, 0)];
    let readings =
        [record(0, one(), vec![]), record(500, vec![], vec![lies([0, GIB], 0)]), record(1_990, vec![], vec![])];
    let report = with(&[0], readings);
    assert!(reason(&report).starts_with("this host has one NUMA node"), "{}", reason(&report));
    let numa = report.memory.as_ref().and_then(|memory| memory.numa.as_ref()).expect("the node");
    assert!(numa.nodes.len() == 1 && numa.processes.is_empty(), "{numa:?}");
    let none = with(&[0], [record(0, vec![], vec![]), record(500, vec![], vec![]), record(1_990, vec![], vec![])]);
    assert_eq!(status(&none, CLASS), RuleStatus::CouldNotRun, "a capture of an older version");
    let idle = on_two_nodes(&[], lies([GIB, GIB], 0));
    assert!(reason(&idle).contains("no process was read"), "{}", reason(&idle));
}

#[test]
fn damaged_numbers_do_no_harm() {
    let damaged = ProcessNodes {
        nodes: [0, 0, 1, 77].map(|node| NodeBytes { node, bytes: u64::MAX }).to_vec(),
        interleaved: u64::MAX,
        took_ns: u64::MAX,
        ..lies([0, 0], 0)
    };
    let mut odd = node(1, u64::MAX);
    odd.cpus = vec![(0, u16::MAX); 9];
    let nodes = || vec![node(0, 0), odd.clone()];
    let readings = [
        record(0, nodes(), vec![damaged.clone(); 2]),
        record(500, nodes(), vec![damaged]),
        record(1_990, nodes(), vec![]),
    ];
    let report = with(&[0, 1], readings);
    assert_evidence_resolves(&report);
    assert_eq!(status(&report, CLASS), RuleStatus::Silent, "{}", reason(&report));
}
