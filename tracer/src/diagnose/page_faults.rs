//! `page-fault-storm` and `allocation-churn`: much of the run is the kernel handing out pages of memory that is touched for the first
//! time. It is churn where far more was handed out than the process ever held: memory is mapped, touched and given back, over and over.
//! Pages that are copied after a fork are `fork-copy-on-write`'s, files' are `cold-file-mapping`'s and `page-cache-thrash`'s.

use super::lost::{Lost, lost};
use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties};
use crate::model::mapping::{Mapping, ProcessMapping};
use crate::model::paging::ProcessFaults;
use crate::model::report::{Evidence, Finding, Report, Subject};
use crate::model::stacks::{PAGE_FAULT, UNMAP};
use crate::model::units::{bytes, duration, grouped, percent};

/// Memory is handed out once and kept.
pub struct PageFaultStorm;

/// It is given back and handed out again.
pub struct AllocationChurn;

/// Counts are exact; how long the kernel took is estimated from samples.
const SAMPLED: f64 = 0.85;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;
/// Fewer samples than this estimate nothing.
const LEAST_PIECES: u64 = 3;
/// So many times as much was handed out as the process ever held.
const CHURNED: u64 = 3;
/// To hand out a huge page takes as long as so many small ones, roughly: its 2 MiB are cleared.
const SMALL_PER_HUGE: u64 = 100;
/// Held beyond what is known.
const SLACK_BYTES: u64 = 4 << 20;
/// Fewer calls that map and unmap are not worth a word.
const LEAST_CALLS_PER_S: f64 = 1.0;
/// From this part of the number of mappings that a process may have on it is told how near it came.
const NEAR_MAPPINGS: f64 = 0.5;

/// Whether most page faults handed memory out. Other kinds take part in the time; where they are the most it is theirs.
fn are_first_touches(faults: &ProcessFaults) -> bool {
    let (small, huge) = (faults.of("anonymous"), faults.of("anonymous_huge"));
    let others = faults.total.saturating_sub(small).saturating_sub(huge);
    small.saturating_add(huge.saturating_mul(SMALL_PER_HUGE)) >= others
}

/// Whether most of it was given back and handed out again; `None`: how much the process held is not known.
fn churns(faults: &ProcessFaults) -> Option<bool> {
    let held = faults.anonymous_most_bytes?;
    Some(faults.touched_bytes() >= CHURNED.saturating_mul(held.saturating_add(SLACK_BYTES)))
}

struct Case<'a> {
    report: &'a Report,
    index: usize,
    faults: &'a ProcessFaults,
    lost: Lost,
    churns: bool,
    /// The calls by which the process maps and unmaps, and its row; none without the family `map`.
    mapping: Option<(&'a Mapping, usize, &'a ProcessMapping)>,
}

/// The calls of a process that changed its address space.
fn mapping_of(report: &Report, pid: u32) -> Option<(&Mapping, usize, &ProcessMapping)> {
    let mapping = report.mapping.as_ref()?;
    let (row, process) = mapping.processes.iter().enumerate().find(|(_, process)| process.pid == pid)?;
    Some((mapping, row, process))
}

/// Looks at all processes; `churn` says which of the two is wanted.
fn check(facts: &Facts<'_>, churn: bool) -> Outcome {
    let report = facts.report;
    let Some(all) = report.paging.as_ref().and_then(|paging| paging.faults.as_ref()) else {
        return Outcome::CouldNotRun("the family fault did not run, which counts page faults".to_owned());
    };
    if report.stacks.is_none() {
        return Outcome::CouldNotRun(
            "the family cpu did not run, whose samples tell how long page faults took".to_owned(),
        );
    }
    let wall_s = report.window.duration_s;
    let mut most_s: f64 = 0.0;
    let mut claims = Vec::new();
    for (index, faults) in all.iter().enumerate() {
        let Some(churns) = churns(faults).filter(|churns| *churns == churn) else { continue };
        if !are_first_touches(faults) {
            continue;
        }
        let phases = |phase: &str, pid: Option<u32>| {
            pid == Some(faults.pid) && (phase == PAGE_FAULT || (churns && phase == UNMAP))
        };
        let mapping = mapping_of(report, faults.pid).filter(|_| churns);
        let case = Case { report, index, faults, lost: lost(report, |_| false, phases), churns, mapping };
        most_s = most_s.max(case.lost.s);
        if case.lost.s >= LEAST_SHARE * wall_s && case.lost.pieces >= LEAST_PIECES {
            claims.push(case.claim());
        }
    }
    if claims.is_empty() {
        let what = if churn { "memory handed out again and again took" } else { "page faults took" };
        return Outcome::Silent(format!("{what} {} of {}", duration(most_s), duration(wall_s)));
    }
    Outcome::Claims(claims)
}

