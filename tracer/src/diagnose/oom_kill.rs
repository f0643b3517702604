//! `oom-kill`: the kernel killed a process of the target for want of memory. It says so itself, so nothing is inferred but who made the
//! memory grow: the process of the target with most anonymous memory, and the function that touched most of it.

use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, memory_limits, parties};
use crate::model::memory::{CgroupSizes, Forecast, ProcessSizes, Sizes};
use crate::model::paging::{FaultFunction, OomKill as Kill, ProcessFaults};
use crate::model::report::{Evidence, Finding, Report, Severity, Subject};
use crate::model::units::{bytes, count, duration};

/// See the file's head.
pub struct OomKill;

/// The kernel said it.
const TOLD: f64 = 0.95;
/// A counter said that it happened, and whom it hit is not known.
const COUNTED: f64 = 0.7;

impl Rule for OomKill {
    fn class(&self) -> &'static str {
        "oom-kill"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(kills) = report.paging.as_ref().and_then(|paging| paging.kills.as_ref()) else {
            let counted: Vec<Claim> =
                counted(report).map(|(index, cgroup)| of_counter(report, index, cgroup)).collect();
            if counted.is_empty() {
                return Outcome::CouldNotRun(
                    "the family oom did not run, which sees kills for want of memory".to_owned(),
                );
            }
            return Outcome::Claims(counted);
        };
        if kills.is_empty() {
            let others = counted(report).next().map(|(_, cgroup)| {
                format!("; cgroup {} counts {}, of others", cgroup.path, count(kills_in(cgroup), "such kill"))
            });
            let others = others.unwrap_or_default();
            return Outcome::Silent(format!("the kernel killed no traced process for want of memory{others}"));
        }
        Outcome::Claims(kills.iter().enumerate().map(|(index, kill)| claim(report, index, kill)).collect())
    }
}

/// Cgroups in which the kernel killed processes meanwhile, by their own counters.
fn counted(report: &Report) -> impl Iterator<Item = (usize, &CgroupSizes)> {
    let all = report.memory.iter().flat_map(|memory| &memory.cgroups).enumerate();
    // Those above count the same kills.
    let below = |path: &str| {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        let all = report.memory.iter().flat_map(|memory| &memory.cgroups);
        all.filter(move |other| other.path.starts_with(&prefix)).filter_map(|other| other.oom_kills).max().unwrap_or(0)
    };
    all.filter(move |(_, cgroup)| kills_in(cgroup) > below(&cgroup.path))
}

fn kills_in(cgroup: &CgroupSizes) -> u64 {
    cgroup.oom_kills.unwrap_or(0)
}

/// What a cgroup's counter alone tells: that it happened there, not to whom.
fn of_counter(report: &Report, index: usize, cgroup: &CgroupSizes) -> Claim {
    let largest = holders(report, Some(&cgroup.path)).next();
    let held = largest.map(|(_, process)| {
        let who = parties::named("process", process.process.as_deref(), process.pid);
        format!("; most was held by {who}, {} at its last reading", bytes(unreclaimable(&process.last)))
    });
    let source = format!("/memory/cgroups/{index}/oom_kills");
    let mut list = vec![evidence("kills that the cgroup counted", kills_in(cgroup) as f64, "1", source, None)];
    list.extend(around(report, Some(&cgroup.path)));
    let finding = Finding {
        confidence: confidence(report, COUNTED),
        summary: format!(
            "the kernel killed {} of cgroup {} for want of memory; whom is not known, since the family oom did not run{}",
            count(kills_in(cgroup), "process"),
            cgroup.path,
            held.unwrap_or_default()
        ),
        culprit: Some(match largest {
            Some((_, process)) => Subject {
                process: process.process.clone(),
                pid: Some(process.pid),
                cgroup: Some(cgroup.path.clone()),
                ..Subject::default()
            },
            None => Subject { cgroup: Some(cgroup.path.clone()), ..Subject::default() },
        }),
        evidence: list,
        ..told(unreclaimable(&largest.map(|(_, process)| process.last).unwrap_or_default()))
    };
    Claim { finding, reported: true }
}

fn unreclaimable(sizes: &Sizes) -> u64 {
    sizes.anonymous_bytes.saturating_add(sizes.shared_bytes)
}

