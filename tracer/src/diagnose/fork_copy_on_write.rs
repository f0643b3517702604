//! `fork-copy-on-write`: forked processes write to memory that they share with their parent, so that each gets a copy of its own. In Python
//! reading is enough, since it counts references inside the objects.

use super::lost::lost;
use super::thresholds::severity;
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties};
use crate::model::paging::{PAGE_BYTES, ProcessFaults};
use crate::model::report::{Finding, Report, Severity, Subject};
use crate::model::stacks::PAGE_FAULT;
use crate::model::units::{bytes, count, grouped};

/// See the file's head.
pub struct ForkCopyOnWrite;

/// Counts are exact; that pages were copied and not merely made writable is inferred from the parent being alive.
const COUNTED: f64 = 0.85;
/// Less copied than this in one process is normal after a fork.
const LEAST_BYTES: u64 = 64 << 20;
/// From this share of what a process holds on it is its memory that is copied.
const LEAST_SHARE: f64 = 0.2;
/// From this share of the host's memory on it is a danger.
const GRAVE_SHARE: f64 = 0.05;
/// Victims named.
const MAX_VICTIMS: usize = 8;

const KIND: &str = "copy_on_write";

fn copied(faults: &ProcessFaults) -> u64 {
    faults.of(KIND).saturating_mul(PAGE_BYTES)
}

impl Rule for ForkCopyOnWrite {
    fn class(&self) -> &'static str {
        "fork-copy-on-write"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(all) = report.paging.as_ref().and_then(|paging| paging.faults.as_ref()) else {
            return Outcome::CouldNotRun("the family fault did not run, which counts page faults".to_owned());
        };
        // What it copied it shared with its parent, which has it still. (A process that writes to pages which nobody shares any more has
        // such faults too, and copies nothing.)
        let parents_bytes = |parent: u32| {
            let parent = all.iter().find(|faults| faults.pid == parent);
            parent.and_then(|faults| faults.anonymous_most_bytes).unwrap_or(0)
        };
        let is_copy = |faults: &&ProcessFaults| {
            let held = faults.anonymous_most_bytes.unwrap_or(0) as f64;
            let much = copied(faults) >= LEAST_BYTES && copied(faults) as f64 >= LEAST_SHARE * held;
            much && faults.parent.is_some_and(|parent| parents_bytes(parent) >= copied(faults) / 2)
        };
        let mut parents: Vec<u32> = all.iter().filter(is_copy).filter_map(|faults| faults.parent).collect();
        parents.sort_unstable();
        parents.dedup();
        if parents.is_empty() {
            let most = all.iter().map(copied).max().unwrap_or(0);
            return Outcome::Silent(format!("no forked process copied more than {} of what it shared", bytes(most)));
        }
        let of_parent = |parent: &u32| {
            let children = all.iter().enumerate().filter(|(_, faults)| faults.parent == Some(*parent));
            let children: Vec<(usize, &ProcessFaults)> = children.filter(|(_, faults)| is_copy(faults)).collect();
            claim(report, *parent, &children)
        };
        Outcome::Claims(parents.iter().filter_map(of_parent).collect())
    }
}

fn claim(report: &Report, parent: u32, children: &[(usize, &ProcessFaults)]) -> Option<Claim> {
    let (_, most) = *children.iter().max_by_key(|(_, faults)| copied(faults))?;
    let wall_s = report.window.duration_s;
    let all = children.iter().fold(0u64, |sum, (_, faults)| sum.saturating_add(copied(faults)));
    let is_child = |pid: Option<u32>| children.iter().any(|(_, faults)| Some(faults.pid) == pid);
    let lost = lost(report, |_| false, |phase, pid| phase == PAGE_FAULT && is_child(pid));
    let function = most.function(KIND).map(|(_, function)| function);
    let host = report.host.memory_bytes.map_or(0.0, |host| all as f64 / host as f64);
    let by_time = severity(lost.s, wall_s);
    let subject = |faults: &ProcessFaults| {
        let process = (Some(faults.pid), faults.process.as_ref());
        let thread = faults.threads.first();
        let mut found = match thread {
            Some(thread) => parties::party(report, process, (thread.tid, thread.thread.as_ref())),
            None => Subject { process: faults.process.clone(), pid: Some(faults.pid), ..Subject::default() },
        };
        if let Some((_, function)) = faults.function(KIND) {
            functions::point_at(&mut found, &function.location);
        }
        found
    };
    let mut list = lost.evidence();
    for (index, faults) in children.iter().take(MAX_VICTIMS) {
        let source = format!("/paging/faults/{index}/kinds/{KIND}");
        let held =
            faults.anonymous_most_bytes.map(|held| ("anonymous memory held, in pages", (held / PAGE_BYTES) as f64));
        list.push(evidence("pages copied", faults.of(KIND) as f64, "1", source, held));
    }
    let called = function.and_then(|function| functions::words(&function.location));
    let finding = Finding {
        class: ForkCopyOnWrite.class().to_owned(),
        rank: 0,
        severity: if host >= GRAVE_SHARE { by_time.min(Severity::Warning) } else { by_time },
        confidence: confidence(report, COUNTED),
        summary: format!(
            "{} forked from {} copied {} of the memory that they share with it, {} in {}{}",
            count(children.len() as u64, "process"),
            parties::named("process", parent_name(report, parent).as_deref(), parent),
            bytes(all),
            bytes(copied(most)),
            parties::named("process", most.process.as_deref(), most.pid),
            called.map(|called| format!(", mostly in {called}")).unwrap_or_default(),
        ),
        lost_s: Some(lost.at_most_s()),
        share_of_wall: lost.share,
        speedup_bound: None,
        culprit: Some(subject(most)),
        victims: children.iter().take(MAX_VICTIMS).map(|(_, faults)| subject(faults)).collect(),
        evidence: list,
        hypothesis: format!(
            "After a fork parent and child share all pages until one of them writes; then the page is copied. CPython writes to each object \
             that it merely looks at, since the count of references lies in it, and so does its collector: in the end every worker holds \
             a copy of the parent's data. {} page faults did that here. {}",
            grouped(children.iter().map(|(_, faults)| faults.of(KIND)).sum()),
            lost.whose()
        ),
        fix: "Keep large data outside of Python objects, in arrays whose elements have no counts (NumPy, Arrow, a tensor in shared memory); \
              call gc.freeze() in the parent before it forks; start workers by spawn or forkserver, so that they load what they need \
              themselves; or fork before the data is loaded."
            .to_owned(),
        experiment: format!(
            "Run it with the data in an array instead of a list: Private_Dirty of each worker (/proc/PID/smaps_rollup) must fall by about {}, \
             and copy_on_write in this report to a few thousand pages.",
            bytes(copied(most))
        ),
        consequences: Vec::new(),
    };
    Some(Claim { finding, reported: true })
}

fn parent_name(report: &Report, parent: u32) -> Option<String> {
    let faults = report.paging.as_ref().and_then(|paging| paging.faults.as_ref())?;
    faults.iter().find(|faults| faults.pid == parent).and_then(|faults| faults.process.clone())
}
