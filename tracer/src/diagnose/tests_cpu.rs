//! Rules about CPUs, quotas and run queues on constructed runs.

use tracer_common::sched::{QueueFacts, Switch, switch_flags};

use super::tests::{assert_evidence_resolves, run, status};
use crate::model::event::{Event, Meta};
use crate::model::meta::{CpuLimitsRecord, NameRecord};
use crate::model::report::{Finding, Report, Row, RuleStatus, Thread, Verdict};
use crate::testing::{Leave, cpu_limits, meta_event, new_task, switch};

const START: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

fn at(ms: u64) -> u64 {
    START + ms * MS
}

fn thread(report: &Report, tid: u32) -> &Thread {
    let found = report.threads.iter().find_map(|row| match row {
        Row::Thread(thread) if thread.tid == tid => Some(thread),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("thread {tid} is in {:?}", report.threads))
}

fn finding<'a>(report: &'a Report, class: &str) -> &'a Finding {
    report
        .findings
        .iter()
        .find(|finding| finding.class == class)
        .unwrap_or_else(|| panic!("{class}: {:?}", report.rules))
}

/// A thread leaves its CPU ready to run, at this nice value.
fn ready(mut switch: Switch, nice: i32, throttled: bool) -> Switch {
    switch.flags |= switch_flags::QUEUE_FACTS | if throttled { switch_flags::THROTTLED } else { 0 };
    switch.object = QueueFacts::pack(120 + nice, 1);
    switch
}

/// The same switch between threads of which these are not traced.
fn untraced(mut switch: Switch, tids: &[u32]) -> Switch {
    if tids.contains(&switch.prev_tid) {
        switch.flags &= !switch_flags::PREV_TRACKED;
    }
    if tids.contains(&switch.next_tid) {
        switch.flags &= !switch_flags::NEXT_TRACKED;
    }
    switch
}

/// The same switch, with the kernel's word that a quota held back the next thread for so long.
fn held(mut switch: Switch, ns: u32) -> Switch {
    switch.flags |= switch_flags::THROTTLE_MEASURED;
    switch.wake_delta_ns = ns;
    switch
}

fn limits(ms: u64, record: CpuLimitsRecord) -> Event {
    meta_event(at(ms), Meta::CpuLimits(record))
}

/// Thread 10 runs 50 ms of each 100 ms, then its quota is used up; of the 50 ms after that it waits 2 ms for the CPU.
fn throttled_run(measured: bool) -> Report {
    let mut events = vec![limits(0, cpu_limits(0)), Event::NewTask(new_task(START, 10, 10, 1, "limited"))];
    for round in 0..40 {
        let begin = switch(at(round * 100), 0, 0, 10, Leave::Preempted);
        events.push(Event::Switch(if measured && round > 0 { held(begin, 48 * MS as u32) } else { begin }));
        events.push(Event::Switch(ready(switch(at(round * 100 + 50), 0, 10, 0, Leave::Preempted), 0, true)));
    }
    events.push(limits(3999, cpu_limits(4000)));
    run(events, 4000)
}

#[test]
fn a_quota_is_blamed_with_the_ancestor_that_has_it_and_no_queue_is() {
    let report = throttled_run(false);
    assert_evidence_resolves(&report);
    let limited = thread(&report, 10);
    assert!((limited.states["throttled"] - 2.0).abs() < 0.001, "{:?}", limited.states);
    assert_eq!((limited.throttles, limited.cpu_cgroup.as_deref()), (Some(40), Some("/limited/job")));
    assert_eq!(report.verdict, Verdict::Bottleneck, "{}", report.verdict_reason);
    let finding = finding(&report, "cpu-quota-throttling");
    let culprit = finding.culprit.as_ref().and_then(|culprit| culprit.cgroup.as_deref());
    assert_eq!(culprit, Some("/limited"), "the ancestor: {}", finding.summary);
    for part in ["held back", "/limited (0.5 CPUs)", "an ancestor of its own (/limited/job)", "40 of 40 periods"] {
        assert!(finding.summary.contains(part), "{part}: {}", finding.summary);
    }
    assert_eq!(finding.victims[0].tid, Some(10));
    for class in ["cpu-oversubscription", "run-queue-wait", "low-priority", "cpu-bound"] {
        assert_eq!(status(&report, class), RuleStatus::Silent, "{class}");
    }
    let quota = &report.cpu.as_ref().expect("sched ran").quotas[0];
    assert!((quota.threads_throttled_s - quota.throttled_s).abs() < 0.001, "{quota:?}");
}

#[test]
fn what_the_kernel_measured_of_a_quota_is_no_wait_for_the_cpu() {
    let report = throttled_run(true);
    let limited = thread(&report, 10);
    // 39 rounds end with a switch that says 48 ms, the last one with the window.
    assert!((limited.states["throttled"] - (39.0 * 0.048 + 0.05)).abs() < 0.001, "{:?}", limited.states);
    assert!((limited.states["runnable"] - 39.0 * 0.002).abs() < 0.001, "{:?}", limited.states);
}

#[test]
fn a_quota_that_is_never_reached_is_silent() {
    let mut unused = cpu_limits(4000);
    (unused.cgroups[0].throttled_periods, unused.cgroups[0].throttled_ns) = (0, 0);
    let mut first = unused.clone();
    first.cgroups[0].periods = 0;
    let events = vec![
        limits(0, first),
        Event::NewTask(new_task(START, 10, 10, 1, "t")),
        Event::Switch(switch(at(0), 0, 0, 10, Leave::Preempted)),
        limits(3999, unused),
    ];
    let report = run(events, 4000);
    assert_eq!(status(&report, "cpu-quota-throttling"), RuleStatus::Silent, "{:?}", report.rules);
    assert_eq!(report.verdict, Verdict::CpuBound);
}

