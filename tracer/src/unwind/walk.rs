//! The walk from frame to frame, as far as rules lead. Not here: what to do where there is none (`rescue`).

use tracer_common::stack::{MAX_STACK_BYTES, raw_flags};

use super::arch::{IP, MAX_SAVED, Registers, Table};
use super::cache::Known;
use super::rule::{Cfa, Found, Rule, Saved};
use super::{MAX_FRAMES, Memory, Snapshot, UserFrame, code, index};
use crate::process::{AddressSpace, Backing, Image, Mapping, ModuleId};

/// A return address of 0 ends a stack, if it lies this near to its end (the end of the main thread's stack, or a thread's control
/// block, below which its thread-local variables are): elsewhere it is a wrong turn.
const ZERO_WITHIN_BYTES: u64 = 16 << 10;

/// Where the walk stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    pub registers: Registers,
    /// The instruction, or a return address.
    pub ip: u64,
    /// It is the instruction that runs next, not a return address.
    pub exact: bool,
    /// The stack pointer must be above this in the caller; 0: anywhere.
    pub above: u64,
    /// A signal's frame led to another stack.
    pub switched: bool,
}

/// Why the walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// At the thread's start.
    Start,
    /// Too many frames, or memory behind what is ever copied is needed.
    Cut,
    /// Memory is needed that could not be read.
    Unreadable,
    /// At a rule that leads nowhere: to a wrong address, or downwards.
    Wrong,
    /// The CFA needs a register whose value is not known.
    NeedsRegister(u8),
    /// There is no rule here.
    NoRule(Option<ModuleId>),
    /// The address lies in no known code.
    Unmapped(u64),
}

/// What was found at an address, and which address that is.
struct Place {
    address: u64,
    known: Known,
    module: Option<ModuleId>,
}

/// What a walk needs besides where it stands.
pub(super) struct Walk<'a> {
    pub snapshot: &'a Snapshot<'a>,
    pub space: &'a AddressSpace,
    pub table: &'static Table,
    pub memory: &'a mut Memory,
    /// The mapping looked up last: mostly the next address lies in it too.
    pub last: Option<&'a Mapping>,
    /// Frames that may still be walked, those of failed searches included.
    pub steps_left: u32,
}

impl State {
    /// That of the copied thread.
    pub(super) fn first(snapshot: &Snapshot<'_>, table: &Table) -> Self {
        let registers = Registers::copied(table, snapshot.registers);
        let ip = snapshot.registers.get(table.ip_word).copied().unwrap_or(0);
        Self { registers, ip, exact: true, above: 0, switched: false }
    }

    /// The address that tells the function.
    fn address(&self) -> u64 {
        if self.exact { self.ip } else { self.ip.wrapping_sub(1) }
    }

    pub(super) fn sp(&self, table: &Table) -> u64 {
        self.registers.get(table.sp).unwrap_or(0)
    }
}

