//! When something that grows reaches a limit. Robust: the slope is the median over pairs of readings (Theil and Sen), so single jumps do
//! not count. Silent where it does not grow: where the interval of slopes reaches zero, or where it has levelled off of late.

use std::collections::VecDeque;

/// Readings looked at: with four a second, the last 15 seconds.
const MAX_READINGS: usize = 60;
/// The longest time looked back.
const LONGEST_NS: u64 = 60_000_000_000;
/// With fewer readings, or over a shorter time, nothing is said.
const LEAST_READINGS: usize = 8;
const LEAST_NS: u64 = 1_500_000_000;
/// Of late the growth must be this part of what it was, else it levels off.
const STILL_GROWING: f64 = 0.4;
/// A change of this factor between the two halves is another pace: only the later half counts then.
const CHANGED: f64 = 2.0;
/// What falls to this part of what it was has been given back.
const GIVEN_BACK: f64 = 0.7;
/// Half the width of the interval, in standard deviations of Kendall's statistic: 95 %.
const SIGMAS: f64 = 1.96;
/// Further away nothing is foretold.
const FURTHEST_S: f64 = 24.0 * 3600.0;

/// Time until a limit is reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eta {
    /// Growth.
    pub per_s: f64,
    /// Time until then.
    pub s: f64,
    /// By the steeper end of the interval.
    pub low_s: f64,
    /// By the flatter one.
    pub high_s: f64,
}

/// Recent readings.
#[derive(Clone, Debug, Default)]
pub struct Trend {
    readings: VecDeque<(u64, u64)>,
}

/// Slopes between all pairs: median and interval.
fn slopes(readings: &[(u64, u64)]) -> Option<(f64, f64, f64)> {
    let mut all = Vec::with_capacity(readings.len() * readings.len() / 2);
    for (position, a) in readings.iter().enumerate() {
        for b in &readings[position + 1..] {
            if b.0 > a.0 {
                all.push((b.1 as f64 - a.1 as f64) / ((b.0 - a.0) as f64 / 1e9));
            }
        }
    }
    if all.is_empty() {
        return None;
    }
    all.sort_by(f64::total_cmp);
    let (count, n) = (all.len() as f64, readings.len() as f64);
    let median = all[all.len() / 2];
    let spread = SIGMAS * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    let at = |rank: f64| all[(rank.max(0.0) as usize).min(all.len() - 1)];
    Some((median, at((count - spread) / 2.0), at((count + spread) / 2.0 + 1.0)))
}

impl Trend {
    /// Takes a reading.
    pub fn push(&mut self, t_ns: u64, value: u64) {
        if self.readings.back().is_some_and(|last| last.0 >= t_ns) {
            return;
        }
        if self.readings.back().is_some_and(|last| (value as f64) < GIVEN_BACK * last.1 as f64) {
            // Another story begins: a process has ended, or a cache was emptied.
            self.readings.clear();
        }
        self.readings.push_back((t_ns, value));
        while self.readings.len() > MAX_READINGS
            || self.readings.front().is_some_and(|first| t_ns - first.0 > LONGEST_NS)
        {
            self.readings.pop_front();
        }
    }

    /// When the limit is reached; none where that is not to be expected, or not known yet.
    pub fn until(&self, limit: u64) -> Option<Eta> {
        let all: Vec<(u64, u64)> = self.readings.iter().copied().collect();
        let (first, last) = (all.first()?, all.last()?);
        if all.len() < LEAST_READINGS || last.0 - first.0 < LEAST_NS {
            return None;
        }
        let (early, late) = all.split_at(all.len() / 2);
        let (before, now) = (slopes(early)?.0, slopes(late)?.0);
        let (per_s, low, high) = slopes(&all)?;
        if now < STILL_GROWING * per_s {
            return None;
        }
        // Another pace than before: what it does now is what counts.
        let changed = late.len() >= LEAST_READINGS / 2 && (now > CHANGED * before.max(0.0) || before > CHANGED * now);
        let (per_s, low, high) = if changed { slopes(late)? } else { (per_s, low, high) };
        if low <= 0.0 || per_s <= 0.0 {
            return None;
        }
        let room = limit.saturating_sub(last.1) as f64;
        let eta = Eta { per_s, s: room / per_s, low_s: room / high.max(per_s), high_s: room / low.min(per_s) };
        (eta.s <= FURTHEST_S).then_some(eta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = (1 << 20) as f64;

    /// Four readings a second of something.
    fn trend(seconds: u64, value: impl Fn(f64) -> f64) -> Trend {
        let mut trend = Trend::default();
        for reading in 0..seconds * 4 {
            let t_s = reading as f64 / 4.0;
            trend.push((t_s * 1e9) as u64 + 1, value(t_s).max(0.0) as u64);
        }
        trend
    }

    #[test]
    fn steady_growth_reaches_the_limit_when_it_says() {
        // Noise of a MiB, as pages that are charged in batches make it.
        let noise = |t_s: f64| ((t_s * 7.3).sin()) * MIB;
        for seconds in [3u64, 5, 10, 30] {
            let grown = trend(seconds, |t_s| 30.0 * MIB * t_s + noise(t_s));
            let eta = grown.until((1024.0 * MIB) as u64).expect("it grows");
            let real = 1024.0 / 30.0 - (seconds as f64 - 0.25);
            assert!((eta.s - real).abs() < (0.15 * real).max(1.0), "after {seconds} s: {eta:?}, really {real}");
            assert!(eta.low_s <= eta.s && eta.s <= eta.high_s, "{eta:?}");
        }
    }

    #[test]
    fn what_does_not_grow_or_has_levelled_off_is_silent() {
        let limit = (1024.0 * MIB) as u64;
        assert_eq!(trend(20, |_| 500.0 * MIB).until(limit), None, "flat");
        assert_eq!(trend(20, |t_s| 500.0 * MIB + (t_s * 9.0).sin() * 20.0 * MIB).until(limit), None, "it swings");
        assert_eq!(trend(20, |t_s| 500.0 * MIB - t_s * MIB).until(limit), None, "it shrinks");
        let warm_up = |t_s: f64| (t_s * 60.0).min(400.0) * MIB;
        assert_eq!(trend(14, warm_up).until(limit), None, "it levelled off");
        assert_eq!(trend(1, |t_s| t_s * 30.0 * MIB).until(limit), None, "too early to tell");
        assert_eq!(trend(20, |t_s| 100.0 * MIB + t_s * 1024.0).until(limit), None, "more than a day away");
    }

    #[test]
    fn memory_that_is_given_back_ends_what_was_known() {
        let mut grown = trend(10, |t_s| 30.0 * MIB * t_s);
        assert!(grown.until((1024.0 * MIB) as u64).is_some());
        grown.push(10_000_000_000, 1 << 20);
        assert_eq!(grown.until((1024.0 * MIB) as u64), None, "the process has ended");
    }

    #[test]
    fn another_pace_counts_from_when_it_began() {
        let late = trend(12, |t_s| if t_s < 6.0 { 100.0 * MIB } else { (100.0 + (t_s - 6.0) * 50.0) * MIB });
        let eta = late.until((1024.0 * MIB) as u64).expect("it grows now");
        assert!((eta.per_s / MIB - 50.0).abs() < 5.0, "{eta:?}");
    }
}
