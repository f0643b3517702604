//! Counters of CPU time that user space read: what the host's CPUs did, which cgroups have a quota, which threads are in them. The
//! first value and the last one count; between them is the window, as far as the counters were read in it.

use super::hash::FastMap;
use super::names::{NameId, Names};
use crate::model::meta::{CgroupCpu, CpuLimitsRecord, CpuTimes};

/// Cgroups kept, CPUs kept, and threads whose cgroup is kept.
const MAX_CGROUPS: usize = 256;
const MAX_CPUS: usize = 4096;
const MAX_MEMBERS: usize = 65_536;

/// Two values of the same counters.
#[derive(Clone, Debug)]
pub struct Between<T> {
    /// The first.
    pub first: T,
    /// The last.
    pub last: T,
}

/// See the file's head.
#[derive(Default)]
pub struct Limits {
    cpus: Vec<Between<CpuTimes>>,
    cgroups: Vec<Between<CgroupCpu>>,
    members: FastMap<u32, NameId>,
}

fn note<T: Clone>(list: &mut Vec<Between<T>>, value: &T, same: impl Fn(&T) -> bool, max: usize) {
    let room = list.len() < max;
    match list.iter_mut().find(|known| same(&known.first)) {
        Some(known) => known.last = value.clone(),
        None if room => list.push(Between { first: value.clone(), last: value.clone() }),
        None => {}
    }
}

impl Limits {
    /// Takes a record.
    pub fn record(&mut self, record: &CpuLimitsRecord, names: &mut Names) {
        for (position, cpu) in record.cpus.iter().enumerate() {
            match self.cpus.get_mut(position).filter(|known| known.first.cpu == cpu.cpu) {
                Some(known) => known.last = cpu.clone(),
                None => note(&mut self.cpus, cpu, |known| known.cpu == cpu.cpu, MAX_CPUS),
            }
        }
        for cgroup in &record.cgroups {
            note(&mut self.cgroups, cgroup, |known| known.path == cgroup.path, MAX_CGROUPS);
        }
        for member in &record.members {
            if self.members.len() < MAX_MEMBERS || self.members.contains_key(&member.tid) {
                self.members.insert(member.tid, names.add(member.path.as_bytes()));
            }
        }
    }

    /// The host's CPUs.
    pub fn cpus(&self) -> &[Between<CpuTimes>] {
        &self.cpus
    }

    /// Cgroups with a quota.
    pub fn cgroups(&self) -> &[Between<CgroupCpu>] {
        &self.cgroups
    }

    /// The cgroup that a record named for this thread or process.
    pub fn cgroup_of(&self, tid: u32) -> Option<NameId> {
        self.members.get(&tid).copied()
    }
}

/// Whether a path is that of the cgroup or lies below it.
pub fn is_within(path: &str, cgroup: &str) -> bool {
    let cgroup = cgroup.trim_end_matches('/');
    path.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_within_itself_and_its_ancestors_only() {
        assert!(is_within("/a/b", "/a") && is_within("/a", "/a") && is_within("/a", "/"));
        assert!(!is_within("/ab", "/a") && !is_within("/a", "/a/b"));
    }
}
