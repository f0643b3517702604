//! Tests of writer and reader together: lossless, small, bounded, rotating, on disks that are full.

use super::format::FILE_HEADER_BYTES;
use super::simulate::{Random, Switch, ball_game, mixed};
use super::*;
use crate::pipeline::batch::{Batch, header_bytes};
use proptest::prelude::*;
use std::cell::Cell;
use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::time::Instant;
use tracer_common::record::{Header, kind, meta, sched};

type Memory = Cursor<Vec<u8>>;

pub(super) fn record(kind: u16, cpu: u16, ts_ns: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header_bytes(Header { ts_ns, kind, cpu, lost: 0 }).to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) fn batch_of(records: &[Vec<u8>]) -> Batch {
    let mut batch = Batch::new();
    records.iter().for_each(|record| batch.push(record));
    batch
}

pub(super) fn written(batches: &[Batch], options: Options) -> Vec<u8> {
    let mut writer = Writer::new(Memory::default(), "t", options).expect("a writer in memory");
    for batch in batches {
        writer.write(batch).expect("memory takes all");
    }
    writer.finish().expect("memory takes all");
    writer.into_sink().into_inner()
}

pub(super) struct Read {
    pub records: Vec<Vec<u8>>,
    pub stats: ReaderStats,
    pub cut: Option<Cut>,
}

pub(super) fn read(bytes: &[u8]) -> Result<Read, CaptureError> {
    let mut reader = Reader::from_reader(Cursor::new(bytes), "t.trc")?;
    let mut records = Vec::new();
    while let Some(batch) = reader.next_batch()? {
        records.extend(batch.iter().map(<[u8]>::to_vec));
    }
    Ok(Read { records, stats: reader.stats(), cut: reader.cut() })
}

pub(super) fn records_of(batches: &[Batch]) -> Vec<Vec<u8>> {
    batches.iter().flat_map(|batch| batch.iter().map(<[u8]>::to_vec).collect::<Vec<_>>()).collect()
}

/// Bytes of file per record, and what writing and reading took. Only prints the times: they are the machine's.
fn measure(name: &str, batch: &Batch, level: i32) -> f64 {
    let start = Instant::now();
    let bytes = written(std::slice::from_ref(batch), Options { zstd_level: level, ..Options::default() });
    let write_ns = start.elapsed().as_nanos() as f64 / batch.len() as f64;
    let start = Instant::now();
    let mut reader = Reader::from_reader(Cursor::new(&bytes), "t").expect("opens");
    let mut records = 0;
    while let Some(batch) = reader.next_batch().expect("reads") {
        records += batch.len();
    }
    let read_ns = start.elapsed().as_nanos() as f64 / batch.len() as f64;
    assert_eq!(records, batch.len());
    let per_record = bytes.len() as f64 / batch.len() as f64;
    println!(
        "{name}, zstd {level}: {per_record:.2} bytes, written in {write_ns:.0} ns, read in {read_ns:.0} ns per record"
    );
    per_record
}

#[test]
fn a_ball_game_takes_at_most_ten_bytes_per_switch() {
    let batch = ball_game(200_000);
    let levels = [1, 2, 3].map(|level| measure("ball game", &batch, level));
    assert!(levels[0] <= 10.0, "{levels:?} bytes per switch at zstd levels 1 to 3");
}

#[test]
fn a_mixed_load_takes_at_most_ten_bytes_per_switch() {
    let batch = mixed(200_000);
    let levels = [1, 2, 3].map(|level| measure("mixed", &batch, level));
    assert!(levels[0] <= 10.0, "{levels:?} bytes per switch at zstd levels 1 to 3");
}

#[test]
fn a_capture_gives_back_every_record_in_order() {
    let meta = batch_of(&[
        record(meta::HOST, 0, 1, b"{\"cpus\":2}"),
        record(meta::SEED, 0, 2, "{\"comm\":\"\u{1F600}\"}".as_bytes()),
        record(kind(200, 9), 7, 3, &[1; 1500]),
        vec![],
        vec![1, 2, 3],
    ]);
    let batches = [meta.clone(), ball_game(30_000), meta, mixed(30_000)];
    let read = read(&written(&batches, Options::default())).expect("opens");
    assert!(read.records == records_of(&batches), "records or their order changed");
    assert_eq!((read.stats.complete, read.cut, read.stats.missing_records), (true, None, 0));
}

#[test]
fn a_capture_without_an_end_marker_says_so() {
    let mut writer = Writer::new(Memory::default(), "t", Options::default()).expect("a writer");
    writer.write(&ball_game(20_000)).expect("memory takes all");
    let read = read(&writer.into_sink().into_inner()).expect("opens");
    let cut = read.cut.expect("a cut");
    assert_eq!((cut.reason, cut.unread_bytes, read.stats.complete), (CutReason::NoEndMarker, 0, false));
    assert!(cut.to_string().contains("ended without an end marker (was the tracer killed?)"), "{cut}");
    assert_eq!(read.records.len() as u64, cut.records_read);
}

