//! What a finding says is lost is what removing its cause saves: the same work is run with and without the bottleneck, in turn.

use crate::harness::{self, Tracer, number, workload};

/// Pairs of runs. Medians are compared, so that a burst of someone else's load in one of them does not count.
const PAIRS: usize = 5;

/// What one bottleneck cost: seconds lost as the finding has it, and seconds saved without it.
struct Measured {
    lost_s: f64,
    saved_s: f64,
    /// Of the runs without the bottleneck: greatest less smallest. What is smaller cannot be told.
    noise_s: f64,
    said: String,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds that the work took, and those that were stolen meanwhile or waited for by others' load are in it: hence pairs.
fn measure(class: &str, arguments: &str) -> Measured {
    let run = |extra: &str| {
        let command = workload(&format!("items {arguments} {extra}"));
        Tracer::run(command).options(&["--family", "cpu"]).go().expect_code(0)
    };
    let (mut lost, mut sick, mut fixed, mut said) = (Vec::new(), Vec::new(), Vec::new(), String::new());
    for _ in 0..PAIRS {
        let traced = run("");
        let report = traced.report();
        let found = report.findings(class);
        assert!(!found.is_empty(), "{arguments}: no {class}: {}", report.0);
        lost.push(number(found[0], "lost_s"));
        sick.push(number(&traced.truth(), "took_s"));
        said = found[0]["summary"].to_string();
        let traced = run("--fixed");
        let report = traced.report();
        assert!(report.findings(class).is_empty(), "{arguments} --fixed: {}", report.0["findings"]);
        fixed.push(number(&traced.truth(), "took_s"));
    }
    let most = fixed.iter().copied().fold(0.0, f64::max);
    let least = fixed.iter().copied().fold(f64::INFINITY, f64::min);
    let measured =
        Measured { lost_s: median(lost), saved_s: median(sick) - median(fixed), noise_s: most - least, said };
    println!(
        "{class}: lost {:.3} s, saved {:.3} s, noise {:.3} s",
        measured.lost_s, measured.saved_s, measured.noise_s
    );
    measured
}

#[track_caller]
fn assert_close(class: &str, measured: &Measured) {
    let Measured { lost_s, saved_s, noise_s, said } = measured;
    assert!(*saved_s <= 1.05 * lost_s + noise_s, "{class}: saved {saved_s} s, lost only {lost_s} s: {said}");
    assert!((lost_s - saved_s).abs() <= 0.2 * lost_s + noise_s, "{class}: saved {saved_s} s, lost {lost_s} s: {said}");
}

#[test]
fn a_mutex_of_two_threads_costs_what_two_mutexes_save() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("needs two CPUs for two threads that would not wait for each other");
        return;
    }
    assert_close("user-lock-contention", &measure("user-lock-contention", "mutex --items 400"));
}

#[test]
fn a_sync_of_each_item_costs_what_leaving_it_out_saves() {
    let folder = harness::workspace().join("target");
    let arguments = format!("fsync --items 8000 --loops 50000 --folder {}", folder.display());
    assert_close("fsync-stall", &measure("fsync-stall", &arguments));
}

#[test]
fn a_sleeping_producer_costs_what_its_sleep_does() {
    assert_close("input-starvation", &measure("input-starvation", "producer --items 300 --loops 500000"));
}
