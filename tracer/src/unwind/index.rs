//! Where a module's call frame information is, and the entry for an address in it.
//!
//! Three sources, in this order: the sorted table of `.eh_frame_hdr`, searched where it lies; an index of our own over `.eh_frame`
//! where that table is missing or of an unusual form (static glibc executables have none); an index over `.debug_frame`, if it is
//! not compressed. Positions only: no reference to the module is held. Any bytes may come: all sizes are checked, and what is
//! built is bounded by [`MAX_INDEXED`].

use gimli::{BaseAddresses, CieOrFde, DebugFrame, EhFrame, UnwindContext, UnwindSection, Vendor};
use object::Endianness;
use object::elf::{FileHeader64, PT_GNU_EH_FRAME, SHF_COMPRESSED, SHT_NOBITS};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

use super::Arch;
use super::arch::Table;
use super::code;
use super::rule::{ExpressionsOf, Found, Rule, Slice};
use crate::process::Image;

/// Most entries of all indexes of a run together, 16 bytes each: 64 MiB. A file that would need more stays without.
pub(super) const MAX_INDEXED: usize = 4 << 20;
/// Longest entry that is executed. Of libtorch, NVIDIA's libraries, LLVM and libc the longest has 23,452 bytes.
const MAX_ENTRY_BYTES: usize = 128 << 10;
/// Most bytes of entries that are executed for one stack: a hostile file could make each of its addresses as dear as it can.
pub(super) const MAX_EXECUTED_BYTES: usize = 4 << 20;
/// Most section headers looked at.
const MAX_SECTIONS: usize = 4096;
/// The entry point's code is at most this long, where nothing says how long it is.
pub(super) const ENTRY_BYTES: u64 = 0x60;

/// A part of the file.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    offset: u64,
    len_bytes: u64,
    address: u64,
}

impl Place {
    fn bytes<'a>(&self, image: &'a Image) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.len_bytes).ok()?)?;
        image.bytes.get(start..end)
    }
}

/// The table of `.eh_frame_hdr`: pairs of 32-bit numbers relative to the section's start, function and entry.
#[derive(Clone, Copy, Debug)]
struct Header {
    table: Place,
    /// Address of the section's start.
    base: u64,
}

/// First address of each function and the position of its entry, sorted.
type Sorted = Box<[(u64, u64)]>;

/// What executes entries.
pub(super) struct Executor {
    context: Box<UnwindContext<usize>>,
    /// Bytes of entries that may still be executed for this stack.
    pub left_bytes: usize,
}

impl Default for Executor {
    fn default() -> Self {
        Self { context: Box::new(UnwindContext::new()), left_bytes: MAX_EXECUTED_BYTES }
    }
}

#[derive(Debug, Default)]
pub(super) struct Index {
    eh_frame: Option<Place>,
    header: Option<Header>,
    eh_sorted: Option<Sorted>,
    debug: Option<(Place, Sorted)>,
    usable: bool,
}

impl Index {
    /// Looks for it. `left` is how many entries may still be indexed.
    pub(super) fn of(image: &Image, table: &Table, left: &mut usize) -> Self {
        let mut index = Self::default();
        if !image.is_64 || image.machine != table.machine {
            return index;
        }
        index.usable = true;
        let places = Places::of(image);
        index.eh_frame = places.eh_frame;
        if let Some(header) = places.header {
            let (table, eh_frame) = parse_header(image, header);
            index.header = table;
            if let Some(address) = eh_frame {
                // The section's own header bounds it; without one it ends with its segment.
                let known = places.eh_frame.filter(|place| place.address == address);
                index.eh_frame = known.or_else(|| to_segment_end(image, address)).or(places.eh_frame);
            }
        }
        if let (None, Some(place)) = (index.header, index.eh_frame) {
            index.eh_sorted = place.bytes(image).and_then(|bytes| sorted(&eh_frame(bytes, image), &bases(place), left));
        }
        if let Some(place) = places.debug_frame {
            let sorted = place.bytes(image).and_then(|bytes| {
                let section = DebugFrame::from(Slice::new(bytes, gimli::LittleEndian));
                sorted(&section, &BaseAddresses::default(), left)
            });
            index.debug = sorted.map(|sorted| (place, sorted));
        }
        index
    }

