//! Rules about waiting in a run queue, told apart by who had the CPU meanwhile: `low-priority` (threads with a better priority),
//! `cpu-oversubscription` (the workload's own threads), `run-queue-wait` (others). Time that a quota takes is not among it.
//!
//! Waits of microseconds, as of two threads that wake each other on one CPU, are handing over, not crowding: the mean wait of what
//! is judged here must be longer.

use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{
    Claim, Facts, Outcome, Rule, confidence, evidence, functions, named, spin_wait, state_s, subject, threads,
};
use crate::model::report::{Evidence, Finding, Queued, QueuedBehind, Report, Subject, Thread};
use crate::model::units::{count, duration, percent};

/// See the file's head.
pub struct LowPriority;
/// See the file's head.
pub struct CpuOversubscription;
/// See the file's head.
pub struct RunQueueWait;

/// The waits are measured; who had the CPU is inferred from who had it at their ends.
const INFERRED: f64 = 0.75;
/// And so is that the waiting costs time: threads that share CPUs fairly and wait for nobody lose nothing.
const ORDINARY: f64 = 0.65;
/// Waits shorter than this on average are handing over.
const LEAST_MEAN_S: f64 = 0.000_2;
/// Less than this share of the wall time every thread on every host waits for a CPU.
const LEAST_SHARE: f64 = 0.01;
/// A thread wants a CPU if it has or awaits one for this share of the wall time.
const WANTS_SHARE: f64 = 0.2;
/// CPUs are idle while a thread waits, if another one was idle for this share of the wall time.
const IDLE_SHARE: f64 = 0.3;

/// Of the CPU time, from which spinning is worth a word.
const SPUN_SHARE: f64 = 0.05;

const MAX_VICTIMS: usize = 8;
const MAX_NAMED: usize = 3;

/// The thread that lost most to something, and all that lost anything worth a word.
struct Worst<'a> {
    index: usize,
    thread: &'a Thread,
    queued: &'a Queued,
    lost_s: f64,
    /// What else it would not lose, for the same reason: time that it spins.
    besides_s: f64,
    victims: Vec<Subject>,
}

impl Worst<'_> {
    fn at_most_s(&self, wall_s: f64) -> f64 {
        (self.lost_s + self.besides_s).min(wall_s)
    }
}

/// Finds the thread for which `lost_s` is greatest.
fn worst(report: &Report, lost_s: fn(&Queued) -> f64) -> Option<Worst<'_>> {
    let least_s = LEAST_SHARE * report.window.duration_s;
    let mut all: Vec<(usize, &Thread, &Queued, f64)> = threads(report)
        .filter_map(|(index, thread)| {
            let queued = thread.queued.as_ref()?;
            let total_s = queued.siblings_s + queued.others_s + queued.idle_s + queued.unknown_s;
            let long = total_s >= LEAST_MEAN_S * queued.waits as f64;
            Some((index, thread, queued, lost_s(queued))).filter(|(.., lost_s)| long && *lost_s > least_s)
        })
        .collect();
    all.sort_by(|a, b| b.3.total_cmp(&a.3).then(a.0.cmp(&b.0)));
    let (index, thread, queued, lost_s) = *all.first()?;
    let worth = all.iter().take_while(|(.., own_s)| *own_s >= lost_s / 10.0);
    let victims = worth.take(MAX_VICTIMS).map(|(_, thread, ..)| subject(thread)).collect();
    Some(Worst { index, thread, queued, lost_s, besides_s: 0.0, victims })
}

/// What the three rules have in common.
struct Text {
    class: &'static str,
    own_confidence: f64,
    summary: String,
    culprit: Option<Subject>,
    evidence: Vec<Evidence>,
    hypothesis: String,
    fix: String,
    experiment: String,
}

fn claim(report: &Report, worst: &Worst<'_>, text: Text) -> Claim {
    let wall_s = report.window.duration_s;
    let lost_s = worst.at_most_s(wall_s);
    let finding = Finding {
        class: text.class.to_owned(),
        rank: 0,
        severity: severity(lost_s, wall_s),
        confidence: confidence(report, text.own_confidence),
        summary: text.summary,
        lost_s: Some(lost_s),
        share_of_wall: None,
        speedup_bound: speedup_bound(lost_s, wall_s),
        culprit: text.culprit,
        victims: worst.victims.clone(),
        evidence: text.evidence,
        hypothesis: text.hypothesis,
        fix: text.fix,
        experiment: text.experiment,
        consequences: Vec::new(),
    };
    let reported = is_reported(lost_s, wall_s, worst.queued.passed_over, worst.queued.max_s);
    Claim { finding, reported }
}

