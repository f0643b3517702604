//! `cpu-bound` (information): the target computes nearly all the time, so only less or faster computing makes it faster. Says
//! nothing where another finding explains the run.

use super::{Claim, Facts, Outcome, Rule, confidence, functions};
use crate::model::report::{Comparison, Evidence, Finding, Report, Row, Severity, Subject, Thread};
use crate::model::units::{duration, percent};

/// See the file's head.
pub struct CpuBound;

/// Share of the wall time from which a thread, or of the host's CPUs from which the target, counts as busy.
const BUSY_SHARE: f64 = 0.85;
/// A run that computes for less than this is over too soon to matter.
const LEAST_S: f64 = 0.5;
/// Share of their time from which the other threads count as computing as well.
const SIBLINGS_COMPUTE: f64 = 0.5;
const ALL_COMPUTE: &str = "The run takes as long as its computing does; no wait limits it.";
/// CPU time is measured, not inferred.
const MEASURED: f64 = 0.95;

impl Rule for CpuBound {
    fn class(&self) -> &'static str {
        "cpu-bound"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let Some(cpu) = &facts.report.cpu else {
            return Outcome::CouldNotRun("the family sched did not run".to_owned());
        };
        if let Some(first) = facts.earlier.first() {
            return Outcome::Silent(format!("{} explains the run", first.class));
        }
        let wall_s = facts.report.window.duration_s;
        if let Some((index, thread, on_cpu_s)) = busiest(facts.report)
            && on_cpu_s >= BUSY_SHARE * wall_s
            && on_cpu_s >= LEAST_S
        {
            return Outcome::Claims(vec![one_thread(facts.report, index, thread, on_cpu_s)]);
        }
        match cpu.cpu_share {
            Some(share) if share >= BUSY_SHARE && cpu.on_cpu_s >= LEAST_S => {
                Outcome::Claims(vec![all_cpus(facts.report, share, cpu.on_cpu_s)])
            }
            Some(share) => Outcome::Silent(format!(
                "no thread was on a CPU for {} of the wall time, and the target used {} of the host's CPUs",
                percent(BUSY_SHARE),
                percent(share)
            )),
            None => Outcome::Silent(format!("no thread was on a CPU for {} of the wall time", percent(BUSY_SHARE))),
        }
    }
}

fn busiest(report: &Report) -> Option<(usize, &Thread, f64)> {
    let mut best: Option<(usize, &Thread, f64)> = None;
    for (index, row) in report.threads.iter().enumerate() {
        let Row::Thread(thread) = row else { continue };
        let on_cpu_s = thread.states.get("on_cpu").copied().unwrap_or(0.0);
        if best.is_none_or(|(_, _, most)| on_cpu_s > most) {
            best = Some((index, thread, on_cpu_s));
        }
    }
    best
}

fn one_thread(report: &Report, index: usize, thread: &Thread, on_cpu_s: f64) -> Claim {
    let wall_s = report.window.duration_s;
    let name = thread.name.as_deref().unwrap_or("without a known name");
    let siblings = Siblings::of(report, thread);
    let hottest = thread.functions.first();
    let words = hottest.and_then(|time| functions::words(&time.location));
    let mostly = words.as_ref().map(|function| format!(", mostly in {function}")).unwrap_or_default();
    let summary = format!(
        "thread {name} ({}) was on a CPU for {} of {} ({}){mostly}{}",
        thread.tid,
        duration(on_cpu_s),
        duration(wall_s),
        percent(on_cpu_s / wall_s),
        siblings.remark(),
    );
    let mut evidence = vec![Evidence {
        metric: "CPU time of the busiest thread".to_owned(),
        value: on_cpu_s,
        unit: "s".to_owned(),
        source: format!("/threads/{index}/states/on_cpu"),
        compared_with: Some(Comparison { what: "wall time".to_owned(), value: wall_s }),
    }];
    evidence.extend(hottest.zip(words.as_ref()).map(|(time, function)| Evidence {
        metric: format!("of it in {function}, by samples"),
        value: time.total_s,
        unit: "s".to_owned(),
        source: format!("/threads/{index}/functions/0/total_s"),
        compared_with: None,
    }));
    let mut culprit = Subject {
        process: thread.process.clone(),
        pid: thread.pid,
        ns_pid: thread.ns_pid,
        thread: thread.name.clone(),
        tid: Some(thread.tid),
        ns_tid: thread.ns_tid,
        function: None,
        file: None,
        line: None,
        lock: None,
        path: None,
        peer: None,
        cgroup: thread.cgroup.clone(),
        container: thread.container.clone(),
    };
    let look = match &words {
        Some(function) => format!("Then make {function} do nothing, or half: that much of the time must go."),
        None => format!("To see where it computes, sample it (perf record -g -t {}).", thread.tid),
    };
    if let Some(time) = hottest {
        functions::point_at(&mut culprit, &time.location);
    }
    let experiment =
        format!("Run it with half of the work of thread {name}: the wall time must fall by about as much. {look}");
    claim(report, summary, evidence, Some(culprit), experiment, siblings.hypothesis())
}

