//! `fsync-stall`: a thread waits until what it wrote is on the disk, again and again, and the run waits with it. Calls in the
//! background that nothing waits for are observed only. What the devices did meanwhile, writing the data and flushing their caches, tells what
//! of it costs most.

use super::thresholds::{REPORTED_SHARE, bound_s, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, named, parties, subject, threads};
use crate::model::critical_path::{CriticalPath, PathPart};
use crate::model::io::{IoProcess, SYNC_CALLS, Save};
use crate::model::pattern::Pattern;
use crate::model::report::{Evidence, Finding, Report, Subject, Thread, Wait};
use crate::model::stacks::SYNC;
use crate::model::units::{bytes, count, duration, grouped, percent};

/// See the file's head.
pub struct FsyncStall;

/// The call and its time were seen, and that the run waited for it.
const ON_THE_PATH: f64 = 0.9;
/// Whether the run waited for it is not known.
const OFF_THE_PATH: f64 = 0.75;

/// Files for which less than this part of the time was waited that was for the first of them do not count in what they are called.
const NAMED_SHARE: f64 = 0.1;

/// Under this, threads that sync are not worth a word.
const LEAST_S: f64 = 0.01;

impl Rule for FsyncStall {
    fn class(&self) -> &'static str {
        "fsync-stall"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        if threads(report).next().is_none() {
            return Outcome::CouldNotRun("no thread was recorded".to_owned());
        }
        let Some(worst) = Syncing::worst(report) else {
            return Outcome::Silent("no thread waited in fsync or a call like it".to_owned());
        };
        match report.critical_path.as_ref() {
            Some(path) => match OnPath::of(report, path) {
                Some(on_path) => Outcome::Claims(vec![on_path.claim(report, &worst)]),
                None => Outcome::Claims(vec![worst.claim(report, false)]),
            },
            None => Outcome::Claims(vec![worst.claim(report, true)]),
        }
    }
}

/// The path that these are, most time first, or a pattern that fits all of them; where they have nothing in common, the first.
fn pattern<'a>(paths: impl Iterator<Item = &'a str>) -> Option<String> {
    let all: Pattern = paths.collect();
    match all.start() {
        _ if all.first().is_empty() => None,
        "" | "/" => Some(all.first().to_owned()),
        _ => Some(all.shown()),
    }
}

fn is_sync(state: &str, detail: Option<&str>) -> bool {
    state != "on_cpu" && detail.is_some_and(|call| SYNC_CALLS.contains(&call))
}

/// The thread that waited longest in such calls.
struct Syncing {
    /// Its finding's subject, with the function.
    who: Subject,
    name: String,
    call: String,
    total_s: f64,
    max_s: f64,
    count: u64,
    /// Its waits for the one thing that it waited longest for, and where the report has them.
    longest_s: f64,
    source: String,
    /// All its syncs, computing and queueing included.
    syncs: Option<Evidence>,
}

impl Syncing {
    fn worst(report: &Report) -> Option<Self> {
        let sums = threads(report).filter_map(|(index, thread)| {
            let waits = thread.waits.iter().enumerate();
            let syncs: Vec<(usize, &Wait)> =
                waits.filter(|(_, wait)| is_sync(&wait.state, wait.detail.as_deref())).collect();
            let (place, longest) = *syncs.first()?;
            let mut who = subject(thread);
            if let Some(function) = longest.places.first() {
                functions::point_at(&mut who, &function.location);
            }
            let mut paths = syncs.iter().filter_map(|(_, wait)| Some((wait.path.as_deref()?, wait.total_s))).peekable();
            let most_s = paths.peek().map_or(0.0, |(_, s)| *s);
            who.path = pattern(paths.filter(|(_, s)| *s >= NAMED_SHARE * most_s).map(|(path, _)| path));
            Some(Syncing {
                who,
                name: named(thread),
                call: longest.detail.clone().unwrap_or_default(),
                total_s: syncs.iter().map(|(_, wait)| wait.total_s).sum(),
                max_s: syncs.iter().map(|(_, wait)| wait.max_s).fold(0.0, f64::max),
                count: syncs.iter().map(|(_, wait)| wait.count).sum(),
                longest_s: longest.total_s,
                source: format!("/threads/{index}/waits/{place}/total_s"),
                syncs: thread.syncs.as_ref().map(|syncs| {
                    let source = format!("/threads/{index}/syncs/total_s");
                    evidence("all its syncs, computing and queueing included", syncs.total_s, "s", source, None)
                }),
            })
        });
        sums.filter(|sum| sum.total_s >= LEAST_S).reduce(|a, b| if b.total_s > a.total_s { b } else { a })
    }

