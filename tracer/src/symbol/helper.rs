//! The process that reads debug information: tracer itself, started again.
//!
//! A process of its own because no reader of DWARF stands every file: deep nesting exhausts the stack, a false size the memory, a
//! file that shrinks raises SIGBUS, and nothing can be interrupted. Here these end the helper, and the files' lines are missing. It
//! is also the one way to give all of its memory back. Questions and answers are lines of JSON on its standard input and output.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};

use crate::symbol::dwarf::Reader;
pub use crate::symbol::dwarf::{Answer, Reply};

/// The command that starts it; not for users.
const COMMAND: &str = "symbol-helper";
/// Memory that it may have.
const MEMORY_BYTES: u64 = 2 << 30;
/// CPU time after which the kernel ends it, should its parent be gone.
const CPU_S: u64 = 60;
/// Stack: nested debug information is read by recursion.
const STACK_BYTES: usize = 64 << 20;
/// Longest line read from it.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// What reads debug information.
#[derive(Clone, Debug)]
pub enum HelperKind {
    /// This program, started again: its `main` calls [`run_if_asked`] first.
    Itself,
    /// Another program with arguments.
    Program(PathBuf, Vec<String>),
    /// A thread of this process. For tests: a hostile file may end this process.
    Thread,
}

/// Why the helper gave no answer. It is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It did not answer in time.
    #[error("there was no time left")]
    TimedOut,
    /// It ended.
    #[error("the helper that reads it ended")]
    Ended,
    /// It could not be asked.
    #[error("the helper that reads it cannot be asked: {0}")]
    Io(#[from] io::Error),
}

#[derive(Serialize, Deserialize)]
struct Question {
    path: PathBuf,
    addresses: Vec<u64>,
}

/// A running helper. Dropping it ends it.
pub struct Helper {
    child: Option<Child>,
    questions: Box<dyn Write + Send>,
    replies: Receiver<Reply>,
}

impl std::fmt::Debug for Helper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Helper").field("child", &self.child).finish_non_exhaustive()
    }
}

impl Helper {
    /// Starts one.
    pub fn start(kind: &HelperKind) -> io::Result<Self> {
        match kind {
            HelperKind::Itself => Self::process(Command::new("/proc/self/exe").arg(COMMAND)),
            HelperKind::Program(program, arguments) => Self::process(Command::new(program).args(arguments)),
            HelperKind::Thread => Self::thread(),
        }
    }

    fn process(command: &mut Command) -> io::Result<Self> {
        // A group of its own: Ctrl-C ends the run that it helps to report on, not the report.
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        let pipes: Option<(ChildStdin, _)> = child.stdin.take().zip(child.stdout.take());
        let Some((input, output)) = pipes else { return Err(io::Error::other("it has no pipes")) };
        Ok(Self { child: Some(child), questions: Box::new(input), replies: listen(output)? })
    }

    fn thread() -> io::Result<Self> {
        let (questions_out, questions) = io::pipe()?;
        let (replies, replies_in) = io::pipe()?;
        let serving = move || serve(BufReader::new(questions_out), replies_in);
        thread::Builder::new().name("tracer-symbols".to_owned()).stack_size(STACK_BYTES).spawn(serving)?;
        Ok(Self { child: None, questions: Box::new(questions), replies: listen(replies)? })
    }

    /// Asks about `addresses` of the file at `path`, which may be a path of this process (`/proc/self/fd/N`).
    pub fn ask(&mut self, path: &Path, addresses: &[u64], patience: Duration) -> Result<Reply, HelperError> {
        let question = Question { path: seen_from_elsewhere(path), addresses: addresses.to_vec() };
        let mut line = serde_json::to_vec(&question).map_err(io::Error::from)?;
        line.push(b'\n');
        // A helper that has ended is noticed here or, more often, below.
        self.questions.write_all(&line).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => HelperError::Ended,
            _ => HelperError::Io(error),
        })?;
        match self.replies.recv_timeout(patience) {
            Ok(reply) if reply.answers.len() == addresses.len() => Ok(reply),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => Err(HelperError::Ended),
            Err(RecvTimeoutError::Timeout) => Err(HelperError::TimedOut),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended, or another part of tracer may have waited for it already: either is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn listen(output: impl Read + Send + 'static) -> io::Result<Receiver<Reply>> {
    let (sender, receiver): (SyncSender<Reply>, _) = sync_channel(1);
    let listening = move || {
        let mut output = BufReader::new(output);
        let mut line = String::new();
        loop {
            line.clear();
            let read = (&mut output).take(MAX_LINE_BYTES).read_line(&mut line);
            let Ok(1..) = read else { return };
            let Ok(reply) = serde_json::from_str(&line) else { return };
            if sender.send(reply).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("tracer-symbols".to_owned()).spawn(listening)?;
    Ok(receiver)
}

fn seen_from_elsewhere(path: &Path) -> PathBuf {
    match path.strip_prefix("/proc/self") {
        Ok(rest) => Path::new("/proc").join(std::process::id().to_string()).join(rest),
        Err(_) => path.to_owned(),
    }
}

/// For `main`, before anything else: where this process is to be the helper, it is, and this is its exit code.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != COMMAND || arguments.next().is_some() {
        return None;
    }
    // Without these limits it still works; and a hostile file costs more.
    let limits = [(Resource::RLIMIT_DATA, MEMORY_BYTES), (Resource::RLIMIT_CPU, CPU_S), (Resource::RLIMIT_CORE, 0)];
    for (resource, most) in limits {
        let _ = setrlimit(resource, most, most);
    }
    let serving = || serve(io::stdin().lock(), io::stdout().lock());
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(serving);
    let served = thread.ok().and_then(|thread| thread.join().ok());
    Some(if matches!(served, Some(Ok(()))) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn serve(mut questions: impl BufRead, mut replies: impl Write) -> io::Result<()> {
    let mut reader = Reader::default();
    let mut line = String::new();
    while questions.read_line(&mut line)? > 0 {
        let question: Question = serde_json::from_str(&line)?;
        let reply = reader.answer(&question.path, &question.addresses);
        let mut bytes = serde_json::to_vec(&reply)?;
        bytes.push(b'\n');
        replies.write_all(&bytes)?;
        replies.flush()?;
        line.clear();
    }
    Ok(())
}
