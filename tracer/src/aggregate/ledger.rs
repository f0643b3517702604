//! What was seen, delivered, decoded and lost, per family: the report's `coverage`. Counters come from the kernel by LOSS
//! records; what happened to records here is counted here.

use std::collections::BTreeMap;

use tracer_common::FamilyId;
use tracer_common::loss::LossReason;
use tracer_common::record::family_of;

use crate::model::meta::{CpuLoss, FamilyLoss, FamilyRecord, LossRecord};
use crate::model::report::FamilyCoverage;

/// What became of one family's records here.
#[derive(Clone, Copy, Default)]
struct Counts {
    decoded: u64,
    undecoded: u64,
    late: u64,
}

/// See the file's head.
#[derive(Default)]
pub struct Ledger {
    /// By the number of the family; 0 is user space's records.
    counts: [Counts; tracer_common::FAMILY_SLOTS],
    undecoded_by_kind: BTreeMap<u16, u64>,
    /// Records too short to have a kind.
    without_kind: u64,
    /// As told, by the family's name.
    families: BTreeMap<String, FamilyRecord>,
    losses: Option<LossRecord>,
    /// When these were taken.
    losses_ns: u64,
}

impl Ledger {
    /// Counts a record that was decoded.
    pub fn decoded(&mut self, family: u8, late: bool) {
        if let Some(counts) = self.counts.get_mut(usize::from(family)) {
            counts.decoded += 1;
            counts.late += u64::from(late);
        }
    }

    /// Counts one that was not.
    pub fn undecoded(&mut self, kind: Option<u16>) {
        let Some(kind) = kind else {
            self.without_kind += 1;
            return;
        };
        *self.undecoded_by_kind.entry(kind).or_default() += 1;
        if let Some(counts) = self.counts.get_mut(usize::from(family_of(kind))) {
            counts.undecoded += 1;
        }
    }

    /// Takes what became of a family.
    pub fn family(&mut self, record: &FamilyRecord) {
        self.families.insert(record.family.clone(), record.clone());
    }

    /// Takes the kernel's counters; the last ones count.
    pub fn loss(&mut self, record: &LossRecord, ts_ns: u64) {
        self.losses = Some(record.clone());
        self.losses_ns = ts_ns;
    }

    /// When the counters were taken.
    pub fn counted_ns(&self) -> Option<u64> {
        self.losses.as_ref().map(|_| self.losses_ns)
    }

    /// Records that each CPU lost, as far as a header's 32 bits show it: of the family that sees switches only, since without a stack or
    /// a lock's record the record of the switch is there all the same and no interval is unknown.
    pub fn lost_by_cpu(&self) -> Vec<u32> {
        let mut lost = Vec::new();
        let families = self.losses.iter().flat_map(|losses| &losses.families);
        for family in families.filter(|family| family.family == family_name(FamilyId::Sched)) {
            lost.resize(lost.len().max(family.cpus.len()), 0u32);
            for (sum, cpu) in lost.iter_mut().zip(&family.cpus) {
                *sum = cpu.lost.iter().fold(*sum, |sum, count| sum.wrapping_add(*count as u32));
            }
        }
        lost
    }

    /// The families' rows, by name.
    pub fn coverage(&self) -> Vec<FamilyCoverage> {
        let mut families = self.families.clone();
        // A family of which records came without being told of.
        for id in FamilyId::ALL {
            let counts = self.counts[id as usize];
            if counts.decoded + counts.undecoded > 0 {
                families.entry(family_name(id).to_owned()).or_insert_with(|| FamilyRecord {
                    family: family_name(id).to_owned(),
                    status: "unknown".to_owned(),
                    reason: Some("the recording does not say".to_owned()),
                });
            }
        }
        families.into_values().map(|family| self.row(family)).collect()
    }

    fn row(&self, family: FamilyRecord) -> FamilyCoverage {
        let id = FamilyId::ALL.into_iter().find(|id| family_name(*id) == family.family);
        let counts = id.map_or(Counts::default(), |id| self.counts[id as usize]);
        let mut row = FamilyCoverage {
            status: family.status,
            reason: family.reason,
            decoded: counts.decoded,
            undecoded: counts.undecoded,
            late: counts.late,
            ..FamilyCoverage::default()
        };
        let losses = self.losses.iter().flat_map(|losses| &losses.families);
        if let Some(loss) = losses.into_iter().find(|loss| loss.family == family.family) {
            add_losses(&mut row, loss);
        }
        row.family = family.family;
        row
    }

    /// Records that could not be decoded, by the number of their kind; "none": too short to have one.
    pub fn undecoded_by_kind(&self) -> BTreeMap<String, u64> {
        let mut kinds: BTreeMap<String, u64> =
            self.undecoded_by_kind.iter().map(|(kind, count)| (kind.to_string(), *count)).collect();
        if self.without_kind > 0 {
            kinds.insert("none".to_owned(), self.without_kind);
        }
        kinds
    }
}

const fn family_name(id: FamilyId) -> &'static str {
    match id {
        FamilyId::Sched => "sched",
        FamilyId::Cpu => "cpu",
        FamilyId::Lock => "lock",
        FamilyId::Fault => "fault",
        FamilyId::Reclaim => "reclaim",
        FamilyId::Cache => "cache",
        FamilyId::Oom => "oom",
        FamilyId::Rss => "rss",
        FamilyId::Map => "map",
        FamilyId::Block => "block",
        FamilyId::Writeback => "writeback",
        FamilyId::Database => "database",
        FamilyId::Net => "net",
        FamilyId::FileExact => "file-exact",
    }
}

/// Events that recursion protection hid were never counted by a program: they are added to `seen` and to `lost`, so that both
/// sums hold.
fn add_losses(row: &mut FamilyCoverage, loss: &FamilyLoss) {
    let sum = |field: fn(&CpuLoss) -> u64| total(loss.cpus.iter().map(field));
    let submitted = sum(|cpu| cpu.submitted);
    for (number, reason) in LossReason::ALL.into_iter().enumerate() {
        let lost = total(loss.cpus.iter().filter_map(|cpu| cpu.lost.get(number)).copied());
        row.by_reason.insert(reason.id().to_owned(), lost);
    }
    row.by_reason.insert("recursion".to_owned(), loss.recursion_misses);
    let delivered = (row.decoded + row.undecoded).saturating_add(loss.queued);
    let seen = sum(|cpu| cpu.seen).saturating_add(loss.recursion_misses);
    for (number, cpu) in loss.cpus.iter().enumerate() {
        let lost = total(cpu.lost.iter().copied());
        if lost > 0 {
            row.lost_by_cpu.insert(number as u32, lost);
        }
    }
    row.seen = Some(seen);
    row.submitted = Some(submitted);
    row.queued = Some(loss.queued);
    row.missing = submitted.checked_sub(delivered).filter(|missing| *missing > 0);
    row.lost = Some(total(row.by_reason.values().copied()));
    row.wakers_forgotten = Some(sum(|cpu| cpu.wakers_forgotten));
    row.share = Some(if seen == 0 { 1.0 } else { (row.decoded as f64 / seen as f64).min(1.0) });
}

/// A sum of counters, which only a damaged record can make overflow.
fn total(counters: impl Iterator<Item = u64>) -> u64 {
    counters.fold(0, u64::saturating_add)
}
