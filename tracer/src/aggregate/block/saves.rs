//! What devices did for functions that save files, and which file these wait longest for: put together from parts of the finished report.

use crate::model::io::{SYNC_CALLS, Save};
use crate::model::report::{Report, Row, Wait};

/// The rows with these.
pub(in crate::aggregate) fn with_devices(mut saves: Vec<Save>, report: &Report) -> Vec<Save> {
    let of_process: Vec<Option<u32>> = saves.iter().map(|save| save.whose.pid).collect();
    for save in &mut saves {
        let Some(pid) = save.whose.pid else { continue };
        save.path = longest_synced(report, pid);
        // Where no other function of the process has any.
        if let Some(s) = synced_s(report, pid).filter(|_| of_process.iter().filter(|of| **of == Some(pid)).count() == 1)
        {
            save.synced_s = s;
        }
        let Some(io) = &report.io else { continue };
        let Some(process) = io.processes.iter().find(|process| process.pid == pid) else { continue };
        save.write_bytes = Some(process.write_bytes);
        save.write_device_s = Some(process.write_device_s);
        if let Some((_, flushes, flush_s)) = io.flushing(process) {
            (save.flushes, save.flush_device_s) = (Some(flushes), Some(flush_s));
        }
    }
    saves
}

/// What syncs of a process took, where its file systems tell.
fn synced_s(report: &Report, pid: u32) -> Option<f64> {
    let syncs = report.threads.iter().filter_map(|row| match row {
        Row::Thread(thread) if thread.pid == Some(pid) => thread.syncs.as_ref(),
        _ => None,
    });
    syncs.map(|syncs| syncs.total_s).reduce(|a, b| a + b)
}

fn longest_synced(report: &Report, pid: u32) -> Option<String> {
    let threads = report.threads.iter().filter_map(|row| match row {
        Row::Thread(thread) if thread.pid == Some(pid) => Some(thread),
        _ => None,
    });
    // Those that found no room of their own are many files', and have no path.
    let is_sync =
        |wait: &&Wait| wait.path.is_some() && wait.detail.as_deref().is_some_and(|call| SYNC_CALLS.contains(&call));
    let syncs = threads.flat_map(|thread| thread.waits.iter().filter(is_sync));
    syncs.max_by(|a, b| a.total_s.total_cmp(&b.total_s))?.path.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::io::{Io, IoDevice, IoProcess, IoRequests, Latency};
    use crate::model::report::Thread;
    use crate::model::stacks::Whose;

    #[test]
    fn a_save_has_its_file_and_what_devices_did_for_its_process_alone() {
        let wait = |detail: &str, path: &str, total_s| Wait {
            state: "file".to_owned(),
            detail: Some(detail.to_owned()),
            path: Some(path.to_owned()),
            total_s,
            ..Wait::default()
        };
        let rest = Wait { path: None, ..wait("fsync", "", 20.0) };
        let waits = vec![rest, wait("read", "/data", 9.0), wait("fsync", "/a", 1.0), wait("fdatasync", "/b", 2.0)];
        let thread = Thread { pid: Some(7), waits, ..Thread::default() };
        let device = Latency { total_s: 0.5, ..Latency::default() };
        let flushes = IoRequests { requests: 4, device, ..IoRequests::default() };
        let process = |pid, flushes| IoProcess { pid, write_bytes: 10, flushes, ..IoProcess::default() };
        let io = Io {
            devices: Some(vec![IoDevice { flushes: Some(flushes), ..IoDevice::default() }]),
            processes: vec![process(7, 4), process(8, 0)],
            ..Io::default()
        };
        let mut report = crate::testing::contended_report();
        (report.threads, report.io) = (vec![Row::Thread(Box::new(thread))], Some(io));
        let save = |pid| Save { whose: Whose { pid: Some(pid), ..Whose::default() }, ..Save::default() };
        let saves = with_devices(vec![save(7), save(8), save(9)], &report);
        assert_eq!((saves[0].path.as_deref(), saves[0].flushes, saves[0].write_bytes), (Some("/b"), Some(4), Some(10)));
        assert_eq!(
            (&saves[1].path, saves[1].flushes, saves[1].write_bytes),
            (&None, None, Some(10)),
            "not its flushes"
        );
        assert_eq!((saves[2].write_bytes, saves[2].write_device_s), (None, None), "no device wrote for it");
    }
}
