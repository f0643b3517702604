//! Family `map`: how often did threads map, unmap and give back memory, how much, and in which code?

use tracer_common::{
    FamilyId,
    config::{ABSENT, Config, MapCalls},
    syscall::{self, Arch},
};

use super::{CostClass, Fallback, Family, Hook, Program, Readiness, Settings, lacks_stacks, memory_readiness};
use crate::kernel::{host::HostFacts, offsets};

/// See the module.
pub struct Map;

/// The tracepoint that fires when a thread is about to lock an address space.
const LOCKING: &str = "mmap_lock_start_locking";
/// Up to 6.12 a path stands between its address space and what it is locked for.
const ARGUMENTS_WITH_PATH: usize = 3;

const PROGRAMS: &[Program] = &[
    Program {
        name: "mapped_at_exit",
        hook: Hook::TpBtf { name: "sched_process_exit" },
        required: false,
        purpose: "the last calls of threads that end",
        fallback: None,
    },
    Program {
        name: "mmap_lock_start_locking",
        hook: Hook::TpBtf { name: LOCKING },
        required: true,
        purpose: "calls that map, unmap and give back memory",
        fallback: Some(Fallback { name: "mmap_lock_start_locking_old", hook: Hook::TpBtf { name: LOCKING } }),
    },
];

/// Numbers of the calls.
pub(super) fn calls(arch: Arch) -> MapCalls {
    let number = |name| syscall::number(arch, name).map_or(-1, i32::from);
    MapCalls {
        mmap: number("mmap"),
        munmap: number("munmap"),
        brk: number("brk"),
        mremap: number("mremap"),
        madvise: number("madvise"),
    }
}

impl Family for Map {
    fn id(&self) -> FamilyId {
        FamilyId::Map
    }

    fn name(&self) -> &'static str {
        "map"
    }

    fn question(&self) -> &'static str {
        "how often did threads map, unmap and give back memory (mmap, munmap, brk, mremap, madvise), how much, and in which code?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::PerMapping
    }

    fn builds_on(&self) -> &'static [FamilyId] {
        // Its set of traced threads.
        &[FamilyId::Sched]
    }

    fn programs(&self) -> &'static [Program] {
        PROGRAMS
    }

    fn can_run(&self, host: &HostFacts) -> Readiness {
        memory_readiness(host, PROGRAMS, LOCKING, "use a kernel from 5.11 on", |found| {
            let mut lacks = offsets::missing_for_map(found);
            lacks.extend(lacks_stacks(host));
            lacks
        })
    }

    fn configure(&self, host: &HostFacts, _settings: Settings, config: &mut Config) {
        let Some((btf, arch)) = host.btf.as_ref().zip(host.known_arch()) else { return };
        config.map = 1;
        config.map_calls = calls(arch);
        let arguments = btf.tracepoint_args(LOCKING).unwrap_or_default();
        config.map_write_argument = if arguments >= ARGUMENTS_WITH_PATH { 2 } else { 1 };
        // The family that takes stacks is asked before this one.
        if config.wait_stacks == 1 && config.sample_period_ns != 0 && config.offsets.regs_bytes != ABSENT {
            config.map_stacks = 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_architecture_has_all_calls_and_no_two_share_a_number() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let MapCalls { mmap, munmap, brk, mremap, madvise } = calls(arch);
            let mut numbers = [mmap, munmap, brk, mremap, madvise];
            numbers.sort_unstable();
            assert!(numbers[0] >= 0 && numbers.windows(2).all(|pair| pair[0] < pair[1]), "{arch:?}: {numbers:?}");
        }
    }
}
