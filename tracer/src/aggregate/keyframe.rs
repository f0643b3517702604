//! Every live thread as a seed record: what a reader of a capture needs whose older part was rotated away.

use super::Aggregate;
use super::thread::Origin;
use crate::model::meta::SeedRecord;

impl Aggregate {
    /// The live threads with their names and ids. What they are doing is in the events that follow.
    pub fn keyframe(&self) -> Vec<SeedRecord> {
        let text = |id| self.names.text(id).unwrap_or_default();
        self.threads
            .live()
            .into_iter()
            .filter_map(|index| self.threads.get(index))
            .map(|thread| {
                let process = self.processes.get(thread.tgid);
                SeedRecord {
                    tid: thread.tid,
                    tgid: thread.tgid,
                    ppid: process.map_or(0, |process| process.parent),
                    ns_tid: thread.ns_tid,
                    ns_tgid: process.map_or(0, |process| process.ns_pid),
                    comm: text(thread.name),
                    start_boot_ns: if let Origin::Seeded(start_ns) = thread.origin { start_ns } else { 0 },
                    // Not the state now: a replay takes a seed's state back to the start of the window, and what
                    // happened until here was dropped.
                    state: "?".to_owned(),
                    cgroup: self.names.text(thread.cgroup),
                    container: self.names.text(thread.container),
                    priority: thread.facts.priority_plus_1.checked_sub(1),
                    cpus_allowed: Some(thread.facts.cpus_allowed).filter(|cpus| *cpus > 0),
                    ..SeedRecord::default()
                }
            })
            .collect()
    }
}
