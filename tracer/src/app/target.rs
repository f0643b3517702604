//! Which threads `record` attaches to: resolves what the command line names to processes, and finds all their threads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    cli::RecordArgs,
    kernel::{
        loader::{Filter, LoadError, Loaded},
        proc,
    },
    model::{container, meta::TargetRecord},
};

/// What was asked for, resolved.
pub struct Target {
    /// For the report.
    pub record: TargetRecord,
    /// For the kernel.
    pub filter: Filter,
    selection: Selection,
}

enum Selection {
    All,
    Pids(Vec<u32>),
    Cgroup(PathBuf),
    Comm(Vec<u8>),
}

/// A cgroup's directory with the numbers by which the kernel knows it.
struct Cgroup {
    directory: PathBuf,
    hierarchy: u32,
    level: u32,
    id: u64,
}

impl Target {
    /// Resolves the command line.
    pub fn resolve(args: &RecordArgs) -> Result<Self, String> {
        let mut record = TargetRecord { mode: "record".to_owned(), ..TargetRecord::default() };
        let mut filter = Filter::default();
        let selection = if args.all {
            record.all = true;
            filter.all = true;
            Selection::All
        } else if let Some(comm) = &args.comm {
            if comm.is_empty() || comm.len() > 15 {
                return Err(format!("`{comm}` is no thread's name: names have 1 to 15 bytes (see `ps -eL -o comm`)"));
            }
            record.comm = Some(crate::model::text::printable(comm.as_bytes()));
            let mut bytes = [0; 16];
            bytes[..comm.len()].copy_from_slice(comm.as_bytes());
            filter.comm = Some(bytes);
            Selection::Comm(comm.clone().into_bytes())
        } else if args.cgroup.is_some() || args.container.is_some() {
            let cgroup = match (&args.cgroup, &args.container) {
                (Some(path), _) => find_cgroup(path)?,
                (None, id) => {
                    let (id, cgroup) = find_container(id.as_deref().unwrap_or_default())?;
                    record.container = Some(id);
                    cgroup
                }
            };
            record.cgroup = Some(cgroup.directory.display().to_string());
            filter.cgroup = Some((cgroup.hierarchy, cgroup.level, cgroup.id));
            Selection::Cgroup(cgroup.directory)
        } else {
            for pid in &args.pid {
                if proc::parent(*pid).is_none() {
                    return Err(format!("there is no process {pid}: see `ps -e` for those that run"));
                }
            }
            record.pids.clone_from(&args.pid);
            Selection::Pids(args.pid.clone())
        };
        Ok(Self { record, filter, selection })
    }

    /// Tells the kernel which threads exist already. Those that they create from now on are followed by the kernel, so the search
    /// is over when it finds nothing new.
    pub fn track(&self, loaded: &mut Loaded) -> Result<Vec<(u32, u32)>, LoadError> {
        let own = std::process::id();
        let mut found: BTreeMap<u32, u32> = BTreeMap::new();
        loop {
            let before = found.len();
            for tgid in self.processes() {
                if tgid == own {
                    continue;
                }
                for tid in proc::threads(tgid) {
                    if found.insert(tid, tgid).is_none() && !matches!(self.selection, Selection::All) {
                        loaded.track(tid)?;
                    }
                }
            }
            if found.len() == before || matches!(self.selection, Selection::All) {
                return Ok(found.into_iter().map(|(tid, tgid)| (tgid, tid)).collect());
            }
        }
    }

    /// The processes that are meant, with their descendants.
    pub fn processes(&self) -> BTreeSet<u32> {
        let chosen: BTreeSet<u32> = match &self.selection {
            Selection::All => return proc::processes().into_iter().collect(),
            Selection::Pids(pids) => pids.iter().copied().collect(),
            Selection::Cgroup(directory) => return cgroup_members(directory),
            Selection::Comm(name) => proc::processes()
                .into_iter()
                .filter(|pid| proc::threads(*pid).iter().any(|tid| proc::comm(*tid).as_deref() == Some(name)))
                .collect(),
        };
        with_descendants(chosen)
    }