impl Rule for PageFaultStorm {
    fn class(&self) -> &'static str {
        "page-fault-storm"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        check(facts, false)
    }
}

impl Rule for AllocationChurn {
    fn class(&self) -> &'static str {
        "allocation-churn"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        check(facts, true)
    }
}

impl Case<'_> {
    fn claim(&self) -> Claim {
        let wall_s = self.report.window.duration_s;
        let (lost_s, at_most_s) = (self.lost.s, self.lost.at_most_s());
        let finding = Finding {
            class: if self.churns { AllocationChurn.class() } else { PageFaultStorm.class() }.to_owned(),
            rank: 0,
            severity: severity(lost_s, wall_s),
            confidence: confidence(self.report, SAMPLED),
            summary: self.summary(wall_s),
            lost_s: Some(at_most_s),
            share_of_wall: self.lost.share,
            speedup_bound: speedup_bound(at_most_s, wall_s),
            culprit: Some(self.culprit()),
            victims: Vec::new(),
            evidence: self.evidence(wall_s),
            hypothesis: self.hypothesis(),
            fix: self.fix(),
            experiment: self.experiment(),
            consequences: Vec::new(),
        };
        Claim { finding, reported: is_reported(lost_s, wall_s, self.lost.pieces, 0.0) }
    }

    fn summary(&self, wall_s: f64) -> String {
        let faults = self.faults;
        let function = self.faults.touching().and_then(|(_, function)| functions::words(&function.location));
        let caused = function.map(|function| format!(", mostly in {function}")).unwrap_or_default();
        let whose = parties::named("process", faults.process.as_deref(), faults.pid);
        let held = faults.anonymous_most_bytes.unwrap_or(0);
        let what = if self.churns {
            format!("{whose} had {} handed out though it held {} at most", bytes(faults.touched_bytes()), bytes(held))
        } else {
            format!("{whose} touched {} for the first time", bytes(faults.touched_bytes()))
        };
        format!(
            "{what}{caused}: {} page faults took {} ({} of {})",
            grouped(faults.total),
            duration(self.lost.s),
            percent(self.lost.s / wall_s.max(f64::MIN_POSITIVE)),
            duration(wall_s)
        )
    }

    fn culprit(&self) -> Subject {
        let faults = self.faults;
        let mut culprit = match faults.threads.first() {
            Some(thread) => {
                let process = (Some(faults.pid), faults.process.as_ref());
                parties::party(self.report, process, (thread.tid, thread.thread.as_ref()))
            }
            None => Subject { process: faults.process.clone(), pid: Some(faults.pid), ..Subject::default() },
        };
        if let Some((_, function)) = self.faults.touching() {
            functions::point_at(&mut culprit, &function.location);
        }
        culprit
    }

    fn evidence(&self, wall_s: f64) -> Vec<Evidence> {
        let at = |field: &str| format!("/paging/faults/{}/{field}", self.index);
        let faults = self.faults;
        let mut list = self.lost.evidence();
        if let Some(first) = list.first_mut() {
            first.compared_with =
                evidence("", 0.0, "", String::new(), Some(("reported from", REPORTED_SHARE * wall_s))).compared_with;
        }
        list.push(evidence("page faults", faults.total as f64, "1", at("total"), None));
        let of_kind = [
            ("anonymous", "of these, first touches of anonymous memory"),
            ("anonymous_huge", "of these, first touches of huge pages of anonymous memory"),
        ];
        for (kind, what) in of_kind.into_iter().filter(|(kind, _)| faults.of(kind) > 0) {
            list.push(evidence(what, faults.of(kind) as f64, "1", at(&format!("kinds/{kind}")), None));
        }
        if let Some(most) = faults.anonymous_most_bytes {
            let all = faults.touched_bytes() as f64;
            let source = at("anonymous_most_bytes");
            list.push(evidence("most anonymous memory held", most as f64, "B", source, Some(("handed out", all))));
        }
        if let Some((number, function)) = self.faults.touching() {
            let source = at(&format!("functions/{number}/share"));
            list.push(evidence("share of these faults in the function, by stacks", function.share, "1", source, None));
        }
        if let Some((mapping, row, process)) = self.mapping {
            list.extend(mapping_evidence(mapping, row, process));
        }
        list
    }

    /// How the process maps and unmaps, in a sentence.
    fn calls(&self) -> Option<String> {
        let (_, _, process) = self.mapping?;
        let per_s = process.mmap_munmap_per_s.filter(|per_s| *per_s >= LEAST_CALLS_PER_S)?;
        let mapper = process.functions.first().and_then(|function| {
            let words = functions::words(&function.location)?;
            Some(format!("; {words} mapped {} of it", percent(function.share)))
        });
        Some(format!(
            " It called mmap and munmap {} times a second and mapped {}{}.",
            grouped(per_s.round() as u64),
            bytes(process.mapped_bytes),
            mapper.unwrap_or_default()
        ))
    }

    fn hypothesis(&self) -> String {
        let how = if self.churns {
            "Each time memory is taken from the kernel anew, it must clear and map every page that is touched, and unmap it when it is given \
             back. Allocators do that with each large block (glibc: above 128 KiB at first, 32 MiB at most)."
        } else if self.faults.in_huge_pages() {
            "The kernel clears and maps each page of new memory when it is first touched. Most of it came in pages of 2 MiB already, so there \
             are few interruptions, and what takes the time is clearing."
        } else {
            "The kernel clears and maps each page of new memory when it is first touched; with pages of 4 KiB that is one interruption for \
             every 4 KiB."
        };
        format!("{how}{} {}", self.calls().unwrap_or_default(), self.lost.whose())
    }

    fn fix(&self) -> String {
        if self.churns {
            "Keep the buffer and reuse it (out= arguments, preallocated arrays, a pool); or keep freed memory in the process: \
             MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ of glibc, or an allocator that retains it (jemalloc, mimalloc)."
        } else if self.faults.in_huge_pages() {
            "Touch the memory before it matters, by several threads or with MADV_POPULATE_WRITE; keep it from one use to the next; or need \
             less of it."
        } else {
            "Use huge pages for large arrays (madvise(MADV_HUGEPAGE), NUMPY_MADVISE_HUGEPAGE=1, THP_MEM_ALLOC_ENABLE=1 of PyTorch); touch \
             the memory before it matters, by several threads or with MADV_POPULATE_WRITE; or need less of it."
        }
        .to_owned()
    }

    fn experiment(&self) -> String {
        let how = if self.churns {
            "Run it with MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296 in the environment, or with the buffer reused: \
             page faults must fall to those of one pass"
        } else if self.faults.in_huge_pages() {
            "Touch the same memory once before the part that matters: page faults must fall there to nearly none"
        } else {
            "Run it with huge pages (echo always > /sys/kernel/mm/transparent_hugepage/enabled on a test machine): page faults must fall by \
             hundreds of times"
        };
        format!("{how}, and the wall time by at most {}.", duration(self.lost.at_most_s()))
    }
}

