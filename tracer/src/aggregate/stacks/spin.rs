//! Functions in which a thread waits although it is on a CPU: the table, and which stacks lie in one of them. How much of a
//! thread's time that is, is in `report`; spinning that shows without stacks (`sched_yield`) is counted in `switch`.
//!
//! Spinning for locks inside the kernel is not among it: the family `lock` measures that exactly.

use super::blame::{Function, Site, Sites, base_name, is_system_library, own_name};
use crate::model::meta::FrameKind;
use crate::model::profile::Profile;

/// Where in a stack a function must be, to say that the thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The innermost function of user space, kernel functions called from it left out: what calls other code there works.
    Leaf,
    /// Between it and the innermost function there are only functions of its own file, of the C library and of the kernel: a
    /// library that runs the program's own code while it waits works meanwhile.
    Near,
    /// A function of the kernel.
    Kernel,
}

/// Functions that wait for the same.
struct Spin {
    /// What for.
    what: &'static str,
    /// Start of the name of the file that holds them; empty: any.
    module: &'static str,
    scope: Scope,
    /// Names, `*` for anything; [`NAMELESS`]: every function of the file that nothing names.
    names: &'static [&'static str],
}

/// See [`Spin::names`]: for libraries that do little else but wait and come without symbols.
const NAMELESS: &str = "?";

const OPENMP: &str = "OpenMP threads";

/// The table. Later rows come first where several match.
const SPINS: &[Spin] = &[
    // Whoever calls it has nothing to do now; without symbols of user space the kernel's names tell.
    Spin {
        what: "something else, with sched_yield",
        module: "",
        scope: Scope::Kernel,
        names: &[
            "__x64_sys_sched_yield",
            "__arm64_sys_sched_yield",
            "__do_sys_sched_yield",
            "do_sched_yield",
            "yield_task*",
        ],
    },
    Spin {
        what: "something else, with sched_yield",
        module: "",
        scope: Scope::Leaf,
        names: &["sched_yield", "__sched_yield", "thrd_yield", "pthread_yield", "std::thread::yield_now"],
    },
    // `core` and `std`: inlined, with debug information only.
    Spin {
        what: "another thread",
        module: "",
        scope: Scope::Leaf,
        names: &[
            "core::hint::spin_loop",
            "std::hint::spin_loop",
            "*_mm_pause",
            "cpu_relax",
            "*_cpu_relax",
            "*cpu_pause",
            "*machine_pause",
        ],
    },
    // Names that say what they do.
    Spin {
        what: "another thread",
        module: "",
        scope: Scope::Near,
        names: &[
            "pthread_spin_lock",
            "__pthread_spin_lock",
            "do_spin",
            "spin_wait*",
            "*_spin_wait",
            "*spin_until*",
            "*busy_wait*",
            "*spin_at_barrier",
            "*spin_barrier*",
            "spinlock*",
            "*spin_lock",
            "*Backoff::spin*",
            "*Backoff::snooze*",
            "*SpinWait::spin*",
            "*spinwait::*",
            "*SpinLock::SlowLock*",
            "*SpinLock::SpinLoop*",
            "*SpinLockWait*",
            "*SpinLockDelay*",
            "*atomic_backoff::pause*",
            "*spin_wait_while*",
            "*spin_wait_until*",
        ],
    },
    // GNU's runs tasks from within its barrier, so only the innermost function tells. Distributions strip it.
    Spin {
        what: OPENMP,
        module: "",
        scope: Scope::Leaf,
        names: &[
            "gomp_team_barrier_wait*",
            "gomp_barrier_wait*",
            "gomp_simple_barrier_wait*",
            "gomp_team_end",
            "gomp_thread_start",
            "gomp_mutex_lock_slow",
            "gomp_sem_wait_slow",
            "gomp_ptrlock_get_slow",
        ],
    },
    Spin { what: OPENMP, module: "libgomp", scope: Scope::Leaf, names: &[NAMELESS, "GOMP_barrier", "do_wait"] },
    // LLVM's and Intel's.
    Spin {
        what: OPENMP,
        module: "",
        scope: Scope::Near,
        names: &[
            "__kmp_wait*",
            "*kmp_flag*::wait*",
            "*kmp_*wait*",
            "__kmp_*barrier*",
            "__kmpc_barrier",
            "__kmp_acquire_*lock*",
        ],
    },
    Spin { what: OPENMP, module: "libomp", scope: Scope::Leaf, names: &[NAMELESS] },
    Spin { what: OPENMP, module: "libiomp5", scope: Scope::Leaf, names: &[NAMELESS] },
    // Libraries that compute with threads of their own.
    Spin {
        what: "ggml's threads",
        module: "",
        scope: Scope::Leaf,
        names: &[
            "ggml_barrier*",
            "ggml_thread_cpu_relax",
            "ggml_graph_compute_poll_for_work*",
            "ggml_graph_compute_check_for_work*",
            "ggml_graph_compute_thread_sync*",
        ],
    },
    Spin { what: "OpenBLAS's threads", module: "", scope: Scope::Leaf, names: &["blas_thread_server", "exec_blas*"] },
    // Devices. By default CUDA spins until the device is ready.
    Spin {
        what: "a GPU",
        module: "",
        scope: Scope::Near,
        names: &[
            "cuStreamSynchronize*",
            "cuEventSynchronize*",
            "cuCtxSynchronize*",
            "cudaStreamSynchronize*",
            "cudaEventSynchronize*",
            "cudaDeviceSynchronize*",
            "cudaThreadSynchronize*",
            "hipStreamSynchronize*",
            "hipEventSynchronize*",
            "hipDeviceSynchronize*",
            "hsa_signal_wait*",
            "*BusyWaitSignal::Wait*",
        ],
    },
    // Its proxies poll the network and the GPU all the time.
    Spin { what: "NCCL's peers", module: "", scope: Scope::Near, names: &["ncclProxyProgress*", "ncclProxyService*"] },
];

