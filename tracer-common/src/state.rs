//! The kernel's task states, as bits of `prev_state` in `sched_switch`.
//!
//! tp_btf and raw tracepoints give the task's raw state, tracefs's format a remapped one in which only "pre-empted" differs for
//! our purpose. Bits are masked, never compared: a futex wait is 8193 (interruptible and freezable).
//! Source: include/linux/sched.h; the first bits have been stable since 4.14.

/// Sleeping, a signal ends it.
pub const INTERRUPTIBLE: u32 = 0x0001;
/// Sleeping, a signal does not end it (D).
pub const UNINTERRUPTIBLE: u32 = 0x0002;
/// Stopped by a signal.
pub const STOPPED: u32 = 0x0004;
/// Stopped by a tracer.
pub const TRACED: u32 = 0x0008;
/// Exiting, being reaped.
pub const EXIT_DEAD: u32 = 0x0010;
/// Exited, not reaped.
pub const EXIT_ZOMBIE: u32 = 0x0020;
/// A parked kernel thread.
pub const PARKED: u32 = 0x0040;
/// The last switch of an exiting thread.
pub const DEAD: u32 = 0x0080;
/// Only a fatal signal ends the sleep.
pub const WAKEKILL: u32 = 0x0100;
/// An idle kernel worker: asleep without counting as load.
pub const NOLOAD: u32 = 0x0400;
/// Frozen by the freezer.
pub const FROZEN: u32 = 0x8000;

/// What a thread that left the CPU is doing, as far as the state bits alone say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// It still wants to run: pre-empted or yielded.
    Runnable,
    /// Stopped, traced, parked or frozen.
    Stopped,
    /// It has ended.
    Dead,
    /// It sleeps, and signals do not end the sleep.
    Uninterruptible,
    /// It sleeps.
    Sleeping,
    /// Bits that this tracer does not know.
    Unknown,
}

/// Reads the state bits in their order of precedence. `preempted` is the tracepoint's own argument.
pub const fn left(prev_state: u32, preempted: bool) -> Left {
    if preempted {
        return Left::Runnable;
    }
    if prev_state & (DEAD | EXIT_DEAD | EXIT_ZOMBIE) != 0 {
        Left::Dead
    } else if prev_state & (STOPPED | TRACED | PARKED | FROZEN) != 0 {
        Left::Stopped
    } else if prev_state & UNINTERRUPTIBLE != 0 {
        Left::Uninterruptible
    } else if prev_state & INTERRUPTIBLE != 0 {
        Left::Sleeping
    } else if prev_state & 0xff == 0 {
        Left::Runnable
    } else {
        Left::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_seen_on_a_real_kernel_are_read_by_their_bits() {
        assert_eq!(left(8193, false), Left::Sleeping, "futex and nanosleep: interruptible, freezable");
        assert_eq!(left(258, false), Left::Uninterruptible, "killable D");
        assert_eq!(left(1026, false), Left::Uninterruptible, "idle kernel worker");
        assert_eq!(left(260, false), Left::Stopped, "group stop");
        assert_eq!(left(0, true), Left::Runnable, "pre-empted");
        assert_eq!(left(1, true), Left::Runnable, "pre-empted on its way into a sleep");
        assert_eq!(left(0, false), Left::Runnable, "yielded");
        assert_eq!(left(0x80, false), Left::Dead, "last switch");
        assert_eq!(left(0x8000, false), Left::Stopped, "frozen");
    }
}
