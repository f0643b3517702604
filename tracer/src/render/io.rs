//! The text report's lines on block devices: what they were asked to do, for which files, and who was paused for dirtying too much. Left
//! out where they did next to nothing.

use std::fmt::Write;

use super::layout::{Align, Page};
use super::paging::process;
use super::stacks::name;
use crate::model::io::{DirtyPauses, FileCalls, Io, IoDevice, IoFile, IoRequests, Save};
use crate::model::report::Report;
use crate::model::stacks::Whose;
use crate::model::units::{bytes, count, duration, grouped, percent};

const MAX_DEVICES: usize = 4;
const MAX_FILES: usize = 6;
const MAX_FOLDERS: usize = 3;
const MAX_PAUSED: usize = 4;
const MAX_CALLS: usize = 8;
const MAX_SAVES: usize = 3;
/// Of a function's name.
const NAME_ROOM: usize = 60;
/// A device that was busy for a smaller part of the run is not told.
const LEAST_SHARE: f64 = 0.01;

/// All that there is to say.
pub(super) fn lines(page: &mut Page, report: &Report) {
    let Some(io) = &report.io else { return };
    calls(page, io);
    let least_s = LEAST_SHARE * report.window.duration_s;
    let devices: Vec<&IoDevice> = io.devices.iter().flatten().filter(|device| device.busy_s >= least_s).collect();
    let paused: Vec<&DirtyPauses> = io.paused.iter().flatten().filter(|row| row.total_s >= least_s).collect();
    saves(page, io, least_s);
    if devices.is_empty() && paused.is_empty() {
        return;
    }
    page.title("Block devices");
    for device in devices.into_iter().take(MAX_DEVICES) {
        page.paragraph("  ", &device_line(device, report.window.duration_s));
        files(page, io, device, least_s);
    }
    for row in paused.into_iter().take(MAX_PAUSED) {
        page.paragraph("  ", &pause_line(row));
    }
}

/// Functions that write files and wait until disks have them.
fn saves(page: &mut Page, io: &Io, least_s: f64) {
    let shown: Vec<&Save> = io.saves.iter().filter(|save| save.synced_s >= least_s).take(MAX_SAVES).collect();
    if shown.is_empty() {
        return;
    }
    page.title("Saving files until disks have them");
    for save in shown {
        page.paragraph("  ", &save_line(save));
    }
}

fn save_line(save: &Save) -> String {
    let mut line =
        format!("{} of {}: ", name(&save.location, NAME_ROOM), process(save.whose.process.as_deref(), save.whose.pid));
    let _ = write!(
        line,
        "{} computing (packing the data, and whatever else it does), {} copying into the page cache, {} in fsync and calls like it",
        duration(save.computed_s),
        duration(save.copied_s),
        duration(save.synced_s),
    );
    for (s, what) in [(save.write_waits_s, "waiting in calls that write"), (save.other_waits_s, "in other waits")] {
        if s > 0.0 {
            let _ = write!(line, ", {} {what}", duration(s));
        }
    }
    if let Some((bytes_written, s)) = save.write_bytes.zip(save.write_device_s).filter(|(bytes, _)| *bytes > 0) {
        let _ = write!(line, "; devices had {} of the process for {}", bytes(bytes_written), duration(s));
    }
    if let Some((flushes, s)) = save.flushes.zip(save.flush_device_s).filter(|(flushes, _)| *flushes > 0) {
        let _ = write!(line, ", and took {} for {}", duration(s), count(flushes, "flush"));
    }
    line
}

/// Calls that read and write files, where each was counted.
fn calls(page: &mut Page, io: &Io) {
    let shown: Vec<&FileCalls> = io.calls.iter().flatten().take(MAX_CALLS).collect();
    if shown.is_empty() {
        return;
    }
    page.title("Calls that read and write files, exact");
    let heading = [
        ("process", Align::Left),
        ("reads", Align::Right),
        ("read", Align::Right),
        ("by devices", Align::Right),
        ("writes", Align::Right),
        ("written", Align::Right),
        ("file", Align::Left),
    ];
    let number = |count: u64| if count > 0 { grouped(count) } else { String::new() };
    let size = |of: u64, calls: u64| if calls > 0 { bytes(of) } else { String::new() };
    let row = |row: &&FileCalls| {
        vec![
            process(row.process.as_deref(), Some(row.pid)),
            number(row.reads),
            size(row.read_bytes, row.reads),
            row.device_read_bytes.map(|read| size(read, row.reads)).unwrap_or_default(),
            number(row.writes),
            size(row.written_bytes, row.writes),
            row.shown(),
        ]
    };
    page.table(&heading, &shown.iter().map(row).collect::<Vec<_>>());
}

