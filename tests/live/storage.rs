//! Requests of block devices: what is counted against what the programs and the kernel count themselves, whose they are, and the findings
//! with their healthy twins.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::storage::{IoCgroup, LoopMount, Resident, disk};
use crate::harness::{Background, Report, Traced, Tracer, close, list, number, python, text, until, whole, workload};

const MIB: u64 = 1 << 20;

/// What these tests need beside the scheduler's switches.
const FAMILIES: [&str; 2] = ["--family", "cpu,cache,block,writeback"];

/// Rules on files and devices.
const CLASSES: [&str; 5] =
    ["small-random-reads", "slow-storage", "dirty-throttling", "cold-file-mapping", "page-cache-thrash"];

fn traced(arguments: &str) -> Traced {
    Tracer::run(workload(arguments)).options(&FAMILIES).go().expect_code(0)
}

/// The row of a file.
#[track_caller]
fn file<'a>(report: &'a Report, path: &str) -> &'a Value {
    let rows = list(&report.0["io"], "files");
    // Of a file that no thread had to wait for only the last part of the path is known.
    let is_it = |row: &&Value| row["path"] == path || path.rsplit('/').next().is_some_and(|name| row["path"] == name);
    rows.iter().find(is_it).unwrap_or_else(|| panic!("{path} is told: {rows:?}"))
}

#[test]
fn small_random_reads_are_counted_exactly_and_named() {
    for how in ["", "--direct"] {
        let traced = traced(&format!("reads {how} --folder {}", disk()));
        let (truth, report) = (traced.truth(), traced.report());
        let row = file(&report, text(&truth, "path"));
        let reads = &row["reads"];
        // What the process was charged for: of a cached file a few pages may have stayed, and where its blocks lie is read too.
        let charged = number(&truth, "disk_read_bytes");
        // Requests whose end the kernel did not report, and whose place was not used again, are counted apart.
        let unfinished = report.0["io"]["requests_unfinished"].as_f64().unwrap_or(0.0);
        close("bytes read", number(reads, "bytes"), charged, 0.005, unfinished * 4096.0);
        assert_eq!(number(reads, "requests"), number(reads, "bytes") / 4096.0, "each read is a request: {row}");
        // Whose the row is is decided by the time of its requests: those that wrote the file are in it too.
        assert_eq!(row["pid"], truth["pid"], "{row}");
        assert_eq!(row["direct_requests"].as_u64().unwrap_or(0) > 0, how == "--direct", "{row}");
        assert!(number(&row["waits"], "total_s") <= number(&truth, "waited_s"), "blocked, queueing left out: {row}");
        let finding = report.finding("small-random-reads");
        // A wait is some 35 us, and both sides leave out or add a few for the switches around it. Others may have had the CPU meanwhile.
        let cited =
            list(finding, "evidence").iter().filter(|evidence| text(evidence, "metric").starts_with("waiting "));
        let waited_s: f64 = cited.map(|evidence| number(evidence, "value")).sum();
        close("waiting for the file", waited_s, number(&truth, "waited_s"), 0.20, 0.05);
        assert!(number(finding, "lost_s") >= waited_s, "what the kernel did for it comes on top: {finding}");
        let culprit = &finding["culprit"];
        assert_eq!((&culprit["path"], &culprit["tid"]), (&truth["path"], &truth["reader_tid"]), "{finding}");
        assert!(text(culprit, "file").ends_with("reads.rs"), "where in its code: {finding}");
        report.assert_silent(&["slow-storage", "dirty-throttling", "page-cache-thrash"]);
        report.assert_sums();
    }
}

#[test]
fn what_is_read_by_io_uring_is_the_submitters_and_the_files() {
    let traced = traced(&format!("reads --uring --mib 64 --folder {}", disk()));
    let (truth, report) = (traced.truth(), traced.report());
    let row = file(&report, text(&truth, "path"));
    let reads = &row["reads"];
    let unfinished = report.0["io"]["requests_unfinished"].as_f64().unwrap_or(0.0);
    close("bytes read", number(reads, "bytes"), number(&truth, "disk_read_bytes"), 0.005, unfinished * 4096.0);
    // Of 16 that are handed over together some lie side by side, and become one.
    let most = number(reads, "bytes") / 4096.0;
    assert!((0.98 * most..=most).contains(&number(reads, "requests")), "each read is a request, but for few: {row}");
    assert_eq!((&row["pid"], &row["tid"]), (&truth["pid"], &truth["reader_tid"]), "{row}");
    assert!(row["direct_requests"].as_u64() > Some(0), "{row}");
    report.assert_silent(&["slow-storage", "dirty-throttling", "page-cache-thrash"]);
}

