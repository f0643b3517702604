//! `small-random-reads` and `slow-storage`: a run waits in calls that read files, and the requests of the block devices say why. Small and
//! scattered ones: each costs a round trip, however quick the device is. Slow: the device takes long for what it is asked, or the threads
//! wait far longer than it takes, so that something above it holds them back; or it has to discard what files had (`discards.rs`); or the file
//! system has no disk here (`far_storage.rs`), or has much left to write when a file is closed (`closing.rs`). Pages of mapped files are `cold-file-mapping`'s.

use super::lost::{Lost, Waiting, lost, lost_by_a_thread};
use super::lost_claim::{self, Words};
use super::page_cache::{self, reads};
use super::{Claim, Facts, Outcome, Rule, UNKNOWN_COVERAGE, evidence, family_share};
use super::{closing, discards, far_storage};
use crate::model::io::{Io, IoDevice, IoFile, IoRequests};
use crate::model::pattern::fits;
use crate::model::report::{Evidence, Report, Subject, Wait};
use crate::model::stacks::FILE_READ;
use crate::model::units::{bytes, duration, grouped, percent};

/// Requests are small and scattered.
pub struct SmallRandomReads;

/// Requests take long.
pub struct SlowStorage;

/// Requests are counted and measured.
const COUNTED: f64 = 0.9;
/// That something above the device holds threads back is inferred.
const INFERRED: f64 = 0.7;
/// Up to this size a request's time is that of the round trip.
const SMALL_BYTES: u64 = 64 << 10;
/// Fewer than this part of them follow each other.
const SCATTERED: f64 = 0.5;
/// Fewer requests say little.
const LEAST_REQUESTS: u64 = 20;
/// A disk that turns needs some 10 ms to get anywhere; twice that is slow for any.
const SLOW_S: f64 = 0.020;
/// And beyond that this much time for each byte.
const SLOW_BYTES_PER_S: f64 = 100e6;
/// Threads waited for so many times as long as the device had requests of theirs.
const HELD_BACK: f64 = 3.0;
/// A folder has this part of the waits for files that threads have no row of their own for.
const MOST_OF_REST: f64 = 0.8;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;

fn io(report: &Report) -> Option<&Io> {
    report.io.as_ref().filter(|io| io.devices.is_some())
}

/// Whether each of its reads is a round trip for little: small ones, of one file that jump, of many files however they lie.
fn is_scattered(file: &IoFile) -> bool {
    let small = |reads: &&IoRequests| reads.requests >= LEAST_REQUESTS && reads.mean_bytes <= SMALL_BYTES;
    let reads = file.reads.as_ref().filter(small);
    reads.is_some_and(|reads| file.files.is_some() || reads.sequential_share < SCATTERED)
}

/// Whether its device takes longer for such requests than any disk should.
fn is_slow(reads: &IoRequests) -> bool {
    reads.requests >= LEAST_REQUESTS && reads.device.mean_s >= SLOW_S + reads.mean_bytes as f64 / SLOW_BYTES_PER_S
}

/// Whether threads waited for a file far longer than its requests took, queueing included.
fn is_held_back(file: &IoFile) -> bool {
    let (Some(waits), Some(reads)) = (&file.waits, &file.reads) else { return false };
    let took_s = reads.device.total_s + reads.queued.total_s;
    waits.count >= LEAST_REQUESTS && waits.total_s >= HELD_BACK * took_s
}

/// Whether its pages were read again because they had been thrown out: other rules say so.
fn is_read_again(report: &Report, file: &IoFile) -> bool {
    let cached = page_cache::files(report).into_iter().flatten();
    let same =
        |cached: &&crate::model::paging::CachedFile| (cached.inode, &cached.device) == (file.inode, &file.device);
    cached.filter(same).any(|cached| page_cache::is_read_again(report, cached))
}

/// A file, or many of a folder, and where the report has it.
struct Row<'a> {
    file: &'a IoFile,
    at: String,
    /// Threads' waits for things without a row of their own are for these.
    takes_rest: bool,
}

impl<'a> Row<'a> {
    /// Whether a wait is for it. Of a folder the critical path has a row of its own, and threads those of the first files.
    fn is_for(&self, wait: &Waiting<'_>) -> bool {
        let file = self.file;
        let is_below = || match wait.path {
            Some(path) => self.folder().is_some_and(|folder| fits(folder, path)),
            None => wait.of_thread && wait.object.is_none() && self.takes_rest,
        };
        lost_claim::is_for((file.inode, file.path.as_deref()), wait.object, wait.path) || is_below()
    }

    /// What paths of a folder's files are like.
    fn folder(&self) -> Option<&'a str> {
        self.file.path.as_deref().filter(|_| self.file.files.is_some())
    }
}

