//! `memory-limit`, `direct-reclaim` and `compaction-stall`: threads free memory instead of working: because their cgroup is at its limit,
//! because the host has none left, or because a large page is wanted and memory is in pieces. The same time where one file is read over
//! and over, since it does not fit, is `page-cache-thrash`'s.

use super::lost::{Lost, lost};
use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, memory_limits, parties};
use crate::model::paging::Stall;
use crate::model::report::{Finding, Report, Subject};
use crate::model::stacks::RECLAIM;
use crate::model::units::{bytes, count, duration, percent};

/// For a cgroup's limit.
pub struct MemoryLimit;

/// For want of memory on the host.
pub struct DirectReclaim;

/// For a large page.
pub struct CompactionStall;

/// Each stall was measured, and whose it was.
const MEASURED: f64 = 0.9;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;
/// Threads named.
const MAX_VICTIMS: usize = 8;

/// What tells the three apart.
struct Kind {
    class: &'static str,
    /// [`Stall::kind`].
    id: &'static str,
    summary: &'static str,
    hypothesis: &'static str,
    fix: &'static str,
    experiment: &'static str,
}

const LIMIT: Kind = Kind {
    class: "memory-limit",
    id: "cgroup reclaim",
    summary: "freeing memory of the cgroup, which is at its limit",
    hypothesis: "Each time the cgroup is charged for another page and has reached its limit, the thread that wants the page must free others \
                 first, and waits where these are being written to a disk.",
    fix: "Raise the limit above what the job works on; or use less: stream large files without caching them (O_DIRECT, \
          POSIX_FADV_DONTNEED behind what was read or written), write dirty data out sooner (sync_file_range), fewer workers, smaller batches.",
    experiment: "Run it with the cgroup's limit doubled, or outside of the cgroup: time in reclaim must go to zero",
};

const DIRECT: Kind = Kind {
    class: "direct-reclaim",
    id: "direct reclaim",
    summary: "freeing memory of the host, which has none left",
    hypothesis: "Free memory fell under the kernel's lowest mark, so that threads that want a page must free others first; the kernel's own \
                 thread for that (kswapd) does not keep up.",
    fix: "Use less memory on this host or move something away; raise vm.watermark_scale_factor or vm.min_free_kbytes so that kswapd begins \
          sooner; give the job a cgroup limit, so that its own cache is freed first.",
    experiment: "Run it alone on a host with more free memory: time in reclaim must go to zero",
};

const COMPACTION: Kind = Kind {
    class: "compaction-stall",
    id: "compaction",
    summary: "moving pages to make room for large ones",
    hypothesis: "A huge page (or another large piece) was wanted, and free memory is in small pieces, so that the thread moved pages until \
                 enough lay side by side.",
    fix: "Let huge pages be made in the background: echo defer+madvise > /sys/kernel/mm/transparent_hugepage/defrag; reserve huge pages at \
          boot; or do without them for this program (prctl PR_SET_THP_DISABLE).",
    experiment: "Run it with transparent huge pages off: time in compaction must go to zero",
};

impl Rule for MemoryLimit {
    fn class(&self) -> &'static str {
        LIMIT.class
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        check(facts, &LIMIT)
    }
}

impl Rule for DirectReclaim {
    fn class(&self) -> &'static str {
        DIRECT.class
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        check(facts, &DIRECT)
    }
}

impl Rule for CompactionStall {
    fn class(&self) -> &'static str {
        COMPACTION.class
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        check(facts, &COMPACTION)
    }
}

/// Stalls of a kind with their positions.
fn stalls<'a>(report: &'a Report, kind: &Kind) -> Option<Vec<(usize, &'a Stall)>> {
    let all = report.paging.as_ref()?.stalls.as_ref()?;
    Some(all.iter().enumerate().filter(|(_, stall)| stall.kind == kind.id).collect())
}

fn check(facts: &Facts<'_>, kind: &Kind) -> Outcome {
    let report = facts.report;
    let Some(stalls) = stalls(report, kind) else {
        return Outcome::CouldNotRun("the family reclaim did not run, which sees when threads free memory".to_owned());
    };
    let wall_s = report.window.duration_s;
    let total_s: f64 = stalls.iter().map(|(_, stall)| stall.total_s).sum();
    let Some((_, worst)) = stalls.first() else {
        return Outcome::Silent(format!("no thread spent time {}", kind.summary));
    };
    let lost = lost_to(report, kind, worst, total_s);
    if lost.s < LEAST_SHARE * wall_s {
        let threads = count(stalls.len() as u64, "thread");
        return Outcome::Silent(format!(
            "{threads} spent {} {}, {} of it on the way",
            duration(total_s),
            kind.summary,
            duration(lost.s)
        ));
    }
    Outcome::Claims(vec![claim(facts, kind, &stalls, &lost, total_s)])
}

