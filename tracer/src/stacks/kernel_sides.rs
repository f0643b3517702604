//! The kernel frames that were taken last at each place, for stacks of which they were left out (`tracer_common::stack::kernel_side`
//! says which, and why the shares stay right).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tracer_common::stack::raw_flags;

use super::raw::Raw;

/// Places that are remembered. When there are more, all are forgotten.
const MAX_PLACES: usize = 1 << 16;
/// Different lists of kernel frames, of half a KiB each; likewise.
const MAX_SIDES: usize = 1 << 13;

/// A system call and the kernel frames that were taken in it.
type Side = (i16, Arc<[u64]>);

/// See the file's head.
#[derive(Default)]
pub struct KernelSides {
    /// By (process, place).
    places: HashMap<(u32, u32), Side>,
    /// Each list once.
    sides: HashSet<Arc<[u64]>>,
}

impl KernelSides {
    /// Of a wait: remembers its kernel frames, or fills in those that were left out. After something was forgotten or lost they stay
    /// away until they are taken again.
    pub fn complete(&mut self, raw: &Raw, addresses: &mut Vec<u64>) {
        let place = (raw.tgid(), raw.wait_place());
        if raw.has(raw_flags::NO_KERNEL_FRAMES) {
            if let Some((syscall, side)) = self.places.get(&place)
                && *syscall == raw.syscall()
            {
                addresses.clear();
                addresses.extend_from_slice(side);
            }
            return;
        }
        if self.sides.len() >= MAX_SIDES || self.places.len() >= MAX_PLACES {
            self.places.clear();
            self.sides.clear();
        }
        let side = match self.sides.get(addresses.as_slice()) {
            Some(side) => Arc::clone(side),
            None => {
                let side: Arc<[u64]> = addresses.as_slice().into();
                self.sides.insert(Arc::clone(&side));
                side
            }
        };
        self.places.insert(place, (raw.syscall(), side));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::raw::RawRecord;
    use tracer_common::stack::origin;

    fn completed(sides: &mut KernelSides, record: RawRecord) -> Vec<u64> {
        let bytes = record.bytes();
        let raw = Raw::new(&bytes).expect("a whole record");
        let mut addresses: Vec<u64> = raw.kernel().collect();
        sides.complete(&raw, &mut addresses);
        addresses
    }

    fn wait(tgid: u32, place: u64, syscall: i16) -> RawRecord {
        RawRecord::new(5, origin::WAIT, 11, tgid).place(place).syscall(syscall)
    }

    fn left_out(tgid: u32, place: u64, syscall: i16) -> RawRecord {
        wait(tgid, place, syscall).flags(raw_flags::NO_KERNEL_FRAMES)
    }

    #[test]
    fn frames_left_out_are_those_taken_last_at_the_place_in_the_same_system_call() {
        let mut sides = KernelSides::default();
        assert!(completed(&mut sides, left_out(10, 7, 202)).is_empty(), "nothing is known: none are made up");
        assert_eq!(completed(&mut sides, wait(10, 7, 202).kernel(&[1, 2])), [1, 2]);
        assert_eq!(completed(&mut sides, wait(10, 8, 202).kernel(&[5])), [5]);
        assert_eq!(completed(&mut sides, left_out(10, 7, 202)), [1, 2]);
        assert_eq!(completed(&mut sides, wait(10, 7, 202).kernel(&[3])), [3]);
        assert_eq!(completed(&mut sides, left_out(10, 7, 202)), [3], "the last ones");
        assert!(completed(&mut sides, left_out(10, 7, 0)).is_empty(), "another system call");
        assert!(completed(&mut sides, left_out(12, 7, 202)).is_empty(), "another process");
        assert_eq!(sides.sides.len(), 3);
    }

    #[test]
    fn memory_is_bounded_by_forgetting() {
        let mut sides = KernelSides::default();
        for number in 0..2 * MAX_SIDES as u64 {
            completed(&mut sides, wait(10, number, 0).kernel(&[number + 1]));
        }
        assert!(sides.sides.len() <= MAX_SIDES && sides.places.len() <= MAX_PLACES);
    }
}
