//! The rules on block devices, on constructed runs: small scattered reads, slow devices, threads that something above the device holds
//! back, writers that the kernel pauses; and what is none of these.

use tracer_common::block::{BlockDone, DirtyPause, FileSync, Request, block_notes as notes};
use tracer_common::memory::{CachedFile, FileKey};
use tracer_common::record::{block, writeback};
use tracer_common::sched::Switch;

use super::tests::{assert_evidence_resolves, run, status};
use super::tests_memory::{FILE, LONG_MS, MIB, MS, START, WORKING, computing, family, of_class};
use crate::model::event::{Event, Meta};
use crate::model::meta::{DirtiedRow, DiskRow, ObjectRecord, ObjectsRecord, SumsRecord};
use crate::model::objects::FileSystem;
use crate::model::report::{Report, RuleStatus};
use crate::testing::{Leave, block_done, header, meta_event, switch};

/// Calls of x86-64.
const PREAD: i16 = 17;
const WRITE: i16 = 1;
const CLOSE: i16 = 3;
const DISK: u32 = 254 << 20;

/// Requests for the file, one for each wait.
#[derive(Clone, Copy)]
struct Requests {
    bytes: u32,
    device_ns: u64,
    queued_ns: u64,
    scattered: bool,
    notes: u8,
}

/// As a quick disk does small ones at random.
const SMALL: Requests =
    Requests { bytes: 4096, device_ns: 4 * MS, queued_ns: 1_000, scattered: true, notes: notes::TRACED };

fn told() -> Vec<Event> {
    let disk = DiskRow { device: DISK, name: "vda".to_owned(), size_bytes: MIB, ..DiskRow::default() };
    let sums = SumsRecord { disks: vec![disk], ..SumsRecord::default() };
    let mut name = [0; 64];
    name[..5].copy_from_slice(b"shard");
    let file = FileKey { inode: FILE, device: DISK, reserved: 0 };
    let header = header(block::FILE, START + MS, 0);
    let record = CachedFile { header, tid: 10, tgid: 10, file, size_bytes: 256 * MIB, name, parent: 0 };
    vec![Event::CachedFile(Box::new(record)), meta_event(START + LONG_MS * MS, Meta::Sums(sums))]
}

/// The main thread waits in this call for half of its time; after each wait comes what the closure makes of its end.
fn waiting(call: i16, mut after: impl FnMut(u64, u64) -> Vec<Event>) -> Report {
    let mut events = computing(WORKING);
    events.extend([family("block"), family("writeback")]);
    for round in 0..LONG_MS / 10 {
        let at = |ms: u64| START + round * 10 * MS + ms * MS;
        let leaves: Switch = switch(at(5), 0, 10, 0, Leave::Sleep { syscall: call, fd_kind: 1, object: FILE });
        let more = after(round, at(10));
        let (before, behind): (Vec<Event>, Vec<Event>) =
            more.into_iter().partition(|event| event.header().ts_ns <= at(5));
        let (meanwhile, behind): (Vec<Event>, Vec<Event>) =
            behind.into_iter().partition(|event| event.header().ts_ns < at(10));
        events.extend(before);
        events.push(Event::Switch(leaves));
        events.extend(meanwhile);
        events.push(Event::Switch(switch(at(10), 0, 0, 10, Leave::Preempted)));
        events.extend(behind);
    }
    events.extend(told());
    run(events, LONG_MS)
}

fn reading(what: Requests) -> Report {
    waiting(PREAD, |round, end_ns| {
        let step = if what.scattered { 1_000_003 * (round * 7 % 97 + 1) } else { u64::from(what.bytes) / 512 };
        let base = block_done(end_ns - 1_000);
        let request = Request {
            sector: 2_048 + round * step,
            tid: 10,
            bytes: what.bytes,
            notes: what.notes,
            file: FileKey { inode: FILE, device: DISK, reserved: 0 },
            ..base.request
        };
        let done = BlockDone { queued_ns: what.queued_ns, device_ns: what.device_ns, request, ..base };
        vec![Event::BlockDone(Box::new(done))]
    })
}

