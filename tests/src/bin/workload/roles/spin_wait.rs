//! `spin-wait`: one thread computes and says after each step that it is done; another one waits for that, and uses the same CPU to look
//! whether it may go on. Healthy: it waits in a pipe.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_parser = roles::duration, default_value = "3s")]
    duration: Duration,
    /// Time that a step computes.
    #[arg(long, value_parser = roles::duration, default_value = "10ms")]
    step: Duration,
    /// The waiting thread does not yield: it looks as fast as it can.
    #[arg(long)]
    busy: bool,
    /// The waiting thread has a CPU of its own: nobody is harmed.
    #[arg(long)]
    apart: bool,
    /// The waiting thread blocks.
    #[arg(long)]
    healthy: bool,
}

/// Looks whether the count has come so far, as fast as it can.
#[inline(never)]
fn spin_until(done: &AtomicU64, wanted: u64) {
    while done.load(Ordering::Acquire) < wanted {
        std::hint::spin_loop();
    }
}

/// The same, giving up the CPU each time.
#[inline(never)]
fn yield_until(done: &AtomicU64, wanted: u64) {
    while done.load(Ordering::Acquire) < wanted {
        std::thread::yield_now();
    }
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let Options { duration, step, busy, apart, healthy } = *self;
        let allowed = sys::allowed_cpus();
        let own = allowed.first().copied().unwrap_or(0);
        let other = if apart { allowed.last().copied().unwrap_or(0) } else { own };
        anyhow::ensure!(!apart || own != other, "there is one CPU only");
        let steps = (duration.as_nanos() / step.as_nanos().max(1)).max(1) as u64;
        let done = Arc::new(AtomicU64::new(0));
        let (mut reader, mut writer) = std::io::pipe()?;
        let counted = Arc::clone(&done);
        // As much work as fills the duration on a CPU that it has alone.
        let computer = run.spawn("computer", move |truth| {
            truth.set("pinned", sys::pin(own));
            let (started, mut computed) = (Instant::now(), sys::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID));
            for _ in 0..steps {
                computed += step.as_nanos() as u64;
                while sys::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) < computed {
                    sys::compute_loops(1, 2000);
                }
                counted.fetch_add(1, Ordering::AcqRel);
                if healthy {
                    let _ = writer.write_all(&[1]);
                }
            }
            truth.set("took_s", started.elapsed().as_secs_f64());
        })?;
        let waiter = run.spawn("waiter", move |truth| {
            truth.set("pinned", sys::pin(other));
            let mut byte = [0];
            for wanted in 1..=steps {
                if healthy {
                    let _ = reader.read_exact(&mut byte);
                } else if busy {
                    spin_until(&done, wanted);
                } else {
                    yield_until(&done, wanted);
                }
            }
        })?;
        let workers = vec![computer, waiter];
        run.set("steps", steps);
        run.ready(&workers);
        run.join(workers)
    }
}
