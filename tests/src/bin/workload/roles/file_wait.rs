//! `file-wait`: writes and fsyncs a file over and over, or reads it past the page cache.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// Where the file is made, and removed at the end. Should be on a disk.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Reads with O_DIRECT: the disk's interrupt itself ends each wait.
    #[arg(long)]
    direct: bool,
    #[arg(long, value_parser = roles::duration, default_value = "1s")]
    duration: Duration,
}

const BLOCK_BYTES: usize = 4096;
const BLOCKS: u64 = 256;

/// Memory as O_DIRECT wants it.
#[repr(align(4096))]
struct Block([u8; BLOCK_BYTES]);

impl Options {
    fn sync(&self, run: &mut Run, file: &mut std::fs::File) -> anyhow::Result<()> {
        let end = Instant::now() + self.duration;
        let (mut waited, mut syncs) = (Duration::ZERO, 0_u64);
        while Instant::now() < end {
            file.write_all(&[1; BLOCK_BYTES]).context("cannot write")?;
            let asked = Instant::now();
            file.sync_all().context("cannot sync")?;
            waited += asked.elapsed();
            syncs += 1;
        }
        run.set("waited_s", waited.as_secs_f64());
        run.set("syncs", syncs);
        Ok(())
    }

    fn read(&self, run: &mut Run, file: &std::fs::File) -> anyhow::Result<()> {
        let mut block = Block([0; BLOCK_BYTES]);
        let end = Instant::now() + self.duration;
        let (mut waited, mut reads) = (Duration::ZERO, 0_u64);
        while Instant::now() < end {
            sys::seek(file.as_fd(), run.random.u64(0..BLOCKS) * BLOCK_BYTES as u64).context("cannot seek")?;
            let asked = Instant::now();
            anyhow::ensure!(
                sys::read_full(file.as_fd(), &mut block.0).context("cannot read")?,
                "the file is too short"
            );
            waited += asked.elapsed();
            reads += 1;
        }
        run.set("waited_s", waited.as_secs_f64());
        run.set("reads", reads);
        Ok(())
    }
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let folder = self.folder.clone().unwrap_or_else(std::env::temp_dir);
        let path = folder.join(format!("workload-{}-{}", std::process::id(), run.random.u32(..)));
        let mut file = std::fs::File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let direct = if self.direct {
            let full = file.write_all(&vec![7; BLOCK_BYTES * BLOCKS as usize]).and_then(|()| file.sync_all());
            let opened = std::fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(&path);
            full.and(opened).map(Some)
        } else {
            Ok(None)
        };
        // Without a name the file goes away whatever happens to this process.
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        let direct = direct.with_context(|| format!("cannot use {} past the page cache", path.display()))?;
        run.ready(&[]);
        match direct {
            Some(direct) => self.read(run, &direct),
            None => self.sync(run, &mut file),
        }
    }
}
