//! `dirty-writer`: a file is written in a memory cgroup that has room for a part of it only, so that each further page needs another one to
//! be written out and freed. Healthy: the cgroup has room. Without a cgroup on whatever lies below the folder.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// The folder of the memory cgroup to go to.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// Where the file is made, and removed at the end. Must be on a disk.
    #[arg(long)]
    folder: PathBuf,
    #[arg(long, default_value_t = 512)]
    mib: usize,
}

/// Writes a piece.
#[inline(never)]
fn write_shard(file: &mut std::fs::File, piece: &[u8]) -> std::io::Result<()> {
    file.write_all(piece)
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let path = self.folder.join(format!("dirty-{}-{}", std::process::id(), run.random.u32(..)));
        let mut file = std::fs::File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        // Without a name the file goes away whatever happens to this process.
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        let piece = vec![7; 1 << 20];
        if let Some(cgroup) = &self.cgroup {
            roles::enter_cgroup(cgroup)?;
        }
        run.ready(&[]);
        let (started, computed_ns) = (Instant::now(), sys::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID));
        for _ in 0..self.mib {
            write_shard(&mut file, &piece).context("cannot write the file")?;
        }
        let took_s = started.elapsed().as_secs_f64();
        let computed_ns = sys::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) - computed_ns;
        run.set("took_s", took_s);
        run.set("waited_s", took_s - computed_ns as f64 / 1e9);
        Ok(())
    }
}