/// Time on the path; computing there is in one phase for all kinds, so it is shared out by what the threads' stalls were.
fn lost_to(report: &Report, kind: &Kind, worst: &Stall, total_s: f64) -> Lost {
    let of_kind = |detail: Option<&str>| detail.is_some_and(|detail| detail.starts_with(kind.id));
    let all: f64 =
        report.paging.iter().flat_map(|paging| paging.stalls.iter().flatten()).map(|stall| stall.total_s).sum();
    let mostly = total_s >= 0.5 * all;
    let mut found =
        lost(report, |wait| wait.state == "memory" && of_kind(wait.detail), |phase, _| phase == RECLAIM && mostly);
    if report.critical_path.is_none() {
        // What the kernel's own account says is exact.
        found.replace(worst.total_s, worst.count);
    }
    found
}

fn claim(facts: &Facts<'_>, kind: &Kind, stalls: &[(usize, &Stall)], lost: &Lost, total_s: f64) -> Claim {
    let report = facts.report;
    let wall_s = report.window.duration_s;
    let party = |stall: &Stall| match stall.whose.tid {
        Some(tid) => {
            let process = (stall.whose.pid, stall.whose.process.as_ref());
            let mut found = parties::party(report, process, (tid, stall.whose.thread.as_ref()));
            if let Some(function) = function_of(report, stall.whose.pid, tid) {
                functions::point_at(&mut found, function);
            }
            found
        }
        None => Subject { process: stall.whose.process.clone(), pid: stall.whose.pid, ..Subject::default() },
    };
    let worst = stalls.first().map(|(_, stall)| *stall);
    let culprit = worst.map(party);
    let name = worst.map(|stall| match stall.whose.tid {
        Some(tid) => parties::named("thread", stall.whose.thread.as_deref(), tid),
        None => "threads".to_owned(),
    });
    let cgroup = culprit.as_ref().and_then(|culprit| culprit.cgroup.as_deref());
    let limit = memory_limits::words(report, cgroup);
    let limits = if kind.class == LIMIT.class { memory_limits::evidences(report, cgroup) } else { Vec::new() };
    let mut list = lost.evidence();
    for (index, stall) in stalls.iter().take(MAX_VICTIMS) {
        let source = format!("/paging/stalls/{index}/total_s");
        let compared = Some(("reported from", REPORTED_SHARE * wall_s));
        list.push(evidence("time of a thread in it, exact", stall.total_s, "s", source, compared));
    }
    list.extend(limits);
    // One file that does not fit, or that is pushed out, is the cause, and this is how it shows.
    let thrash = facts.earlier.iter().any(|finding| matches!(&*finding.class, "page-cache-thrash" | "cache-eviction"));
    let freed = stalls.iter().fold(0u64, |sum, (_, stall)| sum.saturating_add(stall.freed_bytes));
    let finding = Finding {
        class: kind.class.to_owned(),
        rank: 0,
        severity: severity(lost.s, wall_s),
        confidence: confidence(report, MEASURED),
        summary: format!(
            "{} spent {} ({} of {}) {}{}; {} in all, {} freed",
            name.unwrap_or_default(),
            duration(lost.s),
            percent(lost.s / wall_s.max(f64::MIN_POSITIVE)),
            duration(wall_s),
            kind.summary,
            limit.map(|limit| format!(" ({limit})")).unwrap_or_default(),
            format_args!("{} of {}", duration(total_s), count(stalls.len() as u64, "thread")),
            bytes(freed),
        ),
        lost_s: Some(lost.at_most_s()),
        share_of_wall: lost.share,
        speedup_bound: speedup_bound(lost.at_most_s(), wall_s),
        culprit,
        victims: stalls.iter().take(MAX_VICTIMS).map(|(_, stall)| party(stall)).collect(),
        evidence: list,
        hypothesis: format!("{} {}", kind.hypothesis, lost.whose()),
        fix: kind.fix.to_owned(),
        experiment: format!(
            "{}, and the wall time must fall, by at most {}.",
            kind.experiment,
            duration(lost.at_most_s())
        ),
        consequences: Vec::new(),
    };
    let events = stalls.iter().map(|(_, stall)| stall.count).sum();
    Claim { finding, reported: !thrash && is_reported(lost.s, wall_s, events, lost.longest_s) }
}

/// Where a thread was when it freed memory: by samples, else where it waited.
fn function_of(report: &Report, pid: Option<u32>, tid: u32) -> Option<&crate::model::stacks::Location> {
    let (_, thread) = parties::row(report, pid, tid)?;
    let phase = thread.phases.iter().find(|phase| phase.phase == RECLAIM).and_then(|phase| phase.functions.first());
    let waited = thread.waits.iter().find(|wait| wait.state == "memory").and_then(|wait| wait.places.first());
    phase.or(waited).map(|function| &function.location)
}
