//! Broken captures, read by `report` and `export`: what can be read is read, what was cut is said.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Report, Traced, Tracer, replay, trace, tracer_bin};

#[track_caller]
fn assert_refused(path: &Path) {
    for traced in [
        replay(path, &[]),
        replay(path, &["--format", "json"]),
        Tracer::plain("export").option(path).options(&["--to", "ndjson"]).go(),
    ] {
        let ended = &traced.ended;
        assert_eq!(ended.code, Some(2), "{ended}");
        assert_eq!(ended.stderr.trim().lines().count(), 1, "one sentence; {ended}");
        assert!(ended.stderr.contains(&path.display().to_string()), "it names the file; {ended}");
        assert_eq!(ended.stdout, "", "{ended}");
    }
}

fn sample() -> Traced {
    trace("pingpong --threads --count 40000")
}

#[test]
fn what_is_no_capture_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("it can be written");
        path
    };
    assert_refused(&file("empty", b""));
    assert_refused(&file("text", b"#!/bin/sh\necho this is no capture\n"));
    assert_refused(&file("zeros", &[0; 4096]));
    assert_refused(&file("one-byte", b"t"));
    assert_refused(folder.path());
}

#[test]
fn a_truncated_capture_is_read_up_to_the_cut() {
    let traced = sample();
    let bytes = std::fs::read(traced.capture()).expect("the capture");
    let path = traced.folder.path().join("cut.trc");
    let mut read = 0;
    for tenths in 1..10 {
        std::fs::write(&path, &bytes[..bytes.len() * tenths / 10]).expect("it can be written");
        let ended = replay(&path, &["--format", "json"]).ended;
        match ended.code {
            Some(0) => {
                let report = Report::parse(&ended.stdout);
                assert_eq!(report.0["window"]["complete"], false, "cut after {tenths} tenths: {}", report.0["window"]);
                assert!(report.0["window"]["clipped_reason"].is_string(), "it says why: {}", report.0["window"]);
                crate::replay::assert_valid(&report.0);
                read += 1;
            }
            Some(2) => assert_eq!(ended.stderr.trim().lines().count(), 1, "one sentence; {ended}"),
            _ => panic!("cut after {tenths} tenths: {ended}"),
        }
    }
    assert!(read >= 1, "no cut capture could be read");
}

#[test]
fn a_capture_with_a_broken_byte_does_not_mislead() {
    let traced = sample();
    let bytes = std::fs::read(traced.capture()).expect("the capture");
    let whole = Report::parse(&traced.replayed().expect_code(0).ended.stdout);
    let path = traced.folder.path().join("broken.trc");
    for _ in 0..8 {
        let mut broken = bytes.clone();
        let at = fastrand::usize(..broken.len());
        broken[at] ^= 1 << fastrand::u8(0..8);
        std::fs::write(&path, &broken).expect("it can be written");
        let ended = replay(&path, &["--format", "json"]).ended;
        match ended.code {
            Some(0) => {
                let report = Report::parse(&ended.stdout);
                let same = report.0["threads"] == whole.0["threads"];
                assert!(same || report.0["window"]["complete"] == false, "byte {at} was broken and nobody noticed");
            }
            Some(2) => assert_eq!(ended.stderr.trim().lines().count(), 1, "one sentence; {ended}"),
            _ => panic!("byte {at} broken: {ended}"),
        }
    }
}

#[test]
fn a_broken_pipe_is_success() {
    let traced = sample();
    for arguments in [vec!["export", "--to", "ndjson"], vec!["report", "--format", "json"]] {
        let mut line = Command::new(tracer_bin());
        line.args(&arguments).arg(traced.capture()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = line.spawn().expect("the tracer runs");
        let mut first = String::new();
        BufReader::with_capacity(64, child.stdout.take().expect("a pipe")).read_line(&mut first).expect("a line");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stderr, b"", "{arguments:?} complains of nothing");
    }
}
