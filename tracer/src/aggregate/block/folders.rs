//! Requests for many files, summed up by the directory that they lie in, the one above that, and the one above that again: no single file of
//! a folder of pictures says anything. Which of the three says most is chosen at the end. Bounded: so many directories of each; where there
//! is no room, those of which devices had least are forgotten.

use std::cmp::Reverse;
use std::hash::Hash;

use tracer_common::block::{BlockDone, BlockOp};

use super::FileSums;
use crate::aggregate::hash::FastMap;
use crate::aggregate::paths::{Key, Paths, join};
use crate::aggregate::times::Times;
use crate::model::pattern::Pattern;

/// Directories kept by how far above the files they are.
const MAX_FOLDERS: [usize; LEVELS] = [128, 64, 32];
/// How far that is.
const LEVELS: usize = 3;
/// So many directories next to each other are told as one, and so many files.
pub const MANY: usize = 8;
/// No part of them has this share of the requests.
const MOST_SHARE: f64 = 0.5;

/// Requests for files that lie so far below a directory.
#[derive(Default)]
pub struct Folder {
    /// The requests.
    pub sums: FileSums,
    /// Files that they are for; one may count twice if it was not used for long.
    pub files: u64,
    /// What waits there were for them, and answers.
    pub waits: Times,
    pub answers: Times,
    above: Option<Key>,
    /// What the files are called, and the directories right below this one, of which the first are kept.
    names: Pattern,
    below: Pattern,
    directories: Vec<u64>,
}

/// See the file's head.
#[derive(Default)]
pub struct Folders([FastMap<Key, Folder>; LEVELS]);

/// Directories above a file: its own, then one up each.
pub type Above = [Option<Key>; LEVELS];

/// Those of a file in this directory.
pub fn above(paths: &Paths, directory: Key) -> Above {
    let second = paths.above(directory);
    [Some(directory), second, second.and_then(|second| paths.above(second))]
}

impl Folders {
    /// Takes a request for a file that lies there; with its name if it is its first one.
    pub fn add(&mut self, above: &Above, op: BlockOp, event: &BlockDone, first: Option<&str>, paths: &Paths) {
        for (level, key) in above.iter().enumerate() {
            let Some(key) = *key else { return };
            let up = paths.above(key);
            let folder = self.row(level, key);
            folder.above = up;
            folder.sums.add(op, event);
            if let Some(name) = first {
                folder.files += 1;
                folder.names.add(name);
                if let Some(below) = level.checked_sub(1).and_then(|below| above.get(below).copied().flatten()) {
                    folder.has_below(below, paths);
                }
            }
        }
    }

    fn row(&mut self, level: usize, key: Key) -> &mut Folder {
        let folders = &mut self.0[level];
        if folders.len() >= MAX_FOLDERS[level] && !folders.contains_key(&key) {
            keep_half(folders, |folder| folder.sums.ops.device_ns());
        }
        folders.entry(key).or_default()
    }

    /// A thread has waited for a file that lies there.
    pub fn waited(&mut self, above: &Above, ns: u64) {
        self.each(above, |folder| folder.waits.add(ns));
    }

    /// It has its answer.
    pub fn answered(&mut self, above: &Above, ns: u64) {
        self.each(above, |folder| folder.answers.add(ns));
    }

    fn each(&mut self, above: &Above, mut action: impl FnMut(&mut Folder)) {
        for (level, key) in above.iter().enumerate() {
            if let Some(folder) = key.and_then(|key| self.0[level].get_mut(&key)) {
                action(folder);
            }
        }
    }

    /// Those that say most: as near to the files as can be, unless these lie in many directories of which none has most requests.
    pub fn chosen(&self) -> Vec<(Key, usize, &Folder)> {
        let mut chosen = Vec::new();
        for (level, folders) in self.0.iter().enumerate() {
            let is_top = |folder: &Folder| {
                let known = |above: Key| self.0.get(level + 1).is_some_and(|next| next.contains_key(&above));
                !folder.above.is_some_and(known)
            };
            for (key, folder) in folders.iter().filter(|(_, folder)| is_top(folder)) {
                self.choose(level, *key, folder, &mut chosen);
            }
        }
        chosen
    }

    fn choose<'a>(&'a self, level: usize, key: Key, folder: &'a Folder, into: &mut Vec<(Key, usize, &'a Folder)>) {
        let next = level.checked_sub(1).and_then(|next| self.0.get(next));
        let below = next.into_iter().flatten().filter(|(_, below)| below.above == Some(key));
        let parts: Vec<(&Key, &Folder)> = below.collect();
        let most = parts.iter().max_by_key(|(key, part)| (part.requests(), Reverse(**key)));
        let share = |requests: u64| requests as f64 / folder.requests().max(1) as f64;
        match most {
            Some((key, part)) if share(part.requests()) >= MOST_SHARE => self.choose(level - 1, **key, part, into),
            Some(_) if folder.directories.len() < MANY => {
                parts.iter().for_each(|(key, part)| self.choose(level - 1, **key, part, into));
            }
            _ => into.push((key, level, folder)),
        }
    }
}

