//! Constructed streams through the aggregate: what each does to states, waits, owners and identities; and random ones, which
//! must never break a sum.

use proptest::prelude::*;
use tracer_common::record::sched as kind;
use tracer_common::sched::{CgroupMove, Exec, Exit, Fork, Rename, WakeContext, switch_flags};

use super::Aggregate;
use super::classify::State;
use super::table::Bounds;
use crate::model::event::{Event, Meta};
use crate::model::meta::{LossRecord, SeedRecord, StartRecord, TargetRecord, TickRecord};
use crate::model::report::{Context, Futex, Generator, Report, Row, Thread};
use crate::testing::{self, Leave, arrived, comm, header, meta_event, new_task, on_mutex, path, seed, switch, woken};

pub(super) const START: u64 = 1_000_000_000;
pub(super) const MS: u64 = 1_000_000;
pub(super) const PIPE: Leave = Leave::Sleep { syscall: 0, fd_kind: 2, object: 77 };
pub(super) const FUTEX: Leave = Leave::Sleep { syscall: 202, fd_kind: 0, object: 0x7f00 };

pub(super) fn at(ms: u64) -> u64 {
    START + ms * MS
}

pub(super) fn report(events: Vec<Event>, end_ms: u64) -> Report {
    let mut aggregate = Aggregate::new(Bounds::default());
    let kernel = events.iter().filter(|event| event.header().kind >> 8 == 1).count() as u64;
    for event in testing::prologue(START).into_iter().chain(events).chain(testing::epilogue(at(end_ms), kernel)) {
        aggregate.event(&event);
    }
    aggregate.finish(Generator::default(), 512)
}

pub(super) fn thread(report: &Report, tid: u32) -> &Thread {
    let rows: Vec<&Thread> = report
        .threads
        .iter()
        .filter_map(|row| match row {
            Row::Thread(thread) if thread.tid == tid => Some(&**thread),
            _ => None,
        })
        .collect();
    assert_eq!(rows.len(), 1, "rows of thread {tid}: {:?}", report.threads);
    rows[0]
}

pub(super) fn states(thread: &Thread) -> Vec<(&str, u64)> {
    thread
        .states
        .iter()
        .filter(|(_, seconds)| **seconds > 0.0)
        .map(|(state, seconds)| (state.as_str(), (seconds * 1e3).round() as u64))
        .collect()
}

fn only_futex(report: &Report) -> &Futex {
    let futexes = &report.locks.as_ref().expect("sched ran").futexes;
    assert_eq!(futexes.len(), 1, "{futexes:?}");
    &futexes[0]
}

fn seeded(record: SeedRecord) -> Event {
    meta_event(START, Meta::Seed(record))
}

#[test]
fn a_wait_ends_when_the_thread_is_woken_and_runnable_time_follows() {
    let events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "reader")),
        Event::Switch(switch(at(1), 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(at(5), 0, 10, 0, PIPE)),
        Event::Switch(woken(switch(at(20), 0, 0, 10, Leave::Preempted), WakeContext::Task, 99, 3 * MS as u32)),
        Event::Switch(switch(at(30), 0, 10, 0, Leave::Dead)),
    ];
    let report = report(events, 100);
    let reader = thread(&report, 10);
    assert_eq!(states(reader), [("on_cpu", 14), ("pipe", 12), ("runnable", 4)]);
    assert_eq!((reader.wall_s, reader.switches, reader.preemptions), (0.03, 2, 0));
    let wait = &reader.waits[0];
    assert_eq!(
        (wait.state.as_str(), wait.object.as_deref(), wait.detail.as_deref()),
        ("pipe", Some("pipe:[77]"), Some("read"))
    );
    assert_eq!((wait.count, wait.total_s, wait.max_s, wait.open), (1, 0.012, 0.012, false));
    assert_eq!((wait.wakers[0].context, wait.wakers[0].tid), (Context::Task, Some(99)));
    assert_eq!(reader.end_unix_ns, Some(1_700_000_000_000_000_000 + at(30)));
    assert_eq!(report.window.start_unix_ns, Some(1_700_000_000_000_000_000 + START));
}

