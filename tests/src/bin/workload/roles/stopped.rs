//! `stopped`: a child is stopped by a signal for a while, in the middle of a sleep, then goes on.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// For how long the child is stopped.
    #[arg(long, value_parser = roles::duration, default_value = "300ms")]
    duration: Duration,
    /// For how long the child works, once before and once after.
    #[arg(long, value_parser = roles::duration, default_value = "200ms")]
    period: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let period = self.period;
        let child = sys::fork(|| {
            let end = Instant::now() + 2 * period;
            while Instant::now() < end {
                sys::compute(Duration::from_millis(2));
            }
            std::thread::sleep(period);
            0
        })
        .context("cannot fork")?;
        run.set("child", child);
        run.ready(&[]);
        std::thread::sleep(period);
        sys::kill(child, libc::SIGSTOP).context("cannot stop the child")?;
        let stopped = Instant::now();
        std::thread::sleep(self.duration);
        run.set("stopped_s", stopped.elapsed().as_secs_f64());
        sys::kill(child, libc::SIGCONT).context("cannot continue the child")?;
        sys::wait(child, true).context("cannot wait for the child")?;
        Ok(())
    }
}
