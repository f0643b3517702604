//! The report's section `io`: what block devices were asked to do, by device, by file and by process, and who was paused because it
//! dirtied more than was written. Plain data. Waits of threads are in `threads`, the page cache's files in `paging`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stacks::{Location, Whose};
use super::units::count;

/// System calls that return when a disk has what was written.
pub const SYNC_CALLS: [&str; 6] = ["fsync", "fdatasync", "msync", "sync_file_range", "syncfs", "sync"];

/// See the file's head. Counts, bytes and times of requests are exact, as far as none is lost (`coverage`, family `block`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Io {
    /// Block devices that did something, most time with requests first; at most 32. Absent without the family `block`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<IoDevice>>,
    /// Files that requests were for, likewise; at most 32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<IoFile>,
    /// Further files. One that was not used for long may count twice.
    #[serde(skip_serializing_if = "is_zero")]
    pub files_over: u64,
    /// Many files that lie together, as one row each, whose requests are also those of their own rows as far as they have one; likewise, at
    /// most 16. Not here: where one file has most of the requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<IoFile>,
    /// Processes, most bytes first; at most 32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<IoProcess>,
    /// Threads that were paused because too many pages were dirty; at most 32. Absent without the family `writeback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<Vec<DirtyPauses>>,
    /// What processes read and wrote of files by system calls, most bytes first; at most 32. Absent without the family `file-exact`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<Vec<FileCalls>>,
    /// Further rows of them.
    #[serde(skip_serializing_if = "is_zero")]
    pub calls_over: u64,
    /// Functions that write files and wait until disks have them, most waiting first; at most 8. Needs the family `cpu`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub saves: Vec<Save>,
    /// Requests of devices beyond the bound.
    #[serde(skip_serializing_if = "is_zero")]
    pub requests_over: u64,
    /// Requests that were under way at the end, or whose end the kernel did not report: in none of the lists.
    #[serde(skip_serializing_if = "is_zero")]
    pub requests_unfinished: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_no_time(seconds: &f64) -> bool {
    *seconds == 0.0
}

/// Times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// All together.
    pub total_s: f64,
    /// On average.
    pub mean_s: f64,
    /// Half of them took at most so long; within 1 %, as the ones below.
    pub p50_s: f64,
    /// Nine of ten.
    pub p90_s: f64,
    /// 99 of 100.
    pub p99_s: f64,
    /// The longest.
    pub max_s: f64,
}

/// Requests of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IoRequests {
    /// How many. Of some the kernel does not report when the device got them or was done: their times are not among those below.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of one on average.
    pub mean_bytes: u64,
    /// Share of them that began where one of the eight streams before had ended.
    pub sequential_share: f64,
    /// From when they were made until the device got them: in the scheduler of the device, or because it was full.
    pub queued: Latency,
    /// How long the device had them.
    pub device: Latency,
}

/// A block device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IoDevice {
    /// Its number, "major:minor".
    pub device: String,
    /// Its name; absent: it was gone before anybody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What orders its requests: "none", "mq-deadline", "bfq", "kyber".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// Its driver says that it turns.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rotational: bool,
    /// The file that a loop device stands for: what it does shows again in the device below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// Devices that it is made of, where requests show again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// For how long it had anything to do.
    pub busy_s: f64,
    /// Requests that it had at a time, on average over the window.
    pub in_flight_mean: f64,
    /// Reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads: Option<IoRequests>,
    /// Writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes: Option<IoRequests>,
    /// Flushes: what was written before is to be durable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flushes: Option<IoRequests>,
    /// Discards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discards: Option<IoRequests>,
    /// Of all these, requests of processes that are not traced, and how long the device had them.
    #[serde(skip_serializing_if = "is_zero")]
    pub requests_of_others: u64,
    /// See there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others_s: Option<f64>,
    /// Requests that it sent back at first.
    #[serde(skip_serializing_if = "is_zero")]
    pub requeues: u64,
    /// Requests that failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: u64,
}

/// A file that requests were for, or many that lie together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IoFile {
    /// Its path, where it could be looked up; else the last part of it. Of many files a pattern: a star is what they have not in common, two
    /// are several directories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Inode; of many files that of the directory that they lie below.
    pub inode: u64,
    /// How many files; absent: one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Device of its file system, "major:minor".
    pub device: String,
    /// The block device that had the requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Its size when it was first seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// The thread for whose requests the device took longest; of what is written in the background, the one that dirtied most of it.
    #[serde(flatten)]
    pub whose: Whose,
    /// Reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads: Option<IoRequests>,
    /// Writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes: Option<IoRequests>,
    /// For how long its device had any read for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reading_s: Option<f64>,
    /// How long threads were blocked for its data at a time: in calls that read it, or in page faults. Absent: nobody was, or another file
    /// has the same number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<Latency>,
    /// Of reads that a thread made and waited for: from when it gave the first page a place in the page cache, or past that from the request,
    /// until it ran again, waiting for a CPU included. What a call that reads takes, but for what it does before and after. Absent: nobody did, or another file has the same number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<Latency>,
    /// Of these, requests past the page cache (O_DIRECT).
    #[serde(skip_serializing_if = "is_zero")]
    pub direct_requests: u64,
    /// Bytes that the kernel's own threads wrote for it.
    #[serde(skip_serializing_if = "is_zero")]
    pub background_bytes: u64,
    /// Bytes of its pages that traced processes dirtied. Absent without the family `writeback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirtied_bytes: Option<u64>,
}