/// A file of a file system of this type, which has no disk here.
fn far_file(kind: &str) -> ObjectsRecord {
    let system = FileSystem {
        kind: kind.to_owned(),
        source: Some("server:/export".to_owned()),
        mounted_on: "/mnt/data".to_owned(),
    };
    let file = ObjectRecord {
        tgid: 10,
        tid: 10,
        fd: 3,
        inode: FILE,
        kind: "file".to_owned(),
        path: Some("/mnt/data/shard-0.tar".to_owned()),
        file_system: Some(system),
        ..ObjectRecord::default()
    };
    ObjectsRecord { objects: vec![file], ..ObjectsRecord::default() }
}

/// The main thread reads it.
fn reading_from(kind: &str) -> Report {
    let known = far_file(kind);
    waiting(PREAD, |round, end_ns| match round {
        0 => vec![meta_event(end_ns, Meta::Objects(known.clone()))],
        _ => Vec::new(),
    })
}

/// The kernel's state bits of a thread that waits: signals can end it, or not.
const SLEEPING: u32 = 1;
const UNINTERRUPTIBLE: u32 = 2;

/// The main thread closes files for most of its time; with `writes` it waits in writing each before.
fn closing(known: Option<ObjectsRecord>, writes: bool, state: u32) -> Report {
    let mut events = computing(WORKING);
    events.extend([family("block"), family("writeback")]);
    for round in 0..LONG_MS / 10 {
        let at = |ms: u64| START + round * 10 * MS + ms * MS;
        if writes {
            let write = Leave::Sleep { syscall: WRITE, fd_kind: 1, object: FILE };
            events.push(Event::Switch(switch(at(2), 0, 10, 0, write)));
            events.push(Event::Switch(switch(at(3), 0, 0, 10, Leave::Preempted)));
        }
        let closes = switch(at(5), 0, 10, 0, Leave::Sleep { syscall: CLOSE, fd_kind: 0, object: 0 });
        events.push(Event::Switch(Switch { prev_state: state, ..closes }));
        events.push(Event::Switch(switch(at(10), 0, 0, 10, Leave::Preempted)));
    }
    events.extend(known.map(|known| meta_event(START + LONG_MS * MS, Meta::Objects(known))));
    run(events, LONG_MS)
}

#[test]
fn a_file_that_has_much_left_to_be_written_when_it_is_closed_is_waited_for() {
    let lost_s = |report: &Report| {
        only(report, Some("slow-storage"));
        let finding = of_class(report, "slow-storage").expect("it waited in close");
        assert_evidence_resolves(report);
        (finding.lost_s.expect("seconds"), finding.clone())
    };
    // Nobody has waited for the file before: neither it nor where it lies is known.
    for state in [SLEEPING, UNINTERRUPTIBLE] {
        let (s, finding) = lost_s(&closing(Some(far_file("nfs4")), false, state));
        assert!((s - 1.0).abs() < 0.05, "{finding:?}");
        assert!(finding.summary.starts_with("closing took"), "{}", finding.summary);
        assert!(finding.hypothesis.contains("Which file it was is not known"), "{}", finding.hypothesis);
        // As a client of an object store, which sends what was written at the end.
        let (s, finding) = lost_s(&closing(Some(far_file("fuse.s3")), true, state));
        assert!((s - 1.2).abs() < 0.05, "writing and closing: {finding:?}");
        for part in ["/mnt/data/shard-0.tar on /mnt/data", "fuse.s3"] {
            assert!(finding.summary.contains(part), "{part}: {finding:?}");
        }
    }
    // On a disk of this host: a file that was deleted before.
    let report = closing(None, true, UNINTERRUPTIBLE);
    let (s, finding) = lost_s(&report);
    assert!((s - 1.0).abs() < 0.05 && finding.summary.contains("closing inode:["), "{finding:?}");
    assert!(!finding.hypothesis.contains("not known"), "{}", finding.hypothesis);
    let (_, own) = super::threads(&report).find(|(_, thread)| thread.tid == 10).expect("the thread");
    let waits = own.waits.iter().find(|wait| wait.detail.as_deref() == Some("close"));
    assert_eq!(waits.expect("it waited").object, Some(format!("inode:[{FILE}]")), "the one that it wrote");
}

