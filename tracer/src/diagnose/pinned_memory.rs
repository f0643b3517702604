//! `pinned-memory`: memory is pinned (mlock, page-locked buffers of GPUs and network cards, registered buffers of io_uring) over and over
//! instead of once; or so much of it is that the rest no longer suffices for what shares it. Pinned pages can be neither reclaimed nor
//! swapped out. First touches without pinning are `page-fault-storm`'s and `allocation-churn`'s.

use super::lost::{Lost, lost};
use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, memory_limits, parties};
use crate::model::memory::ProcessSizes;
use crate::model::report::{Evidence, Finding, Report, Severity, Subject, Thread};
use crate::model::stacks::{PIN, UNMAP};
use crate::model::units::{bytes, duration, percent};

/// See the file.
pub struct PinnedMemory;

/// Who pins is seen; how long it takes is estimated from samples.
const SAMPLED: f64 = 0.85;
/// That pinned memory is what others lack is inferred.
const INFERRED: f64 = 0.6;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;
/// Fewer samples than this estimate nothing.
const LEAST_PIECES: u64 = 3;
/// From this share of the memory that there is for it on it is much.
const MUCH_SHARE: f64 = 0.5;
/// What shows that memory does not suffice.
const SHORTAGES: [&str; 6] =
    ["oom-kill", "oom-forecast", "cache-eviction", "page-cache-thrash", "memory-limit", "direct-reclaim"];

/// A process that pins more than its share of what there is.
struct Holder<'a> {
    index: usize,
    sizes: &'a ProcessSizes,
    room: u64,
}

impl Rule for PinnedMemory {
    fn class(&self) -> &'static str {
        "pinned-memory"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        if report.stacks.is_none() && report.memory.is_none() {
            return Outcome::CouldNotRun(
                "neither the family cpu nor the family rss did run: samples tell who pins memory, readings how much"
                    .to_owned(),
            );
        }
        let wall_s = report.window.duration_s;
        let (pid, lost) = pinning(report);
        let over_and_over = lost.s >= LEAST_SHARE * wall_s && lost.pieces >= LEAST_PIECES;
        let mut claims: Vec<Claim> =
            pid.filter(|_| over_and_over).map(|pid| of_time(report, pid, &lost)).into_iter().collect();
        claims.extend(holder(report).map(|holder| of_size(facts, &holder)));
        if claims.is_empty() {
            let most = processes(report).map(|(_, sizes)| sizes.locked_most_bytes).max().unwrap_or(0);
            return Outcome::Silent(format!(
                "pinning memory took {} of {}; the most that a process had pinned is {}",
                duration(lost.s),
                duration(wall_s),
                bytes(most)
            ));
        }
        Outcome::Claims(claims)
    }
}

fn processes(report: &Report) -> impl Iterator<Item = (usize, &ProcessSizes)> {
    report.memory.iter().flat_map(|memory| &memory.processes).enumerate()
}

fn threads_that_pin(report: &Report) -> impl Iterator<Item = (&Thread, f64)> {
    super::threads(report).filter_map(|(_, thread)| {
        let phase = thread.phases.iter().find(|phase| phase.phase == PIN)?;
        Some((thread, phase.s))
    })
}

/// The process that pins longest, and what that takes; giving the memory back is a part of it.
fn pinning(report: &Report) -> (Option<u32>, Lost) {
    let most = threads_that_pin(report).max_by(|a, b| a.1.total_cmp(&b.1));
    let Some(pid) = most.and_then(|(thread, _)| thread.pid) else { return (None, Lost::default()) };
    let lost = lost(report, |_| false, |phase, of| of == Some(pid) && (phase == PIN || phase == UNMAP));
    (Some(pid), lost)
}

/// The process with the most pinned memory, if that is much.
fn holder(report: &Report) -> Option<Holder<'_>> {
    let much = processes(report).filter_map(|(index, sizes)| {
        let room = memory_limits::room(report, sizes.cgroup.as_deref()).filter(|room| *room > 0)?;
        (sizes.locked_most_bytes as f64 >= MUCH_SHARE * room as f64).then_some(Holder { index, sizes, room })
    });
    much.max_by_key(|holder| holder.sizes.locked_most_bytes)
}

/// What is pinned, as evidence.
fn pinned(index: usize, sizes: &ProcessSizes, compared: Option<(&str, f64)>) -> Evidence {
    let source = format!("/memory/processes/{index}/locked_most_bytes");
    evidence("memory pinned at the most", sizes.locked_most_bytes as f64, "B", source, compared)
}

