//! `arena`: threads allocate and free from one malloc arena. Healthy: as many arenas as the C library likes.

use std::time::{Duration, Instant};

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 4)]
    threads: usize,
    #[arg(long, value_parser = roles::duration, default_value = "2s")]
    duration: Duration,
    /// Each thread ends after so many allocations, not after the duration.
    #[arg(long)]
    allocations: Option<u64>,
    #[arg(long)]
    healthy: bool,
}

/// Too large for the per-thread cache, too small for a mapping of its own; the size differs so that lists must be searched.
fn churn(end: Instant, most: u64, seed: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut kept: Vec<Vec<u8>> = (0..64).map(|_| Vec::new()).collect();
    let mut count = 0;
    while count < most && (most < u64::MAX || Instant::now() < end) {
        for _ in 0..50 {
            let slot = random.usize(0..kept.len());
            let mut block = Vec::with_capacity(random.usize(2048..16384));
            block.push(1_u8);
            kept[slot] = std::hint::black_box(block);
            count += 1;
        }
    }
    count
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let one_arena = !self.healthy && sys::one_malloc_arena();
        run.set("one_arena", one_arena);
        let (end, most) = (Instant::now() + self.duration, self.allocations.unwrap_or(u64::MAX));
        let mut workers = Vec::new();
        for _ in 0..self.threads {
            let seed = run.random.u64(..);
            workers.push(run.spawn("allocator", move |truth| truth.set("allocations", churn(end, most, seed)))?);
        }
        run.ready(&workers);
        run.join(workers)
    }
}
