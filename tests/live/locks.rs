//! Who holds a lock: right for the kinds of mutex whose memory tells, nobody for everything that looks like one.

use serde_json::Value;

use crate::harness::{
    Report, Traced, list, number,
    report::{state, wakers},
    text, trace, whole,
};

/// The thread that holds the mutex most of the time.
fn hog(truth: &Value) -> u64 {
    let hog = list(truth, "threads").iter().find(|own| own["role"] == "hog");
    whole(hog.unwrap_or_else(|| panic!("no hog in {truth}")), "tid")
}

/// The address of the first lock.
fn lock(truth: &Value) -> &str {
    list(truth, "locks")[0].as_str().expect("an address")
}

/// How often an owner was seen on a futex, and how often it was `tid`.
fn owners(futex: &Value, tid: u64) -> (u64, u64) {
    let count = |owner: &Value| whole(owner, "count");
    let all = list(futex, "owners").iter().map(count).sum();
    (list(futex, "owners").iter().filter(|owner| owner["tid"] == tid).map(count).sum(), all)
}

/// How often the threads found the mutex held when they came to it, by `tid` and by anybody: what they say themselves.
fn holders(truth: &Value, tid: u64) -> (u64, u64) {
    let by = |own: &Value| own["found_held_by"].as_object().expect("who held it").clone();
    let found: Vec<(String, Value)> = list(truth, "threads").iter().flat_map(by).collect();
    let count = |(_, times): &(String, Value)| times.as_u64().expect("a count");
    let (key, all) = (tid.to_string(), found.iter().map(count).sum());
    (found.iter().filter(|(holder, _)| *holder == key).map(count).sum(), all)
}

/// Fails unless the hog is a lock's owner as often as the threads say that it was. The others hold the lock now and then, for longer when
/// they are pushed off their CPU meanwhile, so that it is not always the hog.
#[track_caller]
fn assert_owner_as_often_as_found(futex: &Value, truth: &Value) {
    let hog = hog(truth);
    let ((by_hog, all), (found_hog, found)) = (owners(futex, hog), holders(truth, hog));
    if all == 0 {
        // Whether one has to be known is for the caller to say.
        return;
    }
    let (share, truly) = (by_hog as f64 / all as f64, found_hog as f64 / found as f64);
    assert!(
        (share - truly).abs() <= 0.1 && by_hog * 2 >= all,
        "{hog} is {by_hog} of {all} owners, the threads found it holding {found_hog} of {found} times: {futex}"
    );
}

/// Fails unless every owner in the report is a live worker, and no waiter is said to wait for itself.
#[track_caller]
fn assert_no_wrong_owner(report: &Report, truth: &Value) {
    let workers: Vec<u64> = list(truth, "threads").iter().map(|own| whole(own, "tid")).collect();
    for futex in report.futexes() {
        for owner in list(futex, "owners") {
            assert!(workers.contains(&whole(owner, "tid")), "owner {owner} is no thread that locks: {futex}");
        }
    }
    for thread in report.threads() {
        for wait in list(thread, "waits") {
            let itself = list(wait, "owners").iter().any(|owner| owner["tid"] == thread["tid"]);
            assert!(!itself, "thread {} is said to wait for itself: {wait}", thread["tid"]);
        }
    }
}

fn hogged(kind: &str) -> Traced {
    trace(&format!("mutex --kind {kind} --hog --hold 4ms --threads 4 --duration 1500ms"))
}

#[track_caller]
fn assert_owner_found(kind: &str, name: &str) {
    let traced = hogged(kind);
    let (truth, report) = (traced.truth(), traced.report());
    let futex = report.futex(lock(&truth));
    let waits = whole(futex, "waits");
    assert!(waits >= 100, "{waits} waits only for a {kind} mutex: {futex}");
    // The memory is read when the wait begins, so an owner that lets go at that moment is not seen.
    assert!(whole(futex, "waits_with_owner") * 10 >= waits * 9, "no owner is known for most waits: {futex}");
    assert_owner_as_often_as_found(futex, &truth);
    assert_eq!(text(futex, "kind"), name, "kind of {futex}");
    let threads = list(&truth, "threads");
    let waited: f64 = threads.iter().map(|own| number(own, "waited_s")).sum();
    // Between the end of a wait and the CPU lies the run queue.
    let queued: f64 = threads.iter().map(|own| state(report.thread(whole(own, "tid")), "runnable")).sum();
    let (at_least, slack) = (number(futex, "total_s"), 0.05 * waited + 0.03 + traced.stolen_s);
    let agrees = at_least <= waited + slack && waited <= at_least + queued + slack;
    assert!(agrees, "all waits together: the report says {at_least} to {}, the program {waited}", at_least + queued);
    assert_no_wrong_owner(&report, &truth);
}

#[test]
fn the_owner_of_a_normal_mutex_is_found() {
    assert_owner_found("normal", "pthread mutex");
}

#[test]
fn the_owner_of_a_recursive_mutex_is_found() {
    assert_owner_found("recursive", "pthread mutex");
}

#[test]
fn the_owner_of_an_error_checking_mutex_is_found() {
    assert_owner_found("errorcheck", "pthread mutex");
}

