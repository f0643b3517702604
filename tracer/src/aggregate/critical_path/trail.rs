//! What one thread did, interval after interval, as few bytes: about 13 for each time that it runs, waits and queues. Intervals
//! follow each other without a hole. Which threads there are and what of them is kept is `history`'s.

use tracer_common::lock::Kind;
use tracer_common::memory::StallKind;
use tracer_common::sched::WakeContext;

use crate::aggregate::classify::{Detail, Reason, State};

/// Bytes of a block before it is closed: some 80 rounds of running, waiting and queueing.
pub const BLOCK_BYTES: usize = 1_024;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// It had not ended when the window did, or the thread was gone without being woken.
    Open,
    /// From there it was woken.
    Woken(WakeContext, Waker),
}

/// The thread that ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Waker {
    /// None: an interrupt, or not known.
    None,
    /// A traced one, by its serial number.
    Traced(u32),
    /// One that is not traced, by its id.
    Stranger(u32),
}

/// What a thread waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Why.
    pub reason: Reason,
    /// Address or inode number; 0: none.
    pub object: u64,
    /// Where in its code; 0: not known.
    pub place: u32,
    /// How it ended.
    pub ending: Ending,
    /// The wait before was for the same and timed out, and the thread did no more than look between the two: see [`RETRY_NS`].
    /// [`Trail::push`] finds this out.
    pub is_retry: bool,
    /// It ended because a thread or process ended, as the wait just before it did: both were joined, and the one that ended last is
    /// what both waits were for. Of wakes by traced threads.
    pub joins_on: bool,
}

/// Between a timeout and the next wait for the same, a thread that only looks again runs no longer than this.
pub const RETRY_NS: u64 = 200_000;

/// What a wait is for, and from where.
type What = (Reason, u64, u32);

/// One interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// CLOCK_MONOTONIC.
    pub end_ns: u64,
    /// What the thread was doing.
    pub state: State,
    /// For states that are waits.
    pub wait: Option<Wait>,
}

/// Closed bytes of a trail.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// Where its first interval starts.
    pub start_ns: u64,
    /// Where its last interval ends.
    pub end_ns: u64,
    bytes: Box<[u8]>,
}

/// The bytes of a trail that are not closed yet.
#[derive(Debug, Default)]
pub struct Trail {
    start_ns: u64,
    end_ns: u64,
    bytes: Vec<u8>,
    /// What the block's last wait was, which the next one mostly is again.
    last: Option<What>,
    tries: Tries,
}

/// Tells which waits are retries.
#[derive(Debug, Default)]
pub struct Tries {
    /// The last wait, if it timed out.
    timed_out: Option<What>,
    /// For how long the thread ran since.
    ran_ns: u64,
}

impl Tries {
    /// Takes the next interval; whether it is a wait that is tried again.
    pub fn next(&mut self, state: State, length_ns: u64, wait: Option<&Wait>) -> bool {
        let Some(wait) = wait else {
            match state {
                State::OnCpu => self.ran_ns = self.ran_ns.saturating_add(length_ns),
                State::Runnable | State::Throttled => {}
                _ => self.timed_out = None,
            }
            return false;
        };
        let what = (wait.reason, wait.object, wait.place);
        let is_retry = self.timed_out == Some(what) && self.ran_ns <= RETRY_NS;
        let timed_out = matches!(wait.ending, Ending::Woken(WakeContext::Timer, _));
        (self.timed_out, self.ran_ns) = (timed_out.then_some(what), 0);
        is_retry
    }
}

/// In the first byte of an interval, beside the number of its state.
const STATE_BITS: u8 = 0x1f;
/// The wait is for the same and from the same place as the one before it in the block.
const SAME: u8 = 0x20;
/// A wait follows at all.
const WAIT: u8 = 0x40;
/// The wait is a retry.
const RETRY: u8 = 0x80;

const _: () = assert!(State::ALL.len() <= STATE_BITS as usize + 1);

/// Every detail but locks of the kernel, in the order of its number.
const DETAILS: [Detail; 12] = [
    Detail::None,
    Detail::Kernel,
    Detail::Exception,
    Detail::Socket,
    Detail::Device,
    Detail::Signal,
    Detail::Exit,
    Detail::Uninterruptible,
    Detail::Call,
    Detail::Stall(StallKind::MemcgReclaim),
    Detail::Stall(StallKind::DirectReclaim),
    Detail::Stall(StallKind::Compaction),
];

impl Trail {
    /// Adds an interval. One that starts later than the last one ended leaves an unknown time between them; of one that starts
    /// earlier the later part is taken.
    pub fn push(&mut self, interval: Interval) {
        if interval.end_ns <= interval.start_ns {
            return;
        }
        if self.bytes.is_empty() {
            if self.end_ns == 0 {
                self.end_ns = interval.start_ns;
            }
            self.start_ns = self.end_ns;
        }
        if interval.start_ns > self.end_ns {
            let hole_ns = interval.start_ns - self.end_ns;
            self.write(State::Unknown, hole_ns, None);
        }
        let length_ns = interval.end_ns.saturating_sub(self.end_ns);
        if length_ns > 0 {
            self.write(interval.state, length_ns, interval.wait);
        }
    }

