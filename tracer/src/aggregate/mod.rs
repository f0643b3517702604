//! Events to the facts of a report: which thread was in which state for how long, what it waited for, who held and who woke.
//! Memory is bounded (see `table`, `waits`, `locks`, `processes`, `names`); time per switch does not depend on what came before.
//! Nothing here fails: what cannot be used is counted. Judging is `diagnose`'s.

mod block;
mod build;
mod build_cpu;
pub mod classify;
mod closing;
mod critical_path;
mod database;
mod departed;
pub mod gaps;
mod hash;
mod kernel_locks;
mod kernel_rows;
mod keyframe;
mod ledger;
mod lifecycle;
mod limits;
pub mod lock_kinds;
mod locks;
mod mapped;
mod memory;
pub mod moved;
pub mod names;
pub mod network;
mod object_bytes;
mod objects;
mod open_waits;
mod paging;
mod paths;
pub mod processes;
mod python;
mod queue;
mod spawned;
mod spinning;
mod stacks;
mod switch;
pub mod table;
pub mod thread;
mod times;
pub mod waits;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_ends;

use tracer_common::futex::Observed;
use tracer_common::memory::CachedFile;
use tracer_common::record::{Header, block as block_kind, cache, family_of};
use tracer_common::syscall::Arch;

use self::block::Blocks;
use self::classify::Calls;
use self::closing::Closing;
use self::critical_path::history::{History, Life};
use self::critical_path::steps::Steps;
use self::database::Databases;
use self::departed::{Departed, Ended};
use self::hash::FastMap;
use self::kernel_locks::KernelLocks;
use self::ledger::Ledger;
use self::limits::Limits;
use self::locks::Locks;
use self::mapped::Mapped;
use self::memory::Memory;
use self::moved::Movers;
use self::names::{NameId, Names};
use self::network::Network;
use self::objects::Objects;
use self::paging::Paging;
use self::paths::Paths;
use self::processes::Processes;
use self::python::Pythons;
use self::queue::Occupancy;
use self::stacks::Stacks;
use self::table::{Bounds, Finished, Threads};
use self::thread::{Phase, Span};
use crate::model::event::{Event, Meta};
use crate::model::meta::{CostRecord, EndRecord, HostRecord, StartRecord, TargetRecord, TickRecord};
use crate::pipeline::decode::Undecoded;
use tracer_common::stack::origin;

/// Names of threads that are not traced; further ones are not kept.
const MAX_STRANGERS: usize = 65_536;

/// The family that takes stacks.
const CPU_FAMILY: &str = "cpu";

/// The family that sees kernel locks.
const LOCK_FAMILY: &str = "lock";

/// The window has just begun for so long.
const JUST_BEGUN_NS: u64 = 100_000_000;

/// What the last record of a CPU said.
#[derive(Default)]
struct Cpu {
    /// Records that it had lost before it.
    lost: u32,
    /// Its time; 0: there was none.
    last_ns: u64,
    /// The traced thread that it left on the CPU; 0: none.
    running: u32,
    /// Who had it of late.
    occupancy: Occupancy,
    /// The process whose quota was filled up last, of those with a thread that waited here for that, and when it ran again.
    refilled: (u32, u64),
}

/// What a NAME record says of a thread that is not traced.
#[derive(Clone, Copy)]
struct Stranger {
    tgid: u32,
    name: NameId,
    /// See [`QueueFacts`](tracer_common::sched::QueueFacts).
    priority_plus_1: u8,
}

/// Takes events in the order of time; see the file's head.
pub struct Aggregate {
    calls: Calls,
    names: Names,
    span: Span,
    cpus: Vec<Cpu>,
    threads: Threads,
    processes: Processes,
    locks: Locks,
    kernel_locks: KernelLocks,
    limits: Limits,
    objects: Objects,
    paths: Paths,
    closing: Closing,
    movers: Movers,
    network: Network,
    /// The records tell threads held back by a quota from others that are ready.
    tells_throttling: bool,
    paging: Paging,
    mapped: Mapped,
    blocks: Blocks,
    databases: Databases,
    memory: Memory,
    pythons: Pythons,
    stacks: Stacks,
    history: History,
    steps: Steps,
    ledger: Ledger,
    departed: Departed,
    /// CMD's thread while the tracer holds it back before its exec; 0: none.
    held: u32,
    /// Threads that are not traced but were seen: process and name.
    strangers: FastMap<u32, Stranger>,
    host: Option<HostRecord>,
    target: Option<TargetRecord>,
    start: Option<StartRecord>,
    tick: Option<TickRecord>,
    cost: Option<CostRecord>,
    /// CPU time that the tracer had used when the window had just begun.
    startup_cpu_s: Option<f64>,
    end: Option<EndRecord>,
}

