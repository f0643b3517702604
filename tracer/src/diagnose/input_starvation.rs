//! `input-starvation`: CMD's main thread waits again and again at a queue for what other threads of the run produce.
//!
//! A wait at a queue is never the cause itself: what is charged is what the producers did meanwhile, as the critical path holds it.
//! A queue is a pipe or unix socket that is read, a poll, or a futex that is no lock: nobody was seen to own it, and those who ended
//! the waits did not wait there themselves, as they do at barriers. Waits that a thread ended by ending are joins. In a poll only
//! what was worked counts: an event loop whose peers sleep is idle. Waits of a moment each are the exchange itself, no production. So is
//! what `ipc-wait` was reported for: copying what was produced.

use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties};
use crate::model::critical_path::{CriticalPath, OwnWait, PathOf, PathPart, PathWait};
use crate::model::report::{Evidence, Finding, Report, Subject};
use crate::model::units::{count, duration, percent};

/// See the file's head.
pub struct InputStarvation;

/// A smaller part of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;
/// Shorter waits than this, in the mean, are the exchange itself.
const LEAST_MEAN_S: f64 = 0.000_2;
/// Who waited at a futex for at least this part of the waits that it ended there is no producer.
const SYMMETRIC: f64 = 0.1;
/// A lock that explains this part of the time was reported instead.
const EXPLAINED: f64 = 0.7;
/// One producer, or all of one name, did most of it.
const PRODUCER_SEEN: f64 = 0.9;
/// What the producers did is spread.
const PRODUCER_SPREAD: f64 = 0.75;

const READS: [&str; 5] = ["read", "readv", "recvfrom", "recvmsg", "recvmmsg"];
/// What a thread does for the one that polls.
const WORK: [&str; 7] = ["on_cpu", "runnable", "throttled", "file", "fault", "kernel_lock", "socket_inet"];
/// Time of which nobody knows what it went to.
const NOT_KNOWN: [&str; 4] = ["mutual", "asleep", "not-kept", "not-ended"];
/// Findings that tell more of the same: the lock, the disk or the server that is behind the queue, or that both sides wait for each other in turn.
const TELL_MORE: [&str; 9] = [
    "user-lock-contention",
    "gil-contention",
    "deadlock",
    "allocator-contention",
    "logging-convoy",
    "fsync-stall",
    "process-spawn-storm",
    "straggler",
    "network-wait",
];

impl Rule for InputStarvation {
    fn class(&self) -> &'static str {
        "input-starvation"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(path) = &report.critical_path else {
            return Outcome::CouldNotRun(
                "it is about the critical path of CMD's main thread, and this recording has none".to_owned(),
            );
        };
        let waits: Vec<Queue<'_>> =
            path.own_waits.iter().enumerate().filter_map(|(index, wait)| Queue::new(facts, index, wait)).collect();
        let worth_a_word = |case: &Case<'_>| case.lost_s >= LEAST_SHARE * report.window.duration_s;
        let Some(case) = Case::new(path, waits).filter(worth_a_word) else {
            return Outcome::Silent("the main thread hardly waited at queues for what others produced".to_owned());
        };
        let lock = facts.earlier.iter().find(|finding| {
            TELL_MORE.contains(&finding.class.as_str()) && finding.lost_s.is_some_and(|s| s >= EXPLAINED * case.lost_s)
        });
        if let Some(lock) = lock {
            return Outcome::Silent(format!("what the main thread waited for at queues is reported as {}", lock.class));
        }
        Outcome::Claims(vec![case.claim(report)])
    }
}

/// A queue at which the main thread waited.
struct Queue<'a> {
    wait: &'a OwnWait,
    index: usize,
    /// What was done meanwhile that counts, and where the wait's list has it.
    did: Vec<Did<'a>>,
}

/// What was done while the main thread waited at a queue.
#[derive(Clone, Copy)]
struct Did<'a> {
    part: &'a PathPart,
    /// Where the wait's list has it.
    index: usize,
    /// Of its time, that for which no other finding is the reason.
    s: f64,
}

