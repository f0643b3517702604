//! `deadlock`: threads that can never go on, because they wait in a circle for each other's locks, or for a lock that they hold
//! themselves, or for one whose owner has ended.
//!
//! Rests on waits that were still open when the window ended ([`OpenWait`](crate::model::locks::OpenWait)), each with the owner that the
//! lock's memory named when the wait began. That owner holds the lock still if no wait for this lock has ended since: giving it back
//! wakes a waiter. A lock whose owner runs, or waits for something else than a lock, is none of this rule's: whoever waits for it may
//! get it yet. Locks without an owner in memory (semaphores, condition variables, CPython's, Rust's and Go's locks) are never seen
//! here.

use std::collections::{BTreeMap, BTreeSet};

use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties};
use crate::model::locks::OpenWait;
use crate::model::meta::FrameKind;
use crate::model::report::{Evidence, Finding, Report, Severity, Subject};
use crate::model::stacks::Location;
use crate::model::units::{count, duration};

/// See the file's head.
pub struct Deadlock;

/// A wait under this may be about to end as the window does.
const LEAST_S: f64 = 0.1;

/// Owners and order were read, and nothing can change them.
const CIRCLE: f64 = 0.98;
/// The owner's end was seen, and the lock named it still.
const ENDED: f64 = 0.9;
/// The lock's memory names a thread that is not there: it has ended before, or the memory is no lock's.
const NOT_THERE: f64 = 0.6;

const MAX_VICTIMS: usize = 16;
/// Frames of a subject's stack.
const MAX_FRAMES: usize = 24;

/// Positions in the report's list of open waits.
struct Knot {
    /// Each waits for a lock that the next one holds, the last for one of the first; one alone: for its own or an ended thread's.
    circle: Vec<usize>,
    /// Those that wait for a lock of one of these, or of one of those that do.
    behind: Vec<usize>,
}

impl Rule for Deadlock {
    fn class(&self) -> &'static str {
        "deadlock"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let Some(locks) = &facts.report.locks else {
            return Outcome::CouldNotRun("the family sched did not run".to_owned());
        };
        let knots = knots(&locks.open);
        if knots.is_empty() {
            return Outcome::Silent(match locks.open.len() {
                0 => "no thread waited at the end for a lock whose owner is known".to_owned(),
                open => format!(
                    "{} waited at the end for a lock whose owner is known, none of them in a circle",
                    count(open as u64, "thread")
                ),
            });
        }
        Outcome::Claims(knots.iter().map(|knot| claim(facts.report, &locks.open, knot)).collect())
    }
}

/// The locks, by process and address, that no thread can get any more.
pub(super) fn hopeless(report: &Report) -> BTreeSet<(u32, &str)> {
    let open = report.locks.as_ref().map(|locks| locks.open.as_slice()).unwrap_or_default();
    let all = knots(open);
    let waits = all.iter().flat_map(|knot| &knot.circle).filter_map(|index| open.get(*index));
    waits.map(|wait| (wait.pid, wait.address.as_str())).collect()
}

fn knots(open: &[OpenWait]) -> Vec<Knot> {
    let lasts = |wait: &OpenWait| wait.waited_s >= LEAST_S && !wait.passed_on;
    let by_thread: BTreeMap<(u32, u32), usize> = open
        .iter()
        .enumerate()
        .filter(|(_, wait)| lasts(wait))
        .map(|(index, wait)| ((wait.pid, wait.tid), index))
        .collect();
    // Whom each waits for; itself for one whose lock nobody will give back.
    let next: BTreeMap<usize, usize> = by_thread
        .values()
        .filter_map(|index| {
            let wait = open.get(*index)?;
            let ends = wait.owner.itself || wait.owner.ended;
            let owner = if ends { Some(*index) } else { by_thread.get(&(wait.pid, wait.owner.tid?)).copied() };
            Some((*index, owner?))
        })
        .collect();
    let mut knots: Vec<Knot> = Vec::new();
    let mut knot_of: BTreeMap<usize, Option<usize>> = BTreeMap::new();
    for start in next.keys() {
        let mut way: Vec<usize> = Vec::new();
        let mut at = Some(*start);
        // Follows the owners to somebody known, to a circle, or to nowhere.
        let knot = loop {
            let Some(index) = at else { break None };
            if let Some(known) = knot_of.get(&index) {
                break *known;
            }
            if let Some(from) = way.iter().position(|other| *other == index) {
                let (circle, new) = (way.split_off(from), knots.len());
                knot_of.extend(circle.iter().map(|index| (*index, Some(new))));
                knots.push(Knot { circle, behind: Vec::new() });
                break Some(new);
            }
            way.push(index);
            at = next.get(&index).copied();
        };
        for index in way {
            knot_of.insert(index, knot);
            if let Some(knot) = knot.and_then(|knot| knots.get_mut(knot)) {
                knot.behind.push(index);
            }
        }
    }
    knots.iter_mut().for_each(|knot| knot.behind.sort_unstable());
    knots
}

