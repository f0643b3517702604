//! Processes that live for milliseconds, one after the other, and such that live long; processes that wait for the last of them.

use crate::harness::{Report, Traced, Tracer, list, number, python, report::state, shell, text, whole, workload};

fn traced(command: Vec<std::ffi::OsString>) -> Traced {
    Tracer::run(command).options(&["--family", "cpu"]).go().expect_code(0)
}

/// What the report says that a process started.
fn spawned(report: &Report, pid: u64) -> serde_json::Value {
    report.process(pid)["spawned"].clone()
}

#[track_caller]
fn assert_silent(what: &str, report: &Report, class: &str) {
    assert_eq!(report.rule(class), "silent", "{what}: {}", report.0["rules"]);
    assert!(report.findings(class).is_empty(), "{what}: {}", report.0["findings"]);
}

#[test]
fn a_process_for_each_item_is_a_storm() {
    let traced = traced(workload("spawn-storm --items 1000"));
    let (truth, report) = (traced.truth(), traced.report());
    let pid = whole(&truth, "pid");
    let spawned = spawned(&report, pid);
    assert_eq!((whole(&spawned, "started"), whole(&spawned, "ended")), (1000, 1000), "{spawned}");
    assert_eq!(whole(&spawned["programs"][0], "count"), 1000, "{spawned}");
    let found = report.findings("process-spawn-storm");
    assert_eq!(found.len(), 1, "{} {}", report.0["rules"], report.0["observed"]);
    let finding = found[0];
    assert_eq!(finding["culprit"]["pid"], pid, "{finding}");
    assert!(text(finding, "summary").contains("run_preprocess"), "the call's place: {finding}");
    let child_s = state(report.thread(pid), "child");
    assert!(number(finding, "lost_s") >= 0.8 * child_s, "{finding}: it waited {child_s} s for children");
    assert!(number(finding, "lost_s") <= 1.05 * number(&truth, "took_s"), "{finding} {truth}");
    report.assert_path();
}

#[test]
fn forking_a_large_process_is_told_by_what_forking_costs() {
    let traced = traced(workload("spawn-storm --fork --items 80 --memory-mib 500"));
    let (truth, report) = (traced.truth(), traced.report());
    let spawned = spawned(&report, whole(&truth, "pid"));
    assert_eq!((whole(&spawned, "started"), whole(&spawned, "executed")), (80, 0), "{spawned}");
    assert!(number(&spawned, "fork_s") > 0.1, "page tables of 500 MiB, 80 times: {spawned}");
    assert_eq!(report.findings("process-spawn-storm").len(), 1, "{}", report.0["rules"]);
}

#[test]
fn a_program_that_python_runs_for_each_item_is_a_storm() {
    let traced = traced(python("subprocess_per_item.py", "each 1200"));
    let report = traced.report();
    let found = report.findings("process-spawn-storm");
    assert_eq!(found.len(), 1, "{} {}", report.0["rules"], report.0["observed"]);
    assert!(text(found[0], "summary").contains("/bin/true"), "{}", found[0]);
    assert!(found[0]["culprit"]["function"].is_string(), "{}", found[0]);
}

#[test]
fn one_process_for_all_items_and_few_long_ones_are_no_storm() {
    assert_silent("one", &traced(workload("spawn-storm --healthy --items 800")).report(), "process-spawn-storm");
    assert_silent("few", &traced(workload("spawn-storm --long 3")).report(), "process-spawn-storm");
    let items = traced(python("subprocess_per_item.py", "all 2000"));
    assert_silent("python", &items.report(), "process-spawn-storm");
    let pipeline = shell("seq 1 300000 | sort -n | uniq | wc -l; sleep 0.6; seq 1 300000 | tail -1");
    assert_silent("a pipeline", &traced(pipeline).report(), "process-spawn-storm");
}

#[test]
fn many_processes_for_which_nobody_waits_are_only_observed() {
    let traced = traced(workload("fork-storm --count 200 --rate 100/s"));
    let report = traced.report();
    assert!(report.findings("process-spawn-storm").is_empty(), "{}", report.0["findings"]);
    let observed = list(&report.0, "observed").iter().any(|finding| finding["class"] == "process-spawn-storm");
    assert!(observed, "{} {}", report.0["rules"], report.0["observed"]);
}

#[test]
fn the_process_that_always_comes_last_is_named_with_what_it_did() {
    let traced = traced(workload("straggler --steps 60"));
    let (truth, report) = (traced.truth(), traced.report());
    let found = report.findings("straggler");
    assert_eq!(found.len(), 1, "{} {}", report.0["rules"], report.0["observed"]);
    let finding = found[0];
    assert_eq!(finding["culprit"]["pid"], truth["straggler"], "{finding}");
    assert_eq!(finding["victims"][0]["pid"], truth["pid"], "{finding}");
    assert!(text(finding, "summary").contains("read_slow_input"), "{finding}");
    assert!(number(finding, "lost_s") <= 1.05 * number(&truth, "waited_s") + 0.05, "{finding} {truth}");
    report.assert_path();
}

#[test]
fn processes_that_take_as_long_have_no_straggler() {
    let traced = traced(workload("straggler --healthy --steps 300"));
    let report = traced.report();
    assert!(report.findings("straggler").is_empty(), "{}", report.0["findings"]);
}

#[test]
fn a_producer_is_no_straggler() {
    let traced = traced(workload("pipe-queue --duration 1s"));
    assert_silent("pipe queue", &traced.report(), "straggler");
}
