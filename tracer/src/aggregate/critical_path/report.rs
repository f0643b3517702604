//! A walked path as the report's section: parts are put together by names, since a pool's threads or a loader's workers are one
//! thing to a reader, and functions are named.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tracer_common::sched::WakeContext;

use super::history::{Life, Reader};
use super::row::Row;
use super::walk::{Cause, Own, OwnKey, PartKey, Path, Sum, Visit, WaitKey, walk};
use crate::aggregate::Aggregate;
use crate::aggregate::block::report::Folders;
use crate::aggregate::build::{known, object};
use crate::aggregate::classify::{Detail, Reason, State};
use crate::aggregate::names::NameId;
use crate::aggregate::spawned::SHORT_NS;
use crate::aggregate::spinning::part_of;
use crate::aggregate::stacks::report::Named;
use crate::model::critical_path::{
    CriticalPath, Ender, OwnWait, PathOf, PathOthers, PathPart, PathShortLived, PathWait, PathWithin,
};
use crate::model::report::seconds;
use crate::model::stacks::{FunctionTime, IPC_COPY, IPC_PACK};

const MAX_PARTS: usize = 48;
const MAX_WAITS: usize = 32;
const MAX_SHORT_LIVED: usize = 8;
const MAX_GENERATIONS: usize = 16;
const MAX_OWN_WAITS: usize = 16;
const MAX_OWN_DID: usize = 8;

/// What a row of the report is told apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowKey {
    process: NameId,
    thread: NameId,
    pub(super) state: State,
    detail: Detail,
    syscall: i16,
    cause: Cause,
    within: Option<(State, i16)>,
}

impl RowKey {
    /// That of a part; also gives the thread's process.
    pub(super) fn of(part: &PartKey, reader: &Reader<'_>) -> (Self, u32) {
        let life = reader.life(part.serial).copied().unwrap_or_default();
        let PartKey { state, detail, syscall, cause, within, .. } = *part;
        let within = within.map(|within| (within.state, within.syscall));
        (RowKey { process: life.process, thread: life.name, state, detail, syscall, cause, within }, life.tgid)
    }
}

pub(super) struct Writer<'a> {
    pub(super) aggregate: &'a Aggregate,
    pub(super) stacks: Option<&'a Named<'a>>,
    pub(super) path: &'a Path,
    pub(super) reader: &'a Reader<'a>,
    pub(super) total_ns: u64,
    /// The process of the path's thread.
    pub(super) tgid: u32,
    /// Files that are told together.
    pub(super) folders: &'a Folders<'a>,
}

impl Aggregate {
    /// The thread whose path is asked for, or CMD's main thread.
    fn on_whose_path(&self) -> Option<u32> {
        let target = self.target.as_ref()?;
        match target.focus.as_deref() {
            Some(focus) => {
                self.history.thread(focus.parse().ok(), |name| self.names.text(name).as_deref() == Some(focus))
            }
            None if target.mode == "run" => self.history.leader(*target.pids.first()?),
            None => self.steps.longest(&self.history),
        }
    }

    /// The critical path of CMD's main thread, or of the thread that was asked for, and when it led through threads that called databases;
    /// none when nothing of it was seen.
    pub(in crate::aggregate) fn critical_path(&self, stacks: Option<&Named<'_>>) -> Option<(CriticalPath, Vec<Visit>)> {
        let serial = self.on_whose_path()?;
        let life = *self.history.life(serial)?;
        let mut reader = Reader::new(&self.history, &self.pythons);
        reader.watch(self.databases.threads());
        let mut path = walk(&mut reader, &self.stacks.timeline, serial, (life.start_ns, life.end_ns), u64::MAX);
        let total_ns = life.end_ns.saturating_sub(life.start_ns);
        let visits = std::mem::take(&mut path.visits);
        let (tgid, folders) = (life.tgid, self.folders());
        let (path, reader, folders) = (&path, &reader, &folders);
        let writer = Writer { aggregate: self, stacks, path, reader, total_ns, tgid, folders };
        let complete_from_ns = self.history.complete_from_ns();
        let mut section = writer.section();
        section.of = PathOf {
            pid: life.tgid,
            tid: life.tid,
            thread: self.names.text(life.name),
            process: self.names.text(life.process),
        };
        section.kept_s =
            (complete_from_ns > life.start_ns).then(|| seconds(life.end_ns.saturating_sub(complete_from_ns)));
        section.steps = self.steps_section(serial, stacks);
        Some((section, visits))
    }
}

