//! `numa`: memory of one NUMA node is worked on by a thread that runs on another one. Healthy: on the same.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// MiB that are worked on.
    #[arg(long, default_value_t = 300)]
    mib: usize,
    /// Where they lie.
    #[arg(long, default_value_t = 0)]
    memory_node: u32,
    /// Where the thread runs.
    #[arg(long, default_value_t = 0)]
    cpu_node: u32,
    #[arg(long, value_parser = roles::duration, default_value = "3s")]
    duration: Duration,
}

/// CPUs of a node, of those that this process may use.
fn cpus(node: u32) -> anyhow::Result<Vec<usize>> {
    let folder = std::path::PathBuf::from(format!("/sys/devices/system/node/node{node}"));
    let is_there = |cpu: &usize| folder.join(format!("cpu{cpu}")).exists();
    let cpus: Vec<usize> = sys::allowed_cpus().into_iter().filter(is_there).collect();
    ensure!(!cpus.is_empty(), "node {node} has no CPU that this process may use");
    Ok(cpus)
}

/// Works on each page.
#[inline(never)]
fn work_on(memory: &mut sys::Mapping) {
    memory.touch_pages();
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        ensure!(sys::pin_to(&cpus(self.cpu_node)?), "cannot move to node {}", self.cpu_node);
        sys::take_memory_of(self.memory_node)
            .with_context(|| format!("cannot take memory of node {}", self.memory_node))?;
        let mut memory = sys::Mapping::new(self.mib << 20, false).context("cannot map memory")?;
        run.ready(&[]);
        let started = Instant::now();
        while started.elapsed() < self.duration {
            work_on(&mut memory);
        }
        run.set("bytes", (self.mib << 20) as u64);
        Ok(())
    }
}
