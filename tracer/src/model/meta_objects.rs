//! Payloads of the records that user space writes on what descriptors refer to: part of [`meta`](super::meta), which holds all others.

use serde::{Deserialize, Serialize};

use super::objects::FileSystem;

/// Kind `OBJECTS`: what descriptors refer to on which threads waited, as /proc told soon after. Counters are since tracing began: the
/// last ones count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectsRecord {
    /// Those that were looked up since the last such record.
    pub objects: Vec<ObjectRecord>,
    /// Look-ups in vain: the thread was gone, or the descriptor closed and no other one of its process was for the same.
    pub gone: u64,
    /// Descriptors that were not looked up, for the bounds on their number and rate.
    pub over: u64,
    /// What threads had moved that wait for pipes and sockets: once when that was seen, then now and then, and at the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<MovedRecord>,
    /// What the kernel counts of the TCP sockets for which threads wait: once when that was seen, then each second, and at the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<SocketRecord>,
    /// Ports to which others can connect, in the network namespaces of these: those that were not told before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listening: Vec<u16>,
    /// Where file systems are mounted, as processes see it: once for each that has files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountsRecord>,
}

/// Part of [`ObjectsRecord`]: the mounts that a process sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountsRecord {
    /// The process; 0: the tracer itself.
    pub tgid: u32,
    /// Number of its mount namespace.
    pub namespace: u64,
    /// Of file systems that may hold files on disks. Empty: they were told with another process of this namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountRecord>,
}

/// Part of [`MountsRecord`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountRecord {
    /// Device of the file system, "major:minor".
    pub device: String,
    /// Which directory of it is mounted; made printable, as the next.
    pub root: String,
    /// Where.
    pub mounted_on: String,
}

/// Part of [`ObjectsRecord`]: a TCP socket as it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SocketRecord {
    /// When it was read.
    pub at_ns: u64,
    /// Its inode.
    pub inode: u64,
    /// Number of its network namespace.
    pub network: u64,
    /// Its own address.
    pub local: String,
    /// The other side's.
    pub peer: String,
    /// Others connect to its own port: it is the server's end.
    pub accepted: bool,
    /// What the kernel counts of it.
    #[serde(flatten)]
    pub counts: TcpCounts,
    /// The inode of the other end, if that is on this host.
    pub peer_inode: Option<u64>,
    /// The process that has the other end open, if it is one.
    pub peer_pid: Option<u32>,
    /// Its name, made printable.
    pub peer_process: Option<String>,
}

/// Part of `struct tcp_info` (linux/tcp.h). What this kernel does not have yet is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TcpCounts {
    /// Bytes written to it, those that were not sent yet included.
    pub sent_bytes: u64,
    /// Bytes that came; the other side's end is none.
    pub received_bytes: u64,
    /// Packets sent.
    pub packets: u32,
    /// Packets sent again.
    pub retransmits: u32,
    /// Smoothed time to the other side and back; 0: not measured.
    pub rtt_us: u32,
    /// The shortest; 0: not measured.
    pub min_rtt_us: u32,
    /// Packets that were sent and are not acknowledged.
    pub unacknowledged: u32,
    /// Time with something to send.
    pub busy_us: u64,
    /// Of it for want of room at the other side.
    pub no_window_us: u64,
    /// Of it for want of room in its own buffer.
    pub no_buffer_us: u64,
}

/// Part of [`ObjectsRecord`]: what the kernel counts of a living thread, as [`Moved`](tracer_common::sched::Moved) has it of one that
/// ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MovedRecord {
    /// When it was read.
    pub ts_ns: u64,
    /// The process.
    pub tgid: u32,
    /// The thread.
    pub tid: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Calls that read.
    pub reads: u64,
    /// Calls that wrote.
    pub writes: u64,
}

/// Part of [`ObjectsRecord`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectRecord {
    /// The process that has it open.
    pub tgid: u32,
    /// The thread that waited.
    pub tid: u32,
    /// The descriptor.
    pub fd: u32,
    /// Inode number.
    pub inode: u64,
    /// Device of the inode, "major:minor".
    pub device: Option<String>,
    /// "file" (and whatever has a path), "pipe", "tcp", "udp", "unix", "socket" (another one), or what an anonymous inode is: "eventfd",
    /// "eventpoll".
    pub kind: String,
    /// Path of a file as its process sees it, or the one that a unix socket is bound to; made printable.
    pub path: Option<String>,
    /// The file had no name any more.
    pub deleted: bool,
    /// The file system that a file lies on, if it has no disk of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_system: Option<FileSystem>,
    /// A socket's own address.
    pub local: Option<String>,
    /// The address that it is connected to.
    pub peer: Option<String>,
}
