//! Who holds a futex, judged from the memory at its address. Pure: the caller says which threads live.
//!
//! glibc's `pthread_mutex_t` (nptl/bits/struct_mutex.h, x86-64 and aarch64): lock word at +0, recursion count at +4, owner's
//! TID at +8, number of users at +12, kind at +16, spins at +20. Only an address whose whole content agrees with that layout
//! gets an owner; anything else (condition variables, semaphores, rwlocks, malloc arenas, stdio locks, Rust and Go locks) gets
//! none. A wrong owner is worse than none.

/// Futex commands (uapi/linux/futex.h) without flags.
pub mod op {
    #![allow(missing_docs)]
    pub const WAIT: u32 = 0;
    pub const LOCK_PI: u32 = 6;
    pub const WAIT_BITSET: u32 = 9;
    pub const WAIT_REQUEUE_PI: u32 = 11;
    pub const LOCK_PI2: u32 = 13;
    /// Flag: within one address space.
    pub const PRIVATE: u32 = 128;
    /// Flag: the timeout is of the real-time clock.
    pub const CLOCK_REALTIME: u32 = 256;
    /// Takes the flags off.
    pub const COMMAND_MASK: u32 = !(PRIVATE | CLOCK_REALTIME);
}

/// In a PI or robust futex word: the owner's TID.
pub const TID_MASK: u32 = 0x3fff_ffff;
const WAITERS: u32 = 0x8000_0000;

/// What was read at the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Operation with flags.
    pub op: u32,
    /// Value that the waiter expected.
    pub val: u32,
    /// Words at +0, +4, +8, +12, +16, +20.
    pub words: [u32; 6],
}

/// How an owner was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LockKind {
    /// A normal, recursive, error-checking or adaptive pthread mutex.
    Mutex,
    /// A robust pthread mutex.
    RobustMutex,
    /// A priority-inheritance lock: the word itself holds the owner.
    PiMutex,
}

impl LockKind {
    /// The name in reports.
    pub const fn id(self) -> &'static str {
        match self {
            LockKind::Mutex => "pthread mutex",
            LockKind::RobustMutex => "robust pthread mutex",
            LockKind::PiMutex => "priority-inheritance mutex",
        }
    }
}

/// The owner's TID in the waiter's pid namespace, and the kind of lock, if the memory agrees with one. The caller must still
/// check that this thread lives in the waiter's address space (for shared locks: at all) and is not the waiter.
pub fn owner(seen: Observed) -> Option<(u32, LockKind)> {
    let [word, count, owner, users, kind, spins] = seen.words;
    match seen.op & op::COMMAND_MASK {
        op::LOCK_PI | op::LOCK_PI2 => match word & TID_MASK {
            0 => None,
            tid => Some((tid, LockKind::PiMutex)),
        },
        // pthread_mutex_lock waits with the plain command. Timed locks share theirs with condition variables, semaphores and
        // Rust's locks, so they get no owner.
        op::WAIT => {
            if owner == 0 || owner > TID_MASK || users == 0 || users > 1 << 20 {
                return None;
            }
            // Bits 0-1 type, 4 robust, 5 PI, 6 priority protection, 7 process-shared, 8-9 elision (pthreadP.h).
            let pi_or_protected = kind & 0x60 != 0;
            if kind & !0x3ff != 0 || pi_or_protected || kind & 0xc != 0 || spins_look_wrong(spins) {
                return None;
            }
            let (recursive, robust) = (kind & 3 == 1, kind & 16 != 0);
            // Recursive mutexes count their holds from one; glibc sets a robust one's count to one as well.
            let count_fits = match (recursive, robust) {
                (true, _) => count != 0,
                (false, true) => count <= 1,
                (false, false) => count == 0,
            };
            if !count_fits {
                return None;
            }
            if robust {
                let held = seen.val & WAITERS != 0 && word & TID_MASK == owner;
                held.then_some((owner, LockKind::RobustMutex))
            } else {
                (seen.val == 2 && word == 2).then_some((owner, LockKind::Mutex))
            }
        }
        _ => None,
    }
}

/// The spin counter of adaptive mutexes is a small signed number, elision's beside it as well.
fn spins_look_wrong(spins: u32) -> bool {
    let spins_low = (spins & 0xffff) as u16 as i16;
    !(-200..=2000).contains(&spins_low)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE_WAIT: u32 = op::WAIT | op::PRIVATE;

    fn seen(op: u32, val: u32, words: [u32; 6]) -> Option<(u32, LockKind)> {
        owner(Observed { op, val, words })
    }

    #[test]
    fn a_contended_pthread_mutex_names_its_owner() {
        assert_eq!(seen(PRIVATE_WAIT, 2, [2, 0, 4711, 1, 0, 0]), Some((4711, LockKind::Mutex)));
        assert_eq!(
            seen(PRIVATE_WAIT, 2, [2, 3, 4711, 1, 1, 0]),
            Some((4711, LockKind::Mutex)),
            "recursive, held thrice"
        );
        assert_eq!(seen(op::WAIT, 2, [2, 0, 4711, 2, 128, 0]), Some((4711, LockKind::Mutex)), "process-shared");
    }

    #[test]
    fn a_robust_mutex_needs_word_and_owner_to_agree() {
        let word = 4711 | WAITERS;
        assert_eq!(seen(PRIVATE_WAIT, word, [word, 0, 4711, 1, 16, 0]), Some((4711, LockKind::RobustMutex)));
        let shared = [word, 1, 4711, 1, 144, 0];
        assert_eq!(seen(op::WAIT, word, shared), Some((4711, LockKind::RobustMutex)), "as glibc 2.36 writes it");
        assert_eq!(seen(PRIVATE_WAIT, word, [word, 0, 4712, 1, 16, 0]), None);
    }

    #[test]
    fn a_pi_lock_has_its_owner_in_the_word() {
        assert_eq!(seen(op::LOCK_PI2 | op::PRIVATE, 0, [99 | WAITERS, 0, 0, 0, 0, 0]), Some((99, LockKind::PiMutex)));
        assert_eq!(seen(op::LOCK_PI, 0, [0, 0, 7, 1, 32, 0]), None, "free by now");
    }

    #[test]
    fn look_alikes_get_no_owner() {
        assert_eq!(seen(PRIVATE_WAIT, 2, [2, 0, 1, 0, 0, 0]), None, "malloc arena: the flag at +8, no users");
        assert_eq!(seen(PRIVATE_WAIT, 2, [2, 1, 0xf7d8_a740, 0x7f12, 0, 0]), None, "stdio lock: a pointer at +8");
        assert_eq!(seen(PRIVATE_WAIT, 2, [2, 0, 0, 0, 0, 0]), None, "released a moment ago");
        assert_eq!(
            seen(op::WAIT_BITSET | op::PRIVATE, 2, [2, 0, 4711, 1, 0, 0]),
            None,
            "Rust's lock with data behind it"
        );
        assert_eq!(
            seen(op::WAIT_BITSET | op::PRIVATE | op::CLOCK_REALTIME, 0, [0, 0, 4711, 1, 0, 0]),
            None,
            "condition"
        );
        assert_eq!(seen(PRIVATE_WAIT, 2, [2, 0, 4711, 1, 0x55aa_1234, 0]), None, "kind is no kind");
        assert_eq!(seen(PRIVATE_WAIT, 0, [0, 0, 4711, 1, 0, 0]), None, "Go's note");
    }
}
