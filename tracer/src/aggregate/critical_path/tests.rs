//! Tests of the walk over made-up histories, where every nanosecond's part is known.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tracer_common::sched::WakeContext;

use super::history::{History, Life, Reader};
use super::timeline::Timeline;
use super::trail::{Ending, Interval, Trail, Wait, Waker};
use super::walk::{Cause, Path, walk};
use crate::aggregate::classify::{Detail, Reason, State};
use crate::aggregate::python::Pythons;

pub(super) const MS: u64 = 1_000_000;

/// A thread that is being made: its trail follows from its start on.
pub(super) struct Made {
    serial: u32,
    life: Life,
    trail: Trail,
}

impl Made {
    pub(super) fn new(serial: u32, start_ns: u64) -> Self {
        let life = Life { tid: 100 + serial, tgid: 101, start_ns, end_ns: start_ns, ..Life::default() };
        Made { serial, life, trail: Trail::default() }
    }

    pub(super) fn by(mut self, creator: u32) -> Self {
        self.life.creator = creator;
        self
    }

    pub(super) fn spend(mut self, state: State, length_ns: u64, wait: Option<Wait>) -> Self {
        let start_ns = self.life.end_ns;
        self.life.end_ns += length_ns;
        self.trail.push(Interval { start_ns, end_ns: self.life.end_ns, state, wait });
        self
    }

    pub(super) fn runs(self, length_ns: u64) -> Self {
        self.spend(State::OnCpu, length_ns, None)
    }

    pub(super) fn queues(self, length_ns: u64) -> Self {
        self.spend(State::Runnable, length_ns, None)
    }

    pub(super) fn waits(self, length_ns: u64, state: State, object: u64, ending: Ending) -> Self {
        let reason = Reason { state, detail: Detail::None, syscall: 202 };
        self.spend(state, length_ns, Some(Wait { reason, object, place: 5, ending, is_retry: false, joins_on: false }))
    }
}

fn joins(mut made: Made, length_ns: u64, thread: u32) -> Made {
    let reason = Reason { state: State::Futex, detail: Detail::None, syscall: 202 };
    let wait = Wait { reason, object: 7, place: 5, ending: by_task(thread), is_retry: false, joins_on: true };
    made = made.spend(State::Futex, length_ns, Some(wait));
    made
}

pub(super) fn history(threads: Vec<Made>) -> History {
    let mut history = History::default();
    for mut thread in threads {
        history.end(thread.serial, thread.life, &mut thread.trail);
    }
    history
}

fn path_of(threads: Vec<Made>) -> Path {
    let history = history(threads);
    let life = *history.life(1).expect("the first thread");
    let path = walk(
        &mut Reader::new(&history, &Pythons::default()),
        &Timeline::default(),
        1,
        (life.start_ns, life.end_ns),
        u64::MAX,
    );
    let sum: u64 = path.parts.values().map(|sum| sum.ns).sum();
    assert_eq!(sum, life.end_ns - life.start_ns, "the parts sum to the wall time: {path:?}");
    path
}

/// Milliseconds by thread and state.
fn told(path: &Path) -> BTreeMap<(u32, &'static str), u64> {
    let mut told = BTreeMap::new();
    for (key, sum) in &path.parts {
        *told.entry((key.serial, key.state.id())).or_default() += sum.ns / MS;
    }
    told
}

pub(super) fn by_task(serial: u32) -> Ending {
    Ending::Woken(WakeContext::Task, Waker::Traced(serial))
}

pub(super) const TIMER: Ending = Ending::Woken(WakeContext::Timer, Waker::None);

