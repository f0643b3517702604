//! Where each thread's wall time goes, against what the threads measured of themselves.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{
    self, Traced, Tracer, close, list, number,
    report::{state, waits},
    text, trace, whole,
};

/// The thread of the truth that has this role, and its row in the report.
#[track_caller]
fn by_role(traced: &Traced, role: &str) -> (Value, Value) {
    let truth = traced.truth();
    let own = list(&truth, "threads").iter().find(|thread| thread["role"] == role);
    let own = own.unwrap_or_else(|| panic!("no {role} in {truth}")).clone();
    let row = traced.report().thread(whole(&own, "tid")).clone();
    (own, row)
}

/// Fails when more than 1 % of a thread's time is unknown. The amount beside it is for hosts on which some processes are hidden from
/// tracing: the slice after one of them gave up the CPU has no beginning.
#[track_caller]
fn assert_little_unknown(row: &Value) {
    assert!(state(row, "unknown") <= 0.01 * number(row, "wall_s") + 0.01, "unknown is more than 1 %: {row}");
}

/// Fails unless the waits that a thread measured agree with a state: a measured wait is the wait itself, between its end and
/// the CPU some of the time in the run queue, and some of the time in which the hypervisor had the CPU.
#[track_caller]
fn assert_covers(what: &str, row: &Value, key: &str, own: &Value) {
    let waited = number(own, "waited_s");
    let stolen = (state(row, "on_cpu") - number(own, "on_cpu_ns") / 1e9).max(0.0);
    let (at_least, at_most) = (state(row, key), state(row, key) + state(row, "runnable") + stolen);
    let slack = 0.03 * waited + 0.02;
    let agrees = at_least <= waited + slack && waited <= at_most + slack;
    assert!(agrees, "{what}: the report says {at_least} to {at_most}, the program {waited}: {row}");
}

/// Fails unless a time that a thread measured around its waits, from before the call to after it, is a state, or that and the time until
/// the thread had a CPU again.
#[track_caller]
fn assert_around(what: &str, row: &Value, key: &str, measured: f64, traced: &Traced) {
    let (at_least, at_most) = (state(row, key), state(row, key) + state(row, "runnable") + traced.stolen_s);
    let slack = 0.02 * measured + 0.01;
    let agrees = at_least <= measured + slack && measured <= at_most + slack;
    assert!(agrees, "{what}: the report says {at_least} to {at_most}, the program {measured}: {row}");
}

/// Fails unless the thread of this role spent in this state what it measured as its waits.
#[track_caller]
fn assert_waited(arguments: &str, role: &str, key: &str) {
    let traced = trace(arguments);
    traced.report().assert_states();
    let (own, row) = by_role(&traced, role);
    assert_covers(&format!("{key} of {role} in `{arguments}`"), &row, key, &own);
    close("time on CPU", state(&row, "on_cpu"), number(&own, "on_cpu_ns") / 1e9, 0.02, 0.02 + traced.stolen_s);
    assert_little_unknown(&row);
}

#[test]
fn a_python_program_that_computes_then_sleeps_is_accounted_for() {
    let mut command = harness::workload("stopwatch --");
    command.extend(harness::python("compute_then_sleep.py", "1.0 1.0"));
    let traced = Tracer::run(command).go().expect_code(0);
    let (truth, report) = (traced.truth(), traced.report());
    let row = report.thread(whole(&truth, "pid"));
    report.assert_states();
    close("wall time", number(row, "wall_s"), number(&truth, "wall_s"), 0.005, 0.0);
    close("time on CPU", state(row, "on_cpu"), number(&truth, "schedstat_ns") / 1e9, 0.02, 0.02 + traced.stolen_s);
    assert_around("sleep", row, "timer", number(&truth, "slept_s"), &traced);
    assert_little_unknown(row);
    assert!(text(row, "name").starts_with("python"), "the name is the last program's: {row}");
    crate::replay::assert_valid(&report.0);
}

#[test]
fn a_sleeper_waits_for_a_timer() {
    let traced = trace("sleep --duration 500ms");
    let (truth, report) = (traced.truth(), traced.report());
    let row = report.thread(whole(&truth, "pid"));
    assert_around("timer", row, "timer", number(&truth, "slept_s"), &traced);
    report.assert_states();
}

#[test]
fn a_consumer_waits_for_a_pipe() {
    assert_waited("pipe-queue --duration 500ms", "consumer", "pipe");
}

#[test]
fn a_thread_in_poll_select_or_epoll_waits_in_poll() {
    for call in ["poll", "select", "epoll"] {
        assert_waited(&format!("poll-wait --call {call} --duration 400ms"), "waiter", "poll");
    }
}