#[test]
fn a_file_system_without_a_disk_here_is_named_unless_it_is_in_memory_or_a_layer() {
    for far in ["nfs4", "fuse.gcsfuse", "lustre", "ceph"] {
        let report = reading_from(far);
        only(&report, Some("slow-storage"));
        let finding = of_class(&report, "slow-storage").expect("it waited for it");
        assert!((finding.lost_s.expect("seconds") - 1.0).abs() < 0.05, "{finding:?}");
        for part in ["/mnt/data/shard-0.tar on /mnt/data", far, "server:/export", "another machine"] {
            let said = [&finding.summary, &finding.hypothesis];
            assert!(said.iter().any(|text| text.contains(part)), "{part}: {finding:?}");
        }
        let culprit = finding.culprit.as_ref().expect("a culprit");
        assert_eq!((culprit.path.as_deref(), culprit.tid), (Some("/mnt/data/shard-0.tar"), Some(10)));
        assert_evidence_resolves(&report);
    }
    for near in ["tmpfs", "overlay", "btrfs", "fuseblk"] {
        only(&reading_from(near), None);
    }
}

const CLASSES: [&str; 3] = ["small-random-reads", "slow-storage", "dirty-throttling"];

#[track_caller]
fn only(report: &Report, class: Option<&str>) {
    for other in CLASSES {
        let wanted = if Some(other) == class { RuleStatus::Fired } else { RuleStatus::Silent };
        assert_eq!(status(report, other), wanted, "{other}: {:?}", report.rules);
    }
}

#[test]
fn small_scattered_reads_are_named_with_file_thread_and_seconds() {
    let report = reading(SMALL);
    only(&report, Some("small-random-reads"));
    let finding = of_class(&report, "small-random-reads").expect("it waited for them");
    assert!((finding.lost_s.expect("seconds") - 1.0).abs() < 0.05, "{finding:?}");
    let culprit = finding.culprit.as_ref().expect("a culprit");
    assert_eq!((culprit.path.as_deref(), culprit.tid), (Some("shard"), Some(10)));
    assert_evidence_resolves(&report);
    // Each request ends when its thread runs again: what it takes is what the thread sees.
    let file = report.io.as_ref().and_then(|io| io.files.first()).expect("the file");
    let answers = file.answers.as_ref().expect("answers");
    assert_eq!(Some(answers.count), file.reads.as_ref().map(|reads| reads.requests));
    assert!((answers.mean_s - 0.004_002).abs() < 1e-6, "4 ms with the device, 1 us before and behind: {answers:?}");
}

#[test]
fn a_request_whose_threads_return_was_lost_answers_no_later_wait() {
    let at = |ms: u64| START + ms * MS;
    let sleeps =
        |ms| Event::Switch(switch(at(ms), 0, 10, 0, Leave::Sleep { syscall: PREAD, fd_kind: 1, object: FILE }));
    let base = block_done(at(7));
    let file = FileKey { inode: FILE, device: DISK, reserved: 0 };
    let request = Request { tid: 10, file, notes: notes::TRACED, ..base.request };
    let done = BlockDone { queued_ns: 1_000, device_ns: MS, request, ..base };
    let mut events = computing(WORKING);
    events.extend([family("block"), family("writeback"), sleeps(5), Event::BlockDone(Box::new(done))]);
    // That it ran in between was not seen.
    events.extend([sleeps(900), Event::Switch(switch(at(950), 0, 0, 10, Leave::Preempted))]);
    events.extend(told());
    let report = run(events, LONG_MS);
    let file = report.io.as_ref().and_then(|io| io.files.first()).expect("the file");
    assert!(file.waits.is_some() && file.answers.is_none(), "{file:?}");
}

#[test]
fn large_requests_and_those_that_follow_each_other_are_not_small_and_scattered() {
    only(&reading(Requests { bytes: 1 << 20, ..SMALL }), None);
    only(&reading(Requests { scattered: false, ..SMALL }), None);
}

#[test]
fn a_device_that_takes_long_is_slow_whatever_it_is_asked() {
    for what in [SMALL, Requests { bytes: 1 << 20, scattered: false, ..SMALL }] {
        let report = reading(Requests { device_ns: 45 * MS, ..what });
        only(&report, Some("slow-storage"));
        let finding = of_class(&report, "slow-storage").expect("it waited for it");
        assert!(finding.summary.starts_with("vda is slow"), "{}", finding.summary);
        assert_evidence_resolves(&report);
    }
}

