//! Locks of the kernel: the lock of an address space and a pipe's mutex. Who waited, for how long, behind whom; and nothing is said
//! where the same work is done apart.

use serde_json::Value;

use crate::harness::{
    Report, Traced, Tracer, list, number,
    report::{state, waits},
    text, whole, workload,
};

/// Traces a workload with families besides that of scheduling.
fn trace_locks(arguments: &str, families: &str) -> Traced {
    Tracer::run(workload(arguments)).option("--family").option(families).go().expect_code(0)
}

/// The rows of kernel locks whose kind starts so.
fn rows<'a>(report: &'a Report, kind: &str) -> Vec<&'a Value> {
    list(&report.0["locks"], "kernel").iter().filter(|row| text(row, "kind").starts_with(kind)).collect()
}

/// What the workload's threads of a role say of themselves.
fn truths<'a>(truth: &'a Value, role: &str) -> Vec<&'a Value> {
    let threads: Vec<&Value> = list(truth, "threads").iter().filter(|own| own["role"] == role).collect();
    assert!(threads.iter().all(|own| own.get("error").is_none()), "a thread failed: {truth}");
    threads
}

/// A sum over the entries of one thread among the waiters of these rows.
fn of_waiter(rows: &[&Value], tid: u64, key: &str) -> f64 {
    let waiters = rows.iter().flat_map(|row| list(row, "waiters"));
    waiters.filter(|waiter| waiter["tid"] == tid).map(|waiter| number(waiter, key)).sum()
}

/// How long waits behind this thread were, and behind any whose owner is known.
fn behind(rows: &[&Value], tid: u64) -> (f64, f64) {
    let owners = || rows.iter().flat_map(|row| list(row, "owners"));
    let total_s = |owner: &Value| number(owner, "total_s");
    (owners().filter(|owner| owner["tid"] == tid).map(total_s).sum(), owners().map(total_s).sum())
}

#[track_caller]
fn assert_evidence_is_there(report: &Report, finding: &Value) {
    for evidence in list(finding, "evidence") {
        let found = report.0.pointer(text(evidence, "source")).and_then(Value::as_f64);
        assert_eq!(found, evidence["value"].as_f64(), "evidence `{evidence}` of {finding}");
    }
}

#[test]
fn the_thread_that_maps_much_is_blamed_for_the_waits_of_those_that_map_a_little() {
    let traced = trace_locks("mmap-lock --duration 3s", "lock");
    let (truth, report) = (traced.truth(), traced.report());
    let churn = whole(&truth, "churn_tid");
    assert_eq!(report.rule("mmap-lock-contention"), "fired", "{}", report.0["rules"]);
    let finding = report.findings("mmap-lock-contention")[0];
    assert_eq!(finding["culprit"]["tid"], churn, "the culprit is the one that maps much: {finding}; truth: {truth}");
    assert_evidence_is_there(&report, finding);
    let rows = rows(&report, "mmap_lock");
    for own in truths(&truth, "nibbler") {
        let tid = whole(own, "tid");
        let victims = list(finding, "victims");
        assert!(victims.iter().any(|victim| victim["tid"] == tid), "{tid} suffers: {finding}");
        let thread = report.thread(tid);
        let (slept, waited) = (of_waiter(&rows, tid, "slept_s"), number(own, "waited_s"));
        let off_cpu = slept + state(thread, "runnable");
        let slack = 0.05 * waited + 0.03 + traced.stolen_s;
        assert!(
            slept <= waited + slack && waited <= off_cpu + slack,
            "{tid} slept {slept} s for mmap_lock, with run queues {off_cpu} s; it says {waited} s; {thread}"
        );
        // The bracket and the switches are two sources of the same thing.
        let in_state = state(thread, "kernel_lock");
        assert!((in_state - slept).abs() <= 0.01 * slept + 0.001, "state {in_state} s, rows {slept} s: {thread}");
        let kept = of_waiter(&rows, tid, "total_s");
        assert!(kept >= 0.9 * slept, "kept from the lock for {kept} s, slept for {slept} s: {rows:?}");
        let calls = waits(thread, "kernel_lock");
        assert!(calls.iter().all(|wait| text(wait, "detail").starts_with("mmap_lock (")), "{calls:?}");
    }
    report.assert_states();
}

#[test]
fn who_maps_in_another_process_is_in_nobodys_way() {
    let traced = trace_locks("mmap-lock --healthy --duration 3s", "lock");
    let (truth, report) = (traced.truth(), traced.report());
    let (churn, rows) = (whole(&truth, "churn_tid"), rows(&report, "mmap_lock"));
    let (by_churn, _) = behind(&rows, churn);
    assert!(by_churn == 0.0, "another process's lock held nobody up: {rows:?}");
    assert_ne!(report.rule("mmap-lock-contention"), "fired", "{}; truth: {truth}", report.0["findings"]);
}

