//! `numa-remote`: memory of a process lies on another NUMA node than the CPUs on which its threads run, so that each access that misses the
//! caches takes longer and shares the link between the nodes. How often that is, only counters in the hardware tell, which are not
//! read here: no seconds are claimed, and the confidence is that of a correlation. Look-alikes: threads on all nodes each of which uses
//! the memory near it, and memory that is spread over the nodes on purpose.

use super::{Claim, Facts, Outcome, Rule, confidence, evidence, parties};
use crate::model::memory::{Numa, NumaPart, NumaProcess};
use crate::model::report::{Evidence, Finding, Report, Severity, Subject};
use crate::model::units::{bytes, count, duration, grouped, percent};

/// See the file's head.
pub struct NumaRemote;

/// Where memory lies and where threads run are both known; that the ones use the other, and how much, is not.
const CORRELATED: f64 = 0.5;
/// From this part of its memory on that must be remote, whoever uses what of it, a process is told of.
const LEAST_REMOTE: f64 = 0.25;
/// Less memory is kept in caches for the most part.
const LEAST_BYTES: u64 = 256 << 20;
/// Who ran less than this, and less than this share of the time, was not slowed down by it.
const LEAST_RAN_S: f64 = 0.5;
const LEAST_RAN: f64 = 0.05;
/// From this part of its memory on it was spread on purpose.
const ON_PURPOSE: f64 = 0.5;

impl Rule for NumaRemote {
    fn class(&self) -> &'static str {
        "numa-remote"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(memory) = &report.memory else {
            return Outcome::CouldNotRun("the family rss did not run, which reads where memory lies".to_owned());
        };
        let Some(numa) = &memory.numa else {
            return Outcome::CouldNotRun("the host's NUMA nodes were not read".to_owned());
        };
        if numa.nodes.len() < 2 {
            return Outcome::Silent("this host has one NUMA node".to_owned());
        }
        let wall_s = report.window.duration_s;
        let told = |(_, process): &(usize, &NumaProcess)| {
            let ran = process.on_cpu_s >= LEAST_RAN_S && process.on_cpu_s >= LEAST_RAN * wall_s;
            let remote = process.least_remote_share.is_some_and(|share| share >= LEAST_REMOTE);
            ran && remote && process.resident_bytes >= LEAST_BYTES
        };
        let claims: Vec<Claim> =
            numa.processes.iter().enumerate().filter(told).map(|at| Case::new(report, numa, at).claim()).collect();
        if claims.is_empty() { Outcome::Silent(silent(numa)) } else { Outcome::Claims(claims) }
    }
}

/// Why there is nothing to say.
fn silent(numa: &Numa) -> String {
    let nodes = count(numa.nodes.len() as u64, "NUMA node");
    let shares = numa.processes.iter().filter_map(|process| Some((process.least_remote_share?, process)));
    let over = match numa.processes_over {
        0 => String::new(),
        over => format!("; {} were not read", grouped(over)),
    };
    match shares.reduce(|a, b| if b.0 > a.0 { b } else { a }) {
        None => format!("no process was read that has memory on any of the {nodes} and ran{over}"),
        Some((share, process)) => format!(
            "of the {} of {} at most {} must be on another one of the {nodes} than its threads{over}",
            bytes(process.resident_bytes),
            parties::named("process", process.process.as_deref(), process.pid),
            percent(share),
        ),
    }
}

