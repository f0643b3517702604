//! Merges the records of all CPUs and rings into the order of time, with bounded lateness. Knows the kinds of family 0 that
//! the order depends on, and no other kind.
//!
//! Records are held back until a TICK says up to which time all have arrived. All decisions depend on the sequence of records
//! alone, not on where batches end or when [`Order::drain`] is called: a replay releases what the live run released.
//!
//! The order that comes out:
//!
//! - Kernel records by time, then CPU, then arrival. One that is older than what a TICK has already let go is late: it comes out
//!   at once, and is counted.
//! - Records of family 0 never overtake each other. Each comes out in its place by time, behind kernel records of the same
//!   time; one whose time is before that of an earlier one takes the earlier one's place.
//! - HOST, TARGET, FAMILIES and START come out at once, so they are in front of all events that arrive with them.
//! - SAMPLED, MODULE, FRAME, STACK, SYMBOL and PYTHON come out at once as well, whatever their time: unwinding takes time, so they arrive
//!   behind ticks that cover it, and whoever uses them needs no order among them and the rest. They are never late, and they
//!   hold nothing back and release nothing.
//! - A record that is too short for a header comes out at once.

use super::batch::{Batch, header};
use crate::model::meta::TickRecord;
use tracer_common::record::{HEADER_BYTES, cpu, family_of, meta};

/// Default bound of what is held back.
pub const MAX_HELD_BYTES: usize = 64 << 20;
/// Buffers larger than this are given back when they are empty.
const KEPT_BYTES: usize = 4 << 20;
/// In the place of a CPU number: family 0 comes behind all CPUs.
const USER_SPACE: u32 = u32::MAX;

/// Counts of what passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderStats {
    /// Records taken.
    pub records: u64,
    /// Kernel records that came after younger ones had been released.
    pub late: u64,
    /// The greatest lateness among these.
    pub max_late_ns: u64,
    /// Records released before a tick allowed it, because too much was held back.
    pub forced: u64,
    /// Ticks whose payload could not be read.
    pub bad_ticks: u64,
}

/// Where a record lies in the arena.
#[derive(Clone, Copy)]
struct Slot {
    start: usize,
    len_bytes: u32,
}

#[derive(Clone, Copy)]
struct Held {
    ts_ns: u64,
    cpu: u32,
    len_bytes: u32,
    start: usize,
}

impl Held {
    fn slot(&self) -> Slot {
        Slot { start: self.start, len_bytes: self.len_bytes }
    }

    fn cost_bytes(&self) -> usize {
        self.len_bytes as usize + size_of::<Held>()
    }
}

/// Whether records of this kind may stand anywhere among the others.
pub const fn passes(kind: u16) -> bool {
    matches!(
        kind,
        cpu::SAMPLED | meta::MODULE | meta::FRAME | meta::STACK | meta::SYMBOL | meta::PYTHON | meta::OBJECTS
    )
}

/// See the module.
pub struct Order {
    arena: Vec<u8>,
    spare: Vec<u8>,
    held: Vec<Held>,
    /// Whether `held` is in order.
    sorted: bool,
    held_bytes: usize,
    max_held_bytes: usize,
    released: Vec<Slot>,
    /// Time of the youngest record that was released in its place.
    released_ts_ns: u64,
    /// Place of the last record of family 0.
    user_ts_ns: u64,
    stats: OrderStats,
}

impl Default for Order {
    fn default() -> Self {
        Order::new(MAX_HELD_BYTES)
    }
}

impl Order {
    /// Holds back at most this many bytes, its own index included.
    pub fn new(max_held_bytes: usize) -> Self {
        Order {
            arena: Vec::new(),
            spare: Vec::new(),
            held: Vec::new(),
            sorted: true,
            held_bytes: 0,
            max_held_bytes,
            released: Vec::new(),
            released_ts_ns: 0,
            user_ts_ns: 0,
            stats: OrderStats::default(),
        }
    }

    /// Takes the records of a batch. Call [`drain`](Self::drain) after it: what is released stays in memory until then.
    pub fn push(&mut self, batch: &Batch) {
        for record in batch.iter() {
            self.stats.records += 1;
            match header(record) {
                None => {
                    let slot = self.store(record);
                    self.released.push(slot);
                }
                Some(header) if passes(header.kind) => {
                    let slot = self.store(record);
                    self.released.push(slot);
                }
                Some(header) if family_of(header.kind) == 0 => self.push_user(header.kind, header.ts_ns, record),
                Some(header) => self.push_kernel(header.cpu, header.ts_ns, record),
            }
            if self.held_bytes > self.max_held_bytes {
                self.force();
            }
        }
    }

    /// Hands over what is released, in order, and forgets it.
    pub fn drain(&mut self, sink: &mut impl FnMut(&[u8])) {
        for slot in self.released.drain(..) {
            if let Some(record) = self.arena.get(slot.start..slot.start + slot.len_bytes as usize) {
                sink(record);
            }
        }
        self.compact();
    }

