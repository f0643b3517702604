//! Calls that map, unmap and give back memory: counts, bytes, functions and the balance against what a workload knows that it did, and what
//! `allocation-churn` says of them.

use serde_json::Value;

use crate::harness::{Background, Report, Traced, Tracer, close, list, number, text, workload};

const MIB: f64 = (1 << 20) as f64;
/// With page faults, since these show which calls give pages back.
const FAMILIES: [&str; 2] = ["--family", "cpu,fault,map"];

fn traced(arguments: &str, families: &str) -> Traced {
    Tracer::run(workload(arguments)).options(&["--family", families]).go().expect_code(0)
}

/// The row of a process; none: it made no such call.
fn row<'a>(report: &'a Report, pid: &Value) -> Option<&'a Value> {
    list(&report.0["mapping"], "processes").iter().find(|row| row["pid"] == *pid)
}

fn of_kind(row: &Value, kind: &str) -> (f64, f64) {
    let calls = &row["kinds"][kind];
    (calls["count"].as_f64().unwrap_or(0.0), calls["bytes"].as_f64().unwrap_or(0.0))
}

#[test]
fn calls_and_their_bytes_are_counted_by_kind_and_their_balance_is_what_stays_mapped() {
    let traced = traced("mappings --count 8000", "cpu,fault,map");
    let (report, truth) = (traced.report(), traced.truth());
    let row = row(&report, &truth["pid"]).expect("the process has calls");
    let (count, few) = (number(&truth, "count"), number(&truth, "few"));
    let (large, small, step) =
        (number(&truth, "large_bytes"), number(&truth, "small_bytes"), number(&truth, "step_bytes"));
    // What the program and the C library do to start and end is the rest: some tens of calls, some MiB.
    let check = |kind: &str, calls: f64, bytes: f64| {
        let told = of_kind(row, kind);
        close(&format!("calls of {kind}"), told.0, calls, 0.01, 8.0);
        close(&format!("bytes of {kind}"), told.1, bytes, 0.01, 8.0 * MIB);
    };
    check("mmap", 2.0 * count, count * (large + small) + 48.0 * MIB);
    check("munmap", 2.0 * count + few, count * (large + small) + few * small);
    check("mremap_grow", few, few * small);
    check("mremap_shrink", few, few * small);
    check("brk_shrink", few, few * step);
    check("brk_grow", few, few * step);
    check("madvise_free", few, few * large);
    check("madvise_other", few, few * small);
    close("mapped files", of_kind(row, "mmap_file").0, few, 0.01, 30.0);
    close("what stays mapped", number(row, "balance_bytes"), number(&truth, "own_bytes"), 0.001, 0.25 * MIB);
    assert!(number(row, "mappings_most") >= number(row, "mappings_last"), "{row}");
    assert!(number(&report.0["mapping"], "mappings_limit") > 1000.0, "{}", report.0["mapping"]);
    report.assert_sums();
}

#[test]
fn functions_are_named_with_their_part_of_the_bytes() {
    let traced = traced("mappings --count 60000", "cpu,map");
    let (report, truth) = (traced.report(), traced.truth());
    let row = row(&report, &truth["pid"]).expect("the process has calls");
    let functions = list(row, "functions");
    let of = |name: &str| {
        let is_it = |function: &&Value| text(function, "function").contains(name);
        functions.iter().filter(is_it).map(|function| number(function, "share")).sum::<f64>()
    };
    let mapped = number(row, "mapped_bytes");
    let count = number(&truth, "count");
    let expected = |calls: f64, bytes: &str| calls * number(&truth, bytes) / mapped;
    close("much", of("map_much"), expected(count, "large_bytes"), 0.0, 0.12);
    close("little", of("map_little"), expected(count, "small_bytes"), 0.0, 0.10);
    let told: f64 = functions.iter().map(|function| number(function, "bytes")).sum();
    assert!(told <= 1.01 * mapped && told > 0.9 * mapped, "{told} of {mapped}: {functions:?}");
    assert!(number(&functions[0], "stacks") >= 20.0, "{functions:?}");
}

#[test]
fn who_maps_nothing_more_has_no_calls() {
    for _ in 0..crate::healthy::repeats() {
        let command = workload("--announce mappings --healthy --duration 20s");
        let mut healthy = Background::command(&command);
        let truth = healthy.next_json();
        let pid = truth["pid"].to_string();
        let options = ["--pid", &pid, "--duration", "1s"];
        let report = Tracer::record(&options).options(&FAMILIES).go().expect_code(0).report();
        assert_eq!(row(&report, &truth["pid"]), None, "{}", report.0["mapping"]);
    }
}

#[test]
fn calls_of_a_thread_that_lives_on_are_counted_to_the_end() {
    let command = workload("--announce mappings --count 100000000 --only-large");
    let mut busy = Background::command(&command);
    let truth = busy.next_json();
    let pid = truth["pid"].to_string();
    let report = Tracer::record(&["--pid", &pid, "--duration", "1s"]).options(&FAMILIES).go().expect_code(0).report();
    let row = row(&report, &truth["pid"]).expect("the process has calls");
    let (mapped, unmapped) = (of_kind(row, "mmap"), of_kind(row, "munmap"));
    // A round that was under way at the beginning or end counts by half, and so may one between what was seen before the window and in it.
    assert!(mapped.0 > 1000.0 && (mapped.0 - unmapped.0).abs() <= 4.0, "each is unmapped: {row}");
    assert!(number(row, "balance_bytes").abs() <= 4.0 * MIB, "{row}");
    assert_eq!(mapped.1, mapped.0 * MIB, "{row}");
}

#[test]
fn the_last_calls_of_a_thread_are_counted() {
    // Fewer than what makes a record.
    let traced = traced("mappings --count 20 --only-large", "map");
    let (report, truth) = (traced.report(), traced.truth());
    let row = row(&report, &truth["pid"]).expect("the process has calls");
    let large = of_kind(row, "mmap").1;
    assert!(large >= 21.0 * MIB, "all are there: {row}");
    assert!(of_kind(row, "munmap").1 >= 20.0 * MIB, "and what gives them back: {row}");
}

#[test]
fn churn_is_told_with_its_calls_and_who_maps() {
    let traced = traced("touch --mib 64 --passes 40 --churn --compute 10ms", "cpu,fault,map");
    let report = traced.report();
    let found = report.findings("allocation-churn");
    let [finding] = found[..] else { panic!("one finding: {found:?}; {}", report.0["rules"]) };
    let evidence = list(finding, "evidence");
    for wanted in ["calls of mmap and munmap per second", "mapped", "share of what was mapped that"] {
        let ours = evidence.iter().find(|evidence| text(evidence, "metric").starts_with(wanted));
        let ours = ours.unwrap_or_else(|| panic!("{wanted} is cited: {finding}"));
        let at = report.0.pointer(text(ours, "source")).and_then(Value::as_f64);
        assert_eq!(at, ours["value"].as_f64(), "the report has what is cited: {ours}");
    }
    let without = traced_without();
    let found = without.findings("allocation-churn");
    let [finding] = found[..] else { panic!("one finding: {found:?}; {}", without.0["rules"]) };
    let cites = |evidence: &Value| text(evidence, "source").starts_with("/mapping");
    assert!(!list(finding, "evidence").iter().any(cites), "{finding}");
    assert!(without.0.get("mapping").is_none(), "without the family there is no section");
}

fn traced_without() -> Report {
    traced("touch --mib 64 --passes 40 --churn --compute 10ms", "cpu,fault").report()
}
