//! A person's first look: the answer, what to do, what it rests on; then where the threads' time went, and how much was seen.

use super::layout::{Align, Page, Tint};
use crate::model::report::{
    Context, FamilyCoverage, Finding, Futex, Overhead, Owner, Report, Row, RuleStatus, Severity, Thread, Verdict, Wait,
    Waker,
};
use crate::model::units::{bytes, count, duration, grouped, percent};

/// How to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal.
    pub width: usize,
    /// Whether to use colours.
    pub colour: bool,
}

const MAX_THREADS: usize = 16;
const MAX_WAITS: usize = 10;
const MAX_LOCKS: usize = 8;
const MAX_OBSERVED: usize = 5;
const BAR_CHARS: usize = 20;

/// The whole report as text.
pub fn render(report: &Report, style: Style) -> String {
    let mut page = Page::new(style.width, style.colour);
    headline(&mut page, report);
    for finding in &report.findings {
        self::finding(&mut page, report, finding);
    }
    if !report.observed.is_empty() {
        page.title("Observed, not limiting");
        for finding in report.observed.iter().take(MAX_OBSERVED) {
            page.paragraph(&format!("  {}: ", finding.class), &finding.summary);
        }
    }
    if report.verdict != Verdict::Bottleneck {
        rules(&mut page, report);
    }
    threads(&mut page, report);
    waits(&mut page, report);
    locks(&mut page, report);
    page.line("");
    coverage(&mut page, report);
    overhead(&mut page, report.overhead.as_ref());
    page.text
}

fn headline(page: &mut Page, report: &Report) {
    let tint = match report.verdict {
        Verdict::Bottleneck => Tint::Bad,
        Verdict::Inconclusive => Tint::Warn,
        Verdict::CpuBound | Verdict::Healthy => Tint::Good,
    };
    let word = page.tint(tint, report.verdict.id());
    page.line(&format!("Verdict: {word}"));
    page.paragraph("  ", &report.verdict_reason);
    let window = &report.window;
    let mut about = vec![duration(window.duration_s)];
    if let Some(command) = &report.target.command {
        about.push(command.join(" "));
    }
    if let Some(pids) = &report.target.pids {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        about.push(format!("pid {}", pids.join(" ")));
    }
    about.extend(report.target.comm.as_ref().map(|comm| format!("threads named {comm}")));
    about.extend(report.target.cgroup.as_ref().map(|path| format!("cgroup {path}")));
    about.extend(report.target.container.as_ref().map(|id| format!("container {id}")));
    if report.target.all == Some(true) {
        about.push("all threads of the host".to_owned());
    }
    about.extend(report.host.cpus.map(|cpus| count(u64::from(cpus), "CPU")));
    about.extend(report.host.kernel.as_ref().map(|kernel| format!("kernel {kernel}")));
    about.extend(window.exit_code.map(|code| format!("exit code {code}")));
    page.paragraph("  traced: ", &about.join(", "));
    if let Some(reason) = &window.clipped_reason {
        page.paragraph("  incomplete: ", reason);
    }
    if let Some(suspended_s) = window.suspended_s.filter(|seconds| *seconds > 0.0) {
        page.line(&format!("  suspended: {} while traced, not counted below", duration(suspended_s)));
    }
}

fn finding(page: &mut Page, report: &Report, finding: &Finding) {
    let tint = match finding.severity {
        Severity::Critical => Tint::Bad,
        Severity::Warning => Tint::Warn,
        Severity::Info => Tint::Good,
    };
    let severity = page.tint(tint, finding.severity.id());
    page.title(&format!("{}. {}", finding.rank, finding.class));
    let mut facts = vec![severity, format!("confidence {:.2}", finding.confidence)];
    facts.extend(finding.lost_s.map(|lost_s| format!("at most {} lost", duration(lost_s))));
    facts.extend(finding.speedup_bound.map(|bound| format!("at most {bound:.2} times as fast without it")));
    page.paragraph("  ", &facts.join(", "));
    // The first finding's sentence is the headline already.
    if !report.verdict_reason.starts_with(&finding.summary) {
        page.paragraph("  ", &finding.summary);
    }
    page.paragraph("  means    ", &finding.hypothesis);
    page.paragraph("  fix      ", &finding.fix);
    page.paragraph("  prove    ", &finding.experiment);
    for (position, evidence) in finding.evidence.iter().enumerate() {
        let label = if position == 0 { "  evidence " } else { "           " };
        let against = evidence
            .compared_with
            .as_ref()
            .map(|other| format!(" ({} {})", other.what, amount(other.value, &evidence.unit)));
        page.paragraph(
            label,
            &format!("{}: {}{}", evidence.metric, amount(evidence.value, &evidence.unit), against.unwrap_or_default()),
        );
    }
}

