//! Numbers for modules, frames and stacks, and the records that define them: each is written once, before its first use.
//!
//! Bounded: beyond [`MAX_FRAMES`] frames, [`MAX_TEXT_BYTES`] bytes of their names or [`MAX_STACKS`] stacks nothing new is added; a
//! sample whose stack found no room has stack 0, which the report counts. Names of native and kernel code are not known here.

use std::collections::{HashMap, HashSet};
use std::hash::Hasher;
use std::sync::Arc;

use tracer_common::record::meta;

use crate::kernel::live::push_meta;
use crate::model::meta::{FrameKind, FrameRecord, ModuleRecord, StackRecord};
use crate::pipeline::batch::Batch;
use crate::process::{Module, ModuleId};

/// Most distinct frames of a run; about 150 bytes each, without names.
pub const MAX_FRAMES: usize = 1 << 18;
/// Most bytes of names that frames hold: functions and files of Python, functions of JITs. One name in two frames counts twice.
pub const MAX_TEXT_BYTES: usize = 64 << 20;
/// Most distinct stacks of a run; about 40 bytes each, their frames are kept by whoever reads the records.
pub const MAX_STACKS: usize = 1 << 16;

/// What makes a frame the same as another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FrameKey {
    /// Code of a file.
    Native {
        /// The file.
        module: ModuleId,
        /// Its address there.
        address: u64,
    },
    /// Kernel code.
    Kernel(u64),
    /// A line of a Python function.
    Python {
        /// Qualified name.
        function: Arc<str>,
        /// File.
        file: Arc<str>,
        /// Line; none: not known.
        line: Option<u32>,
    },
    /// A Python frame of which nothing could be read.
    UnknownPython,
    /// Code made at run time: a name, or the start of its mapping.
    Jit {
        /// What the JIT called it.
        name: Option<String>,
        /// Process and start of the mapping, where there is no name.
        mapping: (u32, u64),
    },
    /// An address that belongs to nothing.
    Nowhere,
}

impl FrameKey {
    fn text_bytes(&self) -> usize {
        match self {
            FrameKey::Python { function, file, .. } => function.len() + file.len(),
            FrameKey::Jit { name: Some(name), .. } => name.len(),
            _ => 0,
        }
    }
}

/// See the file's head.
#[derive(Default)]
pub struct Interner {
    /// As many as there are modules, which are bounded.
    modules: HashSet<ModuleId>,
    frames: HashMap<FrameKey, u32>,
    text_bytes: usize,
    stacks: HashSet<u64>,
    /// Frames and stacks that found no room.
    pub refused: u64,
}

impl Interner {
    /// The number of a frame, defined in `batch` if it is new. None: there is no room.
    pub fn frame(&mut self, ts_ns: u64, key: FrameKey, batch: &mut Batch) -> Option<u32> {
        if let Some(id) = self.frames.get(&key) {
            return Some(*id);
        }
        let text_bytes = self.text_bytes + key.text_bytes();
        if self.frames.len() >= MAX_FRAMES || text_bytes > MAX_TEXT_BYTES {
            self.refused += 1;
            return None;
        }
        self.text_bytes = text_bytes;
        // Numbers start at 1, so that 0 in a damaged record is nobody's.
        let id = self.frames.len() as u32 + 1;
        push_meta(batch, ts_ns, meta::FRAME, &describe(id, &key));
        self.frames.insert(key, id);
        Some(id)
    }

    /// Defines a module if that has not been done.
    pub fn module(&mut self, ts_ns: u64, module: &Module, batch: &mut Batch) {
        if !self.modules.insert(module.id) {
            return;
        }
        let record = ModuleRecord {
            id: module.id.0,
            path: module.path.clone(),
            build_id: module.build_id.clone(),
            deleted: module.deleted,
        };
        push_meta(batch, ts_ns, meta::MODULE, &record);
    }

    /// The id of a stack, defined in `batch` if it is new; 0: there is no room.
    pub fn stack(&mut self, ts_ns: u64, mut record: StackRecord, batch: &mut Batch) -> u64 {
        record.id = hash(&record);
        if self.stacks.contains(&record.id) {
            return record.id;
        }
        if self.stacks.len() >= MAX_STACKS {
            self.refused += 1;
            return 0;
        }
        self.stacks.insert(record.id);
        push_meta(batch, ts_ns, meta::STACK, &record);
        record.id
    }

    /// All frames that need a name from a file or the kernel, in the order of their numbers.
    pub fn unnamed(&self) -> Vec<(u32, FrameKey)> {
        let mut all: Vec<(u32, FrameKey)> = self
            .frames
            .iter()
            .filter(|(key, _)| matches!(key, FrameKey::Native { .. } | FrameKey::Kernel(_)))
            .map(|(key, id)| (*id, key.clone()))
            .collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }
}

