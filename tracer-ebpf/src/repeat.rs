//! Loops with many turns. From Linux 5.17 on a helper runs them, and the verifier looks at what they do once. Before, it follows every
//! turn, which takes it some tenths of a second for the walk over Python frames.
//!
//! A program that uses the helper is refused by a kernel without it, even where it would not be reached: the address of a function
//! is an instruction which such a kernel does not know. So each such program exists twice.

use aya_ebpf::helpers::generated::bpf_loop;

/// What is done in a loop.
pub trait Step {
    /// Does one turn; true: it was the last.
    fn step(&mut self, turn: u64) -> bool;
}

/// Does at most so many turns. HELPER: by the kernel's helper.
#[inline(always)]
pub fn repeat<const HELPER: bool, S: Step>(most: u32, state: &mut S) {
    if HELPER {
        let step: unsafe extern "C" fn(u64, *mut S) -> u64 = turn_of::<S>;
        // SAFETY: `turn_of` is called before this returns, and with this state.
        unsafe { bpf_loop(most, step as *mut _, (&raw mut *state).cast(), 0) };
    } else {
        let mut turn = 0;
        // Volatile, so that the count lies in memory and nowhere else. The compiler would count from below zero, which the verifier refuses where
        // it becomes an address; or keep the next turn's number in a register as well, with which Linux 5.10 took minutes to load the program.
        while seen(&turn) < u64::from(most) && !state.step(seen(&turn)) {
            let next = seen(&turn) + 1;
            // SAFETY: a local variable.
            unsafe { core::ptr::write_volatile(&raw mut turn, next) };
        }
    }
}

/// What the helper calls. 1 ends the loop.
#[inline(never)]
unsafe extern "C" fn turn_of<S: Step>(turn: u64, state: *mut S) -> u64 {
    // SAFETY: the state that was given to `repeat`, which nobody else uses meanwhile.
    u64::from(unsafe { (*state).step(turn) })
}

#[inline(always)]
fn seen(turn: &u64) -> u64 {
    // SAFETY: a reference.
    unsafe { core::ptr::read_volatile(turn) }
}
