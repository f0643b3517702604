//! The critical path of a thread, walked backwards: what it did itself, and where it waited for another thread, what that one did
//! meanwhile. Every nanosecond between start and end goes to exactly one part, so the parts sum to the wall time.
//!
//! A wait that a traced thread ended is explained by what that thread did from the wait's start to its end; a thread that did not
//! exist yet is explained by its creator. Everything else (timers, devices, threads that are not traced, waits that never ended)
//! is a part itself. A thread that sleeps and looks again until another one has ended waits for that one (`polls`). A lock or a queue that is tried with a timeout over and over counts as one wait, ended by what ended the last; so
//! do joins of several threads one after the other, whatever the order: the thread that ended last is what they were for.

use tracer_common::sched::WakeContext;

use super::history::Reader;
use super::polls::Poll;
use super::timeline::Timeline;
use super::trail::{Ending, Interval, Wait, Waker};
use crate::aggregate::classify::{Detail, State};
use crate::aggregate::hash::FastMap;

/// Threads that wait for each other in one chain. Only damaged recordings have longer ones.
const MAX_DEPTH: usize = 4_096;

/// Distinct parts; further ones are told by thread and state only.
const MAX_PARTS: usize = 65_536;

/// Distinct waits that the path led through, and of stacks on it; further ones are not told.
const MAX_KEYS: usize = 65_536;

/// What ended a piece of the path that is a wait, or why it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// It is no wait.
    None,
    /// Nobody ended it.
    Open,
    /// An interrupt of this kind, or nothing that is known.
    Context(WakeContext),
    /// A thread that is not traced.
    Stranger(u32),
    /// A thread that itself waits for what this path explains.
    Mutual,
    /// It had not ended when what the thread is said to have done happened.
    Asleep,
    /// Nothing is kept of the thread at that time.
    NotKept,
}

/// What time on the path is told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartKey {
    /// The thread that spent it.
    pub serial: u32,
    /// What the thread did.
    pub state: State,
    /// See there.
    pub cause: Cause,
    /// Of a wait.
    pub detail: Detail,
    /// Of a wait; -1: none.
    pub syscall: i16,
    /// Of a wait: address or inode number.
    pub object: u64,
    /// Of a wait: where in the thread's code.
    pub place: u32,
    /// In what the path's own thread was waiting meanwhile; none: it is that thread's own time.
    pub within: Option<Within>,
}

/// A wait of the path's own thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Within {
    /// What it waited in.
    pub state: State,
    /// The system call; -1: none.
    pub syscall: i16,
    /// The same wait; where it is one for a child process, the child's own.
    pub own: OwnKey,
}

/// A kind of waits of the path's own thread, or of its child's main thread where it only waits for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnKey {
    /// The thread.
    pub serial: u32,
    /// What it waited in.
    pub state: State,
    /// The system call; -1: none.
    pub syscall: i16,
    /// Address or inode number.
    pub object: u64,
    /// The thread that ended it did so by ending itself.
    pub by_end: bool,
}

/// The path's own waits of one kind.
#[derive(Debug, Default)]
pub struct Own {
    /// From each wait's start to its end.
    pub ns: u64,
    /// How many.
    pub count: u64,
    /// The longest.
    pub max_ns: u64,
    /// Where in the thread's code; at most [`MAX_ENDERS`].
    pub places: FastMap<u32, u64>,
    /// Who ended them, by serial number, and how often; at most [`MAX_ENDERS`].
    pub enders: FastMap<u32, u64>,
}

/// Scripts that run each other and at last the program.
const MAX_CHILDREN: usize = 8;

/// See [`Own::enders`].
pub const MAX_ENDERS: usize = 64;

/// A thread that ends within this time of waking another one, or within a tenth of the wait's time, did so by ending: what it still
/// does is to give back what it had, for which it may have to wait for a CPU.
const BY_END_NS: u64 = 20_000_000;

/// A wait that the path led through or ended in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitKey {
    /// Process of the waiting thread; 0: not known.
    pub tgid: u32,
    /// What it waited in.
    pub state: State,
    /// The system call; -1: none.
    pub syscall: i16,
    /// Address or inode number.
    pub object: u64,
}

