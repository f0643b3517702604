//! Tells time on a CPU in which a thread worked from time in which it waited there. Two things show the latter: samples in functions
//! that wait (`stacks/spin`), whose share of the thread's samples is an estimate; and short times between calls of sched_yield
//! that gave the CPU to another thread, which need no stacks and are measured. The greater counts, since both see a part only: the sum
//! of both states stays what was measured.

use super::classify::State;
use super::stacks::report::{Named, SpunShare};
use super::thread::Thread;
use crate::model::report::{Spinning, seconds};

/// Moves the part of a thread's time on a CPU that it spun to the state `spinning`.
pub(super) fn split(thread: &mut Thread, stacks: Option<&Named<'_>>) {
    let ns = spun_ns(thread, share(thread, stacks).as_ref());
    thread.sums.ns[State::OnCpu as usize] -= ns;
    thread.sums.ns[State::Spinning as usize] += ns;
}

/// What is said of it, once [`split`] was done.
pub(super) fn section(thread: &Thread, stacks: Option<&Named<'_>>) -> Option<Spinning> {
    let share = share(thread, stacks).unwrap_or_default();
    let ns = thread.sums.of(State::Spinning);
    (ns > 0).then(|| Spinning {
        samples: share.spun.count,
        of_samples: share.all.count,
        yields: thread.yields.count,
        yielded_s: seconds(thread.yields.ns),
        functions: stacks.map(|stacks| stacks.spun_in(thread.tgid, thread.tid, ns)).unwrap_or_default(),
    })
}

fn share(thread: &Thread, stacks: Option<&Named<'_>>) -> Option<SpunShare> {
    stacks.and_then(|stacks| stacks.spun_share(thread.tgid, thread.tid))
}

fn spun_ns(thread: &Thread, share: Option<&SpunShare>) -> u64 {
    let on_cpu_ns = thread.sums.of(State::OnCpu);
    let sampled_ns = share.map_or(0, |share| part_of(on_cpu_ns, share.spun.ns, share.all.ns));
    sampled_ns.max(thread.yields.ns).min(on_cpu_ns)
}

/// `whole` times `part` over `all`, at most `whole`.
pub(super) fn part_of(whole: u64, part: u64, all: u64) -> u64 {
    if all == 0 { 0 } else { (u128::from(whole) * u128::from(part.min(all)) / u128::from(all)) as u64 }
}

#[cfg(test)]
mod tests {
    use super::super::stacks::Tally;
    use super::super::thread::Origin;
    use super::*;

    fn thread(on_cpu_ns: u64, yielded_ns: u64) -> Thread {
        let mut thread = Thread::new(1, 1, 0, Origin::Created, 0);
        thread.sums.ns[State::OnCpu as usize] = on_cpu_ns;
        thread.yields.ns = yielded_ns;
        thread
    }

    fn share(spun: u64, all: u64) -> SpunShare {
        SpunShare { spun: Tally { count: spun, ns: spun * 10 }, all: Tally { count: all, ns: all * 10 } }
    }

    #[test]
    fn the_greater_of_estimate_and_measure_counts_and_never_more_than_there_is() {
        assert_eq!(spun_ns(&thread(1000, 0), Some(&share(3, 4))), 750);
        assert_eq!(spun_ns(&thread(1000, 900), Some(&share(3, 4))), 900);
        assert_eq!(spun_ns(&thread(1000, 0), None), 0, "without stacks nothing is estimated");
        assert_eq!(spun_ns(&thread(1000, 5000), Some(&share(4, 4))), 1000);
        assert_eq!(spun_ns(&thread(u64::MAX, 0), Some(&share(1, 1))), u64::MAX);
    }

    #[test]
    fn both_states_sum_to_what_was_measured() {
        let mut thread = thread(1001, 333);
        split(&mut thread, None);
        assert_eq!((thread.sums.of(State::OnCpu), thread.sums.of(State::Spinning)), (668, 333));
        assert_eq!(section(&thread, None).map(|spinning| spinning.yielded_s), Some(333e-9));
    }
}
