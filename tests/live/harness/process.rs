//! Programs in the background: their output, their end, and no wait without a limit.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status; none when a signal ended it.
    pub code: Option<i32>,
    /// That signal.
    pub signal: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = |text: &str| text.chars().rev().take(3000).collect::<Vec<_>>().into_iter().rev().collect::<String>();
        write!(
            f,
            "code {:?}, signal {:?}, after {:.2} s\n--- stdout\n{}\n--- stderr\n{}",
            self.code,
            self.signal,
            self.elapsed.as_secs_f64(),
            tail(&self.stdout),
            tail(&self.stderr)
        )
    }
}

/// A program that runs. It and its process group are killed when this is dropped.
pub struct Background {
    child: Child,
    started: Instant,
    lines: Receiver<String>,
    seen: String,
    stderr: Option<JoinHandle<String>>,
    complained: Arc<Mutex<Vec<u8>>>,
    over: bool,
}

impl Background {
    /// Starts it in a process group of its own.
    pub fn start(mut line: Command) -> Self {
        line.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // A shell that starts the tests in the background has them ignore Ctrl-C, nohup a hang-up, and so all their children.
        // SAFETY: signal(2) may be called between fork and exec.
        unsafe {
            line.pre_exec(|| {
                for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            });
        }
        let started = Instant::now();
        let mut child = line.spawn().unwrap_or_else(|error| panic!("cannot run {line:?}: {error}"));
        let (sender, lines) = channel();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe was asked for"));
        // Ends by itself at the end of the stream; a program that keeps the stream must not keep the test.
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            while stdout.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
                if sender.send(String::from_utf8_lossy(&bytes).into_owned()).is_err() {
                    break;
                }
                bytes.clear();
            }
        });
        let mut stderr = child.stderr.take().expect("a pipe was asked for");
        let complained = Arc::new(Mutex::new(Vec::new()));
        let kept = complained.clone();
        let stderr = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut piece) {
                kept.lock().expect("no other holder panics").extend_from_slice(&piece[..count]);
            }
            String::from_utf8_lossy(&kept.lock().expect("no other holder panics")).into_owned()
        });
        Background { child, started, lines, seen: String::new(), stderr: Some(stderr), complained, over: false }
    }

    /// Starts a program by its command line.
    pub fn command(line: &[std::ffi::OsString]) -> Self {
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]);
        Self::start(command)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of JSON that it prints.
    pub fn next_json(&mut self) -> Value {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|error| {
                panic!("no line of JSON within 20 s ({error}); printed so far: {:?}", self.seen);
            });
            self.seen.push_str(&line);
            if let Ok(value) = serde_json::from_str(&line) {
                return value;
            }
        }
    }

    /// What it has complained so far.
    pub fn complained(&self) -> String {
        String::from_utf8_lossy(&self.complained.lock().expect("no other holder panics")).into_owned()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: takes two numbers; the child is not reaped before `over`.
        let result = unsafe { libc::kill(self.pid() as i32, signal) };
        assert_eq!(result, 0, "cannot send signal {signal} to {}", self.pid());
    }

    /// Sends its process group a signal, as a terminal does.
    pub fn signal_group(&self, signal: i32) {
        // SAFETY: as above; the child leads its group.
        let result = unsafe { libc::killpg(self.pid() as i32, signal) };
        assert_eq!(result, 0, "cannot send signal {signal} to group {}", self.pid());
    }

    /// Waits for its end. What others that it started still print is not waited for longer than a moment.
    pub fn end_within(mut self, limit: Duration) -> Ended {
        let end = self.started + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                break status;
            }
            if Instant::now() > end {
                self.kill();
                let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
                panic!("did not end within {limit:?}; printed {:?} and complained {stderr:?}", self.seen);
            }
            while let Ok(line) = self.lines.try_recv() {
                self.seen.push_str(&line);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let elapsed = self.started.elapsed();
        self.over = true;
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(2)) {
            self.seen.push_str(&line);
        }
        let stderr = self.stderr.take().expect("taken once");
        let patience = Instant::now() + Duration::from_secs(2);
        while !stderr.is_finished() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        let stderr = if stderr.is_finished() { stderr.join().unwrap_or_default() } else { "(still open)".to_owned() };
        Ended { code: status.code(), signal: status.signal(), stdout: std::mem::take(&mut self.seen), stderr, elapsed }
    }

    fn kill(&mut self) {
        // SAFETY: takes two numbers; the child is not reaped yet, so the group is its own.
        unsafe { libc::killpg(self.pid() as i32, libc::SIGKILL) };
        let _ = self.child.wait();
        self.over = true;
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if !self.over {
            self.kill();
        }
    }
}

/// Asks again and again until the answer is yes. Fails after the limit.
#[track_caller]
pub fn until(what: &str, limit: Duration, mut question: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !question() {
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process exists and has not ended.
pub fn alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all = std::fs::read_dir("/proc").expect("/proc is mounted");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|child| parent(*child) == Some(pid)).collect()
}