impl Aggregate {
    /// Nothing seen yet.
    pub fn new(bounds: Bounds) -> Self {
        Aggregate {
            calls: Calls::new(None),
            names: Names::default(),
            span: Span { start_ns: u64::MAX, now_ns: 0, gaps: Default::default() },
            cpus: Vec::new(),
            threads: Threads::new(bounds),
            processes: Processes::default(),
            locks: Locks::default(),
            kernel_locks: KernelLocks::default(),
            limits: Limits::default(),
            objects: Objects::default(),
            paths: Paths::default(),
            closing: Closing::default(),
            movers: Movers::default(),
            network: Network::default(),
            tells_throttling: false,
            paging: Paging::default(),
            mapped: Mapped::default(),
            blocks: Blocks::default(),
            databases: Databases::default(),
            memory: Memory::default(),
            pythons: Pythons::default(),
            stacks: Stacks::default(),
            history: History::default(),
            steps: Steps::default(),
            ledger: Ledger::default(),
            departed: Departed::default(),
            held: 0,
            strangers: FastMap::default(),
            host: None,
            target: None,
            start: None,
            tick: None,
            cost: None,
            startup_cpu_s: None,
            end: None,
        }
    }

    /// Counts a record that could not be decoded.
    pub fn undecoded(&mut self, undecoded: Undecoded) {
        self.ledger.undecoded(undecoded.header.map(|header| header.kind));
    }

    /// Takes one event.
    pub fn event(&mut self, event: &Event) {
        let header = event.header();
        if let Event::Meta(_, meta) = event {
            self.meta(header, meta);
            return;
        }
        if let Event::Sampled(sampled) = event {
            // Samples arrive when they are unwound, in no order: they move no clock and reveal no gap.
            // Those that user space asked for are not among what the programs counted.
            if sampled.origin != origin::ATTACHED {
                self.ledger.decoded(family_of(header.kind), false);
            }
            self.stacks.sampled(sampled, &self.span);
            return;
        }
        // What was recorded while the probes were being attached comes before the window, and behind its start.
        let late = header.ts_ns < self.span.now_ns && self.span.start_ns <= header.ts_ns;
        self.ledger.decoded(family_of(header.kind), late);
        if self.end.is_some() {
            // The window is closed: the probes were still being taken down.
            return;
        }
        self.span.now_ns = self.span.now_ns.max(header.ts_ns);
        self.note_gap(header);
        match event {
            Event::Switch(switch) => self.switch(switch, None),
            Event::SwitchFutex(futex) => {
                let seen = Observed { op: futex.op, val: futex.val, words: futex.words };
                self.switch(&futex.switch, (futex.readable == 1).then_some(seen));
            }
            Event::Arrived(arrival) => self.arrived(arrival),
            Event::Polled(polled) => self.polled(polled),
            Event::NewTask(event) => self.new_task(event),
            Event::Fork(event) => self.fork(event),
            Event::Exec(event) => self.exec(event),
            Event::Exit(event) => self.exit(event),
            Event::Moved(event) => self.movers.ended(event),
            Event::Rename(event) => self.rename(event),
            Event::CgroupMove(event) => self.cgroup_move(event),
            Event::Contended(event) => self.contended(event),
            Event::Faults(event) => self.paging.faults.record(event, &self.span),
            Event::Stalled(event) => self.paging.stalls.record(event, &self.span),
            Event::Connection(event) => self.network.event(event),
            Event::Mapped(event) => self.mapped.record(event, &self.span),
            Event::CachedFile(event) if header.kind == block_kind::DIRECTORY => self.paths.directory(event),
            Event::CachedFile(event) => self.met(event),
            Event::BlockDone(event) => self.block_done(event),
            Event::DirtyPause(event) => self.pausing(event),
            Event::FileSync(event) => self.synced(event),
            Event::Call(event) => self.called(event),
            Event::Victim(event) => self.paging.victim(event, &self.span),
            Event::Step(event) => self.step(event),
            Event::Sampled(_) | Event::Meta(..) => {}
        }
    }

