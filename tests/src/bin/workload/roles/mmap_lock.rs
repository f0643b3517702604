//! `mmap-lock`: one thread maps and unmaps much memory over and over, others a little: each call needs the lock of the address space.
//! Healthy: the same, but the one with much memory is a process of its own.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::{Run, ThreadTruth};
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// Threads that map a little.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// MiB that the one maps.
    #[arg(long, default_value_t = 64)]
    mib: usize,
    #[arg(long, value_parser = roles::duration, default_value = "2s")]
    duration: Duration,
    /// Same work, but the one that maps much has an address space of its own.
    #[arg(long)]
    healthy: bool,
}

/// A little: what an allocator asks for at a time.
const LITTLE_BYTES: usize = 64 << 10;

/// Maps much, all of it backed by memory at once, and gives it back.
#[inline(never)]
fn churn(len_bytes: usize, end: Instant) -> std::io::Result<u64> {
    let mut rounds = 0;
    while Instant::now() < end {
        drop(sys::Mapping::new(len_bytes, true)?);
        rounds += 1;
    }
    Ok(rounds)
}

/// Maps a little, uses and protects it, and gives it back.
#[inline(never)]
fn nibble(end: Instant, truth: &mut ThreadTruth) -> std::io::Result<()> {
    let (mut waited, mut in_calls, mut rounds) = (sys::Waited::default(), Duration::ZERO, 0_u64);
    while Instant::now() < end {
        let asked = Instant::now();
        waited.in_call(|| {
            let mut mapping = sys::Mapping::new(LITTLE_BYTES, false)?;
            mapping.touch();
            mapping.make_read_only()
        })?;
        in_calls += asked.elapsed();
        rounds += 1;
    }
    truth.set("rounds", rounds);
    truth.set("waited_s", waited.seconds());
    truth.set("in_calls_s", in_calls.as_secs_f64());
    Ok(())
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let (end, len_bytes) = (Instant::now() + self.duration, self.mib << 20);
        run.set("healthy", self.healthy);
        let child = if self.healthy {
            let child = sys::fork(|| i32::from(churn(len_bytes, end).is_err())).context("cannot fork")?;
            run.set("churn_tid", child);
            Some(child)
        } else {
            None
        };
        let mut workers = Vec::new();
        if child.is_none() {
            let worker = run.spawn("churn", move |truth| match churn(len_bytes, end) {
                Ok(rounds) => truth.set("rounds", rounds),
                Err(error) => truth.set("error", error.to_string()),
            })?;
            run.set("churn_tid", worker.tid());
            workers.push(worker);
        }
        for _ in 0..self.threads {
            workers.push(run.spawn("nibbler", move |truth| {
                if let Err(error) = nibble(end, truth) {
                    truth.set("error", error.to_string());
                }
            })?);
        }
        run.ready(&workers);
        run.join(workers)?;
        if let Some(child) = child {
            sys::wait(child, true)?;
        }
        Ok(())
    }
}
