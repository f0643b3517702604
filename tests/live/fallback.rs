//! On a kernel without BTF the classic tracepoints take over: threads, times, names and wakers are there, reasons are not.

use serde_json::Value;

use crate::harness::{Traced, Tracer, close, list, number, report::state, whole, workload};
use crate::threads::{of_kind, tally};

fn trace(arguments: &str) -> Traced {
    Tracer::run(workload(arguments)).options(&["--pretend-no", "btf"]).go().expect_code(0)
}

#[test]
fn a_program_that_computes_is_on_a_cpu_and_one_that_sleeps_is_not() {
    let traced = trace("cpu --threads 1 --duration 400ms");
    let (truth, report) = (traced.truth(), traced.report());
    let own = &list(&truth, "threads")[0];
    let row = report.thread(whole(own, "tid"));
    close("time on CPU", state(row, "on_cpu"), number(own, "schedstat_ns") / 1e9, 0.05, 0.03 + traced.stolen_s);
    report.assert_sums();
    let family = &report.0["coverage"]["families"][0];
    assert_eq!(family["status"], "degraded", "{family}");
    assert!(
        family["reason"].as_str().is_some_and(|reason| reason.contains("BTF") || reason.contains("type information"))
    );
}

/// Flag of a switch record: who woke the thread that runs now is known.
const HAS_WAKER: u64 = 1 << 4;

#[test]
fn switches_carry_who_was_current_when_the_thread_was_woken() {
    let traced = trace("pingpong --pinned --count 2000");
    let truth = traced.truth();
    let (one, other) = (whole(&truth, "pid"), whole(&truth, "other_tid"));
    let events = traced.events();
    let woken = of_kind(&events, "switch")
        .filter(|event| {
            whole(event, "flags") & HAS_WAKER != 0 && event["next_tid"] == one && event["waker_tid"] == other
        })
        .count();
    assert!(woken > 300, "{other} woke {one} in {woken} switches of {}", of_kind(&events, "switch").count());
}

#[test]
fn each_thread_is_in_the_report_under_its_name() {
    let traced = trace("mutex --healthy --threads 4 --duration 200ms");
    let (truth, report) = (traced.truth(), traced.report());
    for own in list(&truth, "threads") {
        let row = report.thread(whole(own, "tid"));
        assert_eq!(row["name"], own["name"], "name of {own}");
        assert_eq!(row["pid"], truth["pid"], "process of {row}");
    }
}

#[test]
fn each_birth_program_and_end_is_in_the_export() {
    let traced = trace("fork-storm --count 40 --rate 400/s");
    let (truth, events) = (traced.truth(), traced.events());
    let names = truth["names"].as_object().expect("names");
    let execs = tally(of_kind(&events, "exec"), "comm");
    let ends = tally(of_kind(&events, "exit"), "comm");
    for (name, count) in names {
        assert_eq!(execs.get(name).copied(), count.as_u64(), "execs of {name}");
        assert_eq!(ends.get(name).copied(), count.as_u64(), "ends of {name}");
    }
    let forks: Vec<&Value> = of_kind(&events, "fork").filter(|fork| fork["parent_tgid"] == truth["pid"]).collect();
    assert!(forks.len() >= 40, "{} forks by {}", forks.len(), truth["pid"]);
}
