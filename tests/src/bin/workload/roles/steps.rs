//! `steps`: a loop whose steps begin at the entry of `workload_train_step`. Each tenth one waits for a lock that another thread holds
//! while it sleeps. Healthy: all are alike.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::pthread::{Mutex, MutexKind};
use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 100)]
    steps: u64,
    /// CPU time of a step.
    #[arg(long, value_parser = roles::duration, default_value = "5ms")]
    work: Duration,
    /// A slow step comes every so many.
    #[arg(long, default_value_t = 10)]
    slow_each: u64,
    /// For how long a slow step waits.
    #[arg(long, value_parser = roles::duration, default_value = "30ms")]
    held: Duration,
    /// Steps on so many other threads as well, which all are alike.
    #[arg(long, default_value_t = 0)]
    beside: usize,
    /// No step is slow.
    #[arg(long)]
    healthy: bool,
}

/// Where steps begin.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn workload_train_step(work_ns: u64) {
    let end = sys::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) + work_ns;
    while sys::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) < end {
        sys::compute_loops(1, 2000);
    }
}

/// Says how long it took, so that it stays on the stack meanwhile.
#[inline(never)]
fn write_table(held: Duration) -> Duration {
    let asked = Instant::now();
    std::thread::sleep(held);
    asked.elapsed()
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let mutex = Arc::new(Mutex::new(MutexKind::Normal));
        let ((ask, asked), (tell, told)) = (sync_channel::<()>(1), sync_channel::<()>(1));
        let (table, held) = (Arc::clone(&mutex), self.held);
        let mut workers = vec![run.spawn("holder", move |truth| {
            let mut wrote = Duration::ZERO;
            while asked.recv().is_ok() {
                table.lock();
                let _ = tell.send(());
                wrote += write_table(held);
                table.unlock();
            }
            truth.set("held_s", wrote.as_secs_f64());
        })?];
        let work_ns = self.work.as_nanos() as u64;
        for _ in 0..self.beside {
            let steps = self.steps;
            workers.push(run.spawn("beside", move |_| (0..steps).for_each(|_| workload_train_step(work_ns)))?);
        }
        run.ready(&workers);
        let (mut took, mut slow) = (Vec::new(), 0u64);
        let mut began = Instant::now();
        for step in 1..=self.steps {
            workload_train_step(work_ns);
            if !self.healthy && step % self.slow_each == 0 {
                ask.send(())?;
                told.recv()?;
                mutex.lock();
                mutex.unlock();
                slow += 1;
            }
            took.push(began.elapsed().as_secs_f64());
            began = Instant::now();
        }
        drop(ask);
        run.join(workers)?;
        run.set("slow", slow);
        run.set("took_s", json!(took));
        run.set("lock", mutex.address());
        Ok(())
    }
}