impl Walk<'_> {
    /// Walks until it ends. `frames` grows by the frames met, the one at `state` first; `state` is left where the walk ended.
    pub(super) fn run(&mut self, state: &mut State, frames: &mut Vec<UserFrame>) -> Stop {
        loop {
            if frames.len() >= MAX_FRAMES || self.steps_left == 0 {
                return Stop::Cut;
            }
            self.steps_left -= 1;
            if let Err(stop) = self.step(state, frames) {
                return stop;
            }
        }
    }

    /// Adds the frame at `state` and goes to its caller.
    fn step(&mut self, state: &mut State, frames: &mut Vec<UserFrame>) -> Result<(), Stop> {
        let leaf = frames.is_empty();
        let Place { address, known, module } = self.look_up(state, leaf)?;
        let mut frame = UserFrame {
            address,
            frame_address: 0,
            module: module.filter(|_| known.address.is_some()),
            module_address: known.address.unwrap_or(0),
            rescued: false,
        };
        let done = match &known.found {
            Found::Rule { rule, signal } => self.follow(rule, *signal, state, &mut frame, leaf),
            Found::SignalFrame => {
                // A handler returns to the first byte of this code, so that is its address, not the byte before it.
                let behind = u64::from(!state.exact);
                frame.address = frame.address.wrapping_add(behind);
                frame.module_address = frame.module_address.wrapping_add(behind);
                self.leave_signal(state)
            }
            Found::Nothing => Err(Stop::NoRule(module)),
        };
        frames.push(frame);
        match done {
            // Not every thread's start says that nothing called it.
            Err(Stop::Wrong | Stop::NoRule(_)) if self.is_start(state, &frame) => Err(Stop::Start),
            other => other,
        }
    }

    /// What is known of the code at `state`, and which address to ask for.
    fn look_up(&mut self, state: &State, leaf: bool) -> Result<Place, Stop> {
        let address = state.address();
        let mapping = match self.last {
            Some(last) if last.start <= address && address < last.end => last,
            _ => {
                let found = self.space.find(address).filter(|mapping| mapping.executable);
                self.last.insert(found.ok_or(Stop::Unmapped(address))?)
            }
        };
        let Backing::Module(module) = &mapping.backing else {
            return Ok(Place { address, known: Known::nothing(None), module: None });
        };
        let id = Some(module.id);
        let Ok(image) = &module.image else {
            return Ok(Place { address, known: Known::nothing(mapping.module_address(address)), module: id });
        };
        let arch = self.snapshot.arch;
        let mut at = |address, exact| self.memory.find(arch, mapping, module.id, image, address, exact);
        if !(leaf && self.snapshot.in_syscall) {
            return Ok(Place { address, known: at(address, state.exact), module: id });
        }
        // The instruction that runs is the one before, the call of the kernel: at least where there is one, as the registers may be
        // those that a signal will start its handler with.
        let before = address.wrapping_sub(1);
        let follows =
            mapping.module_address(address).is_some_and(|address| code::follows_syscall(arch, image, address));
        let known = at(if follows { before } else { address }, true);
        if follows || known.found != Found::Nothing {
            return Ok(Place { address: if follows { before } else { address }, known, module: id });
        }
        match at(before, true) {
            earlier if earlier.found != Found::Nothing => Ok(Place { address: before, known: earlier, module: id }),
            _ => Ok(Place { address, known, module: id }),
        }
    }

    /// To the caller by a rule.
    fn follow(
        &self,
        rule: &Rule,
        signal: bool,
        state: &mut State,
        frame: &mut UserFrame,
        leaf: bool,
    ) -> Result<(), Stop> {
        if rule.return_address == Saved::Lost {
            // Nothing called it, so its frame matters no more: entry points may not even move the stack pointer.
            frame.frame_address = self.cfa(rule, state).unwrap_or(0);
            return Err(Stop::Start);
        }
        let cfa = self.cfa(rule, state)?;
        frame.frame_address = cfa;
        let ip = self.return_address(rule, state, cfa, leaf)?;
        let mut values = [None; MAX_SAVED];
        for ((value, register), saved) in values.iter_mut().zip(self.table.saved).zip(&rule.saved) {
            *value = self.restore(*saved, *register, state, cfa);
        }
        state.registers.forget();
        for (register, value) in self.table.saved.iter().zip(values) {
            state.registers.put(*register, value);
        }
        state.registers.set(self.table.sp, cfa);
        (state.ip, state.exact, state.above) = (ip, signal, cfa);
        Ok(())
    }

    fn cfa(&self, rule: &Rule, state: &State) -> Result<u64, Stop> {
        let value = |register| state.registers.get(register).ok_or(Stop::NeedsRegister(register));
        let cfa = match rule.cfa {
            Cfa::Register { register, offset } => value(register)?.wrapping_add_signed(i64::from(offset)),
            Cfa::Load { register, offset, add } => {
                let at = value(register)?.wrapping_add_signed(i64::from(offset));
                self.load(at, state)?.wrapping_add_signed(i64::from(add))
            }
        };
        // Upwards, always: so no walk goes in circles.
        if cfa <= state.above && state.above != 0 {
            return Err(Stop::Wrong);
        }
        Ok(cfa)
    }

    fn return_address(&self, rule: &Rule, state: &State, cfa: u64, leaf: bool) -> Result<u64, Stop> {
        let table = self.table;
        let ip = match rule.return_address {
            Saved::AtCfa(offset) => self.load(cfa.wrapping_add_signed(i64::from(offset)), state)?,
            other => self.restore(other, table.ra, state, cfa).ok_or(Stop::Wrong)?,
        } & table.address_mask;
        // A function that has moved nothing has not saved its return address either: only the innermost, or an interrupted one, may.
        if cfa == state.sp(table) && !(table.ra_in_register && (leaf || state.exact)) {
            return Err(Stop::Wrong);
        }
        match ip {
            0 if self.is_near_end(cfa) => Err(Stop::Start),
            0 => Err(Stop::Wrong),
            _ => Ok(ip),
        }
    }

    /// A caller's register. None: its value is not known, which matters only if a rule needs it.
    fn restore(&self, saved: Saved, register: u8, state: &State, cfa: u64) -> Option<u64> {
        match saved {
            Saved::Same => state.registers.get(register),
            Saved::Lost => None,
            Saved::AtCfa(offset) => self.slot(cfa.wrapping_add_signed(i64::from(offset)), register, state, cfa),
            Saved::At { register: base, offset } => {
                let at = state.registers.get(base)?.wrapping_add_signed(i64::from(offset));
                self.slot(at, register, state, cfa)
            }
            Saved::CfaPlus(offset) => Some(cfa.wrapping_add_signed(i64::from(offset))),
            Saved::In(other) => state.registers.get(other),
        }
    }

    /// A caller's register, kept in this slot. Compilers do not say when a register is popped again. Then its slot is below the stack
    /// pointer, where nothing was copied, or, if it is found by the register itself, in some frame farther up: either way not
    /// within this frame, and the register holds the caller's value already.
    fn slot(&self, at: u64, register: u8, state: &State, cfa: u64) -> Option<u64> {
        if at < state.sp(self.table) || at >= cfa { state.registers.get(register) } else { self.load(at, state).ok() }
    }

    /// From the code that a signal handler returns to, to what the signal interrupted.
    fn leave_signal(&self, state: &mut State) -> Result<(), Stop> {
        let table = self.table;
        let from = state.registers.get(table.sp).ok_or(Stop::Wrong)?.wrapping_add(table.signal_offset);
        let mut registers = Registers::unknown();
        let mut ip = 0;
        for (at, register) in (0u64..).zip(table.signal_words) {
            let value = self.load(from.wrapping_add(at * 8), state)?;
            if *register == IP { ip = value } else { registers.set(*register, value) }
        }
        let sp = registers.get(table.sp).unwrap_or(0);
        let switched = state.switched || self.offset(sp).is_none();
        // A handler may have had a stack of its own, so the interrupted one can be anywhere; frames are counted.
        *state = State { registers, ip, exact: true, above: 0, switched };
        Ok(())
    }

    /// Where in the copy this address is.
    pub(super) fn offset(&self, address: u64) -> Option<usize> {
        let from = self.snapshot.registers_sp(self.table);
        let offset = usize::try_from(address.checked_sub(from)?).ok()?;
        (offset < self.snapshot.stack.len()).then_some(offset)
    }

    /// The word at this address of the stack.
    #[inline]
    pub(super) fn load(&self, address: u64, state: &State) -> Result<u64, Stop> {
        let word = self.offset(address).and_then(|offset| self.snapshot.stack.get(offset..offset.checked_add(8)?));
        match word.and_then(|word| <[u8; 8]>::try_from(word).ok()) {
            Some(word) => Ok(u64::from_le_bytes(word)),
            None => Err(self.missing(address, state)),
        }
    }

    /// Why this address is not in the copy.
    #[cold]
    fn missing(&self, address: u64, state: &State) -> Stop {
        let snapshot = self.snapshot;
        let flag = |flag| snapshot.flags & flag != 0;
        let offset = address.checked_sub(snapshot.registers_sp(self.table));
        let wanted = u64::from(snapshot.stack_wanted);
        match offset {
            // The stack goes on where the copy ends.
            Some(offset) if offset < wanted && flag(raw_flags::UNREADABLE) => Stop::Unreadable,
            Some(offset) if offset < wanted => Stop::Cut,
            Some(_) if wanted == 0 && snapshot.stack.len() >= MAX_STACK_BYTES => Stop::Cut,
            Some(_) if wanted == 0 => Stop::Unreadable,
            // Another stack, of which nothing was copied.
            _ if state.switched => Stop::Unreadable,
            _ => Stop::Wrong,
        }
    }

    /// Whether a stack may end here with a return address of 0.
    fn is_near_end(&self, cfa: u64) -> bool {
        let snapshot = self.snapshot;
        let end = snapshot.registers_sp(self.table).wrapping_add(u64::from(snapshot.stack_wanted));
        snapshot.stack_wanted == 0 || end.checked_sub(cfa).is_some_and(|left| left <= ZERO_WITHIN_BYTES)
    }

    /// Whether this frame, of which nothing more is known, is where a thread starts: at a file's entry point, or at a call behind
    /// which the thread ends.
    fn is_start(&self, state: &State, frame: &UserFrame) -> bool {
        let Some(image) = self.space.find(frame.address).and_then(image_of) else { return false };
        let into = frame.module_address.wrapping_sub(image.entry);
        let at_entry = image.entry != 0 && into < index::ENTRY_BYTES;
        let return_address = frame.module_address.wrapping_add(1);
        at_entry || (!state.exact && code::is_before_exit(self.snapshot.arch, image, return_address))
    }

    /// Whether this word is a return address into a file's code: the instruction before it can be a call.
    pub(super) fn is_return_address(&self, word: u64) -> bool {
        let Some(mapping) = self.space.find(word.wrapping_sub(1)).filter(|mapping| mapping.executable) else {
            return false;
        };
        let (Some(image), Some(address)) = (image_of(mapping), mapping.module_address(word.wrapping_sub(1))) else {
            return false;
        };
        code::follows_call(self.snapshot.arch, image, address.wrapping_add(1))
    }
}

fn image_of(mapping: &Mapping) -> Option<&Image> {
    mapping.module()?.image.as_ref().ok()
}

impl Snapshot<'_> {
    /// The stack pointer: where the copied bytes begin.
    pub(super) fn registers_sp(&self, table: &Table) -> u64 {
        table.word_of(table.sp).and_then(|word| self.registers.get(word)).copied().unwrap_or(0)
    }
}