/// A stack in which a thread spins.
#[derive(Clone, Debug)]
pub struct Spun {
    /// What it waits for, in words.
    pub what: &'static str,
    /// The function that waits.
    pub site: Site,
    /// The function of the program that called it, as far as there is one.
    pub caller: Option<Site>,
}

/// By stack whether it spins.
pub fn spinning(profile: &Profile, sites: &Sites<'_>) -> Vec<Option<Spun>> {
    (0..profile.stacks.len()).map(|stack| spun(profile, sites, stack)).collect()
}

fn spun(profile: &Profile, sites: &Sites<'_>, stack: usize) -> Option<Spun> {
    let mut found: Option<(usize, &'static str, Site)> = None;
    // Of the functions between: their file, the C library's left out.
    let mut between: Option<Option<&str>> = None;
    let mut leaf = None;
    let all: Vec<(usize, &Site)> = sites.in_stack(stack).collect();
    for (at, (frame, site)) in all.iter().enumerate() {
        let Some(function) = sites.functions.get(site.function) else { break };
        let path = match function.kind {
            FrameKind::Kernel => None,
            FrameKind::Native => path_of(profile, function),
            _ => break,
        };
        let is_leaf = function.kind == FrameKind::Native && *leaf.get_or_insert(*frame) == *frame;
        let near = between.is_none_or(|between| between == path);
        let matches = |spin: &&Spin| match spin.scope {
            Scope::Kernel => function.kind == FrameKind::Kernel && spin.names(function, path),
            _ if function.kind == FrameKind::Kernel => false,
            Scope::Leaf => is_leaf && spin.names(function, path),
            Scope::Near => near && spin.names(function, path),
        };
        if let Some(spin) = SPINS.iter().rev().find(matches) {
            found = Some((at, spin.what, (*site).clone()));
        }
        if function.kind == FrameKind::Native && !path.is_some_and(is_system_library) {
            if !near {
                break;
            }
            between = Some(path);
        }
    }
    let (at, what, site) = found?;
    let caller = caller(sites, all.get(at + 1..).unwrap_or_default(), &site);
    Some(Spun { what, site, caller })
}

/// The file that a function's code lies in.
fn path_of<'a>(profile: &'a Profile, function: &Function) -> Option<&'a str> {
    Some(&profile.modules.get(function.module?)?.path)
}

/// The innermost Python function; without one the innermost function that is of another file than the one that waits, where that
/// is a library's, or at least another function.
fn caller(sites: &Sites<'_>, outer: &[(usize, &Site)], spun: &Site) -> Option<Site> {
    let function = |site: &Site| sites.functions.get(site.function);
    let python =
        |site: &&Site| function(site).is_some_and(|function| function.kind == FrameKind::Python && function.named);
    let own = function(spun).and_then(|function| function.module);
    let user = |site: &&Site| sites.is_user_code(site.function) && site.function != spun.function;
    let elsewhere = |site: &&Site| user(site) && function(site).and_then(|function| function.module) != own;
    let outer = || outer.iter().map(|(_, site)| *site);
    outer().find(python).or_else(|| outer().find(elsewhere)).or_else(|| outer().find(user)).cloned()
}

impl Spin {
    fn names(&self, function: &Function, path: Option<&str>) -> bool {
        if !self.module.is_empty() && !path.is_some_and(|path| base_name(path).starts_with(self.module)) {
            return false;
        }
        if !function.named {
            return self.names.contains(&NAMELESS);
        }
        let name = own_name(&function.label);
        self.names.iter().any(|pattern| is_like(name, pattern))
    }
}

/// Whether a name fits a pattern, in which `*` stands for anything. What follows a demangled function's name (types, arguments)
/// may follow any pattern.
fn is_like(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut open = false;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        open = part.is_empty();
    }
    open || rest.is_empty() || rest.starts_with(['(', '<', '@', '.', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names_and_demangled_ones() {
        assert!(is_like("sched_yield", "sched_yield"));
        assert!(is_like("cuStreamSynchronize_ptsz", "cuStreamSynchronize*"));
        assert!(is_like("kmp_flag_64<false, true>::wait(kmp_info*, int, void*)", "*kmp_flag*::wait*"));
        assert!(is_like("gomp_team_end.part.0", "gomp_team_end"));
        assert!(is_like("tbb::detail::r1::machine_pause(int)", "*::machine_pause"));
        assert!(!is_like("sched_yield_to_nobody", "sched_yield"));
        assert!(!is_like("my_sched_yield", "sched_yield"));
        assert!(!is_like("gomp_loop_dynamic_next", "gomp_team_barrier_wait*"));
        assert!(!is_like("", "sched_yield"));
    }

    #[test]
    fn every_pattern_is_found_by_the_name_that_it_stands_for() {
        for spin in SPINS {
            for pattern in spin.names.iter().filter(|pattern| **pattern != NAMELESS) {
                let name = pattern.replace('*', "");
                assert!(is_like(&name, pattern), "{pattern} of {}", spin.what);
            }
        }
    }
}
