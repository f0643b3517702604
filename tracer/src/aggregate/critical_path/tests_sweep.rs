//! Tests of the sweep over made-up histories, held against sums that are made nanosecond by nanosecond.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::sweep::{WHOLE, sweep};
use super::tests::{MS, Made, TIMER, any_thread, by_task, history};
use crate::aggregate::classify::State;

#[test]
fn time_alone_counts_more_than_time_beside_others() {
    // 1 runs alone for 10 ms, then beside 2 for 20 ms; 2 waits for 1 before.
    let first = Made::new(1, 0).runs(10 * MS).queues(20 * MS);
    let second = Made::new(2, 0).waits(10 * MS, State::Futex, 1, by_task(1)).runs(20 * MS);
    let history = history(vec![first, second]);
    let swept = sweep(&history, |serial| serial, |_| WHOLE, &[(5 * MS, 101, 7), (15 * MS, 102, 8)]);
    assert_eq!(swept.active_ns, 30 * MS);
    assert_eq!((swept.critical_ns[&1] as u64, swept.critical_ns[&2] as u64), (20 * MS, 10 * MS));
    assert_eq!(swept.edges, [((2, 1), u128::from(10 * MS))].into_iter().collect());
    let rates = (swept.at_samples[&(101, 7)], swept.at_samples[&(102, 8)]);
    assert_eq!(rates, (1.0, 0.5), "a sample counts what its moment counts");
}

#[test]
fn who_spins_is_not_active() {
    let spinner = Made::new(1, 0).runs(30 * MS);
    let worker = Made::new(2, 0).runs(20 * MS).waits(10 * MS, State::Timer, 0, TIMER);
    let history = history(vec![spinner, worker]);
    let swept = sweep(&history, |serial| serial, |serial| if serial == 1 { 0 } else { WHOLE }, &[]);
    assert_eq!((swept.active_ns, swept.critical_ns.get(&1)), (20 * MS, None));
    assert_eq!(swept.critical_ns[&2] as u64, 20 * MS);
}

#[test]
fn a_wait_counts_for_all_whom_it_keeps_waiting() {
    // 1 and 4 wait for 2, which waits for 3 for the last 40 of 60 ms.
    let waits = |serial| Made::new(serial, 0).waits(60 * MS, State::Futex, 1, by_task(2)).runs(MS);
    let middle = Made::new(2, 0).runs(20 * MS).waits(40 * MS, State::Pipe, 2, by_task(3)).runs(MS);
    let last = Made::new(3, 0).runs(61 * MS);
    let history = history(vec![waits(1), middle, last, waits(4)]);
    let swept = sweep(&history, |serial| if serial == 4 { 1 } else { serial }, |_| WHOLE, &[]);
    let edges: BTreeMap<(u32, u32), u64> =
        swept.edges.iter().map(|(edge, ns)| (*edge, (*ns / u128::from(MS)) as u64)).collect();
    assert_eq!(edges, [((1, 2), 120), ((2, 3), 3 * 40)].into());
}

#[test]
fn a_lock_tried_over_and_over_is_an_edge_to_who_gave_it() {
    let mut waiter = Made::new(1, 0);
    for _ in 0..4 {
        waiter = waiter.waits(5 * MS, State::Futex, 9, TIMER).runs(10_000);
    }
    let waiter = waiter.waits(5 * MS, State::Futex, 9, by_task(2)).runs(MS);
    let history = history(vec![waiter, Made::new(2, 0).runs(30 * MS)]);
    let swept = sweep(&history, |serial| serial, |_| WHOLE, &[]);
    assert_eq!(swept.edges, [((1, 2), u128::from(25 * MS))].into_iter().collect());
}

