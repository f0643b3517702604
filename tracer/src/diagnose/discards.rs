//! The part of `slow-storage` about discards: on a file system that is mounted with `discard`, a call that cuts or deletes a file, such as
//! open with O_TRUNC, waits until the device has thrown away what the file had. Looks like slow opening, or like fsync. Discards that the
//! kernel's own threads ask for later are nobody's wait.

use super::lost::{Lost, Waiting, lost};
use super::lost_claim::{self, Words};
use super::{Claim, UNKNOWN_COVERAGE, evidence, family_share};
use crate::model::io::{Io, IoProcess};
use crate::model::report::{Report, Subject};
use crate::model::stacks::Whose;
use crate::model::units::{bytes, count, duration, percent};

/// Calls that may free what a file has on its device.
const CALLS: [&str; 13] = [
    "open",
    "openat",
    "openat2",
    "creat",
    "truncate",
    "ftruncate",
    "fallocate",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "close",
];

/// Both sides are measured; that one is for the other follows from whose they are, and how long.
const MEASURED: f64 = 0.85;
/// The device had discards for at least this part of the waiting.
const LEAST_PART: f64 = 0.5;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;

fn cuts(state: &str, detail: Option<&str>) -> bool {
    state == "file" && detail.is_some_and(|call| CALLS.contains(&call))
}

/// What the run lost by it, of the process that lost most; none if that is not worth a word.
pub(super) fn claim(report: &Report, io: &Io) -> Option<Claim> {
    let discarding = io.processes.iter().enumerate().filter(|(_, process)| process.discards > 0);
    let cases = discarding.map(|(row, process)| {
        let waits = |wait: &Waiting<'_>| wait.pid == Some(process.pid) && cuts(wait.state, wait.detail);
        (row, process, lost(report, waits, |_, _| false))
    });
    let worth = |(_, process, lost): &(usize, &IoProcess, Lost)| {
        lost.waited_s > 0.0
            && lost.waited_s >= LEAST_SHARE * report.window.duration_s
            && process.discard_device_s >= LEAST_PART * lost.waited_s
    };
    let (row, process, lost) = cases.filter(worth).max_by(|a, b| a.2.s.total_cmp(&b.2.s))?;
    Some(of(report, io, (row, process), &lost))
}

fn of(report: &Report, io: &Io, (row, process): (usize, &IoProcess), lost: &Lost) -> Claim {
    let wall_s = report.window.duration_s;
    let whose = Whose { process: process.process.clone(), pid: Some(process.pid), ..Whose::default() };
    let culprit = lost_claim::culprit(report, lost, &whose, |wait| cuts(&wait.state, wait.detail.as_deref()));
    let mut disks = io.devices.iter().flatten().filter(|device| device.discards.is_some());
    // Of several it is not known which one had those of this process.
    let disk = match (disks.next(), disks.next()) {
        (Some(disk), None) => disk.shown(),
        _ => "its device",
    };
    let at = |field: &str| format!("/io/processes/{row}/{field}");
    let mut list = lost.evidence();
    list.push(evidence("discards that it asked for", process.discards as f64, "1", at("discards"), None));
    list.push(evidence("bytes of them", process.discard_bytes as f64, "B", at("discard_bytes"), None));
    list.push(evidence("time that the device had them", process.discard_device_s, "s", at("discard_device_s"), None));
    let summary = format!(
        "{}{} waited {} ({} of {}) until {disk} had discarded what the files had before: {} of {} in all, {} with the device",
        call(report, process.pid),
        called(&culprit),
        duration(lost.s),
        percent(lost.s / wall_s.max(f64::MIN_POSITIVE)),
        duration(wall_s),
        count(process.discards, "discard"),
        bytes(process.discard_bytes),
        duration(process.discard_device_s),
    );
    let hypothesis = format!(
        "The file system is mounted with `discard`: what frees a file's blocks (open with O_TRUNC, truncate, unlink, rename over it) tells the \
         device at once, and waits for it. {}",
        lost.whose()
    );
    let fix = "Mount it without `discard` and run fstrim now and then (fstrim.timer); or write over the file in place instead of cutting it \
               first; or write to a new name, and delete the old file in a thread that nothing waits for."
        .to_owned();
    let experiment = format!(
        "Mount it with `nodiscard` (mount -o remount,nodiscard) and run it again: the wall time must fall, by at most {}.",
        duration(lost.at_most_s())
    );
    let own = MEASURED * family_share(report, "block").unwrap_or(UNKNOWN_COVERAGE);
    lost_claim::claim(report, "slow-storage", own, lost, culprit, list, Words { summary, hypothesis, fix, experiment })
}

/// The call in which the process waited longest.
fn call(report: &Report, pid: u32) -> String {
    let own = super::threads(report).filter(|(_, thread)| thread.pid == Some(pid));
    let waits = own.flat_map(|(_, thread)| &thread.waits).filter(|wait| cuts(&wait.state, wait.detail.as_deref()));
    let longest = waits.max_by(|a, b| a.total_s.total_cmp(&b.total_s));
    longest.and_then(|wait| wait.detail.clone()).unwrap_or_else(|| "a call".to_owned())
}

fn called(who: &Subject) -> String {
    who.function.as_ref().map(|function| format!(", called by {function},")).unwrap_or_default()
}
