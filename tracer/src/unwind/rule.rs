//! A rule: how to get from a frame to its caller, small enough to be kept by the ten thousand. Made from a row of call frame
//! information. What a rule cannot say (no compiler was seen to write it) makes no rule, and the stack ends there, saying so.

use gimli::{CfaRule, EhFrame, EndianSlice, LittleEndian, RegisterRule, UnwindTableRow};

use super::arch::{MAX_SAVED, Table};
use super::expression::{self, Value};

pub(super) type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// The canonical frame address: where the stack pointer stood before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cfa {
    /// A register plus an offset.
    Register { register: u8, offset: i32 },
    /// What lies in memory at a register plus an offset; plus another offset.
    Load { register: u8, offset: i32, add: i32 },
}

/// Where a caller's register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// Where it was.
    Same,
    /// Nowhere. For the return address: there is no caller.
    Lost,
    /// In memory, this far from the CFA.
    AtCfa(i32),
    /// In memory, this far from where a register points.
    At { register: u8, offset: i32 },
    /// It is the CFA plus this.
    CfaPlus(i32),
    /// In another register.
    In(u8),
}

/// From a frame to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub cfa: Cfa,
    /// In the order of [`Table::saved`].
    pub saved: [Saved; MAX_SAVED],
    pub return_address: Saved,
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// How to get to the caller. `signal`: what it leads to was interrupted, not called.
    Rule { rule: Rule, signal: bool },
    /// The code that a signal handler returns to: all registers lie in the signal's frame.
    SignalFrame,
    /// Nothing.
    Nothing,
}

impl Rule {
    /// From a row for an instruction at `ip` (in the file's own numbering). None: it says something that a rule cannot.
    pub(super) fn of_row(
        table: &Table,
        row: &UnwindTableRow<usize>,
        section: &impl ExpressionsOf,
        ip: u64,
    ) -> Option<Self> {
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                Cfa::Register { register: u8::try_from(register.0).ok()?, offset: i32::try_from(*offset).ok()? }
            }
            CfaRule::Expression(at) => match section.evaluate(at, table, ip)? {
                Value::Register { register, offset } => Cfa::Register { register, offset: i32::try_from(offset).ok()? },
                Value::Load { register, offset, add } => {
                    Cfa::Load { register, offset: i32::try_from(offset).ok()?, add: i32::try_from(add).ok()? }
                }
                Value::Constant(_) => return None,
            },
        };
        let saved = |register: u8| -> Option<Saved> {
            Some(match row.register(gimli::Register(u16::from(register))) {
                None | Some(RegisterRule::SameValue) => Saved::Same,
                Some(RegisterRule::Undefined) => Saved::Lost,
                Some(RegisterRule::Offset(offset)) => Saved::AtCfa(i32::try_from(offset).ok()?),
                Some(RegisterRule::ValOffset(offset)) => Saved::CfaPlus(i32::try_from(offset).ok()?),
                Some(RegisterRule::Register(other)) => Saved::In(u8::try_from(other.0).ok()?),
                Some(RegisterRule::Expression(at)) => match section.evaluate(&at, table, ip)? {
                    Value::Register { register, offset } => Saved::At { register, offset: i32::try_from(offset).ok()? },
                    _ => return None,
                },
                Some(_) => return None,
            })
        };
        // A stack pointer that is not the CFA is one of hand-written code that changes stacks.
        if !matches!(saved(table.sp)?, Saved::Same | Saved::CfaPlus(0)) {
            return None;
        }
        let mut rule = Self { cfa, saved: [Saved::Same; MAX_SAVED], return_address: saved(table.ra)? };
        for (place, register) in rule.saved.iter_mut().zip(table.saved) {
            // What cannot be said of a register that no later frame may need is no reason to end here.
            *place = saved(*register).unwrap_or(Saved::Lost);
        }
        let said = row.register(gimli::Register(u16::from(table.ra))).is_some();
        // Without a word about it the return address is in its register; where there is none, nothing is known of it.
        (said || table.ra_in_register).then_some(rule)
    }
}

/// A section that expressions lie in.
pub(super) trait ExpressionsOf {
    /// The value of one of them, in terms of the registers of the frame.
    fn evaluate(&self, at: &gimli::UnwindExpression<usize>, table: &Table, ip: u64) -> Option<Value>;
}

impl ExpressionsOf for EhFrame<Slice<'_>> {
    fn evaluate(&self, at: &gimli::UnwindExpression<usize>, table: &Table, ip: u64) -> Option<Value> {
        expression::evaluate(at.get(self).ok()?, table, ip)
    }
}

impl ExpressionsOf for gimli::DebugFrame<Slice<'_>> {
    fn evaluate(&self, at: &gimli::UnwindExpression<usize>, table: &Table, ip: u64) -> Option<Value> {
        expression::evaluate(at.get(self).ok()?, table, ip)
    }
}
