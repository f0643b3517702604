//! A constructed recording with stacks through the whole way: capture file, report, exports by the binary. And recordings
//! without stacks, which have no section and nothing to export.

use std::process::Command;

use tracer::model::meta::{
    FamilyRecord, FrameKind, FrameRecord, ModuleRecord, StackEnd, StackRecord, SymbolName, SymbolRecord, TargetRecord,
};
use tracer_common::record::{cpu, meta};

use crate::RECORDED;
use crate::records::{START_NS, meta_record, new_task, record, recording, switch};
use crate::support::{assert_sound, capture_of, capture_path, golden_report, json, read, report, text};

fn sampled(ts_ns: u64, tid: u32, stack: u64, weight_ns: u64) -> Vec<u8> {
    let mut payload = [0; 32];
    payload[..4].copy_from_slice(&tid.to_le_bytes());
    payload[4..8].copy_from_slice(&tid.to_le_bytes());
    payload[8..16].copy_from_slice(&stack.to_le_bytes());
    payload[16..24].copy_from_slice(&weight_ns.to_le_bytes());
    payload[28] = 1;
    record(cpu::SAMPLED, ts_ns, 0, &payload)
}

/// A Python program that computes for a second; its function calls native code.
fn computing() -> Vec<Vec<u8>> {
    let family = FamilyRecord { family: "cpu".to_owned(), status: "ready".to_owned(), reason: None };
    let module =
        ModuleRecord { id: 1, path: "/lib/fast.so".to_owned(), build_id: Some("ab".to_owned()), deleted: false };
    let native =
        FrameRecord { id: 1, frame_kind: FrameKind::Native, module: Some(1), address: 64, ..FrameRecord::default() };
    let python = FrameRecord {
        id: 2,
        frame_kind: FrameKind::Python,
        function: Some("Trainer.step".to_owned()),
        file: Some("/app/train.py".to_owned()),
        line: Some(40),
        ..FrameRecord::default()
    };
    let stack = StackRecord { id: 7, frames: vec![1, 2], end: StackEnd::Whole, ..StackRecord::default() };
    let name = SymbolName { function: "gemm".to_owned(), ..SymbolName::default() };
    let mut events = vec![
        meta_record(meta::FAMILIES, START_NS, &family),
        new_task(START_NS + 1, 10, 10, b"python3"),
        switch(START_NS + 2, 0, 0, 10, 0),
    ];
    events.extend((0..99).map(|number| sampled(START_NS + 10 + number * 10_101_010, 10, 7, 10_101_010)));
    // Definitions may come behind the samples that need them.
    events.push(meta_record(meta::MODULE, START_NS, &module));
    events.push(meta_record(meta::FRAME, START_NS, &native));
    events.push(meta_record(meta::FRAME, START_NS, &python));
    events.push(meta_record(meta::STACK, START_NS, &stack));
    events.push(meta_record(meta::SYMBOL, START_NS, &SymbolRecord { frame: 1, names: vec![name], missing: None }));
    recording(&TargetRecord::default(), events)
}

#[test]
fn a_recording_with_stacks_gives_a_sound_report_that_names_functions() {
    let report = report(&computing());
    assert_sound("computing", &report);
    let stacks = report.stacks.as_ref().expect("the family cpu ran");
    assert_eq!((stacks.samples, stacks.functions.len()), (99, 1), "{stacks:?}");
    let function = &stacks.functions[0];
    assert_eq!(
        (function.location.function.as_deref(), function.inside.as_deref()),
        (Some("Trainer.step"), Some("gemm"))
    );
    let finding =
        report.findings.iter().find(|finding| finding.class == "cpu-bound").expect("it computes all the time");
    let culprit = finding.culprit.as_ref().expect("a thread");
    assert_eq!((culprit.function.as_deref(), culprit.line), (Some("Trainer.step"), Some(40)));
    assert!(finding.summary.contains("mostly in Trainer.step (/app/train.py:40)"), "{}", finding.summary);
    assert!(text(&report).contains("Where CPU time goes"), "{}", text(&report));
}

#[test]
fn a_capture_with_stacks_reads_back_and_reports_the_same() {
    let records = computing();
    let content = read(&capture_of(&records, 512)).expect("opens");
    assert_eq!(content.records, records);
    assert_eq!(json(&report(&content.records)), json(&report(&records)));
}

#[test]
fn recordings_without_stacks_have_no_section() {
    for capture in RECORDED.iter().filter(|capture| !capture.command.contains("sched,cpu")) {
        let report = golden_report(capture.name);
        assert!(report.stacks.is_none(), "{}", capture.name);
        assert!(!text(&report).contains("Stacks:"), "{}", capture.name);
    }
}

#[test]
fn the_binary_exports_stacks_and_refuses_what_has_none() {
    let Some(binary) = std::env::var_os("TRACER_BIN") else {
        eprintln!("not tested: TRACER_BIN names no binary; `cargo xtask test offline` sets it");
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let capture = folder.path().join("computing.trc");
    std::fs::write(&capture, capture_of(&computing(), 4096)).expect("a temporary file");
    let export = |path: &std::path::Path, to: &str, of: &str| {
        let command = Command::new(&binary).args(["export", "--to", to, "--of", of]).arg(path).output();
        command.unwrap_or_else(|error| panic!("{to}: {error}"))
    };
    let folded = export(&capture, "folded", "on-cpu");
    let line = "python3 (10);python3;Trainer.step (train.py);gemm 1000000\n";
    assert_eq!(String::from_utf8_lossy(&folded.stdout), line, "{}", String::from_utf8_lossy(&folded.stderr));
    let svg = export(&capture, "flamegraph", "wall").stdout;
    assert!(svg.starts_with(b"<?xml") && String::from_utf8_lossy(&svg).contains("Trainer.step"));
    assert!(export(&capture, "pprof", "wall").stdout.starts_with(&[0x1f, 0x8b]), "gzip");
    for to in ["folded", "flamegraph", "pprof"] {
        let refused = export(&capture_path("mutex"), to, "wall");
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{to}: {errors}");
        assert!(errors.lines().count() == 1 && errors.contains("holds no stacks"), "{to}: {errors}");
    }
}