    fn write(&mut self, state: State, length_ns: u64, wait: Option<Wait>) {
        self.end_ns += length_ns;
        let is_retry = self.tries.next(state, length_ns, wait.as_ref());
        let Some(wait) = wait else {
            self.bytes.push(state as u8);
            write_number(&mut self.bytes, length_ns);
            return;
        };
        let what = (wait.reason, wait.object, wait.place);
        let same = self.last == Some(what);
        let flags = if same { SAME } else { 0 } | if is_retry { RETRY } else { 0 };
        self.bytes.push(state as u8 | WAIT | flags);
        write_number(&mut self.bytes, length_ns);
        if !same {
            self.bytes.push(wait.reason.state as u8);
            self.bytes.push(detail_number(wait.reason.detail));
            // From -1 on.
            write_number(&mut self.bytes, (i64::from(wait.reason.syscall) + 1).unsigned_abs());
            write_number(&mut self.bytes, wait.object);
            write_number(&mut self.bytes, u64::from(wait.place));
            self.last = Some(what);
        }
        let ending = match wait.ending {
            Ending::Open => 0,
            Ending::Woken(context, waker) => {
                let (kind, number) = match waker {
                    Waker::None => (0, 0),
                    Waker::Traced(serial) if wait.joins_on => (3, serial),
                    Waker::Traced(serial) => (1, serial),
                    Waker::Stranger(tid) => (2, tid),
                };
                (u64::from(number) << 5) | (kind << 3) | (context as u64 + 1)
            }
        };
        write_number(&mut self.bytes, ending);
    }

    /// Whether it is time to take the block.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= BLOCK_BYTES
    }

    /// Closes the block, if there is anything in it.
    pub fn take(&mut self) -> Option<Block> {
        if self.bytes.is_empty() {
            return None;
        }
        self.last = None;
        let bytes = self.bytes.as_slice().into();
        self.bytes.clear();
        Some(Block { start_ns: self.start_ns, end_ns: self.end_ns, bytes })
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Trail::default();
    }
}

impl Block {
    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + size_of::<Block>()
    }

    /// Reads its intervals, oldest first, into `out`, which is emptied before.
    pub fn read(&self, out: &mut Vec<Interval>) {
        out.clear();
        let (mut rest, mut start_ns, mut last) = (&*self.bytes, self.start_ns, None);
        // Written above, so it always reads; if it did not, the rest would be a hole, never a wrong interval.
        while let Some(interval) = read_interval(&mut rest, start_ns, &mut last) {
            start_ns = interval.end_ns;
            out.push(interval);
        }
    }
}

fn read_interval(rest: &mut &[u8], start_ns: u64, last: &mut Option<What>) -> Option<Interval> {
    let first = read_byte(rest)?;
    let state = *State::ALL.get(usize::from(first & STATE_BITS))?;
    let end_ns = start_ns.checked_add(read_number(rest)?)?;
    if first & WAIT == 0 {
        return Some(Interval { start_ns, end_ns, state, wait: None });
    }
    if first & SAME == 0 {
        let reason_state = *State::ALL.get(usize::from(read_byte(rest)?))?;
        let detail = detail_of(read_byte(rest)?)?;
        let syscall = i16::try_from(i64::try_from(read_number(rest)?).ok()? - 1).ok()?;
        let object = read_number(rest)?;
        let place = u32::try_from(read_number(rest)?).ok()?;
        *last = Some((Reason { state: reason_state, detail, syscall }, object, place));
    }
    let (reason, object, place) = (*last)?;
    let word = read_number(rest)?;
    let joins_on = (word >> 3) & 3 == 3;
    let ending = match word {
        0 => Ending::Open,
        word => {
            let number = u32::try_from(word >> 5).ok()?;
            let waker = match (word >> 3) & 3 {
                1 | 3 => Waker::Traced(number),
                2 => Waker::Stranger(number),
                _ => Waker::None,
            };
            Ending::Woken(WakeContext::from_number((word & 7) as u8 - 1), waker)
        }
    };
    let wait = Wait { reason, object, place, ending, is_retry: first & RETRY != 0, joins_on };
    Some(Interval { start_ns, end_ns, state, wait: Some(wait) })
}

/// From here on the number of a detail is that of a kind of kernel lock.
const LOCKS_FROM: u8 = 0x40;

fn detail_number(detail: Detail) -> u8 {
    match detail {
        Detail::Lock(kind) => LOCKS_FROM + kind as u8,
        other => DETAILS.iter().position(|known| *known == other).unwrap_or_default() as u8,
    }
}

