//! Memory of a whole machine: swap, want of free memory, memory in pieces, and NUMA nodes. A host that others use must not be driven
//! there, so most of this runs in the guests of `cargo xtask vm` only, and says so elsewhere.

use serde_json::Value;

use crate::harness::memory::MemoryCgroup;
use crate::harness::storage::Swap;
use crate::harness::{Background, Report, Traced, Tracer, close, list, number, text, whole, workload};

const MIB: u64 = 1 << 20;

/// What these tests need beside the scheduler's switches.
const FAMILIES: [&str; 2] = ["--family", "cpu,fault,reclaim,rss"];

fn traced(arguments: &str) -> Traced {
    Tracer::run(workload(arguments)).options(&FAMILIES).go().expect_code(0)
}

/// A figure of /proc/meminfo.
fn meminfo_mib(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("the kernel says it") / 1024
}

/// A figure of /proc/vmstat.
fn vmstat(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").expect("/proc is mounted");
    text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok()).unwrap_or(0)
}

/// For how long some thread waited for memory, by the kernel's own sum; `None`: this kernel keeps none.
fn stalled_s() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/pressure/memory").ok()?;
    let total = text.lines().find(|line| line.starts_with("some"))?.split("total=").nth(1)?;
    Some(total.trim().parse::<f64>().ok()? / 1e6)
}

/// What the report says of that, against the kernel's own sum from before until now.
#[track_caller]
fn assert_stalled(report: &Report, before: Option<f64>) {
    let Some((before, after)) = before.zip(stalled_s()) else {
        eprintln!("not tested: how long threads waited for memory; this kernel has no /proc/pressure/memory");
        return;
    };
    let told = number(&report.0["memory"]["host"], "pressure_memory_some_s");
    assert!(told > 0.0, "{}", report.0["memory"]["host"]);
    close("time for which some thread waited for memory", told, after - before, 0.10, 0.10);
}

/// Whether all of this machine's memory may be used up.
fn is_small() -> bool {
    let small = meminfo_mib("MemTotal") <= 4096;
    if !small {
        eprintln!("not tested: this machine has {} MiB, which a test must not use up", meminfo_mib("MemTotal"));
    }
    small
}

/// Settings of the kernel's memory management, put back at the end.
struct Settings(Vec<(&'static str, String)>);

impl Settings {
    /// So much is left of what is available, for less to be enough to use it up: the rest is reserved for huge pages of another kind.
    fn leave(mib: u64) -> Self {
        let pages = meminfo_mib("MemAvailable").saturating_sub(mib) / 2;
        Settings(Vec::new()).with("nr_hugepages", &pages.to_string())
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        let file = format!("/proc/sys/vm/{name}");
        let before = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        std::fs::write(&file, value).unwrap_or_else(|error| panic!("{file}: {error}"));
        self.0.push((name, before));
        self
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        for (name, before) in &self.0 {
            let _ = std::fs::write(format!("/proc/sys/vm/{name}"), before);
        }
    }
}

/// What is said of a class, reported or only observed: how fast an emulated machine is decides which.
#[track_caller]
fn told<'a>(report: &'a Report, class: &str) -> &'a Value {
    let mut all = ["findings", "observed"].into_iter().flat_map(|list_name| list(&report.0, list_name));
    let told = all.find(|finding| finding["class"] == class);
    told.unwrap_or_else(|| panic!("{class} is told: {}", report.0["rules"]))
}

/// A process that touches so much, over and over, within a limit. Not a hard one: where all that a cgroup has is on its way out, and an
/// emulated disk has no processor to end any of it, the kernel kills (seen with 6.12 and 6.18).
fn limited(arguments: &str, limit_mib: u64) -> Option<(Value, Report)> {
    let cgroup = MemoryCgroup::soft(limit_mib * MIB)?;
    let traced = traced(&format!("touch {arguments} --cgroup {}", cgroup.folder().display()));
    Some((traced.truth(), traced.report()))
}

#[test]
fn memory_that_was_swapped_out_is_waited_for_when_it_is_needed_again() {
    let Some(_swap) = Swap::slow_to_read() else { return };
    let (before, stalled) = (vmstat("pswpin"), stalled_s());
    let Some((truth, report)) = limited("--mib 28 --passes 2", 14) else { return };
    let came_back = (vmstat("pswpin") - before) as f64;
    let finding = report.finding("swap-in");
    assert_eq!(finding["culprit"]["pid"], truth["pid"], "{finding}");
    assert!(text(&finding["culprit"], "function").contains("touch_pages"), "{finding}");
    let rows = list(&report.0["paging"], "faults");
    let row = rows.iter().find(|row| row["pid"] == truth["pid"]).expect("it has page faults");
    let faults = number(&row["kinds"], "swap_in");
    assert!(faults >= 0.5 * number(&truth, "pages"), "most pages came back: {row}");
    // Some that were read ahead are not needed, and some are still on their way out when they are.
    let host = number(&report.0["memory"]["host"], "swapped_in_bytes") / 4096.0;
    close("pages that came back, against the kernel's own count", host, came_back, 0.05, 64.0);
    assert_stalled(&report, stalled);
    report.assert_sums();
    report.assert_path();
}

