//! Family `rss`: how much memory do processes, their cgroups and the host have, and when will it run out? Read from files by user space:
//! it has no programs.

use std::path::Path;

use tracer_common::{FamilyId, config::Config};

use super::{CostClass, Family, Program, Readiness, Settings};
use crate::kernel::host::HostFacts;

/// See the module.
pub struct Rss;

/// The family's name.
pub const NAME: &str = "rss";

impl Family for Rss {
    fn id(&self) -> FamilyId {
        FamilyId::Rss
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn question(&self) -> &'static str {
        "how much memory do processes, their cgroups and the host have, how does it grow, and when will it run out?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::Rare
    }

    fn builds_on(&self) -> &'static [FamilyId] {
        // Which processes are traced.
        &[FamilyId::Sched]
    }

    fn programs(&self) -> &'static [Program] {
        &[]
    }

    fn can_run(&self, _host: &HostFacts) -> Readiness {
        if !Path::new("/proc/meminfo").exists() {
            return Readiness::Unavailable {
                reason: "/proc/meminfo cannot be read".to_owned(),
                remedy: "mount -t proc proc /proc".to_owned(),
            };
        }
        Readiness::Ready
    }

    fn configure(&self, _host: &HostFacts, _settings: Settings, _config: &mut Config) {}
}
