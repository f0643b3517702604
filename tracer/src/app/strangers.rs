//! Names of threads that are not traced but were seen: as wakers, or on a CPU that a traced thread left or got. /proc is asked
//! once per thread id; the answers enter the stream as records.

use tracer_common::record::meta;

use crate::{
    kernel::{live::push_meta, proc},
    model::meta::NameRecord,
    pipeline::{
        batch::{Batch, header},
        decode,
    },
};

/// Most look-ups per batch: a storm of short-lived threads must not turn into a storm of reads.
const MOST_LOOKUPS: usize = 256;
/// Thread ids go up to this (PID_MAX_LIMIT).
const MOST_TIDS: usize = 1 << 22;

/// Writes what /proc says of a thread. Returns its process.
fn tell(tid: u32, ts_ns: u64, names: &mut Batch) -> Option<u32> {
    let (tgid, comm) = proc::identity(tid)?;
    let comm = String::from_utf8_lossy(&comm).into_owned();
    push_meta(names, ts_ns, meta::NAME, &NameRecord { tid, tgid, comm, priority: proc::priority(tid) });
    Some(tgid)
}

/// Remembers which thread ids were asked for: a bit each, at most 512 KiB.
#[derive(Default)]
pub struct Strangers {
    asked: Vec<u64>,
}

impl Strangers {
    /// Names of the threads that this batch mentions and that were not asked for before.
    pub fn name(&mut self, batch: &Batch, names: &mut Batch) {
        let mut lookups = 0;
        for record in batch.iter() {
            for tid in decode::strangers(record) {
                if lookups < MOST_LOOKUPS && tid != 0 && self.first_time(tid) {
                    lookups += 1;
                    // The time of the record that mentions it, so that it is not held back behind later ones.
                    let ts_ns = header(record).map_or(0, |header| header.ts_ns);
                    if let Some(tgid) = tell(tid, ts_ns, names)
                        && self.first_time(tgid)
                    {
                        // The process goes by its leader's name.
                        tell(tgid, ts_ns, names);
                    }
                }
            }
        }
    }

    fn first_time(&mut self, tid: u32) -> bool {
        let (word, bit) = (tid as usize / 64, tid % 64);
        if tid as usize >= MOST_TIDS {
            return false;
        }
        if self.asked.len() <= word {
            self.asked.resize(word + 1, 0);
        }
        let new = self.asked[word] >> bit & 1 == 0;
        self.asked[word] |= 1 << bit;
        new
    }
}
