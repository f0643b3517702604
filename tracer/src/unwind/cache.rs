//! What was found for an address, kept: reading it out of the call frame information takes a thousand times longer than using it.
//!
//! A table of fixed size with two places for each address: no lookup is ever longer than that, whatever addresses a hostile
//! process shows. 16,384 rules, about 2 MiB; ten seconds of PyTorch need some 730.

use super::rule::Found;

const SETS: usize = 8192;

#[derive(Clone, Copy, Debug)]
struct Line {
    /// Module and whether the address is exact; [`FREE`]: nothing here.
    tag: u64,
    address: u64,
    found: Found,
}

const FREE: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Cache {
    sets: Box<[[Line; 2]]>,
    pub misses: u64,
}

impl Default for Cache {
    fn default() -> Self {
        let free = Line { tag: FREE, address: 0, found: Found::Nothing };
        Self { sets: vec![[free; 2]; SETS].into_boxed_slice(), misses: 0 }
    }
}

impl Cache {
    /// What was found for this address before, or what `find` finds now.
    #[inline]
    pub(super) fn get(&mut self, module: u32, address: u64, exact: bool, find: impl FnOnce() -> Found) -> Found {
        let tag = u64::from(module) << 1 | u64::from(exact);
        let hash = (address ^ tag.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let set = (hash >> 32) as usize % SETS;
        let Some([first, second]) = self.sets.get_mut(set) else { return find() };
        if first.tag == tag && first.address == address {
            return first.found;
        }
        if second.tag == tag && second.address == address {
            std::mem::swap(first, second);
            return first.found;
        }
        self.misses += 1;
        *second = *first;
        *first = Line { tag, address, found: find() };
        first.found
    }
}
