//! CPython: finds the interpreter in a process, tells the programs where its frames are, names them, merges them into native stacks.
//!
//! The process is never paused: its memory is read while it runs, so whatever is read may be torn, freed or used again. What is
//! read is therefore checked before it is believed, and what cannot be believed is said to be missing. Not here: the walk over the
//! frames that counts (the programs do it, while the thread stands still), and when to look at which process (`stacks`).

mod code;
mod detect;
mod entry;
mod function;
mod gil;
mod layout;
mod lines;
mod memory;
mod merge;
mod text;
mod walk;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests_live;

pub use code::{Codes, Missing, PyName};
pub use detect::{Detected, Detector};
pub use entry::entry;
pub use function::PythonFunction;
pub use gil::Gil;
pub use layout::{Interpreter, Version};
pub use memory::{ProcessMemory, ReadMemory};
pub use merge::{Merged, merge};
pub use walk::walk;
