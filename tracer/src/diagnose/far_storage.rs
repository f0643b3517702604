//! The part of `slow-storage` about file systems that have no disk here: of a network (NFS, Ceph, Lustre, SMB), or served by a process
//! (FUSE, as clients of object stores are). No block device sees their requests, so what the threads waited is what there is to say.
//! Look-alikes: files in memory (tmpfs) and layers above a disk (overlay, btrfs), which have no device number of a disk either.

use std::collections::BTreeMap;

use super::lost::{Lost, Waiting, lost, lost_by_a_thread};
use super::lost_claim::{self, Words};
use super::{Claim, closing, evidence, parties};
use crate::model::io::SYNC_CALLS;
use crate::model::objects::{FileSystem, Object};
use crate::model::report::{Report, Wait, Waker};
use crate::model::stacks::Whose;
use crate::model::threads::Context;
use crate::model::units::{count, duration, percent};

/// Waits are measured; that the far side is what takes long is inferred.
const INFERRED: f64 = 0.8;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;
/// From this part of the waits for known files on those for unknown ones are for the same file system.
const ALONE: f64 = 0.9;

/// Files of one mount.
struct Mount<'a> {
    system: &'a FileSystem,
    /// With their positions in the report; the one that was waited for longest first.
    files: Vec<(usize, &'a Object)>,
    /// Nearly all waits for files that are known are for these: so are those whose file is not, of the many that there are or by a call
    /// that has a path and no descriptor.
    alone: bool,
}

impl Mount<'_> {
    fn has(&self, object: Option<&str>, path: Option<&str>) -> bool {
        match (path, object) {
            (Some(path), _) => self.files.iter().any(|(_, file)| file.path.as_deref() == Some(path)),
            (None, Some(object)) => self.files.iter().any(|(_, file)| file.object == object),
            (None, None) => self.alone,
        }
    }

    fn waits(&self, wait: &Waiting<'_>) -> bool {
        self.explains(wait.state, wait.detail, wait.object, wait.path)
    }

    fn has_row(&self, wait: &Wait) -> bool {
        self.explains(&wait.state, wait.detail.as_deref(), wait.object.as_deref(), wait.path.as_deref())
    }

    fn explains(&self, state: &str, detail: Option<&str>, object: Option<&str>, path: Option<&str>) -> bool {
        // Syncs are `fsync-stall`'s.
        let syncs = detail.is_some_and(|call| SYNC_CALLS.contains(&call));
        (state == "file" || closing::closes(state, detail)) && !syncs && self.has(object, path)
    }
}

/// Whether a wait is for a file that lies on such a mount.
pub(super) fn explains(report: &Report) -> impl Fn(&Waiting<'_>) -> bool {
    let mounts = mounts(report);
    move |wait| mounts.iter().any(|mount| mount.waits(wait))
}

/// The mounts that files lie on which threads waited for.
fn mounts(report: &Report) -> Vec<Mount<'_>> {
    let mut mounts: Vec<Mount<'_>> = Vec::new();
    let files = report.objects.iter().flat_map(|objects| objects.list.iter().enumerate());
    for (index, file) in files {
        let Some(system) = file.file_system.as_ref().filter(|system| system.is_far()) else { continue };
        match mounts.iter_mut().find(|mount| mount.system == system) {
            Some(mount) => mount.files.push((index, file)),
            None => mounts.push(Mount { system, files: vec![(index, file)], alone: false }),
        }
    }
    let listed = report.objects.iter().flat_map(|objects| &objects.list);
    let all_s: f64 = listed.filter(|object| object.kind.as_deref() == Some("file")).map(|file| file.total_s).sum();
    for mount in &mut mounts {
        let own_s: f64 = mount.files.iter().map(|(_, file)| file.total_s).sum();
        mount.alone = own_s >= ALONE * all_s;
    }
    mounts
}

/// What the run lost to the mount that it lost most to; none if that is not worth a word.
pub(super) fn claim(report: &Report) -> Option<Claim> {
    let wall_s = report.window.duration_s;
    let worth = |lost: &Lost| lost.waited_s > 0.0 && lost.waited_s >= LEAST_SHARE * wall_s;
    let cases = |of: &dyn Fn(&Mount<'_>) -> Lost| {
        let cases = mounts(report).into_iter().map(|mount| (of(&mount), mount)).filter(|(lost, _)| worth(lost));
        cases.max_by(|a, b| a.0.s.total_cmp(&b.0.s))
    };
    if let Some((lost, mount)) = cases(&|mount| lost(report, |wait| mount.waits(wait), |_, _| false)) {
        return Some(of(report, &mount, &lost));
    }
    report.critical_path.as_ref()?;
    let (lost, mount) = cases(&|mount| lost_by_a_thread(report, |wait| mount.waits(wait), |_, _| false))?;
    Some(lost_claim::aside(of(report, &mount, &lost), report))
}

