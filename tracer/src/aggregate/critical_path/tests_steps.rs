//! Tests of steps: by made-up histories, where every nanosecond's part is known, and by whole streams of events.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tracer_common::record::Header;
use tracer_common::sched::Step;

use super::history::{History, Life};
use super::step_causes::{every, slow_from_ns, spread, walk_steps};
use super::steps::Steps;
use super::tests::{MS, Made, TIMER, any_thread, by_task, history};
use super::timeline::Timeline;
use crate::aggregate::Aggregate;
use crate::aggregate::classify::State;
use crate::aggregate::python::Pythons;
use crate::model::event::{Event, Meta};
use crate::model::meta::TargetRecord;
use crate::model::steps::Steps as Section;
use crate::testing::{self, Leave};

/// Entries of a thread that is live in an aggregate, so that they count.
fn entered(list: &[(u32, u64)]) -> Steps {
    let mut aggregate = Aggregate::new(crate::aggregate::table::Bounds::default());
    let most = list.iter().map(|(serial, _)| *serial).max().unwrap_or(0);
    for event in testing::prologue(0) {
        aggregate.event(&event);
    }
    for serial in 1..=most {
        aggregate.event(&Event::NewTask(testing::new_task(0, 100 + serial, 101, 1, "made")));
    }
    for (serial, ts_ns) in list {
        let header = Header { ts_ns: *ts_ns, kind: tracer_common::record::sched::STEP, cpu: 0, lost: 0 };
        aggregate.event(&Event::Step(Step { header, tid: 100 + serial, tgid: 101 }));
    }
    std::mem::take(&mut aggregate.steps)
}

fn life(end_ns: u64) -> History {
    history(vec![Made::new(1, 0).runs(end_ns)])
}

#[test]
fn a_step_goes_from_one_entry_to_the_next_and_the_rest_is_told() {
    let rows = entered(&[(1, 10 * MS), (1, 30 * MS), (1, 60 * MS)]).rows(&life(100 * MS));
    let row = &rows[&1];
    let spans: Vec<(u64, u64, u64)> = row.spans.iter().map(|span| (span.number, span.start_ns, span.end_ns)).collect();
    assert_eq!(spans, [(1, 10 * MS, 30 * MS), (2, 30 * MS, 60 * MS)]);
    assert_eq!((row.before_ns, row.after_ns), (10 * MS, 40 * MS), "what is open at the end is no step");
}

#[test]
fn entries_of_one_thread_make_no_steps_of_another() {
    let both = history(vec![Made::new(1, 0).runs(100 * MS), Made::new(2, 0).runs(100 * MS)]);
    let rows = entered(&[(1, 10 * MS), (2, 20 * MS), (1, 30 * MS), (2, 60 * MS)]).rows(&both);
    let spans: BTreeMap<u32, Vec<u64>> =
        rows.iter().map(|(serial, row)| (*serial, row.spans.iter().map(|span| span.ns()).collect())).collect();
    assert_eq!(spans, [(1, vec![20 * MS]), (2, vec![40 * MS])].into());
    assert_eq!(entered(&[]).longest(&both), None);
    assert_eq!(entered(&[(1, 10 * MS), (2, 20 * MS), (1, 30 * MS), (2, 60 * MS)]).longest(&both), Some(2));
}

#[test]
fn over_the_bound_the_oldest_entries_are_forgotten_and_counted() {
    let mut steps = Steps::default();
    const ENTRIES: u64 = (1 << 20) + 10;
    (1..=ENTRIES).for_each(|at_ns| steps.enter(1, at_ns, 0));
    let row = &steps.rows(&life(2 * ENTRIES))[&1];
    assert_eq!((steps.entries(), steps.forgotten, row.spans.len()), (ENTRIES, 10, (1 << 20) - 1));
    assert_eq!((row.spans[0].number, row.before_ns), (11, 11), "numbers go on where those that are forgotten ended");
}

#[test]
fn what_the_interpreter_writes_to_a_function_is_no_call() {
    let mut steps = Steps::default();
    for at_ns in [10 * MS, 10 * MS + 9_000, 30 * MS, 60 * MS, 60 * MS + 60_000] {
        steps.enter(1, at_ns, 50_000);
    }
    let spans: Vec<u64> = steps.rows(&life(100 * MS))[&1].spans.iter().map(|span| span.ns()).collect();
    assert_eq!(spans, [20 * MS, 30 * MS, 60_000]);
}

#[test]
fn each_step_has_what_was_done_within_it() {
    // Two steps of 50 ms; in the second one it waits 30 ms for a thread that sleeps.
    let main = Made::new(1, 0).runs(70 * MS).waits(30 * MS, State::Futex, 9, by_task(2)).runs(MS);
    let other = Made::new(2, 0).waits(200 * MS, State::Timer, 0, TIMER);
    let history = history(vec![main, other]);
    let rows = entered(&[(1, 0), (1, 50 * MS), (1, 100 * MS)]).rows(&history);
    let known = (&history, &Timeline::default(), &Pythons::default());
    let walked = walk_steps(&rows, known, slow_from_ns(50 * MS));
    let told: BTreeMap<&str, Vec<u64>> =
        walked.values.iter().map(|(key, values)| (key.state.id(), values.iter().map(|ns| ns / MS).collect())).collect();
    assert_eq!(told, [("on_cpu", vec![20, 50]), ("timer", vec![30])].into(), "the youngest step first");
    assert_eq!((walked.slow, walked.ordinary, walked.longest.len()), (0, 2, 2));
}