    /// What is said where nothing on the path waited for it, or where there is no path.
    fn claim(&self, report: &Report, may_limit: bool) -> Claim {
        let wall_s = report.window.duration_s;
        let reported = may_limit && is_reported(self.total_s, wall_s, self.count, self.max_s);
        let background = if may_limit { "" } else { "; nothing that CMD's main thread waited for" };
        let mut finding = self.finding(report, self.total_s, OFF_THE_PATH);
        finding.summary = format!(
            "{} waited {} ({} of {}) in {}{}, {}{background}",
            self.name,
            duration(self.total_s),
            percent(self.total_s / wall_s.max(f64::MIN_POSITIVE)),
            duration(wall_s),
            self.call,
            called(&self.who),
            count(self.count, "call"),
        );
        if !may_limit {
            (finding.lost_s, finding.speedup_bound) = (Some(0.0), None);
            finding.severity = severity(0.0, wall_s);
        }
        finding.evidence.push(evidence(
            "waiting in the calls, for one thing",
            self.longest_s,
            "s",
            self.source.clone(),
            None,
        ));
        Claim { finding, reported }
    }

    fn finding(&self, report: &Report, lost_s: f64, own_confidence: f64) -> Finding {
        let wall_s = report.window.duration_s;
        Finding {
            class: FsyncStall.class().to_owned(),
            rank: 0,
            severity: severity(lost_s, wall_s),
            confidence: confidence(report, own_confidence),
            summary: String::new(),
            lost_s: Some(lost_s),
            share_of_wall: None,
            speedup_bound: speedup_bound(lost_s, wall_s),
            culprit: Some(self.who.clone()),
            victims: Vec::new(),
            evidence: Vec::new(),
            hypothesis: format!(
                "{} returns when the disk has the data, and the next step of {} waits for that although it does not need it.{}",
                self.call,
                self.name,
                Devices::of(report, self.who.pid).map(|devices| devices.words(self.total_s)).unwrap_or_default()
                    + &save(report, self.who.pid).map(|(_, save)| save_words(save)).unwrap_or_default()
            ),
            fix: "Write several items and sync once; sync in a thread or process of its own that the next step does not wait for; or \
                  leave the sync out where a crash may lose the last items."
                .to_owned(),
            experiment: format!(
                "Run it with the calls of {} removed, or with the file on a tmpfs: the wall time must fall, by at most {}.",
                self.call,
                duration(lost_s)
            ),
            consequences: Vec::new(),
        }
    }
}

/// What devices did for a process that syncs.
struct Devices<'a> {
    row: usize,
    process: &'a IoProcess,
    /// The device that flushed longest, if most of its flushes are this process's: its position, how often and how long.
    flushing: Option<(usize, u64, f64)>,
}

impl<'a> Devices<'a> {
    fn of(report: &'a Report, pid: Option<u32>) -> Option<Self> {
        let io = report.io.as_ref()?;
        let (row, process) = io.processes.iter().enumerate().find(|(_, process)| Some(process.pid) == pid)?;
        Some(Devices { row, process, flushing: io.flushing(process) })
    }

    fn flush_s(&self) -> f64 {
        self.flushing.map_or(0.0, |(_, _, s)| s)
    }

