//! Captures that are cut, damaged, of another version or no captures at all, and records that no kernel wrote: always a report
//! that is sound, or one clear error; never a panic.

use proptest::prelude::*;
use tracer::capture::{CaptureError, FORMAT_VERSION, Reader};
use tracer::model::meta::TargetRecord;
use tracer_common::ABI_VERSION;
use tracer_common::record::{meta, sched as kind};

use crate::RECORDED;
use crate::records::{START_NS, meta_record, new_task, prologue, record, recording, switch};
use crate::support::{assert_sound, capture_bytes, capture_of, defects, read, report};

/// Reads a capture that may be anything: the number of records, or the error's text.
#[track_caller]
fn try_report(what: &str, bytes: &[u8]) -> Result<usize, String> {
    match read(bytes) {
        Ok(content) => {
            let report = report(&content.records);
            assert_sound(what, &report);
            let whole = content.cut.is_none();
            assert!(
                whole || !content.records.is_empty() || report.threads.is_empty(),
                "{what}: threads out of nothing"
            );
            Ok(content.records.len())
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n') && text.contains("test.trc"), "{what}: no clear sentence: {text}");
            assert!(text.contains(';'), "{what}: the sentence does not say what to do: {text}");
            Err(text)
        }
    }
}

#[test]
fn a_capture_cut_at_any_length_gives_what_was_before_the_cut() {
    for name in ["mutex-attached", "fork-storm", "deadlock"] {
        let bytes = capture_bytes(name);
        let all = read(&bytes).expect("opens").records;
        let (start, end) = (0..200, bytes.len() - 70..bytes.len());
        let lengths = start.chain((200..end.start).step_by(67)).chain(end);
        let mut read_so_far = 0;
        for length in lengths {
            let what = format!("{name} cut at {length} of {}", bytes.len());
            let cut = &bytes[..length];
            match try_report(&what, cut) {
                Err(_) => assert!(length < 64, "{what}: an error though the header is whole"),
                Ok(count) => {
                    let content = read(cut).expect("opened before");
                    assert!(content.cut.is_some(), "{what}: nobody says that it was cut");
                    assert!(all.starts_with(&content.records), "{what}: not the first records");
                    assert!(count >= read_so_far, "{what}: {count} records, fewer than from a shorter piece");
                    read_so_far = count;
                }
            }
        }
    }
}

#[test]
fn a_cut_capture_says_so_in_its_report() {
    for capture in RECORDED {
        let bytes = capture_bytes(capture.name);
        // Without the end marker and a part of the last chunk.
        let content = read(&bytes[..bytes.len() - 100]).expect("opens");
        let report = report(&content.records);
        assert_sound(capture.name, &report);
        assert!(!report.window.complete, "{}: cut, and called complete", capture.name);
        assert!(report.window.clipped_reason.is_some(), "{}: no reason: {:?}", capture.name, report.window);
    }
}

#[test]
fn flipped_bits_never_harm_or_invent() {
    let mut random = fastrand::Rng::with_seed(20_240_229);
    for round in 0..600 {
        let capture = &RECORDED[random.usize(..RECORDED.len())];
        let original = capture_bytes(capture.name);
        let mut bytes = original.clone();
        let flips = random.usize(1..4);
        let places: Vec<usize> = (0..flips).map(|_| random.usize(..bytes.len() * 8)).collect();
        places.iter().for_each(|bit| bytes[bit / 8] ^= 1 << (bit % 8));
        if bytes == original {
            continue;
        }
        let what = format!("round {round}: {} with the bits {places:?} flipped", capture.name);
        if try_report(&what, &bytes).is_ok() {
            let (damaged, whole) = (read(&bytes).expect("opens"), read(&original).expect("opens"));
            assert!(damaged.cut.is_some(), "{what}: unnoticed");
            assert!(whole.records.starts_with(&damaged.records), "{what}: records that were never written");
        }
    }
}