#[test]
fn a_wait_is_explained_by_what_its_waker_did_meanwhile() {
    let consumer =
        Made::new(1, 0).runs(10 * MS).waits(50 * MS, State::Pipe, 9, by_task(2)).queues(5 * MS).runs(10 * MS);
    let producer = Made::new(2, 0).runs(20 * MS).waits(15 * MS, State::Timer, 0, TIMER).queues(5 * MS).runs(40 * MS);
    let path = path_of(vec![consumer, producer]);
    let expected =
        [((1, "on_cpu"), 20), ((1, "runnable"), 5), ((2, "on_cpu"), 10 + 20), ((2, "timer"), 15), ((2, "runnable"), 5)];
    assert_eq!(told(&path), expected.into(), "a queue wait is never a cause itself");
    let pipe = path.waits.iter().find(|(key, _)| key.state == State::Pipe).expect("the pipe is told");
    assert_eq!(pipe.1.ns, 50 * MS, "but how much of the path it is the reason of is told");
    for (key, sum) in &path.parts {
        let own = key.serial == 1;
        assert_eq!(key.within.is_none(), own, "{key:?}: {sum:?} says whether it is the thread's own time");
    }
}

#[test]
fn threads_that_are_joined_one_after_the_other_are_waited_for_until_the_last_has_ended() {
    // 2 works under a lock all the time and ends; 3 waits for the lock, then works. Main joins 2 first, although only 3 matters.
    let main = Made::new(1, 0).waits(40 * MS, State::Futex, 2, by_task(2)).runs(MS);
    let main = joins(main, 39 * MS, 3).runs(10 * MS);
    let first = Made::new(2, 0).runs(40 * MS);
    let second = Made::new(3, 0).waits(40 * MS, State::Futex, 0x40, by_task(2)).runs(40 * MS);
    let path = path_of(vec![main, first, second]);
    let lock = path.waits.iter().find(|(key, _)| key.object == 0x40).expect("the lock is on the path");
    assert_eq!(lock.1.ns, 40 * MS, "without the lock the second would have ended so much earlier");
    assert_eq!(told(&path), [((1, "on_cpu"), 10), ((2, "on_cpu"), 40), ((3, "on_cpu"), 40)].into());
}

#[test]
fn waits_are_followed_through_several_threads() {
    // 1 waits for 2, which waits for 3, which waits for a device.
    let first = Made::new(1, 0).waits(90 * MS, State::Futex, 1, by_task(2)).runs(10 * MS);
    let second = Made::new(2, 0).runs(10 * MS).waits(70 * MS, State::Futex, 2, by_task(3)).runs(20 * MS);
    let device = Ending::Woken(WakeContext::Device, Waker::None);
    let third = Made::new(3, 0).runs(30 * MS).waits(40 * MS, State::File, 7, device).runs(30 * MS);
    let path = path_of(vec![first, second, third]);
    let expected = [((1, "on_cpu"), 10), ((2, "on_cpu"), 10 + 10), ((3, "on_cpu"), 20 + 10), ((3, "file"), 40)];
    assert_eq!(told(&path), expected.into());
    let causes: Vec<Cause> = path.parts.keys().filter(|key| key.state == State::File).map(|key| key.cause).collect();
    assert_eq!(causes, [Cause::Context(WakeContext::Device)]);
}

#[test]
fn a_thread_that_did_not_exist_yet_is_explained_by_its_creator() {
    let parent = Made::new(1, 0).runs(10 * MS).waits(60 * MS, State::Child, 0, by_task(3));
    let middle = Made::new(2, 0).runs(50 * MS);
    let child = Made::new(3, 40 * MS).by(2).runs(40 * MS);
    let path = path_of(vec![parent, middle, child]);
    assert_eq!(told(&path), [((1, "on_cpu"), 10), ((2, "on_cpu"), 30), ((3, "on_cpu"), 30)].into());
}

#[test]
fn a_lock_tried_with_a_timeout_over_and_over_is_one_wait() {
    // As CPython waits for its interpreter lock: 5 ms, again and again, until the holder gives it up.
    let mut waiter = Made::new(1, 0).runs(10 * MS);
    for _ in 0..8 {
        waiter = waiter.waits(5 * MS, State::Futex, 0x60, TIMER).queues(1_000).runs(9_000);
    }
    let waiter = waiter.waits(5 * MS, State::Futex, 0x60, by_task(2)).runs(10 * MS);
    let holder = Made::new(2, 0).runs(100 * MS);
    let path = path_of(vec![waiter, holder]);
    assert_eq!(told(&path), [((1, "on_cpu"), 20), ((2, "on_cpu"), 45)].into(), "no part of it is a sleep: {path:?}");
}

