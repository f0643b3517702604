//! One raw record in, one SAMPLED record out, with the definitions that it needs before it: unwinds, merges Python frames, interns.
//! At the end names every frame that was seen.

use std::collections::{BTreeMap, HashMap};

use aya::maps::{HashMap as BpfMap, MapData};
use tracer_common::python::{PythonFrame, walk};
use tracer_common::record::{Header, cpu, meta};
use tracer_common::stack::{KERNEL_FRAMES, Sampled, origin, raw_flags};

use super::attached::{AT_ONCE, Attached};
use super::intern::{FrameKey, Interner};
use super::kernel_sides::KernelSides;
use super::processes::{Process, Processes, Python};
use super::raw::Raw;
use super::thread::Progress;
use super::watch::Watch;
use crate::kernel::clock;
use crate::kernel::live::push_meta;
use crate::kernel::loader::PythonProcessValue;
use crate::kernel::sleepers::Sleepers;
use crate::model::meta::{StackEnd, StackRecord, SymbolRecord};
use crate::pipeline::batch::{Batch, header, header_bytes};
use crate::process::ModuleId;
use crate::python::{Codes, Merged, Missing, merge};
use crate::symbol::{Limits, Named, Symboliser};
use crate::unwind::{Arch, Outcome, Snapshot, Unwinder, UserFrame};

/// Places whose last stack is remembered, to count how many change.
const MAX_PLACES: usize = 1 << 16;
/// Addresses of a file that are named at once: this many, or an eighth of them if that is more, since each time its whole symbol
/// table is read.
const LEAST_NAMED: usize = 512;

/// Why a Python frame has no name: its code was freed before it was looked at.
const CODE_FREED: &str = "code-freed";

/// See the file's head.
pub struct Worker {
    arch: Option<Arch>,
    /// Addresses of the kernel's scheduler function; none: they are hidden.
    schedule: Option<std::ops::Range<u64>>,
    attached: Attached,
    processes: Processes,
    unwinder: Unwinder,
    interner: Interner,
    kernel_sides: KernelSides,
    /// Looks for a Python function, if that was asked for.
    watch: Option<Watch>,
    /// The stack that was captured last at each (process, place). Bounded by [`MAX_PLACES`].
    places: HashMap<(u32, u32), u64>,
    native: Vec<UserFrame>,
    /// When code was last found freed before it had a name.
    freed_ns: u64,
}

/// The user part of a stack.
#[derive(Default)]
struct User {
    frames: Vec<FrameKey>,
    end: StackEnd,
    at_module: Option<ModuleId>,
    rescued: bool,
    misfit: bool,
    python_end: Option<&'static str>,
}

impl Worker {
    /// Nothing seen yet.
    pub fn new(
        python: Option<BpfMap<MapData, u32, PythonProcessValue>>,
        schedule: Option<std::ops::Range<u64>>,
    ) -> Self {
        Worker {
            attached: Attached::new(None),
            arch: own_arch(),
            schedule,
            processes: Processes::new(python),
            unwinder: Unwinder::new(),
            interner: Interner::default(),
            kernel_sides: KernelSides::default(),
            watch: None,
            places: HashMap::new(),
            native: Vec::new(),
            freed_ns: 0,
        }
    }

    /// Has these threads, which wait, to look at.
    pub fn with_sleepers(mut self, sleepers: Option<Sleepers>) -> Self {
        self.attached = Attached::new(sleepers);
        self
    }

    /// Watches a Python function once it is seen.
    pub fn with_watch(mut self, watch: Option<Watch>) -> Self {
        self.watch = watch;
        self
    }

    /// Takes one raw record. Whatever it holds, exactly one record of family `cpu` is written.
    pub fn take(&mut self, record: &[u8], batch: &mut Batch) {
        let Some(raw) = Raw::new(record) else {
            // A header and nothing behind it: counted as one of this family that could not be decoded.
            let unknown = Header { ts_ns: clock::monotonic_ns(), kind: cpu::SAMPLED, cpu: 0, lost: 0 };
            let header = header(record).unwrap_or(unknown);
            batch.push(&header_bytes(Header { kind: cpu::SAMPLED, ..header }));
            return;
        };
        let user = self.user(&raw);
        let stack = self.intern(&raw, user, batch);
        self.tell_found(raw.header().ts_ns, batch);
        let place = raw.wait_place();
        let refreshed = if is_wait(&raw) { self.refreshed(raw.tgid(), place, stack) } else { 0 };
        let header = Header { kind: cpu::SAMPLED, ..raw.header() };
        push_sampled(
            batch,
            &Sampled {
                header,
                tid: raw.tid(),
                tgid: raw.tgid(),
                stack,
                weight_ns: raw.weight_ns(),
                place,
                origin: raw.origin(),
                refreshed,
                reserved: 0,
            },
        );
    }

