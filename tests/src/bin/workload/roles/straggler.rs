//! `straggler`: two processes do the same work and meet after each step, by a byte to and fro through a pair of sockets. One of them waits
//! for its input in each step. Healthy: none does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 60)]
    steps: u64,
    /// CPU time of a step.
    #[arg(long, value_parser = roles::duration, default_value = "5ms")]
    work: Duration,
    /// How long the second process waits for its input in each step.
    #[arg(long, value_parser = roles::duration, default_value = "30ms")]
    late: Duration,
    /// None is late.
    #[arg(long)]
    healthy: bool,
}

/// The work of each.
#[inline(never)]
fn train_step(work: Duration) {
    sys::compute_cpu(work);
}

/// Says how long it took, so that it stays on the stack meanwhile.
#[inline(never)]
fn read_slow_input(late: Duration) -> Duration {
    let asked = Instant::now();
    std::thread::sleep(late);
    asked.elapsed()
}

/// Returns once the other one has called it as often. Says how long that took.
#[inline(never)]
fn meet(peer: &mut UnixStream) -> Duration {
    let asked = Instant::now();
    let _ = peer.write_all(&[1]);
    let _ = peer.read_exact(&mut [0]);
    asked.elapsed()
}

impl Options {
    fn rank(&self, mut peer: UnixStream, late: Duration) -> Duration {
        let (mut waited, mut read) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..self.steps {
            train_step(self.work);
            if !late.is_zero() {
                read += read_slow_input(late);
            }
            waited += meet(&mut peer);
        }
        std::hint::black_box(read);
        waited
    }
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        run.ready(&[]);
        let (own, other) = UnixStream::pair()?;
        let late = if self.healthy { Duration::ZERO } else { self.late };
        let child = sys::fork(|| {
            self.rank(other, late);
            0
        })?;
        let waited = self.rank(own, Duration::ZERO);
        sys::wait(child, true)?;
        run.set("straggler", child);
        run.set("waited_s", waited.as_secs_f64());
        Ok(())
    }
}
