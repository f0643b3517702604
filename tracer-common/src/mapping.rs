//! Payloads of the family `map`: calls by which threads change what their address space consists of (mmap, munmap, brk, mremap, madvise),
//! the per-thread sums in which the programs gather them, and what a call's arguments ask for.
//!
//! What was asked for, not what came of it: a call that fails counts as any other. Page faults are in `memory`.

use crate::record::Header;

/// What a call asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum MapKind {
    /// mmap of memory without a file.
    Mmap = 0,
    /// mmap of a file.
    MmapFile = 1,
    /// mmap at an address that is to be used whatever is there: within what was mapped before, so nothing is added to it.
    MmapFixed = 2,
    /// munmap.
    Munmap = 3,
    /// brk that moves the end of the heap up.
    BrkGrow = 4,
    /// brk that moves it down.
    BrkShrink = 5,
    /// mremap to a larger size.
    MremapGrow = 6,
    /// mremap to a smaller one.
    MremapShrink = 7,
    /// mremap to the same size elsewhere.
    MremapMove = 8,
    /// madvise that gives pages back and keeps the mapping (MADV_DONTNEED, MADV_FREE).
    MadviseFree = 9,
    /// Other advice for which the kernel locks the address space for writing (MADV_HUGEPAGE, MADV_DONTFORK and the like).
    MadviseOther = 10,
}

/// Number of [`MapKind`]s.
pub const MAP_KINDS: usize = 11;

impl MapKind {
    /// Every kind, in the order of its number.
    pub const ALL: [MapKind; MAP_KINDS] = [
        MapKind::Mmap,
        MapKind::MmapFile,
        MapKind::MmapFixed,
        MapKind::Munmap,
        MapKind::BrkGrow,
        MapKind::BrkShrink,
        MapKind::MremapGrow,
        MapKind::MremapShrink,
        MapKind::MremapMove,
        MapKind::MadviseFree,
        MapKind::MadviseOther,
    ];

    /// The name in reports.
    pub const fn id(self) -> &'static str {
        match self {
            MapKind::Mmap => "mmap",
            MapKind::MmapFile => "mmap_file",
            MapKind::MmapFixed => "mmap_fixed",
            MapKind::Munmap => "munmap",
            MapKind::BrkGrow => "brk_grow",
            MapKind::BrkShrink => "brk_shrink",
            MapKind::MremapGrow => "mremap_grow",
            MapKind::MremapShrink => "mremap_shrink",
            MapKind::MremapMove => "mremap_move",
            MapKind::MadviseFree => "madvise_free",
            MapKind::MadviseOther => "madvise_other",
        }
    }

    /// Whether its bytes are added to the address space.
    pub const fn maps(self) -> bool {
        matches!(self, MapKind::Mmap | MapKind::MmapFile | MapKind::BrkGrow | MapKind::MremapGrow)
    }

    /// Whether they are taken from it.
    pub const fn unmaps(self) -> bool {
        matches!(self, MapKind::Munmap | MapKind::BrkShrink | MapKind::MremapShrink)
    }
}

/// What the arguments of a call ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// A [`MapKind`]; [`Asked::NOTHING`]: none.
    pub kind: u32,
    /// Bytes, in whole pages.
    pub bytes: u64,
}

impl Asked {
    /// Nothing that is counted.
    pub const NOTHING: u32 = u32::MAX;
    /// See [`Asked::NOTHING`].
    pub const NONE: Asked = Asked { kind: Asked::NOTHING, bytes: 0 };

    #[inline(always)]
    const fn of(kind: MapKind, bytes: u64) -> Asked {
        Asked { kind: kind as u32, bytes }
    }
}

const PAGE: u64 = 4096;
/// No address space has more, so a call that asks for more fails: it counts, its bytes do not. Sums of a record cannot overflow.
const MOST_BYTES: u64 = 1 << 56;

/// Bits of mmap's flags (uapi/linux/mman.h, asm-generic/mman-common.h; the same on all architectures known here).
mod flags {
    pub const FIXED: u64 = 0x10;
    pub const ANONYMOUS: u64 = 0x20;
}

/// Advice (uapi/asm-generic/mman-common.h).
mod advice {
    pub const WILLNEED: u32 = 3;
    pub const DONTNEED: u32 = 4;
    pub const FREE: u32 = 8;
    pub const REMOVE: u32 = 9;
    pub const COLD: u32 = 20;
    pub const PAGEOUT: u32 = 21;
    pub const POPULATE_READ: u32 = 22;
    pub const POPULATE_WRITE: u32 = 23;
    pub const DONTNEED_LOCKED: u32 = 24;
    pub const COLLAPSE: u32 = 25;
}