fn files(page: &mut Page, io: &Io, device: &IoDevice, least_s: f64) {
    let took =
        |file: &IoFile| [&file.reads, &file.writes].into_iter().flatten().map(|row| row.device.total_s).sum::<f64>();
    let own = io.files.iter().filter(|file| file.disk.is_some() && file.disk == device.name && took(file) >= least_s);
    let folders =
        io.folders.iter().filter(|file| file.disk.is_some() && file.disk == device.name && took(file) >= least_s);
    for file in folders.take(MAX_FOLDERS).chain(own.take(MAX_FILES)) {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(file.reads.as_ref().map(|row| requests("read", row)));
        parts.extend(file.writes.as_ref().map(|row| requests("written", row)));
        let mut text = format!("{}: {}", file.told(), parts.join("; "));
        text.extend(who(&file.whose).map(|who| format!(", by {who}")));
        if file.background_bytes > 0 {
            text += &format!("; {} of it in the background", bytes(file.background_bytes));
        }
        if let Some(waits) = &file.waits {
            text += &format!(
                "; waited for {}, {} in all ({} half the time, {} in 99 of 100)",
                count(waits.count, "time"),
                duration(waits.total_s),
                duration(waits.p50_s),
                duration(waits.p99_s)
            );
        }
        if let Some(answers) = &file.answers {
            text += &format!(
                "; from a request until its thread ran again {} ({} in 99 of 100)",
                duration(answers.p50_s),
                duration(answers.p99_s)
            );
        }
        page.paragraph("    ", &text);
    }
}

fn requests(what: &str, row: &IoRequests) -> String {
    let queued = if row.queued.mean_s > row.device.mean_s / 4.0 {
        format!(" after {} in the queue", duration(row.queued.p50_s))
    } else {
        String::new()
    };
    format!(
        "{} {what} in {} requests of {}, {} in order, {} each with the device ({} in 99 of 100){queued}",
        bytes(row.bytes),
        grouped(row.requests),
        bytes(row.mean_bytes),
        percent(row.sequential_share),
        duration(row.device.p50_s),
        duration(row.device.p99_s),
    )
}

fn device_line(device: &IoDevice, wall_s: f64) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(device.reads.as_ref().map(|row| requests("read", row)));
    parts.extend(device.writes.as_ref().map(|row| requests("written", row)));
    for (what, row) in [("flush", &device.flushes), ("discard", &device.discards)] {
        if let Some(row) = row {
            parts.push(format!("{} of {}", count(row.requests, what), duration(row.device.p50_s)));
        }
    }
    let mut text = format!(
        "{} was busy {} of {}, with {:.1} requests at a time: {}",
        device.shown(),
        duration(device.busy_s),
        duration(wall_s),
        device.in_flight_mean * wall_s / device.busy_s.max(f64::MIN_POSITIVE),
        parts.join("; ")
    );
    if device.requests_of_others > 0 {
        text += &format!("; {} of these by processes that are not traced", grouped(device.requests_of_others));
    }
    if device.failed > 0 {
        text += &format!("; {} FAILED", grouped(device.failed));
    }
    if let Some(file) = &device.backing_file {
        text += &format!("; it stands for {file}");
    }
    text
}

fn who(whose: &Whose) -> Option<String> {
    let name = whose.thread.as_deref().or(whose.process.as_deref()).unwrap_or("?");
    Some(format!("{name} ({})", whose.tid?))
}

fn pause_line(row: &DirtyPauses) -> String {
    let disk = row.disk.as_deref().or(row.device.as_deref()).unwrap_or("a device");
    format!(
        "{} was paused {} by the kernel, {} in all: too much was dirty for {disk}",
        who(&row.whose).unwrap_or_else(|| "a thread".to_owned()),
        count(row.count, "time"),
        duration(row.total_s)
    )
}
