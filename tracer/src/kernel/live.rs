//! The live source: a thread that drains the rings into batches, adds ticks, loss counters and cost as records, and hands the
//! batches over a bounded channel. When the channel is full it waits, the rings fill, and the kernel counts what it drops.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::pipe2,
};
use serde::Serialize;
use tracer_common::{
    FamilyId,
    lock::Totals,
    loss::{CpuState, LOSS_REASONS},
    record::{Header, meta},
};

use super::{clock, loader::Loaded, progstats, sleepers::Sleepers};
use crate::{
    families::{self, FAMILIES, Ring},
    model::meta::{
        CostRecord, CpuLoss, DatabaseRecord, EndRecord, FamilyLoss, LocksRecord, LossRecord, ProgramCost,
        ShortContentions, StartRecord, TickRecord,
    },
    pipeline::{
        batch::{Batch, header, header_bytes},
        statements::Statements,
    },
    stacks,
};

/// Bytes of records in a batch.
const BATCH_BYTES: usize = 256 << 10;
/// Batches on their way at once.
const BATCHES: usize = 16;
/// Rings are looked at this often, or when the kernel says that many records wait.
const POLL_MS: u16 = 50;
/// A record older than this before a drain began has reached its ring: programs run for microseconds.
const IN_FLIGHT_NS: u64 = 1_000_000;
/// Run times are measured for this long, at the start of each period.
const MEASURED_NS: u64 = 50_000_000;
/// See above.
const MEASURE_PERIOD_NS: u64 = 1_000_000_000;
/// Loss and cost are written this often.
const SNAPSHOT_NS: u64 = 1_000_000_000;

/// Writes a record of family 0 into a batch.
pub fn push_meta(batch: &mut Batch, ts_ns: u64, kind: u16, payload: &impl Serialize) {
    let mut record = header_bytes(Header { ts_ns, kind, cpu: 0, lost: 0 }).to_vec();
    // Plain structs of numbers and strings always serialise; were one not to, its record would be missing, not wrong.
    if serde_json::to_writer(&mut record, payload).is_ok() {
        batch.push(&record);
    }
}

/// The record that starts the window: now.
pub fn push_start(batch: &mut Batch, attach_s: f64) -> u64 {
    let now_ns = clock::monotonic_ns();
    let (unix_offset_ns, boot_offset_ns) = clock::offsets_ns();
    push_meta(batch, now_ns, meta::START, &StartRecord { attach_s, unix_offset_ns, boot_offset_ns });
    now_ns
}

/// The running source.
pub struct Live {
    thread: JoinHandle<io::Result<()>>,
    stop: OwnedFd,
    end: SyncSender<(u64, EndRecord)>,
}

/// Starts draining. Batches arrive at the receiver; used ones can be given back through the sender that comes with it.
pub fn spawn(
    mut loaded: Loaded,
    scheduler: Option<std::ops::Range<u64>>,
    sleepers: Option<Sleepers>,
    watch: Option<stacks::Watch>,
    progress: stacks::Progress,
) -> io::Result<(Live, Receiver<Batch>, SyncSender<Batch>)> {
    let (stopped, stop) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(io::Error::from)?;
    let (send, receive) = sync_channel(BATCHES);
    let (give_back, spare) = sync_channel(BATCHES);
    let (end, ended) = sync_channel(1);
    let stacks = match loaded.stacks.take() {
        Some(ring) => {
            let worker = stacks::Worker::new(loaded.python.take(), scheduler).with_sleepers(sleepers).with_watch(watch);
            Some(stacks::spawn(ring, worker, send.clone(), progress)?)
        }
        None => None,
    };
    let drainer = Drainer {
        cost: Cost { measuring: None, measured_ns: 0, period_start_ns: 0 },
        loaded,
        send,
        spare,
        stacks,
        popped: 0,
        stacks_popped: 0,
        next_snapshot_ns: 0,
        told_disks: false,
        statements: Statements::default(),
    };
    let thread =
        std::thread::Builder::new().name("tracer-rings".to_owned()).spawn(move || drainer.run(&stopped, &ended))?;
    Ok((Live { thread, stop, end }, receive, give_back))
}

impl Live {
    /// Ends tracing: detaches, drains what is left and writes `end` as the last record, at this time.
    pub fn stop(&self, now_ns: u64, end: EndRecord) {
        let _ = self.end.try_send((now_ns, end));
        let _ = nix::unistd::write(&self.stop, &[1]);
    }

    /// Waits for the last batch to be handed over.
    pub fn join(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reads the rings failed")))
    }
}

struct Cost {
    measuring: Option<(OwnedFd, u64)>,
    measured_ns: u64,
    period_start_ns: u64,
}

impl Cost {
    /// Switches the kernel's measuring on and off.
    fn turn(&mut self, now_ns: u64) {
        let in_period_ns = now_ns.saturating_sub(self.period_start_ns);
        if in_period_ns >= MEASURE_PERIOD_NS {
            self.stop(now_ns);
            self.period_start_ns = now_ns;
        }
        if self.measuring.is_none() && now_ns.saturating_sub(self.period_start_ns) < MEASURED_NS {
            self.measuring = progstats::measure().ok().map(|fd| (fd, now_ns));
        } else if in_period_ns >= MEASURED_NS {
            self.stop(now_ns);
        }
    }

