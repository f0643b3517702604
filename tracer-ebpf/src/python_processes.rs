//! Which processes run Python: user space finds out by looking at their files, and their children run the same interpreter until
//! they execute another program. Not here: reading frames.

use crate::{access::config, emit, maps};

/// A child has the memory, and so the interpreter, of its parent.
#[inline(always)]
pub fn inherit(parent_tgid: u32, child_tgid: u32) {
    if config!(python) != 1 || parent_tgid == child_tgid {
        return;
    }
    if let Some(process) = maps::PYTHON.get_ptr(parent_tgid) {
        // SAFETY: the entry lives; a concurrent update by user space would write the same bytes.
        let process = unsafe { &*process };
        // When the map is full, the child's stacks have no Python frames until user space looks at it and says so.
        let _ = emit::in_ours(|| maps::PYTHON.insert(child_tgid, process, 0));
    }
}

/// The process has another memory now, or none.
#[inline(always)]
pub fn forget(tgid: u32) {
    if config!(python) == 1 {
        let _ = emit::in_ours(|| maps::PYTHON.remove(tgid));
    }
}
