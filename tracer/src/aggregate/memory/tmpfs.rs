//! File systems in memory (tmpfs) over time, and processes that died of SIGBUS: how full those were that they saw. Bounded: so many file
//! systems, so many deaths. Whether that was the cause is for the rules to say.

use std::collections::BTreeSet;

use super::{MAX_POINTS, Series};
use crate::model::meta::TmpfsMemory;

/// File systems kept.
const MAX_MOUNTS: usize = 64;
/// Deaths kept.
const MAX_DEATHS: usize = 64;
/// The signal's number, on all of Linux's architectures that are traced.
const SIGBUS: u32 = 7;
/// The bits of an exit code that hold the signal (wait(2)).
const SIGNAL_BITS: u32 = 0x7f;

/// A reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub t_ns: u64,
    pub size: u64,
    pub used: u64,
}

impl Reading {
    /// The part in use.
    pub(super) fn share(&self) -> f64 {
        if self.size == 0 { 0.0 } else { self.used as f64 / self.size as f64 }
    }
}

/// A file system. A device number is given out again, so place and process belong to what it is.
#[derive(Clone, Debug)]
pub(super) struct Mount {
    pub device: String,
    pub path: String,
    pub pid: u32,
    namespaces: BTreeSet<u64>,
    pub first: Reading,
    pub most: Reading,
    pub last: Reading,
    /// The reading before the last one.
    before: Reading,
    pub series: Series,
}

impl Mount {
    fn new(row: &TmpfsMemory, now: Reading) -> Self {
        Mount {
            device: row.device.clone(),
            path: row.path.clone(),
            pid: row.pid,
            namespaces: BTreeSet::new(),
            first: now,
            most: now,
            last: Reading::default(),
            before: Reading::default(),
            series: Series::default(),
        }
    }

    /// What was in use at a moment by the last reading until then, and how fast it grew; none where nothing was read until then.
    fn filling(&self, t_ns: u64) -> Option<(Reading, f64)> {
        // A reading may be decoded before an earlier event.
        let (at, from) =
            if self.last.t_ns <= t_ns { (self.last, self.before) } else { (self.before, Reading::default()) };
        if at.t_ns == 0 || at.t_ns > t_ns {
            return None;
        }
        let took_s = at.t_ns.saturating_sub(from.t_ns) as f64 / 1e9;
        let grown = from.t_ns > 0 && took_s > 0.0;
        Some((at, if grown { at.used.saturating_sub(from.used) as f64 / took_s } else { 0.0 }))
    }
}

/// A process that died of SIGBUS.
#[derive(Clone, Debug)]
pub(super) struct Death {
    pub t_ns: u64,
    pub tid: u32,
    pub tgid: u32,
    /// The file systems that it saw.
    pub fillings: Vec<Filling>,
}

/// How full a file system was when a process died.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filling {
    /// Where it is among all.
    pub mount: usize,
    pub reading: Reading,
    pub per_s: f64,
}

/// See the file's head.
#[derive(Default)]
pub(super) struct Tmpfs {
    pub mounts: Vec<Mount>,
    /// Those that were not read or not kept.
    pub over: u64,
    pub deaths: Vec<Death>,
    pub deaths_over: u64,
}

impl Tmpfs {
    /// Takes a row of a reading.
    pub(super) fn row(&mut self, t_ns: u64, row: &TmpfsMemory) {
        let now = Reading { t_ns, size: row.size, used: row.used };
        let same = |mount: &Mount| mount.device == row.device && mount.path == row.path && mount.pid == row.pid;
        let place = self.mounts.iter().position(same).unwrap_or_else(|| {
            if self.mounts.len() < MAX_MOUNTS {
                self.mounts.push(Mount::new(row, now));
            }
            self.mounts.len() - 1
        });
        let Some(mount) = self.mounts.get_mut(place).filter(|mount| same(mount)) else {
            self.over = self.over.max(1);
            return;
        };
        if !row.namespaces.is_empty() {
            mount.namespaces = row.namespaces.iter().copied().collect();
        }
        if now.share() > mount.most.share() {
            mount.most = now;
        }
        (mount.before, mount.last) = (mount.last, now);
        mount.series.push((t_ns, row.used), MAX_POINTS);
    }

