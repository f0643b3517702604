//! `allocator-contention`: threads wait for the locks of the C library's allocator, which has too few arenas for them.
//!
//! An arena's lock names no owner, so it is told by what it is: the functions of the allocator that threads waited in, or its place at the
//! beginning of a heap (`kind` of a futex). All arenas of a process count together, since a thread that finds one taken may be given
//! another. Whoever allocates is both culprit and victim: the function named is the one that waited most, innermost outside of the C
//! library. A condition variable or a mutex of a program's own allocator is none of this.

use std::collections::BTreeMap;

use super::thresholds::{REPORTED_SHARE, at_most_s, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties};
use crate::model::critical_path::PathWait;
use crate::model::report::{Evidence, Finding, FunctionTime, Futex, Report, Subject, Waiter};
use crate::model::stacks::{ALLOCATOR, FUTEX};
use crate::model::units::{count, duration, percent};

/// See the file's head.
pub struct AllocatorContention;

/// The word for these locks in `kind`.
const ARENA: &str = "malloc arena";

/// The waits were measured, and their stacks are the allocator's.
const BY_FUNCTION: f64 = 0.9;
/// They are told by their place in memory only.
const BY_MEMORY: f64 = 0.75;

const MAX_VICTIMS: usize = 8;

impl Rule for AllocatorContention {
    fn class(&self) -> &'static str {
        "allocator-contention"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let Some(locks) = &facts.report.locks else {
            return Outcome::CouldNotRun("the family sched did not run".to_owned());
        };
        let mut by_process: BTreeMap<u32, Vec<(usize, &Futex)>> = BTreeMap::new();
        let arenas = locks.futexes.iter().enumerate().filter(|(_, futex)| futex.kind.as_deref() == Some(ARENA));
        for (index, futex) in arenas {
            by_process.entry(futex.pid).or_default().push((index, futex));
        }
        let claims: Vec<Claim> = by_process.values().filter_map(|arenas| claim(facts.report, arenas)).collect();
        match (claims.is_empty(), facts.report.stacks.is_some()) {
            (false, _) => Outcome::Claims(claims),
            (true, true) => Outcome::Silent("no thread waited for a lock of the allocator".to_owned()),
            (true, false) => Outcome::CouldNotRun(
                "the family cpu did not run: only stacks tell the first arena's lock from others".to_owned(),
            ),
        }
    }
}

/// What one thread waited for all arenas.
#[derive(Default)]
struct Waited<'a> {
    total_s: f64,
    /// Its longest row, and where the report holds it.
    row: Option<(String, &'a Waiter)>,
}