/// A length in whole pages.
#[inline(always)]
const fn whole_pages(bytes: u64) -> u64 {
    if bytes > MOST_BYTES { 0 } else { (bytes + (PAGE - 1)) & !(PAGE - 1) }
}

/// Of mmap(address, length, protection, flags, ...).
#[inline(always)]
pub const fn mmap(length: u64, how: u64) -> Asked {
    let kind = if how & flags::FIXED != 0 {
        MapKind::MmapFixed
    } else if how & flags::ANONYMOUS != 0 {
        MapKind::Mmap
    } else {
        MapKind::MmapFile
    };
    Asked::of(kind, whole_pages(length))
}

/// Of munmap(address, length).
#[inline(always)]
pub const fn munmap(length: u64) -> Asked {
    Asked::of(MapKind::Munmap, whole_pages(length))
}

/// Of brk(end), with the heap's beginning and its end before. Who asks where the end is, or moves it within its page, changes nothing.
#[inline(always)]
pub const fn brk(start: u64, before: u64, end: u64) -> Asked {
    if end < start || end > MOST_BYTES || before > MOST_BYTES {
        return Asked::NONE;
    }
    let (before, end) = (whole_pages(before), whole_pages(end));
    if end > before {
        Asked::of(MapKind::BrkGrow, end - before)
    } else if end < before {
        Asked::of(MapKind::BrkShrink, before - end)
    } else {
        Asked::NONE
    }
}

/// Of mremap(address, old length, new length, ...).
#[inline(always)]
pub const fn mremap(before: u64, after: u64) -> Asked {
    let (before, after) = (whole_pages(before), whole_pages(after));
    if after > before {
        Asked::of(MapKind::MremapGrow, after - before)
    } else if after < before {
        Asked::of(MapKind::MremapShrink, before - after)
    } else {
        Asked::of(MapKind::MremapMove, after)
    }
}

/// Whether this advice gives pages back.
#[inline(always)]
pub const fn frees(how: u32) -> bool {
    matches!(how, advice::DONTNEED | advice::DONTNEED_LOCKED | advice::FREE)
}

/// Of madvise(address, length, advice), when the address space is locked, for writing or for reading. Advice that locks it several times in
/// one call is left out; and where pages are collapsed into large ones, it is locked for writing in the middle of the call.
#[inline(always)]
pub const fn madvise(length: u64, how: u32, write: bool) -> Asked {
    let bytes = whole_pages(length);
    match how {
        advice::DONTNEED | advice::DONTNEED_LOCKED | advice::FREE if !write => Asked::of(MapKind::MadviseFree, bytes),
        advice::DONTNEED | advice::DONTNEED_LOCKED | advice::FREE => Asked::NONE,
        advice::WILLNEED | advice::REMOVE | advice::COLD | advice::PAGEOUT => Asked::NONE,
        advice::POPULATE_READ | advice::POPULATE_WRITE | advice::COLLAPSE => Asked::NONE,
        _ if write => Asked::of(MapKind::MadviseOther, bytes),
        _ => Asked::NONE,
    }
}

