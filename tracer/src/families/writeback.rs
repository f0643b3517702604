//! Family `writeback`: who dirtied pages of which file, who was paused because too many were dirty, and how long did syncing files take?

use tracer_common::{FamilyId, config::Config};

use super::{CostClass, Fallback, Family, Hook, Program, Readiness, Settings, memory_readiness};
use crate::kernel::{host::HostFacts, offsets};

/// See the module.
pub struct Writeback;

/// The tracepoint of the pauses.
const PAUSE: &str = "balance_dirty_pages";
/// Arguments that it has where the parts of what it computes with are arguments of their own.
const ARGUMENTS_IN_PARTS: usize = 12;

const PROGRAMS: &[Program] = &[
    Program {
        name: "balance_dirty_pages",
        hook: Hook::TpBtf { name: PAUSE },
        required: true,
        purpose: "pauses of threads that dirty more than is written",
        fallback: None,
    },
    Program {
        name: "writeback_dirty_folio",
        hook: Hook::TpBtf { name: "writeback_dirty_folio" },
        required: false,
        purpose: "who dirtied what is written to devices later",
        fallback: Some(Fallback { name: "writeback_dirty_page", hook: Hook::TpBtf { name: "writeback_dirty_page" } }),
    },
    // The ends first: a sync that is seen to begin is seen to end.
    Program {
        name: "sync_ends",
        hook: Hook::RawTracepoints { names: &["ext4_sync_file_exit", "f2fs_sync_file_exit", "nfs_fsync_exit"] },
        required: false,
        purpose: "how long syncing files took, computing included; it is estimated from samples then",
        fallback: None,
    },
    Program {
        name: "sync_begins",
        hook: Hook::RawTracepoints { names: &["ext4_sync_file_enter", "f2fs_sync_file_enter", "nfs_fsync_enter"] },
        required: false,
        purpose: "how long syncing files took, computing included; it is estimated from samples then",
        fallback: None,
    },
];

impl Family for Writeback {
    fn id(&self) -> FamilyId {
        FamilyId::Writeback
    }

    fn name(&self) -> &'static str {
        "writeback"
    }

    fn question(&self) -> &'static str {
        "who dirtied pages of which file, who was paused because too many were dirty, and how long did syncing files take?"
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
        memory_readiness(host, PROGRAMS, PAUSE, "use a kernel with this tracepoint", offsets::missing_for_cache)
    }

    fn configure(&self, host: &HostFacts, _settings: Settings, config: &mut Config) {
        let Some(btf) = host.btf.as_ref() else { return };
        config.block.offsets = offsets::block(btf);
        config.block.dirtied = 1;
        let arguments = btf.tracepoint_args(PAUSE).unwrap_or_default();
        config.block.pause_argument = if arguments >= ARGUMENTS_IN_PARTS { 10 } else { 6 };
    }
}
