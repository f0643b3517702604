//! What findings on lost time have in common: whose wait it was, and how the claim is put together. What is lost is summed up in `lost`.

use super::lost::Lost;
use super::thresholds::{is_reported, severity, speedup_bound};
use super::{Claim, confidence, functions, parties};
use crate::model::report::{Evidence, Finding, Report, Subject, Wait};
use crate::model::stacks::Whose;

/// A finding in words.
pub(super) struct Words {
    pub summary: String,
    pub hypothesis: String,
    pub fix: String,
    pub experiment: String,
}

/// Whether a wait is for this file, which has an inode and perhaps a path.
pub(super) fn is_for((inode, path): (u64, Option<&str>), wait_object: Option<&str>, wait_path: Option<&str>) -> bool {
    match wait_path {
        Some(wait_path) => path == Some(wait_path),
        None => wait_object.is_some_and(|object| object == format!("inode:[{inode}]")),
    }
}

/// The thread that lost most, else this one, with the function in which it had the first of these waits.
pub(super) fn culprit(report: &Report, lost: &Lost, else_: &Whose, waits: impl Fn(&Wait) -> bool) -> Subject {
    let (pid, tid) = lost.most.unwrap_or((else_.pid, else_.tid.unwrap_or(0)));
    let own = (else_.pid, else_.tid) == (pid, Some(tid));
    let (process, thread) = (else_.process.as_ref(), else_.thread.as_ref());
    let mut culprit = parties::party(report, (pid, process.filter(|_| own)), (tid, thread.filter(|_| own)));
    let place = parties::row(report, pid, tid).and_then(|(_, row)| row.waits.iter().find(|wait| waits(wait)));
    if let Some(function) = place.and_then(|wait| wait.places.first()) {
        functions::point_at(&mut culprit, &function.location);
    }
    culprit
}

/// The claim that so much was lost, at most what samples can mean.
pub(super) fn claim(
    report: &Report,
    class: &str,
    own_confidence: f64,
    lost: &Lost,
    culprit: Subject,
    evidence: Vec<Evidence>,
    words: Words,
) -> Claim {
    let wall_s = report.window.duration_s;
    let Words { summary, hypothesis, fix, experiment } = words;
    let finding = Finding {
        class: class.to_owned(),
        rank: 0,
        severity: severity(lost.s, wall_s),
        confidence: confidence(report, own_confidence),
        summary,
        lost_s: Some(lost.at_most_s()),
        share_of_wall: lost.share,
        speedup_bound: speedup_bound(lost.at_most_s(), wall_s),
        culprit: Some(culprit),
        victims: Vec::new(),
        evidence,
        hypothesis,
        fix,
        experiment,
        consequences: Vec::new(),
    };
    Claim { finding, reported: is_reported(lost.s, wall_s, lost.pieces, lost.longest_s) }
}

/// The same of what the critical path did not wait for: observed only.
pub(super) fn aside(claim: Claim, report: &Report) -> Claim {
    let mut finding = claim.finding;
    finding.summary.push_str("; nothing that CMD's main thread waited for");
    (finding.lost_s, finding.speedup_bound) = (Some(0.0), None);
    finding.severity = severity(0.0, report.window.duration_s);
    Claim { finding, reported: false }
}