#[test]
fn a_thread_that_leaves_a_cpu_that_it_was_not_seen_to_get_had_it_for_as_long_as_the_scheduler_says() {
    let wakened = |record| Event::Arrived(woken(record, WakeContext::Task, 99, 2 * MS as u32));
    let to_stranger = |ms, leave| {
        let mut record = switch(at(ms), 0, 10, 99, leave);
        record.flags &= !switch_flags::NEXT_TRACKED;
        Event::Switch(record)
    };
    let events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "t")),
        Event::Switch(switch(at(1), 0, 0, 10, Leave::Preempted)),
        to_stranger(5, PIPE),
        wakened(arrived(at(30), 0, 10, 10 * MS)),
        to_stranger(30, Leave::Preempted),
        Event::Arrived(arrived(at(50), 0, 10, 5 * MS)),
        Event::Switch(switch(at(50), 0, 10, 0, Leave::Dead)),
    ];
    let report = report(events, 100);
    let thread = thread(&report, 10);
    assert_eq!(states(thread), [("on_cpu", 4 + 10 + 5), ("pipe", 13), ("runnable", 1 + 2 + 15)]);
    assert_eq!((thread.switches, thread.preemptions), (3, 1));
    let behind = thread
        .queued
        .as_ref()
        .map(|queued| (queued.others_s, queued.behind.iter().map(|behind| behind.tid).collect::<Vec<_>>()));
    assert_eq!(behind, Some((0.017, vec![99])), "whoever had the CPU before kept it until then");
}

#[test]
fn a_wake_before_the_wait_leaves_no_wait() {
    let events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "t")),
        Event::Switch(switch(at(0), 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(at(10), 0, 10, 0, PIPE)),
        Event::Switch(woken(switch(at(12), 0, 0, 10, Leave::Preempted), WakeContext::Timer, 99, 5 * MS as u32)),
    ];
    let report = report(events, 12);
    assert_eq!(states(thread(&report, 10)), [("on_cpu", 10), ("runnable", 2)]);
    let waker = &thread(&report, 10).waits[0].wakers[0];
    assert_eq!((waker.context, waker.tid), (Context::Timer, None), "a timer's interrupt hits an innocent thread");
}

#[test]
fn a_mutex_names_its_owner_and_its_wakers() {
    let mut events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "main")),
        Event::NewTask(new_task(at(0), 11, 10, 10, "worker")),
        Event::Switch(switch(at(0), 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(at(0), 1, 0, 11, Leave::Preempted)),
    ];
    for round in 0..5 {
        let t = round * 20;
        let wake = |switch| woken(switch, WakeContext::Task, 10, 0);
        events.push(Event::SwitchFutex(on_mutex(switch(at(t + 1), 1, 11, 0, FUTEX), 0x7f00, 10)));
        events.push(Event::Switch(wake(switch(at(t + 11), 1, 0, 11, Leave::Preempted))));
    }
    let report = report(events, 100);
    let futex = only_futex(&report);
    assert_eq!((futex.pid, futex.address.as_str(), futex.kind.as_deref()), (10, "0x7f00", Some("pthread mutex")));
    assert_eq!((futex.waits, futex.completed, futex.waits_with_owner, futex.woken_by_owner), (5, 5, 5, 5));
    assert_eq!((futex.total_s, futex.max_s, futex.threads), (0.05, 0.01, 1));
    let (owner, waker, waiter) = (&futex.owners[0], &futex.wakers[0], &futex.waiters[0]);
    assert_eq!((owner.tid, owner.thread.as_deref(), owner.count), (10, Some("main"), 5));
    assert_eq!((waker.tid, waker.thread.as_deref(), waker.count), (Some(10), Some("main"), 5));
    assert_eq!((waiter.tid, waiter.thread.as_deref(), waiter.total_s), (11, Some("worker"), 0.05));
    assert_eq!(thread(&report, 11).waits[0].owner_kind.as_deref(), Some("pthread mutex"));
}

#[test]
fn an_owner_of_another_process_or_the_waiter_itself_is_none() {
    for owner in [12, 11, 4711] {
        let events = vec![
            Event::NewTask(new_task(at(0), 11, 11, 1, "waiter")),
            Event::NewTask(new_task(at(0), 12, 12, 1, "stranger")),
            Event::Switch(switch(at(0), 1, 0, 11, Leave::Preempted)),
            Event::SwitchFutex(on_mutex(switch(at(1), 1, 11, 0, FUTEX), 0x7f00, owner)),
        ];
        let report = report(events, 100);
        let futex = only_futex(&report);
        assert!(futex.owners.is_empty() && futex.kind.is_none(), "owner word {owner}: {futex:?}");
    }
}

