//! The weighted stacks as the report's section `stacks` and as lines of its thread table.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::blame::{FunctionId, Site, Sites};
use super::callers::is_of_client;
use super::estimate::shared_out;
use super::phases::{Phases, is_packing, of_kernel};
use super::quality::{end, no_stack};
use super::spin::{Spun, spinning};
use super::{Stacks, Tally};
use crate::aggregate::lock_kinds::allocates;
use crate::model::meta::FrameKind;
use crate::model::profile::{Activity, ESTIMATOR, Entry, NoStack, Profile, Text};
use crate::model::report::seconds;
use crate::model::stacks::{
    ALLOCATOR, AtAttach, CpuFunction, DATABASE, FunctionTime, IPC_PACK, Location, PAGE_FAULT, PYTHON_GC, Phase,
    ShownFrame, ShownStack, SpunFunction, Stacks as Section, UNMAP, WaitFunction, Whose,
};

const MAX_FUNCTIONS: usize = 16;
const MAX_WAITS: usize = 24;
const MAX_WAIT_STACKS: usize = 2;
const MAX_SHOWN_STACKS: usize = 32;
/// Functions of one thread or wait.
const MAX_OF_THREAD: usize = 4;

/// What the whole run measured, beside which samples stand.
pub struct Measured {
    /// Time on a CPU, all threads; none without the family `sched`.
    pub on_cpu_ns: Option<u64>,
    /// The same, by process.
    pub on_cpu_ns_of: BTreeMap<u32, u64>,
}

/// Samples of one thread.
#[derive(Clone, Copy, Default)]
pub struct SpunShare {
    /// Those that show it spinning.
    pub spun: Tally,
    /// All.
    pub all: Tally,
}

/// Everything needed to name functions.
pub struct Named<'a> {
    pub(super) stacks: &'a Stacks,
    pub(super) profile: &'a Profile,
    pub(super) sites: Sites<'a>,
    pub(super) by_id: BTreeMap<u64, usize>,
    /// By stack whether it spins.
    spins: Vec<Option<Spun>>,
    /// On-CPU entries by (pid, tid).
    on_cpu: BTreeMap<(u32, u32), Vec<&'a Entry>>,
    /// By stack the phase that it is in.
    phases: Vec<Option<&'static str>>,
}

/// Time by site, summed up by function; the line with most time stands for all.
#[derive(Default)]
pub(super) struct BySite(BTreeMap<FunctionId, BTreeMap<Site, u64>>);

impl BySite {
    pub(super) fn add(&mut self, site: &Site, ns: u64) {
        grow(self.0.entry(site.function).or_default().entry(site.clone()).or_default(), ns);
    }

    /// Most time first.
    fn ranked(&self) -> Vec<(&Site, u64)> {
        let mut ranked: Vec<(&Site, u64)> =
            self.0.values().filter_map(|lines| Some((most(lines)?, sum(lines.values())))).collect();
        ranked.sort_by_key(|(site, ns)| (Reverse(*ns), site.function));
        ranked
    }
}

/// Only a damaged record's times get near the limit.
pub(super) fn grow(sum: &mut u64, by: u64) {
    *sum = sum.saturating_add(by);
}

pub(super) fn sum<'a>(all: impl Iterator<Item = &'a u64>) -> u64 {
    all.fold(0, |sum, ns| sum.saturating_add(*ns))
}

/// The key with most; of equals the first.
fn most<K>(of: &BTreeMap<K, u64>) -> Option<&K> {
    of.iter().rev().max_by_key(|(_, ns)| **ns).map(|(key, _)| key)
}