    fn stop(&mut self, now_ns: u64) {
        if let Some((fd, since_ns)) = self.measuring.take() {
            drop(fd);
            self.measured_ns += now_ns.saturating_sub(since_ns);
        }
    }

    fn measured_ns(&self, now_ns: u64) -> u64 {
        self.measured_ns + self.measuring.as_ref().map_or(0, |(_, since_ns)| now_ns.saturating_sub(*since_ns))
    }
}

struct Drainer {
    loaded: Loaded,
    cost: Cost,
    send: SyncSender<Batch>,
    spare: Receiver<Batch>,
    stacks: Option<stacks::Running>,
    popped: u64,
    /// Raw stacks that were read, once their reader has ended.
    stacks_popped: u64,
    next_snapshot_ns: u64,
    /// Which disks there are has been told once.
    told_disks: bool,
    /// Texts of statements, which are not kept.
    statements: Statements,
}

impl Drainer {
    fn run(mut self, stopped: &OwnedFd, ended: &Receiver<(u64, EndRecord)>) -> io::Result<()> {
        loop {
            let mut fds: Vec<PollFd> =
                self.loaded.rings.iter().map(|ring| PollFd::new(ring.as_fd(), PollFlags::POLLIN)).collect();
            fds.push(PollFd::new(stopped.as_fd(), PollFlags::POLLIN));
            // Interrupted or not: there is work to look for.
            let _ = poll(&mut fds, PollTimeout::from(POLL_MS));
            let stop = fds.last().and_then(PollFd::any).unwrap_or(false);
            if stop {
                let (now_ns, end) = ended.recv().unwrap_or_else(|_| (clock::monotonic_ns(), EndRecord::default()));
                return self.finish(now_ns, &end);
            }
            if !self.round()? {
                return Ok(());
            }
        }
    }

    fn batch(&self) -> Batch {
        self.spare.try_recv().map_or_else(
            |_| Batch::new(),
            |mut batch| {
                batch.clear();
                batch
            },
        )
    }

    /// Drains all rings once. False when nobody listens any more.
    fn round(&mut self) -> io::Result<bool> {
        loop {
            let start_ns = clock::monotonic_ns();
            self.cost.turn(start_ns);
            self.loaded.look_at_needs(start_ns);
            let mut batch = self.batch();
            let complete = self.drain(&mut batch);
            if complete {
                let (unix_offset_ns, boot_offset_ns) = clock::offsets_ns();
                let complete_ts_ns = start_ns.saturating_sub(IN_FLIGHT_NS);
                push_meta(
                    &mut batch,
                    start_ns,
                    meta::TICK,
                    &TickRecord { complete_ts_ns, unix_offset_ns, boot_offset_ns },
                );
                if start_ns >= self.next_snapshot_ns {
                    self.next_snapshot_ns = start_ns + SNAPSHOT_NS;
                    self.snapshot(&mut batch, start_ns)?;
                }
            }
            if self.send.send(batch).is_err() {
                return Ok(false);
            }
            if complete {
                return Ok(true);
            }
        }
    }

    /// Moves records into the batch until the rings are empty (true) or the batch is full.
    fn drain(&mut self, batch: &mut Batch) -> bool {
        for ring in &mut self.loaded.rings {
            loop {
                if batch.byte_len() >= BATCH_BYTES {
                    return false;
                }
                let Some(record) = ring.next() else { break };
                batch.push(&record);
                self.popped += 1;
            }
        }
        self.drain_database(batch)
    }

    /// The same with calls of databases' clients, whose texts go no further than here.
    fn drain_database(&mut self, batch: &mut Batch) -> bool {
        let Some((ring, _)) = &mut self.loaded.database else { return true };
        while batch.byte_len() < BATCH_BYTES {
            let Some(record) = ring.next() else { return true };
            let taken = self.statements.take(&record);
            if let Some(new) = taken.new {
                let ts_ns = header(&record).map_or(0, |header| header.ts_ns);
                push_meta(
                    batch,
                    ts_ns,
                    meta::DATABASE,
                    &DatabaseRecord { statement: Some(new), ..DatabaseRecord::default() },
                );
            }
            if let Some(call) = taken.call {
                batch.push(&call);
                self.popped += 1;
            }
        }
        false
    }

    fn snapshot(&mut self, batch: &mut Batch, now_ns: u64) -> io::Result<()> {
        push_meta(batch, now_ns, meta::LOSS, &self.loss(&self.loaded.counters()?));
        push_meta(batch, now_ns, meta::COST, &self.cost(now_ns));
        self.locks(batch, now_ns)?;
        let with_disks = !std::mem::replace(&mut self.told_disks, true);
        if let Some(record) = self.loaded.sums(with_disks)? {
            push_meta(batch, now_ns, meta::SUMS, &record);
        }
        Ok(())
    }

