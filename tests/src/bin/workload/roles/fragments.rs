//! `fragments`: memory is taken in small pages, of which every second one is given back, so that what is free is in pieces, and kept for
//! a while. Healthy: all of it is given back.

use std::time::Duration;

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// MiB that are taken.
    #[arg(long, default_value_t = 64)]
    mib: usize,
    /// How long the pieces are kept.
    #[arg(long, value_parser = roles::duration, default_value = "100ms")]
    stay: Duration,
    #[arg(long)]
    healthy: bool,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let mut pieces = sys::Mapping::new(self.mib << 20, false).context("cannot map memory")?;
        pieces.want_small_pages().context("cannot ask for small pages")?;
        pieces.populate(0, 1);
        if self.healthy {
            pieces.give_back().context("cannot give memory back")?;
        } else {
            pieces.keep_every_second_page().context("cannot give memory back")?;
        }
        run.ready(&[]);
        std::thread::sleep(self.stay);
        Ok(())
    }
}
