//! `straggler`: threads or processes that do the same work meet again and again (a barrier, a collective operation), and one of them comes
//! last most of the time: the others wait for it.
//!
//! What tells it from a producer and its consumer, where one side waits as well: the threads bear the same names and compute in the same
//! function, and they do not meet at a pipe, through which things go one way. Where the names differ, or no stacks were taken, this rule says nothing. What everybody waits for by right (a lock, the
//! interpreter's lock, a CPU) has rules of its own, which come first.

use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, named, parties, state_s, subject, threads};
use crate::model::critical_path::PathWait;
use crate::model::report::{Evidence, Finding, Report, Thread, Wait};
use crate::model::units::{count, duration, grouped, percent};

/// See the file's head.
pub struct Straggler;

/// Fewer meetings are none.
const LEAST_ROUNDS: u64 = 20;
/// The straggler ended so many of a thread's waits.
const ENDED_SHARE: f64 = 0.6;
/// And it did so for so many of the others.
const OF_OTHERS: f64 = 0.66;
/// It waits itself for less than this part of what the others do.
const OWN_WAITS: f64 = 0.25;
/// A function in which both of two threads spend this part of their computing makes it the same work.
const SAME_WORK: f64 = 0.2;
/// A thread that lived for less than this part of the time is no member of the group.
const LIVED: f64 = 0.5;
/// The waits and who ended them were seen; that it is a meeting is inferred.
const INFERRED: f64 = 0.7;

const MAX_VICTIMS: usize = 8;

const COME_FIRST: [&str; 5] =
    ["user-lock-contention", "gil-contention", "cpu-oversubscription", "cpu-quota-throttling", "deadlock"];

/// One of those who wait.
struct Waiter<'a> {
    index: usize,
    thread: &'a Thread,
    /// Which of its waits.
    at: usize,
    wait: &'a Wait,
}

struct Found<'a> {
    straggler: (usize, &'a Thread),
    waiters: Vec<Waiter<'a>>,
    others: usize,
    mean_s: f64,
}

impl Rule for Straggler {
    fn class(&self) -> &'static str {
        "straggler"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        if report.cpu.is_none() {
            return Outcome::CouldNotRun("the family sched did not run".to_owned());
        }
        if report.stacks.is_none() {
            return Outcome::CouldNotRun(
                "without the family cpu nothing tells that threads do the same work".to_owned(),
            );
        }
        if let Some(first) = facts.earlier.iter().find(|finding| COME_FIRST.contains(&finding.class.as_str())) {
            return Outcome::Silent(format!("{} explains the waits", first.class));
        }
        let lived = |thread: &Thread| thread.wall_s >= LIVED * report.window.duration_s;
        let all: Vec<(usize, &Thread)> = threads(report).filter(|(_, thread)| lived(thread)).collect();
        let found = all.iter().filter_map(|candidate| of(report, *candidate, &all));
        match found.max_by(|a, b| a.mean_s.total_cmp(&b.mean_s).then(b.straggler.0.cmp(&a.straggler.0))) {
            Some(found) => Outcome::Claims(vec![claim(report, &found)]),
            None => Outcome::Silent(
                "no threads that do the same work waited for one and the same of them again and again".to_owned(),
            ),
        }
    }
}

/// Whether this thread keeps its peers waiting.
fn of<'a>(report: &Report, candidate: (usize, &'a Thread), all: &[(usize, &'a Thread)]) -> Option<Found<'a>> {
    let (_, straggler) = candidate;
    let peer = |thread: &Thread| {
        thread.name.is_some()
            && thread.name == straggler.name
            && thread.process == straggler.process
            && (thread.tid, thread.pid) != (straggler.tid, straggler.pid)
    };
    let peers: Vec<(usize, &Thread)> =
        all.iter().copied().filter(|(_, thread)| peer(thread) && same_work(thread, straggler)).collect();
    let waiters: Vec<Waiter<'a>> =
        peers.iter().filter_map(|(index, thread)| waits_for(*index, thread, straggler)).collect();
    if waiters.is_empty() || (waiters.len() as f64) < OF_OTHERS * peers.len() as f64 {
        return None;
    }
    let mean_s = waiters.iter().map(|waiter| waiter.wait.total_s).sum::<f64>() / waiters.len() as f64;
    let state = &waiters.first()?.wait.state;
    let own_s: f64 = straggler
        .waits
        .iter()
        .filter(|wait| wait.state == *state && ended_by(wait, |tid| peers.iter().any(|(_, peer)| peer.tid == tid)) > 0)
        .map(|wait| wait.total_s)
        .sum();
    let little = mean_s < 0.01 * report.window.duration_s;
    (own_s <= OWN_WAITS * mean_s && !little).then_some(Found {
        straggler: candidate,
        waiters,
        others: peers.len(),
        mean_s,
    })
}

/// The wait of a thread that the straggler ends over and over.
fn waits_for<'a>(index: usize, thread: &'a Thread, straggler: &Thread) -> Option<Waiter<'a>> {
    // What goes through a pipe goes one way: who waits there is fed, which is `input-starvation`'s.
    let meets = |wait: &Wait| matches!(wait.state.as_str(), "futex" | "socket_unix" | "socket_inet" | "poll");
    let (at, wait) = thread.waits.iter().enumerate().find(|(_, wait)| {
        let ended = ended_by(wait, |tid| tid == straggler.tid);
        let most = ended as f64 >= ENDED_SHARE * wait.count as f64;
        meets(wait) && wait.owners.is_empty() && ended >= LEAST_ROUNDS && most
    })?;
    Some(Waiter { index, thread, at, wait })
}

