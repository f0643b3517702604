//! `record`: attaching to what already runs, by process, name, cgroup, or all of it.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    Background, Tracer, close,
    host::{Cgroup, stolen_s},
    list, number, python,
    report::{Report, state},
    text, until, whole, workload, workload_bin,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a workload and returns what it says once all its threads run.
fn started(arguments: &str) -> (Background, Value) {
    let mut background = Background::command(&workload(&format!("{arguments} --announce")));
    let truth = background.next_json();
    assert_eq!(truth["ready"], true, "{truth}");
    (background, truth)
}

#[test]
fn each_thread_of_a_running_program_is_there_with_its_wait_and_its_locks_owner() {
    let (_program, truth) = started("mutex --hog --hold 4ms --threads 4 --duration 30s");
    let pid = truth["pid"].to_string();
    let traced = Tracer::record(&["--pid", &pid, "--duration", "800ms"]).go().expect_code(0);
    let report = traced.report();
    report.assert_states();
    let threads = list(&truth, "threads");
    for own in threads {
        let row = report.thread(whole(own, "tid"));
        assert_eq!(row["name"], own["name"], "{row}");
        close("wall time", number(row, "wall_s"), number(&report.0["window"], "duration_s"), 0.02, 0.01);
    }
    // The main thread waits for the others to end and never runs.
    let main = report.thread(whole(&truth, "pid"));
    close("the main thread waits", state(main, "futex"), number(main, "wall_s"), 0.02, 0.0);
    let futex = report.futex(list(&truth, "locks")[0].as_str().expect("an address"));
    assert_eq!(list(futex, "owners")[0]["tid"], threads[0]["tid"], "the first thread is the hog: {futex}");
    assert_eq!(report.0["window"]["ended_by"], "duration");
    close("the window", number(&report.0["window"], "duration_s"), 0.8, 0.05, 0.02);
}

#[test]
fn a_deadlocked_program_that_never_switches_is_there_with_waits_and_owners() {
    let mut program = Background::command(&workload("deadlock"));
    let truth = program.next_json();
    let pid = truth["pid"].to_string();
    let traced = Tracer::record(&["--pid", &pid, "--duration", "500ms"]).go().expect_code(0);
    let report = traced.report();
    report.assert_states();
    for wait in list(&truth, "waits") {
        let row = report.thread(whole(wait, "tid"));
        close("futex", state(row, "futex"), number(row, "wall_s"), 0.001, 0.001);
        let on_lock = list(row, "waits").iter().find(|seen| seen["object"] == wait["lock"]);
        let on_lock = on_lock.unwrap_or_else(|| panic!("no wait for {}: {row}", wait["lock"]));
        assert_eq!(on_lock["open"], true, "it still waits: {on_lock}");
        let owner = list(on_lock, "owners").first().unwrap_or_else(|| panic!("no owner: {on_lock}"));
        assert_eq!(owner["tid"], wait["owner"], "owner of {}: {on_lock}", wait["lock"]);
    }
}

#[test]
fn a_sleeping_and_a_polling_program_are_there_with_their_states() {
    let (_sleeper, sleeping) = started("sleep --period 60s --duration 60s");
    let (_poller, polling) = started("poll-wait --call epoll --period 60s --duration 60s");
    let pids = [sleeping["pid"].to_string(), polling["pid"].to_string()];
    let traced = Tracer::record(&["--pid", &pids[0], "--pid", &pids[1], "--duration", "400ms"]).go().expect_code(0);
    let report = traced.report();
    let row = report.thread(whole(&sleeping, "pid"));
    close("timer", state(row, "timer"), number(row, "wall_s"), 0.001, 0.001);
    let row = report.thread(whole(&list(&polling, "threads")[0], "tid"));
    close("poll", state(row, "poll"), number(row, "wall_s"), 0.001, 0.001);
}

#[test]
fn threads_started_after_attaching_are_there() {
    let (_program, truth) = started("fork-storm --threads-storm --count 100000 --rate 200/s");
    let pid = truth["pid"].to_string();
    let report = Tracer::record(&["--pid", &pid, "--duration", "500ms"]).go().expect_code(0).report();
    let born = report.threads().filter(|t| t["pid"] == truth["pid"] && t["tid"] != truth["pid"]).count();
    assert!(born >= 10, "{born} new threads only");
}

#[test]
fn recording_ends_when_the_target_is_gone() {
    let (_program, truth) = started("sleep --duration 1500ms");
    let pid = truth["pid"].to_string();
    let traced = Tracer::record(&["--pid", &pid, "--duration", "30s"]).go().expect_code(0);
    assert!(traced.ended.elapsed < Duration::from_secs(8), "ended after {:?}", traced.ended.elapsed);
    let report = traced.report();
    assert_eq!(report.0["window"]["ended_by"], "target-ended", "{}", report.0["window"]);
    assert!(report.thread(whole(&truth, "pid"))["end_unix_ns"].is_u64(), "its end was seen");
}