/// Time, and in how many pieces it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Nanoseconds.
    pub ns: u64,
    /// Pieces.
    pub count: u64,
}

impl Sum {
    fn add(&mut self, ns: u64) {
        self.ns = self.ns.saturating_add(ns);
        self.count += 1;
    }

    /// Adds another one.
    pub fn absorb(&mut self, other: Sum) {
        self.ns = self.ns.saturating_add(other.ns);
        self.count += other.count;
    }
}

/// A path.
#[derive(Debug, Default)]
pub struct Path {
    /// They sum to the wall time walked.
    pub parts: FastMap<PartKey, Sum>,
    /// Time on the path that would not be there without a wait: all that explains it. Of waits for the same within each other
    /// only the outer one counts, so each is at most the wall time; together they may be more.
    pub waits: FastMap<WaitKey, Sum>,
    /// For how long threads queued for a CPU when these waits had ended.
    pub queued_ns: FastMap<WaitKey, u64>,
    /// Samples on the path by thread, wait of the path's own thread, and stack.
    pub samples: FastMap<(u32, Option<Within>, u64), u64>,
    /// What a wait was ended by doing: the pieces that explain it, where those are waits that were followed themselves these.
    pub under: FastMap<(WaitKey, Under), Sum>,
    /// Samples among them.
    pub samples_under: FastMap<(WaitKey, u32, u64), u64>,
    /// Waits of the path's own thread that other threads ended.
    pub own: FastMap<OwnKey, Own>,
    /// When it led through threads that are watched (see [`Reader::watch`]): at most [`MAX_VISITS`].
    pub visits: Vec<Visit>,
    /// Down to where it was walked.
    pub from_ns: u64,
}

/// A time in which a thread is on the path: it did something itself, or what it waited for is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// The thread.
    pub serial: u32,
    /// From then on.
    pub from_ns: u64,
    /// Up to then.
    pub to_ns: u64,
}

/// See [`Path::visits`]; 24 MiB.
const MAX_VISITS: usize = 1 << 20;

impl Path {
    /// Adds the parts, and the samples on them, of another path. What is over the bounds is told by thread and state only.
    pub fn absorb(&mut self, other: &Path) {
        for (key, sum) in &other.parts {
            let full = self.parts.len() >= MAX_PARTS && !self.parts.contains_key(key);
            let key = if full { key.coarse() } else { *key };
            self.parts.entry(key).or_default().absorb(*sum);
        }
        for (key, count) in &other.samples {
            if self.samples.len() < MAX_KEYS || self.samples.contains_key(key) {
                *self.samples.entry(*key).or_default() += count;
            }
        }
    }
}

impl PartKey {
    /// Thread and state only.
    fn coarse(self) -> Self {
        PartKey { cause: Cause::None, detail: Detail::None, syscall: -1, object: 0, place: 0, within: None, ..self }
    }
}

/// What a thread did while another one waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Under {
    /// The thread.
    pub serial: u32,
    /// What it did.
    pub state: State,
    /// Of a wait.
    pub detail: Detail,
    /// Of a wait; -1: none.
    pub syscall: i16,
    /// Of a wait: address or inode number.
    pub object: u64,
    /// Of a wait: where in the thread's code.
    pub place: u32,
}

/// A thread whose doings explain a time.
#[derive(Clone, Copy)]
struct Level {
    serial: u32,
    /// Down to here.
    from_ns: u64,
    /// The wait of the thread above that it explains.
    wait: Option<WaitKey>,
    /// What the walk was within when this level was entered.
    within: Option<Within>,
}

struct Walk<'a, 'b> {
    reader: &'a mut Reader<'b>,
    timeline: &'a Timeline,
    levels: Vec<Level>,
    within: Option<Within>,
    /// The thread that queued in the piece before this one, from when on, and how long.
    queued: Option<(u32, u64, u64)>,
    path: Path,
}

