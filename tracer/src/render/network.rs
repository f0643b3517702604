//! The text report's lines on waits at sockets. Left out where threads hardly waited there.

use super::layout::Page;
use crate::model::network::{Peer, TcpCounts, UnixCounts};
use crate::model::report::Report;
use crate::model::units::{bytes, count, duration, grouped};

const MAX_ROWS: usize = 8;
/// Waits that are shorter together are not shown.
const LEAST_S: f64 = 0.01;

/// All that there is to say.
pub(super) fn lines(page: &mut Page, report: &Report) {
    let peers = report.network.iter().flat_map(|network| &network.peers);
    let shown: Vec<&Peer> = peers.filter(|peer| peer.waited_s >= LEAST_S).take(MAX_ROWS).collect();
    if shown.is_empty() {
        return;
    }
    page.title("Waits at sockets");
    for peer in shown {
        page.paragraph("  ", &line(peer));
    }
}

fn line(peer: &Peer) -> String {
    let mut text = format!("{} in {} ", duration(peer.waited_s), count(peer.waits, "wait"));
    let at = match (&peer.address, peer.protocol.as_str()) {
        (Some(address), protocol) => format!("{protocol} {address}"),
        // Pairs have none, nor has the client's end.
        (None, "unix") => "unix sockets without a name".to_owned(),
        (None, protocol) => format!("{protocol} an address that is not known"),
    };
    text += &match peer.role.as_str() {
        "listener" => format!("for others to connect to {at}"),
        "server" => format!("for clients of {at}"),
        _ => format!("for {at}"),
    };
    if let Some(pid) = peer.peer_pid {
        text += &format!(", which is {} ({pid})", peer.peer_process.as_deref().unwrap_or("process"));
    }
    if peer.connections > 0 && peer.role != "listener" {
        text += &format!("; {}", count(peer.connections, "connection"));
    }
    if let Some(tcp) = &peer.tcp {
        text += &self::tcp(tcp);
    }
    if let Some(unix) = &peer.unix {
        text += &self::unix(unix);
    }
    if let Some(connects) = peer.connects.as_ref().filter(|connects| connects.failed > 0 || connects.total_s >= LEAST_S)
    {
        text += &format!("; connecting took {}", duration(connects.total_s));
        if connects.failed > 0 {
            text += &format!(", {} failed", grouped(connects.failed));
        }
    }
    text
}

fn unix(unix: &UnixCounts) -> String {
    let mut parts = Vec::new();
    for (verb, moved, calls) in
        [("sent", unix.sent_bytes, unix.sends), ("received", unix.received_bytes, unix.receives)]
    {
        if calls > 0 {
            parts.push(format!("{verb} {} in {}", bytes(moved), count(calls, "call")));
        }
    }
    format!(", {} (counted for {})", parts.join(", "), duration(unix.counted_s))
}

fn tcp(tcp: &TcpCounts) -> String {
    let least = if tcp.exact { "" } else { "at least " };
    let mut text = format!(", sent {least}{}, received {least}{}", bytes(tcp.sent_bytes), bytes(tcp.received_bytes));
    if let Some(rtt_s) = tcp.rtt_s {
        text += &format!(", {} to it and back", duration(rtt_s));
    }
    if tcp.retransmits > 0 {
        text += &format!(", {} sent again", count(tcp.retransmits, "packet"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_through_unix_sockets_stands_with_the_time_in_which_it_was_counted() {
        let unix = UnixCounts { sent_bytes: 3 << 20, sends: 3, counted_s: 1.5, ..UnixCounts::default() };
        let peer = Peer {
            protocol: "unix".to_owned(),
            role: "unknown".to_owned(),
            connections: 2,
            waits: 7,
            waited_s: 1.25,
            unix: Some(unix),
            ..Peer::default()
        };
        assert_eq!(
            line(&peer),
            "1.25 s in 7 waits for unix sockets without a name; 2 connections, sent 3.0 MiB in 3 calls (counted for 1.50 s)"
        );
    }
}
