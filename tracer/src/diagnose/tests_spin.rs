//! Rules about spinning, short-lived processes and stragglers on constructed runs.

use tracer_common::record::sched as kind;
use tracer_common::sched::{Exec, Exit, Switch, WakeContext, switch_flags};

use super::tests::{assert_evidence_resolves, run, status};
use crate::model::event::Event;
use crate::model::report::{Finding, Report, Row, RuleStatus, Thread, Verdict};
use crate::testing::stacks::{START, cpu_ready, module, native, sample, stack, symbol};
use crate::testing::{Leave, comm, header, new_task, path, switch, woken};

const MS: u64 = 1_000_000;

fn at(ms: u64) -> u64 {
    START + ms * MS
}

fn thread(report: &Report, tid: u32) -> &Thread {
    let found = report.threads.iter().find_map(|row| match row {
        Row::Thread(thread) if thread.tid == tid => Some(thread),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("thread {tid} is in {:?}", report.threads))
}

fn finding<'a>(report: &'a Report, class: &str) -> &'a Finding {
    let found = report.findings.iter().find(|finding| finding.class == class);
    found.unwrap_or_else(|| panic!("{class}: {:?} {:?}", report.rules, report.observed))
}

/// The same switch, out of which the thread that leaves calls sched_yield.
fn by_yield(mut switch: Switch) -> Switch {
    switch.flags &= !switch_flags::PREEMPT;
    switch.syscall = 24;
    switch
}

