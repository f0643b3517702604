//! `tracer record`: attach to what runs, report at the end.

use std::{collections::HashMap, time::Duration};

use tracer_common::record::meta;

use super::{
    FAILED, Failure, core,
    live::{self, Session, Signals},
    output::{self, Named},
    progress, step,
    target::Target,
};
use crate::{
    cli::RecordArgs,
    kernel::{
        clock,
        host::HostFacts,
        live::push_meta,
        proc::{self, Scanner},
        step_points::Points,
    },
};

/// Whether the targets still exist is looked at this often.
const ALIVE_EVERY: Duration = Duration::from_millis(200);

fn failure(message: impl std::fmt::Display) -> Failure {
    Failure::new(FAILED, message)
}

/// Records.
pub fn record(args: &RecordArgs) -> Result<u8, Failure> {
    super::start_logging(&args.talk);
    live::check_fail_on(&args.output, FAILED)?;
    live::choose(&args.trace).map_err(failure)?;
    let pretend = live::pretend(&args.trace.pretend_no).map_err(failure)?;
    let target = Target::resolve(args).map_err(failure)?;
    let host = HostFacts::gather(pretend);
    host.may_trace().map_err(failure)?;
    let mut destination = args.output.output.as_deref().map(Named::open).transpose().map_err(failure)?;
    // A signal that comes while attaching ends the recording once it has begun.
    let runtime = live::runtime().map_err(failure)?;
    let mut signals = Signals::listen(&runtime).map_err(failure)?;
    let steps = step::points(&args.trace, target.processes()).map_err(failure)?;
    let session = attach(args, &target, steps.as_ref(), host)?;
    let reason = runtime.block_on(wait(args, &target, &mut signals));
    let ended = session.end(reason, None).map_err(failure)?;
    let report = &ended.report;
    if !args.no_capture && !args.talk.quiet {
        eprintln!("tracer: events kept in {0} (`tracer report {0}`)", args.capture.display());
    }
    live::say_if_unfocused(report, &args.trace);
    live::say_if_without_steps(report, &args.trace);
    let to_terminal = output::colour(&std::io::stdout()) && destination.is_none();
    let bytes = live::render(report, args.output.format, to_terminal).map_err(failure)?;
    match &mut destination {
        Some(named) => named.write(&bytes).map_err(failure)?,
        None => output::print(&bytes)?,
    }
    if !ended.capture_whole {
        return Err(failure("the capture is not whole: parts of it could not be written (is the disk full?)"));
    }
    Ok(u8::from(live::failed_on(report, &args.output)))
}

/// Attaches, then reads what exists: what changes in between is seen by the probes.
fn attach(args: &RecordArgs, target: &Target, steps: Option<&Points>, host: HostFacts) -> Result<Session, Failure> {
    let mut prepared =
        live::prepare(&args.trace, target.filter.clone(), &target.record, steps, host).map_err(failure)?;
    prepared.start();
    let threads = target.track(&mut prepared.loaded).map_err(failure)?;
    let mut scanner = Scanner::new(prepared.host.known_arch());
    let (mut seeds, mut switches) = (0, HashMap::new());
    for (tgid, tid) in threads {
        switches.extend(proc::switches_asleep(tgid, tid).map(|count| (tid, count)));
        let now_ns = clock::monotonic_ns();
        if let Some(seed) = scanner.seed(tgid, tid) {
            push_meta(&mut prepared.first, now_ns, meta::SEED, &seed);
            seeds += 1;
        }
    }
    prepared.find_sleepers(&switches);
    if seeds == 0 && !args.pid.is_empty() {
        let pids: Vec<String> = args.pid.iter().map(u32::to_string).collect();
        return Err(failure(format!(
            "process {} ended while the tracer attached: nothing was recorded; start it under `tracer run` instead",
            pids.join(", ")
        )));
    }
    let capture = if args.no_capture {
        None
    } else {
        let writer = core::capture(&args.capture, args.trace.capture_size).map_err(failure)?;
        Some(writer)
    };
    if !args.talk.quiet {
        let until = match args.trace.duration {
            Some(duration) => format!("for {:.1} s, or until Ctrl-C", duration.as_secs_f64()),
            None => "until Ctrl-C".to_owned(),
        };
        eprintln!("tracer: attached to {seeds} threads; recording {until}");
    }
    prepared.spawn(capture, progress::naming(args.talk.quiet)).map_err(failure)
}

/// Waits for the end and says what it was.
async fn wait(args: &RecordArgs, target: &Target, signals: &mut Signals) -> &'static str {
    let deadline = args.trace.duration.map(|duration| tokio::time::Instant::now() + duration);
    let mut alive = tokio::time::interval(ALIVE_EVERY);
    loop {
        tokio::select! {
            _ = signals.interrupt.recv() => return "interrupted",
            _ = signals.terminate.recv() => return "interrupted",
            _ = signals.hangup.recv() => return "interrupted",
            _ = alive.tick() => if !target.alive() { return "target-ended" },
            () = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            } => return "duration",
        }
    }
}