/// The process that ended most of these waits, if one process did.
fn server<'a>(report: &'a Report, mount: &Mount<'_>) -> Option<&'a Waker> {
    let waits = super::threads(report).flat_map(|(_, thread)| &thread.waits).filter(|wait| mount.has_row(wait));
    let (mut all, mut by_pid): (u64, BTreeMap<u32, (u64, &Waker)>) = (0, BTreeMap::new());
    for wait in waits {
        all = all.saturating_add(wait.count);
        for waker in wait.wakers.iter().filter(|waker| waker.context == Context::Task) {
            let Some(pid) = waker.pid else { continue };
            let sum = by_pid.entry(pid).or_insert((0, waker));
            sum.0 = sum.0.saturating_add(waker.count);
        }
    }
    let (count, waker) = by_pid.into_values().max_by_key(|(count, _)| *count)?;
    (count.saturating_mul(2) >= all).then_some(waker)
}

fn of(report: &Report, mount: &Mount<'_>, lost: &Lost) -> Claim {
    let wall_s = report.window.duration_s;
    let system = mount.system;
    let (index, file) = mount.files[0];
    let name = file.path.clone().unwrap_or_else(|| file.object.clone());
    let others = match mount.files.len() - 1 {
        0 => String::new(),
        others => format!(" and {}", count(others as u64, "other file")),
    };
    let source = system.source.as_ref().map(|source| format!(" from {source}")).unwrap_or_default();
    let server = server(report, mount);
    let served = server.map(|waker| parties::named("process", waker.process.as_deref(), waker.pid.unwrap_or(0)));
    let mean_s = lost.waited_s / lost.pieces.max(1) as f64;
    let open = super::threads(report)
        .flat_map(|(_, thread)| &thread.waits)
        .filter(|wait| wait.open && mount.has_row(wait))
        .count();
    // With one wait in all, that is the one.
    let still = match (open, lost.pieces) {
        (0, _) => String::new(),
        (_, 1) => ", and it had not answered when the recording ended".to_owned(),
        (threads, _) => format!("; {} still waited when the recording ended", count(threads as u64, "thread")),
    };
    let summary = format!(
        "{name}{others} on {} ({}{source}) answered slowly{}: {} of {} each, {} ({} of {}) in all{still}",
        system.mounted_on,
        system.kind,
        served.as_ref().map(|server| format!(", for which {server} answers")).unwrap_or_default(),
        count(lost.pieces, "wait"),
        duration(mean_s),
        duration(lost.s),
        percent(lost.s / wall_s.max(f64::MIN_POSITIVE)),
        duration(wall_s),
    );
    let far = match &served {
        Some(server) => {
            format!("Each such call waits until {server} has answered, and for whatever that has to ask for")
        }
        None => "Each such call waits for another machine, and for the network on the way".to_owned(),
    };
    let hypothesis = format!(
        "The files lie on no disk of this host. {far}; what the page cache has is not asked for again. How much of a wait is the far side's \
         and how much the way's is not known here. {}{}",
        if mount.alone {
            "Waits of which the file is not known count, since those of which it is are for these. "
        } else {
            ""
        },
        lost.whose()
    );
    let mut list = lost.evidence();
    let at = |field: &str| format!("/objects/list/{index}/{field}");
    let all = Some(("the whole run", wall_s));
    list.push(evidence("all threads' waits for the first of these files", file.total_s, "s", at("total_s"), all));
    list.push(evidence("waits for the first of these files", file.waits as f64, "1", at("waits"), None));
    let whose = Whose::default();
    let mut culprit = lost_claim::culprit(report, lost, &whose, |wait| mount.has_row(wait));
    culprit.path = file.path.clone();
    let words = Words {
        summary,
        hypothesis,
        fix: "See that its server is well. Copy the data to a local disk or to memory before the run, or put a cache there (cachefilesd for NFS, the client's own for object \
              stores). Ask for more at a time: larger reads, files in shards instead of one for each sample, several workers that read at \
              once, a prefetching loader. Let the client read ahead further (read_ahead_kb of its bdi in /sys/class/bdi, rsize of NFS, \
              max_read of FUSE)."
            .to_owned(),
        experiment: format!(
            "Copy the same files to a local disk or a tmpfs and run it there: the wall time must fall, by at most {}.",
            duration(lost.at_most_s())
        ),
    };
    lost_claim::claim(report, "slow-storage", INFERRED, lost, culprit, list, words)
}