impl<'a> Did<'a> {
    fn new(facts: &Facts<'_>, (index, part): (usize, &'a PathPart)) -> Option<Self> {
        let copied = facts.earlier.iter().any(|finding| finding.class == "ipc-wait");
        let s = match part.ipc_s.filter(|_| copied) {
            Some(ipc_s) => part.s - ipc_s,
            // Both ends want a CPU in turn.
            None if copied && part.state == "runnable" => 0.0,
            None => part.s,
        };
        (s > 0.0).then_some(Did { part, index, s })
    }
}

impl<'a> Queue<'a> {
    fn new(facts: &Facts<'_>, index: usize, wait: &'a OwnWait) -> Option<Self> {
        let mean_s = wait.s / wait.count.max(1) as f64;
        if wait.by_end || mean_s < LEAST_MEAN_S || !is_queue(facts.report, wait) {
            return None;
        }
        let did = wait.did.iter().enumerate().filter(|(_, did)| counts(facts, wait, did));
        let did = did.filter_map(|did| Did::new(facts, did)).collect();
        Some(Queue { wait, index, did })
    }
}

fn is_queue(report: &Report, wait: &OwnWait) -> bool {
    match wait.state.as_str() {
        "pipe" | "socket_unix" => wait.detail.as_deref().is_some_and(|call| READS.contains(&call)),
        "poll" => true,
        "futex" => is_no_lock(report, wait),
        _ => false,
    }
}

/// Nobody was seen to own the futex, and who ended the waits did not wait there as well.
fn is_no_lock(report: &Report, wait: &OwnWait) -> bool {
    let futexes = report.locks.iter().flat_map(|locks| &locks.futexes);
    let ours =
        |futex: &&crate::model::report::Futex| futex.pid == wait.of.pid && Some(&futex.address) == wait.object.as_ref();
    let Some(futex) = futexes.into_iter().find(ours) else { return false };
    let waited = |tid: u32| futex.waiters.iter().find(|waiter| waiter.tid == tid).map_or(0, |waiter| waiter.count);
    let too = wait.ended_by.iter().filter(|ender| waited(ender.tid) as f64 >= SYMMETRIC * ender.count as f64);
    futex.owners.is_empty() && too.map(|ender| ender.count).sum::<u64>() * 2 < wait.count
}

/// Whether a part of what explains a wait is what a producer did.
fn counts(facts: &Facts<'_>, wait: &OwnWait, did: &PathPart) -> bool {
    let reported = |classes: &[&str]| facts.earlier.iter().any(|finding| classes.contains(&finding.class.as_str()));
    let state = did.state.as_str();
    let is_own = did.tid == Some(wait.of.tid) && did.pid == Some(wait.of.pid);
    let elsewhere = match state {
        "throttled" => reported(&["cpu-quota-throttling"]),
        "runnable" => reported(&["cpu-oversubscription", "run-queue-wait", "low-priority", "cpu-steal"]),
        "kernel_lock" => reported(&["mmap-lock-contention", "kernel-lock-contention"]),
        _ => false,
    };
    let is_known = state != "unknown" && !did.cause.as_deref().is_some_and(|cause| NOT_KNOWN.contains(&cause));
    let worked = wait.state != "poll" || WORK.contains(&state);
    is_known && worked && !is_own && !elsewhere
}

/// All queues together.
struct Case<'a> {
    path: &'a CriticalPath,
    /// Who waited.
    of: &'a PathOf,
    queues: Vec<Queue<'a>>,
    lost_s: f64,
    waits: u64,
    max_s: f64,
    /// What was done most, where the report has it, and for how long in all queues.
    most: &'a PathPart,
    source: String,
    most_s: f64,
}

