//! Starts a command but holds it back before its first instruction, until the probes are attached.
//!
//! By fork, by hand, before this process has any other thread: `std::process` returns only after exec, and a child made after
//! the probes are loaded would inherit their descriptors. If the tracer dies while the command is held, the command does not
//! start: the pipe it waits on closes. From its start on it is on its own.

use std::{
    ffi::{CString, OsStr, OsString},
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::OFlag,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask},
    unistd::{ForkResult, Gid, Uid, User, fork, pipe2},
};
use thiserror::Error;

/// Why a command did not start.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// No such file, in PATH or at the path given.
    #[error("{0}: command not found")]
    NotFound(String),
    /// It is there but may not be executed.
    #[error("{command}: cannot be executed: {reason}")]
    NotExecutable {
        /// The command.
        command: String,
        /// Why.
        reason: String,
    },
    /// The system refused a process or a pipe.
    #[error("cannot start {command}: {reason}")]
    System {
        /// The command.
        command: String,
        /// Why.
        reason: String,
    },
    /// No such user.
    #[error("user {0} does not exist: give the name of one that does with --user")]
    NoUser(String),
}

impl LaunchError {
    /// The exit status that shells and `env` use.
    pub fn exit_code(&self) -> i32 {
        match self {
            LaunchError::NotFound(_) => 127,
            LaunchError::NotExecutable { .. } => 126,
            LaunchError::System { .. } | LaunchError::NoUser(_) => 125,
        }
    }
}

/// As whom the command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// Login name.
    pub name: String,
    uid: Uid,
    gid: Gid,
    home: PathBuf,
}

/// The user that the command runs as: the one named, else under sudo the one who called it, else nobody else.
pub fn run_as(named: Option<&str>, sudo_user: Option<&str>) -> Result<Option<RunAs>, LaunchError> {
    let Some(name) = named.or(sudo_user.filter(|_| nix::unistd::geteuid().is_root())) else { return Ok(None) };
    let user = User::from_name(name).ok().flatten().ok_or_else(|| LaunchError::NoUser(name.to_owned()))?;
    if user.uid == nix::unistd::geteuid() {
        return Ok(None);
    }
    Ok(Some(RunAs { name: user.name, uid: user.uid, gid: user.gid, home: user.dir }))
}

/// A command that waits for its start.
pub struct Held {
    /// Its process.
    pub pid: u32,
    command: String,
    go: OwnedFd,
    outcome: OwnedFd,
}

/// Finds the file that a shell would run.
fn find(command: &OsStr) -> Result<PathBuf, LaunchError> {
    let name = || command.to_string_lossy().into_owned();
    let executable = |path: &Path| nix::unistd::access(path, nix::unistd::AccessFlags::X_OK);
    if command.as_bytes().contains(&b'/') {
        let path = PathBuf::from(command);
        if !path.exists() {
            return Err(LaunchError::NotFound(name()));
        }
        if path.is_dir() {
            return Err(LaunchError::NotExecutable { command: name(), reason: "it is a directory".to_owned() });
        }
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(error) => Err(LaunchError::NotExecutable { command: name(), reason: error.desc().to_lowercase() }),
        };
    }
    let mut refused = None;
    for directory in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        let path = directory.join(command);
        if path.is_file() {
            match executable(&path) {
                Ok(()) => return Ok(path),
                Err(error) => refused = Some(error),
            }
        }
    }
    Err(match refused {
        Some(error) => LaunchError::NotExecutable { command: name(), reason: error.desc().to_lowercase() },
        None => LaunchError::NotFound(name()),
    })
}

fn c_string(text: &OsStr) -> Option<CString> {
    CString::new(text.as_bytes()).ok()
}