/// Who held memory that cannot be dropped in this cgroup and below it, at the last reading; most first.
fn holders<'a>(report: &'a Report, cgroup: Option<&str>) -> impl Iterator<Item = (usize, &'a ProcessSizes)> {
    let inside = |path: Option<&String>| match (cgroup, path) {
        (Some(cgroup), Some(path)) => {
            path.strip_prefix(cgroup.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        _ => cgroup.is_none(),
    };
    let all = report.memory.iter().flat_map(|memory| &memory.processes).enumerate();
    let mut all: Vec<(usize, &ProcessSizes)> = all.filter(|(_, process)| inside(process.cgroup.as_ref())).collect();
    all.sort_by_key(|(index, process)| (std::cmp::Reverse(unreclaimable(&process.last)), *index));
    all.into_iter()
}

/// The limit that binds, who held what at the end, and when it was first foreseen.
fn around(report: &Report, cgroup: Option<&str>) -> Vec<Evidence> {
    let mut list = memory_limits::evidences(report, cgroup);
    for (row, process) in holders(report, cgroup).take(MAX_HOLDERS) {
        let who = parties::named("process", process.process.as_deref(), process.pid);
        let metric = format!("anonymous memory of {who} at its last reading");
        let source = format!("/memory/processes/{row}/last/anonymous_bytes");
        list.push(evidence(&metric, process.last.anonymous_bytes as f64, "B", source, None));
    }
    let forecasts = report.memory.iter().flat_map(|memory| &memory.forecasts).enumerate();
    let ours = |forecast: &Forecast| {
        cgroup.is_none_or(|cgroup| forecast.cgroup.as_ref().is_some_and(|of| cgroup.starts_with(of)))
    };
    if let Some((row, first)) = forecasts.into_iter().find(|(_, forecast)| ours(forecast)) {
        let at = |field: &str| format!("/memory/forecasts/{row}/{field}");
        list.push(evidence("when that was first foreseen", first.t_s, "s", at("t_s"), None));
        list.push(evidence("time that was foreseen then", first.eta_s, "s", at("eta_s"), None));
    }
    list
}

/// Processes that are told of.
const MAX_HOLDERS: usize = 4;

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

fn claim(report: &Report, index: usize, kill: &Kill) -> Claim {
    let process = (kill.whose.pid, kill.whose.process.as_ref());
    let mut victim = parties::party(report, process, (kill.whose.tid.unwrap_or(0), kill.whose.thread.as_ref()));
    let who = match (kill.whose.pid, kill.whose.process.as_deref()) {
        (Some(pid), name) => parties::named("process", name, pid),
        (None, name) => format!("process {}", name.unwrap_or("without a known name")),
    };
    let grown = largest(report).filter(|(_, faults)| anonymous(faults) >= held(kill) / 2);
    let function = grown.and_then(|(_, faults)| faults.touching());
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
    let mut list = evidences(index, kill, grown, function);
    list.extend(around(report, victim.cgroup.as_deref().filter(|cgroup| *cgroup != "/")));
    let finding = Finding {
        confidence: confidence(report, TOLD),
        summary: format!(
            "the kernel killed {who}{} after {} for want of memory{asked}; it held {}{grew}",
            place.unwrap_or_default(),
            duration(kill.t_s),
            bytes(held(kill)),
        ),
        culprit: Some(culprit),
        victims: vec![victim],
        evidence: list,
        ..told(held(kill))
    };
    Claim { finding, reported: true }
}

/// What is to be said of each, of which a process held so much.
fn told(held: u64) -> Finding {
    Finding {
        class: OomKill.class().to_owned(),
        rank: 0,
        severity: Severity::Critical,
        confidence: 0.0,
        summary: String::new(),
        lost_s: None,
        share_of_wall: None,
        speedup_bound: None,
        culprit: None,
        victims: Vec::new(),
        evidence: Vec::new(),
        hypothesis: "A limit of a cgroup, or the host's memory, was used up, and nothing was left that could be freed: memory that programs \
                     wrote to cannot be dropped without swap. The kernel then kills the process that it expects to free most."
            .to_owned(),
        fix: "Find out whether the memory is needed (the function above) or kept by mistake: bound caches and queues, release what a step no \
              longer needs, load data in pieces; fewer workers or smaller batches; or raise the limit above what the job needs at its \
              largest."
            .to_owned(),
        experiment: format!(
            "Run it with half the batch size or half the workers, or with a limit above {}: it must live, and its memory must level off.",
            bytes(held.saturating_mul(2))
        ),
        consequences: Vec::new(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::memory::Memory;
    use crate::model::paging::Paging;

    fn report(kills: Option<Vec<Kill>>) -> Report {
        let cgroup = |path: &str, oom_kills| CgroupSizes {
            path: path.to_owned(),
            limit_bytes: Some(1 << 20),
            oom_kills,
            ..CgroupSizes::default()
        };
        let process = |pid, cgroup: &str, anonymous_bytes| ProcessSizes {
            pid,
            cgroup: Some(cgroup.to_owned()),
            last: Sizes { anonymous_bytes, ..Sizes::default() },
            ..ProcessSizes::default()
        };
        let memory = Memory {
            cgroups: vec![cgroup("/pod", Some(2)), cgroup("/pod/a", Some(2)), cgroup("/podium", Some(0))],
            processes: vec![
                process(7, "/other", 9 << 20),
                process(8, "/pod/a", 1 << 20),
                process(9, "/pod/a/b", 2 << 20),
            ],
            ..Memory::default()
        };
        let mut report = crate::testing::contended_report();
        report.memory = Some(memory);
        report.paging = Some(Paging { kills, ..Paging::default() });
        report
    }

    fn check(report: &Report) -> Outcome {
        OomKill.check(&Facts { report, earlier: &[] })
    }

    #[test]
    fn a_cgroups_counter_tells_of_kills_where_nobody_saw_them() {
        let report = report(None);
        let Outcome::Claims(claims) = check(&report) else { panic!("it was counted") };
        let [claim] = &claims[..] else { panic!("one cgroup, not the one above it that counts the same") };
        let finding = &claim.finding;
        assert!(finding.summary.contains("killed 2 processes of cgroup /pod/a"), "{}", finding.summary);
        let culprit = finding.culprit.as_ref().expect("who held most there");
        assert_eq!((culprit.pid, culprit.cgroup.as_deref()), (Some(9), Some("/pod/a")));
        let value = serde_json::to_value(&report).expect("a report");
        for evidence in &finding.evidence {
            let at = value.pointer(&evidence.source).and_then(serde_json::Value::as_f64);
            assert_eq!(at, Some(evidence.value), "{evidence:?}");
        }
    }

    #[test]
    fn kills_of_others_are_told_and_no_finding() {
        let Outcome::Silent(reason) = check(&report(Some(Vec::new()))) else { panic!("no traced process was killed") };
        assert!(reason.contains("cgroup /pod/a counts 2 such kills, of others"), "{reason}");
    }
}
