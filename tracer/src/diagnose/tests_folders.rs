//! The rules on block devices, on runs that read many small files one by one: they are told with their folder, slow devices by the same way;
//! files that are read whole, or whose folder nobody waited long for, are not.

use tracer_common::block::{BlockDone, Request};
use tracer_common::memory::FileKey;
use tracer_common::record::block;

use super::tests::{assert_evidence_resolves, run};
use super::tests_memory::{LONG_MS, MS, START, WORKING, computing, family, of_class};
use crate::model::event::{Event, Meta};
use crate::model::meta::{DiskRow, MountRecord, MountsRecord, ObjectsRecord, SumsRecord};
use crate::model::report::Report;
use crate::testing::{Leave, block_done, met, meta_event, switch};

/// Calls of x86-64.
const READ: i16 = 0;
const DISK: u32 = 254 << 20;
/// Files, one read of each in each ten milliseconds.
const FILES: u64 = LONG_MS / 10;

fn entry(kind: u16, inode: u64, parent: u64, text: &str) -> Event {
    Event::CachedFile(Box::new(met(kind, START + MS, inode, parent, text)))
}

/// The main thread waits for half of its time in reading files of `/data/class-N`, each time another one of so many.
fn reading(files: u64, bytes: u32, device_ns: u64) -> Report {
    let mut events = computing(WORKING);
    events.extend([family("block"), family("writeback")]);
    let mount = MountRecord { device: "254:0".to_owned(), root: "/".to_owned(), mounted_on: "/".to_owned() };
    let mounts = vec![MountsRecord { tgid: 10, namespace: 1, mounts: vec![mount] }];
    events.push(meta_event(START + MS, Meta::Objects(ObjectsRecord { mounts, ..ObjectsRecord::default() })));
    for (inode, parent, name) in [(2, 2, "/"), (3, 2, "data")] {
        events.push(entry(block::DIRECTORY, inode, parent, name));
    }
    for class in 0..10 {
        events.push(entry(block::DIRECTORY, 100 + class, 3, &format!("class-{class}")));
    }
    for round in 0..FILES {
        let (number, end_ns) = (round % files, START + round * 10 * MS + 10 * MS);
        let inode = 1_000 + number;
        events.push(entry(block::FILE, inode, 100 + number % 10, &format!("a-{number}.jpg")));
        let waits = switch(end_ns - 5 * MS, 0, 10, 0, Leave::Sleep { syscall: READ, fd_kind: 1, object: inode });
        events.push(Event::Switch(waits));
        let base = block_done(end_ns - 1_000);
        let file = FileKey { inode, device: DISK, reserved: 0 };
        let request = Request { sector: 2_048 + number * 1_000_003, tid: 10, bytes, file, ..base.request };
        events.push(Event::BlockDone(Box::new(BlockDone { queued_ns: 1_000, device_ns, request, ..base })));
        events.push(Event::Switch(switch(end_ns, 0, 0, 10, Leave::Preempted)));
    }
    let disk = DiskRow { device: DISK, name: "vda".to_owned(), size_bytes: 1 << 20, ..DiskRow::default() };
    let sums = SumsRecord { disks: vec![disk], ..SumsRecord::default() };
    events.push(meta_event(START + LONG_MS * MS, Meta::Sums(sums)));
    run(events, LONG_MS)
}

const PATTERN: &str = "/data/class-*/a-*.jpg";

#[test]
fn small_files_that_are_read_one_by_one_are_told_with_their_folder() {
    let report = reading(FILES, 20_480, 4 * MS);
    let finding = of_class(&report, "small-random-reads").expect("it waited for them");
    assert!((finding.lost_s.expect("seconds") - 1.0).abs() < 0.05, "{finding:?}");
    assert!(
        finding.summary.starts_with(&format!("{PATTERN} ({FILES} files) were read in {FILES} requests")),
        "{finding:?}"
    );
    let culprit = finding.culprit.as_ref().expect("who");
    assert_eq!((culprit.path.as_deref(), culprit.tid), (Some(PATTERN), Some(10)));
    assert!(finding.hypothesis.starts_with("Each file costs small requests of its own"), "{}", finding.hypothesis);
    assert!(finding.evidence.iter().any(|evidence| evidence.source == "/io/folders/0/reads/requests"));
    assert_evidence_resolves(&report);
    let io = report.io.as_ref().expect("requests");
    assert_eq!((io.folders[0].files, io.files[0].files), (Some(FILES), None));
    assert!(io.files[0].path.as_deref().is_some_and(|path| path.starts_with("/data/class-")), "{:?}", io.files[0]);
    let path = report.critical_path.as_ref().expect("a path");
    let folder = path.waits.iter().find(|wait| wait.path.as_deref() == Some(PATTERN)).expect("one row for all");
    assert_eq!((folder.count, folder.object.as_deref()), (FILES, Some("inode:[3]")));
}

#[test]
fn a_slow_device_is_told_with_the_folder_that_is_read() {
    let report = reading(FILES, 20_480, 45 * MS);
    let finding = of_class(&report, "slow-storage").expect("it is slow");
    assert!(finding.summary.starts_with("vda is slow") && finding.summary.contains(PATTERN), "{}", finding.summary);
    assert!(of_class(&report, "small-random-reads").is_none());
}

#[test]
fn files_that_are_read_in_large_pieces_and_a_few_files_are_no_folder_of_small_ones() {
    let large = reading(FILES, 1 << 20, 4 * MS);
    assert!(of_class(&large, "small-random-reads").is_none(), "{:?}", large.findings);
    assert_eq!(large.io.as_ref().map(|io| io.folders.len()), Some(1), "they are told all the same");
    // Too few files: each has its own row, and they jump.
    let few = reading(8, 4_096, 4 * MS);
    assert!(few.io.as_ref().is_some_and(|io| io.folders.is_empty()), "{:?}", few.io);
    let finding = of_class(&few, "small-random-reads").expect("small ones that jump");
    assert!(finding.summary.contains("and 7 other files were read"), "{}", finding.summary);
}
