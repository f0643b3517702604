//! Probes that a program's author put into it (USDT), as the notes of its file tell them. Any bytes may come.

use object::{Object, ObjectSection, read::elf::ElfFile64};

/// Most probes that are looked at in one file.
const MOST_PROBES: usize = 1 << 16;

/// A place of a probe: one that is compiled into several functions has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe<'a> {
    /// Who made it.
    pub provider: &'a [u8],
    /// What it is called.
    pub name: &'a [u8],
    /// Address of its instruction, in the file's own numbering.
    pub address: u64,
    /// Address of the counter of those who look; 0: there is none.
    pub semaphore: u64,
}

/// All probes of a file.
pub fn probes<'a>(file: &ElfFile64<'a>) -> impl Iterator<Item = Probe<'a>> + use<'a> {
    let notes = file.section_by_name(".note.stapsdt").and_then(|section| section.data().ok()).unwrap_or_default();
    // Where that section is now, against where it was when the notes were written: prelinking moves addresses.
    let base = file.section_by_name(".stapsdt.base").map(|section| section.address());
    in_notes(notes, base)
}

/// The same, of the notes themselves.
pub fn in_notes(mut notes: &[u8], base: Option<u64>) -> impl Iterator<Item = Probe<'_>> {
    std::iter::from_fn(move || {
        let (probe, rest) = first(notes, base)?;
        notes = rest;
        Some(probe)
    })
    .take(MOST_PROBES)
}

fn first(notes: &[u8], base: Option<u64>) -> Option<(Probe<'_>, &[u8])> {
    const HEADER: usize = 12;
    let number = |at: usize| notes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize);
    let (name_len, text_len) = (number(0)?, number(4)?);
    let text_at = HEADER.checked_add(name_len.checked_next_multiple_of(4)?)?;
    let text = notes.get(text_at..text_at.checked_add(text_len)?)?;
    let word = |at: usize| text.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    // Address, base and semaphore, then provider and name, each closed by a zero.
    let mut names = text.get(24..).unwrap_or_default().split(|byte| *byte == 0);
    let (provider, name) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
    let moved = base.map_or(0, |base| base.wrapping_sub(word(8).unwrap_or(base)));
    let address = word(0).unwrap_or(0).wrapping_add(moved);
    let semaphore = match word(16) {
        None | Some(0) => 0,
        Some(semaphore) => semaphore.wrapping_add(moved),
    };
    let rest = notes.get(text_at.checked_add(text_len.checked_next_multiple_of(4)?)?..).unwrap_or_default();
    Some((Probe { provider, name, address, semaphore }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A note as assemblers write it.
    fn note(name: &str, address: u64, base: u64, semaphore: u64) -> Vec<u8> {
        let mut text: Vec<u8> = [address, base, semaphore].iter().flat_map(|word| word.to_le_bytes()).collect();
        text.extend(format!("python\0{name}\0-4@%eax\0").bytes());
        let mut note: Vec<u8> = [8, text.len() as u32, 3].iter().flat_map(|word| word.to_le_bytes()).collect();
        note.extend(b"stapsdt\0");
        note.extend(&text);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    #[test]
    fn probes_are_read_one_after_the_other_and_moved_as_their_section_was() {
        let notes = [note("line", 1, 0x10, 0), note("gc__start", 0x4287f3, 0x10, 0x500)].concat();
        let found: Vec<Probe> = in_notes(&notes, Some(0x110)).collect();
        let probe = |name, address, semaphore| Probe { provider: b"python", name, address, semaphore };
        assert_eq!(found, [probe(b"line", 0x101, 0), probe(b"gc__start", 0x4288f3, 0x600)]);
        assert_eq!(in_notes(&notes, None).last().map(|probe| probe.address), Some(0x4287f3));
        for len in 0..notes.len() {
            assert!(in_notes(&notes[..len], None).count() <= 2);
        }
    }
}