    /// Writes the sums of short contentions, if they are counted.
    fn locks(&self, batch: &mut Batch, now_ns: u64) -> io::Result<()> {
        let Some(sums) = self.loaded.short_contentions()? else { return Ok(()) };
        let row =
            |((tgid, kind), sum): ((u32, u8), Totals)| ShortContentions { tgid, kind, count: sum.count, ns: sum.ns };
        let record = LocksRecord { short: sums.into_iter().map(row).collect() };
        push_meta(batch, now_ns, meta::LOCKS, &record);
        Ok(())
    }

    fn loss(&self, cpus: &[CpuState]) -> LossRecord {
        let popped = |ring| match ring {
            Ring::Shared => self.popped,
            Ring::Stacks => self.stacks.as_ref().map_or(self.stacks_popped, stacks::Running::popped),
        };
        let families = self
            .loaded
            .families
            .iter()
            .filter_map(|record| families::find(&record.family))
            .map(|family| FamilyLoss {
                family: family.name().to_owned(),
                cpus: cpus.iter().map(|cpu| cpu_loss(cpu, family.id())).collect(),
                recursion_misses: self
                    .loaded
                    .running
                    .iter()
                    .filter(|running| running.family == family.name())
                    .filter_map(|running| progstats::read(running.fd.as_fd()).ok())
                    .map(|stats| stats.recursion_misses)
                    .sum(),
                queued: submitted_to(family.ring(), cpus).saturating_sub(popped(family.ring())),
            })
            .collect();
        LossRecord { families }
    }

    fn cost(&self, now_ns: u64) -> CostRecord {
        let (tracer_cpu_s, tracer_rss_bytes) = clock::own_usage();
        CostRecord {
            measured_s: self.cost.measured_ns(now_ns) as f64 / 1e9,
            programs: self
                .loaded
                .running
                .iter()
                .filter(|running| running.is_measured)
                .filter_map(|running| {
                    let stats = progstats::read(running.fd.as_fd()).ok()?;
                    Some(ProgramCost { name: running.name.to_owned(), runs: stats.runs, ns: stats.run_time_ns })
                })
                .collect(),
            tracer_cpu_s,
            tracer_rss_bytes,
            ring_bytes: self.loaded.ring_bytes,
        }
    }

    /// Detaches, waits until what is in flight has landed, and hands over the rest.
    fn finish(mut self, now_ns: u64, end: &EndRecord) -> io::Result<()> {
        self.cost.stop(clock::monotonic_ns());
        self.loaded.detach();
        loop {
            let mut batch = self.batch();
            let complete = self.drain(&mut batch);
            let cpus = self.loaded.counters()?;
            let settled = balanced(&cpus) && submitted_to(Ring::Shared, &cpus) <= self.popped;
            if complete && (settled || clock::monotonic_ns() > now_ns + 2_000_000_000) {
                if let Some(stacks) = self.stacks.take() {
                    self.stacks_popped = stacks.finish(submitted_to(Ring::Stacks, &cpus))?;
                }
                push_meta(&mut batch, now_ns, meta::LOSS, &self.loss(&cpus));
                push_meta(&mut batch, now_ns, meta::COST, &self.cost(now_ns));
                self.locks(&mut batch, now_ns)?;
                let mut sums = self.loaded.sums(true)?.unwrap_or_default();
                self.loaded.memory.rest(&mut sums);
                push_meta(&mut batch, now_ns, meta::SUMS, &sums);
                push_meta(&mut batch, now_ns, meta::END, end);
                return self.send.send(batch).map_err(|_| io::Error::other("nobody takes the last records"));
            }
            if batch.is_empty() {
                std::thread::sleep(Duration::from_micros(200));
            }
            match self.send.try_send(batch) {
                Ok(()) => {}
                Err(TrySendError::Full(batch)) => {
                    if self.send.send(batch).is_err() {
                        return Ok(());
                    }
                }
                Err(TrySendError::Disconnected(_)) => return Ok(()),
            }
        }
    }
}

fn counters(cpu: &CpuState, family: FamilyId) -> tracer_common::loss::FamilyCounters {
    cpu.families[family as usize]
}

/// Records that the programs wrote into this ring.
fn submitted_to(ring: Ring, cpus: &[CpuState]) -> u64 {
    let families = FAMILIES.iter().filter(|family| family.ring() == ring);
    families.map(|family| cpus.iter().map(|cpu| counters(cpu, family.id()).submitted).sum::<u64>()).sum()
}

/// Whether every event that a program saw has become a record or a counted loss: no program is running.
fn balanced(cpus: &[CpuState]) -> bool {
    let families = |cpu: &CpuState| {
        cpu.families.iter().all(|counted| counted.seen == counted.submitted + counted.lost.iter().sum::<u64>())
    };
    cpus.iter().all(families)
}

fn cpu_loss(cpu: &CpuState, family: FamilyId) -> CpuLoss {
    let counted = counters(cpu, family);
    let lost: [u64; LOSS_REASONS] = counted.lost;
    CpuLoss {
        seen: counted.seen,
        submitted: counted.submitted,
        lost: lost.to_vec(),
        wakers_forgotten: counted.wakers_forgotten,
    }
}
