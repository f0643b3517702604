//! Compiles a C program, runs it under ptrace, and takes what the kernel side would take: registers, stack, mappings.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use object::{Object, ObjectSymbol, SymbolKind};
use tracer_common::stack::{MAX_STACK_BYTES, REGISTER_WORDS, raw_flags};

use crate::process::{AddressSpace, ModuleId, Modules};
use crate::unwind::{Arch, Outcome, Snapshot, Unwinder, UserFrame};

/// What the kernel side would have copied.
#[derive(Clone)]
pub(super) struct Recorded {
    pub registers: [u64; REGISTER_WORDS],
    pub stack: Vec<u8>,
    pub stack_wanted: u32,
    pub in_syscall: bool,
    pub flags: u16,
}

impl Recorded {
    pub(super) fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            arch: Arch::X86_64,
            registers: &self.registers,
            stack: &self.stack,
            stack_wanted: self.stack_wanted,
            in_syscall: self.in_syscall,
            flags: self.flags,
        }
    }
}

/// A folder that is gone with its owner.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program that runs, or stands still.
pub(super) struct Program {
    child: Child,
    _folder: Folder,
    pub modules: Modules,
    pub space: AddressSpace,
    unwinder: Unwinder,
    symbols: HashMap<ModuleId, Vec<(u64, u64, String)>>,
    /// Signals that arrived while a thread was stepped, to be handed on.
    pending: HashMap<i32, Signal>,
}

impl Program {
    /// None, with the reason printed: there is no compiler, or it cannot do that.
    pub(super) fn start(source: &str, flags: &[&str]) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = Folder(std::env::temp_dir().join(format!("tracer-unwind-{}-{count}", std::process::id())));
        std::fs::create_dir_all(&folder.0).expect("a folder");
        let (code, binary) = (folder.0.join("program.c"), folder.0.join("program"));
        std::fs::write(&code, source).expect("the source");
        let mut compiler = Command::new("cc");
        compiler.args(["-w", "-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-pthread"]);
        let output = match compiler.arg(&code).arg("-o").arg(&binary).args(flags).output() {
            Ok(output) => output,
            Err(error) => {
                println!("left out: there is no C compiler (cc): {error}");
                return None;
            }
        };
        if !output.status.success() {
            println!("left out: cc {flags:?}: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        let mut child = Command::new(&binary).stdout(Stdio::piped()).spawn().expect("the program starts");
        // It writes one byte when it is where it is wanted.
        let mut ready = [0];
        std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut ready).expect("the program is ready");
        let mut modules = Modules::new();
        let space = AddressSpace::read(child.id(), &mut modules).expect("its mappings");
        let symbols = symbols(&modules);
        let unwinder = Unwinder::new();
        Some(Self { child, _folder: folder, modules, space, unwinder, symbols, pending: HashMap::new() })
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The threads, the first one first.
    pub(super) fn threads(&self) -> Vec<i32> {
        let directory = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("its threads");
        let mut threads: Vec<i32> =
            directory.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        threads.sort_unstable();
        threads
    }

    /// Stops a thread where it is.
    pub(super) fn stop(&mut self, tid: i32) {
        ptrace::attach(Pid::from_raw(tid)).expect("ptrace attaches to a child of this process");
        self.wait(tid);
    }

    /// Lets it run on.
    pub(super) fn release(&mut self, tid: i32) {
        let pending = self.pending.remove(&tid);
        ptrace::detach(Pid::from_raw(tid), pending).expect("ptrace detaches");
    }

    /// One instruction further.
    pub(super) fn step(&mut self, tid: i32) {
        let pending = self.pending.remove(&tid);
        ptrace::step(Pid::from_raw(tid), pending).expect("ptrace steps");
        self.wait(tid);
    }

    fn wait(&mut self, tid: i32) {
        match waitpid(Pid::from_raw(tid), Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Stopped(_, Signal::SIGSTOP | Signal::SIGTRAP)) => {}
            Ok(WaitStatus::Stopped(_, signal)) => {
                self.pending.insert(tid, signal);
            }
            other => panic!("thread {tid} did not stop but {other:?}"),
        }
    }

