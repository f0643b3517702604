//! Page faults, reclaim, the page cache and kills: what is counted against what the programs and the kernel count themselves, and the
//! findings with their healthy twins.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::memory::MemoryCgroup;
use crate::harness::storage::disk;
use crate::harness::{self, Report, Traced, Tracer, close, list, number, python, text, whole, workload};

const MIB: u64 = 1 << 20;

/// What these tests need beside the scheduler's switches.
const FAMILIES: [&str; 2] = ["--family", "cpu,fault,reclaim,cache,oom,rss,block"];

/// A workload with all families that see memory, and stacks.
fn traced(arguments: &str) -> Traced {
    Tracer::run(workload(arguments)).options(&FAMILIES).go().expect_code(0)
}

/// The row of a process.
fn faults(report: &Report, pid: u64) -> &Value {
    let rows = list(&report.0["paging"], "faults");
    rows.iter().find(|row| row["pid"] == pid).unwrap_or_else(|| panic!("process {pid} has page faults: {rows:?}"))
}

fn of_kind(row: &Value, kind: &str) -> f64 {
    row["kinds"][kind].as_f64().unwrap_or(0.0)
}

/// What is not this run's own: others had the CPUs.
const MEMORY_CLASSES: [&str; 8] = [
    "page-fault-storm",
    "allocation-churn",
    "fork-copy-on-write",
    "page-cache-thrash",
    "cold-file-mapping",
    "memory-limit",
    "direct-reclaim",
    "compaction-stall",
];

#[test]
fn first_touches_are_counted_exactly_and_their_function_is_named() {
    let traced = traced("touch --mib 2048");
    let (truth, report) = (traced.truth(), traced.report());
    let row = faults(&report, whole(&truth, "pid"));
    close("first touches", of_kind(row, "anonymous"), number(&truth, "pages"), 0.01, 0.0);
    let kernels = number(&truth, "minor_faults") + number(&truth, "major_faults");
    close("page faults, against the kernel's own count", number(row, "total"), kernels, 0.01, 500.0);
    close("memory held", number(row, "anonymous_most_bytes"), 2048.0 * MIB as f64, 0.01, 4.0 * MIB as f64);
    let function = list(row, "functions").iter().find(|function| function["kind"] == "anonymous").expect("stacks");
    assert!(text(function, "function").contains("touch_pages"), "{function}");
    assert!(number(function, "share") > 0.95, "{function}");
    let finding = report.finding("page-fault-storm");
    assert_eq!(finding["culprit"]["pid"], truth["pid"], "{finding}");
    assert!(text(&finding["culprit"], "function").contains("touch_pages"), "{finding}");
    report.assert_sums();
    report.assert_path();
}

#[test]
fn page_faults_of_the_kernel_for_a_process_are_its_own() {
    let traced = traced("touch --mib 64 --by-kernel");
    let (truth, report) = (traced.truth(), traced.report());
    let row = faults(&report, whole(&truth, "pid"));
    close("first touches in a system call", of_kind(row, "anonymous"), number(&truth, "pages"), 0.01, 600.0);
}

#[test]
fn the_last_page_faults_of_a_process_are_counted() {
    // Fewer than what makes a record.
    let traced = traced("touch --mib 1");
    let (truth, report) = (traced.truth(), traced.report());
    let row = faults(&report, whole(&truth, "pid"));
    assert!(of_kind(row, "anonymous") >= number(&truth, "pages"), "all are there: {row}");
}

#[test]
fn memory_that_is_kept_is_no_storm() {
    for _ in 0..crate::healthy::repeats() {
        let traced = traced("touch --mib 512 --passes 4 --healthy --compute 200ms");
        traced.report().assert_silent(&MEMORY_CLASSES);
    }
}

