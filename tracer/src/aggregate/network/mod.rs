//! Connections: what user space read of them, how they were made and closed, and the waits for them, by the server's end. Bounded: so many
//! connections; further ones are counted. The report's section is made in `report`.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tracer_common::net::{Connection, tcp_state};

use crate::model::meta::{SocketRecord, SumsRecord, UnixRow};
use crate::model::network::UnixCounts;
use crate::model::report::seconds;

/// Connections kept, and servers that were connected to.
const MAX_CONNECTIONS: usize = 16_384;
const IPV6: u16 = 10;

/// See the file's head.
#[derive(Default)]
pub struct Network {
    /// By inode; those of which that is not known have numbers from the end on.
    connections: BTreeMap<u64, Known>,
    connects: BTreeMap<String, Connects>,
    over: u64,
    /// Sockets to which others connect, by inode, and ports.
    listeners: BTreeSet<u64>,
    listening: BTreeSet<u16>,
    /// What went through unix sockets, by socket and process, as last told.
    unix: BTreeMap<(u64, u32), UnixRow>,
    /// For how long that was counted.
    unix_counted_ns: u64,
}

/// What is known of a connection.
#[derive(Default)]
struct Known {
    /// The traced process, from the kernel's records.
    tgid: Option<u32>,
    /// It was asked for by a traced thread.
    asked: bool,
    local: String,
    peer: String,
    /// The last reading.
    read: Option<SocketRecord>,
    /// What it had when it was closed.
    closed: Option<Closed>,
}

#[derive(Clone, Copy)]
struct Closed {
    sent_bytes: u64,
    received_bytes: u64,
    retransmits: u32,
    rtt_us: u32,
}

/// Connections to one server.
#[derive(Clone, Copy, Default)]
struct Connects {
    count: u64,
    failed: u64,
    total_ns: u64,
    max_ns: u64,
}

/// An address and a port as bytes of the kernel's: see [`Connection`].
pub fn address(family: u16, bytes: &[u8; 16], port: u16) -> String {
    let [a, b, c, d, ..] = *bytes;
    let short = |host: Ipv4Addr| SocketAddr::from((host, port)).to_string();
    if family != IPV6 {
        return short(Ipv4Addr::new(a, b, c, d));
    }
    let host = Ipv6Addr::from(*bytes);
    host.to_ipv4_mapped().map_or_else(|| SocketAddr::from((host, port)).to_string(), short)
}

impl Network {
    /// Takes a reading.
    pub fn read(&mut self, record: &SocketRecord) {
        let Some(known) = self.entry(record.inode) else { return };
        known.local.clone_from(&record.local);
        known.peer.clone_from(&record.peer);
        known.read = Some(record.clone());
    }

    /// This socket waits for others to connect.
    pub fn listens(&mut self, inode: u64) {
        if self.listeners.len() < MAX_CONNECTIONS {
            self.listeners.insert(inode);
        }
    }

    /// Others can connect to these ports.
    pub fn listening(&mut self, ports: &[u16]) {
        self.listening.extend(ports);
    }

    /// Takes the making or the end of a connection.
    pub fn event(&mut self, event: &Connection) {
        let peer = address(event.family, &event.peer, event.peer_port);
        let asked = event.old_state == tcp_state::SYN_SENT;
        if asked {
            self.asked(event, &peer);
            if event.new_state != tcp_state::ESTABLISHED {
                return;
            }
        }
        let free = u64::MAX - self.connections.len() as u64;
        let Some(known) = self.entry(if event.inode == 0 { free } else { event.inode }) else { return };
        known.tgid = Some(event.tgid);
        known.local = address(event.family, &event.local, event.local_port);
        known.peer = peer;
        if asked {
            known.asked = true;
            return;
        }
        known.closed = Some(Closed {
            sent_bytes: event.sent_bytes,
            received_bytes: event.received_bytes,
            retransmits: event.retransmits,
            rtt_us: event.rtt_us,
        });
    }