fn amount(value: f64, unit: &str) -> String {
    match unit {
        "s" => duration(value),
        "1" if value.fract() == 0.0 && (0.0..1e15).contains(&value) => grouped(value as u64),
        "1" => percent(value),
        unit => format!("{value} {unit}"),
    }
}

fn rules(page: &mut Page, report: &Report) {
    page.title("Looked for");
    for rule in &report.rules {
        let status = match rule.status {
            RuleStatus::Fired => "found",
            status => status.id(),
        };
        page.paragraph(&format!("  {}: ", rule.class), &format!("{status}, {}", rule.reason));
    }
}

fn rows(report: &Report) -> Vec<&Thread> {
    report.threads.iter().filter_map(|row| if let Row::Thread(thread) = row { Some(&**thread) } else { None }).collect()
}

fn state_s(thread: &Thread, state: &str) -> f64 {
    thread.states.get(state).copied().unwrap_or(0.0)
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn threads(page: &mut Page, report: &Report) {
    let mut shown = rows(report);
    let others = report.threads.iter().find_map(|row| if let Row::Others(others) = row { Some(others) } else { None });
    let all = shown.len() as u64 + others.map_or(0, |others| others.others);
    if all == 0 {
        return;
    }
    if shown.len() > MAX_THREADS {
        shown.sort_by(|a, b| state_s(b, "on_cpu").total_cmp(&state_s(a, "on_cpu")));
        shown.truncate(MAX_THREADS);
        page.title(&format!("Threads: the {MAX_THREADS} of {} with the most CPU time", grouped(all)));
    } else {
        page.title(&format!("Threads: {}", grouped(all)));
    }
    let heading = [
        ("tid", Align::Right),
        ("name", Align::Left),
        ("wall", Align::Right),
        ("on-CPU", Align::Right),
        ("ready", Align::Right),
        ("# on-CPU + ready . wait", Align::Left),
        ("waits", Align::Left),
    ];
    let lines: Vec<Vec<String>> = shown
        .iter()
        .map(|thread| {
            vec![
                thread.tid.to_string(),
                thread.name.clone().unwrap_or_else(|| "?".to_owned()),
                duration(thread.wall_s),
                percent(share(state_s(thread, "on_cpu"), thread.wall_s)),
                percent(share(state_s(thread, "runnable"), thread.wall_s)),
                bar(page, thread),
                waiting(thread),
            ]
        })
        .collect();
    page.table(&heading, &lines);
    if let Some(others) = others {
        page.line(&format!(
            "  and {} summed up: wall {}, on-CPU {}",
            count(others.others, "thread"),
            duration(others.wall_s),
            duration(others.states.get("on_cpu").copied().unwrap_or(0.0))
        ));
    }
}

/// On-CPU, ready, waiting and unknown time as parts of one line.
fn bar(page: &Page, thread: &Thread) -> String {
    let parts = [
        ('#', Tint::Good, state_s(thread, "on_cpu")),
        ('+', Tint::Warn, state_s(thread, "runnable")),
        ('.', Tint::Bad, 0.0),
        ('?', Tint::Dim, state_s(thread, "unknown")),
    ];
    let known: f64 = parts.iter().map(|(_, _, seconds)| seconds).sum();
    let mut bar = String::new();
    let (mut upto, mut filled) = (0.0, 0);
    for (glyph, tint, seconds) in parts {
        let seconds = if glyph == '.' { (thread.wall_s - known).max(0.0) } else { seconds };
        upto += seconds;
        let end = (share(upto, thread.wall_s).min(1.0) * BAR_CHARS as f64).round() as usize;
        let run = glyph.to_string().repeat(end.saturating_sub(filled));
        if !run.is_empty() {
            bar.push_str(&page.tint(tint, &run));
        }
        filled = filled.max(end);
    }
    bar
}

/// The states in which a thread waited, longest first.
fn waiting(thread: &Thread) -> String {
    let mut states: Vec<(&String, f64)> = thread
        .states
        .iter()
        .filter(|(state, seconds)| !matches!(state.as_str(), "on_cpu" | "runnable") && **seconds > 0.0)
        .map(|(state, seconds)| (state, *seconds))
        .collect();
    states.sort_by(|a, b| b.1.total_cmp(&a.1));
    let text = |(state, seconds): &(&String, f64)| {
        let detail = thread.other_detail.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| name);
        let name = match (state.as_str(), detail) {
            ("other", Some(detail)) => format!("other ({detail})"),
            _ => (*state).clone(),
        };
        format!("{name} {}", percent(share(*seconds, thread.wall_s)))
    };
    states.iter().take(3).map(text).collect::<Vec<_>>().join(", ")
}

