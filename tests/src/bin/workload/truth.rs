//! What a run chose and what it measured of itself: one line of JSON.

use std::io::Write;
use std::time::Instant;

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::sys;

/// One run of one role: its random choices and its ground truth.
pub struct Run {
    /// Source of every random choice.
    pub random: fastrand::Rng,
    started: Instant,
    announce: bool,
    facts: Map<String, Value>,
    printed: bool,
}

/// What one thread says of itself at its end.
pub struct ThreadTruth {
    facts: Map<String, Value>,
    started: Instant,
}

/// A thread that was started by [`Run::spawn`].
pub struct Worker {
    tid: i32,
    name: String,
    handle: std::thread::JoinHandle<Map<String, Value>>,
}

impl Worker {
    /// Its thread id, as its own pid namespace numbers it.
    pub fn tid(&self) -> i32 {
        self.tid
    }
}

impl ThreadTruth {
    fn new(role: &str, name: &str) -> Self {
        let mut facts = Map::new();
        facts.insert("tid".to_owned(), json!(sys::tid()));
        facts.insert("name".to_owned(), json!(name));
        facts.insert("role".to_owned(), json!(role));
        ThreadTruth { facts, started: Instant::now() }
    }

    /// Adds a fact about this thread.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.facts.insert(key.to_owned(), value.into());
    }

    fn finish(mut self) -> Map<String, Value> {
        self.set("wall_s", self.started.elapsed().as_secs_f64());
        let account = sys::thread_account();
        self.set("schedstat_ns", account.schedstat_ns);
        self.set("run_delay_ns", account.run_delay_ns);
        self.set("on_cpu_ns", account.cpu_clock_ns);
        self.facts
    }
}

impl Run {
    /// A run of `role`, whose choices follow from `seed`.
    pub fn new(role: &str, seed: u64, announce: bool) -> Self {
        let mut facts = Map::new();
        facts.insert("role".to_owned(), json!(role));
        facts.insert("pid".to_owned(), json!(std::process::id()));
        facts.insert("seed".to_owned(), json!(seed));
        Run { random: fastrand::Rng::with_seed(seed), started: Instant::now(), announce, facts, printed: false }
    }

    /// Adds a fact.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.facts.insert(key.to_owned(), value.into());
    }

    /// A random name that fits into a kernel task name.
    pub fn name(&mut self) -> String {
        let letters = self.random.usize(4..=9);
        let word: String = (0..letters).map(|_| self.random.lowercase()).collect();
        format!("{word}-{}", self.random.u32(10..1000))
    }

    /// Starts a thread with a random name and returns once it runs. `body` may add facts about itself.
    pub fn spawn(
        &mut self,
        role: &'static str,
        body: impl FnOnce(&mut ThreadTruth) + Send + 'static,
    ) -> anyhow::Result<Worker> {
        let name = self.name();
        let (sender, receiver) = std::sync::mpsc::channel();
        let own_name = name.clone();
        let handle = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                let mut truth = ThreadTruth::new(role, &own_name);
                let _ = sender.send(sys::tid());
                body(&mut truth);
                truth.finish()
            })
            .with_context(|| format!("cannot start thread {name}"))?;
        let tid = receiver.recv().with_context(|| format!("thread {name} ended before it ran"))?;
        Ok(Worker { tid, name, handle })
    }

    /// Says that everything runs, if asked to by `--announce`.
    pub fn ready(&self, workers: &[Worker]) {
        if self.announce {
            self.say_ready(workers);
        }
    }

    /// Says that everything runs: for roles that never come to their end.
    pub fn say_ready(&self, workers: &[Worker]) {
        let mut facts = self.facts.clone();
        facts.insert("ready".to_owned(), json!(true));
        let threads: Vec<Value> = workers.iter().map(|w| json!({"tid": w.tid, "name": w.name})).collect();
        facts.insert("threads".to_owned(), Value::Array(threads));
        print_line(&Value::Object(facts));
    }

    /// Waits for the threads and keeps what they say.
    pub fn join(&mut self, workers: Vec<Worker>) -> anyhow::Result<()> {
        for worker in workers {
            let Worker { name, handle, .. } = worker;
            let facts = handle.join().map_err(|_| anyhow::anyhow!("thread {name} panicked"))?;
            let threads = self.facts.entry("threads").or_insert_with(|| json!([]));
            if let Value::Array(list) = threads {
                list.push(Value::Object(facts));
            }
        }
        Ok(())
    }

    /// Prints the ground truth now, for a role whose process does not come to its end. Printed once only.
    pub fn print(&mut self) {
        if std::mem::replace(&mut self.printed, true) {
            return;
        }
        let account = sys::thread_account();
        self.set("main_schedstat_ns", account.schedstat_ns);
        self.set("main_on_cpu_ns", account.cpu_clock_ns);
        let cpu_s = sys::process_cpu_s();
        self.set("cpu_s", cpu_s);
        let elapsed_s = self.started.elapsed().as_secs_f64();
        self.facts.entry("elapsed_s").or_insert_with(|| json!(elapsed_s));
        print_line(&Value::Object(std::mem::take(&mut self.facts)));
    }
}

/// A closed standard output is no reason to fail.
fn print_line(value: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}");
    let _ = out.flush();
}
