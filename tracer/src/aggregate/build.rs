//! The aggregate's end: closes the window and writes the report's plain parts. Findings and the verdict are added by `diagnose`.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use tracer_common::sched::WakeContext;

use super::Aggregate;
use super::block::{report::syncs, saves::with_devices};
use super::build_cpu::nice;
use super::classify::{Detail, Reason, State};
use super::locks::{Lock, WaiterTally};
use super::names::NameId;
use super::paging::loads::loads;
use super::spinning;
use super::stacks::phases::Phases;
use super::stacks::report::{Measured, Named};
use super::table::{Finished, Rest};
use super::thread::{Blind, Origin, Party, Sums};
use super::waits::{OwnerTally, WaitStat, WakerTally};
use crate::model::locks::PYTHON_LOCK;
use crate::model::meta::{CostRecord, StartRecord};
use crate::model::profile::Profile;
use crate::model::report::{
    Context, Coverage, Cpu, FunctionTime, Futex, Generator, Host, Locks, Others, Overhead, Owner, Process,
    ProgramOverhead, Report, Row, SCHEMA, Target, Thread, Verdict, Wait, Waiter, Waker, Window, seconds,
};

const MAX_WAITS: usize = 8;
const MAX_WAIT_PARTIES: usize = 8;
const MAX_FUTEXES: usize = 64;
const MAX_FUTEX_PARTIES: usize = 16;
const MAX_PROCESSES: usize = 32;
/// Locks whose waits are explained, which costs a walk each.
const MAX_EXPLAINED: usize = 6;
/// Likewise futexes at which no owner was seen: locks whose memory does not tell one, and what is no lock.
const MAX_EXPLAINED_OTHERS: usize = 6;

/// A difference of clocks under this is the noise of reading them.
const SUSPEND_NOISE_NS: i64 = 1_000_000;

/// What the report's parts are written from, once every thread has ended.
pub(super) struct Writer<'a> {
    pub(super) aggregate: &'a Aggregate,
    /// Last name and process of each kept thread, by serial number.
    last_names: BTreeMap<u32, (NameId, NameId)>,
    /// Last priority of each kept thread, plus 1, by serial number.
    pub(super) priorities: BTreeMap<u32, u8>,
    /// The parent of each process that is kept, for those whose cgroup was not read.
    pub(super) parents: BTreeMap<u32, u32>,
    /// Functions of stacks; none without the family `cpu`.
    pub(super) stacks: Option<Named<'a>>,
    /// Time that threads spun, where that can be told.
    spinning_ns: Option<u64>,
}

