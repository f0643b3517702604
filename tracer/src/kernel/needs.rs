//! The programs that are attached only while they are needed, together: what each is needed for stands in its own file.

use std::io;

use aya::Ebpf;
use tracer_common::{config::Config, loss::CpuState};

use super::{
    clock,
    loader::{LoadError, Plan, Running},
    on_demand::OnDemandProgram,
    softirqs::Softirqs,
    unix_calls::UnixCalls,
};
use crate::{families::FAMILIES, model::meta::UnixRecord};

/// See the file's head. Each is there if its programs are loaded.
pub struct Needs {
    on_demand: Option<OnDemandProgram>,
    softirqs: Option<Softirqs>,
    unix_calls: Option<UnixCalls>,
}

impl Needs {
    /// Of the programs that are loaded.
    pub(super) fn new(ebpf: &mut Ebpf, plan: &Plan, config: &Config, running: &[Running]) -> Result<Self, LoadError> {
        let runs = |name: &str| running.iter().any(|running| running.name == name);
        let mut on_demand = plan.families.iter().filter_map(|family| family.on_demand(config));
        let on_demand = on_demand.find(|one| runs(one.program) && runs(one.stands_in));
        let softirqs = FAMILIES.iter().filter_map(|family| family.until_proven(config)).find(|name| runs(name));
        let unix = FAMILIES.iter().flat_map(|family| family.while_at_unix_sockets()).copied();
        let unix: Vec<&'static str> = unix.filter(|name| runs(name)).collect();
        Ok(Self {
            on_demand: match on_demand {
                Some(one) => Some(OnDemandProgram::new(ebpf, one.program, plan.starts_target)?),
                None => None,
            },
            softirqs: softirqs.map(|program| Softirqs::new(ebpf, program)).transpose()?,
            unix_calls: if unix.is_empty() { None } else { Some(UnixCalls::new(ebpf, unix)?) },
        })
    }

    /// Attaches and detaches. `cpus`: the counters of each CPU, which are read only if there is something to look for.
    pub(super) fn look(&mut self, ebpf: &mut Ebpf, now_ns: u64, cpus: impl FnOnce() -> io::Result<Vec<CpuState>>) {
        if let Some(program) = &mut self.on_demand {
            program.look(ebpf, now_ns);
        }
        if self.softirqs.is_none() && self.unix_calls.is_none() {
            return;
        }
        let Ok(cpus) = cpus() else { return };
        if let Some(softirqs) = &mut self.softirqs {
            softirqs.look(ebpf, now_ns, &cpus);
        }
        if let Some(calls) = &mut self.unix_calls {
            calls.look(ebpf, now_ns, cpus.iter().map(|cpu| cpu.unix_waits).sum());
        }
    }

    /// No program runs from now on.
    pub(super) fn stop(&mut self) {
        if let Some(calls) = &mut self.unix_calls {
            calls.stop(clock::monotonic_ns());
        }
    }

    /// What went through unix sockets; `None`: it was not counted.
    pub(super) fn unix(&self) -> io::Result<Option<UnixRecord>> {
        self.unix_calls.as_ref().map_or(Ok(None), |calls| calls.sums(clock::monotonic_ns()))
    }
}
