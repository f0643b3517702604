//! A person's first look: the answer, what to do, what it rests on; then where the threads' time went, and how much was seen.

use super::layout::{Align, Page, Tint};
use super::ledger::{coverage, overhead};
use super::{critical_path, database, io, mapping, memory, network, paging, queues, stacks, steps};
use crate::model::report::{
    Context, Evidence, Finding, Futex, KernelLock, Owner, Report, Row, RuleStatus, Severity, Thread, Verdict, Wait,
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

/// A state of a thread under this share of its time is not shown.
const LEAST_SHARE: f64 = 0.001;

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
    critical_path::path(&mut page, report);
    steps::section(&mut page, report);
    threads(&mut page, report);
    queues::lines(&mut page, report);
    stacks::computing(&mut page, report);
    stacks::waiting(&mut page, report);
    waits(&mut page, report);
    locks(&mut page, report);
    kernel_locks(&mut page, report);
    network::lines(&mut page, report);
    database::lines(&mut page, report);
    memory::section(&mut page, report);
    mapping::lines(&mut page, report);
    io::lines(&mut page, report);
    paging::tables(&mut page, report);
    page.line("");
    stacks::quality(&mut page, report);
    coverage(&mut page, report);
    overhead(&mut page, report);
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
        page.paragraph(label, &format!("{}: {}", evidence.metric, measured(evidence)));
    }
    hung(page, finding);
}

/// Where the threads of a deadlock wait.
fn hung(page: &mut Page, finding: &Finding) {
    const MAX_THREADS: usize = 4;
    const MAX_FRAMES: usize = 10;
    let with_stacks = finding.culprit.iter().chain(&finding.victims).filter(|subject| !subject.stack.is_empty());
    for subject in with_stacks.take(MAX_THREADS) {
        let name = subject.thread.as_deref().unwrap_or("thread");
        let tid = subject.tid.map(|tid| format!(" ({tid})")).unwrap_or_default();
        page.paragraph(
            "  waiting  ",
            &format!("{name}{tid} for the {}:", subject.waits_for.as_deref().unwrap_or("lock")),
        );
        for frame in subject.stack.iter().take(MAX_FRAMES) {
            page.paragraph("             ", frame);
        }
        if subject.stack.len() > MAX_FRAMES {
            page.paragraph("             ", &format!("[{} more]", subject.stack.len() - MAX_FRAMES));
        }
    }
}

/// What a piece of evidence measured, and what that is to be compared with.
fn measured(evidence: &Evidence) -> String {
    let value = amount(evidence.value, &evidence.unit);
    let Some(other) = &evidence.compared_with else { return value };
    let whole = |value: f64| value.fract() == 0.0 && value >= 0.0;
    if evidence.unit == "1" && whole(evidence.value) && whole(other.value) {
        return format!("{value} of {}", amount(other.value, &evidence.unit));
    }
    format!("{value} ({} {})", other.what, amount(other.value, &evidence.unit))
}

fn amount(value: f64, unit: &str) -> String {
    match unit {
        "s" => duration(value),
        "1" if value.fract() == 0.0 && (0.0..1e15).contains(&value) => grouped(value as u64),
        "1" => percent(value),
        "B" if value.fract() == 0.0 && (0.0..1e18).contains(&value) => bytes(value as u64),
        "B/s" if (0.0..1e18).contains(&value) => format!("{}/s", bytes(value as u64)),
        "1/s" => format!("{value:.1} a second"),
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
        ("", Align::Left),
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
    legend(page, &shown);
    if let Some(others) = others {
        page.line(&format!(
            "  and {} summed up: wall {}, on-CPU {}",
            count(others.others, "thread"),
            duration(others.wall_s),
            duration(others.states.get("on_cpu").copied().unwrap_or(0.0))
        ));
    }
}

/// What the bar's characters and the states mean, of those that can be seen above.
fn legend(page: &mut Page, shown: &[&Thread]) {
    let any = |state: &str| shown.iter().any(|thread| is_shown(thread, state));
    let mut parts = vec!["# on a CPU", "+ ready, but without a CPU", ". waiting"];
    if any("spinning") {
        parts.insert(1, "~ spinning: on a CPU, but waiting");
    }
    if any("unknown") {
        parts.push("? not known");
    }
    let states = [
        ("throttled", "throttled: held back by a CPU quota"),
        ("futex", "futex: a lock, queue or join in user space"),
        ("kernel_lock", "kernel_lock: a lock inside the kernel"),
        ("file", "file: a file or disk"),
        ("pipe", "pipe: a pipe's other end"),
        ("socket_inet", "socket_inet: the network"),
        ("socket_unix", "socket_unix: a process of this host"),
        ("poll", "poll: any of several descriptors"),
        ("child", "child: a child process"),
        ("timer", "timer: a sleep"),
        ("fault", "fault: a page of memory"),
        ("memory", "memory: freeing it for want of it"),
        ("stopped", "stopped: by a signal or debugger"),
    ];
    parts.extend(states.into_iter().filter(|(state, _)| any(state)).map(|(_, text)| text));
    page.paragraph("  ", &parts.join("; "));
}

/// Whether a state of a thread is long enough to be shown.
fn is_shown(thread: &Thread, state: &str) -> bool {
    share(state_s(thread, state), thread.wall_s) >= LEAST_SHARE
}

/// On-CPU, ready, waiting and unknown time as parts of one line.
fn bar(page: &Page, thread: &Thread) -> String {
    let parts = [
        ('#', Tint::Good, state_s(thread, "on_cpu")),
        ('~', Tint::Bad, state_s(thread, "spinning")),
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
        .filter(|(state, _)| !matches!(state.as_str(), "on_cpu" | "runnable") && is_shown(thread, state))
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
    // A kernel thread waits for work, which says little; there are many of them.
    let of_kernel = |wait: &Wait| wait.state == "other" && wait.detail.as_deref() == Some("kernel");
    if waits.iter().any(|(_, wait)| !of_kernel(wait)) {
        waits.retain(|(_, wait)| !of_kernel(wait));
    }
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
                what(report, wait),
                by_whom(wait),
            ]
        })
        .collect();
    page.table(&heading, &lines);
}