impl Aggregate {
    /// Closes the window and writes the report, without findings and verdict.
    pub fn finish(mut self, generator: Generator, max_rows: usize) -> Report {
        let mut finished = self.close();
        self.processes.end_all();
        self.find_ends(&finished);
        let profile = self.stacks.is_active().then(|| self.profile_part());
        let stacks = profile.as_ref().map(|profile| {
            Named::new(&self.stacks, profile, Phases::of(&self.stacks.definitions, &self.pythons.collectors()))
        });
        for finished in &mut finished {
            spinning::split(&mut finished.thread, stacks.as_ref());
        }
        let spinning_ns = finished.iter().fold(0u64, |sum, f| sum.saturating_add(f.thread.sums.of(State::Spinning)));
        let spinning_ns = Some(spinning_ns).filter(|ns| *ns > 0 || stacks.is_some());
        let sched = self.ledger.coverage().iter().any(|row| row.family == "sched" && row.status != "unavailable");
        let (network, connections) = if sched { self.network_part(&finished) } else { Default::default() };
        self.history.join_connections(connections);
        let mut rest = self.threads.rest;
        for left_out in finished.drain(max_rows.min(finished.len())..) {
            rest.add(&left_out.thread.sums);
        }
        let last_names = finished.iter().map(|f| (f.thread.serial, (f.thread.name, f.process))).collect();
        let parents = self.processes.ranked().into_iter().map(|process| (process.tgid, process.parent)).collect();
        let priorities = finished.iter().map(|f| (f.thread.serial, f.thread.facts.priority_plus_1)).collect();
        let writer = Writer { aggregate: &self, last_names, priorities, parents, stacks, spinning_ns };
        let path = if sched { self.critical_path(writer.stacks.as_ref()) } else { None };
        let visits = path.as_ref().map(|(path, visits)| (&visits[..], path.total_s));
        let database = self.database_part(writer.stacks.as_ref(), visits);
        let opinions = if sched { self.opinions(writer.stacks.as_ref()) } else { Default::default() };
        let mut report = Report {
            schema: SCHEMA.to_owned(),
            generator,
            host: self.host_part(),
            target: self.target_part(),
            window: self.window_part(),
            verdict: Verdict::Inconclusive,
            verdict_reason: String::new(),
            findings: Vec::new(),
            observed: Vec::new(),
            rules: Vec::new(),
            threads: writer.rows(&finished, &rest),
            cpu: sched.then(|| writer.cpu(&finished)),
            locks: sched.then(|| writer.locks()),
            objects: if sched { self.objects_part() } else { None },
            critical_path: path.map(|(path, _)| path),
            criticality: opinions.0,
            knots: opinions.1,
            stacks: writer.stacks.as_ref().map(|stacks| stacks.section(&self.measured(sched))),
            python: self.pythons.section(),
            paging: self.paging_part(writer.stacks.as_ref()),
            network,
            database,
            mapping: self.mapping_part(writer.stacks.as_ref()),
            io: self.io_part(),
            memory: self.memory_part(),
            coverage: self.coverage_part(),
            overhead: self.cost.as_ref().map(|cost| overhead(cost, self.startup_cpu_s, self.window_ns())),
        };
        let saves = writer.stacks.as_ref().map(Named::saves).unwrap_or_default();
        let saves = with_devices(saves, &report);
        if let Some(io) = &mut report.io {
            io.saves = saves;
        }
        let loads = loads(&report);
        if let Some(paging) = &mut report.paging {
            paging.loads = loads;
        }
        report
    }

    /// Closes the window and gives the weighted stacks, for exports.
    pub fn into_profile(mut self) -> Profile {
        self.close();
        self.profile_part()
    }

    fn profile_part(&self) -> Profile {
        let start_unix_ns = self.start.as_ref().and_then(|start| unix_ns(self.span.start_ns, start));
        self.stacks.profile(&self.calls, &self.names, start_unix_ns, self.window_ns())
    }

    /// CPU times that samples are held against.
    fn measured(&self, sched: bool) -> Measured {
        let mut on_cpu_ns_of = BTreeMap::new();
        for process in self.processes.ranked().into_iter().filter(|_| sched) {
            let sum: &mut u64 = on_cpu_ns_of.entry(process.tgid).or_default();
            *sum = sum.saturating_add(process.sums.of(State::OnCpu));
        }
        Measured { on_cpu_ns: sched.then(|| self.processes.ended_sums.of(State::OnCpu)), on_cpu_ns_of }
    }

    /// What tells a wait further: its system call, or what stands for it.
    pub(super) fn wait_detail(&self, reason: Reason) -> Option<String> {
        let call = (reason.syscall >= 0).then(|| self.calls.name(reason.syscall));
        if let Detail::Stall(kind) = reason.detail {
            return Some(call.map_or_else(|| kind.id().to_owned(), |call| format!("{}, {call}", kind.id())));
        }
        if let Detail::Lock(kind) = reason.detail {
            return Some(call.map_or_else(|| kind.id().to_owned(), |call| format!("{}, {call}", kind.id())));
        }
        if call.is_some() { call } else { self.calls.detail_name(reason.detail, reason.syscall) }
    }

    /// The name of a process that is not traced, by one of its threads.
    pub(super) fn stranger(&self, tid: u32) -> Option<String> {
        let stranger = self.strangers.get(&tid)?;
        let leader = self.strangers.get(&stranger.tgid).and_then(|leader| self.names.text(leader.name));
        leader.or_else(|| self.names.text(stranger.name))
    }

