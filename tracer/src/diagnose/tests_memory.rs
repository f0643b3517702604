//! The rules on page faults, reclaim and the page cache, on constructed runs: what tells each from its look-alikes.

use std::collections::BTreeMap;

use tracer_common::mapping::{MAP_KINDS, MapKind, Mapped};
use tracer_common::memory::{CachedFile, FAULT_KINDS, FaultKind, Faults, FileKey, STALL_IN_SWITCH, StallKind, Stalled};
use tracer_common::record::{cache, fault, map, reclaim};
use tracer_common::sched::{Switch, switch_flags};
use tracer_common::stack::{Sampled, origin};

use super::tests::{assert_evidence_resolves, run, status};
use crate::model::event::{Event, Meta};
use crate::model::memory::{CgroupSizes, Forecast, Memory, ProcessSizes, Sizes};
use crate::model::meta::{CacheRow, FamilyRecord, SumsRecord, TargetRecord};
use crate::model::paging::{FaultFunction, ProcessFaults};
use crate::model::report::{Finding, Report, Row, RuleStatus, Severity};
use crate::model::stacks::Location;
use crate::testing::stacks::{cpu_ready, kernel, native, sample, stack, symbol};
use crate::testing::{Leave, header, meta_event, new_task, switch};

pub(super) const START: u64 = 1_000_000_000;
pub(super) const MS: u64 = 1_000_000;
/// The stack of a page fault below `touch`, that of reclaim, and that of pinning.
pub(super) const FAULTING: u64 = 100;
const RECLAIMING: u64 = 101;
const PINNING: u64 = 103;
/// Half of the samples of a thread that computes show this one.
pub(super) const WORKING: u64 = 102;
/// Length of each run.
pub(super) const LONG_MS: u64 = 2_000;
pub(super) const FILE: u64 = 77;
pub(super) const MIB: u64 = 1 << 20;

pub(super) fn family(name: &str) -> Event {
    let record = FamilyRecord { family: name.to_owned(), status: "ready".to_owned(), reason: None };
    meta_event(START, Meta::Families(record))
}

/// The main thread (10) computes; half of its samples show this stack.
pub(super) fn computing(with: u64) -> Vec<Event> {
    let target = TargetRecord { mode: "run".to_owned(), pids: vec![10], ..TargetRecord::default() };
    let mut events = vec![
        cpu_ready(),
        family("fault"),
        family("reclaim"),
        family("cache"),
        kernel(1, 0xffff_8000_0000),
        kernel(2, 0xffff_8000_1000),
        native(3, 1, 0x1000),
        kernel(4, 0xffff_8000_2000),
        symbol(4, &[("__x64_sys_mlock", None)]),
        symbol(1, &[("handle_mm_fault", None)]),
        symbol(2, &[("try_to_free_mem_cgroup_pages", None)]),
        symbol(3, &[("touch", None)]),
        stack(FAULTING, &[1, 3]),
        stack(RECLAIMING, &[2, 1, 3]),
        stack(WORKING, &[3]),
        stack(PINNING, &[1, 4, 3]),
        meta_event(START, Meta::Target(target)),
        Event::NewTask(new_task(START, 10, 10, 1, "main")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
    ];
    for at in 0..LONG_MS / 10 {
        let stack = if at % 2 == 0 { with } else { WORKING };
        events.push(sample(START + (at * 10 + 1) * MS, 10, 10, stack, 10 * MS));
    }
    events
}

pub(super) fn faults(kind: FaultKind, tgid: u32, count: u32, anonymous_pages: u64) -> Event {
    let mut counts = [0; FAULT_KINDS];
    counts[kind as usize] = count;
    Event::Faults(Faults {
        header: header(fault::FAULTS, START + LONG_MS / 2 * MS, 0),
        tid: tgid,
        tgid,
        since_ts_ns: START + MS,
        anonymous_pages,
        counts,
    })
}

pub(super) fn of_class<'a>(report: &'a Report, class: &str) -> Option<&'a Finding> {
    report.findings.iter().find(|finding| finding.class == class)
}