/// openat, fsync of x86-64, and REQ_OP_DISCARD.
const OPENAT: i16 = 257;
const FSYNC: i16 = 74;
const DISCARD: u32 = 3;

/// The main thread waits for half of its time in this call, and at each wait's end a discard of its own has ended.
fn discarding(call: i16, device_ns: u64) -> Report {
    waiting(call, |round, end_ns| {
        let base = block_done(end_ns);
        let file = FileKey { inode: 0, device: 0, reserved: 0 };
        let (flags, bytes, sector) = (DISCARD, 32 << 20, round << 16);
        let request = Request { sector, bytes, flags, notes: notes::TRACED, file, ..base.request };
        vec![Event::BlockDone(Box::new(BlockDone { queued_ns: 1_000, device_ns, request, ..base }))]
    })
}

#[test]
fn who_cuts_files_waits_for_the_discards_and_says_so_of_the_call() {
    let report = discarding(OPENAT, 4 * MS);
    only(&report, Some("slow-storage"));
    let finding = of_class(&report, "slow-storage").expect("it waited for them");
    assert!(finding.summary.starts_with("openat waited 1.00 s"), "{}", finding.summary);
    assert!(finding.summary.contains("until vda had discarded"), "{}", finding.summary);
    assert_eq!(finding.culprit.as_ref().and_then(|culprit| culprit.tid), Some(10));
    assert_evidence_resolves(&report);
    // Opening waits for something else, or what discards is a sync.
    only(&discarding(OPENAT, MS), None);
    only(&discarding(FSYNC, 4 * MS), None);
}

#[test]
fn threads_that_wait_far_longer_than_their_requests_take_are_held_back_above_the_device() {
    let report = reading(Requests { device_ns: MS / 10, ..SMALL });
    only(&report, Some("slow-storage"));
    let finding = of_class(&report, "slow-storage").expect("it was held back");
    assert!(finding.summary.contains("holds them back"), "{}", finding.summary);
    assert_evidence_resolves(&report);
    let queued = reading(Requests { device_ns: MS / 10, queued_ns: 4 * MS, ..SMALL });
    only(&queued, Some("small-random-reads"));
}

#[test]
fn syncs_take_what_their_file_system_says_computing_and_queueing_included() {
    let sync = |ts_ns: u64, begins: u32| {
        Event::FileSync(FileSync { header: header(writeback::SYNC, ts_ns, 0), tid: 10, tgid: 10, begins, reserved: 0 })
    };
    // It computes for a millisecond before and after each wait of five, in the call.
    let told = |round: u64, end_ns: u64| {
        vec![sync(end_ns - 6 * MS, 1), sync(end_ns + MS, 0)].split_off(usize::from(round == 0))
    };
    let report = waiting(FSYNC, told);
    let (_, thread) = super::threads(&report).find(|(_, thread)| thread.tid == 10).expect("the thread");
    let syncs = thread.syncs.as_ref().expect("its file system tells");
    // Of the first one only the end was seen.
    assert_eq!(syncs.count, LONG_MS / 10 - 1);
    let each = |s: f64| s / syncs.count as f64 * 1e3;
    let told = [each(syncs.total_s), each(syncs.on_cpu_s), each(syncs.ready_s)];
    assert!(told.iter().zip([7.0, 2.0, 0.0]).all(|(told, own)| (told - own).abs() < 0.01), "{syncs:?}");
    let finding = of_class(&report, "fsync-stall").expect("it waited for them");
    assert!((finding.lost_s.expect("seconds") - 1.4).abs() < 0.03, "seven for each five waited: {finding:?}");
    assert!(finding.evidence.iter().any(|evidence| evidence.source.ends_with("/syncs/total_s")), "{finding:?}");
    assert_evidence_resolves(&report);
}

#[test]
fn without_the_family_the_rules_cannot_look() {
    let report = run(computing(WORKING), LONG_MS);
    for class in CLASSES {
        assert_eq!(status(&report, class), RuleStatus::CouldNotRun, "{class}");
    }
}

