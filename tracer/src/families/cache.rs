//! Family `cache`: which files were brought into the page cache, how often, and who threw them out?

use tracer_common::{FamilyId, config::Config, syscall};

use super::{CostClass, Family, Hook, Program, Readiness, Settings, memory_readiness};
use crate::kernel::{host::HostFacts, offsets};

/// See the module.
pub struct Cache;

const PROGRAMS: &[Program] = &[
    Program {
        name: "page_cache_delete",
        hook: Hook::TpBtf { name: "mm_filemap_delete_from_page_cache" },
        required: false,
        purpose: "which files were thrown out of the page cache, and by whom",
        fallback: None,
    },
    Program {
        name: "page_cache_add",
        hook: Hook::TpBtf { name: "mm_filemap_add_to_page_cache" },
        required: true,
        purpose: "which files were brought into the page cache",
        fallback: None,
    },
];

impl Family for Cache {
    fn id(&self) -> FamilyId {
        FamilyId::Cache
    }

    fn name(&self) -> &'static str {
        "cache"
    }

    fn question(&self) -> &'static str {
        "which files were brought into the page cache, how often the same ones, and who threw them out?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::PerFault
    }

    fn builds_on(&self) -> &'static [FamilyId] {
        // Its set of traced threads.
        &[FamilyId::Sched]
    }

    fn programs(&self) -> &'static [Program] {
        PROGRAMS
    }

    fn can_run(&self, host: &HostFacts) -> Readiness {
        memory_readiness(
            host,
            PROGRAMS,
            "mm_filemap_add_to_page_cache",
            "use a kernel with this tracepoint",
            offsets::missing_for_cache,
        )
    }

    fn configure(&self, host: &HostFacts, _settings: Settings, config: &mut Config) {
        config.cache = 1;
        if let Some(arch) = host.known_arch() {
            config.write_syscalls = syscall::write_bitmap(arch);
        }
    }
}
