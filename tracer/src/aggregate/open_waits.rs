//! Waits for locks that had not ended when the window did, with the thread that held the lock: what a deadlock is told from. Nothing
//! is judged here. The report has at most [`MAX_OPEN`] of them, those first whose waiter holds what another one waits for.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use tracer_common::futex::LockKind;

use super::Aggregate;
use super::build::{Writer, known};
use super::locks::{Lock, WaiterTally};
use super::thread::{Holder, Party};
use crate::model::locks::{OpenOwner, OpenWait as Row};
use crate::model::report::seconds;

/// Rows in a report.
const MAX_OPEN: usize = 64;
/// Of these, rows with their stack.
const MAX_STACKS: usize = 16;
/// Frames of one stack, the innermost ones.
const MAX_FRAMES: usize = 32;

/// Who holds a lock that somebody still waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StillHeld {
    /// A live thread.
    By(Party),
    /// The thread that waits for it.
    ByItself,
    /// A thread of the process that has ended; of one that ended before tracing began only the id in its pid namespace is known.
    ByNobody(Party),
}

/// A wait that had not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenWait {
    /// When it began.
    pub since_ns: u64,
    /// Its length within the window.
    pub ns: u64,
    /// Where in its code.
    pub place: u32,
    /// Who held the lock when it began.
    pub held: StillHeld,
    /// The kind of lock.
    pub kind: LockKind,
}

impl Aggregate {
    /// Who held the lock that this thread waits for as the window ends, and what kind of lock it is.
    pub(super) fn still_held(&self, index: u32, holder: Holder) -> Option<(StillHeld, LockKind)> {
        let waiter = self.threads.get(index)?;
        let (ns_tid, kind, certain) = match holder {
            Holder::None | Holder::HeapArena => return None,
            Holder::Seen(party, kind) => {
                // It may have ended since, without giving the lock back.
                let lives = self.threads.find(party.tid).and_then(|index| self.threads.get(index));
                let lives = lives.is_some_and(|thread| thread.serial == party.serial);
                let party = self.processes.introduce(party);
                return Some((if lives { StillHeld::By(party) } else { StillHeld::ByNobody(party) }, kind));
            }
            Holder::Itself(kind) => return Some((StillHeld::ByItself, kind)),
            Holder::Named(ns_tid, kind) => (ns_tid, kind, true),
            Holder::Unknown(ns_tid, kind) => (ns_tid, kind, false),
        };
        if let Some(owner) = self.threads.find_in_process(waiter.tgid, ns_tid) {
            if owner == index {
                return Some((StillHeld::ByItself, kind));
            }
            // A thread that came later may have the id of the one that held it.
            return self.threads.party(owner).filter(|_| certain).map(|party| (StillHeld::By(party), kind));
        }
        if let Some(party) = self.departed.of_process(waiter.tgid, ns_tid) {
            return Some((StillHeld::ByNobody(party), kind));
        }
        // Of what CMD did everything was seen: there, memory that names an unknown thread is no lock.
        let attached = self.target.as_ref().is_some_and(|target| target.mode != "run");
        let party = Party { tgid: waiter.tgid, ns_tid, ..Party::default() };
        attached.then_some((StillHeld::ByNobody(party), kind))
    }
}

impl Writer<'_> {
    /// The rows, and how many found no room.
    pub(super) fn open_waits(&self) -> (Vec<Row>, u64) {
        let locks = self.aggregate.locks.iter();
        let mut open: Vec<(&Lock, &WaiterTally, OpenWait)> = locks
            .flat_map(|lock| lock.waiters.iter().filter_map(move |waiter| Some((lock, waiter, waiter.now?))))
            .collect();
        let holders: BTreeSet<u32> = open
            .iter()
            .filter_map(|(_, waiter, wait)| match wait.held {
                StillHeld::By(party) => Some(party.serial),
                StillHeld::ByItself => Some(waiter.party.serial),
                StillHeld::ByNobody(_) => None,
            })
            .collect();
        open.sort_by_key(|(lock, waiter, wait)| {
            let holds = holders.contains(&waiter.party.serial);
            (!holds, Reverse(wait.ns), waiter.party.tid, waiter.party.serial, lock.address)
        });
        let over = open.len().saturating_sub(MAX_OPEN) as u64;
        open.truncate(MAX_OPEN);
        let rows = open.iter().enumerate().map(|(index, row)| self.open_wait(row, index < MAX_STACKS)).collect();
        (rows, over)
    }

    fn open_wait(&self, (lock, waiter, wait): &(&Lock, &WaiterTally, OpenWait), with_stack: bool) -> Row {
        let (_, thread, process) = self.party_names(waiter.party);
        let (owner, itself, ended) = match wait.held {
            StillHeld::By(party) => (party, false, false),
            StillHeld::ByItself => (waiter.party, true, false),
            StillHeld::ByNobody(party) => (party, false, true),
        };
        let stack =
            self.stacks.as_ref().filter(|_| with_stack).and_then(|stacks| stacks.at_place(lock.tgid, wait.place));
        let (mut frames, stack_end) = stack.map_or_else(Default::default, |stack| (stack.frames, Some(stack.end)));
        let frames_left_out = frames.len().saturating_sub(MAX_FRAMES) as u64;
        frames.truncate(MAX_FRAMES);
        Row {
            pid: lock.tgid,
            process,
            tid: waiter.party.tid,
            ns_tid: known(waiter.party.ns_tid),
            thread,
            address: format!("{:#x}", lock.address),
            kind: wait.kind.id().to_owned(),
            waited_s: seconds(wait.ns),
            passed_on: lock.last_end_ns > wait.since_ns,
            owner: OpenOwner {
                tid: known(owner.tid),
                ns_tid: known(owner.ns_tid),
                thread: if owner.tid == 0 { None } else { self.party_names(owner).1 },
                itself,
                ended,
            },
            stack: frames,
            frames_left_out: Some(frames_left_out).filter(|count| *count > 0),
            stack_end,
        }
    }
}
