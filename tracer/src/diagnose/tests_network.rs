//! The rule `network-wait` on constructed runs, and what the section `network` says of them.

use tracer_common::net::Connection;
use tracer_common::record::net;
use tracer_common::sched::WakeContext;

use super::tests::{assert_evidence_resolves, run, status};
use crate::model::event::{Event, Meta};
use crate::model::meta::{ObjectRecord, ObjectsRecord, SocketRecord, TargetRecord, TcpCounts};
use crate::model::report::{Finding, Report, RuleStatus};
use crate::testing::stacks::START;
use crate::testing::{Leave, header, meta_event, new_task, polled, switch, woken};

const MS: u64 = 1_000_000;
const SOCKET: u64 = 77;
const ROUNDS: u64 = 100;
const RECVFROM: i16 = 45;
const ACCEPT: i16 = 43;
const POLL: i16 = 7;
const EPOLL: i16 = 232;
/// Number of the kind of descriptor that is an IPv4 or IPv6 socket.
const INET: u8 = 3;

/// A run in which `client` (10) waits 8 ms of each 10 ms at a socket.
struct Shape {
    syscall: i16,
    /// Who ends the waits: `server` (20), which slept meanwhile; else a device.
    by_server: bool,
    protocol: &'static str,
    peer: &'static str,
    read: Option<SocketRecord>,
    listening: Vec<u16>,
    events: Vec<Connection>,
}

fn read() -> SocketRecord {
    SocketRecord {
        at_ns: START + 500 * MS,
        inode: SOCKET,
        network: 1,
        local: "10.0.0.2:4000".to_owned(),
        peer: "10.0.0.1:80".to_owned(),
        counts: TcpCounts {
            sent_bytes: 1_000,
            received_bytes: 50_000,
            packets: 1_000,
            rtt_us: 300,
            min_rtt_us: 200,
            ..TcpCounts::default()
        },
        ..SocketRecord::default()
    }
}

fn remote() -> Shape {
    Shape {
        syscall: RECVFROM,
        by_server: false,
        protocol: "tcp",
        peer: "10.0.0.1:80",
        read: Some(read()),
        listening: Vec::new(),
        events: Vec::new(),
    }
}

fn report(shape: &Shape) -> Report {
    let target = TargetRecord { mode: "run".to_owned(), pids: vec![10], ..TargetRecord::default() };
    let object = ObjectRecord {
        tgid: 10,
        tid: 10,
        fd: 3,
        inode: SOCKET,
        kind: shape.protocol.to_owned(),
        local: Some("10.0.0.2:4000".to_owned()),
        peer: Some(shape.peer.to_owned()),
        ..ObjectRecord::default()
    };
    let sockets = shape.read.clone().into_iter().collect();
    let listening = shape.listening.clone();
    let objects = ObjectsRecord { objects: vec![object], sockets, listening, ..ObjectsRecord::default() };
    let mut events = vec![
        meta_event(START, Meta::Target(target)),
        meta_event(START, Meta::Objects(objects)),
        Event::NewTask(new_task(START, 10, 10, 1, "client")),
        Event::NewTask(new_task(START, 20, 20, 10, "server")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(START, 1, 0, 20, Leave::Preempted)),
    ];
    let waits = match shape.syscall {
        EPOLL => Leave::Sleep { syscall: EPOLL, fd_kind: 0, object: 0 },
        syscall => Leave::Sleep { syscall, fd_kind: INET, object: SOCKET },
    };
    let sleeps = Leave::Sleep { syscall: 230, fd_kind: 0, object: 0 };
    for round in 0..ROUNDS {
        let at = |us: u64| START + round * 10 * MS + us * 1000;
        events.push(Event::Switch(switch(at(1000), 0, 10, 0, waits)));
        events.push(Event::Switch(switch(at(1500), 1, 20, 0, sleeps)));
        events.push(Event::Switch(woken(switch(at(8500), 1, 0, 20, Leave::Preempted), WakeContext::Timer, 0, 1000)));
        if shape.syscall == EPOLL {
            events.push(Event::Polled(polled(at(9000), 0, 10, SOCKET)));
        }
        let back = switch(at(9000), 0, 0, 10, Leave::Preempted);
        let by = if shape.by_server { (WakeContext::Task, 20) } else { (WakeContext::Device, 0) };
        events.push(Event::Switch(woken(back, by.0, by.1, 1000)));
    }
    let end = START + ROUNDS * 10 * MS - 1000;
    events.extend(shape.events.iter().map(|event| {
        let header = header(net::CONNECTION, end, 0);
        Event::Connection(Box::new(Connection { header, ..*event }))
    }));
    run(events, ROUNDS * 10)
}

