//! The report's section `network`: for whom threads waited at sockets, and what the kernel counted of their connections. Plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Waits at sockets of the network and at unix sockets, by the server's end, and connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Network {
    /// Connections that were read or seen to be closed.
    pub known: u64,
    /// Connections that found no room here: 16,384 are kept.
    pub over: u64,
    /// By time waited, then address; at most 64.
    pub peers: Vec<Peer>,
    /// Connections for which was waited longest, by descending time; at most 64.
    pub connections: Vec<Connection>,
}

/// All that had to do with one server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Peer {
    /// "tcp", "udp", "unix"; "socket": not known.
    pub protocol: String,
    /// What the traced threads are: "client" (they connect to it), "server" (it is their own address, and others connect), "listener" (they
    /// waited for others to connect), "unknown".
    pub role: String,
    /// The server's address; of a unix socket the path that it is bound to. Absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The process at the other end, if it is on this host and one; else absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_pid: Option<u32>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_process: Option<String>,
    /// The traced process, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Sockets for which threads waited, or whose end was seen.
    pub connections: u64,
    /// Of these, those whose end was seen. Their numbers are exact; of others they are those of the last reading, at most a second
    /// before the end of the run or of the connection.
    pub closed: u64,
    /// Waits of traced threads.
    pub waits: u64,
    /// How long these were, all threads together: exact.
    pub waited_s: f64,
    /// The longest.
    pub max_s: f64,
    /// Of it for something to come.
    pub receive_s: f64,
    /// Of it for room to send.
    pub send_s: f64,
    /// Of it in poll(2) or its like on this one socket alone, and in epoll_wait(2) or its like on any of many, where this one ended the wait.
    pub poll_s: f64,
    /// Of it to be connected.
    pub connect_s: f64,
    /// Of it for others to connect.
    pub accept_s: f64,
    /// What the kernel counted of the TCP connections; absent: nothing was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCounts>,
    /// What the traced threads' calls moved through these unix sockets; absent: it was not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix: Option<UnixCounts>,
    /// Connections that traced threads asked for; absent: none were seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connects: Option<Connects>,
}

/// What the kernel counted of TCP connections, over each connection's life.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TcpCounts {
    /// Bytes that were written to them.
    pub sent_bytes: u64,
    /// Bytes that came.
    pub received_bytes: u64,
    /// All connections were seen to be closed, so the bytes and packets sent again are exact; else they are at least so many.
    pub exact: bool,
    /// Packets that were sent again.
    pub retransmits: u64,
    /// Packets sent, of connections that were read while they lived; absent: none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Smoothed time to the other side and back when it was read last, the greatest of all connections: a snapshot. Absent: not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_s: Option<f64>,
    /// The shortest that was ever measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_rtt_s: Option<f64>,
    /// Time in which there was something to send, of connections that were read.
    pub busy_s: f64,
    /// Of it, in which the other side had no room.
    pub no_window_s: f64,
    /// Of it, in which its own buffer had no room.
    pub no_buffer_s: f64,
}

/// What calls moved through unix sockets, at the traced threads' end, whatever the call. Exact, for the time in which it was counted: from when
/// traced threads began to wait at unix sockets often until they did no more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UnixCounts {
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Calls that sent any.
    pub sends: u64,
    /// Bytes that were received.
    pub received_bytes: u64,
    /// Calls that received any.
    pub receives: u64,
    /// For how long this was counted.
    pub counted_s: f64,
}

/// Connections that were asked for: exact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Connects {
    /// How many.
    pub count: u64,
    /// Those that were refused, or not answered in time.
    pub failed: u64,
    /// From asking to the answer, all together; threads need not have waited for it.
    pub total_s: f64,
    /// The longest.
    pub max_s: f64,
}

/// One socket for which threads waited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Connection {
    /// As waits name it: `socket:[inode]`.
    pub object: String,
    /// Where in `peers` its server is.
    pub peer: usize,
    /// Its own address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The other side's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// Waits of traced threads.
    pub waits: u64,
    /// How long these were.
    pub waited_s: f64,
}
