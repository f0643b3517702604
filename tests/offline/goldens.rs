//! The report of each recorded capture, as a person and as a program gets it, is what it was when somebody last read it.

use std::collections::BTreeSet;

use crate::support::{assert_sound, capture_bytes, folder, golden_report, json, text, without_live_parts};
use crate::{RECORDED, support};

/// Compares the reports of a capture with the snapshots. What tracing cost is part of the capture, so the text has it; it is not in the
/// JSON, which shows all that a replay must have in common with the live report.
pub fn check(name: &str) {
    let report = golden_report(name);
    assert_sound(name, &report);
    let (text, json) = (text(&report), json(&without_live_parts(report)));
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_path(folder().join("snapshots"));
    settings.bind(|| {
        insta::assert_snapshot!(format!("{name}.text"), text);
        insta::assert_snapshot!(format!("{name}.json"), json);
    });
}

#[test]
fn each_capture_in_the_folder_is_described_and_small() {
    let files = std::fs::read_dir(folder().join("captures")).expect("the folder of captures");
    let found: BTreeSet<String> =
        files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()).collect();
    let described: BTreeSet<String> = RECORDED.iter().map(|capture| format!("{}.trc", capture.name)).collect();
    assert_eq!(found, described, "files in captures/ and the table in main.rs");
    for capture in RECORDED {
        assert!(!capture.command.is_empty() && !capture.why.is_empty(), "{} says nothing of itself", capture.name);
        let len_bytes = capture_bytes(capture.name).len();
        assert!(len_bytes < 100 << 10, "{} has {len_bytes} bytes", capture.name);
    }
}

#[test]
fn no_snapshot_is_left_of_a_capture_that_is_gone() {
    let files = std::fs::read_dir(folder().join("snapshots")).expect("the folder of snapshots");
    for file in files {
        let file = file.expect("a file").file_name().to_string_lossy().into_owned();
        let known = RECORDED
            .iter()
            .any(|capture| ["text", "json"].iter().any(|form| file == format!("{}.{form}.snap", capture.name)));
        assert!(known, "{file} belongs to no capture");
    }
}

#[test]
fn nothing_was_damaged_in_the_recorded_captures() {
    for capture in RECORDED {
        let content = support::read(&capture_bytes(capture.name)).expect("opens");
        assert_eq!(content.cut.is_some(), capture.name == "killed", "{}: {:?}", capture.name, content.cut);
        let report = golden_report(capture.name);
        let undecoded: u64 = report.coverage.families.iter().map(|family| family.undecoded).sum();
        assert_eq!(undecoded, 0, "{}: {:?}", capture.name, report.coverage.undecoded_by_kind);
        assert_eq!(report.window.complete, capture.name != "killed", "{}: {:?}", capture.name, report.window);
    }
}

#[test]
fn both_sums_of_the_ledger_hold_in_each_recording() {
    for capture in RECORDED {
        for family in golden_report(capture.name).coverage.families {
            let (Some(seen), Some(submitted), Some(lost)) = (family.seen, family.submitted, family.lost) else {
                panic!("{}: no counters: {family:?}", capture.name);
            };
            assert_eq!(seen, submitted + lost, "{}: {family:?}", capture.name);
            let accounted =
                family.decoded + family.undecoded + family.queued.unwrap_or(0) + family.missing.unwrap_or(0);
            // Counters are snapshots: a killed tracer had decoded more than its last one says.
            let holds = if capture.name == "killed" { accounted >= submitted } else { accounted == submitted };
            assert!(holds, "{}: submitted {submitted}, accounted {accounted}: {family:?}", capture.name);
        }
    }
    let lossy = golden_report("lossy").coverage.families.remove(0);
    assert!(lossy.lost > Some(1000), "the lossy capture lost much: {lossy:?}");
}
