//! Payloads of the families that see block devices and writeback: requests of a device, the files that they are for, pages that threads
//! dirty, pauses of threads that dirty too much. And where the fields are that their programs read.

use crate::{memory::FileKey, record::Header};

/// Byte offsets in kernel structs; [`crate::config::ABSENT`]: this kernel has none. Named after the fields that they locate.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named after the kernel fields they locate")]
pub struct BlockOffsets {
    pub request_flags: u32,
    pub request_bytes: u32,
    pub request_sector: u32,
    pub request_bio: u32,
    pub request_queue: u32,
    /// `request_queue.disk`, from 5.15 on.
    pub queue_disk: u32,
    /// `request.rq_disk`, before 5.17.
    pub request_disk: u32,
    pub disk_major: u32,
    pub disk_first_minor: u32,
    pub bio_vecs: u32,
    pub bio_end_io: u32,
    pub bio_private: u32,
    /// `page.compound_head`: of a page that is not the first one of its folio the first one's address plus 1.
    pub page_head: u32,
    /// `iomap_dio.iocb`.
    pub dio_iocb: u32,
    /// `kiocb.ki_filp`.
    pub iocb_file: u32,
    /// `bdi_writeback.bdi`.
    pub writeback_bdi: u32,
    /// `backing_dev_info.owner`: the device of the disk.
    pub bdi_device: u32,
    /// `device.devt`.
    pub device_number: u32,
}

impl BlockOffsets {
    /// No offset known.
    pub const NONE: BlockOffsets = {
        use crate::config::ABSENT;
        BlockOffsets {
            request_flags: ABSENT,
            request_bytes: ABSENT,
            request_sector: ABSENT,
            request_bio: ABSENT,
            request_queue: ABSENT,
            queue_disk: ABSENT,
            request_disk: ABSENT,
            disk_major: ABSENT,
            disk_first_minor: ABSENT,
            bio_vecs: ABSENT,
            bio_end_io: ABSENT,
            bio_private: ABSENT,
            page_head: ABSENT,
            dio_iocb: ABSENT,
            iocb_file: ABSENT,
            writeback_bdi: ABSENT,
            bdi_device: ABSENT,
            device_number: ABSENT,
        }
    };
}

/// The families' part of the configuration.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockConfig {
    /// Address of `iomap_dio_bio_end_io`: what ends with it is direct I/O of a file; 0: not known.
    pub dio_end: u64,
    /// Address of `bio_chain_endio`: a part that was split off, whose rest is another; 0: not known.
    pub chain_end: u64,
    /// Which argument of `balance_dirty_pages` is the pause: 6, or 10 where its parts are arguments of their own.
    pub pause_argument: u32,
    /// 1: requests are followed.
    pub requests: u32,
    /// 1: dirtied pages are counted.
    pub dirtied: u32,
    /// The bits of a folio's flags: it is being read, it is being written.
    pub locked_bit: u32,
    /// See there.
    pub written_bit: u32,
    /// Zero.
    pub reserved: u32,
    /// See there.
    pub offsets: BlockOffsets,
}

const _: () = assert!(size_of::<BlockConfig>() == 16 + 6 * 4 + 18 * 4);

impl BlockConfig {
    /// Nothing known.
    pub const NONE: BlockConfig = BlockConfig {
        dio_end: 0,
        chain_end: 0,
        pause_argument: 6,
        requests: 0,
        dirtied: 0,
        locked_bit: crate::config::ABSENT,
        written_bit: crate::config::ABSENT,
        reserved: 0,
        offsets: BlockOffsets::NONE,
    };
}

/// What a device is asked to do: the low byte of a request's flags (include/linux/blk_types.h).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum BlockOp {
    /// Read.
    Read = 0,
    /// Write.
    Write = 1,
    /// Make what was written before durable.
    Flush = 2,
    /// Forget what is there: discard, secure erase.
    Discard = 3,
    /// Anything else.
    Other = 4,
}

/// Number of [`BlockOp`]s.
pub const BLOCK_OPS: usize = 5;

impl BlockOp {
    /// Every one, in the order of its number.
    pub const ALL: [BlockOp; BLOCK_OPS] =
        [BlockOp::Read, BlockOp::Write, BlockOp::Flush, BlockOp::Discard, BlockOp::Other];

    /// That of a request with these flags and so many bytes. A write of nothing asks for a flush.
    pub const fn of(flags: u32, bytes: u32) -> Self {
        match flags & 0xff {
            0 => BlockOp::Read,
            1 if bytes == 0 => BlockOp::Flush,
            1 | 7 | 9 => BlockOp::Write,
            2 => BlockOp::Flush,
            3 | 5 => BlockOp::Discard,
            _ => BlockOp::Other,
        }
    }

