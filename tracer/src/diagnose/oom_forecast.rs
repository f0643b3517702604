//! `oom-forecast`: memory that cannot be dropped grows steadily towards a cgroup's limit, or towards all that the host has. What is said is the last of the forecasts that
//! were made on the way; where the kernel has killed meanwhile, that is said instead.

use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties};
use crate::model::memory::{Forecast, ProcessSizes};
use crate::model::report::{Evidence, Finding, Report, Severity, Subject};
use crate::model::units::{bytes, duration};

/// See the file's head.
pub struct OomForecast;

/// Sizes were read; that the growth goes on is inferred.
const INFERRED: f64 = 0.75;
/// A forecast older than this at the window's end is no longer one: it has levelled off since.
const STALE_S: f64 = 2.0;
/// So soon it is a matter of minutes.
const SOON_S: f64 = 600.0;
/// And so soon of hours.
const HOURS_S: f64 = 6.0 * 3600.0;
/// What was seen for a while says little about what is this many times as far away.
const FORESEEN: f64 = 30.0;
/// From this part of the host's growth on it is the traced processes' doing.
const OWN_PART: f64 = 0.5;
/// Slower growth than this is noise.
const LEAST_PER_S: f64 = 64.0 * 1024.0;

impl Rule for OomForecast {
    fn class(&self) -> &'static str {
        "oom-forecast"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(memory) = &report.memory else {
            return Outcome::CouldNotRun("the family rss did not run, which reads sizes and limits".to_owned());
        };
        let fresh = |forecast: &&Forecast| {
            forecast.t_s >= report.window.duration_s - STALE_S && forecast.bytes_per_s >= LEAST_PER_S
        };
        // The last one of each cgroup, and of these the soonest.
        let mut last: std::collections::BTreeMap<Option<&str>, (usize, &Forecast)> = std::collections::BTreeMap::new();
        for (index, forecast) in memory.forecasts.iter().enumerate().filter(|(_, forecast)| fresh(forecast)) {
            last.insert(forecast.cgroup.as_deref(), (index, forecast));
        }
        // What others do to the host is not told of these.
        let own = |(_, forecast): &(usize, &Forecast)| forecast.cgroup.is_some() || is_own(report, forecast);
        let soonest = last.into_values().filter(own).reduce(|a, b| if b.1.eta_s < a.1.eta_s { b } else { a });
        let Some((index, forecast)) = soonest else {
            return Outcome::Silent(match memory.cgroups.iter().any(|cgroup| cgroup.limit_bytes.is_some()) {
                true => "no memory that cannot be dropped grew towards a limit at the end".to_owned(),
                false => "no cgroup of the target has a memory limit, and its memory did not grow towards the host's at the end".to_owned(),
            });
        };
        let killed = facts.earlier.iter().any(|finding| finding.class == "oom-kill");
        // What has ended by itself did not reach it.
        let ended = report.window.ended_by.as_deref() == Some("target-ended");
        let finding = finding(report, index, forecast);
        let far = forecast.eta_s > FORESEEN * report.window.duration_s;
        Outcome::Claims(vec![Claim { finding, reported: !killed && !ended && !far }])
    }
}

/// What cannot be dropped that a process has more than at first.
fn growth(process: &ProcessSizes) -> u64 {
    let size = |sizes: &crate::model::memory::Sizes| {
        sizes.anonymous_bytes.saturating_add(sizes.shared_bytes).saturating_add(sizes.swapped_bytes)
    };
    size(&process.last).saturating_sub(size(&process.first))
}

/// Whether most of the host's growth is that of processes that were read. What they share counts more than once.
fn is_own(report: &Report, forecast: &Forecast) -> bool {
    let Some(memory) = &report.memory else { return false };
    let first_s = memory.processes.iter().map(|process| process.first.t_s).fold(f64::INFINITY, f64::min);
    let grown = memory.processes.iter().fold(0u64, |sum, process| sum.saturating_add(growth(process)));
    grown as f64 >= OWN_PART * forecast.bytes_per_s * (forecast.t_s - first_s).max(0.0) && grown > 0
}

