//! Payloads of the family that sees the network. Every struct starts with the [`Header`].

use crate::record::Header;

/// States of a TCP socket (include/net/tcp_states.h).
pub mod tcp_state {
    /// Connected.
    pub const ESTABLISHED: u8 = 1;
    /// It has asked for a connection.
    pub const SYN_SENT: u8 = 2;
    /// Closed on this side first.
    pub const FIN_WAIT1: u8 = 4;
    /// Closed.
    pub const CLOSE: u8 = 7;
    /// Closed on the other side, not yet on this one.
    pub const CLOSE_WAIT: u8 = 8;
    /// Closed on this side last.
    pub const LAST_ACK: u8 = 9;
    /// Waits for others to connect.
    pub const LISTEN: u8 = 10;
}

/// A TCP socket of a traced thread changes its state: it got a connection that it had asked for, or did not get it; or this thread closes
/// it, with what the kernel had counted until then.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Kind [`crate::record::net::CONNECTION`].
    pub header: Header,
    /// The thread that asked for the connection, or that closes it.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Inode number of the socket; 0: not known.
    pub inode: u64,
    /// Bytes that were written to it, less the last ones if the connection broke.
    pub sent_bytes: u64,
    /// Bytes that came.
    pub received_bytes: u64,
    /// How long connecting took; 0: this is about the end.
    pub took_ns: u64,
    /// 2: IPv4, the address in the first four bytes; 10: IPv6.
    pub family: u16,
    /// The state before.
    pub old_state: u8,
    /// The state from now on.
    pub new_state: u8,
    /// Its own port.
    pub local_port: u16,
    /// The other side's port.
    pub peer_port: u16,
    /// Its own address.
    pub local: [u8; 16],
    /// The other side's address.
    pub peer: [u8; 16],
    /// Smoothed time to the other side and back; 0: not measured.
    pub rtt_us: u32,
    /// Packets that were sent again.
    pub retransmits: u32,
}

const _: () = assert!(size_of::<Connection>() == 16 + 8 + 32 + 8 + 32 + 8);

/// A connection that was asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connecting {
    /// When.
    pub since_ts_ns: u64,
    /// By this thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
}

/// Connections that are being made at a time; older ones are forgotten.
pub const MOST_CONNECTING: u32 = 4096;

/// Of what the calls at a unix socket are summed up: which socket, in which process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixKey {
    /// Inode number of the socket.
    pub inode: u64,
    /// The process that called.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// What calls moved through a unix socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixSums {
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Calls that sent any.
    pub sends: u64,
    /// Bytes that were received.
    pub received_bytes: u64,
    /// Calls that received any.
    pub receives: u64,
}

const _: () = assert!(size_of::<UnixKey>() == 16 && size_of::<UnixSums>() == 32);

/// Sockets and processes that are told apart; calls of further ones are counted as lost.
pub const UNIX_SOCKETS: u32 = 4096;
