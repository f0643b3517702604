//! `child-wait`: waits for a child that sleeps.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_parser = roles::duration, default_value = "500ms")]
    duration: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let duration = self.duration;
        let child = sys::fork(|| {
            std::thread::sleep(duration);
            0
        })
        .context("cannot fork")?;
        run.set("child", child);
        run.ready(&[]);
        let asked = Instant::now();
        sys::wait(child, true).context("cannot wait for the child")?;
        run.set("waited_s", asked.elapsed().as_secs_f64());
        Ok(())
    }
}
