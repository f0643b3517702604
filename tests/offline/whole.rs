//! The binary gives what the library gives. Needs the variable TRACER_BIN, which `cargo xtask test` and `bless` set; says so and
//! passes without it, since a plain `cargo test -p tests --test offline` builds no binary.

use std::path::Path;
use std::process::{Command, Output};

use tracer::export::ndjson::{write_event, write_undecoded};
use tracer::pipeline::batch::Batch;
use tracer::pipeline::decode::decode;
use tracer::pipeline::order::Order;

use crate::RECORDED;
use crate::support::{capture_bytes, capture_path, golden_report, json, records_of};

/// Runs the tracer on a file; none without TRACER_BIN.
fn tracer(arguments: &[&str], capture: &Path) -> Option<Output> {
    let Some(binary) = std::env::var_os("TRACER_BIN") else {
        eprintln!("not tested: TRACER_BIN names no binary; `cargo xtask test offline` sets it");
        return None;
    };
    let output = Command::new(&binary).args(arguments).arg(capture).output();
    Some(output.unwrap_or_else(|error| panic!("{}: {error}", binary.display())))
}

#[track_caller]
fn stdout(what: &str, output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{what}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap_or_else(|error| panic!("{what}: {error}"))
}

#[test]
fn the_binary_reports_what_the_library_does() {
    for capture in RECORDED {
        for arguments in [&["report", "--format", "json"][..], &["export", "--to", "json"]] {
            let Some(output) = tracer(arguments, &capture_path(capture.name)) else { return };
            let what = format!("{} of {}", arguments.join(" "), capture.name);
            assert!(
                stdout(&what, output) == json(&golden_report(capture.name)),
                "{what} is not what the library gives"
            );
        }
    }
}

#[test]
fn the_binary_exports_each_event() {
    for capture in RECORDED {
        let Some(output) = tracer(&["export", "--to", "ndjson"], &capture_path(capture.name)) else { return };
        let (mut expected, mut order, mut batch) = (Vec::new(), Order::default(), Batch::new());
        records_of(capture.name).iter().for_each(|record| batch.push(record));
        order.push(&batch);
        order.finish(&mut |record: &[u8]| {
            let written = match decode(record) {
                Ok(event) => write_event(&event, &mut expected),
                Err(undecoded) => write_undecoded(&undecoded, &mut expected),
            };
            written.expect("memory");
        });
        let exported = stdout(capture.name, output);
        assert!(exported.as_bytes() == expected, "the export of {} is not what the library gives", capture.name);
    }
}

#[test]
fn the_binary_says_what_was_cut() {
    let Some(output) = tracer(&["report"], &capture_path("killed")) else { return };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains("end marker"), "{}: {errors}", output.status);
    assert_eq!(errors.lines().count(), 1, "one sentence: {errors}");
}

#[test]
fn the_binary_refuses_what_is_no_capture_in_one_sentence_and_writes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let good = capture_bytes("sleep");
    let cases: [(&str, &[u8]); 3] = [("empty", b""), ("text", b"not a capture, by no means\n"), ("cut", &good[..50])];
    for (name, bytes) in cases {
        let path = folder.path().join(format!("{name}.trc"));
        std::fs::write(&path, bytes).expect("a temporary file");
        for arguments in [&["report"][..], &["report", "--format", "json"], &["export", "--to", "ndjson"]] {
            let Some(output) = tracer(arguments, &path) else { return };
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{name}, {arguments:?}: {errors}");
            assert_eq!(errors.lines().count(), 1, "{name}, {arguments:?}: one sentence: {errors}");
            assert!(output.stdout.is_empty(), "{name}, {arguments:?}: something was written");
        }
    }
}