/// The process of the cgroup, or of the host, that grew most, and where the report holds it.
fn grower<'a>(report: &'a Report, cgroup: Option<&str>) -> Option<(usize, &'a ProcessSizes)> {
    let within = |process: &ProcessSizes| {
        let Some(cgroup) = cgroup else { return true };
        let rest = process.cgroup.as_deref().and_then(|path| path.strip_prefix(cgroup.trim_end_matches('/')));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let all = report.memory.as_ref()?.processes.iter().enumerate();
    all.filter(|(_, process)| within(process))
        .max_by_key(|(index, process)| (growth(process), std::cmp::Reverse(*index)))
}

fn finding(report: &Report, index: usize, forecast: &Forecast) -> Finding {
    let grower = grower(report, forecast.cgroup.as_deref());
    let mut culprit = Subject { cgroup: forecast.cgroup.clone(), ..Subject::default() };
    let faults = report.paging.iter().flat_map(|paging| paging.faults.iter().flatten());
    let own = faults.into_iter().find(|faults| grower.is_some_and(|(_, process)| process.pid == faults.pid));
    let function = own.and_then(|faults| faults.touching()).map(|(_, function)| function);
    if let Some((_, process)) = grower {
        (culprit.process, culprit.pid) = (process.process.clone(), Some(process.pid));
    }
    if let Some(function) = function {
        functions::point_at(&mut culprit, &function.location);
    }
    let who = grower.map(|(_, process)| parties::named("process", process.process.as_deref(), process.pid));
    let called = function.and_then(|function| functions::words(&function.location));
    Finding {
        class: OomForecast.class().to_owned(),
        rank: 0,
        severity: match forecast.eta_s {
            soon if soon <= SOON_S => Severity::Critical,
            hours if hours <= HOURS_S => Severity::Warning,
            _ => Severity::Info,
        },
        confidence: confidence(report, INFERRED),
        summary: format!(
            "memory of {} grows by {}/s and reaches its {} of {} in {} ({} to {}); most of it is {}'s{}",
            forecast.cgroup.as_ref().map_or_else(|| "this host".to_owned(), |cgroup| format!("the cgroup {cgroup}")),
            bytes(forecast.bytes_per_s as u64),
            if forecast.cgroup.is_some() { "limit" } else { "end" },
            bytes(forecast.limit_bytes),
            duration(forecast.eta_s),
            duration(forecast.eta_low_s),
            duration(forecast.eta_high_s),
            who.as_deref().unwrap_or("no process that was read"),
            called.map(|called| format!(", mostly touched in {called}")).unwrap_or_default(),
        ),
        lost_s: None,
        share_of_wall: None,
        speedup_bound: None,
        culprit: Some(culprit),
        victims: Vec::new(),
        evidence: evidences(report, index, forecast, grower),
        hypothesis: "Anonymous and shared memory and the kernel's own cannot be dropped, so when they reach a cgroup's limit the kernel kills a \
                     process of it, and when they reach what the host has (swap included) one of any kind. They have grown \
                     steadily; if they level off before, this does not come true."
            .to_owned(),
        fix: "Find out whether the growth is meant (a cache that fills, a warm-up) or a leak, by the function above: bound caches and queues, \
              release what a step no longer needs; or raise the limit, or restart in time."
            .to_owned(),
        experiment: format!(
            "Let it run on and read this report's memory/forecasts: they must agree on the moment, {} from the window's end. With the growth \
             removed there must be none.",
            duration(forecast.eta_s)
        ),
        consequences: Vec::new(),
    }
}

fn evidences(
    report: &Report,
    index: usize,
    forecast: &Forecast,
    grower: Option<(usize, &ProcessSizes)>,
) -> Vec<Evidence> {
    let at = |field: &str| format!("/memory/forecasts/{index}/{field}");
    let mut list = vec![
        evidence("growth of memory that cannot be dropped", forecast.bytes_per_s, "B/s", at("bytes_per_s"), None),
        evidence(
            "memory that cannot be dropped",
            forecast.bytes as f64,
            "B",
            at("bytes"),
            Some(("limit", forecast.limit_bytes as f64)),
        ),
        evidence(
            "time until the limit",
            forecast.eta_s,
            "s",
            at("eta_s"),
            Some(("of the window", report.window.duration_s)),
        ),
    ];
    if let Some((row, process)) = grower {
        let source = format!("/memory/processes/{row}/last/anonymous_bytes");
        let first = Some(("at first", process.first.anonymous_bytes as f64));
        list.push(evidence(
            "anonymous memory of the process that grew most",
            process.last.anonymous_bytes as f64,
            "B",
            source,
            first,
        ));
    }
    list
}
