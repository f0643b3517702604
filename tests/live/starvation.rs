//! Queues, and what files, pipes and sockets are: a main loop that others feed.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{self, Tracer, list, number, python, text, whole};

/// A main loop, its producers, and the report of them.
fn loader(arguments: &str) -> (Value, harness::Report) {
    let folder = PathBuf::from(harness::storage::disk());
    let tracer = Tracer::run(python("loader.py", arguments)).options(&["--family", "cpu"]);
    let traced = tracer.env("LOADER_DIR", &folder.display().to_string()).go().expect_code(0);
    traced.report().assert_path();
    (traced.truth(), traced.report())
}

fn is_producer(truth: &Value, subject: &Value) -> bool {
    list(truth, "producers").contains(&subject["pid"])
}

/// The finding, whose culprit must be a producer.
fn starved<'a>(truth: &Value, report: &'a harness::Report, kind: &str) -> &'a Value {
    let found = report.findings("input-starvation");
    let path = &report.0["critical_path"]["own_waits"];
    let [finding] = found[..] else {
        panic!("{kind}: one finding, not {found:?}; rules: {}; waits: {path}", report.0["rules"])
    };
    // Where two do the same no single one is named.
    let culprit = &finding["culprit"];
    assert!(culprit["pid"].is_null() || is_producer(truth, culprit), "{kind}: a producer is to blame: {finding}");
    assert_eq!(finding["victims"][0]["pid"], truth["pid"], "{kind}: the main thread is the victim: {finding}");
    for evidence in list(finding, "evidence") {
        let at = report.0.pointer(text(evidence, "source")).and_then(Value::as_f64);
        assert_eq!(at, evidence["value"].as_f64(), "{kind}: the report has what is cited: {evidence}");
    }
    finding
}

#[test]
fn a_sleeping_producer_is_charged_with_what_the_main_thread_waits_whatever_the_queue_is() {
    for kind in ["pipe", "mpqueue", "threads", "workers", "unix"] {
        let (truth, report) = loader(&format!("{kind} sleep"));
        let finding = starved(&truth, &report, kind);
        let culprit = &finding["culprit"];
        assert_eq!(culprit["function"], "decode_sample", "{kind}: the function that sleeps is named: {finding}");
        let (lost, waited) = (number(finding, "lost_s"), number(&truth, "waited_s"));
        // On a busy machine the producers wait for a CPU as well, and where that is a finding itself it does not count here.
        let waits = list(&report.0["critical_path"], "own_waits").iter().flat_map(|wait| list(wait, "did"));
        let queued: f64 = waits.filter(|did| did["state"] == "runnable").map(|did| number(did, "s")).sum();
        let wanted = 0.8 * (waited - queued)..=1.05 * waited;
        assert!(wanted.contains(&lost), "{kind}: lost {lost} of {waited} s waited, {queued} s queued: {finding}");
    }
}

#[test]
fn a_computing_producer_is_named_with_its_function() {
    for kind in ["pipe", "workers"] {
        let (truth, report) = loader(&format!("{kind} compute"));
        let crowded = ["cpu-oversubscription", "run-queue-wait", "cpu-steal", "low-priority"];
        if crowded.iter().any(|class| !report.findings(class).is_empty()) {
            // On a busy machine the producers wait for a CPU more than they compute, and that is said first.
            continue;
        }
        let finding = starved(&truth, &report, kind);
        let function = finding["culprit"]["function"].as_str().unwrap_or_default();
        assert!(["burn", "decode_sample"].contains(&function), "{kind}: what computes is named: {finding}");
    }
}

#[test]
fn a_producer_that_reads_a_file_is_named_with_the_file() {
    let (truth, report) = loader("pipe read");
    let waits = list(&report.0["critical_path"], "own_waits");
    let did = waits.iter().flat_map(|wait| list(wait, "did"));
    let reading: Vec<&Value> = did.filter(|did| did["state"] == "file" && did["path"] == truth["path"]).collect();
    assert!(!reading.is_empty(), "the file {} is named: {waits:?}", truth["path"]);
}

#[test]
fn a_full_queue_is_no_starvation() {
    for kind in ["pipe", "mpqueue", "threads", "workers", "unix"] {
        let (_, report) = loader(&format!("{kind} compute healthy"));
        let found = report.findings("input-starvation");
        assert!(found.is_empty(), "{kind}: the producers wait for the main thread: {found:?}");
    }
}

#[test]
fn a_pipe_is_told_by_who_writes_to_it_and_who_reads() {
    let (truth, report) = loader("pipe sleep");
    let (main, child) = (whole(&truth, "pid"), list(&truth, "producers")[0].as_u64());
    let objects = list(&report.0["objects"], "list");
    let pipe = objects.iter().find(|object| object["kind"] == "pipe" && object["readers"][0]["pid"] == main);
    let pipe = pipe.unwrap_or_else(|| panic!("the main thread reads a pipe: {objects:?}"));
    assert_eq!(pipe["writers"][0]["pid"].as_u64(), child, "the child writes to it: {pipe}");
    let ends = text(pipe, "ends");
    assert!(ends.starts_with("pipe from ") && ends.contains(" to "), "both ends are named: {pipe}");
}

#[test]
fn threads_that_log_into_a_slow_pipe_are_a_convoy() {
    let traced = Tracer::run(python("log_convoy.py", "")).options(&["--family", "cpu"]).go().expect_code(0);
    let (truth, report) = (traced.truth(), traced.report());
    let found = report.findings("logging-convoy");
    let finding = found.first().unwrap_or_else(|| panic!("a convoy: {} {}", report.0["rules"], report.0["locks"]));
    let culprit = &finding["culprit"];
    assert_eq!(culprit["pid"], truth["reader"], "the reader is to blame: {finding}");
    assert!(text(culprit, "peer").starts_with("pipe from "), "the pipe is named: {finding}");
    let victims = list(finding, "victims");
    assert!(victims.len() >= 3 && victims.iter().all(|victim| victim["pid"] == truth["pid"]), "the ranks: {finding}");
    // The seconds are those of the path: a thread's, who all wait nearly as long.
    let waited = list(&truth, "waited_s").iter().filter_map(Value::as_f64).fold(0.0, f64::max);
    let lost = number(finding, "lost_s");
    assert!((0.6 * waited..=1.15 * waited).contains(&lost), "lost {lost} of {waited} s: {finding}");
    assert!(report.findings("user-lock-contention").is_empty(), "the convoy is said once: {}", report.0["findings"]);
}

#[test]
fn threads_that_log_into_a_pipe_that_is_read_are_none() {
    let traced = Tracer::run(python("log_convoy.py", "fast")).options(&["--family", "cpu"]).go().expect_code(0);
    let found = traced.report();
    let found = found.findings("logging-convoy");
    assert!(found.is_empty(), "the reader is fast: {found:?}");
}

#[test]
fn a_main_loop_that_a_script_runs_is_looked_at_as_well() {
    let line: Vec<String> =
        python("loader.py", "pipe sleep").iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let script = format!("{}; true", line.join(" "));
    let traced = Tracer::run(harness::shell(&script)).options(&["--family", "cpu"]).go().expect_code(0);
    let (truth, report) = (traced.truth(), traced.report());
    let finding = starved(&truth, &report, "script");
    assert_eq!(finding["culprit"]["function"], "decode_sample", "the function that sleeps is named: {finding}");
}
