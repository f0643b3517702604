//! What the programs need to know of a CPython process to read its frames, and what they write down of each frame.
//!
//! Here: the layouts. Not here: where the offsets come from (user space: the interpreter's own table from 3.13 on, checked
//! tables below), nor what a frame is called (user space reads the code object).

/// How the walk over a thread's frames ended: `RawStack::python_end`.
pub mod walk {
    /// The process is not known to run Python.
    pub const NOT_PYTHON: u8 = 0;
    /// The outermost frame was reached.
    pub const WHOLE: u8 = 1;
    /// The thread has no thread state: it never ran Python.
    pub const NO_THREAD_STATE: u8 = 2;
    /// Memory could not be read, or the thread was just entering the evaluator and its state was not set yet (3.11, 3.12).
    pub const UNREADABLE: u8 = 3;
    /// More frames than are copied.
    pub const CUT: u8 = 4;
    /// More threads in the interpreter than are looked at.
    pub const TOO_MANY_THREADS: u8 = 5;
}

/// Most frames that the walk writes: the six last places of the room for `stack::PYTHON_FRAMES` are where it reads frames into, and
/// its last frame may lie in the first of them.
pub const WALKED_FRAMES: usize = crate::stack::PYTHON_FRAMES - 5;

/// Interpreters that the walk looks at.
pub const WALKED_INTERPRETERS: u32 = 3;
/// Thread states that it looks at in each of them, the newest first.
pub const WALKED_THREADS: u32 = 192;

/// One frame. What it means depends on the version: see `tracer::python`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PythonFrame {
    /// Address of the code object (tag bits still in it).
    pub code: u64,
    /// `prev_instr` or `instr_ptr` as it stands in the frame (3.11 on), or `f_lasti` (3.10 and before).
    pub instruction: u64,
    /// `owner`, or `is_entry` in 3.11.
    pub owner: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// [`mark`] of the code object when the frame was read; 0: it could not be read then.
    pub mark: u32,
}

const _: () = assert!(size_of::<PythonFrame>() == 24);

/// Words of a code object that [`mark`] is made of.
pub const MARK_WORDS: usize = 7;

/// A digest of what a code object holds: its size, constants and names, or from 3.12 on its version, names and tables. It tells the
/// object that ran from one that came to the same address later. `mask` is for the word that changes in 3.11. Of zeroes it is 0.
#[inline(always)]
pub const fn mark(words: [u64; MARK_WORDS], mask: u64) -> u32 {
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let [a, b, c, d, e, f, g] = words;
    let first = (a ^ b.rotate_left(9) ^ c.rotate_left(18) ^ d.rotate_left(27)).wrapping_mul(SPREAD);
    let all = (first ^ (e & mask) ^ f.rotate_left(21) ^ g.rotate_left(42)).wrapping_mul(SPREAD);
    (all >> 32) as u32
}

/// Marks an offset that a version does not have.
pub const NONE: u16 = u16::MAX;

/// A process that runs CPython: value of the map `PYTHON`, keyed by process id. 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PythonProcess {
    /// Address of the pointer to the first interpreter state (`_PyRuntime.interpreters.head`).
    pub interpreters_head: u64,
    /// `PyInterpreterState.next`.
    pub interpreter_next: u16,
    /// `PyInterpreterState.threads.head`.
    pub interpreter_threads: u16,
    /// `PyThreadState.next`.
    pub thread_next: u16,
    /// `PyThreadState.thread_id`: equals the thread pointer.
    pub thread_id: u16,
    /// `PyThreadState.frame`, `.cframe` or `.current_frame`.
    pub thread_frame: u16,
    /// `_PyCFrame.current_frame` (3.11, 3.12); [`NONE`]: the thread's field is the frame itself. `previous` is the next word.
    pub cframe_frame: u16,
    /// `frame.previous` or `f_back`.
    pub frame_previous: u16,
    /// `frame.f_code` or `f_executable`.
    pub frame_code: u16,
    /// `f_lasti`, `prev_instr` or `instr_ptr`.
    pub frame_instruction: u16,
    /// Width of that field: 4 or 8.
    pub frame_instruction_bytes: u16,
    /// `owner` or `is_entry` (one byte); [`NONE`]: all frames are entries.
    pub frame_owner: u16,
    /// Bytes of a frame from its start that hold all fields above.
    pub frame_bytes: u16,
    /// Bits to clear in a pointer to the code (tagged references, 3.14).
    pub code_tag_mask: u64,
    /// With a cframe: a frame whose owner is this or more is the outermost of its cframe.
    pub cframe_entry: u64,
    /// Where in a code object the words of [`mark`] are.
    pub code_mark: u64,
    /// See [`mark`].
    pub code_mark_mask: u64,
}

const _: () = assert!(size_of::<PythonProcess>() == 64);
