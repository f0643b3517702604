//! From registers and a copy of the stack to return addresses, by the call frame information of the files that the code lies in.
//!
//! Pure: a function of (registers, stack bytes, address space with its modules). Reads no process and no clock. Not here: names,
//! Python frames, how the copy was made.

mod arch;
mod cache;
mod code;
mod expression;
mod index;
mod rescue;
mod rule;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashMap;

use tracer_common::stack::{REGISTER_WORDS, raw_flags};

use crate::model::meta::StackEnd;
use crate::process::{AddressSpace, Image, Mapping, ModuleId};
use cache::{Cache, Known};
use index::{Executor, Index, MAX_EXECUTED_BYTES, MAX_INDEXED};
use walk::{State, Stop, Walk};

/// Most frames of a stack.
pub const MAX_FRAMES: usize = 512;
/// Most frames walked for one stack, those of searches that led nowhere included.
const MAX_STEPS: u32 = 4096;

/// A frame of user code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserFrame {
    /// The address that tells the function: the instruction itself for the innermost frame and for one that a signal interrupted, one
    /// byte before the return address for a caller, and for a thread in a system call one byte before the end of that instruction.
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

/// Whose registers these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// `struct pt_regs`: r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss.
    X86_64,
    /// `struct user_pt_regs`: x0 to x30, sp, pc, pstate.
    Aarch64,
}

/// What was copied of a thread.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// Whose registers.
    pub arch: Arch,
    /// As [`tracer_common::stack::RawStack::registers`].
    pub registers: &'a [u64; REGISTER_WORDS],
    /// The bytes from the stack pointer upwards.
    pub stack: &'a [u8],
    /// Bytes from the stack pointer to the end of the stack; 0: not known.
    pub stack_wanted: u32,
    /// The thread was in a system call, so that its instruction pointer is behind the instruction that made it.
    pub in_syscall: bool,
    /// [`tracer_common::stack::RawStack::flags`].
    pub flags: u16,
}

/// How an unwind ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: StackEnd,
    /// For [`StackEnd::NoUnwindInfo`]: in which file; none: in memory without a file.
    pub at_module: Option<ModuleId>,
    /// Some frame was found by a search.
    pub rescued: bool,
    /// An address that lies in no known mapping: the caller may read the mappings again, and unwind again.
    pub unknown_address: Option<u64>,
}

/// Unwinds stacks, and remembers the rules that it has found.
#[derive(Default)]
pub struct Unwinder {
    memory: Memory,
}

/// What is kept from stack to stack.
struct Memory {
    rules: Cache,
    /// By module.
    indexes: HashMap<ModuleId, Index>,
    /// Entries that may still be indexed.
    index_left: usize,
    executor: Executor,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            rules: Cache::default(),
            indexes: HashMap::new(),
            index_left: MAX_INDEXED,
            executor: Executor::default(),
        }
    }
}

impl Memory {
    /// What is known of this address, which lies in this mapping of this module.
    #[inline]
    fn find(&mut self, arch: Arch, mapping: &Mapping, id: ModuleId, image: &Image, address: u64, exact: bool) -> Known {
        let Self { rules, indexes, index_left, executor } = self;
        rules.get(id.0, mapping.file_offset(address), exact, || {
            let Some(in_module) = mapping.module_address(address) else { return (Known::nothing(None), true) };
            let index = indexes.entry(id).or_insert_with(|| Index::of(image, arch.table(), index_left));
            let found = index.find(arch, image, executor, in_module, exact);
            // What was not found for lack of time may be found for the next stack.
            (Known { address: Some(in_module), found }, executor.left_bytes > 0)
        })
    }
}

impl Unwinder {
    /// With an empty memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often a rule had to be read out of a file.
    pub fn rules_read(&self) -> u64 {
        self.memory.rules.misses
    }

    /// Unwinds a stack: its frames, the innermost first, go into `frames`, which is emptied before.
    pub fn unwind(&mut self, snapshot: &Snapshot<'_>, space: &AddressSpace, frames: &mut Vec<UserFrame>) -> Outcome {
        frames.clear();
        let outcome = |end| Outcome { end, at_module: None, rescued: false, unknown_address: None };
        if snapshot.flags & raw_flags::NO_USER_SPACE != 0 {
            return outcome(StackEnd::NoUserStack);
        }
        if snapshot.flags & raw_flags::NO_REGISTERS != 0 {
            return outcome(StackEnd::Unreadable);
        }
        let table = snapshot.arch.table();
        // Nothing here unwinds 32-bit code. What its one frame is called must not decide how it ends.
        let compat = snapshot.flags & raw_flags::COMPAT != 0;
        let steps_left = if compat { 1 } else { MAX_STEPS };
        self.memory.executor.left_bytes = MAX_EXECUTED_BYTES;
        let mut walk = Walk { snapshot, space, table, memory: &mut self.memory, last: None, steps_left };
        let mut state = State::first(snapshot, table);
        let stop = walk.run(&mut state, frames);
        let is_gap = match stop {
            Stop::NoRule(_) => true,
            // A jump to nowhere: the innermost frame only, since a return address that leads nowhere is a wrong turn.
            Stop::Unmapped(_) => frames.is_empty(),
            _ => false,
        };
        let unknown_address = match stop {
            Stop::Unmapped(address) => Some(address),
            _ => None,
        };
        if frames.is_empty() {
            frames.push(UserFrame {
                address: state.ip,
                frame_address: 0,
                module: None,
                module_address: 0,
                rescued: false,
            });
        }
        if compat {
            frames.truncate(1);
            return Outcome { unknown_address, ..outcome(StackEnd::NoUnwindInfo) };
        }
        if is_gap && walk.rescue(&state, frames, 0) {
            return Outcome { rescued: true, unknown_address, ..outcome(StackEnd::Whole) };
        }
        let end = match stop {
            Stop::Start => StackEnd::Whole,
            Stop::Cut => StackEnd::Cut,
            Stop::Unreadable => StackEnd::Unreadable,
            Stop::NoRule(at_module) => return Outcome { at_module, ..outcome(StackEnd::NoUnwindInfo) },
            Stop::Wrong | Stop::NeedsRegister(_) | Stop::Unmapped(_) => StackEnd::Unknown,
        };
        Outcome { unknown_address, ..outcome(end) }
    }
}
