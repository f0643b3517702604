//! Raw stack records by hand, field by field at the places where the programs write them.

use std::mem::offset_of;

use tracer_common::python::PythonFrame;
use tracer_common::record::{Header, cpu};
use tracer_common::stack::{RAW_STACK_BYTES, RawStack};

use crate::pipeline::batch::header_bytes;

/// A record in the making: all fields zero, but for those that were set.
#[derive(Clone)]
pub struct RawRecord(Vec<u8>);

macro_rules! field {
    ($name:ident, $type:ty) => {
        pub fn $name(self, value: $type) -> Self {
            self.at(offset_of!(RawStack, $name), &value.to_le_bytes())
        }
    };
}

impl RawRecord {
    /// A record of this thread.
    pub fn new(ts_ns: u64, origin: u8, tid: u32, tgid: u32) -> Self {
        let header = Header { ts_ns, kind: cpu::RAW_STACK, cpu: 1, lost: 0 };
        let record = Self(vec![0; RAW_STACK_BYTES]).at(0, &header_bytes(header)).syscall(-1);
        record.at(offset_of!(RawStack, origin), &[origin]).tid(tid).tgid(tgid)
    }

    field!(tid, u32);
    field!(tgid, u32);
    field!(python_frames, u8);
    field!(python_end, u8);
    field!(kernel_frames, u8);
    field!(flags, u16);
    field!(syscall, i16);
    field!(stack_bytes, u32);
    field!(stack_wanted, u32);
    field!(weight_ns, u64);
    field!(place, u64);
    field!(address_space, u64);

    /// A word of the user registers.
    pub fn register(self, index: usize, value: u64) -> Self {
        self.at(offset_of!(RawStack, registers) + index * 8, &value.to_le_bytes())
    }

    /// The kernel frames, and their number.
    pub fn kernel(self, addresses: &[u64]) -> Self {
        let at = offset_of!(RawStack, kernel);
        let record = self.kernel_frames(addresses.len() as u8);
        addresses
            .iter()
            .enumerate()
            .fold(record, |record, (index, address)| record.at(at + index * 8, &address.to_le_bytes()))
    }

    /// The Python frames, and their number.
    pub fn python(self, frames: &[PythonFrame]) -> Self {
        let record = self.python_frames(frames.len() as u8);
        frames.iter().enumerate().fold(record, |record, (index, frame)| {
            let at = offset_of!(RawStack, python) + index * size_of::<PythonFrame>();
            let record = record.at(at, &frame.code.to_le_bytes()).at(at + 8, &frame.instruction.to_le_bytes());
            let record = record.at(at + offset_of!(PythonFrame, owner), &[frame.owner]);
            record.at(at + offset_of!(PythonFrame, mark), &frame.mark.to_le_bytes())
        })
    }

    /// The copied stack, and its size.
    pub fn stack(self, bytes: &[u8]) -> Self {
        let mut record = self.stack_bytes(bytes.len() as u32);
        record.0.truncate(RAW_STACK_BYTES);
        record.0.extend_from_slice(bytes);
        record
    }

    /// More bytes than were copied, as the kernel's size classes leave them.
    pub fn room(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0
    }

    fn at(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }
}
