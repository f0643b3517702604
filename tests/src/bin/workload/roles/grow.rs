//! `grow`: memory grows at a steady pace, until a limit ends the process or the time is over. Healthy: it grows likewise, then stays.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// The folder of a memory cgroup to go to.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// MiB a second.
    #[arg(long, default_value_t = 30)]
    rate: u64,
    /// It grows to so many MiB.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// What it has then is kept for so long.
    #[arg(long, value_parser = roles::duration, default_value = "0s")]
    stay: Duration,
}

const MIB: usize = 1 << 20;

/// A MiB more, touched.
#[inline(never)]
fn cache_another(kept: &mut Vec<sys::Mapping>) -> std::io::Result<()> {
    let mut piece = sys::Mapping::new(MIB, false)?;
    piece.touch_pages();
    kept.push(piece);
    Ok(())
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        if let Some(cgroup) = &self.cgroup {
            roles::enter_cgroup(cgroup)?;
        }
        run.ready(&[]);
        let started = Instant::now();
        let mut kept = Vec::new();
        for piece in 0..self.mib {
            let due = Duration::from_secs_f64(piece as f64 / self.rate as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
            cache_another(&mut kept).context("cannot map memory")?;
        }
        std::thread::sleep(self.stay);
        run.set("took_s", started.elapsed().as_secs_f64());
        Ok(())
    }
}
