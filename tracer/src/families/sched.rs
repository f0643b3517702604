//! Family `sched`: where does each thread's wall time go: running, ready to run, or waiting, for what, and who ended the wait?

use tracer_common::{
    FamilyId,
    config::{ABSENT, Config},
    syscall,
};

use super::{CostClass, Fallback, Family, Hook, Program, Readiness, Settings};
use crate::kernel::{btf::Btf, host::HostFacts, kernel_cast, offsets, tracefs};

/// See the module.
pub struct Sched;

const fn program(name: &'static str, required: bool, fallback: Option<Fallback>, purpose: &'static str) -> Program {
    Program { name, hook: Hook::TpBtf { name }, required, purpose, fallback }
}

const fn tracefs(name: &'static str, category: &'static str, event: &'static str) -> Option<Fallback> {
    Some(Fallback { name, hook: Hook::Tracepoint { category, name: event } })
}

/// The program at the start of softirqs.
const SOFTIRQ_START: &str = "softirq_entry";

const PROGRAMS: &[Program] = &[
    program(
        "sched_switch",
        true,
        tracefs("tp_sched_switch", "sched", "sched_switch"),
        "which thread ran and why it stopped",
    ),
    program(
        "sched_waking",
        false,
        tracefs("tp_sched_waking", "sched", "sched_waking"),
        "who woke a thread, and how long it then waited for a CPU",
    ),
    program(
        "task_newtask",
        false,
        tracefs("tp_task_newtask", "task", "task_newtask"),
        "new threads and processes, and that they belong to the target",
    ),
    program(
        "sched_process_fork",
        false,
        tracefs("tp_sched_process_fork", "sched", "sched_process_fork"),
        "which process is whose child",
    ),
    program(
        "sched_process_exec",
        false,
        tracefs("tp_sched_process_exec", "sched", "sched_process_exec"),
        "executed programs and the names they bring",
    ),
    program(
        "sched_process_exit",
        false,
        tracefs("tp_sched_process_exit", "sched", "sched_process_exit"),
        "how threads ended, and the kernel's own account of their CPU time",
    ),
    program(
        "task_rename",
        false,
        tracefs("tp_task_rename", "task", "task_rename"),
        "names that threads give themselves",
    ),
    Program {
        name: "step_entry",
        hook: Hook::StepEntry,
        required: false,
        purpose: "when steps begin, by entries of a native function",
        fallback: None,
    },
    Program {
        name: "step_watched",
        hook: Hook::StepWatch,
        required: false,
        purpose: "when steps begin, by entries of a Python function",
        fallback: None,
    },
    program("cgroup_attach_task", false, None, "moves between cgroups"),
    program(SOFTIRQ_START, false, None, "wake-ups by network, block device or timer, told from wake-ups by tasks"),
    // Before the start: a start without its end would stay for ever.
    program("irq_handler_exit", false, None, "the end of a device's interrupt"),
    program("irq_handler_entry", false, None, "wake-ups by a device's interrupt, told from wake-ups by a timer"),
];

/// Whether the kernel has the helper that finds a task's user registers.
fn tells_registers(btf: &Btf) -> bool {
    btf.enumerator("bpf_func_id", "BPF_FUNC_task_pt_regs").is_some()
}

/// Whether a thread that ends a wait can be told from an interrupt that does so while the thread runs.
pub(super) fn tells_interrupts(host: &HostFacts) -> bool {
    let Some(btf) = &host.btf else { return false };
    let in_task = host.known_arch().is_some_and(|arch| offsets::resolve(btf, arch).task_preempt_count != ABSENT);
    in_task || offsets::preempt_count_from_rq(btf).is_some()
}

/// Whether a thread that sends to another socket of this host can be told from a device whose packets arrive.
pub(super) fn tells_senders(host: &HostFacts) -> bool {
    tells_interrupts(host) && host.btf.as_ref().is_some_and(|btf| offsets::backlog_from_rq(btf).is_some())
}

impl Family for Sched {
    fn id(&self) -> FamilyId {
        FamilyId::Sched
    }

