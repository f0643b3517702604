//! Times in which records were lost, as the union over all CPUs, and its length so far.
//!
//! A thread stores the length when an interval begins; what the length grew by when it ends is an upper bound of the part of
//! the interval about which nothing can be said. So a switch costs one subtraction, however many gaps there are. The bound
//! errs towards "unknown": a gap is found only at its end, and then counts for intervals that began within it as a whole.

/// Intervals remembered to tell overlaps. Older ones are taken as one with everything before them.
const REMEMBERED: usize = 1024;

/// See the file's head.
#[derive(Default)]
pub struct Gaps {
    total_ns: u64,
    /// Disjoint, in order.
    intervals: Vec<(u64, u64)>,
    /// Nothing before this is added any more: it was forgotten.
    floor_ns: u64,
}

impl Gaps {
    /// Length of the union so far. Never falls.
    pub fn total_ns(&self) -> u64 {
        self.total_ns
    }

    /// Adds a gap.
    pub fn add(&mut self, from_ns: u64, to_ns: u64) {
        let mut from = from_ns.max(self.floor_ns);
        let mut to = to_ns;
        if to <= from {
            return;
        }
        let mut replaced = 0;
        while let Some(&(start, end)) = self.intervals.last() {
            if end < from {
                break;
            }
            from = from.min(start);
            to = to.max(end);
            replaced += end - start;
            self.intervals.pop();
        }
        self.total_ns += (to - from) - replaced;
        if self.intervals.len() >= REMEMBERED {
            self.floor_ns = self.intervals.drain(..REMEMBERED / 2).next_back().map_or(self.floor_ns, |(_, end)| end);
        }
        self.intervals.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn overlapping_gaps_count_once() {
        let mut gaps = Gaps::default();
        gaps.add(10, 20);
        gaps.add(15, 30);
        assert_eq!(gaps.total_ns(), 20);
        gaps.add(40, 50);
        gaps.add(5, 60);
        assert_eq!(gaps.total_ns(), 55, "a long gap that is found last takes the others in");
        gaps.add(60, 60);
        gaps.add(61, 60);
        assert_eq!(gaps.total_ns(), 55);
    }

    proptest! {
        #[test]
        fn the_length_is_that_of_the_union(mut list in prop::collection::vec((0u64..500, 0u64..60), 0..60)) {
            list.sort_by_key(|(from, len)| from + len);
            let mut gaps = Gaps::default();
            let mut covered = [false; 600];
            for (from, len) in list {
                gaps.add(from, from + len);
                covered[from as usize..(from + len) as usize].fill(true);
                prop_assert_eq!(gaps.total_ns(), covered.iter().filter(|c| **c).count() as u64);
            }
        }
    }
}
