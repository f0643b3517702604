//! Why a thread that is ready has no CPU: a quota, its siblings, others, its priority. This machine is shared: whatever else runs on
//! it makes threads wait as well, so what a workload does not cause itself is held against the kernel's account of its waits.

use serde_json::Value;

use crate::harness::{
    Background, Report, Traced, Tracer, close, host::CpuCgroup, list, number, report::state, text, trace, whole,
    workload,
};

/// The only finding of a class.
#[track_caller]
fn finding<'a>(report: &'a Report, class: &str) -> &'a Value {
    let found = report.findings(class);
    assert_eq!(found.len(), 1, "findings of {class}: {} {}", report.0["rules"], report.0["findings"]);
    found[0]
}

/// The thread of a workload that works, as the workload and as the report tell of it.
fn worker(traced: &Traced) -> (Value, Value) {
    let (truth, report) = (traced.truth(), traced.report());
    let own = list(&truth, "threads")[0].clone();
    let row = report.thread(whole(&own, "tid")).clone();
    (own, row)
}

/// Runs a healthy twin until the machine leaves it alone, and gives that run.
fn undisturbed(run: impl Fn() -> Traced) -> Option<Traced> {
    let quiet = |traced: &Traced| {
        let truth = traced.truth();
        let disturbed = |own: &Value| number(own, "run_delay_ns") / 1e9 > 0.04 * number(own, "wall_s");
        !list(&truth, "threads").iter().any(disturbed)
    };
    let found = (0..5).map(|_| run()).find(quiet);
    if found.is_none() {
        eprintln!("not tested: others on this machine made the workload wait in each of five runs");
    }
    found
}

/// The last CPU that this process may use.
pub fn a_cpu() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a list of CPUs");
    list.trim().rsplit([',', '-']).next().and_then(|cpu| cpu.parse().ok()).expect("a CPU")
}

/// A program that is not traced and burns this CPU.
pub fn noise(cpu: usize) -> Background {
    let arguments = format!("--announce crowded --cpu {cpu} --duration 30s");
    let mut noise = Background::command(&workload(&arguments));
    noise.next_json();
    noise
}

/// A workload that uses up its cgroup's quota, which is little, since the machine's own load may keep it from using up half of a CPU.
fn over_its_quota() -> Option<(CpuCgroup, Traced)> {
    let limited = CpuCgroup::new()?;
    limited.set_quota(0.1);
    let inner = limited.child();
    let traced = trace(&format!("quota --pinned --duration 3s --cgroup {}", inner.display()));
    let kernel_s = limited.throttled_s();
    assert!(kernel_s > 0.5, "the quota was used up: the kernel counts {kernel_s} s");
    Some((limited, traced))
}

#[test]
fn a_quota_that_is_used_up_is_blamed_with_its_cgroup() {
    let Some((limited, traced)) = over_its_quota() else { return };
    let (own, row) = worker(&traced);
    let report = traced.report();
    let finding = finding(&report, "cpu-quota-throttling");
    assert_eq!(text(&finding["culprit"], "cgroup"), limited.path(), "the ancestor that has the quota: {finding}");
    assert_eq!(finding["victims"][0]["tid"], own["tid"], "{finding}");
    assert_eq!(report.rule("cpu-oversubscription"), "silent", "{}", report.0["rules"]);
    let (throttled, ready) = (state(&row, "throttled"), state(&row, "runnable"));
    assert!(throttled > ready, "the quota held it back, not others: {row}");
    report.assert_states();
}

#[test]
fn time_that_a_quota_takes_is_throttled_and_the_cgroup_is_blamed() {
    let Some((limited, traced)) = over_its_quota() else { return };
    let (own, row) = worker(&traced);
    let report = traced.report();
    let kernel_s = limited.throttled_s();
    close("throttled, against the cgroup's own count", state(&row, "throttled"), kernel_s, 0.10, 0.005);
    let off_s = state(&row, "throttled") + state(&row, "runnable");
    let unseen_s = row["unknown_detail"]["unseen-switch"].as_f64().unwrap_or(0.0);
    close("throttled and run queue together", off_s, number(&own, "run_delay_ns") / 1e9, 0.03, 0.02 + unseen_s);
    let finding = finding(&report, "cpu-quota-throttling");
    assert_eq!(text(&finding["culprit"], "cgroup"), limited.path(), "the ancestor that has the quota: {finding}");
    assert_eq!(finding["victims"][0]["tid"], own["tid"], "{finding}");
    assert_eq!(report.rule("cpu-oversubscription"), "silent", "{}", report.0["rules"]);
    let quota = &report.0["cpu"]["quotas"][0];
    close("the quota", number(quota, "cpus"), 0.1, 0.001, 0.0);
    close("the counter in the report", number(quota, "throttled_s"), kernel_s, 0.10, 0.1);
    report.assert_states();
}

