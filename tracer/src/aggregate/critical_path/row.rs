//! Pieces that come together in a row of the report.

use std::collections::{BTreeMap, BTreeSet};

use super::walk::Sum;
use crate::aggregate::Aggregate;
use crate::aggregate::block::report::Folders;
use crate::aggregate::build::object;
use crate::aggregate::classify::{Reason, State};
use crate::aggregate::objects::Told;
use crate::aggregate::stacks::report::Named;
use crate::model::stacks::FunctionTime;

const MAX_FUNCTIONS: usize = 4;

/// See the file's head.
#[derive(Default)]
pub(super) struct Row {
    pub(super) ns: u64,
    pub(super) pieces: u64,
    /// Serial numbers.
    pub(super) threads: BTreeSet<u32>,
    /// What its waits were for, by process.
    objects: BTreeSet<(u64, u32)>,
    /// Time by process, and place in its code.
    places: BTreeMap<u32, BTreeMap<u32, u64>>,
}

impl Row {
    /// Adds pieces of one thread.
    pub(super) fn add(&mut self, serial: u32, object: u64, (tgid, place): (u32, u32), sum: Sum) {
        self.ns += sum.ns;
        self.pieces += sum.count;
        self.threads.insert(serial);
        if object != 0 {
            self.objects.insert((object, tgid));
        }
        *self.places.entry(tgid).or_default().entry(place).or_default() += sum.ns;
    }

    /// Takes time of the same pieces and threads out of it.
    pub(super) fn take(&mut self, ns: u64) -> Row {
        self.ns = self.ns.saturating_sub(ns);
        Row { ns, pieces: self.pieces, threads: self.threads.clone(), ..Row::default() }
    }

    /// What its waits were for; none where there are several.
    pub(super) fn object(&self, reason: Reason) -> Option<String> {
        self.one_object().and_then(|one| object(reason, one))
    }

    fn one_object(&self) -> Option<u64> {
        let (first, _) = self.objects.first()?;
        self.objects.iter().all(|(object, _)| object == first).then_some(*first)
    }

    /// What that is; of a file that several processes have by the same inode only what they agree on.
    pub(super) fn told(&self, aggregate: &Aggregate, reason: Reason) -> Told {
        let Some(one) = self.one_object() else { return Told::default() };
        let mut all = self.objects.iter().map(|(_, tgid)| aggregate.told(*tgid, reason, one));
        let first = all.find(|told| told.path.is_some() || told.ends.is_some()).unwrap_or_default();
        let agree = |told: Told| told.path.is_none() || told.path == first.path;
        if all.all(agree) { first } else { Told::default() }
    }

    /// Of waits for several files, what these are called if all lie in one folder.
    pub(super) fn folder(&self, folders: &Folders<'_>, reason: Reason) -> Option<String> {
        if reason.state != State::File || self.one_object().is_some() {
            return None;
        }
        let mut all = self.objects.iter().map(|(inode, _)| folders.of(*inode));
        let first = all.next().flatten()?;
        all.all(|folder| folder == Some(first)).then(|| first.1.to_owned())
    }

    /// In which functions its threads waited, most time first.
    pub(super) fn waited_in(&self, stacks: Option<&Named<'_>>) -> Vec<FunctionTime> {
        let mut merged: Vec<FunctionTime> = Vec::new();
        for (tgid, places) in &self.places {
            let places: Vec<(u32, u64)> = places.iter().map(|(place, ns)| (*place, *ns)).collect();
            for time in stacks.map(|stacks| stacks.places(*tgid, &places)).unwrap_or_default() {
                match merged.iter_mut().find(|known| known.location == time.location) {
                    Some(known) => known.total_s += time.total_s,
                    None => merged.push(time),
                }
            }
        }
        merged.sort_by(|left, right| right.total_s.total_cmp(&left.total_s));
        merged.truncate(MAX_FUNCTIONS);
        merged
    }
}
