//! What MODULE, FRAME, STACK and SYMBOL records define. Bounded in entries and in bytes; what finds no room is counted. Records of
//! one number that agree are one definition, however often they come (a capture that rotates repeats them); the first of a number
//! stays, another one with the same number is counted as a contradiction. The last SYMBOL of a frame counts.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::hash::FastMap;
use crate::model::meta::{FrameKind, FrameRecord, ModuleRecord, StackEnd, StackRecord, SymbolRecord};
use crate::model::profile::{Module, Name, Text};

/// Files kept.
pub const MAX_MODULES: usize = 16_384;
/// Frames kept, 64 bytes each.
pub const MAX_FRAMES: usize = 262_144;
/// Stacks kept.
pub const MAX_STACKS: usize = 65_536;
/// Frames of all stacks together, 4 bytes each.
const MAX_FRAME_NUMBERS: usize = 8 << 20;
/// Frames of one stack; the outer ones go, and it counts as cut.
pub const MAX_DEPTH: usize = 1_024;
/// Functions at one frame: itself and what was inlined.
const MAX_NAMES: usize = 64;
/// Bytes of all texts together.
const MAX_TEXT_BYTES: usize = 48 << 20;
/// Characters of one text; a longer one ends in an ellipsis.
const MAX_TEXT_CHARS: usize = 1_024;

/// A frame as its record has it.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameDef {
    pub kind: FrameKind,
    pub module: Option<u32>,
    pub address: u64,
    /// A Python function, its file and line.
    pub python: Option<Name>,
}

/// A stack as its record has it, its depth bounded.
#[derive(Clone, Debug, PartialEq)]
pub struct StackDef {
    pub frames: Box<[u32]>,
    pub end: StackEnd,
    pub at_module: Option<u32>,
    pub rescued: bool,
    pub python_misfit: bool,
    pub python_end: Option<Text>,
}

/// Names of a frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SymbolDef {
    pub names: Vec<Name>,
    pub missing: Option<Text>,
}

/// What was not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Definitions for which there was no room.
    pub no_room: u64,
    /// Definitions that contradict an earlier one of the same number.
    pub contradicting: u64,
}

/// See the file's head.
#[derive(Default)]
pub struct Definitions {
    texts: HashSet<Text>,
    text_bytes: usize,
    frame_numbers: usize,
    pub modules: FastMap<u32, Module>,
    pub frames: FastMap<u32, FrameDef>,
    pub symbols: FastMap<u32, SymbolDef>,
    pub stacks: FastMap<u64, StackDef>,
    pub refused: Refused,
}

impl Definitions {
    fn text(&mut self, text: &str) -> Option<Text> {
        if let Some(known) = self.texts.get(text) {
            return Some(Arc::clone(known));
        }
        let cut = match text.char_indices().nth(MAX_TEXT_CHARS) {
            Some((at, _)) => {
                let cut = format!("{}...", &text[..at]);
                if let Some(known) = self.texts.get(cut.as_str()) {
                    return Some(Arc::clone(known));
                }
                Arc::from(cut)
            }
            None => Text::from(text),
        };
        if self.text_bytes + cut.len() > MAX_TEXT_BYTES {
            return None;
        }
        self.text_bytes += cut.len();
        self.texts.insert(Arc::clone(&cut));
        Some(cut)
    }

    fn optional(&mut self, text: Option<&String>) -> Option<Text> {
        text.filter(|text| !text.is_empty()).and_then(|text| self.text(text))
    }

    /// Takes a MODULE record.
    pub fn module(&mut self, record: &ModuleRecord) {
        let path = self.text(&record.path);
        let build_id = self.optional(record.build_id.as_ref());
        let Some(path) = path else { return self.refused.no_room += 1 };
        let module = Module { path, build_id, deleted: record.deleted };
        keep(&mut self.modules, record.id, module, MAX_MODULES, &mut self.refused);
    }

    /// Takes a FRAME record.
    pub fn frame(&mut self, record: &FrameRecord) {
        let function = self.optional(record.function.as_ref());
        let file = self.optional(record.file.as_ref());
        let python = function.map(|function| Name { function, file, line: record.line, inlined: false });
        let frame = FrameDef { kind: record.frame_kind, module: record.module, address: record.address, python };
        keep(&mut self.frames, record.id, frame, MAX_FRAMES, &mut self.refused);
    }

    /// Takes a STACK record.
    pub fn stack(&mut self, record: &StackRecord) {
        let python_end = self.optional(record.python_end.as_ref());
        let kept = &record.frames[..record.frames.len().min(MAX_DEPTH)];
        let cut = kept.len() < record.frames.len();
        let new = !self.stacks.contains_key(&record.id);
        if record.id == 0 || (new && self.frame_numbers + kept.len() > MAX_FRAME_NUMBERS) {
            self.refused.no_room += 1;
            return;
        }
        let stack = StackDef {
            frames: kept.into(),
            end: if cut { StackEnd::Cut } else { record.end },
            at_module: record.at_module,
            rescued: record.rescued,
            python_misfit: record.python_misfit,
            python_end,
        };
        if keep(&mut self.stacks, record.id, stack, MAX_STACKS, &mut self.refused) {
            self.frame_numbers += kept.len();
        }
    }

    /// Takes a SYMBOL record.
    pub fn symbol(&mut self, record: &SymbolRecord) {
        if self.symbols.len() >= MAX_FRAMES && !self.symbols.contains_key(&record.frame) {
            self.refused.no_room += 1;
            return;
        }
        let mut names = Vec::new();
        for name in record.names.iter().take(MAX_NAMES).filter(|name| !name.function.is_empty()) {
            let Some(function) = self.text(&name.function) else {
                self.refused.no_room += 1;
                continue;
            };
            let file = self.optional(name.file.as_ref());
            names.push(Name { function, file, line: name.line, inlined: name.inlined });
        }
        names.shrink_to_fit();
        let missing = self.optional(record.missing.as_ref());
        self.symbols.insert(record.frame, SymbolDef { names, missing });
    }
}

/// Keeps a definition if it is new and there is room. Says whether it was kept.
fn keep<K: Eq + std::hash::Hash, V: PartialEq>(
    map: &mut FastMap<K, V>,
    key: K,
    value: V,
    room: usize,
    refused: &mut Refused,
) -> bool {
    if let Some(known) = map.get(&key) {
        refused.contradicting += u64::from(*known != value);
        return false;
    }
    if map.len() >= room {
        refused.no_room += 1;
        return false;
    }
    map.insert(key, value);
    true
}