#[test]
fn what_is_no_capture_is_refused_in_one_sentence() {
    let good = capture_bytes("sleep");
    let with = |at: usize, number: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    };
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("nothing", Vec::new(), "is empty"),
        (
            "a text",
            b"hello, this is not a capture at all, but a text of some length\n".to_vec(),
            "not a tracer capture",
        ),
        ("zeros", vec![0; 4096], "not a tracer capture"),
        ("a header cut off", good[..40].to_vec(), "cut off after 40 bytes"),
        ("another format", with(8, FORMAT_VERSION + 1), "format version"),
        ("another interface", with(12, ABI_VERSION + 1), "ABI version"),
        ("a damaged header", [&good[..20], &[0xff], &good[21..]].concat(), "header"),
    ];
    for (what, bytes, says) in cases {
        let error = try_report(what, &bytes).expect_err(what);
        assert!(error.contains(says), "{what}: {error:?} does not say {says:?}");
    }
}

#[test]
fn what_is_no_file_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = Reader::open(&folder.path().join("missing.trc")).err();
    assert!(matches!(missing, Some(CaptureError::Open { .. })), "{missing:?}");
    let directory = Reader::open(folder.path()).err();
    assert!(matches!(directory, Some(CaptureError::NotRegular { .. })), "{directory:?}");
}

#[test]
fn records_of_a_newer_tracer_are_counted_and_change_nothing_else() {
    let target = TargetRecord::default();
    let body = vec![new_task(START_NS + 1, 10, 10, b"one"), switch(START_NS + 2, 0, 0, 10, 0)];
    let plain = report(&recording(&target, body.clone()));
    let newer = [
        record(kind::SWITCH + 0x80, START_NS + 3, 1, &[1; 40]),
        record(0x7f01, START_NS + 4, 1, &[]),
        record(0x00ee, START_NS + 5, 0, b"{\"a\":1}"),
    ];
    let bytes = capture_of(&recording(&target, [body, newer.to_vec()].concat()), 1 << 20);
    let content = read(&bytes).expect("opens");
    assert_eq!((content.records.len(), content.cut), (4 + 2 + 3 + 2, None));
    let with = report(&content.records);
    assert_sound("newer kinds", &with);
    assert_eq!(with.threads, plain.threads, "records of unknown kinds changed the threads");
    let undecoded: u64 = with.coverage.undecoded_by_kind.values().sum();
    assert_eq!(undecoded, 3, "{:?}", with.coverage.undecoded_by_kind);
}

#[test]
fn impossible_values_give_a_sound_report() {
    let target = TargetRecord::default();
    let far = u64::MAX - 5;
    let bodies: [(&str, Vec<Vec<u8>>); 8] = [
        ("the end of time", vec![switch(far, 0, 10, 11, 1), switch(u64::MAX, 0, 11, 10, 1)]),
        ("the start of time", vec![new_task(0, 10, 10, b"old"), switch(0, 0, 0, 10, 0), switch(1, 0, 10, 0, 1)]),
        ("a CPU that does not exist", vec![switch(START_NS + 5, u16::MAX, 10, 11, 1)]),
        ("every bit of the state", vec![switch(START_NS + 5, 0, 10, 11, u32::MAX), switch(START_NS + 9, 0, 11, 10, 7)]),
        (
            "a thread that switches to itself",
            vec![switch(START_NS + 5, 0, 10, 10, 1), switch(START_NS + 6, 1, 10, 10, 0)],
        ),
        (
            "ids at the bound",
            vec![new_task(START_NS, u32::MAX, u32::MAX, b"max"), switch(START_NS + 5, 0, u32::MAX, 0, 1)],
        ),
        (
            "on two CPUs at once",
            (0..50).map(|n| switch(START_NS + n, (n % 2) as u16, 10, 10, (n % 3) as u32)).collect(),
        ),
        ("nothing but unreadable payloads", (0..12).map(|n| record(n, START_NS, 0, b"\xff{")).collect()),
    ];
    for (what, body) in bodies {
        assert_sound(what, &report(&recording(&target, body.clone())));
        assert_sound(what, &report(&body));
        try_report(what, &capture_of(&body, 64)).expect("a capture that was just written");
    }
}