#[test]
fn a_buffer_that_is_pinned_for_each_batch_is_named_with_who_pins_it() {
    let traced = traced("pin --mib 64 --batches 60");
    let (truth, report) = (traced.truth(), traced.report());
    let finding = report.finding("pinned-memory");
    let culprit = &finding["culprit"];
    assert_eq!((&culprit["pid"], &culprit["tid"]), (&truth["pid"], &truth["pid"]), "{finding}");
    assert!(text(culprit, "function").contains("lock"), "the function that calls mlock: {finding}");
    let pinned = list(finding, "evidence").iter().find(|one| text(one, "metric").starts_with("memory pinned"));
    let pinned = pinned.map_or(0.0, |pinned| number(pinned, "value"));
    close("what is pinned", pinned, number(&truth, "pinned_bytes"), 0.01, 0.0);
    report.assert_silent(&["page-fault-storm", "allocation-churn"]);
    report.assert_sums();
    report.assert_path();
}

#[test]
fn a_buffer_that_is_pinned_once_is_silent() {
    for _ in 0..crate::healthy::repeats() {
        let report = traced("pin --mib 64 --batches 60 --reuse").report();
        report.assert_silent(&["pinned-memory"]);
        report.assert_silent(&MEMORY_CLASSES);
    }
}

#[test]
fn pinned_memory_that_leaves_too_little_for_the_rest_is_told_with_what_it_explains() {
    let Some(cgroup) = MemoryCgroup::new(128 * MIB) else { return };
    let beside = format!("dirty-writer --mib 4096 --folder {} --cgroup {}", disk(), cgroup.folder().display());
    let holder = format!("pin --mib 96 --batches 800 --reuse --cgroup {}", cgroup.folder().display());
    let line = format!("'{0}' {holder} & '{0}' {beside}; kill $!; wait", harness::workload_bin().display());
    let report = Tracer::run(harness::shell(&line)).options(&FAMILIES).go().expect_code(0).report();
    report.finding("memory-limit");
    let finding = report.finding("pinned-memory");
    assert_eq!(finding["severity"], "warning", "{finding}");
    assert_eq!(finding["consequences"][0], "memory-limit", "{finding}");
    assert!(finding["lost_s"].is_null(), "no seconds of its own: {finding}");
    close("what is pinned", number(&finding["evidence"][0], "value"), 96.0 * MIB as f64, 0.01, 0.0);
}

/// A Python program of memory.py.
fn of_python(arguments: &str) -> (Value, Report) {
    let traced = Tracer::run(python("memory.py", arguments)).options(&FAMILIES).go().expect_code(0);
    (traced.truth(), traced.report())
}

#[test]
fn an_array_made_anew_in_each_step_is_churn_and_its_line_is_named() {
    let (truth, report) = of_python("churn");
    let finding = report.finding("allocation-churn");
    let culprit = &finding["culprit"];
    assert_eq!(culprit["pid"], truth["pid"], "{finding}");
    assert_eq!((text(culprit, "function"), culprit["line"].is_number()), ("train_step", true), "{finding}");
    assert!(text(culprit, "file").ends_with("memory.py"), "{finding}");
    let row = faults(&report, whole(&truth, "pid"));
    // 40 steps of 64 MiB; the allocator may keep some of it.
    assert!(of_kind(row, "anonymous") > 30.0 * 16_384.0, "{row}");
    // By samples, of which the bound is the upper end.
    let lost_s = number(finding, "share_of_wall") * number(&report.0["window"], "duration_s");
    assert!(lost_s <= 1.05 * number(&truth, "took_s"), "{lost_s} of {truth}: {finding}");
    report.assert_silent(&["page-fault-storm", "fork-copy-on-write"]);
}

#[test]
fn a_buffer_that_is_used_again_is_no_churn() {
    for _ in 0..crate::healthy::repeats() {
        let (_, report) = of_python("churn --healthy");
        report.assert_silent(&MEMORY_CLASSES);
    }
}

#[test]
fn strings_that_forked_workers_look_at_are_copied_page_by_page() {
    let (truth, report) = of_python("cow");
    let finding = report.finding("fork-copy-on-write");
    let workers = list(&truth, "workers");
    let blamed: Vec<&Value> = list(finding, "victims").iter().map(|victim| &victim["pid"]).collect();
    assert_eq!(blamed.len(), workers.len(), "both workers and nobody else: {finding}");
    for worker in workers {
        assert!(blamed.contains(&&worker["pid"]), "{} is named: {finding}", worker["pid"]);
        let copied = of_kind(faults(&report, whole(worker, "pid")), "copy_on_write") * 4096.0;
        close("bytes copied, against Private_Dirty", copied, number(worker, "private_dirty_bytes"), 0.10, 0.0);
    }
    assert_eq!(finding["culprit"]["function"], "look_at_samples", "{finding}");
}

