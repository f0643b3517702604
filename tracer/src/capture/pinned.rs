//! What rotation must not lose: facts of family 0 and the threads' seeds. Kept in memory, bounded, and written at the start of
//! each segment.

use crate::pipeline::batch::{Batch, header};
use tracer_common::record::{family_of, meta};

/// Copies of pinned records.
#[derive(Debug)]
pub(super) struct Pinned {
    facts: Batch,
    seeds: Batch,
    max_bytes: usize,
    /// Records that found no room.
    pub refused: u64,
}

impl Pinned {
    /// Keeps at most this many bytes of records.
    pub(super) fn new(max_bytes: usize) -> Self {
        Pinned { facts: Batch::new(), seeds: Batch::new(), max_bytes, refused: 0 }
    }

    /// Takes a copy of the record if it is one to pin. What repeats itself (ticks, losses, cost, limits), what names strangers, the
    /// definitions of stacks (see `defined`) and the end, which comes last anyway, are not.
    pub(super) fn look_at(&mut self, record: &[u8]) {
        let Some(header) = header(record).filter(|header| family_of(header.kind) == 0) else { return };
        match header.kind {
            meta::TICK
            | meta::LOSS
            | meta::COST
            | meta::LOCKS
            | meta::NAME
            | meta::CPU_LIMITS
            | meta::SUMS
            | meta::MEMORY
            | meta::END => {}
            meta::MODULE | meta::FRAME | meta::STACK | meta::SYMBOL | meta::OBJECTS => {}
            meta::SEED => self.keep(record, true),
            _ => self.keep(record, false),
        }
    }

    /// Replaces the seeds by a snapshot of the threads that live now.
    pub(super) fn replace_seeds(&mut self, keyframe: &Batch) {
        self.seeds.clear();
        keyframe.iter().for_each(|record| self.keep(record, true));
    }

    fn keep(&mut self, record: &[u8], seed: bool) {
        if self.facts.byte_len() + self.seeds.byte_len() + record.len() > self.max_bytes {
            self.refused += 1;
        } else if seed {
            self.seeds.push(record);
        } else {
            self.facts.push(record);
        }
    }

    /// Facts first, then seeds, then as many of these definitions as there is room for: half as much again.
    pub(super) fn records(&mut self, definitions: &Batch) -> Batch {
        let mut all = self.facts.clone();
        self.seeds.iter().for_each(|record| all.push(record));
        let room = self.max_bytes + self.max_bytes / 2;
        for record in definitions.iter() {
            if all.byte_len() + record.len() <= room {
                all.push(record);
            } else {
                self.refused += 1;
            }
        }
        all
    }
}