/// Walks the path of a thread from `end_ns` back to `start_ns`, in at most so many steps.
pub fn walk(
    reader: &mut Reader<'_>,
    timeline: &Timeline,
    serial: u32,
    (start_ns, end_ns): (u64, u64),
    max_steps: u64,
) -> Path {
    let levels = vec![Level { serial, from_ns: start_ns, wait: None, within: None }];
    let mut walk = Walk { reader, timeline, levels, within: None, queued: None, path: Path::default() };
    let (mut at_ns, mut steps) = (end_ns, 0);
    while let Some(level) = walk.levels.last().copied() {
        if at_ns > level.from_ns {
            if steps >= max_steps {
                break;
            }
            steps += 1;
            at_ns = walk.step(level, at_ns);
            continue;
        }
        walk.levels.pop();
        walk.within = level.within;
    }
    walk.path.from_ns = at_ns;
    walk.visit(serial, (at_ns, end_ns));
    walk.path
}

impl Walk<'_, '_> {
    /// Explains the time before `at_ns` by one more piece; returns where that begins.
    fn step(&mut self, level: Level, at_ns: u64) -> u64 {
        let Some(interval) = self.reader.before(level.serial, at_ns) else { return self.before_its_life(level, at_ns) };
        if interval.end_ns < at_ns {
            let from_ns = interval.end_ns.max(level.from_ns);
            self.emit(level.serial, State::Unknown, Cause::NotKept, None, (from_ns, at_ns));
            return from_ns;
        }
        match interval.wait {
            Some(wait) => self.wait(level, interval, wait, at_ns),
            None => {
                let from_ns = interval.start_ns.max(level.from_ns);
                self.emit(level.serial, interval.state, Cause::None, None, (from_ns, at_ns));
                self.queued = (interval.state == State::Runnable).then_some((
                    level.serial,
                    from_ns,
                    at_ns.saturating_sub(from_ns),
                ));
                from_ns
            }
        }
    }

    /// A thread that was made meanwhile is explained by the one that made it.
    fn before_its_life(&mut self, level: Level, at_ns: u64) -> u64 {
        let creator = self.reader.life(level.serial).map_or(0, |life| life.creator);
        // Serial numbers grow, so this ends.
        if creator != 0 && creator < level.serial && self.levels.len() > 1 && !self.is_waiting_above(creator) {
            self.levels.pop();
            self.levels.push(Level { serial: creator, ..level });
            return at_ns;
        }
        self.emit(level.serial, State::Unknown, Cause::NotKept, None, (level.from_ns, at_ns));
        level.from_ns
    }

    fn is_waiting_above(&self, serial: u32) -> bool {
        let above = self.levels.len().saturating_sub(1);
        self.levels.iter().take(above).any(|level| level.serial == serial)
    }

    fn wait(&mut self, level: Level, interval: Interval, wait: Wait, at_ns: u64) -> u64 {
        self.queued = self.queued.filter(|(serial, since_ns, _)| *serial == level.serial && *since_ns == at_ns);
        let mut from_ns = interval.start_ns.max(level.from_ns);
        let mut cause = match wait.ending {
            _ if at_ns < interval.end_ns => Cause::Asleep,
            Ending::Open => Cause::Open,
            Ending::Woken(WakeContext::Task, Waker::Stranger(tid)) => Cause::Stranger(tid),
            Ending::Woken(context, _) => Cause::Context(context),
        };
        // Sleeps in a row are not one wait, whatever ended the last.
        if (wait.is_retry || wait.joins_on)
            && (interval.state != State::Timer || cause == Cause::Context(WakeContext::Task))
            && !matches!(cause, Cause::Context(WakeContext::Timer) | Cause::Open | Cause::Asleep)
        {
            from_ns = self.first_try(level, interval.start_ns).max(level.from_ns);
        }
        if let (Cause::Context(WakeContext::Task), Ending::Woken(_, Waker::Traced(waker))) = (cause, wait.ending) {
            let waits_too = waker == level.serial || self.is_waiting_above(waker);
            if !waits_too && self.levels.len() < MAX_DEPTH {
                self.follow(level, wait, waker, (from_ns, at_ns));
                return at_ns;
            }
            cause = Cause::Mutual;
        }
        if interval.state == State::Timer
            && at_ns == interval.end_ns
            && self.only_children()
            && let Some(poll) = self.polled(level, at_ns)
        {
            // It looked too late by this.
            self.emit(level.serial, interval.state, cause, Some(wait), (poll.ended_ns, at_ns));
            self.follow(level, wait, poll.serial, (poll.from_ns, poll.ended_ns));
            return poll.ended_ns;
        }
        self.emit(level.serial, interval.state, cause, Some(wait), (from_ns, at_ns));
        from_ns
    }

