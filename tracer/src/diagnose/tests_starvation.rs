//! Rules about queues, and about what descriptors are, on constructed runs.

use tracer_common::sched::WakeContext;

use super::tests::{assert_evidence_resolves, run, status};
use crate::model::event::{Event, Meta};
use crate::model::meta::{ObjectRecord, ObjectsRecord, TargetRecord};
use crate::model::report::{Report, RuleStatus, Verdict};
use crate::testing::{Leave, meta_event, new_task, switch, woken};

const START: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
const PIPE: u64 = 77;
const FILE: u64 = 88;

const NANOSLEEP: Leave = Leave::Sleep { syscall: 230, fd_kind: 0, object: 0 };
const READ_PIPE: Leave = Leave::Sleep { syscall: 0, fd_kind: 2, object: PIPE };
const READ_FILE: Leave = Leave::Sleep { syscall: 17, fd_kind: 1, object: FILE };
const EPOLL: Leave = Leave::Sleep { syscall: 232, fd_kind: 0, object: 0 };

fn object(tgid: u32, inode: u64, kind: &str, path: Option<&str>) -> ObjectRecord {
    ObjectRecord {
        tgid,
        tid: tgid,
        fd: 3,
        inode,
        kind: kind.to_owned(),
        path: path.map(str::to_owned),
        ..ObjectRecord::default()
    }
}

/// `main` (10) waits 9 ms of each 10 ms in `queue` for `loader` (20), which spends 8 ms of them in `work`.
fn loader(rounds: u64, queue: Leave, work: Leave, woken_by: WakeContext) -> Report {
    let target = TargetRecord { mode: "run".to_owned(), pids: vec![10], ..TargetRecord::default() };
    let known = ObjectsRecord {
        objects: vec![object(20, FILE, "file", Some("/data/shard-0.tar")), object(10, PIPE, "pipe", None)],
        gone: 3,
        over: 1,
        ..ObjectsRecord::default()
    };
    let mut events = vec![
        meta_event(START, Meta::Target(target)),
        meta_event(START, Meta::Objects(known)),
        Event::NewTask(new_task(START, 10, 10, 1, "main")),
        Event::NewTask(new_task(START, 20, 20, 10, "loader")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(START, 1, 0, 20, Leave::Preempted)),
    ];
    for round in 0..rounds {
        let at = |us: u64| START + round * 10 * MS + us * 1000;
        events.push(Event::Switch(switch(at(500), 1, 20, 0, work)));
        events.push(Event::Switch(switch(at(1000), 0, 10, 0, queue)));
        events.push(Event::Switch(woken(switch(at(9_000), 1, 0, 20, Leave::Preempted), woken_by, 0, 1000)));
        events.push(Event::Switch(woken(switch(at(9_990), 0, 0, 10, Leave::Preempted), WakeContext::Task, 20, 1000)));
    }
    run(events, rounds * 10)
}

#[test]
fn a_wait_at_a_pipe_is_charged_to_the_producers_sleep() {
    let report = loader(200, READ_PIPE, NANOSLEEP, WakeContext::Timer);
    let finding = report.findings.first().unwrap_or_else(|| panic!("{:?} {:?}", report.rules, report.critical_path));
    assert_eq!((finding.class.as_str(), report.verdict), ("input-starvation", Verdict::Bottleneck));
    let culprit = finding.culprit.as_ref().expect("the loader");
    assert_eq!((culprit.pid, culprit.thread.as_deref()), (Some(20), Some("loader")));
    assert_eq!(finding.victims.iter().map(|victim| victim.tid).collect::<Vec<_>>(), [Some(10)]);
    let lost_s = finding.lost_s.expect("measured");
    assert!((1.75..1.85).contains(&lost_s), "9 of each 10 ms of 2 s: {lost_s}");
    assert!(finding.summary.contains("pipe from loader (20) to main (10)"), "{}", finding.summary);
    assert!(finding.summary.contains("slept"), "{}", finding.summary);
    assert_evidence_resolves(&report);
}

#[test]
fn a_producer_that_reads_is_named_with_its_file() {
    let report = loader(200, READ_PIPE, READ_FILE, WakeContext::Device);
    let culprit = report.findings.first().and_then(|finding| finding.culprit.as_ref());
    assert_eq!(culprit.and_then(|culprit| culprit.path.as_deref()), Some("/data/shard-0.tar"), "{:?}", report.findings);
    let objects = report.objects.as_ref().expect("a section");
    assert_eq!((objects.known, objects.gone, objects.over), (2, 3, 1));
    assert!(objects.list.iter().any(|object| object.path.as_deref() == Some("/data/shard-0.tar")), "{objects:?}");
}

#[test]
fn an_event_loop_whose_peer_sleeps_is_idle() {
    let report = loader(200, EPOLL, NANOSLEEP, WakeContext::Timer);
    let found = report.findings.iter().find(|finding| finding.class == "input-starvation");
    assert!(found.is_none_or(|finding| finding.lost_s.is_some_and(|s| s < 0.5)), "{found:?}");
    // The peer worked for 1 ms of each 10 ms; that much is what the loop waited for.
    let report = loader(20, EPOLL, NANOSLEEP, WakeContext::Timer);
    assert_eq!(status(&report, "input-starvation"), RuleStatus::Silent);
}

#[test]
fn one_inode_number_of_two_files_has_no_path() {
    let two = ObjectsRecord {
        objects: vec![object(20, FILE, "file", Some("/a")), object(20, FILE, "file", Some("/b"))],
        ..ObjectsRecord::default()
    };
    let events = vec![
        meta_event(START, Meta::Objects(two)),
        Event::NewTask(new_task(START, 20, 20, 1, "loader")),
        Event::Switch(switch(START, 1, 0, 20, Leave::Preempted)),
        Event::Switch(switch(START + MS, 1, 20, 0, READ_FILE)),
        Event::Switch(woken(switch(START + 9 * MS, 1, 0, 20, Leave::Preempted), WakeContext::Device, 0, 1000)),
    ];
    let objects = run(events, 10).objects.expect("a section");
    assert_eq!(
        objects.list.first().map(|object| (object.object.as_str(), object.path.clone())),
        Some(("inode:[88]", None))
    );
}
