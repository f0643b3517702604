//! How large files were loaded: models, checkpoints, shards. Put together from parts of the finished report: files in the page cache, what
//! processes have mapped, who waited for which file, page faults. Decides nothing.

use std::cmp::Reverse;

use crate::model::memory::{GrowthRow, ProcessSizes};
use crate::model::paging::{CachedFile, Load, ProcessFaults, reads};
use crate::model::report::{Report, Row, Thread, Wait};
use crate::model::stacks::Whose;

/// A smaller file is loaded in no time.
const LEAST_BYTES: u64 = 32 << 20;
/// A file of which less than one in so many bytes came in, or was mapped, was looked at and not loaded.
const PART: u64 = 2;
/// Rows.
const MAX_LOADS: usize = 16;

/// Every load.
pub(in crate::aggregate) fn loads(report: &Report) -> Vec<Load> {
    let files: Vec<&CachedFile> = report.paging.iter().flat_map(|paging| paging.files.iter().flatten()).collect();
    let read = files.iter().filter_map(|file| of_file(report, file));
    let is_among = |path: &str| files.iter().any(|file| file.path.as_deref() == Some(path));
    // What the page cache had is not among the files that came into it.
    let cached = mapped_files(report).filter(|(row, _)| row.path.as_deref().is_some_and(|path| !is_among(path)));
    let mut all: Vec<Load> = read.collect();
    for (row, process) in cached {
        let path = row.path.clone().unwrap_or_default();
        if row.most_bytes >= LEAST_BYTES && all.iter().all(|load| load.path != path) {
            all.push(of_mapping(report, path, row.most_bytes, process));
        }
    }
    all.sort_by(|a, b| Reverse(a.size_bytes).cmp(&Reverse(b.size_bytes)).then_with(|| a.path.cmp(&b.path)));
    all.truncate(MAX_LOADS);
    all
}

/// Pages of files that processes have mapped, by file.
fn mapped_files(report: &Report) -> impl Iterator<Item = (&GrowthRow, &ProcessSizes)> {
    let processes = report.memory.iter().flat_map(|memory| &memory.processes);
    processes.flat_map(|process| process.growth.iter().flat_map(|growth| &growth.files).map(move |row| (row, process)))
}

/// The most of a file that a process has mapped.
fn mapped_bytes(report: &Report, path: &str) -> Option<u64> {
    mapped_files(report).filter(|(row, _)| row.path.as_deref() == Some(path)).map(|(row, _)| row.most_bytes).max()
}

/// Waits for a file: of which thread, whether in page faults.
fn waits<'a>(report: &'a Report, path: &'a str) -> impl Iterator<Item = (&'a Thread, bool, f64)> {
    let threads = report.threads.iter().filter_map(|row| match row {
        Row::Thread(thread) => Some(&**thread),
        Row::Others(_) => None,
    });
    let of_wait = |wait: &Wait| match &*wait.state {
        "fault" => Some(true),
        "file" if wait.detail.as_deref().is_none_or(reads) => Some(false),
        _ => None,
    };
    threads.flat_map(move |thread| {
        let ours = thread.waits.iter().filter(move |wait| wait.path.as_deref() == Some(path));
        ours.filter_map(move |wait| Some((thread, of_wait(wait)?, wait.total_s)))
    })
}

fn faults(report: &Report, pid: Option<u32>) -> Option<&ProcessFaults> {
    report.paging.as_ref()?.faults.as_ref()?.iter().find(|faults| Some(faults.pid) == pid)
}

/// A file of which pages came in.
fn of_file(report: &Report, file: &CachedFile) -> Option<Load> {
    let path = file.path.as_ref()?;
    let mapped = mapped_bytes(report, path);
    let most = mapped.unwrap_or(0);
    let is_loaded = file.read_bytes.max(most) >= file.size_bytes / PART && file.written_bytes <= file.read_bytes;
    if file.size_bytes < LEAST_BYTES || !is_loaded {
        return None;
    }
    let took_s = file.read_last_s.zip(file.read_first_s).map(|(last, first)| last - first).filter(|took| *took > 0.0);
    let waiter = waits(report, path).reduce(|a, b| if b.2 > a.2 { b } else { a });
    let whose = waiter.map_or_else(|| file.whose.clone(), |(thread, ..)| whose_thread(thread));
    let load = Load {
        path: path.clone(),
        size_bytes: file.size_bytes,
        mapped: most >= file.size_bytes / PART || waits(report, path).any(|(_, in_fault, _)| in_fault),
        missed_bytes: file.read_bytes,
        cached_bytes: mapped.map(|bytes| bytes.saturating_sub(file.read_bytes)),
        reread_factor: file.read_bytes as f64 / file.size_bytes as f64,
        took_s,
        bytes_per_s: took_s.map(|took_s| file.read_bytes as f64 / took_s),
        device_bytes_per_s: device_bytes_per_s(report, (file.inode, &file.device)),
        ..Load::default()
    };
    Some(with_waits(report, with_faults(report, Load { whose, ..load })))
}

