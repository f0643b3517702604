//! The last lines of the text report: how much of what happened is in it, and what tracing cost.

use super::layout::Page;
use crate::model::report::{FamilyCoverage, Overhead, ProgramOverhead, Report};
use crate::model::units::{bytes, count, duration, grouped, percent};

/// Programs named, most expensive first.
const MAX_PROGRAMS: usize = 3;

/// How much was seen. Says what was lost also where that is nothing.
pub(super) fn coverage(page: &mut Page, report: &Report) {
    let coverage = &report.coverage;
    for family in &coverage.families {
        page.paragraph("Coverage: ", &family_line(family, coverage.counters_age_s));
    }
    if coverage.families.is_empty() {
        page.paragraph("Coverage: ", "the recording names no family");
    }
    let mut notes = Vec::new();
    let mut note = |number: u64, text: &str| {
        if number > 0 {
            notes.push(format!("{} {text}", grouped(number)));
        }
    };
    note(coverage.threads_without_detail, "threads followed without detail");
    note(coverage.threads_not_followed, "threads not followed");
    note(coverage.capture_dropped_records.unwrap_or(0), "records missing in the capture");
    note(coverage.capture_failed_writes.unwrap_or(0), "failed writes to the capture");
    if !notes.is_empty() {
        page.paragraph("          ", &notes.join(", "));
    }
}

fn family_line(family: &FamilyCoverage, counters_age_s: Option<f64>) -> String {
    let mut line = format!("{} {}", family.family, family.status);
    if let Some(reason) = &family.reason {
        line.push_str(&format!(" ({reason})"));
    }
    let (Some(seen), Some(submitted), Some(lost)) = (family.seen, family.submitted, family.lost) else {
        let decoded = count(family.decoded, "record");
        line.push_str(&format!(
            "; {decoded} decoded; the recording has no counters of losses, so the share is not known"
        ));
        return line;
    };
    let whole =
        lost == 0 && family.undecoded + family.late + family.queued.unwrap_or(0) + family.missing.unwrap_or(0) == 0;
    if let Some(age_s) = counters_age_s {
        let age = duration(age_s);
        line.push_str(&format!(
            "; counters as of {age} before the end: {} seen, {} written, {} lost{}; {} decoded up to the end",
            count(seen, "event"),
            grouped(submitted),
            grouped(lost),
            reasons(family),
            grouped(family.decoded),
        ));
        if family.undecoded + family.late > 0 {
            line.push_str(&format!(", {} undecoded, {} late", grouped(family.undecoded), grouped(family.late)));
        }
        return line;
    }
    if seen == 0 && whole {
        line.push_str("; 0 events seen, 0 lost: nothing happened that leaves an event");
        return line;
    }
    if whole {
        line.push_str(&format!("; {} seen, all written, 0 lost, all decoded", count(seen, "event")));
        return line;
    }
    line.push_str(&format!(
        "; {} seen = {} written + {} lost{}; {} decoded, {} undecoded, {} left in the rings, {} missing, {} late",
        count(seen, "event"),
        grouped(submitted),
        grouped(lost),
        reasons(family),
        grouped(family.decoded),
        grouped(family.undecoded),
        grouped(family.queued.unwrap_or(0)),
        grouped(family.missing.unwrap_or(0)),
        grouped(family.late)
    ));
    match family.share {
        Some(share) => line.push_str(&format!("; {} of what happened is in this report", percent(share))),
        None => line.push_str("; the share that is in this report is not known"),
    }
    line
}

/// Why events were lost; nothing where none was.
fn reasons(family: &FamilyCoverage) -> String {
    if family.lost.unwrap_or(0) == 0 {
        return String::new();
    }
    let reasons: Vec<String> =
        family.by_reason.iter().map(|(reason, lost)| format!("{reason} {}", grouped(*lost))).collect();
    format!(" ({})", reasons.join(", "))
}

/// What tracing cost.
pub(super) fn overhead(page: &mut Page, report: &Report) {
    let Some(overhead) = &report.overhead else {
        page.paragraph("Overhead: ", "not measured");
        return;
    };
    let mut parts = Vec::new();
    parts.extend(programs(overhead));
    parts.push(tracer(overhead, report.window.duration_s));
    parts.push(format!("{} of memory, {} of it rings", bytes(overhead.tracer_rss_bytes), bytes(overhead.ring_bytes)));
    page.paragraph("Overhead: ", &parts.join("; "));
}

/// The probes: all together, and the most expensive ones.
fn programs(overhead: &Overhead) -> Option<String> {
    let share = |program: &ProgramOverhead| program.cpu_share.unwrap_or(0.0);
    let mut ran: Vec<&ProgramOverhead> = overhead.programs.iter().filter(|program| program.runs > 0).collect();
    if overhead.measured_s <= 0.0 {
        return None;
    }
    ran.sort_by(|a, b| share(b).total_cmp(&share(a)));
    let total: f64 = ran.iter().map(|program| share(program)).sum();
    let named: Vec<String> = ran
        .iter()
        .take(MAX_PROGRAMS)
        .map(|program| {
            let each = program.ns_per_run.map(|ns| format!(" ({ns:.0} ns per run)")).unwrap_or_default();
            format!("{} {}{each}", program.name, percent(share(program)))
        })
        .collect();
    let most = if named.is_empty() { String::new() } else { format!(", most of it {}", named.join(", ")) };
    Some(format!("probes {} of one CPU{most}, measured for {}", percent(total), duration(overhead.measured_s)))
}

/// The tracer's own CPU time. Starting up is told apart, which in short runs is nearly all of it.
fn tracer(overhead: &Overhead, window_s: f64) -> String {
    let all = duration(overhead.tracer_cpu_s);
    match overhead.startup_cpu_s {
        Some(startup_s) => {
            let running_s = (overhead.tracer_cpu_s - startup_s).max(0.0);
            let share =
                if window_s > 0.0 { format!(" ({} of one CPU)", percent(running_s / window_s)) } else { String::new() };
            format!(
                "tracer {} of CPU time{share} while tracing, and {} before it to start up",
                duration(running_s),
                duration(startup_s)
            )
        }
        None => format!("tracer {all} of CPU time, its start-up included"),
    }
}