fn claim(report: &Report, arenas: &[(usize, &Futex)]) -> Option<Claim> {
    let (index, first) = arenas.first()?;
    let wall_s = report.window.duration_s;
    let mut waited: BTreeMap<u32, Waited> = BTreeMap::new();
    for (index, futex) in arenas {
        for (place, waiter) in futex.waiters.iter().enumerate() {
            let of = waited.entry(waiter.tid).or_default();
            of.total_s += waiter.total_s;
            if of.row.as_ref().is_none_or(|(_, longest)| waiter.total_s > longest.total_s) {
                of.row = Some((format!("/locks/futexes/{index}/waiters/{place}"), waiter));
            }
        }
    }
    let mut ranked: Vec<&Waited> = waited.values().collect();
    ranked.sort_by(|a, b| b.total_s.total_cmp(&a.total_s));
    let longest = ranked.first()?;
    let (row, waiter) = longest.row.as_ref()?;
    let path = on_path(report, arenas);
    let lost_s = path.as_ref().map_or(longest.total_s, |path| path.waited_s);
    let at_most_s = path.as_ref().map_or(lost_s, |path| path.at_most_s.min(wall_s));
    let waits: u64 = arenas.iter().map(|(_, futex)| futex.waits).sum();
    let all_s: f64 = arenas.iter().map(|(_, futex)| futex.total_s).sum();
    let max_s = arenas.iter().map(|(_, futex)| futex.max_s).fold(0.0, f64::max);
    let caller = hottest(arenas).and_then(|time| Some((time, functions::words(&time.location)?)));
    let by_function = arenas.iter().any(|(_, futex)| futex.kind_source.as_deref() == Some("function"));
    let process = parties::named("process", first.process.as_deref(), first.pid);
    let called = caller.as_ref().map(|(_, function)| format!(", mostly in {function}")).unwrap_or_default();
    let mut culprit = Subject { process: first.process.clone(), pid: Some(first.pid), ..Subject::default() };
    culprit.lock = Some(format!("{ARENA} at {}", first.address));
    if let Some((time, _)) = &caller {
        functions::point_at(&mut culprit, &time.location);
    }
    let finding = Finding {
        class: AllocatorContention.class().to_owned(),
        rank: 0,
        severity: severity(lost_s, wall_s),
        confidence: confidence(report, if by_function { BY_FUNCTION } else { BY_MEMORY }),
        summary: format!(
            "{process} lost {} ({} of {}) on waiting for {} of the C library's allocator{called}; {} waited, {} in all, {} the longest",
            duration(lost_s),
            percent(lost_s / wall_s),
            duration(wall_s),
            count(arenas.len() as u64, "arena"),
            count(waited.len() as u64, "thread"),
            duration(all_s),
            parties::named("thread", waiter.thread.as_deref(), waiter.tid),
        ),
        lost_s: Some(at_most_s),
        share_of_wall: path.as_ref().map(|path| path.waited_s / wall_s),
        speedup_bound: speedup_bound(at_most_s, wall_s),
        culprit: Some(culprit),
        victims: ranked.iter().take(MAX_VICTIMS).filter_map(|of| Some(parties::waiter(report, first, of.row.as_ref()?.1))).collect(),
        evidence: numbers(report, (*index, first), (row, waiter), path.as_ref()),
        hypothesis: format!(
            "malloc and free take the lock of an arena, and {} have to share {}. Allocations that the cache of each thread does not \
             serve (larger than 1 KiB, or many of one size) wait for each other.{}",
            count(waited.len() as u64, "thread"),
            count(arenas.len() as u64, "arena"),
            if path.is_some() { BOUND } else { "" }
        ),
        fix: "Let there be more arenas (`MALLOC_ARENA_MAX` up, or not set at all), use an allocator with caches for each thread (jemalloc, \
              tcmalloc, mimalloc by LD_PRELOAD), or allocate less: reuse buffers, allocate once for many small objects."
            .to_owned(),
        experiment: "Run the same work once with LD_PRELOAD of jemalloc or tcmalloc, and once with a larger `MALLOC_ARENA_MAX`: the waits \
                     under malloc and free must go, and the wall time with them, by at most the seconds lost."
            .to_owned(),
        consequences: Vec::new(),
    };
    Some(Claim { finding, reported: is_reported(lost_s, wall_s, waits, max_s) })
}

/// What is said of the seconds on the path.
const BOUND: &str = " The seconds lost are those of the critical path, with what it takes to sleep and to wake, and all computing in the allocator, \
                     some of which stays: a bound.";

/// Time of the critical path that waits for these locks are the reason of.
struct OnPath {
    /// The waits, and the queueing for a CPU after them.
    waited_s: f64,
    /// With the computing below, at most.
    at_most_s: f64,
    /// The queueing.
    queued: Vec<(f64, Evidence)>,
    /// The most of one thread computing in the kernel to sleep and to wake, and in the allocator; and where the report holds it.
    computing: [Option<(usize, f64)>; 2],
    /// The longest wait, for the evidence.
    first: (usize, f64),
}

