//! Reading Python's strings and bytes out of a process's memory. Not here: what they mean.

use std::borrow::Cow;

use super::{
    layout::{BYTES_DATA, CodeLayout, OBJECT_SIZE, OBJECT_TYPE, TEXT_LENGTH, TEXT_STATE, Types, is_alive},
    memory::ReadMemory,
};
use crate::model::text::printable;

/// Bytes in front of any string's data that say what it is.
const HEAD_BYTES: usize = 40;

/// In the state of a string that is ASCII only.
const ASCII_BIT: u8 = 1 << 6;

/// Why an object could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Its memory.
    Unreadable,
    /// It is of another type, or contradicts itself.
    OtherType,
}

/// Reads a string of at most `limit` characters, printable; what is longer ends in `…`.
pub fn text(
    memory: &mut dyn ReadMemory,
    layout: &CodeLayout,
    types: &Types,
    address: u64,
    limit: usize,
) -> Result<String, Unusable> {
    let head = head(memory, address, types.text)?;
    let length = usize::try_from(word_at(&head, TEXT_LENGTH)).map_err(|_| Unusable::OtherType)?;
    let state =
        u32::from_le_bytes([head[TEXT_STATE], head[TEXT_STATE + 1], head[TEXT_STATE + 2], head[TEXT_STATE + 3]]);
    let (width, compact, ascii) = (state >> 2 & 7, state >> 5 & 1 == 1, state >> 6 & 1 == 1);
    // Strings that are not compact keep their data elsewhere; only subclasses and those of old extensions are.
    if !compact || !matches!(width, 1 | 2 | 4) || (ascii && width != 1) {
        return Err(Unusable::OtherType);
    }
    let shown = length.min(limit);
    let mut data = vec![0; shown * width as usize];
    let offset = if ascii { layout.ascii } else { layout.wide };
    if !memory.read(address.wrapping_add(u64::from(offset)), &mut data) {
        return Err(Unusable::Unreadable);
    }
    let decoded = decode(&data, width, ascii).ok_or(Unusable::OtherType)?;
    let mut name = printable(decoded.as_bytes());
    if shown < length {
        name.push('…');
    }
    Ok(name)
}

/// Whether [`text`] would give this, in one read where it is ASCII.
pub fn is(
    memory: &mut dyn ReadMemory,
    layout: &CodeLayout,
    types: &Types,
    address: u64,
    known: &str,
    limit: usize,
) -> bool {
    let at = usize::from(layout.ascii);
    let mut bytes = vec![0; (at + known.len()).max(HEAD_BYTES)];
    // Of what was made printable or cut the bytes differ.
    let as_it_is = known.is_ascii()
        && memory.read(address, &mut bytes)
        && word_at(&bytes, OBJECT_TYPE) == types.text
        && is_alive(word_at(&bytes, 0))
        && word_at(&bytes, TEXT_LENGTH) == known.len() as u64
        && bytes[TEXT_STATE] & ASCII_BIT != 0
        && &bytes[at..at + known.len()] == known.as_bytes();
    as_it_is || text(memory, layout, types, address, limit).is_ok_and(|text| text == known)
}

/// Reads a bytes object of at most `limit` bytes.
pub fn bytes(memory: &mut dyn ReadMemory, types: &Types, address: u64, limit: usize) -> Result<Vec<u8>, Unusable> {
    let length = bytes_len(memory, types, address)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= limit).ok_or(Unusable::OtherType)?;
    let mut data = vec![0; length];
    if memory.read(address.wrapping_add(BYTES_DATA), &mut data) { Ok(data) } else { Err(Unusable::Unreadable) }
}

/// The length of a bytes object.
pub fn bytes_len(memory: &mut dyn ReadMemory, types: &Types, address: u64) -> Result<u64, Unusable> {
    Ok(word_at(&head(memory, address, types.bytes)?, OBJECT_SIZE))
}

fn head(memory: &mut dyn ReadMemory, address: u64, of_type: u64) -> Result<[u8; HEAD_BYTES], Unusable> {
    let mut head = [0; HEAD_BYTES];
    if !memory.read(address, &mut head) {
        return Err(Unusable::Unreadable);
    }
    if word_at(&head, OBJECT_TYPE) == of_type && is_alive(word_at(&head, 0)) {
        Ok(head)
    } else {
        Err(Unusable::OtherType)
    }
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The characters of a string. Half surrogates stand for bytes of a file name that are not UTF-8: they become U+FFFD.
fn decode(data: &[u8], width: u32, ascii: bool) -> Option<Cow<'_, str>> {
    let character = |value: u32| char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER);
    let in_range = |value: u32| value <= u32::from(char::MAX);
    Some(match width {
        1 if ascii => Cow::Borrowed(str::from_utf8(data).ok().filter(|text| text.is_ascii())?),
        1 => data.iter().map(|byte| char::from(*byte)).collect::<String>().into(),
        2 => data
            .as_chunks::<2>()
            .0
            .iter()
            .map(|two| character(u32::from(u16::from_le_bytes(*two))))
            .collect::<String>()
            .into(),
        _ => {
            let values = || data.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four));
            if !values().all(in_range) {
                return None;
            }
            values().map(character).collect::<String>().into()
        }
    })
}
