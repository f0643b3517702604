//! Attaches and detaches, while tracing, the programs that see what calls move through unix sockets. They run at each call at any socket
//! of the host and take some 100 ns there, so they are attached from when threads wait at unix sockets until they do no more; for how long
//! that is belongs to the numbers.

use std::io;

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{BtfTracePoint, ProgramError, tp_btf::BtfTracePointLinkId},
};

use super::{
    attach::chain,
    loader::{LoadError, map_error, take},
    memory_maps::{UnixKeyValue, UnixSumsValue},
};
use crate::model::meta::{UnixRecord, UnixRow};

/// Length of a period.
const PERIOD_NS: u64 = 200_000_000;
/// So many waits in a period are reason to count.
const MANY: u64 = 8;
/// And no more after so many periods with fewer: two seconds.
const CALM_PERIODS: u32 = 10;

/// See the file's head.
pub struct UnixCalls {
    programs: Vec<&'static str>,
    links: Vec<(&'static str, BtfTracePointLinkId)>,
    sums: HashMap<MapData, UnixKeyValue, UnixSumsValue>,
    need: Need,
    /// Since when they are attached.
    since_ns: Option<u64>,
    /// For how long they were before.
    counted_ns: u64,
    /// One could not be attached: none will be.
    failed: bool,
}

impl UnixCalls {
    /// Of programs that are loaded.
    pub(super) fn new(ebpf: &mut Ebpf, programs: Vec<&'static str>) -> Result<Self, LoadError> {
        let sums = HashMap::try_from(take(ebpf, "UNIX")?).map_err(|error| map_error("UNIX", &error))?;
        Ok(Self {
            programs,
            links: Vec::new(),
            sums,
            need: Need::default(),
            since_ns: None,
            counted_ns: 0,
            failed: false,
        })
    }

    /// Looks whether calls are to be counted now, when threads have begun so many waits at unix sockets since tracing began.
    pub(super) fn look(&mut self, ebpf: &mut Ebpf, now_ns: u64, waits: u64) {
        let wanted = self.need.of(self.since_ns.is_some(), now_ns, waits) && !self.failed;
        if wanted == self.since_ns.is_some() {
            return;
        }
        let done = if wanted { self.attach(ebpf) } else { self.detach(ebpf) };
        tracing::debug!("calls at unix sockets are {}", if wanted { "counted" } else { "not counted" });
        if let Err(error) = done {
            tracing::warn!("what goes through unix sockets is not counted: {}", chain(&error));
            self.failed = true;
            let _ = self.detach(ebpf);
            self.stop(now_ns);
        } else if wanted {
            self.since_ns = Some(super::clock::monotonic_ns());
        } else {
            self.stop(now_ns);
        }
    }

    fn attach(&mut self, ebpf: &mut Ebpf) -> Result<(), ProgramError> {
        for name in &self.programs {
            let Some(program) = ebpf.program_mut(name) else { continue };
            let program: &mut BtfTracePoint = program.try_into()?;
            self.links.push((name, program.attach()?));
        }
        Ok(())
    }

    fn detach(&mut self, ebpf: &mut Ebpf) -> Result<(), ProgramError> {
        for (name, link) in self.links.drain(..) {
            let Some(program) = ebpf.program_mut(name) else { continue };
            <&mut BtfTracePoint>::try_from(program)?.detach(link)?;
        }
        Ok(())
    }

    /// Nothing is counted from now on.
    pub(super) fn stop(&mut self, now_ns: u64) {
        if let Some(since_ns) = self.since_ns.take() {
            self.counted_ns += now_ns.saturating_sub(since_ns);
        }
    }

    /// What was counted since tracing began; `None`: it never was.
    pub fn sums(&self, now_ns: u64) -> io::Result<Option<UnixRecord>> {
        let counted_ns = self.counted_ns + self.since_ns.map_or(0, |since_ns| now_ns.saturating_sub(since_ns));
        if counted_ns == 0 {
            return Ok(None);
        }
        let mut rows = Vec::new();
        for entry in self.sums.iter() {
            let (key, sums) = entry.map_err(|error| io::Error::other(chain(&error)))?;
            rows.push(UnixRow {
                inode: key.0.inode,
                tgid: key.0.tgid,
                sent_bytes: sums.0.sent_bytes,
                sends: sums.0.sends,
                received_bytes: sums.0.received_bytes,
                receives: sums.0.receives,
            });
        }
        rows.sort_by_key(|row| (row.inode, row.tgid));
        Ok(Some(UnixRecord { counted_ns, rows }))
    }
}

/// Whether calls are to be counted, by how many waits there were.
#[derive(Default)]
struct Need {
    /// When this period began.
    waits: u64,
    since_ns: u64,
    /// Periods with few waits, one after the other.
    calm: u32,
}

impl Need {
    fn of(&mut self, attached: bool, now_ns: u64, waits: u64) -> bool {
        let many = waits.saturating_sub(self.waits) >= MANY;
        if !many && now_ns.saturating_sub(self.since_ns) < PERIOD_NS {
            return attached;
        }
        (self.waits, self.since_ns) = (waits, now_ns);
        self.calm = if many { 0 } else { self.calm.saturating_add(1) };
        many || attached && self.calm < CALM_PERIODS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether calls are counted after each of these periods, in which so many waits began.
    fn counted(need: &mut Need, waits: &[u64]) -> String {
        let (mut attached, mut all) = (false, need.waits);
        let mut period = |more: &u64| {
            all += more;
            attached = need.of(attached, need.since_ns + PERIOD_NS, all);
            if attached { '+' } else { '-' }
        };
        waits.iter().map(&mut period).collect()
    }

    #[test]
    fn calls_are_counted_while_threads_wait() {
        let mut need = Need::default();
        assert_eq!(counted(&mut need, &[0, 7, 7, 0]), "----", "now and then is not often");
        assert_eq!(counted(&mut need, &[8, 0, 0, 900, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "+++++++++++++--");
    }

    #[test]
    fn many_waits_are_reason_at_once() {
        let mut need = Need::default();
        assert!(!need.of(false, PERIOD_NS, 0));
        assert!(!need.of(false, PERIOD_NS + 1, MANY - 1), "not yet");
        assert!(need.of(false, PERIOD_NS + 2, MANY));
        assert!(need.of(true, PERIOD_NS + 3, MANY), "and it stays so for a while");
    }
}