    fn evidence(&self) -> Vec<Evidence> {
        let at = |field: &str| format!("/io/processes/{}/{field}", self.row);
        let process = self.process;
        let mut list = Vec::new();
        if process.write_bytes > 0 {
            let (s, bytes) = (process.write_device_s, process.write_bytes as f64);
            list.push(evidence("time that devices had writes of the process", s, "s", at("write_device_s"), None));
            list.push(evidence("bytes of them", bytes, "B", at("write_bytes"), None));
        }
        if let Some((index, _, s)) = self.flushing {
            let source = format!("/io/devices/{index}/flushes/device/total_s");
            list.push(evidence("time that the device took to flush its cache", s, "s", source, None));
        }
        list
    }

    /// Which of both costs more, if they are most of the waiting; nothing where neither was seen.
    fn words(&self, waited_s: f64) -> String {
        let (write_s, flush_s) = (self.process.write_device_s, self.flush_s());
        if write_s + flush_s <= 0.0 {
            return String::new();
        }
        let flushed = match self.flushing {
            Some((_, 1, _)) => format!(", and {} on one flush of their caches", duration(flush_s)),
            Some((_, flushes, _)) => {
                format!(", and {} on {} flushes of their caches", duration(flush_s), grouped(flushes))
            }
            None => String::new(),
        };
        let told = format!(
            " Devices spent {} on {} that it wrote{flushed}",
            duration(write_s),
            bytes(self.process.write_bytes)
        );
        let costs = if write_s + flush_s < waited_s / 2.0 {
            "most of the waiting is neither's; it is the file system's own work, as that on its journal, or others' that it waits for"
        } else if flush_s > write_s {
            "it is the number of calls that costs most"
        } else {
            "it is the data that costs most, which could be written while it is made (sync_file_range)"
        };
        format!("{told}: {costs}.")
    }
}

/// Where most of a process's waiting for disks is done.
fn save(report: &Report, pid: Option<u32>) -> Option<(usize, &Save)> {
    report.io.as_ref()?.saves.iter().enumerate().find(|(_, save)| save.whose.pid == pid)
}

/// What else is done there.
fn save_words(save: &Save) -> String {
    let Some(function) = &save.location.function else { return String::new() };
    let waits = match save.write_waits_s + save.other_waits_s {
        waits_s if waits_s > LEAST_S => format!(", and {} in other waits", duration(waits_s)),
        _ => String::new(),
    };
    format!(
        " In {function} there are, beside the {} in these calls, {} of computing (packing the data, and whatever else it does) and {} of copying \
         into the page cache, by samples{waits}.",
        duration(save.synced_s),
        duration(save.computed_s),
        duration(save.copied_s),
    )
}

fn save_evidence(report: &Report, pid: Option<u32>) -> impl Iterator<Item = Evidence> {
    let of = |(index, save): (usize, &Save)| {
        let at = |field: &str| format!("/io/saves/{index}/{field}");
        [
            evidence("computing in the function that saves, by samples", save.computed_s, "s", at("computed_s"), None),
            evidence("copying into the page cache there, by samples", save.copied_s, "s", at("copied_s"), None),
        ]
    };
    save(report, pid).map(of).into_iter().flatten()
}

fn file(who: &Subject) -> String {
    who.path.as_ref().map(|path| format!(", for {path}")).unwrap_or_default()
}

fn called(who: &Subject) -> String {
    who.function.as_ref().map(|function| format!(", called by {function}")).unwrap_or_default()
}

/// What syncs took for each second that was waited in them, as the file systems tell of the threads of this part; none: they do not.
fn taken_to_waited(report: &Report, part: &PathPart) -> Option<f64> {
    let is_its = |thread: &Thread| {
        part.tid.is_none_or(|tid| thread.tid == tid) && part.pid.is_none_or(|pid| thread.pid == Some(pid))
    };
    let syncs = threads(report).filter(|(_, thread)| is_its(thread)).filter_map(|(_, thread)| thread.syncs.as_ref());
    let (total_s, waited_s) = syncs.fold((0.0, 0.0), |(total_s, waited_s), syncs| {
        (total_s + syncs.total_s, waited_s + syncs.total_s - syncs.on_cpu_s - syncs.ready_s)
    });
    (waited_s > 0.0).then(|| total_s / waited_s)
}

