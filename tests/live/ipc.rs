//! Data copied between processes through pipes and unix sockets, how much it was, and what only looks like it.

use serde_json::Value;

use crate::harness::{Background, Report, Traced, Tracer, list, number, python, text, whole, workload};

fn traced(command: Vec<std::ffi::OsString>) -> Traced {
    Tracer::run(command).options(&["--family", "cpu"]).go().expect_code(0)
}

/// The finding, with the seconds that receiving took.
#[track_caller]
fn copied<'a>(what: &str, report: &'a Report, took_s: f64) -> &'a Value {
    let found = report.findings("ipc-wait");
    let [finding] = found[..] else {
        panic!("{what}: one finding, not {found:?}; rules: {} path: {}", report.0["rules"], report.0["critical_path"])
    };
    let lost = number(finding, "lost_s");
    assert!((0.5 * took_s..=1.1 * took_s).contains(&lost), "{what}: lost {lost} of {took_s} s: {finding}");
    assert!(report.findings("input-starvation").is_empty(), "{what}: said once: {}", report.0["findings"]);
    for evidence in list(finding, "evidence") {
        let at = report.0.pointer(text(evidence, "source")).and_then(Value::as_f64);
        assert_eq!(at, evidence["value"].as_f64(), "{what}: the report has what is cited: {evidence}");
    }
    report.assert_path();
    finding
}

/// The pipe or socket between two processes for which was waited longest.
#[track_caller]
fn between(report: &Report, from: u64, to: u64) -> &Value {
    let has = |object: &Value, ends: &str, pid: u64| list(object, ends).iter().any(|end| end["pid"] == pid);
    let objects = list(&report.0["objects"], "list");
    let found = objects.iter().find(|object| has(object, "writers", from) && has(object, "readers", to));
    found.unwrap_or_else(|| panic!("nothing leads from {from} to {to}: {objects:?}"))
}

#[track_caller]
fn assert_silent(what: &str, report: &Report) {
    assert_eq!(report.rule("ipc-wait"), "silent", "{what}: {}", report.0["rules"]);
    assert!(report.findings("ipc-wait").is_empty(), "{what}: {}", report.0["findings"]);
}

#[test]
fn large_messages_through_a_pipe_are_copied_and_their_bytes_are_counted() {
    let traced = traced(workload("ipc"));
    let (truth, report) = (traced.truth(), traced.report());
    let finding = copied("pipe", &report, number(&truth, "took_s"));
    let (pid, child) = (whole(&truth, "pid"), whole(&truth, "child"));
    let culprit = &finding["culprit"];
    assert!([pid, child].map(Value::from).contains(&culprit["pid"]), "one of the ends: {finding}");
    let function = text(culprit, "function");
    assert!(["read_full", "write_full", "receive_batch", "send_batch"].contains(&function), "{finding}");
    let peer = text(culprit, "peer");
    assert!(peer.contains(&child.to_string()) && peer.contains(&pid.to_string()), "both ends: {finding}");
    let bytes = &between(&report, child, pid)["bytes"];
    let sent = number(&truth, "bytes");
    let told = number(bytes, "at_most");
    assert!((sent..=1.01 * sent).contains(&told), "{told} of {sent} bytes: {bytes}");
    assert_eq!(bytes["ends_agree"], true, "{bytes}");
    let (rate, wanted) = (number(bytes, "per_s_at_most"), sent / number(&truth, "took_s"));
    assert!((0.6 * wanted..=1.1 * wanted).contains(&rate), "{rate} of {wanted} bytes a second: {bytes}");
    let written = number(bytes, "per_write");
    assert!((16e6..=65e6 * 1.1).contains(&written), "messages of 64 MiB, and a few small ones: {bytes}");
}

#[test]
fn without_the_copies_the_run_is_faster_by_what_was_lost_and_silent() {
    let measured = || {
        let sick = traced(workload("ipc"));
        let healthy = traced(workload("ipc --healthy"));
        assert_silent("shared memory", &healthy.report());
        let lost = number(copied("pipe", &sick.report(), number(&sick.truth(), "took_s")), "lost_s");
        (lost, number(&sick.truth(), "took_s") - number(&healthy.truth(), "took_s"))
    };
    // The median of three: others may have had the machine in one half of a pair.
    let mut ratios: Vec<f64> = (0..3).map(|_| measured()).map(|(lost, saved)| lost / saved).collect();
    ratios.sort_by(f64::total_cmp);
    assert!((0.6..=1.2).contains(&ratios[1]), "lost, as a part of what was saved: {ratios:?}");
}