    /// The name in reports.
    pub const fn id(self) -> &'static str {
        match self {
            BlockOp::Read => "read",
            BlockOp::Write => "write",
            BlockOp::Flush => "flush",
            BlockOp::Discard => "discard",
            BlockOp::Other => "other",
        }
    }
}

/// Bits above a request's operation; the same from 4.10 to 7.x (include/linux/blk_types.h).
pub mod block_flags {
    /// Somebody waits for it.
    pub const SYNC: u32 = 1 << 11;
    /// The file system's own data.
    pub const META: u32 = 1 << 12;
    /// It is durable when it is done.
    pub const FUA: u32 = 1 << 17;
    /// What was written before is to be durable first.
    pub const PREFLUSH: u32 = 1 << 18;
    /// Read ahead: nobody has asked for it yet.
    pub const READ_AHEAD: u32 = 1 << 19;
    /// Written in the background.
    pub const BACKGROUND: u32 = 1 << 20;
}

/// What else is known of a request.
pub mod block_notes {
    /// Whoever asked for it is traced.
    pub const TRACED: u8 = 1;
    /// A thread of the kernel asked for it.
    pub const KERNEL_THREAD: u8 = 1 << 1;
    /// Past the page cache.
    pub const DIRECT: u8 = 1 << 2;
    /// It is for the device itself: the file system's own data, its journal, or somebody who opened the device.
    pub const DEVICE_DATA: u8 = 1 << 3;
    /// The device never got it: it was done with a flush that others had asked for.
    pub const NOT_ISSUED: u8 = 1 << 4;
    /// The kernel did not report when the device got it, or that it was done: its times say nothing. In the latter case the record is written
    /// when the next one takes its place.
    pub const UNTIMED: u8 = 1 << 5;
}

/// What a device was asked for, and by whom.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// First sector, of 512 bytes.
    pub sector: u64,
    /// The file, as far as its first page tells; inode 0: not known.
    pub file: FileKey,
    /// Who made it.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Operation ([`BlockOp`]) and bits ([`block_flags`]).
    pub flags: u32,
    /// Bytes, as the device got them.
    pub bytes: u32,
    /// Device number in the kernel's encoding.
    pub device: u32,
    /// See [`block_notes`].
    pub notes: u8,
    /// How often the device sent it back.
    pub requeues: u8,
    /// What the device said, as the kernel has it; 0: well, or nothing yet.
    pub status: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<Request>() == 48);

/// A request that is under way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestSums {
    /// When it was made.
    pub made_ts_ns: u64,
    /// When the device got it; 0: not yet.
    pub issued_ts_ns: u64,
    /// See [`BlockDone::asked_ns`].
    pub asked_ns: u64,
    /// What it is.
    pub request: Request,
}

const _: () = assert!(size_of::<RequestSums>() == 72);

/// A request is done: the header's time is when.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDone {
    /// Kind [`crate::record::block::DONE`].
    pub header: Header,
    /// From when it was made until the device got it, for the last time if it had sent it back.
    pub queued_ns: u64,
    /// From then on until it was done.
    pub device_ns: u64,
    /// What it was.
    pub request: Request,
    /// From when its thread put a place for the first page into the page cache until it was made; 0: not known, or past the page cache.
    pub asked_ns: u64,
}

const _: () = assert!(size_of::<BlockDone>() == 88);

/// Between asking for a page and its request a thread does no more than this for both: what asked before that asked for something else.
pub const ASKING_NS: u64 = 100_000;

/// Requests that can be under way at once.
pub const REQUESTS: u32 = 1 << 13;
/// Files of which is known that they have been told.
pub const FILES_TOLD: u32 = 1 << 14;
/// Files and processes whose dirtied pages are counted.
pub const DIRTIED: u32 = 1 << 12;

/// Key of the map of dirtied pages.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirtiedKey {
    /// The file.
    pub file: FileKey,
    /// The process that dirtied.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// What a process dirtied of a file; a value of each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirtiedSums {
    /// Pages.
    pub pages: u64,
    /// The thread that dirtied last.
    pub tid: u32,
    /// Zero.
    pub reserved: u32,
}

/// A thread that dirtied pages is about to be paused, because there are too many that have to be written.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyPause {
    /// Kind [`crate::record::writeback::PAUSE`].
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// For how long, in ticks of the kernel's clock.
    pub ticks: u32,
    /// The device whose pages are too many; 0: not known.
    pub device: u32,
}

const _: () = assert!(size_of::<DirtyPause>() == 32);

/// A file system begins, or ends, what fsync and calls like it ask for, in the thread that called. Not all file systems tell.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSync {
    /// Kind [`crate::record::writeback::SYNC`].
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// 1: it begins; 0: it is done.
    pub begins: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<FileSync>() == 32);
