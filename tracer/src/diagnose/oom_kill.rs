//! `oom-kill`: the kernel killed a process of the target for want of memory. It says so itself, so nothing is inferred but who made the
//! memory grow: the process of the target with most anonymous memory, and the function that touched most of it.

use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties};
use crate::model::paging::{FaultFunction, OomKill as Kill, ProcessFaults};
use crate::model::report::{Evidence, Finding, Report, Severity, Subject};
use crate::model::units::{bytes, duration};

/// See the file's head.
pub struct OomKill;

/// The kernel said it.
const TOLD: f64 = 0.95;

impl Rule for OomKill {
    fn class(&self) -> &'static str {
        "oom-kill"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(kills) = report.paging.as_ref().and_then(|paging| paging.kills.as_ref()) else {
            return Outcome::CouldNotRun("the family oom did not run, which sees kills for want of memory".to_owned());
        };
        if kills.is_empty() {
            return Outcome::Silent("the kernel killed no traced process for want of memory".to_owned());
        }
        Outcome::Claims(kills.iter().enumerate().map(|(index, kill)| claim(report, index, kill)).collect())
    }
}

/// Memory that cannot be dropped and read again.
fn held(kill: &Kill) -> u64 {
    kill.anonymous_bytes.saturating_add(kill.shared_bytes)
}

fn anonymous(faults: &ProcessFaults) -> u64 {
    faults.anonymous_most_bytes.unwrap_or(0)
}

/// The process that held most.
fn largest(report: &Report) -> Option<(usize, &ProcessFaults)> {
    let all = report.paging.as_ref()?.faults.as_ref()?;
    all.iter().enumerate().max_by_key(|(index, faults)| (anonymous(faults), std::cmp::Reverse(*index)))
}

fn growing(faults: &ProcessFaults) -> Option<(usize, &FaultFunction)> {
    faults
        .functions
        .iter()
        .enumerate()
        .find(|(_, function)| ["anonymous", "anonymous_huge"].contains(&function.kind.as_str()))
}

fn claim(report: &Report, index: usize, kill: &Kill) -> Claim {
    let process = (kill.whose.pid, kill.whose.process.as_ref());
    let mut victim = parties::party(report, process, (kill.whose.tid.unwrap_or(0), kill.whose.thread.as_ref()));
    let who = match (kill.whose.pid, kill.whose.process.as_deref()) {
        (Some(pid), name) => parties::named("process", name, pid),
        (None, name) => format!("process {}", name.unwrap_or("without a known name")),
    };
    let grown = largest(report).filter(|(_, faults)| anonymous(faults) >= held(kill) / 2);
    let function = grown.and_then(|(_, faults)| growing(faults));
    let culprit = grown.map_or_else(
        || victim.clone(),
        |(_, faults)| {
            let mut culprit = if Some(faults.pid) == kill.whose.pid {
                victim.clone()
            } else {
                Subject { process: faults.process.clone(), pid: Some(faults.pid), ..Subject::default() }
            };
            if let Some((_, function)) = function {
                functions::point_at(&mut culprit, &function.location);
            }
            culprit
        },
    );
    victim.tid = kill.whose.tid;
    let by_itself = Some(kill.by_pid) == kill.whose.pid;
    let asked = if by_itself { String::new() } else { format!(" when process {} asked for more", kill.by_pid) };
    let place = victim.cgroup.as_ref().filter(|cgroup| *cgroup != "/").map(|cgroup| format!(" (cgroup {cgroup})"));
    let called = function.and_then(|(_, function)| functions::words(&function.location));
    let grew = called.map(|called| format!("; most of that memory was touched in {called}")).unwrap_or_default();
    let finding = Finding {
        class: OomKill.class().to_owned(),
        rank: 0,
        severity: Severity::Critical,
        confidence: confidence(report, TOLD),
        summary: format!(
            "the kernel killed {who}{} after {} for want of memory{asked}; it held {}{grew}",
            place.unwrap_or_default(),
            duration(kill.t_s),
            bytes(held(kill)),
        ),
        lost_s: None,
        share_of_wall: None,
        speedup_bound: None,
        culprit: Some(culprit),
        victims: vec![victim],
        evidence: evidences(index, kill, grown, function),
        hypothesis: "A limit of a cgroup, or the host's memory, was used up, and nothing was left that could be freed: memory that programs \
                     wrote to cannot be dropped without swap. The kernel then kills the process that it expects to free most."
            .to_owned(),
        fix: "Find out whether the memory is needed (the function above) or kept by mistake: bound caches and queues, release what a step no \
              longer needs, load data in pieces; fewer workers or smaller batches; or raise the limit above what the job needs at its \
              largest."
            .to_owned(),
        experiment: format!(
            "Run it with half the batch size or half the workers, or with a limit above {}: it must live, and its memory must level off.",
            bytes(held(kill).saturating_mul(2))
        ),
        consequences: Vec::new(),
    };
    Claim { finding, reported: true }
}

fn evidences(
    index: usize,
    kill: &Kill,
    grown: Option<(usize, &ProcessFaults)>,
    function: Option<(usize, &FaultFunction)>,
) -> Vec<Evidence> {
    let at = |field: &str| format!("/paging/kills/{index}/{field}");
    let mut list = vec![
        evidence("anonymous memory when it was chosen", kill.anonymous_bytes as f64, "B", at("anonymous_bytes"), None),
        evidence("time of the kill since the start", kill.t_s, "s", at("t_s"), None),
    ];
    for (what, held, field) in [
        ("shared memory", kill.shared_bytes, "shared_bytes"),
        ("mapped files, which could be dropped", kill.file_bytes, "file_bytes"),
        ("swapped out", kill.swapped_bytes, "swapped_bytes"),
    ] {
        if held > 0 {
            list.push(evidence(what, held as f64, "B", at(field), None));
        }
    }
    if let Some((row, faults)) = grown {
        let source = |field: &str| format!("/paging/faults/{row}/{field}");
        if let Some(most) = faults.anonymous_most_bytes {
            list.push(evidence(
                "most anonymous memory of the process that held most",
                most as f64,
                "B",
                source("anonymous_most_bytes"),
                None,
            ));
        }
        if let Some((number, function)) = function {
            let share = source(&format!("functions/{number}/share"));
            list.push(evidence(
                "share of its first touches in the function, by stacks",
                function.share,
                "1",
                share,
                None,
            ));
        }
    }
    list
}
