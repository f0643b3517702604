//! Family `cpu`: which code runs, and which code waits? Stacks of the target's threads, by a clock and at their waits.

use std::path::Path;

use tracer_common::{
    FamilyId,
    config::{ABSENT, Config},
};

use super::{CostClass, Fallback, Family, Hook, Program, Readiness, Ring, Settings};
use crate::kernel::{host::HostFacts, offsets};

/// See the module.
pub struct Cpu;

const PROGRAMS: &[Program] = &[
    Program {
        name: "cpu_sample",
        hook: Hook::PerfEvent,
        required: false,
        purpose: "which code runs while threads are on a CPU",
        fallback: Some(Fallback { name: "cpu_sample_old", hook: Hook::PerfEvent }),
    },
    Program {
        name: "wait_stack",
        // Behind `sched_switch`, which decides whose turn it is.
        hook: Hook::Behind { name: "sched_switch", map: "BEHIND_SWITCH" },
        required: false,
        purpose: "which code threads wait in",
        fallback: Some(Fallback {
            name: "wait_stack_old",
            hook: Hook::Behind { name: "sched_switch", map: "BEHIND_SWITCH" },
        }),
    },
    Program {
        name: "waker_stack",
        // Behind `sched_waking`, which decides whose turn it is.
        hook: Hook::Behind { name: "sched_waking", map: "BEHIND_WAKING" },
        required: false,
        purpose: "which code ends the waits of others",
        fallback: Some(Fallback {
            name: "waker_stack_old",
            hook: Hook::Behind { name: "sched_waking", map: "BEHIND_WAKING" },
        }),
    },
    Program {
        name: "sleeping_threads",
        hook: Hook::Iterator { over: "task" },
        required: false,
        purpose: "which code threads wait in that waited already when tracing began",
        fallback: None,
    },
];

/// Time between two samples of a CPU. Most work that is done at a fixed rate is driven by the kernel's timer, which ticks 100, 250 or
/// 1000 times a second: a period that is a whole number of ticks, or nearly, would see the same moment of each, so it is made longer
/// by 1 %.
pub fn sample_period_ns(hz: u32) -> u64 {
    const TICK_NS: u64 = 1_000_000;
    /// A walk over all moments of a tick takes at most so many periods.
    const PERIODS: u64 = 32;
    let period_ns = 1_000_000_000 / u64::from(hz.max(1));
    let in_step = (1..=PERIODS).any(|periods| {
        let off_ns = period_ns * periods % TICK_NS;
        off_ns.min(TICK_NS - off_ns) < TICK_NS / 2000
    });
    if in_step { period_ns + period_ns / 101 } else { period_ns }
}

/// What stacks lack on this host.
fn lacks(host: &HostFacts) -> Vec<String> {
    let Some(arch) = host.known_arch() else {
        return vec![format!("registers of {} are not known, so there are kernel frames only", host.arch)];
    };
    let Some(btf) = &host.btf else {
        return vec![
            "this kernel publishes no type information (/sys/kernel/btf/vmlinux): no stacks of waits, no Python frames, \
             and user frames only of samples that interrupt user code"
                .to_owned(),
        ];
    };
    offsets::missing_for_stacks(&offsets::resolve(btf, arch)).into_iter().map(str::to_owned).collect()
}

impl Family for Cpu {
    fn id(&self) -> FamilyId {
        FamilyId::Cpu
    }

    fn name(&self) -> &'static str {
        "cpu"
    }

    fn question(&self) -> &'static str {
        "which code runs, and which code waits: kernel, native and Python functions, from the innermost to the thread's start?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::Sampled
    }

    fn builds_on(&self) -> &'static [FamilyId] {
        // Its set of traced threads, and its switches, which say where threads wait and for how long.
        &[FamilyId::Sched]
    }

    fn ring(&self) -> Ring {
        Ring::Stacks
    }

    fn programs(&self) -> &'static [Program] {
        PROGRAMS
    }

    fn can_run(&self, host: &HostFacts) -> Readiness {
        if let Err(reason) = host.may_trace() {
            return Readiness::Unavailable { reason, remedy: "run as root".to_owned() };
        }
        if !Path::new("/sys/bus/event_source/devices/software").exists() && host.btf.is_none() {
            return Readiness::Unavailable {
                reason: "this kernel has neither a clock for sampling (CONFIG_PERF_EVENTS) nor type information"
                    .to_owned(),
                remedy: "use a kernel built with CONFIG_PERF_EVENTS and CONFIG_DEBUG_INFO_BTF".to_owned(),
            };
        }
        let lacks = lacks(host);
        if lacks.is_empty() {
            return Readiness::Ready;
        }
        let remedy =
            if host.btf.is_none() { "use a kernel built with CONFIG_DEBUG_INFO_BTF" } else { "none on this kernel" };
        Readiness::Degraded { reason: lacks.join("; "), remedy: remedy.to_owned() }
    }

    fn configure(&self, host: &HostFacts, settings: Settings, config: &mut Config) {
        config.sample_period_ns = sample_period_ns(settings.sample_hz);
        let Some(arch) = host.known_arch() else { return };
        config.context_sp_word = offsets::stack_pointer_word(arch);
        let Some(btf) = &host.btf else {
            config.context_words = offsets::register_bytes(arch) / 8;
            return;
        };
        let found = offsets::resolve(btf, arch);
        let registers = [found.regs_bytes, found.regs_ip, found.regs_sp];
        if registers.contains(&ABSENT) {
            config.context_words = offsets::register_bytes(arch) / 8;
            return;
        }
        config.wait_stacks = 1;
        config.python = u32::from(found.task_thread_pointer != ABSENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_do_not_march_in_step_with_the_kernels_timer() {
        assert_eq!(sample_period_ns(99), 10_101_010, "the default is what was asked for");
        for hz in 1..=999 {
            let period_ns = sample_period_ns(hz);
            let true_hz = 1e9 / period_ns as f64;
            assert!((true_hz / f64::from(hz) - 1.0).abs() < 0.011, "{hz} Hz asked for, {true_hz} Hz taken");
            // Moments of a tick of one millisecond that the first thousand samples see, in tenths.
            let seen = (0..1000).fold([0u32; 10], |mut seen, sample| {
                seen[(period_ns * sample % 1_000_000 / 100_000) as usize] += 1;
                seen
            });
            assert!(seen.iter().all(|count| (50..=200).contains(count)), "{hz} Hz: {seen:?}");
        }
    }
}
