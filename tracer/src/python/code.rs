//! What a Python frame is called: function, file and line, read from the code object in the live process.
//!
//! A code object can be freed and its memory used again between the sample and the look at it, as a module's code is while it is
//! imported. So each step is checked: the type of the object, the types of its strings, the instruction inside the code, and that the
//! object refers to what it referred to when the frame was read (`mark`). What is known of a code object is kept under its address
//! and mark. From 3.12 on the mark holds a number that no other code object of the process has: it is believed whatever has become of
//! the object. Before, all that an object refers to may have come to the same addresses as what an earlier one did, so it is believed
//! only as long as first line, names and files are still the same; what was so many a time keeps its name when it goes, and so does what
//! a process that has exited had.
//!
//! Bounds: [`MOST_CODES`] code objects and [`MOST_BYTES`] bytes of their names and tables over all processes. They are kept in two
//! halves: when the younger is full, the older is dropped and the younger takes its place; what is used moves to the younger.

use std::{collections::HashMap, sync::Arc};

use tracer_common::python::{MARK_WORDS, NONE, PythonFrame};

use super::{
    layout::{self, CODE_BYTES, CodeLayout, Interpreter, OBJECT_SIZE, OBJECT_TYPE},
    lines,
    memory::ReadMemory,
    text::{self, Unusable},
    walk::mark_in,
};

/// Most code objects that are kept.
pub const MOST_CODES: usize = 64 << 10;
/// Most bytes that are kept for them.
pub const MOST_BYTES: usize = 48 << 20;
/// Most characters of a function's name.
const NAME_CHARACTERS: usize = 512;
/// Most characters of a file's name: as long as the kernel allows a path to be.
const FILE_CHARACTERS: usize = 4096;
/// Longest table of lines that is read.
const TABLE_BYTES: usize = 1 << 20;
/// The first version that numbers code objects (`co_version`), within the words of the mark.
const FIRST_WITH_CODE_VERSION: u8 = 12;
/// Code that was found unchanged this often is not of the kind whose memory is used again and again.
const LONG_LIVED: u32 = 8;
/// What an entry costs beside its names and table, about.
const ENTRY_BYTES: usize = 256;

/// A frame's function, file and line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PyName {
    /// Qualified (`Class.method`, from 3.11 on) or plain name; printable, cut with `…`.
    pub function: Arc<str>,
    /// File, as the interpreter has it; printable.
    pub file: Arc<str>,
    /// Line; none where the table has none.
    pub line: Option<u32>,
}

/// Why a frame has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// It is no function: to be left out of the stack.
    #[error("not a function but a frame of the interpreter's own")]
    Shim,
    /// The process has exited, or the memory is gone.
    #[error("the memory of its code object could not be read")]
    Unreadable,
    /// Its code object was freed since, or is none.
    #[error("its code object was freed before it could be read")]
    NotCode,
}

impl From<Unusable> for Missing {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Unreadable => Missing::Unreadable,
            Unusable::OtherType => Missing::NotCode,
        }
    }
}

/// Process, address and mark of a code object.
type Key = (u32, u64, u32);

/// Names of code objects.
#[derive(Debug, Default)]
pub struct Codes {
    young: HashMap<Key, Code>,
    young_bytes: usize,
    old: HashMap<Key, Code>,
    batch: u64,
    /// Set by the first `begin_batch`.
    in_batches: bool,
}

/// What is known of a code object.
#[derive(Clone, Debug)]
struct Code {
    identity: Identity,
    function: Arc<str>,
    file: Arc<str>,
    table: Arc<[u8]>,
    /// Bytes of instructions.
    code_bytes: u64,
    /// The interpreter made it for its own use (3.12 on: what follows a call of `__init__`): one object is all its names.
    is_synthetic: bool,
    /// How often it was found unchanged.
    confirmed: u32,
    /// When it was last compared with the process's memory.
    checked_in: u64,
}

