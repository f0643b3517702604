//! A bound for what reading costs: a share of a CPU's time, by the reader's own CPU time, and a little that may be taken ahead, so that a
//! short run is read too. For readings for which the kernel walks page tables.

use crate::kernel::clock;

/// See the file's head.
pub struct Budget {
    /// At most one in so many parts of a CPU's time.
    part: u64,
    /// What may be taken before that counts.
    ahead_ns: u64,
    /// When reading began, and the CPU time that it has taken.
    began_ns: u64,
    spent_ns: u64,
}

impl Budget {
    /// Nothing spent yet.
    pub const fn new(part: u64, ahead_ns: u64) -> Self {
        Budget { part, ahead_ns, began_ns: 0, spent_ns: 0 }
    }

    /// Reads, if there is something left. What others took of the CPU meanwhile does not count.
    pub fn spend<T>(&mut self, now_ns: u64, read: impl FnOnce() -> T) -> Option<T> {
        if self.began_ns == 0 {
            self.began_ns = now_ns;
        }
        if self.spent_ns > self.ahead_ns + now_ns.saturating_sub(self.began_ns) / self.part {
            return None;
        }
        let before_ns = clock::thread_cpu_ns();
        let value = read();
        self.spent_ns = self.spent_ns.saturating_add(clock::thread_cpu_ns().saturating_sub(before_ns));
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_is_waited_for() {
        const S: u64 = 1_000_000_000;
        let mut budget = Budget::new(200, 1_000);
        assert_eq!(budget.spend(5 * S, || 7), Some(7), "ahead");
        budget.spent_ns = S;
        assert_eq!(budget.spend(6 * S, || 7), None, "a second was spent in one");
        assert_eq!(budget.spend(204 * S, || 7), None, "199 seconds are too few");
        assert_eq!(budget.spend(206 * S, || 7), Some(7), "200 are not");
        budget.spent_ns = u64::MAX;
        assert_eq!(budget.spend(u64::MAX, || 7), None);
    }
}
