//! The table of families. Loader, attacher, `doctor`, `families`, the CLI and the docs iterate it; none of them names a family.
//!
//! Adding a family: a file here, its record payloads in `tracer-common`, its programs in `tracer-ebpf/src/probes`, a line in
//! [`FAMILIES`].

use serde::Serialize;
use tracer_common::{
    FamilyId,
    config::{Config, Offsets},
};

use crate::kernel::{btf::Btf, host::HostFacts, offsets};

pub mod block;
pub mod cache;
pub mod cpu;
pub mod database;
pub mod fault;
pub mod file_exact;
pub mod lock;
pub mod map;
pub mod net;
pub mod oom;
pub mod reclaim;
pub mod rss;
pub mod sched;
pub mod writeback;

/// Every family, in the order of its number.
pub const FAMILIES: &[&dyn Family] = &[
    &sched::Sched,
    &cpu::Cpu,
    &lock::Lock,
    &fault::Fault,
    &reclaim::Reclaim,
    &cache::Cache,
    &oom::Oom,
    &rss::Rss,
    &map::Map,
    &block::Block,
    &writeback::Writeback,
    &database::Database,
    &net::Net,
    &file_exact::FileExact,
];

/// Where a program attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Hook {
    /// A BTF tracepoint.
    TpBtf {
        /// The tracepoint.
        name: &'static str,
    },
    /// The end of the program at a BTF tracepoint, which goes on with this one when it finds reason to: a program that runs seldom costs
    /// nothing at all other times, and one that is attached beside it some 100 ns.
    Behind {
        /// The tracepoint.
        name: &'static str,
        /// The map that leads from there to it.
        map: &'static str,
    },
    /// A tracepoint of tracefs.
    Tracepoint {
        /// Its group.
        category: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A tracepoint by its name alone, in the kernel or a module of it: each of these that there is.
    RawTracepoints {
        /// The tracepoints.
        names: &'static [&'static str],
    },
    /// The clock of each CPU, at the sampling rate.
    PerfEvent,
    /// The entry of the native function that `--step` names; without that option the program is not loaded.
    StepEntry,
    /// A debug register on the first instruction of the Python function that `--step` names; likewise.
    StepWatch,
    /// The entry of functions of databases' clients, as these are found; without `--db` the program is not loaded.
    CallEntry,
    /// Their return; likewise.
    CallReturn,
    /// An iterator: runs when it is read, once for each object of this kind that there is.
    Iterator {
        /// The kind.
        over: &'static str,
    },
}

impl Hook {
    /// The BTF tracepoint whose arguments it is given.
    pub fn btf_tracepoint(self) -> Option<&'static str> {
        match self {
            Hook::TpBtf { name } | Hook::Behind { name, .. } => Some(name),
            _ => None,
        }
    }

    /// Whether only an option of the command line says where it attaches.
    pub fn is_for_steps(self) -> bool {
        matches!(self, Hook::StepEntry | Hook::StepWatch)
    }

    /// Whether it is where databases' clients are called, which is found out while tracing.
    pub fn is_for_calls(self) -> bool {
        matches!(self, Hook::CallEntry | Hook::CallReturn)
    }
}

/// One program.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Program {
    /// Its name in the object.
    pub name: &'static str,
    /// Where it attaches.
    pub hook: Hook,
    /// Without it the family cannot run.
    pub required: bool,
    /// What is lost without it.
    pub purpose: &'static str,
    /// The program to try when this one cannot attach.
    pub fallback: Option<Fallback>,
}

impl Program {
    /// What is lost because this kernel has the tracepoint neither of the program nor of its fallback; `None`: it has one of them.
    pub fn without_tracepoint(&self, btf: &Btf) -> Option<String> {
        let lacks = |hook: Hook| hook.btf_tracepoint().is_some_and(|name| btf.tracepoint_args(name).is_none());
        let name = self.hook.btf_tracepoint()?;
        (lacks(self.hook) && self.fallback.is_none_or(|other| lacks(other.hook)))
            .then(|| format!("this kernel has no tracepoint {name}: lost is {}", self.purpose))
    }
}

/// The other way to a program's facts.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fallback {
    /// Its name in the object.
    pub name: &'static str,
    /// Where it attaches.
    pub hook: Hook,
}

/// See [`Family::on_demand`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDemand {
    /// The program.
    pub program: &'static str,
    /// The one that does without it. Where that does not run, the program is attached from the beginning.
    pub stands_in: &'static str,
}

/// How much a family costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CostClass {
    /// Runs once per context switch or more often.
    PerSwitch,
    /// Runs once per page fault, or page of a file that comes into memory.
    PerFault,
    /// Runs once per call that maps, unmaps or gives back memory, and whenever else an address space is locked.
    PerMapping,
    /// Runs a few times per request of a block device.
    PerRequest,
    /// Runs at the start and at the end of each call of a database's client, and costs microseconds there.
    PerCall,
    /// Runs at the end of each system call of the whole host, which takes a slow path then.
    PerSystemCall,
    /// Runs at the sampling rate, and as often for each second that threads wait.
    Sampled,
    /// Runs rarely.
    Rare,
}

