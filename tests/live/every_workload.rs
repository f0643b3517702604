//! What holds for every workload: the critical path sums to the wall time and is known, and the verdict is never "inconclusive". And
//! the quiet ones, of which nothing may be said, ten times of ten.

use crate::harness::{Tracer, workload};

/// Every role that ends by itself, with little to do.
const ROLES: [&str; 56] = [
    "mutex --duration 600ms",
    "mutex --healthy --duration 400ms",
    "mutex --kind robust --duration 400ms",
    "mutex --kind pi --duration 400ms",
    "rwlock --duration 400ms",
    "condvar --duration 400ms",
    "stdio --duration 400ms",
    "arena --duration 400ms",
    "semaphore --duration 400ms",
    "join --duration 400ms",
    "pingpong --count 20000",
    "pingpong --threads --pinned --count 20000",
    "cpu --duration 400ms",
    "sleep --duration 400ms",
    "timer-beside-busy --duration 400ms",
    "fork-storm --count 100",
    "fork-storm --no-exec --count 100",
    "fork-storm --threads-storm --count 100",
    "idle-pool --duration 400ms",
    "items mutex --items 40",
    "items fsync --items 40",
    "items producer --items 40",
    "pipe-queue --duration 400ms",
    "never-switch --duration 400ms",
    "rename --count 3",
    "exec-thread",
    "socket --duration 400ms",
    "network --answers 6",
    "file-wait --duration 400ms",
    "child-wait --duration 400ms",
    "poll-wait --duration 400ms",
    "poll-wait --call epoll --duration 400ms",
    "stopped --duration 400ms",
    "daemonise",
    "mmap-lock --duration 400ms",
    "mmap-lock --healthy --duration 400ms",
    "pipe-lock --duration 400ms",
    "pipe-lock --healthy --duration 400ms",
    "oversub --threads 8 --cpus 2 --duration 400ms",
    "oversub --threads 2 --cpus 2 --duration 400ms",
    "touch --mib 64",
    "touch --mib 32 --passes 4 --churn",
    "touch --mib 32 --passes 4 --healthy --compute 20ms",
    "ipc --messages 6",
    "ipc --messages 6 --healthy",
    "steps --steps 20",
    "spin-wait --duration 400ms",
    "straggler --steps 10",
    "spawn-storm --items 60",
    "numa --mib 32 --duration 400ms",
    "fragments",
    "pin --batches 5",
    "pin --batches 5 --reuse",
    "mappings --count 200",
    "reads --mib 8 --folder /var/tmp",
    "reads --mib 8 --in-order --folder /var/tmp",
];

#[test]
fn the_critical_path_of_each_workload_sums_to_its_wall_time_and_the_verdict_is_not_inconclusive() {
    let mut wrong = Vec::new();
    for role in ROLES {
        let traced = Tracer::run(workload(role)).options(&["--family", "cpu,lock"]).go().expect_code(0);
        let report = traced.report();
        report.assert_path();
        assert!(report.0["critical_path"]["total_s"].as_f64() > Some(0.0), "{role}: {}", report.0["critical_path"]);
        if report.0["verdict"] == "inconclusive" {
            wrong.push(format!("{role}: {}", report.0["verdict_reason"]));
        }
    }
    assert!(wrong.is_empty(), "inconclusive:\n{}", wrong.join("\n"));
}

/// Each time, twice as often as other silence is looked for: the verdict is healthy, unless others on this machine make it wait for a CPU,
/// which is then said of nothing else.
#[track_caller]
fn assert_healthy(role: &str) {
    for time in 1..=2 * crate::healthy::repeats() {
        let traced = Tracer::run(workload(role)).options(&["--family", "cpu,lock"]).go().expect_code(0);
        let report = traced.report().0;
        let classes: Vec<&str> = report["findings"]
            .as_array()
            .map_or(Vec::new(), |findings| findings.iter().filter_map(|finding| finding["class"].as_str()).collect());
        let by_others = ["run-queue-wait", "cpu-steal", "irq-load"];
        let ours: Vec<&&str> = classes.iter().filter(|class| !by_others.contains(class)).collect();
        assert!(ours.is_empty(), "{role}, run {time}: {}", report["findings"]);
        if classes.is_empty() {
            assert_eq!(report["verdict"], "healthy", "{role}, run {time}: {}", report["verdict_reason"]);
        }
    }
}

#[test]
fn idle_workers_on_a_condition_are_healthy() {
    assert_healthy("idle-pool --threads 32 --duration 600ms");
}

#[test]
fn an_event_loop_with_ten_requests_a_second_is_healthy() {
    assert_healthy("poll-wait --call epoll --period 100ms --duration 600ms");
}

#[test]
fn a_periodic_sleeper_is_healthy() {
    assert_healthy("sleep --period 10ms --duration 600ms");
}
