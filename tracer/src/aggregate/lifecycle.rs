//! Threads beginning, ending, and changing what they are: creation, fork, exec, exit, names, cgroups, and the threads that
//! existed before tracing began.

use tracer_common::futex::Observed;
use tracer_common::record::Header;
use tracer_common::sched::{CgroupMove, Exec, Exit, FdKind, Fork, NewTask, QueueFacts, Rename};
use tracer_common::state::Left;

use super::classify::{Call, Departure, Detail, Reason, State};
use super::names::NameId;
use super::thread::{Origin, Phase};
use super::{Aggregate, MAX_STRANGERS, Stranger};
use crate::model::container;
use crate::model::meta::{NameRecord, SeedRecord};

impl Aggregate {
    pub(super) fn new_task(&mut self, event: &NewTask) {
        let ts_ns = event.header.ts_ns;
        if event.tid == 0 || event.tgid == 0 {
            return;
        }
        if let Some(old) = self.threads.find(event.tid) {
            // The thread that had this id has ended unseen.
            self.lose(old, ts_ns);
        }
        let leads = event.tid == event.tgid;
        if leads {
            self.lose_process(event.tgid, ts_ns);
            self.memory.anew(event.tgid);
        }
        let Some(index) = self.threads.add(event.tid, ts_ns, Origin::Created, self.span.gaps.total_ns()) else {
            self.threads.not_followed += 1;
            return;
        };
        let creator_index = self.threads.find(event.creator_tid);
        let spawner = creator_index.and_then(|index| self.threads.party(index));
        let creator = creator_index.and_then(|index| self.threads.get(index));
        let (cgroup, container) = creator.map_or_else(Default::default, |thread| (thread.cgroup, thread.container));
        let facts = creator.map_or_else(Default::default, |thread| thread.facts);
        let creator = creator.map_or(0, |thread| thread.serial);
        let ns_tid = if event.ns_level == 0 { event.tid } else { event.ns_tid };
        let name = self.names.add_comm(&event.comm);
        self.enlist(index, event.tgid, ns_tid);
        if let Some(thread) = self.threads.get_mut(index) {
            thread.phase = Phase::Runnable;
            thread.rename(name);
            (thread.cgroup, thread.container, thread.creator) = (cgroup, container, creator);
            thread.facts = facts;
        }
        if let Some(process) = self.processes.get_mut(event.tgid)
            && leads
        {
            (process.name, process.parent, process.ns_pid) = (name, event.creator_tgid, ns_tid);
            process.start_ns = ts_ns;
        }
        if leads && let Some(spawned) = self.processes.spawned(event.creator_tgid) {
            spawned.start(spawner);
        }
    }

    /// Makes a thread one of its process.
    fn enlist(&mut self, index: u32, tgid: u32, ns_tid: u32) {
        self.threads.identify(index, tgid, ns_tid);
        if tgid == 0 {
            return;
        }
        self.processes.threads += 1;
        let process = self.processes.entry(tgid);
        process.live += 1;
        process.threads += 1;
        let space = process.space;
        if let Some(thread) = self.threads.get_mut(index) {
            thread.space = space;
        }
    }

    /// Ends a thread whose end was not seen.
    fn lose(&mut self, index: u32, ts_ns: u64) {
        if let Some(thread) = self.threads.get_mut(index) {
            thread.charge(State::Unknown, ts_ns, &self.span);
        }
        self.retire(index, Some(ts_ns));
    }

    /// Ends what is left of a process whose id another one has now.
    fn lose_process(&mut self, tgid: u32, ts_ns: u64) {
        if self.processes.get(tgid).is_some_and(|process| process.live > 0) {
            for index in self.threads.live() {
                if self.threads.get(index).is_some_and(|thread| thread.tgid == tgid) {
                    self.lose(index, ts_ns);
                }
            }
        }
        let locks = self.processes.end(tgid);
        self.locks.retire(&locks);
    }

    pub(super) fn fork(&mut self, event: &Fork) {
        if event.child_tid == event.child_tgid {
            self.pythons.fork(event.child_tgid, event.parent_tgid);
        }
        if event.child_tid == event.child_tgid
            && let Some(process) = self.processes.get_mut(event.child_tgid)
        {
            process.parent = event.parent_tgid;
        }
    }

    pub(super) fn exec(&mut self, event: &Exec) {
        let ts_ns = event.header.ts_ns;
        let name = self.names.add_comm(&event.comm);
        if event.old_tid != event.tgid && event.old_tid != 0 {
            self.take_over(event.tgid, event.old_tid, ts_ns);
        }
        if let Some(index) = self.meet(event.tgid, ts_ns, Phase::ReadyOrOnCpu) {
            self.learn_process(index, event.tgid);
        }
        self.let_go(event.tgid, ts_ns);
        self.pythons.exec(event.tgid);
        self.memory.anew(event.tgid);
        let old_locks = self.processes.renew_space(event.tgid);
        self.locks.retire(&old_locks);
        let Some(process) = self.processes.get_mut(event.tgid) else { return };
        process.name = name.or(process.name);
        let (space, parent, own) = (process.space, process.parent, process.start_ns > 0);
        if own && self.processes.get(parent).is_some() {
            let program = self.names.add(&event.path);
            if let Some(spawned) = self.processes.spawned(parent) {
                spawned.execute(program);
            }
        }
        if let Some(thread) = self.threads.find(event.tgid).and_then(|index| self.threads.get_mut(index)) {
            thread.rename(name);
            thread.space = space;
            if let Some(detailed) = &mut thread.detailed {
                detailed.waits.forget_locks();
            }
        }
    }