#[test]
fn an_owner_is_found_by_its_id_in_the_pid_namespace() {
    let nested = |tid: u32, ns_tid: u32, name: &str| {
        let mut task = new_task(at(0), tid, 4000, 4000, name);
        (task.ns_level, task.ns_tid) = (1, ns_tid);
        Event::NewTask(task)
    };
    let events = vec![
        nested(4000, 6, "main"),
        nested(4001, 7, "worker"),
        Event::Switch(switch(at(0), 1, 0, 4001, Leave::Preempted)),
        Event::SwitchFutex(on_mutex(switch(at(1), 1, 4001, 0, FUTEX), 0x7f00, 6)),
    ];
    let report = report(events, 100);
    let owner = &only_futex(&report).owners[0];
    assert_eq!((owner.tid, owner.ns_tid, owner.pid), (4000, 6, 4000));
    let worker = thread(&report, 4001);
    assert_eq!((worker.ns_pid, worker.ns_tid, worker.pid), (Some(6), Some(7), Some(4000)));
}

#[test]
fn seeded_threads_count_from_the_start_and_deadlocked_ones_have_their_owners() {
    let waiter = |tid: u32, name: &str, address: u64, owner: u32| SeedRecord {
        syscall: Some(202),
        args: [address, 128, 2, 0, 0, 0],
        futex_words: Some([2, 0, owner, 1, 0, 0]),
        start_boot_ns: 5,
        ..seed(tid, 10, name, "S")
    };
    let events = vec![
        seeded(waiter(10, "left", 0x1000, 11)),
        seeded(waiter(11, "right", 0x2000, 10)),
        seeded(seed(20, 20, "idle", "R")),
        seeded(SeedRecord { kernel_thread: true, ..seed(30, 30, "kworker", "I") }),
        seeded(seed(40, 40, "gone", "Z")),
    ];
    let report = report(events, 2000);
    for (tid, owner) in [(10, "right"), (11, "left")] {
        let row = thread(&report, tid);
        assert_eq!(states(row), [("futex", 2000)]);
        assert!(row.waits[0].open, "{:?}", row.waits);
        assert_eq!(row.waits[0].owners[0].thread.as_deref(), Some(owner), "the owner may be seeded after the waiter");
        assert_eq!(row.parent_pid, Some(1));
        assert_eq!(row.start_unix_ns, Some(1_700_000_000_000_000_005));
    }
    assert_eq!(states(thread(&report, 20)), [("on_cpu", 2000)], "ready and never switched: alone on its CPU");
    assert_eq!(thread(&report, 30).other_detail.get("kernel"), Some(&2.0));
    assert_eq!(report.threads.len(), 4, "a zombie has no time");
}

#[test]
fn a_seed_for_a_known_thread_adds_names_only() {
    let events = vec![
        Event::Switch(switch(at(10), 0, 0, 10, Leave::Preempted)),
        meta_event(at(11), Meta::Seed(SeedRecord { cgroup: Some("/a".to_owned()), ..seed(10, 10, "late", "S") })),
        Event::Switch(switch(at(50), 0, 10, 0, PIPE)),
    ];
    let report = report(events, 100);
    let row = thread(&report, 10);
    assert_eq!(states(row), [("on_cpu", 40), ("pipe", 50)]);
    assert_eq!((row.name.as_deref(), row.cgroup.as_deref(), row.pid), (Some("late"), Some("/a"), Some(10)));
}

#[test]
fn a_seeded_running_thread_that_is_switched_out_first_was_on_its_cpu() {
    let events = vec![seeded(seed(10, 10, "busy", "R")), Event::Switch(switch(at(40), 0, 10, 0, PIPE))];
    assert_eq!(states(thread(&report(events, 100), 10)), [("on_cpu", 40), ("pipe", 60)]);
}