/// What a process had devices do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IoProcess {
    /// The process.
    pub pid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Reads that its threads made.
    pub read_requests: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// How long devices had them.
    pub read_device_s: f64,
    /// Writes that its threads made: direct ones, and in calls like fsync.
    pub write_requests: u64,
    /// Their bytes.
    pub write_bytes: u64,
    /// How long devices had them.
    pub write_device_s: f64,
    /// Bytes that the kernel's own threads wrote of what it had dirtied. Of a file that several processes dirtied each has its part by
    /// pages. Absent without the family `writeback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background_bytes: Option<u64>,
    /// Flushes that its threads asked for.
    pub flushes: u64,
    /// Discards that its threads made by cutting or deleting files.
    #[serde(skip_serializing_if = "is_zero")]
    pub discards: u64,
    /// Their bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub discard_bytes: u64,
    /// How long devices had them.
    #[serde(skip_serializing_if = "is_no_time")]
    pub discard_device_s: f64,
}

/// A function that writes files and has them synced, as one that saves a checkpoint: the time in it and in what it calls, of all threads. Times on
/// a CPU are estimates by samples; waits are measured, and shared out by stacks. A helper that only syncs counts for what calls it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Save {
    /// Which, where it waits for the disk.
    #[serde(flatten)]
    pub location: Location,
    /// The process.
    #[serde(flatten)]
    pub whose: Whose,
    /// The file that the process waited longest for in syncs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// On a CPU, but for what follows: packing the data (serialising), and whatever else the function does.
    pub computed_s: f64,
    /// On a CPU in the kernel, copying what is written into the page cache.
    pub copied_s: f64,
    /// Samples of both.
    pub samples: u64,
    /// Waits in calls that write.
    pub write_waits_s: f64,
    /// In fsync and calls like it: waits for the disk, and what the kernel computes for them. Exact, queueing included, where the process's file
    /// systems tell (`threads[].syncs`) and this is its only such function.
    pub synced_s: f64,
    /// Other waits.
    pub other_waits_s: f64,
    /// Bytes that the process wrote to devices in the whole run. Absent without the family `block`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bytes: Option<u64>,
    /// How long devices had these writes (writeback), likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_device_s: Option<f64>,
    /// How long the device took to flush its cache, where most of its flushes were the process's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush_device_s: Option<f64>,
    /// How often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flushes: Option<u64>,
}

/// A thread that was paused because it dirtied pages while too many were dirty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DirtyPauses {
    /// The thread.
    #[serde(flatten)]
    pub whose: Whose,
    /// How often.
    pub count: u64,
    /// For how long the kernel asked, as far as the length of its clock's tick can be told from the pauses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_s: Option<f64>,
    /// How long it was, as its waits show: the kernel counts whole ticks.
    pub total_s: f64,
    /// The longest.
    pub max_s: f64,
    /// The device whose pages were too many, "major:minor".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
}

/// What a process read and wrote of a file by read(2), write(2) and calls like them on a descriptor of it. Exact since tracing began, as far
/// as none is lost (`coverage`, family `file-exact`). Not in it: mapped pages, io_uring, sendfile(2), copy_file_range(2) and splice(2). A file that
/// got the inode number of one that was deleted before shares its row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FileCalls {
    /// Its path, where it could be looked up; else the last part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Inode.
    pub inode: u64,
    /// Device of its file system, "major:minor".
    pub device: String,
    /// The process.
    pub pid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Calls that read, without those that failed; those at the end of the file count.
    pub reads: u64,
    /// Bytes that they were given.
    pub read_bytes: u64,
    /// Calls that wrote, likewise.
    pub writes: u64,
    /// Bytes that they wrote.
    pub written_bytes: u64,
    /// Bytes that devices read for the file, whoever asked for them: the rest was in the page cache. Absent without the family `block`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_read_bytes: Option<u64>,
    /// Bytes that devices wrote for it until the end, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_written_bytes: Option<u64>,
}

impl Io {
    /// The device that took longest to flush its cache, if most of its flushes are this process's: its position, how often and how long.
    pub fn flushing(&self, process: &IoProcess) -> Option<(usize, u64, f64)> {
        let flushes = self.devices.iter().flatten().enumerate().filter_map(|(index, device)| {
            let flushes = device.flushes.as_ref()?;
            Some((index, flushes.requests, flushes.device.total_s))
        });
        let longest = flushes.max_by(|a, b| a.2.total_cmp(&b.2));
        longest.filter(|(_, flushes, _)| process.flushes.saturating_mul(2) >= *flushes)
    }
}

impl FileCalls {
    /// Its path, else what tells it.
    pub fn shown(&self) -> String {
        self.path.clone().unwrap_or_else(|| format!("inode {} of {}", self.inode, self.device))
    }
}

impl IoFile {
    /// Its path, else what tells it.
    pub fn shown(&self) -> String {
        self.path.clone().unwrap_or_else(|| format!("inode {} of {}", self.inode, self.device))
    }

    /// The same, and how many files these are.
    pub fn told(&self) -> String {
        match self.files {
            Some(files) => format!("{} ({})", self.shown(), count(files, "file")),
            None => self.shown(),
        }
    }
}

impl IoDevice {
    /// Its name, else its number.
    pub fn shown(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.device)
    }
}