/// What tells a code object from another one at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    mark: u32,
    first_line: i32,
    name: u64,
    file: u64,
    qualified: u64,
    table: u64,
    size: u64,
}

impl Identity {
    /// The string that is shown as its name.
    fn shown(&self, layout: &CodeLayout) -> u64 {
        if layout.qualified == NONE { self.name } else { self.qualified }
    }
}

impl Codes {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// From here on, what is checked once counts as right until the next call. Without any call, every look-up reads the process.
    pub fn begin_batch(&mut self) {
        self.in_batches = true;
        self.batch += 1;
    }

    /// Drops what is known of a process: it runs another program now, or none.
    pub fn forget(&mut self, pid: u32) {
        self.old.retain(|key, _| key.0 != pid);
        self.young.retain(|key, _| key.0 != pid);
        self.young_bytes = self.young.values().map(Code::cost_bytes).sum();
    }

    /// The name of a frame. A process that has exited still has the names that were read while it lived.
    pub fn frame(
        &mut self,
        memory: &mut dyn ReadMemory,
        pid: u32,
        interpreter: &Interpreter,
        frame: &PythonFrame,
    ) -> Result<PyName, Missing> {
        if interpreter.is_shim(frame) {
            return Err(Missing::Shim);
        }
        let address = frame.code & !interpreter.process.code_tag_mask;
        let code = self.code(memory, interpreter, (pid, address, frame.mark))?;
        let offset = code.offset(interpreter, address, frame.instruction).ok_or(Missing::NotCode)?;
        if code.is_synthetic {
            return Err(Missing::Shim);
        }
        let line = lines::line(interpreter.lines(), &code.table, code.identity.first_line, offset);
        Ok(PyName { function: code.function.clone(), file: code.file.clone(), line })
    }

    fn code(&mut self, memory: &mut dyn ReadMemory, interpreter: &Interpreter, key: Key) -> Result<&Code, Missing> {
        let (_, address, marked) = key;
        let known = self.young.get(&key).or_else(|| self.old.get(&key));
        let is_the_one = marked != 0 && interpreter.version.minor >= FIRST_WITH_CODE_VERSION;
        let is_trusted = |code: &Code| is_the_one || self.in_batches && code.checked_in == self.batch;
        if !known.is_some_and(is_trusted) {
            let found = read_identity(memory, interpreter, address).and_then(|identity| {
                if marked == 0 || marked == identity.mark { Ok(identity) } else { Err(Missing::NotCode) }
            });
            let fresh = match (found, known) {
                (Ok(identity), Some(code)) if code.is_still(memory, interpreter, &identity) => {
                    Code { confirmed: code.confirmed.saturating_add(1), ..code.clone() }
                }
                (Ok(identity), _) => read(memory, interpreter, address, identity)?,
                // Most likely the process has exited.
                (Err(Missing::Unreadable), Some(code)) => code.clone(),
                // Most likely the interpreter is ending.
                (Err(_), Some(code)) if marked != 0 && code.confirmed >= LONG_LIVED => code.clone(),
                (Err(missing), _) => return Err(missing),
            };
            self.keep(key, Code { checked_in: self.batch, ..fresh });
        }
        self.young.get(&key).or_else(|| self.old.get(&key)).ok_or(Missing::Unreadable)
    }

    fn keep(&mut self, key: Key, code: Code) {
        let cost = code.cost_bytes();
        if let Some(before) = self.young.remove(&key) {
            self.young_bytes -= before.cost_bytes();
        }
        if self.young.len() >= MOST_CODES / 2 || self.young_bytes + cost > MOST_BYTES / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.old.remove(&key);
        self.young_bytes += cost;
        self.young.insert(key, code);
    }
}

