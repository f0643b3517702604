//! The text report's lines on waits at sockets. Left out where threads hardly waited there.

use super::layout::Page;
use crate::model::network::{Peer, TcpCounts};
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
    let at = |address: &Option<String>| address.clone().unwrap_or_else(|| "an address that is not known".to_owned());
    text += &match peer.role.as_str() {
        "listener" => format!("for others to connect to {} {}", peer.protocol, at(&peer.address)),
        "server" => format!("for clients of {} {}", peer.protocol, at(&peer.address)),
        _ => format!("for {} {}", peer.protocol, at(&peer.address)),
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
    if let Some(connects) = peer.connects.as_ref().filter(|connects| connects.failed > 0 || connects.total_s >= LEAST_S)
    {
        text += &format!("; connecting took {}", duration(connects.total_s));
        if connects.failed > 0 {
            text += &format!(", {} failed", grouped(connects.failed));
        }
    }
    text
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
