//! What is known of each process whose stacks come in: its mappings, its Python interpreter, the map of its JIT.
//!
//! Read when its first stack comes, again after an exec, when an address lies in nothing known, and when its next stack comes after
//! [`FRESH_NS`]: a library that is unloaded and replaced by another one at the same address within that time is taken for the first.
//! Bounded: [`MAX_PROCESSES`] processes, [`MAX_SPACE_BYTES`] of their mappings, and [`MAX_PERF_MAP_BYTES`] of all their JITs' maps.
//! Where there is no room, those that are gone are forgotten, then those whose last stack is the oldest, down to three quarters:
//! they are read again when their next stack comes.

use std::collections::HashMap;

use aya::maps::{HashMap as BpfMap, MapData};

use super::jit::Jit;
use crate::kernel::clock;
use crate::kernel::loader::PythonProcessValue;
use crate::model::meta::PythonRecord;
use crate::process::{AddressSpace, Backing, Modules};
use crate::python::{Codes, Detected, Detector, Interpreter, ProcessMemory, ReadMemory};

/// Most processes known at once.
const MAX_PROCESSES: usize = 2048;
/// Most memory for the mappings of all processes together, but that of the one read last may come on top: about a million mappings.
const MAX_SPACE_BYTES: usize = 64 << 20;
/// Most memory for the maps of JITs, all processes together. Code of further ones has no names.
const MAX_PERF_MAP_BYTES: usize = 256 << 20;
/// Mappings are read again after this time.
const FRESH_NS: u64 = 10_000_000_000;
/// Or after this one, while its Python interpreter is not initialised.
const READY_NS: u64 = 10_000_000;
/// Or after this one, when they could not be read.
const AGAIN_NS: u64 = 1_000_000;
/// When an address lies in nothing known they are read again at once; if that was in vain, not before this time, and each further
/// time in vain doubles it, up to [`FRESH_NS`].
const PAUSE_NS: u64 = 1_000_000;
/// PF_KTHREAD (linux/sched.h).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Whether a process runs Python.
pub enum Python {
    /// It does not.
    No,
    /// Its interpreter is not initialised yet.
    NotReady,
    /// It runs a version that is not known.
    Unknown,
    /// It does, and this is how to read it. The descriptor is of the program that ran when it was opened.
    Yes(Box<Interpreter>, ProcessMemory),
}

/// A process.
pub struct Process {
    /// Its mappings; none: it was gone before they could be read.
    pub space: Option<AddressSpace>,
    /// Its Python interpreter, if it runs one.
    pub python: Python,
    /// Names of the code that it makes at run time; none: it makes none.
    pub jit: Option<Jit>,
    /// It is a kernel thread.
    pub kernel_thread: bool,
    /// Number of its address space when it was read; 0: not known.
    address_space: u64,
    read_ns: u64,
    /// When its last stack came.
    used_ns: u64,
    /// See [`PAUSE_NS`].
    pause_ns: u64,
}

/// See the file's head.
pub struct Processes {
    known: HashMap<u32, Process>,
    /// Files that are mapped anywhere.
    pub modules: Modules,
    /// The programs' table of Python processes.
    python_map: Option<BpfMap<MapData, u32, PythonProcessValue>>,
    /// Names of Python code.
    pub codes: Codes,
    detector: Detector,
    /// Interpreters that were found and not told of yet: as many as processes were read since.
    found: Vec<PythonRecord>,
    /// When the newest process was first seen, or a process became another program.
    pub newest_ns: u64,
}

impl Processes {
    /// None known yet.
    pub fn new(python_map: Option<BpfMap<MapData, u32, PythonProcessValue>>) -> Self {
        Processes {
            known: HashMap::new(),
            modules: Modules::new(),
            python_map,
            codes: Codes::new(),
            detector: Detector::new(),
            found: Vec::new(),
            newest_ns: 0,
        }
    }

    /// The process, read now if it is new or another one than it was.
    pub fn get(&mut self, pid: u32, address_space: u64) -> &mut Process {
        let now_ns = clock::monotonic_ns();
        let stale = match self.known.get(&pid) {
            None => true,
            Some(process) => {
                let another = address_space != 0 && process.address_space != address_space;
                let fresh_ns = match (&process.space, &process.python) {
                    // It could not be read, perhaps because it was about to execute another program.
                    (None, _) if address_space != 0 => AGAIN_NS,
                    (_, Python::NotReady) => READY_NS,
                    _ => FRESH_NS,
                };
                another || now_ns.saturating_sub(process.read_ns) > fresh_ns
            }
        };
        if stale {
            self.read(pid, address_space, now_ns);
        }
        let process = self.known.entry(pid).or_insert_with(Process::gone);
        process.used_ns = now_ns;
        process
    }