#[test]
fn memory_that_is_kept_is_a_storm_and_memory_that_is_given_back_is_churn() {
    let touching = |held: u64| {
        let mut events = computing(FAULTING);
        events.push(faults(FaultKind::Anonymous, 10, 262_144, held));
        run(events, LONG_MS)
    };
    let kept = touching(262_000);
    assert_eq!(status(&kept, "allocation-churn"), RuleStatus::Silent);
    let storm = of_class(&kept, "page-fault-storm").expect("1 GiB was touched");
    // A hundred samples tell one second, or 17 % more.
    assert!((storm.lost_s.expect("seconds") - 1.17).abs() < 0.05, "half of the samples: {storm:?}");
    assert_evidence_resolves(&kept);
    let given_back = touching(16_384);
    assert_eq!(status(&given_back, "page-fault-storm"), RuleStatus::Silent);
    assert!(of_class(&given_back, "allocation-churn").is_some(), "1 GiB though it held 64 MiB: {:?}", given_back.rules);
    assert_evidence_resolves(&given_back);
}

#[test]
fn who_has_huge_pages_already_is_not_told_to_use_them() {
    let touching = |kind: FaultKind, count: u32| {
        let mut events = computing(FAULTING);
        events.push(faults(kind, 10, count, 262_000));
        run(events, LONG_MS)
    };
    let huge = touching(FaultKind::AnonymousHuge, 512);
    let storm = of_class(&huge, "page-fault-storm").expect("1 GiB was touched");
    assert!(!storm.fix.contains("HUGEPAGE") && storm.fix.contains("MADV_POPULATE_WRITE"), "{}", storm.fix);
    assert!(!storm.experiment.contains("huge") && storm.hypothesis.contains("2 MiB already"), "{storm:?}");
    assert_evidence_resolves(&huge);
    let small = touching(FaultKind::Anonymous, 262_144);
    assert!(of_class(&small, "page-fault-storm").expect("1 GiB was touched").fix.contains("MADV_HUGEPAGE"));
}

#[test]
fn huge_pages_are_few_and_still_most_of_the_work() {
    let with_files = |kind: FaultKind, count: u32| {
        let mut events = computing(FAULTING);
        events.push(faults(kind, 10, count, 262_000));
        // An interpreter that starts has its libraries mapped.
        events.push(faults(FaultKind::File, 10, 4_000, 262_000));
        run(events, LONG_MS)
    };
    assert!(of_class(&with_files(FaultKind::AnonymousHuge, 512), "page-fault-storm").is_some(), "1 GiB was touched");
    assert!(of_class(&with_files(FaultKind::Anonymous, 512), "page-fault-storm").is_none(), "2 MiB were touched");
    assert!(of_class(&with_files(FaultKind::AnonymousHuge, 20), "page-fault-storm").is_none(), "files are the most");
}

#[test]
fn who_touched_most_is_asked_of_the_kind_that_most_bytes_came_by() {
    let location = |function: &str| Location { function: Some(function.to_owned()), ..Location::default() };
    let row = |kind: &str, function: &str| FaultFunction {
        kind: kind.to_owned(),
        location: location(function),
        ..FaultFunction::default()
    };
    let touching = |small: u64, huge: u64| {
        let kinds = BTreeMap::from([("anonymous".to_owned(), small), ("anonymous_huge".to_owned(), huge)]);
        let functions = vec![row("anonymous", "parse"), row("anonymous_huge", "load")];
        let faults = ProcessFaults { kinds, functions, ..ProcessFaults::default() };
        faults.touching().and_then(|(_, function)| function.location.function.clone())
    };
    assert_eq!(touching(1_000, 32).as_deref(), Some("load"), "4 MiB and 64 MiB");
    assert_eq!(touching(20_000, 32).as_deref(), Some("parse"), "78 MiB and 64 MiB");
}

/// A process maps and unmaps a MiB so often, at 1,000 mappings of 65,530.
fn mapped(count: u32) -> Event {
    let (mut bytes, mut counts) = ([0; MAP_KINDS], [0; MAP_KINDS]);
    for kind in [MapKind::Mmap, MapKind::Munmap] {
        (counts[kind as usize], bytes[kind as usize]) = (count, u64::from(count) * MIB);
    }
    Event::Mapped(Box::new(Mapped {
        header: header(map::MAPPED, START + LONG_MS / 2 * MS, 0),
        tid: 10,
        tgid: 10,
        since_ts_ns: START,
        bytes,
        counts,
        mappings: 1_000,
        mappings_most: 40_000,
        reserved: 0,
    }))
}

