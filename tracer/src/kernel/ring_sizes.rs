//! How the memory for rings is divided among them. Pure.

/// Rings for frequent records in the object.
const SHARDS: u32 = 8;
/// Part of all rings that stacks get: a quarter.
const STACKS_PART: u64 = 4;
/// Part of all rings that calls of databases' clients get: a quarter.
const DATABASE_PART: u64 = 4;
/// Least bytes of the stacks' ring: its largest record fits.
const LEAST_STACKS_BYTES: u32 = 128 << 10;
/// The least ring.
pub const PAGE_BYTES: u32 = 4096;

/// The rings for frequent records.
pub const SHARD_NAMES: [&str; SHARDS as usize] =
    ["RING_0", "RING_1", "RING_2", "RING_3", "RING_4", "RING_5", "RING_6", "RING_7"];

fn power_of_two_below(value: u64) -> u32 {
    let value = value.clamp(u64::from(PAGE_BYTES), 1 << 30);
    1 << (63 - value.leading_zeros())
}

/// Sizes of the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// Rings for frequent records.
    pub shards: u32,
    /// Bytes of each.
    pub shard_bytes: u32,
    /// Bytes of the ring for rare records.
    pub rare_bytes: u32,
    /// Bytes of the ring for stacks; 0: none are taken.
    pub stacks_bytes: u32,
    /// Bytes of the ring for calls of databases' clients; 0: they are not looked at.
    pub database_bytes: u32,
}

impl RingSizes {
    /// Divides `total`: a quarter each for databases and for stacks if there are any, an eighth of the rest for rare records, the rest for frequent ones.
    /// Together at most `total`, but for the least possible sizes.
    pub fn divide(total: u64, cpus: u32, stacks: bool, database: bool) -> Self {
        let database_bytes = if database { power_of_two_below(total / DATABASE_PART) } else { 0 };
        let total = total.saturating_sub(u64::from(database_bytes));
        let stacks_bytes = if stacks { power_of_two_below(total / STACKS_PART).max(LEAST_STACKS_BYTES) } else { 0 };
        let total = total.saturating_sub(u64::from(stacks_bytes));
        let rare_bytes = power_of_two_below(total / 8);
        let rest = total.saturating_sub(u64::from(rare_bytes));
        let mut shards = cpus.next_power_of_two().min(SHARDS);
        while shards > 1 && rest / u64::from(shards) < u64::from(PAGE_BYTES) {
            shards /= 2;
        }
        Self {
            shards,
            shard_bytes: power_of_two_below(rest / u64::from(shards)),
            rare_bytes,
            stacks_bytes,
            database_bytes,
        }
    }

    /// All together.
    pub fn total_bytes(&self) -> u64 {
        u64::from(self.rare_bytes)
            + u64::from(self.shards) * u64::from(self.shard_bytes)
            + u64::from(self.stacks_bytes)
            + u64::from(self.database_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_stay_within_their_budget() {
        for total in [64 << 10, 1 << 20, 16 << 20, 100 << 20] {
            for (cpus, stacks) in [1, 2, 6, 64].into_iter().flat_map(|cpus| [(cpus, false), (cpus, true)]) {
                let sizes = RingSizes::divide(total, cpus, stacks, stacks);
                let least =
                    if stacks { total / 4 + u64::from(LEAST_STACKS_BYTES) + 2 * u64::from(PAGE_BYTES) } else { 0 };
                assert!(sizes.total_bytes() <= total.max(least), "{sizes:?} of {total} for {cpus} CPUs");
                let all = [sizes.shard_bytes, sizes.rare_bytes, sizes.shards];
                assert!(all.into_iter().all(u32::is_power_of_two), "{sizes:?}");
                assert!(sizes.shard_bytes >= PAGE_BYTES && sizes.rare_bytes >= PAGE_BYTES, "{sizes:?}");
                assert_eq!(stacks, sizes.stacks_bytes >= LEAST_STACKS_BYTES, "{sizes:?}");
            }
        }
        let sizes = RingSizes::divide(16 << 20, 2, true, false);
        assert_eq!(sizes.stacks_bytes, 4 << 20, "a quarter of the default");
        let record = tracer_common::stack::RAW_STACK_BYTES + tracer_common::stack::MAX_STACK_BYTES;
        assert!(record + 8 < LEAST_STACKS_BYTES as usize, "the largest record fits the least ring");
    }
}
