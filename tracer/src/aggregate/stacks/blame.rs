//! Which function of a stack a person means by "where the time goes". The choice, in order:
//!
//! 1. the innermost Python function: it is the name that a Python user knows, whatever native code runs below it;
//! 2. the innermost native function that is neither of the C or C++ library, of the dynamic linker or of the kernel's page in
//!    user space, nor one that by its name merely waits, locks or iterates for its caller (a statically linked C library, Rust's
//!    and C++'s standard libraries, parking_lot), nor, if there is another, one inlined from their sources; code made at run time
//!    counts where it has a name;
//! 3. the innermost native function;
//! 4. code made at run time; then the innermost kernel function that is not the scheduler's; then whatever is innermost.

use std::collections::BTreeMap;

use crate::model::meta::FrameKind;
use crate::model::profile::{Frame, Name, Profile, Text};
use crate::model::stacks::Location;

/// Number of a function in [`Sites::functions`].
pub type FunctionId = usize;

/// A function: what the times of several lines and addresses sum up under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// Its name, or what stands for it.
    pub label: Text,
    /// Whether that is a name.
    pub named: bool,
    /// What it is.
    pub kind: FrameKind,
    /// The source file, for Python; for others lines may come from headers.
    pub file: Option<Text>,
    /// Index of the file that its code lies in.
    pub module: Option<usize>,
}

/// A function at a line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// The function.
    pub function: FunctionId,
    /// Source file.
    pub file: Option<Text>,
    /// Line in it.
    pub line: Option<u32>,
    /// Inlined into the next one.
    pub inlined: bool,
}

/// The functions of a profile's frames.
pub struct Sites<'a> {
    profile: &'a Profile,
    /// By frame: the innermost inlined function first; never empty.
    of_frame: Vec<Vec<Site>>,
    /// All functions.
    pub functions: Vec<Function>,
    /// By stack: what it is put down to; none for one without frames.
    pub blamed: Vec<Option<Site>>,
}

impl<'a> Sites<'a> {
    /// Reads all frames and judges all stacks.
    pub fn of(profile: &'a Profile) -> Self {
        let mut numbers: BTreeMap<Function, FunctionId> = BTreeMap::new();
        let mut functions = Vec::new();
        let mut number = |function: Function| {
            *numbers.entry(function.clone()).or_insert_with(|| {
                functions.push(function);
                functions.len() - 1
            })
        };
        let mut of_frame = Vec::new();
        for frame in &profile.frames {
            let named = frame.names.iter().map(|name| site(number(named(frame, name)), name));
            let mut sites: Vec<Site> = named.collect();
            if sites.is_empty() {
                let function = number(unnamed(profile, frame));
                sites.push(Site { function, file: None, line: None, inlined: false });
            }
            of_frame.push(sites);
        }
        let mut sites = Sites { profile, of_frame, functions, blamed: Vec::new() };
        sites.blamed = (0..profile.stacks.len()).map(|stack| sites.blame(stack).cloned()).collect();
        sites
    }

    /// All functions of a stack, innermost first, with the frame that each stands at.
    pub fn in_stack(&self, stack: usize) -> impl Iterator<Item = (usize, &Site)> {
        let frames = self.profile.stacks.get(stack).map(|stack| &stack.frames[..]).unwrap_or_default();
        frames.iter().flat_map(|frame| self.of_frame.get(*frame).into_iter().flatten().map(move |site| (*frame, site)))
    }

    /// What stands for a site in reports.
    pub fn location(&self, site: &Site) -> Location {
        let Some(function) = self.functions.get(site.function) else { return Location::default() };
        let module = function.module.and_then(|module| self.profile.modules.get(module));
        Location {
            function: Some(function.label.to_string()),
            unsymbolised: !function.named,
            file: site.file.as_ref().map(|file| file.to_string()),
            line: site.line,
            language: Some(function.kind),
            module: module.map(|module| module.path.to_string()),
        }
    }

    /// Whether a function counts among those that hold others: see `report`.
    pub fn is_user_code(&self, function: FunctionId) -> bool {
        self.functions.get(function).is_some_and(|function| {
            function.kind == FrameKind::Native && !self.of_library(function) && !serves(&function.label)
        })
    }

    fn of_library(&self, function: &Function) -> bool {
        let module = function.module.and_then(|module| self.profile.modules.get(module));
        module.is_some_and(|module| is_system_library(&module.path))
    }

    fn blame(&self, stack: usize) -> Option<&Site> {
        let first = |wanted: &dyn Fn(&Function) -> bool| {
            let mut sites = self.in_stack(stack).map(|(_, site)| site);
            sites.find(|site| self.functions.get(site.function).is_some_and(wanted))
        };
        let first_of_user = |wanted: &dyn Fn(&Function) -> bool| {
            let mut sites = self.in_stack(stack).map(|(_, site)| site);
            sites.find(|site| !is_library_source(site) && self.functions.get(site.function).is_some_and(wanted))
        };
        let user = |function: &Function| {
            let made = function.kind == FrameKind::Jit && function.named;
            made || function.kind == FrameKind::Native && !self.of_library(function) && !serves(&function.label)
        };
        first(&|function| function.kind == FrameKind::Python && function.named)
            .or_else(|| first_of_user(&user))
            .or_else(|| first(&user))
            .or_else(|| first(&|function| function.kind == FrameKind::Native))
            .or_else(|| first(&|function| function.kind == FrameKind::Jit))
            .or_else(|| first(&|function| function.kind == FrameKind::Kernel && !schedules(&function.label)))
            .or_else(|| first(&|_| true))
    }
}