#[test]
fn page_faults_of_each_kind_are_counted_whatever_calls_there_are_between_them() {
    let traced = Tracer::run(python("fault_kinds.py", "")).options(&FAMILIES).go().expect_code(0);
    let (truth, report) = (traced.truth(), traced.report());
    let own = faults(&report, whole(&truth, "pid"));
    // Python itself has some thousand.
    for kind in ["anonymous", "shared", "other"] {
        let wanted = number(&truth["own"], kind);
        close(kind, of_kind(own, kind), wanted, 0.01, 2_500.0);
    }
    close("all of them, by the kernel's own account", number(own, "total"), number(&truth, "faults"), 0.01, 100.0);
    let copied = of_kind(faults(&report, whole(&truth, "child")), "copy_on_write");
    close("copied", copied, number(&truth, "copied"), 0.01, 500.0);
}

#[test]
fn numbers_in_an_array_are_shared_with_forked_workers() {
    for _ in 0..crate::healthy::repeats() {
        let (_, report) = of_python("cow --healthy");
        report.assert_silent(&["fork-copy-on-write", "allocation-churn"]);
    }
}

/// The row of a file.
fn file(report: &Report, path: &str) -> Value {
    let files = list(&report.0["paging"], "files");
    files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("{path} is told: {files:?}")).clone()
}

#[test]
fn a_mapped_file_that_does_not_fit_its_cgroup_is_read_again_and_again() {
    let Some(cgroup) = MemoryCgroup::new(256 * MIB) else { return };
    let arguments = "mapped-file --mib 512 --passes 6";
    let traced = traced(&format!("{arguments} --folder {} --cgroup {}", disk(), cgroup.folder().display()));
    let (truth, report) = (traced.truth(), traced.report());
    let path = text(&truth, "path");
    let row = file(&report, path);
    let wanted = number(&truth, "disk_read_bytes") / number(&truth, "size_bytes");
    close("how often the file was read", number(&row, "reread_factor"), wanted, 0.10, 0.0);
    assert!(number(&row, "reclaimed_own_bytes") > number(&truth, "size_bytes"), "it threw out its own pages: {row}");
    let finding = report.finding("page-cache-thrash");
    let culprit = &finding["culprit"];
    assert_eq!((culprit["path"].as_str(), &culprit["pid"]), (Some(path), &truth["pid"]), "{finding}");
    assert!(text(culprit, "function").contains("read_in_order"), "{finding}");
    if !cgroup.is_unified() {
        assert_eq!(culprit["cgroup"], cgroup.path(), "the cgroup is named: {finding}");
        let limit = list(finding, "evidence").iter().find(|evidence| evidence["metric"] == "limit of the cgroup");
        assert_eq!(
            limit.and_then(|limit| limit["value"].as_f64()),
            Some(256.0 * MIB as f64),
            "and its limit: {finding}"
        );
    }
    report.assert_silent(&["memory-limit", "cold-file-mapping"]);
}

#[test]
fn a_mapped_file_that_fits_is_no_thrash_on_the_first_pass_either() {
    for _ in 0..crate::healthy::repeats() {
        let Some(cgroup) = MemoryCgroup::new(1024 * MIB) else { return };
        for passes in [1, 6] {
            let arguments = format!("mapped-file --mib 512 --passes {passes}");
            let traced = traced(&format!("{arguments} --folder {} --cgroup {}", disk(), cgroup.folder().display()));
            traced.report().assert_silent(&["page-cache-thrash", "memory-limit"]);
        }
    }
}

/// A reader of a file that fits, beside a writer.
fn evicting(cgroup: &MemoryCgroup, how: &str) -> (Value, Report) {
    let arguments = format!("eviction {how} --folder {} --cgroup {}", disk(), cgroup.folder().display());
    let traced = traced(&arguments);
    (traced.truth(), traced.report())
}