    fn window_ns(&self) -> u64 {
        self.span.now_ns.saturating_sub(self.span.start_ns)
    }

    fn host_part(&self) -> Host {
        let Some(host) = &self.host else { return Host::default() };
        let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Host {
            kernel: text(&host.kernel),
            arch: text(&host.arch),
            cpus: Some(host.cpus).filter(|cpus| *cpus > 0),
            memory_bytes: Some(host.memory_bytes).filter(|bytes| *bytes > 0),
            cgroup_version: text(&host.cgroup_version),
            clock: text(&host.clock),
        }
    }

    fn target_part(&self) -> Target {
        let Some(target) = &self.target else { return Target::default() };
        let safe = |text: &String| crate::model::text::printable(text.as_bytes());
        Target {
            mode: Some(target.mode.clone()).filter(|mode| !mode.is_empty()),
            command: Some(target.command.iter().map(safe).collect()).filter(|list: &Vec<_>| !list.is_empty()),
            pids: Some(target.pids.clone()).filter(|pids| !pids.is_empty()),
            cgroup: target.cgroup.as_ref().map(safe),
            container: target.container.as_ref().map(safe),
            comm: target.comm.as_ref().map(safe),
            all: Some(target.all),
            user: target.user.as_ref().map(safe),
            step: target.step.as_ref().map(safe),
        }
    }

    fn window_part(&self) -> Window {
        let start = self.start.as_ref();
        let suspended_ns = match (start, &self.tick) {
            (Some(start), Some(tick)) => Some(tick.boot_offset_ns.saturating_sub(start.boot_offset_ns)),
            _ => None,
        };
        let clipped_reason = match (&self.end, start) {
            (_, None) => Some("the recording has no start: nothing could be placed in time".to_owned()),
            (None, _) => {
                Some("the recording stops without its end: the tracer was killed or the capture cut".to_owned())
            }
            (Some(end), _) if end.reason == "error" => Some("the tracer ended by an error".to_owned()),
            _ => None,
        };
        Window {
            start_unix_ns: start.and_then(|start| unix_ns(self.span.start_ns, start)),
            duration_s: seconds(self.window_ns()),
            complete: clipped_reason.is_none(),
            clipped_reason,
            suspended_s: suspended_ns.map(|ns| if ns < SUSPEND_NOISE_NS { 0.0 } else { seconds(ns.unsigned_abs()) }),
            ended_by: self.end.as_ref().map(|end| end.reason.clone()).filter(|reason| !reason.is_empty()),
            exit_code: self.end.as_ref().and_then(|end| end.exit_code),
            attach_s: start.map(|start| start.attach_s),
        }
    }

    fn coverage_part(&self) -> Coverage {
        Coverage {
            families: self.ledger.coverage(),
            undecoded_by_kind: self.ledger.undecoded_by_kind(),
            counters_age_s: match self.end {
                Some(_) => None,
                None => self.ledger.counted_ns().map(|ns| seconds(self.span.now_ns.saturating_sub(ns))),
            },
            threads_without_detail: self.threads.without_detail,
            threads_not_followed: self.threads.not_followed,
            capture_dropped_records: self.end.as_ref().map(|end| end.capture_dropped_records),
            capture_failed_writes: self.end.as_ref().map(|end| end.capture_failed_writes),
        }
    }
}