/// What a wait was for; of a pipe or socket with how much went through it.
fn what(report: &Report, wait: &Wait) -> String {
    let object = report
        .objects
        .iter()
        .flat_map(|objects| &objects.list)
        .find(|object| Some(&object.object) == wait.object.as_ref());
    let told = object_of(wait);
    match object.and_then(|object| object.bytes.as_ref()).filter(|_| wait.object.is_some()) {
        Some(through) => {
            let least = if through.ends_agree { "" } else { "at most " };
            format!("{told}, {least}{}/s", bytes(through.per_s_at_most as u64))
        }
        None => told,
    }
}

fn object_of(wait: &Wait) -> String {
    let ended = wait.count - u64::from(wait.open).min(wait.count);
    if wait.owners.is_empty() && wait.joins.is_some_and(|joins| joins == ended) {
        return format!("join {}", wait.object.as_deref().unwrap_or_default());
    }
    let mut text = wait.state.clone();
    let object = wait.path.as_ref().or(wait.ends.as_ref()).or(wait.object.as_ref());
    // "pipe read pipe from ..." says it twice.
    if let Some(ends) = wait.ends.as_ref().filter(|ends| ends.starts_with("pipe ")) {
        return format!("{} {ends}", wait.detail.as_deref().unwrap_or("wait for"));
    }
    for part in [wait.detail.as_ref(), object].into_iter().flatten().filter(|part| **part != wait.state) {
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
    parts.extend(waker.map(|waker| {
        // In which function, where it is a thread that says so.
        let place = wait.woken_in.first().filter(|_| waker.tid.is_some());
        let place = place.and_then(|time| time.location.function.as_deref()).map(|name| format!(" in {name}"));
        format!("woken by {}{}", waker_name(waker), place.unwrap_or_default())
    }));
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

/// The kind of lock in a word that fits a column.
fn short_kind(futex: &Futex) -> &str {
    match futex.kind.as_deref() {
        Some("pthread mutex") => "mutex",
        Some("robust pthread mutex") => "robust",
        Some("priority-inheritance mutex") => "PI",
        other => other.unwrap_or_default(),
    }
}

/// The thread that held it most often, and in what share of the waits, where there were several.
fn mostly(futex: &Futex) -> String {
    let Some(owner) = futex.owners.first() else { return String::new() };
    let name = owner_name(owner);
    if futex.owners.len() == 1 {
        return name;
    }
    let part = percent(share(owner.count as f64, futex.waits_with_owner as f64));
    format!("{name} {part}, {} in all", count(futex.owners.len() as u64, "holder"))
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
                short_kind(futex).to_owned(),
                grouped(futex.waits),
                duration(futex.total_s),
                grouped(futex.threads),
                mostly(futex),
            ]
        })
        .collect();
    page.table(&heading, &lines);
    if owned.len() > MAX_LOCKS {
        page.line(&format!("  and {} more", owned.len() - MAX_LOCKS));
    }
}

/// Kernel locks that took at least a thousandth of the wall time.
fn kernel_locks(page: &mut Page, report: &Report) {
    let lost_s = |lock: &KernelLock| lock.slept_s + lock.spun_s;
    let all = report.locks.iter().flat_map(|locks| &locks.kernel);
    let shown: Vec<&KernelLock> =
        all.filter(|lock| lost_s(lock) >= LEAST_SHARE * report.window.duration_s).take(MAX_LOCKS).collect();
    if shown.is_empty() {
        return;
    }
    page.title("Locks of the kernel");
    let heading = [
        ("process", Align::Left),
        ("kind", Align::Left),
        ("waits", Align::Right),
        ("slept", Align::Right),
        ("spun", Align::Right),
        ("longest", Align::Right),
        ("threads", Align::Right),
        ("mostly held by", Align::Left),
    ];
    let holder = |lock: &KernelLock| {
        let owner = lock.owners.first()?;
        Some(owner.thread.as_ref().map_or_else(|| owner.tid.to_string(), |name| format!("{name} ({})", owner.tid)))
    };
    let lines: Vec<Vec<String>> = shown
        .into_iter()
        .map(|lock| {
            vec![
                format!("{} ({})", lock.process.as_deref().unwrap_or("?"), lock.pid),
                lock.kind.clone(),
                grouped(lock.count),
                duration(lock.slept_s),
                duration(lock.spun_s),
                duration(lock.max_s),
                grouped(lock.threads),
                holder(lock).unwrap_or_default(),
            ]
        })
        .collect();
    page.table(&heading, &lines);
}