#[test]
fn churn_cites_the_calls_that_map_and_the_function_where_they_were_seen() {
    let mut events = computing(FAULTING);
    events.push(family("map"));
    events.push(faults(FaultKind::Anonymous, 10, 262_144, 16_384));
    events.push(mapped(1_024));
    let Event::Sampled(sampled) = sample(START + MS, 10, 10, 102, 1024 * MIB) else { panic!("a sample") };
    events.push(Event::Sampled(Sampled { origin: origin::MAP, place: 0, ..sampled }));
    let report = run(events, LONG_MS);
    assert_evidence_resolves(&report);
    let finding = of_class(&report, "allocation-churn").expect("1 GiB though it held 64 MiB");
    let value = |metric: &str| {
        let is_it = |evidence: &&crate::model::report::Evidence| evidence.metric.starts_with(metric);
        finding.evidence.iter().find(is_it).map(|evidence| evidence.value)
    };
    assert_eq!(value("calls of mmap and munmap per second"), Some(2_048.0), "in one second: {:?}", finding.evidence);
    assert_eq!(value("mapped"), Some((1024 * MIB) as f64));
    assert_eq!(value("share of what was mapped that touch mapped"), Some(1.0), "{:?}", finding.evidence);
    assert_eq!(value("most mappings"), None, "the limit is not known");
    assert!(finding.hypothesis.contains("2,048 times a second"), "{}", finding.hypothesis);
    let section = report.mapping.as_ref().expect("a section");
    assert_eq!((section.processes[0].balance_bytes, section.processes[0].mappings_last), (0, Some(1_000)));
}

#[test]
fn without_the_size_that_a_process_had_neither_is_claimed() {
    let mut events = computing(FAULTING);
    events.push(faults(FaultKind::Anonymous, 10, 262_144, 0));
    let report = run(events, LONG_MS);
    for class in ["page-fault-storm", "allocation-churn"] {
        assert_eq!(status(&report, class), RuleStatus::Silent, "{class}");
    }
}

#[test]
fn pages_are_copied_of_a_parent_that_has_them() {
    let forked = |parent_pages: u64| {
        let mut events = computing(WORKING);
        events.push(Event::NewTask(new_task(START + MS, 20, 20, 10, "worker")));
        events.push(faults(FaultKind::Anonymous, 10, 100_000, parent_pages));
        events.push(faults(FaultKind::CopyOnWrite, 20, 60_000, 70_000));
        run(events, LONG_MS)
    };
    let shared = forked(100_000);
    let finding = of_class(&shared, "fork-copy-on-write").expect("240 MiB were copied");
    assert_eq!(finding.victims.first().and_then(|victim| victim.pid), Some(20));
    assert_evidence_resolves(&shared);
    // A process whose children are gone writes to pages that nobody shares any more; its own parent is a small shell.
    assert_eq!(status(&forked(500), "fork-copy-on-write"), RuleStatus::Silent);
}

/// Pages of the file: read, thrown out for want of memory, given up otherwise; in sizes of the file.
fn cached(read: u64, reclaimed: u64, dropped: u64) -> Vec<Event> {
    let size_bytes = 256 * MIB;
    let pages = size_bytes / 4096;
    let file = FileKey { inode: FILE, device: 254 << 20, reserved: 0 };
    let mut name = [0; 64];
    name[..5].copy_from_slice(b"shard");
    let header = header(cache::FILE, START + MS, 0);
    let record = CachedFile { header, tid: 10, tgid: 10, file, size_bytes, name, parent: 0 };
    let row = CacheRow {
        device: 254 << 20,
        inode: FILE,
        read: read * pages,
        reclaimed_own: reclaimed * pages,
        dropped: dropped * pages,
        size_bytes,
        ..CacheRow::default()
    };
    let sums = SumsRecord { files: vec![row], ..SumsRecord::default() };
    vec![Event::CachedFile(Box::new(record)), meta_event(START + LONG_MS * MS, Meta::Sums(sums))]
}

/// What was thrown out for want of memory was so for being used seldom instead.
fn by_damon(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        if let Event::Meta(_, meta) = event
            && let Meta::Sums(sums) = &mut **meta
        {
            for row in &mut sums.files {
                (row.reclaimed_unused, row.reclaimed_own) = (row.reclaimed_own, 0);
            }
        }
    }
    events
}

/// The main thread waits for pages of the file in half of its time.
fn waiting(rest: Vec<Event>) -> Report {
    let mut events = computing(WORKING);
    for round in 0..LONG_MS / 10 {
        let at = |ms: u64| START + round * 10 * MS + ms * MS;
        let mut leaves: Switch = switch(at(5), 0, 10, 0, Leave::Fault);
        (leaves.fd_kind, leaves.object, leaves.arg0) = (1, FILE, u32::MAX);
        events.push(Event::Switch(leaves));
        events.push(Event::Switch(switch(at(10), 0, 0, 10, Leave::Preempted)));
    }
    events.extend(rest);
    run(events, LONG_MS)
}

