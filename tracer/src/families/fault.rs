//! Family `fault`: how many page faults of which kind did each thread have, in which code, and which files did it wait for in them?

use tracer_common::{
    FamilyId,
    config::{ABSENT, Config},
};

use super::{
    CostClass, Fallback, Family, Hook, OnDemand, Program, Readiness, Settings, lacks_stacks, map, memory_readiness,
};
use crate::kernel::{host::HostFacts, offsets};

/// See the module.
pub struct Fault;

/// Page faults that a stack stands for in the mean: with pages of 4 KiB, 2 MiB of memory.
pub const PERIOD: u32 = 512;

const fn program(name: &'static str, hook: &'static str, required: bool, purpose: &'static str) -> Program {
    Program { name, hook: Hook::TpBtf { name: hook }, required, purpose, fallback: None }
}

/// Where it cannot take stacks it only counts.
const fn counting(name: &'static str, hook: &'static str, program: Program) -> Program {
    Program { fallback: Some(Fallback { name, hook: Hook::TpBtf { name: hook } }), ..program }
}

const PROGRAMS: &[Program] = &[
    program("faults_at_exit", "sched_process_exit", false, "the last page faults of threads that end"),
    counting(
        "rss_stat_old",
        "rss_stat",
        program("rss_stat", "rss_stat", false, "what page faults did: files, anonymous and shared memory told apart"),
    ),
    program("mm_filemap_fault", "mm_filemap_fault", false, "for which file a thread waits in a page fault"),
    program("page_fault_kernel", "page_fault_kernel", false, "page faults of system calls that access memory"),
    counting(
        "page_fault_user_old",
        "page_fault_user",
        program("page_fault_user", "page_fault_user", true, "copied pages, told from other page faults of user code"),
    ),
];

impl Family for Fault {
    fn id(&self) -> FamilyId {
        FamilyId::Fault
    }

    fn name(&self) -> &'static str {
        "fault"
    }

    fn question(&self) -> &'static str {
        "how many page faults of which kind did each thread have, in which code, and for which files did it wait in them?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::PerFault
    }

    fn builds_on(&self) -> &'static [FamilyId] {
        // Its set of traced threads, and its switches, which say how long a thread waited in a page fault.
        &[FamilyId::Sched]
    }

    fn programs(&self) -> &'static [Program] {
        PROGRAMS
    }

    fn can_run(&self, host: &HostFacts) -> Readiness {
        memory_readiness(
            host,
            PROGRAMS,
            "page_fault_user",
            "use a kernel for x86-64: others do not report page faults",
            |found| {
                let mut lacks = offsets::missing_for_faults(found);
                lacks.extend(lacks_stacks(host));
                lacks
            },
        )
    }

    fn configure(&self, host: &HostFacts, _settings: Settings, config: &mut Config) {
        config.faults = 1;
        let offsets = &config.offsets;
        let needed = [offsets.task_min_flt, offsets.task_maj_flt, offsets.mm_rss, offsets.regs_syscall];
        let tells_calls = config.has_task_pt_regs == 1 || config.regs_in_stack != 0;
        if tells_calls && !needed.contains(&ABSENT) && offsets.task_rss_counts == ABSENT {
            config.faults_by_number = 1;
            config.map_calls = host.known_arch().map_or(config.map_calls, map::calls);
        }
        // The family that takes stacks is asked before this one.
        if config.wait_stacks == 1 && config.sample_period_ns != 0 && config.offsets.regs_bytes != ABSENT {
            config.fault_period = PERIOD;
        }
    }

    fn on_demand(&self, config: &Config) -> Option<OnDemand> {
        (config.faults_by_number == 1).then_some(OnDemand { program: "page_fault_user", stands_in: "rss_stat" })
    }
}