    /// A thread ended. `namespace`: which mounts its process saw, where that is known.
    pub(super) fn exit(&mut self, t_ns: u64, (tid, tgid): (u32, u32), exit_code: u32, namespace: Option<u64>) {
        // All threads of a process end with its signal; the one that it hit goes first.
        if exit_code & SIGNAL_BITS != SIGBUS || self.deaths.iter().any(|known| known.tgid == tgid) {
            return;
        }
        if self.deaths.len() >= MAX_DEATHS {
            self.deaths_over += 1;
            return;
        }
        let fillings = namespace.map(|namespace| self.fillings(t_ns, namespace)).unwrap_or_default();
        self.deaths.push(Death { t_ns, tid, tgid, fillings });
    }

    /// How full those in a namespace were at a moment.
    fn fillings(&self, t_ns: u64, namespace: u64) -> Vec<Filling> {
        let seen = self.mounts.iter().enumerate().filter(|(_, mount)| mount.namespaces.contains(&namespace));
        let of = |(index, mount): (usize, &Mount)| {
            let (reading, per_s) = mount.filling(t_ns)?;
            Some(Filling { mount: index, reading, per_s })
        };
        seen.filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn row(device: &str, namespaces: &[u64], used: u64) -> TmpfsMemory {
        let path = format!("/mnt/{device}");
        TmpfsMemory { device: device.to_owned(), path, pid: 10, namespaces: namespaces.to_vec(), size: 100, used }
    }

    #[test]
    fn a_death_is_held_against_what_its_process_saw() {
        let mut tmpfs = Tmpfs::default();
        for second in 1..=3 {
            tmpfs.row(second * S, &row("0:1", &[1], 90));
            tmpfs.row(second * S, &row("0:2", if second == 1 { &[2] } else { &[] }, 20 * second));
        }
        tmpfs.exit(3 * S + S / 2, (11, 10), SIGBUS | 0x80, Some(2));
        tmpfs.exit(3 * S + S / 2, (10, 10), SIGBUS, Some(2));
        tmpfs.exit(4 * S, (20, 20), SIGBUS, None);
        tmpfs.exit(4 * S, (30, 30), 9, Some(1));
        tmpfs.exit(4 * S, (40, 40), SIGBUS << 8, Some(1));
        let [first, second] = &tmpfs.deaths[..] else { panic!("two: {:?}", tmpfs.deaths) };
        assert_eq!((first.tid, first.tgid), (11, 10), "the thread that ended first");
        let [filling] = first.fillings[..] else { panic!("only the second one: {first:?}") };
        assert_eq!((filling.mount, filling.reading.used, filling.per_s), (1, 60, 20.0));
        assert!(second.fillings.is_empty(), "nobody knows what it saw");
    }

    #[test]
    fn a_reading_after_the_death_is_none_before_it() {
        let mut tmpfs = Tmpfs::default();
        tmpfs.row(S, &row("0:1", &[1], 40));
        tmpfs.row(2 * S, &row("0:1", &[1], 100));
        tmpfs.exit(S + S / 2, (10, 10), SIGBUS, Some(1));
        tmpfs.exit(S / 2, (20, 20), SIGBUS, Some(1));
        assert_eq!(tmpfs.deaths[0].fillings.first().map(|filling| filling.reading.used), Some(40));
        assert!(tmpfs.deaths[1].fillings.is_empty(), "nothing was read yet");
    }

    #[test]
    fn they_are_bounded() {
        let mut tmpfs = Tmpfs::default();
        for number in 0..200 {
            tmpfs.row(S, &row(&format!("0:{number}"), &[1], u64::MAX));
            tmpfs.exit(S, (number, number), SIGBUS, Some(1));
        }
        assert_eq!((tmpfs.mounts.len(), tmpfs.deaths.len(), tmpfs.deaths_over), (MAX_MOUNTS, MAX_DEATHS, 200 - 64));
    }
}