#[test]
fn a_quota_that_is_not_reached_is_silent() {
    let Some(limited) = CpuCgroup::new() else { return };
    limited.set_quota(0.5);
    let inner = limited.child();
    let traced = trace(&format!("quota --busy 0.1 --duration 2s --cgroup {}", inner.display()));
    let (_, row) = worker(&traced);
    let report = traced.report();
    assert_eq!(state(&row, "throttled"), 0.0, "{row}");
    assert_eq!(report.rule("cpu-quota-throttling"), "silent", "{}", report.0["rules"]);
}

#[test]
fn more_spinning_threads_than_cpus_are_too_many() {
    let traced = trace("oversub --threads 8 --cpus 2 --duration 4s");
    let (truth, report) = (traced.truth(), traced.report());
    let finding = finding(&report, "cpu-oversubscription");
    assert_eq!(finding["culprit"]["pid"], truth["pid"], "{finding}");
    assert!(text(finding, "summary").contains("8 of them wanted a CPU, on 2 CPUs"), "{finding}");
    assert_eq!(report.rule("cpu-quota-throttling"), "silent", "{}", report.0["rules"]);
    for own in list(&truth, "threads") {
        let row = report.thread(whole(own, "tid"));
        let queued = &row["queued"];
        let parts = ["siblings_s", "others_s", "idle_s", "unknown_s"];
        let sum: f64 = parts.iter().map(|part| number(queued, part)).sum();
        close("the parts of the time in the queue", sum, state(row, "runnable"), 0.0, 0.05);
    }
    report.assert_states();
}

#[test]
fn as_many_spinning_threads_as_cpus_are_not_too_many() {
    let run = || trace("oversub --threads 2 --cpus 2 --duration 2s");
    assert_eq!(run().report().rule("cpu-oversubscription"), "silent", "whatever else runs here");
    let Some(traced) = undisturbed(run) else { return };
    let report = traced.report();
    for class in ["cpu-oversubscription", "run-queue-wait", "low-priority", "cpu-quota-throttling"] {
        assert_eq!(report.rule(class), "silent", "{class}: {}", report.0["rules"]);
    }
}

#[test]
fn another_program_on_the_same_cpu_is_named() {
    let cpu = a_cpu();
    let noise = noise(cpu);
    let traced = trace(&format!("crowded --cpu {cpu} --duration 2s"));
    let report = traced.report();
    let (own, row) = worker(&traced);
    let finding = finding(&report, "run-queue-wait");
    assert_eq!(finding["victims"][0]["tid"], own["tid"], "{finding}");
    let queued = &row["queued"];
    // The machine's other load takes its turns too; this one always wants the CPU.
    let behind = list(queued, "behind").iter().filter(|behind| behind["pid"] == noise.pid());
    let behind_s: f64 = behind.map(|behind| number(behind, "total_s")).sum();
    let named_s = number(queued, "others_s") - number(queued, "unnamed_s");
    assert!(named_s >= 0.7 * number(queued, "others_s"), "most of it has a name: {queued}");
    assert!(behind_s >= 0.1 * number(queued, "others_s"), "the noise is process {}: {queued}", noise.pid());
    close("the run queue", state(&row, "runnable"), number(&own, "run_delay_ns") / 1e9, 0.05, 0.03);
    assert_eq!(report.rule("cpu-oversubscription"), "silent", "{}", report.0["rules"]);
    assert_eq!(report.rule("low-priority"), "silent", "{}", report.0["rules"]);
}

#[test]
fn a_lowered_priority_is_the_cause_beside_a_normal_one() {
    let cpu = a_cpu();
    let noise = noise(cpu);
    let traced = trace(&format!("crowded --cpu {cpu} --nice 19 --duration 3s"));
    let report = traced.report();
    let (own, row) = worker(&traced);
    let finding = finding(&report, "low-priority");
    assert_eq!((&row["nice"], &finding["victims"][0]["tid"]), (&Value::from(19), &own["tid"]), "{finding}");
    let behind = list(&row["queued"], "behind");
    let found = behind.iter().find(|behind| behind["pid"] == noise.pid());
    assert!(found.is_some_and(|behind| behind["nice"] == 0), "the noise is process {}: {row}", noise.pid());
    assert_eq!(report.rule("run-queue-wait"), "silent", "{}", report.0["rules"]);
}

#[test]
fn a_thread_that_has_its_cpu_alone_waits_for_none() {
    let cpu = a_cpu();
    let run = || Tracer::run(workload(&format!("crowded --cpu {cpu} --mostly-idle --duration 1s"))).go().expect_code(0);
    let Some(traced) = undisturbed(run) else { return };
    let report = traced.report();
    for class in ["cpu-oversubscription", "run-queue-wait", "low-priority", "cpu-quota-throttling"] {
        assert_eq!(report.rule(class), "silent", "{class}: {}", report.0["rules"]);
    }
}