/// A number that tells a call from the one before it, by instruction and stack pointer, address and length. A call that is made again just
/// like that has the same one.
#[inline(always)]
pub const fn call_id(ip: u64, sp: u64, address: u64, length: u64) -> u64 {
    let id = (ip ^ sp.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (id ^ address ^ length.rotate_left(32)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// A record is written after so many calls of a thread.
pub const CALLS_PER_RECORD: u32 = 64;
/// Or with the next one of every 8 after so long.
pub const CALLS_RECORD_NS: u64 = 50_000_000;
/// The time is looked at with one of so many calls; a power of two.
pub const LOOK_AT_TIME: u32 = 8;

/// Calls of a thread since its record before this one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Kind [`crate::record::map::MAPPED`].
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// When the first of them was made.
    pub since_ts_ns: u64,
    /// Bytes asked for, by [`MapKind`].
    pub bytes: [u64; MAP_KINDS],
    /// How many, by [`MapKind`].
    pub counts: [u32; MAP_KINDS],
    /// Mappings that the address space had before the last of them; 0: not known.
    pub mappings: u32,
    /// Before the one of them before which there were most.
    pub mappings_most: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Mapped>() == 176);

/// A thread's calls of which there is no record yet, and when its next stack is due.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapSums {
    /// Whose; 0: nobody's.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// See [`Mapped::since_ts_ns`].
    pub since_ts_ns: u64,
    /// See [`Mapped::bytes`].
    pub bytes: [u64; MAP_KINDS],
    /// See [`Mapped::counts`].
    pub counts: [u32; MAP_KINDS],
    /// How many all together.
    pub pending: u32,
    /// See [`Mapped::mappings`].
    pub mappings: u32,
    /// See [`Mapped::mappings_most`].
    pub mappings_most: u32,
    /// Kind of the last one.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// Which call gave pages back last, see [`call_id`].
    pub freed_call: u64,
    /// Stacks.
    pub stacks: Stride,
}

const _: () = assert!(size_of::<MapSums>() == 208);

impl MapSums {
    /// Adds a call.
    #[inline(always)]
    pub fn add(&mut self, asked: Asked, mappings: u32, now_ns: impl Fn() -> u64) {
        let kind = asked.kind as usize;
        if self.pending == 0 {
            self.since_ts_ns = now_ns();
            self.mappings_most = 0;
        }
        if let Some(count) = self.counts.get_mut(kind) {
            *count += 1;
        }
        if let Some(bytes) = self.bytes.get_mut(kind) {
            *bytes += asked.bytes;
        }
        self.mappings = mappings;
        if mappings > self.mappings_most {
            self.mappings_most = mappings;
        }
        self.pending += 1;
    }

    /// Whether it is time for a record.
    #[inline(always)]
    pub fn is_due(&self, now_ns: impl Fn() -> u64) -> bool {
        self.pending >= CALLS_PER_RECORD
            || (self.pending & (LOOK_AT_TIME - 1) == 0 && now_ns().saturating_sub(self.since_ts_ns) >= CALLS_RECORD_NS)
    }
}

/// When a thread's next stack is due: after so many bytes that it maps, in the mean. The distance is drawn anew each time, so that no
/// pattern of calls is in step with it, and a stack stands for all bytes since the one before: their sum is that of all bytes, whatever the
/// distance is, and a call is met in proportion to its bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stride {
    /// Bytes since the last stack.
    pub bytes: u64,
    /// At so many the next one is due; 0: not drawn yet.
    pub due_bytes: u64,
    /// When the last one was taken.
    pub last_ts_ns: u64,
    /// So many times the distance in the mean was doubled.
    pub doubled: u32,
    /// Zero.
    pub reserved: u32,
}

/// The least distance in the mean, as a power of two: 4 MiB.
const LEAST_DISTANCE_LOG2: u32 = 22;
/// The distance is doubled so often at most.
const MOST_DOUBLED: u32 = 24;
/// After so long without a stack it is halved.
const HALVED_NS: u64 = 200_000_000;

impl Stride {
    /// Counts bytes. Whether a stack is due.
    #[inline(always)]
    pub fn add(&mut self, bytes: u64, random: impl Fn() -> u32) -> bool {
        if self.due_bytes == 0 {
            self.due_bytes = self.draw(random());
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.bytes >= self.due_bytes
    }

    /// The stack is taken: for how many bytes it stands.
    #[inline(always)]
    pub fn taken(&mut self, now_ns: u64, random: u32) -> u64 {
        if self.doubled > 0 && now_ns.saturating_sub(self.last_ts_ns) >= HALVED_NS {
            self.doubled -= 1;
        }
        let weight = self.bytes;
        (self.bytes, self.last_ts_ns) = (0, now_ns);
        self.due_bytes = self.draw(random);
        weight
    }

    /// It was due and must not be taken: too many are.
    #[inline(always)]
    pub fn put_off(&mut self, random: u32) {
        if self.doubled < MOST_DOUBLED {
            self.doubled += 1;
        }
        self.due_bytes = self.bytes.saturating_add(self.draw(random));
    }

    /// Between 1 and twice the distance.
    #[inline(always)]
    const fn draw(&self, random: u32) -> u64 {
        let doubled = if self.doubled > MOST_DOUBLED { MOST_DOUBLED } else { self.doubled };
        let twice_log2 = LEAST_DISTANCE_LOG2 + doubled + 1;
        // 32 random bits are the whole distance, whose last bits do not matter where it is longer.
        1 + ((random as u64) << twice_log2.saturating_sub(32) >> 32u32.saturating_sub(twice_log2))
    }
}

/// How many of these stacks each CPU may take.
pub mod budget {
    /// Stacks per second, in the long run.
    pub const PER_SECOND: u64 = 250;
    /// Stacks in a row.
    pub const BURST: u64 = 32;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(kind: MapKind, bytes: u64) -> Asked {
        Asked { kind: kind as u32, bytes }
    }

