//! `deadlock`: two threads take two mutexes in opposite order. Healthy: in the same order.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use serde_json::json;

use crate::pthread::{Mutex, MutexKind};
use crate::roles;
use crate::truth::Run;

#[derive(clap::Args)]
pub struct Options {
    /// Ends itself, hanging threads and all, after this time; without it, it hangs until it is killed.
    #[arg(long, value_parser = roles::duration)]
    duration: Option<Duration>,
    #[arg(long, value_enum, default_value = "normal")]
    kind: MutexKind,
    #[arg(long)]
    healthy: bool,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let locks = [Arc::new(Mutex::new(self.kind)), Arc::new(Mutex::new(self.kind))];
        run.set("locks", json!([locks[0].address(), locks[1].address()]));
        let barrier = Arc::new(Barrier::new(2));
        let (mut workers, mut waits) = (Vec::new(), Vec::new());
        for number in 0..2 {
            let (first, second) = if self.healthy { (0, 1) } else { (number, 1 - number) };
            let (first, second, healthy) = (locks[first].clone(), locks[second].clone(), self.healthy);
            let barrier = barrier.clone();
            let lock = second.address();
            let worker = run.spawn("philosopher", move |_| {
                if healthy {
                    barrier.wait();
                }
                first.lock();
                if !healthy {
                    barrier.wait();
                }
                second.lock();
                second.unlock();
                first.unlock();
            })?;
            waits.push(json!({"tid": worker.tid(), "lock": lock}));
            workers.push(worker);
        }
        if self.healthy {
            run.ready(&workers);
            return run.join(workers);
        }
        for number in 0..2 {
            waits[number]["owner"] = json!(workers[1 - number].tid());
        }
        run.set("waits", json!(waits));
        // Both must sleep by now, or whoever reads the line looks too early.
        std::thread::sleep(Duration::from_millis(50));
        run.say_ready(&workers);
        if let Some(duration) = self.duration {
            std::thread::sleep(duration);
            std::process::exit(0);
        }
        run.join(workers)
    }
}