    /// What is known of this address. `exact`: it is that of an instruction; else one byte before a return address.
    pub(super) fn find(&self, arch: Arch, image: &Image, executor: &mut Executor, address: u64, exact: bool) -> Found {
        let ip = address.wrapping_add(u64::from(!exact));
        if code::is_signal_return(arch, image, ip, exact) {
            return Found::SignalFrame;
        }
        if !self.usable {
            return Found::Nothing;
        }
        self.in_eh_frame(arch, image, executor, address, ip)
            .or_else(|| self.in_debug_frame(arch, image, executor, address, ip))
            .unwrap_or(Found::Nothing)
    }

    fn in_eh_frame(&self, arch: Arch, image: &Image, executor: &mut Executor, address: u64, ip: u64) -> Option<Found> {
        let place = self.eh_frame?;
        let offset = match (&self.header, &self.eh_sorted) {
            (Some(header), _) => header.entry(image, address)?.checked_sub(place.address)?,
            (None, Some(sorted)) => entry_in(sorted, address)?,
            (None, None) => return None,
        };
        let section = eh_frame(place.bytes(image)?, image);
        let offset = gimli::EhFrameOffset(usize::try_from(offset).ok().filter(|offset| *offset < section_len(place))?);
        rule_at(arch.table(), &section, &bases(place), offset, executor, address, ip)
    }

    fn in_debug_frame(
        &self,
        arch: Arch,
        image: &Image,
        executor: &mut Executor,
        address: u64,
        ip: u64,
    ) -> Option<Found> {
        let (place, sorted) = self.debug.as_ref()?;
        let offset = gimli::DebugFrameOffset(usize::try_from(entry_in(sorted, address)?).ok()?);
        let mut section = DebugFrame::from(Slice::new(place.bytes(image)?, gimli::LittleEndian));
        section.set_address_size(8);
        section.set_vendor(vendor(image));
        rule_at(arch.table(), &section, &BaseAddresses::default(), offset, executor, address, ip)
    }
}

fn section_len(place: Place) -> usize {
    usize::try_from(place.len_bytes).unwrap_or(usize::MAX)
}

fn rule_at<'a, S>(
    table: &Table,
    section: &S,
    bases: &BaseAddresses,
    offset: S::Offset,
    executor: &mut Executor,
    address: u64,
    ip: u64,
) -> Option<Found>
where
    S: UnwindSection<Slice<'a>> + ExpressionsOf,
{
    let entry = section.fde_from_offset(bases, offset, S::cie_from_offset).ok()?;
    // An entry without end would be executed without end.
    if !entry.contains(address) || entry.entry_len() > MAX_ENTRY_BYTES || entry.cie().entry_len() > MAX_ENTRY_BYTES {
        return None;
    }
    let len_bytes = entry.entry_len() + entry.cie().entry_len();
    executor.left_bytes = executor.left_bytes.saturating_sub(len_bytes);
    if executor.left_bytes == 0 {
        return None;
    }
    let signal = entry.is_signal_trampoline();
    let row = entry.unwind_info_for_address(section, bases, &mut executor.context, address).ok()?;
    Rule::of_row(table, row, section, ip).map(|rule| Found::Rule { rule, signal })
}

fn eh_frame<'a>(bytes: &'a [u8], image: &Image) -> EhFrame<Slice<'a>> {
    let mut section = EhFrame::from(Slice::new(bytes, gimli::LittleEndian));
    section.set_address_size(8);
    section.set_vendor(vendor(image));
    section
}

fn vendor(image: &Image) -> Vendor {
    if image.machine == object::elf::EM_AARCH64 { Vendor::AArch64 } else { Vendor::Default }
}

fn bases(place: Place) -> BaseAddresses {
    BaseAddresses::default().set_eh_frame(place.address)
}

/// All entries of a section, up to the first damaged one. None: more than may be indexed.
fn sorted<'a, S: UnwindSection<Slice<'a>>>(section: &S, bases: &BaseAddresses, left: &mut usize) -> Option<Sorted> {
    let mut all = Vec::new();
    let mut entries = section.entries(bases);
    // Visited, not only kept: entries of no use cost time as well.
    for _ in 0..MAX_INDEXED {
        let Ok(Some(entry)) = entries.next() else { break };
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(entry) = partial.parse(S::cie_from_offset) else { continue };
        // Functions that the linker threw away have address 0.
        if entry.len() == 0 || entry.initial_address() == 0 {
            continue;
        }
        if all.len() >= *left {
            return None;
        }
        all.push((entry.initial_address(), entry.offset() as u64));
    }
    all.sort_unstable();
    *left -= all.len();
    Some(all.into_boxed_slice())
}

