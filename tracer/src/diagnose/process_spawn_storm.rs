//! `process-spawn-storm`: a process starts many processes that live for milliseconds, and waits for them one after the other. What such a
//! process does is mostly to begin and to end: fork, exec, loading libraries, an interpreter's imports.
//!
//! Few processes, or such that live long (a pipeline of a shell, a compiler's runs), are no storm. Many short ones for which nobody
//! on the critical path waits are seen, not limiting.

use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties};
use crate::model::critical_path::PathShortLived;
use crate::model::report::{Evidence, Finding, FunctionTime, Process, Report, Spawned, Subject, Thread};
use crate::model::units::{count, duration, grouped, percent};

/// See the file's head.
pub struct ProcessSpawnStorm;

/// Fewer short-lived processes are no storm.
const LEAST_PROCESSES: u64 = 20;
/// Nor are those that are fewer per second.
const LEAST_RATE: f64 = 2.0;
/// Who started whom, and how long that lived, was seen.
const SEEN: f64 = 0.9;
/// Without a critical path the waits for children are an upper bound only.
const WITHOUT_PATH: f64 = 0.6;

impl Rule for ProcessSpawnStorm {
    fn class(&self) -> &'static str {
        "process-spawn-storm"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(cpu) = &report.cpu else {
            return Outcome::CouldNotRun("the family sched did not run".to_owned());
        };
        let wall_s = report.window.duration_s;
        let storms = cpu.processes.iter().enumerate().filter_map(|(index, process)| {
            let spawned = process.spawned.as_ref()?;
            let many = spawned.short_lived >= LEAST_PROCESSES && spawned.short_lived as f64 >= LEAST_RATE * wall_s;
            many.then_some(Storm { report, index, process, spawned })
        });
        let claims: Vec<Claim> = storms.map(|storm| storm.claim()).collect();
        if claims.is_empty() {
            let most = cpu.processes.iter().filter_map(|process| process.spawned.as_ref()).map(|s| s.short_lived).max();
            return Outcome::Silent(match most {
                None => "no process started another one".to_owned(),
                Some(most) => {
                    format!("no process started more than {} that ended within 250 ms", count(most, "process"))
                }
            });
        }
        Outcome::Claims(claims)
    }
}

struct Storm<'a> {
    report: &'a Report,
    index: usize,
    process: &'a Process,
    spawned: &'a Spawned,
}

