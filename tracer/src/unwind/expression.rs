//! Evaluates a DWARF expression once, without registers or memory, into one of three forms that a rule can hold. The instruction
//! pointer is a constant here, since a rule is for one address: so the expression of a PLT, which depends on it, becomes a plain
//! offset. Two forms occur in practice: that one, and the load with which compilers find the frame of a realigned stack.

use gimli::{Encoding, Expression, Format, Operation};

use super::arch::{MAX_REGISTERS, Table};
use super::rule::Slice;

/// Most operations of an expression. The longest one known has 9.
const MAX_OPERATIONS: usize = 64;
/// Deepest stack.
const MAX_DEPTH: usize = 16;

/// A value in terms of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A number.
    Constant(u64),
    /// A register plus an offset.
    Register { register: u8, offset: i64 },
    /// What lies in memory at a register plus an offset; plus another offset.
    Load { register: u8, offset: i64, add: i64 },
}

impl Value {
    fn plus(self, more: i64) -> Self {
        match self {
            Value::Constant(value) => Value::Constant(value.wrapping_add_signed(more)),
            Value::Register { register, offset } => Value::Register { register, offset: offset.wrapping_add(more) },
            Value::Load { register, offset, add } => Value::Load { register, offset, add: add.wrapping_add(more) },
        }
    }
}

/// The value. None: it cannot be had in one of these forms.
pub(super) fn evaluate(expression: Expression<Slice<'_>>, table: &Table, ip: u64) -> Option<Value> {
    let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };
    let mut operations = expression.operations(encoding);
    let mut stack: Vec<Value> = Vec::with_capacity(4);
    for _ in 0..MAX_OPERATIONS {
        let Some(operation) = operations.next().ok()? else { return stack.pop() };
        step(&mut stack, &operation, table, ip)?;
        if stack.len() > MAX_DEPTH {
            return None;
        }
    }
    None
}

fn step(stack: &mut Vec<Value>, operation: &Operation<Slice<'_>>, table: &Table, ip: u64) -> Option<()> {
    let value = match *operation {
        Operation::UnsignedConstant { value } => Value::Constant(value),
        Operation::SignedConstant { value } => Value::Constant(value.cast_unsigned()),
        Operation::RegisterOffset { register, offset, .. } => {
            let register = u8::try_from(register.0).ok()?;
            if register == table.ra && !table.ra_in_register {
                Value::Constant(ip.wrapping_add_signed(offset))
            } else if usize::from(register) < MAX_REGISTERS {
                Value::Register { register, offset }
            } else {
                return None;
            }
        }
        Operation::PlusConstant { value } => stack.pop()?.plus(value.cast_signed()),
        Operation::Deref { size: 8, space: false, .. } => match stack.pop()? {
            Value::Register { register, offset } => Value::Load { register, offset, add: 0 },
            _ => return None,
        },
        Operation::Nop => return Some(()),
        Operation::Pick { index } => *stack.get(stack.len().checked_sub(usize::from(index) + 1)?)?,
        Operation::Drop => {
            stack.pop()?;
            return Some(());
        }
        Operation::Swap => {
            let (second, first) = (stack.pop()?, stack.pop()?);
            stack.push(second);
            first
        }
        _ => {
            let (second, first) = (stack.pop()?, stack.pop()?);
            binary(operation, first, second)?
        }
    };
    stack.push(value);
    Some(())
}

fn binary(operation: &Operation<Slice<'_>>, first: Value, second: Value) -> Option<Value> {
    match (operation, first, second) {
        (Operation::Plus, value, Value::Constant(more)) | (Operation::Plus, Value::Constant(more), value) => {
            return Some(value.plus(more.cast_signed()));
        }
        (Operation::Minus, value, Value::Constant(less)) => return Some(value.plus(less.cast_signed().wrapping_neg())),
        _ => {}
    }
    let (Value::Constant(first), Value::Constant(second)) = (first, second) else { return None };
    let (signed, other) = (first.cast_signed(), second.cast_signed());
    let shift = |by: u64| u32::try_from(by).ok();
    Some(Value::Constant(match operation {
        Operation::And => first & second,
        Operation::Or => first | second,
        Operation::Xor => first ^ second,
        Operation::Mul => first.wrapping_mul(second),
        Operation::Shl => first.checked_shl(shift(second)?).unwrap_or(0),
        Operation::Shr => first.checked_shr(shift(second)?).unwrap_or(0),
        Operation::Eq => u64::from(signed == other),
        Operation::Ne => u64::from(signed != other),
        Operation::Ge => u64::from(signed >= other),
        Operation::Gt => u64::from(signed > other),
        Operation::Le => u64::from(signed <= other),
        Operation::Lt => u64::from(signed < other),
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::Arch;
    use super::*;
    use gimli::{EndianSlice, LittleEndian};

    fn of(bytes: &[u8], ip: u64) -> Option<Value> {
        evaluate(Expression(EndianSlice::new(bytes, LittleEndian)), Arch::X86_64.table(), ip)
    }

    #[test]
    fn the_expression_of_a_plt_becomes_an_offset_for_each_address() {
        // breg7 (rsp) +8; breg16 (rip) +0; lit15; and; lit11; ge; lit3; shl; plus
        let plt = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
        for (ip, offset) in [(0x1020, 8), (0x1026, 8), (0x102a, 8), (0x102b, 16), (0x102f, 16)] {
            assert_eq!(of(&plt, ip), Some(Value::Register { register: 7, offset }), "at {ip:#x}");
        }
    }

    #[test]
    fn a_realigned_stacks_frame_is_a_load() {
        // breg6 (rbp) -8; deref
        assert_eq!(of(&[0x76, 0x78, 0x06], 0), Some(Value::Load { register: 6, offset: -8, add: 0 }));
        // breg6 -8; deref; plus_uconst 16
        assert_eq!(of(&[0x76, 0x78, 0x06, 0x23, 16], 0), Some(Value::Load { register: 6, offset: -8, add: 16 }));
    }

    #[test]
    fn what_no_rule_can_hold_has_no_value() {
        assert_eq!(of(&[], 0), None, "nothing");
        assert_eq!(of(&[0x22], 0), None, "plus of nothing");
        assert_eq!(of(&[0x76, 0, 0x06, 0x06], 0), None, "a load of a load");
        assert_eq!(of(&[0x76, 0, 0x77, 0, 0x22], 0), None, "two registers");
        assert_eq!(of(&[0x2f, 0xfd, 0xff], 0), None, "a jump back to itself");
        assert_eq!(of(&[0x30; 200], 0), None, "too deep");
    }
}
