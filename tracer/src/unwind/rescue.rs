//! The search for a way on through code that has no unwind information: code made at run time, and hand-written functions.
//!
//! Up from the stack pointer, for the first word that is a return address into a file's code. From there rules lead on, but the
//! frame pointer is not known, as the code without rules may have kept anything in it: first the walk is tried without, then with
//! what the register holds, then with the words that such code pushes beside its return address. A way counts only if it leads to
//! the thread's start. A wrong frame directly above the gap cannot be excluded, so such frames are marked.

use super::UserFrame;
use super::walk::{State, Stop, Walk};

/// Return addresses tried for one gap. Mostly the first is right; others are what earlier calls left on the stack.
const MAX_CANDIDATES: u32 = 16;
/// Words below a return address that may be the caller's frame pointer.
const PUSHED_WORDS: u64 = 7;
/// Gaps within gaps.
const MAX_DEPTH: u32 = 4;

impl Walk<'_> {
    /// Goes on behind the frame at `state`, the last of `frames`. On success they lead to the thread's start; else nothing changes.
    pub(super) fn rescue(&mut self, state: &State, frames: &mut Vec<UserFrame>, depth: u32) -> bool {
        let from = state.sp(self.table);
        let Some(offset) = self.offset(from).filter(|_| depth < MAX_DEPTH) else { return false };
        let words = (self.snapshot.stack.len() - offset) / 8;
        let mut candidates = 0;
        for at in (0..words as u64).map(|index| from.wrapping_add(index * 8)) {
            let Ok(word) = self.load(at, state) else { return false };
            if !self.is_return_address(word) {
                continue;
            }
            candidates += 1;
            if self.rescue_at(state, word, at, frames, depth) {
                return true;
            }
            if candidates >= MAX_CANDIDATES || self.steps_left == 0 {
                return false;
            }
        }
        false
    }

    /// Tries the return address at this place of the stack.
    fn rescue_at(&mut self, state: &State, word: u64, at: u64, frames: &mut Vec<UserFrame>, depth: u32) -> bool {
        let mut start = *state;
        let cfa = at.wrapping_add(8);
        start.ip = word;
        start.exact = false;
        start.above = cfa;
        start.registers.forget();
        start.registers.set(self.table.sp, cfa);
        match self.attempt(start, frames, depth) {
            Stop::Start => return true,
            Stop::NeedsRegister(register) if register == self.table.frame => {}
            _ => return false,
        }
        // A frame pointer that is one points into the stack above this frame.
        let pushed = (1..=PUSHED_WORDS).map(|back| self.load(at.wrapping_sub(back * 8), state).ok());
        let mut values: [Option<u64>; PUSHED_WORDS as usize + 1] = [None; PUSHED_WORDS as usize + 1];
        values[0] = state.registers.get(self.table.frame);
        values.iter_mut().skip(1).zip(pushed).for_each(|(value, word)| *value = word);
        for (index, value) in values.iter().enumerate() {
            let Some(value) = value.filter(|value| *value > at && self.offset(*value).is_some()) else { continue };
            if values[..index].contains(&Some(value)) {
                continue;
            }
            let mut start = start;
            start.registers.set(self.table.frame, value);
            if self.attempt(start, frames, depth) == Stop::Start {
                return true;
            }
        }
        false
    }

    /// Walks on from there, through further gaps if need be. Frames stay only if the walk reaches the thread's start.
    fn attempt(&mut self, mut state: State, frames: &mut Vec<UserFrame>, depth: u32) -> Stop {
        let before = frames.len();
        let stop = self.run(&mut state, frames);
        if let Some(frame) = frames.get_mut(before) {
            frame.rescued = true;
        }
        if stop == Stop::Start || (matches!(stop, Stop::NoRule(_)) && self.rescue(&state, frames, depth + 1)) {
            return Stop::Start;
        }
        frames.truncate(before);
        stop
    }
}
