//! The answer in one word. A finding stands even where much was missed; the words "healthy" and "cpu-bound" need that nearly
//! everything was seen.

use super::sched_share;
use crate::model::report::{Report, Row, Severity, Verdict};
use crate::model::units::{count, duration, percent};

/// Under this share of events seen nothing is called healthy.
const LEAST_COVERAGE: f64 = 0.9;
/// Over this share of the threads' time unknown nothing is.
const MOST_UNKNOWN: f64 = 0.1;

/// From this length and share of the wall time on, a lock that nobody got is worth a word.
const STUCK_S: f64 = 0.5;
const STUCK_SHARE: f64 = 0.05;

/// Decides from findings and coverage.
pub fn decide(report: &Report) -> (Verdict, String) {
    if let Some(first) = report.findings.iter().find(|finding| finding.severity <= Severity::Warning) {
        let mut reason = first.summary.clone();
        if let Some(doubt) = doubt(report) {
            reason.push_str("; but ");
            reason.push_str(&doubt);
        }
        return (Verdict::Bottleneck, reason);
    }
    if let Some(doubt) = doubt(report) {
        return (Verdict::Inconclusive, doubt);
    }
    if let Some(first) = report.findings.iter().find(|finding| finding.class == "cpu-bound") {
        return (Verdict::CpuBound, first.summary.clone());
    }
    if let Some(stuck) = stuck(report) {
        return (Verdict::Inconclusive, stuck);
    }
    let classes: Vec<&str> = report.rules.iter().map(|rule| rule.class.as_str()).collect();
    (Verdict::Healthy, format!("nothing that this version looks for limits the run ({})", classes.join(", ")))
}

/// Why "nothing found" would not mean "nothing there".
fn doubt(report: &Report) -> Option<String> {
    if report.threads.is_empty() || report.window.duration_s <= 0.0 {
        return Some(match &report.window.clipped_reason {
            Some(reason) => format!("no thread's time was recorded: {reason}"),
            None => "no thread's time was recorded: no traced thread ran or waited in the window".to_owned(),
        });
    }
    match sched_share(report) {
        None => return Some("the recording does not say how much was lost".to_owned()),
        Some(share) if share < LEAST_COVERAGE => {
            return Some(format!(
                "{} of the scheduling events are missing; use larger rings (--ring-size) or trace fewer threads",
                percent(1.0 - share)
            ));
        }
        Some(_) => {}
    }
    let unknown = unknown_share(report);
    (unknown > MOST_UNKNOWN).then(|| format!("{} of the threads' time is in an unknown state", percent(unknown)))
}

/// A lock that somebody held and waited for, and that nobody got: no rule of this version judges it, but it is not healthy.
fn stuck(report: &Report) -> Option<String> {
    let wall_s = report.window.duration_s;
    let long = |wait_s: f64| wait_s >= STUCK_S && wait_s >= STUCK_SHARE * wall_s;
    let futexes = report.locks.iter().flat_map(|locks| &locks.futexes);
    let futex =
        futexes.into_iter().find(|futex| futex.completed == 0 && !futex.owners.is_empty() && long(futex.max_s))?;
    Some(format!(
        "{} of process {} waited up to {} for the {} at {} and none got it: it may be a deadlock, which no rule of this version judges",
        count(futex.threads, "thread"),
        futex.pid,
        duration(futex.max_s),
        futex.kind.as_deref().unwrap_or("lock"),
        futex.address
    ))
}

fn unknown_share(report: &Report) -> f64 {
    let (mut unknown_s, mut wall_s) = (0.0, 0.0);
    for row in &report.threads {
        let (states, wall) = match row {
            Row::Thread(thread) => (&thread.states, thread.wall_s),
            Row::Others(others) => (&others.states, others.wall_s),
        };
        unknown_s += states.get("unknown").copied().unwrap_or(0.0);
        wall_s += wall;
    }
    if wall_s > 0.0 { unknown_s / wall_s } else { 0.0 }
}
