//! The report's section `network`, from the waits of all threads that were kept and what is known of the sockets.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tracer_common::sched::WakeContext;
use tracer_common::syscall::is_epoll;

use super::super::Aggregate;
use super::super::build::known as pid;
use super::super::classify::State;
use super::super::hash::FastMap;
use super::super::names::NameId;
use super::super::table::Finished;
use super::super::waits::WaitStat;
use super::{Connects, Known};
use crate::model::network::{self, Connection, Network as Section, Peer, TcpCounts};
use crate::model::report::seconds;

const MAX_PEERS: usize = 64;
const MAX_CONNECTIONS_TOLD: usize = 64;
const RECEIVES: [&str; 5] = ["read", "readv", "recvfrom", "recvmsg", "recvmmsg"];
const POLLS: [&str; 2] = ["poll", "ppoll"];
const ACCEPTS: [&str; 2] = ["accept", "accept4"];
/// A process that ended this part of the waits that any thread ended is the one at the other end.
const MOST_ENDED: f64 = 0.9;

/// Whom a row is about: protocol, role, address.
type Key = (&'static str, &'static str, Option<String>);

/// A row in the making.
#[derive(Default)]
struct Sum {
    /// Sockets; those of other threads' waits without a number are one.
    sockets: BTreeSet<u64>,
    processes: BTreeSet<u32>,
    waits: u64,
    ns: u64,
    max_ns: u64,
    receive_ns: u64,
    send_ns: u64,
    poll_ns: u64,
    connect_ns: u64,
    accept_ns: u64,
    /// How often which process ended the waits.
    ended_by: BTreeMap<u32, u64>,
}

/// One socket of a row.
#[derive(Clone, Copy, Default)]
struct Waited {
    waits: u64,
    ns: u64,
}

impl Sum {
    fn add(&mut self, wait: &WaitStat, call: &str, accepts: bool) {
        self.waits += wait.count;
        self.ns = self.ns.saturating_add(wait.total_ns);
        self.max_ns = self.max_ns.max(wait.max_ns);
        let of_kind = match call {
            _ if accepts => &mut self.accept_ns,
            call if RECEIVES.contains(&call) => &mut self.receive_ns,
            call if POLLS.contains(&call) || is_epoll(call) => &mut self.poll_ns,
            "connect" => &mut self.connect_ns,
            _ => &mut self.send_ns,
        };
        *of_kind = of_kind.saturating_add(wait.total_ns);
        for waker in wait.wakers.iter().filter(|waker| waker.wake.context == WakeContext::Task) {
            if let Some(by) = waker.wake.by.filter(|by| by.tgid != 0) {
                *self.ended_by.entry(by.tgid).or_default() += waker.count;
            }
        }
    }

    /// The process that ended nearly all waits.
    fn ender(&self) -> Option<u32> {
        let all: u64 = self.ended_by.values().sum();
        let (tgid, most) = self.ended_by.iter().max_by_key(|(tgid, count)| (**count, Reverse(**tgid)))?;
        (*most as f64 >= MOST_ENDED * all as f64).then_some(*tgid)
    }
}

impl Aggregate {
    /// The section; none where no thread waited at a socket and no connection was seen. And of each connection the one that stands in it for
    /// all with the same server.
    pub(in super::super) fn network_part(&self, finished: &[Finished]) -> (Option<Section>, FastMap<u64, u64>) {
        let mut sums: BTreeMap<Key, Sum> = BTreeMap::new();
        let mut waited: BTreeMap<(u64, Key), Waited> = BTreeMap::new();
        let ports = self.served_ports(finished);
        for thread in finished {
            let waits = thread.thread.detailed.iter().flat_map(|detailed| detailed.waits.iter());
            let at_sockets = |wait: &&WaitStat| matches!(wait.reason.state, State::SocketInet | State::SocketUnix);
            for wait in waits.filter(at_sockets).filter(|wait| wait.count > 0) {
                let call = self.calls.name(wait.reason.syscall);
                let key = self.key(thread.thread.tgid, wait, &call, &ports);
                let sum = sums.entry(key.clone()).or_default();
                sum.add(wait, &call, self.accepts(wait, &call));
                sum.sockets.insert(wait.object);
                sum.processes.insert(thread.thread.tgid);
                let one = waited.entry((wait.object, key)).or_default();
                one.waits += wait.count;
                one.ns = one.ns.saturating_add(wait.total_ns);
            }
        }
        for (inode, known) in &self.network.connections {
            if known.closed.is_some() || known.read.is_some() {
                let sum = sums.entry(self.tcp_key(known, &ports)).or_default();
                sum.sockets.insert(*inode);
                sum.processes.extend(known.tgid);
            }
        }
        if sums.is_empty() {
            return Default::default();
        }
        let (section, stand_in) = self.section(sums, waited);
        (Some(section), stand_in)
    }