struct Case<'a> {
    report: &'a Report,
    numa: &'a Numa,
    index: usize,
    process: &'a NumaProcess,
    /// Where most of the memory lies, and where its threads ran most; with the positions.
    lies: Option<(usize, &'a NumaPart)>,
    ran: Option<(usize, &'a NumaPart)>,
}

impl<'a> Case<'a> {
    fn new(report: &'a Report, numa: &'a Numa, (index, process): (usize, &'a NumaProcess)) -> Self {
        let parts = || process.nodes.iter().enumerate();
        let lies = parts().reduce(|a, b| if b.1.bytes > a.1.bytes { b } else { a });
        let ran = parts().reduce(|a, b| if b.1.on_cpu_s > a.1.on_cpu_s { b } else { a });
        Case { report, numa, index, process, lies, ran }
    }

    fn is_on_purpose(&self) -> bool {
        self.process.interleaved_bytes as f64 >= ON_PURPOSE * self.process.resident_bytes as f64
    }

    /// Pages that were wanted on a node that had none left, over all nodes.
    fn foreign_pages(&self) -> u64 {
        self.numa.nodes.iter().filter_map(|node| node.foreign_pages).fold(0, u64::saturating_add)
    }

    fn claim(&self) -> Claim {
        let process = self.process;
        let (alike, least) = (process.remote_share.unwrap_or(0.0), process.least_remote_share.unwrap_or(0.0));
        let node = self.ran.map_or(0, |(_, part)| part.node);
        let finding = Finding {
            class: NumaRemote.class().to_owned(),
            rank: 0,
            // Without seconds nobody can say that it limits.
            severity: Severity::Info,
            confidence: confidence(self.report, CORRELATED),
            summary: self.summary(alike, least),
            lost_s: None,
            share_of_wall: None,
            speedup_bound: None,
            culprit: Some(self.culprit()),
            victims: Vec::new(),
            evidence: self.evidence(alike, least),
            hypothesis: self.hypothesis(),
            fix: format!(
                "Keep threads and their memory on one node: numactl --cpunodebind={node} --membind={node}, one process for each node (one \
                 rank for each, with its CPUs and its device on it). Where one process must use all nodes: let each thread touch first \
                 what it will use, or spread the memory evenly (numactl --interleave=all)."
            ),
            experiment: format!(
                "Run the same under numactl --cpunodebind={node} --membind={node}: the remote share must go to zero. How much faster it is \
                 then is what this costs; where it is no faster, memory was not what it waited for."
            ),
            consequences: Vec::new(),
        };
        Claim { finding, reported: !self.is_on_purpose() }
    }

    fn summary(&self, alike: f64, least: f64) -> String {
        let process = self.process;
        let share = |part: f64, all: f64| percent(part / all.max(f64::MIN_POSITIVE));
        let lies = self.lies.map(|(_, part)| {
            let part_of = share(part.bytes as f64, process.resident_bytes as f64);
            format!("has {part_of} of its {} of memory on node {}", bytes(process.resident_bytes), part.node)
        });
        let ran = self.ran.map(|(_, part)| {
            let part_of = share(part.on_cpu_s, process.on_cpu_s);
            format!(" and ran for {part_of} of {} on node {}", duration(process.on_cpu_s), part.node)
        });
        let purpose = if self.is_on_purpose() { ", most of it spread over the nodes on purpose" } else { "" };
        format!(
            "{} {}{}: {} of its memory are on another NUMA node than the threads that use it, if they use all alike ({} at least{purpose}); \
             how much time that takes is not known",
            parties::named("process", process.process.as_deref(), process.pid),
            lies.unwrap_or_default(),
            ran.unwrap_or_default(),
            percent(alike),
            percent(least),
        )
    }

    fn culprit(&self) -> Subject {
        let process = self.process;
        let sizes = self.report.memory.as_ref().and_then(|memory| {
            let mut all = memory.processes.iter();
            all.find(|sizes| sizes.pid == process.pid)
        });
        Subject {
            process: process.process.clone(),
            pid: Some(process.pid),
            cgroup: sizes.and_then(|sizes| sizes.cgroup.clone()),
            ..Subject::default()
        }
    }

    fn evidence(&self, alike: f64, least: f64) -> Vec<Evidence> {
        let process = self.process;
        let at = |field: &str| format!("/memory/numa/processes/{}/{field}", self.index);
        let told = Some(("told from", LEAST_REMOTE));
        let resident = process.resident_bytes as f64;
        let mut list = vec![
            evidence("remote, however it is shared out", least, "1", at("least_remote_share"), told),
            evidence("remote, if all is used alike", alike, "1", at("remote_share"), None),
            evidence("resident memory", resident, "B", at("resident_bytes"), None),
        ];
        if let Some((place, part)) = self.lies {
            let source = at(&format!("nodes/{place}/bytes"));
            list.push(evidence("memory on the node with most of it", part.bytes as f64, "B", source, None));
        }
        if let Some((place, part)) = self.ran {
            let source = at(&format!("nodes/{place}/on_cpu_s"));
            let all = Some(("all its time on a CPU", process.on_cpu_s));
            list.push(evidence("time on the node where it ran most", part.on_cpu_s, "s", source, all));
        }
        for (place, node) in self.numa.nodes.iter().enumerate() {
            if let Some(pages) = node.foreign_pages.filter(|pages| *pages > 0) {
                let source = format!("/memory/numa/nodes/{place}/foreign_pages");
                let what =
                    format!("pages of the host that were wanted on node {} and had to be taken elsewhere", node.node);
                list.push(evidence(&what, pages as f64, "1", source, None));
            }
        }
        list
    }

    fn hypothesis(&self) -> String {
        let foreign = self.foreign_pages();
        let why = if self.is_on_purpose() {
            "Here most of it was spread over the nodes on purpose (interleaved), which evens out the load and makes a part remote.".to_owned()
        } else if foreign > 0 {
            format!(
                "Here {} pages of the host could not be had on the node on which they were wanted, since that had none left.",
                grouped(foreign)
            )
        } else {
            "Most often one thread fills the memory and threads on other nodes use it, or the scheduler has moved the process since."
                .to_owned()
        };
        format!(
            "A page lies on the node of the thread that touched it first, and an access from another node takes longer. {why} This is a \
             correlation: which threads use which pages, and how often they miss the caches, only hardware counters tell, so that no \
             time is claimed to be lost."
        )
    }
}
