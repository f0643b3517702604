//! `page-cache-thrash` and `cold-file-mapping`: a run waits for pages of a file. Thrash: the same pages were read again, since memory for
//! them ran short and they were thrown out meanwhile. Cold: a mapped file was read for the first time, page by page as it was touched.
//! Which of the two a file is, the count of its pages decides: a first read brings in each page once.

use super::lost::{Lost, lost};
use super::lost_claim::{self, Words};
use super::thresholds::REPORTED_SHARE;
use super::{Claim, Facts, Outcome, Rule, cache_eviction, evidence, memory_limits, threads};
use crate::model::paging::{self, CachedFile, ProcessFaults};
use crate::model::report::{Evidence, Report, Subject};
use crate::model::stacks::{PAGE_FAULT, RECLAIM};
use crate::model::units::{bytes, count, duration, percent};

/// The same pages again.
pub struct PageCacheThrash;

/// Pages for the first time.
pub struct ColdFileMapping;

/// Pages are counted, waits are measured; that the ones are the other's reason is inferred.
const COUNTED: f64 = 0.9;
/// A file's pages came in so many times as it has.
const REREAD: f64 = 1.5;
/// A part of them was thrown out for want of memory.
const RECLAIMED_SHARE: f64 = 0.25;
/// A smaller file is read again without much ado.
pub(super) const LEAST_BYTES: u64 = 16 << 20;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;

/// Whether a file's pages are read again and again, for want of memory that it alone would fill.
fn thrashes(report: &Report, file: &CachedFile) -> bool {
    let reclaimed = file.reclaimed_bytes() as f64;
    file.size_bytes >= LEAST_BYTES
        && !cache_eviction::is_pushed_out(report, file)
        && file.reread_factor.is_some_and(|factor| factor >= REREAD)
        && reclaimed >= RECLAIMED_SHARE * file.read_bytes as f64
}

/// Whether most of what was thrown out of it was so for being used seldom, and not for want of room.
fn is_for_being_unused(file: &CachedFile) -> bool {
    file.reclaimed_unused_bytes > file.reclaimed_bytes() / 2
}

/// Whether not all of its pages came in for the first time.
pub(super) fn is_read_again(report: &Report, file: &CachedFile) -> bool {
    thrashes(report, file) || cache_eviction::is_pushed_out(report, file)
}

pub(super) fn files(report: &Report) -> Option<&Vec<CachedFile>> {
    report.paging.as_ref()?.files.as_ref()
}

/// Whether a wait is for this file.
pub(super) fn is_for(file: &CachedFile, object: Option<&str>, path: Option<&str>) -> bool {
    lost_claim::is_for((file.inode, file.path.as_deref()), object, path)
}

/// Whether most page faults of a process were for files.
fn reads_mapped_files(report: &Report, pid: Option<u32>) -> bool {
    let all = report.paging.iter().flat_map(|paging| paging.faults.iter().flatten());
    let of_files = |faults: &ProcessFaults| faults.of("file") + faults.of("file_major");
    all.into_iter().any(|faults| Some(faults.pid) == pid && of_files(faults) > faults.total / 2)
}

/// Whether a wait is for data to come, and not for it to reach the disk.
pub(super) fn reads(state: &str, detail: Option<&str>) -> bool {
    match state {
        "fault" => true,
        "file" => detail.is_none_or(paging::reads),
        _ => false,
    }
}

impl Rule for PageCacheThrash {
    fn class(&self) -> &'static str {
        "page-cache-thrash"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(files) = files(report) else {
            return Outcome::CouldNotRun("the family cache did not run, which counts files' pages".to_owned());
        };
        let worst: Vec<(usize, &CachedFile)> =
            files.iter().enumerate().filter(|(_, file)| thrashes(report, file)).collect();
        let Some((index, file)) = worst.first().copied() else {
            let most = files.iter().filter_map(|file| file.reread_factor).fold(0.0, f64::max);
            return Outcome::Silent(format!(
                "of no file larger than {} were pages read again after they had been thrown out (most: {most:.2} times its size)",
                bytes(LEAST_BYTES)
            ));
        };
        let any = |object: Option<&str>, path: Option<&str>| worst.iter().any(|(_, file)| is_for(file, object, path));
        // Computing in page faults is asking the disk for the pages and finding room for them; mapping those that are there anyway is little
        // of it (0.01 of 0.34 s where a file of 256 MiB was read 16 times).
        let lost = lost(
            report,
            |wait| wait.state == "memory" || (reads(wait.state, wait.detail) && any(wait.object, wait.path)),
            |phase, pid| phase == RECLAIM || (phase == PAGE_FAULT && reads_mapped_files(report, pid)),
        );
        let case = Case { report, index, file, others: worst.len() - 1, lost };
        Outcome::Claims(vec![if is_for_being_unused(file) { case.thrown_out_unused() } else { case.thrash() }])
    }
}

