//! Tests of the order: a permutation, sorted and stable, the same wherever batches end, bounded.

use super::*;
use crate::pipeline::batch::header_bytes;
use proptest::prelude::*;
use std::time::Instant;
use tracer_common::record::{Header, cpu, sched};

fn record(kind: u16, cpu: u16, ts_ns: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header_bytes(Header { ts_ns, kind, cpu, lost: 0 }).to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// A kernel record with a mark to know it by.
fn event(cpu: u16, ts_ns: u64, mark: u64) -> Vec<u8> {
    record(sched::SWITCH, cpu, ts_ns, &mark.to_le_bytes())
}

fn tick(ts_ns: u64, complete_ts_ns: u64) -> Vec<u8> {
    record(meta::TICK, 0, ts_ns, format!("{{\"complete_ts_ns\":{complete_ts_ns}}}").as_bytes())
}

fn ordered(order: &mut Order, records: &[Vec<u8>], per_batch: usize) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for part in records.chunks(per_batch.max(1)) {
        let mut batch = Batch::new();
        part.iter().for_each(|record| batch.push(record));
        order.push(&batch);
        order.drain(&mut |record| out.push(record.to_vec()));
    }
    order.finish(&mut |record| out.push(record.to_vec()));
    out
}

fn ts_of(record: &[u8]) -> u64 {
    header(record).map_or(0, |header| header.ts_ns)
}

#[test]
fn nothing_comes_out_before_a_tick_says_that_it_is_complete() {
    let mut order = Order::default();
    let mut batch = Batch::new();
    [event(0, 10, 0), event(0, 30, 0), event(1, 5, 0), event(1, 20, 0)].iter().for_each(|record| batch.push(record));
    order.push(&batch);
    let mut out = Vec::new();
    order.drain(&mut |record| out.push(ts_of(record)));
    assert!(out.is_empty(), "{out:?}");
    batch.clear();
    batch.push(&tick(40, 20));
    order.push(&batch);
    order.drain(&mut |record| out.push(ts_of(record)));
    assert_eq!((&out[..], order.held_records()), (&[5, 10, 20][..], 2), "30 and the tick itself wait");
    order.finish(&mut |record| out.push(ts_of(record)));
    assert_eq!(out, [5, 10, 20, 30, 40]);
}

#[test]
fn a_late_record_comes_out_at_once_and_is_counted() {
    let mut order = Order::default();
    let records = [event(0, 100, 0), tick(150, 120), event(1, 90, 1), event(1, 110, 2), tick(200, 180)];
    let out = ordered(&mut order, &records, 1);
    assert_eq!(out.iter().map(|record| ts_of(record)).collect::<Vec<_>>(), [100, 90, 110, 150, 200]);
    assert_eq!((order.stats().late, order.stats().max_late_ns), (1, 10), "110 is behind the tick, but harms nothing");
}

