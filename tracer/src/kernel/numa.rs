//! NUMA nodes: which CPUs and how much memory each has, what the kernel counts of allocations that missed the node they wanted, and on which
//! nodes a process's pages lie. Reads; decides nothing. For a process the kernel walks its page tables, so that is read seldom.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::proc;
use crate::model::meta::{NodeBytes, NodeMemory, ProcessNodes};

/// Where the kernel shows them.
const NODES: &str = "/sys/devices/system/node";
/// More nodes than this are not read; kernels are built for at most 1,024.
const MAX_NODES: usize = 1024;
/// Ranges of CPUs of one node that are read: where their numbers alternate, each is one.
const MAX_RANGES: usize = 4096;
/// A longer text is not used: some 100,000 mappings.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// The nodes of this host, in the order of their numbers; empty where the kernel does not tell.
pub fn nodes() -> Vec<NodeMemory> {
    nodes_below(Path::new(NODES))
}

fn nodes_below(folder: &Path) -> Vec<NodeMemory> {
    let number = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.ok()?.file_name().to_str()?.strip_prefix("node")?.parse::<u32>().ok()
    };
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut numbers: Vec<u32> = entries.filter_map(number).take(MAX_NODES).collect();
    numbers.sort_unstable();
    let text = |node: u32, name: &str| {
        let path = folder.join(format!("node{node}")).join(name);
        String::from_utf8_lossy(&proc::read(path.to_str().unwrap_or_default()).unwrap_or_default()).into_owned()
    };
    let read = |node: u32| node_in(node, &text(node, "cpulist"), &text(node, "meminfo"), &text(node, "numastat"));
    numbers.into_iter().map(read).collect()
}

fn node_in(node: u32, cpulist: &str, meminfo: &str, numastat: &str) -> NodeMemory {
    // "Node 0 MemTotal:       24683652 kB"
    let kib = |key: &str| {
        let line = meminfo.lines().find_map(|line| {
            let (_, rest) = line.split_once(key)?;
            rest.strip_prefix(':')
        })?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let count = |key: &str| {
        let value = numastat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
        value.trim().parse::<u64>().ok()
    };
    NodeMemory {
        node,
        cpus: cpus_in(cpulist),
        total: kib("MemTotal").unwrap_or(0),
        free: kib("MemFree").unwrap_or(0),
        miss: count("numa_miss"),
        foreign: count("numa_foreign"),
        other: count("other_node"),
    }
}

/// Ranges of CPUs, first and last one, of a list like "0-3,8,10-11"; what is no range is left out.
fn cpus_in(list: &str) -> Vec<(u16, u16)> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?);
        (first <= last).then_some((first, last))
    };
    list.split(',').filter_map(range).take(MAX_RANGES).collect()
}

/// On which nodes the pages of a process lie; none where it is gone, not ours to read, has too many mappings, or the kernel does not tell.
/// When it was read is for the caller to say.
pub fn process(pid: u32) -> Option<ProcessNodes> {
    let mut text = Vec::new();
    let file = std::fs::File::open(format!("/proc/{pid}/numa_maps")).ok()?;
    let len = file.take(MAX_TEXT_BYTES).read_to_end(&mut text).ok()? as u64;
    (len > 0 && len < MAX_TEXT_BYTES).then(|| process_in(pid, &text))
}

/// Of a line like "7f00 interleave:0-1 anon=6 dirty=6 N0=4 N1=2 kernelpagesize_kB=4" (numa(7)); a path in it has its blanks escaped.
fn process_in(pid: u32, text: &[u8]) -> ProcessNodes {
    let mut all = ProcessNodes { pid, ..ProcessNodes::default() };
    let mut nodes: BTreeMap<u32, u64> = BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
        let fields: Vec<&str> = line.split_ascii_whitespace().skip(1).collect();
        // "interleave:0-1", "interleave=static:0-1", "weighted interleave:0-1".
        let spread = fields.iter().take(2).any(|word| word.starts_with("interleave"));
        // A page of a mapping with huge ones of hugetlbfs is one in these counts; transparent ones count in small pages.
        let size = fields.iter().rev().find_map(|field| field.strip_prefix("kernelpagesize_kB=")?.parse::<u64>().ok());
        let Some(size) = size.and_then(|kib| kib.checked_mul(1024)) else { continue };
        for (node, pages) in fields.iter().filter_map(|field| on_node(field)) {
            let bytes = pages.saturating_mul(size);
            if nodes.len() >= MAX_NODES && !nodes.contains_key(&node) {
                continue;
            }
            let sum = nodes.entry(node).or_default();
            *sum = sum.saturating_add(bytes);
            if spread {
                all.interleaved = all.interleaved.saturating_add(bytes);
            }
        }
    }
    all.nodes = nodes.into_iter().map(|(node, bytes)| NodeBytes { node, bytes }).collect();
    all
}

