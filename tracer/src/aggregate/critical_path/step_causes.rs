//! What steps went to: each is walked by itself, and its parts are summed up by what told them apart, once for slow steps and once for
//! the others. Bounded: the [`MAX_WALKED`] youngest steps of [`MAX_THREADS`] threads, and [`MAX_VALUES`] times of one cause in one
//! step; how many steps were left out is told.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::history::{History, Reader};
use super::report::RowKey;
use super::steps::{Row, Span};
use super::timeline::Timeline;
use super::walk::{Path, walk};
use crate::aggregate::python::Pythons;
use crate::model::report::seconds;
use crate::model::steps::Spread;

const MAX_WALKED: usize = 65_536;
const MAX_THREADS: usize = 64;
const MAX_VALUES: usize = 1 << 20;
/// The longest steps are kept with their own paths.
const MAX_LONGEST: usize = 8;

/// What was walked.
#[derive(Default)]
pub struct Walked {
    /// Of each cause its time in each step where it was met.
    pub values: BTreeMap<RowKey, Vec<u64>>,
    /// Its time in slow steps.
    pub in_slow: BTreeMap<RowKey, u64>,
    /// Steps that were walked, slow ones and the others.
    pub slow: u64,
    pub ordinary: u64,
    /// Their time.
    pub total_ns: u64,
    /// The paths of slow steps, and of all, put together.
    pub slow_path: Path,
    pub all_path: Path,
    /// The longest steps, the longest first.
    pub longest: Vec<(Span, Path)>,
}

/// From when on a step is slow: a fifth above the median.
pub fn slow_from_ns(median_ns: u64) -> u64 {
    median_ns.saturating_add(median_ns / 5).max(median_ns.saturating_add(1))
}

/// Walks the steps of all threads, the youngest of each first.
pub fn walk_steps(
    rows: &BTreeMap<u32, Row>,
    (history, timeline, pythons): (&History, &Timeline, &Pythons),
    slow_from_ns: u64,
) -> Walked {
    let mut walked = Walked::default();
    let mut threads: Vec<(&u32, &Row)> = rows.iter().collect();
    threads.sort_by_key(|(serial, row)| (Reverse(row.total_ns()), **serial));
    threads.truncate(MAX_THREADS);
    let longest = longest(&threads);
    let mut values = 0;
    for (serial, row) in threads {
        // One reader for all steps of a thread: it reads backwards, and so do we.
        let mut reader = Reader::new(history, pythons);
        for span in row.spans.iter().rev() {
            let is_kept = history.complete_from_ns() <= span.start_ns;
            if !is_kept || walked.slow + walked.ordinary >= MAX_WALKED as u64 || values >= MAX_VALUES {
                break;
            }
            let path = walk(&mut reader, timeline, *serial, (span.start_ns, span.end_ns), u64::MAX);
            values += walked.add(span, &path, span.ns() >= slow_from_ns, &reader);
            if longest.contains(&(*serial, span.start_ns)) {
                walked.longest.push((*span, path));
            }
        }
    }
    walked.longest.sort_by_key(|(span, _)| (Reverse(span.ns()), span.start_ns, span.serial));
    walked
}

/// Thread and start of the longest steps.
fn longest(threads: &[(&u32, &Row)]) -> BTreeSet<(u32, u64)> {
    let mut spans: Vec<&Span> = threads.iter().flat_map(|(_, row)| &row.spans).collect();
    spans.sort_by_key(|span| (Reverse(span.ns()), span.start_ns, span.serial));
    spans.into_iter().take(MAX_LONGEST).map(|span| (span.serial, span.start_ns)).collect()
}

impl Walked {
    /// Adds a step; gives how many causes it had.
    fn add(&mut self, span: &Span, path: &Path, is_slow: bool, reader: &Reader<'_>) -> usize {
        let mut causes: BTreeMap<RowKey, u64> = BTreeMap::new();
        for (part, sum) in &path.parts {
            *causes.entry(RowKey::of(part, reader).0).or_default() += sum.ns;
        }
        let count = causes.len();
        for (key, ns) in causes {
            if is_slow {
                *self.in_slow.entry(key.clone()).or_default() += ns;
            }
            self.values.entry(key).or_default().push(ns);
        }
        self.total_ns = self.total_ns.saturating_add(span.ns());
        if is_slow {
            self.slow += 1;
            self.slow_path.absorb(path);
        } else {
            self.ordinary += 1;
        }
        self.all_path.absorb(path);
        count
    }

    /// How much more of a cause a slow step has than an ordinary one, in the mean; negative: less.
    pub fn more_ns(&self, key: &RowKey) -> i64 {
        let all: u64 = self.values.get(key).into_iter().flatten().sum();
        let in_slow = self.in_slow.get(key).copied().unwrap_or(0);
        mean(in_slow, self.slow) as i64 - mean(all.saturating_sub(in_slow), self.ordinary) as i64
    }
}

/// Zero of none.
pub fn mean(sum: u64, count: u64) -> u64 {
    sum.checked_div(count).unwrap_or(0)
}

/// How times are spread over `count` steps, of which those that are not among the times had none.
pub fn spread(times: &[u64], count: u64) -> Spread {
    let mut times = times.to_vec();
    times.sort_unstable();
    let none = count.saturating_sub(times.len() as u64);
    // The nearest rank: the time that so many of a hundred are not above.
    let at = |percent: u64| {
        let rank = (count * percent).div_ceil(100).max(1) - 1;
        let index = rank.checked_sub(none).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| times.get(index)).copied().unwrap_or(0)
    };
    let sum = times.iter().fold(0u64, |sum, ns| sum.saturating_add(*ns));
    Spread {
        min_s: if none > 0 { 0.0 } else { seconds(times.first().copied().unwrap_or(0)) },
        p50_s: seconds(at(50)),
        p90_s: seconds(at(90)),
        max_s: seconds(times.last().copied().unwrap_or(0)),
        mean_s: seconds(mean(sum, count)),
    }
}

/// Every how many steps a slow one comes, if most come so and few are missing: from the numbers of each thread's slow steps, in order.
pub fn every(numbers: &[Vec<u64>]) -> Option<u64> {
    /// Fewer steps than these tell nothing.
    const LEAST: usize = 4;
    /// Distances that are tried.
    const MAX_TRIED: usize = 64;
    let slow = numbers.iter().max_by_key(|numbers| numbers.len())?;
    let distances: BTreeSet<u64> = slow.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    let fits = |period: u64| {
        let mut in_step: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        slow.iter().for_each(|number| in_step.entry(number % period).or_default().push(*number));
        let most = in_step.into_values().max_by_key(Vec::len)?;
        let wanted = (most.last()? - most.first()?) / period + 1;
        let is_most = |all: usize| most.len() * 4 >= all * 3;
        (most.len() >= LEAST && is_most(slow.len()) && is_most(wanted as usize)).then_some((most.len(), period))
    };
    distances.into_iter().filter(|period| *period > 1).take(MAX_TRIED).filter_map(fits).max().map(|(_, period)| period)
}