#[test]
fn each_call_that_reads_or_writes_a_file_is_counted_if_that_is_asked_for() {
    let command = || python("file_calls.py", &disk());
    let traced = Tracer::run(command()).options(&["--family", "sched,block", "--file-exact"]).go().expect_code(0);
    let (truth, report) = (traced.truth(), traced.report());
    let rows = list(&report.0["io"], "calls");
    let told = |pid: &str, path: &str| {
        // Of files that are gone before anybody looks only the last part of the path is known.
        let name = path.rsplit('/').next();
        let pid: u64 = pid.parse().expect("a number");
        let is_it = |row: &&Value| row["pid"] == pid && (row["path"] == path || row["path"].as_str() == name);
        let row = rows.iter().find(is_it).unwrap_or_else(|| panic!("{path} of {pid}: {rows:?}"));
        ["reads", "read_bytes", "writes", "written_bytes"].map(|field| whole(row, field))
    };
    let calls = truth["calls"].as_object().expect("what it did");
    assert_eq!(calls.len(), 11, "two files, eight small ones, and one of the child: {calls:?}");
    for (key, wanted) in calls {
        let (pid, path) = key.split_once(' ').expect("a process and a path");
        let wanted: Vec<u64> = wanted.as_array().expect("numbers").iter().filter_map(Value::as_u64).collect();
        assert_eq!(told(pid, path)[..], wanted[..], "{key}");
    }
    let without = Tracer::run(command()).options(&["--family", "sched,block"]).go().expect_code(0).report();
    assert!(without.0["io"]["calls"].is_null(), "nobody asked: {}", without.0["io"]);
}

#[test]
fn calls_of_a_process_on_a_file_are_told_beside_what_the_device_read() {
    for (how, from_device) in [("--warm", false), ("", true)] {
        let command = workload(&format!("reads {how} --mib 8 --folder {}", disk()));
        let traced = Tracer::run(command).options(&["--family", "sched,block", "--file-exact"]).go().expect_code(0);
        let (truth, report) = (traced.truth(), traced.report());
        // Its last part is enough: of what is gone before anybody looks that is all there is.
        let name = text(&truth, "path").rsplit('/').next().expect("a name");
        let rows = list(&report.0["io"], "calls").iter();
        let mut own = rows.filter(|row| row["path"].as_str().is_some_and(|path| path.ends_with(name)));
        let row = own.next().unwrap_or_else(|| panic!("{name}: {}", report.0["io"]["calls"]));
        assert!(own.next().is_none() && row["pid"] == truth["pid"], "one process, of two threads: {row}");
        let (reads, size) = (whole(&truth, "reads"), whole(&truth, "size_bytes"));
        assert_eq!((whole(row, "reads"), whole(row, "read_bytes")), (reads, reads * 4096), "{row}");
        assert_eq!((whole(row, "writes"), whole(row, "written_bytes")), (8, size), "{row}");
        // A few pages may have stayed in memory.
        let read = number(row, "device_read_bytes");
        assert!(if from_device { read > 0.95 * size as f64 } else { read < 0.05 * size as f64 }, "{how}: {row}");
    }
}

#[test]
fn requests_that_wait_in_the_queue_are_told_from_those_with_the_device() {
    let traced = traced(&format!("reads --mib 32 --in-order --direct --folder {}", disk()));
    let (truth, report) = (traced.truth(), traced.report());
    let reads = &file(&report, text(&truth, "path"))["reads"];
    // Each is made, put into the queue and given to the device one after the other: that takes a moment, and the device far longer.
    let (queued, device) = (number(&reads["queued"], "mean_s"), number(&reads["device"], "mean_s"));
    assert!(queued > 0.0 && queued < device, "{reads}");
    assert!(number(&reads["device"], "total_s") <= number(&truth, "waited_s") * 1.5, "{reads} of {truth}");
}

