//! Who ended a wait: a thread, a timer or a device. A thread that was merely interrupted is never named.

use crate::harness::{
    Background, Tracer, close, list, number, replay,
    report::{waits, wakers},
    shell, text, trace, whole, workload, workspace,
};

#[test]
fn the_end_of_a_ping_pong_that_writes_is_the_waker_of_the_one_that_reads() {
    let traced = trace("pingpong --threads --pinned --count 20000");
    let (truth, report) = (traced.truth(), traced.report());
    let (near, far) = (whole(&truth, "pid"), whole(&truth, "other_tid"));
    for (reader, writer) in [(near, far), (far, near)] {
        let pipes = waits(report.thread(reader), "pipe");
        let (by_writer, all) = wakers(&pipes, |waker| waker["tid"] == writer && waker["context"] == "task");
        assert!(all >= 4_000, "{reader} was woken {all} times only: {pipes:?}");
        assert!(by_writer * 100 >= all * 99, "{writer} woke {reader} {by_writer} times of {all}: {pipes:?}");
    }
}

#[test]
fn a_timer_wakes_a_sleeper_and_the_busy_loop_beside_it_does_not() {
    let traced = trace("timer-beside-busy --duration 800ms --period 5ms");
    let (truth, report) = (traced.truth(), traced.report());
    let thread = |role| list(&truth, "threads").iter().find(|own| own["role"] == role).expect("a thread of each role");
    let sleeps = waits(report.thread(whole(thread("sleeper"), "tid")), "timer");
    let (by_timer, all) = wakers(&sleeps, |waker| waker["context"] == "timer" && waker["tid"].is_null());
    assert!(all >= 50, "woken {all} times only: {sleeps:?}");
    assert!(by_timer * 100 >= all * 98, "timers ended {by_timer} of {all} sleeps: {sleeps:?}");
    let (by_busy, _) = wakers(&sleeps, |waker| waker["tid"] == thread("busy")["tid"]);
    assert_eq!(by_busy, 0, "the busy loop is named as waker: {sleeps:?}");
}

#[test]
fn a_disks_interrupt_wakes_a_direct_reader() {
    let folder = workspace().join("target");
    let traced = trace(&format!("file-wait --direct --duration 500ms --folder {}", folder.display()));
    let (truth, report) = (traced.truth(), traced.report());
    let reads = waits(report.thread(whole(&truth, "pid")), "file");
    let (by_device, all) = wakers(&reads, |waker| waker["context"] == "device" && waker["tid"].is_null());
    assert!(all >= 100, "woken {all} times only, so the disk is no disk: {reads:?}");
    assert!(by_device * 100 >= all * 90, "devices ended {by_device} of {all} waits: {reads:?}");
}

#[test]
fn a_timer_stays_a_timer_on_a_cpu_that_devices_interrupt() {
    let folder = workspace().join("target");
    let reader = format!("file-wait --direct --announce --duration 20s --folder {}", folder.display());
    let mut disk = Background::command(&workload(&reader));
    disk.next_json();
    let traced = trace("sleep --each-cpu --period 5ms --duration 700ms");
    let (truth, report) = (traced.truth(), traced.report());
    for own in list(&truth, "threads") {
        let sleeps = waits(report.thread(whole(own, "tid")), "timer");
        let (by_timer, all) = wakers(&sleeps, |waker| waker["context"] == "timer");
        assert!(all >= 60, "woken {all} times only: {sleeps:?}");
        assert!(by_timer * 100 >= all * 95, "timers ended {by_timer} of {all} sleeps of {own}: {sleeps:?}");
    }
}

/// The random number generator of a virtual machine completes a read in its interrupt's handler itself.
#[test]
fn a_device_that_completes_in_its_handler_is_a_device() {
    if std::fs::File::open("/dev/hwrng").is_err() {
        eprintln!("NOT TESTED: this host has no /dev/hwrng, so nothing here wakes a thread in a device's own handler");
        return;
    }
    let script =
        "echo \"{\\\"pid\\\": $$}\"; exec dd if=/dev/hwrng of=/dev/null bs=64 count=60 iflag=fullblock 2>/dev/null";
    let traced = Tracer::run(shell(script)).go().expect_code(0);
    let report = traced.report();
    let row = report.thread(whole(&traced.truth(), "pid"));
    let reads: Vec<_> = list(row, "waits").iter().filter(|wait| wait["state"] == "other").collect();
    let (by_device, all) = wakers(&reads, |waker| waker["context"] == "device");
    assert!(all >= 20, "woken {all} times only: {row}");
    assert!(by_device * 100 >= all * 90, "devices ended {by_device} of {all} reads: {reads:?}");
}

/// Of each end of a conversation over TCP, how many waits the other end ended, and how many there were.
fn ended_by_the_other(truth: &serde_json::Value, report: &crate::harness::Report) -> Vec<(u64, u64)> {
    let tid = |role: &str| {
        let own = list(truth, "threads").iter().find(|own| own["role"] == role).expect("a thread of each role");
        whole(own, "tid")
    };
    let ends = [(tid("client"), tid("server")), (tid("server"), tid("client"))];
    let of = |(own, other): (u64, u64)| {
        wakers(&waits(report.thread(own), "socket_inet"), |waker| waker["tid"] == other && waker["context"] == "task")
    };
    ends.map(of).to_vec()
}