#[test]
fn the_owner_of_a_robust_mutex_is_found() {
    assert_owner_found("robust", "robust pthread mutex");
}

#[test]
fn the_owner_of_a_priority_inheritance_mutex_is_found() {
    assert_owner_found("pi", "priority-inheritance mutex");
}

#[test]
fn a_timed_lock_gets_the_right_owner_or_none() {
    let traced = hogged("timed");
    let (truth, report) = (traced.truth(), traced.report());
    assert_owner_as_often_as_found(report.futex(lock(&truth)), &truth);
    assert_no_wrong_owner(&report, &truth);
}

#[test]
fn the_holder_is_the_waker() {
    // With one other thread: where more wait, each that gets the lock wakes the next.
    let traced = trace("mutex --hog --hold 4ms --threads 2 --duration 500ms");
    let (truth, report) = (traced.truth(), traced.report());
    let hog = hog(&truth);
    let futex = report.futex(lock(&truth));
    let (by_hog, all) = wakers(&[futex], |waker| waker["tid"] == hog && waker["context"] == "task");
    assert!(all >= 50 && by_hog * 100 >= all * 95, "{hog} ended {by_hog} of {all} waits: {futex}");
}

/// Runs a look-alike for which nobody may be named, and fails unless its threads were seen to wait for futexes.
#[track_caller]
fn assert_nobody_is_named(arguments: &str) {
    let traced = trace(arguments);
    let (truth, report) = (traced.truth(), traced.report());
    let waits: u64 = report.futexes().iter().map(|futex| whole(futex, "waits")).sum();
    assert!(waits >= 20, "`{arguments}`: {waits} waits only, so nothing was tested");
    for futex in report.futexes() {
        assert!(list(futex, "owners").is_empty(), "`{arguments}`: an owner is named: {futex}; truth: {truth}");
    }
    assert!(
        report.findings("user-lock-contention").is_empty(),
        "`{arguments}`: the rule fired: {}",
        report.0["findings"]
    );
}

#[test]
fn a_read_write_lock_gets_no_owner() {
    assert_nobody_is_named("rwlock --duration 500ms");
}

#[test]
fn a_stdio_stream_gets_no_owner() {
    assert_nobody_is_named("stdio --duration 500ms");
}

#[test]
fn a_malloc_arena_gets_no_owner() {
    assert_nobody_is_named("arena --threads 8 --duration 600ms");
}

#[test]
fn a_semaphore_gets_no_owner() {
    assert_nobody_is_named("semaphore --duration 500ms");
}

#[test]
fn a_joined_thread_is_no_owner() {
    assert_nobody_is_named("join --duration 500ms");
}

#[test]
fn a_condition_variable_gets_no_owner() {
    let traced = trace("condvar --duration 500ms");
    let (truth, report) = (traced.truth(), traced.report());
    let address = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("an address");
    let condition = address(lock(&truth));
    let within = |futex: &&Value| (condition..condition + 48).contains(&address(text(futex, "address")));
    let waits: u64 = report.futexes().iter().filter(within).map(|futex| whole(futex, "waits")).sum();
    assert!(waits >= 20, "{waits} waits only for the condition: {:?}", report.futexes());
    for futex in report.futexes().iter().filter(within) {
        assert!(list(futex, "owners").is_empty(), "an owner is named: {futex}");
    }
    // The mutex beside it is a real one, held for a moment now and then.
    assert_no_wrong_owner(&report, &truth);
    assert!(report.findings("user-lock-contention").is_empty(), "the rule fired: {}", report.0["findings"]);
}

#[test]
fn a_contended_mutex_is_diagnosed_with_its_threads_and_its_holder() {
    let traced = trace("mutex --threads 4 --hold 3ms --duration 2s");
    let (truth, report) = (traced.truth(), traced.report());
    assert_eq!(report.rule("user-lock-contention"), "fired", "{}", report.0["rules"]);
    let finding = report.findings("user-lock-contention")[0];
    let address = lock(&truth);
    assert!(text(&finding["culprit"], "lock").contains(address), "the lock at {address}: {finding}");
    let workers: Vec<u64> = list(&truth, "threads").iter().map(|own| whole(own, "tid")).collect();
    assert!(workers.contains(&whole(&finding["culprit"], "tid")), "the holder is a worker: {finding}");
    for victim in list(finding, "victims") {
        assert!(workers.contains(&whole(victim, "tid")), "victims are workers: {finding}");
    }
    assert!(list(finding, "victims").len() >= 3, "all threads suffer: {finding}");
    assert!(number(finding, "confidence") >= 0.9, "owner and lock were seen: {finding}");
    for evidence in list(finding, "evidence") {
        let source = text(evidence, "source");
        assert!(report.0.pointer(source).is_some(), "evidence `{source}` is not in the report: {finding}");
    }
    assert_eq!(report.0["verdict"], "bottleneck", "{}", report.0["verdict_reason"]);
    let shown = crate::harness::replay(&traced.capture(), &[]).expect_code(0).ended.stdout;
    let name = text(
        list(&truth, "threads").iter().find(|own| own["tid"] == finding["culprit"]["tid"]).expect("a worker"),
        "name",
    );
    assert!(shown.contains(name), "the text names the holder {name}: {shown}");
}
