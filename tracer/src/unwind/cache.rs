//! What was found for an address, kept: reading it out of the call frame information takes a thousand times longer than using it.
//!
//! A table of fixed size with two places for each address: no lookup is ever longer than that, whatever addresses a hostile
//! process shows. 16,384 rules, about 2 MiB; ten seconds of PyTorch need some 730.

use super::rule::Found;

const SETS: usize = 8192;

/// What is known of a place in a module's file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The address in the file's own numbering; none: no segment covers it.
    pub address: Option<u64>,
    pub found: Found,
}

impl Known {
    /// No rule.
    pub(super) const fn nothing(address: Option<u64>) -> Self {
        Self { address, found: Found::Nothing }
    }
}

#[derive(Clone, Copy, Debug)]
struct Line {
    /// Module and whether the address is exact; [`FREE`]: nothing here.
    tag: u64,
    offset: u64,
    known: Known,
}

const FREE: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Cache {
    sets: Box<[[Line; 2]]>,
    pub misses: u64,
}

impl Default for Cache {
    fn default() -> Self {
        let free = Line { tag: FREE, offset: 0, known: Known::nothing(None) };
        Self { sets: vec![[free; 2]; SETS].into_boxed_slice(), misses: 0 }
    }
}

impl Cache {
    /// What was found for this place in a file before, or what `find` finds now, which is kept if it says so.
    #[inline]
    pub(super) fn get(&mut self, module: u32, offset: u64, exact: bool, find: impl FnOnce() -> (Known, bool)) -> Known {
        let tag = u64::from(module) << 1 | u64::from(exact);
        let hash = (offset ^ tag.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let set = (hash >> 32) as usize % SETS;
        let Some([first, second]) = self.sets.get_mut(set) else { return find().0 };
        if first.tag == tag && first.offset == offset {
            return first.known;
        }
        if second.tag == tag && second.offset == offset {
            return second.known;
        }
        self.misses += 1;
        let (known, keep) = find();
        if keep {
            // The older one goes.
            *second = *first;
            *first = Line { tag, offset, known };
        }
        known
    }
}
