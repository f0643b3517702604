//! From counts to weighted stacks.
//!
//! On a CPU each sample stands for its period. A wait is measured exactly, but its stack was not taken each time: the whole time
//! waited at a place is split over the stacks that were taken there, in proportion to how often each was. Parts are rounded so
//! that they sum to the whole. Time at a place where none was taken has no stack.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::super::classify::Calls;
use super::super::names::Names;
use super::{Stacks, Tally, WaitKey};
use crate::model::profile::{Activity, Entry, Frame, Module, NoStack, Profile, Stack, Text};

/// Process, thread, activity, stack.
type Key = (u32, u32, Activity, Result<u64, NoStack>);

/// Frames and files as they get their index.
#[derive(Default)]
struct Indexed {
    frames: Vec<Frame>,
    frame_at: BTreeMap<u32, usize>,
    modules: Vec<Module>,
    module_at: BTreeMap<u32, usize>,
}

/// A tally split over stacks by how often each was taken, so that the parts sum to it.
pub(super) fn shared_out(taken: Vec<(Result<u64, NoStack>, u64)>, tally: Tally) -> Vec<(Result<u64, NoStack>, Tally)> {
    let all = taken.iter().fold(0u64, |sum, (_, count)| sum.saturating_add(*count));
    if all == 0 {
        return vec![(Err(NoStack::NotCaptured), tally)];
    }
    let mut upto = 0u64;
    let share = |whole: u64, part: u64| (u128::from(whole) * u128::from(part) / u128::from(all)) as u64;
    let part = |(stack, count): (Result<u64, NoStack>, u64)| {
        let from = upto;
        upto = upto.saturating_add(count);
        let between = |whole: u64| share(whole, upto) - share(whole, from);
        (stack, Tally { count: between(tally.count), ns: between(tally.ns) })
    };
    taken.into_iter().map(part).collect()
}

impl Stacks {
    /// The weighted stacks, once the window is closed.
    pub fn profile(&self, calls: &Calls, names: &Names, start_unix_ns: Option<u64>, duration_ns: u64) -> Profile {
        let mut sums: BTreeMap<Key, Tally> = BTreeMap::new();
        let mut add = |key: Key, tally: Tally| sums.entry(key).or_default().add(tally.count, tally.ns);
        for ((tgid, tid, stack), tally) in &self.samples {
            add((*tgid, *tid, Activity::OnCpu, self.known(*stack)), *tally);
        }
        add((0, 0, Activity::OnCpu, Err(NoStack::NoRoom)), self.samples_over);
        let processes = self.processes_by_tid();
        for (key, tally) in &self.waits {
            let tgid = if key.tgid == 0 { processes.get(&key.tid).copied().flatten().unwrap_or(0) } else { key.tgid };
            let activity = activity(key, calls);
            for (stack, part) in self.split(tgid, key.place, *tally) {
                add((tgid, key.tid, activity.clone(), stack), part);
            }
        }
        let unknown = Activity::Waiting { state: "unknown", detail: None };
        add((0, 0, unknown, Err(NoStack::NoRoom)), self.waits_over);
        sums.retain(|_, tally| tally.count > 0 || tally.ns > 0);
        let all = self.samples.values().chain([&self.samples_over]);
        let sampled = all.fold(Tally::default(), |mut sum, tally| {
            sum.add(tally.count, tally.ns);
            sum
        });
        self.assemble(
            sums,
            names,
            Profile {
                start_unix_ns,
                duration_ns,
                period_ns: sampled.ns.checked_div(sampled.count).unwrap_or(0),
                ..Profile::default()
            },
        )
    }

    /// The stacks of a place, by how often each was taken.
    pub fn taken_at(&self, tgid: u32, place: u32) -> Vec<(Result<u64, NoStack>, u64)> {
        self.in_order(self.captures.get(&(tgid, place)))
    }

    /// The same of the threads that ended waits there.
    pub fn woken_at(&self, tgid: u32, place: u32) -> Vec<(Result<u64, NoStack>, u64)> {
        self.in_order(self.wakers.get(&(tgid, place)))
    }

    fn in_order(&self, taken: Option<&Vec<(u64, u64)>>) -> Vec<(Result<u64, NoStack>, u64)> {
        let mut taken = taken.cloned().unwrap_or_default();
        taken.sort_by_key(|(stack, count)| (Reverse(*count), *stack));
        taken.into_iter().map(|(stack, count)| (self.known(stack), count)).collect()
    }

    /// The time at a place, split over its stacks.
    pub fn split(&self, tgid: u32, place: u32, tally: Tally) -> Vec<(Result<u64, NoStack>, Tally)> {
        if place == 0 {
            return vec![(Err(NoStack::NoPlace), tally)];
        }
        shared_out(self.taken_at(tgid, place), tally)
    }