/// The time lost as evidence, and the waits.
fn lost(report: &Report, worst: &Worst<'_>, field: &str, metric: &str) -> Vec<Evidence> {
    let at = |field: &str| format!("/threads/{}/queued/{field}", worst.index);
    let threshold = ("reporting threshold", REPORTED_SHARE * report.window.duration_s);
    vec![
        evidence(metric, worst.lost_s, "s", at(field), Some(threshold)),
        evidence("its waits for a CPU", worst.queued.waits as f64, "1", at("waits"), None),
        evidence(
            "times that another got the CPU meanwhile",
            worst.queued.passed_over as f64,
            "1",
            at("passed_over"),
            None,
        ),
        evidence("the longest of them", worst.queued.max_s, "s", at("max_s"), None),
    ]
}

/// Of the rows that `wanted` picks the first ones: as words, as culprit and as evidence.
fn behind(worst: &Worst<'_>, wanted: impl Fn(&QueuedBehind) -> bool) -> (Vec<String>, Option<Subject>, Vec<Evidence>) {
    let rows: Vec<(usize, &QueuedBehind)> =
        worst.queued.behind.iter().enumerate().filter(|(_, row)| wanted(row)).take(MAX_NAMED).collect();
    let words = rows.iter().map(|(_, row)| format!("{} ({})", who(row), duration(row.total_s))).collect();
    let culprit = rows.first().map(|(_, row)| Subject {
        process: row.process.clone(),
        pid: row.pid,
        thread: row.thread.clone(),
        tid: Some(row.tid),
        ..Subject::default()
    });
    let evidence = rows.iter().map(|(at, row)| {
        let source = format!("/threads/{}/queued/behind/{at}/total_s", worst.index);
        evidence(&format!("of it behind {}", who(row)), row.total_s, "s", source, None)
    });
    (words, culprit, evidence.collect())
}

/// A thread that had the CPU, by name.
fn who(row: &QueuedBehind) -> String {
    let thread = match &row.thread {
        Some(name) => format!("{name} ({})", row.tid),
        None => format!("thread {}", row.tid),
    };
    match &row.process {
        Some(process) if row.thread.as_ref() != Some(process) => format!("{thread} of {process}"),
        _ => thread,
    }
}

/// CPUs that stood idle although the thread waited, because it may run on few: what to say of it, and its evidence.
fn pinned(report: &Report, worst: &Worst<'_>) -> Option<(String, Evidence)> {
    let (allowed, cpus) = (worst.thread.cpus_allowed?, report.host.cpus?);
    let idle = report.cpu.as_ref()?.host.as_ref()?.idle.first()?;
    if allowed >= cpus || idle.idle_s < IDLE_SHARE * report.window.duration_s {
        return None;
    }
    let words = format!(
        " It may run on {} of {cpus} only, while CPU {} was idle for {}: let it run there too (taskset, cpuset), unless it is bound \
         for a reason.",
        count(u64::from(allowed), "CPU"),
        idle.cpu,
        duration(idle.idle_s)
    );
    let source = "/cpu/host/idle/0/idle_s".to_owned();
    let wall = ("wall time", report.window.duration_s);
    Some((words, evidence(&format!("idle time of CPU {}", idle.cpu), idle.idle_s, "s", source, Some(wall))))
}

fn no_queues(report: &Report) -> Option<Outcome> {
    report.cpu.is_none().then(|| Outcome::CouldNotRun("the family sched did not run".to_owned()))
}

/// The start of each summary: who waited for how long.
fn waited(report: &Report, worst: &Worst<'_>) -> String {
    let wall_s = report.window.duration_s;
    format!(
        "{} was ready but without a CPU for {} ({} of {})",
        named(worst.thread),
        duration(worst.lost_s),
        percent(worst.lost_s / wall_s),
        duration(wall_s)
    )
}

impl Rule for LowPriority {
    fn class(&self) -> &'static str {
        "low-priority"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        if let Some(outcome) = no_queues(report) {
            return outcome;
        }
        // Threads of the kernel and of realtime classes come first by right; a priority is low only if it was lowered.
        let lowered = |queued: &Queued| queued.better_priority_s;
        let Some(mut worst) = worst(report, lowered).filter(|worst| worst.thread.nice.is_some_and(|nice| nice > 0))
        else {
            return Outcome::Silent(
                "no thread of lowered priority waited for long behind one of a better priority".to_owned(),
            );
        };
        let own = worst.thread.nice.unwrap_or(0);
        worst.victims.truncate(1);
        let (words, culprit, rows) = behind(&worst, |row| row.nice.is_some_and(|nice| nice < own));
        let mut facts =
            lost(report, &worst, "better_priority_s", "longest wait of one thread behind better priorities");
        facts.push(evidence("its nice value", f64::from(own), "nice", format!("/threads/{}/nice", worst.index), None));
        facts.extend(rows);
        let text = Text {
            class: self.class(),
            own_confidence: INFERRED,
            summary: format!(
                "{}, behind threads with a better priority than its nice value of {own}: {}",
                waited(report, &worst),
                words.join(", ")
            ),
            culprit,
            evidence: facts,
            hypothesis: "A thread of lower priority gets a small share of a CPU as long as others want it. (Where sessions or containers are \
                         groups of their own for the scheduler, nice values count within each of them only: then these groups' \
                         shares decide.)"
                .to_owned(),
            fix: "Give it the priority of the others (renice, without `nice` in front of the command), lower theirs, or bind \
                  them to different CPUs."
                .to_owned(),
            experiment: format!(
                "Run it with nice 0: the wait must fall, and the wall time with it, by at most {}.",
                duration(worst.lost_s)
            ),
        };
        Outcome::Claims(vec![claim(report, &worst, text)])
    }
}

