//! The report's section `objects`: what descriptors referred to on which threads waited, and who was at the ends of pipes and sockets.
//! Plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Files, pipes and sockets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Objects {
    /// Looked up in time, per process and descriptor.
    pub known: u64,
    /// Look-ups in vain: the thread was gone, or the descriptor closed.
    pub gone: u64,
    /// Not looked up, or not kept, for the bounds: 8,192 objects, 65,536 descriptors, 2,000 look-ups a second.
    pub over: u64,
    /// Those that threads waited for longest, by descending time, then name; at most 64.
    pub list: Vec<Object>,
}

/// One file, pipe or socket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Object {
    /// As waits name it: `pipe:[inode]`, `socket:[inode]`, `inode:[inode]`.
    pub object: String,
    /// "file" (or whatever has a path), "pipe", "tcp", "udp", "unix", "socket", or what an anonymous inode is; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Path of a file, or the one that a unix socket is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The file had no name any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Device of its inode, "major:minor".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The file system that a file lies on, if it has no disk of its own: of a network, of another process, in memory, or a layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_system: Option<FileSystem>,
    /// A socket's own address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The address that it is connected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// A pipe or a socket in words: what it is, from whom, to whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    /// How much went through a pipe or a socket at most; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ObjectBytes>,
    /// Waits for it.
    pub waits: u64,
    /// How long these were, all threads together.
    pub total_s: f64,
    /// Who takes from a pipe or a socket: those that waited to read, and those that ended waits to write. At most 8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<ObjectEnd>,
    /// Who puts into it, likewise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub writers: Vec<ObjectEnd>,
}

/// Where a file lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FileSystem {
    /// Its type: "nfs4", "fuse.sshfs".
    #[serde(rename = "type")]
    pub kind: String,
    /// What is mounted, in its own words: "server:/export".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Where, as the process sees it.
    pub mounted_on: String,
}

/// Types whose data come from elsewhere. Those of FUSE have names of their own behind a dot.
const FAR: [&str; 17] = [
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs",
    "pvfs2", "smb3", "virtiofs", "wekafs",
];

impl FileSystem {
    /// Whether another machine, or a process, answers for its files.
    pub fn is_far(&self) -> bool {
        self.kind.starts_with("fuse.") || FAR.contains(&self.kind.as_str())
    }
}

/// How much went through a pipe or a socket. Where the calls at the socket itself were counted (`counted_s`), just that, in the direction in
/// which more went. Else at most: what the threads at one of its ends read or wrote in all, the end with the smaller
/// rate of those that are known. Of a socket only ends count at which threads waited in read(2) or write(2): in a thread's own account the kernel
/// does not count what sockets' own calls move.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ObjectBytes {
    /// Bytes, at most.
    pub at_most: u64,
    /// That in a second, over the time for which it is known.
    pub per_s_at_most: f64,
    /// Both ends are known and their rates agree to a tenth: nearly all that these threads moved went through here. Also where it was counted.
    pub ends_agree: bool,
    /// For how long the calls at this socket were counted: the bytes are those of that time, and the means those of these calls. Absent: they
    /// were not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted_s: Option<f64>,
    /// Mean of a call of the readers, of whatever they read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_read: Option<f64>,
    /// Mean of a call of the writers, of whatever they wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_write: Option<f64>,
}

/// A thread at an end of a pipe or a socket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ObjectEnd {
    /// Its process; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The thread.
    pub tid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Its process's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// How often it waited here.
    pub waits: u64,
    /// How long.
    pub total_s: f64,
    /// How often it ended a wait of the other end.
    pub woke: u64,
}
