//! `shm-exhaustion`: a file system in memory (tmpfs, as /dev/shm is) ran full. Who writes to a mapped file there is killed by SIGBUS, since
//! a memory access has no other way to fail; who calls write(2) or ftruncate(2) gets ENOSPC, which nobody sees here. How full it was is read
//! four times a second only, so the confidence follows from how near to full it was seen. Look-alike: SIGBUS of a mapped file that was cut
//! short, which fills nothing.

use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties};
use crate::model::memory::{BusError, ProcessSizes, TmpfsFilling, TmpfsSizes};
use crate::model::paging::{FaultFunction, PAGE_BYTES, ProcessFaults};
use crate::model::report::{Evidence, Finding, Report, Severity, Subject};
use crate::model::units::{bytes, count, duration, percent};

/// See the file's head.
pub struct ShmExhaustion;

/// From this part in use on it counts as full: the rest goes in less than the time between two readings.
const FULL: f64 = 0.95;
/// What would have been in use had it grown on until the death, or what the process touched, counts as full from this part on.
const NEARLY_FULL: f64 = 0.9;
/// Who touched more pages of shared memory than this part of it has them elsewhere.
const MOST_TOUCHED: f64 = 1.2;
/// Less in use, and the death was of something else.
const HALF_FULL: f64 = 0.5;
/// What became fuller by less while it was watched was full for another reason.
const GREW: f64 = 0.05;
/// A process that holds this part of what is in use has a share in it.
const HOLDS: f64 = 0.25;

/// A death, and the file system was seen full.
const SEEN_FULL: f64 = 0.9;
/// A death, and by its growth it must have been full.
const GREW_FULL: f64 = 0.8;
/// A death, and it was at least half full and grew.
const GREW_ONLY: f64 = 0.7;
/// A death, and it was at least half full, or the process touched as many pages as it has room for.
const IN_USE: f64 = 0.6;
/// It was seen full, and nobody died of it: that somebody was refused is inferred.
const NOBODY_DIED: f64 = 0.7;

impl Rule for ShmExhaustion {
    fn class(&self) -> &'static str {
        "shm-exhaustion"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(memory) = &report.memory else {
            return Outcome::CouldNotRun(
                "the family rss did not run, which reads how full /dev/shm and its like are".to_owned(),
            );
        };
        let explained: Vec<Death<'_>> =
            memory.bus_errors.iter().enumerate().filter_map(|death| explained(report, death)).collect();
        let mut claims = Vec::new();
        for (index, tmpfs) in memory.tmpfs.iter().enumerate() {
            let deaths: Vec<&Death<'_>> =
                explained.iter().filter(|death| death.filling.tmpfs == index as u64).collect();
            if !deaths.is_empty() {
                claims.push(Claim { finding: died(report, (index, tmpfs), &deaths), reported: true });
            } else if tmpfs.most_share >= FULL {
                let grew = tmpfs.most_bytes.saturating_sub(tmpfs.first_bytes) as f64 >= GREW * tmpfs.size_bytes as f64;
                claims.push(Claim { finding: full(report, (index, tmpfs)), reported: grew });
            }
        }
        if !claims.is_empty() {
            return Outcome::Claims(claims);
        }
        Outcome::Silent(match (memory.bus_errors.len(), memory.tmpfs.first()) {
            (0, None) => "no file system in memory with a limit was seen that the target can write to".to_owned(),
            (0, Some(fullest)) => {
                format!(
                    "the fullest file system in memory, {}, had {} in use at most",
                    fullest.path,
                    percent(fullest.most_share)
                )
            }
            (died, _) => {
                let died = count(died as u64, "process");
                format!("died of SIGBUS: {died}, but no file system in memory that it could write to was filling")
            }
        })
    }
}

/// A death that a full file system explains.
struct Death<'a> {
    index: usize,
    error: &'a BusError,
    own: f64,
    /// How full it was, and its place among what the process saw.
    filling: &'a TmpfsFilling,
    place: usize,
    /// The process's page faults, and where the report holds them.
    faults: Option<(usize, &'a ProcessFaults)>,
}

impl<'a> Death<'a> {
    /// Where it touched most shared memory, by stacks.
    fn touching(&self) -> Option<&'a FaultFunction> {
        self.faults.and_then(|(_, faults)| Some(faults.function("shared")?.1))
    }

    fn subject(&self, report: &Report) -> Subject {
        let whose = &self.error.whose;
        let process = (whose.pid, whose.process.as_ref());
        let mut subject = parties::party(report, process, (whose.tid.unwrap_or(0), whose.thread.as_ref()));
        let doing = || functions::doing(report, whose.pid?, whose.tid?, |_| true).map(|doing| &doing.time.location);
        if let Some(location) = self.touching().map(|function| &function.location).or_else(doing) {
            functions::point_at(&mut subject, location);
        }
        subject
    }
}