fn detail_of(number: u8) -> Option<Detail> {
    match number.checked_sub(LOCKS_FROM) {
        Some(kind) => Some(Detail::Lock(Kind::from_number(kind))),
        None => DETAILS.get(usize::from(number)).copied(),
    }
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_byte(rest: &mut &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    Some(*first)
}

fn read_number(rest: &mut &[u8]) -> Option<u64> {
    let (mut number, mut shift) = (0u64, 0);
    loop {
        let byte = read_byte(rest)?;
        if shift >= u64::BITS {
            return None;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endings() -> impl Strategy<Value = Ending> {
        prop_oneof![
            Just(Ending::Open),
            (0u8..5, 0u32..5_000_000).prop_map(|(context, number)| {
                let waker = [Waker::None, Waker::Traced(number), Waker::Stranger(number)][usize::from(context) % 3];
                Ending::Woken(WakeContext::from_number(context), waker)
            }),
        ]
    }

    fn any_detail(number: usize) -> Detail {
        let lock = |number: usize| Detail::Lock(Kind::from_number(number.saturating_sub(DETAILS.len()) as u8));
        DETAILS.get(number).copied().unwrap_or_else(|| lock(number))
    }

    prop_compose! {
        fn waits()(state in 2usize..State::ALL.len(), detail in 0usize..DETAILS.len() + 12, syscall in -1i16..500,
                   object in prop_oneof![Just(0u64), 1u64..4, any::<u64>()], place in 0u32..3, ending in endings(),
                   joins in any::<bool>()) -> Wait {
            let reason = Reason { state: State::ALL[state], detail: any_detail(detail), syscall };
            let joins_on = joins && matches!(ending, Ending::Woken(_, Waker::Traced(_)));
            Wait { reason, object, place, ending, is_retry: false, joins_on }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            first_ns in 1u64..1_000_000_000_000,
            list in prop::collection::vec((1u64..10_000_000_000, 0usize..State::ALL.len(), prop::option::of(waits())), 1..60),
        ) {
            let (mut trail, mut at_ns, mut expected) = (Trail::default(), first_ns, Vec::new());
            for (length_ns, state, wait) in list {
                let interval = Interval { start_ns: at_ns, end_ns: at_ns + length_ns, state: State::ALL[state], wait };
                at_ns = interval.end_ns;
                trail.push(interval);
                expected.push(interval);
            }
            let (block, mut read) = (trail.take().expect("something was written"), Vec::new());
            block.read(&mut read);
            for wait in read.iter_mut().filter_map(|interval| interval.wait.as_mut()) {
                wait.is_retry = false;
            }
            prop_assert_eq!((block.start_ns, block.end_ns), (first_ns, at_ns));
            prop_assert_eq!(read, expected);
            prop_assert!(trail.take().is_none());
        }
    }

    #[test]
    fn a_wait_that_timed_out_and_begins_again_at_once_is_a_retry() {
        let reason = Reason { state: State::Futex, detail: Detail::None, syscall: 202 };
        let retries = |ran_ns: u64, object: u64, ending: Ending| {
            let (mut trail, mut at_ns) = (Trail::default(), 1_000);
            let mut push = |state, length_ns, wait| {
                trail.push(Interval { start_ns: at_ns, end_ns: at_ns + length_ns, state, wait });
                at_ns += length_ns;
            };
            let wait =
                |object, ending| Some(Wait { reason, object, place: 7, ending, is_retry: false, joins_on: false });
            push(State::Futex, 5_000_000, wait(0x40, ending));
            push(State::Runnable, 90_000_000, None);
            push(State::OnCpu, ran_ns, None);
            push(State::Futex, 3_000_000, wait(object, Ending::Woken(WakeContext::Task, Waker::Traced(1))));
            let mut read = Vec::new();
            trail.take().expect("a block").read(&mut read);
            read[3].wait.expect("a wait").is_retry
        };
        let timer = Ending::Woken(WakeContext::Timer, Waker::None);
        assert!(retries(10_000, 0x40, timer), "the wait for a lock with a timeout goes on");
        assert!(!retries(10_000, 0x44, timer), "it is another lock");
        assert!(!retries(RETRY_NS + 1, 0x40, timer), "it did something between");
        assert!(!retries(10_000, 0x40, Ending::Woken(WakeContext::Task, Waker::Traced(2))), "it was given something");
    }

    #[test]
    fn intervals_never_overlap_and_leave_no_hole() {
        let mut trail = Trail::default();
        let on_cpu = |start_ns, end_ns| Interval { start_ns, end_ns, state: State::OnCpu, wait: None };
        for interval in [on_cpu(100, 200), on_cpu(150, 250), on_cpu(300, 300), on_cpu(400, 500), on_cpu(120, 130)] {
            trail.push(interval);
        }
        let mut read = Vec::new();
        trail.take().expect("a block").read(&mut read);
        let seen: Vec<_> = read.iter().map(|interval| (interval.start_ns, interval.end_ns, interval.state)).collect();
        let unknown = (250, 400, State::Unknown);
        assert_eq!(seen, [(100, 200, State::OnCpu), (200, 250, State::OnCpu), unknown, (400, 500, State::OnCpu)]);
    }
}
