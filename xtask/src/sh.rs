//! Runs commands: shows each one first, and says in one sentence what went wrong. The only place that starts a process and that
//! decides what of xtask's own environment a child sees.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    io::{self, IsTerminal},
    os::unix::{fs::MetadataExt, process::CommandExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A command to be run.
#[derive(Clone, Debug)]
pub struct Cmd {
    program: OsString,
    arguments: Vec<OsString>,
    set: Vec<(String, OsString)>,
    unset: Vec<String>,
    folder: Option<PathBuf>,
    shown: bool,
}

impl Cmd {
    /// Runs `program` in xtask's own folder.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            set: Vec::new(),
            unset: Vec::new(),
            folder: None,
            shown: true,
        }
    }

    /// The cargo that runs xtask, in the workspace's root.
    pub fn cargo() -> Self {
        Self::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).folder(crate::workspace::root())
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable; it is shown before the command.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.set.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets several.
    pub fn envs<V: AsRef<OsStr>>(self, variables: impl IntoIterator<Item = (&'static str, V)>) -> Self {
        variables.into_iter().fold(self, |command, (name, value)| command.env(name, value))
    }

    /// Takes environment variables away.
    pub fn without_env(mut self, names: &[&str]) -> Self {
        self.unset.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// Runs in this folder.
    pub fn folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = Some(folder.as_ref().to_owned());
        self
    }

    /// Does not show the command.
    pub fn quiet(mut self) -> Self {
        self.shown = false;
        self
    }

    /// The same command as root: itself for root, else by sudo with the variables set again behind it, since sudoers may
    /// refuse to keep the environment.
    pub fn privileged(self) -> Self {
        if is_root() {
            return self;
        }
        let mut sudo = Self::new("sudo").arg("-E");
        if !io::stdin().is_terminal() {
            // Nobody could type a password.
            sudo = sudo.arg("-n");
        }
        if !self.set.is_empty() {
            sudo = sudo.arg("env");
            for (name, value) in &self.set {
                let mut pair = OsString::from(name);
                pair.push("=");
                pair.push(value);
                sudo = sudo.arg(pair);
            }
        }
        let mut sudo = sudo.arg(&self.program).args(&self.arguments);
        sudo.unset = self.unset;
        sudo.folder = self.folder;
        sudo.shown = self.shown;
        sudo
    }

    /// Runs it to its end; anything but success is an error.
    pub fn run(&self) -> Result<()> {
        let status = self.status()?;
        if !status.success() {
            bail!("`{self}` {}", how_it_ended(status));
        }
        Ok(())
    }

    /// Runs it to its end.
    pub fn status(&self) -> Result<ExitStatus> {
        self.show();
        self.command().status().with_context(|| self.not_started())
    }

    /// Runs it to its end with no more than `limit` for it; `None`: it was killed when its time was up.
    pub fn status_within(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        self.show();
        let mut child = self.command().stdin(Stdio::null()).spawn().with_context(|| self.not_started())?;
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait().with_context(|| format!("cannot wait for `{self}`"))? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                child.kill().and_then(|()| child.wait()).with_context(|| format!("cannot kill `{self}`"))?;
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs it with its output captured and its messages let through; anything but success is an error.
    pub fn read(&self) -> Result<String> {
        String::from_utf8(self.read_bytes()?).with_context(|| format!("what `{self}` printed is not UTF-8"))
    }

    /// The same for output that is no text.
    pub fn read_bytes(&self) -> Result<Vec<u8>> {
        self.show();
        let output = self
            .command()
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| self.not_started())?;
        if !output.status.success() {
            bail!("`{self}` {}", how_it_ended(output.status));
        }
        Ok(output.stdout)
    }

    /// Starts it with nothing to read and both outputs in one pipe each, for who reads them while it runs.
    pub fn start(&self) -> Result<Child> {
        self.show();
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| self.not_started())
    }

    /// Starts it with its output in a pipe, for who reads it while it runs; messages are let through.
    pub fn start_reading(&self) -> Result<Child> {
        self.show();
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().with_context(|| self.not_started())
    }

    /// What it prints to standard output, messages thrown away; `None` when it cannot be run or fails. For asking around.
    pub fn ask(&self) -> Option<String> {
        let output = self.command().stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Becomes the command: signals and the exit status are then its own. Returns only when that fails.
    pub fn become_it(&self) -> anyhow::Error {
        self.show();
        anyhow::Error::new(self.command().exec()).context(self.not_started())
    }

    fn show(&self) {
        if self.shown {
            eprintln!("+ {self}");
        }
    }

    fn not_started(&self) -> String {
        format!("cannot run `{}`", self.program.to_string_lossy())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(is_cargos_own) {
                command.env_remove(name);
            }
        }
        match env::var_os("LD_LIBRARY_PATH").map(|value| without_cargos_folders(&value)) {
            Some(value) if value.is_empty() => drop(command.env_remove("LD_LIBRARY_PATH")),
            Some(value) => drop(command.env("LD_LIBRARY_PATH", value)),
            None => {}
        }
        for name in &self.unset {
            command.env_remove(name);
        }
        command.envs(self.set.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.set {
            write!(to, "{name}={} ", quoted(value))?;
        }
        // The cargo that runs xtask, by the name that one would type.
        let is_cargo = env::var_os("CARGO").is_some_and(|cargo| cargo == self.program);
        write!(to, "{}", if is_cargo { "cargo".to_owned() } else { quoted(&self.program) })?;
        self.arguments.iter().try_for_each(|argument| write!(to, " {}", quoted(argument)))
    }
}

