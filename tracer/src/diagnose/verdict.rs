//! The answer in one word. A finding stands even where much was missed; the words "healthy" and "cpu-bound" need that nearly
//! everything was seen.

use super::sched_share;
use crate::model::report::{Report, Row, Severity, Verdict};
use crate::model::units::percent;

/// Under this share of events seen nothing is called healthy.
const LEAST_COVERAGE: f64 = 0.9;
/// Over this share of the threads' time unknown nothing is.
const MOST_UNKNOWN: f64 = 0.1;

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
