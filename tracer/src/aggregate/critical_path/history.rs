//! What every traced thread did, kept until the end of the run so that the critical path can be walked backwards. Bounded by
//! [`History::BOUND_BYTES`] or [`History::ATTACHED_BOUND_BYTES`]: over it the oldest blocks go, and from when on everything is there is said. Recording is one append
//! per interval; nothing here judges.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

use super::polls::{Poll, Polls};
use super::trail::{Block, Interval, Trail, Tries};
use crate::aggregate::classify::State;
use crate::aggregate::hash::FastMap;
use crate::aggregate::names::NameId;
use crate::aggregate::python::Pythons;

/// What is known of a thread besides its intervals.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    /// Its thread id.
    pub tid: u32,
    /// Its process; 0: not known.
    pub tgid: u32,
    /// Its last name.
    pub name: NameId,
    /// Its process's last name.
    pub process: NameId,
    /// From when on it counts.
    pub start_ns: u64,
    /// Up to when.
    pub end_ns: u64,
    /// The serial number of the thread that created it; 0: not traced, or not seen.
    pub creator: u32,
}

/// One thread.
#[derive(Default)]
struct Thread {
    life: Life,
    blocks: VecDeque<Block>,
}

/// See the file's head.
pub struct History {
    bound_bytes: usize,
    bytes: usize,
    threads: FastMap<u32, Thread>,
    /// Of each kept block its thread, oldest first.
    order: VecDeque<u32>,
    /// Nothing before this is complete.
    complete_from_ns: u64,
    /// By the inode of a connection that of the one that stands for all with its server.
    connections: FastMap<u64, u64>,
}

impl Default for History {
    fn default() -> Self {
        History::new(Self::BOUND_BYTES)
    }
}

/// What a thread takes beside its blocks, in the table above.
const THREAD_BYTES: usize = size_of::<Thread>() + 32;

impl History {
    /// Some 14 million rounds of running, waiting and queueing.
    pub const BOUND_BYTES: usize = 192 << 20;

    /// The same where tracing may go on for long and no thread's whole path is asked for.
    pub const ATTACHED_BOUND_BYTES: usize = 64 << 20;

    /// An empty one.
    pub fn new(bound_bytes: usize) -> Self {
        History {
            bound_bytes,
            bytes: 0,
            threads: FastMap::default(),
            order: VecDeque::new(),
            complete_from_ns: 0,
            connections: FastMap::default(),
        }
    }

    /// From now on waits at these connections read as for the one that stands for them: a program that connects anew for each question waits
    /// for one server.
    pub fn join_connections(&mut self, connections: FastMap<u64, u64>) {
        self.connections = connections;
    }

    /// The intervals of a block.
    fn read(&self, block: &Block, into: &mut Vec<Interval>) {
        block.read(into);
        if self.connections.is_empty() {
            return;
        }
        let at_sockets = into.iter_mut().filter_map(|interval| interval.wait.as_mut());
        for wait in at_sockets.filter(|wait| wait.reason.state == State::SocketInet) {
            wait.object = self.connections.get(&wait.object).copied().unwrap_or(wait.object);
        }
    }

    /// Keeps what a thread's trail closed.
    pub fn keep(&mut self, serial: u32, trail: &mut Trail) {
        let Some(block) = trail.take() else { return };
        self.bytes += block.bytes();
        let bytes = &mut self.bytes;
        let thread = self.threads.entry(serial).or_insert_with(|| {
            *bytes += THREAD_BYTES;
            Thread::default()
        });
        thread.blocks.push_back(block);
        self.order.push_back(serial);
        while self.bytes > self.bound_bytes && self.drop_oldest() {}
    }

    /// Ends a thread: what it was, and the rest of what it did.
    pub fn end(&mut self, serial: u32, life: Life, trail: &mut Trail) {
        self.keep(serial, trail);
        // One of which nothing is kept needs no entry.
        if let Some(thread) = self.threads.get_mut(&serial) {
            thread.life = life;
        }
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(serial) = self.order.pop_front() else { return false };
        let Some(thread) = self.threads.get_mut(&serial) else { return true };
        if let Some(block) = thread.blocks.pop_front() {
            self.bytes -= block.bytes();
            self.complete_from_ns = self.complete_from_ns.max(block.end_ns);
        }
        if thread.blocks.is_empty() && thread.life.tid != 0 {
            self.threads.remove(&serial);
            self.bytes -= THREAD_BYTES;
        }
        true
    }

    /// From when on every interval is there.
    pub fn complete_from_ns(&self) -> u64 {
        self.complete_from_ns
    }

    /// What is known of a thread that has ended.
    pub fn life(&self, serial: u32) -> Option<&Life> {
        self.threads.get(&serial).map(|thread| &thread.life)
    }

    /// Every thread of which something is kept.
    pub fn serials(&self) -> impl Iterator<Item = u32> {
        self.threads.keys().copied()
    }

    /// Where the thread's last block ends, and how many blocks of it there are.
    pub fn last_block(&self, serial: u32) -> Option<(u64, usize)> {
        let blocks = &self.threads.get(&serial)?.blocks;
        blocks.back().map(|last| (last.end_ns, blocks.len()))
    }

    /// A block of a thread, by its number from the oldest.
    pub fn block(&self, serial: u32, number: usize) -> Option<&Block> {
        self.threads.get(&serial)?.blocks.get(number)
    }

