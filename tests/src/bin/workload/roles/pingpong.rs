//! `pingpong`: two processes or threads throw a byte to and fro through two pipes. The yardstick for the cost of a switch.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// How many bytes are thrown, both ways together; each is one switch where both ends share a CPU.
    #[arg(long, default_value_t = 200_000)]
    count: u64,
    /// Both ends on one CPU.
    #[arg(long)]
    pinned: bool,
    /// Two threads instead of two processes.
    #[arg(long)]
    threads: bool,
}

struct End {
    from: OwnedFd,
    to: OwnedFd,
}

impl End {
    /// Answers until the other end closes.
    fn answer(&self) -> std::io::Result<()> {
        let mut byte = [0];
        while sys::read_full(self.from.as_fd(), &mut byte)? {
            sys::write_full(self.to.as_fd(), &byte)?;
        }
        Ok(())
    }

    fn serve(&self, rounds: u64) -> std::io::Result<()> {
        let mut byte = [7];
        for _ in 0..rounds {
            sys::write_full(self.to.as_fd(), &byte)?;
            if !sys::read_full(self.from.as_fd(), &mut byte)? {
                break;
            }
        }
        Ok(())
    }
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let (there, to_there) = sys::pipe().context("cannot make a pipe")?;
        let (here, to_here) = sys::pipe().context("cannot make a pipe")?;
        let (near, far) = (End { from: here, to: to_there }, End { from: there, to: to_here });
        if self.pinned {
            let cpus = sys::allowed_cpus();
            let cpu = cpus[run.random.usize(..cpus.len())];
            anyhow::ensure!(sys::pin(cpu), "cannot bind to CPU {cpu}");
            run.set("cpu", cpu);
        }
        let rounds = self.count / 2;
        let before = sys::context_switches();
        let started = Instant::now();
        if self.threads {
            let worker = run.spawn("far", move |_| drop(far.answer()))?;
            run.set("other_tid", worker.tid());
            near.serve(rounds)?;
            drop(near);
            run.join(vec![worker])?;
        } else {
            // The child must not keep the near ends open, or it would never see the end of the stream.
            let (mut near_end, mut far_end) = (Some(near), Some(far));
            let child = sys::fork(|| {
                drop(near_end.take());
                far_end.as_ref().map_or(1, |far| i32::from(far.answer().is_err()))
            })?;
            drop(far_end.take());
            run.set("other_tid", child);
            if let Some(near) = near_end.take() {
                near.serve(rounds)?;
            }
            sys::wait(child, true)?;
        }
        let elapsed_s = started.elapsed().as_secs_f64();
        let after = sys::context_switches();
        run.set("elapsed_s", elapsed_s);
        run.set("count", rounds * 2);
        run.set("switches", after.0 - before.0);
        run.set("preemptions", after.1 - before.1);
        run.set("ns_per_switch", elapsed_s * 1e9 / (rounds * 2).max(1) as f64);
        Ok(())
    }
}
