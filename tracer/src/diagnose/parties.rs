//! Who a finding is about: threads, processes and the locks between them, found in the report and named. What they did is `functions`'s.

use super::thresholds::REPORTED_SHARE;
use super::{evidence, functions, subject, threads};
use crate::model::critical_path::PathWait;
use crate::model::report::{Evidence, Futex, Report, Subject, Thread, Waiter};

/// The row of a thread, and its position.
pub(super) fn row(report: &Report, pid: Option<u32>, tid: u32) -> Option<(usize, &Thread)> {
    threads(report).find(|(_, thread)| thread.tid == tid && thread.pid == pid)
}

/// A thread or process by name and number.
pub(super) fn named(noun: &str, name: Option<&str>, id: u32) -> String {
    match name {
        Some(name) => format!("{noun} {name} ({id})"),
        None => format!("{noun} {id}"),
    }
}

/// A thread as victim or culprit, as far as it has a row; with the names that were met where it is spoken of.
pub(super) fn party(
    report: &Report,
    (pid, process): (Option<u32>, Option<&String>),
    (tid, thread): (u32, Option<&String>),
) -> Subject {
    let mut found = row(report, pid, tid).map(|(_, thread)| subject(thread)).unwrap_or_default();
    (found.pid, found.tid) = (pid, Some(tid));
    found.process = process.cloned().or(found.process);
    found.thread = thread.cloned().or(found.thread);
    found
}

/// One who waits for a futex, and where in its code.
pub(super) fn waiter(report: &Report, futex: &Futex, waiter: &Waiter) -> Subject {
    let process = (Some(futex.pid), futex.process.as_ref());
    let mut victim = party(report, process, (waiter.tid, waiter.thread.as_ref()));
    victim.ns_tid = waiter.ns_tid;
    if let Some(place) = waiter.places.first() {
        functions::point_at(&mut victim, &place.location);
    }
    victim
}

/// Waits for the futex at this address that the critical path led through, and where the report holds them.
pub(super) fn on_path<'a>(report: &'a Report, pid: u32, address: &str) -> Option<(usize, &'a PathWait)> {
    let ours =
        |wait: &PathWait| wait.state == "futex" && wait.pid == Some(pid) && wait.object.as_deref() == Some(address);
    report.critical_path.as_ref()?.waits.iter().enumerate().find(|(_, wait)| ours(wait))
}

/// A loss with the queueing that followed it; not more than the run.
pub(super) fn with_queueing(lost_s: f64, queued: &[(f64, Evidence)], wall_s: f64) -> f64 {
    (lost_s + queued.iter().map(|(s, _)| s).sum::<f64>()).min(wall_s.max(lost_s))
}

/// Waits on the path after which threads queued for a CPU that they would not have left: for how long, and where the report holds it.
pub(super) fn queued_after<'a>(
    report: &'a Report,
    of: impl Fn(&PathWait) -> bool + 'a,
) -> impl Iterator<Item = (f64, Evidence)> + 'a {
    let waits = report.critical_path.iter().flat_map(|path| &path.waits).enumerate();
    waits.filter(move |(_, wait)| wait.queued_s > 0.0 && of(wait)).map(|(index, wait)| {
        let source = format!("/critical_path/waits/{index}/queued_s");
        (wait.queued_s, evidence("waiting for a CPU after these waits", wait.queued_s, "s", source, None))
    })
}

/// The same; none where it is under the reporting threshold there.
pub(super) fn much_on_path<'a>(report: &'a Report, futex: &Futex) -> Option<(usize, &'a PathWait)> {
    let least_s = REPORTED_SHARE * report.window.duration_s;
    on_path(report, futex.pid, &futex.address).filter(|(_, wait)| wait.s >= least_s)
}
