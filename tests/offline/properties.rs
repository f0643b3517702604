//! What must hold for every stream of records: order loses and changes nothing, and how records are cut into batches and chunks
//! does not show in the report.

use proptest::prelude::*;
use tracer::model::meta::{TargetRecord, TickRecord};
use tracer::pipeline::batch::{Batch, header};
use tracer::pipeline::decode::decode;
use tracer::pipeline::order::Order;
use tracer_common::record::{family_of, meta};

use crate::RECORDED;
use crate::records::{START_NS, exec, exit, meta_record, new_task, recording, rename, switch};
use crate::support::{capture_of, json, read, records_of, report, report_in_batches};

/// A record that a kernel could write within one second of recording, about a few threads.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let time = START_NS..START_NS + 1_000_000_000;
    let (tid, state) = (10_u32..18, prop_oneof![Just(0_u32), Just(1), Just(2), Just(0x2001), Just(0x80)]);
    (time, 0_u16..4, tid.clone(), tid, state, 0_u8..12).prop_map(|(ts_ns, cpu, prev, next, state, kind)| match kind {
        0 => new_task(ts_ns, next, prev, b"born"),
        1 => exit(ts_ns, prev, prev, b"dying"),
        2 => rename(ts_ns, prev, prev, b"renamed"),
        3 => exec(ts_ns, prev, b"program", b"/bin/program"),
        4 => switch(ts_ns, cpu, 0, next, 0),
        5 => switch(ts_ns, cpu, prev, 0, state),
        _ => switch(ts_ns, cpu, prev, next, state),
    })
}

/// Records as a live source hands them over: each CPU's in the order of time, the CPUs one after the other, a tick at the end of
/// each round.
fn rounds() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(plausible(), 0..40), 1..5).prop_map(|mut rounds| {
        let mut records = Vec::new();
        let slice_ns = 1_000_000_000 / rounds.len() as u64;
        for (number, round) in rounds.iter_mut().enumerate() {
            let start_ns = START_NS + number as u64 * slice_ns;
            for record in round.iter_mut() {
                let ts_ns = header(record).map_or(0, |header| start_ns + header.ts_ns % slice_ns);
                record[..8].copy_from_slice(&ts_ns.to_le_bytes());
            }
            round.sort_by_key(|record| header(record).map_or((0, 0), |header| (header.cpu, header.ts_ns)));
            records.append(round);
            let complete_ts_ns = start_ns + slice_ns - 1;
            records.push(meta_record(
                meta::TICK,
                complete_ts_ns,
                &TickRecord { complete_ts_ns, ..TickRecord::default() },
            ));
        }
        records
    })
}

fn ordered(records: &[Vec<u8>], per_batch: usize) -> Vec<Vec<u8>> {
    let (mut order, mut out) = (Order::default(), Vec::new());
    for chunk in records.chunks(per_batch) {
        let mut batch = Batch::new();
        chunk.iter().for_each(|record| batch.push(record));
        order.push(&batch);
        order.drain(&mut |record: &[u8]| out.push(record.to_vec()));
    }
    order.finish(&mut |record: &[u8]| out.push(record.to_vec()));
    out
}

fn time(record: &[u8]) -> u64 {
    header(record).map_or(0, |header| header.ts_ns)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_gives_each_record_once_in_the_order_of_time_and_all_of_them_decode(
        records in rounds(),
        per_batch in 1_usize..60,
    ) {
        let out = ordered(&records, per_batch);
        prop_assert!(out.windows(2).all(|pair| time(&pair[0]) <= time(&pair[1])), "not in the order of time");
        let (mut before, mut after) = (records.clone(), out.clone());
        before.sort();
        after.sort();
        prop_assert!(before == after, "records were lost, made up or changed");
        for record in &out {
            let event = decode(record);
            prop_assert!(event.is_ok(), "{event:?}");
            prop_assert_eq!(event.ok().map(|event| event.header()), header(record));
        }
    }

    #[test]
    fn the_report_does_not_show_where_batches_and_chunks_end(
        body in rounds(),
        per_batch in 1_usize..60,
        chunk_bytes in 64_usize..20_000,
    ) {
        let records = recording(&TargetRecord::default(), body);
        let live = json(&report_in_batches(&records, per_batch));
        prop_assert_eq!(&live, &json(&report(&records)));
        let captured = read(&capture_of(&records, chunk_bytes)).expect("a capture that was just written");
        prop_assert_eq!(captured.cut, None);
        prop_assert_eq!(&captured.records, &records);
        prop_assert_eq!(&live, &json(&report_in_batches(&captured.records, usize::MAX)));
    }

    #[test]
    fn order_does_not_change_what_is_in_order(records in rounds()) {
        let once = ordered(&records, 7);
        prop_assert_eq!(&ordered(&once, 11), &once);
    }
}

#[test]
fn recorded_captures_replay_the_same_byte_for_byte_in_batches_of_any_size() {
    for capture in RECORDED {
        let records = records_of(capture.name);
        let expected = json(&report(&records));
        for per_batch in [1, 2, 17, 250, 4096] {
            let replayed = json(&report_in_batches(&records, per_batch));
            assert!(replayed == expected, "{} in batches of {per_batch} differs", capture.name);
        }
        let again = read(&capture_of(&records, 1500)).expect("a capture that was just written").records;
        assert!(json(&report(&again)) == expected, "{} written anew in small chunks differs", capture.name);
    }
}

#[test]
fn each_recorded_record_comes_out_of_order_once() {
    for capture in RECORDED {
        let records = records_of(capture.name);
        let (mut before, mut after) = (records.clone(), ordered(&records, 100));
        let kernel = |records: &[Vec<u8>]| -> usize {
            records.iter().filter(|record| header(record).is_some_and(|header| family_of(header.kind) != 0)).count()
        };
        assert_eq!(kernel(&before), kernel(&after), "{}", capture.name);
        before.sort();
        after.sort();
        assert!(before == after, "{}: not the same records", capture.name);
    }
}
