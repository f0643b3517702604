//! Functions that write files and wait until disks have them, as those that save checkpoints: what of it was packing the data, copying it into
//! the page cache, and waiting. Told by stacks alone: the calls that sync are in them, and the kernel's functions that write files. Not here:
//! what devices did meanwhile, which the section `io` adds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Tally;
use super::blame::{FunctionId, Site};
use super::report::{Named, grow};
use crate::model::io::{SYNC_CALLS, Save};
use crate::model::meta::FrameKind;
use crate::model::profile::{Activity, Entry};
use crate::model::report::seconds;
use crate::model::stacks::{FILE_WRITE, SYNC, Whose};

/// Rows.
const MAX_SAVES: usize = 8;
/// Waiting for less is not worth a row.
const LEAST_NS: u64 = 10_000_000;

/// The C library's functions that write files.
const WRITES: [&str; 6] = ["write", "pwrite64", "pwrite", "writev", "pwritev", "pwritev2"];

/// A function of a process.
type Saver = (u32, FunctionId);

/// What a save consists of.
#[derive(Default)]
struct Parts<'e> {
    whose: Option<&'e Entry>,
    site: Option<&'e Site>,
    computed: Tally,
    copied: Tally,
    write_waits: Tally,
    synced: Tally,
    other_waits: Tally,
}

/// What an entry of the profile is to a save.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Computing,
    Copying,
    WaitingInWrite,
    Syncing,
    Waiting,
}

impl Named<'_> {
    /// Most waiting for disks first.
    pub fn saves(&self) -> Vec<Save> {
        let writes = |part: Part| matches!(part, Part::Copying | Part::WaitingInWrite);
        let in_writes = self.parts().filter(|(.., part)| writes(*part));
        let writing: BTreeSet<Saver> = in_writes
            .flat_map(|(entry, stack, _)| self.holders_of(stack).into_iter().map(|site| (entry.pid, site.function)))
            .collect();
        let mut savers: BTreeMap<Saver, u64> = BTreeMap::new();
        for (entry, stack, _) in self.parts().filter(|(.., part)| *part == Part::Syncing) {
            let callers = self.holders_of(stack);
            // A helper that only syncs is part of what calls it.
            let also_writes = callers.iter().find(|site| writing.contains(&(entry.pid, site.function)));
            if let Some(site) = also_writes.or(callers.first()) {
                grow(savers.entry((entry.pid, site.function)).or_default(), entry.ns);
            }
        }
        let mut ranked: Vec<(Saver, u64)> = savers.into_iter().filter(|(_, ns)| *ns >= LEAST_NS).collect();
        ranked.sort_by_key(|(saver, ns)| (Reverse(*ns), *saver));
        ranked.truncate(MAX_SAVES);
        ranked.into_iter().map(|(saver, _)| self.save(saver)).collect()
    }

    /// Entries with a stack, and what they are to a save.
    fn parts(&self) -> impl Iterator<Item = (&Entry, usize, Part)> {
        self.profile.entries.iter().filter_map(|entry| {
            let stack = entry.stack.ok()?;
            let in_phase = |phase| self.phase_at(stack) == Some(phase);
            let on_cpu = entry.activity == Activity::OnCpu;
            // Samples have the kernel's frames; of waits they are not always taken, and the C library's function tells the call.
            let waits_in = |names: &[&str]| is_for_a_file(&entry.activity) && self.calls(stack, names);
            let part = if in_phase(SYNC) || waits_in(&SYNC_CALLS) {
                Part::Syncing
            } else if in_phase(FILE_WRITE) {
                if on_cpu { Part::Copying } else { Part::WaitingInWrite }
            } else if on_cpu {
                Part::Computing
            } else if waits_in(&WRITES) {
                Part::WaitingInWrite
            } else {
                Part::Waiting
            };
            Some((entry, stack, part))
        })
    }

    fn save(&self, (pid, function): Saver) -> Save {
        let mut parts = Parts::default();
        for (entry, stack, part) in self.parts().filter(|(entry, ..)| entry.pid == pid) {
            let Some((_, site)) = self.sites.in_stack(stack).find(|(_, site)| site.function == function) else {
                continue;
            };
            let sum = match part {
                Part::Computing => &mut parts.computed,
                Part::Copying => &mut parts.copied,
                Part::WaitingInWrite => &mut parts.write_waits,
                Part::Syncing => &mut parts.synced,
                Part::Waiting => &mut parts.other_waits,
            };
            sum.add(entry.count, entry.ns);
            if part == Part::Syncing {
                (parts.whose, parts.site) = (Some(entry), Some(site));
            }
        }
        let whose = parts.whose.map(|entry| Whose {
            process: entry.process.as_ref().map(ToString::to_string),
            pid: (pid != 0).then_some(pid),
            ..Whose::default()
        });
        Save {
            location: parts.site.map(|site| self.sites.location(site)).unwrap_or_default(),
            whose: whose.unwrap_or_default(),
            computed_s: seconds(parts.computed.ns),
            copied_s: seconds(parts.copied.ns),
            samples: parts.computed.count.saturating_add(parts.copied.count),
            write_waits_s: seconds(parts.write_waits.ns),
            synced_s: seconds(parts.synced.ns),
            other_waits_s: seconds(parts.other_waits.ns),
            ..Save::default()
        }
    }

    /// The functions of a person's code that a stack leads through, innermost first: those of Python, or without these native ones.
    fn holders_of(&self, stack: usize) -> Vec<&Site> {
        let is_python = |site: &&Site| {
            self.sites.functions.get(site.function).is_some_and(|function| function.kind == FrameKind::Python)
        };
        let all = || self.sites.in_stack(stack).map(|(_, site)| site);
        let python: Vec<&Site> = all().filter(is_python).collect();
        if python.is_empty() { all().filter(|site| self.sites.is_user_code(site.function)).collect() } else { python }
    }

    /// Whether a stack leads into one of these functions of the C library, by their own names or those that it gives them inside.
    fn calls(&self, stack: usize, names: &[&str]) -> bool {
        self.sites.in_stack(stack).any(|(_, site)| {
            let native = self.sites.functions.get(site.function).filter(|known| known.kind == FrameKind::Native);
            native.is_some_and(|known| {
                let label = known.label.trim_start_matches("__GI_").trim_start_matches("__libc_");
                names.contains(&label.trim_start_matches('_'))
            })
        })
    }
}

fn is_for_a_file(activity: &Activity) -> bool {
    matches!(activity, Activity::Waiting { state: "file", .. })
}