/// What the calls that change the address space say of churn.
fn mapping_evidence(mapping: &Mapping, row: usize, process: &ProcessMapping) -> Vec<Evidence> {
    let at = |field: &str| format!("/mapping/processes/{row}/{field}");
    let mut list = Vec::new();
    if let Some(per_s) = process.mmap_munmap_per_s {
        let source = at("mmap_munmap_per_s");
        list.push(evidence("calls of mmap and munmap per second", per_s, "1/s", source, None));
    }
    if process.mapped_bytes > 0 {
        let unmapped = process.unmapped_bytes as f64;
        let source = at("mapped_bytes");
        list.push(evidence("mapped", process.mapped_bytes as f64, "B", source, Some(("unmapped", unmapped))));
    }
    if let Some(freed) = process.kinds.get("madvise_free") {
        let source = at("kinds/madvise_free/bytes");
        list.push(evidence("given back by madvise", freed.bytes as f64, "B", source, None));
    }
    if let Some(function) = process.functions.first() {
        let what = match functions::words(&function.location) {
            Some(words) => format!("share of what was mapped that {words} mapped, by stacks"),
            None => "share of what was mapped by the function that mapped most, by stacks".to_owned(),
        };
        list.push(evidence(&what, function.share, "1", at("functions/0/share"), None));
    }
    if let (Some(most), Some(limit)) = (process.mappings_most, mapping.mappings_limit)
        && most as f64 >= NEAR_MAPPINGS * limit as f64
    {
        let allowed = Some(("vm.max_map_count", limit as f64));
        list.push(evidence("most mappings at a time", most as f64, "1", at("mappings_most"), allowed));
    }
    list
}
