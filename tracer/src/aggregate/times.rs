//! Many times as their sum, the longest, and how they are spread.

use hdrhistogram::Histogram;

/// Shorter times are all one.
const LEAST_NS: u64 = 1_000;
/// Longer ones too: an hour.
const MOST_NS: u64 = 3_600_000_000_000;

/// Times: their sum, the longest, and how they are spread, within 1 %.
#[derive(Clone, Default)]
pub struct Times {
    /// How many.
    pub count: u64,
    /// All together.
    pub ns: u64,
    /// The longest.
    pub longest_ns: u64,
    spread: Option<Box<Histogram<u32>>>,
}

impl Times {
    /// Takes one.
    pub fn add(&mut self, ns: u64) {
        self.count += 1;
        self.ns = self.ns.saturating_add(ns);
        self.longest_ns = self.longest_ns.max(ns);
        if self.spread.is_none() {
            self.spread = Histogram::new_with_bounds(LEAST_NS, 2 * LEAST_NS, 2).ok().map(|mut histogram| {
                histogram.auto(true);
                Box::new(histogram)
            });
        }
        if let Some(spread) = &mut self.spread {
            // Fails for no value in these bounds.
            let _ = spread.record(ns.clamp(LEAST_NS, MOST_NS));
        }
    }

    /// The time that this share of them does not exceed.
    pub fn quantile_ns(&self, share: f64) -> u64 {
        self.spread.as_ref().map_or(0, |spread| spread.value_at_quantile(share)).min(self.longest_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_within_a_hundredth_and_never_beyond_the_longest() {
        let mut times = Times::default();
        (1..=1_000u64).for_each(|at| times.add(at * 10_000));
        let near = |ns: u64, wanted: u64| ns.abs_diff(wanted) <= wanted / 100;
        assert!(near(times.quantile_ns(0.5), 5_000_000) && near(times.quantile_ns(0.99), 9_900_000));
        assert_eq!(times.quantile_ns(1.0), 10_000_000);
        times.add(u64::MAX);
        assert_eq!(times.longest_ns, u64::MAX, "damaged times do not fail");
        assert_eq!(Times::default().quantile_ns(0.5), 0);
    }
}