    /// A file is met.
    fn met(&mut self, event: &CachedFile) {
        self.paths.file(event);
        if event.header.kind == cache::FILE {
            self.paging.cache.file(event);
        }
    }

    fn meta(&mut self, header: Header, meta: &Meta) {
        match meta {
            Meta::Host(host) => {
                self.calls = Calls::new(Arch::from_machine(&host.arch));
                self.host = Some(host.clone());
            }
            Meta::Target(target) => {
                if target.mode != "run" && target.focus.is_none() && target.step.is_none() {
                    self.history = History::new(History::ATTACHED_BOUND_BYTES);
                }
                self.target = Some(target.clone());
            }
            Meta::Families(family) => {
                if family.family == CPU_FAMILY {
                    self.stacks.family(&family.status);
                }
                if family.family == LOCK_FAMILY {
                    self.kernel_locks.family(&family.status);
                }
                self.paging.family(family);
                self.mapped.family(family);
                self.blocks.family(family);
                if self.databases.family(family) {
                    self.stacks.waits_timeline.get_or_insert_default();
                }
                self.ledger.family(family);
            }
            Meta::Start(start) if self.start.is_none() => {
                self.start = Some(start.clone());
                // Time before this record was not counted, so the window cannot start before what came before it.
                self.span.now_ns = self.span.now_ns.max(header.ts_ns);
                self.span.start_ns = self.span.now_ns;
            }
            Meta::Start(_) => {}
            Meta::Tick(tick) => self.tick = Some(tick.clone()),
            Meta::Loss(loss) => self.ledger.loss(loss, header.ts_ns),
            Meta::Seed(seed) => self.seed(header, seed),
            Meta::Name(name) => self.name(name),
            Meta::Cost(cost) => self.cost(header, cost),
            Meta::Module(module) => self.stacks.definitions.module(module),
            Meta::Frame(frame) => self.stacks.definitions.frame(frame),
            Meta::Stack(stack) => self.stacks.definitions.stack(stack),
            Meta::Symbol(symbol) => self.stacks.definitions.symbol(symbol),
            Meta::Locks(locks) => self.kernel_locks.short(locks),
            Meta::Attached(attached) => self.stacks.attached = Some(attached.clone()),
            Meta::Python(python) => self.pythons.record(python),
            Meta::Objects(objects) => {
                objects.moved.iter().for_each(|moved| self.movers.record(moved));
                objects.sockets.iter().for_each(|socket| self.network.read(socket));
                self.network.listening(&objects.listening);
                objects.mounts.iter().for_each(|mounts| self.paths.mounts(mounts));
                self.objects.record(objects);
            }
            Meta::Sums(sums) => {
                self.paging.sums(sums, &self.span);
                self.blocks.sums(sums);
                self.network.sums(sums);
                sums.mapped.iter().for_each(|row| self.mapped.row(row, &self.span));
            }
            Meta::Memory(memory) => self.memory.record(memory, &self.span),
            Meta::Steps(steps) => self.steps.watched(steps, header.ts_ns),
            Meta::Database(record) => self.databases.record(record),
            Meta::CpuLimits(limits) => self.limits.record(limits, &mut self.names),
            Meta::End(end) => {
                self.end = Some(end.clone());
                self.span.now_ns = self.span.now_ns.max(header.ts_ns);
            }
        }
    }

    /// The first cost counts as that of starting up, if it was taken when the window had just begun: a capture that was rotated
    /// has later ones only.
    fn cost(&mut self, header: Header, cost: &CostRecord) {
        let age_ns = header.ts_ns.saturating_sub(self.span.start_ns);
        if self.cost.is_none() && self.span.is_open() && age_ns <= JUST_BEGUN_NS {
            self.startup_cpu_s = Some(cost.tracer_cpu_s);
        }
        self.cost = Some(cost.clone());
    }