#[test]
fn a_sleep_again_and_again_is_a_sleep() {
    let sleeper = (0..5).fold(Made::new(1, 0), |made, _| made.waits(5 * MS, State::Timer, 0, TIMER).runs(10_000));
    let path = path_of(vec![sleeper, Made::new(2, 0).runs(100 * MS)]);
    assert_eq!(told(&path)[&(1, "timer")], 25);
    assert!(!path.parts.keys().any(|key| key.serial == 2), "a busy thread is no sleeper's waker: {path:?}");
}

/// Sleeps of 10 ms with 100 us between them.
fn polls(made: Made, times: u64) -> Made {
    (0..times).fold(made, |made, _| made.waits(10 * MS, State::Timer, 0, TIMER).queues(20_000).runs(80_000))
}

#[test]
fn who_sleeps_and_looks_again_until_another_has_ended_waits_for_that_one() {
    // 2 reads, computes and ends at 95 ms; 1 sees it at 101 ms. 3 goes on.
    let sleeper = polls(Made::new(1, 0), 10).runs(20 * MS);
    let device = Ending::Woken(WakeContext::Device, Waker::None);
    let worker = Made::new(2, 0).by(1).waits(60 * MS, State::File, 7, device).runs(35 * MS);
    let path = path_of(vec![sleeper, worker, Made::new(3, 0).runs(200 * MS)]);
    let told = told(&path);
    assert_eq!((told[&(2, "file")], told[&(2, "on_cpu")]), (60, 35), "{path:?}");
    assert_eq!((told[&(1, "on_cpu")], told[&(1, "timer")]), (20, 5), "it looks too late by 5.9 ms");
    let own: Vec<(State, u64, bool)> = path.own.iter().map(|(key, own)| (key.state, own.ns / MS, key.by_end)).collect();
    assert_eq!(own, [(State::Timer, 95, true)], "it is a wait of its own");
}

#[test]
fn who_sleeps_and_nobody_has_ended_or_only_one_that_came_late_waits_for_nobody() {
    let busy = || Made::new(2, 0).runs(200 * MS);
    let alone = path_of(vec![polls(Made::new(1, 0), 10).runs(20 * MS), busy()]);
    assert_eq!(told(&alone)[&(1, "timer")], 100);
    // 3 was there for 15 of the 100 ms.
    let short = Made::new(3, 80 * MS).runs(15 * MS);
    let path = path_of(vec![polls(Made::new(1, 0), 10).runs(20 * MS), busy(), short]);
    assert_eq!(told(&path)[&(1, "timer")], 100, "{path:?}");
    // Two sleeps are no loop, nor are sleeps between which it works.
    let worker = || Made::new(2, 0).runs(17 * MS);
    assert_eq!(told(&path_of(vec![polls(Made::new(1, 0), 2), worker()]))[&(1, "timer")], 20);
    let paced = |made, _| polls(made, 1).runs(5 * MS);
    let path = path_of(vec![(0..8).fold(Made::new(1, 0), paced), Made::new(2, 0).runs(110 * MS)]);
    assert_eq!(told(&path)[&(1, "timer")], 80, "{path:?}");
}