/// Waits in reading files that threads have no row of its own for.
fn rest_s(report: &Report) -> f64 {
    let waits = super::threads(report).flat_map(|(_, thread)| &thread.waits);
    let is_rest = |wait: &&Wait| wait.state == "file" && reads(&wait.state, wait.detail.as_deref());
    waits.filter(|wait| wait.object.is_none() && is_rest(wait)).map(|wait| wait.total_s).sum()
}

/// All rows, those that devices had longest for first.
fn rows<'a>(report: &'a Report, io: &'a Io) -> Vec<Row<'a>> {
    let rest_s = rest_s(report);
    let takes_rest = |file: &IoFile| {
        let waited_s = file.waits.as_ref().map_or(0.0, |waits| waits.total_s);
        file.files.is_some() && waited_s >= MOST_OF_REST * rest_s
    };
    let of = |list: &'a [IoFile], name: &'static str| {
        list.iter().enumerate().map(move |(index, file)| (file, format!("/io/{name}/{index}")))
    };
    let all = of(&io.files, "files").chain(of(&io.folders, "folders"));
    let mut rows: Vec<Row<'_>> = all.map(|(file, at)| Row { file, at, takes_rest: takes_rest(file) }).collect();
    let took = |row: &Row<'_>| row.file.reads.as_ref().map_or(0.0, |reads| reads.device.total_s);
    rows.sort_by(|a, b| took(b).total_cmp(&took(a)));
    rows
}

/// Whether this is time that reading these files takes, waiting and the kernel's work for each request.
fn waits_for(files: &[Row<'_>], wait: &Waiting<'_>) -> bool {
    wait.state == "file" && reads(wait.state, wait.detail) && files.iter().any(|row| row.is_for(wait))
}

fn works_for(files: &[Row<'_>], phase: &str, pid: Option<u32>) -> bool {
    phase == FILE_READ && files.iter().any(|row| pid.is_some() && row.file.whose.pid == pid)
}

/// The files that a rule is about, and what waiting for them cost.
struct Case<'a> {
    report: &'a Report,
    io: &'a Io,
    /// The one with most of it first.
    files: Vec<Row<'a>>,
    lost: Lost,
    /// The critical path did not wait for it: what is lost is of the thread that waited longest.
    aside: bool,
}

impl<'a> Case<'a> {
    /// Of all files for which this holds; none if there is none.
    fn of(report: &'a Report, io: &'a Io, holds: impl Fn(&IoFile) -> bool) -> Option<Self> {
        let mut files = rows(report, io);
        files.retain(|row| holds(row.file) && !is_read_again(report, row.file));
        // Files that are told with their folder are no others.
        let folders: Vec<&str> = files.iter().filter_map(Row::folder).collect();
        files.retain(|row| row.file.files.is_some() || !folders.iter().any(|folder| fits(folder, &row.file.shown())));
        if files.is_empty() {
            return None;
        }
        let (waits, works) = (
            |wait: &Waiting<'_>| waits_for(&files, wait),
            |phase: &str, pid: Option<u32>| works_for(&files, phase, pid),
        );
        let mut case = Case { report, io, lost: lost(report, waits, works), aside: false, files: Vec::new() };
        if !case.is_worth_a_word() && report.critical_path.is_some() {
            (case.lost, case.aside) = (lost_by_a_thread(report, waits, works), true);
        }
        case.files = files;
        Some(case)
    }

    fn is_worth_a_word(&self) -> bool {
        self.lost.waited_s >= LEAST_SHARE * self.report.window.duration_s && self.lost.waited_s > 0.0
    }

    fn file(&self) -> &'a IoFile {
        self.files[0].file
    }

    fn reads(&self) -> IoRequests {
        self.file().reads.clone().unwrap_or_default()
    }

    fn name(&self) -> String {
        match self.files.len() - 1 {
            0 => self.file().told(),
            others => {
                format!("{} and {}", self.file().told(), crate::model::units::count(others as u64, "other file"))
            }
        }
    }

    fn is_one(&self) -> bool {
        self.files.len() == 1 && self.file().files.is_none()
    }

    fn device(&self) -> Option<(usize, &'a IoDevice)> {
        let devices = self.io.devices.iter().flatten().enumerate();
        devices.into_iter().find(|(_, device)| device.name.is_some() && device.name == self.file().disk)
    }

    fn disk(&self) -> String {
        self.device().map_or_else(|| "its device".to_owned(), |(_, device)| device.shown().to_owned())
    }

    /// The thread that waited most, and where in its code.
    fn culprit(&self) -> Subject {
        let file = self.file();
        let mut culprit = lost_claim::culprit(self.report, &self.lost, &file.whose, |wait| {
            self.files[0].is_for(&Waiting {
                state: &wait.state,
                detail: wait.detail.as_deref(),
                object: wait.object.as_deref(),
                path: wait.path.as_deref(),
                pid: None,
                of_thread: true,
            }) && wait.state == "file"
        });
        culprit.path = file.path.clone();
        culprit
    }

    fn evidence(&self) -> Vec<Evidence> {
        let Row { file, at, .. } = &self.files[0];
        let reads = self.reads();
        let at = |field: &str| format!("{at}/{field}");
        let mut list = self.lost.evidence();
        list.push(evidence("reads that the device had", reads.requests as f64, "1", at("reads/requests"), None));
        list.push(evidence("bytes of one on average", reads.mean_bytes as f64, "B", at("reads/mean_bytes"), None));
        list.push(evidence(
            "share that begins where one before ended",
            reads.sequential_share,
            "1",
            at("reads/sequential_share"),
            None,
        ));
        let longest = Some(("of 99 in 100 at most", reads.device.p99_s));
        list.push(evidence(
            "time with the device, half of them at most",
            reads.device.p50_s,
            "s",
            at("reads/device/p50_s"),
            longest,
        ));
        if let Some(waits) = &file.waits {
            let longest = Some(("of 99 in 100 at most", waits.p99_s));
            list.push(evidence("time that threads waited, half at most", waits.p50_s, "s", at("waits/p50_s"), longest));
        }
        if let Some(answers) = &file.answers {
            let longest = Some(("of 99 in 100 at most", answers.p99_s));
            let metric = "from a request until its thread ran again, half at most";
            list.push(evidence(metric, answers.p50_s, "s", at("answers/p50_s"), longest));
        }
        if let Some((index, device)) = self.device() {
            let window = Some(("the whole run", self.report.window.duration_s));
            list.push(evidence(
                "time in which the device had any request",
                device.busy_s,
                "s",
                format!("/io/devices/{index}/busy_s"),
                window,
            ));
        }
        list
    }

    fn claim(&self, class: &str, own: f64, words: Words) -> Claim {
        let own = own * family_share(self.report, "block").unwrap_or(UNKNOWN_COVERAGE);
        let claim = lost_claim::claim(self.report, class, own, &self.lost, self.culprit(), self.evidence(), words);
        if self.aside { lost_claim::aside(claim, self.report) } else { claim }
    }

    /// How much of the run it took, in words.
    fn took(&self) -> String {
        let wall_s = self.report.window.duration_s;
        let share = percent(self.lost.s / wall_s.max(f64::MIN_POSITIVE));
        format!("{} ({share} of {})", duration(self.lost.s), duration(wall_s))
    }
}

