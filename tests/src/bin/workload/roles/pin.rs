//! `pin`: each batch is staged in a buffer that is mapped and pinned for it, and given back. Healthy: in one that is pinned once.

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
    /// Size of a batch.
    #[arg(long, default_value_t = 64)]
    mib: usize,
    #[arg(long, default_value_t = 40)]
    batches: u64,
    /// Computing between two of them.
    #[arg(long, value_parser = roles::duration, default_value = "10ms")]
    compute: Duration,
    /// One buffer for all of them.
    #[arg(long)]
    reuse: bool,
}

/// A new pinned buffer.
#[inline(never)]
fn pin_buffer(len_bytes: usize) -> std::io::Result<sys::Mapping> {
    let mapping = sys::Mapping::new(len_bytes, false)?;
    mapping.lock()?;
    Ok(mapping)
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        if let Some(cgroup) = &self.cgroup {
            roles::enter_cgroup(cgroup)?;
        }
        let len_bytes = self.mib << 20;
        run.ready(&[]);
        let started = Instant::now();
        let mut kept = None;
        for _ in 0..self.batches {
            let mut buffer = match kept.take() {
                Some(buffer) => buffer,
                None => pin_buffer(len_bytes).context("cannot pin memory")?,
            };
            buffer.touch_pages();
            sys::compute_cpu(self.compute);
            if self.reuse {
                kept = Some(buffer);
            }
        }
        run.set("took_s", started.elapsed().as_secs_f64());
        run.set("pinned_bytes", len_bytes as u64);
        Ok(())
    }
}
