//! `stopped`: a child is stopped by a signal for a while, in the middle of a sleep, then sleeps on.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// For how long the child is stopped.
    #[arg(long, value_parser = roles::duration, default_value = "300ms")]
    duration: Duration,
    /// For how long the child sleeps before it is stopped, and again after.
    #[arg(long, value_parser = roles::duration, default_value = "100ms")]
    period: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        // The time of a stop is part of the time that a sleep takes.
        let sleep = 2 * self.period + self.duration;
        let child = sys::fork(|| {
            sys::compute(Duration::from_millis(20));
            std::thread::sleep(sleep);
            0
        })
        .context("cannot fork")?;
        run.set("child", child);
        run.set("sleep_s", sleep.as_secs_f64());
        run.ready(&[]);
        std::thread::sleep(self.period);
        sys::kill(child, libc::SIGSTOP).context("cannot stop the child")?;
        let stopped = Instant::now();
        std::thread::sleep(self.duration);
        run.set("stopped_s", stopped.elapsed().as_secs_f64());
        sys::kill(child, libc::SIGCONT).context("cannot continue the child")?;
        sys::wait(child, true).context("cannot wait for the child")?;
        Ok(())
    }
}
