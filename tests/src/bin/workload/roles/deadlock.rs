//! `deadlock`: threads take mutexes in a circle and hang, or one hangs in other ways. Healthy: all take them in the same order.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use serde_json::{Value, json};

use crate::pthread::{Mutex, MutexKind};
use crate::roles;
use crate::truth::{Run, Worker};

/// Who waits for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Each holds what the one before it waits for.
    Circle,
    /// One waits for what it holds itself.
    Itself,
    /// One waits for what a thread that has ended held.
    Abandoned,
    /// One waits for what a thread holds that sleeps: no deadlock.
    Sleeper,
}

#[derive(clap::Args)]
pub struct Options {
    /// Ends itself, hanging threads and all, after this time; without it, it hangs until it is killed.
    #[arg(long, value_parser = roles::duration)]
    duration: Option<Duration>,
    #[arg(long, value_enum, default_value = "normal")]
    kind: MutexKind,
    #[arg(long, value_enum, default_value = "circle")]
    shape: Shape,
    /// Threads of the circle.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Threads that wait for the first lock as well.
    #[arg(long, default_value_t = 0)]
    behind: usize,
    /// Before it hangs, each thread takes all locks so often, in the same order.
    #[arg(long, default_value_t = 0)]
    rounds: u32,
    #[arg(long)]
    healthy: bool,
}

/// Where threads hang.
#[inline(never)]
fn take_the_other(lock: &Mutex) {
    lock.lock();
    std::hint::black_box(lock);
}

/// Takes all of them, in order, and gives them back.
fn rounds(locks: &[Arc<Mutex>], rounds: u32) {
    for _ in 0..rounds {
        locks.iter().for_each(|lock| lock.lock());
        crate::sys::compute(Duration::from_micros(200));
        locks.iter().rev().for_each(|lock| lock.unlock());
    }
}

impl Options {
    fn circle(&self, run: &mut Run) -> anyhow::Result<(Vec<Worker>, Vec<Value>)> {
        let locks: Vec<Arc<Mutex>> = (0..self.threads).map(|_| Arc::new(Mutex::new(self.kind))).collect();
        run.set("locks", json!(locks.iter().map(|lock| lock.address()).collect::<Vec<_>>()));
        let barrier = Arc::new(Barrier::new(self.threads));
        let (mut workers, mut waits) = (Vec::new(), Vec::new());
        for number in 0..self.threads {
            let next = (number + 1) % self.threads;
            let (first, second) = if self.healthy { (number.min(next), number.max(next)) } else { (number, next) };
            let (first, second) = (locks[first].clone(), locks[second].clone());
            let (all, count, healthy, barrier) = (locks.clone(), self.rounds, self.healthy, barrier.clone());
            let lock = second.address();
            let worker = run.spawn("philosopher", move |_| {
                rounds(&all, count);
                barrier.wait();
                first.lock();
                if !healthy {
                    barrier.wait();
                }
                take_the_other(&second);
                second.unlock();
                first.unlock();
            })?;
            waits.push(json!({"tid": worker.tid(), "lock": lock}));
            workers.push(worker);
        }
        for number in 0..self.threads {
            waits[number]["owner"] = json!(workers[(number + 1) % self.threads].tid());
        }
        if !self.healthy {
            // The barrier is behind them when the first of them may be waited for.
            std::thread::sleep(Duration::from_millis(50));
            for _ in 0..self.behind {
                let lock = locks[0].clone();
                workers.push(run.spawn("behind", move |_| take_the_other(&lock))?);
            }
        }
        Ok((workers, waits))
    }

    fn alone(&self, run: &mut Run) -> anyhow::Result<(Vec<Worker>, Vec<Value>)> {
        let lock = Arc::new(Mutex::new(self.kind));
        run.set("locks", json!([lock.address()]));
        let mut workers = Vec::new();
        let holder = if self.shape == Shape::Itself {
            None
        } else {
            let (lock, sleeps) = (lock.clone(), self.shape == Shape::Sleeper);
            let worker = run.spawn("holder", move |_| {
                lock.lock();
                if sleeps {
                    std::thread::sleep(Duration::from_secs(3600));
                }
            })?;
            let tid = worker.tid();
            std::thread::sleep(Duration::from_millis(50));
            if sleeps {
                workers.push(worker);
            } else {
                run.join(vec![worker])?;
            }
            Some(tid)
        };
        let address = lock.address();
        let waiter = run.spawn("waiter", move |_| {
            if holder.is_none() {
                lock.lock();
            }
            take_the_other(&lock);
        })?;
        let tid = waiter.tid();
        workers.push(waiter);
        Ok((workers, vec![json!({"tid": tid, "lock": address, "owner": holder.unwrap_or(tid)})]))
    }
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let (workers, waits) = if self.shape == Shape::Circle { self.circle(run)? } else { self.alone(run)? };
        if self.healthy {
            run.ready(&workers);
            return run.join(workers);
        }
        run.set("waits", json!(waits));
        // All must sleep by now, or whoever reads the line looks too early.
        std::thread::sleep(Duration::from_millis(50));
        run.say_ready(&workers);
        if let Some(duration) = self.duration {
            std::thread::sleep(duration);
            std::process::exit(0);
        }
        run.join(workers)
    }
}