impl Code {
    /// Whether what is known is right of an object with this identity.
    fn is_still(&self, memory: &mut dyn ReadMemory, interpreter: &Interpreter, identity: &Identity) -> bool {
        let (layout, types) = (&interpreter.code, &interpreter.types);
        let mut has = |address, known: &str, limit| text::is(memory, layout, types, address, known, limit);
        self.identity == *identity
            && has(identity.shown(layout), &self.function, NAME_CHARACTERS)
            && has(identity.file, &self.file, FILE_CHARACTERS)
    }

    fn cost_bytes(&self) -> usize {
        ENTRY_BYTES + self.function.len() + self.file.len() + self.table.len()
    }

    /// Where in the code the frame is, in bytes; negative: it has not begun. `None`: not in this code.
    fn offset(&self, interpreter: &Interpreter, address: u64, instruction: u64) -> Option<i64> {
        const UNIT_BYTES: i64 = 2;
        let offset = match interpreter.version.minor {
            // Bytes; -1 before the first one.
            ..=9 => i64::from(instruction as u32 as i32),
            10 => i64::from(instruction as u32 as i32) * UNIT_BYTES,
            // An address; one instruction before the first one while the code has not begun (3.11, 3.12).
            _ => instruction.wrapping_sub(address).wrapping_sub(u64::from(interpreter.code.instructions)) as i64,
        };
        let end = i64::try_from(self.code_bytes).ok()?;
        (offset >= -UNIT_BYTES && offset < end).then_some(offset)
    }
}

fn read_identity(memory: &mut dyn ReadMemory, interpreter: &Interpreter, address: u64) -> Result<Identity, Missing> {
    let mut bytes = [0; CODE_BYTES];
    let layout = &interpreter.code;
    let marked = usize::try_from(interpreter.process.code_mark).unwrap_or(CODE_BYTES).min(CODE_BYTES - MARK_WORDS * 8);
    let needed = usize::from(layout.lines.max(layout.file).max(layout.name) + 8)
        .max(marked + MARK_WORDS * 8)
        .clamp(OBJECT_SIZE + 8, CODE_BYTES);
    if !memory.read(address, &mut bytes[..needed]) {
        return Err(Missing::Unreadable);
    }
    let word =
        |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word));
    if word(OBJECT_TYPE) != interpreter.types.code || !layout::is_alive(word(0)) {
        return Err(Missing::NotCode);
    }
    Ok(Identity {
        mark: bytes[marked..].first_chunk().map_or(0, |words| mark_in(words, &interpreter.process)),
        first_line: word(usize::from(layout.first_line)) as u32 as i32,
        name: word(usize::from(layout.name)),
        file: word(usize::from(layout.file)),
        qualified: if layout.qualified == NONE { 0 } else { word(usize::from(layout.qualified)) },
        table: word(usize::from(layout.lines)),
        size: if layout.code == NONE { word(OBJECT_SIZE) } else { word(usize::from(layout.code)) },
    })
}

/// Reads all of a code object, and that it is still the same afterwards.
fn read(
    memory: &mut dyn ReadMemory,
    interpreter: &Interpreter,
    address: u64,
    identity: Identity,
) -> Result<Code, Missing> {
    let (layout, types): (&CodeLayout, _) = (&interpreter.code, &interpreter.types);
    let function = text::text(memory, layout, types, identity.shown(layout), NAME_CHARACTERS)?;
    let file = text::text(memory, layout, types, identity.file, FILE_CHARACTERS)?;
    let table = text::bytes(memory, types, identity.table, TABLE_BYTES)?;
    let code_bytes = if layout.code == NONE {
        identity.size.saturating_mul(2)
    } else {
        text::bytes_len(memory, types, identity.size)?
    };
    if read_identity(memory, interpreter, address)? != identity {
        return Err(Missing::NotCode);
    }
    Ok(Code {
        identity,
        function: function.into(),
        file: file.into(),
        table: table.into(),
        code_bytes,
        is_synthetic: identity.name == identity.file && identity.name == identity.qualified,
        confirmed: 0,
        checked_in: 0,
    })
}

#[cfg(test)]
#[path = "code_tests.rs"]
mod tests;
