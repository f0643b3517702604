//! `gc-pauses`: CPython's collector of cyclic garbage takes a good part of the run. Told by samples that have the collector anywhere in
//! their stack; by its addresses, so names are not needed. Where neither symbols nor probes tell where it is, the rule says so.

use super::thresholds::{REPORTED_SHARE, bound_s, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties, threads};
use crate::model::report::{Evidence, Finding, Report, Subject};
use crate::model::stacks::{PYTHON_GC, Phase};
use crate::model::units::{count, duration, percent};

/// See the file's head.
pub struct GcPauses;

/// That it is the collector is certain; how long it ran is estimated from samples.
const SAMPLED: f64 = 0.85;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;
/// Fewer samples than this estimate nothing.
const LEAST_SAMPLES: u64 = 3;

impl Rule for GcPauses {
    fn class(&self) -> &'static str {
        "gc-pauses"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        if report.stacks.is_none() {
            return Outcome::CouldNotRun(
                "the family cpu did not run, whose stacks tell collecting from other work".to_owned(),
            );
        }
        let Some(python) = &report.python else {
            return Outcome::Silent("no process was seen to run CPython".to_owned());
        };
        if python.processes.iter().all(|process| !process.collector_known) {
            return Outcome::CouldNotRun(
                "the collector could not be told from other code: the interpreter's file has neither its symbols nor probes for tracers"
                    .to_owned(),
            );
        }
        let wall_s = report.window.duration_s;
        let collected: Vec<Collected> = collected(report);
        let most_s = collected.iter().map(|one| one.s).fold(0.0, f64::max);
        let worth = collected.into_iter().filter(|one| one.s >= LEAST_SHARE * wall_s && one.samples >= LEAST_SAMPLES);
        let claims: Vec<Claim> = worth.map(|one| claim(facts, &one)).collect();
        if claims.is_empty() {
            return Outcome::Silent(format!(
                "Python's collector of garbage took {} of {}",
                duration(most_s),
                duration(wall_s)
            ));
        }
        Outcome::Claims(claims)
    }
}

/// Collecting in one process.
struct Collected<'a> {
    pid: Option<u32>,
    s: f64,
    samples: u64,
    /// Share of the critical path, if it lies there; else it is one thread's.
    share: Option<f64>,
    /// The thread in which most of it was done, and what that says of it.
    tid: Option<u32>,
    thread: Option<&'a String>,
    process: Option<&'a String>,
    most: &'a Phase,
    /// Where the report holds each part: seconds, and their place.
    parts: Vec<(f64, String)>,
    /// Where it holds the number of samples of the first.
    samples_at: String,
}

impl Collected<'_> {
    fn summary(&self, wall_s: f64) -> String {
        let location = self.most.functions.first().map(|function| &function.location);
        let function = location.and_then(functions::words);
        let caused = function.map(|function| format!(", mostly started in {function}")).unwrap_or_default();
        let who = match (self.thread, self.tid) {
            (name, Some(tid)) => parties::named("thread", name.map(String::as_str), tid),
            (name, None) => format!("threads {}", name.map_or("without a known name", String::as_str)),
        };
        let process = match (self.process, self.pid) {
            (name, Some(pid)) => parties::named(" of process", name.map(String::as_str), pid),
            (_, None) => String::new(),
        };
        let where_to = if self.share.is_some() { " on the critical path" } else { "" };
        format!(
            "Python's collector of cyclic garbage took {} ({} of {}) of {who}{process}{where_to}{caused}",
            duration(self.s),
            percent(self.s / wall_s),
            duration(wall_s)
        )
    }
}