    /// Takes what the programs keep in maps: the last counts.
    pub fn sums(&mut self, record: &SumsRecord) {
        let Some(unix) = &record.unix else { return };
        self.unix_counted_ns = unix.counted_ns;
        for row in unix.rows.iter().take(MAX_CONNECTIONS) {
            self.unix.insert((row.inode, row.tgid), row.clone());
        }
    }

    /// What these processes moved through a unix socket, all of them if none is named; none: it was not counted, or nothing.
    pub(super) fn unix<'a>(
        &self,
        sockets: impl Iterator<Item = &'a u64>,
        of: Option<&BTreeSet<u32>>,
    ) -> Option<UnixCounts> {
        let mut counts = UnixCounts { counted_s: seconds(self.unix_counted_ns), ..UnixCounts::default() };
        for inode in sockets.filter(|inode| **inode != 0) {
            let rows = self.unix.range((*inode, 0)..=(*inode, u32::MAX));
            for (_, row) in rows.filter(|((_, tgid), _)| of.is_none_or(|of| of.contains(tgid))) {
                counts.sent_bytes = counts.sent_bytes.saturating_add(row.sent_bytes);
                counts.sends = counts.sends.saturating_add(row.sends);
                counts.received_bytes = counts.received_bytes.saturating_add(row.received_bytes);
                counts.receives = counts.receives.saturating_add(row.receives);
            }
        }
        (counts.counted_s > 0.0 && (counts.sends > 0 || counts.receives > 0)).then_some(counts)
    }

    fn asked(&mut self, event: &Connection, peer: &str) {
        if self.connects.len() >= MAX_CONNECTIONS && !self.connects.contains_key(peer) {
            return;
        }
        let connects = self.connects.entry(peer.to_owned()).or_default();
        connects.count += 1;
        connects.failed += u64::from(event.new_state != tcp_state::ESTABLISHED);
        connects.total_ns = connects.total_ns.saturating_add(event.took_ns);
        connects.max_ns = connects.max_ns.max(event.took_ns);
    }

    fn entry(&mut self, inode: u64) -> Option<&mut Known> {
        if self.connections.len() >= MAX_CONNECTIONS && !self.connections.contains_key(&inode) {
            self.over += 1;
            return None;
        }
        Some(self.connections.entry(inode).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::meta::UnixRecord;

    fn told(counted_ns: u64, rows: &[(u64, u32, u64, u64)]) -> SumsRecord {
        let row = |(inode, tgid, sends, receives): &(u64, u32, u64, u64)| UnixRow {
            inode: *inode,
            tgid: *tgid,
            sent_bytes: 100 * sends,
            sends: *sends,
            received_bytes: 1000 * receives,
            receives: *receives,
        };
        let unix = Some(UnixRecord { counted_ns, rows: rows.iter().map(row).collect() });
        SumsRecord { unix, ..SumsRecord::default() }
    }

    #[test]
    fn the_last_counts_of_unix_sockets_are_told_of_the_processes_that_are_asked_for() {
        let mut network = Network::default();
        assert_eq!(network.unix([7].iter(), None), None, "nothing was counted");
        network.sums(&told(1_000_000_000, &[(7, 1, 1, 0), (8, 2, 0, 5)]));
        network.sums(&told(2_000_000_000, &[(7, 1, 3, 0), (7, 2, 2, 1), (8, 2, 0, 5)]));
        network.sums(&SumsRecord::default());
        let counts = network.unix([7, 8].iter(), None).expect("two sockets");
        assert_eq!((counts.sent_bytes, counts.sends, counts.received_bytes, counts.receives), (500, 5, 6000, 6));
        assert_eq!(counts.counted_s, 2.0);
        let own = network.unix([7].iter(), Some(&BTreeSet::from([2]))).expect("one process's");
        assert_eq!((own.sends, own.receives), (2, 1));
        assert_eq!(network.unix([8].iter(), Some(&BTreeSet::from([1]))), None, "another one's");
        assert_eq!(network.unix([0].iter(), None), None, "a socket that is not known");
    }
}
