//! What `run` and `record` share: choosing families, loading, the first records, signals, the report at the end.

use std::{collections::HashMap, sync::Arc, time::Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracer_common::record::meta;

use super::{Failure, core, database, output};
use crate::{
    capture::Writer,
    cli::{Format, OutputArgs, TraceArgs, step::StepSpec},
    families::{self, FAMILIES, Family, Ring},
    kernel::{
        clock,
        host::{HostFacts, Pretend},
        ksyms,
        live::{self, Live, push_meta},
        loader::{self, Filter, Loaded, Plan},
        proc::Switches,
        sleepers::{self, Sleepers},
        step_points::Points,
    },
    model::{
        finding::Severity,
        meta::{EndRecord, TargetRecord},
        report::Report,
    },
    pipeline::batch::Batch,
    render::text::{self, Style},
    stacks::{Progress, Watch},
};

/// A family by name, or the sentence that lists those that exist.
fn family(name: &str) -> Result<&'static dyn Family, String> {
    families::find(name).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().map(|family| family.name()).collect();
        format!("there is no family `{name}`: choose from {} (see `tracer families`)", known.join(", "))
    })
}

/// Whether the command line has the option of a family.
fn has_option(args: &TraceArgs, option: &str) -> bool {
    match option {
        "--db" => args.db.is_some(),
        "--file-exact" => args.file_exact,
        _ => false,
    }
}

/// The families that were asked for, and those that they build on.
pub fn choose(args: &TraceArgs) -> Result<Vec<&'static dyn Family>, String> {
    let without = args.no_family.iter().map(|name| family(name)).collect::<Result<Vec<_>, _>>()?;
    // What costs much runs only where its option asks for it, whichever families are named beside it.
    let asked = |family: &dyn Family| family.option().is_none_or(|option| has_option(args, option));
    let by_option = FAMILIES.iter().copied().filter(|family| family.option().is_some() && asked(*family));
    let mut wanted: Vec<&dyn Family> = if args.family.is_empty() {
        FAMILIES.iter().copied().filter(|family| asked(*family)).collect()
    } else {
        args.family.iter().map(|name| family(name)).collect::<Result<Vec<_>, _>>()?
    };
    wanted.extend(by_option);
    let has = |list: &[&dyn Family], id| list.iter().any(|other| other.id() == id);
    // And what these have nothing to work with without, which may build on others in turn.
    let mut next = 0;
    while let Some(family) = wanted.get(next).copied() {
        let builds_on = |other: &&dyn Family| family.builds_on().contains(&other.id()) && !has(&wanted, other.id());
        let more: Vec<_> = FAMILIES.iter().copied().filter(builds_on).collect();
        wanted.extend(more);
        next += 1;
    }
    // Each once, however often it was named: its programs would be attached twice.
    let all = FAMILIES.iter().copied();
    let chosen: Vec<_> = all.filter(|family| has(&wanted, family.id()) && !has(&without, family.id())).collect();
    if chosen.is_empty() {
        return Err("no family is left to trace: take one off --no-family".to_owned());
    }
    Ok(chosen)
}

/// Those by name: without them there is no run.
fn insisted(args: &TraceArgs) -> Vec<&'static str> {
    let named = args.family.iter().filter_map(|name| families::find(name));
    let asked = |family: &&dyn Family| family.option().is_some_and(|option| has_option(args, option));
    let by_option = FAMILIES.iter().copied().filter(asked);
    named.chain(by_option).map(Family::name).collect()
}

/// What tests pretend about the host.
pub fn pretend(names: &[String]) -> Result<Pretend, String> {
    let mut pretend = Pretend::default();
    for name in names {
        match name.as_str() {
            "btf" => pretend.no_btf = true,
            "tracefs" => pretend.no_tracefs = true,
            _ => return Err(format!("cannot pretend that there is no `{name}`: choose btf or tracefs")),
        }
    }
    Ok(pretend)
}

/// Loaded probes with the first records of the stream.
pub struct Prepared {
    /// What is loaded.
    pub loaded: Loaded,
    /// Host, target and families.
    pub first: Batch,
    /// The host, without its type information: that is large.
    pub host: HostFacts,
    /// Threads that wait, whose stacks are to be taken; `None`: none are, since CMD does not run yet or no family takes any.
    pub sleepers: Option<Sleepers>,
    /// Looks for the Python function whose entries begin steps.
    watch: Option<Watch>,
    started: Instant,
    /// Finds the addresses of the kernel's scheduler.
    scheduler: Option<std::thread::JoinHandle<Option<std::ops::Range<u64>>>>,
}

