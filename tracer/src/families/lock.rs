//! Family `lock`: which locks of the kernel did threads wait for, how long, and who held them?

use tracer_common::{
    FamilyId,
    config::{ABSENT, Config},
};

use super::{CostClass, Fallback, Family, Hook, Program, Readiness, Settings};
use crate::kernel::{host::HostFacts, offsets, tracefs};

/// See the module.
pub struct Lock;

const PROGRAMS: &[Program] = &[
    // Before the begin: a begin without its end would stay until the thread's next one.
    Program {
        name: "contention_end",
        hook: Hook::TpBtf { name: "contention_end" },
        required: false,
        purpose: "how long threads waited for locks of the kernel",
        fallback: Some(Fallback {
            name: "tp_contention_end",
            hook: Hook::Tracepoint { category: "lock", name: "contention_end" },
        }),
    },
    Program {
        name: "contention_begin",
        hook: Hook::TpBtf { name: "contention_begin" },
        required: false,
        purpose: "for which locks of the kernel threads waited, and who held them",
        fallback: Some(Fallback {
            name: "tp_contention_begin",
            hook: Hook::Tracepoint { category: "lock", name: "contention_begin" },
        }),
    },
];

impl Family for Lock {
    fn id(&self) -> FamilyId {
        FamilyId::Lock
    }

    fn name(&self) -> &'static str {
        "lock"
    }

    fn question(&self) -> &'static str {
        "which locks of the kernel did threads wait for, the lock of their address space among them, how long, and who held them?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::Rare
    }

    fn builds_on(&self) -> &'static [FamilyId] {
        // Its set of traced threads, and its switches, which say when a thread slept for a lock.
        &[FamilyId::Sched]
    }

    fn programs(&self) -> &'static [Program] {
        PROGRAMS
    }

    fn can_run(&self, host: &HostFacts) -> Readiness {
        if let Err(reason) = host.may_trace() {
            return Readiness::Unavailable { reason, remedy: "run as root".to_owned() };
        }
        let has_tracepoint = match (&host.btf, &host.tracefs) {
            (Some(btf), _) => btf.tracepoint_args("contention_begin").is_some(),
            (None, Some(path)) => path.join("events/lock/contention_begin").is_dir(),
            (None, None) => false,
        };
        if !has_tracepoint {
            return Readiness::Unavailable {
                reason: "this kernel does not report contention of its locks (tracepoint lock:contention_begin)"
                    .to_owned(),
                remedy: "use a kernel from 5.19 on".to_owned(),
            };
        }
        let Some((btf, arch)) = host.btf.as_ref().zip(host.known_arch()) else {
            return Readiness::Degraded {
                reason: "this kernel publishes no type information (/sys/kernel/btf/vmlinux): owners are unknown, and \
                         the lock of an address space is not told from other semaphores"
                    .to_owned(),
                remedy: "use a kernel built with CONFIG_DEBUG_INFO_BTF".to_owned(),
            };
        };
        let lacks = offsets::missing_for_locks(&offsets::resolve(btf, arch));
        if lacks.is_empty() {
            return Readiness::Ready;
        }
        Readiness::Degraded { reason: lacks.join("; "), remedy: "none on this kernel".to_owned() }
    }

    fn configure(&self, host: &HostFacts, _settings: Settings, config: &mut Config) {
        config.kernel_locks = 1;
        if let Some(path) = &host.tracefs {
            tracefs::lock_formats(path, &mut config.formats);
        }
        // The family that this one builds on resolves all offsets, and is asked first.
        if config.offsets.task_mm == ABSENT {
            config.offsets.mm_mmap_lock = ABSENT;
        }
    }
}