#[test]
fn a_file_that_fits_is_pushed_out_by_what_another_thread_writes() {
    let Some(cgroup) = MemoryCgroup::new(256 * MIB) else { return };
    let (truth, report) = evicting(&cgroup, "");
    let finding = report.finding("cache-eviction");
    let (culprit, victim) = (&finding["culprit"], &finding["victims"][0]);
    assert_eq!((&culprit["path"], &culprit["tid"]), (&truth["checkpoint"], &truth["writer_tid"]), "{finding}");
    assert!(text(culprit, "function").contains("eviction"), "what writes: {finding}");
    assert_eq!((&victim["path"], &victim["tid"]), (&truth["dataset"], &truth["pid"]), "{finding}");
    let row = file(&report, text(&truth, "dataset"));
    // The first reading, before others wrote, is traced too.
    let read = number(&truth, "disk_read_bytes") + number(&truth, "size_bytes");
    close("bytes read from the disk", number(&row, "read_bytes"), read, 0.10, 0.0);
    report.assert_silent(&["page-cache-thrash", "memory-limit", "cold-file-mapping"]);
    report.assert_sums();
}

#[test]
fn what_is_written_past_the_page_cache_pushes_nothing_out() {
    for _ in 0..crate::healthy::repeats() {
        let Some(cgroup) = MemoryCgroup::new(256 * MIB) else { return };
        let (truth, report) = evicting(&cgroup, "--direct");
        assert!(number(&truth, "disk_read_bytes") < 0.25 * number(&truth, "size_bytes"), "it stays: {truth}");
        report.assert_silent(&["cache-eviction", "page-cache-thrash", "memory-limit"]);
    }
}

#[test]
fn a_cold_mapped_file_is_named_with_the_time_that_its_pages_took() {
    let traced = traced(&format!("mapped-file --mib 256 --random 24000 --folder {}", disk()));
    let (truth, report) = (traced.truth(), traced.report());
    let finding = report.finding("cold-file-mapping");
    let culprit = &finding["culprit"];
    assert_eq!((&culprit["path"], &culprit["tid"]), (&truth["path"], &truth["pid"]), "{finding}");
    assert!(text(culprit, "function").contains("read_pages"), "{finding}");
    let row = faults(&report, whole(&truth, "pid"));
    close("faults that had to read", of_kind(row, "file_major"), number(&truth, "major_faults"), 0.01, 2.0);
    close("time in page faults", number(finding, "lost_s"), number(&truth, "in_faults_s"), 0.10, 0.05);
    report.assert_silent(&["page-cache-thrash"]);
}

/// The row of a file that was loaded.
fn load(report: &Report, path: &str) -> Value {
    let loads = list(&report.0["paging"], "loads");
    loads.iter().find(|load| load["path"] == path).unwrap_or_else(|| panic!("{path} was loaded: {loads:?}")).clone()
}

#[test]
fn how_a_model_file_was_loaded_is_told() {
    let traced = traced(&format!("mapped-file --mib 384 --folder {}", disk()));
    let (truth, report) = (traced.truth(), traced.report());
    let load = load(&report, text(&truth, "path"));
    assert_eq!((&load["mapped"], &load["pid"]), (&Value::Bool(true), &truth["pid"]), "{load}");
    close("what came from the disk", number(&load, "missed_bytes"), number(&truth, "disk_read_bytes"), 0.02, 0.0);
    let took_s = number(&load, "took_s");
    assert!(took_s <= number(&truth, "took_s"), "it began and ended within the passes: {load} {truth}");
    assert!(took_s >= 0.5 * number(&truth, "took_s"), "{load} {truth}");
    let waited_s = number(&load, "waited_in_faults_s");
    assert!(waited_s > 0.0 && waited_s <= number(&truth, "took_s") && load["waited_in_reads_s"] == 0.0, "{load}");
    assert!(number(&load, "bytes_per_waited_s") >= number(&load, "bytes_per_s"), "{load}");
    assert!(
        number(&load, "device_bytes_per_s") >= number(&load, "bytes_per_s"),
        "the device was at least that quick: {load}"
    );
}