#[test]
fn old_records_are_written_by_the_tick() {
    let mut writer = Writer::new(Memory::default(), "t", Options::default()).expect("a writer");
    writer.write(&batch_of(&[record(sched::FORK, 0, 1_000, &[0; 16])])).expect("written");
    writer.tick(500_000_999).expect("ticked");
    assert_eq!(writer.stats().chunks, 0, "499,999,999 ns old");
    writer.tick(500_001_000).expect("ticked");
    assert_eq!(writer.stats().chunks, 1, "500 ms old");
}

/// Seeds, then many ticks and forks into a bounded capture. Gives the file, all records, and the writer's counts.
pub(super) fn rotated_capture(batches: u64) -> (Vec<u8>, Vec<Vec<u8>>, WriterStats) {
    let options = Options { max_bytes: Some(LEAST_MAX_BYTES), ..Options::default() };
    let mut writer = Writer::new(Memory::default(), "t", options).expect("a writer");
    let mut random = Random(5);
    let mut all = Vec::new();
    for number in 0..batches {
        let mut records = Vec::new();
        if number == 0 {
            records.push(record(meta::HOST, 0, 1, b"{\"kernel\":\"6.18\"}"));
            records.push(record(meta::START, 0, 2, b"{}"));
            records.push(record(meta::SEED, 0, 3, b"{\"tid\":1}"));
        }
        for _ in 0..20 {
            let payload: Vec<u8> = (0..16).map(|_| random.next() as u8).collect();
            records.push(record(sched::FORK, 0, number * 1000, &payload));
        }
        writer.write(&batch_of(&records)).expect("written");
        all.extend(records);
        if writer.wants_keyframe() {
            let seed = format!("{{\"tid\":{number}}}");
            writer.write_keyframe(&batch_of(&[record(meta::SEED, 0, number * 1000, seed.as_bytes())]));
            assert!(!writer.wants_keyframe());
        }
    }
    let stats = writer.finish().expect("finished");
    (writer.into_sink().into_inner(), all, stats)
}

#[test]
fn rotation_keeps_the_newest_records_the_facts_and_a_keyframe() {
    let (bytes, all, stats) = rotated_capture(3_000);
    assert!(bytes.len() as u64 <= LEAST_MAX_BYTES, "{} bytes", bytes.len());
    assert!(stats.rotated_chunks > 0 && stats.failed_records == 0, "{stats:?}");
    let read = read(&bytes).expect("opens");
    assert_eq!((read.cut, read.stats.complete, read.stats.missing_records), (None, true, 0));
    assert_eq!(read.stats.rotated_records, stats.rotated_records);
    let (head, kept) = read.records.split_at(3);
    let kinds: Vec<u16> = head.iter().map(|r| u16::from_le_bytes([r[8], r[9]])).collect();
    assert_eq!(kinds, [meta::HOST, meta::START, meta::SEED]);
    assert!(kept == &all[all.len() - kept.len()..], "the newest records, in order");
    assert_eq!(kept.len() as u64 + stats.rotated_records, stats.records);
    let kept_bytes = kept.iter().map(Vec::len).sum::<usize>() as u64;
    assert!(kept_bytes >= LEAST_MAX_BYTES / 2, "{kept_bytes} bytes of noise kept in {LEAST_MAX_BYTES}");
    let first_kept_ts = u64::from_le_bytes(kept[0][..8].try_into().unwrap_or_default());
    let keyframe_ts = u64::from_le_bytes(head[2][..8].try_into().unwrap_or_default());
    let late_ns = keyframe_ts.saturating_sub(first_kept_ts);
    assert!(keyframe_ts > 3 && late_ns <= 2_000, "keyframe at {keyframe_ts}, records from {first_kept_ts}");
}

#[test]
fn a_rotated_capture_reads_whole_at_every_moment_of_its_life() {
    let options = Options { max_bytes: Some(LEAST_MAX_BYTES), ..Options::default() };
    let mut random = Random(8);
    let (mut previous, mut all) = (0, Vec::new());
    let mut writer = Writer::new(Memory::default(), "t", options).expect("a writer");
    for number in 0..120u64 {
        let records: Vec<_> = (0..100)
            .map(|_| record(sched::EXIT, 0, number, &(0..40).map(|_| random.next() as u8).collect::<Vec<_>>()))
            .collect();
        writer.write(&batch_of(&records)).expect("written");
        all.extend(records);
        let stats = writer.stats();
        if stats.chunks == previous {
            continue;
        }
        previous = stats.chunks;
        let read = read(writer.sink().get_ref()).expect("opens");
        let flushed = read.stats.records + read.stats.rotated_records;
        let from = read.stats.rotated_records as usize;
        assert!(read.records == all[from..flushed as usize], "batch {number}: killed here, other records are read");
        assert_eq!(read.cut.map(|cut| (cut.reason, cut.places)), Some((CutReason::NoEndMarker, 1)), "batch {number}");
        assert_eq!((read.stats.missing_records, read.stats.rotated_records), (0, stats.rotated_records));
    }
    assert!(writer.stats().rotated_chunks > 0, "{:?}", writer.stats());
}