#[test]
fn the_same_bytes_in_order_or_from_memory_are_nobodys_fault() {
    for _ in 0..crate::healthy::repeats() {
        for how in ["--in-order", "--in-order --direct", "--warm"] {
            let traced = traced(&format!("reads {how} --folder {}", disk()));
            traced.report().assert_silent(&CLASSES);
        }
    }
}

/// What the kernel itself counts of discards of the disk below a folder: how many, and seconds; none where that is no whole disk.
fn discarded(folder: &str) -> Option<(f64, f64)> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(folder).expect("a folder").dev();
    let file = format!("/sys/dev/block/{}:{}/stat", libc::major(device), libc::minor(device));
    let text = std::fs::read_to_string(file).ok()?;
    let columns: Vec<f64> = text.split_whitespace().filter_map(|column| column.parse().ok()).collect();
    Some((*columns.get(11)?, *columns.get(14)? / 1e3))
}

#[test]
fn files_that_are_cut_before_they_are_written_again_wait_for_discards_and_not_for_fsync() {
    let Some(before) = discarded(&disk()) else {
        eprintln!("not tested: {} is on no whole disk", disk());
        return;
    };
    let run = |how: &str| {
        let command = python("rewrite.py", &format!("{how} {} 900", disk()));
        let traced = Tracer::run(command).options(&FAMILIES).go().expect_code(0);
        (traced.truth(), traced.report())
    };
    let (truth, report) = run("truncate");
    let after = discarded(&disk()).expect("the disk is still there");
    let (count, discarding_s, blocked_s) = (after.0 - before.0, after.1 - before.1, number(&truth, "blocked_s"));
    if blocked_s < 0.5 || discarding_s < blocked_s / 2.0 {
        eprintln!(
            "not tested: opening was blocked for {blocked_s} s, and here the kernel discarded {count} times, for {discarding_s} s"
        );
        return;
    }
    let row = list(&report.0["io"], "processes").iter().find(|row| row["pid"] == truth["pid"]).expect("it wrote");
    close("discards", number(row, "discards"), count, 0.05, 2.0);
    let finding = report.finding("slow-storage");
    assert!(text(finding, "summary").starts_with("openat, called by open_checkpoint"), "{finding}");
    assert_eq!(finding["culprit"]["pid"], truth["pid"], "{finding}");
    // The deleting at the end is of the same kind. Queueing for a CPU after a wait is in what the program sees.
    let waited: f64 = list(finding, "evidence")
        .iter()
        .filter(|evidence| text(evidence, "metric").starts_with("waiting "))
        .map(|evidence| number(evidence, "value"))
        .sum();
    assert!((0.75..1.25).contains(&(waited / blocked_s)), "{waited} of {blocked_s} s: {finding}");
    // What syncing takes is said of fsync alone.
    let syncs = report.finding("fsync-stall");
    assert!(text(syncs, "summary").contains("in fsync of"), "{syncs}");
    let told = |what: &str| list(syncs, "evidence").iter().any(|evidence| text(evidence, "metric") == what);
    assert!(told("time that devices had writes of the process"), "{syncs}");
    assert!(text(syncs, "hypothesis").contains("that it wrote"), "what devices did of it: {syncs}");
    for _ in 0..crate::healthy::repeats() {
        let (_, healthy) = run("in-place");
        assert!(healthy.findings("slow-storage").is_empty(), "written over in place: {}", healthy.0["findings"]);
    }
}

#[test]
fn a_limit_on_io_holds_threads_back_and_not_the_device() {
    let Some(cgroup) = IoCgroup::new(Path::new(&disk()), 4 * MIB) else { return };
    let traced = traced(&format!("reads --mib 8 --direct --folder {} --cgroup {}", disk(), cgroup.folder().display()));
    let (truth, report) = (traced.truth(), traced.report());
    let finding = report.finding("slow-storage");
    assert!(text(finding, "summary").contains("holds them back"), "{finding}");
    let culprit = &finding["culprit"];
    assert_eq!((&culprit["path"], &culprit["tid"]), (&truth["path"], &truth["reader_tid"]), "{finding}");
    close("waiting", number(finding, "lost_s"), number(&truth, "waited_s"), 0.10, 0.05);
    report.assert_silent(&["small-random-reads", "dirty-throttling"]);
}