#[test]
fn a_file_that_is_read_once_is_cold_and_one_that_is_thrown_out_and_read_again_thrashes() {
    let once = waiting(cached(1, 0, 0));
    assert_eq!(status(&once, "page-cache-thrash"), RuleStatus::Silent);
    let cold = of_class(&once, "cold-file-mapping").expect("it waited for its pages");
    assert!((cold.lost_s.expect("seconds") - 1.0).abs() < 0.05, "{cold:?}");
    assert_eq!(cold.culprit.as_ref().and_then(|culprit| culprit.path.as_deref()), Some("shard"));
    assert_evidence_resolves(&once);
    let again = waiting(cached(6, 5, 0));
    assert_eq!(status(&again, "cold-file-mapping"), RuleStatus::Silent);
    assert!(of_class(&again, "page-cache-thrash").is_some(), "{:?}", again.rules);
    assert_evidence_resolves(&again);
    // Memory is not short where the kernel throws out what is used seldom, and more of it does not help.
    let unused = waiting(by_damon(cached(6, 5, 0)));
    let finding = of_class(&unused, "page-cache-thrash").expect("it is read again all the same");
    assert!(finding.summary.contains("proactive reclaim (DAMON)"), "{}", finding.summary);
    assert!(!finding.fix.contains("cgroup") && finding.hypothesis.contains("1.2 GiB"), "{finding:?}");
    assert_evidence_resolves(&unused);
    // Somebody gave the pages up on purpose between two reads: no want of memory.
    let on_purpose = waiting(cached(6, 0, 5));
    assert_eq!(status(&on_purpose, "page-cache-thrash"), RuleStatus::Silent);
}

/// The file of [`cached`], and another one of which so many times its size is written.
fn beside_a_writer(read: u64, reclaimed: u64, written: u64) -> Vec<Event> {
    let mut events = cached(read, reclaimed, 0);
    let pages = 256 * MIB / 4096;
    for event in &mut events {
        let Event::Meta(_, meta) = event else { continue };
        let Meta::Sums(sums) = &mut **meta else { continue };
        if let Some(file) = sums.files.first_mut() {
            (file.reclaimed_writing, file.writer_tgid, file.writer_tid) = (file.reclaimed_own, 10, 11);
        }
        sums.files.push(CacheRow {
            device: 254 << 20,
            inode: FILE + 1,
            written: written.saturating_mul(pages),
            size_bytes: 256 * MIB,
            ..CacheRow::default()
        });
    }
    let by_writer = events.iter().find_map(|event| match event {
        Event::CachedFile(file) => Some(CachedFile {
            tid: 11,
            file: FileKey { inode: FILE + 1, ..file.file },
            name: std::array::from_fn(|at| b"ckpt".get(at).copied().unwrap_or(0)),
            ..**file
        }),
        _ => None,
    });
    events.insert(1, Event::CachedFile(Box::new(by_writer.expect("a file"))));
    events
}

#[test]
fn a_file_that_fits_and_is_pushed_out_by_what_is_written_is_no_thrash() {
    let pushed = waiting(beside_a_writer(6, 5, 8));
    let finding = of_class(&pushed, "cache-eviction").unwrap_or_else(|| panic!("{:?}", pushed.rules));
    let culprit = finding.culprit.as_ref().expect("who wrote");
    assert_eq!((culprit.tid, culprit.path.as_deref()), (Some(11), Some("ckpt")));
    assert_eq!(finding.victims.first().and_then(|victim| victim.path.as_deref()), Some("shard"));
    // Of six readings five were of what had been there before; the waits may all have been theirs.
    assert!((finding.share_of_wall.expect("a share") - 5.0 / 12.0).abs() < 0.05, "{finding:?}");
    assert!((finding.lost_s.expect("seconds") - 1.0).abs() < 0.05, "{finding:?}");
    assert_evidence_resolves(&pushed);
    for class in ["page-cache-thrash", "cold-file-mapping"] {
        assert_eq!(status(&pushed, class), RuleStatus::Silent, "{class}");
    }
    // Little is written; nothing is thrown out; it is read once.
    for (read, reclaimed, written) in [(6, 5, 1), (1, 0, 8), (1, 0, 0)] {
        let other = waiting(beside_a_writer(read, reclaimed, written));
        assert_eq!(status(&other, "cache-eviction"), RuleStatus::Silent, "{read} {reclaimed} {written}");
    }
    assert!(of_class(&waiting(beside_a_writer(6, 5, 1)), "page-cache-thrash").is_some());
    let mut tight = pushed.clone();
    for row in &mut tight.threads {
        if let Row::Thread(thread) = row {
            thread.cgroup = Some("/job".to_owned());
        }
    }
    let cgroup = CgroupSizes { path: "/job".to_owned(), limit_bytes: Some(256 * MIB), ..CgroupSizes::default() };
    tight.memory = Some(Memory { cgroups: vec![cgroup], ..Memory::default() });
    super::diagnose(&mut tight);
    assert_eq!(status(&tight, "cache-eviction"), RuleStatus::Silent, "it would not fit without the writer either");
    assert_eq!(status(&tight, "page-cache-thrash"), RuleStatus::Fired);
    let damaged = waiting(beside_a_writer(6, 5, u64::MAX));
    assert_eq!(status(&damaged, "cache-eviction"), RuleStatus::Fired);
}

