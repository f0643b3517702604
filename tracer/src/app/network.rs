//! How the TCP connections stand for which threads wait: the kernel is asked when a thread was first seen to wait for one, each second,
//! and at the end, and who has the other end open if that is on this host. What a connection had when it was closed comes from the
//! kernel's records. Bounded: so many sockets and namespaces, and at most one in 200 parts of a CPU's time beside the first twentieth
//! of a second.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tracer_common::net::tcp_state;

use super::budget::Budget;
use crate::{
    kernel::{
        clock, objects, proc,
        sock_diag::{Asker, Tcp},
    },
    model::{meta::SocketRecord, text::printable},
};

/// Sockets watched. Further ones have no counts until they are closed.
const MOST_SOCKETS: usize = 4_096;
/// Network namespaces asked in; each keeps a descriptor open.
const MOST_NETWORKS: usize = 16;
/// Ports told to which others can connect.
const MOST_LISTENING: usize = 4_096;
/// How often.
const PERIOD: Duration = Duration::from_secs(1);
/// Who has an inode open is looked up so many times in vain.
const MOST_SEARCHES: u8 = 2;
const PAUSE_FACTOR: u64 = 200;
const AHEAD_NS: u64 = 50_000_000;

/// See the file's head.
pub struct Connections {
    /// By the namespace's number; none: it cannot be asked.
    askers: BTreeMap<u64, Option<Asker>>,
    /// What was written last of each, by inode.
    watched: BTreeMap<u64, SocketRecord>,
    /// Who has which socket open; none: several processes do.
    owners: HashMap<u64, Option<u32>>,
    searched: HashMap<u64, u8>,
    /// Ports to which others can connect, and those of them that were not told yet.
    listening: BTreeSet<u16>,
    to_tell: Vec<u16>,
    is_new: bool,
    next: Instant,
    budget: Budget,
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            askers: BTreeMap::new(),
            watched: BTreeMap::new(),
            owners: HashMap::new(),
            searched: HashMap::new(),
            listening: BTreeSet::new(),
            to_tell: Vec::new(),
            is_new: false,
            next: Instant::now() + PERIOD,
            budget: Budget::new(PAUSE_FACTOR, AHEAD_NS),
        }
    }
}

impl Connections {
    /// A thread waits for this socket, in a network namespace of this name.
    pub fn watch(&mut self, (tgid, tid): (u32, u32), network: &OsStr, inode: u64) {
        self.own(inode, tgid);
        let Some(network) = number(network) else { return };
        if self.watched.contains_key(&inode) || self.watched.len() >= MOST_SOCKETS {
            return;
        }
        if !self.askers.contains_key(&network) {
            if self.askers.len() >= MOST_NETWORKS {
                return;
            }
            self.askers.insert(network, Asker::new(tid).ok());
        }
        self.watched.insert(inode, SocketRecord { inode, network, ..SocketRecord::default() });
        self.is_new = true;
    }

    /// Two processes that were seen with it: it was inherited.
    fn own(&mut self, inode: u64, tgid: u32) {
        let owner = self.owners.entry(inode).or_insert(Some(tgid));
        if owner.is_some_and(|owner| owner != tgid) {
            *owner = None;
        }
    }

    /// How long until the next look; none: there is nothing to look at.
    pub fn due_in(&self) -> Option<Duration> {
        (!self.watched.is_empty()).then(|| self.next.saturating_duration_since(Instant::now()))
    }

