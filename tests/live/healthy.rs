//! Healthy twins: programs that wait a lot, and for which `user-lock-contention` must be silent. Each runs `LIVE_REPEAT` times.

use crate::harness::{Report, Traced, Tracer, list, python, workload};

pub fn repeats() -> usize {
    std::env::var("LIVE_REPEAT").map_or(2, |text| text.parse().expect("LIVE_REPEAT is a number"))
}

#[track_caller]
fn assert_silent(what: &str, run: impl Fn() -> Traced) {
    let repeat = repeats();
    for time in 1..=repeat {
        let traced = run();
        let report: Report = traced.report();
        let rule = report.rule("user-lock-contention");
        assert_eq!(rule, "silent", "{what}, run {time} of {repeat}: {}", report.0["rules"]);
        assert!(
            report.findings("user-lock-contention").is_empty(),
            "{what}, run {time} of {repeat}: {}",
            report.0["findings"]
        );
        assert!(list(&report.0, "threads").len() > 1, "{what}: the threads were seen");
    }
}

fn go(arguments: &str) -> Traced {
    Tracer::run(workload(arguments)).go().expect_code(0)
}

#[test]
fn an_idle_pool_is_no_contention() {
    assert_silent("idle pool", || go("idle-pool --duration 800ms"));
}

#[test]
fn a_queue_in_a_pipe_is_no_contention() {
    assert_silent("pipe queue", || go("pipe-queue --duration 600ms"));
}

#[test]
fn a_mutex_for_each_thread_is_no_contention() {
    assert_silent("mutex --healthy", || go("mutex --healthy --duration 600ms"));
}

#[test]
fn two_python_threads_that_fight_for_the_interpreter_lock_are_no_mutex_contention() {
    assert_silent("GIL", || Tracer::run(python("gil_fight.py", "1.2")).go().expect_code(0));
}

#[test]
fn locks_taken_in_the_same_order_are_no_contention() {
    assert_silent("deadlock --healthy", || go("deadlock --healthy"));
}

#[test]
fn a_program_that_computes_is_cpu_bound() {
    // Ahead of whatever else this host does, or it waits in the run queue.
    let mut command: Vec<std::ffi::OsString> = ["nice", "-n", "-15"].map(Into::into).to_vec();
    command.extend(workload("cpu --duration 1200ms"));
    let traced = Tracer::run(command).go().expect_code(0);
    let report = traced.report();
    assert_eq!(report.rule("cpu-bound"), "fired", "{}", report.0["rules"]);
    assert_eq!(report.0["verdict"], "cpu-bound", "{}", report.0["verdict_reason"]);
}

#[test]
fn a_program_that_sleeps_is_not_cpu_bound() {
    let traced = go("sleep --duration 600ms");
    let report = traced.report();
    assert_eq!(report.rule("cpu-bound"), "silent", "{}", report.0["rules"]);
    assert_ne!(report.0["verdict"], "cpu-bound", "{}", report.0["verdict_reason"]);
}
