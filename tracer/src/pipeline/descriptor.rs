//! Which descriptors and files records mention, for whoever looks them up while their processes live. Not here: what they are.

use tracer_common::record::{HEADER_BYTES, block, cache, file_exact, meta, sched as kind, writeback};
use tracer_common::sched::{FdKind, switch_flags as flags};

use super::batch::header;
use super::decode::{Fields, decode};
use crate::model::event::{Event, Meta};

/// In the place of a descriptor: the file is known by its inode only.
pub const NO_DESCRIPTOR: u32 = u32::MAX;

/// What a thread waited on through a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// The thread.
    pub tid: u32,
    /// The descriptor.
    pub fd: u32,
    /// Inode number behind it.
    pub inode: u64,
    /// It is a file, whose path the kernel's side may have told too.
    pub is_file: bool,
}

/// The process that a record says to use a file on a disk; none for other records.
pub fn user_of_file(record: &[u8]) -> Option<u32> {
    let header = header(record).filter(|header| header.kind == block::FILE)?;
    Some(Fields(record.get(HEADER_BYTES..)?).cached_file(header)?.tgid)
}

/// The descriptor on which the thread waits that leaves the CPU, that ended its wait, or on which it waited when tracing began; none for
/// other records.
pub fn descriptor(record: &[u8]) -> Option<Descriptor> {
    let header = header(record)?;
    match header.kind {
        kind::SWITCH | kind::POLLED => {
            let switch = Fields(record.get(HEADER_BYTES..)?).switch(header)?;
            let is_one = switch.fd_kind != FdKind::Unknown as u8
                && switch.object != 0
                && switch.flags & (flags::PREV_TRACKED | flags::QUEUE_FACTS) == flags::PREV_TRACKED;
            let is_file = switch.fd_kind == FdKind::File as u8;
            is_one.then_some(Descriptor { tid: switch.prev_tid, fd: switch.arg0, inode: switch.object, is_file })
        }
        cache::FILE | writeback::FILE | file_exact::FILE => {
            let file = Fields(record.get(HEADER_BYTES..)?).cached_file(header)?;
            Some(Descriptor { tid: file.tid, fd: NO_DESCRIPTOR, inode: file.file.inode, is_file: true })
        }
        meta::SEED => match decode(record).ok()? {
            Event::Meta(_, meta) => match *meta {
                Meta::Seed(seed) if seed.fd_kind != FdKind::Unknown as u8 && seed.inode != 0 => {
                    let is_file = seed.fd_kind == FdKind::File as u8;
                    Some(Descriptor { tid: seed.tid, fd: seed.args[0] as u32, inode: seed.inode, is_file })
                }
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}
