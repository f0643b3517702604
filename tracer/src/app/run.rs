//! `tracer run -- CMD`: start it held back, attach, let it go, wait, report.

use std::ffi::OsString;

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tracer_common::record::meta;

use super::{
    Failure, RUN_FAILED, core,
    live::{self, Ended, Session, Signals},
    output::{self, Named},
    progress, step,
};
use crate::{
    cli::{Format, RunArgs},
    kernel::{
        host::HostFacts,
        launch::{self, Held},
        live::push_meta,
        loader::Filter,
        proc::Scanner,
        step_points::Points,
    },
    model::meta::TargetRecord,
};

/// Exit code when CMD was well but `--fail-on` matched.
const FAIL_ON_MATCHED: u8 = 3;

/// Whether the report is made is looked at this often.
const FINISHED_EVERY: std::time::Duration = std::time::Duration::from_millis(2);

fn failure(message: impl std::fmt::Display) -> Failure {
    Failure::new(RUN_FAILED, message)
}

/// Runs the command.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    super::start_logging(&args.talk);
    live::check_fail_on(&args.output, RUN_FAILED)?;
    if args.output.format == Format::Json && args.output.output.is_none() {
        return Err(failure("--format json needs a file: add -o FILE (`-o -` is stdout, which CMD writes to as well)"));
    }
    live::choose(&args.trace).map_err(failure)?;
    let pretend = live::pretend(&args.trace.pretend_no).map_err(failure)?;
    let sudo_user = std::env::var("SUDO_USER").ok();
    let user = launch::run_as(args.user.as_deref(), sudo_user.as_deref()).map_err(failure)?;
    if let Some(user) = &user
        && args.user.is_none()
        && !args.talk.quiet
    {
        eprintln!(
            "tracer: running as {} (use --user root for root)",
            crate::model::text::printable(user.name.as_bytes())
        );
    }
    let steps = step::points(&args.trace, []).map_err(failure)?;
    // Before any thread exists and before any descriptor that the command must not have.
    let held = launch::hold(&args.command, user.as_ref()).map_err(|error| launch_failure(&error))?;
    let mut destination = args.output.output.as_deref().map(Named::open).transpose().map_err(failure)?;
    // From here on signals wait until the command runs and can be sent them.
    let runtime = live::runtime().map_err(failure)?;
    let signals = Signals::listen(&runtime).map_err(failure)?;
    let pid = held.pid;
    let target = TargetRecord {
        mode: "run".to_owned(),
        command: args.command.iter().map(text).collect(),
        pids: vec![pid],
        user: user.as_ref().map(|user| user.name.clone()),
        ..TargetRecord::default()
    };
    let session = attach(args, held, &target, steps.as_ref(), pretend)?;
    let (status, ended) = wait(args, session, pid, &runtime, signals)?;
    let report = &ended.report;
    live::say_if_unfocused(report, &args.trace);
    live::say_if_without_steps(report, &args.trace);
    let to_terminal = output::colour(&std::io::stderr()) && destination.is_none();
    let bytes = live::render(report, args.output.format, to_terminal).map_err(failure)?;
    match &mut destination {
        Some(named) => named.write(&bytes).map_err(failure)?,
        None => eprint!("{}", String::from_utf8_lossy(&bytes)),
    }
    Ok(match status {
        Some(0) | None if !ended.capture_whole => {
            return Err(failure("the capture is not whole: parts of it could not be written (is the disk full?)"));
        }
        Some(0) | None if live::failed_on(report, &args.output) => FAIL_ON_MATCHED,
        Some(code) => code as u8,
        None => 0,
    })
}

fn text(word: &OsString) -> String {
    use std::os::unix::ffi::OsStrExt;
    crate::model::text::printable(word.as_bytes())
}

fn launch_failure(error: &launch::LaunchError) -> Failure {
    Failure::new(error.exit_code() as u8, error)
}

/// Attaches to the held command and lets it go.
fn attach(
    args: &RunArgs,
    held: Held,
    target: &TargetRecord,
    steps: Option<&Points>,
    pretend: crate::kernel::host::Pretend,
) -> Result<Session, Failure> {
    let pid = held.pid;
    let host = HostFacts::gather(pretend);
    let mut prepared = live::prepare(&args.trace, Filter::default(), target, steps, host).map_err(failure)?;
    prepared.loaded.track(pid).map_err(failure)?;
    let capture = args
        .capture
        .as_deref()
        .map(|path| core::capture(path, args.trace.capture_size))
        .transpose()
        .map_err(failure)?;
    let start_ns = prepared.start();
    if let Some(seed) = Scanner::new(prepared.host.known_arch()).seed(pid, pid) {
        push_meta(&mut prepared.first, start_ns, meta::SEED, &seed);
    }
    // Before CMD runs, so that what lives for a moment only is looked at in that moment.
    let session = prepared.spawn(capture, progress::naming(args.talk.quiet)).map_err(failure)?;
    held.release().map_err(|error| launch_failure(&error))?;
    Ok(session)
}

/// Waits for the command, the duration or a second thought. Gives the command's exit code, if it has ended, and the report.
fn wait(
    args: &RunArgs,
    session: Session,
    pid: u32,
    runtime: &tokio::runtime::Runtime,
    mut signals: Signals,
) -> Result<(Option<i32>, Ended), Failure> {
    let status = runtime.block_on(command_ends(args, Pid::from_raw(pid as i32), &mut signals));
    let reason = if status.is_some() { "target-ended" } else { "duration" };
    let finisher = std::thread::spawn(move || session.end(reason, status));
    // From here on Ctrl-C means: no report, keep the capture.
    let interrupted = runtime.block_on(async {
        // The Ctrl-C that may have ended the command is not a second one.
        let _ = tokio::time::timeout(FINISHED_EVERY, signals.interrupt.recv()).await;
        while !finisher.is_finished() {
            tokio::select! {
                _ = signals.interrupt.recv() => return true,
                () = tokio::time::sleep(FINISHED_EVERY) => {}
            }
        }
        false
    });
    if interrupted {
        return Err(Failure {
            message: match &args.capture {
                Some(path) => format!("interrupted: no report; `tracer report {}` makes it", path.display()),
                None => "interrupted: no report, and no capture was kept".to_owned(),
            },
            code: status.unwrap_or(0) as u8,
        });
    }
    let ended = finisher.join().map_err(|_| failure("making the report failed"))?.map_err(failure)?;
    Ok((status, ended))
}

/// The command's exit code; `None` when the duration came first.
async fn command_ends(args: &RunArgs, pid: Pid, signals: &mut Signals) -> Option<i32> {
    let deadline = args.trace.duration.map(|duration| tokio::time::Instant::now() + duration);
    loop {
        if let Some(code) = exit_code(pid) {
            return Some(code);
        }
        tokio::select! {
            _ = signals.child.recv() => {}
            // The terminal has sent these to CMD as well: wait for what it makes of them.
            _ = signals.interrupt.recv() => {}
            _ = signals.quit.recv() => {}
            _ = signals.terminate.recv() => { let _ = kill(pid, Signal::SIGTERM); }
            _ = signals.hangup.recv() => { let _ = kill(pid, Signal::SIGHUP); }
            () = sleep_until(deadline) => return None,
        }
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The command's exit code, 128+n for a signal; `None` while it runs.
fn exit_code(pid: Pid) -> Option<i32> {
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Some(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as i32),
        Ok(_) => None,
        Err(_) => Some(i32::from(RUN_FAILED)),
    }
}