/// On CPU 0 thread 10 works for 5 ms of each 20; else 11 and 12 give the CPU to each other, 100 us at a time.
fn yielding_run(ms: u64) -> Report {
    let mut events = vec![
        Event::NewTask(new_task(START, 10, 10, 1, "worker")),
        Event::NewTask(new_task(START, 11, 10, 10, "poller")),
        Event::NewTask(new_task(START, 12, 10, 10, "poller")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
    ];
    for round in 0..ms / 20 {
        let begin = at(round * 20 + 5);
        events.push(Event::Switch(switch(begin, 0, 10, 11, Leave::Preempted)));
        for turn in 0..149 {
            let (prev, next) = if turn % 2 == 0 { (11, 12) } else { (12, 11) };
            events.push(Event::Switch(by_yield(switch(begin + (turn + 1) * 100_000, 0, prev, next, Leave::Preempted))));
        }
        events.push(Event::Switch(by_yield(switch(begin + 15 * MS, 0, 12, 10, Leave::Preempted))));
    }
    run(events, ms)
}

#[test]
fn threads_that_yield_over_and_over_are_blamed_without_any_stack() {
    let report = yielding_run(4000);
    assert_evidence_resolves(&report);
    for tid in [11, 12] {
        let row = thread(&report, tid);
        assert!((row.states["spinning"] - 1.5).abs() < 0.03, "{:?}", row.states);
        assert!(row.states["on_cpu"] < 0.03, "{:?}", row.states);
        assert!(row.spinning.as_ref().is_some_and(|spinning| spinning.yields > 14_000), "{:?}", row.spinning);
    }
    assert_eq!(thread(&report, 10).states["spinning"], 0.0);
    let finding = finding(&report, "spin-wait");
    assert_eq!(finding.victims.iter().map(|victim| victim.tid).collect::<Vec<_>>(), [Some(10)]);
    assert!(finding.culprit.as_ref().is_some_and(|culprit| culprit.thread.as_deref() == Some("poller")), "{finding:?}");
    assert!(finding.summary.contains("sched_yield"), "{}", finding.summary);
    assert!(finding.lost_s.is_some_and(|lost_s| (lost_s - 1.5).abs() < 0.05), "{finding:?}");
    assert_eq!(status(&report, "cpu-bound"), RuleStatus::Silent);
    assert_eq!(report.verdict, Verdict::Bottleneck, "{}", report.verdict_reason);
}

/// Thread 10 computes on CPU 0, thread 11 is on CPU 1 in a function of this file, named so if at all.
fn beside(file: &str, name: Option<&str>) -> Report {
    let mut events = vec![
        cpu_ready(),
        Event::NewTask(new_task(START, 10, 10, 1, "worker")),
        Event::NewTask(new_task(START, 11, 10, 10, "other")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(START, 1, 0, 11, Leave::Preempted)),
        module(1, "/opt/app"),
        module(2, file),
        native(1, 1, 0x100),
        native(2, 2, 0x200),
        symbol(1, &[("step", None)]),
        stack(1, &[1]),
        stack(2, &[2, 1]),
    ];
    events.extend(name.map(|name| symbol(2, &[(name, None)])));
    for slot in 0..200 {
        events.push(sample(at(slot * 10 + 1), 10, 10, 1, 10 * MS));
        events.push(sample(at(slot * 10 + 2), 10, 11, 2, 10 * MS));
    }
    run(events, 2000)
}

#[test]
fn a_library_that_mostly_waits_is_known_without_its_symbols() {
    for (file, name, waits_for) in [
        ("/usr/lib/libgomp.so.1", None, "OpenMP threads"),
        ("/venv/torch/lib/libgomp-a34b3233.so.1", None, "OpenMP threads"),
        ("/usr/lib/libgomp.so.1", Some("gomp_team_barrier_wait_end"), "OpenMP threads"),
        ("/usr/lib/libcuda.so.1", Some("cuStreamSynchronize"), "a GPU"),
        ("/usr/bin/llama", Some("ggml_barrier"), "ggml's threads"),
    ] {
        let report = beside(file, name);
        assert_evidence_resolves(&report);
        let row = thread(&report, 11);
        assert_eq!((row.states["on_cpu"], row.states["spinning"]), (0.0, 2.0), "{file} {name:?}");
        assert!(row.functions.is_empty(), "it computed nothing: {:?}", row.functions);
        let spinning = row.spinning.as_ref().expect("it spun");
        assert_eq!((spinning.samples, spinning.of_samples), (200, 200));
        assert_eq!(spinning.functions[0].waits_for, waits_for);
        let caller = spinning.functions[0].caller.as_ref().and_then(|caller| caller.function.as_deref());
        assert_eq!(caller, Some("step"));
        let classes: Vec<&str> = report.observed.iter().map(|finding| finding.class.as_str()).collect();
        assert_eq!((status(&report, "spin-wait"), classes), (RuleStatus::Silent, vec!["spin-wait"]));
        assert_eq!(report.verdict, Verdict::CpuBound, "the worker computes: {}", report.verdict_reason);
        let bound = finding(&report, "cpu-bound");
        assert_eq!(bound.culprit.as_ref().and_then(|culprit| culprit.tid), Some(10), "not the one that spins");
        let criticality = report.criticality.as_ref().expect("something ran");
        assert!((criticality.total_s - 2.0).abs() < 1e-6, "{criticality:?}");
        assert_eq!(criticality.rows[0].thread.as_deref(), Some("worker"));
        assert!(criticality.rows[0].share > 0.999, "who spins does not count: {criticality:?}");
    }
}

#[test]
fn a_library_that_computes_is_no_spinner() {
    for (file, name) in
        [("/opt/libmath.so", None), ("/opt/libmath.so", Some("spin_glass_energy")), ("/opt/x", Some("step2"))]
    {
        let report = beside(file, name);
        assert_eq!(thread(&report, 11).states["spinning"], 0.0, "{file} {name:?}");
        assert!(report.observed.iter().all(|finding| finding.class != "spin-wait"), "{:?}", report.observed);
    }
}

/// Process 10 starts `count` processes one after the other, each of which lives for `life_ms`, executes a program and is waited for.
fn spawning_run(count: u64, life_ms: u64) -> Report {
    let mut events = vec![
        Event::NewTask(new_task(START, 10, 10, 1, "parent")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
    ];
    let wait = Leave::Sleep { syscall: 61, fd_kind: 0, object: 0 };
    for round in 0..count {
        let (begin, child) = (START + round * (life_ms + 1) * MS, 1000 + round as u32);
        let end = begin + life_ms * MS;
        events.push(Event::NewTask(new_task(begin + 1000, child, child, 10, "parent")));
        events.push(Event::Switch(switch(begin + 2000, 0, 10, child, wait)));
        events.push(Event::Exec(Box::new(Exec {
            header: header(kind::EXEC, begin + 3000, 0),
            tgid: child,
            old_tid: child,
            comm: comm("tool"),
            path: path("/usr/bin/tool"),
        })));
        events.push(Event::Exit(Exit {
            header: header(kind::EXIT, end - 1000, 0),
            tid: child,
            tgid: child,
            exit_code: 0,
            reserved: 0,
            sum_exec_runtime_ns: 0,
            comm: comm("tool"),
        }));
        events.push(Event::Switch(woken(switch(end, 0, child, 10, Leave::Dead), WakeContext::Task, child, 500)));
    }
    run(events, count * (life_ms + 1))
}

#[test]
fn many_short_lived_processes_one_after_the_other_are_a_storm() {
    let report = spawning_run(150, 20);
    assert_evidence_resolves(&report);
    let finding = finding(&report, "process-spawn-storm");
    for part in ["parent (10) started 150 processes", "150 of them short-lived of 20", "/usr/bin/tool"] {
        assert!(finding.summary.contains(part), "{part}: {}", finding.summary);
    }
    assert!(finding.lost_s.is_some_and(|lost_s| (lost_s - 3.0).abs() < 0.1), "{finding:?}");
    let spawned = report.cpu.as_ref().and_then(|cpu| cpu.processes.iter().find_map(|p| p.spawned.as_ref()));
    let spawned = spawned.expect("it started some");
    assert_eq!((spawned.started, spawned.ended, spawned.executed, spawned.threads[0].tid), (150, 150, 150, 10));
}

#[test]
fn few_or_long_lived_processes_are_no_storm() {
    assert_eq!(status(&spawning_run(15, 100), "process-spawn-storm"), RuleStatus::Silent, "few");
    assert_eq!(status(&spawning_run(30, 400), "process-spawn-storm"), RuleStatus::Silent, "long-lived");
}

/// Processes 10 and 20 compute 10 ms of each 40 in `step` and meet; `late` says who sleeps for 20 ms before, and `same` whether both
/// compute in the same function.
fn meeting_run(late: impl Fn(u64) -> u32, same: bool) -> Report {
    let mut events = vec![
        cpu_ready(),
        Event::NewTask(new_task(START, 10, 10, 1, "rank")),
        Event::NewTask(new_task(START, 20, 20, 1, "rank")),
        module(1, "/opt/app"),
        native(1, 1, 0x100),
        native(2, 1, 0x200),
        stack(1, &[1]),
        stack(2, &[2]),
    ];
    let sleeps = Leave::Sleep { syscall: 230, fd_kind: 0, object: 0 };
    let meets = Leave::Sleep { syscall: 0, fd_kind: 4, object: 77 };
    for round in 0..100 {
        let begin = |ms: u64| at(round * 40 + ms);
        for (cpu, tid) in [(0, 10), (1, 20)] {
            let own = if tid == 20 && !same { 2 } else { 1 };
            events.push(sample(begin(5), tid, tid, own, 10 * MS));
            if round == 0 {
                events.push(Event::Switch(switch(begin(0), cpu, 0, tid, Leave::Preempted)));
            }
        }
        let late = late(round);
        let (cpu, early) = if late == 20 { (1, 10) } else { (0, 20) };
        events.push(Event::Switch(switch(begin(10), cpu, late, 0, sleeps)));
        events.push(Event::Switch(switch(begin(10), 1 - cpu, early, 0, meets)));
        events.push(Event::Switch(woken(
            switch(begin(30), cpu, 0, late, Leave::Preempted),
            WakeContext::Timer,
            0,
            500,
        )));
        let back = switch(begin(31), 1 - cpu, 0, early, Leave::Preempted);
        events.push(Event::Switch(woken(back, WakeContext::Task, late, 500)));
    }
    run(events, 4000)
}

#[test]
fn the_one_that_comes_last_is_named_and_only_where_all_do_the_same() {
    let report = meeting_run(|_| 20, true);
    assert_evidence_resolves(&report);
    let found = finding(&report, "straggler");
    assert_eq!(found.culprit.as_ref().and_then(|culprit| culprit.tid), Some(20), "{found:?}");
    assert_eq!(found.victims[0].tid, Some(10));
    assert!(found.lost_s.is_some_and(|lost_s| (lost_s - 2.1).abs() < 0.05), "{found:?}");
    let in_turn = meeting_run(|round| if round % 2 == 0 { 10 } else { 20 }, true);
    assert_eq!(status(&in_turn, "straggler"), RuleStatus::Silent, "each is late in turn");
    let producer = meeting_run(|_| 20, false);
    assert_eq!(status(&producer, "straggler"), RuleStatus::Silent, "a producer does other work");
    let knot = &report.knots[0];
    assert_eq!(knot.groups.len(), 1, "{:?}", report.knots);
}
