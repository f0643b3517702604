//! When a loss is worth reporting and how grave it is: one place for all rules.

use crate::model::report::Severity;

/// Share of the wall time from which a loss is reported.
pub const REPORTED_SHARE: f64 = 0.05;
/// Seconds from which it is.
const REPORTED_S: f64 = 0.5;
/// Number of events from which it is, unless one of them was long.
const REPORTED_EVENTS: u64 = 20;
/// What is long, at least.
const LONG_S: f64 = 1.0;
/// Share of the wall time from which a loss is critical.
const CRITICAL_SHARE: f64 = 0.25;

/// Whether a loss is reported; else it was "observed, not limiting".
pub fn is_reported(lost_s: f64, wall_s: f64, events: u64, longest_s: f64) -> bool {
    let enough = wall_s > 0.0 && lost_s >= REPORTED_SHARE * wall_s && lost_s >= REPORTED_S;
    let weighty = events >= REPORTED_EVENTS || longest_s >= LONG_S.max(REPORTED_SHARE * wall_s);
    enough && weighty
}

/// How grave a loss is.
pub fn severity(lost_s: f64, wall_s: f64) -> Severity {
    if wall_s > 0.0 && lost_s >= CRITICAL_SHARE * wall_s {
        Severity::Critical
    } else if wall_s > 0.0 && lost_s >= REPORTED_SHARE * wall_s {
        Severity::Warning
    } else {
        Severity::Info
    }
}

/// The 95 % point of the normal distribution.
const SURE: f64 = 1.645;

/// What an estimate from samples can be at most, with 95 % confidence: what removing it saves may be that much, and `lost_s` is a bound.
/// Samples are events of their own kind of a Poisson process at worst; its square root has a standard deviation of a half.
pub fn at_most_s(estimate_s: f64, samples: u64) -> f64 {
    if samples == 0 {
        return estimate_s;
    }
    let samples = samples as f64;
    estimate_s * (samples.sqrt() + SURE / 2.0).powi(2) / samples
}

/// What was lost at most, of which a part is known from samples only. Not more than the run.
pub fn bound_s(lost_s: f64, (sampled_s, samples): (f64, u64), wall_s: f64) -> f64 {
    (lost_s - sampled_s + at_most_s(sampled_s, samples)).min(wall_s.max(lost_s))
}

/// How many times as fast the run can become at most (Amdahl); none where that has no bound.
pub fn speedup_bound(lost_s: f64, wall_s: f64) -> Option<f64> {
    (lost_s > 0.0 && lost_s < wall_s).then(|| wall_s / (wall_s - lost_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_reported_from_a_share_a_length_and_a_number_on() {
        assert!(is_reported(0.5, 10.0, 20, 0.1), "5 %, 0.5 s, 20 events");
        assert!(!is_reported(0.49, 10.0, 20, 0.1), "under 5 %");
        assert!(!is_reported(0.4, 1.0, 20, 0.1), "under 0.5 s");
        assert!(!is_reported(0.9, 10.0, 19, 0.9), "few and short events");
        assert!(is_reported(1.0, 10.0, 1, 1.0), "one long event");
        assert!(!is_reported(3.0, 100.0, 1, 3.0), "long, but under 5 %");
        assert!(!is_reported(1.0, 0.0, 100, 1.0), "no wall time");
    }

    #[test]
    fn what_few_samples_estimate_may_be_much_more_and_what_many_do_hardly() {
        assert_eq!(at_most_s(0.5, 0), 0.5);
        let factor = |samples| at_most_s(1.0, samples);
        assert!((factor(1) - 3.32).abs() < 0.01, "{}", factor(1));
        assert!((factor(50) - 1.25).abs() < 0.01, "{}", factor(50));
        assert!((factor(10_000) - 1.016).abs() < 0.001, "{}", factor(10_000));
        assert_eq!(bound_s(3.0, (0.0, 0), 10.0), 3.0, "nothing of it is from samples");
        assert!((bound_s(3.0, (1.0, 50), 10.0) - 3.25).abs() < 0.01, "a third is");
        assert_eq!(bound_s(3.0, (3.0, 2), 4.0), 4.0, "not more than the run");
    }

    #[test]
    fn severity_follows_the_share_of_the_wall_time() {
        assert_eq!(severity(2.5, 10.0), Severity::Critical);
        assert_eq!(severity(0.5, 10.0), Severity::Warning);
        assert_eq!(severity(0.4, 10.0), Severity::Info);
        assert_eq!(speedup_bound(5.0, 10.0), Some(2.0));
        assert_eq!(speedup_bound(10.0, 10.0), None);
    }
}
