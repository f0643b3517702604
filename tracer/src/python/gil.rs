//! Where CPython's interpreter lock lies, so that waits for it can be told from other waits. It is a `struct _gil_runtime_state` with
//! a condition variable and a mutex, each with futexes of its own inside.
//!
//! Offsets of 3.8 to 3.11 were taken from the headers; 3.12 and 3.13 say themselves where the lock is. All were checked on the
//! interpreters' own waits (3.8.18, 3.9.18, 3.10.13, 3.11.2, 3.11.7, 3.12.1, 3.13.0, x86-64, glibc). A lock whose fields do not look
//! like one is taken for unknown. Interpreters that have a lock of their own (3.12 on) are not covered: only the main one's is told.

use std::ops::Range;

use super::layout::{PUBLISHED_BYTES, Version, published_gil};
use super::memory::{ReadMemory, word};

/// The longest interval after which a waiting thread asks for the lock that is taken for one: a minute, in microseconds.
const LONGEST_INTERVAL_US: u64 = 60_000_000;
/// Fields of `struct _gil_runtime_state`: `locked`, `cond`, `mutex`, `switch_cond`, and behind `switch_mutex` its end.
const LOCKED: u64 = 16;
const CONDITION: u64 = 32;
const SWITCH: u64 = 120;
const END: u64 = 208;

/// Addresses of futexes. A forked child has the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gil {
    /// Condition and mutex on which threads wait that want it.
    pub wanted: Range<u64>,
    /// Those on which the thread waits that has just given it up, until another one has it.
    pub handed_over: Range<u64>,
}

/// The interpreter lock of the process; none where it is not known.
pub(super) fn find(version: Version, runtime: &Range<u64>, head: u64, memory: &mut dyn ReadMemory) -> Option<Gil> {
    let at = match version.minor {
        8 => runtime.start.checked_add(1152)?,
        9 | 10 => runtime.start.checked_add(352)?,
        11 => runtime.start.checked_add(360)?,
        // Behind the head of the list of interpreters stands the main one; its `ceval.gil` refers to the lock.
        12 => {
            let main = word(memory, head.checked_add(8)?)?;
            word(memory, main.checked_add(384)?)?
        }
        13 => {
            let main = word(memory, head.checked_add(8)?)?;
            let mut table = [0; PUBLISHED_BYTES];
            let of = memory.read(runtime.start, &mut table).then(|| published_gil(&table)).flatten()?;
            let at = word(memory, main.checked_add(of.pointer)?)?;
            if at != main.checked_add(of.state)? || of.locked != of.state + LOCKED {
                return None;
            }
            at
        }
        _ => return None,
    };
    if at < runtime.start || at.checked_add(END)? > runtime.end {
        return None;
    }
    let interval_us = word(memory, at)?;
    let locked = word(memory, at + LOCKED)? as u32 as i32;
    let looks_so = (1..=LONGEST_INTERVAL_US).contains(&interval_us) && (-1..=1).contains(&locked);
    looks_so.then(|| Gil { wanted: at + CONDITION..at + SWITCH, handed_over: at + SWITCH..at + END })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::testing::Recorded;

    const RUNTIME: Range<u64> = 0x1000..0x1000 + 1464;

    fn memory(at: u64, interval_us: u64, locked: i32) -> Recorded {
        let mut memory = Recorded::default();
        memory.put(at, &[0; END as usize]);
        memory.put_word(at, interval_us);
        memory.put(at + LOCKED, &locked.to_le_bytes());
        memory
    }

    #[test]
    fn the_lock_of_an_old_version_is_at_its_offset_and_looks_like_one() {
        let version = |minor| Version { minor, micro: None };
        let found = find(version(8), &RUNTIME, 0, &mut memory(0x1000 + 1152, 5000, 1));
        let at = 0x1000 + 1152;
        assert_eq!(found, Some(Gil { wanted: at + 32..at + 120, handed_over: at + 120..at + 208 }));
        let of_9 = |interval_us, locked| find(version(9), &RUNTIME, 0, &mut memory(0x1000 + 352, interval_us, locked));
        assert!(of_9(5000, -1).is_some() && of_9(1, 0).is_some());
        assert_eq!((of_9(0, 0), of_9(u64::MAX, 0), of_9(5000, 7)), (None, None, None), "that is no lock");
        assert_eq!(find(version(9), &RUNTIME, 0, &mut Recorded::default()), None, "unreadable");
        assert_eq!(find(version(14), &RUNTIME, 0, &mut memory(0x1000, 5000, 0)), None, "not looked at yet");
    }

    #[test]
    fn the_lock_of_3_12_is_where_the_main_interpreter_says_if_that_lies_in_the_runtime() {
        let version = Version { minor: 12, micro: Some(1) };
        let with = |at: u64| {
            let mut memory = memory(at, 5000, 0);
            memory.put_word(0x4008, 0x5000);
            memory.put_word(0x5000 + 384, at);
            find(version, &RUNTIME, 0x4000, &mut memory)
        };
        assert!(with(0x1100).is_some());
        assert_eq!(with(0x9000), None, "an interpreter with a lock of its own");
    }
}