#[test]
fn a_device_on_a_slow_one_is_named() {
    let Some(mount) = LoopMount::new(64) else { return };
    let Some(cgroup) = IoCgroup::new(Path::new(&disk()), 12 * MIB) else { return };
    // The device has its image's pages from the disk, on behalf of whoever asks it.
    let folder = mount.folder().display();
    let arguments =
        format!("reads --mib 24 --in-order --direct --folder {folder} --cgroup {}", cgroup.folder().display());
    let traced = traced(&arguments);
    let (truth, report) = (traced.truth(), traced.report());
    let finding = report.finding("slow-storage");
    assert!(text(finding, "summary").contains(&format!("{} is slow", mount.disk())), "{finding}");
    assert_eq!(finding["culprit"]["path"], truth["path"], "{finding}");
    report.assert_silent(&["small-random-reads"]);
}

#[test]
fn what_is_written_later_is_charged_to_whoever_dirtied_it() {
    let script = "import os,sys,time\nf=open(sys.argv[1],'wb',buffering=0)\n\
                  [f.write(bytes(1<<20)) for _ in range(48)]\ntime.sleep(0.3)\nf.close()\nos.sync()\nprint(os.getpid())";
    let path = format!("{}/later-{}", disk(), fastrand::u32(..));
    let run = ["python3", "-c", script, &path].map(std::ffi::OsString::from).to_vec();
    let traced = Tracer::run(run).options(&FAMILIES).go().expect_code(0);
    let report = traced.report();
    std::fs::remove_file(&path).expect("it was written");
    let row = file(&report, &path);
    assert_eq!(row["dirtied_bytes"], 48 * MIB, "{row}");
    assert_eq!(row["path"], path, "nobody waited for it, but it was open long enough to be looked up: {row}");
    close("written for it", number(&row["writes"], "bytes"), (48 * MIB) as f64, 0.02, 0.0);
    let pid = whole(row, "pid");
    let processes = list(&report.0["io"], "processes");
    let own = processes.iter().find(|process| process["pid"] == pid).expect("the writer is told");
    let wrote = number(own, "write_bytes") + number(own, "background_bytes");
    close("charged to the writer", wrote, (48 * MIB) as f64, 0.05, 0.0);
    assert!(text(own, "process").contains("python"), "{own}");
}

#[test]
fn a_writer_over_a_devices_dirty_limit_is_paused_and_named() {
    let Some(mount) = LoopMount::new(2048) else { return };
    if !mount.limit_dirty(8 * MIB) {
        return;
    }
    let pauses = Pauses::begin();
    // On a quick disk 384 MiB are 0.4 s of pauses, too few to be told.
    let traced = traced(&format!("dirty-writer --mib 1536 --folder {}", mount.folder().display()));
    let (truth, report) = (traced.truth(), traced.report());
    let asked_s = pauses.end(whole(&truth, "pid"));
    let paused = &list(&report.0["io"], "paused")[0];
    assert_eq!((&paused["tid"], &paused["disk"]), (&truth["pid"], &Value::from(mount.disk())), "{paused}");

    close("pauses, as the kernel asked for them", number(paused, "asked_s"), asked_s, 0.02, 0.01);
    assert!(number(paused, "total_s") >= asked_s, "a pause is not shorter than that: {paused}");
    let finding = report.finding("dirty-throttling");
    assert_eq!(finding["culprit"]["tid"], truth["pid"], "{finding}");
    assert!(text(&finding["culprit"], "function").contains("write"), "{finding}");
    report.assert_silent(&["memory-limit", "page-cache-thrash", "slow-storage"]);
    report.assert_sums();
}

#[test]
fn a_writer_below_the_limit_is_not_paused() {
    for _ in 0..crate::healthy::repeats() {
        let traced = traced(&format!("dirty-writer --mib 128 --folder {}", disk()));
        traced.report().assert_silent(&CLASSES);
    }
}

/// The kernel's own account of the pauses, from the tracepoint of an instance of tracefs.
struct Pauses {
    instance: std::path::PathBuf,
}