impl Rule for SmallRandomReads {
    fn class(&self) -> &'static str {
        "small-random-reads"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(io) = io(report) else {
            return Outcome::CouldNotRun("the family block did not run, which sees requests of devices".to_owned());
        };
        let scattered =
            |file: &IoFile| is_scattered(file) && !file.reads.as_ref().is_some_and(is_slow) && !is_held_back(file);
        let Some(case) = Case::of(report, io, scattered).filter(Case::is_worth_a_word) else {
            return Outcome::Silent(format!(
                "no thread waited long for files that were read in scattered requests of at most {}",
                bytes(SMALL_BYTES)
            ));
        };
        Outcome::Claims(vec![scattered_claim(&case)])
    }
}

fn scattered_claim(case: &Case<'_>) -> Claim {
    let reads = case.reads();
    let mean_s = case.lost.waited_s / case.lost.pieces.max(1) as f64;
    let summary = format!(
        "{} {} read in {} requests of {} on average, {} of them in order: {} waits of {} each, {} in all",
        case.name(),
        if case.is_one() { "was" } else { "were" },
        grouped(reads.requests),
        bytes(reads.mean_bytes),
        percent(reads.sequential_share),
        grouped(case.lost.pieces),
        duration(mean_s),
        case.took(),
    );
    let each = match case.file().files {
        Some(_) => "Each file costs small requests of its own, which nothing asks for ahead, and each of these",
        None => "Each small request that does not follow the one before",
    };
    let hypothesis = format!(
        "{each} costs a whole round trip to {} ({} of it with the device, for half of them at most), and the thread that asked waits \
         meanwhile, so that the device could do far more. {}",
        case.disk(),
        duration(reads.device.p50_s),
        case.lost.whose()
    );
    let fix = "Keep the samples in larger pieces that are read in order (shards: WebDataset, Parquet, TFRecord) and shuffle a buffer of \
               them in memory; read larger blocks at a time; have several threads or workers read at once, or ask ahead \
               (posix_fadvise WILLNEED, io_uring); or copy the file to memory first."
        .to_owned();
    let experiment = format!(
        "Read the same bytes in order, 1 MiB at a time, or the same requests from a warm page cache: the wall time must fall, by at most {}.",
        duration(case.lost.at_most_s())
    );
    case.claim(SmallRandomReads.class(), COUNTED, Words { summary, hypothesis, fix, experiment })
}

