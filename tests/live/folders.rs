//! Many small files that are read one by one: they are told with their folder, by a pattern of their paths, since no single one says anything.
//! Healthy twins: the same files from memory, and the same bytes in one file. And what files are called that are closed before anybody can look.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::storage::disk;
use crate::harness::{Report, Tracer, close, list, number, python, text, whole};

const FILES: usize = 6_000;
const ROUNDS: usize = 3;

/// A folder with them, gone when this is.
struct Pictures(PathBuf);

impl Pictures {
    /// An empty folder.
    fn folder() -> Self {
        let folder = Path::new(&disk()).join(format!("tracer-pictures-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Pictures(folder)
    }

    fn new() -> Self {
        let pictures = Self::folder();
        let line = python("pictures.py", &format!("make {} {FILES}", pictures.0.display()));
        let status = std::process::Command::new(&line[0]).args(&line[1..]).status().expect("python");
        assert!(status.success());
        pictures
    }

    /// What the program says of itself, and the report.
    fn read(&self, how: &str) -> (Value, Report) {
        let line = python("pictures.py", &format!("read {} {ROUNDS} {how}", self.0.display()));
        let families = ["--family", "cpu,cache,block,writeback"];
        let traced = Tracer::run(line).options(&families).go().expect_code(0);
        (traced.truth(), traced.report())
    }
}

impl Drop for Pictures {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_folder_of_small_files_is_read_in_small_requests_and_told_as_one() {
    let pictures = Pictures::new();
    let (truth, report) = pictures.read("cold");
    let wanted = format!("{}/class-0*/picture-*.jpg", pictures.0.display());
    let folders = list(&report.0["io"], "folders");
    let row = folders.iter().find(|row| row["path"] == wanted).unwrap_or_else(|| panic!("{wanted}: {folders:?}"));
    let files = number(&truth, "files");
    close("files", number(row, "files"), files, 0.01, 0.0);
    // A file takes whole pages of the disk, and is mostly one request.
    let pages = number(&truth, "bytes") / 20_000.0 * 20_480.0;
    let unfinished = report.0["io"]["requests_unfinished"].as_f64().unwrap_or(0.0);
    close("bytes", number(&row["reads"], "bytes"), pages, 0.02, unfinished * 20_480.0);
    assert!(whole(&row["reads"], "requests") >= (files * ROUNDS as f64 * 0.97) as u64, "{row}");
    assert!(number(&row["waits"], "total_s") <= number(&truth, "reading_s"), "{row}");
    let cached = number(&report.0["paging"]["small_files"], "read_bytes");
    close("bytes that came into the page cache", cached, pages, 0.02, 4e6);
    let families = list(&report.0["coverage"], "families");
    let cache = families.iter().find(|family| family["family"] == "cache").expect("it ran");
    assert!(whole(cache, "seen") < files as u64 && whole(cache, "lost") == 0, "they need no room each: {cache}");
    let finding = report.finding("small-random-reads");
    let culprit = &finding["culprit"];
    assert_eq!((&culprit["path"], &culprit["pid"]), (&Value::from(wanted.as_str()), &truth["pid"]), "{finding}");
    assert_eq!(text(culprit, "function"), "load", "{finding}");
    assert!(text(finding, "summary").starts_with(&format!("{wanted} ({} files) were", grouped(whole(row, "files")))));
    // Waiting is measured; it is within what the program says that reading took, and most of what it does besides is the kernel's work for it.
    let lost_s = number(finding, "lost_s");
    assert!(lost_s <= 1.1 * number(&truth, "reading_s"), "{lost_s} of {truth}: {finding}");
    let waits = list(&report.0["critical_path"], "waits");
    let on_path = waits.iter().find(|wait| wait["path"] == wanted).expect("on the critical path");
    close("waiting on the path", number(on_path, "s"), number(&row["waits"], "total_s"), 0.1, 0.02);
    report.assert_silent(&["slow-storage", "page-cache-thrash"]);
    report.assert_sums();
}

fn grouped(number: u64) -> String {
    format!("{},{:03}", number / 1_000, number % 1_000)
}

#[test]
fn the_same_files_from_memory_and_the_same_bytes_in_one_file_are_nobodys_fault() {
    let pictures = Pictures::new();
    for _ in 0..crate::healthy::repeats() {
        for how in ["warm", "packed"] {
            let (truth, report) = pictures.read(how);
            assert_eq!(number(&truth, "bytes"), (FILES * ROUNDS) as f64 * 20_000.0);
            assert!(report.findings("small-random-reads").is_empty(), "{how}: {}", report.0["findings"]);
            report.assert_silent(&["slow-storage", "page-cache-thrash", "cold-file-mapping"]);
        }
    }
}

#[test]
fn a_loader_that_reads_them_for_another_process_starves_it_and_the_folder_is_named() {
    let pictures = Pictures::new();
    let (truth, report) = pictures.read("loader");
    let finding = report.finding("input-starvation");
    let wanted = format!("{}/class-0*/picture-*.jpg", pictures.0.display());
    let culprit = &finding["culprit"];
    assert_eq!((&culprit["pid"], text(culprit, "function")), (&truth["loader_pid"], "load"), "{finding}");
    let parts = list(&report.0["critical_path"], "parts");
    let of_loader = |part: &&Value| part["pid"] == truth["loader_pid"] && part["state"] == "file";
    let reading = parts.iter().find(of_loader).unwrap_or_else(|| panic!("it read: {parts:?}"));
    assert_eq!(reading["path"], wanted, "{reading}");
    let finding = report.finding("small-random-reads");
    let culprit = &finding["culprit"];
    assert_eq!((&culprit["path"], &culprit["pid"]), (&Value::from(wanted), &truth["loader_pid"]), "{finding}");
}

/// What the program says of itself, and the report.
fn named(folder: &Path, how: &str) -> (Value, Report) {
    let families = ["--family", "cpu,cache,block,writeback"];
    let line = python("names.py", &format!("{} {how}", folder.display()));
    let traced = Tracer::run(line).options(&families).go().expect_code(0);
    (traced.truth(), traced.report())
}

#[test]
fn files_that_get_the_number_of_a_deleted_one_are_told_by_what_their_names_have_in_common() {
    let folder = Pictures::folder();
    let (truth, report) = named(&folder.0, "reuse");
    if list(&truth, "inodes").len() > 10 {
        eprintln!("not tested: this file system does not give a number again soon: {truth}");
        return;
    }
    let wanted = format!("{}/checkpoint-*.pt", folder.0.display());
    let thread = report.threads().into_iter().find(|row| row["pid"] == truth["pid"]).expect("the thread");
    let syncs: Vec<&Value> = list(thread, "waits").iter().filter(|wait| wait["detail"] == "fsync").collect();
    assert!(!syncs.is_empty() && syncs.iter().all(|wait| wait["path"] == wanted), "{wanted}: {syncs:?}");
    let files = list(&report.0["io"], "files");
    assert!(files.iter().any(|row| row["path"] == wanted && row["pid"] == truth["pid"]), "{wanted}: {files:?}");
}

#[test]
fn files_of_a_directory_that_is_mounted_elsewhere_have_the_paths_that_their_process_sees() {
    let folder = Pictures::folder();
    let (truth, report) = named(&folder.0, "bind");
    assert_eq!(number(&truth, "bytes"), 5e6);
    let wanted = format!("{}/seen/sample-*.bin", folder.0.display());
    let folders = list(&report.0["io"], "folders");
    assert!(folders.iter().any(|row| row["path"] == wanted && row["pid"] == truth["pid"]), "{wanted}: {folders:?}");
}