    /// Both the process and the names of Python code.
    pub fn with_codes(&mut self, pid: u32) -> Option<(&mut Process, &mut Codes)> {
        Some((self.known.get_mut(&pid)?, &mut self.codes))
    }

    /// Reads the mappings again, because an address lies in none of them. False when that was done a moment ago.
    pub fn read_again(&mut self, pid: u32, address_space: u64) -> bool {
        let now_ns = clock::monotonic_ns();
        let (since_ns, pause_ns) = self
            .known
            .get(&pid)
            .map_or((u64::MAX, 0), |process| (now_ns.saturating_sub(process.read_ns), process.pause_ns));
        if since_ns < pause_ns {
            return false;
        }
        self.read(pid, address_space, now_ns);
        if let Some(process) = self.known.get_mut(&pid) {
            process.pause_ns = pause_ns;
        }
        true
    }

    /// Says whether reading again has helped.
    pub fn read_helped(&mut self, pid: u32, helped: bool) {
        if let Some(process) = self.known.get_mut(&pid) {
            process.pause_ns = if helped { 0 } else { (process.pause_ns * 2).clamp(PAUSE_NS, FRESH_NS) };
        }
    }

    fn read(&mut self, pid: u32, address_space: u64, now_ns: u64) {
        if !self.known.contains_key(&pid) && !self.has_room(MAX_PROCESSES - 1, MAX_SPACE_BYTES) {
            self.make_room();
        }
        let space = AddressSpace::read(pid, &mut self.modules).ok().filter(|space| !space.mappings.is_empty());
        let Some(space) = space else {
            let kernel_thread = address_space == 0 && is_kernel_thread(pid);
            let entry = self.known.entry(pid).or_insert_with(Process::gone);
            // What was read while it lived is still right, unless it is another program now.
            if address_space != 0 && entry.address_space != address_space {
                *entry = Process { address_space, ..Process::gone() };
            }
            entry.kernel_thread = kernel_thread;
            entry.read_ns = now_ns;
            return;
        };
        let before = self.known.get(&pid).map(|process| process.address_space);
        // A thread that is ending has none, which says nothing of its process.
        let address_space = if address_space == 0 { before.unwrap_or(0) } else { address_space };
        let same_program = before == Some(address_space);
        if !same_program {
            self.codes.forget(pid);
            self.newest_ns = now_ns;
        }
        let python = self.python(pid, &space);
        self.tell_programs(pid, &python);
        self.tell_of(pid, same_program, &python);
        let jit = has_anonymous_code(&space).then(|| {
            let known = self.known.get_mut(&pid).filter(|_| same_program).and_then(|process| process.jit.take());
            known.unwrap_or_default()
        });
        let process = Process {
            space: Some(space),
            python,
            jit,
            kernel_thread: false,
            address_space,
            read_ns: now_ns,
            used_ns: now_ns,
            pause_ns: 0,
        };
        self.known.insert(pid, process);
    }

    /// A stack has code of this process that it made at run time: its JIT may have written a name down since the last look.
    pub fn name_jit(&mut self, pid: u32, address: u64) {
        let now_ns = clock::monotonic_ns();
        let Some(jit) = self.known.get_mut(&pid).and_then(|process| process.jit.as_mut()) else { return };
        if !jit.look(pid, address, now_ns) {
            return;
        }
        let all = self.known.values().filter_map(|process| process.jit.as_ref());
        if all.map(Jit::byte_len).sum::<usize>() > MAX_PERF_MAP_BYTES {
            tracing::info!(
                "process {pid}: code made at run time has no names: the maps of all processes are too large"
            );
            if let Some(jit) = self.known.get_mut(&pid).and_then(|process| process.jit.as_mut()) {
                jit.drop_names();
            }
        }
    }