/// The main thread frees memory in half of its time, waiting; each time the kernel tells how long.
fn stalling(kind: StallKind) -> Vec<Event> {
    let mut events = computing(WORKING);
    for round in 0..LONG_MS / 10 {
        let at = |ms: u64| START + round * 10 * MS + ms * MS;
        let mut leaves = switch(at(5), 0, 10, 0, Leave::Fault);
        leaves.flags |= (STALL_IN_SWITCH + kind as u16) << switch_flags::LOCK_SHIFT;
        events.push(Event::Switch(leaves));
        events.push(Event::Switch(switch(at(10), 0, 0, 10, Leave::Preempted)));
        events.push(Event::Stalled(Stalled {
            header: header(reclaim::STALLED, at(10), 0),
            tid: 10,
            tgid: 10,
            since_ts_ns: at(5),
            total_ns: 5 * MS,
            pages: 64,
            count: 2,
            kind: kind as u8,
            reserved: [0; 3],
        }));
    }
    events
}

#[test]
fn each_kind_of_stall_is_a_class_of_its_own() {
    let classes = [
        (StallKind::MemcgReclaim, "memory-limit"),
        (StallKind::DirectReclaim, "direct-reclaim"),
        (StallKind::Compaction, "compaction-stall"),
    ];
    for (kind, class) in classes {
        let report = run(stalling(kind), LONG_MS);
        let finding = of_class(&report, class).unwrap_or_else(|| panic!("{class}: {:?}", report.rules));
        assert!((finding.lost_s.expect("seconds") - 1.0).abs() < 0.05, "{class}: {finding:?}");
        assert_eq!(finding.culprit.as_ref().and_then(|culprit| culprit.tid), Some(10), "{class}");
        assert_evidence_resolves(&report);
        for (_, other) in classes.iter().filter(|(_, other)| *other != class) {
            assert!(of_class(&report, other).is_none(), "{class} is not {other}");
        }
        assert_eq!(status(&report, class), RuleStatus::Fired, "{class}");
    }
}

#[test]
fn reclaim_that_makes_room_for_a_file_that_does_not_fit_is_thrash_alone() {
    let mut events = stalling(StallKind::MemcgReclaim);
    events.extend(cached(6, 5, 0));
    let report = run(events, LONG_MS);
    assert!(of_class(&report, "page-cache-thrash").is_some(), "{:?}", report.rules);
    assert!(of_class(&report, "memory-limit").is_none(), "it is how the other shows");
    assert!(report.observed.iter().any(|finding| finding.class == "memory-limit"), "but seen");
}

#[test]
fn damaged_records_of_stalls_do_no_harm() {
    let mut events = stalling(StallKind::MemcgReclaim);
    for event in events.clone() {
        if let Event::Stalled(stalled) = event {
            events.push(Event::Stalled(Stalled { tid: 11, pages: u64::MAX, ..stalled }));
            events.push(Event::Stalled(Stalled { tid: 12, pages: u64::MAX, ..stalled }));
        }
    }
    let report = run(events, LONG_MS);
    assert_eq!(status(&report, "memory-limit"), RuleStatus::Fired, "{:?}", report.rules);
}