/// Loads and attaches.
pub fn prepare(
    args: &TraceArgs,
    filter: Filter,
    target: &TargetRecord,
    steps: Option<&Points>,
    mut host: HostFacts,
) -> Result<Prepared, String> {
    let started = Instant::now();
    let plan = Plan {
        families: choose(args)?,
        insisted: insisted(args),
        without: args.without_program.clone(),
        filter,
        ring_bytes: args.ring_size,
        sample_hz: args.sample_hz,
        starts_target: !target.command.is_empty(),
        steps,
        host: &host,
    };
    // Meanwhile the kernel's symbols are looked through: either takes its tenths of a second.
    let takes_stacks = plan.families.iter().any(|family| family.ring() == Ring::Stacks);
    let scheduler = takes_stacks.then(|| std::thread::spawn(|| ksyms::range("__schedule")));
    let loaded = loader::load(&plan).map_err(|error| error.to_string())?;
    host.btf = None;
    crate::kernel::trim_memory();
    let mut first = Batch::new();
    let now_ns = clock::monotonic_ns();
    push_meta(&mut first, now_ns, meta::HOST, &host.record());
    let step = args.step.as_ref().map(|step| crate::model::text::printable(step.text.as_bytes()));
    push_meta(&mut first, now_ns, meta::TARGET, &TargetRecord { focus: args.focus.clone(), step, ..target.clone() });
    for family in &loaded.families {
        push_meta(&mut first, now_ns, meta::FAMILIES, family);
    }
    if let Some((_, attacher)) = &loaded.database {
        let libraries = database::libraries(args.db.as_deref().unwrap_or_default())?;
        for record in database::attach(attacher, &libraries)? {
            push_meta(&mut first, now_ns, meta::DATABASE, &record);
        }
    }
    let watch = match args.step.as_ref().map(|step| &step.what) {
        Some(StepSpec::Python(function)) => loaded.step_watch().map(|program| Watch::new(function.clone(), program)),
        _ => None,
    };
    Ok(Prepared { loaded, first, host, sleepers: None, watch, started, scheduler })
}

impl Prepared {
    /// Writes the record that starts the window.
    pub fn start(&mut self) -> u64 {
        let attach_s = self.started.elapsed().as_secs_f64();
        tracing::info!("attached after {:.0} ms", attach_s * 1e3);
        live::push_start(&mut self.first, attach_s)
    }

    /// Finds the threads that wait, of those whose switches were counted before.
    pub fn find_sleepers(&mut self, before: &HashMap<u32, Switches>) {
        if self.loaded.stacks.is_none() {
            return;
        }
        self.sleepers = match self.loaded.iterate("task") {
            Ok(iterator) => iterator.map(|iterator| sleepers::read(iterator, before)),
            Err(error) => Some(Sleepers {
                reason: Some(format!("the kernel's list of threads cannot be read: {error}")),
                ..Sleepers::default()
            }),
        };
    }

    /// Starts to read the rings.
    pub fn spawn(self, capture: Option<Writer>, progress: Progress) -> Result<Session, String> {
        let error = |error: std::io::Error| format!("cannot start to read events: {error}");
        let attacher = self.loaded.database.as_ref().map(|(_, attacher)| Arc::clone(attacher));
        let scheduler = self.scheduler.and_then(|found| found.join().ok().flatten());
        let (live, batches, give_back) =
            live::spawn(self.loaded, scheduler, self.sleepers, self.watch, progress).map_err(error)?;
        let core = core::spawn(capture, self.first, batches, give_back, attacher).map_err(error)?;
        Ok(Session { live, core })
    }
}

/// A run in progress.
pub struct Session {
    live: Live,
    core: core::Running,
}

impl Session {
    /// Ends tracing now and makes the report.
    pub fn end(self, reason: &str, exit_code: Option<i32>) -> Result<Ended, String> {
        use std::sync::atomic::Ordering;
        let loss = std::sync::Arc::clone(&self.core.loss);
        let report = self.finish(reason, exit_code)?;
        Ok(Ended { report, capture_whole: loss.failed_writes.load(Ordering::Relaxed) == 0 })
    }

    fn finish(self, reason: &str, exit_code: Option<i32>) -> Result<Report, String> {
        use std::sync::atomic::Ordering;
        let end = EndRecord {
            reason: reason.to_owned(),
            exit_code,
            capture_failed_writes: self.core.loss.failed_writes.load(Ordering::Relaxed),
            capture_dropped_records: self.core.loss.dropped_records.load(Ordering::Relaxed),
        };
        self.live.stop(clock::monotonic_ns(), end);
        self.live.join().map_err(|error| format!("reading events failed: {error}"))?;
        self.core.join()
    }
}

/// What a session leaves.
pub struct Ended {
    /// The report.
    pub report: Report,
    /// False: a part of the capture could not be written.
    pub capture_whole: bool,
}

/// The signals that end or are passed on.
pub struct Signals {
    /// Ctrl-C.
    pub interrupt: Signal,
    /// `kill`.
    pub terminate: Signal,
    /// The terminal has gone.
    pub hangup: Signal,
    /// Ctrl-\\.
    pub quit: Signal,
    /// A child changed its state.
    pub child: Signal,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves; they wait until they are asked for.
    pub fn listen(runtime: &tokio::runtime::Runtime) -> Result<Self, String> {
        let _guard = runtime.enter();
        let on = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
            quit: on(SignalKind::quit())?,
            child: on(SignalKind::child())?,
        })
    }
}