/// Variables that `cargo run` sets for xtask alone and that mean something else, or another crate, to a child.
fn is_cargos_own(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "CARGO",
        "CARGO_BIN_NAME",
        "CARGO_CRATE_NAME",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_PRIMARY_PACKAGE",
        "OUT_DIR",
        "RUST_RECURSION_COUNT",
    ];
    NAMES.contains(&name) || name.starts_with("CARGO_PKG_")
}

/// LD_LIBRARY_PATH less the folders that cargo and rustup put in front of it: another toolchain would load libraries from there.
fn without_cargos_folders(value: &OsStr) -> OsString {
    let target = crate::workspace::target_dir();
    let kept = env::split_paths(value).filter(|folder| {
        let text = folder.to_string_lossy();
        !(text.is_empty() || folder.starts_with(&target) || text.contains("/rustlib/") || text.contains("/toolchains/"))
    });
    env::join_paths(kept).unwrap_or_default()
}

/// As one would type it into a shell.
fn quoted(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// "ended with status 1" or "was killed by signal 9".
pub fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// Whether xtask runs as root.
pub fn is_root() -> bool {
    // The owner of /proc/self is the effective user.
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Where a program lies on PATH.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| is_executable(file))
}

/// Whether this is a file that somebody may execute.
pub fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

/// That commands can be run as root, or else the sentence that says why not.
pub fn can_be_root() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    if which("sudo").is_none() {
        bail!("this needs root, and there is no sudo here: run it as root");
    }
    if !io::stdin().is_terminal() && Cmd::new("sudo").args(["-n", "true"]).ask().is_none() {
        bail!("this needs root, and sudo wants a password that nobody can type here: run it as root or in a terminal");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let command = Cmd::new("cargo").args(["test", "-p", "a b", "it's", ""]).env("X", "1 2");
        assert_eq!(command.to_string(), "X='1 2' cargo test -p 'a b' 'it'\\''s' ''");
    }

    #[test]
    fn a_failing_command_is_named_with_its_status() {
        let error = Cmd::new("sh").args(["-c", "exit 7"]).quiet().run().unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 7'` ended with status 7");
        let error = Cmd::new("sh").args(["-c", "kill -9 $$"]).quiet().run().unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'kill -9 $$'` was killed by signal 9");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Cmd::new("no-such-program-here").quiet().run().unwrap_err();
        assert_eq!(error.to_string(), "cannot run `no-such-program-here`");
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed() {
        let ended = Cmd::new("sleep").arg("60").quiet().status_within(Duration::from_millis(50)).unwrap();
        assert!(ended.is_none(), "sleep 60 ended within 50 ms: {ended:?}");
    }

    #[test]
    fn what_cargo_sets_for_xtask_does_not_reach_a_child() {
        assert!(
            is_cargos_own("CARGO_MANIFEST_DIR") && is_cargos_own("CARGO_PKG_VERSION_MAJOR") && is_cargos_own("CARGO")
        );
        assert!(
            !is_cargos_own("CARGO_HOME") && !is_cargos_own("CARGO_TARGET_DIR") && !is_cargos_own("RUSTUP_TOOLCHAIN")
        );
        let seen = Cmd::new("sh").args(["-c", "echo ${CARGO_MANIFEST_DIR-none}"]).ask();
        assert_eq!(seen.as_deref(), Some("none\n"));
    }

    #[test]
    fn library_folders_of_a_toolchain_are_dropped_and_others_kept() {
        let value = OsStr::new("/x/.rustup/toolchains/stable/lib:/opt/lib:/usr/lib/rustlib/x/lib:");
        assert_eq!(without_cargos_folders(value), OsString::from("/opt/lib"));
    }
}
