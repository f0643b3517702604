//! The statistics of `overhead`: medians, their intervals, verdicts against a limit. Pure; measures nothing.

use statrs::distribution::{Binomial, DiscreteCDF};

/// A median with an interval that holds the true one in at least 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// The median measured.
    pub mid: f64,
    /// Upper end.
    pub high: f64,
}

/// What an interval says of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// All of it lies at or below the limit.
    Holds,
    /// All of it lies above.
    Broken,
    /// The limit lies within: more pairs may tell.
    Open,
}

/// The middle value, or the mean of the two in the middle. NaN of no values.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[half],
        _ => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

/// Median and its interval by order statistics (the inverse of the sign test): exact for every distribution, which run times on a
/// shared machine need, since they have outliers on one side. `None` below six values, where even the extremes cover less
/// than 95 %.
pub fn median_interval(values: &[f64]) -> Option<Interval> {
    let rank = interval_rank(values.len())?;
    let sorted = sorted(values);
    Some(Interval { low: sorted[rank], mid: median(values), high: sorted[sorted.len() - 1 - rank] })
}

/// Least, middle and greatest: for a handful of measurements that are no pairs.
pub fn range(values: &[f64]) -> Option<Interval> {
    let sorted = sorted(values);
    Some(Interval { low: *sorted.first()?, mid: median(values), high: *sorted.last()? })
}

/// How many of the least and of the greatest values lie outside a 95 % interval of the median.
fn interval_rank(n: usize) -> Option<usize> {
    let below = Binomial::new(0.5, n as u64).ok()?;
    // The true median lies below the value of rank k (from 0) with the chance of at most k heads in n throws.
    let fits = |rank: &usize| below.cdf(*rank as u64) <= 0.025;
    (0..n / 2).take_while(fits).last()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// What this interval says of this limit.
pub fn verdict(interval: Interval, limit: f64) -> Verdict {
    if interval.high <= limit {
        Verdict::Holds
    } else if interval.low > limit {
        Verdict::Broken
    } else {
        Verdict::Open
    }
}

/// Whether a yardstick measured against itself stays within `tolerance` of 1. If not, what it says of a change is worth nothing.
pub fn is_steady(control: Interval, tolerance: f64) -> bool {
    (control.mid - 1.0).abs() <= tolerance
}

/// Element by element.
pub fn ratios(above: &[f64], below: &[f64]) -> Vec<f64> {
    above.iter().zip(below).map(|(above, below)| above / below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_interval_has_the_ranks_of_the_sign_test() {
        // Ranks from 1 of the two-sided 95 % interval of a median. By hand for n = 10: at most 1 head in 10 throws has the chance
        // 11/1024 = 0.011, at most 2 have 56/1024 = 0.055, so one value is left out on each side.
        for (n, low, high) in [(6, 1, 6), (10, 2, 9), (20, 6, 15), (30, 10, 21), (40, 14, 27)] {
            let values: Vec<f64> = (1..=n).rev().map(f64::from).collect();
            let interval = median_interval(&values).unwrap();
            assert_eq!((interval.low, interval.high), (f64::from(low), f64::from(high)), "n = {n}");
        }
    }

    #[test]
    fn five_values_have_no_interval() {
        assert_eq!(median_interval(&[1.0, 2.0, 3.0, 4.0, 5.0]), None);
        assert_eq!(range(&[3.0, 1.0, 2.0]), Some(Interval { low: 1.0, mid: 2.0, high: 3.0 }));
        assert_eq!(range(&[]), None);
    }

    #[test]
    fn the_interval_covers_the_true_median_as_often_as_it_says() {
        // A skewed distribution with the median 1, by a generator of our own so that the numbers never change.
        let mut state = 42_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as f64 + 0.5) / (1_u64 << 31) as f64
        };
        let covered = (0..4_000)
            .filter(|_| {
                let values: Vec<f64> = (0..10).map(|_| -uniform().ln() / std::f64::consts::LN_2).collect();
                median_interval(&values).is_some_and(|interval| interval.low <= 1.0 && 1.0 <= interval.high)
            })
            .count();
        // The exact chance for n = 10 is 0.9785; four standard deviations of 4,000 tries are 0.0092.
        let share = covered as f64 / 4_000.0;
        assert!((share - 0.9785).abs() < 0.0092, "covered in {share} of the cases");
    }

    #[test]
    fn a_limit_holds_is_broken_or_stays_open() {
        let interval = Interval { low: 1.10, mid: 1.15, high: 1.20 };
        assert_eq!(verdict(interval, 1.30), Verdict::Holds);
        assert_eq!(verdict(interval, 1.20), Verdict::Holds, "at most means that the limit itself holds");
        assert_eq!(verdict(interval, 1.18), Verdict::Open);
        assert_eq!(verdict(interval, 1.10), Verdict::Open);
        assert_eq!(verdict(interval, 1.05), Verdict::Broken);
    }

    #[test]
    fn a_yardstick_that_is_off_against_itself_is_not_steady() {
        let around = |mid: f64| Interval { low: mid - 0.1, mid, high: mid + 0.1 };
        assert!(is_steady(around(1.019), 0.02) && is_steady(around(0.985), 0.02));
        assert!(!is_steady(around(1.03), 0.02) && !is_steady(around(0.97), 0.02));
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        assert_eq!(ratios(&[2.0, 9.0], &[1.0, 3.0]), [2.0, 3.0]);
    }
}