impl Writer<'_> {
    pub(super) fn name(&self, id: NameId) -> Option<String> {
        self.aggregate.names.text(id)
    }

    fn rows(&self, finished: &[Finished], rest: &Rest) -> Vec<Row> {
        let mut rows: Vec<Row> = finished.iter().map(|thread| Row::Thread(Box::new(self.thread(thread)))).collect();
        if rest.count > 0 {
            rows.push(Row::Others(Others {
                others: rest.count,
                wall_s: seconds(rest.sums.wall_ns()),
                states: self.states(&rest.sums),
                switches: rest.sums.switches,
                preemptions: rest.sums.preemptions,
            }));
        }
        rows
    }

    fn thread(&self, finished: &Finished) -> Thread {
        let thread = &finished.thread;
        let detailed = thread.detailed.as_deref();
        let start = self.aggregate.start.as_ref();
        let start_unix_ns = start.and_then(|start| match thread.origin {
            Origin::Created => unix_ns(thread.start_ns, start),
            // CLOCK_BOOTTIME is CLOCK_MONOTONIC plus time suspended.
            Origin::Seeded(boot_ns) if boot_ns > 0 => {
                boot_ns.checked_add_signed(start.unix_offset_ns.wrapping_sub(start.boot_offset_ns))
            }
            Origin::Seeded(_) | Origin::Mentioned => None,
        });
        let mut other_detail = BTreeMap::new();
        for (detail, syscall, ns) in detailed.into_iter().flat_map(|detailed| &detailed.other) {
            if let Some(name) = self.aggregate.calls.detail_name(*detail, *syscall) {
                *other_detail.entry(name).or_default() += seconds(*ns);
            }
        }
        Thread {
            pid: known(thread.tgid),
            tid: thread.tid,
            ns_pid: known(finished.ns_pid),
            ns_tid: known(thread.ns_tid),
            start_unix_ns,
            end_unix_ns: finished.end_ns.zip(start).and_then(|(end_ns, start)| unix_ns(end_ns, start)),
            name: self.name(thread.name),
            names_before: detailed
                .into_iter()
                .flat_map(|detailed| &detailed.names_before)
                .filter_map(|id| self.name(*id))
                .collect(),
            process: self.name(finished.process),
            cgroup: self.name(thread.cgroup),
            container: self.name(thread.container),
            parent_pid: known(finished.parent),
            wall_s: seconds(thread.sums.wall_ns()),
            states: self.states(&thread.sums),
            other_detail,
            unknown_detail: blind(thread.blind_ns),
            taken_s: thread.taken_ns.map(seconds),
            switches: thread.sums.switches,
            preemptions: thread.sums.preemptions,
            throttles: Some(thread.throttles.0).filter(|count| *count > 0),
            throttle_max_s: Some(thread.throttles.1).filter(|ns| *ns > 0).map(seconds),
            cpu_cgroup: self.cpu_cgroup(finished),
            nice: nice(thread.facts.priority_plus_1),
            cpus_allowed: known(u32::from(thread.facts.cpus_allowed)),
            queued: detailed.and_then(|detailed| self.queued(&detailed.queue, thread.facts.priority_plus_1)),
            spinning: spinning::section(thread, self.stacks.as_ref()),
            syncs: detailed.and_then(|detailed| syncs(&detailed.syncs)),
            waits: self
                .waits(thread.tgid, detailed.map(|detailed| detailed.waits.iter().collect()).unwrap_or_default()),
            functions: self.stacks.as_ref().map(|s| s.functions_of(thread.tgid, thread.tid)).unwrap_or_default(),
            phases: self.stacks.as_ref().map(|s| s.phases_of(thread.tgid, thread.tid)).unwrap_or_default(),
            io: self.aggregate.moved(thread),
        }
    }

    fn states(&self, sums: &Sums) -> BTreeMap<String, f64> {
        let told = |state: &State| match state {
            State::Spinning => self.spinning_ns.is_some(),
            State::Throttled => self.aggregate.tells_throttling || sums.of(*state) > 0,
            // Without the family that sees them they are part of others.
            State::KernelLock => self.aggregate.kernel_locks.is_active(),
            State::Memory => self.aggregate.paging.stalls.is_active() || sums.of(*state) > 0,
            _ => true,
        };
        State::ALL.into_iter().filter(told).map(|state| (state.id().to_owned(), seconds(sums.of(state)))).collect()
    }

    pub(super) fn places(&self, tgid: u32, places: &[(u32, u64)]) -> Vec<FunctionTime> {
        self.stacks.as_ref().map(|stacks| stacks.places(tgid, places)).unwrap_or_default()
    }

    fn waits(&self, tgid: u32, waits: Vec<&WaitStat>) -> Vec<Wait> {
        let mut waits = self.aggregate.pythons.merge_waits(tgid, waits);
        waits.sort_by_key(|wait| {
            (Reverse(wait.total_ns), wait.reason.state, wait.object, wait.reason.detail, wait.reason.syscall)
        });
        waits.truncate(MAX_WAITS);
        let row = |wait: &Cow<'_, WaitStat>| {
            let told = self.aggregate.told(tgid, wait.reason, wait.object);
            Wait {
                state: wait.reason.state.id().to_owned(),
                object: object(wait.reason, wait.object),
                path: told.path,
                ends: told.ends,
                detail: self.aggregate.wait_detail(wait.reason),
                count: wait.count,
                total_s: seconds(wait.total_ns),
                max_s: seconds(wait.max_ns),
                open: wait.open,
                owners: self.owners(&wait.owners, MAX_WAIT_PARTIES),
                owner_kind: wait.kind.map(|kind| kind.id().to_owned()),
                joins: Some(wait.joins).filter(|joins| *joins > 0),
                wakers: self.wakers(&wait.wakers, MAX_WAIT_PARTIES),
                places: self.places(tgid, &wait.places),
                woken_in: self.stacks.as_ref().map(|stacks| stacks.woken_in(tgid, &wait.places)).unwrap_or_default(),
            }
        };
        waits.iter().map(row).collect()
    }

    /// The last name that a thread met earlier had, or the one it had then, or what NAME records tell of strangers.
    pub(super) fn party_names(&self, party: Party) -> (Option<u32>, Option<String>, Option<String>) {
        let (name, process) = match self.last_names.get(&party.serial) {
            Some((name, process)) => (name.or(party.name), process.or(party.process)),
            None => (party.name, party.process),
        };
        if party.serial != 0 {
            return (known(party.tgid), self.name(name), self.name(process));
        }
        match self.aggregate.strangers.get(&party.tid) {
            Some(stranger) => {
                let leader = self.aggregate.strangers.get(&stranger.tgid).and_then(|leader| self.name(leader.name));
                (known(stranger.tgid), self.name(stranger.name), leader)
            }
            None => (None, None, None),
        }
    }

    fn owners(&self, owners: &[OwnerTally], room: usize) -> Vec<Owner> {
        let mut owners = owners.to_vec();
        owners.sort_by_key(|owner| (Reverse(owner.count), owner.party.tid, owner.party.serial));
        owners.truncate(room);
        let row = |owner: &OwnerTally| Owner {
            pid: owner.party.tgid,
            tid: owner.party.tid,
            ns_tid: owner.party.ns_tid,
            thread: self.party_names(owner.party).1,
            count: owner.count,
        };
        owners.iter().map(row).collect()
    }

    pub(super) fn wakers(&self, wakers: &[WakerTally], room: usize) -> Vec<Waker> {
        let mut wakers = wakers.to_vec();
        wakers.sort_by_key(|waker| {
            (Reverse(waker.count), waker.wake.context, waker.wake.by.map(|party| (party.tid, party.serial)))
        });
        wakers.truncate(room);
        let row = |waker: &WakerTally| {
            let (pid, thread, process) = waker.wake.by.map_or((None, None, None), |party| self.party_names(party));
            Waker {
                context: context(waker.wake.context),
                pid,
                tid: waker.wake.by.map(|party| party.tid),
                thread,
                process,
                count: waker.count,
            }
        };
        wakers.iter().map(row).collect()
    }

    fn cpu(&self, finished: &[Finished]) -> Cpu {
        let window_ns = self.aggregate.window_ns();
        let sums = &self.aggregate.processes.ended_sums;
        let cpus = self.aggregate.host.as_ref().map_or(0, |host| u64::from(host.cpus));
        let offered_ns = self.aggregate.window_ns().saturating_mul(cpus);
        let on_cpu_ns = sums.of(State::OnCpu);
        let row = |process: &super::processes::Process| Process {
            pid: process.tgid,
            process: self.name(process.name),
            parent_pid: known(process.parent),
            threads: process.threads,
            wall_s: seconds(process.sums.wall_ns()),
            on_cpu_s: seconds(process.sums.of(State::OnCpu)),
            runnable_s: seconds(process.sums.of(State::Runnable)),
            switches: process.sums.switches,
            spawned: process.spawned.as_ref().map(|spawned| self.spawned(process.tgid, spawned)),
        };
        let ranked = self.aggregate.processes.ranked();
        Cpu {
            on_cpu_s: seconds(on_cpu_ns),
            spinning_s: self.spinning_ns.map(seconds),
            runnable_s: seconds(sums.of(State::Runnable)),
            cpu_share: (offered_ns > 0).then(|| on_cpu_ns as f64 / offered_ns as f64),
            wanted_cpus: (window_ns > 0)
                .then(|| on_cpu_ns.saturating_add(sums.of(State::Runnable)) as f64 / window_ns as f64),
            throttled_s: self.aggregate.tells_throttling.then(|| seconds(sums.of(State::Throttled))),
            quotas: self.quotas(finished),
            host: self.host_cpu(),
            threads: self.aggregate.processes.threads,
            processes_seen: self.aggregate.processes.seen,
            processes: ranked.into_iter().filter(|p| p.threads > 0).take(MAX_PROCESSES).map(row).collect(),
        }
    }

    fn locks(&self) -> Locks {
        let waited = self.aggregate.locks.iter().filter(|lock| lock.waits > 0);
        let mut locks = self.aggregate.pythons.merge_locks(waited.collect());
        locks.sort_by_key(|lock| (Reverse(lock.total_ns), lock.tgid, lock.address, lock.space));
        locks.truncate(MAX_FUTEXES);
        let (open, open_not_listed) = self.open_waits();
        Locks {
            open,
            open_not_listed: Some(open_not_listed).filter(|count| *count > 0),
            seen: self.aggregate.locks.seen,
            waits_not_itemised: self.aggregate.locks.waits_not_itemised,
            futexes: self.futexes(&locks),
            kernel: self.kernel_locks(),
            kernel_not_itemised: Some(self.aggregate.kernel_locks.not_itemised).filter(|count| *count > 0),
        }
    }

    fn futexes(&self, locks: &[Cow<'_, Lock>]) -> Vec<Futex> {
        let (mut owned, mut others) = (MAX_EXPLAINED, MAX_EXPLAINED_OTHERS);
        let mut row = |lock: &Cow<'_, Lock>| {
            let mut futex = self.futex(lock);
            let is_lock = !futex.owners.is_empty() || futex.kind.as_deref() == Some(PYTHON_LOCK);
            let to_explain = if is_lock { &mut owned } else { &mut others };
            if *to_explain > 0 {
                *to_explain -= 1;
                let longest =
                    |waiter: &&WaiterTally| (waiter.total_ns, Reverse((waiter.party.tid, waiter.party.serial)));
                let waiter = lock.waiters.iter().max_by_key(longest);
                futex.explanation = waiter.and_then(|waiter| {
                    self.aggregate.explanation(waiter.party.serial, lock.address, self.stacks.as_ref())
                });
            }
            futex
        };
        locks.iter().map(&mut row).collect()
    }

    fn futex(&self, lock: &Lock) -> Futex {
        let gil = self.aggregate.pythons.gil(lock.tgid, lock.address);
        let mut waiters = lock.waiters.clone();
        waiters.retain(|waiter| waiter.count > 0);
        waiters.sort_by_key(|waiter| (Reverse(waiter.total_ns), waiter.party.tid, waiter.party.serial));
        let process = waiters.first().and_then(|waiter| self.party_names(waiter.party).2);
        waiters.truncate(MAX_FUTEX_PARTIES);
        // What the interpreter's own layout says comes before what its code looks like: its lock is made of condition variables.
        let (kind, kind_source) = match gil {
            Some((_, part)) => (Some(part.id().to_owned()), Some("memory")),
            None => self.lock_kind(lock).unzip(),
        };
        let row = |waiter: &WaiterTally| Waiter {
            tid: waiter.party.tid,
            ns_tid: known(waiter.party.ns_tid),
            thread: self.party_names(waiter.party).1,
            count: waiter.count,
            total_s: seconds(waiter.total_ns),
            open: waiter.open,
            places: self.places(lock.tgid, &waiter.places),
        };
        Futex {
            pid: lock.tgid,
            process,
            address: format!("{:#x}", lock.address),
            kind,
            kind_source: kind_source.map(str::to_owned),
            waits: lock.waits,
            completed: lock.completed,
            total_s: seconds(lock.total_ns),
            max_s: seconds(lock.max_ns),
            threads: lock.threads,
            waiters: waiters.iter().map(row).collect(),
            owners: self.owners(&lock.owners, MAX_FUTEX_PARTIES),
            waits_with_owner: lock.waits_with_owner,
            woken_by_owner: lock.woken_by_owner,
            wakers: self.wakers(&lock.wakers, MAX_FUTEX_PARTIES),
            explanation: None,
        }
    }
}

