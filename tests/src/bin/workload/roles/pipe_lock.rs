//! `pipe-lock`: one thread moves much through a pipe, and the kernel holds the pipe's mutex for as long as it copies; others ask how
//! much is in it, which needs that mutex for a moment. Healthy: these ask pipes of their own.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::{Run, ThreadTruth};
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// Threads that ask.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, value_parser = roles::duration, default_value = "2s")]
    duration: Duration,
    /// Same work, but each thread has a pipe of its own.
    #[arg(long)]
    healthy: bool,
}

type Pipe = Arc<(OwnedFd, OwnedFd)>;

fn pipe() -> anyhow::Result<Pipe> {
    Ok(Arc::new(sys::pipe().context("cannot make a pipe")?))
}

/// Fills the pipe and empties it.
#[inline(never)]
fn move_much(pipe: &Pipe, len_bytes: usize, end: Instant) -> std::io::Result<u64> {
    let (mut buffer, mut rounds) = (vec![7; len_bytes], 0);
    while Instant::now() < end {
        sys::write_full(pipe.1.as_fd(), &buffer)?;
        sys::read_full(pipe.0.as_fd(), &mut buffer)?;
        rounds += 1;
    }
    Ok(rounds)
}

/// Asks how much is in the pipe.
#[inline(never)]
fn ask(pipe: &Pipe, end: Instant, truth: &mut ThreadTruth) -> std::io::Result<()> {
    let (mut waited, mut in_calls, mut longest, mut calls) =
        (sys::Waited::default(), Duration::ZERO, Duration::ZERO, 0_u64);
    while Instant::now() < end {
        let asked = Instant::now();
        waited.in_call(|| sys::bytes_in_pipe(pipe.0.as_fd()))?;
        let took = asked.elapsed();
        in_calls += took;
        longest = longest.max(took);
        calls += 1;
    }
    truth.set("calls", calls);
    truth.set("waited_s", waited.seconds());
    truth.set("in_calls_s", in_calls.as_secs_f64());
    truth.set("longest_s", longest.as_secs_f64());
    Ok(())
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let shared = pipe()?;
        let len_bytes = sys::set_pipe_size(shared.1.as_fd(), 1 << 20).context("cannot make the pipe larger")?;
        let end = Instant::now() + self.duration;
        run.set("healthy", self.healthy);
        run.set("pipe_bytes", len_bytes);
        let pipe_of_hog = shared.clone();
        let hog = run.spawn("hog", move |truth| match move_much(&pipe_of_hog, len_bytes, end) {
            Ok(rounds) => truth.set("rounds", rounds),
            Err(error) => truth.set("error", error.to_string()),
        })?;
        run.set("hog_tid", hog.tid());
        let mut workers = vec![hog];
        for _ in 0..self.threads {
            let asked = if self.healthy { pipe()? } else { shared.clone() };
            workers.push(run.spawn("asker", move |truth| {
                if let Err(error) = ask(&asked, end, truth) {
                    truth.set("error", error.to_string());
                }
            })?);
        }
        run.ready(&workers);
        run.join(workers)?;
        Ok(())
    }
}
