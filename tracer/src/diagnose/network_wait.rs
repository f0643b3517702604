//! `network-wait`: the run waits for an answer at a socket of the network. Named are the server's address, on this host its process and what
//! that did meanwhile, and whether it is the server, the way to it, connecting, or asking for names.
//!
//! What counts is the critical path's time for which such waits are the reason, by server. A server's own waits for clients do not count: to
//! have nothing to do is no fault. Data copied through unix sockets is `ipc-wait`'s.

use tracer_common::syscall::is_epoll;

use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties};
use crate::model::critical_path::{CriticalPath, OwnWait, PathPart, PathWait};
use crate::model::database::Statement;
use crate::model::network::Peer;
use crate::model::report::{Evidence, Finding, Report, Subject};
use crate::model::units::{count, duration, percent};

/// See the file's head.
pub struct NetworkWait;

/// A smaller part of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;
/// Findings at most, one for each server.
const MAX_CLAIMS: usize = 3;
/// Findings that tell more of the same, if they explain this part of it.
const TELL_MORE: [&str; 7] = [
    "deadlock",
    "user-lock-contention",
    "gil-contention",
    "fsync-stall",
    "process-spawn-storm",
    "straggler",
    "database-latency",
];
const EXPLAINED: f64 = 0.8;
/// From this part of a mean wait on the shortest time to the server and back explains it. The smoothed one has the time in which the other
/// side held its acknowledgement back.
const WAY_SHARE: f64 = 0.25;
/// From this part of all packets on those that are sent again hold a connection up.
const AGAIN_SHARE: f64 = 0.01;
/// From this part of the waits on it was connecting.
const CONNECT_SHARE: f64 = 0.5;
/// The port at which names are asked for.
const NAMES: &str = ":53";
/// The process at the other end is known and what it did was seen.
const SERVER_SEEN: f64 = 0.9;
/// The kernel's counts of the connection are known.
const COUNTED: f64 = 0.8;
/// Only the address is, or not even that.
const NOT_COUNTED: f64 = 0.65;

impl Rule for NetworkWait {
    fn class(&self) -> &'static str {
        "network-wait"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(path) = &report.critical_path else {
            return Outcome::CouldNotRun("it is about a critical path, and this recording has none".to_owned());
        };
        let mut cases = cases(report, path);
        cases.retain(|case| case.lost_s >= LEAST_SHARE * report.window.duration_s);
        let Some(first) = cases.first() else {
            return Outcome::Silent("the run hardly waited for answers at sockets of the network".to_owned());
        };
        let other = facts.earlier.iter().find(|finding| {
            // Of statements each has a finding, and the waits are for all of them.
            let s = if finding.class == "database-latency" { Some(for_servers_s(report)) } else { finding.lost_s };
            TELL_MORE.contains(&finding.class.as_str()) && s.is_some_and(|s| s >= EXPLAINED * first.lost_s)
        });
        if let Some(other) = other {
            return Outcome::Silent(format!("what was waited for at sockets is reported as {}", other.class));
        }
        Outcome::Claims(cases.iter().take(MAX_CLAIMS).map(|case| case.claim(report, path)).collect())
    }
}

/// How long the critical path waited for databases' servers, as their statements tell.
fn for_servers_s(report: &Report) -> f64 {
    let statements = report.database.iter().flat_map(|database| &database.statements);
    let waited_s = |statement: &Statement| statement.spent.server_s + statement.spent.send_s;
    statements.map(|statement| statement.on_path_s.unwrap_or(0.0).min(waited_s(statement))).sum()
}

/// What it is that takes long.
#[derive(Clone, Copy, PartialEq)]
enum Slow {
    Server,
    Way,
    Connecting,
    Names,
    Reader,
}