    fn python(&mut self, pid: u32, space: &AddressSpace) -> Python {
        let mut memory = match ProcessMemory::open(pid) {
            Ok(memory) => memory,
            Err(error) => {
                tracing::debug!("process {pid}: not looked at for Python: {error}");
                return Python::No;
            }
        };
        match self.detector.detect(space, &mut memory) {
            Detected::NotPython => Python::No,
            Detected::NotReady => Python::NotReady,
            // Nothing of it can be read any more: it has ended or executed another program since.
            Detected::Unknown(_) if !is_readable(space, &mut memory) => Python::No,
            Detected::Unknown(reason) => {
                tracing::info!("process {pid}: only its native frames are shown: {reason}");
                Python::Unknown
            }
            Detected::Python(interpreter) => Python::Yes(interpreter, memory),
        }
    }

    /// From now on the programs read Python frames of this process, or no longer.
    fn tell_programs(&mut self, pid: u32, python: &Python) {
        let Some(map) = &mut self.python_map else { return };
        let before = self.known.get(&pid).and_then(|process| match &process.python {
            Python::Yes(interpreter, _) => Some(interpreter.process),
            _ => None,
        });
        match python {
            Python::Yes(interpreter, _) => {
                if let Err(error) = map.insert(pid, PythonProcessValue(interpreter.process), 0) {
                    tracing::debug!("process {pid}: its Python frames are not read: {error}");
                }
            }
            _ if before.is_some() => {
                let _ = map.remove(&pid);
            }
            _ => {}
        }
    }

    /// An interpreter that is new is to be told of.
    fn tell_of(&mut self, pid: u32, same_program: bool, python: &Python) {
        let Python::Yes(interpreter, _) = python else { return };
        let known = self.known.get(&pid).is_some_and(|process| matches!(process.python, Python::Yes(..)));
        if known && same_program {
            return;
        }
        let gil = interpreter.gil.as_ref();
        self.found.push(PythonRecord {
            tgid: pid,
            version: interpreter.version.to_string(),
            runtime: interpreter.runtime.clone().into(),
            gil: gil.map(|gil| gil.wanted.clone().into()),
            gil_handed_over: gil.map(|gil| gil.handed_over.clone().into()),
            module: interpreter.module.0,
            collector: interpreter.collector.iter().map(|range| range.clone().into()).collect(),
        });
    }

    /// The interpreters found since this was last asked.
    pub fn take_found(&mut self) -> Vec<PythonRecord> {
        std::mem::take(&mut self.found)
    }

    fn has_room(&self, processes: usize, space_bytes: usize) -> bool {
        self.known.len() <= processes && self.known.values().map(Process::space_bytes).sum::<usize>() <= space_bytes
    }

    fn make_room(&mut self) {
        let gone: Vec<u32> =
            self.known.keys().copied().filter(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()).collect();
        for pid in gone {
            self.known.remove(&pid);
            self.codes.forget(pid);
            if let Some(map) = &mut self.python_map {
                let _ = map.remove(&pid);
            }
        }
        self.forget_unused();
    }

    /// Leaves a quarter of the room free, so that this does not come up again with the next process.
    fn forget_unused(&mut self) {
        let mut by_use: Vec<(u64, u32)> = self.known.iter().map(|(pid, process)| (process.used_ns, *pid)).collect();
        by_use.sort_unstable();
        let mut space_bytes: usize = self.known.values().map(Process::space_bytes).sum();
        for (_, pid) in by_use {
            if self.known.len() <= MAX_PROCESSES / 4 * 3 && space_bytes <= MAX_SPACE_BYTES / 4 * 3 {
                break;
            }
            space_bytes -= self.known.remove(&pid).map_or(0, |process| process.space_bytes());
        }
    }
}

impl Process {
    fn gone() -> Self {
        Process {
            space: None,
            python: Python::No,
            jit: None,
            kernel_thread: false,
            address_space: 0,
            read_ns: clock::monotonic_ns(),
            used_ns: clock::monotonic_ns(),
            pause_ns: 0,
        }
    }

    fn space_bytes(&self) -> usize {
        self.space.as_ref().map_or(0, AddressSpace::byte_len)
    }
}

/// Whether the memory is still that of these mappings' process: some of its code can be read.
fn is_readable(space: &AddressSpace, memory: &mut ProcessMemory) -> bool {
    let code = space.mappings.iter().filter(|mapping| mapping.executable && mapping.module().is_some());
    code.take(4).any(|mapping| memory.read(mapping.start, &mut [0]))
}

/// Whether code is made at run time: memory of no file that may be executed.
fn has_anonymous_code(space: &AddressSpace) -> bool {
    space.mappings.iter().any(|mapping| mapping.executable && matches!(mapping.backing, Backing::Anonymous(_)))
}