impl Rule for ColdFileMapping {
    fn class(&self) -> &'static str {
        "cold-file-mapping"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        if threads(report).next().is_none() {
            return Outcome::CouldNotRun("no thread was recorded".to_owned());
        }
        let Some(files) = files(report) else {
            return Outcome::CouldNotRun("the family cache did not run, which counts files' pages".to_owned());
        };
        let wall_s = report.window.duration_s;
        let mut most_s: f64 = 0.0;
        let mut claims = Vec::new();
        for (index, file) in files.iter().enumerate().filter(|(_, file)| !is_read_again(report, file)) {
            // What the kernel computes in these faults is lost with the waits; of a process with other faults it cannot be told apart.
            let lost = lost(
                report,
                |wait| wait.state == "fault" && is_for(file, wait.object, wait.path),
                |phase, pid| phase == PAGE_FAULT && reads_mapped_files(report, pid),
            );
            most_s = most_s.max(lost.waited_s);
            if lost.waited_s >= LEAST_SHARE * wall_s {
                claims.push(Case { report, index, file, others: 0, lost }.cold());
            }
        }
        if claims.is_empty() {
            return Outcome::Silent(format!(
                "waiting for pages of mapped files took {} of {}",
                duration(most_s),
                duration(wall_s)
            ));
        }
        Outcome::Claims(claims)
    }
}

struct Case<'a> {
    report: &'a Report,
    index: usize,
    file: &'a CachedFile,
    /// Further files of which the same holds.
    others: usize,
    lost: Lost,
}

