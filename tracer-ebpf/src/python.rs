//! The Python frames of the current thread, read from its process's memory: which code runs at which instruction, innermost first.
//!
//! Here: following pointers. Not here: where they lie in a version of CPython (user space fills [`PythonProcess`]), nor what a frame
//! means. User space has the same walk (`tracer::python::walk`), which is the one that tests drive.
//!
//! A thread's state is the one whose `thread_id` is the thread pointer: no id of a pid namespace, no offset of a libc. Nothing is
//! remembered from walk to walk: a thread state is freed and its memory used again while a copy of its id still stands in it.
//! In 3.11 and 3.12 the thread's state points to a `cframe`, a variable of the evaluator, and does so about 20 instructions before
//! that is set: it holds whatever was on the stack. So the outermost frame of this cframe has to lead to the frame of the one before;
//! if it does not, the frames are "unreadable", which is better than some that are none.
//!
//! Results of reads are kept as data, not as branches: one branch for each read makes the verifier give up.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use tracer_common::{
    python::{
        MARK_WORDS, NONE, PythonFrame, PythonProcess, WALKED_FRAMES, WALKED_INTERPRETERS, WALKED_THREADS, mark,
        walk as end,
    },
    stack::PYTHON_FRAMES,
};

use crate::repeat::{Step, repeat};

/// A thread state is not larger; without frames it points to a cframe inside itself.
const THREAD_STATE_BYTES: u64 = 4096;
/// A code object is not larger (asked of frames that are in doubt only).
const MOST_CODE_BYTES: u64 = 16 << 20;
/// Bytes that a frame is read into: the frame's offsets are cut to this size.
const FRAME_BUFFER_BYTES: usize = 128;
/// Where this buffer lies: in the last places for frames, since an offset that the verifier cannot foresee is refused on the
/// program's stack up to Linux 5.11, and a map of its own can be overwritten by a program that interrupts this one.
const FRAME_BUFFER_AT: usize = PYTHON_FRAMES - FRAME_BUFFER_BYTES.div_ceil(size_of::<PythonFrame>());
/// The last frame that fits takes the buffer's place once it was read.
const FRAMES: usize = WALKED_FRAMES;
const _: () = assert!(FRAMES == FRAME_BUFFER_AT + 1);

/// Keeps an offset of eight bytes, aligned to eight, inside the buffer.
const WORD_MASK: u64 = (FRAME_BUFFER_BYTES - 8) as u64;
/// The same for one byte, and for the number of bytes read.
const BYTE_MASK: u64 = (FRAME_BUFFER_BYTES - 1) as u64;

/// Writes the frames of the current thread behind `out`, and returns how many and how the walk ended. The last six places behind
/// `out` hold something else after it, if there are fewer frames.
///
/// `out` is room for [`PYTHON_FRAMES`] frames, in a ring's record or a map, never on the program's stack.
#[inline(always)]
pub fn walk<const HELPER: bool>(process: &PythonProcess, thread_pointer: u64, out: *mut PythonFrame) -> (u8, u8) {
    if thread_pointer == 0 {
        return (0, end::NO_THREAD_STATE);
    }
    match first_frame::<HELPER>(process, thread_pointer) {
        Ok(start) => frames::<HELPER>(process, start, out),
        Err(end) => (0, end),
    }
}

/// One field of what user space says. Volatile: the mask that follows it has to stay beside its use, where the verifier looks.
macro_rules! layout {
    ($process:ident.$field:ident) => {
        // SAFETY: a field of a value in a map, which stays readable while the program runs.
        unsafe { ptr::read_volatile(&raw const (*$process).$field) as u64 }
    };
}

/// Where the frames of a thread begin.
#[derive(Clone, Copy)]
struct Start {
    /// The innermost frame, 0: there is none.
    frame: u64,
    /// With a cframe: the innermost frame of the one before.
    before: u64,
    /// 1: the cframe may not be set yet.
    doubted: u64,
}

