//! Connections: what user space read of them, how they were made and closed, and the waits for them, by the server's end. Bounded: so many
//! connections; further ones are counted. The report's section is made in `report`.

mod report;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tracer_common::net::{Connection, tcp_state};

use crate::model::meta::SocketRecord;

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