impl Storm<'_> {
    /// Time on the critical path, and where the report holds it.
    fn on_path(&self) -> Option<(usize, &PathShortLived)> {
        let path = self.report.critical_path.as_ref()?;
        path.short_lived.iter().enumerate().find(|(_, row)| row.of_pid == self.process.pid)
    }

    /// The thread that started most of them.
    fn spawner(&self) -> Option<(usize, &Thread)> {
        let tid = self.spawned.threads.first()?.tid;
        parties::row(self.report, Some(self.process.pid), tid)
    }

    /// Where that thread waited for children, with the place of the wait in the report.
    fn call_site(&self) -> Option<(String, &FunctionTime)> {
        let (index, thread) = self.spawner()?;
        let mut waits = thread.waits.iter().enumerate().filter(|(_, wait)| wait.state == "child");
        let (at, wait) = waits.find(|(_, wait)| !wait.places.is_empty())?;
        Some((format!("/threads/{index}/waits/{at}/places/0/total_s"), wait.places.first()?))
    }

    /// The longest wait for children of one thread: the bound where there is no path.
    fn waited(&self) -> Option<(String, f64)> {
        let (index, thread) = self.spawner()?;
        let mut waits = thread.waits.iter().enumerate().filter(|(_, wait)| wait.state == "child");
        waits.next().map(|(at, wait)| (format!("/threads/{index}/waits/{at}/total_s"), wait.total_s))
    }

    fn lost_s(&self) -> f64 {
        if self.report.critical_path.is_none() {
            return self.waited().map_or(0.0, |(_, waited_s)| waited_s);
        }
        // Forking is the parent's own time: on the path as far as the parent is.
        let children_s = self.on_path().map_or(0.0, |(_, row)| row.s);
        let queued_s: f64 = self.queued().map(|(s, _)| s).sum();
        if children_s > 0.0 { children_s + self.forking_s() + queued_s } else { 0.0 }
    }

    /// Waits for children on the path, after which it queued for a CPU: it would not have left it.
    fn queued(&self) -> impl Iterator<Item = (f64, Evidence)> {
        parties::queued_after(self.report, |wait| wait.state == "child" && wait.pid == Some(self.process.pid))
    }

    fn forking_s(&self) -> f64 {
        let own = self.report.critical_path.iter().flat_map(|path| &path.parts);
        let own_s: f64 =
            own.filter(|part| part.state == "on_cpu" && part.pid == Some(self.process.pid)).map(|part| part.s).sum();
        self.spawned.fork_s.unwrap_or(0.0).min(own_s)
    }

    fn name(&self) -> String {
        parties::named("process", self.process.process.as_deref(), self.process.pid)
    }

    fn programs(&self) -> String {
        let named: Vec<&str> =
            self.spawned.programs.iter().filter_map(|program| program.path.as_deref()).take(2).collect();
        match (named.as_slice(), self.spawned.executed) {
            (_, 0) => ", which executed no program".to_owned(),
            ([], _) => String::new(),
            (named, _) => format!(", which executed {}", named.join(", ")),
        }
    }

    fn summary(&self, lost_s: f64) -> String {
        let wall_s = self.report.window.duration_s;
        let (spawned, short) = (self.spawned, self.spawned.short_lived);
        let mean = spawned.short_mean_life_s.map(|mean| format!(" of {} each", duration(mean))).unwrap_or_default();
        let rate =
            if wall_s > 0.0 { format!("{:.0} a second", spawned.started as f64 / wall_s) } else { String::new() };
        let site = self.call_site().and_then(|(_, place)| functions::words(&place.location));
        let site = site.map(|site| format!(" in {site}")).unwrap_or_default();
        let cost = if lost_s > 0.0 {
            format!(
                "the run waited {} ({} of {}) for them",
                duration(lost_s),
                percent(lost_s / wall_s),
                duration(wall_s)
            )
        } else {
            "nothing waited for them".to_owned()
        };
        format!(
            "{} started {} processes ({rate}){site}, {} of them short-lived{mean}{}; {cost}",
            self.name(),
            grouped(spawned.started),
            grouped(short),
            self.programs()
        )
    }

    fn claim(&self) -> Claim {
        let (wall_s, lost_s) = (self.report.window.duration_s, self.lost_s());
        let thread = self.spawner().map(|(_, thread)| thread);
        let mut culprit = thread.map(super::subject).unwrap_or_else(|| Subject {
            process: self.process.process.clone(),
            pid: Some(self.process.pid),
            ..Subject::default()
        });
        if let Some((_, place)) = self.call_site() {
            functions::point_at(&mut culprit, &place.location);
        }
        let has_path = self.report.critical_path.is_some();
        let finding = Finding {
            class: ProcessSpawnStorm.class().to_owned(),
            rank: 0,
            severity: severity(lost_s, wall_s),
            confidence: confidence(self.report, if has_path { SEEN } else { WITHOUT_PATH }),
            summary: self.summary(lost_s),
            lost_s: Some(lost_s),
            share_of_wall: (has_path && wall_s > 0.0).then(|| lost_s / wall_s),
            speedup_bound: speedup_bound(lost_s, wall_s),
            culprit: Some(culprit),
            victims: thread.map(super::subject).into_iter().collect(),
            evidence: self.evidence(),
            hypothesis: format!(
                "A process that lives for milliseconds is mostly begun and ended: memory is copied or mapped, a program loaded and linked, \
                 an interpreter started. The seconds lost hold what it did for the run as well, so they are an upper bound.{}",
                self.fork_words()
            ),
            fix: "Do the items in one process that lives on (a server, a pool of workers, a library call instead of a program), or many \
                  items per process; where it must be one each, start it with posix_spawn or vfork from a small process (forkserver)."
                .to_owned(),
            experiment: format!(
                "Let one process do all items: the wall time must fall by at most {}.",
                duration(lost_s)
            ),
            consequences: Vec::new(),
        };
        Claim { finding, reported: is_reported(lost_s, wall_s, self.spawned.short_lived, 0.0) }
    }

    /// What forking itself cost, where that is much.
    fn fork_words(&self) -> String {
        let fork_s = self.spawned.fork_s.unwrap_or(0.0);
        if fork_s < REPORTED_SHARE * self.report.window.duration_s {
            return String::new();
        }
        format!(
            " Forking alone cost the parent {}, {} each time: its page tables are copied, which grows with its memory.",
            duration(fork_s),
            duration(fork_s / self.spawned.started.max(1) as f64)
        )
    }

    fn evidence(&self) -> Vec<Evidence> {
        let wall_s = self.report.window.duration_s;
        let at = |field: &str| format!("/cpu/processes/{}/spawned/{field}", self.index);
        let spawned = self.spawned;
        let mut facts = Vec::new();
        if let Some((row, on_path)) = self.on_path() {
            let source = format!("/critical_path/short_lived/{row}/s");
            let metric = "time of the critical path in processes that it started and that lived for at most 250 ms";
            let threshold = Some(("reporting threshold", REPORTED_SHARE * wall_s));
            facts.push(evidence(metric, on_path.s, "s", source, threshold));
        } else if let Some((source, waited_s)) = self.waited().filter(|_| self.report.critical_path.is_none()) {
            facts.push(evidence("the longest wait for children", waited_s, "s", source, Some(("wall time", wall_s))));
        }
        facts.extend(self.queued().take(2).map(|(_, queued)| queued));
        facts.push(evidence("processes that it started", spawned.started as f64, "1", at("started"), None));
        let started = Some(("processes that it started", spawned.started as f64));
        facts.push(evidence(
            "those that ended within 250 ms",
            spawned.short_lived as f64,
            "1",
            at("short_lived"),
            started,
        ));
        if let Some(mean_s) = spawned.short_mean_life_s {
            facts.push(evidence("their mean life", mean_s, "s", at("short_mean_life_s"), None));
        }
        if let Some(fork_s) = spawned.fork_s.filter(|fork_s| *fork_s > 0.0) {
            facts.push(evidence("CPU time for forking, by samples", fork_s, "s", at("fork_s"), None));
        }
        if let Some((source, place)) = self.call_site()
            && let Some(words) = functions::words(&place.location)
        {
            facts.push(evidence(&format!("time that {words} waited for children"), place.total_s, "s", source, None));
        }
        facts
    }
}
