//! `fork-storm`: short-lived processes, or threads, at a fixed rate.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 1000)]
    count: u64,
    #[arg(long, value_parser = roles::rate, default_value = "500/s")]
    rate: f64,
    /// Children rename themselves and end, without executing a program.
    #[arg(long)]
    no_exec: bool,
    /// Threads instead of processes.
    #[arg(long)]
    threads_storm: bool,
}

/// One program that children execute: this one, under a random name.
struct Program {
    name: String,
    path: PathBuf,
}

/// A folder of links with random names to this program. Removed at the end.
struct Programs {
    folder: PathBuf,
    list: Vec<Program>,
}

impl Programs {
    fn new(run: &mut Run) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("workload-{}-{}", std::process::id(), run.random.u32(..)));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let mut programs = Programs { folder, list: Vec::new() };
        for _ in 0..8 {
            let name = run.name();
            let path = programs.folder.join(&name);
            std::os::unix::fs::symlink(&own, &path).with_context(|| format!("cannot make {}", path.display()))?;
            programs.list.push(Program { name, path });
        }
        Ok(programs)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Options {
    fn due(&self, started: Instant, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / self.rate).saturating_sub(started.elapsed())
    }

    fn threads(&self, run: &mut Run) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut names: BTreeMap<String, u64> = BTreeMap::new();
        for number in 0..self.count {
            let name = run.name();
            *names.entry(name.clone()).or_default() += 1;
            let thread = std::thread::Builder::new().name(name).spawn(|| sys::compute(Duration::from_micros(50)));
            let _ = thread.context("cannot start a thread")?.join();
            std::thread::sleep(self.due(started, number + 1));
        }
        run.set("threads_started", self.count);
        run.set("names", json!(names));
        Ok(())
    }

    fn processes(&self, run: &mut Run) -> anyhow::Result<()> {
        let programs = if self.no_exec { None } else { Some(Programs::new(run)?) };
        let started = Instant::now();
        let (mut names, mut codes): (BTreeMap<String, u64>, BTreeMap<String, u64>) = Default::default();
        let (mut forks, mut exits) = (0_u64, 0_u64);
        let mut reap = |block: bool| -> anyhow::Result<u64> {
            let mut ended = 0;
            loop {
                match sys::wait(-1, block && ended == 0) {
                    Ok(Some((_, status))) => *codes.entry(libc::WEXITSTATUS(status).to_string()).or_default() += 1,
                    Ok(None) => return Ok(ended),
                    // No child left to wait for is no error, unless one is missing.
                    Err(error) if error.raw_os_error() == Some(libc::ECHILD) && (ended > 0 || !block) => {
                        return Ok(ended);
                    }
                    Err(error) => return Err(error).context("cannot wait for children"),
                }
                ended += 1;
            }
        };
        while forks < self.count {
            let code = run.random.i32(0..4);
            match &programs {
                Some(programs) => {
                    let program = &programs.list[run.random.usize(..programs.list.len())];
                    *names.entry(program.name.clone()).or_default() += 1;
                    let path = CString::new(program.path.as_os_str().as_bytes())?;
                    let arguments =
                        [CString::new(program.name.as_str())?, CString::from(c"noop"), CString::new(code.to_string())?];
                    sys::fork(|| {
                        let _ = sys::exec(&path, &arguments);
                        99
                    })?;
                }
                None => {
                    let name = run.name();
                    *names.entry(name.clone()).or_default() += 1;
                    sys::fork(|| {
                        sys::set_name(name.as_bytes());
                        code
                    })?;
                }
            }
            forks += 1;
            exits += reap(false)?;
            std::thread::sleep(self.due(started, forks));
        }
        while exits < forks {
            exits += reap(true)?;
        }
        run.set("forks", forks);
        run.set("execs", if self.no_exec { 0 } else { forks });
        run.set("exits", exits);
        run.set("names", json!(names));
        run.set("exit_codes", json!(codes));
        Ok(())
    }
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        run.ready(&[]);
        if self.threads_storm { self.threads(run) } else { self.processes(run) }
    }
}
