//! Thousands of short-lived processes and threads: all of them are in the export, memory stays bounded.

use crate::harness::{Tracer, list, number, report::Report, trace, whole, workload};
use crate::threads::{of_kind, tally};

#[test]
fn five_thousand_processes_are_in_the_export_by_their_names() {
    let traced = Tracer::run(workload("fork-storm --count 5000 --rate 700/s")).go().expect_code(0);
    let (truth, report, events) = (traced.truth(), traced.report(), traced.events());
    for event in events.iter().take(5000) {
        for key in ["ts_ns", "cpu", "kind"] {
            assert!(!event[key].is_null(), "an event without {key}: {event}");
        }
    }
    let names = truth["names"].as_object().expect("names");
    let execs = tally(of_kind(&events, "exec"), "comm");
    let ends = tally(of_kind(&events, "exit"), "comm");
    for (name, count) in names {
        assert_eq!(execs.get(name).copied(), count.as_u64(), "execs of {name}");
        assert_eq!(ends.get(name).copied(), count.as_u64(), "ends of {name}");
    }
    report.assert_sums();
    assert_eq!(whole(report.ledger(), "lost"), 0, "lost: {}", report.ledger());
    assert_bounded(&report);
    assert!(whole(&report.0["cpu"], "processes_seen") >= 5001, "processes: {}", report.0["cpu"]["processes_seen"]);
    let others = list(&report.0, "threads").last().expect("rows");
    assert!(others["others"].as_u64() > Some(1000), "most have no row of their own, their sum has: {others}");
}

/// A ring is mapped twice.
#[track_caller]
fn assert_bounded(report: &Report) {
    let overhead = &report.0["overhead"];
    let without_rings = number(overhead, "tracer_rss_bytes") - 2.0 * number(overhead, "ring_bytes");
    let mib = without_rings / f64::from(1 << 20);
    assert!(mib <= 48.0, "the tracer took {mib:.1} MiB beside its rings: {overhead}");
}

#[test]
fn a_thousand_short_threads_are_in_the_export_by_their_names() {
    let traced = trace("fork-storm --threads-storm --count 1000 --rate 1000/s");
    let (truth, events) = (traced.truth(), traced.events());
    let ends = tally(of_kind(&events, "exit").filter(|exit| exit["tgid"] == truth["pid"]), "comm");
    for (name, count) in truth["names"].as_object().expect("names") {
        assert_eq!(ends.get(name).copied(), count.as_u64(), "ends of threads named {name}");
    }
    let born = of_kind(&events, "new-task").filter(|new| new["creator_tgid"] == truth["pid"]).count() as u64;
    assert_eq!(born, whole(&truth, "threads_started"), "new threads");
}

#[test]
fn children_that_execute_nothing_keep_the_names_they_gave_themselves() {
    let traced = trace("fork-storm --no-exec --count 300 --rate 600/s");
    let (truth, events) = (traced.truth(), traced.events());
    let renames = tally(of_kind(&events, "rename"), "comm");
    for (name, count) in truth["names"].as_object().expect("names") {
        assert_eq!(renames.get(name).copied(), count.as_u64(), "processes that named themselves {name}");
    }
}
