//! Attaches the programs that see calls of databases' clients to the libraries that are found, also while tracing. Not here: finding
//! them (`app/database.rs`).

use std::{
    collections::HashSet,
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use aya::programs::ProgramFd;

use super::user_probe::on_call;
use crate::symbol::clients::Call;

/// Most libraries that are attached to: each has some ten probes.
const MOST_LIBRARIES: usize = 64;

/// A file with functions of a client.
#[derive(Debug)]
pub struct Library {
    /// Held open: what it is called may change.
    pub file: File,
    /// Its name, for people.
    pub path: PathBuf,
    /// What is to be looked at in it.
    pub calls: Vec<Call>,
}

/// See the file's head.
pub struct Attacher {
    enter: ProgramFd,
    leave: ProgramFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Keeps programs attached.
    links: Vec<OwnedFd>,
    /// Files, by device and inode number.
    attached: HashSet<(u64, u64)>,
    /// Tracing has ended.
    is_over: bool,
}

impl Attacher {
    /// For these programs.
    pub fn new(enter: ProgramFd, leave: ProgramFd) -> Self {
        Attacher { enter, leave, state: Mutex::default() }
    }

    /// Attaches to a library; false: it was attached to before, or tracing has ended.
    pub fn attach(&self, library: &Library) -> Result<bool, String> {
        let shown = crate::model::text::printable(library.path.as_os_str().as_encoded_bytes());
        let metadata = library.file.metadata().map_err(|error| format!("{shown}: {error}"))?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_over || state.attached.contains(&(metadata.dev(), metadata.ino())) {
            return Ok(false);
        }
        if state.attached.len() >= MOST_LIBRARIES {
            return Err(format!("{shown}: {MOST_LIBRARIES} libraries of databases' clients are attached to already"));
        }
        state.attached.insert((metadata.dev(), metadata.ino()));
        for call in &library.calls {
            let mut links = Vec::new();
            // The return first: an entry without its return would stay for ever.
            for (program, returns) in [(&self.leave, true), (&self.enter, false)] {
                if returns && call.entry_only {
                    continue;
                }
                let link = on_call(program.as_fd(), &library.file, call.offset, returns, u64::from(call.function))
                    .map_err(|error| format!("{shown}: no probe at {}: {error}", call.name))?;
                links.push(link);
            }
            state.links.append(&mut links);
        }
        Ok(true)
    }

    /// Detaches from everything, and attaches to nothing more.
    pub fn detach(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_over = true;
        state.links.clear();
    }
}