    /// The thread whose end this one waited for by sleeping and looking again, as far as that one can explain it.
    fn polled(&mut self, level: Level, at_ns: u64) -> Option<Poll> {
        let poll = self.reader.poll_ending(level.serial, at_ns)?;
        let born_ns = self.reader.life(poll.serial)?.start_ns;
        let from_ns = poll.from_ns.max(born_ns).max(level.from_ns);
        let goes_on = !self.is_waiting_above(poll.serial) && self.levels.len() < MAX_DEPTH;
        (goes_on && from_ns < poll.ended_ns).then_some(Poll { from_ns, ..poll })
    }

    /// Where the first of a row of retries, or of joins, begins, of which the last begins at `start_ns`.
    fn first_try(&mut self, level: Level, mut start_ns: u64) -> u64 {
        while start_ns > level.from_ns {
            let Some(interval) = self.reader.before(level.serial, start_ns) else { break };
            if interval.end_ns < start_ns {
                break;
            }
            start_ns = interval.start_ns;
            if interval.wait.is_some_and(|wait| !wait.is_retry && !wait.joins_on) {
                break;
            }
        }
        start_ns
    }

    /// Goes on with the thread that ended a wait.
    fn follow(&mut self, level: Level, wait: Wait, waker: u32, (from_ns, to_ns): (u64, u64)) {
        let key = self.note(level.serial, wait, to_ns - from_ns);
        if level.wait != Some(key) {
            // Else it is the same wait, which what follows explains.
            self.explain(level.serial, wait.reason.state, Some(wait), (from_ns, to_ns));
        }
        let before = self.within;
        let is_own = match before {
            None => true,
            Some(within) => {
                within.own.state == State::Child && self.levels.len() <= MAX_CHILDREN && self.only_children()
            }
        };
        if is_own {
            let own = self.own_wait(level.serial, wait, waker, (from_ns, to_ns));
            let (state, syscall) = (wait.reason.state, wait.reason.syscall);
            self.within = Some(before.map_or(Within { state, syscall, own }, |within| Within { own, ..within }));
        }
        self.visit(waker, (from_ns, to_ns));
        self.levels.push(Level { serial: waker, from_ns, wait: Some(key), within: before });
    }

    fn visit(&mut self, serial: u32, (from_ns, to_ns): (u64, u64)) {
        if self.reader.is_watched(serial) && self.path.visits.len() < MAX_VISITS {
            self.path.visits.push(Visit { serial, from_ns, to_ns });
        }
    }

    /// Whether each thread above waits for a child: a script that runs the program.
    fn only_children(&self) -> bool {
        let mut waits = self.levels.iter().filter_map(|level| level.wait);
        waits.all(|wait| wait.state == State::Child)
    }

    /// Adds a wait of the path's own thread.
    fn own_wait(&mut self, serial: u32, wait: Wait, waker: u32, (from_ns, to_ns): (u64, u64)) -> OwnKey {
        let ended_ns = self.reader.life(waker).map_or(u64::MAX, |life| life.end_ns);
        let Wait { reason, object, .. } = wait;
        let by_end = ended_ns.saturating_sub(to_ns) <= BY_END_NS.max(to_ns.saturating_sub(from_ns) / 10);
        let mut within = OwnKey { serial, state: reason.state, syscall: reason.syscall, object, by_end };
        if self.path.own.len() >= MAX_KEYS && !self.path.own.contains_key(&within) {
            within.object = 0;
        }
        let (own, ns) = (self.path.own.entry(within).or_default(), to_ns.saturating_sub(from_ns));
        own.ns = own.ns.saturating_add(ns);
        own.count += 1;
        own.max_ns = own.max_ns.max(ns);
        if own.places.len() < MAX_ENDERS || own.places.contains_key(&wait.place) {
            *own.places.entry(wait.place).or_default() += ns;
        }
        if own.enders.len() < MAX_ENDERS || own.enders.contains_key(&waker) {
            *own.enders.entry(waker).or_default() += 1;
        }
        within
    }