/// The innermost frame of the thread.
#[inline(always)]
fn first_frame<const HELPER: bool>(process: *const PythonProcess, thread_pointer: u64) -> Result<Start, u8> {
    let mut failed = 0;
    // SAFETY: as in `layout`.
    let head = unsafe { ptr::read_volatile(&raw const (*process).interpreters_head) };
    let mut interpreter = word(head, &mut failed);
    let (mut without_frames, mut too_many) = (0u64, 0u64);
    let mut interpreters = 0;
    while interpreters < WALKED_INTERPRETERS && interpreter != 0 {
        interpreters += 1;
        let thread = thread_of::<HELPER>(process, interpreter, thread_pointer, &mut failed);
        if thread != 0 {
            if word(thread.wrapping_add(layout!(process.thread_id)), &mut failed) == thread_pointer {
                let start = start_of(process, thread, &mut failed);
                if start.frame != 0 || start.doubted != 0 {
                    return Ok(start);
                }
                // A thread may have a state in several interpreters, and frames in the older one only.
                without_frames = 1;
            } else {
                too_many = 1;
            }
        }
        interpreter = word(interpreter.wrapping_add(layout!(process.interpreter_next)), &mut failed);
    }
    if without_frames != 0 {
        Ok(Start { frame: 0, before: 0, doubted: 0 })
    } else if too_many != 0 || interpreter != 0 {
        Err(end::TOO_MANY_THREADS)
    } else if failed != 0 {
        Err(end::UNREADABLE)
    } else {
        Err(end::NO_THREAD_STATE)
    }
}

/// The thread's state in an interpreter; 0: it has none there; another thread's: there are too many to look at.
#[inline(always)]
fn thread_of<const HELPER: bool>(
    process: *const PythonProcess,
    interpreter: u64,
    thread_pointer: u64,
    failed: &mut u64,
) -> u64 {
    let thread = word(interpreter.wrapping_add(layout!(process.interpreter_threads)), failed);
    let mut search = Search { process, thread_pointer, thread, failed: 0 };
    repeat::<HELPER, Search>(WALKED_THREADS, &mut search);
    *failed |= search.failed;
    search.thread
}

/// Looks for a thread among an interpreter's.
struct Search {
    process: *const PythonProcess,
    thread_pointer: u64,
    /// The state to look at; at the end that which was found.
    thread: u64,
    failed: u64,
}

impl Step for Search {
    /// No branch but that which leaves: where the verifier follows each turn, it compares each state at a branch with all that it has
    /// seen there, and more branches made loading a program take half a second.
    #[inline(always)]
    fn step(&mut self, _turn: u64) -> bool {
        let process = self.process;
        let thread = self.thread;
        if thread == 0 || word(thread.wrapping_add(layout!(process.thread_id)), &mut self.failed) == self.thread_pointer
        {
            return true;
        }
        self.thread = word(thread.wrapping_add(layout!(process.thread_next)), &mut self.failed);
        false
    }
}

#[inline(always)]
fn start_of(process: *const PythonProcess, thread: u64, failed: &mut u64) -> Start {
    let frame = word(thread.wrapping_add(layout!(process.thread_frame)), failed);
    let of_cframe = layout!(process.cframe_frame);
    if frame == 0 || of_cframe == u64::from(NONE) {
        return Start { frame, before: 0, doubted: 0 };
    }
    let cframe = frame.wrapping_add(of_cframe);
    let previous = word(cframe.wrapping_add(8), failed);
    // The thread's own cframe, which is never without a frame before it, has no previous one.
    let before = word(previous.wrapping_add(of_cframe), &mut 0);
    let is_threads_own = frame.wrapping_sub(thread) < THREAD_STATE_BYTES;
    Start { frame: word(cframe, failed), before, doubted: u64::from(!is_threads_own) }
}

#[inline(always)]
fn frames<const HELPER: bool>(process: *const PythonProcess, start: Start, out: *mut PythonFrame) -> (u8, u8) {
    let is_wide = layout!(process.frame_instruction_bytes) != 4;
    let all_are_entries = layout!(process.frame_owner) == u64::from(NONE);
    let mut walk = Walk {
        process,
        out,
        instruction_mask: if is_wide { u64::MAX } else { u64::from(u32::MAX) },
        owner_mask: if all_are_entries { 0 } else { 0xff },
        before: start.before,
        frame: start.frame,
        doubted: start.doubted,
        count: 0,
        end: end::CUT,
    };
    repeat::<HELPER, Walk>(FRAMES as u32, &mut walk);
    let ended_at_the_limit = walk.end == end::CUT && walk.frame == 0;
    (walk.count as u8, if ended_at_the_limit { end::WHOLE } else { walk.end })
}

/// Goes from frame to frame.
struct Walk {
    process: *const PythonProcess,
    out: *mut PythonFrame,
    instruction_mask: u64,
    owner_mask: u64,
    /// See [`Start::before`].
    before: u64,
    /// The frame to be read; 0: there is none.
    frame: u64,
    /// See [`Start::doubted`].
    doubted: u64,
    /// Frames that were written.
    count: u64,
    end: u8,
}