fn claim(report: &Report, open: &[OpenWait], knot: &Knot) -> Claim {
    let circle: Vec<(usize, &OpenWait)> = knot.circle.iter().filter_map(|at| Some((*at, open.get(*at)?))).collect();
    let behind: Vec<(usize, &OpenWait)> = knot.behind.iter().filter_map(|at| Some((*at, open.get(*at)?))).collect();
    let lost_s = circle.iter().map(|(_, wait)| wait.waited_s).fold(0.0, f64::max);
    let words = Words::of(report, &circle);
    let held = |position: usize| {
        let before = (position + circle.len() - 1) % circle.len();
        circle.get(before).map(|(_, wait)| lock(wait))
    };
    let mut subjects: Vec<Subject> = circle
        .iter()
        .enumerate()
        .map(|(position, (_, wait))| Subject { lock: held(position), ..waiter(report, wait) })
        .collect();
    subjects.extend(behind.iter().map(|(_, wait)| waiter(report, wait)));
    let culprit = match circle.first() {
        // Who ended with the lock is to blame, not who waits for it.
        Some((_, wait)) if wait.owner.ended => {
            subjects.iter_mut().for_each(|subject| subject.lock = None);
            Some(ended_owner(wait))
        }
        _ => Some(subjects.remove(0)),
    };
    subjects.truncate(MAX_VICTIMS);
    let others = match behind.len() {
        0 => String::new(),
        more => format!("; {} behind them", count(more as u64, "more thread")),
    };
    let finding = Finding {
        class: Deadlock.class().to_owned(),
        rank: 0,
        severity: Severity::Critical,
        confidence: confidence(report, words.confidence),
        summary: format!("{}{others}; this lasted {} when the recording ended", words.summary, duration(lost_s)),
        lost_s: Some(lost_s),
        share_of_wall: share_of_path(report, &circle),
        speedup_bound: None,
        culprit,
        victims: subjects,
        evidence: numbers(report, &circle, &behind),
        hypothesis: words.hypothesis,
        fix: words.fix,
        experiment: "Attach again after some seconds (`tracer record --pid`): if the same threads wait at the same addresses they \
                     will do so for ever. Then run the same work with the fix: these waits must end."
            .to_owned(),
        consequences: Vec::new(),
    };
    Claim { finding, reported: true }
}

/// What is said of a knot.
struct Words {
    summary: String,
    hypothesis: String,
    fix: String,
    confidence: f64,
}

impl Words {
    fn of(report: &Report, circle: &[(usize, &OpenWait)]) -> Words {
        match circle {
            [(_, wait)] if wait.owner.ended => Self::abandoned(report, wait),
            [(_, wait)] => Self::itself(report, wait),
            _ => Self::circle(report, circle),
        }
    }

    fn circle(report: &Report, circle: &[(usize, &OpenWait)]) -> Words {
        let first = circle.first().map(|(_, wait)| process(wait)).unwrap_or_default();
        let mut before = circle.last().map(|(_, wait)| *wait);
        let mut steps = Vec::new();
        for (_, wait) in circle {
            let holds = before.map(lock).unwrap_or_default();
            before = Some(wait);
            steps.push(format!(
                "{} holds the {holds} and waits for the {}{}",
                named(wait),
                lock(wait),
                place(report, wait)
            ));
        }
        Words {
            summary: format!(
                "{} of {first} wait for each other's locks and none can go on: {}",
                count(circle.len() as u64, "thread"),
                steps.join(", ")
            ),
            hypothesis: "Each of these threads holds a lock that the next one needs, and gives it back only after it has got the one \
                         that it waits for: none of them ever will. Whatever else needs these locks stops as well."
                .to_owned(),
            fix: "Take these locks in the same order everywhere (by address, or by rank), take them together (`std::scoped_lock`, \
                  try-lock and back off), or give the first back before taking the second. The stacks show where the second is taken."
                .to_owned(),
            confidence: CIRCLE,
        }
    }

    fn itself(report: &Report, wait: &OpenWait) -> Words {
        Words {
            summary: format!(
                "{} of {} waits for the {} that it holds itself{}, and will never get it",
                named(wait),
                process(wait),
                lock(wait),
                place(report, wait)
            ),
            hypothesis: "The thread took this lock and takes it once more before giving it back. A lock of this kind waits then, for \
                         itself. Whatever else needs the lock stops as well."
                .to_owned(),
            fix: "Do not call what takes the lock while holding it: split the function into one that locks and one that expects the \
                  lock to be held. The stack shows both places if the first lies further out on it. A recursive lock hides the mistake."
                .to_owned(),
            confidence: CIRCLE,
        }
    }