fn ended_by(wait: &Wait, of: impl Fn(u32) -> bool) -> u64 {
    wait.wakers.iter().filter(|waker| waker.tid.is_some_and(&of)).map(|waker| waker.count).sum()
}

/// Whether both compute in one function for a good part of the time.
fn same_work(a: &Thread, b: &Thread) -> bool {
    let much = |thread: &Thread, total_s: f64| {
        let all_s: f64 = thread.functions.iter().map(|time| time.total_s).sum();
        total_s >= SAME_WORK * all_s && total_s > 0.0
    };
    a.functions.iter().filter(|time| much(a, time.total_s)).any(|time| {
        let same = |other: &&crate::model::report::FunctionTime| {
            other.location.function == time.location.function && other.location.module == time.location.module
        };
        b.functions.iter().filter(same).any(|other| much(b, other.total_s))
    })
}

fn claim(report: &Report, found: &Found<'_>) -> Claim {
    let (_, straggler) = found.straggler;
    let wall_s = report.window.duration_s;
    let first = found.waiters.first();
    let queued: Vec<(f64, Evidence)> = queued(report, found).collect();
    let lost_s = parties::with_queueing(found.mean_s, &queued, wall_s);
    let rounds = first.map_or(0, |waiter| waiter.wait.count);
    let object = first.and_then(|waiter| waiter.wait.object.clone());
    let doing = straggler.pid.and_then(|pid| {
        functions::doing(report, pid, straggler.tid, |wait| wait.object.is_some() && wait.object == object)
    });
    let mut culprit = subject(straggler);
    if let Some(doing) = &doing {
        functions::point_at(&mut culprit, &doing.time.location);
    }
    let what = doing.as_ref().and_then(|doing| {
        let verb = if doing.waited { "waited" } else { "computed" };
        Some(format!(", which meanwhile {verb} mostly in {}", functions::words(&doing.time.location)?))
    });
    let mean_ms = duration(found.mean_s / rounds.max(1) as f64);
    let reported = is_reported(lost_s, wall_s, rounds, first.map_or(0.0, |waiter| waiter.wait.max_s));
    let mut facts = facts(report, found);
    facts.extend(queued.into_iter().take(2).map(|(_, queued)| queued));
    facts.extend(doing.as_ref().and_then(|doing| {
        let metric = format!("time of the straggler in {}", functions::words(&doing.time.location)?);
        Some(evidence(&metric, doing.time.total_s, "s", doing.source.clone(), None))
    }));
    let finding = Finding {
        class: Straggler.class().to_owned(),
        rank: 0,
        severity: severity(lost_s, wall_s),
        confidence: confidence(report, INFERRED),
        summary: format!(
            "{} of {} that do the same work waited {} each ({} of {}) for {} of process {}, {} times, {mean_ms} each time{}",
            count(found.waiters.len() as u64, "thread"),
            found.others + 1,
            duration(found.mean_s),
            percent(found.mean_s / wall_s),
            duration(wall_s),
            named(straggler),
            straggler.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string()),
            grouped(rounds),
            what.unwrap_or_default()
        ),
        lost_s: Some(lost_s),
        share_of_wall: None,
        speedup_bound: speedup_bound(lost_s, wall_s),
        culprit: Some(culprit),
        victims: found.waiters.iter().take(MAX_VICTIMS).map(|waiter| subject(waiter.thread)).collect(),
        evidence: facts,
        hypothesis: "Threads that meet after each step take as long as the last of them; here that is one and the same most of the time. The \
                     seconds lost are the mean of what the others waited for it, and then for a CPU."
            .to_owned(),
        fix: "Find what this one does and the others do not (its data, its disk, its CPU, its neighbours), or divide the work so that all \
              take as long."
            .to_owned(),
        experiment: format!(
            "Give the part of {} to another one of them: if the waits go along, it is the work, else the place where it runs. Without \
             the difference the wall time falls by at most {}.",
            named(straggler),
            duration(lost_s)
        ),
        consequences: Vec::new(),
    };
    Claim { finding, reported }
}

/// Time on the path for which those that had waited then queued for a CPU.
fn queued<'a>(report: &'a Report, found: &'a Found<'a>) -> impl Iterator<Item = (f64, Evidence)> + 'a {
    let of_waiter = |wait: &PathWait, waiter: &Waiter<'_>| {
        let same = (&wait.state, &wait.object) == (&waiter.wait.state, &waiter.wait.object);
        same && wait.pid == waiter.thread.pid
    };
    parties::queued_after(report, move |wait| found.waiters.iter().any(|waiter| of_waiter(wait, waiter)))
}

fn facts(report: &Report, found: &Found<'_>) -> Vec<Evidence> {
    let (index, straggler) = found.straggler;
    let threshold = Some(("reporting threshold", REPORTED_SHARE * report.window.duration_s));
    let mut facts = Vec::new();
    for waiter in found.waiters.iter().take(2) {
        let at = |field: &str| format!("/threads/{}/waits/{}/{field}", waiter.index, waiter.at);
        let metric = format!("what {} waited", named(waiter.thread));
        facts.push(evidence(&metric, waiter.wait.total_s, "s", at("total_s"), threshold));
        let row = waiter.wait.wakers.iter().position(|waker| waker.tid == Some(straggler.tid));
        if let Some((row, waker)) = row.and_then(|row| Some((row, waiter.wait.wakers.get(row)?))) {
            let of = Some(("its waits", waiter.wait.count as f64));
            let metric = "waits that the straggler ended";
            facts.push(evidence(metric, waker.count as f64, "1", at(&format!("wakers/{row}/count")), of));
        }
    }
    let on_cpu = state_s(straggler, "on_cpu");
    facts.push(evidence("CPU time of the straggler", on_cpu, "s", format!("/threads/{index}/states/on_cpu"), None));
    facts
}
