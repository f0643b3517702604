//! `mmap-lock-contention` and `kernel-lock-contention`: threads wait for a lock of the kernel. The first is about the lock of the
//! process's own address space, which each call that maps, unmaps or protects memory needs; the second about all others.
//!
//! Lost is what the thread that waited longest slept or spun for the lock. How long it was kept from the lock is more where CPUs are
//! short, but that part is not the lock's. The culprit is the thread behind which the others waited longest, as the lock itself named
//! its owner when a wait began; without any, the one that gave the lock back and so woke them.

use std::collections::BTreeMap;

use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, functions, parties};
use crate::model::report::{Comparison, Evidence, Finding, KernelLock, KernelOwner, KernelWaiter, Report, Subject};
use crate::model::units::{count, duration, grouped, percent};

/// See the file's head.
pub struct MmapLockContention;

/// See the file's head.
pub struct KernelLockContention;

/// The lock and who held it to write were observed, and the waits measured.
const HOLDER_SEEN: f64 = 0.9;
/// The holder read, of which the kernel remembers the last only; or it was seen in less than half of the waits.
const HOLDER_INFERRED: f64 = 0.75;
/// Nobody was seen to hold it: who gave it back is all that is known.
const HOLDER_UNKNOWN: f64 = 0.6;

const MAX_VICTIMS: usize = 8;

/// What kinds of the lock of an address space begin with.
const MMAP: &str = "mmap_lock";

impl Rule for MmapLockContention {
    fn class(&self) -> &'static str {
        "mmap-lock-contention"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        // Readers and writers of one address space wait for each other: one case.
        let mut cases: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, row) in kernel_rows(facts.report).iter().enumerate().filter(|(_, row)| is_mmap(row)) {
            cases.entry(row.pid).or_default().push(index);
        }
        check(self.class(), facts.report, cases.into_values().collect())
    }
}

impl Rule for KernelLockContention {
    fn class(&self) -> &'static str {
        "kernel-lock-contention"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let rows = kernel_rows(facts.report).iter().enumerate();
        check(self.class(), facts.report, rows.filter(|(_, row)| !is_mmap(row)).map(|(index, _)| vec![index]).collect())
    }
}

fn kernel_rows(report: &Report) -> &[KernelLock] {
    report.locks.as_ref().map_or(&[], |locks| &locks.kernel)
}

fn is_mmap(row: &KernelLock) -> bool {
    row.kind.starts_with(MMAP)
}

fn check(class: &'static str, report: &Report, cases: Vec<Vec<usize>>) -> Outcome {
    let family = report.coverage.families.iter().find(|family| family.family == "lock");
    match family {
        None => return Outcome::CouldNotRun("the family lock did not run".to_owned()),
        Some(family) if family.status == "unavailable" => {
            let reason = family.reason.as_deref().unwrap_or("it could not");
            return Outcome::CouldNotRun(format!("the family lock did not run: {reason}"));
        }
        Some(_) => {}
    }
    let claims: Vec<Claim> = cases.iter().filter_map(|indices| Case::new(class, report, indices)?.claim()).collect();
    if claims.is_empty() {
        return Outcome::Silent("no thread slept or spun for such a lock for more than a moment".to_owned());
    }
    Outcome::Claims(claims)
}

/// Slept and spun: what can be laid to the lock.
fn lost_s(waiter: &KernelWaiter) -> f64 {
    waiter.slept_s + waiter.spun_s
}

/// Under this a lock is not worth a word.
const LEAST_S: f64 = 0.01;

/// The rows that make one case, put together.
struct Case<'a> {
    class: &'static str,
    report: &'a Report,
    /// The row with the longest waits, and where the report has it.
    row: &'a KernelLock,
    index: usize,
    /// Waiters, most time lost first, with the place of the entry that is largest.
    waiters: Vec<(KernelWaiter, String)>,
    owners: Vec<KernelOwner>,
    recorded: u64,
    with_owner: u64,
    max_s: f64,
    lock: String,
}