/// One server, and the path's time for which waits for it are the reason.
struct Case<'a> {
    peer: Option<(usize, &'a Peer)>,
    waits: Vec<(usize, &'a PathWait)>,
    lost_s: f64,
    count: u64,
    /// The path's own waits for it that a traced thread ended.
    own: Vec<(usize, &'a OwnWait)>,
}

/// Every server for which the path waited, most time first.
fn cases<'a>(report: &'a Report, path: &'a CriticalPath) -> Vec<Case<'a>> {
    let mut cases: Vec<Case<'a>> = Vec::new();
    for (index, wait) in path.waits.iter().enumerate().filter(|(_, wait)| wait.state == "socket_inet") {
        let peer = peer_of(report, wait.object.as_deref());
        let accepts = wait.detail.as_deref().is_some_and(|call| call.starts_with("accept"));
        let serves = match peer.map(|(_, peer)| peer.role.as_str()) {
            Some("server" | "listener") => true,
            Some("client") => false,
            // Servers wait for their clients in epoll.
            _ => wait.detail.as_deref().is_some_and(is_epoll),
        };
        if accepts || serves {
            continue;
        }
        let row = peer.map(|(row, _)| row);
        let case = match cases.iter_mut().position(|case| case.peer.map(|(row, _)| row) == row) {
            Some(at) => at,
            None => {
                cases.push(Case { peer, waits: Vec::new(), lost_s: 0.0, count: 0, own: Vec::new() });
                cases.len() - 1
            }
        };
        let Some(case) = cases.get_mut(case) else { continue };
        case.lost_s += wait.s;
        case.count += wait.count;
        case.waits.push((index, wait));
    }
    for (index, own) in path.own_waits.iter().enumerate().filter(|(_, own)| own.state == "socket_inet") {
        let row = peer_of(report, own.object.as_deref()).map(|(row, _)| row);
        if let Some(case) = cases.iter_mut().find(|case| case.peer.map(|(row, _)| row) == row) {
            case.own.push((index, own));
        }
    }
    for case in &mut cases {
        case.lost_s = case.lost_s.min(path.total_s);
    }
    cases.sort_by(|a, b| b.lost_s.total_cmp(&a.lost_s));
    cases
}

/// The row of the server behind a wait's socket.
fn peer_of<'a>(report: &'a Report, object: Option<&str>) -> Option<(usize, &'a Peer)> {
    let network = report.network.as_ref()?;
    let connection = network.connections.iter().find(|connection| Some(connection.object.as_str()) == object)?;
    Some((connection.peer, network.peers.get(connection.peer)?))
}

impl<'a> Case<'a> {
    /// What was done most meanwhile by the one who answered: where the report has most of it, an example, and for how long in all.
    fn did(&self) -> Option<(String, &'a PathPart, f64)> {
        let of = self.own.first().map(|(_, own)| own.of.tid);
        let all = || {
            let parts =
                self.own.iter().flat_map(|(wait, own)| own.did.iter().enumerate().map(move |part| (wait, part)));
            parts.filter(|(_, (_, did))| did.tid != of)
        };
        let same =
            |a: &PathPart, b: &PathPart| (a.pid, a.tid, &a.state, &a.detail) == (b.pid, b.tid, &b.state, &b.detail);
        let total_s =
            |of: &PathPart| all().filter(|(_, (_, did))| same(of, did)).map(|(_, (_, did))| did.s).sum::<f64>();
        let (wait, (part, did)) = all().reduce(|a, b| {
            let rank = |did: &PathPart| (total_s(did), did.s);
            if rank(b.1.1) > rank(a.1.1) { b } else { a }
        })?;
        Some((format!("/critical_path/own_waits/{wait}/did/{part}/s"), did, total_s(did)))
    }

    fn slow(&self) -> Slow {
        let Some((_, peer)) = self.peer else { return Slow::Server };
        if peer.address.as_ref().is_some_and(|address| address.ends_with(NAMES)) {
            return Slow::Names;
        }
        let connected_s = peer.connects.as_ref().map_or(0.0, |connects| connects.total_s);
        if peer.connect_s.max(connected_s) >= CONNECT_SHARE * peer.waited_s && peer.waited_s > 0.0 {
            return Slow::Connecting;
        }
        let Some(tcp) = &peer.tcp else { return Slow::Server };
        let mean_s = peer.waited_s / peer.waits.max(1) as f64;
        let again = tcp.retransmits as f64 >= AGAIN_SHARE * tcp.packets.unwrap_or(0).max(tcp.retransmits) as f64;
        if tcp.retransmits > 0 && again || tcp.min_rtt_s.is_some_and(|rtt_s| rtt_s >= WAY_SHARE * mean_s) {
            return Slow::Way;
        }
        if peer.send_s >= CONNECT_SHARE * peer.waited_s { Slow::Reader } else { Slow::Server }
    }

    fn address(&self) -> String {
        let Some((_, peer)) = self.peer else { return "sockets whose addresses are not known".to_owned() };
        let at = peer.address.clone().unwrap_or_else(|| "an address that is not known".to_owned());
        let process =
            peer.peer_pid.map(|pid| format!(" ({})", parties::named("process", peer.peer_process.as_deref(), pid)));
        format!("{} {at}{}", peer.protocol, process.unwrap_or_default())
    }

    fn claim(&self, report: &Report, path: &CriticalPath) -> Claim {
        let wall_s = report.window.duration_s;
        let queued: Vec<(f64, Evidence)> =
            parties::queued_after(report, |wait| self.waits.iter().any(|(_, own)| std::ptr::eq(*own, wait))).collect();
        let at_most_s = parties::with_queueing(self.lost_s, &queued, wall_s);
        let peer = self.peer.map(|(_, peer)| peer);
        let own = match peer {
            Some(_) if self.did().is_some() => SERVER_SEEN,
            Some(peer) if peer.tcp.is_some() => COUNTED,
            _ => NOT_COUNTED,
        };
        let of = &path.of;
        let mut evidence = self.evidence(wall_s);
        evidence.extend(queued.into_iter().take(2).map(|(_, queued)| queued));
        let finding = Finding {
            class: NetworkWait.class().to_owned(),
            rank: 0,
            severity: severity(self.lost_s, wall_s),
            confidence: confidence(report, own),
            summary: format!(
                "the run waited {} ({} of {}) for {}, {}{}",
                duration(self.lost_s),
                percent(self.lost_s / wall_s),
                duration(wall_s),
                self.address(),
                count(self.count, "wait"),
                self.why(),
            ),
            lost_s: Some(at_most_s),
            share_of_wall: (path.total_s > 0.0).then(|| self.lost_s / path.total_s),
            speedup_bound: speedup_bound(at_most_s, wall_s),
            culprit: Some(self.culprit(report)),
            victims: vec![parties::party(report, (Some(of.pid), of.process.as_ref()), (of.tid, of.thread.as_ref()))],
            evidence,
            hypothesis: self.hypothesis(),
            fix: self.fix() + self.db_hint(report),
            experiment: self.experiment(at_most_s),
            consequences: Vec::new(),
        };
        let max_s = peer.map_or(0.0, |peer| peer.max_s);
        Claim { finding, reported: is_reported(self.lost_s, wall_s, self.count, max_s) }
    }

    /// What took long, in words.
    fn why(&self) -> String {
        if let Some((_, did, did_s)) = self.did() {
            let name = did.thread.as_deref().unwrap_or("?");
            let who = did.tid.map_or_else(|| format!("threads named {name}"), |tid| format!("thread {name} ({tid})"));
            return format!("; {who} {} for {} of it", doing(did), duration(did_s));
        }
        match self.slow() {
            Slow::Names => "; names were asked for".to_owned(),
            Slow::Connecting => "; most of it to be connected".to_owned(),
            Slow::Way => "; the way to it is long, or packets were lost".to_owned(),
            Slow::Reader => "; it did not take what was sent".to_owned(),
            Slow::Server => "; it had what was sent, and its answer did not come".to_owned(),
        }
    }

    fn culprit(&self, report: &Report) -> Subject {
        let peer = self.peer.map(|(_, peer)| peer);
        let mut culprit = match self.did() {
            Some((_, did, _)) if did.tid.is_some() => {
                let tid = did.tid.unwrap_or_default();
                parties::party(report, (did.pid, did.process.as_ref()), (tid, did.thread.as_ref()))
            }
            _ => Subject {
                process: peer.and_then(|peer| peer.peer_process.clone()),
                pid: peer.and_then(|peer| peer.peer_pid),
                ..Subject::default()
            },
        };
        if let Some(function) = self.did().and_then(|(_, did, _)| did.functions.first()) {
            functions::point_at(&mut culprit, &function.location);
        }
        culprit.peer = Some(self.address());
        culprit
    }

    fn evidence(&self, wall_s: f64) -> Vec<Evidence> {
        let mut list = Vec::new();
        for (index, wait) in self.waits.iter().take(3) {
            let metric = format!("of the critical path, because of {}", wait.detail.as_deref().unwrap_or("waits"));
            let threshold = Some(("reporting threshold of all", REPORTED_SHARE * wall_s)).filter(|_| list.is_empty());
            list.push(evidence(&metric, wait.s, "s", format!("/critical_path/waits/{index}/s"), threshold));
        }
        if let Some((source, did, _)) = self.did() {
            let metric = format!("in which thread {} {}", did.thread.as_deref().unwrap_or("?"), doing(did));
            list.push(evidence(&metric, did.s, "s", source, None));
        }
        let Some((row, peer)) = self.peer else { return list };
        let at = |field: &str| format!("/network/peers/{row}/{field}");
        list.push(evidence("waits for it, of all threads", peer.waits as f64, "1", at("waits"), None));
        let mean_s = peer.waited_s / peer.waits.max(1) as f64;
        if let Some(tcp) = &peer.tcp {
            let mean = Some(("a wait in the mean", mean_s));
            if let Some(rtt_s) = tcp.min_rtt_s {
                list.push(evidence("to it and back, at least", rtt_s, "s", at("tcp/min_rtt_s"), mean));
            }
            if let Some(rtt_s) = tcp.rtt_s {
                list.push(evidence("to it and back, as measured last", rtt_s, "s", at("tcp/rtt_s"), mean));
            }
            let sent = tcp.packets.map(|packets| ("packets sent", packets as f64));
            list.push(evidence("packets sent again", tcp.retransmits as f64, "1", at("tcp/retransmits"), sent));
            list.push(evidence("bytes sent to it", tcp.sent_bytes as f64, "B", at("tcp/sent_bytes"), None));
            list.push(evidence("bytes that came", tcp.received_bytes as f64, "B", at("tcp/received_bytes"), None));
            if tcp.no_window_s > 0.0 {
                let busy = Some(("with something to send", tcp.busy_s));
                list.push(evidence(
                    "without room at the other side",
                    tcp.no_window_s,
                    "s",
                    at("tcp/no_window_s"),
                    busy,
                ));
            }
        }
        if let Some(connects) = &peer.connects {
            list.push(evidence("connecting to it", connects.total_s, "s", at("connects/total_s"), None));
            list.push(evidence("connections asked for", connects.count as f64, "1", at("connects/count"), None));
        }
        list
    }

    fn hypothesis(&self) -> String {
        let rtt = self.peer.and_then(|(_, peer)| peer.tcp.as_ref()?.min_rtt_s);
        let rtt =
            rtt.map(|rtt_s| format!(", and the way there and back takes {}", duration(rtt_s))).unwrap_or_default();
        match self.slow() {
            Slow::Server => format!("The server is slow: packets arrive{rtt}, but the answer takes long to be made."),
            Slow::Reader => "The other side does not read as fast as is sent: its receive buffer is full.".to_owned(),
            Slow::Way => {
                let again = self.peer.and_then(|(_, peer)| peer.tcp.as_ref()).map_or(0, |tcp| tcp.retransmits);
                format!("The way to the server is slow{rtt}; {} were sent again.", count(again, "packet"))
            }
            Slow::Connecting => {
                "Each piece of work makes a connection of its own, and connecting takes longer than the work."
                    .to_owned()
            }
            Slow::Names => {
                "The names of hosts are looked up again and again, and the server for names is slow.".to_owned()
            }
        }
    }

    fn fix(&self) -> String {
        match self.slow() {
            Slow::Server => "Look at what the server does (trace it as well); ask for more at once, ask ahead while the last answer is worked on, or ask \
                             over several connections at a time; keep answers that are needed again."
                .to_owned(),
            Slow::Reader => "Look at what the receiver does (trace it as well); send less, or compressed.".to_owned(),
            Slow::Way => "Ask for more in one message, or send the next question before the last answer has come; move nearer to the server; \
                          where packets are sent again look at the link and its queues."
                .to_owned(),
            Slow::Connecting => "Keep connections open and use them again (a session, a pool).".to_owned(),
            Slow::Names => "Look a name up once and keep the address, or run a cache for names on this host.".to_owned(),
        }
    }

    /// What `--db` would add.
    fn db_hint(&self, report: &Report) -> &'static str {
        const SERVERS: [&str; 3] = ["postgres", "mysqld", "mariadbd"];
        const PORTS: [&str; 2] = [":5432", ":3306"];
        let Some((_, peer)) = self.peer.filter(|_| report.database.is_none()) else { return "" };
        let by_name = peer.peer_process.as_deref().is_some_and(|name| SERVERS.contains(&name));
        let by_port = peer.address.as_deref().is_some_and(|address| PORTS.iter().any(|port| address.ends_with(port)));
        if by_name || by_port { " With --db the report tells which statements these waits are for." } else { "" }
    }

    fn experiment(&self, at_most_s: f64) -> String {
        let answer = match self.slow() {
            Slow::Names => "Put the address in place of the name",
            Slow::Connecting => "Make one connection and use it for all",
            _ => "Let a server on this host give the same answers at once",
        };
        let waits: u64 = self.count;
        format!(
            "{answer}: the {} must become short, and the wall time fall by at most {}.",
            count(waits, "wait"),
            duration(at_most_s)
        )
    }
}

fn doing(did: &PathPart) -> String {
    let place = did.functions.first().and_then(|function| functions::words(&function.location));
    let place = place.map(|place| format!(" in {place}")).unwrap_or_default();
    match (did.state.as_str(), &did.detail) {
        ("on_cpu", _) => format!("computed{place}"),
        ("runnable", _) => "had no CPU".to_owned(),
        ("throttled", _) => "was held back by a CPU quota".to_owned(),
        ("timer", _) => format!("slept{place}"),
        (state, Some(call)) if call != state => format!("waited for {state} {call}{place}"),
        (state, _) => format!("waited for {state}{place}"),
    }
}
