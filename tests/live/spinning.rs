//! Threads that wait on a CPU: told from threads that work, and blamed only where somebody with work wants that CPU. How long others of
//! this machine take the CPUs away is not known beforehand, so times are held against the programs' own.

use serde_json::Value;

use crate::harness::{Traced, Tracer, close, list, native, number, report::state, text, whole, workload};

fn go(arguments: &str) -> Traced {
    Tracer::run(workload(arguments)).options(&["--family", "cpu"]).go().expect_code(0)
}

/// A thread of a workload, as it and as the report tell of it.
fn worker(traced: &Traced, role: &str) -> (Value, Value) {
    let truth = traced.truth();
    let own =
        list(&truth, "threads").iter().find(|thread| thread["role"] == role).expect("the role has a thread").clone();
    let row = traced.report().thread(whole(&own, "tid")).clone();
    (own, row)
}

fn on_cpu(row: &Value) -> f64 {
    state(row, "on_cpu") + state(row, "spinning")
}

#[test]
fn a_thread_that_spins_on_the_cpu_of_one_that_works_is_blamed() {
    let traced = go("spin-wait --busy --duration 1500ms");
    let report = traced.report();
    let ((computer, computing), (waiter, waiting)) = (worker(&traced, "computer"), worker(&traced, "waiter"));
    let what = "time on CPU, spinning included";
    close(what, on_cpu(&waiting), number(&waiter, "on_cpu_ns") / 1e9, 0.05, 0.05 + traced.stolen_s);
    assert!(state(&waiting, "spinning") >= 0.9 * on_cpu(&waiting), "it does nothing else: {waiting}");
    assert!(state(&computing, "spinning") <= 0.05 * on_cpu(&computing), "it works: {computing}");
    let found = report.findings("spin-wait");
    assert_eq!(found.len(), 1, "{} {}", report.0["rules"], report.0["findings"]);
    let finding = found[0];
    assert_eq!(finding["culprit"]["tid"], waiter["tid"], "{finding}");
    assert_eq!(finding["victims"][0]["tid"], computer["tid"], "{finding}");
    assert!(text(finding, "summary").contains("spin_until"), "{finding}");
    // What it costs is what the worker would not have waited for the CPU; others of this machine may take their part.
    let delayed_s = number(&computer, "run_delay_ns") / 1e9;
    assert!(number(finding, "lost_s") <= 1.05 * delayed_s + 0.1, "{finding} {computer}");
    assert!(number(finding, "lost_s") >= 0.5 * on_cpu(&waiting), "{finding} {waiting}");
    assert_eq!(report.rule("cpu-oversubscription"), "silent", "{}", report.0["rules"]);
    assert_ne!(report.0["verdict"], "cpu-bound", "{}", report.0["verdict_reason"]);
    report.assert_states();
}

#[test]
fn a_thread_that_waits_in_a_pipe_is_not_blamed() {
    let traced = go("spin-wait --healthy --duration 1s");
    let report = traced.report();
    let (_, waiting) = worker(&traced, "waiter");
    assert_eq!(report.rule("spin-wait"), "silent", "{}", report.0["rules"]);
    assert!(report.findings("spin-wait").is_empty(), "{}", report.0["findings"]);
    assert!(state(&waiting, "spinning") <= 0.01, "{waiting}");
}

#[test]
fn a_thread_that_spins_on_a_cpu_of_its_own_harms_nobody() {
    let traced = go("spin-wait --apart --duration 1200ms");
    let report = traced.report();
    let (_, waiting) = worker(&traced, "waiter");
    assert!(state(&waiting, "spinning") >= 0.8 * on_cpu(&waiting), "it yields all the time: {waiting}");
    assert!(report.findings("spin-wait").is_empty(), "{}", report.0["findings"]);
    assert_eq!(report.rule("spin-wait"), "silent", "{}", report.0["rules"]);
    assert_eq!(
        report.0["observed"].as_array().map_or(0, |o| o.iter().filter(|f| f["class"] == "spin-wait").count()),
        1
    );
    report.assert_states();
}

#[test]
fn calls_of_sched_yield_are_counted_without_stacks() {
    // Without the family cpu.
    let traced = Tracer::run(workload("spin-wait --duration 1s")).go().expect_code(0);
    let report = traced.report();
    let (waiter, waiting) = worker(&traced, "waiter");
    assert!(whole(&waiting["spinning"], "yields") >= 20, "it yields to the worker each time: {waiting}");
    close("all it did on its CPU", state(&waiting, "spinning"), number(&waiter, "on_cpu_ns") / 1e9, 0.5, 0.02);
    let (_, computing) = worker(&traced, "computer");
    assert!(computing.get("spinning").is_none(), "{computing}");
    report.assert_states();
}

#[test]
fn more_threads_at_a_barrier_than_cpus_are_too_many_and_their_spinning_is_told() {
    let traced = go("oversub --threads 8 --cpus 2 --duration 4s");
    let report = traced.report();
    let found = report.findings("cpu-oversubscription");
    assert_eq!(found.len(), 1, "{} {}", report.0["rules"], report.0["findings"]);
    assert_eq!(list(found[0], "consequences"), ["spin-wait"], "{}", found[0]);
    assert!(text(found[0], "summary").contains("was spinning"), "{}", found[0]);
    assert!(report.findings("spin-wait").is_empty(), "the barrier is no cause of its own: {}", report.0["findings"]);
    report.assert_states();
}

#[test]
fn two_threads_at_a_barrier_on_two_cpus_are_fine() {
    let traced = go("oversub --threads 2 --cpus 2 --duration 2s");
    let report = traced.report();
    for class in ["cpu-oversubscription", "spin-wait"] {
        assert!(report.findings(class).is_empty(), "{class}: {}", report.0["findings"]);
    }
    report.assert_states();
}

#[test]
fn a_team_of_openmp_threads_spins_at_its_barrier_also_where_the_library_has_no_symbols() {
    let program = native::build_as("openmp.c", "openmp", &["-fopenmp"]);
    let traced = Tracer::run(native::line(&program, "2 60 20 1"))
        .env("OMP_WAIT_POLICY", "active")
        .env("OMP_DYNAMIC", "false")
        .options(&["--family", "cpu"])
        .go()
        .expect_code(0);
    let (truth, report) = (traced.truth(), traced.report());
    let row = report.thread(whole(&truth, "other"));
    close("its CPU time", on_cpu(row), number(&truth, "other_cpu_s"), 0.1, 0.1 + traced.stolen_s);
    let spun_s = number(&truth, "other_cpu_s") - number(&truth, "other_worked_s");
    close("what it did not work of that", state(row, "spinning"), spun_s, 0.15, 0.1 + traced.stolen_s);
    let function = &row["spinning"]["functions"][0];
    assert_eq!(function["waits_for"], "OpenMP threads", "{row}");
    let first = report.thread(whole(&truth, "first"));
    assert!(state(first, "on_cpu") >= 0.8 * on_cpu(first), "the first thread works: {first}");
    let (spun, total) = report.on_path(|part| part["state"] == "spinning");
    assert!(spun <= 0.3 * total, "the path goes through the work: {}", report.0["critical_path"]);
}