#[test]
fn lost_records_make_the_time_around_them_unknown() {
    let mut after = switch(at(60), 0, 10, 0, PIPE);
    after.header.lost = 3;
    let events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "t")),
        Event::Switch(switch(at(0), 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(at(20), 0, 10, 10, Leave::Preempted)),
        Event::Switch(after),
    ];
    assert_eq!(states(thread(&report(events, 100), 10)), [("on_cpu", 20), ("pipe", 40), ("unknown", 40)]);
}

#[test]
fn a_loss_at_the_very_end_is_found_by_the_counters() {
    let mut aggregate = Aggregate::new(Bounds::default());
    for event in testing::prologue(START) {
        aggregate.event(&event);
    }
    aggregate.event(&Event::NewTask(new_task(at(0), 10, 10, 1, "t")));
    aggregate.event(&Event::Switch(switch(at(10), 0, 0, 10, Leave::Preempted)));
    let mut epilogue = testing::epilogue(at(100), 2);
    if let Event::Meta(_, meta) = &mut epilogue[0]
        && let Meta::Loss(LossRecord { families }) = &mut **meta
    {
        families[0].cpus[0].lost = vec![7, 0];
    }
    epilogue.iter().for_each(|event| aggregate.event(event));
    let report = aggregate.finish(Generator::default(), 512);
    assert_eq!(states(thread(&report, 10)), [("runnable", 10), ("unknown", 90)]);
}

#[test]
fn a_thread_that_another_replaced_unseen_is_unknown_since_it_ran() {
    let events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "a")),
        Event::NewTask(new_task(at(0), 11, 11, 1, "b")),
        Event::Switch(switch(at(0), 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(at(40), 0, 11, 0, PIPE)),
    ];
    let report = report(events, 100);
    assert_eq!(states(thread(&report, 10)), [("unknown", 100)]);
    assert_eq!(states(thread(&report, 11)), [("pipe", 60), ("unknown", 40)]);
}

#[test]
fn a_resumed_wait_keeps_its_reason() {
    let stop = {
        let mut stop = switch(at(30), 0, 10, 0, PIPE);
        stop.prev_state = 260;
        stop
    };
    let resume = switch(at(50), 0, 10, 0, Leave::Sleep { syscall: 219, fd_kind: 0, object: 0 });
    let events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "t")),
        Event::Switch(switch(at(0), 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(at(10), 0, 10, 0, Leave::Sleep { syscall: 230, fd_kind: 0, object: 0 })),
        Event::Switch(switch(at(30), 0, 0, 10, Leave::Preempted)),
        Event::Switch(stop),
        Event::Switch(switch(at(50), 0, 0, 10, Leave::Preempted)),
        Event::Switch(resume),
    ];
    assert_eq!(states(thread(&report(events, 100), 10)), [("stopped", 20), ("timer", 70), ("on_cpu", 10)].sorted());
}

trait Sorted {
    fn sorted(self) -> Self;
}

impl<const N: usize> Sorted for [(&str, u64); N] {
    fn sorted(mut self) -> Self {
        self.sort_unstable();
        self
    }
}

/// A command that is held back until it executes 20 ms into the window.
fn held_run(seeded_state: &str, mode: &str) -> Report {
    let target = TargetRecord { mode: mode.to_owned(), pids: vec![10], ..TargetRecord::default() };
    let held = SeedRecord { syscall: Some(0), fd_kind: 2, inode: 77, ..seed(10, 10, "held", seeded_state) };
    let mut exec =
        Exec { header: header(kind::EXEC, at(20), 0), tgid: 10, old_tid: 10, comm: comm("cmd"), path: path("/cmd") };
    let mut events = vec![
        meta_event(START, Meta::Target(target)),
        seeded(held),
        Event::Switch(switch(at(5), 0, 0, 10, Leave::Preempted)),
        Event::Rename(Rename { header: header(kind::RENAME, at(6), 0), tid: 10, tgid: 10, comm: comm("renamed") }),
        Event::Exec(Box::new(exec)),
        Event::Switch(switch(at(50), 0, 10, 0, Leave::Sleep { syscall: 230, fd_kind: 0, object: 0 })),
        Event::Switch(woken(switch(at(60), 0, 0, 10, Leave::Preempted), WakeContext::Timer, 0, 0)),
    ];
    // It executes another program later on: that is its own doing.
    (exec.header.ts_ns, exec.comm) = (at(70), comm("next"));
    events.push(Event::Exec(Box::new(exec)));
    report(events, 100)
}