#[test]
fn impossible_payloads_of_user_space_give_a_sound_report() {
    let big = i64::MAX;
    let payloads = [
        (meta::START, format!("{{\"attach_s\":-1e308,\"unix_offset_ns\":{big},\"boot_offset_ns\":{}}}", i64::MIN)),
        (meta::TICK, format!("{{\"complete_ts_ns\":{},\"unix_offset_ns\":{}}}", u64::MAX, i64::MIN)),
        (meta::LOSS, format!("{{\"families\":[{{\"family\":\"sched\",\"cpus\":[{{\"seen\":{0},\"submitted\":{0},\"lost\":[{0},{0},{0}]}}],\"queued\":{0},\"recursion_misses\":{0}}}]}}", u64::MAX)),
        (meta::SEED, format!("{{\"tid\":7,\"tgid\":7,\"start_boot_ns\":{},\"state\":\"???\",\"syscall\":{big},\"cpu_ns\":{}}}", u64::MAX, u64::MAX)),
        (meta::COST, "{\"measured_s\":0,\"programs\":[{\"name\":\"p\",\"runs\":0,\"ns\":18446744073709551615}],\"tracer_cpu_s\":1e300}".into()),
        (meta::END, format!("{{\"reason\":\"\",\"capture_dropped_records\":{},\"capture_failed_writes\":{}}}", u64::MAX, u64::MAX)),
        (meta::FAMILIES, "{\"family\":\"\",\"status\":\"?\"}".into()),
        (meta::HOST, "{\"cpus\":4294967295,\"memory_bytes\":18446744073709551615}".into()),
    ];
    for (kind, payload) in &payloads {
        let odd = record(*kind, START_NS + 5, 0, payload.as_bytes());
        let mut records = prologue(&TargetRecord::default());
        records.extend([new_task(START_NS + 1, 10, 10, b"one"), switch(START_NS + 2, 0, 0, 10, 0), odd]);
        assert_sound(payload, &report(&records));
    }
    let all: Vec<Vec<u8>> =
        payloads.iter().map(|(kind, payload)| record(*kind, START_NS, 0, payload.as_bytes())).collect();
    assert_sound("all of them", &report(&all));
    assert_sound("twice", &report(&[all.clone(), all].concat()));
    assert_sound("only an end", &report(&[meta_record(meta::END, 0, &serde_json::json!({}))]));
}

/// A record with a good header and some payload, of the right length more often than not.
fn odd_record() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop_oneof![8 => 0x101_u16..=0x10c, 4 => 1_u16..=10, 1 => any::<u16>()];
    let time = prop_oneof![6 => START_NS..START_NS + 1_000_000_000, 1 => any::<u64>()];
    let byte = prop_oneof![3 => Just(0_u8), 3 => 0_u8..4, 1 => any::<u8>()];
    (kinds, time, 0_u16..3, prop::collection::vec(byte, 160), any::<bool>()).prop_map(
        |(kind, ts_ns, cpu, bytes, exact)| {
            let length = match kind {
                kind::SWITCH | kind::ARRIVED | kind::POLLED => 40,
                kind::SWITCH_FUTEX => 80,
                kind::NEW_TASK => 48,
                kind::FORK => 16,
                kind::EXEC => 152,
                kind::EXIT | kind::MOVED => 40,
                kind::RENAME => 24,
                kind::CGROUP_MOVE => 144,
                _ => 20,
            };
            record(kind, ts_ns, cpu, &bytes[..if exact { length } else { usize::from(bytes[0]) % 160 }])
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_that_no_kernel_wrote_give_a_sound_report(
        body in prop::collection::vec(prop_oneof![20 => odd_record(), 1 => prop::collection::vec(any::<u8>(), 0..40)], 0..80),
        in_a_window in any::<bool>(),
    ) {
        let records = if in_a_window {
            let mut records = prologue(&TargetRecord::default());
            records.extend(body);
            records.push(meta_record(meta::END, START_NS + 1_000_000_000, &serde_json::json!({"reason": "duration"})));
            records
        } else {
            body
        };
        let report = report(&records);
        let defects = defects(&report);
        prop_assert!(defects.is_empty(), "{:#?}", defects);
    }

    #[test]
    fn recorded_captures_with_damaged_records_give_a_sound_report(
        capture in 0..RECORDED.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..60),
        dropped in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut records = crate::support::records_of(RECORDED[capture].name);
        for (record, byte, value) in edits {
            let record = record.get_mut(&mut records);
            let position = byte.index(record.len());
            record[position] = value;
        }
        for index in dropped {
            let at = index.index(records.len());
            records.remove(at);
        }
        let defects = defects(&report(&records));
        prop_assert!(defects.is_empty(), "{}: {:#?}", RECORDED[capture].name, defects);
    }
}
