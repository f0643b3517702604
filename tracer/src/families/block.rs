//! Family `block`: what were block devices asked to do, for which file, by whom, and how long did it wait and take?

use tracer_common::{
    FamilyId,
    block::BlockOffsets,
    config::{ABSENT, Config},
};

use super::{CostClass, Family, Hook, Program, Readiness, Settings, memory_readiness};
use crate::kernel::{host::HostFacts, ksyms, offsets};

/// See the module.
pub struct Block;

/// What direct I/O of file systems ends with.
const DIRECT_END: &str = "iomap_dio_bio_end_io";
/// And what a part ends with that was split off because a device takes no more at a time.
const CHAINED_END: &str = "bio_chain_endio";

const PROGRAMS: &[Program] = &[
    // What ends requests attaches first: none that is kept is forgotten.
    Program {
        name: "block_rq_complete",
        hook: Hook::TpBtf { name: "block_rq_complete" },
        required: true,
        purpose: "requests of block devices",
        fallback: None,
    },
    Program {
        name: "block_rq_merge",
        hook: Hook::TpBtf { name: "block_rq_merge" },
        required: false,
        purpose: "requests that are joined to others: without it some are forgotten late",
        fallback: None,
    },
    Program {
        name: "block_rq_requeue",
        hook: Hook::TpBtf { name: "block_rq_requeue" },
        required: false,
        purpose: "how often devices sent requests back",
        fallback: None,
    },
    Program {
        name: "block_rq_issue",
        hook: Hook::TpBtf { name: "block_rq_issue" },
        required: true,
        purpose: "when devices get requests",
        fallback: None,
    },
    Program {
        name: "block_io_start",
        hook: Hook::TpBtf { name: "block_io_start" },
        required: false,
        purpose: "how long requests wait before their device gets them, and whose those are that another thread hands over",
        fallback: None,
    },
];

impl Family for Block {
    fn id(&self) -> FamilyId {
        FamilyId::Block
    }

    fn name(&self) -> &'static str {
        "block"
    }

    fn question(&self) -> &'static str {
        "what were block devices asked to do, for which file, by whom, how long did it wait and how long did it take?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::PerRequest
    }

    fn builds_on(&self) -> &'static [FamilyId] {
        // Its set of traced threads.
        &[FamilyId::Sched]
    }

    fn programs(&self) -> &'static [Program] {
        PROGRAMS
    }

    fn can_run(&self, host: &HostFacts) -> Readiness {
        memory_readiness(host, PROGRAMS, "block_rq_complete", "use a kernel built with CONFIG_BLOCK", |resolved| {
            let btf = host.btf.as_ref();
            let block = btf.map_or(BlockOffsets::NONE, offsets::block);
            offsets::missing_for_block(resolved, &block)
        })
    }

    fn configure(&self, host: &HostFacts, _settings: Settings, config: &mut Config) {
        let Some(btf) = host.btf.as_ref() else { return };
        config.block.offsets = offsets::block(btf);
        config.block.requests = 1;
        let flag = |name| btf.enumerator("pageflags", name).unwrap_or(ABSENT);
        (config.block.locked_bit, config.block.written_bit) = (flag("PG_locked"), flag("PG_writeback"));
        if config.block.offsets.dio_iocb != ABSENT {
            let [direct, chained] = ksyms::addresses([DIRECT_END, CHAINED_END]);
            (config.block.dio_end, config.block.chain_end) = (direct.unwrap_or(0), chained.unwrap_or(0));
        }
    }
}