    /// Whether what was named still exists.
    pub fn alive(&self) -> bool {
        match &self.selection {
            Selection::All | Selection::Comm(_) => true,
            Selection::Pids(pids) => pids.iter().any(|pid| proc::parent(*pid).is_some() && !proc::is_zombie(*pid)),
            Selection::Cgroup(directory) => directory.is_dir(),
        }
    }
}

fn with_descendants(mut chosen: BTreeSet<u32>) -> BTreeSet<u32> {
    let parents: Vec<(u32, u32)> =
        proc::processes().into_iter().filter_map(|pid| Some((pid, proc::parent(pid)?))).collect();
    loop {
        let before = chosen.len();
        for (pid, parent) in &parents {
            if chosen.contains(parent) {
                chosen.insert(*pid);
            }
        }
        if chosen.len() == before {
            return chosen;
        }
    }
}

fn cgroup_members(directory: &Path) -> BTreeSet<u32> {
    let mut members: BTreeSet<u32> = fs::read_to_string(directory.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            members.extend(cgroup_members(&entry.path()));
        }
    }
    members
}

/// A mounted cgroup hierarchy.
struct Mount {
    point: PathBuf,
    root: String,
    hierarchy: u32,
}

fn mounts() -> Vec<Mount> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let hierarchy_of = |options: &str| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let number: u32 = parts.next()?.parse().ok()?;
            let controllers = parts.next()?;
            let all = |names: &str| names.split(',').all(|name| options.split(',').any(|option| option == name));
            (!controllers.is_empty() && all(controllers)).then_some(number)
        })
    };
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(3);
            let (root, point) = (left.next()?, left.next()?);
            let mut right = right.split(' ');
            let (kind, _, options) = (right.next()?, right.next()?, right.next()?);
            let hierarchy = match kind {
                "cgroup2" => 0,
                "cgroup" => hierarchy_of(options)?,
                _ => return None,
            };
            Some(Mount { point: PathBuf::from(point), root: root.to_owned(), hierarchy })
        })
        .collect()
}

/// A cgroup by its directory, or by its path within a hierarchy.
fn find_cgroup(path: &Path) -> Result<Cgroup, String> {
    let mounts = mounts();
    let within = path.strip_prefix("/").unwrap_or(path);
    let mut candidates: Vec<PathBuf> = vec![path.to_owned()];
    candidates.extend(mounts.iter().map(|mount| mount.point.join(within)));
    for candidate in candidates {
        let Ok(directory) = candidate.canonicalize() else { continue };
        let Some(mount) = mounts.iter().find(|mount| directory.starts_with(&mount.point)) else { continue };
        let Ok(meta) = fs::metadata(&directory) else { continue };
        if !directory.join("cgroup.procs").is_file() {
            continue;
        }
        let depth = |path: &Path| path.components().filter(|c| matches!(c, std::path::Component::Normal(_))).count();
        let below = directory.strip_prefix(&mount.point).map(depth).unwrap_or(0) + depth(Path::new(&mount.root));
        return Ok(Cgroup { hierarchy: mount.hierarchy, level: below as u32, id: meta.ino(), directory });
    }
    Err(format!(
        "{} is no cgroup: give a directory below /sys/fs/cgroup, or a path as /proc/PID/cgroup shows it",
        path.display()
    ))
}

/// The cgroup of the container whose id starts like this.
fn find_container(id: &str) -> Result<(String, Cgroup), String> {
    if id.len() < 4 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("`{id}` is no container id: give at least four hexadecimal digits of it"));
    }
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for pid in proc::processes() {
        for path in proc::cgroup_paths(pid) {
            if let Some(full) = container::id_in(&path)
                && full.starts_with(id)
            {
                // The container's own cgroup, not one below it.
                let end = path.find(full).map_or(path.len(), |at| at + full.len());
                let end = path[end..].find('/').map_or(path.len(), |slash| end + slash);
                found.entry(full.to_owned()).or_insert_with(|| path[..end].to_owned());
            }
        }
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (None, _) => Err(format!("no running container has an id that starts with {id}")),
        (Some(_), Some(_)) => Err(format!("several containers have ids that start with {id}: give more digits")),
        (Some((full, path)), None) => Ok((full, find_cgroup(Path::new(&path))?)),
    }
}