impl Rule for SlowStorage {
    fn class(&self) -> &'static str {
        "slow-storage"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let mut claims: Vec<Claim> = far_storage::claim(report).into_iter().collect();
        let Some(io) = io(report) else {
            claims.extend(closing::claim(report));
            if !claims.is_empty() {
                return Outcome::Claims(claims);
            }
            return Outcome::CouldNotRun("the family block did not run, which sees requests of devices".to_owned());
        };
        match discards::claim(report, io) {
            Some(claim) => claims.push(claim),
            // Closing waits for discards too.
            None => claims.extend(closing::claim(report)),
        }
        let slow = Case::of(report, io, |file| file.reads.as_ref().is_some_and(is_slow)).filter(Case::is_worth_a_word);
        let held = |file: &IoFile| is_held_back(file) && !file.reads.as_ref().is_some_and(is_slow);
        if let Some(case) = slow {
            claims.push(slow_claim(&case));
        } else if let Some(case) = Case::of(report, io, held).filter(Case::is_worth_a_word) {
            claims.push(held_back_claim(&case));
        }
        if claims.is_empty() {
            return Outcome::Silent("devices were quick for what threads waited for".to_owned());
        }
        Outcome::Claims(claims)
    }
}

fn slow_claim(case: &Case<'_>) -> Claim {
    let reads = case.reads();
    let per_s = reads.bytes as f64 / reads.device.total_s.max(f64::MIN_POSITIVE);
    let summary = format!(
        "{} is slow: it took {} on average for {} reads of {} ({}), {} a second each; waiting for {} took {}",
        case.disk(),
        duration(reads.device.mean_s),
        grouped(reads.requests),
        bytes(reads.mean_bytes),
        case.name(),
        bytes(per_s as u64),
        case.name(),
        case.took(),
    );
    let others = case.device().map(|(_, device)| device.requests_of_others).filter(|requests| *requests > 0);
    let others =
        others.map(|requests| format!(" {} of its requests are of processes that are not traced.", grouped(requests)));
    let below = case.device().and_then(|(_, device)| device.backing_file.as_ref());
    let below = below.map(|file| format!(" It is a loop device for {file}: what that lies on is slow."));
    let hypothesis = format!(
        "The device has each request for longer than a healthy disk needs for any: it is overloaded, limited by whoever provides it, or \
         failing.{}{} {}",
        others.unwrap_or_default(),
        below.unwrap_or_default(),
        case.lost.whose()
    );
    let fix = "Keep the file on a quicker device (local NVMe, memory), or copy it there before the run; raise the volume's limits where it \
               is a provider's; let others use it at another time; read less (compress, cache what is read again)."
        .to_owned();
    let experiment = format!(
        "Copy the file to a quicker device or a tmpfs and run it there: the wall time must fall, by at most {}.",
        duration(case.lost.at_most_s())
    );
    case.claim(SlowStorage.class(), COUNTED, Words { summary, hypothesis, fix, experiment })
}

fn held_back_claim(case: &Case<'_>) -> Claim {
    let (file, reads) = (case.file(), case.reads());
    let waited_s = file.waits.as_ref().map_or(0.0, |waits| waits.total_s);
    let took_s = reads.device.total_s + reads.queued.total_s;
    let culprit = case.culprit();
    let cgroup = culprit.cgroup.as_ref().map(|cgroup| format!(" of {cgroup}")).unwrap_or_default();
    let summary = format!(
        "threads waited {} for {}, but its requests took {} only, queueing included: something above {} holds them back, as a limit on I/O \
         does; {} in all",
        duration(waited_s),
        case.name(),
        duration(took_s),
        case.disk(),
        case.took(),
    );
    let hypothesis = format!(
        "A request that is held back before it reaches the device's queue shows as waiting of its thread and not as time of the device: a \
         limit on bytes or operations of the cgroup{cgroup} (blkio.throttle.*, io.max), or a layer in between. {}",
        case.lost.whose()
    );
    let fix = "Raise or lift the cgroup's limit on I/O (io.max, blkio.throttle.read_bps_device and read_iops_device; of a container: \
               --device-read-bps), or read less: fewer and larger requests where operations are limited, a cache where bytes are."
        .to_owned();
    let experiment = format!(
        "Run it outside of the cgroup, or with the limit lifted: the wall time must fall, by at most {}.",
        duration(case.lost.at_most_s())
    );
    case.claim(SlowStorage.class(), INFERRED, Words { summary, hypothesis, fix, experiment })
}