    fn section(&self, sums: BTreeMap<Key, Sum>, waited: BTreeMap<(u64, Key), Waited>) -> (Section, FastMap<u64, u64>) {
        let mut sums: Vec<(Key, Sum)> = sums.into_iter().collect();
        sums.sort_by_key(|(_, sum)| Reverse(sum.ns));
        sums.truncate(MAX_PEERS);
        let names = self.processes.ranked().into_iter().map(|process| (process.tgid, process.name)).collect();
        let rows: BTreeMap<&Key, usize> = sums.iter().enumerate().map(|(row, (key, _))| (key, row)).collect();
        let mut waited: Vec<_> = waited.into_iter().filter(|((object, _), _)| *object != 0).collect();
        waited.sort_by_key(|(_, waited)| Reverse(waited.ns));
        let mut first: BTreeMap<&Key, u64> = BTreeMap::new();
        for ((inode, key), _) in &waited {
            first.entry(key).or_insert(*inode);
        }
        let tcp = sums.iter().filter(|(key, sum)| key.0 == "tcp" && key.2.is_some() && sum.sockets.len() > 1);
        let stand_in = tcp
            .filter_map(|(key, sum)| Some((*first.get(key)?, sum)))
            .flat_map(|(first, sum)| sum.sockets.iter().map(move |inode| (*inode, first)))
            .filter(|(inode, _)| *inode != 0)
            .collect();
        // Those that stand for others are told in any case.
        let stands = |((inode, key), _): &((u64, Key), Waited)| first.get(key) == Some(inode);
        let (mut told, others): (Vec<_>, Vec<_>) = waited.iter().partition(|waited| stands(waited));
        told.extend(others);
        told.truncate(MAX_CONNECTIONS_TOLD);
        told.sort_by_key(|(_, waited)| Reverse(waited.ns));
        let connection = |((inode, key), waited): &((u64, Key), Waited)| {
            let known = self.network.connections.get(inode);
            Some(Connection {
                object: format!("socket:[{inode}]"),
                peer: *rows.get(key)?,
                local: known.map(|known| known.local.clone()),
                remote: known.map(|known| known.peer.clone()),
                waits: waited.waits,
                waited_s: seconds(waited.ns),
            })
        };
        let section = Section {
            known: self.network.connections.len() as u64,
            over: self.network.over,
            connections: told.into_iter().filter_map(connection).collect(),
            peers: sums.iter().map(|(key, sum)| self.peer(key, sum, &names)).collect(),
        };
        (section, stand_in)
    }

    /// Own ports to which others were seen to connect.
    fn served_ports(&self, finished: &[Finished]) -> BTreeSet<u16> {
        let accepted = self.network.connections.values().filter_map(|known| known.read.as_ref());
        let mut ports: BTreeSet<u16> =
            accepted.filter(|read| read.accepted).filter_map(|read| port(&read.local)).collect();
        ports.extend(&self.network.listening);
        for thread in finished {
            for wait in thread.thread.detailed.iter().flat_map(|detailed| detailed.waits.iter()) {
                let call = self.calls.name(wait.reason.syscall);
                if wait.reason.state == State::SocketInet && self.accepts(wait, &call) {
                    let object = self.objects.known(thread.thread.tgid, wait.object);
                    ports.extend(object.and_then(|object| port(object.local.as_ref()?)));
                }
            }
        }
        ports
    }

    /// Whether a wait is for others to connect.
    fn accepts(&self, wait: &WaitStat, call: &str) -> bool {
        ACCEPTS.contains(&call) || self.network.listeners.contains(&wait.object)
    }

    fn key(&self, tgid: u32, wait: &WaitStat, call: &str, ports: &BTreeSet<u16>) -> Key {
        let object = self.objects.known(tgid, wait.object);
        let accepts = self.accepts(wait, call);
        if wait.reason.state == State::SocketUnix {
            let path = object.and_then(|object| object.path.clone());
            return ("unix", if accepts { "listener" } else { "unknown" }, path);
        }
        if accepts {
            return ("tcp", "listener", object.and_then(|object| object.local.clone()));
        }
        if let Some(known) = self.network.connections.get(&wait.object).filter(|_| wait.object != 0) {
            return self.tcp_key(known, ports);
        }
        let Some(object) = object else { return ("socket", "unknown", None) };
        match object.kind.as_str() {
            "tcp" => {
                let serves =
                    object.local.as_ref().and_then(|local| port(local)).is_some_and(|port| ports.contains(&port));
                let (role, address) = if serves { ("server", &object.local) } else { ("client", &object.peer) };
                ("tcp", if address.is_some() { role } else { "unknown" }, address.clone())
            }
            "udp" if object.peer.is_some() => ("udp", "client", object.peer.clone()),
            "udp" => ("udp", "unknown", object.local.clone()),
            _ => ("socket", "unknown", None),
        }
    }

