//! From registers and a copy of the stack to return addresses, by the call frame information of the files that the code lies in.
//!
//! Pure: a function of (registers, stack bytes, address space with its modules). Reads no process and no clock. Not here: names,
//! Python frames, how the copy was made.

use crate::process::ModuleId;

/// A frame of user code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserFrame {
    /// The address that tells the function: the instruction itself for the innermost frame and for one that a signal interrupted, one
    /// byte before the return address for a caller.
    pub address: u64,
    /// The canonical frame address: the stack pointer before the call; 0: not known.
    pub frame_address: u64,
    /// The file that it lies in; none: memory without a file, or nothing.
    pub module: Option<ModuleId>,
    /// `address` in that file's own numbering.
    pub module_address: u64,
    /// Found by a search for return addresses.
    pub rescued: bool,
}