impl Case<'_> {
    fn name(&self) -> String {
        let path = self.file.shown();
        match self.others {
            0 => path,
            others => format!("{path} and {} more", count(others as u64, "file")),
        }
    }

    /// The thread that waited most, and where in its code.
    fn culprit(&self) -> Subject {
        let mut culprit = lost_claim::culprit(self.report, &self.lost, &self.file.whose, |wait| {
            reads(&wait.state, wait.detail.as_deref())
                && is_for(self.file, wait.object.as_deref(), wait.path.as_deref())
        });
        culprit.path = self.file.path.clone();
        culprit
    }

    fn evidence(&self, wall_s: f64) -> Vec<Evidence> {
        let at = |field: &str| format!("/paging/files/{}/{field}", self.index);
        let file = self.file;
        let size = Some(("size of the file", file.size_bytes as f64));
        let mut list = self.lost.evidence();
        if let (Some(first), true) = (list.first_mut(), self.lost.s > 0.0) {
            first.compared_with =
                evidence("", 0.0, "", String::new(), Some(("reported from", REPORTED_SHARE * wall_s))).compared_with;
        }
        list.push(evidence("read into the page cache", file.read_bytes as f64, "B", at("read_bytes"), size));
        if let Some(factor) = file.reread_factor {
            list.push(evidence(
                "that over the file's size",
                factor,
                "1",
                at("reread_factor"),
                Some(("thrash from", REREAD)),
            ));
        }
        if thrashes(self.report, file) {
            list.extend(memory_limits::evidences(self.report, self.culprit().cgroup.as_deref()));
        }
        for (what, count, field) in [
            ("thrown out by traced threads that were short of memory", file.reclaimed_own_bytes, "reclaimed_own_bytes"),
            ("thrown out by the kernel's own threads", file.reclaimed_others_bytes, "reclaimed_others_bytes"),
            ("thrown out by DAMON, as used seldom", file.reclaimed_unused_bytes, "reclaimed_unused_bytes"),
        ] {
            if count > 0 {
                list.push(evidence(what, count as f64, "B", at(field), None));
            }
        }
        list
    }

    fn claim(&self, class: &str, words: Words) -> Claim {
        let evidence = self.evidence(self.report.window.duration_s);
        lost_claim::claim(self.report, class, COUNTED, &self.lost, self.culprit(), evidence, words)
    }

    fn thrash(&self) -> Claim {
        let (file, wall_s) = (self.file, self.report.window.duration_s);
        let factor = file.reread_factor.unwrap_or(0.0);
        let culprit = self.culprit();
        let cgroup = memory_limits::words(self.report, culprit.cgroup.as_deref());
        let cgroup = cgroup.map(|cgroup| format!(" in {cgroup}")).unwrap_or_default();
        let summary = format!(
            "{} ({}) does not fit into the memory that there is for it{cgroup}: {} of it were read, {factor:.1} times its size, and {} \
             ({} of {}) were lost to reading it again and to making room",
            self.name(),
            bytes(file.size_bytes),
            bytes(file.read_bytes),
            duration(self.lost.s),
            percent(self.lost.s / wall_s.max(f64::MIN_POSITIVE)),
            duration(wall_s),
        );
        let hypothesis = format!(
            "Pages are thrown out to make room for others of the same file before they are needed again, so that each pass reads it anew. \
             Counters of the host do not show it when it is a cgroup's limit that is too low. {}",
            self.lost.whose()
        );
        let fix = "Give the cgroup at least the size of the files that are read over and over, plus what the process itself needs; or work on \
                   less at a time (smaller shards, one pass in blocks), a smaller type (quantised weights), or fewer processes per limit."
            .to_owned();
        let experiment = format!(
            "Run it with the cgroup's memory limit raised above {}: the file must be brought in once ({}), and the wall time must fall, by at \
             most {}.",
            bytes(2 * file.size_bytes),
            bytes(file.size_bytes),
            duration(self.lost.at_most_s())
        );
        self.claim(PageCacheThrash.class(), Words { summary, hypothesis, fix, experiment })
    }

    /// The kernel throws pages out because they are used seldom.
    fn thrown_out_unused(&self) -> Claim {
        let (file, wall_s) = (self.file, self.report.window.duration_s);
        let summary = format!(
            "{} ({}) was thrown out of the page cache for being used seldom, by the kernel's proactive reclaim (DAMON): {} of it were read, \
             {:.1} times its size, and {} ({} of {}) were lost to reading it again",
            self.name(),
            bytes(file.size_bytes),
            bytes(file.read_bytes),
            file.reread_factor.unwrap_or(0.0),
            duration(self.lost.s),
            percent(self.lost.s / wall_s.max(f64::MIN_POSITIVE)),
            duration(wall_s),
        );
        let hypothesis = format!(
            "A thread of the kernel (kdamond) looks which memory is used, and throws out what has not been for some time, though nobody needs the \
             room: {} of the {} that were. A file that is read in passes longer than that is read anew in each. {}",
            bytes(file.reclaimed_unused_bytes),
            bytes(file.reclaimed_bytes()),
            self.lost.whose()
        );
        let fix = "Let proactive reclaim wait longer than a pass takes, or stop it on this host (/sys/module/damon_reclaim/parameters: min_age, \
                   enabled; else the scheme in /sys/kernel/mm/damon/admin, or what sets it up); or lock the file's pages in memory (mmap and mlock)."
            .to_owned();
        let experiment = format!(
            "Run it with proactive reclaim off: the file must be brought in once ({}), and the wall time must fall, by at most {}.",
            bytes(file.size_bytes),
            duration(self.lost.at_most_s())
        );
        self.claim(PageCacheThrash.class(), Words { summary, hypothesis, fix, experiment })
    }

    fn cold(&self) -> Claim {
        let (file, wall_s) = (self.file, self.report.window.duration_s);
        let mean = self.lost.waited_s / self.lost.pieces.max(1) as f64;
        let summary = format!(
            "{} ({}) was mapped and read from its disk as it was touched: {} waits of {} on average, {} ({} of {}) in all",
            self.name(),
            bytes(file.size_bytes),
            crate::model::units::grouped(self.lost.pieces),
            duration(mean),
            duration(self.lost.s),
            percent(self.lost.s / wall_s.max(f64::MIN_POSITIVE)),
            duration(wall_s),
        );
        let hypothesis = format!(
            "Of a mapped file each page that is not in memory is read when it is touched, and the thread waits for that one page (or for the \
             few around it). {}",
            self.lost.whose()
        );
        let fix = "Read the file ahead in large pieces: MADV_POPULATE_READ or MADV_WILLNEED in windows, a plain sequential read beforehand \
                   (cat FILE > /dev/null), or a loader that reads instead of mapping (--no-mmap, safetensors' eager loading); drop \
                   MADV_RANDOM; keep it on faster storage, or warm between runs."
            .to_owned();
        let experiment = format!(
            "Read the file once before the run (cat FILE > /dev/null) and compare: these waits must go to zero, and the wall time must fall by \
             at most {}.",
            duration(self.lost.at_most_s())
        );
        self.claim(ColdFileMapping.class(), Words { summary, hypothesis, fix, experiment })
    }
}
