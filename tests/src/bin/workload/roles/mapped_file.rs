//! `mapped-file`: a mapped file is read, in passes from its start to its end (in a cgroup that is too small for it they bring it in again
//! each time), or with `--random` page by page in random order, cold. Healthy: it fits, or it is warm.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// The folder of a memory cgroup to go to.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// Where the file is made, and removed at the end. Must be on a disk.
    #[arg(long)]
    folder: PathBuf,
    #[arg(long, default_value_t = 64)]
    mib: usize,
    #[arg(long, default_value_t = 1)]
    passes: u64,
    /// So many pages in random order, each read when it is touched.
    #[arg(long, default_value_t = 0)]
    random: usize,
    /// The file is in memory before it is read.
    #[arg(long)]
    warm: bool,
}

const PAGE_BYTES: usize = 4096;

/// Reads a byte of each page.
#[inline(never)]
fn read_in_order(mapping: &sys::Mapping) -> u64 {
    let bytes = std::hint::black_box(mapping.bytes());
    let (mut sum, mut at) = (0, 0);
    while at < bytes.len() {
        sum += u64::from(bytes[at]);
        at += PAGE_BYTES;
    }
    sum
}

/// Reads a byte of each of these pages; how long that took.
#[inline(never)]
fn read_pages(mapping: &sys::Mapping, pages: &[usize]) -> (u64, Duration) {
    let (mut sum, mut took) = (0, Duration::ZERO);
    let bytes = mapping.bytes();
    for page in pages {
        let asked = Instant::now();
        sum += u64::from(std::hint::black_box(bytes[page * PAGE_BYTES]));
        took += asked.elapsed();
    }
    (sum, took)
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let path = self.folder.join(format!("mapped-{}-{}", std::process::id(), run.random.u32(..)));
        let mut file = std::fs::File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let outcome = self.work(run, &mut file);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        run.set("path", path.display().to_string());
        outcome
    }
}

impl Options {
    fn work(&self, run: &mut Run, file: &mut std::fs::File) -> anyhow::Result<()> {
        let piece = vec![7; 1 << 20];
        for _ in 0..self.mib {
            file.write_all(&piece).context("cannot write the file")?;
        }
        file.sync_all().context("cannot sync the file")?;
        let len_bytes = self.mib << 20;
        // The page cache belongs to whoever brings a page in: what is written here must not count elsewhere.
        sys::evict(file.as_fd()).context("cannot evict the file")?;
        if let Some(cgroup) = &self.cgroup {
            roles::enter_cgroup(cgroup)?;
        }
        let mapping = sys::Mapping::of_file(file.as_fd(), len_bytes, self.random > 0).context("cannot map the file")?;
        if self.warm {
            let mut sum = 0;
            let mut buffer = vec![0; 1 << 20];
            sys::seek(file.as_fd(), 0).context("cannot seek")?;
            for _ in 0..self.mib {
                anyhow::ensure!(
                    sys::read_full(file.as_fd(), &mut buffer).context("cannot read")?,
                    "the file is too short"
                );
                sum += u64::from(buffer[0]);
            }
            run.set("warmed", sum);
        }
        run.ready(&[]);
        let before = sys::page_faults();
        let read_before = sys::disk_read_bytes().context("cannot read /proc/self/io")?;
        let started = Instant::now();
        let mut sum = 0;
        if self.random > 0 {
            let mut pages: Vec<usize> = (0..len_bytes / PAGE_BYTES).collect();
            run.random.shuffle(&mut pages);
            pages.truncate(self.random);
            let (read, took) = read_pages(&mapping, &pages);
            sum += read;
            run.set("in_faults_s", took.as_secs_f64());
        } else {
            for _ in 0..self.passes {
                sum += read_in_order(&mapping);
            }
        }
        run.set("took_s", started.elapsed().as_secs_f64());
        let after = sys::page_faults();
        run.set("minor_faults", after.0 - before.0);
        run.set("major_faults", after.1 - before.1);
        run.set("sum", sum);
        run.set("disk_read_bytes", sys::disk_read_bytes().context("cannot read /proc/self/io")? - read_before);
        run.set("size_bytes", len_bytes as u64);
        Ok(())
    }
}