impl<'a> Case<'a> {
    fn new(class: &'static str, report: &'a Report, indices: &[usize]) -> Option<Self> {
        let rows = kernel_rows(report);
        // Rows are sorted: the first has lost most.
        let index = *indices.first()?;
        let row = rows.get(index)?;
        let mut case = Case {
            class,
            report,
            row,
            index,
            waiters: Vec::new(),
            owners: Vec::new(),
            recorded: 0,
            with_owner: 0,
            max_s: 0.0,
            lock: if is_mmap(row) { MMAP.to_owned() } else { row.kind.clone() },
        };
        for (at, row) in indices.iter().filter_map(|at| Some((*at, rows.get(*at)?))) {
            case.recorded += row.count.saturating_sub(row.short_count);
            case.with_owner += row.waits_with_owner;
            case.max_s = case.max_s.max(row.max_s);
            for (place, waiter) in row.waiters.iter().enumerate() {
                case.add_waiter(waiter, format!("/locks/kernel/{at}/waiters/{place}"));
            }
            row.owners.iter().for_each(|owner| case.add_owner(owner));
        }
        case.waiters.sort_by(|(a, _), (b, _)| lost_s(b).total_cmp(&lost_s(a)).then(a.tid.cmp(&b.tid)));
        case.owners.sort_by(|a, b| b.total_s.total_cmp(&a.total_s).then(a.tid.cmp(&b.tid)));
        Some(case)
    }

    fn add_waiter(&mut self, waiter: &KernelWaiter, source: String) {
        let Some((sum, _)) = self.waiters.iter_mut().find(|(known, _)| known.tid == waiter.tid) else {
            self.waiters.push((waiter.clone(), source));
            return;
        };
        sum.count += waiter.count;
        sum.total_s += waiter.total_s;
        sum.slept_s += waiter.slept_s;
        sum.spun_s += waiter.spun_s;
        sum.max_s = sum.max_s.max(waiter.max_s);
    }

    fn add_owner(&mut self, owner: &KernelOwner) {
        let Some(sum) = self.owners.iter_mut().find(|known| known.tid == owner.tid && known.pid == owner.pid) else {
            self.owners.push(owner.clone());
            return;
        };
        sum.count += owner.count;
        sum.reading += owner.reading;
        sum.total_s += owner.total_s;
    }

    fn claim(&self) -> Option<Claim> {
        let (waiter, source) = self.waiters.first()?;
        let (lost_s, wall_s) = (lost_s(waiter), self.report.window.duration_s);
        if lost_s < LEAST_S {
            return None;
        }
        let pid = Some(self.row.pid);
        let after = parties::queued_after(self.report, move |wait| wait.state == "kernel_lock" && wait.pid == pid);
        let after: Vec<(f64, Evidence)> = after.collect();
        let at_most_s = parties::with_queueing(lost_s, &after, wall_s);
        let doing = self.owners.first().and_then(|owner| self.doing(owner));
        let mut evidence = self.evidence(waiter, source, doing.as_ref());
        evidence.extend(after.into_iter().take(2).map(|(_, queued)| queued));
        let finding = Finding {
            class: self.class.to_owned(),
            rank: 0,
            severity: severity(lost_s, wall_s),
            confidence: self.confidence(),
            summary: self.summary(waiter, lost_s, wall_s),
            lost_s: Some(at_most_s),
            share_of_wall: None,
            speedup_bound: speedup_bound(at_most_s, wall_s),
            culprit: self.culprit(doing.as_ref()),
            victims: self.waiters.iter().take(MAX_VICTIMS).map(|(waiter, _)| self.victim(waiter)).collect(),
            evidence,
            hypothesis: self.hypothesis(doing.as_ref()),
            fix: self.fix(),
            experiment: format!(
                "Run it with the fix, or once without the work of {}: the time in the state kernel_lock must fall, and the wall time \
                 with it, by at most {}.",
                self.holder().unwrap_or_else(|| "the thread that holds the lock".to_owned()),
                duration(at_most_s)
            ),
            consequences: Vec::new(),
        };
        let reported = is_reported(lost_s, wall_s, waiter.count, waiter.max_s);
        Some(Claim { finding, reported })
    }

