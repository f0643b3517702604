//! The walk over a thread's frames, as the programs do it (`python.rs` on the kernel's side), in user space.
//!
//! It is the reference: tests drive it, on live interpreters whose threads stand still. On a running thread it would see frames
//! of different moments. Step for step the same, so that what is shown here holds there.

use tracer_common::python::{NONE, PythonFrame, PythonProcess, WALKED_FRAMES, walk as end};

use super::memory::{ReadMemory, word};

/// Thread states and interpreters looked at.
const STEPS: usize = 260;
/// Bytes of a frame that are read at most.
const FRAME_BUFFER_BYTES: usize = 128;

/// The frames of the thread whose thread pointer this is, innermost first, and how the walk ended.
pub fn walk(memory: &mut dyn ReadMemory, process: &PythonProcess, thread_pointer: u64) -> (Vec<PythonFrame>, u8) {
    if thread_pointer == 0 {
        return (Vec::new(), end::NO_THREAD_STATE);
    }
    match first_frame(memory, process, thread_pointer) {
        Ok(frame) => frames(memory, process, frame),
        Err(end) => (Vec::new(), end),
    }
}

fn first_frame(memory: &mut dyn ReadMemory, process: &PythonProcess, thread_pointer: u64) -> Result<u64, u8> {
    let mut failed = false;
    let mut read = |base: u64, offset: u16| {
        let value = word(memory, base.wrapping_add(u64::from(offset)));
        failed |= value.is_none();
        (value.unwrap_or(0), failed)
    };
    let (mut interpreter, _) = read(process.interpreters_head, 0);
    let (mut thread, _) = read(interpreter, process.interpreter_threads);
    let mut found = false;
    for _ in 0..STEPS {
        if thread == 0 {
            let failed;
            (interpreter, failed) = read(interpreter, process.interpreter_next);
            if interpreter == 0 {
                return match (found, failed) {
                    (true, _) => Ok(0),
                    (false, true) => Err(end::UNREADABLE),
                    (false, false) => Err(end::NO_THREAD_STATE),
                };
            }
            thread = read(interpreter, process.interpreter_threads).0;
            continue;
        }
        if read(thread, process.thread_id).0 == thread_pointer {
            let mut frame = read(thread, process.thread_frame).0;
            if frame != 0 && process.cframe_frame != NONE {
                frame = read(frame, process.cframe_frame).0;
            }
            if frame != 0 {
                return Ok(frame);
            }
            found = true;
        }
        thread = read(thread, process.thread_next).0;
    }
    Err(end::TOO_MANY_THREADS)
}

fn frames(memory: &mut dyn ReadMemory, process: &PythonProcess, first: u64) -> (Vec<PythonFrame>, u8) {
    let mut frames = Vec::new();
    let mut frame = first;
    let mut buffer = [0; FRAME_BUFFER_BYTES];
    let bytes = usize::from(process.frame_bytes) % FRAME_BUFFER_BYTES;
    while frames.len() < WALKED_FRAMES {
        if frame == 0 {
            return (frames, end::WHOLE);
        }
        if !memory.read(frame, &mut buffer[..bytes]) {
            return (frames, end::UNREADABLE);
        }
        let code = word_at(&buffer, process.frame_code);
        if code == 0 {
            return (frames, end::UNREADABLE);
        }
        let instruction = word_at(&buffer, process.frame_instruction);
        frames.push(PythonFrame {
            code,
            instruction: if process.frame_instruction_bytes == 4 {
                instruction & u64::from(u32::MAX)
            } else {
                instruction
            },
            owner: if process.frame_owner == NONE {
                0
            } else {
                buffer[usize::from(process.frame_owner) % buffer.len()]
            },
            reserved: [0; 7],
        });
        frame = word_at(&buffer, process.frame_previous);
    }
    (frames, if frame == 0 { end::WHOLE } else { end::CUT })
}

fn word_at(buffer: &[u8; FRAME_BUFFER_BYTES], offset: u16) -> u64 {
    let at = usize::from(offset) & (FRAME_BUFFER_BYTES - 8);
    buffer[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