#[test]
fn a_writer_that_the_kernel_pauses_is_named_with_its_device_and_what_it_dirtied() {
    let paused = |ticks: u32| {
        waiting(WRITE, |_, end_ns| {
            let header = header(writeback::PAUSE, end_ns - 5 * MS, 0);
            let pause = DirtyPause { header, tid: 10, tgid: 10, ticks, device: DISK };
            if ticks == 0 { Vec::new() } else { vec![Event::DirtyPause(pause)] }
        })
    };
    let report = paused(1);
    only(&report, Some("dirty-throttling"));
    let finding = of_class(&report, "dirty-throttling").expect("it was paused");
    assert!((finding.lost_s.expect("seconds") - 1.0).abs() < 0.05, "{finding:?}");
    assert!(finding.summary.contains("vda"), "{}", finding.summary);
    assert_evidence_resolves(&report);
    let row = &report.io.as_ref().and_then(|io| io.paused.as_ref()).expect("the family ran")[0];
    assert_eq!((row.count, row.asked_s), (200, Some(0.8)), "a tick of 4 ms is the longest that fits 5 ms: {row:?}");
    only(&paused(0), None);
}

#[test]
fn what_is_written_in_the_background_is_shared_among_those_who_dirtied_it() {
    let base = block_done(START + 20 * MS);
    let request = Request {
        flags: 1,
        bytes: 1 << 20,
        tid: 90,
        tgid: 90,
        notes: notes::KERNEL_THREAD,
        file: FileKey { inode: FILE, device: DISK, reserved: 0 },
        ..base.request
    };
    let written = BlockDone { request, ..base };
    let mut events = computing(WORKING);
    events.extend([family("block"), family("writeback")]);
    events.extend(told());
    events.push(Event::BlockDone(Box::new(written)));
    let row = |tgid, pages| DirtiedRow { device: DISK, inode: FILE, tgid, tid: tgid, pages };
    let sums = SumsRecord { dirtied: vec![row(10, 192), row(20, 64)], ..SumsRecord::default() };
    events.push(meta_event(START + LONG_MS * MS, Meta::Sums(sums)));
    let report = run(events, LONG_MS);
    let io = report.io.as_ref().expect("the section");
    let background: Vec<_> = io.processes.iter().map(|row| (row.pid, row.background_bytes)).collect();
    assert_eq!(background, [(10, Some(3 << 18)), (20, Some(1 << 18))]);
    let file = &io.files[0];
    assert_eq!((file.background_bytes, file.dirtied_bytes, file.whose.pid), (1 << 20, Some(1 << 20), Some(10)));
}

#[test]
fn damaged_times_and_sizes_do_no_harm() {
    let most = Requests { bytes: u32::MAX, device_ns: u64::MAX, queued_ns: u64::MAX, ..SMALL };
    let report = reading(most);
    assert_evidence_resolves(&report);
    assert!(report.findings.iter().all(|finding| finding.lost_s.is_none_or(f64::is_finite)));
    let device = &report.io.as_ref().and_then(|io| io.devices.as_ref()).expect("the family ran")[0];
    assert!(device.busy_s <= report.window.duration_s, "{device:?}");
}

#[test]
fn requests_whose_end_was_not_reported_count_and_add_no_time() {
    let report = reading(Requests { notes: notes::TRACED | notes::UNTIMED, device_ns: 900 * MS, ..SMALL });
    let io = report.io.as_ref().expect("the section");
    let reads = io.files[0].reads.as_ref().expect("reads");
    assert_eq!((reads.requests, reads.device.count, reads.device.total_s), (200, 0, 0.0), "{reads:?}");
    assert_eq!((io.processes[0].read_requests, io.processes[0].read_device_s), (200, 0.0));
    assert_eq!(io.devices.as_ref().map(|devices| devices[0].busy_s), Some(0.0));
}

#[test]
fn lost_requests_lower_the_confidence() {
    let confidence = |share: f64| {
        let mut report = reading(SMALL);
        let family = report.coverage.families.iter_mut().find(|family| family.family == "block").expect("it ran");
        family.share = Some(share);
        super::diagnose(&mut report);
        of_class(&report, "small-random-reads").expect("it waited").confidence
    };
    assert!((confidence(0.5) - confidence(1.0) / 2.0).abs() < 0.002, "{} {}", confidence(0.5), confidence(1.0));
}