    /// Whom a TCP connection is with.
    fn tcp_key(&self, known: &Known, ports: &BTreeSet<u16>) -> Key {
        let serves = known.read.as_ref().is_some_and(|read| read.accepted)
            || port(&known.local).is_some_and(|port| ports.contains(&port))
            // A traced thread connected to its own address.
            || self.network.connects.contains_key(&known.local);
        let serves = serves && !known.asked;
        let address = if serves { &known.local } else { &known.peer };
        ("tcp", if serves { "server" } else { "client" }, Some(address.clone()).filter(|address| !address.is_empty()))
    }

    fn peer(&self, (protocol, role, address): &Key, sum: &Sum, names: &BTreeMap<u32, NameId>) -> Peer {
        let name = |tgid: u32| names.get(&tgid).and_then(|name| self.names.text(*name)).or_else(|| self.stranger(tgid));
        let own = only(sum.processes.iter().copied());
        let read = || self.of(sum).filter_map(|known| known.read.as_ref());
        let found = only(read().filter_map(|read| read.peer_pid));
        let peer_pid = if *role == "listener" { None } else { found.or_else(|| sum.ender()) };
        let told = read().filter(|read| read.peer_pid == peer_pid).find_map(|read| read.peer_process.clone());
        let connects = address.as_ref().filter(|_| *role == "client").and_then(|peer| self.network.connects.get(peer));
        Peer {
            protocol: (*protocol).to_owned(),
            role: (*role).to_owned(),
            address: address.clone(),
            peer_pid,
            // A process may have taken its own name away.
            peer_process: peer_pid.and_then(name).or(told).filter(|name| !name.is_empty()),
            pid: own.and_then(pid),
            process: own.and_then(name),
            connections: sum.sockets.iter().filter(|inode| **inode != 0).count() as u64,
            closed: self.of(sum).filter(|known| known.closed.is_some()).count() as u64,
            waits: sum.waits,
            waited_s: seconds(sum.ns),
            max_s: seconds(sum.max_ns),
            receive_s: seconds(sum.receive_ns),
            send_s: seconds(sum.send_ns),
            poll_s: seconds(sum.poll_ns),
            connect_s: seconds(sum.connect_ns),
            accept_s: seconds(sum.accept_ns),
            tcp: self.counts(sum),
            unix: if *protocol == "unix" { self.network.unix(sum.sockets.iter(), Some(&sum.processes)) } else { None },
            connects: connects.map(Connects::told),
        }
    }

    fn of<'a>(&'a self, sum: &'a Sum) -> impl Iterator<Item = &'a Known> {
        sum.sockets.iter().filter(|inode| **inode != 0).filter_map(|inode| self.network.connections.get(inode))
    }

    fn counts(&self, sum: &Sum) -> Option<TcpCounts> {
        let mut counts = TcpCounts { exact: true, ..TcpCounts::default() };
        let (mut any, mut packets) = (false, None);
        let us = |us: u64| us as f64 / 1e6;
        for known in self.of(sum) {
            let read = known.read.as_ref();
            let (sent, received, again, rtt_us) = match (known.closed, read) {
                (Some(closed), _) => (closed.sent_bytes, closed.received_bytes, closed.retransmits, closed.rtt_us),
                (None, Some(read)) => {
                    (read.counts.sent_bytes, read.counts.received_bytes, read.counts.retransmits, read.counts.rtt_us)
                }
                (None, None) => continue,
            };
            any = true;
            counts.exact &= known.closed.is_some();
            counts.sent_bytes = counts.sent_bytes.saturating_add(sent);
            counts.received_bytes = counts.received_bytes.saturating_add(received);
            counts.retransmits += u64::from(again);
            if rtt_us > 0 {
                counts.rtt_s = Some(counts.rtt_s.unwrap_or(0.0).max(us(u64::from(rtt_us))));
            }
            let Some(read) = read else { continue };
            packets = Some(packets.unwrap_or(0) + u64::from(read.counts.packets));
            if read.counts.min_rtt_us > 0 {
                counts.min_rtt_s =
                    Some(counts.min_rtt_s.unwrap_or(f64::MAX).min(us(u64::from(read.counts.min_rtt_us))));
            }
            counts.busy_s += us(read.counts.busy_us);
            counts.no_window_s += us(read.counts.no_window_us);
            counts.no_buffer_s += us(read.counts.no_buffer_us);
        }
        counts.packets = packets;
        any.then_some(counts)
    }
}

impl Connects {
    fn told(&self) -> network::Connects {
        network::Connects {
            count: self.count,
            failed: self.failed,
            total_s: seconds(self.total_ns),
            max_s: seconds(self.max_ns),
        }
    }
}

fn port(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

/// The only one of several; none: they differ, or there is none.
fn only(mut all: impl Iterator<Item = u32>) -> Option<u32> {
    let first = all.next()?;
    all.all(|other| other == first).then_some(first)
}