impl Walk {
    #[inline(always)]
    fn ends(&mut self, end: u8) -> bool {
        self.end = end;
        true
    }
}

impl Step for Walk {
    #[inline(always)]
    fn step(&mut self, turn: u64) -> bool {
        let process = self.process;
        if turn >= FRAMES as u64 {
            return true;
        }
        if self.frame == 0 {
            // A state that is not set yet may hold nothing, too.
            return self.ends(if self.doubted == 1 { end::UNREADABLE } else { end::WHOLE });
        }
        // SAFETY: `out` has room for PYTHON_FRAMES frames, and the buffer lies in the last six of them.
        let buffer = unsafe { self.out.add(FRAME_BUFFER_AT) }.cast::<u8>();
        let bytes = (layout!(process.frame_bytes) & BYTE_MASK) as u32;
        // SAFETY: `bytes` is at most the buffer's size. The helper checks the address and, where it fails, leaves zeroes.
        unsafe { bpf_probe_read_user(buffer.cast(), bytes, self.frame as *const core::ffi::c_void) };
        let code = word_at(buffer, layout!(process.frame_code));
        let instruction = word_at(buffer, layout!(process.frame_instruction)) & self.instruction_mask;
        let previous = word_at(buffer, layout!(process.frame_previous));
        let owner = byte_at(buffer, layout!(process.frame_owner)) & self.owner_mask;
        let is_outermost = u64::from(owner >= layout!(process.cframe_entry));
        // The frames of a cframe end at its outermost one, and each runs instructions that lie in its code object.
        let is_elsewhere = instruction.wrapping_sub(code) >= MOST_CODE_BYTES;
        let is_unset = if is_outermost == 1 { previous != self.before } else { previous == 0 || is_elsewhere };
        if self.doubted & u64::from(is_unset) == 1 {
            self.count = 0;
            return self.ends(end::UNREADABLE);
        }
        // No frame is without code, not even one that is no function.
        if code == 0 {
            return self.ends(end::UNREADABLE);
        }
        self.doubted &= !is_outermost;
        let marked = (code & !layout!(process.code_tag_mask)).wrapping_add(layout!(process.code_mark));
        let mark = mark_of(marked, layout!(process.code_mark_mask), buffer);
        // SAFETY: `turn` is below FRAMES, which is at most PYTHON_FRAMES; what was in the buffer is not needed any more.
        unsafe {
            let place = self.out.add(turn as usize);
            (&raw mut (*place).code).write_volatile(code);
            (&raw mut (*place).instruction).write_volatile(instruction);
            (&raw mut (*place).owner).cast::<u64>().write_volatile(owner | u64::from(mark) << 32);
        }
        self.frame = previous;
        self.count = turn + 1;
        false
    }
}

/// The mark of a code object, whose words are read into the buffer. Without it, what was freed since could pass for another function.
#[inline(always)]
fn mark_of(address: u64, mask: u64, buffer: *mut u8) -> u32 {
    let words = buffer.cast::<[u64; MARK_WORDS]>();
    // SAFETY: the buffer has room for the words. The helper checks the address and, where it fails, leaves zeroes.
    unsafe {
        bpf_probe_read_user(words.cast(), (MARK_WORDS * 8) as u32, address as *const core::ffi::c_void);
        mark(words.read_volatile(), mask)
    }
}

/// Eight bytes of the buffer.
#[inline(always)]
fn word_at(buffer: *const u8, offset: u64) -> u64 {
    // SAFETY: the mask keeps all eight bytes inside the buffer.
    unsafe { buffer.add((offset & WORD_MASK) as usize).cast::<u64>().read_volatile() }
}

/// One byte of the buffer.
#[inline(always)]
fn byte_at(buffer: *const u8, offset: u64) -> u64 {
    // SAFETY: the mask keeps the byte inside the buffer.
    u64::from(unsafe { buffer.add((offset & BYTE_MASK) as usize).read_volatile() })
}

/// Eight bytes of the thread's memory; zero, and noted, when they cannot be read.
#[inline(always)]
fn word(address: u64, failed: &mut u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: `value` has room for the bytes asked for; the helper checks the address and zeroes on failure.
    let result = unsafe { bpf_probe_read_user((&raw mut value).cast(), 8, address as *const core::ffi::c_void) };
    *failed |= result as u64;
    value
}
