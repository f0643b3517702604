//! From an instruction to a line, by a code object's table of lines. Pure; tables come from a process's memory, so any bytes will do.

use super::layout::Lines;

/// The line of the instruction at `offset` bytes into a code object's instructions; negative: the code has not begun yet.
/// `None`: the table gives it no line (as opposed to those before it), or ends before it.
pub fn line(kind: Lines, table: &[u8], first_line: i32, offset: i64) -> Option<u32> {
    if offset < 0 {
        return positive(i64::from(first_line));
    }
    let line = match kind {
        Lines::Lnotab => lnotab(table, offset, i64::from(first_line)),
        Lines::Ranges => ranges(table, offset, i64::from(first_line))?,
        Lines::Locations => locations(table, offset, i64::from(first_line))?,
    };
    positive(line)
}

fn positive(line: i64) -> Option<u32> {
    u32::try_from(line).ok().filter(|line| *line > 0)
}

/// 3.8, 3.9: pairs (bytes of instructions, signed lines); a line holds until the next pair.
fn lnotab(table: &[u8], offset: i64, first: i64) -> i64 {
    let (mut address, mut line) = (0, first);
    for pair in table.as_chunks::<2>().0 {
        address += i64::from(pair[0]);
        if address > offset {
            break;
        }
        line += i64::from(pair[1] as i8);
    }
    line
}

/// 3.10: pairs (bytes of instructions, signed lines, -128: none); a pair says the line of its own range.
fn ranges(table: &[u8], offset: i64, first: i64) -> Option<i64> {
    const NO_LINE: i8 = -128;
    let (mut end, mut line) = (0, first);
    for pair in table.as_chunks::<2>().0 {
        end += i64::from(pair[0]);
        let delta = pair[1] as i8;
        if delta != NO_LINE {
            line += i64::from(delta);
        }
        if offset < end {
            return (delta != NO_LINE).then_some(line);
        }
    }
    None
}

/// 3.11 on: entries of some bytes; the first has its upper bit set, a kind and the number of instructions (Objects/locations.md).
fn locations(table: &[u8], offset: i64, first: i64) -> Option<i64> {
    const UNIT_BYTES: i64 = 2;
    const NO_LINE: u8 = 15;
    let (mut end, mut line, mut at) = (0, first, 0);
    // What prepares cells and generators stands before all lines: to whoever looks, the function was just called.
    let mut is_prologue = true;
    while let Some(&head) = table.get(at) {
        let length = 1 + table[at + 1..].iter().take_while(|byte| **byte & 0x80 == 0).count();
        let kind = head >> 3 & 15;
        line += match kind {
            13 | 14 => signed(&table[at + 1..at + length]),
            10..=12 => i64::from(kind) - 10,
            _ => 0,
        };
        is_prologue &= kind == NO_LINE;
        end += (i64::from(head & 7) + 1) * UNIT_BYTES;
        if offset < end {
            return (kind != NO_LINE || is_prologue).then_some(line);
        }
        at += length;
    }
    None
}

/// A signed number in groups of six bits, lowest first; bit 6 says that another follows, the lowest bit is the sign.
fn signed(bytes: &[u8]) -> i64 {
    const MOST_GROUPS: u32 = 6;
    let mut value = 0i64;
    for (group, byte) in (0..MOST_GROUPS).zip(bytes) {
        value |= i64::from(byte & 63) << (6 * group);
        if byte & 64 == 0 {
            break;
        }
    }
    if value & 1 == 1 { -(value >> 1) } else { value >> 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lnotab_holds_a_line_until_the_next_pair() {
        let table = [0, 1, 6, 1, 50, 0xff, 8, 3];
        let lines: Vec<_> = [-1, 0, 5, 6, 55, 56, 63, 64, 5000].map(|at| line(Lines::Lnotab, &table, 10, at)).into();
        assert_eq!(lines, [10, 11, 11, 12, 12, 11, 11, 14, 14].map(Some));
    }

    #[test]
    fn ranges_may_have_no_line() {
        let table = [4, 1, 2, 0x80, 6, 2];
        let lines: Vec<_> = [-2, 0, 3, 4, 5, 6, 11, 12].map(|at| line(Lines::Ranges, &table, 10, at)).into();
        assert_eq!(lines, [Some(10), Some(11), Some(11), None, None, Some(13), Some(13), None]);
    }

    #[test]
    fn locations_of_each_kind_are_read() {
        // Short (kind 2, two units), one line further (kind 11, one unit), long (kind 14, delta -3, one unit), none (one unit),
        // no columns (kind 13, delta +70, eight units).
        let table = [0x91, 0x10, 0xd8, 1, 2, 0xf0, 7, 0, 1, 2, 0xf8, 0xef, 0x4c, 0x02];
        let lines: Vec<_> = [-2, 0, 3, 4, 6, 8, 10, 25, 26].map(|at| line(Lines::Locations, &table, 10, at)).into();
        assert_eq!(
            lines,
            [Some(10), Some(10), Some(10), Some(11), Some(8), None, Some(78), Some(78), None],
            "the line is that of the range, ranges without a line leave the count alone"
        );
    }

    #[test]
    fn what_stands_before_all_lines_is_the_first_line() {
        let table = [0xf8, 0x80, 0, 0xf8];
        let lines: Vec<_> = [0, 2, 4].map(|at| line(Lines::Locations, &table, 10, at)).into();
        assert_eq!(lines, [Some(10), Some(10), None]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_line_or_none(table: Vec<u8>, first: i32, offset: i64) {
            for kind in [Lines::Lnotab, Lines::Ranges, Lines::Locations] {
                prop_assert!(line(kind, &table, first, offset) != Some(0));
            }
        }
    }
}