#[test]
fn damaged_weights_of_page_faults_do_no_harm() {
    let mut events = computing(FAULTING);
    events.push(faults(FaultKind::Anonymous, 10, 262_144, 262_000));
    for stack in [FAULTING, WORKING] {
        let Event::Sampled(sampled) = sample(START + 5 * MS, 10, 10, stack, u64::MAX) else { continue };
        let place = FaultKind::Anonymous as u32;
        events.push(Event::Sampled(Sampled { origin: origin::FAULT, place, ..sampled }));
    }
    let report = run(events, LONG_MS);
    assert_eq!(status(&report, "page-fault-storm"), RuleStatus::Fired, "{:?}", report.rules);
}

#[test]
fn pinning_takes_time_and_what_is_pinned_is_missed_by_others() {
    let report = |locked: u64, shortage: bool| {
        let mut report =
            if shortage { run(stalling(StallKind::MemcgReclaim), LONG_MS) } else { run(computing(102), LONG_MS) };
        let process = ProcessSizes {
            pid: 10,
            cgroup: Some("/job".to_owned()),
            locked_most_bytes: locked,
            ..ProcessSizes::default()
        };
        let cgroup = CgroupSizes { path: "/job".to_owned(), limit_bytes: Some(256 * MIB), ..CgroupSizes::default() };
        report.memory = Some(Memory { processes: vec![process], cgroups: vec![cgroup], ..Memory::default() });
        super::diagnose(&mut report);
        report
    };
    assert_eq!(status(&report(64 * MIB, true), "pinned-memory"), RuleStatus::Silent, "a quarter is not much");
    let alone = report(200 * MIB, false);
    assert!(of_class(&alone, "pinned-memory").is_none(), "nobody lacks it");
    assert!(alone.observed.iter().any(|finding| finding.class == "pinned-memory"), "but it is told");
    let missed = report(200 * MIB, true);
    let finding = of_class(&missed, "pinned-memory").unwrap_or_else(|| panic!("{:?}", missed.rules));
    assert_eq!((finding.severity, finding.lost_s), (Severity::Warning, None), "{finding:?}");
    assert_eq!(finding.consequences, ["memory-limit"]);
    assert_evidence_resolves(&missed);
    let over_and_over = run(computing(PINNING), LONG_MS);
    let finding = of_class(&over_and_over, "pinned-memory").unwrap_or_else(|| panic!("{:?}", over_and_over.rules));
    assert!((finding.lost_s.expect("seconds") - 1.17).abs() < 0.05, "half of the samples: {finding:?}");
    assert_eq!(finding.culprit.as_ref().and_then(|culprit| culprit.tid), Some(10));
    assert_evidence_resolves(&over_and_over);
}

#[test]
fn the_end_of_the_hosts_memory_is_foretold_of_those_who_use_it_up() {
    let report = |grown: u64, cgroup: Option<&str>| {
        let mut report = run(computing(WORKING), LONG_MS);
        let last = Sizes { t_s: 1.9, anonymous_bytes: grown, ..Sizes::default() };
        let process = ProcessSizes { pid: 10, last, cgroup: cgroup.map(str::to_owned), ..ProcessSizes::default() };
        let forecast = Forecast {
            t_s: 1.9,
            cgroup: cgroup.map(str::to_owned),
            bytes: 4096 * MIB,
            limit_bytes: 8192 * MIB,
            bytes_per_s: 100.0 * MIB as f64,
            eta_s: 40.96,
            eta_low_s: 40.0,
            eta_high_s: 42.0,
        };
        report.memory = Some(Memory { processes: vec![process], forecasts: vec![forecast], ..Memory::default() });
        report.window.ended_by = None;
        super::diagnose(&mut report);
        report
    };
    let own = report(180 * MIB, None);
    let finding = of_class(&own, "oom-forecast").unwrap_or_else(|| panic!("{:?}", own.rules));
    let culprit = finding.culprit.as_ref().expect("who grows");
    assert_eq!((culprit.pid, culprit.cgroup.as_deref(), finding.severity), (Some(10), None, Severity::Critical));
    assert!(
        finding.summary.contains("memory of this host") && finding.summary.contains("its end of"),
        "{}",
        finding.summary
    );
    assert_evidence_resolves(&own);
    let of_others = report(20 * MIB, None);
    assert_eq!(status(&of_others, "oom-forecast"), RuleStatus::Silent, "others use it up");
    assert!(
        of_class(&report(20 * MIB, Some("/job")), "oom-forecast").is_some(),
        "a cgroup's is its own, whoever grows"
    );
    assert_eq!(status(&report(u64::MAX, None), "oom-forecast"), RuleStatus::Fired);
}
