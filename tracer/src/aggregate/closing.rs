//! Files that are being closed. close(2) empties its descriptor before it waits for what the file system has to write still, so whatever
//! the descriptor's table shows meanwhile is nothing, or another thread's new file. The file is the one that the process last waited for
//! by that number; where it never did, nothing is known, and nothing is said.

use tracer_common::sched::{FdKind, Switch};

use super::hash::FastMap;

/// Beyond so many descriptors all are forgotten: names are lost then, and none is wrong.
const MAX_DESCRIPTORS: usize = 4096;
/// One call waits several times, and does little in between; user code that makes and closes the next file takes longer.
const SAME_CALL_NS: u64 = 2_000_000;

/// A file by its descriptor.
#[derive(Clone, Copy)]
struct Known {
    inode: u64,
    /// The thread that waited in closing it, and which of its switches that was; 0: none.
    by: (u32, u64),
}

/// When a thread leaves the CPU: which of its switches this is, and how long it had run.
#[derive(Clone, Copy)]
pub struct Ran {
    pub switches: u64,
    pub ns: u64,
}

/// What descriptors referred to when a thread last waited on them.
#[derive(Default)]
pub struct Closing {
    by_number: FastMap<u64, Known>,
}

impl Closing {
    /// Looks at a switch in which a thread of this process (0: not known) waits in a system call. In close, what is known of the file takes the place of
    /// what the record says.
    pub fn see(&mut self, tgid: u32, switch: &mut Switch, closes: bool, ran: Ran) {
        let key = u64::from(tgid) << 32 | u64::from(switch.arg0);
        if closes {
            let inode = if tgid == 0 { 0 } else { self.closed(key, switch.prev_tid, ran) };
            let kind = if inode == 0 { FdKind::Unknown } else { FdKind::File };
            (switch.fd_kind, switch.object) = (kind as u8, inode);
        } else if switch.fd_kind == FdKind::File as u8 && switch.object != 0 && tgid != 0 {
            if self.by_number.len() >= MAX_DESCRIPTORS {
                self.by_number.clear();
            }
            self.by_number.insert(key, Known { inode: switch.object, by: (0, 0) });
        } else if switch.fd_kind != FdKind::Unknown as u8 {
            self.by_number.remove(&key);
        }
    }

    /// The file that a thread waits for in closing it; 0: not known.
    fn closed(&mut self, key: u64, tid: u32, ran: Ran) -> u64 {
        let Some(known) = self.by_number.get_mut(&key) else { return 0 };
        let goes_on = known.by == (tid, ran.switches.wrapping_sub(1)) && ran.ns <= SAME_CALL_NS;
        if known.by.0 == 0 || goes_on {
            known.by = (tid, ran.switches);
            return known.inode;
        }
        self.by_number.remove(&key);
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Leave, switch};

    const CLOSE: i16 = 3;
    const WRITE: i16 = 1;

    fn waits(closing: &mut Closing, (fd, syscall): (u32, i16), fd_kind: FdKind, object: u64, ran: Ran) -> (u8, u64) {
        let mut switch = switch(1, 0, 7, 8, Leave::Sleep { syscall, fd_kind: fd_kind as u8, object });
        switch.arg0 = fd;
        closing.see(7, &mut switch, syscall == CLOSE, ran);
        (switch.fd_kind, switch.object)
    }

    const UNKNOWN: (u8, u64) = (FdKind::Unknown as u8, 0);
    const FILE: (u8, u64) = (FdKind::File as u8, 40);

    fn ran(switches: u64, ns: u64) -> Ran {
        Ran { switches, ns }
    }

    #[test]
    fn a_file_that_is_closed_is_the_one_that_was_waited_for_by_its_number() {
        let mut closing = Closing::default();
        assert_eq!(waits(&mut closing, (3, CLOSE), FdKind::Unknown, 0, ran(1, 0)), UNKNOWN, "nobody has waited for it");
        assert_eq!(waits(&mut closing, (3, WRITE), FdKind::File, 40, ran(2, 0)), FILE);
        assert_eq!(waits(&mut closing, (4, CLOSE), FdKind::Unknown, 0, ran(3, 0)), UNKNOWN, "another one");
        // Another thread may have the number already.
        assert_eq!(waits(&mut closing, (3, CLOSE), FdKind::File, 99, ran(4, 0)), FILE);
        assert_eq!(waits(&mut closing, (3, CLOSE), FdKind::File, 99, ran(5, 1_000)), FILE, "the same call");
        assert_eq!(waits(&mut closing, (3, CLOSE), FdKind::Unknown, 0, ran(6, 9_000_000)), UNKNOWN, "one after it");
        assert_eq!(waits(&mut closing, (3, CLOSE), FdKind::Unknown, 0, ran(7, 0)), UNKNOWN);
    }

    #[test]
    fn a_number_that_something_else_has_since_is_forgotten_and_so_are_too_many() {
        let mut closing = Closing::default();
        waits(&mut closing, (3, WRITE), FdKind::File, 40, ran(1, 0));
        waits(&mut closing, (3, WRITE), FdKind::Pipe, 41, ran(2, 0));
        assert_eq!(waits(&mut closing, (3, CLOSE), FdKind::Unknown, 0, ran(3, 0)), UNKNOWN);
        for fd in 0..3 * MAX_DESCRIPTORS as u32 {
            waits(&mut closing, (fd, WRITE), FdKind::File, 40, ran(4, 0));
        }
        assert!(closing.by_number.len() <= MAX_DESCRIPTORS);
    }
}
