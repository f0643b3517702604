//! Family `oom`: which processes did the kernel kill for want of memory?

use tracer_common::{FamilyId, config::Config};

use super::{CostClass, Family, Hook, Program, Readiness, Settings, memory_readiness};
use crate::kernel::host::HostFacts;

/// See the module.
pub struct Oom;

const PROGRAMS: &[Program] = &[Program {
    name: "mark_victim",
    hook: Hook::TpBtf { name: "mark_victim" },
    required: true,
    purpose: "which processes the kernel chose to kill for want of memory",
    fallback: None,
}];

impl Family for Oom {
    fn id(&self) -> FamilyId {
        FamilyId::Oom
    }

    fn name(&self) -> &'static str {
        "oom"
    }

    fn question(&self) -> &'static str {
        "which processes did the kernel kill for want of memory, how large were they, and who asked for more?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::Rare
    }

    fn builds_on(&self) -> &'static [FamilyId] {
        // Its set of traced threads.
        &[FamilyId::Sched]
    }

    fn programs(&self) -> &'static [Program] {
        PROGRAMS
    }

    fn can_run(&self, host: &HostFacts) -> Readiness {
        let from = "use a kernel from 6.10 on";
        let readiness = memory_readiness(host, PROGRAMS, "mark_victim", from, |_| Vec::new());
        // Before 6.10 the tracepoint hands over a number, not the task (include/trace/events/oom.h).
        match host.btf.as_ref().and_then(|btf| btf.tracepoint_args("mark_victim")) {
            Some(args) if args < 2 && readiness == Readiness::Ready => Readiness::Unavailable {
                reason: "this kernel's report of a kill (tracepoint oom:mark_victim) does not say who is killed in which memory".to_owned(),
                remedy: from.to_owned(),
            },
            _ => readiness,
        }
    }

    fn configure(&self, _host: &HostFacts, _settings: Settings, _config: &mut Config) {}
}