#[test]
fn times_of_steps_in_which_a_cause_is_not_met_are_none() {
    let of = spread(&[10 * MS, 30 * MS], 10);
    assert_eq!((of.min_s, of.p50_s, of.p90_s, of.max_s, of.mean_s), (0.0, 0.0, 0.010, 0.030, 0.004));
    let of = spread(&[3 * MS, MS, 2 * MS], 3);
    assert_eq!((of.min_s, of.p50_s, of.p90_s, of.max_s), (0.001, 0.002, 0.003, 0.003));
    assert_eq!(spread(&[], 0), Default::default());
}

#[test]
fn slow_steps_that_come_regularly_are_told_from_others() {
    assert_eq!(every(&[vec![10, 20, 30, 40, 50]]), Some(10));
    assert_eq!(every(&[vec![10, 20, 24, 30, 40, 50, 60]]), Some(10), "another one between them changes nothing");
    assert_eq!(every(&[vec![10, 20, 30, 50, 60]]), Some(10), "nor does one that is missing");
    assert_eq!(every(&[vec![10, 23, 31, 44, 60]]), None);
    assert_eq!(every(&[vec![10, 20, 90, 100]]), None, "most are missing");
    assert_eq!(every(&[vec![1, 2, 3, 4, 5]]), None, "one after the other is no rhythm");
    assert_eq!((every(&[vec![4]]), every(&[])), (None, None));
}

/// A thread that computes 10 ms a step, and in each tenth step waits 30 ms more for a mutex that another one holds while it sleeps.
fn stepping(steps: u64, slow_each: u64) -> Section {
    const START: u64 = 1_000_000_000;
    let idle = Leave::Sleep { syscall: 202, fd_kind: 0, object: 0 };
    let sleep = Leave::Sleep { syscall: 230, fd_kind: 0, object: 0 };
    let mut events = vec![
        Event::NewTask(testing::new_task(START, 10, 10, 1, "main")),
        Event::NewTask(testing::new_task(START, 11, 10, 10, "holder")),
        Event::Switch(testing::switch(START, 0, 0, 10, Leave::Preempted)),
        Event::Switch(testing::switch(START, 1, 0, 11, Leave::Preempted)),
        Event::Switch(testing::switch(START + 1, 1, 11, 0, sleep)),
    ];
    let mut at_ns = START + MS;
    for step in 1..=steps {
        events.push(testing::step(at_ns, 10, 10));
        if slow_each > 0 && step % slow_each == 0 {
            let waits = testing::on_mutex(testing::switch(at_ns + MS, 0, 10, 0, idle), 0x7f00_1000, 11);
            events.push(Event::SwitchFutex(waits));
            let wakes = testing::switch(at_ns + 31 * MS - 1_000, 1, 0, 11, Leave::Preempted);
            events.push(Event::Switch(testing::woken(wakes, tracer_common::sched::WakeContext::Timer, 0, 0)));
            let gets = testing::switch(at_ns + 31 * MS, 0, 0, 10, Leave::Preempted);
            events.push(Event::Switch(testing::woken(gets, tracer_common::sched::WakeContext::Task, 11, 0)));
            events.push(Event::Switch(testing::switch(at_ns + 31 * MS + 1, 1, 11, 0, sleep)));
            at_ns += 30 * MS;
        }
        at_ns += 10 * MS;
    }
    let kernel = events.len() as u64;
    let end = testing::epilogue(at_ns, kernel);
    let mut first = testing::prologue(START);
    for event in &mut first {
        if let Event::Meta(_, meta) = event
            && let Meta::Target(target) = &mut **meta
        {
            *target = TargetRecord { pids: vec![10], step: Some("./a:step".to_owned()), ..target.clone() };
        }
    }
    let report = testing::analyse(&first.into_iter().chain(events).chain(end).collect::<Vec<_>>());
    report.critical_path.and_then(|path| path.steps).expect("steps")
}

