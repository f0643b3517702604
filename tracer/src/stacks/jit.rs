//! Names of code that a process makes at run time, from the map that its JIT writes. A JIT writes while it runs, so the map is looked at
//! again, and what was written since is read, when a stack has code without a name: at once, then less and less often while that does
//! not help.

use crate::symbol::perf_map::PerfMap;

/// First time between two looks in vain; each further one doubles it, up to [`MOST_PAUSE_NS`]. A look takes some 30 us.
const PAUSE_NS: u64 = 1_000_000;
const MOST_PAUSE_NS: u64 = 1_000_000_000;

/// See the file's head.
#[derive(Default)]
pub struct Jit {
    map: PerfMap,
    looked_ns: u64,
    pause_ns: u64,
    /// It is too large, see [`Jit::drop_names`].
    dropped: bool,
}

impl Jit {
    /// Name of the function at an address.
    pub fn find(&self, address: u64) -> Option<&str> {
        self.map.find(address)
    }

    /// Memory that it takes, about.
    pub fn byte_len(&self) -> usize {
        self.map.byte_len()
    }

    /// A stack has this address. Reads what was written since the last look, if it is time for that: soon where the address has no
    /// name, now and then where it has one, since other code may lie there now. True: there may be new names.
    pub fn look(&mut self, pid: u32, address: u64, now_ns: u64) -> bool {
        let is_named = self.find(address).is_some();
        let pause_ns = if is_named { MOST_PAUSE_NS } else { self.pause_ns };
        if self.dropped || now_ns.saturating_sub(self.looked_ns) < pause_ns {
            return false;
        }
        self.looked_ns = now_ns;
        let grown = self.follow(pid);
        self.pause_ns = match self.find(address) {
            Some(_) => 0,
            None => (self.pause_ns * 2).clamp(PAUSE_NS, MOST_PAUSE_NS),
        };
        grown
    }

    fn follow(&mut self, pid: u32) -> bool {
        match self.map.follow(pid, ns_pid(pid)) {
            Ok(grown) => grown,
            Err(error) => {
                tracing::debug!("{error}");
                false
            }
        }
    }

    /// Gives its memory back; from now on it has no names.
    pub fn drop_names(&mut self) {
        *self = Jit { dropped: true, ..Jit::default() };
    }
}

/// The process's id as it sees it itself.
fn ns_pid(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.and_then(|ids| ids.split_whitespace().last()).and_then(|id| id.parse().ok()).unwrap_or(pid)
}
