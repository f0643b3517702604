//! `spin-wait`: a thread burns a CPU while it waits, and another thread of the workload that has work is ready and waits for that
//! CPU. Where nobody is harmed (CPUs are idle, or only other spinners queue) it is seen, not limiting: blocking would not end the
//! wait earlier. More spinning threads than CPUs are `cpu-oversubscription`, which looks first.

use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, named, state_s, subject, threads};
use crate::model::report::{Evidence, Finding, QueuedBehind, Report, Severity, Thread};
use crate::model::stacks::SpunFunction;
use crate::model::units::{count, duration, grouped, percent};

/// See the file's head.
pub struct SpinWait;

/// A thread spins if it does so for this share of its time on a CPU.
const SPINS_SHARE: f64 = 0.5;
/// Spinning for less than this share of the wall time, or less than this, is not worth a word.
const LEAST_SHARE: f64 = 0.05;
const LEAST_S: f64 = 0.1;
/// Who spun and who queued was measured; that the one had the other's CPU just then is inferred.
const MEASURED: f64 = 0.8;
/// How long it spun is a sample's estimate as well.
const ESTIMATED: f64 = 0.7;

const MAX_VICTIMS: usize = 8;

/// The share of its time on a CPU that a thread spun.
pub(super) fn share(thread: &Thread) -> f64 {
    let (worked_s, spun_s) = (state_s(thread, "on_cpu"), state_s(thread, "spinning"));
    if worked_s + spun_s > 0.0 { spun_s / (worked_s + spun_s) } else { 0.0 }
}

/// A thread that was ready while a spinner had its CPU.
struct Victim<'a> {
    index: usize,
    thread: &'a Thread,
    /// Its row in what it queued behind.
    row: usize,
    lost_s: f64,
}

impl Rule for SpinWait {
    fn class(&self) -> &'static str {
        "spin-wait"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(cpu) = &report.cpu else {
            return Outcome::CouldNotRun("the family sched did not run".to_owned());
        };
        let all = spinners(report);
        if all.is_empty() {
            let least = "no thread was seen to spin for 5 % of the wall time";
            return Outcome::Silent(match cpu.spinning_s {
                Some(_) => least.to_owned(),
                None => format!("{least}; without the family cpu only calls of sched_yield tell"),
            });
        }
        let first = facts.earlier.iter().find(|finding| {
            matches!(finding.class.as_str(), "cpu-quota-throttling" | "cpu-oversubscription" | "low-priority")
        });
        if let Some(first) = first {
            let spun = duration(cpu.spinning_s.unwrap_or(0.0));
            return Outcome::Silent(format!("{} explains the run, {spun} of spinning included", first.class));
        }
        Outcome::Claims(all.iter().map(|(index, thread)| claim(report, *index, thread)).collect())
    }
}

/// Threads that spin for long, most time first.
fn spinners(report: &Report) -> Vec<(usize, &Thread)> {
    let least_s = (LEAST_SHARE * report.window.duration_s).max(LEAST_S);
    let spins = |thread: &Thread| state_s(thread, "spinning") >= least_s && share(thread) >= SPINS_SHARE;
    let mut all: Vec<(usize, &Thread)> = threads(report).filter(|(_, thread)| spins(thread)).collect();
    all.sort_by(|a, b| state_s(b.1, "spinning").total_cmp(&state_s(a.1, "spinning")).then(a.0.cmp(&b.0)));
    all
}

/// Threads with work of their own that were ready while this one had their CPU, longest first. Of that time the part counts that it
/// spun of its time on a CPU.
fn victims<'a>(report: &'a Report, spinner: &Thread) -> Vec<Victim<'a>> {
    let ours = |row: &QueuedBehind| row.tid == spinner.tid && (row.pid.is_none() || row.pid == spinner.pid);
    let working = threads(report).filter(|(_, thread)| share(thread) < SPINS_SHARE);
    let mut victims: Vec<Victim<'a>> = working
        .filter_map(|(index, thread)| {
            let behind = &thread.queued.as_ref()?.behind;
            let row = behind.iter().position(ours)?;
            let lost_s = behind.get(row)?.total_s * share(spinner);
            Some(Victim { index, thread, row, lost_s: lost_s.min(on_path_s(report, thread, spinner)) })
        })
        .filter(|victim| victim.lost_s > 0.0)
        .collect();
    victims.sort_by(|a, b| b.lost_s.total_cmp(&a.lost_s).then(a.index.cmp(&b.index)));
    let least_s = victims.first().map_or(0.0, |worst| worst.lost_s / 10.0);
    victims.retain(|victim| victim.lost_s >= least_s);
    victims
}

