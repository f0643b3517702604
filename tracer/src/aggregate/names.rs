//! Names and paths of threads, each kept once. Threads hold numbers, so a thread's death or another thread's memory of it
//! copies nothing. Bounded by [`MAX_NAMES`]; a name over the bound is not known.

use std::collections::HashMap;

use tracer_common::sched::COMM_BYTES;

use super::hash::FastMap;
use crate::model::text::printable;

/// Distinct names kept: some 8 MiB at worst. Only a program that renames itself all the time gets there.
pub const MAX_NAMES: usize = 65_536;

/// Number of a name; [`NameId::NONE`] is "not known".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameId(u32);

impl NameId {
    /// Not known.
    pub const NONE: NameId = NameId(0);

    /// This name, or the other where this one is not known.
    pub fn or(self, other: NameId) -> NameId {
        if self == NameId::NONE { other } else { self }
    }
}

/// See the file's head.
#[derive(Default)]
pub struct Names {
    list: Vec<Box<str>>,
    by_text: HashMap<Box<str>, NameId>,
    by_comm: FastMap<[u8; COMM_BYTES], NameId>,
}

impl Names {
    /// The number of a name from bytes of any origin, made printable.
    pub fn add(&mut self, bytes: &[u8]) -> NameId {
        let text = printable(bytes);
        if text.is_empty() {
            return NameId::NONE;
        }
        if let Some(id) = self.by_text.get(text.as_str()) {
            return *id;
        }
        if self.list.len() >= MAX_NAMES {
            return NameId::NONE;
        }
        let text = text.into_boxed_str();
        self.list.push(text.clone());
        let id = NameId(self.list.len() as u32);
        self.by_text.insert(text, id);
        id
    }

    /// The number of a kernel task name.
    pub fn add_comm(&mut self, comm: &[u8; COMM_BYTES]) -> NameId {
        if let Some(id) = self.by_comm.get(comm) {
            return *id;
        }
        let id = self.add(comm);
        if self.by_comm.len() < MAX_NAMES {
            self.by_comm.insert(*comm, id);
        }
        id
    }

    /// The name with this number.
    pub fn text(&self, id: NameId) -> Option<String> {
        let index = id.0.checked_sub(1)?;
        self.list.get(index as usize).map(|text| text.to_string())
    }
}
