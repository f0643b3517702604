//! `shm`: a child fills a file on a small file system in memory, through a mapping or by writing, until that is full. Healthy: it has room.
//! The file system is mounted in a namespace of its own, as a container's /dev/shm is.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// What the file system may hold.
    #[arg(long, default_value_t = 64)]
    size_mib: usize,
    /// What is put there.
    #[arg(long, default_value_t = 96)]
    mib: usize,
    /// MiB a second.
    #[arg(long, default_value_t = 40)]
    rate: u64,
    /// By write(2), which fails where a mapping's user is killed.
    #[arg(long)]
    write: bool,
    /// The file system is there for so long before the child begins.
    #[arg(long, value_parser = roles::duration, default_value = "0s")]
    settle: Duration,
    /// The child goes on for so long, whether it could write all or not.
    #[arg(long, value_parser = roles::duration, default_value = "600ms")]
    stay: Duration,
}

const MIB: usize = 1 << 20;

/// How the child ends where it was refused room.
const REFUSED: i32 = 28;

/// Puts a MiB more into the mapped file.
#[inline(never)]
fn collate_batch(mapping: &mut sys::Mapping, piece: usize) {
    mapping.touch_between(piece * MIB, (piece + 1) * MIB);
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let folder = std::env::temp_dir().join(format!("{}-shm", run.name()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let outcome = self.mounted(run, &folder);
        std::fs::remove_dir(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        outcome
    }
}

impl Options {
    fn mounted(&self, run: &mut Run, folder: &Path) -> anyhow::Result<()> {
        sys::mount_tmpfs(folder, self.size_mib * MIB).context("cannot mount a tmpfs")?;
        run.set("path", folder.display().to_string());
        run.set("size_bytes", (self.size_mib * MIB) as u64);
        std::thread::sleep(self.settle);
        let child = sys::fork(|| self.fill(folder).unwrap_or(1)).context("cannot fork")?;
        run.set("child", child);
        run.ready(&[]);
        let status = sys::wait(child, true).context("cannot wait for the child")?.map_or(0, |(_, status)| status);
        run.set("signal", status & 0x7f);
        run.set("refused", status == REFUSED << 8);
        sys::unmount(folder).context("cannot unmount the tmpfs")
    }

    /// The child's work; its exit code.
    fn fill(&self, folder: &Path) -> anyhow::Result<i32> {
        let mut file = File::options().read(true).write(true).create_new(true).open(folder.join("batches"))?;
        let started = Instant::now();
        let pace = |piece: usize| {
            let due = Duration::from_secs_f64(piece as f64 / self.rate as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        };
        let mut code = 0;
        if self.write {
            let batch = vec![7; MIB];
            for piece in 0..self.mib {
                pace(piece);
                if file.write_all(&batch).is_err() {
                    code = REFUSED;
                    break;
                }
            }
        } else {
            file.set_len((self.mib * MIB) as u64)?;
            let mut mapping = sys::Mapping::of_writable_file(file.as_fd(), self.mib * MIB)?;
            for piece in 0..self.mib {
                pace(piece);
                collate_batch(&mut mapping, piece);
            }
        }
        std::thread::sleep(self.stay);
        Ok(code)
    }
}
