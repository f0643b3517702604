//! `allocator-contention`, and what futexes are said to be.

use crate::harness::{Report, Tracer, list, number, text, whole, workload};

fn traced(arguments: &str) -> (serde_json::Value, Report) {
    let traced = Tracer::run(workload(arguments)).options(&["--family", "cpu"]).go().expect_code(0);
    (traced.truth(), traced.report())
}

#[test]
fn one_arena_for_many_threads_is_blamed_on_those_that_allocate() {
    let (truth, report) = traced("arena --threads 6 --duration 3s");
    assert_eq!(truth["one_arena"], true, "the workload has one arena: {truth}");
    let found = report.findings("allocator-contention");
    let finding = found
        .first()
        .unwrap_or_else(|| panic!("nothing is found: {} {:?}", report.0["rules"], report.futexes().first()));
    let function = text(&finding["culprit"], "function");
    assert!(function.contains("churn"), "who allocates: {finding}");
    assert!(report.findings("user-lock-contention").is_empty(), "nobody owns it: {}", report.0["findings"]);
    // The main thread, which starts the others, allocates as well.
    let workers: Vec<u64> = list(&truth, "threads").iter().map(|own| whole(own, "tid")).collect();
    let victims: Vec<u64> = list(finding, "victims").iter().map(|victim| whole(victim, "tid")).collect();
    assert!(workers.iter().all(|tid| victims.contains(tid)), "all that allocate wait: {finding}");
    let lost = number(finding, "lost_s");
    assert!(lost <= number(&report.0["window"], "duration_s"), "a bound: {finding}");
}

#[test]
fn threads_with_arenas_of_their_own_do_not_fight_for_them() {
    let (_, report) = traced("arena --healthy --threads 4 --duration 1500ms");
    assert!(report.findings("allocator-contention").is_empty(), "{}", report.0["findings"]);
    assert_eq!(report.rule("allocator-contention"), "silent", "{}", report.0["rules"]);
}

/// Fails unless most of the time at futexes of a known kind, waits for the end of the program aside, is at some of this kind.
#[track_caller]
fn assert_kind(arguments: &str, wanted: &str, source: &str) {
    let (_, report) = traced(arguments);
    let of = |kind: &str| -> f64 {
        let ours = report.futexes().iter().filter(|futex| futex["kind"] == kind);
        ours.map(|futex| number(futex, "total_s")).sum()
    };
    let waits: u64 = report.futexes().iter().map(|futex| whole(futex, "waits")).sum();
    assert!(waits >= 20, "`{arguments}`: {waits} waits only");
    let known: f64 =
        ["condition variable", "semaphore", "pthread rwlock", "stdio stream", "malloc arena", "pthread mutex"]
            .iter()
            .map(|kind| of(kind))
            .sum();
    assert!(of(wanted) >= 0.8 * known && known > 0.0, "`{arguments}` waits for a {wanted}: {:?}", report.futexes());
    let longest = report.futexes().iter().find(|futex| futex["kind"] == wanted).expect("one of them");
    assert_eq!(longest["kind_source"], source, "{longest}");
}

#[test]
fn a_condition_variable_is_told_by_the_function_that_waits() {
    assert_kind("condvar --duration 500ms", "condition variable", "function");
}

#[test]
fn a_semaphore_is_told_by_the_function_that_waits() {
    assert_kind("semaphore --duration 500ms", "semaphore", "function");
}

#[test]
fn a_read_write_lock_is_told_by_the_function_that_waits() {
    assert_kind("rwlock --duration 500ms", "pthread rwlock", "function");
}

#[test]
fn a_stream_is_told_by_the_function_that_waits() {
    assert_kind("stdio --duration 500ms", "stdio stream", "function");
}

#[test]
fn a_mutex_is_told_by_its_memory() {
    assert_kind("mutex --hog --hold 4ms --threads 3 --duration 600ms", "pthread mutex", "memory");
}

#[test]
fn a_join_is_told_by_who_woke_it_where_there_are_no_stacks() {
    let traced = Tracer::run(workload("join --duration 500ms")).go().expect_code(0);
    let report = traced.report();
    let joins = report.futexes().iter().filter(|futex| futex["kind"] == "join" && futex["kind_source"] == "wake");
    let waits: u64 = joins.map(|futex| whole(futex, "waits")).sum();
    assert!(waits >= 5, "{waits} joins only: {:?}", report.futexes());
}
