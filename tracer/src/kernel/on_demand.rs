//! Attaches and detaches, while tracing, the program that tells copied pages from other page faults that add none: beside the one that
//! counts by number (`tracer-ebpf/src/numbered.rs`) it makes each fault cost more than twice as much. Pages are copied behind a fork only.
//! So it is attached when a traced process forks, from the beginning where processes are traced that may have forked before, and for a look
//! now and then where many faults might be copies; detached when few are.

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{BtfTracePoint, tp_btf::BtfTracePointLinkId},
};
use tracer_common::memory::FaultWatch;

use super::{
    attach::chain,
    loader::{LoadError, map_error, take},
    memory_maps::WatchValue,
};

/// Length of a period.
const PERIOD_NS: u64 = 1_000_000_000;
/// So many copies in a period are many, and so many faults that may be some.
const MANY: u64 = 256;
/// Detached after so many periods with few copies.
const CALM_PERIODS: u32 = 3;
/// Between one look that found few copies and the next so many periods pass at first, then twice as many each time, up to the most.
const PAUSE_PERIODS: u32 = 4;
const MOST_PAUSE_PERIODS: u32 = 64;

/// See the file's head.
pub struct OnDemandProgram {
    name: &'static str,
    watch: Array<MapData, WatchValue>,
    taken_for_copies: Array<MapData, u32>,
    link: Option<BtfTracePointLinkId>,
    need: Need,
}

impl OnDemandProgram {
    /// Of a program that is loaded. `fresh`: what is traced is started behind this; otherwise the program is attached at once.
    pub(super) fn new(ebpf: &mut Ebpf, name: &'static str, fresh: bool) -> Result<Self, LoadError> {
        let watch = Array::try_from(take(ebpf, "FAULT_WATCH")?).map_err(|error| map_error("FAULT_WATCH", &error))?;
        let taken_for_copies = Array::try_from(take(ebpf, "TAKEN_FOR_COPIES")?);
        let taken_for_copies = taken_for_copies.map_err(|error| map_error("TAKEN_FOR_COPIES", &error))?;
        let need = Need { may_have_forked: !fresh, ..Need::default() };
        let mut program = Self { name, watch, taken_for_copies, link: None, need };
        if !fresh {
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
            Some(link) => {
                // There were few: others that are not seen are none. A fork from now on says otherwise.
                let _ = self.taken_for_copies.set(0, 0, 0);
                program.detach(link)
            }
            None if on => program.attach().map(|link| self.link = Some(link)),
            None => Ok(()),
        });
        match done {
            Ok(()) => tracing::debug!("{}: {}", self.name, if on { "attached" } else { "detached" }),
            // It is tried again when many faults may be copies: without it these are counted, but their code is not known.
            Err(error) => tracing::debug!("{}: {}", self.name, chain(&error)),
        }
    }
}

/// Whether the program is needed, by what is counted.
#[derive(Default)]
struct Need {
    /// Before tracing began.
    may_have_forked: bool,
    /// What was counted when this period began, and when that was.
    before: FaultWatch,
    since_ns: u64,
    /// Periods with few copies, one after the other, while it was attached.
    calm: u32,
    /// Periods until it may be looked again, and how many it was the last time.
    pause: u32,
    last_pause: u32,
    forks: u64,
}

impl Need {
    fn of(&mut self, attached: bool, now_ns: u64, watch: FaultWatch) -> bool {
        if watch.forks != self.forks {
            self.forks = watch.forks;
            (self.calm, self.pause, self.last_pause) = (0, 0, 0);
            self.begin(now_ns, watch);
            return true;
        }
        if watch.forks == 0 && !self.may_have_forked {
            return false;
        }
        let copies = watch.copies.saturating_sub(self.before.copies) >= MANY;
        let may_be = watch.unseen.saturating_sub(self.before.unseen) >= MANY;
        if !attached && may_be && self.pause == 0 {
            // One period says whether they are.
            self.calm = CALM_PERIODS - 1;
            self.begin(now_ns, watch);
            return true;
        }
        if now_ns.saturating_sub(self.since_ns) < PERIOD_NS {
            return attached;
        }
        self.begin(now_ns, watch);
        self.pause = self.pause.saturating_sub(1);
        if !attached {
            return false;
        }
        if copies {
            (self.calm, self.last_pause) = (0, 0);
            return true;
        }
        self.calm += 1;
        if self.calm < CALM_PERIODS {
            return true;
        }
        self.last_pause = (2 * self.last_pause).clamp(PAUSE_PERIODS, MOST_PAUSE_PERIODS);
        self.pause = self.last_pause;
        false
    }

    fn begin(&mut self, now_ns: u64, watch: FaultWatch) {
        (self.before, self.since_ns) = (watch, now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wanted after each of these seconds, in which so many faults were not seen, or copies, or forks.
    fn wanted(need: &mut Need, attached: bool, seconds: &[(u64, u64, u64)]) -> String {
        let (mut attached, mut watch, mut now_ns) = (attached, need.before, need.since_ns);
        let mut second = |(others, copies, forks): &(u64, u64, u64)| {
            now_ns += PERIOD_NS;
            // While it is attached all are seen.
            watch.unseen += if attached { 0 } else { others + copies };
            watch.copies += if attached { *copies } else { 0 };
            watch.forks += forks;
            attached = need.of(attached, now_ns, watch);
            if attached { '+' } else { '-' }
        };
        seconds.iter().map(&mut second).collect()
    }

    #[test]
    fn a_program_that_has_not_forked_copies_nothing() {
        assert_eq!(wanted(&mut Need::default(), false, &[(9_000, 0, 0); 4]), "----");
    }

    #[test]
    fn it_is_attached_from_a_fork_until_there_are_few_copies() {
        let mut need = Need::default();
        assert_eq!(wanted(&mut need, false, &[(10, 0, 0), (0, 0, 1), (0, 900, 0), (0, 900, 0)]), "-+++");
        assert_eq!(wanted(&mut need, true, &[(0, 9, 0), (0, 9, 0), (0, 9, 0), (0, 9, 0)]), "++--");
        assert_eq!(wanted(&mut need, false, &[(0, 0, 1)]), "+", "another one");
    }

    #[test]
    fn faults_that_may_be_copies_are_looked_at_for_a_period_and_less_often_while_they_are_none() {
        let mut need = Need { may_have_forked: true, ..Need::default() };
        let seconds = [(9_000, 0, 0); 24];
        assert_eq!(wanted(&mut need, true, &seconds), "++-----+---------+------");
        assert_eq!(wanted(&mut need, true, &[(9_000, 900, 0); 4]), "++++", "and then some are");
    }
}