impl<'a> Named<'a> {
    /// Reads the profile once.
    pub fn new(stacks: &'a Stacks, profile: &'a Profile, phases: Phases) -> Self {
        let by_id = profile.stacks.iter().enumerate().map(|(index, stack)| (stack.id, index)).collect();
        let mut on_cpu: BTreeMap<(u32, u32), Vec<&Entry>> = BTreeMap::new();
        for entry in profile.entries.iter().filter(|entry| entry.activity == Activity::OnCpu) {
            on_cpu.entry((entry.pid, entry.tid)).or_default().push(entry);
        }
        let sites = Sites::of(profile);
        let spins = spinning(profile, &sites);
        let kernel = |site: &Site| sites.functions.get(site.function).filter(|known| known.kind == FrameKind::Kernel);
        let packing = |index: usize| {
            let functions = sites.in_stack(index).filter_map(|(_, site)| sites.functions.get(site.function));
            let of_python = functions.filter(|function| function.kind == FrameKind::Python);
            is_packing(of_python.filter_map(|function| function.file.as_deref()))
        };
        let in_client = |index: usize| {
            let mut functions = sites.in_stack(index).filter_map(|(_, site)| sites.functions.get(site.function));
            functions.any(|function| is_of_client(function, profile))
        };
        let phase = |(index, stack): (usize, &crate::model::profile::Stack)| {
            if phases.is_collecting(stack.id) {
                return Some(PYTHON_GC);
            }
            let functions = sites.in_stack(index).filter_map(|(_, site)| kernel(site));
            let natives = || sites.in_stack(index).filter_map(|(_, site)| sites.functions.get(site.function));
            let allocating = || natives().any(|known| known.kind == FrameKind::Native && allocates(&known.label));
            match of_kernel(functions.map(|function| &*function.label)) {
                // Memory that the packing touches is part of it.
                None | Some(PAGE_FAULT | UNMAP) if packing(index) => Some(IPC_PACK),
                None if in_client(index) => Some(DATABASE),
                None if allocating() => Some(ALLOCATOR),
                phase => phase,
            }
        };
        let phases = profile.stacks.iter().enumerate().map(phase).collect();
        Named { stacks, profile, sites, by_id, spins, on_cpu, phases }
    }

    pub(super) fn blamed(&self, stack: usize) -> Option<&Site> {
        self.sites.blamed.get(stack)?.as_ref()
    }

    pub(super) fn times(&self, by_site: &BySite) -> Vec<FunctionTime> {
        let ranked = by_site.ranked().into_iter().take(MAX_OF_THREAD);
        ranked.map(|(site, ns)| FunctionTime { location: self.sites.location(site), total_s: seconds(ns) }).collect()
    }

    /// What a thread computed.
    pub fn functions_of(&self, pid: u32, tid: u32) -> Vec<FunctionTime> {
        let mut by_site = BySite::default();
        for entry in self.on_cpu.get(&(pid, tid)).into_iter().flatten() {
            let working = entry.stack.ok().filter(|stack| self.spun(*stack).is_none());
            if let Some(site) = working.and_then(|stack| self.blamed(stack)) {
                by_site.add(site, entry.ns);
            }
        }
        self.times(&by_site)
    }

    fn spun(&self, stack: usize) -> Option<&Spun> {
        self.spins.get(stack)?.as_ref()
    }

    /// The function that a stack is put down to, by the stack's id: its number.
    pub fn function_of(&self, id: u64) -> Option<FunctionId> {
        Some(self.blamed(*self.by_id.get(&id)?)?.function)
    }

    /// What stands for a stack's function in reports.
    pub fn location_of(&self, id: u64) -> Option<Location> {
        Some(self.sites.location(self.blamed(*self.by_id.get(&id)?)?))
    }

    /// Time of a process's samples in the kernel's code that makes a process.
    pub fn forking_ns(&self, pid: u32) -> u64 {
        const FORKS: [&str; 4] = ["kernel_clone", "copy_process", "dup_mm", "copy_page_range"];
        let kernel = |site: &Site| {
            let function = self.sites.functions.get(site.function);
            function.is_some_and(|function| function.kind == FrameKind::Kernel && FORKS.contains(&&*function.label))
        };
        let forks = |stack: usize| self.sites.in_stack(stack).any(|(_, site)| kernel(site));
        let own = self.on_cpu.range((pid, 0)..=(pid, u32::MAX)).flat_map(|(_, entries)| entries);
        let forking = own.filter(|entry| entry.stack.is_ok_and(forks));
        forking.fold(0, |sum, entry| sum.saturating_add(entry.ns))
    }