impl Folder {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.sums.ops.requests()
    }

    fn has_below(&mut self, directory: Key, paths: &Paths) {
        if !self.directories.contains(&directory.1) {
            if self.directories.len() < MANY {
                self.directories.push(directory.1);
            }
            self.below.add(paths.directory_name(directory).unwrap_or_default());
        }
    }

    /// A pattern of their paths: `path` is the directory's, and they lie so many levels below it.
    pub fn pattern(&self, path: &str, level: usize) -> String {
        let names = self.names.shown();
        let names = if names.is_empty() { "*" } else { &names };
        match level {
            0 => join(path, names),
            1 => join(&join(path, &self.below.shown()), names),
            _ => join(&join(path, "**"), names),
        }
    }
}

/// Forgets the smaller half of a table, by a measure of its rows.
pub fn keep_half<K: Copy + Eq + Hash + Ord, V>(table: &mut FastMap<K, V>, measure: impl Fn(&V) -> u64) {
    let mut ranked: Vec<(u64, K)> = table.iter().map(|(key, row)| (measure(row), *key)).collect();
    ranked.sort_unstable();
    ranked.truncate(ranked.len() / 2);
    for (_, key) in &ranked {
        table.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::memory::CachedFile;
    use tracer_common::record::block;

    const DISK: u32 = 254 << 20;

    fn entry(inode: u64, parent: u64, text: &str) -> CachedFile {
        crate::testing::met(block::FILE, 1, inode, parent, text)
    }

    /// Directories `/data/train/class-N` and `/data/val`, and requests for files in them: so many for each.
    fn requests(train: &[u64], val: u64) -> (Paths, Folders) {
        let (mut paths, mut folders) = (Paths::default(), Folders::default());
        for (inode, parent, name) in [(2, 2, "/"), (3, 2, "data"), (4, 3, "train"), (5, 3, "val")] {
            paths.directory(&entry(inode, parent, name));
        }
        let mut read = |paths: &Paths, directory: u64, count: u64| {
            for number in 0..count {
                let (above, event) = (above(paths, (DISK, directory)), crate::testing::block_done(number));
                folders.add(&above, BlockOp::Read, &event, Some(&format!("{directory}-{number}.jpg")), paths);
            }
        };
        for (class, count) in train.iter().enumerate() {
            let directory = 100 + class as u64;
            paths.directory(&entry(directory, 4, &format!("class-{class}")));
            read(&paths, directory, *count);
        }
        read(&paths, 5, val);
        (paths, folders)
    }

    fn chosen((_, folders): &(Paths, Folders)) -> Vec<(u64, usize, u64, String)> {
        let mut all: Vec<_> = folders.chosen();
        all.sort_by_key(|(key, level, _)| (*key, *level));
        let row = |(key, level, folder): (Key, usize, &Folder)| {
            (key.1, level, folder.files, folder.pattern(&format!("/{}", key.1), level))
        };
        all.into_iter().map(row).collect()
    }

    #[test]
    fn files_are_told_with_the_directory_that_says_most() {
        let of = |inode, level, files, path: &str| (inode, level, files, path.to_owned());
        // Many directories side by side are one.
        let many = requests(&[20; 40], 0);
        assert_eq!(chosen(&many), [of(4, 1, 800, "/4/class-*/1*.jpg")]);
        // Those that lie elsewhere are told too.
        let two = requests(&[20; 40], 300);
        assert_eq!(chosen(&two), [of(4, 1, 800, "/4/class-*/1*.jpg"), of(5, 0, 300, "/5/5-*.jpg")]);
        // One that has most is that alone; few are told apart.
        assert_eq!(chosen(&requests(&[20, 900, 20], 0)), [of(101, 0, 900, "/101/101-*.jpg")]);
        let few =
            [of(100, 0, 20, "/100/100-*.jpg"), of(101, 0, 30, "/101/101-*.jpg"), of(102, 0, 30, "/102/102-*.jpg")];
        assert_eq!(chosen(&requests(&[20, 30, 30], 0)), few);
        assert_eq!(chosen(&requests(&[], 20)), [of(5, 0, 20, "/5/5-*.jpg")]);
    }

    #[test]
    fn more_directories_than_there_is_room_for_leave_the_one_above_them_exact() {
        let many = requests(&[3; 1_000], 0);
        assert_eq!(chosen(&many), [(4, 1, 3_000, "/4/class-*/*.jpg".to_owned())]);
        let (_, Folders(levels)) = &many;
        assert!(levels.iter().zip(MAX_FOLDERS).all(|(folders, most)| folders.len() <= most));
        assert_eq!(levels[1][&(DISK, 4)].requests(), 3_000);
    }
}