impl Rule for CpuOversubscription {
    fn class(&self) -> &'static str {
        "cpu-oversubscription"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        if let Some(outcome) = no_queues(report) {
            return outcome;
        }
        if let Some(quota) = facts.earlier.iter().find(|finding| finding.class == "cpu-quota-throttling") {
            return Outcome::Silent(format!("{} explains the run", quota.class));
        }
        let Some(mut worst) = worst(report, |queued| queued.siblings_s) else {
            return Outcome::Silent(
                "no thread waited for a CPU behind another of the workload for as much as 1 % of the wall time, beyond handing over"
                    .to_owned(),
            );
        };
        let wall_s = report.window.duration_s;
        let wanting = wanting(report, wall_s);
        let cpus = report.host.cpus.unwrap_or(u32::MAX);
        let allowed = worst.thread.cpus_allowed.unwrap_or(cpus).min(cpus);
        if wanting <= u64::from(allowed) {
            return Outcome::Silent(format!("{} wanted a CPU, and there were {allowed}", count(wanting, "thread")));
        }
        let spinning = spin_wait::wanting(report, WANTS_SHARE);
        if working(report, wall_s) <= u64::from(allowed) && spinning <= u64::from(allowed) {
            return Outcome::Silent(format!(
                "{} wanted a CPU, and there were {allowed}, but {} that spun would not need one",
                count(wanting, "thread"),
                count(spinning, "thread")
            ));
        }
        // Who it spins for has no CPU.
        worst.besides_s = state_s(worst.thread, "spinning");
        Outcome::Claims(vec![oversubscribed(report, &worst, wanting, allowed)])
    }
}

/// Threads that want a CPU for a good part of the time.
fn wanting(report: &Report, wall_s: f64) -> u64 {
    threads(report).filter(|(_, thread)| present_s(thread) >= WANTS_SHARE * wall_s).count() as u64
}

/// Threads that want a CPU for work for a good part of the time: who spins most of it would not, if it blocked.
fn working(report: &Report, wall_s: f64) -> u64 {
    let works = |thread: &Thread| present_s(thread) * (1.0 - spin_wait::share(thread)) >= WANTS_SHARE * wall_s;
    threads(report).filter(|(_, thread)| works(thread)).count() as u64
}

/// Time in which a thread had a CPU or was ready for one.
fn present_s(thread: &Thread) -> f64 {
    state_s(thread, "on_cpu") + state_s(thread, "spinning") + state_s(thread, "runnable")
}