    /// What the kernel side would copy of a stopped thread.
    pub(super) fn record(&self, tid: i32) -> Recorded {
        let user = ptrace::getregs(Pid::from_raw(tid)).expect("registers");
        let mut registers = [0; REGISTER_WORDS];
        let words = [
            user.r15,
            user.r14,
            user.r13,
            user.r12,
            user.rbp,
            user.rbx,
            user.r11,
            user.r10,
            user.r9,
            user.r8,
            user.rax,
            user.rcx,
            user.rdx,
            user.rsi,
            user.rdi,
            user.orig_rax,
            user.rip,
            user.cs,
            user.eflags,
            user.rsp,
            user.ss,
        ];
        registers[..words.len()].copy_from_slice(&words);
        let end = if tid == self.pid() { start_stack(tid) } else { user.fs_base };
        let wanted = end.saturating_sub(user.rsp);
        let len = usize::try_from(wanted).unwrap_or(usize::MAX).min(MAX_STACK_BYTES);
        let mut stack = vec![0; len];
        let memory = File::open(format!("/proc/{}/mem", self.pid())).expect("its memory");
        let mut flags = if wanted > MAX_STACK_BYTES as u64 { raw_flags::CUT } else { 0 };
        if memory.read_exact_at(&mut stack, user.rsp).is_err() {
            // As the kernel side: page by page, up to the first that is not there.
            flags |= raw_flags::UNREADABLE;
            let readable = (0..len).step_by(4096).take_while(|at| {
                let end = (at + 4096).min(len);
                memory.read_exact_at(&mut stack[*at..end], user.rsp + *at as u64).is_ok()
            });
            let pages = readable.count();
            stack.truncate((pages * 4096).min(len));
        }
        let stack_wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let in_syscall = user.orig_rax.cast_signed() >= 0;
        Recorded { registers, stack, stack_wanted, in_syscall, flags }
    }

    /// The names of the functions, the innermost first, and how it ended.
    pub(super) fn unwind(&mut self, recorded: &Recorded) -> (Vec<String>, Outcome, Vec<UserFrame>) {
        let mut frames = Vec::new();
        let mut outcome = self.unwinder.unwind(&recorded.snapshot(), &self.space, &mut frames);
        if outcome.unknown_address.is_some() {
            let pid = self.child.id();
            self.space = AddressSpace::read(pid, &mut self.modules).expect("its mappings");
            self.symbols = symbols(&self.modules);
            outcome = self.unwinder.unwind(&recorded.snapshot(), &self.space, &mut frames);
        }
        (frames.iter().map(|frame| self.name(frame)).collect(), outcome, frames)
    }

    fn name(&self, frame: &UserFrame) -> String {
        let Some(module) = frame.module else { return "?".to_owned() };
        let found = self.symbols.get(&module).and_then(|symbols| {
            let behind = symbols.partition_point(|(start, _, _)| *start <= frame.module_address);
            let (start, size, name) = symbols.get(behind.checked_sub(1)?)?;
            (frame.module_address < start + size).then(|| name.clone())
        });
        let path = self.modules.get(module).map_or("?", |module| module.path.as_str());
        match found {
            Some(name) if path == "[vdso]" => format!("vdso:{name}"),
            Some(name) => name,
            None => format!("[{}]", path.rsplit('/').next().unwrap_or("?")),
        }
    }

    /// Waits until the threads other than the first are there.
    pub(super) fn wait_for_threads(&self, count: usize) {
        let start = Instant::now();
        while self.threads().len() < count {
            assert!(start.elapsed() < Duration::from_secs(10), "the program starts {count} threads");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = waitpid(Pid::from_raw(self.pid()), Some(WaitPidFlag::__WALL));
        let _ = self.child.wait();
    }
}

/// Field 28 of /proc/PID/stat.
fn start_stack(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let behind = stat.rsplit(')').next().expect("fields behind the name");
    behind.split_whitespace().nth(25).and_then(|field| field.parse().ok()).expect("start_stack")
}

fn symbols(modules: &Modules) -> HashMap<ModuleId, Vec<(u64, u64, String)>> {
    let mut all = HashMap::new();
    for module in modules.all() {
        let Ok(image) = &module.image else { continue };
        let file = object::File::parse(&*image.bytes).expect("an ELF file");
        let mut symbols: Vec<_> = (file.symbols().chain(file.dynamic_symbols()))
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.address() != 0 && symbol.size() != 0)
            .filter_map(|symbol| Some((symbol.address(), symbol.size(), symbol.name().ok()?.to_owned())))
            .collect();
        symbols.sort();
        all.insert(module.id, symbols);
    }
    all
}