    /// Asks, if it is time, if there are new sockets, or `at_once`. Gives what has changed.
    pub fn look(&mut self, at_once: bool) -> Vec<SocketRecord> {
        let due = at_once || self.is_new || Instant::now() >= self.next;
        if !due || self.watched.is_empty() {
            return Vec::new();
        }
        let now_ns = clock::monotonic_ns();
        let askers = &self.askers;
        let asked = self.budget.spend(now_ns, || {
            let all = askers.iter().filter_map(|(network, asker)| Some((*network, asker.as_ref()?.tcp().ok()?)));
            all.collect::<Vec<_>>()
        });
        let Some(asked) = asked else { return Vec::new() };
        (self.is_new, self.next) = (false, Instant::now() + PERIOD);
        let listening = listening(&asked);
        for (_, port) in &listening {
            if self.listening.len() < MOST_LISTENING && self.listening.insert(*port) {
                self.to_tell.push(*port);
            }
        }
        let mut read = told(&asked, &listening, &self.watched, now_ns);
        self.find_owners(&read);
        for record in &mut read {
            let peer = record.peer_inode.and_then(|inode| self.owners.get(&inode).copied().flatten());
            let known = self.watched.get(&record.inode);
            // Who was found once stays: it may have ended since.
            record.peer_pid = peer.or_else(|| known.and_then(|known| known.peer_pid));
            record.peer_process = match known.filter(|known| known.peer_pid == record.peer_pid) {
                Some(known) if known.peer_process.is_some() => known.peer_process.clone(),
                _ => record.peer_pid.and_then(proc::comm).map(|name| printable(&name)),
            };
            record.peer_inode = record.peer_inode.or_else(|| known.and_then(|known| known.peer_inode));
        }
        read.retain(|record| self.watched.get(&record.inode).is_none_or(|known| !is_same(known, record)));
        for record in &read {
            self.watched.insert(record.inode, record.clone());
        }
        read
    }

    /// Ports to which others can connect: those that were found since this was asked last.
    pub fn listening(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.to_tell)
    }

    /// Looks through the descriptors of all processes for other ends whose owner is not known.
    fn find_owners(&mut self, read: &[SocketRecord]) {
        let unknown =
            read.iter().filter_map(|record| record.peer_inode).filter(|inode| !self.owners.contains_key(inode));
        let wanted: BTreeSet<u64> =
            unknown.filter(|inode| self.searched.get(inode).is_none_or(|times| *times < MOST_SEARCHES)).collect();
        if wanted.is_empty() {
            return;
        }
        let Some(found) = self.budget.spend(clock::monotonic_ns(), || objects::socket_holders(&wanted)) else { return };
        for inode in &wanted {
            *self.searched.entry(*inode).or_default() += 1;
        }
        for (inode, pid) in found {
            self.own(inode, pid);
        }
    }
}

