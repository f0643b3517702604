//! Signals, kills, time limits and descendants that stay: CMD is never harmed, nothing stays attached.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{
    Background, Report, Tracer, bpf, close, list, number,
    process::{alive, children},
    replay,
    report::state,
    shell, until, whole, workload,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Starts tracing a workload and returns once it runs.
fn running(arguments: &str, options: &[&str]) -> (Background, tempfile::TempDir, Value) {
    let (mut tracer, folder) = Tracer::run(workload(&format!("{arguments} --announce"))).options(options).start();
    let truth = tracer.next_json();
    (tracer, folder, truth)
}

/// How often a process left its CPU by itself.
fn sleeps(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn passed_on(signal: i32) {
    let (tracer, folder, truth) = running("sleep --duration 30s", &[]);
    until("CMD has slept", PATIENCE, || sleeps(whole(&truth, "pid")) >= 5);
    tracer.signal(signal);
    let ended = tracer.end_within(PATIENCE);
    assert_eq!(ended.code, Some(128 + signal), "CMD's status; {ended}");
    let report = Report::read(&folder.path().join("report.json"), &ended);
    assert_eq!(report.0["window"]["exit_code"], 128 + signal, "{}", report.0["window"]);
    assert!(!alive(whole(&truth, "pid")), "CMD got the signal");
    assert!(state(report.thread(whole(&truth, "pid")), "timer") > 0.0, "the report has what was seen until then");
}

#[test]
fn sigterm_is_passed_on() {
    passed_on(libc::SIGTERM);
}

#[test]
fn sighup_is_passed_on() {
    passed_on(libc::SIGHUP);
}

#[test]
fn ctrl_c_reaches_cmd_once_and_the_tracer_waits_for_it() {
    let script = "trap 'echo interrupted' INT; echo '{\"ready\": true}'; i=0; \
                  while [ $i -lt 30 ]; do sleep 0.05; i=$((i+1)); done; exit 5";
    let (mut tracer, folder) = Tracer::run(shell(script)).start();
    tracer.next_json();
    tracer.signal_group(libc::SIGINT);
    let ended = tracer.end_within(PATIENCE);
    assert_eq!(ended.code, Some(5), "CMD's own status; {ended}");
    assert_eq!(ended.stdout.matches("interrupted").count(), 1, "CMD got one signal; {ended}");
    Report::read(&folder.path().join("report.json"), &ended).assert_sums();
}

#[test]
fn ctrl_c_that_ends_cmd_gives_its_status_and_a_report() {
    let (tracer, folder, truth) = running("sleep --duration 30s", &[]);
    tracer.signal_group(libc::SIGINT);
    let ended = tracer.end_within(PATIENCE);
    assert_eq!(ended.code, Some(130), "{ended}");
    Report::read(&folder.path().join("report.json"), &ended).thread(whole(&truth, "pid"));
}

/// Whether a process has a handler for a signal.
fn catches(pid: u32, signal: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[test]
fn record_ends_cleanly_on_each_signal() {
    let mut program = Background::command(&workload("sleep --period 20ms --duration 60s --announce"));
    let pid = program.next_json()["pid"].to_string();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let (tracer, folder) = Tracer::record(&["--pid", &pid]).start();
        // Before that it does not tell the signal from a reason to give up.
        until("the tracer listens", PATIENCE, || catches(tracer.pid(), signal));
        tracer.signal(signal);
        let ended = tracer.end_within(PATIENCE);
        assert_eq!(ended.code, Some(0), "after signal {signal}: {ended}");
        let report = Report::read(&folder.path().join("report.json"), &ended);
        assert_eq!(report.0["window"]["ended_by"], "interrupted", "after signal {signal}: {}", report.0["window"]);
    }
}

#[test]
fn a_killed_tracer_leaves_nothing_loaded_and_cmd_goes_on() {
    let arguments = "timer-beside-busy --duration 5s --announce";
    let (mut tracer, folder) = Tracer::run(workload(arguments)).start();
    let truth = tracer.next_json();
    let programs = bpf::held_by(tracer.pid());
    assert!(programs.len() >= 5, "programs of the tracer: {programs:?}");
    let capture = folder.path().join("capture.trc");
    until("the capture grows", PATIENCE, || std::fs::metadata(&capture).is_ok_and(|file| file.len() > 4096));
    tracer.signal(libc::SIGKILL);
    let killed = Instant::now();
    until("no program is loaded", Duration::from_secs(2), || !programs.iter().any(|id| bpf::is_loaded(*id)));
    let pid = whole(&truth, "pid");
    assert!(alive(pid), "CMD goes on {:?} after the kill", killed.elapsed());
    let end = tracer.next_json();
    assert!(number(&end, "elapsed_s") >= 5.0, "CMD came to its own end: {end}");
    let ended = replay(&capture, &["--format", "json"]).expect_code(0).ended;
    let report = Report::parse(&ended.stdout);
    let window = &report.0["window"];
    assert_eq!(window["complete"], false, "{window}");
    assert!(window["clipped_reason"].as_str().is_some_and(|reason| !reason.is_empty()), "it says why: {window}");
    report.thread(pid);
}

#[test]
fn when_the_tracer_dies_while_it_holds_cmd_back_cmd_does_not_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let marker = folder.path().join("started");
    let command = vec!["touch".into(), marker.clone().into_os_string()];
    for _ in 0..3 {
        let (tracer, _files) = Tracer::run(command.clone()).start();
        let mut held = Vec::new();
        until("CMD is held back", PATIENCE, || {
            held = children(tracer.pid());
            !held.is_empty()
        });
        tracer.signal(libc::SIGKILL);
        let ended = tracer.end_within(PATIENCE);
        assert_eq!(ended.signal, Some(libc::SIGKILL), "it was killed in time; {ended}");
        until("what was held back is gone", PATIENCE, || !held.iter().any(|pid| alive(u64::from(*pid))));
        assert!(!marker.exists(), "CMD did start");
    }
}