    /// Whether threads that waited already when tracing began are still to be looked at.
    pub fn is_busy(&self) -> bool {
        self.attached.is_busy()
    }

    /// Looks at some of these threads.
    pub fn take_attached(&mut self, batch: &mut Batch) {
        for _ in 0..AT_ONCE {
            if !self.attached.is_busy() {
                break;
            }
            if let Some(record) = self.attached.next(&mut self.processes) {
                self.take(&record, batch);
            }
            self.attached.tell(batch);
        }
    }

    /// Tells of interpreters that were found meanwhile.
    fn tell_found(&mut self, ts_ns: u64, batch: &mut Batch) {
        for record in self.processes.take_found() {
            if let Some(module) = self.processes.modules.get(ModuleId(record.module)) {
                self.interner.module(ts_ns, module, batch);
            }
            push_meta(batch, ts_ns, meta::PYTHON, &record);
        }
        for record in self.watch.iter_mut().flat_map(Watch::take_found) {
            push_meta(batch, clock::monotonic_ns(), meta::STEPS, &record);
        }
    }

    /// Bits of [`Sampled::refreshed`]: the place was captured before; and had another stack then. When the table is full, all
    /// places are forgotten.
    fn refreshed(&mut self, tgid: u32, place: u32, stack: u64) -> u8 {
        if self.places.len() >= MAX_PLACES && !self.places.contains_key(&(tgid, place)) {
            self.places.clear();
        }
        match self.places.insert((tgid, place), stack) {
            None => 0,
            Some(before) if before == stack => 1,
            Some(_) => 3,
        }
    }

    /// Kernel and user frames as one stack.
    fn intern(&mut self, raw: &Raw, user: User, batch: &mut Batch) -> u64 {
        let ts_ns = raw.header().ts_ns;
        let keys: Vec<FrameKey> = self.kernel(raw).into_iter().chain(user.frames).collect();
        let mut frames = Vec::with_capacity(keys.len());
        for key in keys {
            if let FrameKey::Native { module, .. } = &key
                && let Some(module) = self.processes.modules.get(*module)
            {
                self.interner.module(ts_ns, module, batch);
            }
            match self.interner.frame(ts_ns, key, batch) {
                Some(frame) => frames.push(frame),
                None => return 0,
            }
        }
        if let Some(module) = user.at_module.and_then(|id| self.processes.modules.get(id)) {
            self.interner.module(ts_ns, module, batch);
        }
        let record = StackRecord {
            id: 0,
            frames,
            end: user.end,
            at_module: user.at_module.map(|module| module.0),
            rescued: user.rescued,
            python_misfit: user.misfit,
            python_end: user.python_end.map(str::to_owned),
        };
        self.interner.stack(ts_ns, record, batch)
    }

    /// Kernel frames. In a wait what comes before the scheduler is this tracer's own doing.
    fn kernel(&mut self, raw: &Raw) -> Vec<FrameKey> {
        let waits = is_wait(raw);
        let mut addresses: Vec<u64> = raw.kernel().collect();
        if waits {
            self.kernel_sides.complete(raw, &mut addresses);
        }
        let own = match &self.schedule {
            Some(schedule) if waits => addresses.iter().position(|address| schedule.contains(address)).unwrap_or(0),
            _ => 0,
        };
        // The innermost address of a sample is an instruction; all others are return addresses, one behind the call.
        let call = |(depth, address): (usize, &u64)| FrameKey::Kernel(address - u64::from(depth > 0 || waits));
        addresses[own..].iter().enumerate().map(call).collect()
    }

