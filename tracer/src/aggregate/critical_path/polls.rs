//! Threads that sleep and look again until another one has ended, as `while child.poll() is None: sleep(0.01)` does. Nothing wakes them, so
//! only the time tells whom they wait for: who ended during the last few of these sleeps, after it had been there for most of them. A
//! thread that sleeps again and again and stops when nobody has ended waits for nobody, as far as can be told.

use super::history::{History, Life, Reader};
use super::trail::{Ending, Interval, Wait};
use crate::aggregate::classify::State;
use crate::aggregate::hash::FastMap;
use crate::aggregate::python::Pythons;
use tracer_common::sched::WakeContext;

/// Fewer sleeps in a row are no loop.
const LEAST_SLEEPS: u64 = 3;
/// Between two sleeps a thread that only looks does other things for this time, or a quarter of a sleep's.
const LOOK_NS: u64 = 200_000;
/// Who ended in one of so many last sleeps was waited for: what is waited for next, like a helper, may be short.
const LAST_SLEEPS: usize = 3;
/// What ended just before the first of these was not seen yet.
const JUST_BEFORE_NS: u64 = 1_000_000;

/// A row of sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Where the first sleep begins.
    pub from_ns: u64,
    /// The thread that ended in one of the last ones.
    pub serial: u32,
    /// When.
    pub ended_ns: u64,
}

/// The rows of sleeps of each thread that was asked for, by where the sleep ends in which the other thread did.
#[derive(Default)]
pub struct Polls {
    of: FastMap<u32, FastMap<u64, Poll>>,
    /// Ends of all threads, the earliest first; made when first needed.
    ends: Option<Vec<(u64, u32)>>,
}

/// A row while it is read, from its end on.
struct Row {
    what: (i16, u32),
    from_ns: u64,
    /// The last sleeps, the last one first.
    last_ns: Vec<(u64, u64)>,
    sleeps: u64,
    /// What a look may take, and has taken since the sleep that comes next.
    look_ns: u64,
    looked_ns: u64,
}

impl Polls {
    /// The row of sleeps of a thread whose last one ends then.
    pub fn ending(&mut self, history: &History, pythons: &Pythons, serial: u32, end_ns: u64) -> Option<Poll> {
        if !self.of.contains_key(&serial) {
            let ends = self.ends.get_or_insert_with(|| all_ends(history));
            self.of.insert(serial, find(history, pythons, serial, ends));
        }
        self.of.get(&serial)?.get(&end_ns).copied()
    }
}

fn all_ends(history: &History) -> Vec<(u64, u32)> {
    let end = |serial| history.life(serial).filter(|life| life.tid != 0).map(|life| (life.end_ns, serial));
    let mut ends: Vec<(u64, u32)> = history.serials().filter_map(end).collect();
    ends.sort_unstable();
    ends
}

/// What a thread slept for, if it was a sleep that no thread ended.
fn slept(interval: &Interval) -> Option<(i16, u32)> {
    let Wait { reason, place, ending, .. } = interval.wait?;
    let by_itself = matches!(ending, Ending::Woken(context, _) if context != WakeContext::Task);
    (reason.state == State::Timer && by_itself).then_some((reason.syscall, place))
}

fn find(history: &History, pythons: &Pythons, serial: u32, ends: &[(u64, u32)]) -> FastMap<u64, Poll> {
    let mut found = FastMap::default();
    let mut reader = Reader::new(history, pythons);
    let mut at_ns = history.life(serial).map_or(0, |life| life.end_ns);
    let mut row: Option<Row> = None;
    let mut close = |row: Option<Row>| {
        if let Some((end_ns, poll)) = row.and_then(|row| waited_for(history, serial, ends, &row)) {
            found.insert(end_ns, poll);
        }
    };
    while let Some(interval) = reader.before(serial, at_ns) {
        at_ns = interval.start_ns;
        let ns = interval.end_ns.saturating_sub(interval.start_ns);
        match (slept(&interval), &mut row) {
            (Some(what), Some(open)) if open.what == what => {
                (open.from_ns, open.sleeps, open.looked_ns) = (interval.start_ns, open.sleeps + 1, 0);
                open.look_ns = LOOK_NS.max(ns / 4);
                if open.last_ns.len() < LAST_SLEEPS {
                    open.last_ns.push((interval.start_ns, interval.end_ns));
                }
            }
            (Some(what), _) => {
                let (from_ns, last_ns) = (interval.start_ns, vec![(interval.start_ns, interval.end_ns)]);
                let new = Row { what, from_ns, last_ns, sleeps: 1, look_ns: LOOK_NS.max(ns / 4), looked_ns: 0 };
                close(row.replace(new));
            }
            // Who waits for a CPU does not look.
            (None, Some(_)) if matches!(interval.state, State::Runnable | State::Throttled) => {}
            (None, Some(open)) => {
                open.looked_ns = open.looked_ns.saturating_add(ns);
                if open.looked_ns > open.look_ns {
                    close(row.take());
                }
            }
            (None, None) => {}
        }
    }
    close(row);
    found
}

/// Who ended in the last sleeps: of several who ended last. Of a process its main thread, if that ended then too.
fn waited_for(history: &History, serial: u32, ends: &[(u64, u32)], row: &Row) -> Option<(u64, Poll)> {
    if row.sleeps < LEAST_SLEEPS {
        return None;
    }
    let own = history.life(serial)?;
    let (since_ns, end_ns) = (row.last_ns.last()?.0.saturating_sub(JUST_BEFORE_NS), row.last_ns.first()?.1);
    let first = ends.partition_point(|(ended_ns, _)| *ended_ns < since_ns);
    let within = || ends.iter().skip(first).take_while(|(ended_ns, _)| *ended_ns <= end_ns);
    let half_ns = end_ns.saturating_sub(row.from_ns) / 2;
    // Those that were there for most of it, the last one to end last.
    let lives = || {
        let lives = within().filter_map(|(_, other)| Some((*other, history.life(*other)?)));
        lives.filter(|(other, life)| {
            *other != serial && life.end_ns.saturating_sub(life.start_ns.max(row.from_ns)) >= half_ns
        })
    };
    let (last, of_last) = lives().last()?;
    let leads = |life: &Life| life.tgid != own.tgid && life.tgid == of_last.tgid && life.tid == life.tgid;
    let leader = lives().filter(|(_, life)| leads(life)).last();
    let (serial, ended_ns) = leader.map_or((last, of_last.end_ns), |(leader, life)| (leader, life.end_ns));
    let end_ns = row.last_ns.iter().map(|(_, end_ns)| *end_ns).filter(|end_ns| *end_ns >= ended_ns).min()?;
    Some((end_ns, Poll { from_ns: row.from_ns, serial, ended_ns }))
}