#[test]
fn a_client_that_waits_in_epoll_waits_for_the_inet_socket_that_ends_it() {
    let traced = trace("network --epoll");
    let (truth, report) = (traced.truth(), traced.report());
    let row = report.thread(whole(&truth, "pid"));
    assert_around("socket", row, "socket_inet", number(&truth, "waited_s"), &traced);
    let waits = waits(row, "socket_inet");
    let longest = waits.first().unwrap_or_else(|| panic!("no wait: {row}"));
    assert_eq!((text(longest, "detail"), whole(longest, "count")), ("epoll_wait", 30), "one socket: {waits:?}");
}

#[test]
fn a_client_waits_for_a_unix_socket() {
    assert_waited("socket --family unix --duration 400ms", "client", "socket_unix");
}

#[test]
fn a_client_waits_for_an_inet_socket() {
    assert_waited("socket --family inet --duration 400ms", "client", "socket_inet");
}

#[test]
fn threads_wait_for_a_futex() {
    let traced = trace("mutex --hog --hold 5ms --duration 600ms");
    traced.report().assert_states();
    let (truth, report) = (traced.truth(), traced.report());
    for own in list(&truth, "threads").iter().filter(|own| own["role"] == "contender") {
        let row = report.thread(whole(own, "tid"));
        assert_covers("futex", row, "futex", own);
    }
}

#[test]
fn a_parent_waits_for_its_child() {
    let traced = trace("child-wait --duration 400ms");
    let (truth, report) = (traced.truth(), traced.report());
    let parent = report.thread(whole(&truth, "pid"));
    assert_around("child", parent, "child", number(&truth, "waited_s"), &traced);
    let child = report.thread(whole(&truth, "child"));
    close("timer of the child", state(child, "timer"), 0.4, 0.05, 0.02);
    report.assert_states();
}

#[test]
fn a_program_that_syncs_a_file_waits_for_a_file() {
    let folder = PathBuf::from(harness::storage::disk());
    let traced = trace(&format!("file-wait --duration 500ms --folder {}", folder.display()));
    let (truth, report) = (traced.truth(), traced.report());
    let row = report.thread(whole(&truth, "pid"));
    // Part of a sync is computing in the kernel; the rest of it waits.
    let waited = number(&truth, "waited_s") + 0.02;
    let syncs = list(row, "waits").iter().filter(|wait| wait["state"] == "file" && wait["detail"] == "fsync");
    let seen: f64 = syncs.map(|wait| number(wait, "total_s")).sum();
    assert!(seen <= waited, "waits for {seen} s in fsync, but was there for {waited} s only: {row}");
    // Starting the program and making the file waits for the disk as well.
    let accounted = state(row, "file") + state(row, "other") + state(row, "on_cpu") + state(row, "runnable");
    close("file, CPU and run queue together", accounted, number(row, "wall_s"), 0.10, 0.0);
    report.assert_states();
}

#[test]
fn a_stopped_process_is_stopped_and_its_sleep_is_a_sleep_again() {
    let traced = trace("stopped --duration 300ms --period 100ms");
    let (truth, report) = (traced.truth(), traced.report());
    let child = report.thread(whole(&truth, "child"));
    let stopped = number(&truth, "stopped_s");
    close("stopped", state(child, "stopped"), stopped, 0.05, 0.02);
    close("the sleep before and after", state(child, "timer"), number(&truth, "sleep_s") - stopped, 0.05, 0.02);
    report.assert_states();
}

#[test]
fn a_thread_that_never_leaves_its_cpu_is_on_cpu() {
    let traced = trace("never-switch --duration 600ms");
    let (own, row) = by_role(&traced, "spinner");
    close("time on CPU", state(&row, "on_cpu"), number(&own, "on_cpu_ns") / 1e9, 0.02, 0.02 + traced.stolen_s);
    traced.report().assert_states();
}

#[test]
fn threads_that_share_cpus_wait_in_the_run_queue() {
    let cpus = std::thread::available_parallelism().expect("the number of CPUs is known").get();
    let traced = trace(&format!("cpu --threads {} --duration 800ms", cpus + 2));
    let (truth, report) = (traced.truth(), traced.report());
    for own in list(&truth, "threads") {
        let row = report.thread(whole(own, "tid"));
        close("time on CPU", state(row, "on_cpu"), number(own, "on_cpu_ns") / 1e9, 0.02, 0.02 + traced.stolen_s);
        // A thread may wait for a CPU once more after it has read its own account, long where the machine is an emulated one on a busy
        // host: the report may say so much more, and no less.
        let (reported, own_s) = (state(row, "runnable"), number(own, "run_delay_ns") / 1e9);
        let once_more_s = row["queued"]["max_s"].as_f64().unwrap_or(0.0).min((reported - own_s).max(0.0));
        close("run queue", reported - once_more_s, own_s, 0.03, 0.02);
    }
    report.assert_states();
}
