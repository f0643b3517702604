//! The parts of a function that its compiler put elsewhere.
//!
//! A compiler that splits a function gives its cold part another place and a symbol that stripping removes. Usually it is a few
//! bytes; in Debian's 3.14 it is 84 of the evaluator's 85 KiB, and no native frame lies in the symbol's range. Such a part gives
//! itself away: the function jumps into it, and its call frame information begins in mid-frame, as no function's does.

use std::ops::Range;

use gimli::{BaseAddresses, CfaRule, CieOrFde, EhFrame, LittleEndian, UnwindContext, UnwindSection, X86_64};
use object::{Object, ObjectSection, read::elf::ElfFile64};

use crate::process::Image;

/// Jumps into the same part that make it one: a single one may be an operand that looks like a jump.
pub(super) const ENOUGH_JUMPS: usize = 2;
/// Most parts of one function.
const MOST_PARTS: usize = 8;
/// Most entries of call frame information that are looked at.
pub(super) const MOST_ENTRIES: usize = 1 << 20;

/// The other parts of the function at `function`.
pub fn parts(file: &ElfFile64<'_>, image: &Image, function: &Range<u64>) -> Vec<Range<u64>> {
    let targets = jumps(image, function);
    let Some(section) = file.section_by_name(".eh_frame") else { return Vec::new() };
    let Ok(data) = section.data() else { return Vec::new() };
    let frames = EhFrame::new(data, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(section.address());
    let mut parts = Vec::new();
    let mut entries = frames.entries(&bases);
    for _ in 0..MOST_ENTRIES {
        let Ok(Some(entry)) = entries.next() else { break };
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(fde) = partial.parse(EhFrame::cie_from_offset) else { continue };
        let range = fde.initial_address()..fde.initial_address().saturating_add(fde.len());
        let first = targets.partition_point(|target| *target < range.start);
        let count = targets[first..].iter().take_while(|target| **target < range.end).count();
        if count >= ENOUGH_JUMPS && parts.len() < MOST_PARTS && begins_in_mid_frame(&frames, &bases, &fde) {
            parts.push(range);
        }
    }
    parts
}

/// Sorted targets outside the function of what looks like its jumps, if it is x86-64 code.
pub(super) fn jumps(image: &Image, function: &Range<u64>) -> Vec<u64> {
    let len_bytes = function.end.saturating_sub(function.start);
    let code = image.bytes_at(function.start, len_bytes).unwrap_or_default();
    let relative =
        |at: usize| code.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| i32::from_le_bytes(*bytes));
    let mut targets = Vec::new();
    for (at, byte) in code.iter().enumerate() {
        let operand = match (byte, code.get(at + 1)) {
            (0xe9, _) => at + 1,
            (0x0f, Some(0x80..=0x8f)) => at + 2,
            _ => continue,
        };
        let Some(distance) = relative(operand) else { break };
        let target = function.start.wrapping_add(operand as u64 + 4).wrapping_add_signed(distance.into());
        if !function.contains(&target) {
            targets.push(target);
        }
    }
    targets.sort_unstable();
    targets
}

/// Is the frame address at the first instruction another one than a call leaves?
pub(super) fn begins_in_mid_frame(
    frames: &EhFrame<gimli::EndianSlice<'_, LittleEndian>>,
    bases: &BaseAddresses,
    fde: &gimli::FrameDescriptionEntry<gimli::EndianSlice<'_, LittleEndian>>,
) -> bool {
    const AFTER_CALL: i64 = 8;
    let mut context = UnwindContext::new();
    let Ok(mut rows) = fde.rows(frames, bases, &mut context) else { return false };
    let Ok(Some(row)) = rows.next_row() else { return false };
    !matches!(row.cfa(), CfaRule::RegisterAndOffset { register, offset } if *register == X86_64::RSP && *offset == AFTER_CALL)
}