impl Pauses {
    fn begin() -> Self {
        let root = Path::new("/sys/kernel/tracing/instances");
        let instance = root.join(format!("live-pauses-{}-{}", std::process::id(), fastrand::u32(..)));
        std::fs::create_dir(&instance).expect("tracefs makes an instance");
        let set = |file: &str, text: &str| std::fs::write(instance.join(file), text).expect("tracefs takes it");
        set("buffer_size_kb", "4096");
        set("events/writeback/balance_dirty_pages/enable", "1");
        Pauses { instance }
    }

    /// Seconds of a thread's pauses, as the kernel asked for them: in milliseconds.
    fn end(self, tid: u64) -> f64 {
        let trace = std::fs::read_to_string(self.instance.join("trace")).expect("the trace can be read");
        let own = trace
            .lines()
            .filter(|line| line.split_whitespace().next().is_some_and(|who| who.ends_with(&format!("-{tid}"))));
        let pause = |line: &str| line.split(" pause=").nth(1)?.split_whitespace().next()?.parse::<f64>().ok();
        own.filter_map(pause).filter(|ms| *ms > 0.0).sum::<f64>() / 1e3
    }
}

impl Drop for Pauses {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.instance);
    }
}

/// A file system of a process, mounted on a folder of its own until this is dropped.
struct Fuse {
    folder: tempfile::TempDir,
    server: Background,
    pid: Value,
}

impl Fuse {
    /// With one file, each read of which takes so long; none, with a word why, where it cannot be mounted.
    fn serve(mib: u64, delay_ms: u64) -> Option<Self> {
        Self::with(&format!("{mib} {delay_ms}"))
    }

    /// With arguments of the server.
    fn with(arguments: &str) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            eprintln!("not tested: this kernel has no FUSE");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let arguments = format!("{} {arguments}", folder.path().display());
        let mut server = Background::command(&python("fuse_server.py", &arguments));
        let pid = server.next_json()["pid"].clone();
        Some(Fuse { folder, server, pid })
    }

    fn file(&self) -> String {
        self.folder.path().join("data.bin").display().to_string()
    }

    /// From now on it answers nobody, until this is dropped.
    fn hang(&self) {
        self.server.signal(libc::SIGSTOP);
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let folder = std::ffi::CString::new(self.folder.path().as_os_str().as_encoded_bytes()).expect("a path");
        // SAFETY: a string that ends in zero. The server ends by itself then, or with this.
        unsafe { libc::umount2(folder.as_ptr(), libc::MNT_DETACH) };
        self.server.signal(libc::SIGTERM);
    }
}

#[test]
fn a_file_system_that_a_process_serves_slowly_is_named_with_its_type_and_that_process() {
    let Some(fuse) = Fuse::serve(32, 10) else { return };
    let read = |passes: u32| {
        let command = python("read_file.py", &format!("{} 131072 {passes}", fuse.file()));
        let traced = Tracer::run(command).options(&FAMILIES).go().expect_code(0);
        (traced.truth(), traced.report())
    };
    let (truth, report) = read(1);
    let finding = report.finding("slow-storage");
    let culprit = &finding["culprit"];
    assert_eq!((&culprit["pid"], text(culprit, "path")), (&truth["pid"], fuse.file().as_str()), "{finding}");
    assert_eq!(text(culprit, "function"), "read_piece", "{finding}");
    let summary = text(finding, "summary");
    let server = format!("({})", fuse.pid);
    assert!(summary.contains("fuse.farstore from far-store") && summary.contains(&server), "{summary}");
    close("waiting for it", number(finding, "lost_s"), number(&truth, "reading_s"), 0.10, 0.0);
    report.assert_path();
    // Many more files than are told apart.
    let samples = fuse.folder.path().join("sample-{}").display().to_string();
    let traced = Tracer::run(python("read_file.py", &format!("{samples} 131072 300"))).options(&FAMILIES).go();
    let (truth, report) = (traced.truth(), traced.expect_code(0).report());
    let finding = report.finding("slow-storage");
    assert!(text(finding, "summary").contains(&server), "{finding}");
    close("waiting for all of them", number(finding, "lost_s"), number(&truth, "reading_s"), 0.15, 0.0);
    // What the page cache has is not asked for again.
    let _in_memory = Resident::of(Path::new(&fuse.file()));
    for _ in 0..crate::healthy::repeats() {
        let (_, report) = read(20);
        report.assert_silent(&CLASSES);
    }
}

