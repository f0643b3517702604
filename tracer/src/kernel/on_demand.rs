//! Attaches and detaches, while tracing, the program that tells copied pages from other page faults that add none: beside the one that
//! counts by number (`tracer-ebpf/src/faults.rs`) it makes each fault cost twice as much. Attached as soon as a traced process forks, when
//! many such faults come, and from the beginning where processes are traced that may have forked before; detached when they are over.

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{BtfTracePoint, tp_btf::BtfTracePointLinkId},
};
use tracer_common::memory::FaultWatch;

use super::{
    attach::chain,
    loader::{LoadError, map_error, take},
};

/// So many faults that add no page, in a period, are many.
const MANY: u64 = 256;
/// Length of a period.
const PERIOD_NS: u64 = 1_000_000_000;
/// After so many periods with fewer it is over.
const CALM_PERIODS: u32 = 3;

/// [`FaultWatch`] as a map value.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct WatchValue(FaultWatch);

// SAFETY: plain numbers without padding (its size is asserted beside the type), any bit pattern is valid.
unsafe impl aya::Pod for WatchValue {}

/// See the file's head.
pub struct OnDemandProgram {
    name: &'static str,
    watch: Array<MapData, WatchValue>,
    link: Option<BtfTracePointLinkId>,
    need: Need,
}

impl OnDemandProgram {
    /// Of a program that is loaded; attached at once if asked for.
    pub(super) fn new(ebpf: &mut Ebpf, name: &'static str, at_once: bool) -> Result<Self, LoadError> {
        let watch = Array::try_from(take(ebpf, "FAULT_WATCH")?).map_err(|error| map_error("FAULT_WATCH", &error))?;
        let mut program = Self { name, watch, link: None, need: Need::default() };
        if at_once {
            program.switch(ebpf, true);
        }
        Ok(program)
    }

    /// Looks whether it is needed now.
    pub(super) fn look(&mut self, ebpf: &mut Ebpf, now_ns: u64) {
        let Ok(watch) = self.watch.get(&0, 0) else { return };
        let wanted = self.need.of(self.link.is_some(), now_ns, watch.0);
        if wanted != self.link.is_some() {
            self.switch(ebpf, wanted);
        }
    }

    fn switch(&mut self, ebpf: &mut Ebpf, on: bool) {
        let Some(program) = ebpf.program_mut(self.name) else { return };
        let done = <&mut BtfTracePoint>::try_from(program).and_then(|program| match self.link.take() {
            Some(link) => program.detach(link),
            None if on => program.attach().map(|link| self.link = Some(link)),
            None => Ok(()),
        });
        match done {
            Ok(()) => tracing::debug!("{}: {}", self.name, if on { "attached" } else { "detached" }),
            // It is tried again: without it copies are counted, but their code is not known.
            Err(error) => tracing::debug!("{}: {}", self.name, chain(&error)),
        }
    }
}

/// Whether the program is needed, by what is counted.
#[derive(Default)]
struct Need {
    forks: u64,
    /// How many faults had added no page when this period began, and when that was.
    before: u64,
    since_ns: u64,
    calm: u32,
}

impl Need {
    fn of(&mut self, attached: bool, now_ns: u64, watch: FaultWatch) -> bool {
        let many = watch.quiet.saturating_sub(self.before) >= MANY;
        let forked = watch.forks != self.forks;
        self.forks = watch.forks;
        if many || forked {
            self.calm = 0;
        }
        if many || now_ns.saturating_sub(self.since_ns) >= PERIOD_NS {
            if !many {
                self.calm += 1;
            }
            (self.before, self.since_ns) = (watch.quiet, now_ns);
        }
        forked || many || attached && self.calm < CALM_PERIODS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_attached_for_forks_and_many_copies_and_detached_when_they_are_over() {
        let mut need = Need::default();
        let mut attached = false;
        let mut at = |ms: u64, quiet, forks| {
            attached = need.of(attached, ms * 1_000_000, FaultWatch { quiet, forks });
            attached
        };
        assert!(!at(1_050, 100, 0), "few");
        assert!(!at(2_100, 300, 0), "and few again");
        assert!(at(2_150, 700, 0), "many within a period");
        assert!(at(3_200, 700, 0) && at(4_300, 800, 0), "still");
        assert!(!at(5_400, 900, 0), "three periods with few");
        assert!(at(5_450, 900, 1), "a fork");
        assert!(at(6_500, 900, 1) && at(7_600, 2_000, 1) && at(8_700, 2_001, 1) && at(9_800, 2_001, 1));
        assert!(!at(10_900, 2_001, 1), "three periods after the copies");
        assert!(!at(20_000, 2_002, 1));
    }
}