    /// What CMD's thread did while the tracer held it back is not CMD's: it counts from its first exec on. Where records were
    /// lost before, this exec may be a later one, and everything stays.
    fn let_go(&mut self, tgid: u32, ts_ns: u64) {
        if self.held == 0 || self.held != tgid {
            return;
        }
        self.held = 0;
        if self.span.gaps.total_ns() == 0
            && let Some(thread) = self.threads.find(tgid).and_then(|index| self.threads.get_mut(index))
        {
            thread.begin_anew(ts_ns, &self.span);
        }
    }

    /// A thread that is not the leader executed: it goes on under the leader's id, and the leader is gone.
    fn take_over(&mut self, tgid: u32, old_tid: u32, ts_ns: u64) {
        let Some(index) = self.threads.find(old_tid) else { return };
        let ns_pid = self.processes.get(tgid).map_or(0, |process| process.ns_pid);
        if let Some(leader) = self.threads.find(tgid) {
            self.lose(leader, ts_ns);
        }
        self.threads.rekey(index, tgid, ns_pid);
        for cpu in &mut self.cpus {
            if cpu.running == old_tid {
                cpu.running = tgid;
            }
        }
    }

    pub(super) fn exit(&mut self, event: &Exit) {
        if let Some(thread) = self.threads.find(event.tid).and_then(|index| self.threads.get_mut(index)) {
            thread.note_end(event.header.ts_ns, event.sum_exec_runtime_ns, &self.span);
        }
        let parent = self.processes.get(event.tgid).map_or(0, |process| process.parent);
        self.memory.exit(event, parent);
    }

    /// The thread, which counts from here on if nothing told of it before: what the event tells of made it a traced one.
    fn meet(&mut self, tid: u32, ts_ns: u64, phase: Phase) -> Option<u32> {
        let known = self.threads.find(tid);
        if known.is_some() {
            return known;
        }
        let added = self.threads.add(tid, ts_ns, Origin::Mentioned, self.span.gaps.total_ns());
        match added.and_then(|index| self.threads.get_mut(index)) {
            Some(thread) => thread.phase = phase,
            None => self.threads.not_followed += 1,
        }
        added
    }

    pub(super) fn rename(&mut self, event: &Rename) {
        let name = self.names.add_comm(&event.comm);
        // Renaming may have made it a traced one. Most threads rename themselves, then it is on a CPU.
        let Some(index) = self.meet(event.tid, event.header.ts_ns, Phase::ReadyOrOnCpu) else { return };
        self.learn_process(index, event.tgid);
        if let Some(thread) = self.threads.get_mut(index) {
            thread.rename(name);
        }
        if event.tid == event.tgid
            && let Some(process) = self.processes.get_mut(event.tgid)
        {
            process.name = name.or(process.name);
        }
    }

    /// A thread known by its switches only gets a process.
    fn learn_process(&mut self, index: u32, tgid: u32) {
        if self.threads.get(index).is_some_and(|thread| thread.tgid == 0) {
            self.enlist(index, tgid, 0);
        }
    }

    pub(super) fn cgroup_move(&mut self, event: &CgroupMove) {
        let phase = if event.moved_itself == 1 { Phase::ReadyOrOnCpu } else { Phase::Lost };
        if let Some(index) = self.meet(event.tid, event.header.ts_ns, phase) {
            self.learn_process(index, event.tgid);
        }
        // On hosts with several hierarchies the seeds name one path; a move in another one does not change it.
        let one_hierarchy = self.host.as_ref().is_none_or(|host| host.cgroup_version == "v2");
        if one_hierarchy && event.hierarchy != 0 {
            return;
        }
        let cgroup = self.names.add(&event.path);
        let path = self.names.text(cgroup).unwrap_or_default();
        let container = container::id_in(&path).map_or(NameId::NONE, |id| self.names.add(id.as_bytes()));
        if event.whole_process == 0 {
            if let Some(thread) = self.threads.find(event.tid).and_then(|index| self.threads.get_mut(index)) {
                (thread.cgroup, thread.container) = (cgroup, container);
            }
            return;
        }
        for index in self.threads.live() {
            if let Some(thread) = self.threads.get_mut(index)
                && thread.tgid == event.tgid
            {
                (thread.cgroup, thread.container) = (cgroup, container);
            }
        }
    }

    pub(super) fn name(&mut self, record: &NameRecord) {
        let name = self.names.add(record.comm.as_bytes());
        if let Some(thread) = self.threads.find(record.tid).and_then(|index| self.threads.get_mut(index)) {
            if thread.name == NameId::NONE {
                thread.rename(name);
            }
        } else if self.strangers.len() < MAX_STRANGERS {
            let priority_plus_1 = record.priority.map_or(0, |priority| priority.saturating_add(1));
            self.strangers.insert(record.tid, Stranger { tgid: record.tgid, name, priority_plus_1 });
        }
    }