    /// Whether a thread spins in the stack with this id.
    pub fn spins(&self, id: u64) -> bool {
        self.by_id.get(&id).is_some_and(|stack| self.spun(*stack).is_some())
    }

    /// The samples of a thread that show it spinning, and all; none where it has none.
    pub fn spun_share(&self, pid: u32, tid: u32) -> Option<SpunShare> {
        let entries = self.on_cpu.get(&(pid, tid))?;
        let mut share = SpunShare::default();
        for entry in entries {
            share.all.add(entry.count, entry.ns);
            if entry.stack.ok().is_some_and(|stack| self.spun(stack).is_some()) {
                share.spun.add(entry.count, entry.ns);
            }
        }
        Some(share)
    }

    /// In which functions a thread spun and for whom, which share `ns`.
    pub fn spun_in(&self, pid: u32, tid: u32, ns: u64) -> Vec<SpunFunction> {
        type Key<'k> = (&'static str, &'k Site, Option<&'k Site>);
        let mut sums: BTreeMap<Key, u64> = BTreeMap::new();
        for entry in self.on_cpu.get(&(pid, tid)).into_iter().flatten() {
            if let Some(spun) = entry.stack.ok().and_then(|stack| self.spun(stack)) {
                grow(sums.entry((spun.what, &spun.site, spun.caller.as_ref())).or_default(), entry.ns);
            }
        }
        // Several lines of one function are one.
        type ByFunction = (&'static str, FunctionId, Option<FunctionId>);
        let mut by_function: BTreeMap<ByFunction, (Key, u64, u64)> = BTreeMap::new();
        for (key, sum) in &sums {
            let (what, site, caller) = *key;
            let function = (what, site.function, caller.map(|caller| caller.function));
            let (most, most_ns, all_ns) = by_function.entry(function).or_insert((*key, 0, 0));
            grow(all_ns, *sum);
            if *sum > *most_ns {
                (*most, *most_ns) = (*key, *sum);
            }
        }
        let all = sum(sums.values()).max(1);
        let mut rows: Vec<_> = by_function.into_iter().collect();
        rows.sort_by_key(|(function, (.., ns))| (Reverse(*ns), *function));
        rows.truncate(MAX_OF_THREAD);
        let row = |(_, ((what, site, caller), _, part)): (_, (Key, u64, u64))| SpunFunction {
            location: self.sites.location(site),
            waits_for: what.to_owned(),
            caller: caller.map(|caller| self.sites.location(caller)),
            total_s: seconds((u128::from(ns) * u128::from(part) / u128::from(all)) as u64),
        };
        rows.into_iter().map(row).collect()
    }

    /// What phases a thread's time on a CPU was in.
    pub fn phases_of(&self, pid: u32, tid: u32) -> Vec<Phase> {
        let mut phases: BTreeMap<&'static str, (Tally, BySite)> = BTreeMap::new();
        for entry in self.on_cpu.get(&(pid, tid)).into_iter().flatten() {
            let Some(index) = entry.stack.ok() else { continue };
            let Some(phase) = self.phases.get(index).copied().flatten() else { continue };
            let (all, by_site) = phases.entry(phase).or_default();
            all.add(entry.count, entry.ns);
            self.blamed(index).into_iter().for_each(|site| by_site.add(site, entry.ns));
        }
        let row = |(phase, (all, by_site)): (&'static str, (Tally, BySite))| Phase {
            phase: phase.to_owned(),
            s: seconds(all.ns),
            samples: all.count,
            functions: self.times(&by_site),
        };
        phases.into_iter().map(row).collect()
    }

    /// Time on a CPU that a process spent in a phase.
    pub fn phase_ns(&self, pid: u32, phase: &str) -> u64 {
        let own = self.on_cpu.range((pid, 0)..=(pid, u32::MAX)).flat_map(|(_, entries)| entries);
        let within = |entry: &&&Entry| entry.stack.is_ok_and(|stack| self.phases.get(stack) == Some(&Some(phase)));
        own.filter(within).fold(0, |sum, entry| sum.saturating_add(entry.ns))
    }

