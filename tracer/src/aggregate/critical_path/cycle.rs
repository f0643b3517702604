//! Steps that nobody asked for: where the thread of the path comes back to the same wait at a steady pace for most of its life, each of
//! these waits begins a step. Not here: what steps went to. A loop that waits nowhere, or elsewhere each time, is not found: only
//! `--step` sees it.

use std::collections::BTreeMap;

use super::history::Reader;
use super::steps::Steps;
use super::trail::Wait;
use crate::aggregate::classify::{Reason, State};

/// Waits of the thread that are looked at, the youngest: 16 MiB.
const MAX_WAITS: usize = 1 << 20;
/// Fewer are no rhythm.
const LEAST_STEPS: usize = 10;
/// More are too fine to be the steps of a run: of those only `--step` tells.
const LEAST_STEP_NS: u64 = 1_000_000;
/// From the first to the last one of the thread's life, at least: what is done once before and after a loop is no part of it.
const LEAST_SHARE: f64 = 0.5;
/// Of the steps, those that are between half and twice the median.
const ALIKE_SHARE: f64 = 0.8;

/// Part of a step within which a wait is the one before it, tried again.
const AGAIN: u64 = 10;

/// A wait that the thread comes back to.
#[derive(Debug, PartialEq)]
pub struct Cycle {
    /// What in.
    pub reason: Reason,
    /// Where in its code; 0: not known.
    pub place: u32,
    /// When each began; in the order of time.
    pub starts_ns: Vec<u64>,
    /// The median of the times between them.
    pub step_ns: u64,
}

/// What tells waits apart: state, call, place in the code, and what for where the place is not known.
type Key = (State, i16, u32, u64);

fn key(wait: &Wait) -> Key {
    let object = if wait.place == 0 { wait.object } else { 0 };
    (wait.reason.state, wait.reason.syscall, wait.place, object)
}

/// The longest steady cycle of a thread that lived from one time to another.
pub fn find(reader: &mut Reader<'_>, serial: u32, (start_ns, end_ns): (u64, u64)) -> Option<Cycle> {
    let mut waits: BTreeMap<Key, (Reason, Vec<u64>)> = BTreeMap::new();
    let (mut at_ns, mut left) = (end_ns, MAX_WAITS);
    while let Some(interval) = reader.before(serial, at_ns) {
        at_ns = interval.start_ns;
        let Some(wait) = interval.wait.filter(|wait| !wait.is_retry && wait.reason.state != State::Unknown) else {
            continue;
        };
        waits.entry(key(&wait)).or_insert((wait.reason, Vec::new())).1.push(interval.start_ns);
        left -= 1;
        if left == 0 {
            break;
        }
    }
    let wall_ns = end_ns.saturating_sub(start_ns.max(at_ns));
    let cycles = waits.into_iter().filter_map(|((_, _, place, _), (reason, mut starts_ns))| {
        starts_ns.reverse();
        let step_ns = steady(&starts_ns, wall_ns)?;
        Some(Cycle { reason, place, starts_ns, step_ns })
    });
    // A loop within a step is steady too: the outermost one is what is asked for.
    cycles.max_by_key(|cycle| cycle.step_ns)
}

/// The median of the times between these, if they are a rhythm that fills the time.
fn steady(starts_ns: &[u64], wall_ns: u64) -> Option<u64> {
    if starts_ns.len() <= LEAST_STEPS {
        return None;
    }
    let mut steps: Vec<u64> = starts_ns.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    steps.sort_unstable();
    let median_ns = steps[(steps.len() - 1) / 2];
    let covered = starts_ns.last()?.saturating_sub(*starts_ns.first()?) as f64;
    let alike = steps.iter().filter(|ns| (median_ns / 2..=median_ns.saturating_mul(2)).contains(*ns)).count();
    let is_steady = alike as f64 >= ALIKE_SHARE * steps.len() as f64;
    (median_ns >= LEAST_STEP_NS && covered >= LEAST_SHARE * wall_ns as f64 && is_steady).then_some(median_ns)
}

impl Cycle {
    /// The waits as entries of steps. One that follows at once is part of the same: who was woken for nothing waits again.
    pub fn steps(&self, serial: u32) -> Steps {
        let mut steps = Steps::default();
        let apart_ns = self.step_ns / AGAIN;
        self.starts_ns.iter().for_each(|ts_ns| steps.enter(serial, *ts_ns, apart_ns));
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn every(step_ms: u64, count: u64) -> Vec<u64> {
        (0..count).map(|number| number * step_ms * MS).collect()
    }

    #[test]
    fn what_comes_back_at_a_steady_pace_is_a_rhythm() {
        assert_eq!(steady(&every(20, 50), 1_000 * MS), Some(20 * MS));
        // One in ten takes three times as long.
        let uneven: Vec<u64> = (0..50).map(|number: u64| (number * 20 + number / 10 * 40) * MS).collect();
        assert_eq!(steady(&uneven, 1_200 * MS), Some(20 * MS));
    }

    #[test]
    fn few_and_fine_and_uneven_ones_and_such_as_fill_little_of_the_time_are_none() {
        assert_eq!(steady(&every(20, 10), 200 * MS), None, "few");
        assert_eq!(steady(&every(20, 50), 2_100 * MS), None, "at the start only");
        let fine: Vec<u64> = (0..5_000).map(|number: u64| number * MS / 5).collect();
        assert_eq!(steady(&fine, 1_000 * MS), None, "fine");
        let bursts: Vec<u64> = (0..50).map(|number: u64| number / 3 * 60 * MS + number % 3 * MS).collect();
        assert_eq!(steady(&bursts, 1_000 * MS), None, "in bursts of three");
        assert_eq!(steady(&[], 0), None, "none");
    }
}