#[test]
fn recording_all_agrees_with_the_busiest_processes_own_accounts() {
    let (tracer, folder) = Tracer::record(&["--all", "--duration", "5s"]).start();
    until("the tracer records", PATIENCE, || tracer.complained().contains("recording"));
    let own_pid = tracer.pid();
    let stolen_before_s = stolen_s();
    let programs: Vec<Background> = [1000, 1250, 1500, 1750, 2000]
        .iter()
        .map(|ms| Background::command(&workload(&format!("cpu --threads 1 --duration {ms}ms"))))
        .collect();
    let truths: Vec<Value> = programs.into_iter().map(|mut program| program.next_json()).collect();
    let stolen_s = stolen_s() - stolen_before_s;
    let ended = tracer.end_within(Duration::from_secs(40));
    assert_eq!(ended.code, Some(0), "{ended}");
    let report = Report::read(&folder.path().join("report.json"), &ended);
    report.assert_sums();
    for truth in &truths {
        let row = report.process(whole(truth, "pid"));
        // What a process that is hidden from tracing leaves without a beginning is said to be unknown, not guessed.
        let threads = report.threads().filter(|thread| thread["pid"] == truth["pid"]);
        let unknown: f64 = threads.map(|thread| state(thread, "unknown")).sum();
        let on_cpu = number(row, "on_cpu_s");
        let what = format!("CPU of {row}, unknown {unknown}, stolen from all {stolen_s}");
        close(&what, on_cpu, number(truth, "cpu_s"), 0.02, 0.005 + unknown + stolen_s);
    }
    assert!(report.threads().all(|thread| thread["pid"] != own_pid), "the tracer itself is left out");
}

/// A link with a random name to the workload.
struct Named {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
    name: String,
}

impl Named {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let name: String = (0..10).map(|_| fastrand::lowercase()).collect();
        let path = folder.path().join(&name);
        std::os::unix::fs::symlink(workload_bin(), &path).expect("a link can be made");
        Named { _folder: folder, path, name }
    }

    fn start(&self, arguments: &str) -> (Background, Value) {
        let mut line = workload(&format!("{arguments} --announce"));
        line[0] = self.path.clone().into_os_string();
        let mut background = Background::command(&line);
        let truth = background.next_json();
        (background, truth)
    }
}

#[test]
fn recording_by_name_finds_programs_that_run_and_programs_that_come() {
    let named = Named::new();
    let (_first, early) = named.start("sleep --period 20ms --duration 30s");
    let (_other, other) = started("sleep --period 20ms --duration 30s");
    let (tracer, folder) = Tracer::record(&["--comm", &named.name, "--duration", "2s"]).start();
    until("the tracer records", PATIENCE, || tracer.complained().contains("recording"));
    let (_second, late) = named.start("sleep --period 20ms --duration 30s");
    let ended = tracer.end_within(PATIENCE);
    assert_eq!(ended.code, Some(0), "{ended}");
    let report = Report::read(&folder.path().join("report.json"), &ended);
    for truth in [&early, &late] {
        let row = report.thread(whole(truth, "pid"));
        assert_eq!(text(row, "name"), named.name, "{row}");
        assert!(state(row, "timer") > 0.3, "its sleeps were seen: {row}");
    }
    assert!(report.threads().all(|thread| thread["pid"] != other["pid"]), "another program is not traced");
}

#[test]
fn recording_a_cgroup_finds_who_is_in_it_and_who_comes() {
    let cgroup = Cgroup::new();
    let (inside, early) = started("sleep --period 20ms --duration 30s");
    cgroup.add(inside.pid());
    let folder = cgroup.folder().display().to_string();
    let (tracer, files) = Tracer::record(&["--cgroup", &folder, "--duration", "2s"]).start();
    until("the tracer records", PATIENCE, || tracer.complained().contains("recording"));
    let (_late, late) = started(&format!("cgroup-move --to {folder} --period 600ms"));
    let ended = tracer.end_within(PATIENCE);
    drop(inside);
    assert_eq!(ended.code, Some(0), "{ended}");
    let report = Report::read(&files.path().join("report.json"), &ended);
    let row = report.thread(whole(&early, "pid"));
    assert!(state(row, "timer") > 0.3, "its sleeps were seen: {row}");
    let row = report.thread(whole(&late, "pid"));
    assert!(state(row, "on_cpu") > 0.2, "its work after the move was seen: {row}");
}

#[test]
fn recording_a_python_program_sees_its_threads() {
    let mut line = python("gil_fight.py", "20");
    line.insert(1, "-u".into());
    let program = Background::command(&line);
    let pid = u64::from(program.pid());
    until("both threads run", PATIENCE, || {
        std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() == 3)
    });
    let report = Tracer::record(&["--pid", &pid.to_string(), "--duration", "600ms"]).go().expect_code(0).report();
    let threads: Vec<&Value> = report.threads().filter(|thread| thread["pid"] == pid).collect();
    assert_eq!(threads.len(), 3, "threads: {threads:?}");
    let on_cpu: f64 = threads.iter().map(|thread| state(thread, "on_cpu")).sum();
    let window = number(&report.0["window"], "duration_s");
    assert!(on_cpu <= 1.1 * window, "one interpreter lock, but {on_cpu} s on CPU in {window} s");
    assert!(on_cpu >= 0.1 * window, "they computed, but {on_cpu} s on CPU in {window} s");
    assert!(report.findings("user-lock-contention").is_empty(), "{}", report.0["findings"]);
}

#[test]
fn record_keeps_its_capture_unless_told_not_to() {
    let (_program, truth) = started("sleep --period 20ms --duration 30s");
    let pid = truth["pid"].to_string();
    let target = ["--pid", pid.as_str(), "--duration", "200ms"];
    let traced = Tracer::record(&target).bare().go().expect_code(0);
    let kept = traced.folder.path().join("tracer.trc");
    assert!(kept.is_file(), "tracer.trc is kept; {}", traced.ended);
    assert!(
        traced.ended.stdout.contains("futex") || traced.ended.stdout.contains("timer"),
        "the report is on stdout; {}",
        traced.ended
    );
    let traced = Tracer::record(&target).bare().option("--no-capture").go().expect_code(0);
    let left: Vec<_> =
        std::fs::read_dir(traced.folder.path()).expect("the folder").flatten().map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "nothing is left behind: {left:?}");
}