/// How long at most the run waited while this thread was ready: what the critical path says, where there is one. Where the spinner
/// itself is on the path the run waits for whom it spins for, which no wake-up tells.
fn on_path_s(report: &Report, victim: &Thread, spinner: &Thread) -> f64 {
    let Some(path) = &report.critical_path else { return f64::INFINITY };
    let of = |state: &str, thread: &Thread| {
        let parts = path.parts.iter().filter(|part| part.state == state);
        let own = parts.filter(|part| match part.tid {
            Some(tid) => tid == thread.tid && part.pid == thread.pid,
            None => part.thread == thread.name && part.process == thread.process,
        });
        own.map(|part| part.s).sum::<f64>()
    };
    of("runnable", victim) + of("spinning", spinner)
}

fn claim(report: &Report, index: usize, spinner: &Thread) -> Claim {
    let victims = victims(report, spinner);
    let lost_s = victims.first().map_or(0.0, |victim| victim.lost_s);
    let (wall_s, spun_s) = (report.window.duration_s, state_s(spinner, "spinning"));
    let worst = victims.first().and_then(|victim| victim.thread.queued.as_ref());
    let reported = worst.is_some_and(|queued| is_reported(lost_s, wall_s, queued.passed_over, queued.max_s));
    let how = How::of(spinner);
    let mut culprit = subject(spinner);
    if let Some(function) = how.function {
        functions::point_at(&mut culprit, function.caller.as_ref().unwrap_or(&function.location));
    }
    let finding = Finding {
        class: SpinWait.class().to_owned(),
        rank: 0,
        severity: if reported { severity(lost_s, wall_s) } else { Severity::Info },
        confidence: confidence(report, if how.measured { MEASURED } else { ESTIMATED }),
        summary: summary(report, spinner, &how, &victims),
        lost_s: Some(lost_s),
        share_of_wall: report.critical_path.is_some().then(|| if wall_s > 0.0 { lost_s / wall_s } else { 0.0 }),
        speedup_bound: speedup_bound(lost_s, wall_s),
        culprit: Some(culprit),
        victims: victims.iter().take(MAX_VICTIMS).map(|victim| subject(victim.thread)).collect(),
        evidence: facts(report, index, spinner, &victims),
        hypothesis: hypothesis(&how, reported),
        fix: "Wait by blocking (futex, condition variable, pipe, eventfd), or spin for microseconds only and block then; for OpenMP \
              OMP_WAIT_POLICY=passive or KMP_BLOCKTIME=0, for CUDA cudaDeviceScheduleBlockingSync. Or give the spinning thread a \
              CPU of its own."
            .to_owned(),
        experiment: format!(
            "Run it with {} bound to another CPU (taskset -p), or with a wait that blocks: the others' waits for a CPU must go, and the \
             wall time fall by at most {}.",
            named(spinner),
            duration(lost_s)
        ),
        consequences: if spun_s > 0.0 && reported { vec!["run-queue-wait".to_owned()] } else { Vec::new() },
    };
    Claim { finding, reported }
}

/// How it is known that a thread spun.
struct How<'a> {
    function: Option<&'a SpunFunction>,
    /// By its calls of sched_yield, not by samples.
    measured: bool,
    words: String,
}