/// Where a family's records go, and who reads them there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// The rings that families share, whose records go into the stream as they are.
    Shared,
    /// The ring of stacks, whose records go through the unwinder.
    Stacks,
}

/// Whether a family can run here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Readiness {
    /// With everything.
    Ready,
    /// With less, and why.
    Degraded {
        /// What is missing.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// Not at all, and why.
    Unavailable {
        /// What is missing.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
}

impl Readiness {
    /// The word in reports.
    pub fn id(&self) -> &'static str {
        match self {
            Readiness::Ready => "ready",
            Readiness::Degraded { .. } => "degraded",
            Readiness::Unavailable { .. } => "unavailable",
        }
    }

    /// Why it is not ready.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Readiness::Ready => None,
            Readiness::Degraded { reason, .. } | Readiness::Unavailable { reason, .. } => Some(reason),
        }
    }
}

/// What the command line says to families.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Samples per second: 1 to 999.
    pub sample_hz: u32,
}

/// A set of probes that answers one question.
pub trait Family: Sync {
    /// Its number.
    fn id(&self) -> FamilyId;
    /// Its name on the command line and in reports.
    fn name(&self) -> &'static str;
    /// The question it answers.
    fn question(&self) -> &'static str;
    /// How often its programs run.
    fn cost_class(&self) -> CostClass;
    /// The option without which it does not run; none: it runs unless it is left out.
    fn option(&self) -> Option<&'static str> {
        None
    }
    /// Families without which it has nothing to work with.
    fn builds_on(&self) -> &'static [FamilyId] {
        &[]
    }
    /// Where its records go.
    fn ring(&self) -> Ring {
        Ring::Shared
    }
    /// Its programs, in the order in which programs on the same hook run.
    fn programs(&self) -> &'static [Program];
    /// Whether it can run on this host.
    fn can_run(&self, host: &HostFacts) -> Readiness;
    /// Fills in its part of the programs' configuration.
    fn configure(&self, host: &HostFacts, settings: Settings, config: &mut Config);
    /// A program that is attached only while what it alone sees happens.
    fn on_demand(&self, _config: &Config) -> Option<OnDemand> {
        None
    }
    /// A program that is attached until it has been seen on this host that what it finds out is found out without it as well.
    fn until_proven(&self, _config: &Config) -> Option<&'static str> {
        None
    }
    /// Programs that are attached only while threads wait at unix sockets: all of them or none.
    fn while_at_unix_sockets(&self) -> &'static [&'static str] {
        &[]
    }
}

/// Whether a family that sees memory can run here: it needs type information and its first tracepoint; `lacks` says what is missing of
/// what it reads.
fn memory_readiness(
    host: &HostFacts,
    programs: &[Program],
    tracepoint: &str,
    remedy: &str,
    lacks: impl Fn(&Offsets) -> Vec<&'static str>,
) -> Readiness {
    if let Err(reason) = host.may_trace() {
        return Readiness::Unavailable { reason, remedy: "run as root".to_owned() };
    }
    let Some((btf, arch)) = host.btf.as_ref().zip(host.known_arch()) else {
        return Readiness::Unavailable {
            reason: "this kernel publishes no type information (/sys/kernel/btf/vmlinux)".to_owned(),
            remedy: "use a kernel built with CONFIG_DEBUG_INFO_BTF".to_owned(),
        };
    };
    if btf.tracepoint_args(tracepoint).is_none() {
        return Readiness::Unavailable {
            reason: format!("this kernel has no tracepoint {tracepoint}"),
            remedy: remedy.to_owned(),
        };
    }
    let mut lacks: Vec<String> = lacks(&offsets::resolve(btf, arch)).into_iter().map(str::to_owned).collect();
    lacks.extend(programs.iter().filter_map(|program| program.without_tracepoint(btf)));
    if lacks.is_empty() {
        return Readiness::Ready;
    }
    Readiness::Degraded { reason: lacks.join("; "), remedy: "none on this kernel".to_owned() }
}

/// What families lack whose programs take stacks only where the kernel runs long loops for them.
fn lacks_stacks(host: &HostFacts) -> Option<&'static str> {
    let runs_loops = host.btf.as_ref().is_some_and(|btf| btf.enumerator("bpf_func_id", "BPF_FUNC_loop").is_some());
    (!runs_loops).then_some("this kernel has no helper for loops (5.17 has): in which code is unknown")
}

/// The family of this name.
pub fn find(name: &str) -> Option<&'static dyn Family> {
    FAMILIES.iter().copied().find(|family| family.name() == name)
}
