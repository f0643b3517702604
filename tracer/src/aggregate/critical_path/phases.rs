//! What of the time on a walked path went to one known thing: of each thread's time on a CPU, the share of its samples there that are
//! in a phase (CPython's collector of garbage, the kernel's code behind fsync, copies between processes).

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::report::Writer;
use super::walk::Within;
use crate::aggregate::build::known;
use crate::aggregate::classify::State;
use crate::model::critical_path::PathPhase;
use crate::model::report::seconds;
use crate::model::stacks::{Phase, Whose};

/// Rows of all phases: threads with most time.
const MAX_PHASES: usize = 16;

/// One thread's time in one phase.
#[derive(Default)]
struct Part {
    ns: u64,
    samples: u64,
    stacks: BTreeMap<u64, u64>,
}

impl Writer<'_> {
    /// Time in phases, by thread.
    pub(super) fn phases(&self) -> Vec<PathPhase> {
        let Some(stacks) = self.stacks else { return Vec::new() };
        // Samples of one thread in one kind of time on the path: all, and by phase.
        type Kind = (u32, Option<Within>);
        let mut samples: BTreeMap<Kind, (u64, BTreeMap<&'static str, u64>)> = BTreeMap::new();
        let mut parts: BTreeMap<(&'static str, u32), Part> = BTreeMap::new();
        for ((serial, within, stack), count) in &self.path.samples {
            let (all, by_phase) = samples.entry((*serial, *within)).or_default();
            *all += count;
            let Some(phase) = stacks.phase(*stack) else { continue };
            *by_phase.entry(phase).or_default() += count;
            let part = parts.entry((phase, *serial)).or_default();
            part.samples += count;
            *part.stacks.entry(*stack).or_default() += count;
        }
        for (key, sum) in self.path.parts.iter().filter(|(key, _)| key.state == State::OnCpu) {
            let Some((all, by_phase)) = samples.get(&(key.serial, key.within)) else { continue };
            for (phase, count) in by_phase {
                let ns = u128::from(sum.ns) * u128::from(*count) / u128::from(*all);
                parts.entry((phase, key.serial)).or_default().ns += ns as u64;
            }
        }
        let mut parts: Vec<((&'static str, u32), Part)> = parts.into_iter().collect();
        parts.sort_by_key(|(key, part)| (Reverse(part.ns), *key));
        parts.truncate(MAX_PHASES);
        let row = |((phase, serial), part): &((&'static str, u32), Part)| {
            let life = self.reader.life(*serial).copied().unwrap_or_default();
            PathPhase {
                share: self.share(part.ns),
                whose: Whose {
                    process: self.aggregate.names.text(life.process),
                    pid: known(life.tgid),
                    thread: self.aggregate.names.text(life.name),
                    tid: known(life.tid),
                },
                what: Phase {
                    phase: (*phase).to_owned(),
                    s: seconds(part.ns),
                    samples: part.samples,
                    functions: stacks.of_stacks(&part.stacks, part.ns),
                },
            }
        };
        parts.iter().map(row).collect()
    }
}