    fn user(&mut self, raw: &Raw) -> User {
        let (pid, space_id) = (raw.tgid(), raw.address_space());
        if raw.has(raw_flags::NO_USER_SPACE) {
            let kernel_thread = self.processes.get(pid, 0).kernel_thread;
            let end = match kernel_thread {
                true if raw.kernel().count() < KERNEL_FRAMES => StackEnd::Whole,
                true => StackEnd::Cut,
                false => StackEnd::NoUserStack,
            };
            return User { end, ..User::default() };
        }
        let Some(arch) = self.arch.filter(|_| !raw.has(raw_flags::NO_REGISTERS | raw_flags::COMPAT)) else {
            return User { end: StackEnd::Unknown, ..User::default() };
        };
        let registers = raw.registers();
        let snapshot = Snapshot {
            arch,
            registers: &registers,
            stack: raw.stack(),
            stack_wanted: raw.stack_wanted(),
            flags: raw.flags(),
            in_syscall: raw.syscall() >= 0,
        };
        let Some(mut outcome) = self.unwind(pid, space_id, &snapshot) else {
            return User { end: StackEnd::ProcessGone, ..User::default() };
        };
        if outcome.unknown_address.is_some()
            && self.processes.read_again(pid, space_id)
            && let Some(better) = self.unwind(pid, space_id, &snapshot)
        {
            self.processes.read_helped(pid, better.unknown_address.is_none());
            outcome = better;
        }
        if outcome.unknown_address.is_some() && outcome.rescued {
            // A search that began at nothing known may have found anything.
            let found = self.native.iter().position(|frame| frame.rescued).unwrap_or(self.native.len());
            self.native.truncate(found);
            (outcome.end, outcome.rescued) = (StackEnd::Unknown, false);
        }
        if outcome.end == StackEnd::Unknown && raw.has(raw_flags::UNREADABLE) {
            outcome.end = StackEnd::Unreadable;
        }
        self.assemble(pid, raw, &outcome)
    }

    /// Native frames into `self.native`. None: the process is gone.
    fn unwind(&mut self, pid: u32, space_id: u64, snapshot: &Snapshot) -> Option<Outcome> {
        let process = self.processes.get(pid, space_id);
        let space = process.space.as_ref()?;
        self.native.clear();
        Some(self.unwinder.unwind(snapshot, space, &mut self.native))
    }

    /// Native and Python frames in one order.
    fn assemble(&mut self, pid: u32, raw: &Raw, outcome: &Outcome) -> User {
        let mut user =
            User { end: outcome.end, at_module: outcome.at_module, rescued: outcome.rescued, ..User::default() };
        let now_ns = clock::monotonic_ns();
        for frame in self.native.iter().filter(|frame| frame.module.is_none()) {
            self.processes.name_jit(pid, frame.address);
        }
        let Some((process, codes)) = self.processes.with_codes(pid) else { return user };
        let python = raw.python();
        if matches!(process.python, Python::Yes(..)) {
            // Also where no frame was found, if some may be missing.
            user.python_end = python_end(raw.python_end());
        }
        let merged = match &process.python {
            Python::Yes(interpreter, _) if !python.is_empty() => {
                let whole = outcome.end == StackEnd::Whole;
                let (merged, misfit) = merge(&self.native, whole, &python, raw.python_end(), interpreter);
                user.misfit = misfit;
                merged
            }
            other => {
                if matches!(other, Python::Unknown) {
                    user.python_end = Some("unknown-version");
                }
                (0..self.native.len()).map(Merged::Native).collect()
            }
        };
        for frame in merged {
            match frame {
                Merged::Native(index) => user.frames.extend(self.native.get(index).map(|at| native(pid, process, at))),
                Merged::Python(index) => {
                    let Some(frame) = python.get(index) else { continue };
                    match name_python(process, codes, pid, frame, self.watch.as_mut()) {
                        Ok(key) => user.frames.extend(key),
                        Err(reason) => {
                            if reason == CODE_FREED {
                                self.freed_ns = now_ns;
                            }
                            user.python_end.get_or_insert(reason);
                            user.frames.push(FrameKey::UnknownPython);
                        }
                    }
                }
            }
        }
        user
    }

    /// When something was last seen that does not last: a process that is new, Python code that had no name yet when it was freed.
    pub fn fleeting_ns(&self) -> u64 {
        self.processes.newest_ns.max(self.freed_ns)
    }

    /// Records of a new batch follow: what Python code is called is checked again.
    pub fn begin_batch(&mut self) {
        self.processes.codes.begin_batch();
    }

