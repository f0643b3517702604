//! The loss ledger: exact, whether much is lost or nothing.

use crate::harness::{Tracer, close, list, number, replay, shell, trace, whole, workload_bin};

#[test]
fn with_a_tiny_ring_events_are_lost_and_the_sums_hold() {
    let workload = workload_bin();
    let script = format!(
        "{0} fork-storm --count 600 --rate 400/s & {0} pingpong --threads --count 400000 & {0} pingpong --count 400000; wait",
        workload.display()
    );
    let traced = Tracer::run(shell(&script)).options(&["--ring-size", "64KiB"]).go().expect_code(0);
    let report = traced.report();
    report.assert_sums();
    report.assert_states();
    let ledger = report.ledger();
    assert!(whole(ledger, "lost") > 0, "nothing was lost, so nothing was tested: {ledger}");
    assert!(whole(&ledger["by_reason"], "ring_full") > 0, "the ring was full: {ledger}");
    let share = number(ledger, "share");
    close("share", share, number(ledger, "decoded") / number(ledger, "seen"), 1e-6, 1e-9);
    assert!(share < 1.0, "share: {ledger}");
    for finding in list(&report.0, "findings").iter().chain(list(&report.0, "observed")) {
        assert!(number(finding, "confidence") <= share + 1e-9, "confidence is not lowered to {share}: {finding}");
    }
    let shown = replay(&traced.capture(), &[]).expect_code(0).ended.stdout;
    assert!(shown.contains("lost"), "the text says that something was lost: {shown}");
    let replayed = traced.replayed().expect_code(0).ended.stdout;
    crate::harness::Report::parse(&replayed).assert_sums();
}

#[test]
fn with_rings_of_the_default_size_no_switch_of_a_ping_pong_is_lost() {
    let traced = trace("pingpong --pinned --count 400000");
    let report = traced.report();
    report.assert_sums();
    let ledger = report.ledger();
    assert_eq!(whole(ledger, "lost"), 0, "lost: {ledger}");
    assert_eq!(whole(ledger, "undecoded"), 0, "undecoded: {ledger}");
    assert_eq!(whole(ledger, "queued"), 0, "queued: {ledger}");
    close("share", number(ledger, "share"), 1.0, 0.0, 0.0);
    let truth = traced.truth();
    let kernel = whole(&truth, "switches") + whole(&truth, "preemptions");
    assert!(whole(ledger, "seen") >= kernel, "{kernel} switches by the kernel's count: {ledger}");
}

#[test]
fn the_ledger_is_shown_when_nothing_is_lost() {
    let traced = trace("sleep --duration 200ms");
    let report = traced.report();
    report.assert_sums();
    assert_eq!(whole(report.ledger(), "lost"), 0, "lost: {}", report.ledger());
    let shown = replay(&traced.capture(), &[]).expect_code(0).ended.stdout;
    assert!(shown.contains("lost"), "the text has the ledger: {shown}");
}
