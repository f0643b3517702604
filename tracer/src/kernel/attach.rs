//! Attaches the programs of a family and says what is lost with those that cannot attach. Not here: loading the object (`loader`),
//! nor what a family consists of (`families`).

use std::time::Duration;

use aya::{
    Ebpf,
    programs::{
        BtfTracePoint, PerfEvent, Program as AyaProgram, TracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
};
use tracer_common::config::Config;

use super::loader::{LoadError, Plan, Running};
use crate::{
    families::{Family, Hook, Program},
    model::meta::FamilyRecord,
};

/// The clocks of the CPUs start within this time, each at another moment.
const MOST_SPREAD_NS: u64 = 20_000_000;

/// Attaches a family's programs and says what is missing.
pub fn family(
    family: &'static dyn Family,
    plan: &Plan,
    config: &Config,
    ebpf: &mut Ebpf,
    btf: Option<&aya::Btf>,
    running: &mut Vec<Running>,
) -> Result<FamilyRecord, LoadError> {
    let readiness = family.can_run(plan.host);
    let mut reasons: Vec<String> = readiness.reason().map(str::to_owned).into_iter().collect();
    // Whatever writes records about threads must be there before the switches that mention them: rare programs first.
    let (first, last): (Vec<&Program>, Vec<&Program>) = family.programs().iter().partition(|program| !program.required);
    for program in first.into_iter().chain(last) {
        if plan.without.iter().any(|name| name == program.name) {
            reasons.push(format!("{} is switched off", program.name));
            continue;
        }
        let mut outcome = attach(ebpf, program.name, program.hook, btf, config);
        let mut name = program.name;
        if let (Err(_), Some(fallback)) = (&outcome, program.fallback) {
            if plan.without.iter().any(|name| name == fallback.name) {
                reasons.push(format!("{} is switched off", fallback.name));
                continue;
            }
            let second = attach(ebpf, fallback.name, fallback.hook, btf, config);
            if second.is_ok() || btf.is_none() {
                name = fallback.name;
                outcome = second;
            }
        }
        match outcome {
            Ok(fd) => running.push(Running { name, family: family.name(), fd }),
            Err(reason) if program.required => {
                return Err(LoadError::Unavailable {
                    family: family.name().to_owned(),
                    reason: format!("{name} does not attach: {reason}"),
                });
            }
            Err(reason) => reasons.push(format!("{name} does not attach ({reason}): lost is {}", program.purpose)),
        }
    }
    let status = match () {
        () if reasons.is_empty() => "ready",
        () if running.iter().any(|program| program.family == family.name()) => "degraded",
        () => "unavailable",
    };
    if !reasons.is_empty() && plan.insisted.contains(&family.name()) {
        tracing::info!("family {} is degraded: {}", family.name(), reasons.join("; "));
    }
    Ok(FamilyRecord {
        family: family.name().to_owned(),
        status: status.to_owned(),
        reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
    })
}

fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    hook: Hook,
    btf: Option<&aya::Btf>,
    config: &Config,
) -> Result<aya::programs::ProgramFd, String> {
    let program = ebpf.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))?;
    let text = |error: aya::programs::ProgramError| {
        tracing::debug!("{name}: {}", chain(&error));
        brief(&chain(&error))
    };
    match hook {
        Hook::TpBtf { name } => {
            let btf = btf.ok_or_else(|| "the kernel has no BTF".to_owned())?;
            let program: &mut BtfTracePoint = program.try_into().map_err(text)?;
            program.load(name, btf).map_err(text)?;
            program.attach().map_err(text)?;
        }
        Hook::Tracepoint { category, name } => {
            let program: &mut TracePoint = program.try_into().map_err(text)?;
            program.load().map_err(text)?;
            program.attach(category, name).map_err(text)?;
        }
        Hook::PerfEvent => {
            let program: &mut PerfEvent = program.try_into().map_err(text)?;
            program.load().map_err(text)?;
            attach_clocks(program, config.sample_period_ns)?;
        }
    }
    let program: &AyaProgram = ebpf.program(name).ok_or_else(|| format!("the object has no program {name}"))?;
    program.fd().map_err(text)?.try_clone().map_err(|error| error.to_string())
}

/// Starts a clock on each CPU that is online now. One that comes online later is not sampled.
fn attach_clocks(program: &mut PerfEvent, period_ns: u64) -> Result<(), String> {
    let cpus = aya::util::online_cpus().map_err(|(what, error)| format!("{what}: {error}"))?;
    // All at the same moment would get in each other's way, and would see what happens at the same moment on all of them.
    let step_ns = period_ns.min(MOST_SPREAD_NS) / cpus.len().max(1) as u64;
    let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
    for (index, cpu) in cpus.into_iter().enumerate() {
        if index > 0 {
            std::thread::sleep(Duration::from_nanos(step_ns));
        }
        program
            .attach(clock, PerfEventScope::AllProcessesOneCpu { cpu }, SamplePolicy::Period(period_ns), false)
            .map_err(|error| format!("clock of CPU {cpu}: {}", chain(&error)))?;
    }
    Ok(())
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
}

/// An error without the verifier's log but its last word.
fn brief(text: &str) -> String {
    let Some((error, log)) = text.split_once(" Verifier output:") else { return text.to_owned() };
    let verdict = log
        .split(" | ")
        .filter(|line| !line.starts_with("verification time"))
        .take_while(|line| !line.starts_with("stack depth") && !line.starts_with("processed "));
    match verdict.last() {
        Some(verdict) => format!("{error} the verifier says: {}", verdict.trim()),
        None => error.to_owned(),
    }
}
