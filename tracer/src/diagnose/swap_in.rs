//! `swap-in`: pages of a process came back from swap while its threads waited for them, or while they unpacked them, where swap lies in
//! compressed memory (zram, zswap). What was swapped out long ago and is not needed any more costs nothing, so that alone says nothing.
//! Look-alikes: pages of mapped files, which have an inode (`cold-file-mapping`, `page-cache-thrash`); memory that is touched for the first
//! time (`page-fault-storm`); page faults in which a thread swaps its own process's pages out, to make room. Not seen: shared memory that comes
//! back, whose faults look like those of a file.

use super::lost::{Lost, Waiting, lost};
use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, memory_limits, parties};
use crate::model::memory::ProcessSizes;
use crate::model::paging::{FaultFunction, PAGE_BYTES, ProcessFaults};
use crate::model::report::{Evidence, Finding, Report, Subject};
use crate::model::stacks::PAGE_FAULT;
use crate::model::units::{bytes, duration, grouped, percent};

/// See the file's head.
pub struct SwapIn;

/// Pages are counted, waits are measured; that the ones are the other's reason is inferred.
const COUNTED: f64 = 0.85;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;
/// Fewer pages than this come back wherever there is swap.
const LEAST_PAGES: u64 = 16;
/// Page faults that wait, for each page that came back: where there are more they wait for something else.
const MOST_WAITS: u64 = 2;

const KIND: &str = "swap_in";

/// The host's count of pages that came back may be so many times too small: one that is on its way out still is no longer read.
const UNREAD: u64 = 2;

/// Pages that came back to a process, at most. A fault counts as one of these if it changed how much of the process is swapped out, which it
/// also does where the thread frees memory of its own process in it; the host's count tells, where there is one.
fn came_back(report: &Report, faults: &ProcessFaults) -> u64 {
    let host = report.memory.as_ref().and_then(|memory| memory.host.as_ref());
    let on_host = host.and_then(|host| host.swapped_in_bytes).map(|bytes| bytes / PAGE_BYTES);
    on_host.map_or(u64::MAX, |pages| pages.saturating_mul(UNREAD)).min(faults.of(KIND))
}

/// Whether most page faults of a process brought pages back, so that the time which the kernel computes in them is for that.
fn mostly(report: &Report, faults: &ProcessFaults) -> bool {
    came_back(report, faults) > faults.total / 2
}

/// What a process lost to its pages being away.
fn lost_by(report: &Report, faults: &ProcessFaults) -> Lost {
    let waits = |wait: &Waiting<'_>| {
        wait.state == "fault" && wait.object.is_none() && wait.path.is_none() && wait.pid == Some(faults.pid)
    };
    lost(report, waits, |phase, pid| phase == PAGE_FAULT && pid == Some(faults.pid) && mostly(report, faults))
}

impl Rule for SwapIn {
    fn class(&self) -> &'static str {
        "swap-in"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(all) = report.paging.as_ref().and_then(|paging| paging.faults.as_ref()) else {
            return Outcome::CouldNotRun("the family fault did not run, which counts pages that come back".to_owned());
        };
        let wall_s = report.window.duration_s;
        let mut most_s: f64 = 0.0;
        let mut claims = Vec::new();
        for (index, faults) in all.iter().enumerate() {
            let pages = came_back(report, faults);
            if pages < LEAST_PAGES {
                continue;
            }
            let lost = lost_by(report, faults);
            // The samples among the pieces are few: in the time of one many pages come back.
            let explains = lost.pieces <= pages.saturating_mul(MOST_WAITS);
            most_s = most_s.max(lost.s);
            if lost.s >= LEAST_SHARE * wall_s && explains {
                claims.push(Case { report, index, faults, lost }.claim());
            }
        }
        if claims.is_empty() {
            return Outcome::Silent(silent(report, all, most_s));
        }
        Outcome::Claims(claims)
    }
}

