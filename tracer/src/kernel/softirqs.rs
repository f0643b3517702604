//! Takes the program off that runs at the start of each softirq, as soon as it has been seen on this host that it is not needed: who sent
//! what is received is told in the middle of a softirq by the CPU's stack as well (`tracer-ebpf/src/wake.rs`), in a way that depends on how
//! the kernel was built. So both ways are compared at each wake-up first, and where they differ the program stays; what one CPU has learned
//! of it is told to all. It comes back when
//! softirqs wake threads that receive no packets: timer and block device are told apart by it alone. Where packets are received without
//! end it is several times as often as threads are woken, and most of what they cost.

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{BtfTracePoint, ProgramError, tp_btf::BtfTracePointLinkId},
};
use tracer_common::loss::{CpuState, OwnSoftirq};

use super::{
    attach::chain,
    loader::{LoadError, map_error, take},
    memory_maps::OwnSoftirqValue,
};

/// Length of a period.
const PERIOD_NS: u64 = 200_000_000;
/// So many wake-ups of which both ways say that the current thread caused them are proof, if they contradict each other in no more than one of
/// so many.
const PROOF: u64 = 64;
const MOST_CONTRADICTED: u64 = 50;
/// So many wake-ups in a period are reason to have the program: by softirqs that receive no packets; or not to have it: by others.
const MANY: u64 = 16;
/// Periods without such reason until it is taken off again.
const CALM_PERIODS: u32 = 2;

/// See the file's head.
pub struct Softirqs {
    program: &'static str,
    link: Option<BtfTracePointLinkId>,
    own: Array<MapData, OwnSoftirqValue>,
    need: Need,
}

impl Softirqs {
    /// Attaches the program, which is loaded.
    pub(super) fn new(ebpf: &mut Ebpf, program: &'static str) -> Result<Self, LoadError> {
        let own = Array::try_from(take(ebpf, "OWN_SOFTIRQ")?).map_err(|error| map_error("OWN_SOFTIRQ", &error))?;
        let mut softirqs = Self { program, link: None, own, need: Need::default() };
        if let Err(error) = softirqs.attach(ebpf) {
            tracing::warn!("{program} does not attach: {}", chain(&error));
        }
        Ok(softirqs)
    }

    /// Looks whether the program is needed now.
    pub(super) fn look(&mut self, ebpf: &mut Ebpf, now_ns: u64, cpus: &[CpuState]) {
        let sum = |count: fn(&CpuState) -> u64| cpus.iter().map(count).sum();
        let counts = Counts {
            agreed: sum(|cpu| cpu.senders_agreed),
            contradicted: sum(|cpu| cpu.senders_contradicted),
            others: sum(|cpu| cpu.other_softirq_wakes),
        };
        let learned = OwnSoftirq {
            goes_on_at: same(cpus.iter().map(|cpu| cpu.own_return)),
            regs_from_stack: same(cpus.iter().map(|cpu| cpu.regs_from_stack)),
        };
        let is_learned = learned.goes_on_at != 0 && learned.regs_from_stack != 0;
        let wanted = self.need.of(self.link.is_some(), now_ns, counts) || !is_learned;
        if wanted == self.link.is_some() {
            return;
        }
        // It is never off while nothing else tells: the program is on before the other way ends, and off after that began.
        let done = if wanted {
            self.attach(ebpf).and_then(|()| self.tell(OwnSoftirq::default()))
        } else {
            self.tell(learned).and_then(|()| self.detach(ebpf))
        };
        match done {
            Ok(()) => tracing::debug!(
                "{}: {}, {} wake-ups by senders agreed, {} contradicted",
                self.program,
                if wanted { "attached" } else { "detached" },
                counts.agreed,
                counts.contradicted
            ),
            Err(error) => tracing::debug!("{}: {}", self.program, chain(&error)),
        }
    }

    fn attach(&mut self, ebpf: &mut Ebpf) -> Result<(), ProgramError> {
        let Some(program) = ebpf.program_mut(self.program) else { return Ok(()) };
        self.link = Some(<&mut BtfTracePoint>::try_from(program)?.attach()?);
        Ok(())
    }

    fn detach(&mut self, ebpf: &mut Ebpf) -> Result<(), ProgramError> {
        let (Some(link), Some(program)) = (self.link.take(), ebpf.program_mut(self.program)) else { return Ok(()) };
        <&mut BtfTracePoint>::try_from(program)?.detach(link)
    }