#[test]
fn a_model_file_that_the_page_cache_has_is_told_as_cached() {
    let path = Path::new(&disk()).join(format!("warm-{}", std::process::id()));
    std::fs::write(&path, vec![7; 128 << 20]).expect("a file on the disk");
    let script = "import mmap, sys, time\nfile = open(sys.argv[1], 'rb')\nmapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n\
                  print(sum(mapped[at] for at in range(0, len(mapped), 4096)))\ntime.sleep(3)";
    let path_text = path.display().to_string();
    let line = ["python3", "-c", script, &path_text].map(std::ffi::OsString::from).to_vec();
    let report = Tracer::run(line).options(&FAMILIES).go().expect_code(0).report();
    std::fs::remove_file(&path).expect("it is there");
    let load = load(&report, &path_text);
    assert_eq!((&load["mapped"], number(&load, "missed_bytes")), (&Value::Bool(true), 0.0), "{load}");
    close("what the cache had", number(&load, "cached_bytes"), 128.0 * MIB as f64, 0.02, 0.0);
    assert!(load["took_s"].is_null() && load["bytes_per_s"].is_null(), "nothing came in: {load}");
    report.assert_silent(&["cold-file-mapping", "page-cache-thrash"]);
}

#[test]
fn a_warm_mapped_file_is_silent() {
    for _ in 0..crate::healthy::repeats() {
        let traced = traced(&format!("mapped-file --mib 256 --random 24000 --warm --folder {}", disk()));
        traced.report().assert_silent(&["page-cache-thrash", "cold-file-mapping"]);
    }
}

/// The kernel's own tracing of a process's reclaim, by the files of tracefs.
struct Reclaims {
    folder: PathBuf,
}

impl Reclaims {
    fn start() -> Option<Self> {
        let Some(root) = crate::harness::host::tracefs() else {
            eprintln!("not tested: tracefs is not mounted");
            return None;
        };
        let folder = root.join(format!("instances/live-{}", fastrand::u32(..)));
        std::fs::create_dir(&folder).expect("an instance of tracefs");
        let reclaims = Reclaims { folder };
        reclaims.write("trace_clock", "mono");
        reclaims.write("buffer_size_kb", "8192");
        for event in ["mm_vmscan_memcg_reclaim_begin", "mm_vmscan_memcg_reclaim_end"] {
            reclaims.write(&format!("events/vmscan/{event}/enable"), "1");
        }
        Some(reclaims)
    }

    fn write(&self, file: &str, text: &str) {
        let path: &Path = &self.folder;
        std::fs::write(path.join(file), text).unwrap_or_else(|error| panic!("cannot write {file}: {error}"));
    }

    /// How often a thread reclaimed, and for how long.
    fn of(&self, tid: u64) -> (f64, f64) {
        let text = std::fs::read_to_string(self.folder.join("trace")).expect("the trace");
        let (mut count, mut total_s, mut since) = (0.0, 0.0, None);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((head, event)) = line.split_once(": mm_vmscan_memcg_reclaim_") else { continue };
            let mut fields = head.split_whitespace().rev();
            let (Some(ts), Some(task)) = (fields.next(), head.split_whitespace().next()) else { continue };
            if task.rsplit('-').next() != Some(&tid.to_string()) {
                continue;
            }
            let ts: f64 = ts.parse().expect("a time");
            if event.starts_with("begin") {
                since = Some(ts);
            } else if let Some(since) = since.take() {
                count += 1.0;
                total_s += ts - since;
            }
        }
        (count, total_s)
    }
}

impl Drop for Reclaims {
    fn drop(&mut self) {
        self.write("events/enable", "0");
        let _ = std::fs::remove_dir(&self.folder);
    }
}

