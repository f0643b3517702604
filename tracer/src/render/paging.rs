//! The text report's tables of page faults, reclaim and files in the page cache. What is little is left out.

use super::layout::{Align, Page};
use super::stacks::name;
use crate::model::paging::{CachedFile, Load, OomKill, PAGE_BYTES, Paging, ProcessFaults, Stall};
use crate::model::report::Report;
use crate::model::units::{bytes, duration, grouped};

const MAX_ROWS: usize = 6;
/// Fewer page faults are every program's.
const LEAST_FAULTS: u64 = 20_000;
/// Less read into the page cache is not worth a line.
const LEAST_READ_BYTES: u64 = 16 << 20;
/// Less time in reclaim neither.
const LEAST_STALL_S: f64 = 0.01;
/// Columns of the tables but for the name.
const OTHER_COLUMNS: usize = 62;
const LEAST_NAME: usize = 14;

/// All that there is to say.
pub(super) fn tables(page: &mut Page, report: &Report) {
    let Some(paging) = &report.paging else { return };
    kills(page, paging);
    faults(page, paging);
    stalls(page, paging);
    files(page, paging);
    loads(page, paging);
}

pub(super) fn process(name: Option<&str>, pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("{} ({pid})", name.unwrap_or("?")),
        None => name.unwrap_or("?").to_owned(),
    }
}

fn kills(page: &mut Page, paging: &Paging) {
    let kills: Vec<&OomKill> = paging.kills.iter().flatten().collect();
    if kills.is_empty() {
        return;
    }
    page.title("Killed by the kernel for want of memory");
    for kill in kills.into_iter().take(MAX_ROWS) {
        let held = [("anonymous", kill.anonymous_bytes), ("files", kill.file_bytes), ("shared", kill.shared_bytes)];
        let held: Vec<String> =
            held.iter().filter(|(_, held)| *held > 0).map(|(what, held)| format!("{what} {}", bytes(*held))).collect();
        let who = process(kill.whose.process.as_deref(), kill.whose.pid);
        page.paragraph("  ", &format!("{who} after {}, with {}", duration(kill.t_s), held.join(", ")));
    }
}

fn faults(page: &mut Page, paging: &Paging) {
    let all = paging.faults.iter().flatten();
    let shown: Vec<&ProcessFaults> = all.filter(|faults| faults.total >= LEAST_FAULTS).take(MAX_ROWS).collect();
    if shown.is_empty() {
        return;
    }
    page.title("Page faults");
    let heading = [
        ("process", Align::Left),
        ("faults", Align::Right),
        ("mostly", Align::Left),
        ("kernel", Align::Right),
        ("held at most", Align::Right),
        ("function", Align::Left),
    ];
    let room = page.width().saturating_sub(OTHER_COLUMNS).max(LEAST_NAME);
    let row = |faults: &&ProcessFaults| {
        let most = faults.kinds.iter().reduce(|a, b| if b.1 > a.1 { b } else { a });
        let kind = most.map_or("", |(kind, _)| kind.as_str());
        let function = faults.function(kind).map(|(_, function)| function);
        vec![
            process(faults.process.as_deref(), Some(faults.pid)),
            grouped(faults.total),
            kind.replace('_', "-"),
            faults.cpu_s.map(duration).unwrap_or_default(),
            faults.anonymous_most_bytes.map(bytes).unwrap_or_default(),
            function.map(|function| name(&function.location, room)).unwrap_or_default(),
        ]
    };
    page.table(&heading, &shown.iter().map(row).collect::<Vec<_>>());
}

fn stalls(page: &mut Page, paging: &Paging) {
    let all = paging.stalls.iter().flatten();
    let shown: Vec<&Stall> = all.filter(|stall| stall.total_s >= LEAST_STALL_S).take(MAX_ROWS).collect();
    if shown.is_empty() {
        return;
    }
    page.title("Freeing memory instead of working");
    let heading = [
        ("thread", Align::Left),
        ("what", Align::Left),
        ("times", Align::Right),
        ("time", Align::Right),
        ("freed", Align::Right),
    ];
    let row = |stall: &&Stall| {
        vec![
            process(stall.whose.thread.as_deref(), stall.whose.tid),
            stall.kind.clone(),
            grouped(stall.count),
            duration(stall.total_s),
            bytes(stall.freed_bytes),
        ]
    };
    page.table(&heading, &shown.iter().map(row).collect::<Vec<_>>());
}

fn files(page: &mut Page, paging: &Paging) {
    let all = paging.files.iter().flatten();
    let shown: Vec<&CachedFile> = all.filter(|file| file.read_bytes >= LEAST_READ_BYTES).take(MAX_ROWS).collect();
    let small_bytes = paging.small_files.as_ref().map_or(0, |files| files.read_bytes);
    if shown.is_empty() && small_bytes < LEAST_READ_BYTES {
        return;
    }
    page.title("Files read into the page cache");
    if small_bytes >= LEAST_READ_BYTES {
        page.paragraph("  ", &format!("{} of files under 256 KiB.", bytes(small_bytes)));
    }
    if shown.is_empty() {
        return;
    }
    let heading = [
        ("read", Align::Right),
        ("size", Align::Right),
        ("times", Align::Right),
        ("thrown out", Align::Right),
        ("by", Align::Left),
        ("file", Align::Left),
    ];
    let row = |file: &&CachedFile| {
        let reclaimed = file.reclaimed_bytes();
        vec![
            bytes(file.read_bytes),
            bytes(file.size_bytes),
            file.reread_factor.map(|factor| format!("{factor:.1}")).unwrap_or_default(),
            if reclaimed >= PAGE_BYTES { bytes(reclaimed) } else { String::new() },
            process(file.whose.process.as_deref(), file.whose.pid),
            file.shown(),
        ]
    };
    page.table(&heading, &shown.iter().map(row).collect::<Vec<_>>());
}

/// Where a load's time went, and how fast it was.
fn loads(page: &mut Page, paging: &Paging) {
    if paging.loads.is_empty() {
        return;
    }
    page.title("Large files loaded");
    let heading = [
        ("size", Align::Right),
        ("from disk", Align::Right),
        ("cached", Align::Right),
        ("took", Align::Right),
        ("rate", Align::Right),
        ("waited", Align::Right),
        ("rate then", Align::Right),
        ("device", Align::Right),
        ("by", Align::Left),
        ("file", Align::Left),
    ];
    let per_s = |rate: f64| format!("{}/s", bytes(rate as u64));
    let row = |load: &Load| {
        let waited_s = load.waited_in_faults_s + load.waited_in_reads_s;
        let how = if load.mapped { "mapping" } else { "reading" };
        vec![
            bytes(load.size_bytes),
            bytes(load.missed_bytes),
            load.cached_bytes.map(bytes).unwrap_or_default(),
            load.took_s.map(duration).unwrap_or_default(),
            load.bytes_per_s.map(per_s).unwrap_or_default(),
            duration(waited_s),
            load.bytes_per_waited_s.map(per_s).unwrap_or_default(),
            load.device_bytes_per_s.map(per_s).unwrap_or_default(),
            how.to_owned(),
            load.path.clone(),
        ]
    };
    page.table(&heading, &paging.loads.iter().take(MAX_ROWS).map(row).collect::<Vec<_>>());
}