    /// Functions of stacks that stand for a number each: the sites that they are put down to, most first, with their part of it.
    pub fn sites_of(&self, counts: &BTreeMap<u64, u64>) -> Vec<(Location, u64)> {
        let mut by_site = BySite::default();
        for (stack, count) in counts {
            let stack = self.by_id.get(stack).copied();
            if let Some(site) = stack.and_then(|stack| self.blamed(stack)) {
                by_site.add(site, *count);
            }
        }
        by_site
            .ranked()
            .into_iter()
            .take(MAX_OF_THREAD)
            .map(|(site, count)| (self.sites.location(site), count))
            .collect()
    }

    /// The phase that a stack is in, by its place in the profile.
    pub(super) fn phase_at(&self, stack: usize) -> Option<&'static str> {
        self.phases.get(stack).copied().flatten()
    }

    /// The phase that a stack is in.
    pub fn phase(&self, stack: u64) -> Option<&'static str> {
        self.phase_at(*self.by_id.get(&stack)?)
    }

    /// Where in its code a thread waited, from the places of the waits.
    pub fn places(&self, tgid: u32, places: &[(u32, u64)]) -> Vec<FunctionTime> {
        let at = |(place, ns): &(u32, u64)| self.stacks.split(tgid, *place, Tally { count: 0, ns: *ns });
        self.summed(places.iter().filter(|(place, _)| *place != 0).flat_map(at))
    }

    /// Where in their code the threads were that ended these waits.
    pub fn woken_in(&self, tgid: u32, places: &[(u32, u64)]) -> Vec<FunctionTime> {
        let at = |(place, ns): &(u32, u64)| shared_out(self.stacks.woken_at(tgid, *place), Tally { count: 0, ns: *ns });
        self.summed(places.iter().filter(|(place, _)| *place != 0).flat_map(at))
    }

    fn summed(&self, parts: impl Iterator<Item = (Result<u64, NoStack>, Tally)>) -> Vec<FunctionTime> {
        let mut by_site = BySite::default();
        for (stack, part) in parts {
            let stack = stack.ok().and_then(|id| self.by_id.get(&id).copied());
            if let Some(site) = stack.and_then(|stack| self.blamed(stack)) {
                by_site.add(site, part.ns);
            }
        }
        self.times(&by_site)
    }

    /// The stack that was taken most often at a place.
    pub fn at_place(&self, tgid: u32, place: u32) -> Option<ShownStack> {
        let taken = self.stacks.taken_at(tgid, place);
        taken.into_iter().find_map(|(stack, _)| Some(self.shown(*self.by_id.get(&stack.ok()?)?)))
    }

    /// Native functions of the stack that was taken most often at a place, innermost first.
    pub fn names_at(&self, tgid: u32, place: u32) -> Option<Vec<Text>> {
        let taken = self.stacks.taken_at(tgid, place);
        let stack = taken.into_iter().find_map(|(stack, _)| self.by_id.get(&stack.ok()?).copied())?;
        let native = |(_, site): (usize, &Site)| {
            let function = self.sites.functions.get(site.function)?;
            (function.kind == FrameKind::Native).then(|| function.label.clone())
        };
        Some(self.sites.in_stack(stack).filter_map(native).collect())
    }

    /// Functions of samples, given by stack and number, which share `ns`.
    pub fn of_stacks(&self, counts: &BTreeMap<u64, u64>, ns: u64) -> Vec<FunctionTime> {
        let all = sum(counts.values()).max(1);
        let mut by_site = BySite::default();
        for (stack, count) in counts {
            let stack = self.by_id.get(stack).copied();
            if let Some(site) = stack.and_then(|stack| self.blamed(stack)) {
                by_site.add(site, (u128::from(ns) * u128::from(*count) / u128::from(all)) as u64);
            }
        }
        self.times(&by_site)
    }

    /// The section.
    pub fn section(&self, measured: &Measured) -> Section {
        let mut section = self.totals(measured);
        let mut shown = Shown::default();
        section.functions = self.functions(&mut shown);
        section.waits = self.waits(&mut shown);
        section.stacks = shown.stacks.iter().map(|stack| self.shown(*stack)).collect();
        let rows = self.quality(measured);
        section.no_unwind_files = self.blamed_files();
        let with_python: u64 = rows.iter().map(|row| row.python).sum();
        let all: u64 = rows.iter().map(|row| row.stacks).sum();
        section.python_share = (all > 0).then(|| with_python as f64 / all as f64);
        let (frames, named) = rows.iter().fold((0, 0), |sum, row| (sum.0 + row.frames, sum.1 + row.frames_named));
        let nothing_named = frames > 0 && named == 0 && self.stacks.definitions.symbols.is_empty();
        section.unsymbolised = nothing_named.then(|| "unsymbolised (build id + offset)".to_owned());
        section.quality = rows;
        section
    }

    fn totals(&self, measured: &Measured) -> Section {
        let (mut on_cpu, mut waited, mut placed) = (Tally::default(), Tally::default(), Tally::default());
        let mut without: BTreeMap<String, u64> = BTreeMap::new();
        for entry in &self.profile.entries {
            if entry.activity == Activity::OnCpu {
                on_cpu.add(entry.count, entry.ns);
                continue;
            }
            waited.add(entry.count, entry.ns);
            match entry.stack {
                Ok(_) => placed.add(entry.count, entry.ns),
                Err(why) => grow(without.entry(no_stack(why).to_owned()).or_default(), entry.ns),
            }
        }
        let stacks = self.stacks;
        let captures = sum(stacks.captures.values().flatten().map(|(_, count)| count));
        let positive = |count: u64| (count > 0).then_some(count);
        let period_s = (self.profile.period_ns > 0).then(|| seconds(self.profile.period_ns));
        let exact_ns = measured.on_cpu_ns.filter(|ns| *ns > 0);
        Section {
            samples: on_cpu.count,
            sample_period_s: period_s,
            sample_hz: period_s.map(|period_s| 1.0 / period_s),
            sampled_s: seconds(on_cpu.ns),
            on_cpu_s: measured.on_cpu_ns.map(seconds),
            sampled_over_on_cpu: exact_ns.map(|exact_ns| on_cpu.ns as f64 / exact_ns as f64),
            captures: captures.saturating_add(stacks.captures_over),
            recaptured: stacks.refreshed,
            changed: stacks.changed,
            changed_share: (stacks.refreshed > 0).then(|| stacks.changed as f64 / stacks.refreshed as f64),
            waited_s: seconds(waited.ns),
            waited_with_stack_s: seconds(placed.ns),
            waited_without_stack: without.into_iter().map(|(why, ns)| (why, seconds(ns))).collect(),
            estimator: ESTIMATOR.to_owned(),
            definitions_without_room: positive(stacks.definitions.refused.no_room + stacks.captures_over),
            definitions_contradicting: positive(stacks.definitions.refused.contradicting),
            outside_window: positive(stacks.outside),
            at_attach: stacks.attached.clone().map(|record| AtAttach {
                threads: record.threads,
                taken: record.taken,
                moved: record.moved,
                over: record.over,
                reason: record.reason,
            }),
            ..Section::default()
        }
    }

    /// Functions by time on a CPU.
    fn functions(&self, shown: &mut Shown) -> Vec<CpuFunction> {
        let mut users: BTreeMap<FunctionId, User> = BTreeMap::new();
        let mut all_ns = 0u64;
        for entry in self.profile.entries.iter().filter(|entry| entry.activity == Activity::OnCpu) {
            all_ns = all_ns.saturating_add(entry.ns);
            let Ok(stack) = entry.stack else { continue };
            let Some(site) = self.blamed(stack) else { continue };
            let user = users.entry(site.function).or_default();
            user.own.add(entry.count, entry.ns);
            grow(user.own_lines.entry(site.clone()).or_default(), entry.ns);
            if let Some((_, leaf)) = self.sites.in_stack(stack).next()
                && leaf.function != site.function
            {
                grow(user.inside.entry(leaf.function).or_default(), entry.ns);
            }
            for (function, site) in self.holders(stack, site) {
                let user = users.entry(function).or_default();
                user.inclusive_ns = user.inclusive_ns.saturating_add(entry.ns);
                user.take(site, entry, stack);
                grow(user.threads.entry((entry.pid, entry.tid)).or_default(), entry.ns);
            }
        }
        let mut listed: BTreeSet<FunctionId> = BTreeSet::new();
        for key in [|user: &User| user.own.ns, |user: &User| user.inclusive_ns] {
            let mut ranked: Vec<(&FunctionId, &User)> = users.iter().filter(|(_, user)| key(user) > 0).collect();
            ranked.sort_by_key(|(function, user)| (Reverse(key(user)), **function));
            listed.extend(ranked.into_iter().take(MAX_FUNCTIONS).map(|(function, _)| *function));
        }
        let mut rows: Vec<(FunctionId, &User)> = listed.iter().filter_map(|id| Some((*id, users.get(id)?))).collect();
        rows.sort_by_key(|(function, user)| (Reverse(user.own.ns), Reverse(user.inclusive_ns), *function));
        rows.into_iter().map(|(_, user)| self.function(user, all_ns, shown)).collect()
    }

    /// The functions that a stack's time counts for inclusively, each once: its Python functions, or without these the native ones
    /// of user code; and in any case the one that it is put down to.
    fn holders<'s>(&'s self, stack: usize, blamed: &'s Site) -> BTreeMap<FunctionId, &'s Site> {
        let kind = |site: &Site| self.sites.functions.get(site.function).map(|function| function.kind);
        let python = kind(blamed) == Some(FrameKind::Python);
        let mut holders = BTreeMap::from([(blamed.function, blamed)]);
        for (_, site) in self.sites.in_stack(stack) {
            let counts =
                if python { kind(site) == Some(FrameKind::Python) } else { self.sites.is_user_code(site.function) };
            if counts {
                holders.entry(site.function).or_insert(site);
            }
        }
        holders
    }

    fn function(&self, user: &User, all_ns: u64, shown: &mut Shown) -> CpuFunction {
        let share = |ns: u64| if all_ns > 0 { ns as f64 / all_ns as f64 } else { 0.0 };
        let site = if user.own.ns > 0 { most(&user.own_lines) } else { most(&user.lines) };
        let inside = most(&user.inside).and_then(|function| self.sites.functions.get(*function));
        let top = most(&user.threads).and_then(|(pid, tid)| self.on_cpu.get(&(*pid, *tid))?.first());
        CpuFunction {
            location: site.map(|site| self.sites.location(site)).unwrap_or_default(),
            samples: user.own.count,
            self_s: seconds(user.own.ns),
            self_share: share(user.own.ns),
            inclusive_s: seconds(user.inclusive_ns),
            inclusive_share: share(user.inclusive_ns),
            inside: inside.map(|function| function.label.to_string()),
            whose: top.map(|entry| whose(entry)).unwrap_or_default(),
            threads: user.threads.len() as u64,
            stack: most(&user.stacks).and_then(|stack| shown.id(*stack, self.profile)),
        }
    }

    /// Waits by process, thread name, state and function.
    fn waits(&self, shown: &mut Shown) -> Vec<WaitFunction> {
        type Key<'k> = (u32, Option<&'k str>, &'k Activity, Result<Option<FunctionId>, NoStack>);
        let mut waiters: BTreeMap<Key, (User, &Entry)> = BTreeMap::new();
        for entry in self.profile.entries.iter().filter(|entry| entry.activity != Activity::OnCpu) {
            let site = entry.stack.map(|stack| self.blamed(stack));
            let function = site.map(|site| site.map(|site| site.function));
            let key = (entry.pid, entry.thread.as_deref(), &entry.activity, function);
            let (user, _) = waiters.entry(key).or_insert_with(|| (User::default(), entry));
            user.own.add(entry.count, entry.ns);
            grow(user.threads.entry((entry.pid, entry.tid)).or_default(), entry.ns);
            if let (Ok(stack), Ok(Some(site))) = (entry.stack, site) {
                user.take(site, entry, stack);
            }
        }
        let mut ranked: Vec<(Key, (User, &Entry))> =
            waiters.into_iter().filter(|(_, (user, _))| user.own.ns > 0).collect();
        // Stable: of equals the one with the smaller key.
        ranked.sort_by_key(|(_, (user, _))| Reverse(user.own.ns));
        ranked.truncate(MAX_WAITS);
        ranked.into_iter().map(|((.., function), (user, entry))| self.wait(function, &user, entry, shown)).collect()
    }

    fn wait(
        &self,
        function: Result<Option<FunctionId>, NoStack>,
        user: &User,
        entry: &Entry,
        shown: &mut Shown,
    ) -> WaitFunction {
        let (state, detail) = match &entry.activity {
            Activity::Waiting { state, detail } => ((*state).to_owned(), detail.clone()),
            Activity::OnCpu => Default::default(),
        };
        let mut stacks: Vec<(&usize, &u64)> = user.stacks.iter().collect();
        stacks.sort_by_key(|(stack, ns)| (Reverse(**ns), **stack));
        let single = user.threads.len() == 1;
        let whose = whose(entry);
        WaitFunction {
            location: most(&user.lines).map(|site| self.sites.location(site)).unwrap_or_default(),
            state,
            detail,
            no_stack: function.err().map(|why| no_stack(why).to_owned()),
            whose: Whose { tid: whose.tid.filter(|_| single), ..whose },
            threads: user.threads.len() as u64,
            waits: user.own.count,
            total_s: seconds(user.own.ns),
            stacks: stacks
                .into_iter()
                .take(MAX_WAIT_STACKS)
                .filter_map(|(stack, _)| shown.id(*stack, self.profile))
                .collect(),
        }
    }

    fn shown(&self, stack: usize) -> ShownStack {
        let Some(known) = self.profile.stacks.get(stack) else { return ShownStack::default() };
        let frame = |(frame, site): (usize, &Site)| {
            let location = self.sites.location(site);
            let frame = self.profile.frames.get(frame).filter(|_| location.unsymbolised);
            let module = frame.and_then(|frame| frame.module).and_then(|module| self.profile.modules.get(module));
            let build_id = module.and_then(|module| module.build_id.as_ref()).map(|id| id.to_string());
            ShownFrame { location, inlined: site.inlined, build_id }
        };
        ShownStack {
            id: hexadecimal(known.id),
            end: end(known.end, known.rescued).to_owned(),
            frames: self.sites.in_stack(stack).map(frame).collect(),
        }
    }
}

