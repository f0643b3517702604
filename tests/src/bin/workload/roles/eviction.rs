//! `eviction`: a thread reads the samples of a file over and over, in another order each time; the file fits into its memory cgroup, but
//! another thread writes a file there, whose pages push it out. Healthy: what is written goes past the page cache.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// The folder of the memory cgroup to go to.
    #[arg(long)]
    cgroup: PathBuf,
    /// Where the files are made. Must be on a disk.
    #[arg(long)]
    folder: PathBuf,
    /// Size of the file that is read.
    #[arg(long, default_value_t = 192)]
    mib: usize,
    /// How often it is read.
    #[arg(long, default_value_t = 3)]
    passes: u64,
    /// Computing with each sample.
    #[arg(long, value_parser = roles::duration, default_value = "50us")]
    compute: Duration,
    /// How much is written in a second meanwhile, in MiB.
    #[arg(long, default_value_t = 512)]
    rate: usize,
    /// Writes past the page cache.
    #[arg(long)]
    direct: bool,
}

const PIECE_BYTES: usize = 1 << 20;
const SAMPLE_BYTES: usize = 16 << 10;
/// Pieces of the file that is written, which begins anew then.
const WRITTEN_PIECES: usize = 1024;

/// Reads these samples.
#[inline(never)]
fn read_dataset(file: &File, samples: &[usize], compute: Duration) -> std::io::Result<u64> {
    let mut buffer = [0; SAMPLE_BYTES];
    let mut sum = 0;
    for sample in samples {
        file.read_exact_at(&mut buffer, (sample * SAMPLE_BYTES) as u64)?;
        sum += buffer.iter().step_by(64).map(|byte| u64::from(*byte)).sum::<u64>();
        sys::compute_cpu(compute);
    }
    Ok(sum)
}

/// Writes a piece.
#[inline(never)]
fn write_checkpoint(file: &File, piece: &[u8], number: usize) -> std::io::Result<()> {
    file.write_all_at(piece, (number * PIECE_BYTES) as u64)
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let make = |name: &str, flags| {
            let path = self.folder.join(format!("{name}-{}-{}", std::process::id(), fastrand::u32(..)));
            let file = File::options().read(true).write(true).create_new(true).custom_flags(flags).open(&path);
            file.map(|file| (file, path.clone())).with_context(|| format!("cannot make {}", path.display()))
        };
        let (dataset, dataset_path) = make("dataset", 0)?;
        let (checkpoint, checkpoint_path) = make("checkpoint", if self.direct { libc::O_DIRECT } else { 0 })?;
        let outcome = self.work(run, &dataset, &checkpoint);
        for path in [&dataset_path, &checkpoint_path] {
            std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        run.set("dataset", dataset_path.display().to_string());
        run.set("checkpoint", checkpoint_path.display().to_string());
        outcome
    }
}

impl Options {
    fn work(&self, run: &mut Run, dataset: &File, checkpoint: &File) -> anyhow::Result<()> {
        let mut piece = sys::Mapping::new(PIECE_BYTES, true).context("cannot map memory")?;
        piece.touch();
        for number in 0..self.mib {
            write_checkpoint(dataset, piece.bytes(), number).context("cannot write the file to be read")?;
        }
        dataset.sync_all().context("cannot sync it")?;
        // The page cache belongs to whoever brings a page in: what is written here must not count elsewhere.
        sys::evict(dataset.as_fd()).context("cannot evict it")?;
        roles::enter_cgroup(&self.cgroup)?;
        sys::read_at_random(dataset.as_fd()).context("cannot advise the kernel")?;
        let mut samples: Vec<usize> = (0..(self.mib << 20) / SAMPLE_BYTES).collect();
        let mut sum = read_dataset(dataset, &samples, Duration::ZERO).context("cannot read")?;
        let done = AtomicBool::new(false);
        run.ready(&[]);
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let writer = std::thread::Builder::new().name("ckpt-writer".to_owned());
            let (piece, done) = (&piece, &done);
            let writer = writer.spawn_scoped(scope, move || self.write(checkpoint, piece.bytes(), done));
            let writer = writer.context("cannot start a thread")?;
            let read_before = sys::disk_read_bytes().context("cannot read /proc/self/io")?;
            let started = Instant::now();
            for _ in 0..self.passes {
                run.random.shuffle(&mut samples);
                sum += read_dataset(dataset, &samples, self.compute).context("cannot read")?;
            }
            run.set("took_s", started.elapsed().as_secs_f64());
            run.set("disk_read_bytes", sys::disk_read_bytes().context("cannot read /proc/self/io")? - read_before);
            done.store(true, Ordering::Relaxed);
            let (writer_tid, written) =
                writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("cannot write")?;
            run.set("writer_tid", writer_tid);
            run.set("written_bytes", written);
            Ok(())
        })?;
        run.set("sum", sum);
        run.set("size_bytes", (self.mib << 20) as u64);
        Ok(())
    }

    /// Writes at the rate until the reader is done; how much.
    fn write(&self, file: &File, piece: &[u8], done: &AtomicBool) -> std::io::Result<(i32, u64)> {
        let (started, mut number) = (Instant::now(), 0);
        while !done.load(Ordering::Relaxed) {
            write_checkpoint(file, piece, number % WRITTEN_PIECES)?;
            number += 1;
            let due = Duration::from_secs_f64(number as f64 / self.rate as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
        Ok((sys::tid(), (number * PIECE_BYTES) as u64))
    }
}