#[test]
fn a_duration_detaches_and_cmd_goes_on() {
    let (tracer, folder, truth) = running("sleep --duration 20s", &["--duration", "600ms"]);
    let programs = bpf::held_by(tracer.pid());
    let pid = whole(&truth, "pid");
    let ended = tracer.end_within(PATIENCE);
    assert!(ended.elapsed < Duration::from_secs(3), "reported after {:?}", ended.elapsed);
    assert!(alive(pid), "CMD goes on");
    until("no program is loaded", Duration::from_secs(2), || !programs.iter().any(|id| bpf::is_loaded(*id)));
    assert_eq!(ended.code, Some(0), "{ended}");
    let report = Report::read(&folder.path().join("report.json"), &ended);
    assert_eq!(report.0["window"]["ended_by"], "duration", "{}", report.0["window"]);
    close("the window", number(&report.0["window"], "duration_s"), 0.6, 0.05, 0.05);
    assert!(report.thread(pid)["end_unix_ns"].is_null(), "it outlived the window");
    // SAFETY: takes two numbers; the workload is this test's own.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
}

#[test]
fn a_descendant_that_outlives_cmd_is_not_waited_for() {
    let (tracer, folder, truth) = running("daemonise --duration 8s --period 300ms", &[]);
    let ended = tracer.end_within(PATIENCE);
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(ended.elapsed < Duration::from_secs(5), "reported after {:?}", ended.elapsed);
    let child = whole(&truth, "child");
    assert!(alive(child), "the descendant goes on");
    let report = Report::read(&folder.path().join("report.json"), &ended);
    let row = report.thread(child);
    assert!(row["end_unix_ns"].is_null(), "it is marked as still alive: {row}");
    assert!(number(row, "wall_s") <= number(&report.0["window"], "duration_s") + 1e-6, "clipped to the window: {row}");
    assert!(list(row, "waits").iter().any(|wait| wait["open"] == true), "its wait is open: {row}");
    report.assert_states();
    // SAFETY: as above.
    unsafe { libc::kill(child as i32, libc::SIGKILL) };
}

#[test]
fn two_tracers_at_once_are_both_right() {
    let start = |name: &str| Tracer::run(workload(&format!("{name} --duration 900ms"))).start();
    let (one, one_files) = start("sleep");
    let (two, two_files) = start("mutex --hog --hold 4ms");
    let check = |tracer: Background, files: &Path| {
        let ended = tracer.end_within(PATIENCE);
        assert_eq!(ended.code, Some(0), "{ended}");
        let report = Report::read(&files.join("report.json"), &ended);
        report.assert_sums();
        report.assert_states();
        assert_eq!(whole(report.ledger(), "lost"), 0, "lost: {}", report.ledger());
        let truth: Value =
            ended.stdout.lines().find_map(|line| serde_json::from_str(line).ok()).expect("a line of JSON");
        (report, truth)
    };
    let (sleeper, slept) = check(one, one_files.path());
    let (locker, locked) = check(two, two_files.path());
    close("timer", state(sleeper.thread(whole(&slept, "pid")), "timer"), number(&slept, "slept_s"), 0.02, 0.02);
    assert!(sleeper.threads().all(|thread| thread["pid"] != locked["pid"]), "each sees its own only");
    assert!(locker.threads().all(|thread| thread["pid"] != slept["pid"]), "each sees its own only");
    let futex = locker.futex(list(&locked, "locks")[0].as_str().expect("an address"));
    let hog = list(&locked, "threads").iter().find(|own| own["role"] == "hog").expect("a hog");
    assert_eq!(list(futex, "owners")[0]["tid"], hog["tid"], "owner: {futex}");
}
