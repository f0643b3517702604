//! Weighted stacks: what the report's section `stacks` and the exports of profiles are made from. Plain data, in a defined order;
//! nothing here computes.

use std::sync::Arc;

use super::meta::{FrameKind, StackEnd};

/// How the times come about, in a sentence, for reports and exports.
pub const ESTIMATOR: &str = "on-CPU time is samples times their period; waits are measured exactly, and the time at each place is \
                             split over the stacks taken there in proportion to how often each was taken";

/// A text that many frames share.
pub type Text = Arc<str>;

/// A file that frames lie in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Path as the process saw it.
    pub path: Text,
    /// Build id in hexadecimal.
    pub build_id: Option<Text>,
    /// It had no name any more.
    pub deleted: bool,
}

/// One name at a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Demangled, or a Python function's qualified name.
    pub function: Text,
    /// Source file.
    pub file: Option<Text>,
    /// Line in it.
    pub line: Option<u32>,
    /// Inlined into the one after it.
    pub inlined: bool,
}

/// A frame with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// Index into [`Profile::modules`].
    pub module: Option<usize>,
    /// Address in that file, in the kernel, or start of the mapping.
    pub address: u64,
    /// Innermost inlined function first; empty: none is known.
    pub names: Vec<Name>,
    /// Why there is none, in a word.
    pub missing: Option<Text>,
}

/// A stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Its id in the capture.
    pub id: u64,
    /// Indices into [`Profile::frames`], innermost first.
    pub frames: Vec<usize>,
    /// How it ended.
    pub end: StackEnd,
    /// The file in which it ended, for `no-unwind-info`: index into [`Profile::modules`].
    pub at_module: Option<usize>,
    /// Part of it was found by a search.
    pub rescued: bool,
    /// Python frames do not fit the native ones.
    pub python_misfit: bool,
    /// How reading Python frames ended, where not well.
    pub python_end: Option<Text>,
}

/// What a thread did.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activity {
    /// It was on a CPU.
    OnCpu,
    /// It waited: the state, as in the report's `threads`, and what tells it further.
    Waiting {
        /// The state.
        state: &'static str,
        /// For the state `other`: what tells it further.
        detail: Option<String>,
    },
}

/// Why there is no stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoStack {
    /// The wait's switch named no place: it began before tracing, or the thread is the kernel's.
    NoPlace,
    /// No stack was taken at this place.
    NotCaptured,
    /// A stack was taken, but found no room in the tracer's tables.
    NoRoom,
    /// A stack was taken, but the recording does not define it.
    NotRecorded,
}

/// Time of one thread in one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The process; 0: not known.
    pub pid: u32,
    /// The thread; 0: several, where a table was full.
    pub tid: u32,
    /// The process's name.
    pub process: Option<Text>,
    /// The thread's name.
    pub thread: Option<Text>,
    /// What it did.
    pub activity: Activity,
    /// Index into [`Profile::stacks`], or why there is none.
    pub stack: Result<usize, NoStack>,
    /// Time: samples by their weight, waits by their exact length.
    pub ns: u64,
    /// Samples, or waits.
    pub count: u64,
}

/// See the file's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Start of the window.
    pub start_unix_ns: Option<u64>,
    /// Its length.
    pub duration_ns: u64,
    /// Mean time that a sample stands for; 0: there is none.
    pub period_ns: u64,
    /// Files.
    pub modules: Vec<Module>,
    /// Frames of the stacks.
    pub frames: Vec<Frame>,
    /// Stacks, by id.
    pub stacks: Vec<Stack>,
    /// Times, by pid, tid, activity, stack.
    pub entries: Vec<Entry>,
}