#[test]
fn of_several_that_end_the_last_one_is_waited_for_and_of_a_process_its_main_thread() {
    let own = |mut made: Made, tgid: u32, tid: u32| {
        (made.life.tgid, made.life.tid) = (tgid, tid);
        made
    };
    // 3 leads a process of its own and ends before its other thread; 2 ended in the sleep as well, but first.
    let sleeper = polls(Made::new(1, 0), 10).runs(20 * MS);
    let first = Made::new(2, 0).runs(92 * MS);
    let leader = own(Made::new(3, 0).runs(94 * MS), 300, 300);
    let other = own(Made::new(4, 0).waits(95 * MS, State::Futex, 4, Ending::Open), 300, 301);
    let path = path_of(vec![sleeper, first, leader, other]);
    assert_eq!(told(&path).get(&(3, "on_cpu")), Some(&94), "{path:?}");
    // Of one sleep it is not known what ended it, and the CPUs are busy.
    let unknown = Ending::Woken(WakeContext::Unknown, Waker::None);
    let sleeper = polls(Made::new(1, 0), 4).waits(10 * MS, State::Timer, 0, unknown).queues(30 * MS);
    let path = path_of(vec![polls(sleeper, 4), Made::new(2, 0).runs(115 * MS)]);
    assert_eq!(told(&path).get(&(2, "on_cpu")), Some(&115), "{path:?}");
    // A leader that ended before the last sleeps does not stand for its process.
    let leader = own(Made::new(3, 0).runs(20 * MS), 300, 300);
    let other = own(Made::new(4, 0).runs(95 * MS), 300, 301);
    let path = path_of(vec![polls(Made::new(1, 0), 10).runs(20 * MS), leader, other]);
    assert_eq!(told(&path).get(&(4, "on_cpu")), Some(&95), "{path:?}");
    // It goes on sleeping for a moment, for a helper; not for long.
    let sleeping = |times| path_of(vec![polls(Made::new(1, 0), times), Made::new(2, 0).runs(75 * MS)]);
    let (two, more) = (sleeping(10), sleeping(11));
    assert_eq!(told(&two)[&(2, "on_cpu")], 75, "{two:?}");
    assert!(!told(&more).contains_key(&(2, "on_cpu")), "{more:?}");
}

#[test]
fn what_is_not_traced_or_not_kept_is_a_part_itself() {
    let stranger = Ending::Woken(WakeContext::Task, Waker::Stranger(77));
    let gone = by_task(9);
    let thread = Made::new(1, 0)
        .waits(30 * MS, State::SocketInet, 4, stranger)
        .waits(20 * MS, State::Futex, 4, gone)
        .waits(10 * MS, State::Futex, 5, Ending::Open);
    let path = path_of(vec![thread]);
    let causes: BTreeMap<Cause, u64> = path.parts.iter().map(|(key, sum)| (key.cause, sum.ns / MS)).collect();
    assert_eq!(causes, [(Cause::Stranger(77), 30), (Cause::NotKept, 20), (Cause::Open, 10)].into());
}

#[test]
fn of_waits_for_one_lock_within_each_other_the_outer_one_counts() {
    let first = Made::new(1, 0).waits(100 * MS, State::Futex, 0xaa, by_task(2));
    let second = Made::new(2, 0).waits(60 * MS, State::Futex, 0xaa, by_task(3)).runs(40 * MS);
    let third = Made::new(3, 0).runs(60 * MS);
    let path = path_of(vec![first, second, third]);
    let lock: Vec<u64> = path.waits.values().map(|sum| sum.ns / MS).collect();
    assert_eq!(lock, [100], "the lock is the reason of all of it, once");
    let under: u64 = path.under.values().map(|sum| sum.ns / MS).sum();
    assert_eq!(under, 100, "and so is what explains it: {path:?}");
}

#[test]
fn what_the_holder_did_under_a_lock_explains_the_waits_for_it() {
    let device = Ending::Woken(WakeContext::Device, Waker::None);
    let waiter = Made::new(1, 0).runs(5 * MS).waits(95 * MS, State::Futex, 0xaa, by_task(2));
    let holder = Made::new(2, 0).runs(10 * MS).waits(60 * MS, State::File, 3, device).waits(
        20 * MS,
        State::Futex,
        0xbb,
        by_task(3),
    );
    let path = path_of(vec![waiter, holder.runs(10 * MS), Made::new(3, 0).runs(95 * MS)]);
    let under = |object: u64| {
        let of = path.under.iter().filter(|((wait, _), _)| wait.object == object);
        of.map(|((_, under), sum)| ((under.serial, under.state.id()), sum.ns / MS)).collect::<BTreeMap<_, _>>()
    };
    let first = [((2, "file"), 60), ((2, "futex"), 20), ((2, "on_cpu"), 5 + 10)];
    assert_eq!(under(0xaa), first.into(), "what the holder did, its own wait included, sums to the wait");
    assert_eq!(under(0xbb), [((3, "on_cpu"), 20)].into(), "and that wait has its own");
}

