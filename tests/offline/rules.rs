//! Every rule of the table speaks on one recorded capture and keeps silent on another, and says why.

use tracer::diagnose::RULES;
use tracer::model::report::{Report, RuleOutcome, RuleStatus, Verdict};

use crate::RECORDED;
use crate::support::golden_report;

fn reports() -> Vec<(&'static str, Report)> {
    RECORDED.iter().map(|capture| (capture.name, golden_report(capture.name))).collect()
}

fn outcome<'a>(report: &'a Report, class: &str) -> &'a RuleOutcome {
    let found = report.rules.iter().find(|rule| rule.class == class);
    found.unwrap_or_else(|| panic!("rule {class} is not in {:?}", report.rules))
}

#[test]
fn every_rule_fires_on_a_recorded_capture_and_is_silent_on_another() {
    let reports = reports();
    for rule in RULES {
        let class = rule.class();
        // One that no real run has shown yet cannot have been recorded.
        let wanted: &[RuleStatus] =
            if rule.is_proven() { &[RuleStatus::Fired, RuleStatus::Silent] } else { &[RuleStatus::Unproven] };
        for status in wanted.iter().copied() {
            let found = reports.iter().any(|(_, report)| outcome(report, class).status == status);
            let all: Vec<_> = reports.iter().map(|(name, report)| (*name, outcome(report, class).status)).collect();
            assert!(found, "rule {class} is {} on no capture: {all:?}", status.id());
        }
    }
}

#[test]
fn what_became_of_a_rule_agrees_with_the_findings() {
    for (name, report) in reports() {
        let classes: Vec<&str> = RULES.iter().map(|rule| rule.class()).collect();
        let listed: Vec<&str> = report.rules.iter().map(|rule| rule.class.as_str()).collect();
        assert_eq!(listed, classes, "{name}: the rules of the report are those of the table, in its order");
        for rule in &report.rules {
            let made = report.findings.iter().any(|finding| finding.class == rule.class);
            let unproven = rule.status == RuleStatus::Unproven;
            assert!(unproven || made == (rule.status == RuleStatus::Fired), "{name}: {rule:?}");
            assert!(!rule.reason.is_empty(), "{name}: {rule:?} says no reason");
        }
    }
}

#[test]
fn the_contended_mutexes_are_found_and_nothing_else_is_called_one() {
    let contended = ["mutex", "mutex-pi", "mutex-in-pid-namespace", "mutex-attached"];
    for (name, report) in reports() {
        let status = outcome(&report, "user-lock-contention").status;
        let expected = if contended.contains(&name) { RuleStatus::Fired } else { RuleStatus::Silent };
        assert_eq!(status, expected, "{name}: {:?}", report.rules);
        let kernel = ["mmap-lock", "pipe-lock"].contains(&name);
        let crowded = ["quota", "oversub", "low-priority"].contains(&name);
        let python = ["gil", "gc", "logging-convoy"].contains(&name);
        let waits = [
            "database",
            "ipc",
            "network",
            "deadlock",
            "arena",
            "fsync",
            "starved",
            "straggler",
            "spin-wait",
            "spawn-storm",
        ]
        .contains(&name);
        let memory = [
            "first-touch",
            "churn",
            "mapping",
            "dirty-writer",
            "thrash",
            "eviction",
            "pinned",
            "cold",
            "cow",
            "oom-kill",
            "growth",
            "shm",
            "reads",
            "io-limit",
            "dirty-paused",
            "swap-in",
            "direct-reclaim",
            "compaction",
            "two-nodes",
        ]
        .contains(&name);
        let limited = crowded || kernel || python || waits || memory || contended.contains(&name);
        assert_eq!(report.verdict == Verdict::Bottleneck, limited, "{name}: {:?}", report.verdict);
    }
}

#[test]
fn the_owners_of_a_contended_mutex_are_threads_of_its_process() {
    for name in ["mutex", "mutex-pi", "mutex-in-pid-namespace", "mutex-attached"] {
        let report = golden_report(name);
        let finding = report.findings.first().unwrap_or_else(|| panic!("{name}: no finding"));
        let culprit = finding.culprit.as_ref().unwrap_or_else(|| panic!("{name}: no culprit: {finding:?}"));
        assert!(!finding.victims.is_empty(), "{name}: no victim: {finding:?}");
        for victim in &finding.victims {
            assert_eq!(victim.pid, culprit.pid, "{name}: {victim:?} and {culprit:?}");
        }
        let in_namespace = culprit.ns_pid.is_some_and(|ns_pid| Some(ns_pid) != culprit.pid);
        assert_eq!(in_namespace, name == "mutex-in-pid-namespace", "{name}: {culprit:?}");
    }
}

#[test]
fn a_deadlock_is_found_without_stacks_too() {
    let report = golden_report("deadlock");
    assert_eq!(report.verdict, Verdict::Bottleneck, "{}", report.verdict_reason);
    let finding = report.findings.first().expect("a finding");
    assert_eq!((finding.class.as_str(), finding.victims.len()), ("deadlock", 1), "{finding:?}");
    let locks = finding.culprit.iter().chain(&finding.victims).filter_map(|subject| subject.lock.as_ref());
    assert_eq!(locks.collect::<std::collections::BTreeSet<_>>().len(), 2, "both locks: {finding:?}");
}

#[test]
fn a_capture_that_lost_most_is_inconclusive() {
    let report = golden_report("lossy");
    assert_eq!(report.verdict, Verdict::Inconclusive, "{}", report.verdict_reason);
    assert!(report.verdict_reason.contains("are missing"), "{}", report.verdict_reason);
}
