//! Runs a command with a limit and keeps what it prints. A test that hangs must not end the run of those behind it.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::machine;

/// How a command ended.
pub struct Ended {
    /// Both streams, in the order in which they were written.
    pub text: String,
    /// How long it took.
    pub seconds: f64,
    status: Result<ExitStatus, String>,
}

/// Runs it to its end, or kills it when its time is up.
pub fn run(command: &mut Command, limit: Duration) -> Ended {
    // A file, not a pipe: children that outlive the command would keep a pipe open.
    let file = Path::new("/tmp/vm-said");
    let start = Instant::now();
    let status = File::create(file).map_err(|error| format!("has nowhere to print: {error}")).and_then(|to| {
        let also = to.try_clone().map_err(|error| format!("has nowhere to print: {error}"))?;
        command.stdin(Stdio::null()).stdout(to).stderr(also);
        wait(command, limit)
    });
    let seconds = start.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    Ended { text, seconds, status }
}

fn wait(command: &mut Command, limit: Duration) -> Result<ExitStatus, String> {
    let mut child = command.spawn().map_err(|error| format!("was not started: {error}"))?;
    let end = Instant::now() + limit;
    loop {
        machine::collect_orphans(child.id());
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("was killed when it had not ended after {} s", limit.as_secs()));
            }
            Err(error) => return Err(format!("cannot be waited for: {error}")),
        }
    }
}

impl Ended {
    /// Whether it ended with status 0.
    pub fn is_success(&self) -> bool {
        self.status.as_ref().is_ok_and(|status| status.success())
    }

    /// "ended with status 1".
    pub fn how(&self) -> String {
        match &self.status {
            Err(how) => how.clone(),
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with status {code}"),
                (None, signal) => format!("was killed by signal {}", signal.unwrap_or(0)),
            },
        }
    }

    /// The last so many bytes of what it printed.
    pub fn tail(&self, bytes: usize) -> String {
        let mut start = self.text.len().saturating_sub(bytes);
        while !self.text.is_char_boundary(start) {
            start += 1;
        }
        self.text[start..].to_owned()
    }
}
