//! From facts to findings and a verdict. Rules read the report's facts only, so each number that they cite stands in the report
//! and a reader can follow it; they read no clock, no file, no terminal, and cannot fail.

mod allocator_contention;
mod cache_eviction;
mod closing;
mod cpu_bound;
mod cpu_host;
mod cpu_quota;
mod database_latency;
mod deadlock;
mod dirty_throttling;
mod discards;
mod far_storage;
mod fork_copy_on_write;
mod fsync_stall;
mod functions;
mod gc_pauses;
mod gil_contention;
mod input_starvation;
mod ipc_wait;
mod kernel_lock_contention;
mod logging_convoy;
mod lost;
mod lost_claim;
mod memory_limits;
mod network_wait;
mod numa_remote;
mod oom_forecast;
mod oom_kill;
mod page_cache;
mod page_faults;
mod parties;
mod pinned_memory;
mod process_spawn_storm;
mod reclaim;
mod run_queue;
mod shm_exhaustion;
mod spin_wait;
mod storage;
mod straggler;
mod swap_in;
mod thresholds;
mod unknown_time;
mod user_lock_contention;
mod verdict;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_allocator;
#[cfg(test)]
mod tests_cpu;
#[cfg(test)]
mod tests_database;
#[cfg(test)]
mod tests_deadlock;
#[cfg(test)]
mod tests_folders;
#[cfg(test)]
mod tests_fsync;
#[cfg(test)]
mod tests_ipc;
#[cfg(test)]
mod tests_kernel_locks;
#[cfg(test)]
mod tests_memory;
#[cfg(test)]
mod tests_network;
#[cfg(test)]
mod tests_numa;
#[cfg(test)]
mod tests_python;
#[cfg(test)]
mod tests_shm;
#[cfg(test)]
mod tests_spin;
#[cfg(test)]
mod tests_starvation;
#[cfg(test)]
mod tests_storage;
#[cfg(test)]
mod tests_swap;

use std::cmp::Ordering;

use crate::model::report::{Comparison, Evidence, Finding, Report, Row, RuleOutcome, RuleStatus, Subject, Thread};
use crate::model::units::{count, grouped};

/// What a rule may look at.
pub struct Facts<'a> {
    /// The report, its findings and verdict still empty.
    pub report: &'a Report,
    /// What earlier rules of the table found to limit.
    pub earlier: &'a [Finding],
}

/// What a rule says.
pub enum Outcome {
    /// It made claims.
    Claims(Vec<Claim>),
    /// It looked and has nothing to say, because of this.
    Silent(String),
    /// It could not look, because of this.
    CouldNotRun(String),
}

/// A finding, and whether it passed the thresholds for reporting.
pub struct Claim {
    /// The finding; its rank is set later.
    pub finding: Finding,
    /// False: seen, not limiting.
    pub reported: bool,
}