fn of_time(report: &Report, pid: u32, lost: &Lost) -> Claim {
    let (wall_s, at_most_s) = (report.window.duration_s, lost.at_most_s());
    let of_process = threads_that_pin(report).filter(|(thread, _)| thread.pid == Some(pid));
    let thread = of_process.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(thread, _)| thread);
    let mut culprit = thread.map(super::subject).unwrap_or_default();
    let phase = thread.and_then(|thread| thread.phases.iter().find(|phase| phase.phase == PIN));
    let function = phase.and_then(|phase| phase.functions.first());
    if let Some(function) = function {
        functions::point_at(&mut culprit, &function.location);
    }
    let mut list = lost.evidence();
    if let Some(first) = list.first_mut() {
        let reported = Some(("reported from", REPORTED_SHARE * wall_s));
        first.compared_with = evidence("", 0.0, "", String::new(), reported).compared_with;
    }
    list.extend(processes(report).find(|(_, sizes)| sizes.pid == pid).map(|(index, sizes)| pinned(index, sizes, None)));
    let called = function.and_then(|function| functions::words(&function.location));
    let finding = Finding {
        class: PinnedMemory.class().to_owned(),
        rank: 0,
        severity: severity(lost.s, wall_s),
        confidence: confidence(report, SAMPLED),
        summary: format!(
            "{} spent {} ({} of {}) pinning memory and giving it back{}",
            thread.map_or_else(|| parties::named("process", None, pid), super::named),
            duration(lost.s),
            percent(lost.s / wall_s.max(f64::MIN_POSITIVE)),
            duration(wall_s),
            called.map(|called| format!(", mostly in {called}")).unwrap_or_default(),
        ),
        lost_s: Some(at_most_s),
        share_of_wall: lost.share,
        speedup_bound: speedup_bound(at_most_s, wall_s),
        culprit: Some(culprit),
        victims: Vec::new(),
        evidence: list,
        hypothesis: format!(
            "To pin memory the kernel brings in each page of it and marks it one by one; done for each batch, that costs more than the copy \
             which it is to speed up. {}",
            lost.whose()
        ),
        fix: "Pin buffers once and use them again: a pool of pinned buffers (PyTorch: pin_memory=True with persistent workers, \
              non_blocking copies from a fixed staging buffer; CUDA: cudaHostAlloc at the start; io_uring: register buffers once)."
            .to_owned(),
        experiment: format!(
            "Run it with one pinned buffer that is used for all batches: the wall time must fall, by at most {}.",
            duration(at_most_s)
        ),
        consequences: Vec::new(),
    };
    Claim { finding, reported: is_reported(lost.s, wall_s, lost.pieces, 0.0) }
}

fn of_size(facts: &Facts<'_>, holder: &Holder<'_>) -> Claim {
    let (report, sizes) = (facts.report, holder.sizes);
    let locked = sizes.locked_most_bytes;
    let shortages: Vec<String> = facts
        .earlier
        .iter()
        .map(|finding| finding.class.clone())
        .filter(|class| SHORTAGES.contains(&&**class))
        .collect();
    let limit = memory_limits::words(report, sizes.cgroup.as_deref());
    let mut list = vec![pinned(holder.index, sizes, Some(("much from", MUCH_SHARE * holder.room as f64)))];
    list.extend(memory_limits::evidences(report, sizes.cgroup.as_deref()));
    let finding = Finding {
        class: PinnedMemory.class().to_owned(),
        rank: 0,
        severity: if shortages.is_empty() { Severity::Info } else { Severity::Warning },
        confidence: confidence(report, INFERRED),
        summary: format!(
            "{} had {} pinned, {} of the {} that there are for it{}",
            parties::named("process", sizes.process.as_deref(), sizes.pid),
            bytes(locked),
            percent(locked as f64 / holder.room.max(1) as f64),
            bytes(holder.room),
            limit.map(|limit| format!(" in {limit}")).unwrap_or_default(),
        ),
        lost_s: None,
        share_of_wall: None,
        speedup_bound: None,
        culprit: Some(Subject {
            process: sizes.process.clone(),
            pid: Some(sizes.pid),
            cgroup: sizes.cgroup.clone(),
            ..Subject::default()
        }),
        victims: Vec::new(),
        evidence: list,
        hypothesis: "Pinned pages can be neither reclaimed nor swapped out: the page cache and everything else under the same limit have to \
                     do with the rest. How many seconds that costs is told by the findings that it explains."
            .to_owned(),
        fix: "Pin staging buffers only, and not what they are filled from; fewer batches in flight (prefetch_factor, num_workers); or raise \
              the limit by what is pinned."
            .to_owned(),
        experiment: "Run it with half as much pinned: what is short of memory must be so less.".to_owned(),
        consequences: shortages.clone(),
    };
    Claim { finding, reported: !shortages.is_empty() }
}