/// Why there is nothing to say.
fn silent(report: &Report, all: &[ProcessFaults], most_s: f64) -> String {
    let pages = all.iter().fold(0u64, |sum, faults| sum.saturating_add(came_back(report, faults)));
    let used = report.memory.as_ref().and_then(|memory| memory.host.as_ref()).map_or(0, |host| host.swap_used_bytes);
    let there =
        if used > 0 { format!(" ({} of the host's memory are swapped out)", bytes(used)) } else { String::new() };
    if pages == 0 {
        return format!("no page of a traced process came back from swap{there}");
    }
    format!(
        "{} pages came back from swap, and page faults for no file took {}{there}",
        grouped(pages),
        duration(most_s)
    )
}

struct Case<'a> {
    report: &'a Report,
    index: usize,
    faults: &'a ProcessFaults,
    lost: Lost,
}

impl Case<'_> {
    /// Where pages came back. The kernel counts a page of anonymous memory up before it counts one of swap down (do_swap_page in
    /// mm/memory.c), so stacks of these faults stand among those of first touches; they count where these are fewer.
    fn function(&self) -> Option<(usize, &FaultFunction)> {
        let first = |kind: &str| self.faults.function(kind);
        let others = self.faults.of("anonymous");
        first(KIND).or_else(|| first("anonymous").filter(|_| self.faults.of(KIND) > others))
    }

    /// The process's sizes, and where the report holds them.
    fn sizes(&self) -> Option<(usize, &ProcessSizes)> {
        let all = self.report.memory.as_ref()?.processes.iter().enumerate();
        all.into_iter().find(|(_, process)| process.pid == self.faults.pid)
    }

    /// The process's memory cgroup, or that of its thread.
    fn cgroup(&self) -> Option<String> {
        let of_memory = self.sizes().and_then(|(_, process)| process.cgroup.clone());
        of_memory.or_else(|| self.culprit().cgroup)
    }

    fn claim(&self) -> Claim {
        let wall_s = self.report.window.duration_s;
        let (lost_s, at_most_s) = (self.lost.s, self.lost.at_most_s());
        let finding = Finding {
            class: SwapIn.class().to_owned(),
            rank: 0,
            severity: severity(lost_s, wall_s),
            confidence: confidence(self.report, COUNTED),
            summary: self.summary(wall_s),
            lost_s: Some(at_most_s),
            share_of_wall: self.lost.share,
            speedup_bound: speedup_bound(at_most_s, wall_s),
            culprit: Some(self.culprit()),
            victims: Vec::new(),
            evidence: self.evidence(wall_s),
            hypothesis: self.hypothesis(),
            fix: "Need less memory at a time (smaller batches, fewer workers, a smaller type), or give the job more: a higher limit of its \
                  cgroup, or nothing else beside it. Keep what is needed all the time from being swapped out: mlock(2) of the hot part, \
                  memory.swap.max=0 or memory.swappiness=0 for its cgroup, vm.swappiness lower. Cap its memory, so that it fails early \
                  instead of crawling."
                .to_owned(),
            experiment: format!(
                "Run it with more memory, or without swap (swapoff -a on a test machine, or memory.swap.max=0 for its cgroup): no page may \
                 come back (swap_in in this report), and the wall time must fall by at most {}; without swap it may be killed instead, \
                 which shows that memory is what lacks.",
                duration(at_most_s)
            ),
            consequences: Vec::new(),
        };
        Claim { finding, reported: is_reported(lost_s, wall_s, self.lost.pieces, self.lost.longest_s) }
    }

    fn summary(&self, wall_s: f64) -> String {
        let faults = self.faults;
        let function = self.function().and_then(|(_, function)| functions::words(&function.location));
        let away = self.sizes().map(|(_, sizes)| sizes.swapped_most_bytes).filter(|bytes| *bytes > 0);
        let limit = memory_limits::words(self.report, self.cgroup().as_deref());
        format!(
            "{} needed {} of memory that had been swapped out{}, and lost {} ({} of {}) until it was back{}{}",
            parties::named("process", faults.process.as_deref(), faults.pid),
            bytes(came_back(self.report, faults).saturating_mul(PAGE_BYTES)),
            function.map(|function| format!(", mostly in {function}")).unwrap_or_default(),
            duration(self.lost.s),
            percent(self.lost.s / wall_s.max(f64::MIN_POSITIVE)),
            duration(wall_s),
            away.map(|away| format!("; up to {} of the process were swapped out", bytes(away))).unwrap_or_default(),
            limit.map(|limit| format!(", in {limit}")).unwrap_or_default(),
        )
    }

    fn culprit(&self) -> Subject {
        let faults = self.faults;
        let most = self.lost.most.filter(|(pid, _)| *pid == Some(faults.pid)).map(|(_, tid)| tid);
        let named = |tid: u32| faults.threads.iter().find(|thread| thread.tid == tid).and_then(|t| t.thread.as_ref());
        let mut culprit = match most.or_else(|| faults.threads.first().map(|thread| thread.tid)) {
            Some(tid) => parties::party(self.report, (Some(faults.pid), faults.process.as_ref()), (tid, named(tid))),
            None => Subject { process: faults.process.clone(), pid: Some(faults.pid), ..Subject::default() },
        };
        if let Some((_, function)) = self.function() {
            functions::point_at(&mut culprit, &function.location);
        } else if let Some(place) = culprit.tid.and_then(|tid| self.place(tid)) {
            functions::point_at(&mut culprit, place);
        }
        culprit
    }

    /// Where a thread waited in page faults.
    fn place(&self, tid: u32) -> Option<&crate::model::stacks::Location> {
        let (_, thread) = parties::row(self.report, Some(self.faults.pid), tid)?;
        let wait = thread.waits.iter().find(|wait| wait.state == "fault" && wait.object.is_none())?;
        Some(&wait.places.first()?.location)
    }

    fn evidence(&self, wall_s: f64) -> Vec<Evidence> {
        let faults = self.faults;
        let at = |field: &str| format!("/paging/faults/{}/{field}", self.index);
        let mut list = self.lost.evidence();
        if let Some(first) = list.first_mut() {
            first.compared_with =
                evidence("", 0.0, "", String::new(), Some(("reported from", REPORTED_SHARE * wall_s))).compared_with;
        }
        let all = Some(("page faults", faults.total as f64));
        let source = at(&format!("kinds/{KIND}"));
        list.push(evidence("pages that came back from swap", faults.of(KIND) as f64, "1", source, all));
        if let Some((number, function)) = self.function() {
            let source = at(&format!("functions/{number}/share"));
            list.push(evidence("share of these faults in the function, by stacks", function.share, "1", source, None));
        }
        if let Some((row, sizes)) = self.sizes().filter(|(_, sizes)| sizes.swapped_most_bytes > 0) {
            let source = format!("/memory/processes/{row}/swapped_most_bytes");
            list.push(evidence("swapped out at most", sizes.swapped_most_bytes as f64, "B", source, None));
        }
        let host = self.report.memory.as_ref().and_then(|memory| memory.host.as_ref());
        if let Some(back) = host.and_then(|host| host.swapped_in_bytes) {
            let source = "/memory/host/swapped_in_bytes".to_owned();
            list.push(evidence("came back from swap on the whole host", back as f64, "B", source, None));
        }
        list.extend(memory_limits::evidences(self.report, self.cgroup().as_deref()));
        list
    }

    fn hypothesis(&self) -> String {
        let computed_s = self.lost.s - self.lost.waited_s;
        let how = if computed_s > self.lost.waited_s {
            "Most of the time the threads computed in the kernel, which brings each page back in the thread that touches it, and pushes \
             others out for it; it does most of that where swap lies in compressed memory (zram, zswap), of which each page is unpacked."
        } else {
            "A page that was swapped out is read from the swap device when it is touched, and the thread waits for it."
        };
        format!(
            "The processes here, or those of one cgroup, work on more memory than there is, so that pages are swapped out before they are \
             needed again. {how} {}",
            self.lost.whose()
        )
    }
}
