//! The part of the report's section `io` on calls that read and write files, where each was counted.

use std::cmp::Reverse;

use tracer_common::block::BlockOp;

use crate::aggregate::Aggregate;
use crate::aggregate::paging::report::{Who, device_number};
use crate::model::io::{FileCalls, Io};
use crate::model::meta::FileCallsRow;

/// Rows that are told.
const MAX_ROWS: usize = 32;

impl Aggregate {
    /// Adds it; nothing where nobody counted.
    pub(super) fn calls_part(&self, who: &Who<'_>, section: &mut Io) {
        if !self.blocks.sees_calls {
            return;
        }
        let moved = |row: &FileCallsRow| row.read_bytes.saturating_add(row.written_bytes);
        let mut rows: Vec<&FileCallsRow> =
            self.blocks.calls.iter().filter(|row| row.reads > 0 || row.writes > 0).collect();
        rows.sort_by_key(|row| (Reverse(moved(row)), row.device, row.inode, row.tgid));
        section.calls_over = rows.split_off(rows.len().min(MAX_ROWS)).len() as u64;
        section.calls = Some(rows.into_iter().map(|row| self.file_calls(row, who)).collect());
    }

    fn file_calls(&self, row: &FileCallsRow, who: &Who<'_>) -> FileCalls {
        let key = (row.device, row.inode);
        let device_bytes = |op: BlockOp| {
            let file = self.blocks.files.get(&key);
            self.blocks.sees_requests.then(|| file.and_then(|file| file.ops.of(op)).map_or(0, |sums| sums.bytes))
        };
        FileCalls {
            path: self.io_path(key, &[row.tgid]),
            inode: row.inode,
            device: device_number(row.device),
            pid: row.tgid,
            process: who.process(row.tgid),
            reads: row.reads,
            read_bytes: row.read_bytes,
            writes: row.writes,
            written_bytes: row.written_bytes,
            device_read_bytes: device_bytes(BlockOp::Read),
            device_written_bytes: device_bytes(BlockOp::Write),
        }
    }
}