#[test]
fn a_pipes_mutex_is_told_with_its_holder_and_for_as_long_as_its_callers_say() {
    let traced = trace_locks("pipe-lock --duration 2s", "lock");
    let (truth, report) = (traced.truth(), traced.report());
    let (hog, rows) = (whole(&truth, "hog_tid"), rows(&report, "mutex"));
    let askers = truths(&truth, "asker");
    for own in &askers {
        let tid = whole(own, "tid");
        // Their calls do nothing but take the mutex, so they last as long as the contention, and a moment.
        let (kept, in_calls) = (of_waiter(&rows, tid, "total_s"), number(own, "in_calls_s"));
        let short: f64 = rows.iter().map(|row| number(row, "short_s")).sum();
        let calls_s = 3e-6 * number(own, "calls");
        assert!(
            kept <= in_calls * 1.02 + 0.01 && in_calls <= (kept + short) * 1.1 + calls_s + 0.05 + traced.stolen_s,
            "{tid} was kept from the mutex for {kept} s (short contentions of all: {short} s), its calls took {in_calls} s: {own}"
        );
        let (slept, waited) = (of_waiter(&rows, tid, "slept_s"), number(own, "waited_s"));
        let queued = state(report.thread(tid), "runnable");
        let slack = 0.05 * waited + 0.03 + traced.stolen_s;
        assert!(
            slept <= waited + slack && waited <= slept + queued + slack,
            "{tid} slept {slept} s, and was ready for {queued} s; it says {waited} s: {own}"
        );
    }
    let (by_hog, all) = behind(&rows, hog);
    assert!(by_hog >= 0.5 * all && all > 0.1, "{by_hog} of {all} s were behind {hog}: {rows:?}");
    assert_eq!(report.rule("kernel-lock-contention"), "fired", "{}; truth: {truth}", report.0["rules"]);
    let finding = report.findings("kernel-lock-contention")[0];
    assert_eq!(finding["culprit"]["tid"], hog, "the culprit is the one that writes slowly: {finding}");
    assert!(number(finding, "confidence") >= 0.85, "the mutex said who held it: {finding}");
    assert_evidence_is_there(&report, finding);
}

#[test]
fn threads_with_pipes_of_their_own_do_not_wait_for_each_other() {
    let traced = trace_locks("pipe-lock --healthy --duration 2s", "lock");
    let (truth, report) = (traced.truth(), traced.report());
    assert_ne!(report.rule("kernel-lock-contention"), "fired", "{}; truth: {truth}", report.0["findings"]);
    let slept: f64 = rows(&report, "mutex").iter().map(|row| number(row, "slept_s")).sum();
    assert!(slept < 0.03, "nothing to wait for, but {slept} s: {:?}", rows(&report, "mutex"));
}

#[test]
fn the_holders_function_is_named() {
    let traced = trace_locks("mmap-lock --duration 3s", "cpu,lock");
    let (truth, report) = (traced.truth(), traced.report());
    let findings = report.findings("mmap-lock-contention");
    let finding = findings.first().unwrap_or_else(|| panic!("no finding: {}; truth: {truth}", report.0["rules"]));
    let function = text(&finding["culprit"], "function");
    let own = ["churn", "new", "drop", "mmap", "munmap"];
    assert!(own.iter().any(|name| function.contains(name)), "the holder is in {function}: {finding}");
    let shown = crate::harness::replay(&traced.capture(), &[]).expect_code(0).ended.stdout;
    assert!(shown.contains("Locks of the kernel"), "the text has a table of them: {shown}");
}

#[test]
fn a_replay_tells_the_same_of_kernel_locks() {
    let traced = trace_locks("pipe-lock --duration 500ms", "lock");
    let (live, replayed) = (traced.report(), Report::parse(&traced.replayed().ended.stdout));
    assert_eq!(live.0["locks"], replayed.0["locks"], "kernel locks in the live report and in the replay");
    assert!(!list(&live.0["locks"], "kernel").is_empty(), "there are some");
}

#[test]
fn without_type_information_kinds_are_told_but_neither_owners_nor_whose_memory() {
    let traced = Tracer::run(workload("mmap-lock --duration 1s"))
        .option("--family")
        .option("lock")
        .options(&["--pretend-no", "btf"])
        .go()
        .expect_code(0);
    let report = traced.report();
    assert!(rows(&report, "mmap_lock").is_empty(), "{:?}", rows(&report, "mmap_lock"));
    let semaphores = rows(&report, "rwsem");
    let slept: f64 = semaphores.iter().map(|row| number(row, "slept_s")).sum();
    let kept: f64 = semaphores.iter().map(|row| number(row, "total_s")).sum();
    assert!(slept > 0.1 && kept >= 0.9 * slept, "slept {slept} s, kept from it {kept} s: {:?}", report.0["locks"]);
    assert!(semaphores.iter().all(|row| list(row, "owners").is_empty()), "{semaphores:?}");
}