/// A runtime on this thread alone.
pub fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))
}

/// The report in the form that was asked for.
pub fn render(report: &Report, format: Format, to_terminal: bool) -> Result<Vec<u8>, String> {
    match format {
        Format::Json => crate::export::to_json(report)
            .map(String::into_bytes)
            .map_err(|error| format!("cannot write the report as JSON: {error}")),
        Format::Text => {
            let style = Style { width: output::width(), colour: to_terminal };
            Ok(text::render(report, style).into_bytes())
        }
    }
}

/// Says that no thread was the one whose path was asked for.
pub fn say_if_unfocused(report: &Report, args: &TraceArgs) {
    if let Some(focus) = args.focus.as_deref().filter(|_| report.critical_path.is_none()) {
        eprintln!(
            "tracer: no traced thread has the id or the name {}: the report has no critical path (threads are listed in it)",
            crate::model::text::printable(focus.as_bytes())
        );
    }
}

/// Says that there are no steps.
pub fn say_if_without_steps(report: &Report, args: &TraceArgs) {
    let Some(step) = &args.step else { return };
    let steps = report.critical_path.as_ref().and_then(|path| path.steps.as_ref());
    if steps.is_some_and(|steps| steps.entries > 0) {
        return;
    }
    let failed = steps.and_then(|steps| steps.watched.iter().find_map(|watched| watched.failed.clone()));
    let why = match (&step.what, failed) {
        (StepSpec::Python(_), Some(failed)) => format!("was found, but {failed}"),
        (StepSpec::Python(_), None) => "was not seen in any stack, or not called again after that".to_owned(),
        _ => "was not entered by any traced thread".to_owned(),
    };
    eprintln!(
        "tracer: --step {}: it {why}: the report has no steps",
        crate::model::text::printable(step.text.as_bytes())
    );
}

/// Whether a finding matches what `--fail-on` named.
pub fn failed_on(report: &Report, args: &OutputArgs) -> bool {
    report.findings.iter().any(|finding| {
        args.fail_on.iter().any(|wanted| *wanted == finding.class || *wanted == severity(finding.severity))
    })
}

/// The word by which a severity is named.
fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

/// Refuses a `--fail-on` that can never match.
pub fn check_fail_on(args: &OutputArgs, code: u8) -> Result<(), Failure> {
    let classes: Vec<&str> = crate::diagnose::RULES.iter().map(|rule| rule.class()).collect();
    for wanted in &args.fail_on {
        if !classes.contains(&wanted.as_str()) && !["critical", "warning", "info"].contains(&wanted.as_str()) {
            return Err(Failure::new(
                code,
                format!(
                    "--fail-on {wanted} never matches: give a severity (critical, warning, info) or a class ({})",
                    classes.join(", ")
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        trace: TraceArgs,
    }

    fn chosen(line: &[&str]) -> Vec<&'static str> {
        let line = Line::try_parse_from([&["tracer"], line].concat()).unwrap_or_else(|error| panic!("{error}"));
        choose(&line.trace).expect("some are left").into_iter().map(Family::name).collect()
    }

    #[test]
    fn a_family_that_is_named_twice_runs_once() {
        assert_eq!(chosen(&["--family", "sched", "--family", "cpu,sched"]), ["sched", "cpu"]);
        assert_eq!(chosen(&["--family", "cpu,sched", "--no-family", "cpu"]), ["sched"]);
        let by_option = FAMILIES.iter().filter(|family| family.option().is_some()).count();
        assert_eq!(chosen(&[]).len(), FAMILIES.len() - by_option);
        assert_eq!(chosen(&["--db", "--file-exact"]).len(), FAMILIES.len());
        assert_eq!(chosen(&["--file-exact", "--family", "sched"]), ["sched", "file-exact"]);
        assert_eq!(chosen(&["--db", "--family", "sched"]), ["sched", "database"]);
        assert_eq!(chosen(&["--family", "sched,database"]), ["sched", "database"]);
    }

    #[test]
    fn what_a_family_builds_on_runs_with_it() {
        assert_eq!(chosen(&["--family", "cpu"]), ["sched", "cpu"]);
        assert_eq!(chosen(&["--family", "net"]), ["sched", "net"]);
        let without = chosen(&["--family", "cpu", "--no-family", "sched"]);
        assert_eq!(without, ["cpu"], "what was refused is not forced: the loader says what is missing");
        for family in FAMILIES {
            let all = chosen(&["--family", family.name()]);
            let named = |id| FAMILIES.iter().find(|other| other.id() == id).map(|other| other.name());
            let builds_on: Vec<_> = family.builds_on().iter().filter_map(|id| named(*id)).collect();
            assert!(builds_on.iter().all(|name| all.contains(name)), "{}: {all:?}", family.name());
        }
    }
}