/// Such calls on the critical path.
struct OnPath<'a> {
    /// The largest part, and where the report has it.
    part: &'a PathPart,
    index: usize,
    /// Waiting, and computing in the kernel below the calls, of which each row is evidence, and queueing: exact, where that is known.
    total_s: f64,
    exact: bool,
    /// What that can be at most: the computing is known from samples.
    at_most_s: f64,
    computing: Vec<(usize, f64)>,
    /// For how long the threads queued for a CPU once the disk had the data: they would not have left it. Of each kind of wait.
    queued: Vec<(f64, Evidence)>,
    pieces: u64,
    path_s: f64,
}

impl<'a> OnPath<'a> {
    fn of(report: &Report, path: &'a CriticalPath) -> Option<Self> {
        let parts = || {
            let all = path.parts.iter().enumerate();
            all.filter(|(_, part)| is_sync(&part.state, part.detail.as_deref()))
        };
        let (index, part) = parts().next()?;
        let waiting_s: f64 = parts().map(|(_, part)| part.s).sum();
        let phases = || path.phases.iter().enumerate().filter(|(_, phase)| phase.what.phase == SYNC);
        let computing: Vec<(usize, f64)> = phases().map(|(index, phase)| (index, phase.what.s)).collect();
        let queued: Vec<(f64, Evidence)> =
            parties::queued_after(report, |wait| is_sync(&wait.state, wait.detail.as_deref())).collect();
        let computed_s: f64 = computing.iter().map(|(_, s)| s).sum();
        let estimate_s = waiting_s + computed_s + queued.iter().map(|(s, _)| s).sum::<f64>();
        let samples = phases().map(|(_, phase)| phase.what.samples).sum();
        let measured_s: Option<f64> = parts().map(|(_, part)| Some(part.s * taken_to_waited(report, part)?)).sum();
        let (total_s, at_most_s) = match measured_s {
            Some(s) => (s, s.min(path.total_s)),
            None => (estimate_s, bound_s(estimate_s, (computed_s, samples), path.total_s)),
        };
        let computing = if measured_s.is_some() { Vec::new() } else { computing };
        let pieces = parts().map(|(_, part)| part.pieces).sum();
        (total_s >= LEAST_S).then_some(OnPath {
            part,
            index,
            total_s,
            exact: measured_s.is_some(),
            at_most_s,
            computing,
            queued,
            pieces,
            path_s: path.total_s,
        })
    }

