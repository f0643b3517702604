//! Threads that ended lately, by id: who woke a thread is read when that thread gets a CPU, and the waker may be gone by then.
//! Bounded by two generations of [`GENERATION`]; one that was forgotten is known by its number only.

use super::hash::FastMap;
use super::thread::Party;

/// Threads of one generation.
const GENERATION: usize = 8_192;

/// Times of wakes come in microseconds where they are long ago.
const ROUNDING_NS: u64 = 1_000;

/// What is kept of a thread after its end.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Who it was.
    pub party: Party,
    /// When it ended.
    pub end_ns: u64,
    /// When its end was announced.
    pub exiting_ns: Option<u64>,
    /// Since when it existed.
    pub start_ns: u64,
}

/// See the file's head.
#[derive(Default)]
pub struct Departed {
    newer: FastMap<u32, Ended>,
    older: FastMap<u32, Ended>,
}

impl Departed {
    /// Keeps a thread that has ended.
    pub fn add(&mut self, ended: Ended) {
        if self.newer.len() >= GENERATION {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(ended.party.tid, ended);
    }

    /// The thread of this process that had this id in its pid namespace, of those that have ended. Looks at all of them: for the end of
    /// the window.
    pub fn of_process(&self, tgid: u32, ns_tid: u32) -> Option<Party> {
        let all = self.newer.values().chain(self.older.values());
        let same = |ended: &&Ended| ended.party.tgid == tgid && ended.party.ns_tid == ns_tid;
        all.filter(same).max_by_key(|ended| ended.end_ns).map(|ended| ended.party)
    }

    /// The thread that had this id and did something at `ts_ns`. One that had ended before is not it: somebody else has the id.
    pub fn find(&self, tid: u32, ts_ns: u64) -> Option<Ended> {
        let ended = self.newer.get(&tid).or_else(|| self.older.get(&tid))?;
        (ts_ns <= ended.end_ns.saturating_add(ROUNDING_NS)).then_some(*ended)
    }
}
