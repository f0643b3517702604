//! The answer in one word. A finding stands even where much was missed; the words "healthy" and "cpu-bound" need that nearly
//! everything was seen.

use super::{parties, sched_share, unknown_time};
use crate::model::report::{Futex, Report, Row, RuleStatus, Severity, Verdict};
use crate::model::units::{count, duration, percent};

/// Under this share of events seen nothing is called healthy.
const LEAST_COVERAGE: f64 = 0.9;
/// Over this share of the threads' time unknown nothing is.
const MOST_UNKNOWN: f64 = 0.1;

/// From this length and share of the wall time on, a lock that nobody got is worth a word.
const STUCK_S: f64 = 0.5;
const STUCK_SHARE: f64 = 0.05;

/// From this share of the time in which threads did not wait, and of the wall time, waiting for a CPU is worth a word.
const QUEUED_SHARE: f64 = 0.2;
const QUEUED_WALL_SHARE: f64 = 0.05;

/// Decides from findings and coverage.
pub fn decide(report: &Report) -> (Verdict, String) {
    let (verdict, mut reason) = judge(report);
    let window = &report.window;
    let recorded = !report.threads.is_empty() && window.duration_s > 0.0;
    if recorded && !window.complete {
        let cut = if window.ended_by.is_some() { "the tracer failed" } else { "the recording was cut" };
        reason.push_str(&format!("; this is about the {} until {cut}", duration(window.duration_s)));
    }
    (verdict, reason)
}

fn judge(report: &Report) -> (Verdict, String) {
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
    let looked = report.rules.iter().filter(|rule| rule.status != RuleStatus::CouldNotRun);
    let classes: Vec<&str> = looked.map(|rule| rule.class.as_str()).collect();
    let mut reason = format!("nothing that was looked for limits the run ({})", classes.join(", "));
    let blind = report.rules.len() - classes.len();
    if blind > 0 {
        reason.push_str(&format!("; {} could not look", count(blind as u64, "rule")));
    }
    if let Some(queued) = queued(report) {
        reason.push_str("; ");
        reason.push_str(&queued);
    }
    (Verdict::Healthy, reason)
}

/// Much time spent ready without a CPU that no rule made a finding of.
fn queued(report: &Report) -> Option<String> {
    let (on_cpu_s, runnable_s) = (total(report, "on_cpu"), total(report, "runnable"));
    let wanted_s = on_cpu_s + runnable_s;
    let much = runnable_s >= QUEUED_SHARE * wanted_s && runnable_s >= QUEUED_WALL_SHARE * report.window.duration_s;
    (much && runnable_s > 0.0).then(|| {
        format!(
            "threads were ready but without a CPU for {} of the {} in which they did not wait",
            percent(runnable_s / wanted_s),
            duration(wanted_s)
        )
    })
}

/// Time of all threads in a state.
fn total(report: &Report, state: &str) -> f64 {
    let of = |states: &std::collections::BTreeMap<String, f64>| states.get(state).copied().unwrap_or(0.0);
    report
        .threads
        .iter()
        .map(|row| match row {
            Row::Thread(thread) => of(&thread.states),
            Row::Others(others) => of(&others.states),
        })
        .sum()
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
                "{} of the scheduling events are missing{}; use larger rings (--ring-size) or trace fewer threads",
                percent(1.0 - share),
                unknown_time::lossy_cpus(report)
            ));
        }
        Some(_) => {}
    }
    let wall_s: f64 = report
        .threads
        .iter()
        .map(|row| match row {
            Row::Thread(thread) => thread.wall_s,
            Row::Others(others) => others.wall_s,
        })
        .sum();
    let unknown_s = total(report, "unknown") - asleep_throughout(report);
    (wall_s > 0.0 && unknown_s / wall_s > MOST_UNKNOWN).then(|| {
        format!(
            "{} of the threads' time is in an unknown state, {}",
            percent(unknown_s / wall_s),
            unknown_time::explain(report, unknown_s)
        )
    })
}

/// On a whole host, unknown time of threads that never ran in the window and whose reason to sleep could not be read: nobody knows
/// what they wait for, but nothing that they did was missed. Of a chosen target that would be too little to call it healthy.
fn asleep_throughout(report: &Report) -> f64 {
    if report.target.all != Some(true) {
        return 0.0;
    }
    report
        .threads
        .iter()
        .filter_map(|row| if let Row::Thread(thread) = row { Some(thread) } else { None })
        .filter(|thread| thread.switches == 0 && thread.states.get("on_cpu").copied().unwrap_or(0.0) == 0.0)
        .filter_map(|thread| thread.unknown_detail.get("unread-reason"))
        .sum()
}

/// A lock that somebody held and waited for, and that nobody got, though no circle is behind it (rule `deadlock`): that is no
/// contention, and not healthy either.
fn stuck(report: &Report) -> Option<String> {
    let wall_s = report.window.duration_s;
    let long = |wait_s: f64| wait_s >= STUCK_S && wait_s >= STUCK_SHARE * wall_s;
    let futexes = report.locks.iter().flat_map(|locks| &locks.futexes);
    let futex =
        futexes.into_iter().find(|futex| futex.completed == 0 && !futex.owners.is_empty() && long(futex.max_s))?;
    Some(format!(
        "{} of process {} waited up to {} for the {} at {} and none got it{}",
        count(futex.threads, "thread"),
        futex.pid,
        duration(futex.max_s),
        futex.kind.as_deref().unwrap_or("lock"),
        futex.address,
        held_by(report, futex).unwrap_or_default()
    ))
}

/// Who holds it and what that thread does.
fn held_by(report: &Report, futex: &Futex) -> Option<String> {
    let owner = futex.owners.first()?;
    let name = parties::named("thread", owner.thread.as_deref(), owner.tid);
    let (_, thread) = parties::row(report, Some(futex.pid), owner.tid)?;
    let most = thread.states.iter().reduce(|a, b| if b.1 > a.1 { b } else { a });
    let (state, _) = most.filter(|(_, time_s)| **time_s > 0.0)?;
    let functions = match state.as_str() {
        "on_cpu" => thread.functions.first(),
        state => thread.waits.iter().find(|wait| wait.state == state).and_then(|wait| wait.places.first()),
    };
    let place = functions.and_then(|function| super::functions::words(&function.location));
    let place = place.map(|place| format!(" in {place}")).unwrap_or_default();
    Some(match state.as_str() {
        "on_cpu" => format!(": {name} holds it and computes{place}"),
        "timer" => format!(": {name} holds it and sleeps{place}"),
        state => format!(": {name} holds it and waits ({state}){place}"),
    })
}
