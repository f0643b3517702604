//! The report's section `critical_path`: why a thread took as long as it did. Plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stacks::{FunctionTime, Phase, Whose};
use super::steps::Steps;

/// What the wall time of one thread went to, where it waited followed into the threads that it waited for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CriticalPath {
    /// Whose.
    pub of: PathOf,
    /// Its wall time; the parts and `others` sum to it.
    pub total_s: f64,
    /// The part of it about which nothing is known.
    pub unknown_s: f64,
    /// That, of all.
    pub unknown_share: f64,
    /// Of what the threads did only this last part was kept; absent: all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_s: Option<f64>,
    /// Most time first.
    pub parts: Vec<PathPart>,
    /// What the parts leave out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others: Option<PathOthers>,
    /// Time on the path that went to a runtime's own doings, by thread, most first; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PathPhase>,
    /// Waits that the path led through: how much of the wall time each is the reason of. They overlap, so they do not sum to it. The 32
    /// longest, and of all others a row for each process, state and call, without object; all connections to one server are one.
    pub waits: Vec<PathWait>,
    /// What processes that lived no longer than 250 ms did on the path, by the process that started them; at most 8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub short_lived: Vec<PathShortLived>,
    /// Waits of the path's own thread that other traced threads ended, most time first; at most 16. Sleeps in a row in which it looked
    /// whether another thread has ended are such a wait, of state `timer`: that one's end. Where that thread only waits for a
    /// child process, as a script does, also those of the child's main thread.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own_waits: Vec<OwnWait>,
    /// The steps that were asked for; absent: none were.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub steps: Option<Steps>,
}

/// Waits of the path's own thread for one thing, and what explains them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OwnWait {
    /// Who waited.
    pub of: PathOf,
    /// How long, all together.
    pub s: f64,
    /// Of the path's wall time.
    pub share: f64,
    /// How many.
    pub count: u64,
    /// The longest.
    pub max_s: f64,
    /// Those who ended them did so by ending: joins, and ends of files.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_end: bool,
    /// What it waited in.
    pub state: String,
    /// The system call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Path of that file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// That pipe or socket in words: from whom, to whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    /// In which functions it waited; at most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<FunctionTime>,
    /// In which functions the traced threads were that ended these waits, as far as stacks were taken; at most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub ended_in: Vec<FunctionTime>,
    /// Threads that ended these waits, the most often first; at most 8.
    pub ended_by: Vec<Ender>,
    /// What happened meanwhile: parts of the path, which sum to these waits but for what is left out. Most time first; at most 8.
    pub did: Vec<PathPart>,
}

/// A thread that ended waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Ender {
    /// Its process.
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
    /// How often.
    pub count: u64,
}

/// A thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PathOf {
    /// Its process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Its process's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}

/// Time on the path that threads of one name in processes of one name spent in one way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PathPart {
    /// Of the path's wall time.
    pub share: f64,
    /// How long.
    pub s: f64,
    /// In how many pieces.
    pub pieces: u64,
    /// How many threads.
    pub threads: u64,
    /// The process; absent where it is not known or there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The thread; absent where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// Name of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Name of the thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// What it did: a state of the thread table.
    pub state: String,
    /// Of a wait: the system call, or what tells it further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Of a wait: what for; absent where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Path of that file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub path: Option<String>,
    /// That pipe or socket in words: from whom, to whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub ends: Option<String>,
    /// Of a wait, what ended it: "timer", "device", "interrupt", "process" (one that is not traced), "not-ended", "not-known". Of
    /// unknown time: "not-kept". Waits that a traced thread ended are followed and not listed, but for "mutual", a thread that itself
    /// waits for what is explained, and "asleep", one that had not been woken yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The process that is not traced and ended the wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waker: Option<String>,
    /// In what the path's own thread was waiting meanwhile; absent: this is its own time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<PathWithin>,
    /// On a CPU: functions of the samples taken on the path, in proportion. In a wait: where it waited. At most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<FunctionTime>,
    /// On a CPU: the time of the phases "ipc-copy" and "ipc-pack" among it, by samples. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipc_s: Option<f64>,
}

/// A wait of the path's own thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PathWithin {
    /// What it waited in.
    pub state: String,
    /// The system call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The smaller parts together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PathOthers {
    /// How many.
    pub parts: u64,
    /// How long.
    pub s: f64,
    /// Of the path's wall time.
    pub share: f64,
}

/// Time on the path that one thread spent below one function of its runtime.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PathPhase {
    /// Of the path's wall time.
    pub share: f64,
    /// The thread.
    #[serde(flatten)]
    pub whose: Whose,
    /// What it did, how long, from where.
    #[serde(flatten)]
    pub what: Phase,
}

/// A wait that is the reason of time on the path: without it at most this time would not be there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PathWait {
    /// How long.
    pub s: f64,
    /// For how long threads then queued for a CPU before they went on; not part of `s`.
    pub queued_s: f64,
    /// Of the path's wall time.
    pub share: f64,
    /// How often it was met.
    pub count: u64,
    /// The process that waited; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What it waited in.
    pub state: String,
    /// The system call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Path of that file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub path: Option<String>,
    /// That pipe or socket in words: from whom, to whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub ends: Option<String>,
}

/// Time on the path that short-lived processes spent, their start and their end included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PathShortLived {
    /// The process that started them, or that started those who did.
    pub of_pid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_process: Option<String>,
    /// Their threads that are on the path.
    pub threads: u64,
    /// How long.
    pub s: f64,
    /// Of the path's wall time.
    pub share: f64,
}

/// What explains the waits of one thread for one thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Explanation {
    /// The thread that waited: the one that waited longest.
    pub of_tid: u32,
    /// Its waits that another traced thread ended; what was done meanwhile sums to it, but for what is left out of the list.
    pub total_s: f64,
    /// The last so many seconds of the thread were looked at.
    pub looked_at_s: f64,
    /// What those did who ended its waits, from each wait's start to its end. Most time first; at most 8.
    pub did: Vec<Explained>,
}

/// One of several threads in [`Explained`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ExplainedBy {
    /// The thread.
    pub tid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// How long.
    pub s: f64,
    /// In which functions; at most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<FunctionTime>,
}

/// What threads of a process did while another one waited for them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Explained {
    /// Of the waits.
    pub share: f64,
    /// How long.
    pub s: f64,
    /// In how many pieces.
    pub pieces: u64,
    /// How many threads.
    pub threads: u64,
    /// The thread; absent where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// Its name; absent where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Its process's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// What it did: a state of the thread table.
    pub state: String,
    /// Of a wait: the system call, or what tells it further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Of a wait: what for; absent where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Path of that file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub path: Option<String>,
    /// That pipe or socket in words: from whom, to whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub ends: Option<String>,
    /// In which functions; at most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<FunctionTime>,
    /// Where there are several threads, those with most of the time; at most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<ExplainedBy>,
}
