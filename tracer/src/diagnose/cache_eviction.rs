//! `cache-eviction`: a file that would have stayed in the page cache was pushed out by what somebody wrote meanwhile, and had to be read
//! again. A file that does not fit by itself is `page-cache-thrash`'s; one that is read for the first time nobody's or
//! `cold-file-mapping`'s.

use std::cmp::Reverse;

use super::lost::{Lost, lost};
use super::page_cache::{LEAST_BYTES, files, is_for, reads};
use super::thresholds::{is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, memory_limits, parties};
use crate::model::paging::CachedFile;
use crate::model::report::{Evidence, Finding, Report, Subject};
use crate::model::stacks::{RECLAIM, Whose};
use crate::model::units::{bytes, count, duration, percent};

/// See the file.
pub struct CacheEviction;

/// Threads that wrote were seen throwing the pages out.
const SEEN: f64 = 0.9;
/// Others threw them out (the reader itself, the kernel's own threads): that writing filled the memory is inferred.
const INFERRED: f64 = 0.7;
/// A part of the file was read again.
const AGAIN_SHARE: f64 = 0.25;
/// What was written is at least this part of what was lost.
const WRITTEN_SHARE: f64 = 0.5;
/// Of what was thrown out writers did this part themselves.
const SEEN_SHARE: f64 = 0.25;
/// One of so many bytes is little.
const LITTLE: u64 = 20;
/// A file that takes up more of the limit than this has no room beside what a process needs anyway.
const FITS_SHARE: f64 = 0.9;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;

fn reclaimed(file: &CachedFile) -> u64 {
    file.reclaimed_own_bytes.saturating_add(file.reclaimed_others_bytes)
}

/// What was read after it had been thrown out: not more than was read, nor than was thrown out.
fn again(file: &CachedFile) -> u64 {
    file.read_bytes.min(reclaimed(file))
}

/// Whether a file was pushed out by others that were written, though it fits.
pub(super) fn is_pushed_out(report: &Report, file: &CachedFile) -> bool {
    let written: u64 = others(report, file).fold(0, |sum, (_, other)| sum.saturating_add(other.written_bytes));
    let room = memory_limits::room(report, cgroup(report, file).as_deref());
    file.size_bytes >= LEAST_BYTES
        && file.written_bytes < file.read_bytes
        && again(file) as f64 >= AGAIN_SHARE * file.size_bytes as f64
        && written as f64 >= WRITTEN_SHARE * again(file) as f64
        && room.is_none_or(|room| file.size_bytes as f64 <= FITS_SHARE * room as f64)
}

/// Other files that were written, most first; what is written beside the largest is left out if it is little.
fn others<'a>(report: &'a Report, file: &'a CachedFile) -> impl Iterator<Item = (usize, &'a CachedFile)> {
    let all = files(report).into_iter().flatten().enumerate();
    let mut written: Vec<(usize, &CachedFile)> = all
        .filter(|(_, other)| (other.inode, &other.device) != (file.inode, &file.device) && other.written_bytes > 0)
        .collect();
    written.sort_by_key(|(index, other)| (Reverse(other.written_bytes), *index));
    let least = written.first().map_or(0, |(_, most)| most.written_bytes / LITTLE);
    written.retain(|(_, other)| other.written_bytes >= least);
    written.into_iter()
}

/// The cgroup of the thread that reads a file.
fn cgroup(report: &Report, file: &CachedFile) -> Option<String> {
    party(report, &file.whose).cgroup
}

fn party(report: &Report, whose: &Whose) -> Subject {
    match whose.tid {
        Some(tid) => parties::party(report, (whose.pid, whose.process.as_ref()), (tid, whose.thread.as_ref())),
        None => Subject { process: whose.process.clone(), pid: whose.pid, ..Subject::default() },
    }
}

impl Rule for CacheEviction {
    fn class(&self) -> &'static str {
        "cache-eviction"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(files) = files(report) else {
            return Outcome::CouldNotRun("the family cache did not run, which counts files' pages".to_owned());
        };
        let pushed = files.iter().enumerate().filter(|(_, file)| is_pushed_out(report, file));
        let Some((index, file)) = pushed.max_by_key(|(index, file)| (again(file), Reverse(*index))) else {
            return Outcome::Silent(
                "no file that fits into memory was read again because others were written".to_owned(),
            );
        };
        let case = Case::of(report, index, file);
        let wall_s = report.window.duration_s;
        if case.lost_s() < LEAST_SHARE * wall_s {
            return Outcome::Silent(format!(
                "reading up to {} of {} again took {}",
                bytes(again(file)),
                file.shown(),
                duration(case.lost_s())
            ));
        }
        Outcome::Claims(vec![case.claim()])
    }
}

struct Case<'a> {
    report: &'a Report,
    index: usize,
    file: &'a CachedFile,
    /// What was written, most first.
    written: Vec<(usize, &'a CachedFile)>,
    /// To all reading of the file, the first time included.
    lost: Lost,
}

impl<'a> Case<'a> {
    fn of(report: &'a Report, index: usize, file: &'a CachedFile) -> Self {
        let reader = file.whose.pid;
        let lost = lost(
            report,
            |wait| reads(wait.state, wait.detail) && is_for(file, wait.object, wait.path),
            |phase, pid| phase == RECLAIM && pid == reader,
        );
        Self { report, index, file, written: others(report, file).collect(), lost }
    }

    /// The part of what was read that had been there before.
    fn share(&self) -> f64 {
        again(self.file) as f64 / self.file.read_bytes.max(1) as f64
    }

    fn lost_s(&self) -> f64 {
        self.lost.s * self.share()
    }