/// Threads 10 and 11 share CPU 0 in turns of 10 ms, with these nice values; whether 11 is traced.
fn shared_cpu(nices: [i32; 2], traced: bool) -> Report {
    let mut events = vec![Event::NewTask(new_task(START, 10, 10, 1, "ours"))];
    if traced {
        events.push(Event::NewTask(new_task(START, 11, 10, 10, "sibling")));
    } else {
        let priority = u8::try_from(120 + nices[1]).ok();
        let other = NameRecord { tid: 11, tgid: 11, comm: "other".to_owned(), priority };
        events.push(meta_event(START, Meta::Name(other)));
    }
    let strangers: &[u32] = if traced { &[] } else { &[11] };
    for round in 0..200 {
        let (prev, next) = if round % 2 == 0 { (11, 10) } else { (10, 11) };
        let nice = if prev == 10 { nices[0] } else { nices[1] };
        let event = ready(switch(at(round * 10), 0, prev, next, Leave::Preempted), nice, false);
        events.push(Event::Switch(untraced(event, strangers)));
    }
    run(events, 2000)
}

#[test]
fn threads_of_one_workload_that_share_a_cpu_are_too_many() {
    let report = shared_cpu([0, 0], true);
    assert_evidence_resolves(&report);
    let finding = finding(&report, "cpu-oversubscription");
    assert!(finding.summary.contains("2 of them wanted a CPU, on 1 CPU; most often ours (10)"), "{}", finding.summary);
    assert!(finding.lost_s.is_some_and(|lost_s| (lost_s - 1.0).abs() < 0.02), "{finding:?}");
    assert_eq!(status(&report, "run-queue-wait"), RuleStatus::Silent, "{:?}", report.rules);
    assert_eq!(status(&report, "low-priority"), RuleStatus::Silent, "{:?}", report.rules);
}

#[test]
fn another_program_on_the_cpu_is_named() {
    let report = shared_cpu([0, 0], false);
    assert_evidence_resolves(&report);
    let finding = finding(&report, "run-queue-wait");
    let culprit = finding.culprit.as_ref().expect("it was seen");
    assert_eq!((culprit.tid, culprit.thread.as_deref()), (Some(11), Some("other")));
    assert_eq!(status(&report, "cpu-oversubscription"), RuleStatus::Silent, "{:?}", report.rules);
    let queued = thread(&report, 10).queued.as_ref().expect("it waited");
    assert!((queued.others_s - 0.99).abs() < 0.02 && queued.unnamed_s == 0.0, "{queued:?}");
}

#[test]
fn a_lowered_priority_is_the_cause_before_the_queue_is() {
    let report = shared_cpu([19, 0], false);
    assert_evidence_resolves(&report);
    let finding = finding(&report, "low-priority");
    assert!(finding.summary.contains("nice value of 19: other (11)"), "{}", finding.summary);
    assert_eq!(status(&report, "run-queue-wait"), RuleStatus::Silent, "{:?}", report.rules);
    // The other way round the priority is no reason.
    assert_eq!(status(&shared_cpu([0, 19], false), "low-priority"), RuleStatus::Silent);
}

#[test]
fn handing_over_on_one_cpu_is_no_crowding() {
    let mut events = Vec::new();
    for tid in [10, 11] {
        events.push(Event::NewTask(new_task(START, tid, 10, 1, "t")));
    }
    for round in 0..20_000 {
        let (prev, next) = if round % 2 == 0 { (11, 10) } else { (10, 11) };
        let event = ready(switch(START + round * 100_000, 0, prev, next, Leave::Preempted), 0, false);
        events.push(Event::Switch(event));
    }
    let report = run(events, 2000);
    assert_eq!(status(&report, "cpu-oversubscription"), RuleStatus::Silent, "{:?}", report.rules);
}

#[test]
fn steal_and_interrupts_of_the_host_are_told_and_marked_as_unproven() {
    let busy = |ms: u64, steal: u64, irq: u64| {
        let mut record = cpu_limits(ms);
        record.cgroups.clear();
        record.members.clear();
        for cpu in &mut record.cpus {
            (cpu.steal_ns, cpu.softirq_ns) = (ms * MS * steal / 100, ms * MS * irq / 100);
        }
        record
    };
    let report = |steal, irq| {
        let events = vec![
            limits(0, busy(0, 0, 0)),
            Event::NewTask(new_task(START, 10, 10, 1, "t")),
            Event::Switch(switch(at(0), 0, 0, 10, Leave::Preempted)),
            limits(3999, busy(4000, steal, irq)),
        ];
        run(events, 4000)
    };
    let stolen = report(50, 0);
    assert_evidence_resolves(&stolen);
    let found = finding(&stolen, "cpu-steal");
    assert!(found.lost_s.is_some_and(|lost_s| (lost_s - 2.0).abs() < 0.01), "half of what it ran: {found:?}");
    assert!(found.confidence < 0.6, "inferred from the whole host: {found:?}");
    assert_eq!(status(&stolen, "cpu-steal"), RuleStatus::Unproven);
    assert_eq!(finding(&report(0, 25), "irq-load").rank, 1);
    let quiet = report(1, 1);
    assert_eq!(quiet.findings[0].class, "cpu-bound", "{:?}", quiet.rules);
    assert_eq!(status(&quiet, "irq-load"), RuleStatus::Unproven, "also while it is silent");
}
