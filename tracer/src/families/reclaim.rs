//! Family `reclaim`: how long did threads free memory instead of working?

use tracer_common::{FamilyId, config::Config};

use super::{CostClass, Family, Hook, Program, Readiness, Settings, memory_readiness};
use crate::kernel::host::HostFacts;

/// See the module.
pub struct Reclaim;

const fn program(name: &'static str, hook: &'static str, purpose: &'static str) -> Program {
    Program { name, hook: Hook::TpBtf { name: hook }, required: false, purpose, fallback: None }
}

const PROGRAMS: &[Program] = &[
    program("stalls_at_exit", "sched_process_exit", "the last stalls of threads that end"),
    // The end before the begin: a begin without its end would stay until the thread's next one.
    program(
        "memcg_reclaim_end",
        "mm_vmscan_memcg_reclaim_end",
        "how long threads freed memory of a cgroup at its limit",
    ),
    program(
        "memcg_reclaim_begin",
        "mm_vmscan_memcg_reclaim_begin",
        "that threads freed memory of a cgroup at its limit",
    ),
    program("direct_reclaim_end", "mm_vmscan_direct_reclaim_end", "how long threads freed memory of the host"),
    program("direct_reclaim_begin", "mm_vmscan_direct_reclaim_begin", "that threads freed memory of the host"),
    program("compaction_end", "mm_compaction_end", "how long threads moved pages to make room for large ones"),
    program("compaction_begin", "mm_compaction_begin", "that threads moved pages to make room for large ones"),
];

impl Family for Reclaim {
    fn id(&self) -> FamilyId {
        FamilyId::Reclaim
    }

    fn name(&self) -> &'static str {
        "reclaim"
    }

    fn question(&self) -> &'static str {
        "how long did threads free memory instead of working, for their cgroup's limit or for want of memory on the host?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::Rare
    }

    fn builds_on(&self) -> &'static [FamilyId] {
        // Its set of traced threads, and its switches, which say when a thread waited while it was at that.
        &[FamilyId::Sched]
    }

    fn programs(&self) -> &'static [Program] {
        PROGRAMS
    }

    fn can_run(&self, host: &HostFacts) -> Readiness {
        memory_readiness(
            host,
            PROGRAMS,
            "mm_vmscan_memcg_reclaim_begin",
            "use a kernel built with CONFIG_MEMCG",
            |_| Vec::new(),
        )
    }

    fn configure(&self, _host: &HostFacts, _settings: Settings, config: &mut Config) {
        config.stalls = 1;
    }
}