/// One class of findings.
pub trait Rule: Sync {
    /// The class's id.
    fn class(&self) -> &'static str;
    /// Whether a real run ever produced what it looks for; else only constructed ones did.
    fn is_proven(&self) -> bool {
        true
    }
    /// Looks at the facts.
    fn check(&self, facts: &Facts<'_>) -> Outcome;
}

/// Every rule, in the order in which they look: a rule can see what earlier ones found. What never ends comes first, then what takes CPUs away from a whole cgroup
/// or host, since it makes everything else wait. What cannot say how much time it takes comes last and explains nothing away.
pub const RULES: &[&dyn Rule] = &[
    &deadlock::Deadlock,
    &oom_kill::OomKill,
    &shm_exhaustion::ShmExhaustion,
    &oom_forecast::OomForecast,
    &cpu_quota::CpuQuotaThrottling,
    &cpu_host::CpuSteal,
    &cpu_host::IrqLoad,
    &cache_eviction::CacheEviction,
    &page_cache::PageCacheThrash,
    &reclaim::MemoryLimit,
    &reclaim::DirectReclaim,
    &reclaim::CompactionStall,
    &swap_in::SwapIn,
    &page_cache::ColdFileMapping,
    &dirty_throttling::DirtyThrottling,
    &storage::SlowStorage,
    &storage::SmallRandomReads,
    &pinned_memory::PinnedMemory,
    &page_faults::AllocationChurn,
    &page_faults::PageFaultStorm,
    &fork_copy_on_write::ForkCopyOnWrite,
    &fsync_stall::FsyncStall,
    &logging_convoy::LoggingConvoy,
    &user_lock_contention::UserLockContention,
    &allocator_contention::AllocatorContention,
    &gil_contention::GilContention,
    &kernel_lock_contention::MmapLockContention,
    &kernel_lock_contention::KernelLockContention,
    &run_queue::LowPriority,
    &run_queue::CpuOversubscription,
    &spin_wait::SpinWait,
    &run_queue::RunQueueWait,
    &process_spawn_storm::ProcessSpawnStorm,
    &straggler::Straggler,
    &gc_pauses::GcPauses,
    &database_latency::DatabaseLatency,
    &network_wait::NetworkWait,
    &ipc_wait::IpcWait,
    &input_starvation::InputStarvation,
    &cpu_bound::CpuBound,
    &numa_remote::NumaRemote,
];

/// Adds findings, rules and verdict to a report that has all facts.
pub fn diagnose(report: &mut Report) {
    let mut findings: Vec<Finding> = Vec::new();
    let mut observed: Vec<Finding> = Vec::new();
    let mut rules = Vec::new();
    for rule in RULES {
        let outcome = rule.check(&Facts { report, earlier: &findings });
        let (status, reason) = match outcome {
            Outcome::Silent(reason) => (RuleStatus::Silent, reason),
            Outcome::CouldNotRun(reason) => (RuleStatus::CouldNotRun, reason),
            Outcome::Claims(claims) => {
                let reported = claims.iter().filter(|claim| claim.reported).count();
                let only_observed = claims.len() - reported;
                for claim in claims {
                    let list = if claim.reported { &mut findings } else { &mut observed };
                    list.push(claim.finding);
                }
                if reported > 0 {
                    (RuleStatus::Fired, fired(reported as u64, only_observed as u64))
                } else {
                    let seen = count(only_observed as u64, "case");
                    (RuleStatus::Silent, format!("{seen} seen, but under the thresholds for reporting"))
                }
            }
        };
        let (status, reason) = match status {
            RuleStatus::CouldNotRun => (status, reason),
            _ if rule.is_proven() => (status, reason),
            _ => (RuleStatus::Unproven, format!("{}: {reason}; no real run has shown this yet", status.id())),
        };
        rules.push(RuleOutcome { class: rule.class().to_owned(), status, reason });
    }
    rank(&mut findings);
    rank(&mut observed);
    report.findings = findings;
    report.observed = observed;
    report.rules = rules;
    (report.verdict, report.verdict_reason) = verdict::decide(report);
}

/// What a rule that fired has found, in words.
fn fired(reported: u64, observed: u64) -> String {
    let findings = count(reported, "finding");
    match observed {
        0 => findings,
        1 => format!("{findings}; 1 more case stays under the thresholds for reporting"),
        more => format!("{findings}; {} more cases stay under the thresholds for reporting", grouped(more)),
    }
}

/// Most severe first, then most time lost; ties stay in the order of the rules and of the facts.
fn rank(findings: &mut [Finding]) {
    let lost_s = |finding: &Finding| finding.lost_s.unwrap_or(0.0);
    findings.sort_by(|a, b| {
        let by_loss = lost_s(b).partial_cmp(&lost_s(a)).unwrap_or(Ordering::Equal);
        a.severity.cmp(&b.severity).then(by_loss)
    });
    for (position, finding) in findings.iter_mut().enumerate() {
        finding.rank = position as u32 + 1;
    }
}

/// What a family's events count for where nobody knows how many it missed.
const UNKNOWN_COVERAGE: f64 = 0.5;

/// A rule's own confidence, lowered by what the scheduling family missed. Where that is not known the claim counts as one that
/// rests on correlation only.
fn confidence(report: &Report, own: f64) -> f64 {
    let confidence = own * sched_share(report).unwrap_or(UNKNOWN_COVERAGE);
    (confidence * 1000.0).round() / 1000.0
}

/// The threads that have rows of their own, with their position.
fn threads(report: &Report) -> impl Iterator<Item = (usize, &Thread)> {
    report.threads.iter().enumerate().filter_map(|(index, row)| match row {
        Row::Thread(thread) => Some((index, &**thread)),
        Row::Others(_) => None,
    })
}

/// A thread's time in a state; 0 where the report does not tell it.
fn state_s(thread: &Thread, state: &str) -> f64 {
    thread.states.get(state).copied().unwrap_or(0.0)
}

/// A thread as victim or culprit.
fn subject(thread: &Thread) -> Subject {
    Subject {
        process: thread.process.clone(),
        pid: thread.pid,
        ns_pid: thread.ns_pid,
        thread: thread.name.clone(),
        tid: Some(thread.tid),
        ns_tid: thread.ns_tid,
        cgroup: thread.cgroup.clone(),
        container: thread.container.clone(),
        ..Subject::default()
    }
}

/// A thread by name and number.
fn named(thread: &Thread) -> String {
    parties::named("thread", thread.name.as_deref(), thread.tid)
}

/// A piece of evidence.
fn evidence(metric: &str, value: f64, unit: &str, source: String, compared_with: Option<(&str, f64)>) -> Evidence {
    Evidence {
        metric: metric.to_owned(),
        value,
        unit: unit.to_owned(),
        source,
        compared_with: compared_with.map(|(what, value)| Comparison { what: what.to_owned(), value }),
    }
}

/// The share of scheduling events that the report rests on.
fn sched_share(report: &Report) -> Option<f64> {
    family_share(report, "sched")
}

/// The share of a family's events that the report rests on.
fn family_share(report: &Report, name: &str) -> Option<f64> {
    report.coverage.families.iter().find(|family| family.family == name)?.share
}