/// The programs that see what calls move through sockets, which came with Linux 6.3.
const CALLS: [&str; 2] = ["sock_send_length", "sock_recv_length"];

/// Whether this kernel has them; says so if not.
fn has_calls() -> bool {
    let types = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    let has = |name: &str| types.windows(name.len()).any(|bytes| bytes == name.as_bytes());
    let has_both = CALLS.iter().all(|name| has(&format!("btf_trace_{name}")));
    if !has_both {
        eprintln!("NOT TESTED: this kernel does not say what calls move through sockets (6.3 does)");
    }
    has_both
}

#[test]
fn what_calls_move_through_a_unix_socket_is_counted_while_threads_wait_for_it() {
    if !has_calls() {
        return;
    }
    let command = workload("ipc --over unix --messages 100");
    let traced = Tracer::run(command).options(&["--family", "cpu,net"]).go().expect_code(0);
    let (truth, report) = (traced.truth(), traced.report());
    let (sent, took_s) = (number(&truth, "bytes"), number(&truth, "took_s"));
    let finding = copied("unix socket", &report, took_s);
    assert!(text(&finding["culprit"], "peer").starts_with("unix socket from "), "{finding}");
    assert!(text(finding, "summary").contains("a second"), "{finding}");
    let is_pair = |peer: &&Value| peer["protocol"] == "unix" && !peer["unix"].is_null();
    let peer = list(&report.0["network"], "peers").iter().find(is_pair);
    let told = &peer.unwrap_or_else(|| panic!("what went through it: {}", report.0["network"]))["unix"];
    let counted_s = number(told, "counted_s");
    assert!((0.5 * took_s..=took_s + 3.0).contains(&counted_s), "counted for {counted_s} of {took_s} s: {told}");
    for (moved, calls) in [("sent_bytes", "sends"), ("received_bytes", "receives")] {
        let moved = number(told, moved);
        assert!((0.7 * sent..=1.001 * sent).contains(&moved), "{moved} of {sent} bytes: {told}");
        assert!(whole(told, calls) >= 50, "by calls: {told}");
    }
    // A call sends a whole message, and of the last one before counting began what was left of it is counted too.
    let message = sent / 100.0;
    let a_send = number(told, "sent_bytes") / number(told, "sends");
    assert!((0.98 * message..=1.001 * message).contains(&a_send), "{a_send} bytes a call of {message}: {told}");
}

#[test]
fn what_sockets_own_calls_move_is_not_known_where_it_is_not_counted_and_said_so() {
    let off = CALLS.iter().flat_map(|program| ["--without-program", program]);
    let options: Vec<&str> = ["--family", "cpu,net"].into_iter().chain(off).collect();
    let traced = Tracer::run(workload("ipc --over unix --messages 100")).options(&options).go().expect_code(0);
    let (truth, report) = (traced.truth(), traced.report());
    let finding = copied("unix socket", &report, number(&truth, "took_s"));
    assert!(text(finding, "summary").contains("how much is not known"), "{finding}");
    let read = list(&report.0["objects"], "list").iter().filter(|object| object["kind"] == "unix");
    let told: Vec<&Value> = read.filter(|object| whole(&object["readers"][0], "waits") > 0).collect();
    assert!(told.iter().all(|object| object["bytes"].is_null()), "the reader's calls are not counted: {told:?}");
}

#[test]
fn calls_at_sockets_are_not_looked_at_while_nobody_waits_at_unix_sockets() {
    if !has_calls() {
        return;
    }
    let traced = Tracer::run(workload("network --healthy --answers 800 --compute 1ms"))
        .options(&["--family", "net"])
        .go()
        .expect_code(0);
    let report = traced.report();
    let programs = list(&report.0["overhead"], "programs");
    let runs =
        CALLS.map(|name| programs.iter().find(|program| program["name"] == name).map(|program| whole(program, "runs")));
    assert_eq!(runs, [Some(0), Some(0)], "loaded, and not attached: {programs:?}");
    let unix = list(&report.0["network"], "peers").iter().filter(|peer| !peer["unix"].is_null());
    assert_eq!(unix.count(), 0, "{}", report.0["network"]);
}