    #[test]
    fn what_a_call_asks_for_follows_from_its_arguments() {
        assert_eq!(mmap(1, 0x22), asked(MapKind::Mmap, 4096));
        assert_eq!(mmap(4096, 0x02), asked(MapKind::MmapFile, 4096));
        assert_eq!(mmap(8192, 0x32), asked(MapKind::MmapFixed, 8192));
        assert_eq!(mmap(u64::MAX, 0x22), asked(MapKind::Mmap, 0), "it cannot succeed");
        assert_eq!(munmap(5000), asked(MapKind::Munmap, 8192));
        let heap = 0x5000_0000;
        assert_eq!(brk(heap, heap + 4096, 0), Asked::NONE, "a question");
        assert_eq!(brk(heap, heap + 4000, heap + 4096), Asked::NONE, "within its page");
        assert_eq!(brk(heap, heap, heap + 5000), asked(MapKind::BrkGrow, 8192));
        assert_eq!(brk(heap, heap + 8192, heap + 1), asked(MapKind::BrkShrink, 4096));
        assert_eq!(brk(heap, heap, u64::MAX), Asked::NONE);
        assert_eq!(mremap(4096, 12288), asked(MapKind::MremapGrow, 8192));
        assert_eq!(mremap(12288, 4096), asked(MapKind::MremapShrink, 8192));
        assert_eq!(mremap(4096, 4000), asked(MapKind::MremapMove, 4096));
        assert_eq!(madvise(4096, 4, false), asked(MapKind::MadviseFree, 4096));
        assert_eq!(madvise(4096, 14, true), asked(MapKind::MadviseOther, 4096));
        assert_eq!(madvise(4096, 25, true), Asked::NONE, "it locks as often as it likes");
        assert_eq!(madvise(4096, 3, false), Asked::NONE);
    }

    #[test]
    fn kinds_are_in_the_order_of_their_numbers_and_no_kind_both_maps_and_unmaps() {
        for (number, kind) in MapKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number, "{kind:?}");
            assert!(!(kind.maps() && kind.unmaps()), "{kind:?}");
        }
    }

    #[test]
    fn sums_of_a_record_cannot_overflow() {
        let mut sums = MapSums::default();
        let mut calls = 0;
        while calls == 0 || !sums.is_due(|| 0) {
            sums.add(mmap(MOST_BYTES, 0x22), calls, || 0);
            calls += 1;
        }
        assert_eq!((calls, sums.counts[0], sums.mappings_most), (CALLS_PER_RECORD, CALLS_PER_RECORD, 63));
        assert_eq!(sums.bytes[0], MOST_BYTES * u64::from(CALLS_PER_RECORD));
        let few = |pending| MapSums { pending, ..MapSums::default() }.is_due(|| CALLS_RECORD_NS);
        assert!(few(8) && !few(9), "or it is time");
    }

    /// A plain generator, so that the test is the same each time.
    fn random(state: &core::cell::Cell<u64>) -> u32 {
        state.set(state.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        (state.get() >> 32) as u32
    }

    #[test]
    fn stacks_stand_for_all_bytes_and_for_each_caller_in_proportion() {
        let state = core::cell::Cell::new(7);
        let mut stride = Stride::default();
        let (mut all, mut weights) = (0, [0; 2]);
        for call in 0..400_000_u64 {
            let (caller, bytes) = if call % 4 == 0 { (0, 192 << 10) } else { (1, 64 << 10) };
            all += bytes;
            if stride.add(bytes, || random(&state)) {
                weights[caller] += stride.taken(call, random(&state));
            }
        }
        assert_eq!(weights[0] + weights[1] + stride.bytes, all, "nothing is lost");
        let share = weights[0] as f64 / all as f64;
        assert!((share - 0.5).abs() < 0.03, "half of the bytes are the first one's: {share}");
    }

    #[test]
    fn too_many_stacks_make_the_distance_longer_and_no_bytes_are_lost() {
        let state = core::cell::Cell::new(3);
        let mut stride = Stride::default();
        let (mut all, mut weights, mut taken) = (0_u64, 0, 0);
        for call in 0..100_000_u64 {
            all += 64 << 20;
            if stride.add(64 << 20, || random(&state)) {
                // One of a hundred calls may be looked at.
                if call >= taken * 100 {
                    weights += stride.taken(call, random(&state));
                    taken += 1;
                } else {
                    stride.put_off(random(&state));
                }
            }
        }
        assert_eq!(weights + stride.bytes, all);
        assert!(taken > 200 && stride.doubled > 5, "{taken} stacks, doubled {} times", stride.doubled);
        let mut rested = stride;
        rested.taken(u64::MAX, 0);
        assert_eq!(rested.doubled, stride.doubled - 1, "after a while it gets shorter");
    }

    #[test]
    fn distances_are_between_one_and_twice_the_mean() {
        for doubled in [0, 9, 10, MOST_DOUBLED, u32::MAX] {
            let stride = Stride { doubled, ..Stride::default() };
            let twice = 1_u64 << (LEAST_DISTANCE_LOG2 + doubled.min(MOST_DOUBLED) + 1);
            assert_eq!(stride.draw(0), 1, "{doubled}");
            let most = stride.draw(u32::MAX);
            assert!(most > twice / 2 && most <= twice, "{doubled}: {most} of {twice}");
        }
    }
}