#[test]
fn what_slow_steps_spend_more_on_is_named() {
    let steps = stepping(101, 10);
    assert_eq!((steps.entries, steps.count, steps.incomplete, steps.not_walked), (101, 100, 1, 0));
    assert_eq!((steps.duration.p50_s, steps.duration.p90_s, steps.duration.max_s), (0.010, 0.010, 0.040));
    let slow = steps.slow.as_ref().expect("each tenth is slow");
    assert_eq!((slow.count, slow.ordinary, slow.every, slow.more_s), (10, 90, Some(10), 0.030));
    let most = &slow.more_in[0];
    assert_eq!((most.part.state.as_str(), most.part.thread.as_deref()), ("timer", Some("holder")), "{slow:?}");
    assert!((0.029..=0.030).contains(&most.more_s), "{most:?}");
    assert_eq!(most.part.within.as_ref().map(|within| within.state.as_str()), Some("futex"), "{most:?}");
    assert_eq!(steps.slowest.len(), 8);
    for step in &steps.slowest {
        assert_eq!((step.s, step.number % 10), (0.040, 0), "{step:?}");
        let sum: f64 = step.parts.iter().map(|part| part.s).sum();
        assert!((sum - step.s).abs() < 1e-9, "{step:?}");
    }
    let sum: f64 = steps.causes.iter().map(|cause| cause.part.s).sum();
    assert!((sum - steps.total_s).abs() < 1e-9, "causes sum to the steps: {steps:?}");
}

#[test]
fn of_steps_that_are_all_alike_none_is_slow() {
    let steps = stepping(60, 0);
    assert_eq!((steps.count, steps.slow), (59, None));
    assert_eq!((steps.before_s, steps.total_s, steps.after_s), (0.001, 0.590, 0.010));
}

proptest! {
    #[test]
    fn parts_of_each_step_sum_to_its_time_whatever_is_recorded(
        threads in prop::collection::vec(any_thread(), 1..6),
        cuts in prop::collection::vec(0u64..1600, 2..40),
    ) {
        let made = threads.into_iter().enumerate().map(|(index, (start, creator, list))| {
            let made = Made::new(index as u32 + 1, start).by(creator);
            list.into_iter().fold(made, |made, (length_ns, kind, waker)| match kind {
                0 => made.runs(length_ns),
                1 => made.queues(length_ns),
                2 => made.spend(State::Unknown, length_ns, None),
                3 => made.waits(length_ns, State::Futex, u64::from(waker), TIMER),
                _ => made.waits(length_ns, State::Futex, u64::from(waker), by_task(waker)),
            })
        });
        let history = history(made.collect());
        let mut entries: Vec<(u32, u64)> = cuts.iter().map(|at_ns| (1, *at_ns)).collect();
        entries.sort_unstable();
        let rows = entered(&entries).rows(&history);
        let walked = walk_steps(&rows, (&history, &Timeline::default(), &Pythons::default()), 20);
        let Life { start_ns, end_ns, .. } = *history.life(1).expect("the first");
        let steps_ns: u64 = rows.values().map(|row| row.total_ns()).sum();
        let around_ns: u64 = rows.values().map(|row| row.before_ns + row.after_ns).sum();
        prop_assert!(rows.is_empty() || steps_ns + around_ns == end_ns - start_ns, "{:?}", rows);
        let in_parts: u64 = walked.all_path.parts.values().map(|sum| sum.ns).sum();
        let in_values: u64 = walked.values.values().flatten().sum();
        prop_assert_eq!((in_parts, in_values, walked.total_ns), (steps_ns, steps_ns, steps_ns));
        for (span, path) in &walked.longest {
            prop_assert_eq!(path.parts.values().map(|sum| sum.ns).sum::<u64>(), span.ns(), "{:?}", span);
        }
    }
}

/// Twenty rounds of computing and waiting for what `state` says, each 10 ms.
fn rounds(serial: u32, state: State) -> Made {
    (0..20).fold(Made::new(serial, 0), |made, _| made.runs(4 * MS).waits(6 * MS, state, 7, TIMER))
}

#[test]
fn a_wait_that_a_thread_comes_back_to_begins_its_steps() {
    let history = history(vec![rounds(1, State::Pipe).runs(10 * MS)]);
    let pythons = Pythons::default();
    let cycle = super::cycle::find(&mut super::history::Reader::new(&history, &pythons), 1, (0, 210 * MS));
    let cycle = cycle.expect("it waits every 10 ms");
    assert_eq!((cycle.reason.state, cycle.starts_ns.len(), cycle.starts_ns[0]), (State::Pipe, 20, 4 * MS));
    let rows = cycle.steps(1).rows(&history);
    assert_eq!((rows[&1].spans.len(), rows[&1].spans[0].ns()), (19, 10 * MS));
    let known = (&history, &Timeline::default(), &pythons);
    let walked = walk_steps(&rows, known, slow_from_ns(10 * MS));
    assert_eq!((walked.total_ns, walked.ordinary), (190 * MS, 19), "a wait belongs to the step that it begins");
}

#[test]
fn a_thread_that_waits_for_something_else_each_time_has_no_cycle() {
    let states = [State::Pipe, State::Futex, State::File, State::Poll, State::SocketUnix];
    let all = states.iter().fold(Made::new(1, 0), |made, state| made.runs(4 * MS).waits(6 * MS, *state, 7, TIMER));
    let history = history(vec![all.runs(150 * MS)]);
    let pythons = Pythons::default();
    assert_eq!(super::cycle::find(&mut super::history::Reader::new(&history, &pythons), 1, (0, 200 * MS)), None);
}
