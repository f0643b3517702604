//! `touch`: memory is mapped and touched for the first time, once (a page fault for each page), or with `--churn` again and again, given
//! back each time. Healthy: the same work on memory that is kept.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// MiB that are mapped at a time.
    #[arg(long, default_value_t = 512)]
    mib: usize,
    /// Passes over the memory.
    #[arg(long, default_value_t = 1)]
    passes: u64,
    /// Each pass has memory of its own.
    #[arg(long)]
    churn: bool,
    /// A part of the memory only, all the time: what else is mapped stays untouched.
    #[arg(long)]
    healthy: bool,
    /// The kernel touches it, in a system call.
    #[arg(long)]
    by_kernel: bool,
    /// The kernel brings all of it in, in one call of each of so many threads.
    #[arg(long)]
    populate: Option<usize>,
    /// Before all others, the kernel's own threads among them.
    #[arg(long)]
    first: bool,
    /// The folder of a memory cgroup to go to.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// Computes for this long before each pass.
    #[arg(long, value_parser = roles::duration, default_value = "0ms")]
    compute: Duration,
}

/// A healthy run works on so much.
const KEPT_BYTES: usize = 4 << 20;

/// Touches each page.
#[inline(never)]
fn touch_pages(mapping: &mut sys::Mapping) {
    mapping.touch_pages();
}

/// Asks for all of them, in so many parts.
fn populate(mapping: &sys::Mapping, threads: usize) {
    std::thread::scope(|scope| {
        for part in 1..threads {
            scope.spawn(move || populate_pages(mapping, part, threads));
        }
        populate_pages(mapping, 0, threads);
    });
}

#[inline(never)]
fn populate_pages(mapping: &sys::Mapping, part: usize, parts: usize) {
    mapping.populate(part, parts);
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let len_bytes = self.mib << 20;
        let map = |len_bytes| sys::Mapping::new(len_bytes, false).context("cannot map memory");
        if let Some(cgroup) = &self.cgroup {
            roles::enter_cgroup(cgroup)?;
        }
        ensure!(!self.first || sys::nice(-20), "cannot go before others: be root");
        run.ready(&[]);
        let before = sys::page_faults();
        let started = Instant::now();
        let mut kept = map(if self.healthy { KEPT_BYTES } else { len_bytes })?;
        for _ in 0..self.passes {
            sys::compute(self.compute);
            if self.healthy {
                for _ in 0..len_bytes / KEPT_BYTES {
                    touch_pages(&mut kept);
                }
            } else if let Some(threads) = self.populate {
                populate(&kept, threads);
            } else if self.by_kernel {
                kept.fill_by_kernel().context("cannot read zeroes")?;
            } else if self.churn {
                touch_pages(&mut map(len_bytes)?);
            } else {
                touch_pages(&mut kept);
            }
        }
        run.set("took_s", started.elapsed().as_secs_f64());
        let after = sys::page_faults();
        run.set("minor_faults", after.0 - before.0);
        run.set("major_faults", after.1 - before.1);
        run.set("pages", len_bytes as u64 / 4096);
        Ok(())
    }
}
