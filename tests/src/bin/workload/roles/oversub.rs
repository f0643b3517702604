//! `oversub`: threads compute in steps and spin at a barrier after each, as OpenMP programs do. More threads than CPUs: each step
//! waits for threads that do not run. Healthy: one thread per CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 8)]
    threads: u64,
    /// All threads share this many CPUs.
    #[arg(long, default_value_t = 2)]
    cpus: usize,
    #[arg(long, value_parser = roles::duration, default_value = "3s")]
    duration: std::time::Duration,
    /// Work of one step, divided among the threads: loops.
    #[arg(long, default_value_t = 2_000_000)]
    work: u64,
    /// Ends after so many steps, not after the duration.
    #[arg(long)]
    steps: Option<u64>,
}

/// Waits until all have come, as OpenMP's barriers do.
#[inline(never)]
fn spin_at_barrier(arrived: &AtomicU64, all: u64, over: &dyn Fn() -> bool) {
    while arrived.load(Ordering::Acquire) < all && !over() {
        std::hint::spin_loop();
    }
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let allowed = sys::allowed_cpus();
        anyhow::ensure!(allowed.len() >= self.cpus, "there are {} CPUs only", allowed.len());
        let cpus: Vec<usize> = allowed[..self.cpus].to_vec();
        anyhow::ensure!(sys::pin_to(&cpus), "cannot bind to CPUs {cpus:?}");
        run.set("cpus", cpus.len());
        let arrived = Arc::new(AtomicU64::new(0));
        let (threads, loops) = (self.threads, self.work / self.threads);
        let end = self.steps.is_none().then(|| std::time::Instant::now() + self.duration);
        let all_steps = self.steps.unwrap_or(u64::MAX);
        let mut workers = Vec::new();
        for _ in 0..threads {
            let arrived = Arc::clone(&arrived);
            workers.push(run.spawn("spinner", move |truth| {
                let mut steps = 0;
                let over = || end.is_some_and(|end| std::time::Instant::now() >= end);
                while steps < all_steps && !over() {
                    sys::compute_loops(1, loops);
                    steps += 1;
                    arrived.fetch_add(1, Ordering::AcqRel);
                    // Whoever sees the end of the time leaves; the others see it too.
                    spin_at_barrier(&arrived, steps * threads, &over);
                }
                truth.set("steps", steps);
            })?);
        }
        run.ready(&workers);
        run.join(workers)
    }
}
