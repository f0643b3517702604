//! `tracer doctor` and `tracer families`: tables made from the table of families and the facts about the host.

use serde::Serialize;

use super::{FAILED, Failure, live, output};
use crate::{
    cli::{Format, FormatArgs},
    diagnose::RULES,
    families::{FAMILIES, Hook, Program, Readiness},
    kernel::{
        hooks::{self, HookKind},
        host::HostFacts,
    },
};

#[derive(Serialize)]
struct Doctor<'a> {
    host: &'a HostFacts,
    hooks: Vec<HookKind>,
    families: Vec<FamilyState>,
}

#[derive(Serialize)]
struct FamilyState {
    family: &'static str,
    #[serde(flatten)]
    readiness: Readiness,
}

#[derive(Serialize)]
struct FamilyRow {
    family: &'static str,
    question: &'static str,
    cost_class: crate::families::CostClass,
    programs: &'static [Program],
}

fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(FAILED, format!("cannot write JSON: {error}")))?;
    text.push('\n');
    output::print(text.as_bytes())
}

/// `tracer doctor`. What cannot run is an answer, not a failure.
pub fn doctor(args: &FormatArgs) -> Result<u8, Failure> {
    let pretend = live::pretend(&args.pretend_no).map_err(|error| Failure::new(FAILED, error))?;
    let host = HostFacts::gather(pretend);
    let doctor = Doctor {
        hooks: hooks::survey(&host),
        families: FAMILIES
            .iter()
            .map(|family| FamilyState { family: family.name(), readiness: family.can_run(&host) })
            .collect(),
        host: &host,
    };
    match args.format {
        Format::Json => json(&doctor)?,
        Format::Text => output::print(text(&doctor).as_bytes())?,
    }
    Ok(0)
}

fn text(doctor: &Doctor) -> String {
    let host = doctor.host;
    let mut lines = vec![
        format!("kernel        {} ({}), {} CPUs", host.kernel, host.arch, host.cpus_online),
        format!("type info     {}", if host.has_btf { "present" } else { "absent (/sys/kernel/btf/vmlinux)" }),
        format!(
            "tracefs       {}",
            host.tracefs.as_ref().map_or_else(|| "not mounted".to_owned(), |path| path.display().to_string())
        ),
        format!("cgroups       {}", host.cgroup_version),
        format!("lockdown      {}", host.lockdown.as_deref().unwrap_or("unknown (securityfs is not mounted)")),
        format!(
            "capabilities  {}",
            if host.capabilities.is_empty() {
                "none that a tracer needs".to_owned()
            } else {
                host.capabilities.join(" ")
            }
        ),
        format!(
            "allowed       {}",
            match host.may_trace() {
                Ok(()) if host.root => "everything".to_owned(),
                Ok(()) =>
                    "loading programs; without root also CAP_SYS_PTRACE is needed to read other users' processes \
                           in /proc when attaching, and memory limits apply"
                        .to_owned(),
                Err(reason) => format!(
                    "no tracing: {reason}. CAP_BPF and CAP_PERFMON alone suffice to load and attach; CAP_SYS_PTRACE \
                     adds what existing threads wait for. Reading captures needs nothing"
                ),
            }
        ),
        String::new(),
        "hooks".to_owned(),
    ];
    for hook in &doctor.hooks {
        lines.push(row(hook.hook, hook.status, hook.reason.as_deref()));
    }
    lines.extend([String::new(), "families".to_owned()]);
    for state in &doctor.families {
        lines.push(row(state.family, state.readiness.id(), state.readiness.reason()));
        if let Readiness::Degraded { remedy, .. } | Readiness::Unavailable { remedy, .. } = &state.readiness {
            lines.push(format!("  {:<24}{:<13}remedy: {remedy}", "", ""));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

fn row(name: &str, status: &str, reason: Option<&str>) -> String {
    let line = format!("  {name:<24}{status:<13}{}", reason.unwrap_or_default());
    line.trim_end().to_owned()
}

/// `tracer families`.
pub fn families(args: &FormatArgs) -> Result<u8, Failure> {
    let rows: Vec<FamilyRow> = FAMILIES
        .iter()
        .map(|family| FamilyRow {
            family: family.name(),
            question: family.question(),
            cost_class: family.cost_class(),
            programs: family.programs(),
        })
        .collect();
    match args.format {
        Format::Json => json(&rows)?,
        Format::Text => {
            let mut lines = Vec::new();
            for row in &rows {
                let cost = match row.cost_class {
                    crate::families::CostClass::PerSwitch => "runs at every context switch of the target",
                    crate::families::CostClass::Sampled => {
                        "runs at the sampling rate (--sample-hz), and as often for each second that threads wait"
                    }
                    crate::families::CostClass::PerFault => {
                        "runs at every page fault of the target, or page of a file that it brings into memory"
                    }
                    crate::families::CostClass::PerRequest => "runs a few times per request of a block device",
                    crate::families::CostClass::PerMapping => {
                        "runs with each call of the target that maps, unmaps or gives back memory"
                    }
                    crate::families::CostClass::PerCall => {
                        "runs with each call of a database's client, and adds microseconds to it; only with --db"
                    }
                    crate::families::CostClass::PerSystemCall => {
                        "runs with each system call of the whole host, and makes each some 80 ns longer; only with --file-exact"
                    }
                    crate::families::CostClass::Rare => "runs rarely",
                };
                lines.push(format!("{}: {}", row.family, row.question));
                lines.push(format!("  cost class: {cost}"));
                for program in row.programs {
                    let (hook, fallback) = (hook(program.hook), program.fallback.map(|other| other.name));
                    let or = fallback.map(|name| format!(", else {name}")).unwrap_or_default();
                    let need = if program.required { " (required)" } else { "" };
                    lines.push(format!("  {:<22}{hook}{or}{need}: {}", program.name, program.purpose));
                }
            }
            lines.push(String::new());
            lines.push(rules());
            lines.push(String::new());
            output::print(lines.join("\n").as_bytes())?;
        }
    }
    Ok(0)
}

/// How many rules there are, and which of them no real run has shown yet.
fn rules() -> String {
    let unproven: Vec<&str> = RULES.iter().filter(|rule| !rule.is_proven()).map(|rule| rule.class()).collect();
    let which = if unproven.is_empty() { String::new() } else { format!(" ({})", unproven.join(", ")) };
    format!(
        "{} rules; {} of them unproven: no real run has shown what they look for{which}",
        RULES.len(),
        unproven.len()
    )
}

fn hook(hook: Hook) -> String {
    match hook {
        Hook::TpBtf { name } => format!("tp_btf {name}"),
        Hook::Behind { name, .. } => format!("tp_btf {name}, now and then"),
        Hook::Tracepoint { category, name } => format!("tracepoint {category}:{name}"),
        Hook::RawTracepoints { names } => format!("raw_tracepoint {}", names.join(", ")),
        Hook::PerfEvent => "perf_event cpu-clock".to_owned(),
        Hook::StepEntry => "uprobe, with --step".to_owned(),
        Hook::StepWatch => "perf_event breakpoint, with --step".to_owned(),
        Hook::CallEntry => "uprobe, with --db".to_owned(),
        Hook::CallReturn => "uretprobe, with --db".to_owned(),
        Hook::Iterator { over } => format!("iter {over}"),
    }
}
