//! Watches the entries of a Python function, once a stack shows where it is: a debug register of each thread of the process runs a
//! program whenever the thread reads the function's first instruction. Calls before that are not seen.
//!
//! Processors have four such registers. Bounded by [`MAX_CODES`] functions and [`MAX_EVENTS`] threads.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use aya::programs::ProgramFd;
use tracer_common::python::PythonFrame;

use crate::kernel::{proc, user_probe};
use crate::model::meta::StepsRecord;
use crate::python::{Interpreter, ProcessMemory, PyName, PythonFunction, entry};

/// Code objects, of all processes.
const MAX_CODES: usize = 64;
/// The list of a process's threads is read until there is no new one, but not more often.
const MAX_LOOKS: usize = 4;
/// Threads, of all of them.
const MAX_EVENTS: usize = 1024;

/// See the file's head.
pub struct Watch {
    wanted: PythonFunction,
    program: ProgramFd,
    /// Process and address of the code objects that were found.
    known: HashSet<(u32, u64)>,
    /// Keeps the registers in use.
    events: Vec<OwnedFd>,
    /// What was found and not told of yet.
    found: Vec<StepsRecord>,
}

impl Watch {
    /// Nothing found yet.
    pub fn new(wanted: PythonFunction, program: ProgramFd) -> Self {
        Watch { wanted, program, known: HashSet::new(), events: Vec::new(), found: Vec::new() }
    }

    /// Looks at a frame that has a name.
    pub fn see(
        &mut self,
        pid: u32,
        name: &PyName,
        frame: &PythonFrame,
        (interpreter, memory): (&Interpreter, &mut ProcessMemory),
    ) {
        let code = frame.code & !interpreter.process.code_tag_mask;
        if !self.wanted.is(&name.function, &name.file)
            || self.known.contains(&(pid, code))
            || self.known.len() >= MAX_CODES
        {
            return;
        }
        self.known.insert((pid, code));
        let failed = match entry(memory, interpreter, code) {
            Ok(address) => self.watch(pid, address),
            Err(reason) => Some(reason.to_owned()),
        };
        self.found.push(StepsRecord {
            tgid: pid,
            function: name.function.to_string(),
            file: name.file.to_string(),
            failed,
        });
    }

    /// Watches an address in all threads that there are; those that they make are watched like them. One that is made meanwhile may
    /// be watched twice: both read at the same moment, which counts once. Says what failed.
    fn watch(&mut self, pid: u32, address: u64) -> Option<String> {
        let mut seen = HashSet::new();
        let (mut failed, mut first_error) = (0, None);
        for _ in 0..MAX_LOOKS {
            let new: Vec<u32> = proc::threads(pid).into_iter().filter(|tid| seen.insert(*tid)).collect();
            if new.is_empty() {
                break;
            }
            for tid in new {
                if let Err(error) = self.watch_thread(tid, address) {
                    failed += 1;
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map(|error| format!("{failed} of its {} threads are not watched: {error}", seen.len()))
    }

    fn watch_thread(&mut self, tid: u32, address: u64) -> Result<(), String> {
        if self.events.len() >= MAX_EVENTS {
            return Err(format!("there are more than {MAX_EVENTS}"));
        }
        match user_probe::watch(self.program.as_fd(), tid, address) {
            Ok(event) => self.events.push(event),
            // It has ended.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                return Err("all debug registers are in use".to_owned());
            }
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// What was found since the last time.
    pub fn take_found(&mut self) -> Vec<StepsRecord> {
        std::mem::take(&mut self.found)
    }
}