    /// Adds time to a wait, unless it explains a wait for the same.
    fn note(&mut self, serial: u32, wait: Wait, ns: u64) -> WaitKey {
        let tgid = self.reader.life(serial).map_or(0, |life| life.tgid);
        let (state, syscall) = (wait.reason.state, wait.reason.syscall);
        let key = WaitKey { tgid, state, syscall, object: wait.object };
        let outer = self.levels.iter().all(|level| level.wait != Some(key));
        if outer && (self.path.waits.len() < MAX_KEYS || self.path.waits.contains_key(&key)) {
            self.path.waits.entry(key).or_default().add(ns);
            if let Some((_, _, queued_ns)) = self.queued.take() {
                let sum = self.path.queued_ns.entry(key).or_default();
                *sum = sum.saturating_add(queued_ns);
            }
        }
        key
    }

    fn emit(&mut self, serial: u32, state: State, cause: Cause, wait: Option<Wait>, (from_ns, to_ns): (u64, u64)) {
        let ns = to_ns.saturating_sub(from_ns);
        if ns == 0 {
            return;
        }
        if let Some(wait) = wait {
            self.note(serial, wait, ns);
        }
        self.explain(serial, state, wait, (from_ns, to_ns));
        if state == State::OnCpu {
            self.count_samples(serial, from_ns, to_ns);
        }
        let (detail, syscall) = wait.map_or((Detail::None, -1), |wait| (wait.reason.detail, wait.reason.syscall));
        let (object, place) = wait.map_or((0, 0), |wait| (wait.object, wait.place));
        let within = self.within;
        let mut key = PartKey { serial, state, cause, detail, syscall, object, place, within };
        if self.path.parts.len() >= MAX_PARTS && !self.path.parts.contains_key(&key) {
            // At most one entry of each thread and state comes on top.
            key = key.coarse();
        }
        self.path.parts.entry(key).or_default().add(ns);
    }

    /// Adds a piece to what explains the wait that is being explained.
    fn explain(&mut self, serial: u32, state: State, wait: Option<Wait>, (from_ns, to_ns): (u64, u64)) {
        let Some(explained) = self.levels.last().and_then(|level| level.wait) else { return };
        let (detail, syscall) = wait.map_or((Detail::None, -1), |wait| (wait.reason.detail, wait.reason.syscall));
        let (object, place) = wait.map_or((0, 0), |wait| (wait.object, wait.place));
        let key = (explained, Under { serial, state, detail, syscall, object, place });
        if self.path.under.len() < MAX_PARTS || self.path.under.contains_key(&key) {
            self.path.under.entry(key).or_default().add(to_ns.saturating_sub(from_ns));
        }
    }

    fn count_samples(&mut self, serial: u32, from_ns: u64, to_ns: u64) {
        let Some(life) = self.reader.life(serial) else { return };
        let explained = self.levels.last().and_then(|level| level.wait);
        for stack in self.timeline.within(life.tid, from_ns, to_ns) {
            let key = (serial, self.within, stack);
            if self.path.samples.len() < MAX_KEYS || self.path.samples.contains_key(&key) {
                *self.path.samples.entry(key).or_default() += 1;
            }
            let Some(explained) = explained else { continue };
            let key = (explained, serial, stack);
            if self.path.samples_under.len() < MAX_KEYS || self.path.samples_under.contains_key(&key) {
                *self.path.samples_under.entry(key).or_default() += 1;
            }
        }
    }
}