/// Whether a function was inlined from the sources of Rust's library or from a header of the system, C++'s among them.
fn is_library_source(site: &Site) -> bool {
    let rust = |path: &str| path.starts_with("/rustc/") && path.contains("/library/");
    let file = site.file.as_deref().filter(|_| site.inlined);
    file.is_some_and(|path| rust(path) || path.starts_with("/usr/include/"))
}

fn site(function: FunctionId, name: &Name) -> Site {
    Site { function, file: name.file.clone(), line: name.line, inlined: name.inlined }
}

fn named(frame: &Frame, name: &Name) -> Function {
    let file = if frame.kind == FrameKind::Python { name.file.clone() } else { None };
    Function { label: name.function.clone(), named: true, kind: frame.kind, file, module: frame.module }
}

/// What stands for an address without a name: never a guess, always the address.
fn unnamed(profile: &Profile, frame: &Frame) -> Function {
    let module = frame.module.and_then(|module| profile.modules.get(module));
    let address = frame.address;
    let label = match (frame.kind, module) {
        (FrameKind::Native, Some(module)) => format!("{}+{address:#x}", base_name(&module.path)),
        (FrameKind::Native, None) => format!("native code+{address:#x}"),
        (FrameKind::Kernel, _) => format!("kernel+{address:#x}"),
        (FrameKind::Jit, _) => "code made at run time".to_owned(),
        (FrameKind::Python, _) => "unnamed Python function".to_owned(),
        (FrameKind::Unknown, _) => "unknown code".to_owned(),
    };
    Function { label: label.into(), named: false, kind: frame.kind, file: None, module: frame.module }
}

/// The last part of a path.
pub fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Libraries between user code and the kernel.
pub fn is_system_library(path: &str) -> bool {
    const STARTS: [&str; 14] = [
        "libc.so",
        "libc-2.",
        "libc.musl-",
        "ld-linux",
        "ld-musl-",
        "ld-2.",
        "libpthread",
        "librt.so",
        "librt-",
        "libdl.so",
        "libdl-",
        "libstdc++.so",
        "libc++.so",
        "libc++abi.so",
    ];
    let name = base_name(path);
    name == "[vdso]" || STARTS.iter().any(|start| name.starts_with(start))
}

/// Functions that wait, lock, iterate or begin a thread for others, by their names.
fn serves(name: &str) -> bool {
    const EXACT: [&str; 36] = [
        "_start",
        "start_thread",
        "clone",
        "clone3",
        "syscall",
        "read",
        "write",
        "readv",
        "writev",
        "pread64",
        "pwrite64",
        "poll",
        "ppoll",
        "select",
        "pselect",
        "epoll_wait",
        "epoll_pwait",
        "recv",
        "recvfrom",
        "recvmsg",
        "send",
        "sendto",
        "sendmsg",
        "accept",
        "accept4",
        "connect",
        "nanosleep",
        "clock_nanosleep",
        "usleep",
        "sleep",
        "wait4",
        "waitpid",
        "waitid",
        "fsync",
        "fdatasync",
        "madvise",
    ];
    const STARTS: [&str; 20] = [
        "__libc_",
        "pthread_",
        "__pthread_",
        "___pthread_",
        "__lll_",
        "__GI_",
        "__futex",
        "futex_",
        "__new_sem",
        "sem_",
        "__gthread",
        "__clone",
        "__gnu_cxx::",
        "parking_lot",
        "lock_api::",
        "__rdl_",
        "__rust_",
        "__rustc::",
        "operator new",
        "operator delete",
    ];
    let own = own_name(name);
    let standard = ["std::", "core::", "alloc::"].iter().any(|start| own.starts_with(start));
    standard || EXACT.contains(&own) || STARTS.iter().any(|start| own.starts_with(start))
}

/// The function's own path within a demangled name: without the type it returns, which templates have in front, and without what
/// wraps an implementation (`<std::sync::Mutex<T> as Trait>::lock`).
pub fn own_name(name: &str) -> &str {
    let name = name.strip_prefix('<').unwrap_or(name);
    let end = name.find(['(', '<']).unwrap_or(name.len());
    match name[..end].rfind(' ') {
        Some(space) if !name.starts_with("operator") => &name[space + 1..],
        _ => name,
    }
}

fn schedules(name: &str) -> bool {
    ["schedule", "__schedule", "io_schedule", "preempt_schedule"].iter().any(|start| name.starts_with(start))
}
