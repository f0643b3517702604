//! Watches how full the file systems in memory (tmpfs) are that traced processes can write to. Which there are is looked up for each
//! mount namespace, again and again, since they may be mounted later. Bounded: so many namespaces, so many file systems, and a share of the
//! time for looking them up. Nothing is held open, so nobody is kept from unmounting.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

use crate::kernel::clock;
use crate::kernel::tmpfs::{self, Mount, Usage};
use crate::model::meta::TmpfsMemory;

/// Namespaces watched.
const MAX_NAMESPACES: usize = 64;
/// File systems watched; of a new namespace the smallest ones first.
const MAX_MOUNTS: usize = 16;
/// Numbers of those remembered that found no room.
const MAX_REFUSED: usize = 1024;
/// Namespaces that are looked through at a time.
const LOOKS: usize = 4;
/// Looking takes at most one in so many parts of the time.
const PAUSE_FACTOR: u64 = 200;
/// One whose use does not change is told with every fourth reading.
const ALL_EVERY: u64 = 4;
/// Processes that are tried as a door to one file system.
const DOORS: usize = 3;

/// A mount namespace: which watched processes are in it.
type Members = BTreeSet<u32>;

/// A watched file system.
struct Watched {
    /// Where it is mounted, by namespace.
    places: BTreeMap<u64, PathBuf>,
    /// As it was told last; nothing yet: `size` is 0.
    told: TmpfsMemory,
}

/// See the file's head.
#[derive(Default)]
pub struct Tmpfs {
    namespaces: BTreeMap<u64, Members>,
    /// Whose turn it is next to be looked through.
    turns: VecDeque<u64>,
    /// By device number.
    mounts: BTreeMap<String, Watched>,
    refused: BTreeSet<String>,
    readings: u64,
    next_look_ns: u64,
}

impl Tmpfs {
    /// A process is in this namespace, from now on.
    pub fn enters(&mut self, pid: u32, namespace: u64) {
        self.gone(pid);
        let known = self.namespaces.contains_key(&namespace);
        if !known && self.namespaces.len() >= MAX_NAMESPACES {
            return;
        }
        self.namespaces.entry(namespace).or_default().insert(pid);
        if !known {
            self.turns.push_front(namespace);
            self.next_look_ns = 0;
        }
    }

    /// A process has ended, or is in another namespace now.
    pub fn gone(&mut self, pid: u32) {
        self.namespaces.retain(|_, members| {
            members.remove(&pid);
            !members.is_empty()
        });
        let namespaces = &self.namespaces;
        self.turns.retain(|namespace| namespaces.contains_key(namespace));
        self.mounts.retain(|_, mount| {
            mount.places.retain(|namespace, _| namespaces.contains_key(namespace));
            !mount.places.is_empty()
        });
    }

    /// How full each is, and how many are not watched.
    pub fn read(&mut self) -> (Vec<TmpfsMemory>, u64) {
        let before_ns = clock::monotonic_ns();
        if before_ns >= self.next_look_ns {
            self.look();
            let now_ns = clock::monotonic_ns();
            self.next_look_ns = now_ns.saturating_add((now_ns - before_ns).saturating_mul(PAUSE_FACTOR));
        }
        let all = self.readings.is_multiple_of(ALL_EVERY);
        self.readings += 1;
        let namespaces = &self.namespaces;
        let read = |(device, mount): (&String, &mut Watched)| mount.read(device, namespaces, all);
        (self.mounts.iter_mut().filter_map(read).collect(), self.refused.len() as u64)
    }

    /// Looks through some namespaces.
    fn look(&mut self) {
        for _ in 0..self.turns.len().min(LOOKS) {
            let Some(namespace) = self.turns.pop_front() else { break };
            self.turns.push_back(namespace);
            let Some(pid) = self.namespaces.get(&namespace).and_then(|members| members.first().copied()) else {
                continue;
            };
            // Between its last reading and this one the process may have gone elsewhere.
            if tmpfs::namespace(pid) == Some(namespace) {
                self.found(namespace, pid, tmpfs::mounts(pid));
            }
        }
    }