/// The number in "net:[4026531840]".
fn number(network: &OsStr) -> Option<u64> {
    network.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Nothing worth a record has happened in between.
fn is_same(known: &SocketRecord, now: &SocketRecord) -> bool {
    let still = SocketRecord { at_ns: now.at_ns, ..known.clone() };
    still == *now
}

/// Ports to which others can connect, by namespace.
fn listening(asked: &[(u64, Vec<Tcp>)]) -> BTreeSet<(u64, u16)> {
    let sockets = asked.iter().flat_map(|(network, list)| list.iter().map(move |socket| (*network, socket)));
    let listeners = sockets.filter(|(_, socket)| socket.state == tcp_state::LISTEN);
    listeners.map(|(network, socket)| (network, socket.local.port())).collect()
}

/// What the lists say of the sockets that are watched.
fn told(
    asked: &[(u64, Vec<Tcp>)],
    listening: &BTreeSet<(u64, u16)>,
    watched: &BTreeMap<u64, SocketRecord>,
    at_ns: u64,
) -> Vec<SocketRecord> {
    let sockets = || asked.iter().flat_map(|(network, list)| list.iter().map(move |socket| (*network, socket)));
    let open = sockets().filter(|(_, socket)| socket.inode != 0);
    let mut ends: HashMap<(SocketAddr, SocketAddr), Vec<(u64, u64)>> = HashMap::new();
    for (network, socket) in open {
        ends.entry((socket.local, socket.peer)).or_default().push((network, socket.inode));
    }
    let ours = sockets().filter(|(network, socket)| {
        watched.get(&socket.inode).is_some_and(|watched| watched.network == *network) && socket.peer.port() != 0
    });
    ours.map(|(network, socket)| {
        let counts = socket.counts.unwrap_or_default();
        let accepted = listening.contains(&(network, socket.local.port()));
        SocketRecord {
            at_ns,
            inode: socket.inode,
            network,
            local: socket.local.to_string(),
            peer: socket.peer.to_string(),
            accepted: accepted || watched.get(&socket.inode).is_some_and(|known| known.accepted),
            counts,
            peer_inode: other_end(&ends, network, socket),
            ..SocketRecord::default()
        }
    })
    .collect()
}

/// The socket with the same two addresses the other way round: in the same namespace, else in another one if it is the only one.
fn other_end(ends: &HashMap<(SocketAddr, SocketAddr), Vec<(u64, u64)>>, network: u64, socket: &Tcp) -> Option<u64> {
    let found = ends.get(&(socket.peer, socket.local))?;
    let near = found.iter().find(|(other, inode)| *other == network && *inode != socket.inode);
    // The same addresses in two namespaces may be of two networks: loopback's always are.
    let far = || match &found[..] {
        [(_, inode)] if !socket.peer.ip().is_loopback() => Some(*inode),
        _ => None,
    };
    near.map(|(_, inode)| *inode).or_else(far)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
        os::{fd::AsRawFd, unix::fs::MetadataExt},
    };

    use super::*;

    fn tcp(inode: u64, state: u8, local: &str, peer: &str) -> Tcp {
        let parse = |text: &str| text.parse().expect("an address");
        Tcp { inode, state, local: parse(local), peer: parse(peer), counts: None }
    }

    fn watched(inodes: &[(u64, u64)]) -> BTreeMap<u64, SocketRecord> {
        let record = |(inode, network)| SocketRecord { inode, network, ..SocketRecord::default() };
        inodes.iter().map(|pair| (pair.0, record(*pair))).collect()
    }

    #[test]
    fn the_other_end_is_that_of_the_same_network() {
        let near = vec![
            tcp(5, 10, "127.0.0.1:80", "0.0.0.0:0"),
            tcp(6, 1, "127.0.0.1:4000", "127.0.0.1:80"),
            tcp(7, 1, "127.0.0.1:80", "127.0.0.1:4000"),
        ];
        let far = vec![
            tcp(8, 1, "127.0.0.1:80", "127.0.0.1:4000"),
            tcp(9, 1, "127.0.0.1:4001", "127.0.0.1:80"),
            tcp(10, 1, "10.0.0.1:80", "10.0.0.2:5000"),
        ];
        let alone = vec![tcp(11, 1, "10.0.0.2:5000", "10.0.0.1:80"), tcp(12, 1, "127.0.0.1:80", "127.0.0.1:4001")];
        let asked = [(1, near), (2, far), (3, alone)];
        let read = told(&asked, &listening(&asked), &watched(&[(6, 1), (7, 1), (9, 2), (11, 3)]), 77);
        let find = |inode: u64| read.iter().find(|record| record.inode == inode).expect("it is watched");
        assert_eq!((find(6).peer_inode, find(6).accepted), (Some(7), false));
        assert_eq!((find(7).peer_inode, find(7).accepted), (Some(6), true), "others connect to its port");
        assert_eq!(find(9).peer_inode, None, "loopback of another namespace is another network");
        assert_eq!(find(11).peer_inode, Some(10), "the only one with these addresses");
        assert_eq!(read.len(), 4);
        assert!(
            told(&asked, &listening(&asked), &watched(&[(6, 2)]), 77).is_empty(),
            "that inode is of another namespace"
        );
    }

    #[test]
    fn a_connection_is_read_when_it_is_new_and_written_again_when_it_has_moved_something() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (far, _) = listener.accept().expect("accepted");
        let (pid, tid) = (std::process::id(), nix::unistd::gettid().as_raw() as u32);
        let Some(network) = objects::network_of(tid) else { return };
        let inode = |stream: &TcpStream| {
            std::fs::metadata(format!("/proc/self/fd/{}", stream.as_raw_fd())).expect("stat").ino()
        };
        let mut connections = Connections::default();
        assert_eq!(connections.due_in(), None, "nothing to look at");
        connections.watch((pid, tid), &network, inode(&near));
        let first = connections.look(false);
        let [first] = &first[..] else {
            eprintln!("not run: this kernel cannot be asked for sockets");
            return;
        };
        assert_eq!((first.peer_inode, first.peer_pid), (Some(inode(&far)), Some(pid)), "{first:?}");
        assert!(!first.accepted && first.peer_process.is_some(), "{first:?}");
        let port = listener.local_addr().expect("bound").port();
        assert!(connections.listening().contains(&port) && connections.listening().is_empty(), "told once");
        assert_eq!(connections.look(true), [], "nothing has changed");
        near.write_all(&[1; 1000]).expect("room");
        assert_eq!(connections.look(false), [], "it is not time");
        let second = connections.look(true);
        assert!(second.iter().any(|record| record.counts.sent_bytes == 1000), "{second:?}");
        connections.own(inode(&far), pid + 1);
        assert_eq!(connections.owners.get(&inode(&far)), Some(&None), "two processes have it");
    }
}
