//! Family `database`: which statements of databases take how long? At functions of the clients' libraries, by user probes; runs with
//! `--db` only, since each call costs some microseconds more.

use tracer_common::{
    FamilyId,
    config::{Config, calls},
    syscall::Arch,
};

use super::{CostClass, Family, Hook, Program, Readiness, Settings};
use crate::kernel::host::HostFacts;

/// See the module.
pub struct Database;

const PROGRAMS: &[Program] = &[
    Program {
        name: "database_leave",
        hook: Hook::CallReturn,
        required: true,
        purpose: "when a statement's calls end",
        fallback: None,
    },
    Program {
        name: "database_enter",
        hook: Hook::CallEntry,
        required: true,
        purpose: "when a statement's calls begin, and its text",
        fallback: None,
    },
];

impl Family for Database {
    fn id(&self) -> FamilyId {
        FamilyId::Database
    }

    fn name(&self) -> &'static str {
        "database"
    }

    fn question(&self) -> &'static str {
        "which statements of databases take how long, and what is it that takes so long?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::PerCall
    }

    fn option(&self) -> Option<&'static str> {
        Some("--db")
    }

    fn builds_on(&self) -> &'static [FamilyId] {
        // Its set of traced threads, and what these waited for meanwhile.
        &[FamilyId::Sched]
    }

    fn programs(&self) -> &'static [Program] {
        PROGRAMS
    }

    fn can_run(&self, host: &HostFacts) -> Readiness {
        let unavailable = |reason: &str, remedy: &str| Readiness::Unavailable {
            reason: reason.to_owned(),
            remedy: remedy.to_owned(),
        };
        if let Err(reason) = host.may_trace() {
            return unavailable(&reason, "run as root");
        }
        if host.known_arch().is_none() {
            return unavailable("this processor passes arguments in a way that is not known", "none here");
        }
        if !std::path::Path::new("/sys/bus/event_source/devices/uprobe").exists() {
            return unavailable("this kernel has no user probes", "use a kernel built with CONFIG_UPROBES");
        }
        let btf = host.btf.as_ref();
        if btf.is_some_and(|btf| btf.enumerator("bpf_func_id", "BPF_FUNC_get_attach_cookie").is_none()) {
            return unavailable(
                "this kernel does not tell a program at which of its probes it runs (bpf_get_attach_cookie)",
                "use a kernel from 5.15 on",
            );
        }
        Readiness::Ready
    }

    fn configure(&self, host: &HostFacts, _settings: Settings, config: &mut Config) {
        config.database = match host.known_arch() {
            Some(Arch::X86_64) => calls::X86_64,
            Some(Arch::Aarch64) => calls::AARCH64,
            None => 0,
        };
    }
}