fn whose(entry: &Entry) -> Whose {
    Whose {
        process: entry.process.as_ref().map(|name| name.to_string()),
        pid: (entry.pid != 0).then_some(entry.pid),
        thread: entry.thread.as_ref().map(|name| name.to_string()),
        tid: (entry.tid != 0).then_some(entry.tid),
    }
}

/// What a function used, or how long it waited.
#[derive(Default)]
struct User {
    own: Tally,
    inclusive_ns: u64,
    own_lines: BTreeMap<Site, u64>,
    lines: BTreeMap<Site, u64>,
    inside: BTreeMap<FunctionId, u64>,
    threads: BTreeMap<(u32, u32), u64>,
    stacks: BTreeMap<usize, u64>,
}

impl User {
    fn take(&mut self, site: &Site, entry: &Entry, stack: usize) {
        grow(self.lines.entry(site.clone()).or_default(), entry.ns);
        grow(self.stacks.entry(stack).or_default(), entry.ns);
    }
}

/// The stacks that the report holds, in the order in which they were named.
#[derive(Default)]
struct Shown {
    stacks: Vec<usize>,
}

impl Shown {
    /// The stack's id, if there is room for it.
    fn id(&mut self, stack: usize, profile: &Profile) -> Option<String> {
        if !self.stacks.contains(&stack) {
            if self.stacks.len() >= MAX_SHOWN_STACKS {
                return None;
            }
            self.stacks.push(stack);
        }
        profile.stacks.get(stack).map(|stack| hexadecimal(stack.id))
    }
}

fn hexadecimal(id: u64) -> String {
    format!("{id:#018x}")
}