/// "N1=2": so many pages on that node.
fn on_node(field: &str) -> Option<(u32, u64)> {
    let (node, pages) = field.strip_prefix('N')?.split_once('=')?;
    Some((node.parse().ok()?, pages.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the format of numa(7), with two nodes.
    const MAPS: &[u8] = b"00400000 default file=/usr/local/bin/app mapped=1 active=0 N0=1 kernelpagesize_kB=4\n\
        3206000000 default file=/lib64/ld-2.12.so mapped=26 mapmax=6 N0=24 N1=2 kernelpagesize_kB=4\n\
        7f4dc10a2000 bind:0 anon=3 dirty=3 N0=3 kernelpagesize_kB=4\n\
        7f4dc14a2000 interleave:0-1 anon=512 dirty=512 N0=256 N1=256 kernelpagesize_kB=4\n\
        7f4dc18a2000 weighted interleave:0-1 anon=2 dirty=2 N1=2 kernelpagesize_kB=4\n\
        7f4dc1ca2000 prefer:1 huge anon=2 dirty=2 N1=2 kernelpagesize_kB=2048\n\
        7f4dc20a2000 default file=/srv/N9=7\\040x anon=1 N1=1 kernelpagesize_kB=4\n\
        7ffc1b2b9000 default stack anon=3 dirty=3 N0=3 kernelpagesize_kB=4\n\
        7ffc1b3d5000 default\n";

    #[test]
    fn pages_are_summed_up_by_node_in_bytes() {
        let found = process_in(7, MAPS);
        let small = 4096;
        let expected = [
            NodeBytes { node: 0, bytes: (1 + 24 + 3 + 256 + 3) * small },
            NodeBytes { node: 1, bytes: (2 + 256 + 2 + 1) * small + (4 << 20) },
        ];
        assert_eq!((found.pid, &found.nodes[..]), (7, &expected[..]));
        assert_eq!(found.interleaved, 514 * small);
    }

    #[test]
    fn truncated_and_odd_lines_count_for_what_they_are() {
        for end in 0..MAPS.len() {
            let cut = process_in(7, &MAPS[..end]);
            assert!(cut.nodes.len() <= 2, "cut after {end} bytes: {cut:?}");
        }
        for text in [
            &b""[..],
            b"\n\n",
            b"N0=1 N1=1",
            b"x default N0=1",
            b"x default N0=1 kernelpagesize_kB=",
            b"x default N0=1 kernelpagesize_kB=18446744073709551615",
            b"x default N=1 N-1=1 Nx=1 N0= N0=-1 kernelpagesize_kB=4",
            b"\xff\xff default N0=1 kernelpagesize_kB=4",
        ] {
            assert_eq!(process_in(7, text).nodes, [], "{text:?}");
        }
        let huge = process_in(7, b"x interleave:0 N0=18446744073709551615 N0=9 kernelpagesize_kB=1048576\n");
        assert_eq!((&huge.nodes[..], huge.interleaved), (&[NodeBytes { node: 0, bytes: u64::MAX }][..], u64::MAX));
        let many: String = (0..5_000).map(|node| format!("x default N{node}=1 kernelpagesize_kB=4\n")).collect();
        assert_eq!(process_in(7, many.as_bytes()).nodes.len(), MAX_NODES);
    }

    #[test]
    fn a_node_has_its_cpus_its_memory_and_its_counters() {
        let meminfo = "Node 1 MemTotal:       24683652 kB\nNode 1 MemFree:        100 kB\nNode 1 MemUsed:  5 kB\n";
        let numastat =
            "numa_hit 864374990\nnuma_miss 12\nnuma_foreign 34\ninterleave_hit 1130\nlocal_node 1\nother_node 56\n";
        let node = node_in(1, "4-7,12\n", meminfo, numastat);
        assert_eq!((node.node, &node.cpus[..]), (1, &[(4, 7), (12, 12)][..]));
        assert_eq!((node.total, node.free), (24_683_652 << 10, 100 << 10));
        assert_eq!((node.miss, node.foreign, node.other), (Some(12), Some(34), Some(56)));
        let without = node_in(2, "\n", "", "numa_missing 3\nother_node\n");
        assert_eq!(without, NodeMemory { node: 2, ..NodeMemory::default() }, "memory only, and nothing told");
        assert_eq!(cpus_in("3-1,70000,-,x,2-,5"), [(5, 5)]);
    }

    #[test]
    fn nodes_are_found_in_their_folder_in_the_order_of_their_numbers() {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let folder = temporary.path();
        for name in ["node10", "node2", "nodes", "has_cpu"] {
            std::fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        std::fs::write(folder.join("node2/cpulist"), "0-1\n").expect("a file");
        let found = nodes_below(folder);
        assert_eq!(found.iter().map(|node| node.node).collect::<Vec<_>>(), [2, 10]);
        assert_eq!(found.first().map(|node| node.cpus.clone()), Some(vec![(0, 1)]));
        assert_eq!(nodes_below(&folder.join("gone")), []);
    }

    #[test]
    fn this_process_lies_on_nodes_that_there_are() {
        // A kernel without NUMA has neither.
        if let Some(own) = process(std::process::id()) {
            let all = nodes();
            assert!(!own.nodes.is_empty(), "{own:?}");
            for lies in &own.nodes {
                assert!(all.iter().any(|node| node.node == lies.node), "{lies:?} is none of {all:?}");
            }
        }
        assert_eq!(process(u32::MAX), None);
    }
}
