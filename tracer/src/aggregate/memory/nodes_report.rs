//! The report's section on NUMA nodes, part of `memory`.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::nodes::{Node, Resident, remote, total};
use crate::aggregate::Aggregate;
use crate::model::memory::{Numa, NumaNode, NumaPart, NumaProcess};
use crate::model::report::seconds;

/// Processes told.
const MAX_ROWS: usize = 16;

impl Aggregate {
    /// The section; none where the nodes were not read.
    pub(super) fn numa_part(&self, name: impl Fn(u32) -> Option<String>) -> Option<Numa> {
        let nodes = &self.memory.nodes;
        if nodes.nodes.is_empty() {
            return None;
        }
        let several = nodes.nodes.len() > 1;
        let mut all: Vec<(u32, &Resident)> =
            nodes.resident.iter().filter(|_| several).map(|(pid, resident)| (*pid, resident)).collect();
        all.sort_by_key(|(pid, resident)| (Reverse(total(&resident.at)), *pid));
        let over = all.split_off(all.len().min(MAX_ROWS)).len() as u64;
        Some(Numa {
            nodes: nodes.nodes.values().map(node).collect(),
            processes: all.into_iter().map(|(pid, resident)| self.numa_process(pid, resident, name(pid))).collect(),
            processes_over: nodes.over.saturating_add(over),
        })
    }

    fn numa_process(&self, pid: u32, resident: &Resident, process: Option<String>) -> NumaProcess {
        let (nodes, at) = (&self.memory.nodes, &resident.at);
        // A damaged record may tell of one twice, or of one that there is not.
        let known: BTreeSet<u32> = nodes.nodes.keys().copied().chain(at.nodes.iter().map(|row| row.node)).collect();
        let lies = |node: u32| {
            let rows = at.nodes.iter().filter(|row| row.node == node);
            rows.fold(0u64, |sum, row| sum.saturating_add(row.bytes))
        };
        let rows: Vec<(u32, u64, u64)> =
            known.into_iter().map(|node| (node, lies(node), nodes.ran_ns(pid, node))).collect();
        let shares = remote(&rows.iter().map(|(_, bytes, ns)| (*bytes, *ns)).collect::<Vec<_>>());
        let part =
            |(node, bytes, ns): &(u32, u64, u64)| NumaPart { node: *node, bytes: *bytes, on_cpu_s: seconds(*ns) };
        NumaProcess {
            pid,
            process,
            t_s: self.t_s(at.at_ns),
            readings: resident.readings,
            read_s: seconds(resident.read_ns),
            resident_bytes: total(at),
            interleaved_bytes: at.interleaved,
            on_cpu_s: seconds(rows.iter().fold(0u64, |sum, (_, _, ns)| sum.saturating_add(*ns))),
            nodes: rows.iter().filter(|(_, bytes, ns)| *bytes > 0 || *ns > 0).map(part).collect(),
            remote_share: shares.map(|(alike, _)| alike),
            least_remote_share: shares.map(|(_, least)| least),
        }
    }
}

fn node(node: &Node) -> NumaNode {
    let (first, last) = (&node.first, &node.last);
    let since = |first: Option<u64>, last: Option<u64>| Some(last?.saturating_sub(first?));
    let range = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    NumaNode {
        node: last.node,
        cpus: last.cpus.iter().map(range).collect::<Vec<_>>().join(","),
        total_bytes: last.total,
        free_bytes: last.free,
        missed_pages: since(first.miss, last.miss),
        foreign_pages: since(first.foreign, last.foreign),
        other_node_pages: since(first.other, last.other),
    }
}