    /// Names all frames, and hands the names over until nobody takes them.
    pub fn name_all(self, mut progress: Progress, send: &mut dyn FnMut(Batch) -> bool) {
        let Worker { processes, unwinder, interner, kernel_sides, places, native, .. } = self;
        // What they hold is not needed any more, and naming needs memory.
        let modules = processes.modules;
        drop((processes.codes, unwinder, kernel_sides, places, native));
        let mut by_module: BTreeMap<Option<ModuleId>, Vec<(u32, u64)>> = BTreeMap::new();
        let all = interner.unnamed();
        let total = all.len();
        for (id, key) in all {
            match key {
                FrameKey::Native { module, address } => by_module.entry(Some(module)).or_default().push((id, address)),
                FrameKey::Kernel(address) => by_module.entry(None).or_default().push((id, address)),
                _ => {}
            }
        }
        drop(interner);
        let mut symboliser = Symboliser::new(Limits::default());
        let mut done = 0;
        for (module, frames) in by_module {
            for part in frames.chunks(LEAST_NAMED.max(frames.len() / 8)) {
                let addresses: Vec<u64> = part.iter().map(|(_, address)| *address).collect();
                let names = match module {
                    None => symboliser.kernel(&addresses),
                    Some(id) => match modules.get(id) {
                        Some(module) => symboliser.module(module, &addresses, &mut |part| progress(done + part, total)),
                        None => Vec::new(),
                    },
                };
                done += part.len();
                progress(done, total);
                if !send(symbols(part, names)) {
                    return;
                }
            }
        }
        for problem in symboliser.problems() {
            tracing::info!("{problem}");
        }
    }
}

fn symbols(frames: &[(u32, u64)], names: Vec<Named>) -> Batch {
    let mut batch = Batch::new();
    let now_ns = clock::monotonic_ns();
    for ((frame, _), named) in frames.iter().zip(names) {
        let record = SymbolRecord { frame: *frame, names: named.names, missing: named.missing };
        push_meta(&mut batch, now_ns, meta::SYMBOL, &record);
    }
    batch
}

fn native(pid: u32, process: &Process, frame: &UserFrame) -> FrameKey {
    if let Some(module) = frame.module {
        return FrameKey::Native { module, address: frame.module_address };
    }
    let mapping =
        process.space.as_ref().and_then(|space| space.find(frame.address)).filter(|mapping| mapping.executable);
    match mapping {
        Some(mapping) => {
            let name = process.jit.as_ref().and_then(|jit| jit.find(frame.address)).map(str::to_owned);
            let place = if name.is_some() { (0, 0) } else { (pid, mapping.start) };
            FrameKey::Jit { name, mapping: place }
        }
        None => FrameKey::Nowhere,
    }
}

/// The name of a Python frame; `Ok(None)`: one that nobody wants to see.
fn name_python(
    process: &mut Process,
    codes: &mut Codes,
    pid: u32,
    frame: &PythonFrame,
    watch: Option<&mut Watch>,
) -> Result<Option<FrameKey>, &'static str> {
    let Python::Yes(interpreter, memory) = &mut process.python else { return Err("unknown-version") };
    let name = codes.frame(memory, pid, interpreter, frame);
    if let (Some(watch), Ok(name)) = (watch, &name) {
        watch.see(pid, name, frame, (interpreter, memory));
    }
    match name {
        Ok(name) => Ok(Some(FrameKey::Python { function: name.function, file: name.file, line: name.line })),
        Err(Missing::Shim) => Ok(None),
        Err(Missing::Unreadable) => Err("unreadable"),
        Err(Missing::NotCode) => Err(CODE_FREED),
    }
}

fn own_arch() -> Option<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => Some(Arch::X86_64),
        "aarch64" => Some(Arch::Aarch64),
        _ => None,
    }
}

/// How the walk ended, where that is worth a word.
fn python_end(end: u8) -> Option<&'static str> {
    match end {
        walk::CUT => Some("cut"),
        walk::UNREADABLE => Some("unreadable"),
        walk::TOO_MANY_THREADS => Some("too-many-threads"),
        _ => None,
    }
}

/// Whether the stack is that of a wait, at a place.
fn is_wait(raw: &Raw) -> bool {
    matches!(raw.origin(), origin::WAIT | origin::ATTACHED)
}

fn push_sampled(batch: &mut Batch, sampled: &Sampled) {
    let mut bytes = header_bytes(sampled.header).to_vec();
    bytes.extend_from_slice(&sampled.tid.to_le_bytes());
    bytes.extend_from_slice(&sampled.tgid.to_le_bytes());
    bytes.extend_from_slice(&sampled.stack.to_le_bytes());
    bytes.extend_from_slice(&sampled.weight_ns.to_le_bytes());
    bytes.extend_from_slice(&sampled.place.to_le_bytes());
    bytes.extend_from_slice(&[sampled.origin, sampled.refreshed]);
    bytes.extend_from_slice(&sampled.reserved.to_le_bytes());
    batch.push(&bytes);
}
