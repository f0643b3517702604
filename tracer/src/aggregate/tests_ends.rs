//! Constructed streams in which threads end, or become others: by exit, by exec, by a reused id, with and without a last switch.

use tracer_common::record::sched as kind;
use tracer_common::sched::{Exec, Exit, Fork, WakeContext};

use super::tests::{FUTEX, MS, PIPE, at, report, states, thread};
use crate::model::event::Event;
use crate::model::report::{Row, Thread};
use crate::testing::{Leave, arrived, comm, header, new_task, path, switch, woken};

/// A thread's end, after so much time on a CPU by the scheduler's account.
fn exit(ms: u64, tid: u32, account_ms: u64) -> Event {
    Event::Exit(Exit {
        header: header(kind::EXIT, at(ms), 0),
        tid,
        tgid: 10,
        exit_code: 0,
        reserved: 0,
        sum_exec_runtime_ns: account_ms * MS,
        comm: comm("worker"),
    })
}

#[test]
fn a_waker_that_has_ended_keeps_its_name_and_its_end_is_what_a_join_waits_for() {
    let wake = |ms, waker| {
        Event::Switch(woken(switch(at(ms), 0, 0, 10, Leave::Preempted), WakeContext::Task, waker, MS as u32))
    };
    let dies = |ms| {
        Event::Exit(Exit {
            header: header(kind::EXIT, at(ms), 1),
            tid: 11,
            tgid: 10,
            exit_code: 0,
            reserved: 0,
            sum_exec_runtime_ns: 0,
            comm: comm("worker"),
        })
    };
    let events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "main")),
        Event::NewTask(new_task(at(0), 11, 10, 10, "worker")),
        Event::Switch(switch(at(0), 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(at(0), 1, 0, 11, Leave::Preempted)),
        Event::Switch(switch(at(1), 0, 10, 0, FUTEX)),
        dies(29),
        Event::Switch(switch(at(30), 1, 11, 0, Leave::Dead)),
        wake(31, 11),
        Event::Switch(switch(at(40), 0, 10, 0, PIPE)),
        // Somebody who is not traced has the id now.
        wake(60, 11),
    ];
    let report = report(events, 100);
    let main = thread(&report, 10);
    let of = |state: &str| main.waits.iter().find(|wait| wait.state == state).expect("a wait");
    assert_eq!((of("futex").wakers[0].thread.as_deref(), of("futex").joins), (Some("worker"), Some(1)));
    assert_eq!((of("pipe").wakers[0].tid, of("pipe").wakers[0].thread.as_deref()), (Some(11), None));
    assert_eq!(of("pipe").joins, None);
}

#[test]
fn an_exec_from_another_thread_takes_the_leaders_id() {
    let exec =
        Exec { header: header(kind::EXEC, at(50), 0), tgid: 10, old_tid: 11, comm: comm("new"), path: path("/new") };
    let events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "old")),
        Event::NewTask(new_task(at(0), 11, 10, 10, "second")),
        Event::Fork(Fork {
            header: header(kind::FORK, at(0), 0),
            parent_tid: 2,
            parent_tgid: 2,
            child_tid: 10,
            child_tgid: 10,
        }),
        Event::Switch(switch(at(0), 0, 0, 11, Leave::Preempted)),
        Event::Exec(Box::new(exec)),
        Event::Switch(switch(at(80), 0, 10, 0, PIPE)),
    ];
    let report = report(events, 100);
    let rows: Vec<&Thread> = report
        .threads
        .iter()
        .filter_map(|row| if let Row::Thread(thread) = row { Some(&**thread) } else { None })
        .collect();
    assert_eq!(rows.iter().map(|row| row.tid).collect::<Vec<_>>(), [10, 10], "the executing thread and the old leader");
    assert_eq!(states(rows[0]), [("on_cpu", 80), ("pipe", 20)], "one thread before and after");
    assert_eq!((rows[0].name.as_deref(), rows[0].names_before.as_slice()), (Some("new"), &["second".to_owned()][..]));
    assert_eq!((rows[0].process.as_deref(), rows[0].parent_pid), (Some("new"), Some(2)));
    assert_eq!((rows[1].name.as_deref(), rows[1].wall_s), (Some("old"), 0.05));
}

#[test]
fn a_reused_thread_id_is_another_thread() {
    let events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "first")),
        Event::Switch(switch(at(0), 0, 0, 10, Leave::Preempted)),
        exit(30, 10, 0),
        Event::Switch(switch(at(31), 0, 10, 0, Leave::Dead)),
        Event::NewTask(new_task(at(60), 10, 10, 1, "second")),
    ];
    let report = report(events, 100);
    assert_eq!(report.threads.len(), 2, "{:?}", report.threads);
    let cpu = report.cpu.as_ref().expect("sched ran");
    assert_eq!((cpu.processes_seen, cpu.threads, cpu.on_cpu_s), (2, 2, 0.031));
    assert_eq!(
        cpu.processes.iter().map(|process| process.process.as_deref()).collect::<Vec<_>>(),
        [Some("first"), Some("second")]
    );
}

#[test]
fn a_thread_whose_last_switch_was_lost_ends_where_it_said_so() {
    let events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "t")),
        Event::Switch(switch(at(0), 0, 0, 10, Leave::Preempted)),
        exit(30, 10, 0),
        Event::Switch(switch(at(70), 0, 11, 0, PIPE)),
    ];
    let report = report(events, 100);
    let row = thread(&report, 10);
    assert_eq!((states(row), row.end_unix_ns), (vec![("on_cpu", 30)], Some(1_700_000_000_000_000_000 + at(30))));
}

#[test]
fn what_the_schedulers_account_of_a_thread_leaves_out_was_taken_from_it() {
    let ends = |account_ms: u64| {
        let events = vec![
            Event::NewTask(new_task(at(0), 10, 10, 1, "main")),
            Event::NewTask(new_task(at(0), 11, 10, 10, "worker")),
            Event::Switch(switch(at(0), 0, 0, 11, Leave::Preempted)),
            Event::Switch(switch(at(60), 0, 11, 0, Leave::Preempted)),
            Event::Switch(switch(at(98), 0, 0, 11, Leave::Preempted)),
            exit(100, 11, account_ms),
            Event::Switch(switch(at(100), 0, 11, 0, Leave::Dead)),
        ];
        thread(&report(events, 100), 11).taken_s
    };
    // On a CPU for 62 ms, of which the last two may not be in the account yet.
    assert_eq!(ends(50), Some(0.010));
    assert_eq!(ends(62), Some(0.0));
    assert_eq!(ends(0), None, "no account");
}

#[test]
fn a_thread_that_ends_on_a_cpu_that_it_was_not_seen_to_get_had_it_for_as_long_as_its_end_says() {
    // Its account begins anew after that, so its last switch tells nothing.
    let events = vec![
        Event::NewTask(new_task(at(0), 10, 10, 1, "main")),
        Event::NewTask(new_task(at(0), 11, 10, 10, "worker")),
        Event::Switch(switch(at(0), 0, 0, 11, Leave::Preempted)),
        Event::Switch(switch(at(10), 0, 11, 0, Leave::Preempted)),
        Event::Arrived(arrived(at(110), 0, 11, 98 * MS)),
        exit(110, 11, 108),
        Event::Switch(switch(at(111), 0, 11, 0, Leave::Dead)),
    ];
    let report = report(events, 120);
    let thread = thread(&report, 11);
    assert_eq!(states(thread), [("on_cpu", 10 + 98 + 1), ("runnable", 2)]);
    assert_eq!(thread.taken_s, Some(0.0), "nobody took any of that");
}
