//! The first instruction of a Python function: read once whenever the function is called, and never else. So a debug register on it
//! sees each call, whatever the interpreter makes of calls, and nothing of the process is changed.
//!
//! From 3.11 on a function's first instruction prepares its frame, and no loop goes back to it. Before, a loop may begin there: such
//! functions are refused.

use tracer_common::python::NONE;

use super::{
    layout::{BYTES_DATA, Interpreter},
    memory::{ReadMemory, word},
    text,
};

/// Longest function that is looked through for such a loop.
const MOST_CODE_BYTES: u64 = 1 << 20;
/// `EXTENDED_ARG`, and the first and the last of the instructions that go to a place that their argument gives, in 3.8 to 3.10.
const EXTENDED_ARGUMENT: u8 = 144;
const JUMPS: std::ops::RangeInclusive<u8> = 111..=115;

/// Where a code object's first instruction is, or why it tells nothing.
pub fn entry(memory: &mut dyn ReadMemory, interpreter: &Interpreter, code: u64) -> Result<u64, &'static str> {
    let layout = &interpreter.code;
    if layout.code == NONE {
        return Ok(code.wrapping_add(u64::from(layout.instructions)));
    }
    const GONE: &str = "its code could not be read";
    let bytes = word(memory, code.wrapping_add(u64::from(layout.code))).ok_or(GONE)?;
    let len_bytes = text::bytes_len(memory, &interpreter.types, bytes).map_err(|_| GONE)?;
    let start = bytes.wrapping_add(BYTES_DATA);
    let mut instructions = vec![0; len_bytes.min(MOST_CODE_BYTES) as usize];
    if !memory.read(start, &mut instructions) {
        return Err(GONE);
    }
    if goes_back_to_start(&instructions) {
        return Err("it begins with a loop, whose rounds cannot be told from calls in Python before 3.11");
    }
    Ok(start)
}

/// Whether any instruction goes to the first one.
fn goes_back_to_start(instructions: &[u8]) -> bool {
    let mut before = 0;
    instructions.chunks_exact(2).any(|unit| {
        let is_extended = std::mem::replace(&mut before, unit[0]) == EXTENDED_ARGUMENT;
        JUMPS.contains(&unit[0]) && unit[1] == 0 && !is_extended
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_at_the_start_is_told_from_one_that_comes_later() {
        // while True: f()    as 3.8 has it: LOAD_GLOBAL, CALL_FUNCTION, POP_TOP, JUMP_ABSOLUTE 0
        assert!(goes_back_to_start(&[116, 0, 131, 0, 1, 0, 113, 0]));
        assert!(!goes_back_to_start(&[116, 0, 131, 0, 1, 0, 113, 4]));
        assert!(!goes_back_to_start(&[116, 0, 131, 0, 144, 1, 113, 0]), "to 256");
        assert!(!goes_back_to_start(&[]));
    }
}
