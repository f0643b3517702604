//! Attaches the programs of a family and says what is lost with those that cannot attach. Not here: loading the object (`loader`),
//! nor what a family consists of (`families`).

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::ProgramArray,
    programs::{
        BtfTracePoint, Iter, PerfEvent, Program as AyaProgram, ProgramError, RawTracePoint, TracePoint, UProbe,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
};
use tracer_common::config::Config;

use super::loader::{LoadError, Plan, Running};
use super::step_points::Points;
use crate::{
    families::{Family, Hook, Program},
    model::meta::FamilyRecord,
};

/// The clocks of the CPUs start within this time, each at another moment.
const MOST_SPREAD_NS: u64 = 20_000_000;
/// No kernel has a CPU with a higher number.
const MOST_CPUS: u32 = 8192;

/// The object's programs, and how loading those that were loaded ended.
pub struct Programs<'a> {
    ebpf: &'a mut Ebpf,
    btf: Option<&'a aya::Btf>,
    loaded: HashMap<&'static str, Result<(), String>>,
    /// Where steps begin, if they were asked for.
    steps: Option<&'a Points>,
    /// What keeps programs attached there.
    pub links: Vec<OwnedFd>,
}

impl<'a> Programs<'a> {
    /// Loads these programs, several at once: what the kernel's verifier takes for them is most of the time until tracing starts.
    pub fn load(
        ebpf: &'a mut Ebpf,
        btf: Option<&'a aya::Btf>,
        wanted: &[(&'static str, Hook)],
        steps: Option<&'a Points>,
    ) -> Self {
        let hooks: HashMap<&str, (&'static str, Hook)> =
            wanted.iter().map(|(name, hook)| (*name, (*name, *hook))).collect();
        // The last families' programs are the longest, and are taken first.
        let mut jobs: Vec<(&'static str, Hook, &mut AyaProgram)> = ebpf
            .programs_mut()
            .filter_map(|(name, program)| hooks.get(name).map(|(name, hook)| (*name, *hook, program)))
            .collect();
        jobs.sort_by_key(|(name, ..)| wanted.iter().position(|(other, _)| other == name));
        let workers = thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
        let (jobs, loaded) = (Mutex::new(jobs), Mutex::new(HashMap::new()));
        let work = || {
            while let Some((name, hook, program)) = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop() {
                let outcome = load(program, name, hook, btf);
                loaded.lock().unwrap_or_else(PoisonError::into_inner).insert(name, outcome);
            }
        };
        thread::scope(|scope| {
            for _ in 1..workers {
                // Where no thread can be had, this one does the work.
                let _ = thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let loaded = loaded.into_inner().unwrap_or_else(PoisonError::into_inner);
        Self { ebpf, btf, loaded, steps, links: Vec::new() }
    }

    /// Attaches a program; loads it before, if that was not tried yet. Where it attaches in part, the reasons say what is missing.
    fn attach(
        &mut self,
        name: &'static str,
        hook: Hook,
        config: &Config,
        reasons: &mut Vec<String>,
    ) -> Result<aya::programs::ProgramFd, String> {
        let steps = self.steps.filter(|_| hook.is_for_steps());
        let (program, fd) = self.loaded(name, hook)?;
        if let Hook::Behind { map, .. } = hook {
            put_behind(self.ebpf, map, &fd).map_err(|error| chain(&error))?;
        } else if let Some(steps) = steps {
            let links = steps.attach(fd.as_fd())?;
            self.links.extend(links);
        } else {
            reasons.extend(attach(program, name, hook, config)?);
        }
        Ok(fd)
    }

    /// A program; loads it, if that was not tried yet.
    fn loaded(
        &mut self,
        name: &'static str,
        hook: Hook,
    ) -> Result<(&mut AyaProgram, aya::programs::ProgramFd), String> {
        let program = self.ebpf.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))?;
        self.loaded.entry(name).or_insert_with(|| load(program, name, hook, self.btf)).clone()?;
        let fd = program.fd().map_err(|error| text(name, &error))?.try_clone().map_err(|error| error.to_string())?;
        Ok((program, fd))
    }
}

/// Attaches a family's programs and says what is missing.
pub fn family(
    family: &'static dyn Family,
    plan: &Plan,
    config: &Config,
    programs: &mut Programs,
    running: &mut Vec<Running>,
) -> Result<FamilyRecord, LoadError> {
    let readiness = family.can_run(plan.host);
    let mut reasons: Vec<String> = readiness.reason().map(str::to_owned).into_iter().collect();
    // Whatever writes records about threads must be there before the switches that mention them: rare programs first.
    let (first, last): (Vec<&Program>, Vec<&Program>) = family.programs().iter().partition(|program| !program.required);
    for program in first.into_iter().chain(last).filter(|program| plan.wants(program.hook)) {
        if plan.without.iter().any(|name| name == program.name) {
            reasons.push(format!("{} is switched off", program.name));
            continue;
        }
        if let Some(lost) = plan.host.btf.as_ref().and_then(|btf| program.without_tracepoint(btf))
            && !program.required
            && program.fallback.is_none()
        {
            if !reasons.iter().any(|reason| reason.contains(&lost)) {
                reasons.push(lost);
            }
            continue;
        }
        let runs = |name| running.iter().any(|running: &Running| running.name == name);
        let waits = family.on_demand(config).is_some_and(|one| one.program == program.name && runs(one.stands_in))
            || family.while_at_unix_sockets().contains(&program.name)
            || family.until_proven(config) == Some(program.name);
        let mut outcome = match waits {
            true => programs.loaded(program.name, program.hook).map(|(_, fd)| fd),
            false => programs.attach(program.name, program.hook, config, &mut reasons),
        };
        let mut name = program.name;
        if let (Err(_), Some(fallback)) = (&outcome, program.fallback) {
            if plan.without.iter().any(|name| name == fallback.name) {
                reasons.push(format!("{} is switched off", fallback.name));
                continue;
            }
            let second = programs.attach(fallback.name, fallback.hook, config, &mut reasons);
            if let (Err(refused), Ok(_), Hook::Tracepoint { .. }, true) =
                (&outcome, &second, fallback.hook, programs.btf.is_some())
            {
                reasons.push(format!(
                    "{name} does not attach ({refused}): {} runs instead, which sees no kernel structures, and so less",
                    fallback.name
                ));
            }
            if second.is_ok() || programs.btf.is_none() {
                name = fallback.name;
                outcome = second;
            }
        }
        match outcome {
            Ok(fd) => running.push(Running {
                name,
                family: family.name(),
                fd,
                is_measured: !matches!(program.hook, Hook::Behind { .. }),
            }),
            Err(reason) if program.hook.is_for_steps() => return Err(LoadError::Steps(reason)),
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

/// Hands a program to the kernel, which verifies it.
fn load(program: &mut AyaProgram, name: &str, hook: Hook, btf: Option<&aya::Btf>) -> Result<(), String> {
    let started = Instant::now();
    match hook {
        Hook::TpBtf { name: tracepoint } | Hook::Behind { name: tracepoint, .. } => {
            let btf = btf.ok_or_else(|| "the kernel has no BTF".to_owned())?;
            <&mut BtfTracePoint>::try_from(&mut *program).and_then(|program| program.load(tracepoint, btf))
        }
        Hook::Tracepoint { .. } => <&mut TracePoint>::try_from(&mut *program).and_then(TracePoint::load),
        Hook::RawTracepoints { .. } => <&mut RawTracePoint>::try_from(&mut *program).and_then(RawTracePoint::load),
        Hook::PerfEvent | Hook::StepWatch => <&mut PerfEvent>::try_from(&mut *program).and_then(PerfEvent::load),
        Hook::StepEntry | Hook::CallEntry | Hook::CallReturn => {
            <&mut UProbe>::try_from(&mut *program).and_then(UProbe::load)
        }
        Hook::Iterator { over } => {
            let btf = btf.ok_or_else(|| "the kernel has no BTF".to_owned())?;
            <&mut Iter>::try_from(&mut *program).and_then(|program| program.load(over, btf))
        }
    }
    .map_err(|error| text(name, &error))?;
    if tracing::enabled!(tracing::Level::DEBUG) {
        let steps = program.info().ok().and_then(|info| info.verified_instruction_count()).unwrap_or(0);
        tracing::debug!("{name}: loaded in {:?}, {steps} instructions verified", started.elapsed());
    }
    Ok(())
}

fn attach(program: &mut AyaProgram, name: &str, hook: Hook, config: &Config) -> Result<Option<String>, String> {
    match hook {
        Hook::TpBtf { .. } => <&mut BtfTracePoint>::try_from(program).and_then(|program| program.attach().map(drop)),
        Hook::Tracepoint { category, name: tracepoint } => {
            <&mut TracePoint>::try_from(program).and_then(|program| program.attach(category, tracepoint).map(drop))
        }
        Hook::RawTracepoints { names } => {
            <&mut RawTracePoint>::try_from(program).and_then(|program| attach_to_each(program, names))
        }
        Hook::PerfEvent => {
            let program: &mut PerfEvent = program.try_into().map_err(|error| text(name, &error))?;
            return attach_clocks(program, config.sample_period_ns);
        }
        // Where is not known here.
        Hook::StepEntry | Hook::StepWatch | Hook::CallEntry | Hook::CallReturn => Ok(()),
        // Its place in the map is what attaches it.
        Hook::Behind { .. } => Ok(()),
        // What reads it attaches it (`Loaded::iterate`); that it can be is shown here.
        Hook::Iterator { .. } => <&mut Iter>::try_from(program).and_then(|program| {
            let link = program.attach()?;
            program.detach(link)
        }),
    }
    .map_err(|error| text(name, &error))?;
    Ok(None)
}

fn text(name: &str, error: &aya::programs::ProgramError) -> String {
    let whole = chain(error);
    tracing::debug!("{name}: {whole}");
    brief(&whole)
}

/// Makes the program at a tracepoint go on with this one where it finds reason to.
fn put_behind(ebpf: &mut Ebpf, map: &str, program: &aya::programs::ProgramFd) -> Result<(), aya::maps::MapError> {
    let map = ebpf.map_mut(map).ok_or_else(|| aya::maps::MapError::InvalidName { name: map.to_owned() })?;
    ProgramArray::try_from(map)?.set(0, program, 0)
}

/// Starts a clock on each CPU that is online now. One that comes online later is not sampled. Gives a sentence about CPUs without.
fn attach_clocks(program: &mut PerfEvent, period_ns: u64) -> Result<Option<String>, String> {
    let cpus = aya::util::online_cpus().map_err(|(what, error)| format!("{what}: {error}"))?;
    let offline = present_cpus().into_iter().filter(|cpu| !cpus.contains(cpu)).collect();
    // All at the same moment would get in each other's way, and would see what happens at the same moment on all of them.
    let step_ns = period_ns.min(MOST_SPREAD_NS) / cpus.len().max(1) as u64;
    let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
    let (mut failed, mut first_error) = (Vec::new(), None);
    for (index, cpu) in cpus.iter().copied().enumerate() {
        if index > 0 {
            thread::sleep(Duration::from_nanos(step_ns));
        }
        let scope = PerfEventScope::AllProcessesOneCpu { cpu };
        if let Err(error) = program.attach(clock, scope, SamplePolicy::Period(period_ns), false) {
            // One that has gone offline just now must not end the run.
            failed.push(cpu);
            first_error.get_or_insert_with(|| format!("clock of CPU {cpu}: {}", chain(&error)));
        }
    }
    match first_error {
        Some(error) if failed.len() == cpus.len() => Err(error),
        first_error => Ok(unsampled(&failed, first_error.as_deref(), offline)),
    }
}

/// Attaches to each of these tracepoints that this kernel has now: which ones those are the modules decide that are loaded.
fn attach_to_each(program: &mut RawTracePoint, names: &[&str]) -> Result<(), ProgramError> {
    for name in names {
        match program.attach(name) {
            Ok(_) => {}
            Err(ProgramError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {
                tracing::debug!("this kernel has no tracepoint {name}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is not sampled, if anything.
fn unsampled(failed: &[u32], first_error: Option<&str>, offline: Vec<u32>) -> Option<String> {
    let list = |cpus: &[u32]| cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let mut parts = Vec::new();
    if let Some(error) = first_error {
        parts.push(format!("code on CPU {} is not sampled ({error})", list(failed)));
    }
    if !offline.is_empty() {
        parts.push(format!("CPU {} is offline; should it come online, its code is not sampled", list(&offline)));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// CPUs that are plugged in, whether online or not.
fn present_cpus() -> Vec<u32> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/present").unwrap_or_default();
    let numbers = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?.min(MOST_CPUS))
    };
    text.trim().split(',').filter_map(numbers).flatten().collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_sampled_is_said() {
        assert_eq!(unsampled(&[], None, Vec::new()), None);
        let said = unsampled(&[1, 3], Some("clock of CPU 1: no such device"), vec![5]).expect("a sentence");
        assert_eq!(
            said,
            "code on CPU 1, 3 is not sampled (clock of CPU 1: no such device); \
             CPU 5 is offline; should it come online, its code is not sampled"
        );
        assert!(present_cpus().contains(&0), "{:?}", present_cpus());
    }
}
