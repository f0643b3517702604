//! `spawn-storm`: for each item a process is started, does little and ends, one after the other. Healthy: one process does all items; or
//! few processes that live long.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 300)]
    items: u64,
    /// What the thread itself computes for each item.
    #[arg(long, value_parser = roles::duration, default_value = "500us")]
    work: Duration,
    /// Memory of the parent that each fork copies the page tables of.
    #[arg(long, default_value_t = 0)]
    memory_mib: usize,
    /// Fork instead of starting a program: the child ends at once.
    #[arg(long)]
    fork: bool,
    /// One process that lives long answers for all items.
    #[arg(long)]
    healthy: bool,
    /// Few processes that each compute for long: their number.
    #[arg(long)]
    long: Option<u64>,
}

impl Options {
    /// A program that does next to nothing: this one.
    fn program(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program's own file")?);
        command.args(["noop", "0"]).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }

    fn one_by_one(&self) -> anyhow::Result<()> {
        for _ in 0..self.items {
            sys::compute(self.work);
            run_preprocess(self)?;
        }
        Ok(())
    }

    fn by_one_process(&self) -> anyhow::Result<()> {
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (mut input, mut output) = (child.stdin.take().context("a pipe")?, child.stdout.take().context("a pipe")?);
        for _ in 0..self.items {
            sys::compute(self.work);
            input.write_all(b"x")?;
            output.read_exact(&mut [0])?;
        }
        drop(input);
        child.wait()?;
        Ok(())
    }

    fn long_ones(&self, number: u64) -> anyhow::Result<()> {
        for _ in 0..number {
            let child = sys::fork(|| {
                sys::compute(Duration::from_millis(600));
                0
            })?;
            sys::wait(child, true)?;
        }
        Ok(())
    }
}

/// One item's process, from its start to its end.
#[inline(never)]
fn run_preprocess(options: &Options) -> anyhow::Result<()> {
    if options.fork {
        let child = sys::fork(|| 0)?;
        sys::wait(child, true)?;
    } else {
        options.program()?.status()?;
    }
    Ok(())
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        run.ready(&[]);
        // Touched page by page, since only what is there has page tables to be copied.
        let memory = vec![1_u8; self.memory_mib << 20];
        let started = Instant::now();
        match self.long {
            Some(number) => self.long_ones(number)?,
            None if self.healthy => self.by_one_process()?,
            None => self.one_by_one()?,
        }
        run.set("started", if self.healthy { 1 } else { self.long.unwrap_or(self.items) });
        run.set("took_s", started.elapsed().as_secs_f64());
        run.set("memory_bytes", std::hint::black_box(&memory).len());
        Ok(())
    }
}
