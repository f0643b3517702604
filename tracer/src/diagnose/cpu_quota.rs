//! `cpu-quota-throttling`: a cgroup's CPU quota holds threads back. Their time is the state `throttled`, which the kernel tells apart
//! from waiting in a run queue; the cgroup is the one whose own counters rose most, of those on the thread's path.

use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, named, subject, threads};
use crate::model::report::{CpuQuota, Finding, Report, Subject, Thread};
use crate::model::units::{count, duration, percent};

/// See the file's head.
pub struct CpuQuotaThrottling;

/// The thread was seen to be held back, and the kernel names the cgroup.
const MEASURED: f64 = 0.95;
/// The cgroup's counters could not be read.
const CGROUP_UNKNOWN: f64 = 0.8;

const MAX_VICTIMS: usize = 8;

impl Rule for CpuQuotaThrottling {
    fn class(&self) -> &'static str {
        "cpu-quota-throttling"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(cpu) = &report.cpu else {
            return Outcome::CouldNotRun("the family sched did not run".to_owned());
        };
        let mut victims: Vec<(usize, &Thread)> =
            threads(report).filter(|(_, thread)| throttled_s(thread) > 0.0).collect();
        if victims.is_empty() {
            if cpu.throttled_s.is_none() && cpu.quotas.iter().any(|quota| quota.throttled_periods > 0) {
                return Outcome::CouldNotRun(
                    "a CPU quota was used up, but no record tells which threads it held back".to_owned(),
                );
            }
            return Outcome::Silent(match cpu.quotas.len() as u64 {
                0 => "no CPU quota held a thread back, and none was found".to_owned(),
                quotas => format!("{} found, which held no thread back", count(quotas, "CPU quota")),
            });
        }
        victims.sort_by(|a, b| throttled_s(b.1).total_cmp(&throttled_s(a.1)).then(a.0.cmp(&b.0)));
        // One claim per cgroup that throttles; each thread counts for one of them.
        let mut groups: Vec<Group<'_>> = Vec::new();
        for (index, thread) in victims {
            let quota = throttling_cgroup(&cpu.quotas, thread);
            match groups.iter_mut().find(|(known, _)| *known == quota) {
                Some((_, members)) => members.push((index, thread)),
                None => groups.push((quota, vec![(index, thread)])),
            }
        }
        Outcome::Claims(groups.iter().filter_map(|(quota, members)| claim(report, *quota, members)).collect())
    }
}

/// The cgroup that throttles, by its position in the report, and the threads that it throttles with theirs.
type Group<'a> = (Option<usize>, Vec<(usize, &'a Thread)>);

fn throttled_s(thread: &Thread) -> f64 {
    thread.states.get("throttled").copied().unwrap_or(0.0)
}

/// Of the cgroups with a quota on the thread's path the one that was held back longest: quotas come in that order.
fn throttling_cgroup(quotas: &[CpuQuota], thread: &Thread) -> Option<usize> {
    let path = thread.cpu_cgroup.as_ref()?;
    let on_path = |quota: &CpuQuota| {
        let cgroup = quota.cgroup.trim_end_matches('/');
        path.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    quotas.iter().position(|quota| quota.throttled_periods > 0 && on_path(quota))
}

fn claim(report: &Report, quota: Option<usize>, members: &[(usize, &Thread)]) -> Option<Claim> {
    let (index, victim) = *members.first()?;
    let wall_s = report.window.duration_s;
    let lost_s = throttled_s(victim);
    let cgroup = quota.and_then(|at| Some((at, report.cpu.as_ref()?.quotas.get(at)?)));
    let limit = match cgroup {
        Some((_, quota)) => format!("the quota of cgroup {} ({} CPUs)", quota.cgroup, cpus(quota.cpus)),
        None => "a CPU quota".to_owned(),
    };
    let ancestor = match (cgroup, &victim.cpu_cgroup) {
        (Some((_, quota)), Some(path)) if *path != quota.cgroup => format!(", an ancestor of its own ({path})"),
        _ => String::new(),
    };
    let others = match members.len() as u64 {
        0 | 1 => String::new(),
        all => format!(", the longest of {}", count(all, "thread")),
    };
    let periods = cgroup
        .map(|(_, quota)| format!("; it was used up in {} of {} periods", quota.throttled_periods, quota.periods));
    let events = victim.throttles.unwrap_or(0);
    let mut facts = vec![evidence(
        "longest time that one thread was held back (upper bound of the loss)",
        lost_s,
        "s",
        format!("/threads/{index}/states/throttled"),
        Some(("reporting threshold", REPORTED_SHARE * wall_s)),
    )];
    facts.push(evidence("times that it was", events as f64, "1", format!("/threads/{index}/throttles"), None));
    if let Some((at, quota)) = cgroup {
        let of = |field: &str| format!("/cpu/quotas/{at}/{field}");
        facts.push(evidence(
            "time for which the cgroup's queues were held back, by its own counter",
            quota.throttled_s,
            "s",
            of("throttled_s"),
            Some(("its traced threads", quota.threads_throttled_s)),
        ));
        let (used_up, all) = (quota.throttled_periods as f64, quota.periods as f64);
        facts.push(evidence(
            "periods in which its quota was used up",
            used_up,
            "1",
            of("throttled_periods"),
            Some(("periods", all)),
        ));
        facts.push(evidence("CPUs that it may use", quota.cpus, "CPUs", of("cpus"), None));
    }
    let fits = cgroup.map_or(1.0, |(_, quota)| quota.cpus.floor().max(1.0));
    let finding = Finding {
        class: CpuQuotaThrottling.class().to_owned(),
        rank: 0,
        severity: severity(lost_s, wall_s),
        confidence: confidence(report, if cgroup.is_some() { MEASURED } else { CGROUP_UNKNOWN }),
        summary: format!(
            "{} was held back by {limit}{ancestor} for {} ({} of {}){others}{}",
            named(victim),
            duration(lost_s),
            percent(lost_s / wall_s),
            duration(wall_s),
            periods.unwrap_or_default(),
        ),
        lost_s: Some(lost_s),
        share_of_wall: None,
        speedup_bound: speedup_bound(lost_s, wall_s),
        culprit: Some(Subject { cgroup: cgroup.map(|(_, quota)| quota.cgroup.clone()), ..Subject::default() }),
        victims: members.iter().take(MAX_VICTIMS).map(|(_, thread)| subject(thread)).collect(),
        evidence: facts,
        hypothesis:
            "When the cgroup has used up its quota, all its threads stand still until the next period, whatever they \
                     hold and whoever waits for them. That is no contention for CPUs: they may be idle meanwhile."
                .to_owned(),
        fix: format!(
            "Raise or remove the limit (cpu.max, cpu.cfs_quota_us, a container's CPU limit), or run no more than {fits} busy \
             {} (OMP_NUM_THREADS, number of workers): libraries count the host's CPUs and do not see the quota.",
            if fits > 1.0 { "threads" } else { "thread" }
        ),
        experiment: format!(
            "Run it without the limit, or with twice of it: the time in the state `throttled` must fall, and the wall time by \
             at most {}.",
            duration(lost_s)
        ),
        consequences: Vec::new(),
    };
    let longest_s = victim.throttle_max_s.unwrap_or(0.0);
    Some(Claim { finding, reported: is_reported(lost_s, wall_s, events, longest_s) })
}

/// A number of CPUs, without zeros that say nothing.
fn cpus(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
