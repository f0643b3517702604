//! Where results go: stdout, stderr or a file of the invoking user's that only they can read. A broken pipe is success.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use super::{FAILED, Failure};

/// Whether this stream wants colour.
pub fn colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Columns to fill: the terminal's, or a hundred.
pub fn width() -> usize {
    std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|width| (40..=500).contains(width))
        .unwrap_or(
            terminal_size::terminal_size()
                .map_or(100, |(terminal_size::Width(width), _)| usize::from(width).clamp(60, 160)),
        )
}

/// Writes to stdout.
pub fn print(bytes: &[u8]) -> Result<(), Failure> {
    forgive(io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().flush()))
        .map_err(|error| Failure::new(FAILED, format!("cannot write to stdout: {error}")))
}

/// A reader that has gone away has seen enough.
pub fn forgive(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Creates a file with mode 0600. Under sudo it belongs to the invoking user.
pub fn create(path: &Path) -> io::Result<File> {
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        give_to_invoker(&file)?;
    }
    Ok(file)
}

/// Under sudo, files belong to the invoking user.
pub fn give_to_invoker(file: &File) -> io::Result<()> {
    let id = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if nix::unistd::geteuid().is_root()
        && let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID"))
    {
        fchown(file, Some(user), Some(group))?;
    }
    Ok(())
}

/// An output that was named: opened before anything starts, so that a wrong name is not found out at the end.
pub enum Named {
    /// `-`.
    Stdout,
    /// A file.
    File(NewFile),
}

/// A file that goes away again when nothing was written to it and it was not there before.
pub struct NewFile {
    file: File,
    path: PathBuf,
    remove: bool,
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.remove {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Named {
    /// Opens what `-o` named.
    pub fn open(path: &Path) -> Result<Self, String> {
        if path.as_os_str() == "-" {
            return Ok(Named::Stdout);
        }
        let remove = path.symlink_metadata().is_err();
        match create(path) {
            Ok(file) => Ok(Named::File(NewFile { file, path: path.to_owned(), remove })),
            Err(error) => Err(format!("cannot write {}: {error}; name another file with -o", path.display())),
        }
    }

    /// Writes everything.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self {
            Named::Stdout => forgive(io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().flush()))
                .map_err(|error| format!("cannot write to stdout: {error}")),
            Named::File(new) => {
                new.remove = false;
                forgive(new.file.write_all(bytes)).map_err(|error| {
                    // Half a report is none.
                    let _ = new.file.set_len(0);
                    format!("cannot write {}: {error}", new.path.display())
                })
            }
        }
    }
}