impl<'a> How<'a> {
    fn of(thread: &'a Thread) -> Self {
        let spinning = thread.spinning.as_ref();
        let function = spinning.and_then(|spinning| spinning.functions.first());
        let sampled_s = spinning.map_or(0.0, |spinning| {
            let on_cpu_s = state_s(thread, "on_cpu") + state_s(thread, "spinning");
            if spinning.of_samples > 0 { on_cpu_s * spinning.samples as f64 / spinning.of_samples as f64 } else { 0.0 }
        });
        let measured = spinning.is_some_and(|spinning| spinning.yielded_s >= sampled_s);
        let words = match function {
            Some(function) => {
                let caller = function.caller.as_ref().and_then(functions::words);
                let called = caller.map(|caller| format!(", called by {caller}")).unwrap_or_default();
                let name = functions::words(&function.location).unwrap_or_else(|| "a function that waits".to_owned());
                format!("waiting for {} in {name}{called}", function.waits_for)
            }
            None => "giving it up with sched_yield over and over".to_owned(),
        };
        How { function, measured, words }
    }
}

fn summary(report: &Report, spinner: &Thread, how: &How<'_>, victims: &[Victim<'_>]) -> String {
    let wall_s = report.window.duration_s;
    let spun_s = state_s(spinner, "spinning");
    let spun = format!(
        "{} spun for {} of CPU time ({} of {}), {}",
        named(spinner),
        duration(spun_s),
        percent(spun_s / wall_s),
        duration(wall_s),
        how.words
    );
    match victims.first() {
        None => format!("{spun}; no thread with work waited for its CPU"),
        Some(worst) => {
            let others = victims.len() as u64 - 1;
            let more = if others > 0 { format!(", {} in all", count(others + 1, "thread")) } else { String::new() };
            let victim = named(worst.thread);
            format!("{spun}; meanwhile {victim} was ready and waited {} for that CPU{more}", duration(worst.lost_s))
        }
    }
}

fn hypothesis(how: &How<'_>, reported: bool) -> String {
    let known = if how.measured {
        "That it spins is measured by its calls of sched_yield."
    } else {
        "How long it spins is estimated from samples."
    };
    if reported {
        format!(
            "A thread that looks again and again whether it may go on takes its share of a CPU like one that works, and threads with work \
             get the rest. {known} The seconds lost are those for which the thread that queued longest behind it was ready."
        )
    } else {
        format!("A thread that spins costs no time as long as nobody else wants its CPU, only power. {known}")
    }
}

fn facts(report: &Report, index: usize, spinner: &Thread, victims: &[Victim<'_>]) -> Vec<Evidence> {
    let wall_s = report.window.duration_s;
    let at = |field: &str| format!("/threads/{index}/{field}");
    let mut facts = vec![evidence(
        "CPU time spent spinning",
        state_s(spinner, "spinning"),
        "s",
        at("states/spinning"),
        Some(("wall time", wall_s)),
    )];
    if let Some(spinning) = &spinner.spinning {
        let of = Some(("samples of the thread", spinning.of_samples as f64));
        facts.push(evidence(
            "samples in functions that wait",
            spinning.samples as f64,
            "1",
            at("spinning/samples"),
            of,
        ));
        if spinning.yields > 0 {
            let metric = format!("CPU time between its {} calls of sched_yield", grouped(spinning.yields));
            facts.push(evidence(&metric, spinning.yielded_s, "s", at("spinning/yielded_s"), None));
        }
    }
    facts.extend(victims.iter().take(2).filter_map(|victim| {
        let row = victim.thread.queued.as_ref()?.behind.get(victim.row)?;
        let source = format!("/threads/{}/queued/behind/{}/total_s", victim.index, victim.row);
        let threshold = Some(("reporting threshold", REPORTED_SHARE * wall_s));
        Some(evidence(
            &format!("time that {} was ready behind it", named(victim.thread)),
            row.total_s,
            "s",
            source,
            threshold,
        ))
    }));
    facts
}

/// A spinner as the one who had the CPUs of others, for rules about queues: how many threads spin for a good part of the time.
pub(super) fn wanting(report: &Report, least_share: f64) -> u64 {
    let least_s = least_share * report.window.duration_s;
    let spins = |thread: &Thread| {
        let present_s = state_s(thread, "on_cpu") + state_s(thread, "spinning") + state_s(thread, "runnable");
        share(thread) * present_s >= least_s
    };
    threads(report).filter(|(_, thread)| spins(thread)).count() as u64
}

/// The workload's thread that spun most.
pub(super) fn worst(report: &Report) -> Option<&Thread> {
    spinners(report).into_iter().next().map(|(_, thread)| thread)
}
