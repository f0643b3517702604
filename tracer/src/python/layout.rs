//! Where the fields of a version of CPython lie: checked tables for 3.8 to 3.12, the interpreter's own table from 3.13 on.
//!
//! The tables were taken from the headers of 3.8.18, 3.9.18, 3.10.13, 3.11.7 and 3.12.1 (x86-64) with `offsetof`; CPython keeps these
//! structs within a minor version. A process is believed only after its first structures were followed (`detect`), and each code
//! object and string by its type (`code`). Not here: finding the interpreter.

use std::{fmt, ops::Range};

use tracer_common::python::{NONE, PythonFrame, PythonProcess};

use super::gil::Gil;
use crate::process::ModuleId;

/// A version of CPython 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 11 in 3.11.7.
    pub minor: u8,
    /// 7 in 3.11.7, where it is known.
    pub micro: Option<u8>,
}

impl fmt::Display for Version {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "3.{}", self.minor)?;
        self.micro.map_or(Ok(()), |micro| write!(to, ".{micro}"))
    }
}

/// All that is known of the CPython in a process. A forked child shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Its version.
    pub version: Version,
    /// What the programs need.
    pub process: PythonProcess,
    /// Addresses of `_PyEval_EvalFrameDefault`: each native frame in it runs Python frames.
    pub eval: Vec<Range<u64>>,
    /// The evaluator's instructions are functions of their own (3.14 and later, by choice of who built it): the native frame that it
    /// called belongs to it.
    pub tail_calls: bool,
    /// Addresses of `_PyRuntime`. The futexes of the GIL lie in it.
    pub runtime: Range<u64>,
    /// Where in it, if that is known.
    pub gil: Option<Gil>,
    /// The file that the interpreter lies in.
    pub module: ModuleId,
    /// Addresses in that file of its collector of garbage; empty: not known.
    pub collector: Vec<Range<u64>>,
    /// Where code objects keep what names them.
    pub code: CodeLayout,
    /// Addresses of the types by which objects are recognised.
    pub types: Types,
}

/// Addresses of type objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Types {
    /// `PyCode_Type`.
    pub code: u64,
    /// `PyUnicode_Type`.
    pub text: u64,
    /// `PyBytes_Type`.
    pub bytes: u64,
}

/// Offsets in code objects and in the objects that they refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeLayout {
    /// `co_firstlineno`.
    pub first_line: u16,
    /// `co_filename`.
    pub file: u16,
    /// `co_name`.
    pub name: u16,
    /// `co_qualname`; [`NONE`] before 3.11.
    pub qualified: u16,
    /// `co_lnotab` or `co_linetable`.
    pub lines: u16,
    /// `co_code` before 3.11: a bytes object.
    pub code: u16,
    /// `co_code_adaptive` from 3.11 on: the instructions themselves.
    pub instructions: u16,
    /// Data of a string that is ASCII only, and of one that is not.
    pub ascii: u16,
    /// See `ascii`.
    pub wide: u16,
}

/// Whether an object with this first word, its number of references, is alive. A freed one has none, or its allocator's pointer there;
/// 3.14 keeps flags in the upper 16 bits.
pub fn is_alive(references: u64) -> bool {
    references as u32 != 0 && references >> 32 & 0xffff == 0
}

/// Type of any object.
pub const OBJECT_TYPE: usize = 8;
/// Number of items of an object with items: bytes, code (3.11 on, in units of two bytes).
pub const OBJECT_SIZE: usize = 16;
/// Characters of a string.
pub const TEXT_LENGTH: usize = 16;
/// What kind of string it is.
pub const TEXT_STATE: usize = 32;
/// Data of a bytes object.
pub const BYTES_DATA: u64 = 32;
/// `PyThreadState.interp`.
pub const THREAD_INTERPRETER: u64 = 16;
/// Most bytes of a code object that are read: all fields in [`CodeLayout`] lie before.
pub const CODE_BYTES: usize = 256;
/// From 3.12 on a code object's mark is of `co_version`, names and tables: from so many bytes in front of `co_filename` on.
const MARK_BEFORE_FILE: u16 = 24;
/// Before, of what follows the object's type. In 3.11: its size, constants, names, exceptions, and numbers.
const OLD_MARK: u64 = 16;
/// 3.11 changes `co_warmup` in this word of the mark.
const MARK_MASK_3_11: u64 = 0x0000_0000_ffff_ffff;
/// Most bytes of a frame.
const FRAME_BYTES: u16 = 112;

/// Owners from this one on (the C stack, the interpreter) have frames that are no function.
const OWNED_BY_NO_FUNCTION: u8 = 3;

/// How the table of lines is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// 3.8, 3.9.
    Lnotab,
    /// 3.10.
    Ranges,
    /// 3.11 on.
    Locations,
}

