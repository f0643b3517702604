//! Which CPU quotas hold for the traced threads, and what the kernel counts of them and of the host's CPUs: asked for now and
//! then, written into the stream as records. Bounded: so many cgroups, so many threads, so many look-ups for a batch.

use std::collections::{BTreeMap, VecDeque};

use tracer_common::record::meta;

use crate::{
    kernel::{
        clock,
        cpu_limits::{self, Controller},
        live::push_meta,
    },
    model::meta::{CgroupCpu, CgroupMember, CpuLimitsRecord, CpuTimes},
    pipeline::{
        batch::{Batch, header},
        decode,
    },
};

/// Cgroups with a quota are read this often.
const QUOTA_PERIOD_NS: u64 = 250_000_000;
/// The host's CPUs, and cgroups that have no quota yet, this often.
const HOST_PERIOD_NS: u64 = 1_000_000_000;
/// Look-ups of threads per batch, and threads that wait for one.
const MOST_LOOKUPS: usize = 64;
const MOST_PENDING: usize = 4096;
/// Cgroups watched, and threads in those with a quota.
const MOST_CGROUPS: usize = 256;
const MOST_MEMBERS: usize = 256;

/// See the file's head.
pub struct Limits {
    controller: Option<Controller>,
    /// Threads and processes whose cgroup is to be looked up.
    pending: VecDeque<u32>,
    /// Each cgroup met or above one, and its quota if it has one.
    cgroups: BTreeMap<String, Option<CgroupCpu>>,
    /// Cgroup of each thread that was looked up, where a quota is on its path.
    members: BTreeMap<u32, String>,
    /// Something is not written yet.
    changed: bool,
    started: bool,
    next_quota_ns: u64,
    next_host_ns: u64,
}

impl Limits {
    /// Nothing known yet.
    pub fn new() -> Self {
        Limits {
            controller: Controller::find(),
            pending: VecDeque::new(),
            cgroups: BTreeMap::new(),
            members: BTreeMap::new(),
            changed: false,
            started: false,
            next_quota_ns: 0,
            next_host_ns: 0,
        }
    }

    /// Looks for threads in a batch whose cgroup is not known, and at counters if it is time for that. The record, if there is one
    /// to be written, goes into `records`. True: it belongs before the batch, which is the last one.
    pub fn look(&mut self, batch: &Batch, records: &mut Batch) -> bool {
        let mut last = false;
        for record in batch.iter() {
            match header(record).map(|header| header.kind) {
                Some(meta::START) => self.started = true,
                Some(meta::END) => last = true,
                _ => {}
            }
            if self.controller.is_some()
                && let Some(tid) = decode::newcomer(record)
                && self.pending.len() < MOST_PENDING
            {
                self.pending.push_back(tid);
            }
        }
        if !self.started {
            return last;
        }
        // The time of what is there already, so that it is not held back behind later records.
        let ts_ns = batch.iter().next().and_then(header).map_or(0, |header| header.ts_ns);
        let now_ns = clock::monotonic_ns();
        self.look_up();
        let mut host = Vec::new();
        if now_ns >= self.next_host_ns || last {
            self.next_host_ns = now_ns + HOST_PERIOD_NS;
            self.next_quota_ns = now_ns + QUOTA_PERIOD_NS;
            host = cpu_limits::host_cpus();
            self.read(|_| true);
        } else if now_ns >= self.next_quota_ns {
            self.next_quota_ns = now_ns + QUOTA_PERIOD_NS;
            self.read(Option::is_some);
        }
        self.write(host, ts_ns, records);
        last
    }

    /// Finds the cgroups of threads that were met. Their counters are read at once: from here on they count.
    fn look_up(&mut self) {
        let Some(controller) = &self.controller else { return };
        for _ in 0..MOST_LOOKUPS {
            let Some(tid) = self.pending.pop_front() else { break };
            // One that is gone was nowhere for long.
            let Some(path) = controller.path_of(tid) else { continue };
            let mut limited = false;
            for cgroup in cpu_limits::with_ancestors(&path) {
                if !self.cgroups.contains_key(&cgroup) {
                    if self.cgroups.len() >= MOST_CGROUPS {
                        continue;
                    }
                    let quota = controller.quota(&cgroup);
                    self.changed |= quota.is_some();
                    self.cgroups.insert(cgroup.clone(), quota);
                }
                limited |= self.cgroups.get(&cgroup).is_some_and(Option::is_some);
            }
            let known = self.members.contains_key(&tid);
            if known || (limited && self.members.len() < MOST_MEMBERS) {
                self.members.insert(tid, path);
                self.changed = true;
            }
        }
    }

    /// Reads the counters of those cgroups again that `wanted` picks. One that is gone keeps its last ones.
    fn read(&mut self, wanted: impl Fn(&Option<CgroupCpu>) -> bool) {
        let Some(controller) = &self.controller else { return };
        for (path, quota) in self.cgroups.iter_mut().filter(|(_, quota)| wanted(quota)) {
            let now = controller.quota(path);
            if now.is_some() && now != *quota {
                *quota = now;
                self.changed = true;
            }
        }
    }

    fn write(&mut self, cpus: Vec<CpuTimes>, ts_ns: u64, records: &mut Batch) {
        if cpus.is_empty() && !std::mem::take(&mut self.changed) {
            return;
        }
        self.changed = false;
        let member = |(tid, path): (&u32, &String)| CgroupMember { tid: *tid, path: path.clone() };
        let record = CpuLimitsRecord {
            cpus,
            cgroups: self.cgroups.values().flatten().cloned().collect(),
            members: self.members.iter().map(member).collect(),
        };
        push_meta(records, ts_ns, meta::CPU_LIMITS, &record);
    }
}