fn oversubscribed(report: &Report, worst: &Worst<'_>, wanting: u64, allowed: u32) -> Claim {
    let mut facts = lost(report, worst, "siblings_s", "longest wait of one thread behind others of the workload");
    if worst.thread.cpus_allowed == Some(allowed) {
        let source = format!("/threads/{}/cpus_allowed", worst.index);
        facts.push(evidence("CPUs that it may run on", f64::from(allowed), "CPUs", source, None));
    } else if report.host.cpus == Some(allowed) {
        facts.push(evidence("CPUs", f64::from(allowed), "CPUs", "/host/cpus".to_owned(), None));
    }
    if let Some(wanted) = report.cpu.as_ref().and_then(|cpu| cpu.wanted_cpus) {
        facts.push(evidence(
            "CPUs that all threads wanted on average",
            wanted,
            "CPUs",
            "/cpu/wanted_cpus".to_owned(),
            None,
        ));
    }
    if worst.besides_s > 0.0 {
        let source = format!("/threads/{}/states/spinning", worst.index);
        facts.push(evidence("its time on a CPU spinning", worst.besides_s, "s", source, None));
    }
    let (words, _, rows) = behind(worst, |row| row.sibling);
    facts.extend(rows);
    let affinity = pinned(report, worst);
    let advice = affinity.as_ref().map(|(words, _)| words.clone()).unwrap_or_default();
    facts.extend(affinity.map(|(_, idle)| idle));
    let mut spun_words = String::new();
    let spun_s = report.cpu.as_ref().and_then(|cpu| Some((cpu.spinning_s?, cpu.on_cpu_s)));
    let spun_s = spun_s.filter(|(spun_s, on_cpu_s)| *spun_s >= SPUN_SHARE * on_cpu_s);
    if let Some((spun_s, on_cpu_s)) = spun_s {
        let share = percent(spun_s / on_cpu_s);
        spun_words = format!("; {share} of the workload's CPU time was spinning{}", spun_in(report));
        let all = Some(("CPU time", on_cpu_s));
        facts.push(evidence("CPU time spent spinning", spun_s, "s", "/cpu/spinning_s".to_owned(), all));
    }
    let text = Text {
        class: CpuOversubscription.class(),
        own_confidence: ORDINARY,
        summary: format!(
            "{} behind threads of the same workload: {wanting} of them wanted a CPU, on {}; most often {}{spun_words}",
            waited(report, worst),
            count(u64::from(allowed), "CPU"),
            words.join(", ")
        ),
        culprit: Some(Subject { process: worst.thread.process.clone(), pid: worst.thread.pid, ..Subject::default() }),
        evidence: facts,
        hypothesis: "More threads than CPUs take turns. Where they wait for each other (barriers, locks, queues), each such wait is \
                     one for threads that do not run, and those that spin burn the CPUs that the others need. Threads that \
                     wait for nobody only share the CPUs and lose little: the seconds lost are an upper bound."
            .to_owned(),
        fix: format!(
            "Start as many threads as there are CPUs for them: {allowed} in all, not per library or per worker (OMP_NUM_THREADS, \
             torch.set_num_threads, number of workers); OMP_WAIT_POLICY=passive where threads spin.{advice}"
        ),
        experiment: format!(
            "Run the same work with {} in all: the wall time must fall, by at most {}.",
            count(u64::from(allowed), "thread"),
            duration(worst.at_most_s(report.window.duration_s))
        ),
    };
    let mut claim = claim(report, worst, text);
    if spun_s.is_some() {
        claim.finding.consequences.push("spin-wait".to_owned());
    }
    claim
}

/// In which function the thread spun that did so most.
fn spun_in(report: &Report) -> String {
    let function = spin_wait::worst(report)
        .and_then(|thread| functions::words(&thread.spinning.as_ref()?.functions.first()?.location));
    function.map(|function| format!(", most of it in {function}")).unwrap_or_default()
}

impl Rule for RunQueueWait {
    fn class(&self) -> &'static str {
        "run-queue-wait"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        if let Some(outcome) = no_queues(report) {
            return outcome;
        }
        if let Some(priority) = facts.earlier.iter().find(|finding| finding.class == "low-priority") {
            return Outcome::Silent(format!("{} explains the run", priority.class));
        }
        let Some(worst) = worst(report, |queued| queued.others_s) else {
            return Outcome::Silent(
                "no thread waited for a CPU behind others for as much as 1 % of the wall time, beyond handing over"
                    .to_owned(),
            );
        };
        let mut facts = lost(report, &worst, "others_s", "longest wait of one thread behind other programs");
        let (words, culprit, rows) = behind(&worst, |row| !row.sibling);
        facts.extend(rows);
        let unnamed_s = worst.queued.unnamed_s;
        if unnamed_s > 0.0 {
            let source = format!("/threads/{}/queued/unnamed_s", worst.index);
            facts.push(evidence("of it behind threads that were not seen by name", unnamed_s, "s", source, None));
        }
        let most = if words.is_empty() { String::new() } else { format!(", most often {}", words.join(", ")) };
        let affinity = pinned(report, &worst);
        let advice = affinity.as_ref().map(|(words, _)| words.clone()).unwrap_or_default();
        facts.extend(affinity.map(|(_, idle)| idle));
        let text = Text {
            class: self.class(),
            own_confidence: INFERRED,
            summary: format!("{} behind programs that are not part of the workload{most}", waited(report, &worst)),
            culprit,
            evidence: facts,
            hypothesis: "Others use the CPUs that the workload needs. Of a time in which none of its threads ran only who came first \
                         and who was last is seen; both are named where they are the same."
                .to_owned(),
            fix: format!(
                "Stop or move the others, give them a lower priority (nice, SCHED_BATCH, cpu.weight) or CPUs of their own \
                 (cpuset, taskset).{advice}"
            ),
            experiment: format!(
                "Run it while the others do not run: the wait must go, and the wall time fall by at most {}.",
                duration(worst.lost_s)
            ),
        };
        Outcome::Claims(vec![claim(report, &worst, text)])
    }
}