    fn confidence(&self) -> f64 {
        let known = self.owners.iter().map(|owner| owner.count).sum::<u64>();
        let reading = self.owners.iter().map(|owner| owner.reading).sum::<u64>();
        let own = if known == 0 {
            HOLDER_UNKNOWN
        } else if self.with_owner * 2 >= self.recorded && reading * 2 <= known {
            HOLDER_SEEN
        } else {
            HOLDER_INFERRED
        };
        let family = self.report.coverage.families.iter().find(|family| family.family == "lock");
        let share = family.and_then(|family| family.share).unwrap_or(1.0);
        confidence(self.report, own * share)
    }

    fn holder(&self) -> Option<String> {
        if let Some(owner) = self.owners.first() {
            return Some(parties::named("thread", owner.thread.as_deref(), owner.tid));
        }
        let waker = self.row.wakers.iter().find(|waker| waker.tid.is_some())?;
        Some(parties::named("thread", waker.thread.as_deref(), waker.tid?))
    }

    fn summary(&self, waiter: &KernelWaiter, lost_s: f64, wall_s: f64) -> String {
        let place = waiter.places.first().and_then(|place| functions::words(&place.location));
        let called = place.map(|function| format!(", called by {function}")).unwrap_or_default();
        let threads = self.waiters.len() as u64;
        let others = if threads > 1 { format!(", {} in all", count(threads, "thread")) } else { String::new() };
        let held = match (self.owners.first(), self.holder()) {
            (Some(owner), Some(holder)) => {
                let reading = if owner.reading * 2 > owner.count { ", mostly to read" } else { "" };
                let seen = grouped(self.with_owner);
                format!("{holder} held it in {} of {seen} waits with a holder seen{reading}", grouped(owner.count))
            }
            (None, Some(holder)) => format!("who held it was not seen; most often {holder} gave it back"),
            _ => "who held it was not seen".to_owned(),
        };
        format!(
            "{} of {} waited {} ({} of {}) for the kernel's {}{called}{others}; {held}",
            parties::named("thread", waiter.thread.as_deref(), waiter.tid),
            parties::named("process", self.row.process.as_deref(), self.row.pid),
            duration(lost_s),
            percent(lost_s / wall_s),
            duration(wall_s),
            self.lock,
        )
    }