impl<'a> Case<'a> {
    fn new(path: &'a CriticalPath, mut queues: Vec<Queue<'a>>) -> Option<Self> {
        queues.retain(|queue| !queue.did.is_empty());
        let seconds = |queue: &Queue<'_>| queue.did.iter().map(|did| did.s).sum::<f64>();
        queues.sort_by(|a, b| seconds(b).total_cmp(&seconds(a)));
        // Of several that waited the one that waited most.
        let of = &queues.first()?.wait.of;
        queues.retain(|queue| queue.wait.of == *of);
        let same = |a: &PathPart, b: &PathPart| {
            (&a.process, &a.thread, &a.state, &a.detail) == (&b.process, &b.thread, &b.state, &b.detail)
        };
        let all = || queues.iter().flat_map(|queue| queue.did.iter().map(|did| (queue.index, *did)));
        let total = |of: &PathPart| all().filter(|(_, did)| same(of, did.part)).map(|(_, did)| did.s).sum::<f64>();
        // That a producer had no CPU is its own doing least of all.
        let rank = |did: Did<'_>| (did.part.state != "runnable", total(did.part));
        let (queue, Did { index, part: most, .. }) = all().reduce(|a, b| {
            let (left, right) = (rank(a.1), rank(b.1));
            if (right.0, right.1) > (left.0, left.1) { b } else { a }
        })?;
        let most_s = total(most);
        Some(Case {
            path,
            of,
            lost_s: queues.iter().map(seconds).sum(),
            waits: queues.iter().map(|queue| queue.wait.count).sum(),
            max_s: queues.iter().map(|queue| queue.wait.max_s).fold(0.0, f64::max),
            most,
            source: format!("/critical_path/own_waits/{queue}/did/{index}/s"),
            most_s,
            queues,
        })
    }

    fn claim(&self, report: &Report) -> Claim {
        let wall_s = report.window.duration_s;
        let own = if self.most_s * 2.0 >= self.lost_s { PRODUCER_SEEN } else { PRODUCER_SPREAD };
        let (who, did) = (producer(self.most), doing(self.most));
        let queued: Vec<(f64, Evidence)> = self.queued(report).collect();
        let at_most_s = parties::with_queueing(self.lost_s, &queued, wall_s);
        let mut evidence = self.evidence(wall_s);
        evidence.extend(queued.into_iter().take(2).map(|(_, queued)| queued));
        let finding = Finding {
            class: InputStarvation.class().to_owned(),
            rank: 0,
            severity: severity(self.lost_s, wall_s),
            confidence: confidence(report, own),
            summary: format!(
                "{} waited {} ({} of {}) at {} for what others produce; {who} {did} for {} of it",
                self.consumer(),
                duration(self.lost_s),
                percent(self.lost_s / wall_s),
                duration(wall_s),
                self.queue(),
                percent(self.most_s / self.lost_s),
            ),
            lost_s: Some(at_most_s),
            share_of_wall: (self.path.total_s > 0.0).then(|| self.lost_s / self.path.total_s),
            speedup_bound: speedup_bound(at_most_s, wall_s),
            culprit: Some(self.culprit(report)),
            victims: vec![self.victim(report)],
            evidence,
            hypothesis: format!(
                "The main thread takes things from a queue faster than they are put in. The wait itself is no cause: the seconds lost \
                 are those of the critical path in which the producers did what the wait was ended by; {who} mostly {did}."
            ),
            fix: self.fix(),
            experiment: format!(
                "Run the same work on input that is made beforehand (in memory, no {did_what}): the wall time must fall by at most {}. \
                 Then with the fix: the wait at the queue must fall, and the wall time with it.",
                duration(at_most_s),
                did_what = if self.most.state == "timer" { "sleep" } else { "decoding" },
            ),
            consequences: Vec::new(),
        };
        Claim { finding, reported: is_reported(self.lost_s, wall_s, self.waits, self.max_s) }
    }

    /// For how long the consumer then queued for a CPU.
    fn queued<'b>(&'b self, report: &'b Report) -> impl Iterator<Item = (f64, Evidence)> + 'b {
        let queues = self.queues.iter().map(|queue| queue.wait);
        let waited = move |wait: &PathWait| {
            let mut queues = queues.clone();
            wait.object.is_some() && queues.any(|own| (&own.state, &own.object) == (&wait.state, &wait.object))
        };
        parties::queued_after(report, waited)
    }

    fn consumer(&self) -> String {
        parties::named("the main thread", self.of.thread.as_deref(), self.of.tid)
    }

    /// The queue in words, with how many more there are.
    fn queue(&self) -> String {
        let Some(first) = self.queues.first().map(|queue| queue.wait) else { return String::new() };
        let name = first.ends.clone().or_else(|| Some(format!("{} {}", first.state, first.object.as_ref()?)));
        let call = first.detail.as_ref().filter(|call| **call != first.state);
        let name = name.unwrap_or_else(|| match call {
            Some(call) => format!("{} ({call})", first.state),
            None => first.state.clone(),
        });
        match self.queues.len() - 1 {
            0 => format!("the {name}"),
            more => format!("the {name} and {}", count(more as u64, "other queue")),
        }
    }