/// How quick the device was with a file.
fn device_bytes_per_s(report: &Report, file: (u64, &str)) -> Option<f64> {
    let files = report.io.as_ref()?.files.iter();
    let own = files
        .filter(|own| (own.inode, own.device.as_str()) == file)
        .find_map(|own| own.reads.as_ref().zip(own.reading_s));
    own.filter(|(_, reading_s)| *reading_s > 0.0).map(|(reads, reading_s)| reads.bytes as f64 / reading_s)
}

/// A file that was mapped, and of which nothing came in.
fn of_mapping(report: &Report, path: String, bytes: u64, process: &ProcessSizes) -> Load {
    let whose = Whose { process: process.process.clone(), pid: Some(process.pid), ..Whose::default() };
    let load = Load { path, size_bytes: bytes, whose, mapped: true, cached_bytes: Some(bytes), ..Load::default() };
    with_waits(report, with_faults(report, load))
}

fn whose_thread(thread: &Thread) -> Whose {
    Whose { process: thread.process.clone(), pid: thread.pid, thread: thread.name.clone(), tid: Some(thread.tid) }
}

fn with_waits(report: &Report, load: Load) -> Load {
    let sum = |wanted: bool| {
        // A sum of nothing is -0 otherwise.
        waits(report, &load.path).filter(|(_, in_fault, _)| *in_fault == wanted).fold(0.0, |sum, (.., s)| sum + s)
    };
    let (waited_in_faults_s, waited_in_reads_s) = (sum(true), sum(false));
    let waited_s = waited_in_faults_s + waited_in_reads_s;
    let bytes_per_waited_s = (waited_s > 0.0 && load.missed_bytes > 0).then(|| load.missed_bytes as f64 / waited_s);
    Load { waited_in_faults_s, waited_in_reads_s, bytes_per_waited_s, ..load }
}

