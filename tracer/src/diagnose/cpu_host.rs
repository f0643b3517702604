//! `cpu-steal` and `irq-load`: the CPUs were busy with something that is no thread of this host, or with interrupts. Threads count as
//! on a CPU meanwhile. The kernel's counters tell it for the whole host only, so how it hit a thread is inferred: by its share.

use std::cmp::Ordering;

use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, named, subject, threads};
use crate::model::report::{Finding, HostCpu, Report, Thread};
use crate::model::units::{duration, percent};

/// See the file's head.
pub struct CpuSteal;
/// See the file's head.
pub struct IrqLoad;

/// Shares of a whole host, laid over one thread.
const CORRELATED: f64 = 0.5;
/// The counters grow by ticks all the time: so many make a share.
const EVENTS: u64 = u64::MAX;

/// What a rule of this file is about.
struct Kind {
    class: &'static str,
    share: fn(&HostCpu) -> f64,
    source: &'static str,
    who: &'static str,
    hypothesis: &'static str,
    fix: &'static str,
    experiment: &'static str,
}

const STEAL: Kind = Kind {
    class: "cpu-steal",
    share: |host| host.steal_share,
    source: "/cpu/host/steal_share",
    who: "the hypervisor gave to others",
    hypothesis: "This is a virtual machine whose CPUs are not its own alone: the hypervisor runs others on them. Threads look \
                 like running, and progress is slow.",
    fix: "Move to a host with CPUs of its own (dedicated or pinned ones), or to one that is less crowded. Nothing in the program \
          helps.",
    experiment: "Run the same on a host without steal (column st of vmstat), or at another time of day.",
};

const IRQ: Kind = Kind {
    class: "irq-load",
    share: |host| host.irq_share,
    source: "/cpu/host/irq_share",
    who: "went into interrupts and their work",
    hypothesis: "Devices interrupt the CPUs that the threads run on, most often a network; the time is charged to the threads.",
    fix: "Spread interrupts over CPUs (irqbalance, RPS), or keep them and the threads on different ones \
          (/proc/irq/*/smp_affinity, taskset).",
    experiment: "Bind the threads to CPUs that take no interrupts (see /proc/interrupts and /proc/softirqs): the wall time must \
                 fall.",
};

impl Rule for CpuSteal {
    fn class(&self) -> &'static str {
        STEAL.class
    }

    fn is_proven(&self) -> bool {
        false
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        check(facts.report, &STEAL)
    }
}

impl Rule for IrqLoad {
    fn class(&self) -> &'static str {
        IRQ.class
    }

    fn is_proven(&self) -> bool {
        false
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        check(facts.report, &IRQ)
    }
}

fn check(report: &Report, kind: &Kind) -> Outcome {
    let Some(host) = report.cpu.as_ref().and_then(|cpu| cpu.host.as_ref()) else {
        return Outcome::CouldNotRun("the counters of the host's CPUs were not read".to_owned());
    };
    let share = (kind.share)(host);
    let on_cpu_s = |thread: &Thread| thread.states.get("on_cpu").copied().unwrap_or(0.0);
    // Where it is known whom it hit, that one.
    let hit = |thread: &Thread| (thread.taken_s.unwrap_or(0.0), on_cpu_s(thread));
    let by_hit = |a: &Thread, b: &Thread| hit(a).partial_cmp(&hit(b)).unwrap_or(Ordering::Equal);
    let busiest = threads(report).max_by(|a, b| by_hit(a.1, b.1).then(b.0.cmp(&a.0)));
    let Some((index, thread)) = busiest.filter(|_| share >= REPORTED_SHARE) else {
        return Outcome::Silent(format!("{} of the time in which the CPUs had work {}", percent(share), kind.who));
    };
    Outcome::Claims(vec![claim(report, kind, share, (index, thread, on_cpu_s(thread)))])
}

fn claim(report: &Report, kind: &Kind, share: f64, (index, thread, on_cpu_s): (usize, &Thread, f64)) -> Claim {
    let wall_s = report.window.duration_s;
    let lost_s = (share * on_cpu_s).max(thread.taken_s.unwrap_or(0.0));
    let taken = thread.taken_s.map(|taken_s| {
        let metric = "time that its own account of this leaves out, steal and interrupts together, at least";
        evidence(metric, taken_s, "s", format!("/threads/{index}/taken_s"), None)
    });
    let finding = Finding {
        class: kind.class.to_owned(),
        rank: 0,
        severity: severity(lost_s, wall_s),
        confidence: confidence(report, CORRELATED),
        summary: format!(
            "{} of the time in which the host's CPUs had work {}; of the {} that {} was on a CPU that would be {}",
            percent(share),
            kind.who,
            duration(on_cpu_s),
            named(thread),
            duration(lost_s),
        ),
        lost_s: Some(lost_s),
        share_of_wall: None,
        speedup_bound: speedup_bound(lost_s, wall_s),
        culprit: None,
        victims: vec![subject(thread)],
        evidence: [
            Some(evidence(
                &format!("share of the CPUs' time that {}", kind.who),
                share,
                "1",
                kind.source.to_owned(),
                Some(("reporting threshold", REPORTED_SHARE)),
            )),
            Some(evidence(
                "CPU time of the busiest thread",
                on_cpu_s,
                "s",
                format!("/threads/{index}/states/on_cpu"),
                Some(("wall time", wall_s)),
            )),
            taken,
        ]
        .into_iter()
        .flatten()
        .collect(),
        hypothesis: kind.hypothesis.to_owned(),
        fix: kind.fix.to_owned(),
        experiment: kind.experiment.to_owned(),
        consequences: Vec::new(),
    };
    Claim { finding, reported: is_reported(lost_s, wall_s, EVENTS, 0.0) }
}
