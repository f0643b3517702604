//! `mutex`: threads fight for one glibc mutex, or each has its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::pthread::{Mutex, MutexKind};
use crate::truth::{Run, ThreadTruth};
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_enum, default_value = "normal")]
    kind: MutexKind,
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// For how long the mutex is held each time.
    #[arg(long, value_parser = roles::duration, default_value = "2ms")]
    hold: Duration,
    /// The holder sleeps; without it, it computes.
    #[arg(long)]
    sleep: bool,
    /// The holder writes to a file in this folder and syncs it, which takes as long as the disk takes.
    #[arg(long)]
    sync_in: Option<PathBuf>,
    /// One thread holds the mutex for `--hold`, all others give it back at once.
    #[arg(long)]
    hog: bool,
    #[arg(long, value_parser = roles::duration, default_value = "2s")]
    duration: Duration,
    /// Same work, but each thread has a mutex of its own.
    #[arg(long)]
    healthy: bool,
}

/// One thread's part.
struct Part {
    mutex: Arc<Mutex>,
    hold: Duration,
    sleep: bool,
    file: Option<Arc<File>>,
    end: Instant,
    turns: Arc<AtomicU64>,
}

const SYNCS: u64 = 16;

/// What is done under the lock with `--sync-in`.
#[inline(never)]
fn flush_index(file: &File) {
    // What it wrote does not matter, nor whether it could: the waits are measured. Often enough to be long beside the pause.
    for block in 0..SYNCS {
        let _ = file.write_at(&[1; 4096], block * 4096);
        let _ = file.sync_all();
    }
}

impl Part {
    fn work(&self, truth: &mut ThreadTruth) {
        let (mut waited, mut held, mut longest, mut turns) =
            (sys::Waited::default(), Duration::ZERO, Duration::ZERO, 0_u64);
        let mut holders = BTreeMap::<String, u64>::new();
        while Instant::now() < self.end {
            let asked = Instant::now();
            if let Some(holder) = self.mutex.holder() {
                *holders.entry(holder.to_string()).or_default() += 1;
            }
            waited.in_call(|| self.mutex.lock());
            let got = Instant::now();
            longest = longest.max(got - asked);
            if let Some(file) = self.file.as_deref() {
                flush_index(file);
            } else if self.sleep && !self.hold.is_zero() {
                std::thread::sleep(self.hold);
            } else {
                sys::compute(self.hold);
            }
            held += got.elapsed();
            self.mutex.unlock();
            turns += 1;
            // Long enough for a waiter to get the mutex, so that every thread has its turn.
            std::thread::sleep(Duration::from_micros(300));
        }
        self.turns.fetch_add(turns, Ordering::Relaxed);
        truth.set("waited_s", waited.seconds());
        truth.set("longest_wait_s", longest.as_secs_f64());
        truth.set("held_s", held.as_secs_f64());
        truth.set("turns", turns);
        truth.set("found_held_by", json!(holders));
        truth.set("lock", self.mutex.address());
    }
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let shared = Arc::new(Mutex::new(self.kind));
        let turns = Arc::new(AtomicU64::new(0));
        let file = match &self.sync_in {
            Some(folder) => Some(Arc::new(sys::unnamed_file(folder)?)),
            None => None,
        };
        let end = Instant::now() + self.duration;
        let (mut locks, mut workers) = (vec![shared.address()], Vec::new());
        if self.healthy {
            locks.clear();
        }
        for number in 0..self.threads {
            let mutex = if self.healthy { Arc::new(Mutex::new(self.kind)) } else { shared.clone() };
            if self.healthy {
                locks.push(mutex.address());
            }
            let hogged = self.hog && number > 0;
            let hold = if hogged { Duration::ZERO } else { self.hold };
            let part = Part { mutex, hold, sleep: self.sleep, file: file.clone(), end, turns: turns.clone() };
            let role = if self.hog && number == 0 { "hog" } else { "contender" };
            workers.push(run.spawn(role, move |truth| part.work(truth))?);
        }
        run.set("kind", format!("{:?}", self.kind).to_lowercase());
        run.set("healthy", self.healthy);
        run.set("locks", json!(locks));
        run.ready(&workers);
        run.join(workers)?;
        run.set("turns", turns.load(Ordering::Relaxed));
        Ok(())
    }
}