    /// The leader of a process that had this id: of several the one that lived longest, of equals the first.
    pub fn leader(&self, tgid: u32) -> Option<u32> {
        let led = self.threads.iter().filter(|(_, thread)| thread.life.tid == tgid && thread.life.tgid == tgid);
        let rank = |(serial, thread): &(&u32, &Thread)| {
            (thread.life.end_ns.saturating_sub(thread.life.start_ns), Reverse(**serial))
        };
        led.max_by_key(rank).map(|(serial, _)| *serial)
    }

    /// The thread with this id, or else of those whose name the test knows: of several the one that lived longest.
    pub fn thread(&self, tid: Option<u32>, is_named: impl Fn(NameId) -> bool) -> Option<u32> {
        let longest = |matches: &dyn Fn(&Life) -> bool| {
            let found = self.threads.iter().filter(|(_, thread)| thread.life.tid != 0 && matches(&thread.life));
            let rank = |(serial, thread): &(&u32, &Thread)| {
                (thread.life.end_ns.saturating_sub(thread.life.start_ns), Reverse(**serial))
            };
            found.max_by_key(rank).map(|(serial, _)| *serial)
        };
        tid.and_then(|tid| longest(&|life| life.tid == tid)).or_else(|| longest(&|life| is_named(life.name)))
    }
}

/// Reads threads' intervals backwards. Each thread is read once from its end to its start, however often the walk comes back to it.
pub struct Reader<'a> {
    history: &'a History,
    pythons: &'a Pythons,
    cursors: FastMap<u32, Cursor>,
    /// Room for a block that is only looked at.
    earlier: Vec<Interval>,
    /// Threads of which a walk tells when it led through them.
    watched: BTreeSet<u32>,
    polls: Polls,
}

/// Makes all futexes of an interpreter lock one, and a try at another one of them after a timeout the retry that it is.
fn one_interpreter_lock(intervals: &mut [Interval], tgid: u32, pythons: &Pythons, tries: &mut Tries) {
    for interval in intervals {
        if let Some(wait) = &mut interval.wait
            && wait.reason.state == State::Futex
        {
            wait.object = pythons.address(tgid, wait.object);
        }
        let is_retry = tries.next(interval.state, interval.end_ns - interval.start_ns, interval.wait.as_ref());
        if let Some(wait) = &mut interval.wait {
            wait.is_retry |= is_retry;
        }
    }
}

#[derive(Default)]
struct Cursor {
    /// Blocks of the thread that were not read yet: those before this one.
    blocks_before: usize,
    /// What is left of the block that was read last.
    intervals: Vec<Interval>,
}

impl<'a> Reader<'a> {
    /// A reader of everything.
    pub fn new(history: &'a History, pythons: &'a Pythons) -> Self {
        Reader {
            history,
            pythons,
            cursors: FastMap::default(),
            earlier: Vec::new(),
            watched: BTreeSet::new(),
            polls: Polls::default(),
        }
    }

    /// Has walks tell when they lead through these threads.
    pub fn watch(&mut self, serials: BTreeSet<u32>) {
        self.watched = serials;
    }

    /// Whether it is one of these.
    pub fn is_watched(&self, serial: u32) -> bool {
        !self.watched.is_empty() && self.watched.contains(&serial)
    }

    /// The thread's interval that begins before `ts_ns` and is the latest such; none where nothing is kept of that time. Times
    /// asked for must not grow.
    pub fn before(&mut self, serial: u32, ts_ns: u64) -> Option<Interval> {
        let thread = self.history.threads.get(&serial)?;
        let (blocks, tgid) = (&thread.blocks, thread.life.tgid);
        let cursor = self.cursors.entry(serial).or_insert_with(|| Cursor {
            blocks_before: blocks.partition_point(|block| block.start_ns < ts_ns),
            intervals: Vec::new(),
        });
        loop {
            while let Some(last) = cursor.intervals.last() {
                if last.start_ns < ts_ns {
                    return Some(*last);
                }
                cursor.intervals.pop();
            }
            if cursor.blocks_before == 0 {
                return None;
            }
            // Blocks that begin later are passed over unread.
            cursor.blocks_before =
                blocks.range(..cursor.blocks_before).rposition(|block| block.start_ns < ts_ns).unwrap_or_default();
            let block = blocks.get(cursor.blocks_before)?;
            if block.start_ns >= ts_ns {
                return None;
            }
            self.history.read(block, &mut cursor.intervals);
            if self.pythons.runs(tgid) {
                let mut tries = Tries::default();
                // The first wait may be a retry of the last one of the block before.
                if let Some(earlier) = cursor.blocks_before.checked_sub(1).and_then(|index| blocks.get(index)) {
                    earlier.read(&mut self.earlier);
                    one_interpreter_lock(&mut self.earlier, tgid, self.pythons, &mut tries);
                }
                one_interpreter_lock(&mut cursor.intervals, tgid, self.pythons, &mut tries);
            }
        }
    }

    /// If the thread slept again and again, for the last time up to then, until another one had ended: see [`Poll`].
    pub fn poll_ending(&mut self, serial: u32, end_ns: u64) -> Option<Poll> {
        self.polls.ending(self.history, self.pythons, serial, end_ns)
    }

    /// What is known of a thread.
    pub fn life(&self, serial: u32) -> Option<&'a Life> {
        self.history.life(serial)
    }
}