/// The last entry that begins at or before this address.
fn entry_in(sorted: &[(u64, u64)], address: u64) -> Option<u64> {
    let behind = sorted.partition_point(|(start, _)| *start <= address);
    Some(sorted.get(behind.checked_sub(1)?)?.1)
}

impl Header {
    /// Address of the last entry that begins at or before this address.
    fn entry(&self, image: &Image, address: u64) -> Option<u64> {
        let (pairs, _) = self.table.bytes(image)?.as_chunks::<8>();
        let number = |bytes: &[u8]| -> Option<u64> {
            let number = i32::from_le_bytes(bytes.try_into().ok()?);
            Some(self.base.wrapping_add_signed(i64::from(number)))
        };
        let behind = pairs.partition_point(|pair| number(&pair[..4]).is_some_and(|start| start <= address));
        number(pairs.get(behind.checked_sub(1)?)?.get(4..)?)
    }
}

/// The table of `.eh_frame_hdr` if it is of the form that all linkers write, and where it says that `.eh_frame` is.
fn parse_header(image: &Image, place: Place) -> (Option<Header>, Option<u64>) {
    let fields = || -> Option<(Option<Header>, u64)> {
        let bytes = place.bytes(image)?;
        let (head, _) = bytes.split_at_checked(12)?;
        let &[version, frame_form, count_form, table_form, a, b, c, d, e, f, g, h] = head else { return None };
        // pcrel sdata4
        if version != 1 || frame_form != 0x1b {
            return None;
        }
        let relative = i64::from(i32::from_le_bytes([a, b, c, d]));
        let eh_frame = place.address.wrapping_add(4).wrapping_add_signed(relative);
        let len_bytes = u64::from(u32::from_le_bytes([e, f, g, h])).checked_mul(8)?;
        // udata4; datarel sdata4
        let fits = (count_form, table_form) == (0x03, 0x3b) && len_bytes <= place.len_bytes - 12 && len_bytes > 0;
        let table = Place { offset: place.offset + 12, len_bytes, address: place.address.wrapping_add(12) };
        Some((fits.then_some(Header { table, base: place.address }), eh_frame))
    };
    match fields() {
        Some((header, eh_frame)) => (header, Some(eh_frame)),
        None => (None, None),
    }
}

fn to_segment_end(image: &Image, address: u64) -> Option<Place> {
    let (offset, left) = image.offset_of(address)?;
    let len_bytes = left.min((image.bytes.len() as u64).checked_sub(offset)?);
    Some(Place { offset, len_bytes, address })
}

/// What the file's headers say.
#[derive(Default)]
struct Places {
    header: Option<Place>,
    eh_frame: Option<Place>,
    debug_frame: Option<Place>,
}

impl Places {
    fn of(image: &Image) -> Self {
        let mut places = Self::default();
        let bytes: &[u8] = &image.bytes;
        let Ok(header) = FileHeader64::<Endianness>::parse(bytes) else { return places };
        let Ok(endian) = header.endian() else { return places };
        let inside = |place: &Place| place.bytes(image).is_some();
        if let Ok(programs) = header.program_headers(endian, bytes) {
            let program = programs.iter().find(|program| program.p_type(endian) == PT_GNU_EH_FRAME);
            places.header = program
                .map(|p| Place {
                    offset: p.p_offset(endian),
                    len_bytes: p.p_filesz(endian),
                    address: p.p_vaddr(endian),
                })
                .filter(inside);
        }
        let Ok(sections) = header.sections(endian, bytes) else { return places };
        for section in sections.iter().take(MAX_SECTIONS) {
            let flags: u64 = section.sh_flags(endian);
            let in_file = section.sh_type(endian) != SHT_NOBITS && flags & u64::from(SHF_COMPRESSED) == 0;
            let place = Place {
                offset: section.sh_offset(endian),
                len_bytes: section.sh_size(endian),
                address: section.sh_addr(endian),
            };
            if !in_file || !inside(&place) {
                continue;
            }
            match sections.section_name(endian, section) {
                Ok(b".eh_frame") => places.eh_frame = Some(place),
                Ok(b".debug_frame") => places.debug_frame = Some(place),
                _ => {}
            }
        }
        places
    }
}
