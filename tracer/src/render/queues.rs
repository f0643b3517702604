//! Why ready threads had no CPU: whom the workload's threads waited for, which quotas there are, what the host's CPUs did. Lines
//! below the table of threads; none where there is nothing to say.

use super::layout::Page;
use crate::model::report::{Cpu, Queued, QueuedBehind, Report, Row, Thread};
use crate::model::units::{duration, percent};

const MAX_THREADS: usize = 3;
const MAX_NAMED: usize = 3;
const MAX_QUOTAS: usize = 3;
/// A thread is named from this share of its time in queues on, or this share of the host's time in something.
const LEAST_SHARE: f64 = 0.05;

/// See the file's head.
pub(super) fn lines(page: &mut Page, report: &Report) {
    let mut queued: Vec<(&Thread, &Queued)> = report
        .threads
        .iter()
        .filter_map(|row| match row {
            Row::Thread(thread) => Some((&**thread, thread.queued.as_ref()?)),
            Row::Others(_) => None,
        })
        .filter(|(thread, queued)| total_s(queued) >= LEAST_SHARE * thread.wall_s)
        .collect();
    queued.sort_by(|a, b| total_s(b.1).total_cmp(&total_s(a.1)));
    for (thread, queued) in queued.iter().take(MAX_THREADS) {
        let name = thread.name.as_deref().unwrap_or("?");
        page.paragraph("  ready:  ", &format!("{name} ({}) {}", thread.tid, behind(thread, queued)));
    }
    if let Some(cpu) = &report.cpu {
        quotas(page, cpu);
        host(page, cpu);
    }
}

fn total_s(queued: &Queued) -> f64 {
    queued.siblings_s + queued.others_s + queued.idle_s + queued.unknown_s
}

/// How long a thread waited for a CPU, and for whom.
fn behind(thread: &Thread, queued: &Queued) -> String {
    let parts = [
        (queued.siblings_s, "behind its own workload"),
        (queued.others_s, "behind others"),
        (queued.idle_s, "while its CPU was idle"),
        (queued.unknown_s, "behind nobody knows whom"),
    ];
    let whole_s = total_s(queued);
    let parts: Vec<String> = parts
        .iter()
        .filter(|(seconds, _)| *seconds >= LEAST_SHARE * whole_s)
        .map(|(seconds, what)| format!("{} {what}", duration(*seconds)))
        .collect();
    let named: Vec<String> = queued
        .behind
        .iter()
        .filter(|row| row.total_s >= LEAST_SHARE * whole_s)
        .take(MAX_NAMED)
        .map(|row| format!("{} {}", name(row), duration(row.total_s)))
        .collect();
    let most = if named.is_empty() { String::new() } else { format!("; most behind {}", named.join(", ")) };
    let nice = thread.nice.filter(|nice| *nice != 0).map(|nice| format!("; nice {nice}")).unwrap_or_default();
    format!("waited {} for a CPU: {}{most}{nice}", duration(whole_s), parts.join(", "))
}

fn name(row: &QueuedBehind) -> String {
    match &row.thread {
        Some(name) => format!("{name} ({})", row.tid),
        None => row.tid.to_string(),
    }
}

fn quotas(page: &mut Page, cpu: &Cpu) {
    for quota in cpu.quotas.iter().take(MAX_QUOTAS) {
        let used_up = match quota.throttled_periods {
            0 => "never used up".to_owned(),
            periods => format!(
                "used up in {periods} of {} periods, held back for {}",
                quota.periods,
                duration(quota.throttled_s)
            ),
        };
        page.paragraph("  quota:  ", &format!("{:.2} CPUs for cgroup {}, {used_up}", quota.cpus, quota.cgroup));
    }
}

fn host(page: &mut Page, cpu: &Cpu) {
    let Some(host) = &cpu.host else { return };
    let mut parts = Vec::new();
    if host.steal_share >= LEAST_SHARE {
        parts.push(format!("the hypervisor gave {} of their time to others", percent(host.steal_share)));
    }
    if host.irq_share >= LEAST_SHARE {
        parts.push(format!("{} of their time went into interrupts", percent(host.irq_share)));
    }
    if !parts.is_empty() {
        page.paragraph("  CPUs:   ", &parts.join("; "));
    }
}