#[test]
fn a_held_command_counts_from_its_first_exec() {
    let report = held_run("S", "run");
    let row = thread(&report, 10);
    assert_eq!(states(row), [("on_cpu", 70), ("timer", 10)]);
    assert_eq!((row.wall_s, row.switches), (0.08, 1), "{row:?}");
    assert_eq!((row.name.as_deref(), &row.names_before[..]), (Some("next"), &["cmd".to_owned()][..]));
    assert_eq!(row.waits.len(), 1, "the wait in the pipe was the tracer's: {:?}", row.waits);
    assert_eq!(report.cpu.as_ref().map(|cpu| (cpu.on_cpu_s, cpu.threads)), Some((0.07, 1)));
}

#[test]
fn what_was_not_held_keeps_what_it_did_before_an_exec() {
    for (state, mode, what) in [("S", "record", "attached"), ("?", "run", "seeded in the middle of a recording")] {
        let report = held_run(state, mode);
        assert_eq!(thread(&report, 10).wall_s, 0.1, "{what}");
        assert_eq!(thread(&report, 10).names_before, ["held", "renamed", "cmd"], "{what}");
    }
}

#[test]
fn names_and_cgroups_follow_their_records() {
    let rename = |ms: u64, name: &str| {
        Event::Rename(Rename { header: header(kind::RENAME, at(ms), 0), tid: 10, tgid: 10, comm: comm(name) })
    };
    let id = "ab".repeat(32);
    let events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "one")),
        rename(1, "two"),
        rename(2, "\x1b[0m"),
        Event::CgroupMove(Box::new(CgroupMove {
            header: header(kind::CGROUP_MOVE, at(3), 0),
            tid: 10,
            tgid: 10,
            hierarchy: 0,
            whole_process: 1,
            moved_itself: 0,
            path: path(&format!("/docker/{id}")),
        })),
        Event::NewTask(new_task(at(4), 11, 11, 10, "child")),
    ];
    let report = report(events, 10);
    let row = thread(&report, 10);
    assert_eq!(
        (row.name.as_deref(), row.names_before.as_slice()),
        (Some("\\x1b[0m"), &["one".to_owned(), "two".to_owned()][..])
    );
    assert_eq!(thread(&report, 11).container.as_deref(), Some(id.as_str()), "inherited");
    assert_eq!(thread(&report, 11).parent_pid, Some(10));
}

#[test]
fn a_recording_without_an_end_says_so_and_ends_with_its_last_tick() {
    let mut aggregate = Aggregate::new(Bounds::default());
    testing::prologue(START).iter().for_each(|event| aggregate.event(event));
    aggregate.event(&Event::NewTask(new_task(at(0), 10, 10, 1, "t")));
    let tick = TickRecord { complete_ts_ns: at(500), unix_offset_ns: 0, boot_offset_ns: 2_000_000_000 };
    aggregate.event(&meta_event(at(501), Meta::Tick(tick)));
    let report = aggregate.finish(Generator::default(), 512);
    assert_eq!((report.window.duration_s, report.window.complete), (0.5, false));
    assert!(report.window.clipped_reason.is_some());
    assert_eq!(report.window.suspended_s, Some(2.0));
    assert_eq!(states(thread(&report, 10)), [("runnable", 500)]);
    assert_eq!(report.coverage.families[0].share, None, "no counters, no share");
}

#[test]
fn what_lies_before_the_start_does_not_count() {
    let mut aggregate = Aggregate::new(Bounds::default());
    aggregate.event(&testing::prologue(START)[0]);
    aggregate.event(&Event::NewTask(new_task(START - 50 * MS, 10, 10, 1, "t")));
    aggregate.event(&Event::Switch(switch(START - 40 * MS, 0, 0, 10, Leave::Preempted)));
    aggregate.event(&Event::Switch(switch(START - 30 * MS, 0, 10, 0, PIPE)));
    aggregate.event(&Event::Switch(switch(START - 20 * MS, 0, 0, 10, Leave::Preempted)));
    aggregate.event(&meta_event(START, Meta::Start(StartRecord::default())));
    aggregate.event(&Event::Switch(switch(at(10), 0, 10, 0, PIPE)));
    testing::epilogue(at(30), 5).iter().for_each(|event| aggregate.event(event));
    let report = aggregate.finish(Generator::default(), 512);
    let row = thread(&report, 10);
    assert_eq!((states(row), row.switches, row.waits[0].count), (vec![("on_cpu", 10), ("pipe", 20)], 1, 1));
}