#[test]
fn who_sends_is_the_waker_of_who_receives() {
    let traced = trace("socket --family inet --period 0ms --duration 2s");
    let report = traced.report();
    let sched = list(&report.0["coverage"], "families").iter().find(|family| family["family"] == "sched");
    let lacks = sched.and_then(|family| family["reason"].as_str()).unwrap_or_default();
    if lacks.contains("whether a thread or an interrupt ended a wait is unknown") {
        eprintln!("NOT TESTED: {lacks}");
        return;
    }
    for (by_other, all) in ended_by_the_other(&traced.truth(), &report) {
        assert!(all >= 500, "woken {all} times only");
        assert!(by_other * 100 >= all * 98, "the other end ended {by_other} of {all} waits");
    }
}

/// What tells senders without the program at softirqs is learned on one CPU, and holds for all.
#[test]
fn who_sends_is_the_waker_of_who_receives_on_another_cpu_than_before() {
    let traced = trace("socket --family inet --period 0ms --duration 4s --moves");
    for (by_other, all) in ended_by_the_other(&traced.truth(), &traced.report()) {
        assert!(all >= 500, "woken {all} times only");
        assert!(by_other * 100 >= all * 98, "the other end ended {by_other} of {all} waits");
    }
}

/// The program at the start of softirqs is not needed to tell senders, but timers.
#[test]
fn the_program_at_softirqs_goes_while_packets_wake_and_comes_back_for_timers() {
    let types = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    let needed = b"in_net_rx_action";
    if !types.windows(needed.len()).any(|bytes| bytes == needed) {
        eprintln!(
            "NOT TESTED: this kernel does not tell whether packets are being received (6.4 does), so the program stays"
        );
        return;
    }
    let command = workload("socket --family inet --period 0ms --duration 5s --timeouts");
    let traced = Tracer::run(command).options(&["-vv"]).go().expect_code(0);
    let (truth, report) = (traced.truth(), traced.report());
    for (by_other, all) in ended_by_the_other(&truth, &report) {
        assert!(by_other * 100 >= all * 98, "the other end ended {by_other} of {all} waits");
    }
    let own = list(&truth, "threads").iter().find(|own| own["role"] == "timeouts").expect("a third thread");
    let timeouts = waits(report.thread(whole(own, "tid")), "socket_unix");
    let (by_timer, all) = wakers(&timeouts, |waker| waker["context"] == "timer");
    assert!(all >= 100, "woken {all} times only: {timeouts:?}");
    assert!(by_timer * 100 >= all * 80, "timers ended {by_timer} of {all} waits: {timeouts:?}");
    let said = &traced.ended.stderr;
    let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what} is not in: {said}"));
    assert!(at("softirq_entry: detached") < at("softirq_entry: attached"), "{said}");
}

#[test]
fn switches_are_counted_as_the_kernel_counts_them() {
    let traced = trace("pingpong --threads --pinned --count 50000");
    let (truth, report) = (traced.truth(), traced.report());
    let sum = |key| report.threads().map(|thread| whole(thread, key)).sum::<u64>() as f64;
    let (switches, preemptions) = (sum("switches"), sum("preemptions"));
    let kernel = whole(&truth, "switches") as f64 + whole(&truth, "preemptions") as f64;
    close("switches", switches, kernel, 0.001, 60.0);
    close("pre-emptions", preemptions, whole(&truth, "preemptions") as f64, 0.002, 60.0);
}

#[test]
fn the_code_that_ends_a_wait_is_named() {
    let command = workload("items producer --items 150 --loops 100000");
    let traced = Tracer::run(command).options(&["--family", "cpu"]).go().expect_code(0);
    let (truth, report) = (traced.truth(), traced.report());
    let main = report.thread(whole(&truth, "pid"));
    let wait = list(main, "waits").iter().find(|wait| wait["state"] == "pipe").expect("it waits for items");
    let ended = list(wait, "woken_in").first().unwrap_or_else(|| panic!("no stack of who writes: {wait}"));
    assert_eq!(text(ended, "function"), "write_full", "what the producer writes with: {wait}");
    let all: f64 = list(wait, "woken_in").iter().map(|time| number(time, "total_s")).sum();
    close("the time of the waits, shared out", all, number(wait, "total_s"), 0.01, 0.001);
    let sleep = list(report.thread(whole(&truth, "child")), "waits").iter().find(|wait| wait["state"] == "timer");
    let sleep = sleep.expect("it sleeps before each");
    assert!(list(sleep, "woken_in").is_empty(), "a timer has no code of the workload: {sleep}");
    let shown = replay(&traced.capture(), &[]).ended.stdout;
    assert!(shown.contains(") in write_full"), "{shown}");
}