    fn abandoned(report: &Report, wait: &OpenWait) -> Words {
        let owner = match (wait.owner.tid, wait.owner.ns_tid) {
            (Some(tid), _) => parties::named("thread", wait.owner.thread.as_deref(), tid),
            (None, Some(ns_tid)) => format!("thread {ns_tid}"),
            (None, None) => "a thread".to_owned(),
        };
        Words {
            summary: format!(
                "{} of {} waits for the {}{}, which {owner} held when it ended and nobody will give back",
                named(wait),
                process(wait),
                lock(wait),
                place(report, wait)
            ),
            hypothesis: "The lock's memory still names the thread that took it last, and that thread has ended: it returned, was \
                         cancelled or exited without giving the lock back."
                .to_owned(),
            fix: "Give the lock back on each way out of the code that takes it (a guard object, `pthread_cleanup_push` where threads \
                  are cancelled), or use a robust mutex, whose next owner is told."
                .to_owned(),
            confidence: if wait.owner.tid.is_some() { ENDED } else { NOT_THERE },
        }
    }
}

fn numbers(report: &Report, circle: &[(usize, &OpenWait)], behind: &[(usize, &OpenWait)]) -> Vec<Evidence> {
    let wall_s = report.window.duration_s;
    let row = |(index, wait): &(usize, &OpenWait), what: &str| {
        let metric = format!("{what} of {} for the {}", named(wait), lock(wait));
        evidence(&metric, wait.waited_s, "s", format!("/locks/open/{index}/waited_s"), Some(("wall time", wall_s)))
    };
    let mut rows: Vec<Evidence> = circle.iter().take(MAX_VICTIMS).map(|wait| row(wait, "wait without end")).collect();
    rows.extend(behind.iter().take(4).map(|wait| row(wait, "wait behind them")));
    rows
}

/// Of the critical path, the share that is waiting for one of these locks; none where there is no path or it has none of them.
fn share_of_path(report: &Report, circle: &[(usize, &OpenWait)]) -> Option<f64> {
    let ours = circle.iter().filter_map(|(_, open)| parties::on_path(report, open.pid, &open.address));
    ours.map(|(_, wait)| wait.share).reduce(f64::max)
}

/// A thread of the knot, with where it waits.
fn waiter(report: &Report, wait: &OpenWait) -> Subject {
    let process = (Some(wait.pid), wait.process.as_ref());
    let mut found = parties::party(report, process, (wait.tid, wait.thread.as_ref()));
    found.ns_tid = wait.ns_tid;
    found.waits_for = Some(lock(wait));
    found.stack = stack(wait);
    if let Some(location) = location(report, wait) {
        functions::point_at(&mut found, location);
    }
    found
}

fn ended_owner(wait: &OpenWait) -> Subject {
    Subject {
        process: wait.process.clone(),
        pid: Some(wait.pid),
        thread: wait.owner.thread.clone(),
        tid: wait.owner.tid,
        ns_tid: wait.owner.ns_tid,
        lock: Some(lock(wait)),
        ..Subject::default()
    }
}

/// The stack in words, innermost first, without what the kernel does to wait.
fn stack(wait: &OpenWait) -> Vec<String> {
    let user = wait.stack.iter().filter(|frame| frame.location.language != Some(FrameKind::Kernel));
    user.take(MAX_FRAMES).filter_map(|frame| functions::words(&frame.location)).collect()
}

/// The function that the wait is put down to, as the list of futexes has it.
fn location<'a>(report: &'a Report, wait: &OpenWait) -> Option<&'a Location> {
    let futexes = &report.locks.as_ref()?.futexes;
    let futex = futexes.iter().find(|futex| futex.pid == wait.pid && futex.address == wait.address)?;
    let waiter = futex.waiters.iter().find(|waiter| waiter.tid == wait.tid)?;
    waiter.places.first().map(|place| &place.location)
}

fn place(report: &Report, wait: &OpenWait) -> String {
    let function = location(report, wait).and_then(functions::words);
    function.map(|function| format!(" in {function}")).unwrap_or_default()
}

fn lock(wait: &OpenWait) -> String {
    format!("{} at {}", wait.kind, wait.address)
}

fn named(wait: &OpenWait) -> String {
    parties::named("thread", wait.thread.as_deref(), wait.tid)
}

fn process(wait: &OpenWait) -> String {
    parties::named("process", wait.process.as_deref(), wait.pid)
}
