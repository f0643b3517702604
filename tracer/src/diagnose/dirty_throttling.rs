//! `dirty-throttling`: threads that write are paused by the kernel, since more pages are dirty than may be; they write at the device's
//! pace from then on. Waiting for a sync is `fsync-stall`'s, freeing memory at a cgroup's limit `memory-limit`'s.

use super::lost::{Lost, lost};
use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties, threads};
use crate::model::io::DirtyPauses;
use crate::model::report::{Evidence, Finding, Report, Subject};
use crate::model::units::{bytes, count, duration, percent};

/// See the file's head.
pub struct DirtyThrottling;

/// The kernel said that it pauses the thread, and its waits were measured.
const SEEN: f64 = 0.95;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;

/// Whether a wait may be a pause: in a call that writes, or in the fault of a mapped file.
fn may_pause(state: &str, detail: Option<&str>) -> bool {
    match state {
        "file" => detail.is_some_and(|call| {
            matches!(
                call,
                "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "sendfile" | "copy_file_range" | "splice"
            )
        }),
        "fault" => true,
        _ => false,
    }
}

impl Rule for DirtyThrottling {
    fn class(&self) -> &'static str {
        "dirty-throttling"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(paused) = report.io.as_ref().and_then(|io| io.paused.as_ref()) else {
            return Outcome::CouldNotRun("the family writeback did not run, which sees such pauses".to_owned());
        };
        let Some(most) = paused.first() else {
            return Outcome::Silent("no thread was paused for dirtying too much".to_owned());
        };
        let case = Case::of(report, paused, most);
        let wall_s = report.window.duration_s;
        if case.lost_s() < LEAST_SHARE * wall_s {
            let total_s: f64 = paused.iter().map(|row| row.total_s).sum();
            return Outcome::Silent(format!(
                "threads were paused for {}, and the run lost {} of {} to that",
                duration(total_s),
                duration(case.lost_s()),
                duration(wall_s)
            ));
        }
        Outcome::Claims(vec![case.claim()])
    }
}

struct Case<'a> {
    report: &'a Report,
    paused: &'a [DirtyPauses],
    most: &'a DirtyPauses,
    /// To all waiting in which pauses may be.
    lost: Lost,
    /// The part of such waiting that was pauses.
    share: f64,
}

impl<'a> Case<'a> {
    fn of(report: &'a Report, paused: &'a [DirtyPauses], most: &'a DirtyPauses) -> Self {
        let is_paused = |pid: Option<u32>| paused.iter().any(|row| row.whose.pid == pid);
        let lost = lost(report, |wait| may_pause(wait.state, wait.detail) && is_paused(wait.pid), |_, _| false);
        let of_process = threads(report).filter(|(_, thread)| is_paused(thread.pid));
        let waits = of_process.flat_map(|(_, thread)| &thread.waits);
        let waited_s: f64 =
            waits.filter(|wait| may_pause(&wait.state, wait.detail.as_deref())).map(|wait| wait.total_s).sum();
        let paused_s: f64 = paused.iter().map(|row| row.total_s).sum();
        let share = if waited_s > 0.0 { (paused_s / waited_s).min(1.0) } else { 0.0 };
        Case { report, paused, most, lost, share }
    }

    fn lost_s(&self) -> f64 {
        self.lost.s * self.share
    }

    fn culprit(&self) -> Subject {
        let whose = &self.most.whose;
        let Some(tid) = whose.tid else { return Subject::default() };
        let mut culprit =
            parties::party(self.report, (whose.pid, whose.process.as_ref()), (tid, whose.thread.as_ref()));
        if let Some((_, row)) = parties::row(self.report, whose.pid, tid) {
            let wait = row.waits.iter().find(|wait| may_pause(&wait.state, wait.detail.as_deref()));
            if let Some(function) = wait.and_then(|wait| wait.places.first()) {
                functions::point_at(&mut culprit, &function.location);
            }
            culprit.path = wait.and_then(|wait| wait.path.clone());
        }
        culprit
    }