/// Where the run of Python frames ends that one native evaluator frame runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// Each frame has a native one.
    Single,
    /// At a frame that is marked as an entry; it is one of them.
    AtEntry,
    /// At a frame that is no function.
    AtShim,
}

impl Interpreter {
    /// See `Lines`.
    pub fn lines(&self) -> Lines {
        match self.version.minor {
            ..=9 => Lines::Lnotab,
            10 => Lines::Ranges,
            _ => Lines::Locations,
        }
    }

    /// See `Runs`.
    pub fn runs(&self) -> Runs {
        match self.version.minor {
            ..=10 => Runs::Single,
            11 => Runs::AtEntry,
            _ => Runs::AtShim,
        }
    }

    /// Is this frame no function, but where the evaluator was entered? Its owner is the C stack (3.12, 3.13), or the interpreter too.
    pub fn is_shim(&self, frame: &PythonFrame) -> bool {
        self.runs() == Runs::AtShim && frame.owner >= OWNED_BY_NO_FUNCTION
    }

    /// Does an address lie in the evaluator?
    pub fn is_eval(&self, address: u64) -> bool {
        self.eval.iter().any(|range| range.contains(&address))
    }
}

/// A layout, and where in `_PyRuntime` the first interpreter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// All but the address of the first interpreter.
    pub process: PythonProcess,
    /// `_PyRuntime.interpreters.head`.
    pub head: u64,
    /// Code objects.
    pub code: CodeLayout,
}

/// The table of a version that does not publish it.
pub fn table(minor: u8) -> Option<Layout> {
    let process = match minor {
        8 | 9 => old_frames(104),
        10 => old_frames(96),
        11 => PythonProcess {
            interpreter_threads: 16,
            thread_id: 152,
            thread_frame: 56,
            cframe_frame: 8,
            frame_previous: 48,
            frame_code: 32,
            frame_owner: 68,
            cframe_entry: 1,
            ..new_frames()
        },
        12 => PythonProcess {
            interpreter_threads: 72,
            thread_id: 136,
            thread_frame: 56,
            cframe_frame: 0,
            frame_previous: 8,
            frame_code: 0,
            frame_owner: 70,
            cframe_entry: OWNED_BY_NO_FUNCTION.into(),
            ..new_frames()
        },
        _ => return None,
    };
    let code = match minor {
        ..=10 => CodeLayout {
            first_line: 40,
            file: 104,
            name: 112,
            qualified: NONE,
            lines: 120,
            code: 48,
            instructions: NONE,
            ascii: 48,
            wide: 72,
        },
        11 => CodeLayout { first_line: 72, instructions: 184, ascii: 48, wide: 72, ..new_code() },
        _ => CodeLayout { first_line: 68, instructions: 192, ascii: 40, wide: 56, ..new_code() },
    };
    let process = PythonProcess {
        code_mark: if minor < 12 { OLD_MARK } else { u64::from(code.file - MARK_BEFORE_FILE) },
        code_mark_mask: if minor == 11 { MARK_MASK_3_11 } else { u64::MAX },
        ..process
    };
    Some(Layout { process, head: if minor <= 10 { 32 } else { 40 }, code })
}

/// Frames that are objects: 3.8 to 3.10.
fn old_frames(lasti: u16) -> PythonProcess {
    PythonProcess {
        interpreter_next: 0,
        interpreter_threads: 8,
        thread_next: 8,
        thread_id: 176,
        thread_frame: 24,
        cframe_frame: NONE,
        frame_previous: 24,
        frame_code: 32,
        frame_instruction: lasti,
        frame_instruction_bytes: 4,
        frame_owner: NONE,
        frame_bytes: FRAME_BYTES,
        ..PythonProcess::default()
    }
}

/// What 3.11 and 3.12 have in common.
fn new_frames() -> PythonProcess {
    PythonProcess {
        interpreter_next: 0,
        thread_next: 8,
        frame_instruction: 56,
        frame_instruction_bytes: 8,
        frame_bytes: 72,
        ..PythonProcess::default()
    }
}

fn new_code() -> CodeLayout {
    CodeLayout { file: 112, name: 120, qualified: 128, lines: 136, code: NONE, ..CodeLayout::default() }
}

/// Bytes of the interpreter's own table that are looked at.
pub const PUBLISHED_BYTES: usize = 81 * 8;
/// What it begins with.
const COOKIE: &[u8; 8] = b"xdebugpy";

/// Words of the table of offsets of a version (`_Py_DebugOffsets`): the first word of each struct in it.
struct Words {
    threads_head: usize,
    thread: usize,
    frame: usize,
    code: usize,
    object: usize,
    bytes: usize,
    text: usize,
}