#[test]
fn threads_that_seem_to_wait_for_each_other_in_a_circle_do_not_multiply() {
    // 1 and 2 wait for each other, 3 and 4 for the first of them.
    let waits = |serial, waker| Made::new(serial, 0).waits(60 * MS, State::Futex, 1, by_task(waker)).runs(MS);
    let history = history(vec![waits(1, 2), waits(2, 1), waits(3, 1), waits(4, 1)]);
    let swept = sweep(&history, |serial| serial, |_| WHOLE, &[]);
    let most = swept.edges.values().max().copied().unwrap_or_default();
    assert!(most <= u128::from(4 * 60 * MS), "at most four threads hang on an edge: {:?}", swept.edges);
}

/// The same by following each wait by itself, for every nanosecond.
fn cascaded(threads: &[Vec<(u64, Option<u32>)>], from: usize) -> BTreeMap<(u32, u32), u128> {
    let at = |serial: u32, ns: u64| -> Option<u32> {
        let mut upto = 0;
        let list = threads.get(serial as usize - 1)?;
        list.iter().find_map(|(length, waker)| {
            upto += length;
            (ns < upto).then_some(*waker)
        })?
    };
    let mut edges = BTreeMap::new();
    for ns in 0..from as u64 {
        for root in 1..=threads.len() as u32 {
            let mut serial = root;
            while let Some(waker) = at(serial, ns).filter(|waker| *waker > serial && *waker <= threads.len() as u32) {
                *edges.entry((serial, waker)).or_default() += 1;
                serial = waker;
            }
        }
    }
    edges
}

proptest! {
    #[test]
    fn criticality_sums_to_the_time_in_which_any_thread_was_active(
        threads in prop::collection::vec(any_thread(), 1..6), weights in prop::collection::vec(0u32..=WHOLE, 6)
    ) {
        let (mut made, mut active) = (Vec::new(), std::collections::BTreeSet::new());
        for (index, (start, _, list)) in threads.into_iter().enumerate() {
            let (mut thread, mut at) = (Made::new(index as u32 + 1, start), start);
            for (length_ns, kind, waker) in list {
                thread = match kind {
                    0 | 1 => {
                        if weights[index] > 0 { active.extend(at..at + length_ns); }
                        if kind == 0 { thread.runs(length_ns) } else { thread.queues(length_ns) }
                    }
                    2 => thread.spend(State::Unknown, length_ns, None),
                    3 => thread.waits(length_ns, State::Futex, u64::from(waker), TIMER),
                    _ => thread.waits(length_ns, State::Futex, u64::from(waker), by_task(waker)),
                };
                at += length_ns;
            }
            made.push(thread);
        }
        let swept = sweep(&history(made), |serial| serial, |serial| weights[serial as usize - 1], &[]);
        prop_assert_eq!(swept.active_ns, active.len() as u64, "time in which any was active");
        let sum: f64 = swept.critical_ns.values().sum();
        prop_assert!((sum - active.len() as f64).abs() < 1e-6, "{} of {}", sum, active.len());
    }

    #[test]
    fn edges_are_those_of_following_each_wait_by_itself(
        threads in prop::collection::vec(prop::collection::vec((1u64..30, 0u32..7), 1..12), 1..6)
    ) {
        // Who waits does so for a thread with a greater number, so that no circle comes about.
        let number = |serial: u32, waker: u32| Some(waker).filter(|waker| *waker > serial);
        let plain: Vec<Vec<(u64, Option<u32>)>> = threads.iter().zip(1..).map(|(list, serial)| {
            list.iter().map(|(length, waker)| (*length, number(serial, *waker))).collect()
        }).collect();
        let made = plain.iter().zip(1..).map(|(list, serial)| {
            list.iter().fold(Made::new(serial, 0), |made, (length, waker)| match waker {
                Some(waker) => made.waits(*length, State::Pipe, u64::from(*waker), by_task(*waker)),
                None => made.runs(*length),
            })
        });
        let swept = sweep(&history(made.collect()), |serial| serial, |_| WHOLE, &[]);
        let edges: BTreeMap<(u32, u32), u128> = swept.edges.into_iter().collect();
        prop_assert_eq!(edges, cascaded(&plain, 400));
    }
}