/// What the target's other threads did.
struct Siblings {
    threads: u64,
    on_cpu_s: f64,
    wall_s: f64,
}

impl Siblings {
    fn of(report: &Report, busiest: &Thread) -> Self {
        let mut siblings = Siblings { threads: 0, on_cpu_s: 0.0, wall_s: 0.0 };
        for row in &report.threads {
            let (threads, states, wall_s) = match row {
                Row::Thread(thread) if std::ptr::eq(&**thread, busiest) => continue,
                Row::Thread(thread) => (1, &thread.states, thread.wall_s),
                Row::Others(others) => (others.others, &others.states, others.wall_s),
            };
            siblings.threads += threads;
            siblings.on_cpu_s += states.get("on_cpu").copied().unwrap_or(0.0);
            siblings.wall_s += wall_s;
        }
        siblings
    }

    fn share(&self) -> f64 {
        if self.wall_s > 0.0 { self.on_cpu_s / self.wall_s } else { 0.0 }
    }

    /// Whether one thread of several limits.
    fn idle(&self) -> bool {
        self.threads > 0 && self.share() < SIBLINGS_COMPUTE
    }

    fn remark(&self) -> String {
        let share = percent(self.share());
        match self.threads {
            0 => ": it computes, and hardly waits".to_owned(),
            1 if self.idle() => {
                format!(": this one thread limits; the other one was on a CPU for {share} of its time")
            }
            threads if self.idle() => {
                format!(": this one thread limits; the other {threads} were on a CPU for {share} of their time")
            }
            1 => format!("; the other thread was on a CPU for {share} of its time"),
            threads => format!("; the other {threads} threads were on a CPU for {share} of their time"),
        }
    }

    fn hypothesis(&self) -> String {
        if self.idle() {
            "The run takes as long as the computing of this one thread; the others had a CPU for little of the time."
                .to_owned()
        } else {
            ALL_COMPUTE.to_owned()
        }
    }
}

fn all_cpus(report: &Report, share: f64, on_cpu_s: f64) -> Claim {
    let mut summary = format!(
        "the target used {} of all the host's CPUs ({} of CPU time in {})",
        percent(share),
        duration(on_cpu_s),
        duration(report.window.duration_s)
    );
    let mut evidence = vec![Evidence {
        metric: "share of the host's CPUs".to_owned(),
        value: share,
        unit: "1".to_owned(),
        source: "/cpu/cpu_share".to_owned(),
        compared_with: Some(Comparison { what: "threshold".to_owned(), value: BUSY_SHARE }),
    }];
    let hottest = report.stacks.as_ref().and_then(|stacks| stacks.functions.first());
    let culprit = hottest.and_then(|hottest| {
        let words = functions::words(&hottest.location)?;
        summary.push_str(&format!(", {} of it in {words}", percent(hottest.self_share)));
        evidence.push(Evidence {
            metric: format!("CPU time in {words}, by samples"),
            value: hottest.self_s,
            unit: "s".to_owned(),
            source: "/stacks/functions/0/self_s".to_owned(),
            compared_with: None,
        });
        let mut culprit = Subject::default();
        functions::point_at(&mut culprit, &hottest.location);
        Some(culprit)
    });
    let experiment =
        "Run it on a host with more CPUs, or with half of the work: the wall time must fall by as much.".to_owned();
    claim(report, summary, evidence, culprit, experiment, ALL_COMPUTE.to_owned())
}

fn claim(
    report: &Report,
    summary: String,
    evidence: Vec<Evidence>,
    culprit: Option<Subject>,
    experiment: String,
    hypothesis: String,
) -> Claim {
    let finding = Finding {
        class: CpuBound.class().to_owned(),
        rank: 0,
        severity: Severity::Info,
        confidence: confidence(report, MEASURED),
        summary,
        lost_s: None,
        share_of_wall: None,
        speedup_bound: None,
        culprit,
        victims: Vec::new(),
        evidence,
        hypothesis,
        fix: "Compute less or faster: a better algorithm, native code for the hot loop, or more threads where the work divides."
            .to_owned(),
        experiment,
        consequences: Vec::new(),
    };
    Claim { finding, reported: true }
}