#[test]
fn memory_that_fits_or_is_not_needed_again_waits_for_no_swap() {
    let Some(_swap) = Swap::slow_to_read() else { return };
    for _ in 0..crate::healthy::repeats() {
        for (arguments, limit_mib) in [("--mib 28 --passes 2", 128), ("--mib 28 --passes 1", 14)] {
            let Some((_, report)) = limited(arguments, limit_mib) else { return };
            report.assert_silent(&["swap-in"]);
        }
    }
}

#[test]
fn a_process_that_wants_more_than_the_host_has_frees_memory_instead_of_working() {
    if !is_small() {
        return;
    }
    let Some(_swap) = Swap::slow_to_write() else { return };
    // The kernel's own thread begins late to free memory, as it does where much is wanted at once.
    let _settings = Settings::leave(384).with("watermark_scale_factor", "1").with("min_free_kbytes", "512");
    let stalled = stalled_s();
    let traced = traced(&format!("touch --first --populate 4 --mib {}", meminfo_mib("MemAvailable") + 250));
    let (truth, report) = (traced.truth(), traced.report());
    let finding = told(&report, "direct-reclaim");
    assert_eq!(finding["culprit"]["pid"], truth["pid"], "{finding}");
    // The stack of a thread that waits cannot be read while the address space is locked, as it is in such a call.
    assert!(finding["culprit"]["function"].as_str().is_none_or(|function| function.contains("populate")), "{finding}");
    report.assert_silent(&["memory-limit"]);
    assert_stalled(&report, stalled);
    report.assert_sums();
    report.assert_path();
}

#[test]
fn a_process_that_leaves_the_host_enough_frees_nothing() {
    if !is_small() {
        return;
    }
    let _settings = Settings::leave(384);
    for _ in 0..crate::healthy::repeats() {
        let report = traced(&format!("touch --mib {} --passes 2", meminfo_mib("MemAvailable") / 2)).report();
        report.assert_silent(&["direct-reclaim", "memory-limit", "compaction-stall"]);
    }
}

/// What became of huge pages, asked for beside another process that has left memory in pieces, or not. For the kernel's pool: for
/// those that a process touches it does not try hard.
fn huge_pages(how: &str) -> (Value, Report) {
    // The kernel moves nothing before it is asked.
    let _settings = Settings::leave(1000).with("compaction_proactiveness", "0");
    let available_mib = meminfo_mib("MemAvailable");
    let holder = format!("--announce fragments {how} --mib {} --stay 600s", available_mib * 9 / 10);
    let mut holder = Background::command(&workload(&holder));
    holder.next_json();
    let traced = traced(&format!("huge-pages --mib {}", available_mib / 3));
    (traced.truth(), traced.report())
}

#[test]
fn who_wants_huge_pages_where_memory_is_in_pieces_moves_pages_instead_of_working() {
    if !is_small() {
        return;
    }
    let (truth, report) = huge_pages("");
    let finding = told(&report, "compaction-stall");
    assert_eq!(finding["culprit"]["pid"], truth["pid"], "{finding}");
    assert!(text(&finding["culprit"], "function").contains("set_pool"), "{finding}");
    assert!(whole(&truth, "added") > 0, "{truth}");
    report.assert_sums();
    report.assert_path();
}

#[test]
fn who_wants_huge_pages_of_memory_that_is_whole_has_them_at_once() {
    if !is_small() {
        return;
    }
    for _ in 0..crate::healthy::repeats() {
        let (_, report) = huge_pages("--healthy");
        report.assert_silent(&["compaction-stall", "direct-reclaim"]);
    }
}

/// Whether there are two nodes that have both memory and CPUs.
fn two_nodes() -> bool {
    let has = |node: u32| {
        let list = std::fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist"));
        list.is_ok_and(|list| !list.trim().is_empty())
    };
    let two = has(0) && has(1);
    if !two {
        eprintln!("not tested: this machine has not two NUMA nodes");
    }
    two
}

#[test]
fn memory_of_another_node_than_the_threads_is_told_without_seconds() {
    if !two_nodes() {
        return;
    }
    let traced = traced("numa --mib 300 --memory-node 0 --cpu-node 1");
    let (truth, report) = (traced.truth(), traced.report());
    let finding = report.finding("numa-remote");
    assert_eq!(finding["culprit"]["pid"], truth["pid"], "{finding}");
    assert!(finding["lost_s"].is_null(), "{finding}");
    let rows = list(&report.0["memory"]["numa"], "processes");
    let row = rows.iter().find(|row| row["pid"] == truth["pid"]).expect("its memory was read");
    let nodes = list(row, "nodes");
    let on =
        |node: u64| nodes.iter().find(|part| whole(part, "node") == node).map_or(0.0, |part| number(part, "bytes"));
    close("memory on the first node", on(0), number(&truth, "bytes"), 0.05, 8.0 * MIB as f64);
    report.assert_sums();
}

#[test]
fn memory_of_the_node_on_which_the_threads_run_is_not_remote() {
    if !two_nodes() {
        return;
    }
    for _ in 0..crate::healthy::repeats() {
        traced("numa --mib 300 --memory-node 1 --cpu-node 1").report().assert_silent(&["numa-remote"]);
    }
}