    fn doing(&self, owner: &KernelOwner) -> Option<functions::Doing<'a>> {
        functions::doing(self.report, owner.pid, owner.tid, |wait| wait.state == "kernel_lock")
    }

    fn culprit(&self, doing: Option<&functions::Doing<'_>>) -> Option<Subject> {
        let mut culprit = match self.owners.first() {
            Some(owner) => parties::party(
                self.report,
                (Some(owner.pid), owner.process.as_ref()),
                (owner.tid, owner.thread.as_ref()),
            ),
            None => {
                let waker = self.row.wakers.iter().find(|waker| waker.tid.is_some())?;
                let process = (Some(waker.pid?), waker.process.as_ref());
                parties::party(self.report, process, (waker.tid?, waker.thread.as_ref()))
            }
        };
        culprit.lock = Some(self.lock.clone());
        if let Some(doing) = doing {
            functions::point_at(&mut culprit, &doing.time.location);
        }
        Some(culprit)
    }

    fn victim(&self, waiter: &KernelWaiter) -> Subject {
        let process = (Some(self.row.pid), self.row.process.as_ref());
        let mut victim = parties::party(self.report, process, (waiter.tid, waiter.thread.as_ref()));
        victim.ns_tid = waiter.ns_tid;
        if let Some(place) = waiter.places.first() {
            functions::point_at(&mut victim, &place.location);
        }
        victim
    }

    fn evidence(&self, waiter: &KernelWaiter, source: &str, doing: Option<&functions::Doing<'_>>) -> Vec<Evidence> {
        let wall_s = self.report.window.duration_s;
        let compared = |what: &str, value: f64| Some(Comparison { what: what.to_owned(), value });
        let one = |metric: &str, value: f64, unit: &str, source: String, compared_with| Evidence {
            metric: metric.to_owned(),
            value,
            unit: unit.to_owned(),
            source,
            compared_with,
        };
        // What the report holds, entry by entry; sums over two rows stand in the summary.
        let entry = self.row.waiters.iter().find(|entry| entry.tid == waiter.tid);
        let (at, entry) = match entry {
            Some(entry) => (self.source_of(entry), entry),
            None => (source.to_owned(), waiter),
        };
        let row = |field: &str| format!("/locks/kernel/{}/{field}", self.index);
        let threshold = compared("reporting threshold", REPORTED_SHARE * wall_s);
        let kind = &self.row.kind;
        let mut evidence = vec![
            one(&format!("sleep of one thread for the {kind}"), entry.slept_s, "s", format!("{at}/slept_s"), threshold),
            one("spinning of the same thread", entry.spun_s, "s", format!("{at}/spun_s"), None),
            one(
                "the same thread kept from the lock, time without a CPU included",
                entry.total_s,
                "s",
                format!("{at}/total_s"),
                compared("wall time", wall_s),
            ),
            one("sleep of all threads", self.row.slept_s, "s", row("slept_s"), None),
            one("longest single wait", self.row.max_s, "s", row("max_s"), None),
            one(
                "waits with an owner seen",
                self.row.waits_with_owner as f64,
                "1",
                row("waits_with_owner"),
                compared("waits recorded", self.row.count.saturating_sub(self.row.short_count) as f64),
            ),
        ];
        if let Some(owner) = self.row.owners.first() {
            let whose = parties::named("waits behind thread", owner.thread.as_deref(), owner.tid);
            evidence.push(one(&whose, owner.total_s, "s", row("owners/0/total_s"), None));
        }
        let doing = doing.and_then(|doing| Some((doing, functions::words(&doing.time.location)?)));
        evidence.extend(doing.map(|(doing, function)| {
            let verb = if doing.waited { "waited" } else { "computed" };
            let metric = format!("time that the holder {verb} in {function}");
            one(&metric, doing.time.total_s, "s", doing.source.clone(), None)
        }));
        evidence
    }

    fn source_of(&self, entry: &KernelWaiter) -> String {
        let place = self.row.waiters.iter().position(|other| other.tid == entry.tid).unwrap_or_default();
        format!("/locks/kernel/{}/waiters/{place}", self.index)
    }

    fn hypothesis(&self, doing: Option<&functions::Doing<'_>>) -> String {
        let holder = self.holder().unwrap_or_else(|| "one thread".to_owned());
        let does = doing.and_then(|doing| {
            let verb = if doing.waited { "waited" } else { "computed" };
            Some(format!(" Over the run {holder} {verb} mostly in {}.", functions::words(&doing.time.location)?))
        });
        let what = if is_mmap(self.row) {
            "Each call that maps, unmaps, protects or populates memory takes the lock of the whole address space, and a page fault may \
             need it; threads that do so at once wait for each other."
        } else {
            "Threads ask the kernel for something that it guards with one lock: the same file, directory, pipe, or another object that \
             they share. So they run one after the other there."
        };
        format!(
            "{what} While {holder} holds the lock, the others sleep or spin. The seconds lost are those of the thread that waited \
             longest, an upper bound, since no critical path says whether the run waited for it.{}",
            does.unwrap_or_default()
        )
    }

    fn fix(&self) -> String {
        if is_mmap(self.row) {
            "Map and unmap less: keep and reuse large buffers, raise the allocator's threshold for giving memory back \
             (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, or another allocator), populate memory before the threads start and in smaller \
             pieces, or move what maps so much into a process of its own."
                .to_owned()
        } else {
            "Share less: give each thread or process its own file, directory or pipe, ask for more with one call, or hold the \
             shared object for a shorter time (smaller writes)."
                .to_owned()
        }
    }
}