fn waits(page: &mut Page, report: &Report) {
    let mut waits: Vec<(&Thread, &Wait)> =
        rows(report).into_iter().flat_map(|thread| thread.waits.iter().map(move |wait| (thread, wait))).collect();
    waits.retain(|(_, wait)| wait.total_s > 0.0);
    waits.sort_by(|a, b| b.1.total_s.total_cmp(&a.1.total_s));
    waits.truncate(MAX_WAITS);
    if waits.is_empty() {
        return;
    }
    page.title("Longest waits");
    let heading = [
        ("tid", Align::Right),
        ("name", Align::Left),
        ("total", Align::Right),
        ("longest", Align::Right),
        ("waits", Align::Right),
        ("for", Align::Left),
        ("held or ended by", Align::Left),
    ];
    let lines: Vec<Vec<String>> = waits
        .iter()
        .map(|(thread, wait)| {
            vec![
                thread.tid.to_string(),
                thread.name.clone().unwrap_or_else(|| "?".to_owned()),
                duration(wait.total_s),
                duration(wait.max_s),
                grouped(wait.count),
                what(wait),
                by_whom(wait),
            ]
        })
        .collect();
    page.table(&heading, &lines);
}

fn what(wait: &Wait) -> String {
    let mut text = wait.state.clone();
    for part in [&wait.detail, &wait.object].into_iter().flatten().filter(|part| **part != wait.state) {
        text.push(' ');
        text.push_str(part);
    }
    text
}

fn by_whom(wait: &Wait) -> String {
    let mut parts = Vec::new();
    parts.extend(wait.owners.first().map(|owner| format!("held by {}", owner_name(owner))));
    // "Unknown" says nothing.
    let waker = wait.wakers.iter().find(|waker| waker.context != Context::Unknown);
    parts.extend(waker.map(|waker| format!("woken by {}", waker_name(waker))));
    if wait.open {
        parts.push("still waiting at the end".to_owned());
    }
    parts.join(", ")
}

fn owner_name(owner: &Owner) -> String {
    match &owner.thread {
        Some(name) => format!("{name} ({})", owner.tid),
        None => owner.tid.to_string(),
    }
}

fn waker_name(waker: &Waker) -> String {
    match (waker.tid, &waker.thread) {
        (Some(tid), Some(name)) => format!("{name} ({tid})"),
        (Some(tid), None) => tid.to_string(),
        (None, _) if waker.context == Context::Task => "other threads".to_owned(),
        (None, _) => waker.context.id().to_owned(),
    }
}

