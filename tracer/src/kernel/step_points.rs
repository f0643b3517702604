//! Where steps begin: at instructions of a file, or at the entry of a Python function. How programs attach there is `user_probe`'s; which
//! instruction, and which address, others find out (`app/step.rs`, `stacks/watch.rs`).

use std::{
    fs,
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
};

use super::user_probe::{Point, on_instruction};
use crate::families::Hook;

/// Where steps begin.
#[derive(Debug)]
pub enum Points {
    /// At these instructions of a file, in whatever process.
    Code {
        /// The file, held open: what it is called may change.
        file: fs::File,
        /// Its name, for messages.
        path: PathBuf,
        /// The instructions.
        at: Vec<Point>,
    },
    /// At the entry of a Python function, once it is found.
    Python,
}

impl Points {
    /// The hook of the programs that are for these.
    pub fn hook(&self) -> Hook {
        match self {
            Points::Code { .. } => Hook::StepEntry,
            Points::Python => Hook::StepWatch,
        }
    }

    /// Attaches a program to all of them that are known. It stays as long as what this gives.
    pub fn attach(&self, program: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, String> {
        let Points::Code { file, path, at } = self else { return Ok(Vec::new()) };
        let attach = |point: &Point| {
            on_instruction(program, file, *point)
                .map_err(|error| format!("{}: no probe at offset {:#x}: {error}", path.display(), point.offset))
        };
        at.iter().map(attach).collect()
    }
}
