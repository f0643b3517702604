//! `kinds`: memory of each kind grows by a known amount: the heap, an arena of malloc, anonymous mappings, a mapped file, shared memory.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// Where the file is made, and removed at the end. Must be on a disk.
    #[arg(long)]
    folder: PathBuf,
    #[arg(long, default_value_t = 48)]
    heap_mib: usize,
    /// Less than 60: an arena of malloc grows by pieces of 64 MiB.
    #[arg(long, default_value_t = 40)]
    arena_mib: usize,
    #[arg(long, default_value_t = 72)]
    anonymous_mib: usize,
    #[arg(long, default_value_t = 64)]
    file_mib: usize,
    #[arg(long, default_value_t = 56)]
    shared_mib: usize,
    /// It does nothing for so long before, and after.
    #[arg(long, value_parser = roles::duration, default_value = "1600ms")]
    settle: Duration,
}

const MIB: usize = 1 << 20;
/// Small enough that malloc takes it from a heap.
const BLOCK_BYTES: usize = 64 << 10;

/// Blocks of the calling thread's heap that are this much together.
fn blocks(mib: usize) -> Vec<Vec<u8>> {
    (0..mib * MIB / BLOCK_BYTES).map(|_| vec![7; BLOCK_BYTES]).collect()
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let path = self.folder.join(format!("kinds-{}-{}", std::process::id(), run.random.u32(..)));
        let mut file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        let outcome = self.work(run, &mut file);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        run.set("path", path.display().to_string());
        outcome
    }
}

impl Options {
    fn work(&self, run: &mut Run, file: &mut std::fs::File) -> anyhow::Result<()> {
        let piece = vec![7; MIB];
        for _ in 0..self.file_mib {
            file.write_all(&piece).context("cannot write the file")?;
        }
        drop(piece);
        run.ready(&[]);
        std::thread::sleep(self.settle);
        let heap = blocks(self.heap_mib);
        let mib = self.arena_mib;
        let arena = std::thread::spawn(move || blocks(mib)).join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        let mut anonymous = sys::Mapping::new(self.anonymous_mib * MIB, false).context("cannot map memory")?;
        anonymous.touch_pages();
        let mapped = sys::Mapping::of_file(file.as_fd(), self.file_mib * MIB, false).context("cannot map the file")?;
        let sum: u64 = mapped.bytes().iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
        let mut shared = sys::Mapping::shared(self.shared_mib * MIB).context("cannot map shared memory")?;
        shared.touch_pages();
        std::thread::sleep(self.settle);
        run.set("sum", sum);
        run.set("blocks", (heap.len() + arena.len()) as u64);
        Ok(())
    }
}