    /// Who wrote: whoever was seen throwing pages out for it, else who began to write most.
    fn writer(&self) -> Option<&Whose> {
        let seen = self.file.reclaimed_by.as_ref();
        seen.or_else(|| self.written.first().map(|(_, file)| &file.whose))
    }

    fn culprit(&self) -> Subject {
        let Some(whose) = self.writer() else { return Subject::default() };
        let mut culprit = party(self.report, whose);
        if let (Some(pid), Some(tid)) = (whose.pid, whose.tid)
            && let Some(doing) =
                functions::doing(self.report, pid, tid, |wait| wait.state != "memory" && wait.state != "file")
        {
            functions::point_at(&mut culprit, &doing.time.location);
        }
        culprit.path = self.written.first().and_then(|(_, file)| file.path.clone());
        culprit
    }

    fn victim(&self) -> Subject {
        let mut victim = party(self.report, &self.file.whose);
        victim.path = self.file.path.clone();
        victim
    }

    fn evidence(&self) -> Vec<Evidence> {
        let at = |field: &str| format!("/paging/files/{}/{field}", self.index);
        let file = self.file;
        let size = Some(("size of the file", file.size_bytes as f64));
        let mut list = self.lost.evidence();
        list.push(evidence("read into the page cache", file.read_bytes as f64, "B", at("read_bytes"), size));
        for (what, value, field) in [
            ("thrown out by traced threads that were short of memory", file.reclaimed_own_bytes, "reclaimed_own_bytes"),
            ("of these, by threads that were writing", file.reclaimed_by_writers_bytes, "reclaimed_by_writers_bytes"),
            ("thrown out by the kernel's own threads", file.reclaimed_others_bytes, "reclaimed_others_bytes"),
        ] {
            if value > 0 {
                list.push(evidence(what, value as f64, "B", at(field), None));
            }
        }
        for (index, written) in self.written.iter().take(3) {
            let source = format!("/paging/files/{index}/written_bytes");
            list.push(evidence("written to another file meanwhile", written.written_bytes as f64, "B", source, None));
        }
        list.extend(memory_limits::evidences(self.report, cgroup(self.report, file).as_deref()));
        list
    }

    fn claim(&self) -> Claim {
        let wall_s = self.report.window.duration_s;
        // The first reading may have been quick, and all the waiting have come later.
        let (lost_s, at_most_s) = (self.lost_s(), self.lost.at_most_s());
        let seen = self.file.reclaimed_by_writers_bytes as f64 >= SEEN_SHARE * reclaimed(self.file) as f64;
        let finding = Finding {
            class: CacheEviction.class().to_owned(),
            rank: 0,
            severity: severity(lost_s, wall_s),
            confidence: confidence(self.report, if seen { SEEN } else { INFERRED }),
            summary: self.summary(wall_s),
            lost_s: Some(at_most_s),
            share_of_wall: self.lost.share.map(|share| share * self.share()),
            speedup_bound: speedup_bound(at_most_s, wall_s),
            culprit: Some(self.culprit()),
            victims: vec![self.victim()],
            evidence: self.evidence(),
            hypothesis: self.hypothesis(),
            fix: "Write past the page cache (O_DIRECT, or RWF_DONTCACHE from Linux 6.14 on), or give the pages up as they reach the disk: \
                  sync_file_range, then POSIX_FADV_DONTNEED behind the place that is being written; or put the writer into a memory cgroup of \
                  its own, or raise the limit above both."
                .to_owned(),
            experiment: format!(
                "Run it with these writes left out, or past the page cache: {} must be brought in once, and the wall time must fall, by at \
                 most {}.",
                self.file.shown(),
                duration(at_most_s)
            ),
            consequences: Vec::new(),
        };
        let pieces = (self.lost.pieces as f64 * self.share()) as u64;
        Claim { finding, reported: is_reported(lost_s, wall_s, pieces, self.lost.longest_s) }
    }

    fn summary(&self, wall_s: f64) -> String {
        let (file, lost_s) = (self.file, self.lost_s());
        let written: u64 = self.written.iter().fold(0, |sum, (_, other)| sum.saturating_add(other.written_bytes));
        let what = match &self.written[..] {
            [(_, one)] => one.shown(),
            [(_, one), rest @ ..] => format!("{} and {}", one.shown(), count(rest.len() as u64, "other file")),
            [] => "other files".to_owned(),
        };
        let who = self.writer().and_then(|whose| Some(parties::named("thread", whose.thread.as_deref(), whose.tid?)));
        let who = who.map(|who| format!(" by {who}")).unwrap_or_default();
        let limit = memory_limits::words(self.report, cgroup(self.report, file).as_deref());
        let limit = limit.map(|limit| format!(" in {limit}")).unwrap_or_default();
        format!(
            "{} written to {what}{who} pushed {} ({}) out of the page cache{limit}: up to {} of it were read again, and {} ({} of {}) were lost to that",
            bytes(written),
            file.shown(),
            bytes(file.size_bytes),
            bytes(again(file)),
            duration(lost_s),
            percent(lost_s / wall_s.max(f64::MIN_POSITIVE)),
            duration(wall_s),
        )
    }

    fn hypothesis(&self) -> String {
        format!(
            "What is written stays in the page cache until it is thrown out, as what is read does: a large file that nobody will read soon (a \
             checkpoint, a log) takes the room of one that is read over and over. How much was read again is what \
             was both read and thrown out, so at most; its share of the time that reading the file took is put down to that, and all of \
             that time is the bound. {}",
            self.lost.whose()
        )
    }
}