impl Writer<'_> {
    fn section(&self) -> CriticalPath {
        let mut rows: Vec<(RowKey, Row)> = self.rows().into_iter().collect();
        rows.sort_by(|(left_key, left), (right_key, right)| {
            (Reverse(left.ns), left_key, &left.threads).cmp(&(Reverse(right.ns), right_key, &right.threads))
        });
        let left_out = rows.split_off(rows.len().min(MAX_PARTS));
        let left_out_ns: u64 = left_out.iter().map(|(_, row)| row.ns).sum();
        let unknown = self.path.parts.iter().filter(|(key, _)| key.state == State::Unknown);
        let unknown_ns: u64 = unknown.map(|(_, sum)| sum.ns).sum();
        CriticalPath {
            total_s: seconds(self.total_ns),
            unknown_s: seconds(unknown_ns),
            unknown_share: self.share(unknown_ns),
            parts: rows.iter().map(|(key, row)| self.part(key, row, None)).collect(),
            others: (!left_out.is_empty()).then(|| PathOthers {
                parts: left_out.len() as u64,
                s: seconds(left_out_ns),
                share: self.share(left_out_ns),
            }),
            phases: self.phases(),
            waits: self.waits(),
            short_lived: self.short_lived(),
            own_waits: self.own_waits(),
            ..CriticalPath::default()
        }
    }

    pub(super) fn share(&self, ns: u64) -> f64 {
        if self.total_ns == 0 { 0.0 } else { ns as f64 / self.total_ns as f64 }
    }

    fn rows(&self) -> BTreeMap<RowKey, Row> {
        let mut rows = self.rows_unspun();
        for (key, row) in self.spun(&mut rows, None) {
            rows.insert(key, row);
        }
        rows
    }

    /// The same with the time that threads spun in that on a CPU.
    pub(super) fn rows_unspun(&self) -> BTreeMap<RowKey, Row> {
        let mut rows: BTreeMap<RowKey, Row> = BTreeMap::new();
        for (part, sum) in &self.path.parts {
            let (key, tgid) = RowKey::of(part, self.reader);
            rows.entry(key).or_default().add(part.serial, part.object, (tgid, part.place), *sum);
        }
        rows
    }

    /// Takes out of the rows on a CPU the time of those samples that show a thread spinning.
    fn spun(&self, rows: &mut BTreeMap<RowKey, Row>, only_of: Option<OwnKey>) -> Vec<(RowKey, Row)> {
        let Some(stacks) = self.stacks else { return Vec::new() };
        let on_cpu = rows.iter_mut().filter(|(key, _)| key.state == State::OnCpu);
        let spun = on_cpu.filter_map(|(key, row)| {
            let counts = self.counts(key, row, only_of);
            let (mut spun, mut all) = (0u64, 0u64);
            for (stack, count) in &counts {
                all += count;
                spun += if stacks.spins(*stack) { *count } else { 0 };
            }
            let own_ns = part_of(row.ns, spun, all);
            (own_ns > 0).then(|| (RowKey { state: State::Spinning, ..key.clone() }, row.take(own_ns)))
        });
        let spun: Vec<(RowKey, Row)> = spun.collect();
        rows.retain(|_, row| row.ns > 0);
        spun
    }

    /// A row as a part; its samples are those of this wait only, if one is given.
    pub(super) fn part(&self, key: &RowKey, row: &Row, only_of: Option<OwnKey>) -> PathPart {
        let lives: Vec<_> = row.threads.iter().filter_map(|serial| self.reader.life(*serial)).collect();
        let pids: BTreeSet<u32> = lives.iter().map(|life| life.tgid).collect();
        let only = |set: &BTreeSet<u32>| if set.len() == 1 { set.first().copied().and_then(known) } else { None };
        let reason = Reason { state: key.state, detail: key.detail, syscall: key.syscall };
        let is_wait = key.cause != Cause::None;
        let told = row.told(self.aggregate, reason);
        let path = told.path.or_else(|| row.folder(self.folders, reason));
        PathPart {
            share: self.share(row.ns),
            s: seconds(row.ns),
            pieces: row.pieces,
            threads: row.threads.len() as u64,
            pid: only(&pids),
            tid: if lives.len() == 1 { lives.first().and_then(|life| known(life.tid)) } else { None },
            process: self.aggregate.names.text(key.process),
            thread: self.aggregate.names.text(key.thread),
            state: key.state.id().to_owned(),
            detail: if is_wait { self.aggregate.wait_detail(reason) } else { None },
            object: row.object(reason),
            path,
            ends: told.ends,
            cause: cause(key.cause).map(str::to_owned),
            waker: match key.cause {
                Cause::Stranger(tid) => self.aggregate.stranger(tid),
                _ => None,
            },
            within: key.within.map(|within| self.within(within)),
            functions: if is_wait { row.waited_in(self.stacks) } else { self.sampled(key, row, only_of) },
            ipc_s: self.ipc_ns(key, row, only_of).map(seconds),
        }
    }

    /// Time of a row on a CPU that went to moving data between processes, by samples.
    fn ipc_ns(&self, key: &RowKey, row: &Row, only_of: Option<OwnKey>) -> Option<u64> {
        let stacks = self.stacks.filter(|_| key.state == State::OnCpu)?;
        let mut counts = self.counts(key, row, only_of);
        counts.retain(|stack, _| !stacks.spins(*stack));
        let moves = |stack: u64| stacks.phase(stack).is_some_and(|phase| [IPC_COPY, IPC_PACK].contains(&phase));
        let moving = counts.iter().filter(|(stack, _)| moves(**stack)).map(|(_, count)| count).sum();
        Some(part_of(row.ns, moving, counts.values().sum())).filter(|ns| *ns > 0)
    }

    fn within(&self, (state, syscall): (State, i16)) -> PathWithin {
        let reason = Reason { state, detail: Detail::None, syscall };
        PathWithin { state: state.id().to_owned(), detail: self.aggregate.wait_detail(reason) }
    }

    /// Functions of the samples that lie on this part of the path; they share its time.
    fn sampled(&self, key: &RowKey, row: &Row, only_of: Option<OwnKey>) -> Vec<FunctionTime> {
        let spinning = key.state == State::Spinning;
        let Some(stacks) = self.stacks.filter(|_| spinning || key.state == State::OnCpu) else { return Vec::new() };
        let mut counts = self.counts(key, row, only_of);
        counts.retain(|stack, _| stacks.spins(*stack) == spinning);
        stacks.of_stacks(&counts, row.ns)
    }

    /// Samples that lie on this part of the path, by stack.
    fn counts(&self, key: &RowKey, row: &Row, only_of: Option<OwnKey>) -> BTreeMap<u64, u64> {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for ((serial, within, stack), count) in &self.path.samples {
            let is_of_row = within.map(|within| (within.state, within.syscall)) == key.within;
            if is_of_row
                && (only_of.is_none() || only_of == within.map(|within| within.own))
                && row.threads.contains(serial)
            {
                *counts.entry(*stack).or_default() += count;
            }
        }
        counts
    }

    /// What short-lived processes did on the path, by the process that lives longer and started them, or started who did.
    fn short_lived(&self) -> Vec<PathShortLived> {
        let mut parents: BTreeMap<u32, (u64, NameId, BTreeSet<u32>)> = BTreeMap::new();
        for (part, sum) in &self.path.parts {
            let Some(spawner) = self.long_lived_spawner(part.serial) else { continue };
            let (ns, _, children) = parents.entry(spawner.tgid).or_insert((0, spawner.process, BTreeSet::new()));
            *ns += sum.ns;
            children.insert(part.serial);
        }
        let mut rows: Vec<_> = parents.into_iter().collect();
        rows.sort_by_key(|(tgid, (ns, ..))| (Reverse(*ns), *tgid));
        let row = |(tgid, (ns, process, children)): (u32, (u64, NameId, BTreeSet<u32>))| PathShortLived {
            of_pid: tgid,
            of_process: self.aggregate.names.text(process),
            threads: children.len() as u64,
            s: seconds(ns),
            share: self.share(ns),
        };
        rows.into_iter().take(MAX_SHORT_LIVED).map(row).collect()
    }

    /// Of a thread of a short-lived process the nearest ancestor that is not one itself.
    fn long_lived_spawner(&self, serial: u32) -> Option<Life> {
        let mut life = *self.reader.life(serial)?;
        let mut found = None;
        for _ in 0..MAX_GENERATIONS {
            let Some(creator) = self.reader.life(life.creator).copied() else { break };
            if creator.tgid != life.tgid {
                // Only of the leader is it known how long the process lived.
                let short = life.end_ns.saturating_sub(life.start_ns) <= SHORT_NS;
                if !short {
                    break;
                }
                found = Some(creator);
            }
            life = creator;
        }
        found
    }

    /// Waits of the path's own thread that others ended, with what explains each of them.
    fn own_waits(&self) -> Vec<OwnWait> {
        let mut waits: Vec<(&OwnKey, &Own)> = self.path.own.iter().collect();
        waits.sort_by_key(|(within, own)| (Reverse(own.ns), **within));
        waits.truncate(MAX_OWN_WAITS);
        let mut rows: BTreeMap<OwnKey, BTreeMap<RowKey, Row>> = BTreeMap::new();
        for (part, sum) in &self.path.parts {
            let of = part.within.map(|within| (within, within.own));
            let Some((_, of)) = of.filter(|(_, of)| waits.iter().any(|(key, _)| *key == of)) else { continue };
            let (key, tgid) = RowKey::of(part, self.reader);
            let row = rows.entry(of).or_default().entry(key).or_default();
            row.add(part.serial, part.object, (tgid, part.place), *sum);
        }
        for (of, rows) in &mut rows {
            let spun = self.spun(rows, Some(*of));
            rows.extend(spun);
        }
        waits
            .into_iter()
            .map(|(within, own)| self.own_wait(*within, own, rows.remove(within).unwrap_or_default()))
            .collect()
    }

    fn own_wait(&self, within: OwnKey, own: &Own, rows: BTreeMap<RowKey, Row>) -> OwnWait {
        let reason = Reason { state: within.state, detail: Detail::None, syscall: within.syscall };
        let tgid = self.reader.life(within.serial).map_or(self.tgid, |life| life.tgid);
        let told = self.aggregate.told(tgid, reason, within.object);
        let mut rows: Vec<(RowKey, Row)> = rows.into_iter().collect();
        rows.sort_by(|(left_key, left), (right_key, right)| {
            (Reverse(left.ns), left_key).cmp(&(Reverse(right.ns), right_key))
        });
        rows.truncate(MAX_OWN_DID);
        let places: Vec<(u32, u64)> = own.places.iter().map(|(place, ns)| (*place, *ns)).collect();
        OwnWait {
            of: self.of(within.serial),
            s: seconds(own.ns),
            share: self.share(own.ns),
            count: own.count,
            max_s: seconds(own.max_ns),
            by_end: within.by_end,
            state: within.state.id().to_owned(),
            detail: self.aggregate.wait_detail(reason),
            object: object(reason, within.object),
            path: told.path,
            ends: told.ends.or_else(|| self.link_by_enders(within, own)),
            places: self.stacks.map(|stacks| stacks.places(tgid, &places)).unwrap_or_default(),
            ended_in: self.stacks.map(|stacks| stacks.woken_in(tgid, &places)).unwrap_or_default(),
            ended_by: self.enders(own),
            did: rows.iter().map(|(key, row)| self.part(key, row, Some(within))).collect(),
        }
    }

    pub(super) fn of(&self, serial: u32) -> PathOf {
        let Some(life) = self.reader.life(serial) else { return PathOf::default() };
        let text = |name| self.aggregate.names.text(name);
        PathOf { pid: life.tgid, tid: life.tid, thread: text(life.name), process: text(life.process) }
    }

    /// A pipe of which no more is known than who ended the waits for it.
    fn link_by_enders(&self, within: OwnKey, own: &Own) -> Option<String> {
        let what = match within.state {
            State::Pipe => "pipe",
            State::SocketUnix => "unix socket",
            _ => return None,
        };
        let ender = self.enders(own).into_iter().next().filter(|_| own.enders.len() == 1)?;
        let name = ender.thread.unwrap_or_else(|| "thread".to_owned());
        Some(format!("{what} from {name} ({})", ender.tid))
    }

    fn enders(&self, own: &Own) -> Vec<Ender> {
        let mut enders: Vec<(u32, u64)> = own.enders.iter().map(|(serial, count)| (*serial, *count)).collect();
        enders.sort_by_key(|(serial, count)| (Reverse(*count), *serial));
        let row = |(serial, count): (u32, u64)| {
            let life = self.reader.life(serial)?;
            Some(Ender {
                pid: known(life.tgid),
                tid: life.tid,
                thread: self.aggregate.names.text(life.name),
                process: self.aggregate.names.text(life.process),
                count,
            })
        };
        enders.into_iter().filter_map(row).take(MAX_OWN_DID).collect()
    }

    fn waits(&self) -> Vec<PathWait> {
        let queued_ns = |key| self.path.queued_ns.get(key).copied().unwrap_or(0);
        let all = self.path.waits.iter().map(|(key, sum)| (*key, *sum, queued_ns(key)));
        let (mut waits, folders) = self.by_folder(all);
        waits.sort_by_key(|(key, sum, _)| (Reverse(sum.ns), *key));
        // Many small ones are as much as one large one.
        let mut others: BTreeMap<WaitKey, (Sum, u64)> = BTreeMap::new();
        for (key, sum, queued_ns) in waits.split_off(waits.len().min(MAX_WAITS)) {
            let (all, queued) = others.entry(WaitKey { object: 0, ..key }).or_default();
            all.absorb(sum);
            *queued = queued.saturating_add(queued_ns);
        }
        waits.extend(others.into_iter().map(|(key, (sum, queued_ns))| (key, sum, queued_ns)));
        waits.sort_by_key(|(key, sum, _)| (Reverse(sum.ns), *key));
        waits.truncate(2 * MAX_WAITS);
        let row = |(key, Sum { ns, count }, queued_ns): Waited| {
            let reason = Reason { state: key.state, detail: Detail::None, syscall: key.syscall };
            let told = self.aggregate.told(key.tgid, reason, key.object);
            PathWait {
                s: seconds(ns),
                queued_s: seconds(queued_ns),
                share: self.share(ns),
                count,
                pid: known(key.tgid),
                state: key.state.id().to_owned(),
                detail: self.aggregate.wait_detail(reason),
                object: object(reason, key.object),
                path: folders.get(&key).cloned().or(told.path),
                ends: told.ends,
            }
        };
        waits.into_iter().map(row).collect()
    }

    /// Waits in reading many files of a folder as one for that, and what its files are called.
    fn by_folder(&self, all: impl Iterator<Item = Waited>) -> (Vec<Waited>, BTreeMap<WaitKey, String>) {
        let mut waits: BTreeMap<WaitKey, (Sum, u64)> = BTreeMap::new();
        let mut paths = BTreeMap::new();
        for (mut key, sum, queued_ns) in all {
            let reads = key.state == State::File && self.aggregate.calls.reads(key.syscall);
            if let Some((directory, path)) = self.folders.of(key.object).filter(|_| reads) {
                key.object = directory;
                paths.entry(key).or_insert_with(|| path.to_owned());
            }
            let (all, queued) = waits.entry(key).or_default();
            all.absorb(sum);
            *queued = queued.saturating_add(queued_ns);
        }
        (waits.into_iter().map(|(key, (sum, queued_ns))| (key, sum, queued_ns)).collect(), paths)
    }
}

/// Waits for one thing: how long, and for how long threads then queued for a CPU.
type Waited = (WaitKey, Sum, u64);

fn cause(cause: Cause) -> Option<&'static str> {
    Some(match cause {
        Cause::None => return None,
        Cause::Open => "not-ended",
        Cause::Context(WakeContext::Timer) => "timer",
        Cause::Context(WakeContext::Device) => "device",
        Cause::Context(WakeContext::Interrupt) => "interrupt",
        Cause::Context(WakeContext::Task | WakeContext::Unknown) => "not-known",
        Cause::Stranger(_) => "process",
        Cause::Mutual => "mutual",
        Cause::Asleep => "asleep",
        Cause::NotKept => "not-kept",
    })
}