    pub(super) fn seed(&mut self, header: Header, seed: &SeedRecord) {
        if seed.tid == 0 || seed.tgid == 0 {
            return;
        }
        // A later snapshot of the threads, which tells no state, says nothing of a held thread.
        if seed.state != "?"
            && self.target.as_ref().is_some_and(|t| t.mode == "run" && t.pids.first() == Some(&seed.tid))
        {
            self.held = seed.tid;
        }
        let name = self.names.add(seed.comm.as_bytes());
        let known = self.threads.find(seed.tid);
        let dead = matches!(seed.state.as_str(), "Z" | "X" | "x");
        let index = if known.is_none() && !dead { self.add_seeded(header, seed) } else { known };
        if let Some(index) = index {
            self.describe(index, seed, name);
        }
        let process = self.processes.entry(seed.tgid);
        if process.parent == 0 {
            process.parent = seed.ppid;
        }
        if process.ns_pid == 0 {
            process.ns_pid = seed.ns_tgid;
        }
        if seed.tid == seed.tgid {
            process.name = process.name.or(name);
        }
        if let (None, Some(index)) = (known, index) {
            self.settle(index, seed);
        }
    }

    /// A thread that no event has told of: it has been in its state since the window started.
    fn add_seeded(&mut self, header: Header, seed: &SeedRecord) -> Option<u32> {
        let start_ns = if self.span.is_open() {
            self.span.start_ns
        } else {
            // The window cannot start before it.
            self.span.now_ns = self.span.now_ns.max(header.ts_ns);
            header.ts_ns
        };
        let added = self.threads.add(seed.tid, start_ns, Origin::Seeded(seed.start_boot_ns), 0);
        if added.is_none() {
            self.threads.not_followed += 1;
        }
        added
    }

    /// Adds what /proc knows of a thread to what events have told.
    fn describe(&mut self, index: u32, seed: &SeedRecord, name: NameId) {
        self.learn_process(index, seed.tgid);
        self.threads.identify(index, seed.tgid, seed.ns_tid);
        let cgroup = seed.cgroup.as_ref().map_or(NameId::NONE, |path| self.names.add(path.as_bytes()));
        let container = seed.container.as_ref().map_or(NameId::NONE, |id| self.names.add(id.as_bytes()));
        let Some(thread) = self.threads.get_mut(index) else { return };
        thread.name = thread.name.or(name);
        thread.cgroup = thread.cgroup.or(cgroup);
        thread.container = thread.container.or(container);
        if thread.facts == QueueFacts::default() {
            thread.facts = QueueFacts {
                priority_plus_1: seed.priority.map_or(0, |priority| priority.saturating_add(1)),
                cpus_allowed: seed.cpus_allowed.unwrap_or(0),
            };
        }
        if thread.origin == Origin::Mentioned && seed.start_boot_ns != 0 {
            thread.origin = Origin::Seeded(seed.start_boot_ns);
        }
    }

    /// Puts a seeded thread into the state that /proc showed.
    fn settle(&mut self, index: u32, seed: &SeedRecord) {
        let left = match seed.state.as_str() {
            "R" => Left::Runnable,
            "S" => Left::Sleeping,
            "D" | "I" => Left::Uninterruptible,
            "T" | "t" => Left::Stopped,
            _ => Left::Unknown,
        };
        let call = match seed.syscall {
            None => Call::NotKnown,
            Some(number) if number < 0 => Call::None,
            Some(number) => i16::try_from(number).map_or(Call::NotKnown, Call::Number),
        };
        let idle_kernel = seed.kernel_thread || seed.state == "I";
        let closes = matches!(call, Call::Number(number) if self.calls.closes(number));
        let fd_kind = if closes { FdKind::Unknown } else { FdKind::from_number(seed.fd_kind) };
        let reason = match self.calls.classify(left, idle_kernel, call, fd_kind) {
            Departure::Runnable | Departure::Dead => {
                if let Some(thread) = self.threads.get_mut(index) {
                    thread.phase = Phase::ReadyOrOnCpu;
                }
                return;
            }
            Departure::Waits(reason) => reason,
            Departure::Resumes => Reason {
                state: State::Other,
                detail: Detail::Call,
                syscall: if let Call::Number(number) = call { number } else { -1 },
            },
        };
        let is_futex = reason.state == State::Futex && self.calls.name(reason.syscall) == "futex";
        let object = match is_futex {
            true => seed.args[0],
            false if closes => 0,
            false => seed.inode,
        };
        let seen = seed.futex_words.filter(|_| is_futex);
        let seen = seen.map(|words| Observed { op: seed.args[1] as u32, val: seed.args[2] as u32, words });
        self.begin_wait(index, reason, object, seen, true);
        if let Some(thread) = self.threads.get_mut(index) {
            thread.place = seed.place.unwrap_or(0);
            thread.backdate();
        }
    }
}