#[test]
fn the_window_starts_no_earlier_than_threads_were_found() {
    let mut aggregate = Aggregate::new(Bounds::default());
    aggregate.event(&testing::prologue(START)[0]);
    aggregate.event(&meta_event(START + 5 * MS, Meta::Seed(seed(10, 10, "t", "R"))));
    aggregate.event(&meta_event(START, Meta::Start(StartRecord::default())));
    assert_eq!(aggregate.span.start_ns, START + 5 * MS);
    aggregate.event(&Event::Switch(switch(START + 8 * MS, 0, 0, 10, Leave::Preempted)));
    let found = aggregate.close();
    assert_eq!((found[0].thread.since_ns, found[0].thread.sums.wall_ns()), (START + 8 * MS, 3 * MS));
}

#[test]
fn memory_stays_bounded_and_sums_stay_whole_over_many_forks() {
    let bounds = Bounds { detailed: 10, followed: 20, ended: 5 };
    let mut aggregate = Aggregate::new(bounds);
    testing::prologue(START).iter().for_each(|event| aggregate.event(event));
    let mut now = START;
    for tid in 100..20_100 {
        aggregate.event(&Event::NewTask(new_task(now, tid, tid, 1, "short")));
        aggregate.event(&Event::Switch(switch(now, 0, 0, tid, Leave::Preempted)));
        now += 1000 + u64::from(tid % 7);
        aggregate.event(&Event::Switch(switch(now, 0, tid, 0, Leave::Dead)));
    }
    for tid in 50_000..50_025 {
        aggregate.event(&Event::NewTask(new_task(now, tid, tid, 1, "many")));
    }
    testing::epilogue(now, 60_025).iter().for_each(|event| aggregate.event(event));
    let expected_ns = now - START;
    let report = aggregate.finish(Generator::default(), 512);
    let Some(Row::Others(others)) = report.threads.last() else { panic!("{:?}", report.threads) };
    let detailed: f64 =
        report.threads.iter().filter_map(|row| if let Row::Thread(t) = row { Some(t.wall_s) } else { None }).sum();
    assert!((detailed + others.wall_s - expected_ns as f64 / 1e9).abs() < 1e-9, "{detailed} + {}", others.wall_s);
    assert_eq!((report.threads.len(), others.others), (6, 20_015));
    assert_eq!((report.coverage.threads_without_detail, report.coverage.threads_not_followed), (10, 5));
    assert_eq!(report.cpu.map(|cpu| (cpu.threads, cpu.processes_seen)), Some((20_020, 20_020)));
}

fn any_event() -> impl Strategy<Value = (u8, u64, [u32; 4], u8, u16)> {
    let tid = 0u32..6;
    (0u8..14, 0u64..50, [tid.clone(), tid.clone(), tid.clone(), tid], any::<u8>(), 0u16..3)
}