/// Forks the command's process and holds it. Call before any thread exists.
pub fn hold(command: &[OsString], user: Option<&RunAs>) -> Result<Held, LaunchError> {
    let program = command.first().map(OsString::as_os_str).unwrap_or_default();
    let name = program.to_string_lossy().into_owned();
    let system = |reason: String| LaunchError::System { command: name.clone(), reason };
    let path = find(program)?;
    let (Some(path), Some(args)) =
        (c_string(path.as_os_str()), command.iter().map(|arg| c_string(arg)).collect::<Option<Vec<_>>>())
    else {
        return Err(system("an argument holds a zero byte".to_owned()));
    };
    let comm: Vec<u8> = Path::new(program).file_name().unwrap_or(program).as_bytes().iter().copied().take(15).collect();
    let comm = CString::new(comm).unwrap_or_default();
    let (wait, go) = pipe2(OFlag::O_CLOEXEC).map_err(|error| system(error.desc().to_owned()))?;
    let (outcome, report) = pipe2(OFlag::O_CLOEXEC).map_err(|error| system(error.desc().to_owned()))?;
    // SAFETY: this process has one thread, so the child may allocate and call anything.
    match unsafe { fork() }.map_err(|error| system(error.desc().to_owned()))? {
        ForkResult::Parent { child } => Ok(Held { pid: child.as_raw() as u32, command: name, go, outcome }),
        ForkResult::Child => {
            drop(go);
            drop(outcome);
            let error = become_command(wait, &comm, &path, &args, user);
            let _ = std::fs::File::from(report).write_all(&error.to_le_bytes());
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(125) }
        }
    }
}

/// In the child: waits for the start, then becomes the command. Returns only an error number.
fn become_command(wait: OwnedFd, comm: &CString, path: &CString, args: &[CString], user: Option<&RunAs>) -> i32 {
    // SAFETY: a name that ends with a zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, comm.as_ptr()) };
    let mut byte = [0u8; 1];
    match std::fs::File::from(wait).read(&mut byte) {
        Ok(1) => {}
        // The tracer is gone: do not start.
        // SAFETY: ends the child without running the parent's exit handlers.
        _ => unsafe { libc::_exit(125) },
    }
    // Rust ignores SIGPIPE; a command expects to die of it.
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: restores the default disposition.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &default) };
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    if let Some(user) = user
        && let Err(error) = change_user(user)
    {
        return error as i32;
    }
    match nix::unistd::execv(path, args) {
        Err(nix::errno::Errno::ENOEXEC) => {
            // A script without an interpreter line, as every shell runs it.
            let mut shell = vec![CString::from(c"/bin/sh"), path.clone()];
            shell.extend(args.iter().skip(1).cloned());
            match nix::unistd::execv(c"/bin/sh", &shell) {
                Err(error) => error as i32,
                Ok(never) => match never {},
            }
        }
        Err(error) => error as i32,
        Ok(never) => match never {},
    }
}

fn change_user(user: &RunAs) -> Result<(), nix::errno::Errno> {
    let name = CString::new(user.name.as_bytes()).map_err(|_| nix::errno::Errno::EINVAL)?;
    nix::unistd::initgroups(&name, user.gid)?;
    nix::unistd::setgid(user.gid)?;
    nix::unistd::setuid(user.uid)?;
    // SAFETY: the only thread of this process.
    unsafe {
        std::env::set_var("HOME", &user.home);
        std::env::set_var("USER", &user.name);
        std::env::set_var("LOGNAME", &user.name);
    }
    Ok(())
}

impl Held {
    /// Lets the command start. Returns once it has started or failed to.
    pub fn release(self) -> Result<(), LaunchError> {
        let system =
            |error: io::Error| LaunchError::System { command: self.command.clone(), reason: error.to_string() };
        match std::fs::File::from(self.go).write_all(&[1]) {
            // A signal ended it while it was held: whoever waits for it will see which.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(system)?,
        }
        let mut number = Vec::new();
        // Ends when exec closes the other end.
        std::fs::File::from(self.outcome).read_to_end(&mut number).map_err(system)?;
        let Ok(number) = <[u8; 4]>::try_from(number.as_slice()) else { return Ok(()) };
        let error = nix::errno::Errno::from_raw(i32::from_le_bytes(number));
        Err(match error {
            nix::errno::Errno::ENOENT => LaunchError::NotFound(self.command),
            error => LaunchError::NotExecutable { command: self.command, reason: error.desc().to_lowercase() },
        })
    }
}