#[test]
fn facts_come_before_events_and_family_0_keeps_its_order() {
    let seed = record(meta::SEED, 0, 60, b"{}");
    let records = [
        event(0, 10, 0),
        seed.clone(),
        record(meta::HOST, 0, 50, b"{}"),
        record(meta::START, 0, 55, b"{}"),
        event(1, 7, 0),
        record(meta::LOSS, 0, 70, b"{}"),
        record(meta::COST, 0, 65, b"{}"),
        event(0, 68, 0),
        tick(90, 80),
    ];
    let out = ordered(&mut Order::default(), &records, 100);
    let seen: Vec<(u16, u64)> =
        out.iter().filter_map(|record| header(record)).map(|header| (header.kind, header.ts_ns)).collect();
    let expected = [
        (meta::SEED, 60),
        (meta::HOST, 50),
        (meta::START, 55),
        (sched::SWITCH, 7),
        (sched::SWITCH, 10),
        (sched::SWITCH, 68),
        (meta::LOSS, 70),
        (meta::COST, 65),
        (meta::TICK, 90),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn samples_and_definitions_pass_at_once_and_are_never_late() {
    let mut order = Order::default();
    let (sampled, frame) = (record(cpu::SAMPLED, 1, 5, &[]), record(meta::FRAME, 0, 300, b"{}"));
    let stream = [event(0, 100, 0), tick(150, 120), event(0, 160, 0), sampled, frame, event(0, 130, 0), tick(200, 180)];
    let (mut batch, mut out) = (Batch::new(), Vec::new());
    stream[..5].iter().for_each(|record| batch.push(record));
    order.push(&batch);
    order.drain(&mut |record| out.push(ts_of(record)));
    assert_eq!(out, [100, 5, 300], "the tick of 150 and the event of 160 wait, what passes does not");
    batch.clear();
    stream[5..].iter().for_each(|record| batch.push(record));
    order.push(&batch);
    order.finish(&mut |record| out.push(ts_of(record)));
    assert_eq!(out, [100, 5, 300, 130, 150, 160, 200], "a definition of 300 did not move the tick of 200");
    assert_eq!(order.stats().late, 0);
}

#[test]
fn a_tick_that_cannot_be_read_is_counted_and_releases_nothing() {
    let mut order = Order::default();
    let mut batch = Batch::new();
    batch.push(&event(0, 1, 0));
    batch.push(&record(meta::TICK, 0, 5, b"not json"));
    batch.push(&[1, 2, 3]);
    order.push(&batch);
    let mut out = Vec::new();
    order.drain(&mut |record| out.push(record.to_vec()));
    assert_eq!((order.stats().bad_ticks, out), (1, vec![vec![1, 2, 3]]));
}

#[test]
fn without_ticks_memory_stays_bounded_and_what_is_forced_is_counted() {
    let (mut order, bound) = (Order::new(100_000), 100_000);
    let (mut count, mut sorted, mut last) = (0u64, true, 0);
    for round in 0..200u64 {
        let mut batch = Batch::new();
        for cpu in 0..4u64 {
            (0..25).for_each(|index| batch.push(&event(cpu as u16, round * 1000 + index * 10 + cpu, 0)));
        }
        order.push(&batch);
        assert!(order.held_bytes <= bound, "{} bytes held", order.held_bytes);
        order.drain(&mut |record| {
            count += 1;
            sorted &= last <= ts_of(record);
            last = ts_of(record);
        });
        assert!(order.arena.len() <= 4 * bound, "{} bytes in the arena", order.arena.len());
    }
    assert!(order.stats().forced > 0 && order.stats().forced == count && sorted, "{:?}", order.stats());
    order.finish(&mut |_| count += 1);
    assert_eq!(count, 200 * 100);
}

/// Only prints the time: it is the machine's.
#[test]
fn four_rings_at_a_million_records_are_merged() {
    let mut batches = Vec::new();
    let mut now_ns = 0u64;
    for _ in 0..200 {
        let mut batch = Batch::new();
        for cpu in 0..4u16 {
            for index in 0..1250u64 {
                batch.push(&record(
                    sched::SWITCH,
                    cpu,
                    now_ns + index * 80_000 + (index * 7919 + u64::from(cpu)) % 50_000,
                    &[0; 40],
                ));
            }
        }
        now_ns += 100_000_000;
        batch.push(&tick(now_ns, now_ns - 5_000_000));
        batches.push(batch);
    }
    let (mut order, mut sum, mut last, mut sorted) = (Order::default(), 0u64, 0, true);
    let start = Instant::now();
    let mut sink = |record: &[u8]| {
        sum += 1;
        let ts_ns = ts_of(record);
        sorted &= last <= ts_ns;
        last = ts_ns;
    };
    for batch in &batches {
        order.push(batch);
        order.drain(&mut sink);
    }
    order.finish(&mut sink);
    println!("order: {:.0} ns per record", start.elapsed().as_nanos() as f64 / sum as f64);
    assert!(sorted && sum == 200 * 5001 && order.stats().late == 0, "{sum} records, {:?}", order.stats());
}

/// Any mixture: events of a few CPUs, family 0, ticks, and records without a header.
fn any_record() -> impl Strategy<Value = Vec<u8>> {
    let event = (0u16..4, 0u64..200).prop_map(|(cpu, ts_ns)| event(cpu, ts_ns, 0));
    let user = (1u16..16, 0u64..200).prop_map(|(kind, ts_ns)| record(kind, 0, ts_ns, b"{}"));
    let tick = (0u64..200, 0u64..200).prop_map(|(ts_ns, complete_ts_ns)| tick(ts_ns, complete_ts_ns));
    let far = (any::<u16>(), any::<u16>(), any::<u64>()).prop_map(|(kind, cpu, ts_ns)| record(kind, cpu, ts_ns, &[]));
    prop_oneof![8 => event, 2 => user, 1 => tick, 1 => far, 1 => prop::collection::vec(any::<u8>(), 0..16)]
}

/// Gives each record a mark in its header's `lost`, which the order does not look at, so that equal ones can be told apart.
fn marked(mut records: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for (index, record) in records.iter_mut().enumerate() {
        if let Some(lost) = record.get_mut(12..HEADER_BYTES) {
            lost.copy_from_slice(&(index as u32).to_le_bytes());
        }
    }
    records
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_record_comes_out_once_and_family_0_in_its_order(
        records in prop::collection::vec(any_record(), 0..200),
        bound in prop_oneof![Just(MAX_HELD_BYTES), 100usize..4000],
        per_batch in 1usize..50,
    ) {
        let records = marked(records);
        let out = ordered(&mut Order::new(bound), &records, per_batch);
        let (mut left, mut right) = (records.clone(), out.clone());
        left.sort();
        right.sort();
        prop_assert!(left == right, "not a permutation");
        let user = |records: &[Vec<u8>]| -> Vec<Vec<u8>> {
            let of_user = |record: &&Vec<u8>| {
                header(record).is_some_and(|header| family_of(header.kind) == 0 && !passes(header.kind))
            };
            records.iter().filter(of_user).cloned().collect()
        };
        prop_assert_eq!(user(&records), user(&out));
    }

    #[test]
    fn the_order_does_not_depend_on_where_batches_end(
        records in prop::collection::vec(any_record(), 0..200),
        bound in prop_oneof![Just(MAX_HELD_BYTES), 100usize..4000],
        per_batch in 1usize..50,
    ) {
        let records = marked(records);
        let (mut one, mut many) = (Order::new(bound), Order::new(bound));
        prop_assert_eq!(ordered(&mut one, &records, usize::MAX), ordered(&mut many, &records, per_batch));
        prop_assert_eq!(one.stats(), many.stats());
    }

    #[test]
    fn rings_within_the_lateness_come_out_sorted_and_stable(
        deltas in prop::collection::vec(prop::collection::vec(0u64..5, 0..40), 1..5),
        rounds in 1usize..6,
        per_batch in 1usize..50,
    ) {
        // Each ring is sorted; each round ends with a tick up to which all of them are complete.
        let mut records = Vec::new();
        let mut mark = 0;
        for round in 0..rounds as u64 {
            for (cpu, deltas) in deltas.iter().enumerate() {
                let mut ts_ns = round * 1000;
                for delta in deltas {
                    ts_ns += delta;
                    records.push(event(cpu as u16, ts_ns, mark));
                    mark += 1;
                }
            }
            records.push(tick(round * 1000 + 999, round * 1000 + 999));
        }
        let mut order = Order::default();
        let out = ordered(&mut order, &records, per_batch);
        let mut expected = records;
        expected.sort_by_key(|record| header(record).map_or((0, 0), |header| {
            (header.ts_ns, if header.kind == meta::TICK { u32::MAX } else { u32::from(header.cpu) })
        }));
        prop_assert_eq!(out, expected);
        prop_assert_eq!((order.stats().late, order.stats().forced), (0, 0));
    }
}