fn with_faults(report: &Report, load: Load) -> Load {
    let faults = faults(report, load.whose.pid).filter(|_| load.mapped);
    let file_faults = faults.map(|faults| faults.of("file").saturating_add(faults.of("file_major")));
    Load { file_faults, faults_cpu_s: faults.and_then(|faults| faults.cpu_s), ..load }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::io::{Io, IoFile, IoRequests};
    use crate::model::memory::{Growth, Memory};
    use crate::model::paging::Paging;

    const MIB: u64 = 1 << 20;

    fn file(path: &str, size: u64, read: u64) -> CachedFile {
        CachedFile {
            path: Some(path.to_owned()),
            size_bytes: size,
            read_bytes: read,
            read_first_s: Some(1.0),
            read_last_s: Some(3.0),
            ..CachedFile::default()
        }
    }

    fn has_mapped(path: &str, most_bytes: u64) -> GrowthRow {
        let (path, kind) = (Some(path.to_owned()), "file".to_owned());
        GrowthRow { class: "file".to_owned(), path, kind, most_bytes, ..GrowthRow::default() }
    }

    fn wait(state: &str, detail: Option<&str>, path: &str, total_s: f64) -> Wait {
        let (state, detail) = (state.to_owned(), detail.map(str::to_owned));
        Wait { state, detail, path: Some(path.to_owned()), total_s, ..Wait::default() }
    }

    /// Files that came in, what process 7 has mapped, and what a thread of it waited for.
    fn report(files: Vec<CachedFile>, mapped: Vec<GrowthRow>, waits: Vec<Wait>) -> Report {
        let mut report = crate::testing::contended_report();
        let growth = Some(Growth { files: mapped, ..Growth::default() });
        let process = ProcessSizes { pid: 7, growth, ..ProcessSizes::default() };
        report.memory = Some(Memory { processes: vec![process], ..Memory::default() });
        let faults = ProcessFaults {
            pid: 7,
            kinds: [("file".to_owned(), 90), ("file_major".to_owned(), 10)].into(),
            cpu_s: Some(0.25),
            ..ProcessFaults::default()
        };
        report.paging = Some(Paging { files: Some(files), faults: Some(vec![faults]), ..Paging::default() });
        report.threads = vec![Row::Thread(Box::new(Thread { tid: 8, pid: Some(7), waits, ..Thread::default() }))];
        report
    }

    #[test]
    fn a_cold_mapped_file_came_from_its_disk_while_threads_waited_in_page_faults() {
        let waits = vec![wait("fault", None, "/m", 1.0), wait("file", Some("fsync"), "/m", 9.0)];
        let report = report(vec![file("/m", 512 * MIB, 512 * MIB)], vec![has_mapped("/m", 512 * MIB)], waits);
        let loads = loads(&report);
        let [load] = &loads[..] else { panic!("{loads:?}") };
        assert_eq!((load.mapped, load.missed_bytes, load.cached_bytes), (true, 512 * MIB, Some(0)));
        assert_eq!((load.whose.pid, load.whose.tid), (Some(7), Some(8)));
        assert_eq!((load.took_s, load.bytes_per_s), (Some(2.0), Some(256.0 * MIB as f64)));
        assert_eq!((load.waited_in_faults_s, load.waited_in_reads_s), (1.0, 0.0), "to sync is not to load");
        assert_eq!(load.bytes_per_waited_s, Some(512.0 * MIB as f64));
        assert_eq!((load.file_faults, load.faults_cpu_s), (Some(100), Some(0.25)));
    }

    #[test]
    fn a_device_is_as_quick_as_what_it_read_in_the_time_that_it_read() {
        let row = CachedFile { inode: 5, device: "8:1".to_owned(), ..file("/m", 64 * MIB, 64 * MIB) };
        let mut report = report(vec![row], vec![], vec![]);
        assert_eq!(loads(&report)[0].device_bytes_per_s, None);
        let reads = IoRequests { bytes: 64 * MIB, ..IoRequests::default() };
        let own = IoFile {
            inode: 5,
            device: "8:1".to_owned(),
            reads: Some(reads),
            reading_s: Some(0.25),
            ..IoFile::default()
        };
        report.io = Some(Io { files: vec![IoFile { device: "8:2".to_owned(), ..own.clone() }, own], ..Io::default() });
        assert_eq!(loads(&report)[0].device_bytes_per_s, Some(256.0 * MIB as f64));
    }

    #[test]
    fn a_warm_mapped_file_was_in_the_cache_and_a_half_warm_one_to_a_half() {
        let files = vec![file("/half", 128 * MIB, 64 * MIB)];
        let report = report(files, vec![has_mapped("/warm", 256 * MIB), has_mapped("/half", 128 * MIB)], vec![]);
        let told: Vec<_> =
            loads(&report).into_iter().map(|load| (load.path, load.missed_bytes, load.cached_bytes)).collect();
        let half = ("/half".to_owned(), 64 * MIB, Some(64 * MIB));
        assert_eq!(told, [("/warm".to_owned(), 0, Some(256 * MIB)), half]);
    }

    #[test]
    fn a_file_that_is_read_by_calls_is_not_mapped_and_what_the_cache_had_of_it_is_not_known() {
        let waits = vec![wait("file", Some("pread64"), "/m", 0.5)];
        let report = report(vec![file("/m", 64 * MIB, 64 * MIB)], vec![], waits);
        let loads = loads(&report);
        let [load] = &loads[..] else { panic!("{loads:?}") };
        assert_eq!((load.mapped, load.cached_bytes, load.file_faults), (false, None, None));
        assert_eq!((load.waited_in_faults_s, load.waited_in_reads_s), (0.0, 0.5));
    }

    #[test]
    fn small_files_and_those_that_were_looked_at_or_written_are_no_loads() {
        let written = CachedFile { written_bytes: 64 * MIB, ..file("/w", 64 * MIB, 32 * MIB) };
        let files = vec![file("/small", MIB, MIB), file("/looked-at", 512 * MIB, 16 * MIB), written];
        assert_eq!(loads(&report(files, vec![has_mapped("/tiny", MIB)], vec![])), []);
        let damaged = file("/damaged", 64 * MIB, u64::MAX);
        assert_eq!(loads(&report(vec![damaged], vec![], vec![])).len(), 1);
    }
}