/// By process: what lies on the path; of processes without such time, and where there is no path, the thread with most.
fn collected(report: &Report) -> Vec<Collected<'_>> {
    let mut all: Vec<Collected<'_>> = Vec::new();
    let path = report.critical_path.iter().flat_map(|path| &path.phases).enumerate();
    for (index, phase) in path.filter(|(_, phase)| phase.what.phase == PYTHON_GC) {
        let part = (phase.what.s, format!("/critical_path/phases/{index}/s"));
        if let Some(known) = all.iter_mut().find(|known| known.pid == phase.whose.pid) {
            known.s += part.0;
            known.share = known.share.map(|share| share + phase.share);
            known.samples += phase.what.samples;
            known.parts.push(part);
            continue;
        }
        all.push(Collected {
            pid: phase.whose.pid,
            s: phase.what.s,
            samples: phase.what.samples,
            share: Some(phase.share),
            tid: phase.whose.tid,
            thread: phase.whose.thread.as_ref(),
            process: phase.whose.process.as_ref(),
            most: &phase.what,
            parts: vec![part],
            samples_at: format!("/critical_path/phases/{index}/samples"),
        });
    }
    let on_path = all.len();
    for (index, thread) in threads(report) {
        let Some((number, phase)) = thread.phases.iter().enumerate().find(|(_, phase)| phase.phase == PYTHON_GC) else {
            continue;
        };
        if all[..on_path].iter().any(|known| known.pid == thread.pid) {
            continue;
        }
        let at = |field: &str| format!("/threads/{index}/phases/{number}/{field}");
        let one = Collected {
            pid: thread.pid,
            s: phase.s,
            samples: phase.samples,
            share: None,
            tid: Some(thread.tid),
            thread: thread.name.as_ref(),
            process: thread.process.as_ref(),
            most: phase,
            parts: vec![(phase.s, at("s"))],
            samples_at: at("samples"),
        };
        match all[on_path..].iter_mut().find(|known| known.pid == thread.pid) {
            Some(known) if known.s < one.s => *known = one,
            Some(_) => {}
            None => all.push(one),
        }
    }
    all
}

fn claim(facts: &Facts<'_>, one: &Collected<'_>) -> Claim {
    let report = facts.report;
    let wall_s = report.window.duration_s;
    let lost_s = bound_s(one.s, (one.s, one.samples), wall_s);
    let culprit = culprit(report, one);
    // Garbage is collected with the interpreter lock held.
    let holds = |finding: &&Finding| {
        finding.class == "gil-contention" && finding.culprit.as_ref().is_some_and(|other| other.tid == one.tid)
    };
    let consequences = facts.earlier.iter().find(holds).map(|finding| finding.class.clone()).into_iter().collect();
    let finding = Finding {
        class: GcPauses.class().to_owned(),
        rank: 0,
        severity: severity(one.s, wall_s),
        confidence: confidence(report, SAMPLED),
        summary: one.summary(wall_s),
        lost_s: Some(lost_s),
        share_of_wall: one.share,
        speedup_bound: speedup_bound(lost_s, wall_s),
        culprit: Some(culprit),
        victims: Vec::new(),
        evidence: evidences(one, wall_s),
        hypothesis: format!(
            "Each full collection looks at every container object that is alive, and no other Python thread of the process runs \
             meanwhile. {}",
            if one.share.is_some() {
                "The seconds lost are those of the critical path, estimated from samples, at most."
            } else {
                "The seconds lost are those of the thread that collected most, estimated from samples, an upper bound."
            }
        ),
        fix: "Call gc.freeze() once what lives for long is built, so that it is not looked at any more; collect more rarely \
              (gc.set_threshold, fewer calls of gc.collect), or switch it off and collect at a moment when nothing waits. With it off for \
              good, memory grows with every cycle: watch it."
            .to_owned(),
        experiment: format!(
            "Run it with gc.freeze() before the loop, or with gc.disable() for a short run: at most {} of the wall time must go. \
             gc.callbacks give the length of each collection.",
            duration(lost_s)
        ),
        consequences,
    };
    let reported =
        is_reported(one.s, wall_s, one.samples, 0.0) && (one.share.is_some() || report.critical_path.is_none());
    Claim { finding, reported }
}

fn culprit(report: &Report, one: &Collected<'_>) -> Subject {
    let mut culprit = match one.tid {
        Some(tid) => parties::party(report, (one.pid, one.process), (tid, one.thread)),
        None => {
            Subject { process: one.process.cloned(), pid: one.pid, thread: one.thread.cloned(), ..Subject::default() }
        }
    };
    if let Some(function) = one.most.functions.first() {
        functions::point_at(&mut culprit, &function.location);
    }
    culprit
}

fn evidences(one: &Collected<'_>, wall_s: f64) -> Vec<Evidence> {
    let what =
        if one.share.is_some() { "time of the critical path in the collector" } else { "CPU time in the collector" };
    let threshold = Some(("reporting threshold", REPORTED_SHARE * wall_s));
    let mut list: Vec<Evidence> =
        one.parts.iter().map(|(s, source)| evidence(what, *s, "s", source.clone(), threshold)).collect();
    let metric = format!("{} of the thread with most of it in the collector", count(one.most.samples, "sample"));
    list.push(evidence(&metric, one.most.samples as f64, "1", one.samples_at.clone(), None));
    list
}
