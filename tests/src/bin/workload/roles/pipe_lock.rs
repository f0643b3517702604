//! `pipe-lock`: one thread writes to a pipe what is in memory that comes slowly, as from a disk, and the kernel holds the pipe's mutex
//! until it has it; others ask how much is in the pipe, which needs that mutex for a moment. Healthy: these ask pipes of their own.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::{Run, ThreadTruth};
use crate::userfault::{PAGE_BYTES, Page};
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// Threads that ask.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How long the memory takes to come.
    #[arg(long, value_parser = roles::duration, default_value = "3ms")]
    hold: Duration,
    #[arg(long, value_parser = roles::duration, default_value = "2s")]
    duration: Duration,
    /// Ends once each that asks has asked so often, not after the duration.
    #[arg(long)]
    calls: Option<u64>,
    /// Same work, but each thread has a pipe of its own.
    #[arg(long)]
    healthy: bool,
}

type Pipe = Arc<(OwnedFd, OwnedFd)>;

/// The memory, and whether it is needed no more.
type Slow = Arc<(Page, AtomicBool)>;

fn pipe() -> anyhow::Result<Pipe> {
    Ok(Arc::new(sys::pipe().context("cannot make a pipe")?))
}

/// Provides the memory, some time after it was asked for.
fn provide(slow: &Slow, hold: Duration) -> std::io::Result<()> {
    while !slow.1.load(Ordering::Acquire) {
        if slow.0.is_needed(20)? {
            std::thread::sleep(hold);
            slow.0.provide()?;
        }
    }
    Ok(())
}

/// Writes the memory to the pipe and empties the pipe.
#[inline(never)]
fn write_slowly(pipe: &Pipe, slow: &Slow, over: impl Fn() -> bool, truth: &mut ThreadTruth) -> std::io::Result<()> {
    let (mut buffer, mut rounds, mut held) = (vec![0; PAGE_BYTES], 0_u64, Duration::ZERO);
    while !over() {
        slow.0.take_away()?;
        let started = Instant::now();
        slow.0.write_to(pipe.1.as_fd())?;
        held += started.elapsed();
        sys::read_full(pipe.0.as_fd(), &mut buffer)?;
        rounds += 1;
    }
    truth.set("rounds", rounds);
    truth.set("held_s", held.as_secs_f64());
    Ok(())
}

/// Asks how much is in the pipe.
#[inline(never)]
fn ask(pipe: &Pipe, end: Instant, most: Option<u64>, truth: &mut ThreadTruth) -> std::io::Result<()> {
    let (mut waited, mut in_calls, mut longest, mut calls) =
        (sys::Waited::default(), Duration::ZERO, Duration::ZERO, 0_u64);
    while most.map_or_else(|| Instant::now() < end, |most| calls < most) {
        let asked = Instant::now();
        waited.in_call(|| sys::bytes_in_pipe(pipe.0.as_fd()))?;
        let took = asked.elapsed();
        in_calls += took;
        longest = longest.max(took);
        calls += 1;
        std::thread::sleep(Duration::from_micros(100));
    }
    truth.set("calls", calls);
    truth.set("waited_s", waited.seconds());
    truth.set("in_calls_s", in_calls.as_secs_f64());
    truth.set("longest_s", longest.as_secs_f64());
    Ok(())
}

/// An error is a fact about the thread.
fn note(result: std::io::Result<()>, truth: &mut ThreadTruth) {
    if let Err(error) = result {
        truth.set("error", error.to_string());
    }
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let shared = pipe()?;
        let page = Page::new().context("cannot make memory that comes slowly (userfaultfd)")?;
        let slow: Slow = Arc::new((page, AtomicBool::new(false)));
        let (end, hold, most) = (Instant::now() + self.duration, self.hold, self.calls);
        let asked_enough = Arc::new(AtomicBool::new(false));
        run.set("healthy", self.healthy);
        let provided = slow.clone();
        let mut workers = vec![run.spawn("provider", move |truth| note(provide(&provided, hold), truth))?];
        let pipe_of_hog = shared.clone();
        let enough = asked_enough.clone();
        let hog = run.spawn("hog", move |truth| {
            let over = || if most.is_some() { enough.load(Ordering::Acquire) } else { Instant::now() >= end };
            let result = write_slowly(&pipe_of_hog, &slow, over, truth);
            slow.1.store(true, Ordering::Release);
            note(result, truth);
        })?;
        run.set("hog_tid", hog.tid());
        workers.push(hog);
        let mut askers = Vec::new();
        for _ in 0..self.threads {
            let asked = if self.healthy { pipe()? } else { shared.clone() };
            askers.push(run.spawn("asker", move |truth| note(ask(&asked, end, most, truth), truth))?);
        }
        run.ready(&workers);
        run.join(askers)?;
        asked_enough.store(true, Ordering::Release);
        run.join(workers)
    }
}
