//! NUMA nodes: on which of them the memory of processes lies, as user space read it, and on which their threads ran, by the switches' CPUs.
//! Kept on hosts with several nodes only. Bounded: so many nodes, so many processes. What follows from it is for the report and the rules.

use std::collections::BTreeMap;

use crate::aggregate::hash::FastMap;
use crate::model::meta::{NodeMemory, ProcessNodes};

/// Nodes kept.
const MAX_NODES: usize = 1024;
/// Processes kept, of each kind of fact.
const MAX_PROCESSES: usize = 1024;
/// Steps in which the table of CPUs is filled: a damaged record may list all of them many times.
const MAX_CPU_STEPS: usize = 1 << 18;
/// In the table of CPUs: of no node.
const NO_NODE: u32 = u32::MAX;

/// A node at the first and at the last reading.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub first: NodeMemory,
    pub last: NodeMemory,
}

/// Where the memory of a process lies.
#[derive(Clone, Debug, Default)]
pub(super) struct Resident {
    pub readings: u64,
    pub read_ns: u64,
    /// The last reading at which it had at least half of the most: at its end a process has given most of it back.
    pub at: ProcessNodes,
    most: u64,
}

/// See the file's head.
#[derive(Default)]
pub(super) struct Nodes {
    pub nodes: BTreeMap<u32, Node>,
    of_cpu: Vec<u32>,
    /// By process.
    pub resident: BTreeMap<u32, Resident>,
    /// Nanoseconds that threads of a process ran on each node.
    ran: FastMap<u32, Vec<(u32, u64)>>,
    /// Processes that were not read or are not kept.
    pub over: u64,
}

/// All bytes of a reading.
pub(super) fn total(reading: &ProcessNodes) -> u64 {
    reading.nodes.iter().fold(0, |sum, row| sum.saturating_add(row.bytes))
}

impl Nodes {
    /// Takes what a reading says of the host's nodes.
    pub(super) fn host(&mut self, nodes: &[NodeMemory]) {
        if nodes.is_empty() {
            return;
        }
        for node in nodes {
            if let Some(known) = self.nodes.get_mut(&node.node) {
                known.last = node.clone();
            } else if self.nodes.len() < MAX_NODES {
                self.nodes.insert(node.node, Node { first: node.clone(), last: node.clone() });
            }
        }
        self.of_cpu.clear();
        let all = nodes.iter().flat_map(|node| node.cpus.iter().map(move |range| (node.node, *range)));
        let cpus = all.flat_map(|(node, (first, last))| (first..=last).map(move |cpu| (node, usize::from(cpu))));
        for (node, cpu) in cpus.take(MAX_CPU_STEPS) {
            if self.of_cpu.len() <= cpu {
                self.of_cpu.resize(cpu + 1, NO_NODE);
            }
            if let Some(place) = self.of_cpu.get_mut(cpu) {
                *place = node;
            }
        }
    }

    /// Takes a reading of a process.
    pub(super) fn process(&mut self, reading: &ProcessNodes) {
        if self.resident.len() >= MAX_PROCESSES && !self.resident.contains_key(&reading.pid) {
            self.over = self.over.max(1);
            return;
        }
        let known = self.resident.entry(reading.pid).or_default();
        known.readings += 1;
        known.read_ns = known.read_ns.saturating_add(reading.took_ns);
        known.most = known.most.max(total(reading));
        if total(reading) >= known.most / 2 {
            known.at = reading.clone();
            known.at.nodes.truncate(MAX_NODES);
        }
    }

    /// A thread of this process has run on this CPU.
    pub(super) fn ran(&mut self, tgid: u32, cpu: u16, ns: u64) {
        if self.nodes.len() < 2 || tgid == 0 || ns == 0 {
            return;
        }
        let Some(node) = self.of_cpu.get(usize::from(cpu)).copied().filter(|node| *node != NO_NODE) else { return };
        if self.ran.len() >= MAX_PROCESSES && !self.ran.contains_key(&tgid) {
            return;
        }
        let times = self.ran.entry(tgid).or_default();
        match times.iter_mut().find(|(known, _)| *known == node) {
            Some((_, sum)) => *sum = sum.saturating_add(ns),
            None => times.push((node, ns)),
        }
    }

    /// Nanoseconds that its threads ran on a node.
    pub(super) fn ran_ns(&self, tgid: u32, node: u32) -> u64 {
        let times = self.ran.get(&tgid).map_or(&[][..], Vec::as_slice);
        times.iter().find(|(known, _)| *known == node).map_or(0, |(_, ns)| *ns)
    }

    /// Another program runs there now, or another process has the number.
    pub(super) fn anew(&mut self, tgid: u32) {
        self.resident.remove(&tgid);
        self.ran.remove(&tgid);
    }
}

