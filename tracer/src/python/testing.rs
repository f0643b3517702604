//! What tests of this folder share: recorded memory, modules made of bytes, the interpreters of this machine.

use std::{collections::BTreeMap, fs, path::PathBuf};

use super::memory::ReadMemory;
use crate::process::{Bytes, Module, ModuleId, test_image, test_module};

/// Memory that a test wrote: pieces by their first address.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    pieces: BTreeMap<u64, Vec<u8>>,
    /// How often it was read.
    pub reads: usize,
}

impl Recorded {
    /// Sets bytes; pieces must not overlap other than by lying inside an older one.
    pub fn put(&mut self, address: u64, bytes: &[u8]) {
        let piece = self.pieces.range_mut(..=address).next_back();
        if let Some((start, piece)) = piece
            && let Some(room) = piece.get_mut((address - start) as usize..).and_then(|rest| rest.get_mut(..bytes.len()))
        {
            room.copy_from_slice(bytes);
            return;
        }
        self.pieces.insert(address, bytes.to_vec());
    }

    /// Sets a word.
    pub fn put_word(&mut self, address: u64, word: u64) {
        self.put(address, &word.to_le_bytes());
    }

    /// The process has exited.
    pub fn clear(&mut self) {
        self.pieces.clear();
    }
}

impl ReadMemory for Recorded {
    fn read(&mut self, address: u64, out: &mut [u8]) -> bool {
        self.reads += 1;
        let Some((start, piece)) = self.pieces.range(..=address).next_back() else { return false };
        let found = piece.get((address - start) as usize..).and_then(|rest| rest.get(..out.len()));
        found.is_some_and(|bytes| {
            out.copy_from_slice(bytes);
            true
        })
    }
}

/// A module of the given bytes.
pub fn module(id: u32, path: &str, bytes: Vec<u8>) -> Module {
    let image = test_image(Bytes::Owned(bytes.into())).map(|(image, _)| image);
    let mut module = test_module(image);
    (module.id, module.path) = (ModuleId(id), path.to_owned());
    module
}

/// An interpreter to try.
pub struct Program {
    /// A root folder of its own, to be entered by chroot.
    pub root: Option<PathBuf>,
    /// The program in it.
    pub path: PathBuf,
}

/// Interpreters by minor version, and those from 8 to 14 that are not there: what pyenv installed, and what lies in the root
/// folders that TRACER_TEST_PYTHON_ROOTS names (separated by colons), as /usr/bin/python3.N.
pub fn interpreters() -> (BTreeMap<u8, Program>, Vec<u8>) {
    let home = std::env::var("HOME").unwrap_or_default();
    let pyenv = std::env::var("PYENV_ROOT").unwrap_or(format!("{home}/.pyenv"));
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("{pyenv}/versions")).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let minor =
            name.strip_prefix("3.").and_then(|rest| rest.split('.').next()).and_then(|minor| minor.parse().ok());
        let path = entry.path().join("bin/python3");
        if let Some(minor @ 8..=14) = minor
            && path.exists()
        {
            found.insert(minor, Program { root: None, path });
        }
    }
    for root in std::env::var("TRACER_TEST_PYTHON_ROOTS").iter().flat_map(|roots| roots.split(':')) {
        for minor in 8..=14 {
            let path = PathBuf::from(format!("/usr/bin/python3.{minor}"));
            if fs::exists(format!("{root}{}", path.display())).unwrap_or(false) {
                found.insert(minor, Program { root: Some(root.into()), path });
            }
        }
    }
    let missing = (8..=14).filter(|minor| !found.contains_key(minor)).collect();
    (found, missing)
}
