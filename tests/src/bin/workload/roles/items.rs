//! `items`: a fixed number of items of work with one bottleneck, or the same work with that removed: what removing it saves can be
//! measured. Everything else of the two is equal.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::pthread::{Mutex, MutexKind};
use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// What limits.
    #[arg(value_enum)]
    bottleneck: Bottleneck,
    #[arg(long, default_value_t = 200)]
    items: u64,
    /// Work of an item: rounds of computing.
    #[arg(long, default_value_t = 2_000_000)]
    loops: u64,
    /// The bottleneck is removed.
    #[arg(long)]
    fixed: bool,
    /// Where the file is made, and removed at once. Should be on a disk.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// How long the producer sleeps for each item.
    #[arg(long, value_parser = roles::duration, default_value = "4ms")]
    pause: Duration,
}

/// What limits.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Bottleneck {
    /// Two threads on two CPUs do their work under one mutex. Fixed: each has its own.
    Mutex,
    /// Each item is written and synced to a file. Fixed: it is written.
    Fsync,
    /// A child process makes the items and sleeps before each. Fixed: it does not sleep.
    Producer,
}

const ITEM_BYTES: usize = 64;

impl Options {
    fn mutex(&self, run: &mut Run) -> anyhow::Result<()> {
        let shared = Arc::new(Mutex::new(MutexKind::Normal));
        run.set("lock", shared.address());
        let workers = (0..2)
            .map(|cpu| {
                let mutex = if self.fixed { Arc::new(Mutex::new(MutexKind::Normal)) } else { Arc::clone(&shared) };
                let (items, loops) = (self.items, self.loops);
                run.spawn("worker", move |_| {
                    sys::pin(cpu);
                    for _ in 0..items {
                        mutex.lock();
                        work_on_item(loops);
                        mutex.unlock();
                    }
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        run.ready(&workers);
        run.join(workers)
    }

    fn fsync(&self, run: &mut Run) -> anyhow::Result<()> {
        let folder = self.folder.clone().unwrap_or_else(std::env::temp_dir);
        let path = folder.join(format!("items-{}-{}", std::process::id(), run.random.u32(..)));
        let mut file = File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        run.set("path", path.display().to_string());
        run.ready(&[]);
        let mut synced = Duration::ZERO;
        let done = (0..self.items).try_for_each(|_| {
            work_on_item(self.loops);
            file.write_all(&[7; 4096])?;
            if !self.fixed {
                let asked = Instant::now();
                save_item(&file)?;
                synced += asked.elapsed();
            }
            Ok::<_, std::io::Error>(())
        });
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        run.set("synced_s", synced.as_secs_f64());
        done.context("cannot write")
    }

    fn producer(&self, run: &mut Run) -> anyhow::Result<()> {
        let (from, to) = sys::pipe().context("cannot make a pipe")?;
        let pause = if self.fixed { Duration::ZERO } else { self.pause };
        let items = self.items;
        let child = sys::fork(|| i32::from((0..items).any(|_| !fetch_item(&to, pause)))).context("cannot fork")?;
        drop(to);
        run.set("child", child);
        run.ready(&[]);
        let (mut item, mut waited) = ([0; ITEM_BYTES], Duration::ZERO);
        loop {
            let asked = Instant::now();
            let more = sys::read_full(from.as_fd(), &mut item).context("cannot read")?;
            waited += asked.elapsed();
            if !more {
                break;
            }
            work_on_item(self.loops);
        }
        run.set("waited_s", waited.as_secs_f64());
        sys::wait(child, true).context("cannot wait")?;
        Ok(())
    }
}

#[inline(never)]
fn work_on_item(loops: u64) {
    std::hint::black_box(sys::compute_loops(1, loops));
}

#[inline(never)]
fn save_item(file: &File) -> std::io::Result<()> {
    std::hint::black_box(file.sync_all())
}

#[inline(never)]
fn fetch_item(to: &OwnedFd, pause: Duration) -> bool {
    if !pause.is_zero() {
        std::thread::sleep(pause);
    }
    std::hint::black_box(sys::write_full(to.as_fd(), &[1; ITEM_BYTES]).is_ok())
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let began = Instant::now();
        match self.bottleneck {
            Bottleneck::Mutex => self.mutex(run)?,
            Bottleneck::Fsync => self.fsync(run)?,
            Bottleneck::Producer => self.producer(run)?,
        }
        run.set("took_s", began.elapsed().as_secs_f64());
        Ok(())
    }
}