#[test]
fn a_writer_at_its_cgroups_limit_spends_its_time_in_reclaim() {
    let Some(cgroup) = MemoryCgroup::new(64 * MIB) else { return };
    let Some(kernel) = Reclaims::start() else { return };
    let traced = traced(&format!("dirty-writer --mib 3072 --folder {} --cgroup {}", disk(), cgroup.folder().display()));
    let (truth, report) = (traced.truth(), traced.report());
    let pid = whole(&truth, "pid");
    let (count, total_s) = kernel.of(pid);
    let stalls = list(&report.0["paging"], "stalls");
    let own = stalls.iter().find(|stall| stall["tid"] == pid).unwrap_or_else(|| panic!("it has stalls: {stalls:?}"));
    assert_eq!(number(own, "count"), count, "each is counted: {own}");
    close("time in reclaim, against the kernel's tracepoints", number(own, "total_s"), total_s, 0.10, 0.0);
    let finding = report.finding("memory-limit");
    assert_eq!(finding["culprit"]["pid"], truth["pid"], "{finding}");
    assert!(
        text(&finding["culprit"], "function").contains("write_shard")
            || text(&finding["culprit"], "function").contains("dirty_writer"),
        "{finding}"
    );
    if !cgroup.is_unified() {
        assert_eq!(finding["culprit"]["cgroup"], cgroup.path(), "the cgroup is named: {finding}");
    }
    report.assert_silent(&["page-cache-thrash"]);
    let thread = report.thread(pid);
    assert!(harness::report::state(thread, "memory") > 0.0, "it waited within reclaim: {thread}");
}

#[test]
fn a_writer_with_room_does_not_reclaim() {
    for _ in 0..crate::healthy::repeats() {
        let Some(cgroup) = MemoryCgroup::new(2048 * MIB) else { return };
        let traced =
            traced(&format!("dirty-writer --mib 512 --folder {} --cgroup {}", disk(), cgroup.folder().display()));
        traced.report().assert_silent(&["memory-limit", "page-cache-thrash"]);
        assert!(list(&traced.report().0["paging"], "stalls").is_empty(), "{}", traced.report().0["paging"]);
    }
}

#[test]
fn a_process_that_is_killed_for_want_of_memory_is_told_with_what_it_held() {
    let Some(cgroup) = MemoryCgroup::new(64 * MIB) else { return };
    // It lives for some readings of its sizes, and then for some ms only.
    for (compute, wanted) in
        [("700ms", &["limit of the cgroup", "at its last reading"][..]), ("0ms", &["limit of the cgroup"][..])]
    {
        let arguments = format!("touch --mib 256 --compute {compute} --cgroup {}", cgroup.folder().display());
        let killed = Tracer::run(workload(&arguments)).options(&FAMILIES).go().expect_code(137);
        assert_killed(&killed.report(), &cgroup, wanted);
    }
    let others = traced("cpu --duration 200ms");
    assert!(list(&others.report().0["paging"], "kills").is_empty(), "nobody else is killed");
}

/// Its one process was killed, and the finding says all these of it.
fn assert_killed(report: &Report, cgroup: &MemoryCgroup, wanted: &[&str]) {
    let kills = list(&report.0["paging"], "kills");
    let [kill] = kills else { panic!("one kill: {kills:?}") };
    assert_eq!(kill["pid"], report.0["target"]["pids"][0], "{kill}");
    let finding = report.finding("oom-kill");
    assert_eq!(finding["culprit"]["pid"], kill["pid"], "{finding}");
    let function = finding["culprit"]["function"].as_str();
    let unknown = function.is_none() && !harness::host::kernel_is_at_least(6, 2);
    assert!(unknown || function.is_some_and(|name| name.contains("touch_pages")), "what grew is named: {finding}");
    assert_eq!(report.0["verdict"], "bottleneck", "{}", report.0["verdict_reason"]);
    close("what it held", number(kill, "anonymous_bytes"), 64.0 * MIB as f64, 0.10, 0.0);
    let metrics: Vec<&str> = list(finding, "evidence").iter().map(|evidence| text(evidence, "metric")).collect();
    for wanted in wanted {
        let limit = wanted.starts_with("limit") && cgroup.is_unified();
        assert!(limit || metrics.iter().any(|metric| metric.contains(wanted)), "{wanted}: {finding}");
    }
}
