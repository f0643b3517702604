//! `mmap-lock`: one thread maps and unmaps much memory over and over, others a little: each call needs the lock of the address space.
//! Healthy: the same, but the one with much memory is a process of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Ends once each that maps a little has done so often, not after the duration.
    #[arg(long)]
    rounds: Option<u64>,
    /// Same work, but the one that maps much has an address space of its own.
    #[arg(long)]
    healthy: bool,
}

/// A little: what an allocator asks for at a time.
const LITTLE_BYTES: usize = 64 << 10;

/// Maps much, all of it backed by memory at once, and gives it back.
#[inline(never)]
fn churn(len_bytes: usize, over: impl Fn() -> bool) -> std::io::Result<u64> {
    let mut rounds = 0;
    while !over() {
        drop(sys::Mapping::new(len_bytes, true)?);
        rounds += 1;
    }
    Ok(rounds)
}

/// Maps a little, uses and protects it, and gives it back.
#[inline(never)]
fn nibble(end: Instant, most: Option<u64>, truth: &mut ThreadTruth) -> std::io::Result<()> {
    let (mut waited, mut in_calls, mut rounds) = (sys::Waited::default(), Duration::ZERO, 0_u64);
    while most.map_or_else(|| Instant::now() < end, |most| rounds < most) {
        let asked = Instant::now();
        waited.in_call(|| {
            let mut mapping = sys::Mapping::new(LITTLE_BYTES, false)?;
            mapping.touch();
            mapping.make_read_only()
        })?;
        in_calls += asked.elapsed();
        rounds += 1;
        if most.is_some() {
            // Who comes back at once gets the lock again while the other one is still waking up, and is done before that has it.
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    truth.set("rounds", rounds);
    truth.set("waited_s", waited.seconds());
    truth.set("in_calls_s", in_calls.as_secs_f64());
    Ok(())
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let (end, len_bytes, most) = (Instant::now() + self.duration, self.mib << 20, self.rounds);
        let over = move || most.is_none() && Instant::now() >= end;
        run.set("healthy", self.healthy);
        let child = if self.healthy {
            let child = sys::fork(|| i32::from(churn(len_bytes, over).is_err())).context("cannot fork")?;
            run.set("churn_tid", child);
            Some(child)
        } else {
            None
        };
        let mut workers = Vec::new();
        let (nibbled, began) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        if child.is_none() {
            let (nibbled, begins) = (nibbled.clone(), began.clone());
            let over = move || {
                begins.store(true, Ordering::Release);
                over() || nibbled.load(Ordering::Acquire)
            };
            let worker = run.spawn("churn", move |truth| match churn(len_bytes, over) {
                Ok(rounds) => truth.set("rounds", rounds),
                Err(error) => truth.set("error", error.to_string()),
            })?;
            run.set("churn_tid", worker.tid());
            workers.push(worker);
            // Few rounds would be over before it begins.
            while !began.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        let mut nibblers = Vec::new();
        for _ in 0..self.threads {
            nibblers.push(run.spawn("nibbler", move |truth| {
                if let Err(error) = nibble(end, most, truth) {
                    truth.set("error", error.to_string());
                }
            })?);
        }
        run.ready(&workers);
        run.join(nibblers)?;
        nibbled.store(true, Ordering::Release);
        run.join(workers)?;
        if let Some(child) = child {
            if most.is_some() {
                sys::kill(child, libc::SIGKILL).context("cannot end the other process")?;
            }
            sys::wait(child, true)?;
        }
        Ok(())
    }
}