#[test]
fn pythons_pipes_are_named_with_the_functions_that_pickle_and_put_together() {
    for (kind, functions) in [
        ("pipe", &["_recv", "recv", "dumps", "_send", "send", "fill"][..]),
        ("bytes", &["_recv", "recv_bytes", "_send"]),
        ("unix", &["take_unix", "fill"]),
    ] {
        // Of less than a second the usual rate takes some seventy samples, and in one run of ten they are off by more than is allowed here.
        let options = ["--family", "cpu", "--sample-hz", "499"];
        let traced = Tracer::run(python("ipc.py", kind)).options(&options).go().expect_code(0);
        let (truth, report) = (traced.truth(), traced.report());
        let finding = copied(kind, &report, number(&truth, "taken_s"));
        let (pid, child) = (whole(&truth, "pid"), whole(&truth, "child"));
        let function = text(&finding["culprit"], "function").rsplit('.').next().unwrap_or_default();
        assert!(functions.contains(&function), "{kind}: {finding}");
        let bytes = &between(&report, child, pid)["bytes"];
        if kind == "unix" {
            continue;
        }
        let (sent, told) = (number(&truth, "bytes"), number(bytes, "at_most"));
        assert!((sent..=1.05 * sent).contains(&told), "{kind}: {told} of {sent} bytes: {bytes}");
    }
}

#[test]
fn a_batch_in_shared_memory_is_silent() {
    for _ in 0..2 {
        let traced = traced(python("ipc.py", "shared count 300"));
        let report = traced.report();
        assert_silent("shared memory", &report);
        assert!(report.findings("input-starvation").is_empty(), "{}", report.0["findings"]);
    }
}

#[test]
fn a_slow_producer_is_starvation_whatever_it_sends() {
    for kind in ["slow-small", "slow-large"] {
        let report = traced(python("ipc.py", kind)).report();
        assert_silent(kind, &report);
        assert_eq!(report.findings("input-starvation").len(), 1, "{kind}: {}", report.0["rules"]);
    }
}

#[test]
fn conversations_and_idle_loops_are_no_transport() {
    for role in ["pingpong --count 60000", "socket --duration 800ms", "poll-wait --call epoll --duration 800ms"] {
        assert_silent(role, &traced(workload(role)).report());
    }
    let report = traced(python("loader.py", "workers compute healthy")).report();
    assert_silent("a full queue", &report);
}

#[test]
fn bytes_are_known_of_processes_that_were_attached_to_and_go_on() {
    let mut program = Background::command(&workload("ipc --messages 100000 --announce"));
    let truth = program.next_json();
    let (pid, child) = (whole(&truth, "pid"), whole(&truth, "child"));
    let [own, other] = [pid, child].map(|pid| pid.to_string());
    let attach = ["--pid", &own, "--pid", &other, "--focus", &own, "--duration", "3s", "--family", "cpu"];
    let before = moved(child);
    let traced = Tracer::record(&attach).go().expect_code(0);
    let after = moved(child);
    let report = traced.report();
    copied("attached", &report, number(&report.0["window"], "duration_s"));
    let bytes = &between(&report, child, pid)["bytes"];
    let told = number(bytes, "at_most");
    assert!(told > 0.0 && told <= (after - before) as f64, "{told} of {} bytes: {bytes}", after - before);
    let io = &report.thread(child)["io"];
    let (seen_s, window_s) = (number(io, "over_s"), number(&report.0["window"], "duration_s"));
    // The first look at it is before the window: probes are attached meanwhile.
    let most_s = window_s + number(&report.0["window"], "attach_s") + 0.1;
    assert!((0.4 * window_s..=most_s).contains(&seen_s), "over {seen_s} of {window_s} s, at most {most_s} s: {io}");
}

/// What a process has written, as /proc tells it.
fn moved(pid: u64) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("the kernel counts it");
    let field = text.lines().find_map(|line| line.strip_prefix("wchar: "));
    field.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no wchar in {text}"))
}
