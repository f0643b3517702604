//! Saving a model's state: packing, copying and waiting for the disk are told apart.

use crate::harness::storage::disk;
use crate::harness::{Tracer, list, number, python, text};

/// What stacks of waits, pages and devices need beside the scheduler's switches.
const FAMILIES: [&str; 2] = ["--family", "cpu,cache,block,writeback"];

fn is_ext4(folder: &str) -> bool {
    const EXT4: i64 = 0xef53;
    let folder = std::ffi::CString::new(folder).expect("no zero byte");
    // SAFETY: zeroes are a valid value, which the call fills in; the path ends with a zero.
    unsafe {
        let mut about: libc::statfs = std::mem::zeroed();
        libc::statfs(folder.as_ptr(), &raw mut about) == 0 && about.f_type == EXT4
    }
}

#[test]
fn a_checkpoint_that_is_synced_by_shard_has_its_phases() {
    let command = python("checkpoint.py", &format!("{} 12", disk()));
    let traced = Tracer::run(command).options(&FAMILIES).go().expect_code(0);
    let (truth, report) = (traced.truth(), traced.report());
    let saves = list(&report.0["io"], "saves");
    let save = saves.first().unwrap_or_else(|| panic!("no function that saves: {}", report.0["io"]));
    // The helper that only syncs is part of it, and training is not.
    assert_eq!((&save["function"], &save["pid"]), (&"save_checkpoint".into(), &truth["pid"]), "{saves:?}");
    assert!(text(save, "path").contains("tracer-checkpoint-"), "{save}");
    // Samples are estimates; waits are measured.
    let close = |fields: &[&str], own: &str, part: f64, s: f64| {
        let told: f64 = fields.iter().map(|field| number(save, field)).sum();
        let own_s = number(&truth, own);
        assert!((told - own_s).abs() <= (own_s * part).max(s), "{fields:?} is {told}, {own} {own_s}: {save} {truth}");
    };
    close(&["computed_s"], "packing_s", 0.2, 0.15);
    close(&["copied_s", "write_waits_s"], "writing_s", 0.2, 0.15);
    if is_ext4(&disk()) {
        close(&["synced_s"], "syncing_s", 0.05, 0.005);
    } else {
        close(&["synced_s"], "syncing_s", 0.1, 0.1);
    }
    let written = number(save, "write_bytes") / number(&truth, "written");
    assert!((0.95..1.2).contains(&written), "{written} of what was written: {save}");
    assert!(number(save, "write_device_s") > 0.0, "{save}");
    // On a quick disk it is observed only.
    let all = list(&report.0, "findings").iter().chain(list(&report.0, "observed"));
    for finding in all.filter(|finding| finding["class"] == "fsync-stall") {
        assert!(text(finding, "hypothesis").contains(" In save_checkpoint there are, beside the "), "{finding}");
        assert_eq!(finding["culprit"]["function"], "durable", "the call's own function: {finding}");
        assert!(text(&finding["culprit"], "path").contains("tracer-checkpoint-"), "{finding}");
    }
}

#[test]
fn a_checkpoint_that_nobody_syncs_is_no_save() {
    for _ in 0..crate::healthy::repeats() {
        let command = python("checkpoint.py", &format!("{} 6 unsynced", disk()));
        let report = Tracer::run(command).options(&FAMILIES).go().expect_code(0).report();
        assert!(report.0["io"]["saves"].is_null(), "{}", report.0["io"]["saves"]);
        report.assert_silent(&["fsync-stall"]);
    }
}

/// More files than a thread's waits have room for, and each is closed at once.
#[test]
fn syncs_of_many_files_have_a_pattern_and_take_what_the_program_says() {
    let traced = Tracer::run(python("shards.py", &format!("{} 800", disk()))).options(&FAMILIES).go().expect_code(0);
    let (truth, report) = (traced.truth(), traced.report());
    // On a quick disk it is observed only.
    let all: Vec<_> = list(&report.0, "findings").iter().chain(list(&report.0, "observed")).collect();
    let found = all.iter().find(|finding| finding["class"] == "fsync-stall");
    let finding = found.unwrap_or_else(|| panic!("syncing {} s: {} {all:?}", truth["syncing_s"], report.0["rules"]));
    assert_eq!((&finding["culprit"]["function"], &finding["culprit"]["pid"]), (&"save_shard".into(), &truth["pid"]));
    let pattern = format!("{}/tracer-shard-{}-*.bin", disk(), truth["pid"]);
    assert_eq!(finding["culprit"]["path"], pattern, "{finding}");
    let (lost, own) = (number(finding, "lost_s"), number(&truth, "syncing_s"));
    if !is_ext4(&disk()) {
        eprintln!("not tested: {} is on no ext4, so that computing in syncs is known from samples only", disk());
        return;
    }
    let thread = report.threads().find(|thread| thread["tid"] == truth["pid"]).expect("the thread");
    assert_eq!(thread["syncs"]["count"], 800, "{}", thread["syncs"]);
    // What it says includes entering and leaving the calls, and the interpreter's part.
    assert!((0.95 * own..=own).contains(&number(&thread["syncs"], "total_s")), "{} of {own} s", thread["syncs"]);
    assert!((0.95 * own..=1.05 * own).contains(&lost), "{lost} of {own} s: {finding}");
}
