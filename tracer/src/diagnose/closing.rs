//! The part of `slow-storage` about closing files: NFS, SMB and clients of object stores write what is left when a file is closed, and what
//! a file without a name still had being written is waited for too. Closing on mounts that are known is `far_storage.rs`'s, and what
//! devices have to discard then is `discards.rs`'s. Which file it is is known only if the process waited for it before.

use super::lost::{Lost, Waiting, lost, lost_by_a_thread};
use super::lost_claim::{self, Words};
use super::{Claim, far_storage};
use crate::model::report::{Report, Subject, Wait};
use crate::model::stacks::Whose;
use crate::model::units::{count, duration, percent};

/// Waits are measured; what for is inferred from the call.
const INFERRED: f64 = 0.7;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;

/// Whether this is a wait in close(2): of a file, or of what is not known. A socket's end may linger there, which few programs ask for.
pub(super) fn closes(state: &str, detail: Option<&str>) -> bool {
    ["file", "other"].contains(&state) && detail == Some("close")
}

/// What the run lost by it; none if that is not worth a word.
pub(super) fn claim(report: &Report) -> Option<Claim> {
    let is_far = far_storage::explains(report);
    let waits = |wait: &Waiting<'_>| closes(wait.state, wait.detail) && !is_far(wait);
    let worth = |lost: &Lost| lost.waited_s > 0.0 && lost.waited_s >= LEAST_SHARE * report.window.duration_s;
    let all = lost(report, waits, |_, _| false);
    if worth(&all) {
        return Some(of(report, &all));
    }
    report.critical_path.as_ref()?;
    let of_a_thread = lost_by_a_thread(report, waits, |_, _| false);
    worth(&of_a_thread).then(|| lost_claim::aside(of(report, &of_a_thread), report))
}

fn of(report: &Report, lost: &Lost) -> Claim {
    let wall_s = report.window.duration_s;
    let mut culprit =
        lost_claim::culprit(report, lost, &Whose::default(), |wait| closes(&wait.state, wait.detail.as_deref()));
    let longest = longest(report, &culprit);
    culprit.path = longest.and_then(|wait| wait.path.clone());
    let file = culprit.path.clone().or_else(|| longest?.object.clone());
    let name = file.as_ref().map(|file| format!(" {file}")).unwrap_or_default();
    let called = culprit.function.as_ref().map(|function| format!(", called by {function}")).unwrap_or_default();
    let summary = format!(
        "closing{name}{called} took {} ({} of {}): {} in close until the file system had written what was left",
        duration(lost.s),
        percent(lost.s / wall_s.max(f64::MIN_POSITIVE)),
        duration(wall_s),
        count(lost.pieces, "wait"),
    );
    let unknown = match file {
        Some(_) => "",
        None => {
            "Which file it was is not known: close empties the descriptor before it waits, and nobody had waited for that file before. "
        }
    };
    let hypothesis = format!(
        "close returns when the file system is done with the file. On NFS, SMB and clients of object stores it first sends what is left \
         there; of a file that was deleted already, it waits for what of it is being written. {unknown}{}",
        lost.whose()
    );
    let fix = "Close the file in a thread that nothing waits for. Have it written while it is made: sync_file_range or fdatasync now and \
               then in the background. Keep files that nobody needs afterwards in memory (a tmpfs, memfd_create), or delete them once \
               they are written. Copy finished files to the far store behind the run's back."
        .to_owned();
    let experiment = format!(
        "Run it with these files on a tmpfs: the wall time must fall, by at most {}.",
        duration(lost.at_most_s())
    );
    let words = Words { summary, hypothesis, fix, experiment };
    lost_claim::claim(report, "slow-storage", INFERRED, lost, culprit, lost.evidence(), words)
}

/// The thread's waits in closing one file, or those that are not known, that took longest.
fn longest<'a>(report: &'a Report, who: &Subject) -> Option<&'a Wait> {
    let (_, row) = super::parties::row(report, who.pid, who.tid?)?;
    let closing = row.waits.iter().filter(|wait| closes(&wait.state, wait.detail.as_deref()));
    closing.max_by(|a, b| a.total_s.total_cmp(&b.total_s))
}
