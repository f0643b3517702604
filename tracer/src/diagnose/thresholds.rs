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
    fn severity_follows_the_share_of_the_wall_time() {
        assert_eq!(severity(2.5, 10.0), Severity::Critical);
        assert_eq!(severity(0.5, 10.0), Severity::Warning);
        assert_eq!(severity(0.4, 10.0), Severity::Info);
        assert_eq!(speedup_bound(5.0, 10.0), Some(2.0));
        assert_eq!(speedup_bound(10.0, 10.0), None);
    }
}