/// The death, with what explains it best; none: it is of something else.
fn explained<'a>(report: &'a Report, (index, error): (usize, &'a BusError)) -> Option<Death<'a>> {
    let tmpfs = &report.memory.as_ref()?.tmpfs;
    let all = report.paging.iter().flat_map(|paging| paging.faults.iter().flatten()).enumerate();
    let faults = all.into_iter().find(|(_, faults)| Some(faults.pid) == error.whose.pid);
    let touched = faults.map_or(0, |(_, faults)| faults.of("shared").saturating_mul(PAGE_BYTES));
    let sure = |filling: &TmpfsFilling| {
        let sizes = tmpfs.get(usize::try_from(filling.tmpfs).ok()?)?;
        Some((how_sure(sizes, filling, touched as f64)?, sizes.most_share))
    };
    let with = error.fillings.iter().enumerate().filter_map(|(place, filling)| Some((sure(filling)?, place, filling)));
    let best = with.reduce(|a, b| if b.0 > a.0 { b } else { a });
    best.map(|((own, _), place, filling)| Death { index, error, own, filling, place, faults })
}

/// How sure it is that a process died of this file system being full, of which it saw this and touched so many bytes of shared memory.
fn how_sure(sizes: &TmpfsSizes, filling: &TmpfsFilling, touched: f64) -> Option<f64> {
    let size = sizes.size_bytes as f64;
    let grows = filling.bytes_per_s > 0.0;
    let grew = grows || filling.used_bytes > sizes.first_bytes;
    let then = filling.used_bytes as f64 + filling.bytes_per_s * filling.before_s;
    // Filled between two readings.
    let fits = touched >= NEARLY_FULL * (size - filling.used_bytes as f64) && touched <= MOST_TOUCHED * size;
    if sizes.most_share >= FULL && (grew || sizes.most_bytes > sizes.first_bytes) {
        Some(SEEN_FULL)
    } else if grows && then >= NEARLY_FULL * size {
        Some(GREW_FULL)
    } else if grows && filling.used_share >= HALF_FULL {
        Some(GREW_ONLY)
    } else if (grew && filling.used_share >= HALF_FULL) || (touched > 0.0 && fits) {
        Some(IN_USE)
    } else {
        None
    }
}

/// What its processes died of.
fn died(report: &Report, (index, tmpfs): (usize, &TmpfsSizes), deaths: &[&Death<'_>]) -> Finding {
    let victims: Vec<Subject> = deaths.iter().map(|death| death.subject(report)).collect();
    let mut culprit = victims.first().cloned().unwrap_or_default();
    culprit.path = Some(tmpfs.path.clone());
    let who = match culprit.pid {
        Some(pid) => parties::named("process", culprit.process.as_deref(), pid),
        None => "a process".to_owned(),
    };
    let others = match deaths.len() {
        0 | 1 => String::new(),
        more => format!(" and {} more", more - 1),
    };
    let first = deaths.first().copied();
    let at_s = first.map_or(0.0, |death| death.error.t_s);
    let touching = first.and_then(Death::touching).and_then(|function| functions::words(&function.location));
    let touching = touching.map(|words| format!("; it was written to in {words}")).unwrap_or_default();
    Finding {
        severity: Severity::Critical,
        confidence: confidence(report, deaths.iter().map(|death| death.own).fold(0.0, f64::max)),
        summary: format!(
            "{who}{others} died of SIGBUS after {}: the file system in memory at {}, of {}, had no room left (most seen in use: {}){touching}",
            duration(at_s),
            tmpfs.path,
            bytes(tmpfs.size_bytes),
            bytes(tmpfs.most_bytes),
        ),
        culprit: Some(culprit),
        victims,
        evidence: evidences((index, tmpfs), first),
        ..told(tmpfs)
    }
}

/// The process that held most shared memory, if that is a part of what was in use.
fn holder<'a>(report: &'a Report, tmpfs: &TmpfsSizes) -> Option<(usize, &'a ProcessSizes)> {
    let all = report.memory.as_ref()?.processes.iter().enumerate();
    let most = all.max_by_key(|(index, process)| (process.most.shared_bytes, std::cmp::Reverse(*index)))?;
    (most.1.most.shared_bytes as f64 >= HOLDS * tmpfs.most_bytes as f64).then_some(most)
}

/// It ran full and nobody died.
fn full(report: &Report, (index, tmpfs): (usize, &TmpfsSizes)) -> Finding {
    let mut culprit = Subject { path: Some(tmpfs.path.clone()), ..Subject::default() };
    let mut evidence = evidences((index, tmpfs), None);
    let mut most_by = String::new();
    if let Some((row, process)) = holder(report, tmpfs) {
        (culprit.process, culprit.pid) = (process.process.clone(), Some(process.pid));
        most_by = format!(
            "; most of the shared memory was {}'s",
            parties::named("process", process.process.as_deref(), process.pid)
        );
        let source = format!("/memory/processes/{row}/most/shared_bytes");
        let held = process.most.shared_bytes as f64;
        evidence.push(super::evidence("shared memory of the process that held most", held, "B", source, None));
    }
    Finding {
        severity: Severity::Warning,
        confidence: confidence(report, NOBODY_DIED),
        summary: format!(
            "the file system in memory at {}, of {}, ran full after {}: {} were in use; who writes there then is refused, or killed by SIGBUS{most_by}",
            tmpfs.path,
            bytes(tmpfs.size_bytes),
            duration(tmpfs.most_t_s),
            bytes(tmpfs.most_bytes),
        ),
        culprit: Some(culprit),
        evidence,
        ..told(tmpfs)
    }
}

/// What is to be said of each.
fn told(tmpfs: &TmpfsSizes) -> Finding {
    Finding {
        class: ShmExhaustion.class().to_owned(),
        rank: 0,
        severity: Severity::Warning,
        confidence: 0.0,
        summary: String::new(),
        lost_s: None,
        share_of_wall: None,
        speedup_bound: None,
        culprit: None,
        victims: Vec::new(),
        evidence: Vec::new(),
        hypothesis: "SIGBUS means here that the file system behind a mapping had no page left to give, not that the program used a wrong \
                     pointer: a file in memory may be made longer than the file system is, and fails only when it is written to. write(2), \
                     ftruncate(2) and posix_fallocate(3) fail with ENOSPC instead. Containers get 64 MiB of /dev/shm unless told \
                     otherwise, and data loaders hand each batch over there."
            .to_owned(),
        fix: "Make it larger (docker run --shm-size, an emptyDir with medium Memory, mount -o remount,size=), or put less there: fewer workers, \
              less prefetching, smaller batches, files that a crash has left removed. Both sharing strategies of PyTorch \
              (file_descriptor, file_system) put batches there; where it cannot be made larger, batches must go through pipes or another \
              folder."
            .to_owned(),
        experiment: format!(
            "Run df {} in the container while it runs: the use must reach the size shortly before the end. With twice the size, {}, it must \
             live, or fill that too.",
            tmpfs.path,
            bytes(tmpfs.size_bytes.saturating_mul(2))
        ),
        consequences: Vec::new(),
    }
}

fn evidences((index, tmpfs): (usize, &TmpfsSizes), death: Option<&Death<'_>>) -> Vec<Evidence> {
    let at = |field: &str| format!("/memory/tmpfs/{index}/{field}");
    let size = Some(("size", tmpfs.size_bytes as f64));
    let mut list = vec![evidence("most in use at a reading", tmpfs.most_bytes as f64, "B", at("most_bytes"), size)];
    let Some(death) = death else {
        list.push(evidence("in use at the first reading", tmpfs.first_bytes as f64, "B", at("first_bytes"), size));
        return list;
    };
    let at = |field: &str| format!("/memory/bus_errors/{}/{field}", death.index);
    list.push(evidence("time of the death since the start", death.error.t_s, "s", at("t_s"), None));
    let filling = death.filling;
    let at = |field: &str| at(&format!("fillings/{}/{field}", death.place));
    let used = filling.used_bytes as f64;
    list.push(evidence("in use at the last reading before", used, "B", at("used_bytes"), size));
    list.push(evidence("that reading was before the death by", filling.before_s, "s", at("before_s"), None));
    list.push(evidence("growth until then", filling.bytes_per_s, "B/s", at("bytes_per_s"), None));
    if let Some((row, faults)) = death.faults.filter(|(_, faults)| faults.of("shared") > 0) {
        let source = format!("/paging/faults/{row}/kinds/shared");
        list.push(evidence(
            "pages of shared memory that the process touched",
            faults.of("shared") as f64,
            "1",
            source,
            None,
        ));
    }
    list
}