    /// Hands over everything, released or not.
    pub fn finish(&mut self, sink: &mut impl FnMut(&[u8])) {
        self.release_until(u64::MAX);
        self.drain(sink);
    }

    /// Counts so far.
    pub fn stats(&self) -> OrderStats {
        self.stats
    }

    /// Records that wait for a tick.
    pub fn held_records(&self) -> usize {
        self.held.len()
    }

    fn push_kernel(&mut self, cpu: u16, ts_ns: u64, record: &[u8]) {
        let Slot { start, len_bytes } = self.store(record);
        if ts_ns < self.released_ts_ns {
            self.stats.late += 1;
            self.stats.max_late_ns = self.stats.max_late_ns.max(self.released_ts_ns - ts_ns);
            self.released.push(Slot { start, len_bytes });
        } else {
            self.hold(Held { ts_ns, cpu: u32::from(cpu), len_bytes, start });
        }
    }

    fn push_user(&mut self, kind: u16, ts_ns: u64, record: &[u8]) {
        let Slot { start, len_bytes } = self.store(record);
        if matches!(kind, meta::HOST | meta::TARGET | meta::FAMILIES | meta::START) {
            self.release_user();
            self.released.push(Slot { start, len_bytes });
            return;
        }
        self.user_ts_ns = self.user_ts_ns.max(ts_ns);
        if self.user_ts_ns < self.released_ts_ns {
            // Nothing of family 0 is held: what came before it has at most its time.
            self.released.push(Slot { start, len_bytes });
        } else {
            self.hold(Held { ts_ns: self.user_ts_ns, cpu: USER_SPACE, len_bytes, start });
        }
        if kind == meta::TICK {
            match serde_json::from_slice::<TickRecord>(record.get(HEADER_BYTES..).unwrap_or_default()) {
                Ok(tick) => self.release_until(tick.complete_ts_ns),
                Err(_) => self.stats.bad_ticks += 1,
            }
        }
    }

    fn store(&mut self, record: &[u8]) -> Slot {
        let start = self.arena.len();
        self.arena.extend_from_slice(record);
        Slot { start, len_bytes: record.len() as u32 }
    }

    fn hold(&mut self, held: Held) {
        if let Some(last) = self.held.last() {
            self.sorted &= (last.ts_ns, last.cpu) <= (held.ts_ns, held.cpu);
        }
        self.held_bytes += held.cost_bytes();
        self.held.push(held);
    }

    fn sort(&mut self) {
        if !self.sorted {
            // A stable sort: it keeps arrival, and merges the runs that rings and batches are in linear time.
            self.held.sort_by_key(|held| (held.ts_ns, held.cpu));
            self.sorted = true;
        }
    }

    fn release_until(&mut self, complete_ts_ns: u64) {
        self.sort();
        let count = self.held.partition_point(|held| held.ts_ns <= complete_ts_ns);
        self.release_first(count);
    }

    fn release_first(&mut self, count: usize) {
        if let Some(youngest) = self.held[..count].last() {
            self.released_ts_ns = self.released_ts_ns.max(youngest.ts_ns);
        }
        for held in self.held.drain(..count) {
            self.held_bytes -= held.cost_bytes();
            self.released.push(held.slot());
        }
    }

    /// Releases what is held of family 0, wherever it stands.
    fn release_user(&mut self) {
        if !self.held.iter().any(|held| held.cpu == USER_SPACE) {
            return;
        }
        self.sort();
        let (released, held_bytes) = (&mut self.released, &mut self.held_bytes);
        self.held.retain(|held| {
            if held.cpu == USER_SPACE {
                *held_bytes -= held.cost_bytes();
                released.push(held.slot());
            }
            held.cpu != USER_SPACE
        });
    }

    /// Too much is held back: the older half goes.
    fn force(&mut self) {
        self.sort();
        let count = self.held.len().div_ceil(2);
        self.stats.forced += count as u64;
        self.release_first(count);
    }

    /// Gives back the arena's space of what was handed over, once that is most of it.
    fn compact(&mut self) {
        let live_bytes = self.held_bytes - self.held.len() * size_of::<Held>();
        if !self.held.is_empty() && self.arena.len() < 2 * live_bytes {
            return;
        }
        self.spare.clear();
        for held in &mut self.held {
            let record = self.arena.get(held.start..held.start + held.len_bytes as usize).unwrap_or_default();
            held.start = self.spare.len();
            self.spare.extend_from_slice(record);
        }
        std::mem::swap(&mut self.arena, &mut self.spare);
        // What a burst took does not stay taken.
        if self.spare.capacity() > KEPT_BYTES {
            self.spare = Vec::new();
            self.released.shrink_to(KEPT_BYTES / size_of::<Slot>());
            self.held.shrink_to(KEPT_BYTES / size_of::<Held>());
        }
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