fn ended(inode: u64, received_bytes: u64) -> Connection {
    let address = |last: u8| std::array::from_fn(|byte| [10, 0, 0, last].get(byte).copied().unwrap_or(0));
    Connection {
        header: header(net::CONNECTION, START, 0),
        tid: 10,
        tgid: 10,
        inode,
        sent_bytes: 1_000,
        received_bytes,
        took_ns: 0,
        family: 2,
        old_state: 1,
        new_state: 4,
        local_port: 4000,
        peer_port: 80,
        local: address(2),
        peer: address(1),
        rtt_us: 300,
        retransmits: 0,
    }
}

fn found(report: &Report) -> &Finding {
    let mut found = report.findings.iter().filter(|finding| finding.class == "network-wait");
    let first = found.next().unwrap_or_else(|| panic!("{:?} {:?}", report.rules, report.network));
    assert_eq!(found.next(), None);
    assert_evidence_resolves(report);
    first
}

#[test]
fn a_server_elsewhere_that_is_slow_is_named_and_told_from_a_slow_way() {
    let report = report(&remote());
    let finding = found(&report);
    assert!((0.79..0.81).contains(&finding.lost_s.expect("measured")), "{finding:?}");
    let culprit = finding.culprit.as_ref().expect("the server");
    assert_eq!((culprit.peer.as_deref(), culprit.pid), (Some("tcp 10.0.0.1:80"), None), "{finding:?}");
    assert!(finding.hypothesis.starts_with("The server is slow"), "{}", finding.hypothesis);
    assert_eq!(finding.confidence, 0.8);
    assert_eq!(
        (status(&report, "input-starvation"), status(&report, "ipc-wait")),
        (RuleStatus::Silent, RuleStatus::CouldNotRun)
    );
    let peers = &report.network.as_ref().expect("a section").peers;
    let tcp = peers[0].tcp.as_ref().expect("it was read");
    assert_eq!((tcp.received_bytes, tcp.exact, peers[0].closed), (50_000, false, 0), "a reading is no end");
}

#[test]
fn packets_that_are_sent_again_and_a_long_way_are_the_way() {
    let counts = read().counts;
    for counts in [TcpCounts { retransmits: 20, ..counts }, TcpCounts { min_rtt_us: 4_000, ..counts }] {
        let slow = SocketRecord { counts, ..read() };
        let report = report(&Shape { read: Some(slow), ..remote() });
        let finding = found(&report);
        assert!(finding.hypothesis.starts_with("The way to the server is slow"), "{}", finding.hypothesis);
    }
    let held_back = SocketRecord { counts: TcpCounts { rtt_us: 12_000, ..counts }, ..read() };
    let few = SocketRecord { counts: TcpCounts { retransmits: 2, ..counts }, ..read() };
    let report = self::report(&Shape { read: Some(few), ..remote() });
    assert!(found(&report).hypothesis.starts_with("The server is slow"), "2 of 1,000 hold nothing up");
    let report = self::report(&Shape { read: Some(held_back), ..remote() });
    assert!(found(&report).hypothesis.starts_with("The server is slow"), "acknowledgements may be held back");
}

#[test]
fn a_traced_server_is_named_with_what_it_did_and_nobody_starves() {
    let report = report(&Shape { by_server: true, ..remote() });
    let finding = found(&report);
    let culprit = finding.culprit.as_ref().expect("the server");
    assert_eq!((culprit.pid, culprit.tid), (Some(20), Some(20)), "{finding:?}");
    assert!(
        finding.summary.contains("process server (20)") && finding.summary.contains("slept"),
        "{}",
        finding.summary
    );
    assert_eq!(finding.confidence, 0.9);
    let peer = &report.network.as_ref().expect("a section").peers[0];
    assert_eq!((peer.peer_pid, peer.role.as_str()), (Some(20), "client"), "told by who ended the waits: {peer:?}");
}

#[test]
fn a_poll_of_one_socket_is_a_wait_for_it_and_a_name_server_is_told_by_its_port() {
    let report = report(&Shape { syscall: POLL, protocol: "udp", peer: "10.0.0.9:53", read: None, ..remote() });
    let finding = found(&report);
    assert!(finding.summary.contains("udp 10.0.0.9:53") && finding.summary.contains("names"), "{}", finding.summary);
    let peer = &report.network.as_ref().expect("a section").peers[0];
    assert!(peer.poll_s > 0.79 && peer.tcp.is_none(), "{peer:?}");
}