fn locks(page: &mut Page, report: &Report) {
    let Some(locks) = &report.locks else { return };
    let owned: Vec<&Futex> = locks.futexes.iter().filter(|futex| !futex.owners.is_empty()).collect();
    if owned.is_empty() {
        return;
    }
    page.title("Locks that had a holder");
    let heading = [
        ("process", Align::Left),
        ("address", Align::Left),
        ("kind", Align::Left),
        ("waits", Align::Right),
        ("total", Align::Right),
        ("threads", Align::Right),
        ("mostly held by", Align::Left),
    ];
    let lines: Vec<Vec<String>> = owned
        .iter()
        .take(MAX_LOCKS)
        .map(|futex| {
            vec![
                format!("{} ({})", futex.process.as_deref().unwrap_or("?"), futex.pid),
                futex.address.clone(),
                futex.kind.clone().unwrap_or_default(),
                grouped(futex.waits),
                duration(futex.total_s),
                grouped(futex.threads),
                futex.owners.first().map(owner_name).unwrap_or_default(),
            ]
        })
        .collect();
    page.table(&heading, &lines);
    if owned.len() > MAX_LOCKS {
        page.line(&format!("  and {} more", owned.len() - MAX_LOCKS));
    }
}

fn coverage(page: &mut Page, report: &Report) {
    for family in &report.coverage.families {
        page.paragraph("Coverage: ", &family_line(family));
    }
    if report.coverage.families.is_empty() {
        page.paragraph("Coverage: ", "the recording names no family");
    }
    let mut notes = Vec::new();
    let mut note = |number: u64, text: &str| {
        if number > 0 {
            notes.push(format!("{} {text}", grouped(number)));
        }
    };
    note(report.coverage.threads_without_detail, "threads followed without detail");
    note(report.coverage.threads_not_followed, "threads not followed");
    note(report.coverage.capture_dropped_records.unwrap_or(0), "records missing in the capture");
    note(report.coverage.capture_failed_writes.unwrap_or(0), "failed writes to the capture");
    if !notes.is_empty() {
        page.paragraph("          ", &notes.join(", "));
    }
}

fn family_line(family: &FamilyCoverage) -> String {
    let mut line = format!("{} {}", family.family, family.status);
    if let Some(reason) = &family.reason {
        line.push_str(&format!(" ({reason})"));
    }
    match (family.seen, family.submitted, family.lost) {
        (Some(seen), Some(submitted), Some(lost)) => {
            let reasons: Vec<String> =
                family.by_reason.iter().map(|(reason, lost)| format!("{reason} {}", grouped(*lost))).collect();
            line.push_str(&format!(
                "; {} seen = {} written + {} lost ({}); {} decoded, {} undecoded, {} left in the rings, {} missing, {} late",
                count(seen, "event"),
                grouped(submitted),
                grouped(lost),
                reasons.join(", "),
                grouped(family.decoded),
                grouped(family.undecoded),
                grouped(family.queued.unwrap_or(0)),
                grouped(family.missing.unwrap_or(0)),
                grouped(family.late)
            ));
        }
        _ => line.push_str(&format!(
            "; {} decoded; the recording has no counters of losses",
            count(family.decoded, "record")
        )),
    }
    match family.share {
        Some(share) => line.push_str(&format!("; {} of what happened is in this report", percent(share))),
        None => line.push_str("; the share that is in this report is not known"),
    }
    line
}

fn overhead(page: &mut Page, overhead: Option<&Overhead>) {
    let Some(overhead) = overhead else {
        page.paragraph("Overhead: ", "not measured");
        return;
    };
    let mut parts = Vec::new();
    parts.extend(overhead.cpu_share.map(|share| format!("{} of one CPU in all", percent(share))));
    parts.push(format!(
        "tracer {} of CPU time, {} of memory, {} of it rings",
        duration(overhead.tracer_cpu_s),
        bytes(overhead.tracer_rss_bytes),
        bytes(overhead.ring_bytes)
    ));
    for program in overhead.programs.iter().filter(|program| program.runs > 0) {
        parts.extend(program.ns_per_run.map(|ns| format!("{} {ns:.0} ns per run", program.name)));
    }
    if overhead.measured_s > 0.0 {
        parts.push(format!("programs measured for {}", duration(overhead.measured_s)));
    }
    page.paragraph("Overhead: ", &parts.join("; "));
}