#[test]
fn a_file_system_that_sends_what_was_written_when_the_file_is_closed_is_named_or_at_least_the_call() {
    let written = |fuse: &Fuse, pieces: u32| {
        let command = python("write_close.py", &format!("{} {pieces} 24", fuse.file()));
        let traced = Tracer::run(command).options(&FAMILIES).go().expect_code(0);
        (traced.truth(), traced.report())
    };
    let Some(fuse) = Fuse::with("1 close:50") else { return };
    for pieces in [3, 0] {
        let (truth, report) = written(&fuse, pieces);
        let finding = report.finding("slow-storage");
        let culprit = &finding["culprit"];
        assert_eq!((&culprit["pid"], text(culprit, "function")), (&truth["pid"], "finish"), "{finding}");
        // Nothing was waited for of a file into which nothing is written: which one it is nobody can tell.
        assert_eq!(culprit["path"].as_str(), (pieces > 0).then_some(fuse.file().as_str()), "{finding}");
        assert!(text(finding, "summary").contains("farstore") == (pieces > 0), "{finding}");
        close("waiting for it", number(finding, "lost_s"), number(&truth, "closing_s"), 0.10, 0.05);
        report.assert_path();
        report.assert_sums();
    }
    drop(fuse);
    let Some(fuse) = Fuse::with("1 close:0") else { return };
    for _ in 0..crate::healthy::repeats() {
        let (_, report) = written(&fuse, 100);
        report.assert_silent(&CLASSES);
    }
}

#[test]
fn a_thread_whose_file_system_has_stopped_answering_is_told_with_the_file_and_does_not_stop_the_tracer() {
    // Dropped after the server: before it has its answer it cannot even be killed.
    let reader;
    let Some(fuse) = Fuse::serve(512, 10) else { return };
    reader = Background::command(&python("read_file.py", &format!("{} 131072 1", fuse.file())));
    std::thread::sleep(Duration::from_millis(500));
    fuse.hang();
    let waits_for = || std::fs::read_to_string(format!("/proc/{}/wchan", reader.pid())).unwrap_or_default();
    until("the reader waits for the server", Duration::from_secs(10), || waits_for().contains("wait"));
    let pid = reader.pid().to_string();
    let traced = Tracer::record(&["--pid", &pid, "--duration", "1s"]).options(&FAMILIES).go().expect_code(0);
    let report = traced.report();
    let finding = report.finding("slow-storage");
    assert_eq!(text(&finding["culprit"], "path"), fuse.file(), "{finding}");
    assert_eq!(text(&finding["culprit"], "function"), "read_piece", "{finding}");
    let summary = text(finding, "summary");
    assert!(summary.contains("fuse.farstore") && summary.contains("had not answered when"), "{summary}");
    close("waiting for it", number(finding, "lost_s"), number(&report.0["window"], "duration_s"), 0.05, 0.0);
}

#[test]
fn a_program_whose_file_system_has_stopped_answering_is_traced_without_its_names() {
    let program = crate::harness::workload_bin();
    let running;
    let Some(fuse) = Fuse::with(&format!("0 0 {}", program.display())) else { return };
    let mut line = workload("never-switch");
    line[0] = fuse.file().into();
    running = Background::command(&line);
    std::thread::sleep(Duration::from_millis(500));
    fuse.hang();
    let pid = running.pid().to_string();
    let traced = Tracer::record(&["--pid", &pid, "--duration", "1s"]).options(&FAMILIES).go().expect_code(0);
    assert!(traced.ended.stderr.contains("does not answer"), "{}", traced.ended.stderr);
    let report = traced.report();
    let functions = list(&report.0["stacks"], "functions");
    let own: Vec<&Value> = functions.iter().filter(|function| function["module"] == fuse.file()).collect();
    assert!(own.iter().any(|function| number(function, "self_s") > 0.1), "it was seen to compute: {functions:?}");
    assert!(own.iter().all(|function| function["unsymbolised"] == true), "{own:?}");
}