    fn name(&self) -> &'static str {
        "sched"
    }

    fn question(&self) -> &'static str {
        "where does each thread's wall time go: running, ready to run, or waiting, for what, and who ended the wait?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::PerSwitch
    }

    fn programs(&self) -> &'static [Program] {
        PROGRAMS
    }

    fn can_run(&self, host: &HostFacts) -> Readiness {
        if let Err(reason) = host.may_trace() {
            return Readiness::Unavailable { reason, remedy: "run as root".to_owned() };
        }
        let Some(btf) = &host.btf else {
            let reason = "this kernel publishes no type information (/sys/kernel/btf/vmlinux)".to_owned();
            return match host.tracefs {
                Some(_) => Readiness::Degraded {
                    reason: format!("{reason}: classic tracepoints are used, so what threads wait for is unknown"),
                    remedy: "use a kernel built with CONFIG_DEBUG_INFO_BTF".to_owned(),
                },
                None => Readiness::Unavailable {
                    reason: format!("{reason} and tracefs is not mounted"),
                    remedy: "mount -t tracefs tracefs /sys/kernel/tracing".to_owned(),
                },
            };
        };
        let mut lacks: Vec<String> = Vec::new();
        match host.known_arch() {
            None => {
                lacks.push(format!("registers of {} are not known, so what threads wait for is not either", host.arch))
            }
            Some(arch) => lacks.extend(offsets::missing(&offsets::resolve(btf, arch)).into_iter().map(str::to_owned)),
        }
        let without_helper = host.known_arch().and_then(|arch| offsets::registers_in_stack(btf, arch));
        if !tells_registers(btf) && without_helper.is_none() {
            lacks.push(
                "this kernel has no helper for a task's registers (5.15 has): what threads wait for is unknown"
                    .to_owned(),
            );
        }
        if !tells_interrupts(host) {
            lacks.push(
                "this kernel does not describe its per-CPU variables: whether a thread or an interrupt ended a wait is unknown"
                    .to_owned(),
            );
        }
        lacks.extend(PROGRAMS.iter().filter_map(|program| program.without_tracepoint(btf)));
        if lacks.is_empty() {
            return Readiness::Ready;
        }
        Readiness::Degraded { reason: lacks.join("; "), remedy: "none on this kernel".to_owned() }
    }

    fn until_proven(&self, config: &Config) -> Option<&'static str> {
        (config.receives_from_rq != 0).then_some(SOFTIRQ_START)
    }

    fn configure(&self, host: &HostFacts, _settings: Settings, config: &mut Config) {
        if let Some(path) = &host.tracefs {
            config.formats = tracefs::formats(path);
        }
        let Some(arch) = host.known_arch() else { return };
        config.fd_syscalls = syscall::fd_bitmap(arch);
        config.epoll_syscalls = syscall::epoll_bitmap(arch);
        config.futex_syscall = syscall::number(arch, "futex").map_or(-1, i64::from);
        let number = |name| syscall::number(arch, name).map_or(-1, i32::from);
        (config.poll_syscall, config.ppoll_syscall) = (number("poll"), number("ppoll"));
        let Some(btf) = &host.btf else { return };
        config.offsets = offsets::resolve(btf, arch);
        config.switch_has_state = u32::from(btf.tracepoint_args("sched_switch").is_some_and(|args| args >= 4));
        config.has_task_pt_regs = u32::from(tells_registers(btf));
        if config.has_task_pt_regs == 1 {
            config.typed_loads = 1;
            config.word_type = kernel_cast::word_type(btf).unwrap_or(0);
            if config.word_type != 0 {
                config.current_from_rq = offsets::current_from_rq(btf).unwrap_or(0);
                let distances = offsets::softirq_distances(btf, arch).filter(|_| config.current_from_rq != 0);
                if let Some(distances) = distances {
                    config.receives_from_rq = distances.receives;
                    config.queue_state_from_rq = distances.queue_state;
                    config.irq_stack_from_rq = distances.irq_stack;
                    config.ksoftirqd_from_rq = distances.ksoftirqd;
                }
            }
        } else {
            // What is found without the helper is an address to the verifier, which no load can follow.
            config.regs_in_stack = offsets::registers_in_stack(btf, arch).unwrap_or(0);
        }
        if let Some((backlog, steered)) = offsets::backlog_from_rq(btf) {
            (config.backlog_from_rq, config.steered_from_rq) = (backlog, steered);
        }
        if config.offsets.task_preempt_count == ABSENT {
            if let Some(distance) = offsets::preempt_count_from_rq(btf) {
                config.preempt_count_from_rq = distance;
                config.no_wake_context = 0;
            }
        } else {
            config.no_wake_context = 0;
        }
    }
}