    fn tell(&mut self, own: OwnSoftirq) -> Result<(), ProgramError> {
        self.own.set(0, OwnSoftirqValue(own), 0).map_err(ProgramError::MapError)
    }
}

/// What all CPUs that know it say; 0: none does, or they differ.
fn same(all: impl Iterator<Item = u64>) -> u64 {
    let mut known = all.filter(|value| *value != 0);
    let first = known.next().unwrap_or(0);
    if known.all(|other| other == first) { first } else { 0 }
}

/// Wake-ups in softirqs since tracing began.
#[derive(Clone, Copy, Default)]
struct Counts {
    /// By packets: both ways say that the current thread sent them, or only one does.
    agreed: u64,
    contradicted: u64,
    /// By anything else.
    others: u64,
}

/// Whether the program is needed, by what is counted.
#[derive(Default)]
struct Need {
    /// When this period began.
    before: Counts,
    since_ns: u64,
    /// Periods that have to pass until it may be taken off.
    wait: u32,
}

impl Need {
    fn of(&mut self, attached: bool, now_ns: u64, counts: Counts) -> bool {
        let others = counts.others.saturating_sub(self.before.others) >= MANY;
        if now_ns.saturating_sub(self.since_ns) < PERIOD_NS && (attached || !others) {
            return attached;
        }
        let packets = counts.agreed.saturating_sub(self.before.agreed) >= MANY;
        (self.before, self.since_ns) = (counts, now_ns);
        if others {
            self.wait = CALM_PERIODS;
            return true;
        }
        self.wait = self.wait.saturating_sub(1);
        let is_proven =
            counts.agreed >= PROOF && counts.contradicted.saturating_mul(MOST_CONTRADICTED) <= counts.agreed;
        attached && !(packets && is_proven && self.wait == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is attached after each of these periods, in which so many wake-ups agreed, contradicted each other, and were others.
    fn attached(need: &mut Need, mut attached: bool, periods: &[(u64, u64, u64)]) -> String {
        let mut counts = need.before;
        let mut period = |(agreed, contradicted, others): &(u64, u64, u64)| {
            counts.others += others;
            // Without the program nothing is compared.
            counts.agreed += if attached { *agreed } else { 0 };
            counts.contradicted += if attached { *contradicted } else { 0 };
            attached = need.of(attached, need.since_ns + PERIOD_NS, counts);
            if attached { '+' } else { '-' }
        };
        periods.iter().map(&mut period).collect()
    }

    #[test]
    fn it_is_taken_off_when_both_ways_have_said_the_same_often() {
        let mut need = Need::default();
        assert_eq!(attached(&mut need, true, &[(0, 0, 0), (40, 0, 0), (40, 1, 0), (40, 0, 0), (0, 0, 0)]), "++---");
        assert_eq!(attached(&mut Need::default(), true, &[(5000, 200, 0); 4]), "++++", "they contradict each other");
        assert_eq!(attached(&mut Need::default(), true, &[(100, 0, 0), (0, 0, 0)]), "--");
    }

    #[test]
    fn it_comes_back_for_timers_and_devices_and_stays_for_a_while() {
        let mut need = Need::default();
        assert_eq!(attached(&mut need, true, &[(900, 0, 0), (900, 0, 16)]), "-+");
        assert_eq!(attached(&mut need, true, &[(900, 0, 0); 3]), "+--");
        assert_eq!(attached(&mut need, false, &[(0, 0, 15), (0, 0, 0)]), "--", "now and then is not often");
        assert_eq!(attached(&mut Need::default(), true, &[(900, 0, 16); 3]), "+++");
    }

    #[test]
    fn what_cpus_have_learned_holds_for_all_if_they_say_the_same() {
        assert_eq!(same([0, 7, 0, 7].into_iter()), 7);
        assert_eq!(same([0, 7, 8].into_iter()), 0, "they differ");
        assert_eq!(same([0, 0].into_iter()), 0, "nobody knows");
    }

    #[test]
    fn many_others_are_reason_at_once() {
        let mut need = Need::default();
        let counts = |others| Counts { agreed: 100, contradicted: 0, others };
        assert!(!need.of(true, PERIOD_NS, counts(0)));
        assert!(!need.of(false, PERIOD_NS + 1, counts(MANY - 1)));
        assert!(need.of(false, PERIOD_NS + 2, counts(MANY)));
    }
}