impl OnPath {
    /// Each wait and each wake-up is a system call; the process's own are shared out by the number of waits. And whoever takes the lock
    /// finds the arena's memory in another CPU's cache.
    fn add_computing(&mut self, report: &Report, pid: u32, arenas: &[(usize, &Futex)]) {
        let all = report.locks.iter().flat_map(|locks| &locks.futexes).filter(|futex| futex.pid == pid);
        let all: u64 = all.map(|futex| futex.waits).sum();
        let of_arenas: u64 = arenas.iter().map(|(_, futex)| futex.waits).sum();
        let shares = [(FUTEX, of_arenas as f64 / all.max(1) as f64), (ALLOCATOR, 1.0)];
        for ((name, share), most) in shares.into_iter().zip(&mut self.computing) {
            let (mut s, mut samples) = (0.0, 0);
            let phases = report.critical_path.iter().flat_map(|path| &path.phases).enumerate();
            for (index, phase) in phases.filter(|(_, phase)| phase.what.phase == name && phase.whose.pid == Some(pid)) {
                (s, samples) = (s + phase.what.s, samples + phase.what.samples);
                if phase.what.s > most.map_or(0.0, |(_, s)| s) {
                    *most = Some((index, phase.what.s));
                }
            }
            self.at_most_s += share * at_most_s(s, samples);
        }
    }
}

fn on_path(report: &Report, arenas: &[(usize, &Futex)]) -> Option<OnPath> {
    let (_, arena) = arenas.first()?;
    let waits: Vec<(usize, &PathWait)> =
        arenas.iter().filter_map(|(_, futex)| parties::on_path(report, futex.pid, &futex.address)).collect();
    let first = waits.iter().map(|(index, wait)| (*index, wait.s)).reduce(|a, b| if b.1 > a.1 { b } else { a })?;
    let ours = |wait: &PathWait| waits.iter().any(|(_, own)| (own.pid, &own.object) == (wait.pid, &wait.object));
    let queued: Vec<(f64, Evidence)> = parties::queued_after(report, ours).collect();
    let wall_s = report.window.duration_s;
    let waited_s = parties::with_queueing(waits.iter().map(|(_, wait)| wait.s).sum(), &queued, wall_s);
    let mut path = OnPath { waited_s, at_most_s: waited_s, queued, computing: [None; 2], first };
    path.add_computing(report, arena.pid, arenas);
    (path.waited_s >= REPORTED_SHARE * wall_s).then_some(path)
}

/// The function in which most time went, over all threads.
fn hottest<'a>(arenas: &[(usize, &'a Futex)]) -> Option<&'a FunctionTime> {
    let mut sums: BTreeMap<Option<&str>, (f64, &FunctionTime)> = BTreeMap::new();
    let all = arenas.iter().flat_map(|(_, futex)| &futex.waiters).flat_map(|waiter| &waiter.places);
    for place in all {
        let sum = sums.entry(place.location.function.as_deref()).or_insert((0.0, place));
        sum.0 += place.total_s;
    }
    sums.into_values().reduce(|a, b| if b.0 > a.0 { b } else { a }).map(|(_, place)| place)
}

fn numbers(
    report: &Report,
    (index, futex): (usize, &Futex),
    (row, waiter): (&String, &Waiter),
    path: Option<&OnPath>,
) -> Vec<Evidence> {
    let wall_s = report.window.duration_s;
    let wall = Some(("wall time", wall_s));
    let threshold = Some(("reporting threshold", REPORTED_SHARE * wall_s));
    let at = |field: &str| format!("/locks/futexes/{index}/{field}");
    let longest =
        evidence("longest wait of one thread for one arena", waiter.total_s, "s", format!("{row}/total_s"), threshold);
    let mut rows = vec![
        longest,
        evidence("wait of all threads for that with the longest waits", futex.total_s, "s", at("total_s"), wall),
        evidence("waits for it", futex.waits as f64, "1", at("waits"), None),
        evidence("threads that waited for it", futex.threads as f64, "1", at("threads"), None),
    ];
    rows.extend(path.map(|path| {
        let source = format!("/critical_path/waits/{}/s", path.first.0);
        evidence("of the critical path, for waits for one arena", path.first.1, "s", source, wall)
    }));
    rows.extend(path.iter().flat_map(|path| &path.queued).take(2).map(|(_, queued)| queued.clone()));
    let what = ["in futex calls", "in the allocator"];
    let computing = path.iter().flat_map(|path| what.iter().zip(&path.computing));
    rows.extend(computing.filter_map(|(what, most)| {
        let (index, s) = (*most)?;
        let metric = format!("of the critical path, computing of one thread {what}, by samples");
        Some(evidence(&metric, s, "s", format!("/critical_path/phases/{index}/s"), None))
    }));
    rows
}
