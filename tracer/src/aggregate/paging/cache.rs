//! Files whose pages came into the page cache while a traced thread ran, and what became of these pages. Counts are of the whole time
//! of tracing: the kernel's side keeps sums, and the last ones count.

use crate::aggregate::hash::FastMap;
use crate::model::meta::CacheRow;
use tracer_common::memory::{CachedFile, FILE_NAME_BYTES};

/// Files kept; the kernel's side keeps as many.
const MAX_FILES: usize = 4_096;

/// What is known of a file.
#[derive(Clone, Debug)]
pub struct File {
    /// Who brought in its first page: thread and process.
    pub by: (u32, u32),
    /// Its size then; later ones are among its pages' counts.
    pub size_bytes: u64,
    /// The last part of its path; empty: not known.
    pub name: [u8; FILE_NAME_BYTES],
    /// Its pages.
    pub pages: CacheRow,
}

/// See the file's head.
#[derive(Default)]
pub struct Cache {
    /// By device and inode.
    pub files: FastMap<(u32, u64), File>,
    /// Small files, and those without room in the kernel, by device.
    pub rest: FastMap<u32, CacheRow>,
    /// Files without room.
    pub over: u64,
    /// The family was told of and can run.
    pub active: bool,
}

impl Cache {
    /// A file is met. Several CPUs may meet one at a time: the first record counts.
    pub fn file(&mut self, event: &CachedFile) {
        let key = (event.file.device, event.file.inode);
        if self.files.contains_key(&key) {
            return;
        }
        if self.files.len() >= MAX_FILES {
            self.over += 1;
            return;
        }
        let pages = CacheRow::default();
        let by = (event.tid, event.tgid);
        let file = File { by, size_bytes: event.size_bytes, name: event.name, pages };
        self.files.insert(key, file);
    }

    /// Takes the sums.
    pub fn sums(&mut self, rows: &[CacheRow]) {
        let (rest, rows): (Vec<&CacheRow>, Vec<&CacheRow>) = rows.iter().partition(|row| row.inode == 0);
        for row in rest {
            if self.rest.len() < MAX_FILES || self.rest.contains_key(&row.device) {
                self.rest.insert(row.device, row.clone());
            }
        }
        for row in rows {
            // One whose record was lost has no name and no size, and so tells nothing.
            if let Some(file) = self.files.get_mut(&(row.device, row.inode)) {
                file.pages = row.clone();
            }
        }
    }
}