    /// A CPU that lost records since its last one leaves a gap between the two.
    fn note_gap(&mut self, header: Header) {
        let start_ns = self.span.start_ns;
        let cpu = self.cpu_mut(header.cpu);
        let (lost_since, last_ns) = (header.lost.wrapping_sub(cpu.lost), cpu.last_ns);
        if (lost_since as i32) < 0 {
            // A late record: what it knew is known already.
            return;
        }
        (cpu.lost, cpu.last_ns) = (header.lost, header.ts_ns.max(last_ns));
        if lost_since > 0 && start_ns < header.ts_ns {
            self.span.gaps.add(last_ns.max(start_ns), header.ts_ns);
        }
    }

    fn cpu_mut(&mut self, cpu: u16) -> &mut Cpu {
        let index = usize::from(cpu);
        if self.cpus.len() <= index {
            self.cpus.resize_with(index + 1, Cpu::default);
        }
        &mut self.cpus[index]
    }

    /// Ends what is still open: the window, its last gaps, all threads. Returns every thread that was kept.
    fn close(&mut self) -> Vec<Finished> {
        if self.end.is_none()
            && let Some(tick) = &self.tick
        {
            // Records after the last tick were used too: the window ends with whichever is later.
            self.span.now_ns = self.span.now_ns.max(tick.complete_ts_ns);
        }
        let now_ns = self.span.now_ns;
        for (cpu, lost) in self.ledger.lost_by_cpu().into_iter().enumerate() {
            let (last_lost, last_ns) = self.cpus.get(cpu).map_or((0, 0), |cpu| (cpu.lost, cpu.last_ns));
            if lost.wrapping_sub(last_lost) as i32 > 0 && self.span.start_ns < now_ns {
                self.span.gaps.add(last_ns.max(self.span.start_ns), now_ns);
            }
        }
        // All waits end before the first thread goes: owners of locks are looked up among those that live.
        let live = self.threads.live();
        live.iter().for_each(|index| self.finish_interval(*index, now_ns));
        live.iter().for_each(|index| self.retire(*index, None));
        self.stacks.close(&self.span);
        self.threads.take_ended()
    }

    /// Charges a live thread's open interval up to the end of the window.
    fn finish_interval(&mut self, index: u32, now_ns: u64) {
        let Some(thread) = self.threads.get_mut(index) else { return };
        match thread.phase {
            // Nobody saw it leave its CPU.
            phase @ (Phase::OnCpu(_) | Phase::ReadyOrOnCpu) => {
                let ran_ns = thread.charge(classify::State::OnCpu, now_ns, &self.span);
                if let Phase::OnCpu(cpu) = phase {
                    self.memory.ran(thread.tgid, cpu, ran_ns);
                }
            }
            Phase::Runnable => {
                thread.charge(classify::State::Runnable, now_ns, &self.span);
            }
            Phase::Throttled(_) => {
                let measured_ns = thread.charge(classify::State::Throttled, now_ns, &self.span);
                thread.note_throttle(measured_ns);
            }
            Phase::Lost => {
                thread.charge(classify::State::Unknown, now_ns, &self.span);
            }
            Phase::Waiting => self.end_wait(index, now_ns, None),
        }
    }

    /// Takes a thread out of the table, all its time charged.
    fn retire(&mut self, index: u32, end_ns: Option<u64>) {
        let party = self.threads.party(index);
        let Some(mut thread) = self.threads.remove(index) else { return };
        if let (Some(party), Some(end_ns)) = (party, end_ns) {
            let party = self.processes.introduce(party);
            self.departed.add(Ended { party, end_ns, exiting_ns: thread.exiting_ns, start_ns: thread.start_ns });
        }
        let (process, parent, ns_pid) = match self.processes.get(thread.tgid) {
            Some(process) => (process.name, process.parent, process.ns_pid),
            None => Default::default(),
        };
        self.stacks.ended(thread.tgid, thread.tid, thread.name, process);
        let life = Life {
            tid: thread.tid,
            tgid: thread.tgid,
            name: thread.name,
            process,
            start_ns: thread.clipped_start_ns(&self.span),
            end_ns: thread.since_ns,
            creator: thread.creator,
        };
        self.history.end(thread.serial, life, &mut thread.trail);
        let locks = self.processes.thread_ended(thread.tgid, &thread.sums, end_ns);
        self.locks.retire(&locks);
        let in_window = thread.since_ns > self.span.start_ns;
        if in_window {
            self.threads.bury(Finished { thread, end_ns, process, parent, ns_pid });
        }
    }
}