    fn known(&self, stack: u64) -> Result<u64, NoStack> {
        match stack {
            0 => Err(NoStack::NoRoom),
            stack if self.definitions.stacks.contains_key(&stack) => Ok(stack),
            _ => Err(NoStack::NotRecorded),
        }
    }

    /// The process of each thread that is the only one with its id: for waits from before its process was known.
    fn processes_by_tid(&self) -> BTreeMap<u32, Option<u32>> {
        let mut processes = BTreeMap::new();
        for (tgid, tid) in self.names.keys().filter(|(tgid, _)| *tgid != 0) {
            processes.entry(*tid).and_modify(|known| *known = None).or_insert(Some(*tgid));
        }
        processes
    }

    fn assemble(&self, sums: BTreeMap<Key, Tally>, names: &Names, mut profile: Profile) -> Profile {
        // Every stack that was taken, those of places without time in the window as well: the quality counts all.
        let mut stacks: BTreeMap<u64, usize> = BTreeMap::new();
        for (_, _, _, stack) in sums.keys() {
            stacks.extend(stack.ok().map(|id| (id, 0)));
        }
        for (stack, _) in self.captures.values().chain(self.wakers.values()).flatten() {
            stacks.extend(self.known(*stack).ok().map(|id| (id, 0)));
        }
        let of_faults = self.faults.keys().map(|(_, _, stack)| stack);
        for stack in of_faults.chain(self.mapped.keys().map(|(_, stack)| stack)) {
            stacks.extend(self.known(*stack).ok().map(|id| (id, 0)));
        }
        let mut indexed = Indexed::default();
        for (index, (id, at)) in stacks.iter_mut().enumerate() {
            *at = index;
            profile.stacks.extend(self.stack(*id, &mut indexed));
        }
        let text = |id| names.text(id).map(Text::from);
        let mut texts: BTreeMap<(u32, u32), (Option<Text>, Option<Text>)> = BTreeMap::new();
        for ((pid, tid, activity, stack), tally) in sums {
            let (thread, process) = texts
                .entry((pid, tid))
                .or_insert_with(|| {
                    let known = self.names.get(&(pid, tid)).copied().unwrap_or_default();
                    (text(known.0), text(known.1))
                })
                .clone();
            let stack = stack.and_then(|id| stacks.get(&id).copied().ok_or(NoStack::NotRecorded));
            let Tally { count, ns } = tally;
            profile.entries.push(Entry { pid, tid, process, thread, activity, stack, ns, count });
        }
        profile.frames = indexed.frames;
        profile.modules = indexed.modules;
        profile
    }

    fn stack(&self, id: u64, indexed: &mut Indexed) -> Option<Stack> {
        let stack = self.definitions.stacks.get(&id)?;
        Some(Stack {
            id,
            frames: stack.frames.iter().map(|number| self.frame(*number, indexed)).collect(),
            end: stack.end,
            at_module: stack.at_module.and_then(|number| self.module(number, indexed)),
            rescued: stack.rescued,
            python_misfit: stack.python_misfit,
            python_end: stack.python_end.clone(),
        })
    }

    fn frame(&self, number: u32, indexed: &mut Indexed) -> usize {
        if let Some(index) = indexed.frame_at.get(&number) {
            return *index;
        }
        let symbol = self.definitions.symbols.get(&number);
        let frame = match self.definitions.frames.get(&number) {
            None => {
                let missing = Some(Text::from("not-recorded"));
                Frame { kind: Default::default(), module: None, address: 0, names: Vec::new(), missing }
            }
            Some(frame) => {
                let names = match (&frame.python, symbol) {
                    (Some(python), _) => vec![python.clone()],
                    (None, Some(symbol)) => symbol.names.clone(),
                    (None, None) => Vec::new(),
                };
                let missing = symbol.and_then(|symbol| symbol.missing.clone());
                let module = frame.module.and_then(|number| self.module(number, indexed));
                Frame { kind: frame.kind, module, address: frame.address, names, missing }
            }
        };
        indexed.frames.push(frame);
        indexed.frame_at.insert(number, indexed.frames.len() - 1);
        indexed.frames.len() - 1
    }

    fn module(&self, number: u32, indexed: &mut Indexed) -> Option<usize> {
        if let Some(index) = indexed.module_at.get(&number) {
            return Some(*index);
        }
        indexed.modules.push(self.definitions.modules.get(&number)?.clone());
        indexed.module_at.insert(number, indexed.modules.len() - 1);
        Some(indexed.modules.len() - 1)
    }
}

fn activity(key: &WaitKey, calls: &Calls) -> Activity {
    Activity::Waiting { state: key.state.id(), detail: calls.detail_name(key.detail, key.syscall) }
}