const WORDS_3_13: Words = Words { threads_head: 9, thread: 19, frame: 28, code: 34, object: 44, bytes: 64, text: 67 };
const WORDS_3_14: Words = Words { threads_head: 9, thread: 22, frame: 31, code: 39, object: 50, bytes: 74, text: 77 };

/// The table that stands at the start of `_PyRuntime`; `None`: there is none. An error says why it is of no use.
pub fn published(bytes: &[u8; PUBLISHED_BYTES]) -> Option<Result<(Version, Layout), String>> {
    if !bytes.starts_with(COOKIE) {
        return None;
    }
    let table = Table(bytes);
    let hex = table.word(1);
    let [release, micro, minor, major] = (hex as u32).to_le_bytes();
    let version = Version { minor, micro: Some(micro) };
    if hex > u64::from(u32::MAX) || major != 3 {
        return Some(Err(format!("CPython: its version {hex:#x} is none")));
    }
    if release >> 4 != 0xf {
        return Some(Err(format!("CPython {version}: not a final release")));
    }
    if table.word(2) != 0 {
        return Some(Err(format!("CPython {version}: built without the GIL")));
    }
    let words = match minor {
        13 => WORDS_3_13,
        14 => WORDS_3_14,
        _ => return Some(Err(format!("CPython {version}: how it publishes its offsets is not known"))),
    };
    let layout = table.layout(&words, minor);
    Some(
        layout
            .map(|layout| (version, layout))
            .ok_or(format!("CPython {version}: the offsets it publishes make no sense")),
    )
}

/// What an interpreter publishes of its lock: offsets in the interpreter's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedGil {
    /// Of the pointer to the lock.
    pub pointer: u64,
    /// Of the main interpreter's lock itself.
    pub state: u64,
    /// Of its field `locked`.
    pub locked: u64,
}

/// Where 3.13 keeps its lock, as the table at the start of `_PyRuntime` has it.
pub fn published_gil(bytes: &[u8; PUBLISHED_BYTES]) -> Option<PublishedGil> {
    let table = Table(bytes);
    let is_3_13 = bytes.starts_with(COOKIE) && (table.word(1) as u32).to_le_bytes()[2..] == [13, 3];
    is_3_13.then(|| PublishedGil { pointer: table.word(14), state: table.word(15), locked: table.word(17) })
}

struct Table<'a>(&'a [u8; PUBLISHED_BYTES]);

