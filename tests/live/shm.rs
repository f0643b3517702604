//! File systems in memory that run full: who writes through a mapping dies of SIGBUS, who writes by a call is refused. And ones that do not.

use serde_json::Value;

use crate::harness::{Report, Traced, Tracer, close, list, number, python, text, workload};

const CLASS: &str = "shm-exhaustion";
const MIB: f64 = 1048576.0;
const FAMILIES: [&str; 2] = ["--family", "cpu,fault,rss"];

fn traced(arguments: &str) -> Traced {
    Tracer::run(workload(arguments)).options(&FAMILIES).go().expect_code(0)
}

fn only<'a>(report: &'a Report, class: &str) -> &'a Value {
    let found = report.findings(class);
    let [finding] = found[..] else { panic!("one {class}, not {found:?}: {}", report.0["rules"]) };
    for evidence in list(finding, "evidence") {
        let at = report.0.pointer(text(evidence, "source")).and_then(Value::as_f64);
        assert_eq!(at, evidence["value"].as_f64(), "the report has what is cited: {evidence}");
    }
    finding
}

/// The row of the file system that the workload has mounted.
fn row<'a>(report: &'a Report, truth: &Value) -> &'a Value {
    let rows = list(&report.0["memory"], "tmpfs");
    let own = rows.iter().find(|row| row["path"] == truth["path"]);
    own.unwrap_or_else(|| panic!("{} is told: {rows:?}", truth["path"]))
}

#[track_caller]
fn assert_silent(report: &Report) {
    assert_eq!(report.rule(CLASS), "silent", "{}", report.0["rules"]);
    assert!(report.findings(CLASS).is_empty(), "{}", report.0["findings"]);
}

#[test]
fn who_dies_of_sigbus_on_a_full_file_system_is_told_with_where_and_how_large_it_is() {
    let traced = traced("shm");
    let (report, truth) = (traced.report(), traced.truth());
    assert_eq!(truth["signal"], 7, "the child died of SIGBUS: {truth}");
    let finding = only(&report, CLASS);
    assert_eq!(finding["severity"], "critical", "{finding}");
    assert!(number(finding, "confidence") >= 0.7, "it was nearly full at the last reading: {finding}");
    let culprit = &finding["culprit"];
    assert_eq!((&culprit["pid"], &culprit["path"]), (&truth["child"], &truth["path"]), "{finding}");
    let function = text(culprit, "function");
    assert!(function.contains("collate_batch") || function.contains("touch_between"), "where it wrote: {finding}");
    let (summary, meaning) = (text(finding, "summary"), text(finding, "hypothesis"));
    for said in ["SIGBUS", text(&truth, "path"), "64.0 MiB"] {
        assert!(summary.contains(said), "{said} is said: {summary}");
    }
    assert!(meaning.contains("SIGBUS means") && meaning.contains("ENOSPC"), "SIGBUS is explained: {meaning}");
    let row = row(&report, &truth);
    assert_eq!(number(row, "size_bytes"), number(&truth, "size_bytes"), "{row}");
    // The last reading was up to a quarter of a second before, at 40 MiB/s.
    close("most in use", number(row, "most_bytes"), 64.0 * MIB, 0.0, 14.0 * MIB);
    let deaths = list(&report.0["memory"], "bus_errors");
    assert_eq!(deaths.len(), 1, "{deaths:?}");
    assert_eq!(report.0["verdict"], "bottleneck", "{}", report.0["verdict_reason"]);
}

#[test]
fn a_file_system_that_has_room_is_none_that_ran_full() {
    for _ in 0..crate::healthy::repeats() {
        let traced = traced("shm --mib 32");
        let (report, truth) = (traced.report(), traced.truth());
        assert_eq!(truth["signal"], 0, "{truth}");
        assert_silent(&report);
        close("most in use", number(row(&report, &truth), "most_bytes"), 32.0 * MIB, 0.0, 0.5 * MIB);
        assert!(report.0["memory"]["bus_errors"].is_null(), "nobody died: {}", report.0["memory"]["bus_errors"]);
    }
}

#[test]
fn one_that_is_filled_by_writing_is_told_though_nobody_dies() {
    let traced = traced("shm --write --rate 120");
    let (report, truth) = (traced.report(), traced.truth());
    assert_eq!(truth["refused"], true, "a write failed for want of room: {truth}");
    let finding = only(&report, CLASS);
    assert_eq!((&finding["severity"], &finding["culprit"]["path"]), (&"warning".into(), &truth["path"]), "{finding}");
    assert!(text(finding, "summary").contains("64.0 MiB"), "{finding}");
}

#[test]
fn one_that_fills_between_two_readings_is_told_by_the_pages_that_were_touched() {
    let traced = traced("shm --rate 2000 --settle 600ms");
    let (report, truth) = (traced.report(), traced.truth());
    assert_eq!(truth["signal"], 7, "{truth}");
    let finding = only(&report, CLASS);
    assert_eq!(finding["culprit"]["path"], truth["path"], "{finding}");
    assert!(number(finding, "confidence") <= 0.9, "{finding}");
}

#[test]
fn sigbus_of_a_file_that_was_cut_short_is_something_else() {
    let cut = "import mmap, os, tempfile\n\
        with tempfile.TemporaryFile() as file:\n    \
        file.truncate(1 << 20)\n    \
        data = mmap.mmap(file.fileno(), 1 << 20)\n    \
        file.truncate(0)\n    \
        data[0] = 1\n";
    let mut command = python("memory.py", "");
    command.truncate(1);
    command.extend(["-c", cut].map(std::ffi::OsString::from));
    let report = Tracer::run(command).options(&FAMILIES).go().expect_code(135).report();
    assert_silent(&report);
    let deaths = list(&report.0["memory"], "bus_errors");
    assert_eq!(deaths.len(), 1, "but it is told: {deaths:?}");
}