/// Whether /proc says that it is a kernel thread.
fn is_kernel_thread(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: state, ppid, pgrp, session, tty, tpgid, flags.
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)).and_then(|word| word.parse().ok());
    flags.is_some_and(|flags: u64| flags & KERNEL_THREAD != 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    #[test]
    fn this_process_is_read_once_and_is_no_python() {
        let (mut processes, pid) = (Processes::new(None), std::process::id());
        let process = processes.get(pid, 9);
        let read_ns = process.read_ns;
        assert!(process.space.is_some() && matches!(process.python, Python::No) && !process.kernel_thread);
        assert_eq!(processes.get(pid, 9).read_ns, read_ns, "nothing has changed");
        assert_ne!(processes.get(pid, 10).read_ns, read_ns, "it has executed another program");
        assert!(processes.read_again(pid, 10), "an address is unknown for the first time");
        (0..12).for_each(|_| processes.read_helped(pid, false));
        assert!(!processes.read_again(pid, 10), "that was in vain, and a moment ago");
        processes.read_helped(pid, true);
        assert!(processes.read_again(pid, 10));
        assert_eq!(processes.known.len(), 1);
    }

    #[test]
    fn a_thread_that_is_ending_says_nothing_of_its_process() {
        let (mut processes, pid) = (Processes::new(None), std::process::id());
        processes.get(pid, 9);
        let newest_ns = processes.newest_ns;
        std::thread::sleep(Duration::from_nanos(PAUSE_NS + 1_000_000));
        assert!(processes.read_again(pid, 0));
        assert_eq!((processes.known[&pid].address_space, processes.newest_ns), (9, newest_ns), "the same program");
    }

    #[test]
    fn what_was_read_of_a_process_outlives_it_but_not_its_next_program() {
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().expect("sleep");
        let (mut processes, pid) = (Processes::new(None), child.id());
        std::thread::sleep(Duration::from_millis(50));
        assert!(processes.get(pid, 9).space.is_some(), "it lives");
        child.kill().expect("a child");
        child.wait().expect("a child");
        std::thread::sleep(Duration::from_nanos(PAUSE_NS + 1_000_000));
        assert!(processes.read_again(pid, 9));
        assert!(processes.get(pid, 9).space.is_some(), "its last stacks are still to come");
        assert!(processes.get(pid, 10).space.is_none(), "what ran at its end was never seen");
    }

    #[test]
    fn those_that_are_gone_are_forgotten_when_room_is_needed() {
        let mut processes = Processes::new(None);
        let first = (1 << 22) + 1;
        for pid in first..first + MAX_PROCESSES as u32 {
            assert!(processes.get(pid, 9).space.is_none(), "there is no process {pid}");
        }
        assert_eq!(processes.known.len(), MAX_PROCESSES);
        processes.get(std::process::id(), 9);
        assert_eq!(processes.known.len(), 1, "all others are gone");
    }
    #[test]
    fn of_those_that_live_the_ones_without_stacks_for_long_give_way() {
        let mut processes = Processes::new(None);
        let text: String =
            (0..65_536u64).map(|page| format!("{0:x}000-{0:x}fff r-xp 0 00:00 0 \n", page + 1)).collect();
        let space = || AddressSpace::of_maps(text.as_bytes(), |_| Backing::Anonymous(String::new()));
        let each = space().byte_len();
        let fit = MAX_SPACE_BYTES / each;
        for pid in 0..fit as u32 + 1 {
            processes.known.insert(pid, Process { space: Some(space()), used_ns: pid.into(), ..Process::gone() });
        }
        assert!(each >= 1 << 20 && !processes.has_room(MAX_PROCESSES, MAX_SPACE_BYTES), "{each} bytes each");
        processes.forget_unused();
        assert!(processes.has_room(MAX_PROCESSES, MAX_SPACE_BYTES / 4 * 3));
        assert!(
            processes.known.len() >= fit / 2 && processes.known.contains_key(&(fit as u32)),
            "the youngest is left"
        );
        assert!(!processes.known.contains_key(&0), "the oldest is not");
        processes.known.clear();
        (0..MAX_PROCESSES as u32).for_each(|pid| {
            processes.known.insert(pid, Process { used_ns: pid.into(), ..Process::gone() });
        });
        processes.forget_unused();
        let oldest = processes.known.keys().min().copied();
        assert_eq!((processes.known.len(), oldest), (MAX_PROCESSES / 4 * 3, Some(MAX_PROCESSES as u32 / 4)));
    }
}
