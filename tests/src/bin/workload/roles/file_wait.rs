//! `file-wait`: writes and fsyncs a file over and over.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::roles;
use crate::truth::Run;

#[derive(clap::Args)]
pub struct Options {
    /// Where the file is made, and removed at the end. Should be on a disk.
    #[arg(long)]
    folder: Option<PathBuf>,
    #[arg(long, value_parser = roles::duration, default_value = "1s")]
    duration: Duration,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let folder = self.folder.clone().unwrap_or_else(std::env::temp_dir);
        let path = folder.join(format!("workload-{}-{}", std::process::id(), run.random.u32(..)));
        let mut file = std::fs::File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        // Without a name the file goes away whatever happens to this process.
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        run.ready(&[]);
        let end = Instant::now() + self.duration;
        let (mut waited, mut syncs) = (Duration::ZERO, 0_u64);
        while Instant::now() < end {
            file.write_all(&[1; 4096]).context("cannot write")?;
            let asked = Instant::now();
            file.sync_all().context("cannot sync")?;
            waited += asked.elapsed();
            syncs += 1;
        }
        run.set("waited_s", waited.as_secs_f64());
        run.set("syncs", syncs);
        Ok(())
    }
}
