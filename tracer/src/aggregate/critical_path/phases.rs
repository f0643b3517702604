//! What of the time on a walked path went to a runtime's own doings: of each thread's time on a CPU, the share of its samples there
//! that lie below the collector of garbage.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::report::Writer;
use super::walk::Within;
use crate::aggregate::build::known;
use crate::aggregate::classify::State;
use crate::model::critical_path::PathPhase;
use crate::model::report::seconds;
use crate::model::stacks::{PYTHON_GC, Phase, Whose};

/// Threads of one phase.
const MAX_PHASES: usize = 8;

/// Samples of one thread in one kind of time on the path.
#[derive(Default)]
struct Samples {
    all: u64,
    collecting: u64,
}

/// One thread's time in the phase.
#[derive(Default)]
struct Part {
    ns: u64,
    samples: u64,
    stacks: BTreeMap<u64, u64>,
}

impl Writer<'_> {
    /// Time below collectors of garbage, by thread.
    pub(super) fn phases(&self) -> Vec<PathPhase> {
        let Some(stacks) = self.stacks else { return Vec::new() };
        let mut samples: BTreeMap<(u32, Option<Within>), Samples> = BTreeMap::new();
        let mut parts: BTreeMap<u32, Part> = BTreeMap::new();
        for ((serial, within, stack), count) in &self.path.samples {
            let sum = samples.entry((*serial, *within)).or_default();
            sum.all += count;
            if stacks.is_collecting(*stack) {
                sum.collecting += count;
                let part = parts.entry(*serial).or_default();
                part.samples += count;
                *part.stacks.entry(*stack).or_default() += count;
            }
        }
        for (key, sum) in self.path.parts.iter().filter(|(key, _)| key.state == State::OnCpu) {
            let Some(of) = samples.get(&(key.serial, key.within)).filter(|of| of.collecting > 0) else { continue };
            let ns = u128::from(sum.ns) * u128::from(of.collecting) / u128::from(of.all);
            parts.entry(key.serial).or_default().ns += ns as u64;
        }
        let mut parts: Vec<(u32, Part)> = parts.into_iter().collect();
        parts.sort_by_key(|(serial, part)| (Reverse(part.ns), *serial));
        parts.truncate(MAX_PHASES);
        let row = |(serial, part): &(u32, Part)| {
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
                    phase: PYTHON_GC.to_owned(),
                    s: seconds(part.ns),
                    samples: part.samples,
                    functions: stacks.of_stacks(&part.stacks, part.ns),
                },
            }
        };
        parts.iter().map(row).collect()
    }
}
