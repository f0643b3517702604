//! Family `file-exact`: how often did each process read and write each file, and how many bytes? Counts every call where it returns; runs
//! with `--file-exact` only, since each system call of the whole host takes a slow path then.

use tracer_common::{FamilyId, config::Config, syscall};

use super::{CostClass, Family, Hook, Program, Readiness, Settings, memory_readiness};
use crate::kernel::{host::HostFacts, offsets};

/// See the module.
pub struct FileExact;

/// The tracepoint of calls that return.
const RETURN: &str = "sys_exit";

const PROGRAMS: &[Program] = &[
    Program {
        name: "file_calls_at_exit",
        hook: Hook::TpBtf { name: "sched_process_exit" },
        required: true,
        purpose: "that no later thread of the same number goes on with what one has counted that ended",
        fallback: None,
    },
    Program {
        name: "file_calls",
        hook: Hook::TpBtf { name: RETURN },
        required: true,
        purpose: "calls that read and write files",
        fallback: None,
    },
];

impl Family for FileExact {
    fn id(&self) -> FamilyId {
        FamilyId::FileExact
    }

    fn name(&self) -> &'static str {
        "file-exact"
    }

    fn question(&self) -> &'static str {
        "how often did each process read and write each file, and how many bytes?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::PerSystemCall
    }

    fn option(&self) -> Option<&'static str> {
        Some("--file-exact")
    }

    fn builds_on(&self) -> &'static [FamilyId] {
        // Its set of traced threads.
        &[FamilyId::Sched]
    }

    fn programs(&self) -> &'static [Program] {
        PROGRAMS
    }

    fn can_run(&self, host: &HostFacts) -> Readiness {
        let remedy = "use a kernel that traces system calls (CONFIG_HAVE_SYSCALL_TRACEPOINTS)";
        match memory_readiness(host, PROGRAMS, RETURN, remedy, offsets::missing_for_file_calls) {
            // It has no part that another one can do without.
            Readiness::Degraded { reason, remedy } => Readiness::Unavailable { reason, remedy },
            other => other,
        }
    }

    fn configure(&self, host: &HostFacts, _settings: Settings, config: &mut Config) {
        let Some(arch) = host.known_arch() else { return };
        config.file_calls = 1;
        config.data_syscalls = syscall::data_bitmap(arch);
        config.write_syscalls = syscall::write_bitmap(arch);
    }
}