/// 0 stands for "not known" in ids.
pub(super) fn known(id: u32) -> Option<u32> {
    (id != 0).then_some(id)
}

fn unix_ns(monotonic_ns: u64, start: &StartRecord) -> Option<u64> {
    monotonic_ns.checked_add_signed(start.unix_offset_ns)
}

fn blind(ns: [u64; Blind::ALL.len()]) -> BTreeMap<String, f64> {
    let known = Blind::ALL.into_iter().filter(|why| ns[*why as usize] > 0);
    known.map(|why| (why.id().to_owned(), seconds(ns[why as usize]))).collect()
}

pub(super) fn object(reason: Reason, object: u64) -> Option<String> {
    if object == 0 {
        return None;
    }
    Some(match reason.state {
        State::Futex => format!("{object:#x}"),
        State::Pipe => format!("pipe:[{object}]"),
        State::SocketInet | State::SocketUnix => format!("socket:[{object}]"),
        State::Other if reason.detail == Detail::Socket => format!("socket:[{object}]"),
        _ => format!("inode:[{object}]"),
    })
}

fn context(context: WakeContext) -> Context {
    match context {
        WakeContext::Task => Context::Task,
        WakeContext::Timer => Context::Timer,
        WakeContext::Device => Context::Device,
        WakeContext::Interrupt => Context::Interrupt,
        WakeContext::Unknown => Context::Unknown,
    }
}

fn overhead(cost: &CostRecord, startup_cpu_s: Option<f64>, window_ns: u64) -> Overhead {
    let measured = |ns: u64| (cost.measured_s > 0.0).then(|| ns as f64 / 1e9 / cost.measured_s);
    let mut programs: Vec<ProgramOverhead> = cost
        .programs
        .iter()
        .map(|program| ProgramOverhead {
            name: program.name.clone(),
            runs: program.runs,
            ns_per_run: (program.runs > 0).then(|| program.ns as f64 / program.runs as f64),
            cpu_share: measured(program.ns),
        })
        .collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    let all_ns = cost.programs.iter().fold(0u64, |sum, program| sum.saturating_add(program.ns));
    let own_share = (window_ns > 0).then(|| cost.tracer_cpu_s / seconds(window_ns));
    Overhead {
        measured_s: cost.measured_s,
        programs,
        tracer_cpu_s: cost.tracer_cpu_s,
        startup_cpu_s,
        tracer_rss_bytes: cost.tracer_rss_bytes,
        ring_bytes: cost.ring_bytes,
        cpu_share: measured(all_ns).zip(own_share).map(|(programs, own)| programs + own),
    }
}
