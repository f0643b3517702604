//! `daemonise`: a child in a session of its own outlives its parent.

use std::time::Duration;

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// For how long the child lives on.
    #[arg(long, value_parser = roles::duration, default_value = "3s")]
    duration: Duration,
    /// For how long the parent stays.
    #[arg(long, value_parser = roles::duration, default_value = "200ms")]
    period: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let duration = self.duration;
        let child = sys::fork(|| {
            sys::detach();
            std::thread::sleep(duration);
            0
        })
        .context("cannot fork")?;
        run.set("child", child);
        run.ready(&[]);
        std::thread::sleep(self.period);
        Ok(())
    }
}