    /// What the writer's process dirtied, where that is known, and where the report holds it.
    fn dirtied(&self, path: Option<&String>) -> Option<(u64, String)> {
        let files = self.report.io.as_ref()?.files.iter().enumerate();
        let (index, file) = files.into_iter().find(|(_, file)| path.is_some() && file.path.as_ref() == path)?;
        Some((file.dirtied_bytes.filter(|bytes| *bytes > 0)?, format!("/io/files/{index}/dirtied_bytes")))
    }

    fn evidence(&self, path: Option<&String>) -> Vec<Evidence> {
        let wall_s = self.report.window.duration_s;
        let mut list = vec![
            evidence(
                "pauses of the thread that was paused longest",
                self.most.total_s,
                "s",
                "/io/paused/0/total_s".to_owned(),
                Some(("reported from", REPORTED_SHARE * wall_s)),
            ),
            evidence("how often", self.most.count as f64, "1", "/io/paused/0/count".to_owned(), None),
        ];
        list.extend(self.lost.evidence());
        if let Some((dirtied, source)) = self.dirtied(path) {
            list.push(evidence("dirtied of the file", dirtied as f64, "B", source, None));
        }
        list
    }

    fn claim(&self) -> Claim {
        let wall_s = self.report.window.duration_s;
        let lost_s = self.lost_s();
        let culprit = self.culprit();
        let path = culprit.path.clone();
        let disk = self.most.disk.clone().or_else(|| self.most.device.clone());
        let disk = disk.unwrap_or_else(|| "the device".to_owned());
        let who = match self.most.whose.tid {
            Some(tid) => parties::named("thread", self.most.whose.thread.as_deref(), tid),
            None => "a thread".to_owned(),
        };
        let written = self.dirtied(path.as_ref()).map(|(dirtied, _)| format!(" {} to", bytes(dirtied)));
        let what = path.as_ref().map(|path| format!(" while it wrote{} {path}", written.unwrap_or_default()));
        let others = match self.paused.len() {
            0 | 1 => String::new(),
            more => format!(" ({} were)", count(more as u64, "thread")),
        };
        let finding = Finding {
            class: DirtyThrottling.class().to_owned(),
            rank: 0,
            severity: severity(lost_s, wall_s),
            confidence: confidence(self.report, SEEN),
            summary: format!(
                "{who} was paused {} by the kernel{}, {} in all{others}: more of what is to be written to {disk} was dirty than may be; {} ({} of \
                 {}) were lost to that",
                count(self.most.count, "time"),
                what.unwrap_or_default(),
                duration(self.most.total_s),
                duration(lost_s),
                percent(lost_s / wall_s.max(f64::MIN_POSITIVE)),
                duration(wall_s),
            ),
            lost_s: Some(lost_s),
            share_of_wall: self.lost.share.map(|share| share * self.share),
            speedup_bound: speedup_bound(lost_s, wall_s),
            evidence: self.evidence(path.as_ref()),
            culprit: Some(culprit),
            victims: Vec::new(),
            hypothesis: format!(
                "What is written goes to memory until a part of the memory (vm.dirty_ratio, vm.dirty_bytes, or a share of it for a slow device) \
                 is dirty; then the kernel pauses whoever writes, so that {disk} keeps up. {}",
                self.lost.whose()
            ),
            fix: "Write less or more slowly (compress, fewer checkpoints, one rank instead of all), write to a quicker device, or past the page \
                  cache (O_DIRECT); write in a thread or process that the next step does not wait for; begin writing earlier (sync_file_range, \
                  a lower vm.dirty_background_bytes). A higher vm.dirty_bytes only moves the pause."
                .to_owned(),
            experiment: format!(
                "Write to a tmpfs, or leave the write out: these pauses must go to zero, and the wall time must fall, by at most {}.",
                duration(lost_s)
            ),
            consequences: Vec::new(),
        };
        let pieces = (self.lost.pieces as f64 * self.share) as u64;
        Claim { finding, reported: is_reported(lost_s, wall_s, pieces, self.most.max_s) }
    }
}