#[test]
fn a_walk_of_few_steps_says_how_far_it_came() {
    let history = history(vec![Made::new(1, 0).runs(10 * MS).queues(10 * MS).runs(10 * MS)]);
    let path = walk(&mut Reader::new(&history, &Pythons::default()), &Timeline::default(), 1, (0, 30 * MS), 2);
    assert_eq!(path.from_ns, 10 * MS);
}

#[test]
fn over_the_bound_the_oldest_goes_and_the_report_can_say_from_when_on_all_is_there() {
    let (mut history, mut trail) = (History::new(64 << 10), Trail::default());
    for round in 0..100_000u64 {
        trail.push(Interval { start_ns: round * MS, end_ns: (round + 1) * MS, state: State::OnCpu, wait: None });
        if trail.is_full() {
            history.keep(1, &mut trail);
        }
    }
    let end_ns = 100_000 * MS;
    history.end(1, Life { tid: 1, tgid: 1, start_ns: 0, end_ns, ..Life::default() }, &mut trail);
    let from_ns = history.complete_from_ns();
    assert!(0 < from_ns && from_ns < end_ns, "complete from {from_ns} on");
    let path = walk(&mut Reader::new(&history, &Pythons::default()), &Timeline::default(), 1, (0, end_ns), u64::MAX);
    let by_state: BTreeMap<&str, u64> = path.parts.iter().map(|(key, sum)| (key.state.id(), sum.ns)).collect();
    assert_eq!(by_state, [("on_cpu", end_ns - from_ns), ("unknown", from_ns)].into());
}

#[test]
fn samples_on_the_path_are_told_from_the_others() {
    let consumer = Made::new(1, 0).runs(10 * MS).waits(50 * MS, State::Pipe, 9, by_task(2)).runs(10 * MS);
    let history = history(vec![consumer, Made::new(2, 0).runs(100 * MS)]);
    let mut timeline = Timeline::default();
    for ms in [5, 15, 25, 35, 65, 95] {
        timeline.add(101, ms * MS, 1);
        timeline.add(102, ms * MS, 2);
    }
    timeline.sort();
    let path = walk(&mut Reader::new(&history, &Pythons::default()), &timeline, 1, (0, 70 * MS), u64::MAX);
    let mut seen: Vec<(u32, bool, u64, u64)> = path
        .samples
        .iter()
        .map(|((serial, within, stack), count)| (*serial, within.is_some(), *stack, *count))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [(1, false, 1, 2), (2, true, 2, 3)]);
}

prop_compose! {
    /// Any intervals with any wakers, also such as cannot have happened.
    pub(super) fn any_thread()(start in 0u64..50, creator in 0u32..6,
                    list in prop::collection::vec((1u64..40, 0u8..6, 0u32..6), 1..40)) -> (u64, u32, Vec<(u64, u8, u32)>) {
        (start, creator, list)
    }
}

proptest! {
    #[test]
    fn parts_sum_to_the_wall_time_whatever_is_recorded(threads in prop::collection::vec(any_thread(), 1..6)) {
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
        let path = path_of(made.collect());
        let wall_ns: u64 = path.parts.values().map(|sum| sum.ns).sum();
        for (key, sum) in &path.waits {
            prop_assert!(sum.ns <= wall_ns, "{key:?} is the reason of more than there is: {sum:?} of {wall_ns}");
        }
    }
}
