//! The report's parts about waiting for CPUs: queues, quotas, what the host's CPUs did. The other parts are in `build`.

use std::cmp::Reverse;

use super::build::{Writer, known};
use super::classify::State;
use super::limits::{Between, is_within};
use super::names::NameId;
use super::queue::{Behind, Queue};
use super::table::Finished;
use super::thread::Party;
use crate::model::meta::CpuTimes;
use crate::model::report::{CpuIdle, CpuQuota, HostCpu, Program, Queued, QueuedBehind, Spawned, Spawner, seconds};

const MAX_BEHIND_ROWS: usize = 8;
const MAX_SPAWNED_ROWS: usize = 8;
const MAX_QUOTAS: usize = 64;
const MAX_IDLE_ROWS: usize = 64;
/// So many generations up a thread's cgroup is looked for.
const MAX_ANCESTORS: usize = 16;

/// The kernel's priority of nice 0.
const NICE_0: i32 = 120;

/// The nice value of a priority as records carry it; none for realtime classes.
pub(super) fn nice(priority_plus_1: u8) -> Option<i32> {
    let priority = i32::from(priority_plus_1) - 1;
    (100..140).contains(&priority).then_some(priority - NICE_0)
}

impl Writer<'_> {
    /// For whom a thread waited while it was ready.
    pub(super) fn queued(&self, queue: &Queue, own_priority_plus_1: u8) -> Option<Queued> {
        if queue.waits == 0 {
            return None;
        }
        let better = |behind: &&Behind| {
            let other = self.priority_of(behind);
            other != 0 && own_priority_plus_1 != 0 && other < own_priority_plus_1
        };
        let mut behind = queue.behind.clone();
        behind.sort_by_key(|behind| (Reverse(behind.total_ns), behind.party.tid, behind.party.serial));
        let better_ns = behind.iter().filter(better).map(|behind| behind.total_ns).sum();
        behind.truncate(MAX_BEHIND_ROWS);
        let row = |behind: &Behind| {
            let (pid, thread, process) = self.party_names(behind.party);
            QueuedBehind {
                pid,
                tid: behind.party.tid,
                thread,
                process,
                nice: nice(self.priority_of(behind)),
                sibling: behind.sibling,
                total_s: seconds(behind.total_ns),
            }
        };
        Some(Queued {
            waits: queue.waits,
            passed_over: queue.passed_over,
            max_s: seconds(queue.max_ns),
            siblings_s: seconds(queue.siblings_ns),
            others_s: seconds(queue.others_ns),
            unnamed_s: seconds(queue.unnamed_ns),
            better_priority_s: seconds(better_ns),
            idle_s: seconds(queue.idle_ns),
            unknown_s: seconds(queue.unknown_ns),
            behind: behind.iter().map(row).collect(),
        })
    }

    /// The last known priority of a thread that had the CPU, plus 1; 0: not known.
    fn priority_of(&self, behind: &Behind) -> u8 {
        if behind.party.serial != 0 {
            return self.priorities.get(&behind.party.serial).copied().unwrap_or(0);
        }
        self.aggregate.strangers.get(&behind.party.tid).map_or(0, |stranger| stranger.priority_plus_1)
    }

    /// The path of a thread's cgroup, where a quota is somewhere on it: its own, its process's, or that of the nearest ancestor
    /// that is known, since a child starts in its parent's.
    pub(super) fn cpu_cgroup(&self, finished: &Finished) -> Option<String> {
        let limits = &self.aggregate.limits;
        let of = |tid: u32| limits.cgroup_of(tid).and_then(|id| self.name(id));
        let mut ancestor = known(finished.parent);
        let mut found = of(finished.thread.tid).or_else(|| of(finished.thread.tgid));
        for _ in 0..MAX_ANCESTORS {
            let (None, Some(pid)) = (&found, ancestor) else { break };
            found = of(pid);
            ancestor = self.parents.get(&pid).copied().and_then(known);
        }
        found
    }

    /// The cgroups with a quota, and what it did.
    pub(super) fn quotas(&self, finished: &[Finished]) -> Vec<CpuQuota> {
        let throttled: Vec<(String, u64)> = finished
            .iter()
            .filter(|finished| finished.thread.sums.of(State::Throttled) > 0)
            .filter_map(|finished| Some((self.cpu_cgroup(finished)?, finished.thread.sums.of(State::Throttled))))
            .collect();
        let mut quotas: Vec<CpuQuota> = self
            .aggregate
            .limits
            .cgroups()
            .iter()
            .filter(|cgroup| cgroup.last.period_ns > 0)
            .map(|Between { first, last }| {
                let below = throttled.iter().filter(|(path, _)| is_within(path, &last.path));
                CpuQuota {
                    cgroup: last.path.clone(),
                    cpus: last.quota_ns as f64 / last.period_ns as f64,
                    period_s: seconds(last.period_ns),
                    periods: last.periods.saturating_sub(first.periods),
                    throttled_periods: last.throttled_periods.saturating_sub(first.throttled_periods),
                    throttled_s: seconds(last.throttled_ns.saturating_sub(first.throttled_ns)),
                    threads_throttled_s: seconds(below.fold(0, |sum: u64, (_, ns)| sum.saturating_add(*ns))),
                }
            })
            .collect();
        quotas.sort_by(|a, b| b.throttled_s.total_cmp(&a.throttled_s).then_with(|| a.cgroup.cmp(&b.cgroup)));
        quotas.truncate(MAX_QUOTAS);
        quotas
    }

    /// What a process started.
    pub(super) fn spawned(&self, tgid: u32, spawned: &super::spawned::Spawned) -> Spawned {
        let mean = |(count, ns): (u64, u64)| ns.checked_div(count).map(seconds);
        let mut programs = spawned.programs.clone();
        programs.sort_by_key(|(path, count)| (Reverse(*count), *path));
        let mut threads = spawned.threads.clone();
        threads.sort_by_key(|(party, count)| (Reverse(*count), party.tid, party.serial));
        let program = |(path, count): &(NameId, u64)| Program { path: self.name(*path), count: *count };
        let spawner = |(party, count): &(Party, u64)| {
            let thread = self.party_names(*party).1;
            Spawner { tid: party.tid, thread, count: *count }
        };
        Spawned {
            started: spawned.started,
            ended: spawned.ended.0,
            mean_life_s: mean(spawned.ended),
            short_lived: spawned.short.0,
            short_mean_life_s: mean(spawned.short),
            fork_s: self.stacks.as_ref().map(|stacks| seconds(stacks.forking_ns(tgid))),
            executed: spawned.executed,
            programs: programs.iter().take(MAX_SPAWNED_ROWS).map(program).collect(),
            threads: threads.iter().take(MAX_SPAWNED_ROWS).map(spawner).collect(),
        }
    }

    /// What the host's CPUs did.
    pub(super) fn host_cpu(&self) -> Option<HostCpu> {
        let cpus = self.aggregate.limits.cpus();
        if cpus.iter().all(|cpu| cpu.first == cpu.last) {
            return None;
        }
        let grown = |of: fn(&CpuTimes) -> u64, cpu: &Between<CpuTimes>| of(&cpu.last).saturating_sub(of(&cpu.first));
        let sum = |of: fn(&CpuTimes) -> u64| cpus.iter().fold(0u64, |sum, cpu| sum.saturating_add(grown(of, cpu)));
        let (busy, irq, softirq, steal) =
            (sum(|cpu| cpu.busy_ns), sum(|cpu| cpu.irq_ns), sum(|cpu| cpu.softirq_ns), sum(|cpu| cpu.steal_ns));
        let wanted = busy.saturating_add(irq).saturating_add(softirq).saturating_add(steal);
        let share = |part: u64| if wanted == 0 { 0.0 } else { part as f64 / wanted as f64 };
        let mut idle: Vec<CpuIdle> = cpus
            .iter()
            .map(|cpu| CpuIdle { cpu: u32::from(cpu.last.cpu), idle_s: seconds(grown(|cpu| cpu.idle_ns, cpu)) })
            .collect();
        idle.sort_by(|a, b| b.idle_s.total_cmp(&a.idle_s).then(a.cpu.cmp(&b.cpu)));
        idle.truncate(MAX_IDLE_ROWS);
        Some(HostCpu {
            busy_s: seconds(busy),
            idle_s: seconds(sum(|cpu| cpu.idle_ns)),
            irq_s: seconds(irq),
            softirq_s: seconds(softirq),
            steal_s: seconds(steal),
            irq_share: share(irq.saturating_add(softirq)),
            steal_share: share(steal),
            idle,
        })
    }
}