/// An event of a few threads on a few CPUs, mostly contradicting what was before it.
fn constructed(number: u8, now: u64, ids: [u32; 4], choice: u8, cpu: u16, lost: u32) -> Event {
    let [a, b, c, d] = ids;
    let leave = match choice % 6 {
        0 => Leave::Preempted,
        1 => PIPE,
        2 => Leave::Fault,
        3 => Leave::Dead,
        4 => Leave::Sleep { syscall: 219, fd_kind: 0, object: 3 },
        _ => Leave::Sleep { syscall: 250, fd_kind: 0, object: u64::from(choice) },
    };
    let mut event = match number {
        0..=3 => Event::Switch(switch(now, cpu, a, b, leave)),
        4 | 5 => Event::Switch(woken(
            switch(now, cpu, a, b, leave),
            WakeContext::from_number(choice % 6),
            c,
            u32::from(choice),
        )),
        6 => Event::SwitchFutex(on_mutex(switch(now, cpu, a, b, leave), 0x100 + u64::from(choice % 3), c)),
        7 => Event::NewTask(new_task(now, a, b, c, "n")),
        8 => Event::Fork(Fork {
            header: header(kind::FORK, now, cpu),
            parent_tid: a,
            parent_tgid: b,
            child_tid: c,
            child_tgid: d,
        }),
        9 => Event::Exec(Box::new(Exec {
            header: header(kind::EXEC, now, cpu),
            tgid: a,
            old_tid: b,
            comm: comm("e"),
            path: path("/e"),
        })),
        10 => Event::Exit(Exit {
            header: header(kind::EXIT, now, cpu),
            tid: a,
            tgid: b,
            exit_code: 0,
            reserved: 0,
            sum_exec_runtime_ns: 0,
            comm: comm("x"),
        }),
        11 => Event::Rename(Rename { header: header(kind::RENAME, now, cpu), tid: a, tgid: b, comm: comm("r") }),
        12 => meta_event(now, Meta::Seed(seed(a, b, "s", ["R", "S", "D", "T", "Z", "?"][usize::from(choice % 6)]))),
        _ => meta_event(now, Meta::Tick(TickRecord { complete_ts_ns: now, ..TickRecord::default() })),
    };
    if let Event::Switch(switch) = &mut event {
        switch.header.lost = lost;
    }
    event
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn states_sum_to_the_wall_time_whatever_records_come(
        stream in prop::collection::vec(any_event(), 0..120), start_after in 0usize..20, end in any::<bool>(), late in any::<bool>()
    ) {
        let mut aggregate = Aggregate::new(Bounds { detailed: 4, followed: 5, ended: 3 });
        aggregate.event(&testing::prologue(START)[0]);
        let (mut now, mut lost) = (START, 0);
        for (position, (number, step, ids, choice, cpu)) in stream.into_iter().enumerate() {
            if position == start_after {
                aggregate.event(&testing::prologue(now)[3]);
            }
            // Now and then time goes back and records are lost.
            now = if late && choice % 11 == 0 { now.saturating_sub(step) } else { now + step };
            lost += u32::from(choice % 13 == 0);
            aggregate.event(&constructed(number, now, ids, choice, cpu, lost));
        }
        if end {
            testing::epilogue(now + 10, 1).iter().for_each(|event| aggregate.event(event));
        }
        let finished = aggregate.close();
        for finished in &finished {
            let thread = &finished.thread;
            let wall_ns = thread.since_ns.saturating_sub(thread.clipped_start_ns(&aggregate.span));
            prop_assert_eq!(thread.sums.wall_ns(), wall_ns, "{:?}", thread);
            if finished.end_ns.is_none() {
                prop_assert_eq!(thread.since_ns, aggregate.span.now_ns);
            }
            let blind_ns: u64 = thread.blind_ns.iter().sum();
            prop_assert_eq!(blind_ns, thread.sums.of(State::Unknown), "{:?}", thread);
            let Some(detailed) = &thread.detailed else { continue };
            for state in State::ALL.into_iter().filter(|state| !matches!(state, State::OnCpu | State::Runnable | State::Unknown)) {
                prop_assert_eq!(detailed.waits.total_ns(state), thread.sums.of(state), "{:?} of {:?}", state, thread);
            }
            let other_ns: u64 = detailed.other.iter().map(|(_, _, ns)| ns).sum();
            prop_assert_eq!(other_ns, thread.sums.of(State::Other));
        }
        let rows: u64 = finished.iter().map(|finished| finished.thread.sums.wall_ns()).sum();
        let all = rows + aggregate.threads.rest.sums.wall_ns();
        aggregate.processes.end_all();
        prop_assert_eq!(aggregate.processes.ended_sums.wall_ns(), all, "threads and processes have the same total");
        for lock in aggregate.locks.iter() {
            prop_assert_eq!(lock.waiters.iter().map(|waiter| waiter.total_ns).sum::<u64>(), lock.total_ns, "{:?}", lock);
            prop_assert!(lock.woken_by_owner <= lock.completed && lock.completed <= lock.waits, "{:?}", lock);
        }
    }
}