#[test]
fn a_wait_in_epoll_is_for_the_socket_that_ended_it() {
    let told = report(&Shape { syscall: EPOLL, by_server: true, ..remote() });
    let finding = found(&told);
    assert!((0.79..0.81).contains(&finding.lost_s.expect("measured")), "{finding:?}");
    let culprit = finding.culprit.as_ref().expect("the server");
    assert_eq!(culprit.pid, Some(20), "{finding:?}");
    assert!(culprit.peer.as_deref().is_some_and(|peer| peer.contains("10.0.0.1:80")), "{finding:?}");
    let peer = &told.network.as_ref().expect("a section").peers[0];
    assert!(peer.poll_s > 0.79 && peer.send_s == 0.0, "{peer:?}");
    let accepted = SocketRecord { accepted: true, ..read() };
    for (what, read, protocol) in [("its client", Some(accepted), "tcp"), ("nobody knows whom", None, "raw")] {
        let silent = report(&Shape { syscall: EPOLL, read, protocol, ..remote() });
        assert_eq!(status(&silent, "network-wait"), RuleStatus::Silent, "it waits for {what}");
    }
}

#[test]
fn a_server_that_has_nothing_to_do_is_silent() {
    let accepts = report(&Shape { syscall: ACCEPT, read: None, ..remote() });
    assert_eq!(status(&accepts, "network-wait"), RuleStatus::Silent);
    let accepted = report(&Shape { read: Some(SocketRecord { accepted: true, ..read() }), ..remote() });
    assert_eq!(status(&accepted, "network-wait"), RuleStatus::Silent, "it waits for its client");
    let roles: Vec<_> = [&accepts, &accepted]
        .iter()
        .map(|report| report.network.as_ref().expect("a section").peers[0].role.clone())
        .collect();
    assert_eq!(roles, ["listener", "server"]);
}

#[test]
fn what_the_kernel_counted_at_the_end_goes_before_a_reading_and_is_exact() {
    let report = report(&Shape { events: vec![ended(SOCKET, 60_000), ended(0, 5), ended(0, 6)], ..remote() });
    let peer = &report.network.as_ref().expect("a section").peers[0];
    let tcp = peer.tcp.as_ref().expect("counted");
    assert_eq!((peer.connections, peer.closed, tcp.received_bytes, tcp.exact), (3, 3, 60_011, true), "{peer:?}");
}

#[test]
fn a_connection_that_was_open_for_a_moment_is_a_servers_by_its_address() {
    let short = ended(SOCKET + 1, 10);
    let roles_with = |listening: Vec<u16>, events: Vec<Connection>| {
        let report = report(&Shape { read: None, listening, events, ..remote() });
        let peers = report.network.expect("a section").peers;
        peers.into_iter().find(|peer| peer.closed == 1).map(|peer| (peer.role, peer.address))
    };
    let roles = |listening: Vec<u16>| roles_with(listening, vec![short]);
    let told = |role: &str, address: &str| Some((role.to_owned(), Some(address.to_owned())));
    assert_eq!(roles(vec![4000]), told("server", "10.0.0.2:4000"));
    assert_eq!(roles(vec![4001]), told("client", "10.0.0.1:80"));
    let (peer, local) = (short.local, short.peer);
    let asked =
        Connection { old_state: 2, new_state: 1, peer, peer_port: 4000, local, local_port: 80, inode: 0, ..short };
    assert_eq!(
        roles_with(vec![], vec![asked, short]),
        told("server", "10.0.0.2:4000"),
        "a traced thread connected to it"
    );
}

#[test]
fn connections_that_take_long_to_be_made_are_told() {
    let made = Connection { took_ns: 7 * MS, old_state: 2, new_state: 1, ..ended(SOCKET, 0) };
    let refused = Connection { new_state: 7, ..made };
    let events = [vec![made; 100], vec![refused]].concat();
    let report = report(&Shape { events, ..remote() });
    let connects = report.network.as_ref().expect("a section").peers[0].connects.clone().expect("counted");
    assert_eq!((connects.count, connects.failed), (101, 1));
    assert!(found(&report).hypothesis.contains("connection of its own"), "{:?}", found(&report).hypothesis);
}
