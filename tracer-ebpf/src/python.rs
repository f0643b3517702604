//! The Python frames of the current thread, read from its process's memory: which code runs at which instruction, innermost first.
//!
//! Here: following pointers. Not here: where they lie in a version of CPython (user space fills [`PythonProcess`]), nor what a frame
//! means. User space has the same walk (`tracer::python::walk`), which is the one that tests drive.
//!
//! A thread's state is the one whose `thread_id` is the thread pointer: no id of a pid namespace, no offset of a libc. Nothing is
//! remembered from walk to walk: a thread state is freed and its memory used again while a copy of its id still stands in it.
//! Results of reads are kept as data, not as branches: one branch for each read makes the verifier give up.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use tracer_common::{
    python::{NONE, PythonFrame, PythonProcess, WALKED_FRAMES, walk as end},
    stack::PYTHON_FRAMES,
};

/// Thread states and interpreters looked at: 256 and 4, one step each.
const STEPS: u32 = 260;
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
pub fn walk(process: &PythonProcess, thread_pointer: u64, out: *mut PythonFrame) -> (u8, u8) {
    if thread_pointer == 0 {
        return (0, end::NO_THREAD_STATE);
    }
    match first_frame(process, thread_pointer, out) {
        Ok(frame) => frames(process, frame, out),
        Err(end) => (0, end),
    }
}

/// One field of what user space says. Volatile: the mask that follows it has to stay beside its use, where the verifier looks.
macro_rules! layout {
    ($process:ident.$field:ident) => {
        // SAFETY: a field of a value in a map, which stays readable while the program runs.
        u64::from(unsafe { ptr::read_volatile(&raw const $process.$field) })
    };
}

/// What the search remembers besides where it is. In memory, of which the verifier knows nothing: as variables they would make it
/// follow every combination through every step.
#[derive(Clone, Copy)]
struct Notes(*mut u64);

impl Notes {
    /// Clean notes, in the buffer that frames are read into later.
    #[inline(always)]
    fn new(out: *mut PythonFrame) -> Self {
        // SAFETY: `out` has room for PYTHON_FRAMES frames; the buffer is larger than two words.
        unsafe {
            let notes = out.add(FRAME_BUFFER_AT).cast::<u64>();
            notes.write_volatile(0);
            notes.add(1).write_volatile(0);
            Notes(notes)
        }
    }

    /// Something could not be read, if the result is not zero.
    #[inline(always)]
    fn read(self, result: i64) {
        // SAFETY: see `new`.
        unsafe { self.0.write_volatile(self.0.read_volatile() | result as u64) };
    }

    #[inline(always)]
    fn has_failed(self) -> bool {
        // SAFETY: see `new`.
        unsafe { self.0.read_volatile() != 0 }
    }

    /// The thread has a state, with or without frames.
    #[inline(always)]
    fn find(self) {
        // SAFETY: see `new`.
        unsafe { self.0.add(1).write_volatile(1) };
    }

    #[inline(always)]
    fn has_found(self) -> bool {
        // SAFETY: see `new`.
        unsafe { self.0.add(1).read_volatile() != 0 }
    }
}

/// The innermost frame of the thread, 0 if it has none.
#[inline(always)]
fn first_frame(process: &PythonProcess, thread_pointer: u64, out: *mut PythonFrame) -> Result<u64, u8> {
    let notes = Notes::new(out);
    // SAFETY: as in `layout`.
    let head = unsafe { ptr::read_volatile(&raw const process.interpreters_head) };
    let mut interpreter = word(head, notes);
    let mut thread = word(interpreter.wrapping_add(layout!(process.interpreter_threads)), notes);
    let mut steps = 0;
    while steps < STEPS {
        steps += 1;
        if thread == 0 {
            interpreter = word(interpreter.wrapping_add(layout!(process.interpreter_next)), notes);
            if interpreter == 0 {
                return match () {
                    () if notes.has_found() => Ok(0),
                    () if notes.has_failed() => Err(end::UNREADABLE),
                    () => Err(end::NO_THREAD_STATE),
                };
            }
            thread = word(interpreter.wrapping_add(layout!(process.interpreter_threads)), notes);
            continue;
        }
        if word(thread.wrapping_add(layout!(process.thread_id)), notes) == thread_pointer {
            let frame = frame_of(process, thread, notes);
            if frame != 0 {
                return Ok(frame);
            }
            // A thread may have a state in several interpreters, and frames in the older one only.
            notes.find();
        }
        thread = word(thread.wrapping_add(layout!(process.thread_next)), notes);
    }
    Err(end::TOO_MANY_THREADS)
}

#[inline(always)]
fn frame_of(process: &PythonProcess, thread: u64, notes: Notes) -> u64 {
    let frame = word(thread.wrapping_add(layout!(process.thread_frame)), notes);
    let of_cframe = layout!(process.cframe_frame);
    if frame == 0 || of_cframe == u64::from(NONE) { frame } else { word(frame.wrapping_add(of_cframe), notes) }
}

#[inline(always)]
fn frames(process: &PythonProcess, first: u64, out: *mut PythonFrame) -> (u8, u8) {
    let wide: u64 = if layout!(process.frame_instruction_bytes) == 4 { u64::from(u32::MAX) } else { u64::MAX };
    let all_are_entries = layout!(process.frame_owner) == u64::from(NONE);
    let owner_mask: u64 = if all_are_entries { 0 } else { 0xff };
    let mut frame = first;
    let mut count = 0;
    while count < FRAMES {
        if frame == 0 {
            return (count as u8, end::WHOLE);
        }
        // SAFETY: `out` has room for PYTHON_FRAMES frames, and the buffer lies in the last six of them.
        let buffer = unsafe { out.add(FRAME_BUFFER_AT) }.cast::<u8>();
        let bytes = (layout!(process.frame_bytes) & BYTE_MASK) as u32;
        // SAFETY: `bytes` is at most the buffer's size. The helper checks the address and, where it fails, leaves zeroes.
        unsafe { bpf_probe_read_user(buffer.cast(), bytes, frame as *const core::ffi::c_void) };
        let code = word_at(buffer, layout!(process.frame_code));
        let instruction = word_at(buffer, layout!(process.frame_instruction)) & wide;
        let previous = word_at(buffer, layout!(process.frame_previous));
        let owner = byte_at(buffer, layout!(process.frame_owner)) & owner_mask;
        if code == 0 {
            // No frame is without code, not even one that is no function.
            return (count as u8, end::UNREADABLE);
        }
        // SAFETY: `count` is below FRAMES, which is at most PYTHON_FRAMES; what was in the buffer is not needed any more.
        unsafe {
            let place = out.add(count);
            (&raw mut (*place).code).write_volatile(code);
            (&raw mut (*place).instruction).write_volatile(instruction);
            (&raw mut (*place).owner).cast::<u64>().write_volatile(owner);
        }
        frame = previous;
        count += 1;
    }
    (count as u8, if frame == 0 { end::WHOLE } else { end::CUT })
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
fn word(address: u64, notes: Notes) -> u64 {
    let mut value = 0u64;
    // SAFETY: `value` has room for the bytes asked for; the helper checks the address and zeroes on failure.
    let result = unsafe { bpf_probe_read_user((&raw mut value).cast(), 8, address as *const core::ffi::c_void) };
    notes.read(result);
    value
}