    fn claim(&self, report: &Report, worst: &Syncing) -> Claim {
        let wall_s = report.window.duration_s;
        let share = self.total_s / self.path_s.max(f64::MIN_POSITIVE);
        let reported = is_reported(self.total_s, wall_s, self.pieces, worst.max_s);
        let mut finding = worst.finding(report, self.at_most_s, ON_THE_PATH);
        let mut culprit = match self.part.tid {
            // The path names the thread; else it is one of several, and the one that waits longest stands for them.
            Some(tid) if worst.who.tid != Some(tid) => {
                let row = parties::row(report, self.part.pid, tid);
                row.map_or_else(|| worst.who.clone(), |(_, thread)| subject(thread))
            }
            _ => worst.who.clone(),
        };
        if let Some(function) = self.part.functions.first() {
            functions::point_at(&mut culprit, &function.location);
        }
        // Where the path led through waits for several files, it names none.
        let several = worst.who.path.clone().filter(|_| culprit.tid == worst.who.tid);
        culprit.path = self.part.path.clone().or(several);
        let who = match (self.part.threads, self.part.thread.as_deref()) {
            (1, Some(name)) => format!("thread {name}"),
            (1, None) => "a thread".to_owned(),
            (threads, _) => format!("{} threads", grouped(threads)),
        };
        finding.summary = format!(
            "the run spent {} ({} of {}) in {} of {who}{}{}",
            duration(self.total_s),
            percent(share),
            duration(self.path_s),
            self.part.detail.as_deref().unwrap_or("fsync"),
            called(&culprit),
            file(&culprit),
        );
        finding.culprit = Some(culprit);
        finding.share_of_wall = Some(share);
        let source = format!("/critical_path/parts/{}/s", self.index);
        let least = Some(("reported from", REPORTED_SHARE * wall_s));
        finding.evidence = vec![
            evidence("largest wait of it on the critical path", self.part.s, "s", source, least),
            evidence("waiting of that thread, for one thing", worst.longest_s, "s", worst.source.clone(), None),
        ];
        finding.evidence.extend(worst.syncs.clone().filter(|_| self.exact));
        for (index, s) in &self.computing {
            let source = format!("/critical_path/phases/{index}/s");
            finding.evidence.push(evidence("computing below the calls, by samples", *s, "s", source, None));
        }
        // Of many files each has its own, and the longest tell.
        let mut queued: Vec<&(f64, Evidence)> = self.queued.iter().collect();
        queued.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        finding.evidence.extend(queued.into_iter().take(2).map(|(_, queued)| queued.clone()));
        finding.evidence.extend(Devices::of(report, worst.who.pid).iter().flat_map(Devices::evidence));
        finding.evidence.extend(save_evidence(report, worst.who.pid));
        Claim { finding, reported }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::io::{Io, IoDevice, IoRequests, Latency};

    #[test]
    fn files_that_are_synced_in_turn_have_a_pattern() {
        let of = |paths: &[&str]| pattern(paths.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["/a/shard-17.bin", "/a/shard-2.bin"]).as_deref(), Some("/a/shard-*.bin"));
        assert_eq!(of(&["/data/one", "/var/two"]).as_deref(), Some("/data/one"), "they have nothing in common");
    }

    #[test]
    fn whether_the_data_or_the_flushes_cost_more_is_told() {
        let took = |write_device_s: f64, flush_s: f64| {
            let device = Latency { total_s: flush_s, ..Latency::default() };
            let flushes = IoRequests { requests: 5, device, ..IoRequests::default() };
            let device = IoDevice { flushes: Some(flushes), ..IoDevice::default() };
            let process =
                IoProcess { pid: 10, write_bytes: 1 << 20, write_device_s, flushes: 5, ..IoProcess::default() };
            let mut report = crate::testing::contended_report();
            report.io = Some(Io { devices: Some(vec![device]), processes: vec![process], ..Io::default() });
            report
        };
        let report = took(0.2, 0.6);
        let devices = Devices::of(&report, Some(10)).expect("it wrote");
        let words = devices.words(1.0);
        assert!(
            words.contains("600 ms on 5 flushes") && words.ends_with("number of calls that costs most."),
            "{words}"
        );
        let value = serde_json::to_value(&report).expect("a report");
        for evidence in devices.evidence() {
            assert_eq!(value.pointer(&evidence.source).and_then(serde_json::Value::as_f64), Some(evidence.value));
        }
        let words = Devices::of(&took(0.6, 0.2), Some(10)).expect("it wrote").words(1.0);
        assert!(words.contains("1.0 MiB that it wrote") && words.contains("while it is made"), "{words}");
        assert!(Devices::of(&took(0.6, 0.2), Some(11)).is_none(), "another process");
        assert_eq!(Devices::of(&took(0.0, 0.0), Some(10)).expect("it wrote").words(1.0), "");
        // As with small files on a quick disk.
        let words = Devices::of(&took(0.2, 0.1), Some(10)).expect("it wrote").words(2.0);
        assert!(words.contains("most of the waiting is neither's"), "{words}");
    }
}
