//! The walk over a thread's frames, as the programs do it (`python.rs` on the kernel's side), in user space.
//!
//! It is the reference: tests drive it, on live interpreters whose threads stand still. On a running thread it would see frames
//! of different moments. Step for step the same, so that what is shown here holds there.

use tracer_common::python::{
    MARK_WORDS, NONE, PythonFrame, PythonProcess, WALKED_FRAMES, WALKED_INTERPRETERS, WALKED_THREADS, mark, walk as end,
};

use super::memory::{ReadMemory, word};

/// A thread state is not larger.
const THREAD_STATE_BYTES: u64 = 4096;
/// A code object is not larger.
const MOST_CODE_BYTES: u64 = 16 << 20;
/// Bytes of a frame that are read at most.
const FRAME_BUFFER_BYTES: usize = 128;

/// The frames of the thread whose thread pointer this is, innermost first, and how the walk ended.
pub fn walk(memory: &mut dyn ReadMemory, process: &PythonProcess, thread_pointer: u64) -> (Vec<PythonFrame>, u8) {
    if thread_pointer == 0 {
        return (Vec::new(), end::NO_THREAD_STATE);
    }
    match first_frame(memory, process, thread_pointer) {
        Ok(start) => frames(memory, process, start),
        Err(end) => (Vec::new(), end),
    }
}

/// Where the frames of a thread begin.
struct Start {
    frame: u64,
    /// The innermost frame of the cframe before, where there are cframes and this one may not be set yet.
    before: Option<u64>,
}

fn first_frame(memory: &mut dyn ReadMemory, process: &PythonProcess, thread_pointer: u64) -> Result<Start, u8> {
    let mut failed = false;
    let mut read = |base: u64, offset: u16| {
        let value = word(memory, base.wrapping_add(u64::from(offset)));
        failed |= value.is_none();
        (value.unwrap_or(0), failed)
    };
    let (mut interpreter, _) = read(process.interpreters_head, 0);
    let (mut without_frames, mut too_many) = (false, false);
    for _ in 0..WALKED_INTERPRETERS {
        if interpreter == 0 {
            break;
        }
        let (mut thread, _) = read(interpreter, process.interpreter_threads);
        for _ in 0..WALKED_THREADS {
            if thread == 0 || read(thread, process.thread_id).0 == thread_pointer {
                break;
            }
            thread = read(thread, process.thread_next).0;
        }
        if thread != 0 && read(thread, process.thread_id).0 == thread_pointer {
            let start = start_of(process, thread, &mut read);
            if start.frame != 0 || start.before.is_some() {
                return Ok(start);
            }
            without_frames = true;
        } else {
            too_many |= thread != 0;
        }
        interpreter = read(interpreter, process.interpreter_next).0;
    }
    let (_, failed) = read(process.interpreters_head, 0);
    match (without_frames, too_many || interpreter != 0, failed) {
        (true, _, _) => Ok(Start { frame: 0, before: None }),
        (_, true, _) => Err(end::TOO_MANY_THREADS),
        (_, _, true) => Err(end::UNREADABLE),
        _ => Err(end::NO_THREAD_STATE),
    }
}

/// `read` gives the word at an offset, and whether any read has failed.
fn start_of(process: &PythonProcess, thread: u64, read: &mut impl FnMut(u64, u16) -> (u64, bool)) -> Start {
    let (frame, _) = read(thread, process.thread_frame);
    if frame == 0 || process.cframe_frame == NONE {
        return Start { frame, before: None };
    }
    let cframe = frame.wrapping_add(u64::from(process.cframe_frame));
    let (previous, _) = read(cframe, 8);
    let (before, _) = read(previous, process.cframe_frame);
    let is_threads_own = frame.wrapping_sub(thread) < THREAD_STATE_BYTES;
    Start { frame: read(cframe, 0).0, before: (!is_threads_own).then_some(before) }
}

fn frames(memory: &mut dyn ReadMemory, process: &PythonProcess, start: Start) -> (Vec<PythonFrame>, u8) {
    let mut frames = Vec::new();
    let mut frame = start.frame;
    let mut doubt = start.before;
    let mut buffer = [0; FRAME_BUFFER_BYTES];
    let bytes = usize::from(process.frame_bytes) % FRAME_BUFFER_BYTES;
    while frames.len() < WALKED_FRAMES {
        if frame == 0 {
            return (frames, if doubt.is_some() { end::UNREADABLE } else { end::WHOLE });
        }
        if !memory.read(frame, &mut buffer[..bytes]) {
            buffer = [0; FRAME_BUFFER_BYTES];
        }
        let code = word_at(&buffer, process.frame_code);
        let instruction = word_at(&buffer, process.frame_instruction);
        let owner =
            if process.frame_owner == NONE { 0 } else { buffer[usize::from(process.frame_owner) % buffer.len()] };
        let previous = word_at(&buffer, process.frame_previous);
        let is_outermost = u64::from(owner) >= process.cframe_entry;
        let is_elsewhere = instruction.wrapping_sub(code) >= MOST_CODE_BYTES;
        let is_unset = |before| if is_outermost { previous != before } else { previous == 0 || is_elsewhere };
        if doubt.is_some_and(is_unset) {
            return (Vec::new(), end::UNREADABLE);
        }
        if code == 0 {
            return (frames, end::UNREADABLE);
        }
        frames.push(PythonFrame {
            code,
            instruction: if process.frame_instruction_bytes == 4 {
                instruction & u64::from(u32::MAX)
            } else {
                instruction
            },
            owner,
            reserved: [0; 3],
            mark: mark_of(memory, process, code & !process.code_tag_mask),
        });
        if is_outermost {
            doubt = None;
        }
        frame = previous;
    }
    (frames, if frame == 0 { end::WHOLE } else { end::CUT })
}

fn mark_of(memory: &mut dyn ReadMemory, process: &PythonProcess, code: u64) -> u32 {
    let mut bytes = [0; MARK_WORDS * 8];
    if memory.read(code.wrapping_add(process.code_mark), &mut bytes) { mark_in(&bytes, process) } else { 0 }
}

/// The mark that these bytes of a code object make.
pub fn mark_in(bytes: &[u8; MARK_WORDS * 8], process: &PythonProcess) -> u32 {
    let word = |index: usize| bytes[index * 8..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    mark(std::array::from_fn(word), process.code_mark_mask)
}

fn word_at(buffer: &[u8; FRAME_BUFFER_BYTES], offset: u16) -> u64 {
    let at = usize::from(offset) & (FRAME_BUFFER_BYTES - 8);
    buffer[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
