//! What is kept of requests: counts, bytes, how long they waited and took, whether they follow each other, when a device was busy.

use tracer_common::block::{BLOCK_OPS, BlockDone, BlockOp};

use super::timed_ns;
use crate::aggregate::times::Times;

/// A sector has so many bytes, whatever the device has.
const SECTOR_BYTES: u64 = 512;
/// Streams of requests told apart: a request is sequential if it begins where one of the last ones ended.
const STREAMS: usize = 8;
/// Spans in which a device was busy, kept until nothing can come before them.
const MAX_SPANS: usize = 64;
/// Requests of one kind.
#[derive(Clone, Default)]
pub struct OpSums {
    /// How many.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that began where one before them had ended.
    pub sequential: u64,
    /// From when they were made until their device got them.
    pub queued: Times,
    /// From then on.
    pub device: Times,
}

/// Requests by kind.
#[derive(Clone, Default)]
pub struct Ops([Option<Box<OpSums>>; BLOCK_OPS]);

impl Ops {
    /// Takes a request.
    pub fn add(&mut self, op: BlockOp, event: &BlockDone, sequential: bool) {
        let sums = self.0[op as usize].get_or_insert_default();
        sums.requests += 1;
        sums.bytes = sums.bytes.saturating_add(event.request.bytes.into());
        sums.sequential += u64::from(sequential);
        if let Some(device_ns) = timed_ns(event) {
            sums.queued.add(event.queued_ns);
            sums.device.add(device_ns);
        }
    }

    /// Those of a kind, if there are any.
    pub fn of(&self, op: BlockOp) -> Option<&OpSums> {
        self.0[op as usize].as_deref()
    }

    /// How many, all kinds together.
    pub fn requests(&self) -> u64 {
        self.0.iter().flatten().map(|sums| sums.requests).sum()
    }

    /// How long devices had them, all kinds together.
    pub fn device_ns(&self) -> u64 {
        self.0.iter().flatten().fold(0, |sum, sums| sum.saturating_add(sums.device.ns))
    }
}

/// Where the last requests ended, reads and others apart.
#[derive(Clone, Copy, Default)]
pub struct Streams {
    ends: [[u64; STREAMS]; 2],
    next: [u8; 2],
}

impl Streams {
    /// Whether a request begins where one of the last ones ended; it is one of them from now on.
    pub fn follow(&mut self, op: BlockOp, sector: u64, bytes: u32) -> bool {
        if bytes == 0 {
            return false;
        }
        let side = usize::from(op != BlockOp::Read);
        let end = sector.wrapping_add(u64::from(bytes).div_ceil(SECTOR_BYTES));
        let ends = &mut self.ends[side];
        // 0 is where nothing has ended yet: the first sector follows nothing.
        if let Some(known) = ends.iter_mut().find(|known| **known == sector && sector != 0) {
            *known = end;
            return true;
        }
        let next = &mut self.next[side];
        ends[usize::from(*next) % STREAMS] = end;
        *next = next.wrapping_add(1);
        false
    }
}

/// For how long a device had anything to do.
#[derive(Clone, Default)]
pub struct Busy {
    ns: u64,
    /// What may still grow: apart from each other, in the order of time.
    spans: Vec<(u64, u64)>,
}

impl Busy {
    /// It was so from then to then. These come in the order in which they end.
    pub fn add(&mut self, mut since_ns: u64, until_ns: u64) {
        while let Some((since, until)) = self.spans.last().copied() {
            if until < since_ns {
                break;
            }
            self.spans.pop();
            since_ns = since_ns.min(since);
        }
        self.spans.push((since_ns, until_ns));
        if self.spans.len() > MAX_SPANS {
            let (since, until) = self.spans.remove(0);
            self.ns = self.ns.saturating_add(until.saturating_sub(since));
        }
    }

    /// All together.
    pub fn total_ns(&self) -> u64 {
        self.spans.iter().fold(self.ns, |sum, (since, until)| sum.saturating_add(until.saturating_sub(*since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_overlap_count_once_in_whatever_way_they_do() {
        let mut busy = Busy::default();
        busy.add(10, 20);
        busy.add(15, 25);
        assert_eq!(busy.total_ns(), 15);
        busy.add(40, 50);
        busy.add(5, 60);
        assert_eq!(busy.total_ns(), 55, "one that spans them all");
        busy.add(70, 70);
        assert_eq!(busy.total_ns(), 55);
        for at in 0..1_000 {
            busy.add(100 + 10 * at, 105 + 10 * at);
        }
        assert_eq!(busy.total_ns(), 55 + 5_000, "more than are kept");
    }

    #[test]
    fn streams_are_told_apart_and_what_jumps_follows_nothing() {
        let mut streams = Streams::default();
        let mut follows = |op, sector| streams.follow(op, sector, 4096);
        assert!(!follows(BlockOp::Read, 0) && !follows(BlockOp::Read, 1_000));
        assert!(follows(BlockOp::Read, 8) && follows(BlockOp::Read, 1_008) && follows(BlockOp::Read, 16));
        assert!(!follows(BlockOp::Write, 24), "a write does not follow a read");
        assert!(!follows(BlockOp::Read, 500) && follows(BlockOp::Read, 508));
    }
}