impl Table<'_> {
    fn word(&self, index: usize) -> u64 {
        self.0.get(index * 8..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// The offset in word `index` of a field of `bytes` bytes in a struct whose size stands in word `size`.
    fn field(&self, size: usize, index: usize, bytes: u64) -> Option<u16> {
        let offset = self.word(size + index);
        let fits = offset.checked_add(bytes)? <= self.word(size) && offset.is_multiple_of(bytes);
        u16::try_from(offset).ok().filter(|offset| fits && *offset != NONE)
    }

    fn layout(&self, words: &Words, minor: u8) -> Option<Layout> {
        const RUNTIME: usize = 3;
        const INTERPRETER: usize = 6;
        const POINTER: u64 = 8;
        let process = PythonProcess {
            interpreter_next: self.field(INTERPRETER, 2, POINTER)?,
            interpreter_threads: self.field(INTERPRETER, words.threads_head - INTERPRETER, POINTER)?,
            thread_next: self.field(words.thread, 2, POINTER)?,
            thread_id: self.field(words.thread, 5, POINTER)?,
            thread_frame: self.field(words.thread, 4, POINTER)?,
            cframe_frame: NONE,
            frame_previous: self.field(words.frame, 1, POINTER)?,
            frame_code: self.field(words.frame, 2, POINTER)?,
            frame_instruction: self.field(words.frame, 3, POINTER)?,
            frame_instruction_bytes: 8,
            frame_owner: self.field(words.frame, 5, 1)?,
            // From 3.14 on the reference to the code is tagged; objects are aligned to 8 at least.
            code_tag_mask: if minor >= 14 { 3 } else { 0 },
            ..PythonProcess::default()
        };
        let last = process.frame_previous.max(process.frame_code).max(process.frame_instruction).checked_add(8)?;
        let frame_bytes = last.max(process.frame_owner.checked_add(1)?).next_multiple_of(8);
        let thread_interpreter = self.field(words.thread, 3, POINTER)?;
        let code = self.code(words)?;
        let as_known = u64::from(thread_interpreter) == THREAD_INTERPRETER
            && self.word(words.object + 1) == OBJECT_TYPE as u64
            && self.word(words.bytes + 1) == OBJECT_SIZE as u64
            && self.word(words.bytes + 2) == BYTES_DATA
            && self.word(words.text + 1) == TEXT_STATE as u64
            && self.word(words.text + 2) == TEXT_LENGTH as u64
            && frame_bytes <= FRAME_BYTES;
        let head = self.field(RUNTIME, 2, POINTER)?;
        let code_mark = code.file.checked_sub(MARK_BEFORE_FILE)?.into();
        let process = PythonProcess { frame_bytes, code_mark, code_mark_mask: u64::MAX, ..process };
        as_known.then_some(Layout { process, head: u64::from(head), code })
    }

    fn code(&self, words: &Words) -> Option<CodeLayout> {
        let field = |index, bytes| {
            self.field(words.code, index, bytes).filter(|offset| usize::from(*offset) + bytes as usize <= CODE_BYTES)
        };
        let ascii = u16::try_from(self.word(words.text + 3)).ok().filter(|size| (40..=64).contains(size))?;
        Some(CodeLayout {
            first_line: field(5, 4)?,
            file: field(1, 8)?,
            name: field(2, 8)?,
            qualified: field(3, 8)?,
            lines: field(4, 8)?,
            code: NONE,
            // The instructions are the last field, of a size that the struct does not count.
            instructions: u16::try_from(self.word(words.code + 9)).ok().filter(|at| usize::from(*at) <= CODE_BYTES)?,
            ascii,
            // A string that is not ASCII only has two more words in front of its data.
            wide: ascii + 16,
        })
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::python::MARK_WORDS;

    use super::*;

    fn published_table(words: &[(usize, u64)]) -> [u8; PUBLISHED_BYTES] {
        let mut bytes = [0; PUBLISHED_BYTES];
        bytes[..8].copy_from_slice(COOKIE);
        for (index, value) in words {
            bytes[index * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// As Debian's 3.14.10 has it, and the headers of that version say.
    const OF_3_14: &[(usize, u64)] = &[
        (1, 0x030e_0af0),
        (3, 316_616),
        (5, 808),
        (6, 240_000),
        (8, 7272),
        (9, 7344),
        (22, 800),
        (24, 8),
        (25, 16),
        (26, 72),
        (27, 152),
        (31, 88),
        (32, 8),
        (33, 0),
        (34, 56),
        (36, 74),
        (39, 216),
        (40, 112),
        (41, 120),
        (42, 128),
        (43, 136),
        (44, 68),
        (48, 208),
        (51, 8),
        (75, 16),
        (76, 32),
        (78, 32),
        (79, 16),
        (80, 40),
    ];

    #[test]
    fn the_interpreters_own_table_is_read() {
        let (version, layout) = published(&published_table(OF_3_14)).expect("a table").expect("of use");
        assert_eq!(version.to_string(), "3.14.10");
        assert_eq!(layout.head, 808);
        assert_eq!((layout.process.frame_owner, layout.process.frame_bytes, layout.process.code_tag_mask), (74, 80, 3));
        assert_eq!(layout.process.code_mark, 88);
        assert_eq!((layout.code.instructions, layout.code.ascii, layout.code.wide), (208, 40, 56));
    }

    #[test]
    fn a_table_that_makes_no_sense_is_refused() {
        assert_eq!(published(&[0; PUBLISHED_BYTES]), None, "no cookie");
        for (index, value) in [
            (1, 0x030f_00f0),
            (1, 0x030e_00a1),
            (1, 0x040e_00f0),
            (1, u64::MAX),
            (2, 1),
            (5, u64::MAX - 3),
            (5, 70_000),
            (9, 65_535),
            (27, 801),
            (32, 12),
            (34, 200),
            (36, 120),
            (40, 300),
            (48, 300),
            (51, 16),
            (80, 8),
            (80, u64::MAX),
        ] {
            let table = [OF_3_14, &[(index, value)]].concat();
            let result = published(&published_table(&table));
            assert!(matches!(result, Some(Err(_))), "word {index} = {value:#x}: {result:?}");
        }
    }

    #[test]
    fn the_tables_stay_inside_what_is_read() {
        for minor in 8..=12 {
            let layout = table(minor).expect("a table");
            let process = layout.process;
            for offset in [process.frame_previous, process.frame_code, process.frame_instruction] {
                assert!(offset + 8 <= process.frame_bytes && offset % 8 == 0, "3.{minor}: {offset}");
            }
            assert!(process.frame_owner == NONE || process.frame_owner < process.frame_bytes, "3.{minor}");
            assert!(process.frame_bytes <= FRAME_BYTES, "3.{minor}");
            let code = layout.code;
            assert!(process.code_mark as usize + MARK_WORDS * 8 <= CODE_BYTES, "3.{minor}");
            for offset in [code.file, code.name, code.lines, code.first_line] {
                assert!(usize::from(offset) + 8 <= CODE_BYTES, "3.{minor}: {offset}");
            }
        }
        assert_eq!(table(7), None);
        assert_eq!(table(13), None, "publishes its own");
    }
}