fn describe(id: u32, key: &FrameKey) -> FrameRecord {
    let frame = FrameRecord { id, ..FrameRecord::default() };
    match key {
        FrameKey::Native { module, address } => {
            FrameRecord { frame_kind: FrameKind::Native, module: Some(module.0), address: *address, ..frame }
        }
        FrameKey::Kernel(address) => FrameRecord { frame_kind: FrameKind::Kernel, address: *address, ..frame },
        FrameKey::Python { function, file, line } => FrameRecord {
            frame_kind: FrameKind::Python,
            function: Some(function.to_string()),
            file: Some(file.to_string()),
            line: *line,
            ..frame
        },
        FrameKey::UnknownPython => FrameRecord { frame_kind: FrameKind::Python, ..frame },
        FrameKey::Jit { name, mapping } => {
            FrameRecord { frame_kind: FrameKind::Jit, function: name.clone(), address: mapping.1, ..frame }
        }
        FrameKey::Nowhere => frame,
    }
}

/// A hash of everything but the id. Equal stacks of one run have equal ids; 64 bits make a collision among 65,536 stacks a matter of
/// 1 in 10 billion.
fn hash(record: &StackRecord) -> u64 {
    // The standard hasher with its fixed keys: the same in every run of this build.
    let mut hasher = std::hash::DefaultHasher::new();
    for frame in &record.frames {
        hasher.write_u32(*frame);
    }
    hasher.write_u8(record.end as u8);
    hasher.write_u32(record.at_module.unwrap_or(u32::MAX));
    hasher.write_u8(u8::from(record.rescued) | u8::from(record.python_misfit) << 1);
    hasher.write(record.python_end.as_deref().unwrap_or_default().as_bytes());
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{Event, Meta};
    use crate::model::meta::StackEnd;
    use crate::pipeline::decode::decode;

    fn events(batch: &Batch) -> Vec<Event> {
        batch.iter().map(|record| decode(record).expect("what was just written")).collect()
    }

    #[test]
    fn each_frame_and_stack_is_defined_once_and_before_its_use() {
        let (mut interner, mut batch) = (Interner::default(), Batch::new());
        let key = FrameKey::Native { module: ModuleId(3), address: 0x40 };
        let first = interner.frame(1, key.clone(), &mut batch).expect("room");
        let again = interner.frame(2, key, &mut batch).expect("room");
        let kernel = interner.frame(3, FrameKey::Kernel(9), &mut batch).expect("room");
        assert_eq!((first, again, kernel), (1, 1, 2));
        let stack = StackRecord { frames: vec![2, 1], end: StackEnd::Whole, ..StackRecord::default() };
        let id = interner.stack(4, stack.clone(), &mut batch);
        assert_eq!(interner.stack(5, stack.clone(), &mut batch), id);
        let cut = interner.stack(6, StackRecord { end: StackEnd::Cut, ..stack }, &mut batch);
        assert_ne!(cut, id, "the same frames with another end are another stack");
        let kinds: Vec<&str> = events(&batch)
            .iter()
            .map(|event| match event {
                Event::Meta(_, meta) => match **meta {
                    Meta::Frame(_) => "frame",
                    Meta::Stack(_) => "stack",
                    _ => "other",
                },
                _ => "other",
            })
            .collect();
        assert_eq!(kinds, ["frame", "frame", "stack", "stack"]);
        assert_eq!(interner.unnamed().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn names_without_end_find_no_room() {
        let (mut interner, mut batch) = (Interner::default(), Batch::new());
        let key = |bytes: usize| FrameKey::Jit { name: Some("x".repeat(bytes)), mapping: (0, 0) };
        assert_eq!(interner.frame(1, key(MAX_TEXT_BYTES + 1), &mut batch), None);
        assert_eq!(interner.frame(1, key(10), &mut batch), Some(1), "a small one has room");
        assert_eq!(interner.frame(1, key(MAX_TEXT_BYTES - 9), &mut batch), None, "the two together have not");
        assert_eq!((interner.refused, interner.text_bytes, batch.len()), (2, 10, 1));
    }

    #[test]
    fn a_python_frame_carries_its_name_in_its_definition() {
        let (mut interner, mut batch) = (Interner::default(), Batch::new());
        let key = FrameKey::Python { function: "A.f".into(), file: "/a.py".into(), line: Some(7) };
        interner.frame(1, key, &mut batch).expect("room");
        let Some(Event::Meta(_, meta)) = events(&batch).pop() else { panic!("no record") };
        let Meta::Frame(frame) = *meta else { panic!("{meta:?}") };
        assert_eq!(
            (frame.frame_kind, frame.function.as_deref(), frame.line),
            (FrameKind::Python, Some("A.f"), Some(7))
        );
        assert!(interner.unnamed().is_empty(), "its name is known");
    }
}