#[test]
fn damage_in_a_rotated_capture_costs_the_rest_of_one_segment() {
    let (bytes, all, stats) = rotated_capture(3_000);
    let mut complete = 0;
    for segment in 0..SEGMENTS as usize {
        let mut damaged = bytes.clone();
        damaged[FILE_HEADER_BYTES as usize + segment * (LEAST_MAX_BYTES as usize / 4) + 3_000] ^= 1;
        let read = read(&damaged).expect("opens");
        let cut = read.cut.expect("a cut");
        let kept = read.stats.records;
        assert!(kept >= 2 * (LEAST_MAX_BYTES / 4) / 40, "segment {segment}: {kept} records kept; {cut}");
        assert!(read.records[3..].iter().all(|record| all.contains(record)), "segment {segment}: a record of nowhere");
        if read.stats.complete {
            complete += 1;
            let sum = kept + read.stats.missing_records + read.stats.rotated_records;
            assert_eq!(sum, stats.records, "segment {segment}; {cut}");
        }
    }
    assert_eq!(complete, 3, "only in the newest segment the end is behind the damage");
}

/// A disk of so many bytes.
#[derive(Default)]
struct Disk {
    bytes: Memory,
    room: Cell<u64>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.room.get().saturating_sub(self.bytes.position()) as usize;
        if left == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.bytes.write(&bytes[..bytes.len().min(left)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Disk {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.bytes.seek(to)
    }
}

impl Sink for Disk {
    fn set_len(&mut self, len_bytes: u64) -> io::Result<()> {
        self.bytes.set_len(len_bytes)
    }
}

fn noise(random: &mut Random, records: usize) -> Batch {
    let noise = |random: &mut Random| (0..48).map(|_| random.next() as u8).collect::<Vec<_>>();
    batch_of(&(0..records).map(|index| record(sched::RENAME, 0, index as u64, &noise(random))).collect::<Vec<_>>())
}

#[test]
fn a_full_disk_is_told_once_counted_and_written_on_when_there_is_room_again() {
    let options = Options { chunk_bytes: 4096, ..Options::default() };
    let disk = Disk { room: Cell::new(20_000), ..Disk::default() };
    let (mut writer, mut random) = (Writer::new(disk, "full.trc", options).expect("a writer"), Random(3));
    let mut errors = Vec::new();
    for round in 0..10 {
        if round == 8 {
            writer.sink().room.set(1 << 20);
        }
        errors.extend(writer.write(&noise(&mut random, 100)).err());
        assert!(writer.sink().bytes.get_ref().len() as u64 <= writer.sink().room.get());
    }
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(told.len() == 1 && told[0].contains("full.trc") && told[0].contains("free disk space"), "{told:?}");
    let stats = writer.finish().expect("room again");
    assert!(stats.failed_chunks > 1, "{stats:?}");
    let read = read(writer.into_sink().bytes.get_ref()).expect("opens");
    assert_eq!((read.stats.missing_records, read.cut, read.stats.complete), (stats.failed_records, None, true));
    assert_eq!(read.stats.records + stats.dropped_records(), stats.records);
}

#[test]
fn a_disk_that_stays_full_leaves_whole_chunks_only() {
    let disk = Disk { room: Cell::new(20_000), ..Disk::default() };
    let options = Options { chunk_bytes: 4096, ..Options::default() };
    let mut writer = Writer::new(disk, "full.trc", options).expect("a writer");
    assert!(writer.write(&noise(&mut Random(3), 1000)).is_err());
    let _ = writer.finish();
    let stats = writer.stats();
    let read = read(writer.into_sink().bytes.get_ref()).expect("opens");
    let torn = read.cut.is_some_and(|cut| cut.reason != CutReason::NoEndMarker);
    assert!(!torn && read.cut.is_none() == read.stats.complete, "{:?}", read.cut);
    assert_eq!(read.stats.records + stats.failed_records, 1000, "{stats:?}");
}

#[test]
fn records_too_long_for_a_bounded_capture_are_counted_and_cost_nothing_else() {
    let options = Options { max_bytes: Some(LEAST_MAX_BYTES), ..Options::default() };
    let mut writer = Writer::new(Memory::default(), "t", options).expect("a writer");
    let mut random = Random(4);
    let long: Vec<u8> = (0..100_000).map(|_| random.next() as u8).collect();
    let records =
        [record(sched::FORK, 0, 1, &[1; 16]), record(kind(9, 9), 0, 2, &long), record(sched::FORK, 0, 3, &[2; 16])];
    assert!(writer.write(&batch_of(&records)).is_err(), "the first failure is told");
    let stats = writer.finish().expect("finished");
    assert_eq!((stats.failed_records, stats.rotated_records), (1, 0), "{stats:?}");
    let read = read(&writer.into_sink().into_inner()).expect("opens");
    assert_eq!((read.records.len(), read.stats.missing_records), (2, 1));
}

#[test]
fn only_regular_files_are_written_and_read_and_only_by_their_owner() {
    use std::os::unix::fs::{MetadataExt, symlink};
    let folder = std::env::temp_dir().join(format!("tracer-capture-test-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("a.trc");
    std::fs::write(&path, vec![7; 10_000]).expect("an old file");
    let mut writer = Writer::create(&path, Options::default()).expect("created");
    writer.write(&ball_game(10)).expect("written");
    writer.finish().expect("finished");
    assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
    let mut reader = Reader::open(&path).expect("opens");
    assert_eq!(reader.next_batch().expect("reads").map(|batch| batch.len()), Some(10));
    let link = folder.join("link");
    symlink(&path, &link).expect("a link");
    assert!(matches!(Writer::create(&link, Options::default()), Err(CaptureError::Link { .. })));
    assert!(Reader::open(&link).is_ok(), "a link is followed when reading");
    assert!(matches!(Writer::create(&folder, Options::default()), Err(CaptureError::NotRegular { .. })));
    assert!(matches!(Reader::open(&folder), Err(CaptureError::NotRegular { .. })));
    let socket = folder.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    assert!(matches!(Writer::create(&socket, Options::default()), Err(CaptureError::NotRegular { .. })));
    assert!(matches!(Reader::open(&folder.join("none")), Err(CaptureError::Open { .. })));
    let empty = folder.join("empty");
    std::fs::write(&empty, []).expect("an empty file");
    assert!(matches!(Reader::open(&empty), Err(CaptureError::Empty { .. })));
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn a_bound_too_small_to_rotate_in_is_refused() {
    let refused = Writer::new(Memory::default(), "t", Options { max_bytes: Some(1000), ..Options::default() });
    let message = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains("give at least 262144"), "{message}");
}

fn any_record() -> impl Strategy<Value = Vec<u8>> {
    let any_kind = prop_oneof![Just(meta::SEED), Just(sched::SWITCH), Just(sched::EXIT), any::<u16>()];
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 40),
        prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 17),
        prop::collection::vec(any::<u8>(), 0..200),
    ];
    let whole = (any_kind, prop_oneof![0u16..4, any::<u16>()], any::<u64>(), any::<u32>(), payload).prop_map(
        |(kind, cpu, ts_ns, lost, payload)| {
            let mut bytes = header_bytes(Header { ts_ns, kind, cpu, lost }).to_vec();
            bytes.extend_from_slice(&payload);
            bytes
        },
    );
    prop_oneof![9 => whole, 1 => prop::collection::vec(any::<u8>(), 0..16)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_records_come_back_as_they_were(
        records in prop::collection::vec(any_record(), 0..300),
        chunk_bytes in 1usize..20_000,
        bounded in any::<bool>(),
    ) {
        let max_bytes = bounded.then_some(8 << 20);
        let bytes = written(&[batch_of(&records)], Options { chunk_bytes, max_bytes, ..Options::default() });
        let read = read(&bytes).expect("opens");
        prop_assert_eq!(read.cut, None);
        prop_assert!(read.records == records);
    }

    #[test]
    fn switches_with_any_fields_come_back(seed in 1u64.., count in 1usize..400) {
        let mut random = Random(seed);
        let mut batch = Batch::new();
        for _ in 0..count {
            let few = |random: &mut Random| random.below(4) as u32;
            let kind = if random.below(3) == 0 { sched::SWITCH_FUTEX } else { sched::SWITCH };
            let switch = Switch {
                ts_ns: random.next(),
                cpu: random.below(3) as u16,
                prev: few(&mut random),
                next: few(&mut random),
                waker: random.next() as u32,
                object: random.below(2) * 0xffff_ffff_ffff,
                ..Switch::default()
            };
            switch.push_to(&mut batch, kind);
        }
        let read = read(&written(std::slice::from_ref(&batch), Options::default())).expect("opens");
        prop_assert!(read.records == records_of(&[batch]));
    }
}