    fn culprit(&self, report: &Report) -> Subject {
        let most = self.most;
        let (process, thread) = (most.process.clone(), most.thread.clone());
        let mut culprit = match most.tid {
            Some(tid) => parties::party(report, (most.pid, process.as_ref()), (tid, thread.as_ref())),
            None => Subject { process, pid: most.pid, thread, ..Subject::default() },
        };
        culprit.path = most.path.clone();
        culprit.peer = most.ends.clone();
        if let Some(function) = most.functions.first() {
            functions::point_at(&mut culprit, &function.location);
        }
        culprit
    }

    fn victim(&self, report: &Report) -> Subject {
        let of = self.of;
        let mut victim = parties::party(report, (Some(of.pid), of.process.as_ref()), (of.tid, of.thread.as_ref()));
        if let Some(place) = self.queues.first().and_then(|queue| queue.wait.places.first()) {
            functions::point_at(&mut victim, &place.location);
        }
        victim
    }

    fn evidence(&self, wall_s: f64) -> Vec<Evidence> {
        let mut list = Vec::new();
        for queue in self.queues.iter().take(3) {
            let at = |field: &str| format!("/critical_path/own_waits/{}/{field}", queue.index);
            let threshold = Some(("reporting threshold", REPORTED_SHARE * wall_s));
            let wait = queue.wait;
            list.push(evidence("waited by the main thread at a queue", wait.s, "s", at("s"), threshold));
            list.push(evidence("waits there", wait.count as f64, "1", at("count"), None));
            for Did { part, index, s } in queue.did.iter().take(2) {
                let metric = format!("of these in which {} {}", producer(part), doing(part));
                let source = at(&format!("did/{index}/s"));
                list.push(evidence(&metric, part.s, "s", source, Some(("waited there", wait.s))));
                if let Some(ipc_s) = part.ipc_s.filter(|_| *s < part.s) {
                    let source = at(&format!("did/{index}/ipc_s"));
                    list.push(evidence(
                        "of this copying what it had produced, which is ipc-wait",
                        ipc_s,
                        "s",
                        source,
                        None,
                    ));
                }
            }
        }
        if list.iter().all(|one| one.source != self.source) {
            let metric = format!("in which {} {}", producer(self.most), doing(self.most));
            list.push(evidence(&metric, self.most.s, "s", self.source.clone(), None));
        }
        list
    }

    fn fix(&self) -> String {
        let what = match self.most.state.as_str() {
            "on_cpu" => "make what it computes cheaper, do it once and keep the result",
            "file" | "fault" => "read larger pieces, ahead of time, from faster storage, or keep the data in memory",
            "timer" => "take the sleep out, or wait for the event itself instead",
            "socket_inet" => "fetch ahead, more at once, or from a nearer place",
            _ => "take that wait off the way of what is produced",
        };
        format!(
            "Let {} produce faster: {what}; or let more producers work at once (num_workers) and further ahead (prefetch_factor), as \
             far as CPUs and memory allow.",
            producer(self.most)
        )
    }
}

fn producer(did: &PathPart) -> String {
    let name = did.thread.as_deref().unwrap_or("?");
    match did.tid {
        Some(tid) => format!("thread {name} ({tid})"),
        None => format!("{} named {name}", count(did.threads, "thread")),
    }
}

fn doing(did: &PathPart) -> String {
    let place = did.functions.first().and_then(|function| functions::words(&function.location));
    let place = place.map(|place| format!(" in {place}")).unwrap_or_default();
    let object = did.path.as_ref().or(did.ends.as_ref()).map(|object| format!(" ({object})")).unwrap_or_default();
    match (did.state.as_str(), &did.detail) {
        ("on_cpu", _) => format!("computed{place}"),
        ("runnable", _) => "stood ready, but had no CPU".to_owned(),
        ("throttled", _) => "was held back by a CPU quota".to_owned(),
        ("timer", _) => format!("slept{place}"),
        (state, Some(call)) if call != state => format!("waited for {state} {call}{object}{place}"),
        (state, _) => format!("waited for {state}{object}{place}"),
    }
}