    fn found(&mut self, namespace: u64, pid: u32, mounts: Vec<Mount>) {
        self.mounts.retain(|device, known| {
            if mounts.iter().all(|mount| mount.device != *device) {
                known.places.remove(&namespace);
            }
            !known.places.is_empty()
        });
        let mut new: Vec<(u64, Mount)> = Vec::new();
        for mount in mounts {
            if let Some(known) = self.mounts.get_mut(&mount.device) {
                known.places.insert(namespace, mount.path);
            } else if let Some(usage) = tmpfs::usage(pid, &mount.device, &mount.path) {
                new.push((usage.size, mount));
            }
        }
        new.sort_by(|a, b| (a.0, &a.1.path).cmp(&(b.0, &b.1.path)));
        for (_, mount) in new {
            self.watch(namespace, pid, mount);
        }
    }

    fn watch(&mut self, namespace: u64, pid: u32, mount: Mount) {
        if self.mounts.len() >= MAX_MOUNTS {
            if self.refused.len() < MAX_REFUSED {
                self.refused.insert(mount.device);
            }
            return;
        }
        self.refused.remove(&mount.device);
        let path = mount.path.to_string_lossy().into_owned();
        let told = TmpfsMemory { device: mount.device.clone(), path, pid, ..TmpfsMemory::default() };
        self.mounts.insert(mount.device, Watched { places: BTreeMap::from([(namespace, mount.path)]), told });
    }
}

impl Watched {
    /// A row, if there is something to tell.
    fn read(&mut self, device: &str, namespaces: &BTreeMap<u64, Members>, all: bool) -> Option<TmpfsMemory> {
        let doors = self.places.iter().flat_map(|(namespace, path)| {
            let members = namespaces.get(namespace).into_iter().flatten();
            members.map(move |pid| (*pid, path))
        });
        let Usage { size, used } = doors.take(DOORS).find_map(|(pid, path)| tmpfs::usage(pid, device, path))?;
        let now: Vec<u64> = self.places.keys().copied().collect();
        let moved = self.told.namespaces != now;
        if !all && !moved && (self.told.size, self.told.used) == (size, used) {
            return None;
        }
        (self.told.size, self.told.used, self.told.namespaces) = (size, used, now);
        let mut row = self.told.clone();
        if !all && !moved {
            row.namespaces.clear();
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(number: usize) -> Mount {
        Mount { device: format!("0:{number}"), path: PathBuf::from(format!("/mnt/{number}")) }
    }

    #[test]
    fn a_file_system_is_watched_as_long_as_somebody_is_there_who_sees_it() {
        let mut tmpfs = Tmpfs::default();
        tmpfs.enters(10, 1);
        tmpfs.enters(11, 2);
        tmpfs.watch(1, 10, mount(7));
        tmpfs.found(2, 11, vec![mount(7)]);
        assert_eq!(tmpfs.mounts["0:7"].places.len(), 2, "one file system, mounted in two namespaces");
        tmpfs.gone(10);
        assert_eq!(tmpfs.mounts["0:7"].places.keys().copied().collect::<Vec<_>>(), [2]);
        tmpfs.found(2, 11, Vec::new());
        assert!(tmpfs.mounts.is_empty(), "it was unmounted");
        tmpfs.watch(2, 11, mount(8));
        tmpfs.enters(11, 3);
        assert!(tmpfs.mounts.is_empty() && !tmpfs.namespaces.contains_key(&2), "its only process went elsewhere");
    }

    #[test]
    fn those_without_room_are_counted() {
        let mut tmpfs = Tmpfs::default();
        tmpfs.enters(10, 1);
        (0..MAX_MOUNTS + 3).for_each(|number| tmpfs.watch(1, 10, mount(number)));
        assert_eq!((tmpfs.mounts.len(), tmpfs.refused.len()), (MAX_MOUNTS, 3));
        (0..MAX_NAMESPACES as u64 * 2).for_each(|number| tmpfs.enters(100 + number as u32, number));
        assert_eq!(tmpfs.namespaces.len(), MAX_NAMESPACES);
    }

    #[test]
    fn what_this_process_sees_is_told_at_first_and_then_when_it_changes() {
        let pid = std::process::id();
        let Some(namespace) = tmpfs::namespace(pid) else { panic!("it has a mount namespace") };
        let mut tmpfs = Tmpfs::default();
        tmpfs.enters(pid, namespace);
        let (first, _) = tmpfs.read();
        for row in &first {
            assert!(row.size > 0 && row.pid == pid && row.namespaces == [namespace], "{row:?}");
        }
        assert_eq!(first.len(), tmpfs.mounts.len());
    }
}