/// Where memory lies and where threads ran, by node: what part of the memory is on another node than the thread that uses it, if each thread
/// used all of it alike; and what part must be, however it is shared out among the threads. None where nothing lies or ran anywhere.
pub(super) fn remote(rows: &[(u64, u64)]) -> Option<(f64, f64)> {
    let sum = |of: fn(&(u64, u64)) -> u64| rows.iter().map(|row| of(row) as f64).sum::<f64>();
    let (bytes, ns) = (sum(|row| row.0), sum(|row| row.1));
    if bytes <= 0.0 || ns <= 0.0 {
        return None;
    }
    let shares = rows.iter().map(|(lies, ran)| (*lies as f64 / bytes, *ran as f64 / ns));
    let (mut alike, mut least) = (0.0, 0.0);
    for (lies, ran) in shares {
        alike += ran * (1.0 - lies);
        least += (lies - ran).max(0.0);
    }
    Some((alike.clamp(0.0, 1.0), least.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::meta::NodeBytes;

    const GIB: u64 = 1 << 30;

    fn node(node: u32, cpus: &[(u16, u16)]) -> NodeMemory {
        NodeMemory { node, cpus: cpus.to_vec(), total: GIB, ..NodeMemory::default() }
    }

    fn reading(pid: u32, bytes: &[u64]) -> ProcessNodes {
        let nodes = bytes.iter().enumerate().map(|(node, bytes)| NodeBytes { node: node as u32, bytes: *bytes });
        ProcessNodes { pid, nodes: nodes.collect(), took_ns: 5, ..ProcessNodes::default() }
    }

    #[test]
    fn time_counts_for_the_node_of_the_cpu_and_only_where_there_are_several() {
        let mut one = Nodes::default();
        one.host(&[node(0, &[(0, 7)])]);
        one.ran(10, 3, 100);
        assert_eq!(one.ran_ns(10, 0), 0);
        let mut nodes = Nodes::default();
        nodes.host(&[node(0, &[(0, 1), (4, 5)]), node(1, &[(2, 3), (6, 7)]), node(2, &[])]);
        for (cpu, ns) in [(0, 1), (5, 2), (2, 10), (7, 20), (8, 100), (1, u64::MAX)] {
            nodes.ran(10, cpu, ns);
        }
        nodes.ran(0, 0, 1_000);
        assert_eq!((nodes.ran_ns(10, 0), nodes.ran_ns(10, 1), nodes.ran_ns(10, 2)), (u64::MAX, 30, 0));
        nodes.anew(10);
        assert_eq!(nodes.ran_ns(10, 1), 0, "another program");
    }

    #[test]
    fn the_last_reading_counts_unless_most_was_given_back() {
        let mut nodes = Nodes::default();
        for bytes in [[4 * GIB, 0], [0, 3 * GIB], [GIB, 0]] {
            nodes.process(&reading(10, &bytes));
        }
        let kept = nodes.resident.get(&10).expect("it was read");
        assert_eq!((kept.readings, kept.read_ns, total(&kept.at)), (3, 15, 3 * GIB), "{kept:?}");
    }

    #[test]
    fn what_must_be_remote_is_told_from_what_may_be() {
        let near = |rows: &[(u64, u64)], alike: f64, least: f64| {
            let (a, l) = remote(rows).expect("some ran and some lies");
            assert!((a - alike).abs() < 1e-9 && (l - least).abs() < 1e-9, "{rows:?}: {a} {l}");
        };
        near(&[(8, 9), (0, 0)], 0.0, 0.0);
        near(&[(8, 0), (0, 9)], 1.0, 1.0);
        near(&[(8, 5), (0, 5)], 0.5, 0.5);
        // Each thread may use what is near it.
        near(&[(4, 5), (4, 5)], 0.5, 0.0);
        near(&[(4, 9), (4, 0)], 0.5, 0.5);
        near(&[(u64::MAX, u64::MAX), (u64::MAX, 0)], 0.5, 0.5);
        // Memory of a node without CPUs is remote for all.
        near(&[(4, 9), (12, 0)], 0.75, 0.75);
        for rows in [&[][..], &[(0, 9)], &[(8, 0)]] {
            assert_eq!(remote(rows), None, "{rows:?}");
        }
    }

    #[test]
    fn damaged_records_are_bounded() {
        let mut nodes = Nodes::default();
        let all: Vec<NodeMemory> = (0..2_000).map(|number| node(number, &[(0, u16::MAX); 4])).collect();
        nodes.host(&all);
        (1..3_000).for_each(|pid| {
            nodes.process(&reading(pid, &[u64::MAX; 3]));
            nodes.ran(pid, 1, u64::MAX);
        });
        assert_eq!(
            (nodes.nodes.len(), nodes.resident.len(), nodes.ran.len()),
            (MAX_NODES, MAX_PROCESSES, MAX_PROCESSES)
        );
        assert_eq!((nodes.of_cpu.len(), nodes.over), (1 << 16, 1));
    }
}
