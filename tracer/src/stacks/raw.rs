//! Checked access to the bytes of a raw stack record, as the programs wrote it. Interprets nothing.

use std::mem::offset_of;

use tracer_common::python::PythonFrame;
use tracer_common::record::{HEADER_BYTES, Header};
use tracer_common::stack::{KERNEL_FRAMES, PLACE_BITS, PYTHON_FRAMES, RAW_STACK_BYTES, REGISTER_WORDS, RawStack};

use crate::pipeline::batch::header;

/// A raw record; its fields are read on demand, so nothing of the four kilobytes is copied that is not asked for.
#[derive(Clone, Copy)]
pub struct Raw<'a> {
    bytes: &'a [u8],
    header: Header,
}

macro_rules! field {
    ($name:ident, $type:ty, $doc:literal) => {
        #[doc = $doc]
        pub fn $name(&self) -> $type {
            <$type>::from_le_bytes(self.take(offset_of!(RawStack, $name)))
        }
    };
}

impl<'a> Raw<'a> {
    /// None for what is not a whole record of this kind.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let header = header(bytes).filter(|_| bytes.len() >= RAW_STACK_BYTES)?;
        (header.kind == tracer_common::record::cpu::RAW_STACK).then_some(Raw { bytes, header })
    }

    /// The record's header.
    pub fn header(&self) -> Header {
        self.header
    }

    field!(tid, u32, "The thread.");
    field!(tgid, u32, "Its process.");
    field!(origin, u8, "See `tracer_common::stack::origin`.");
    field!(python_frames, u8, "Number of Python frames.");
    field!(python_end, u8, "See `tracer_common::python::walk`.");
    field!(kernel_frames, u8, "Number of kernel frames.");
    field!(flags, u16, "See `tracer_common::stack::raw_flags`.");
    field!(syscall, i16, "The system call; negative: none.");
    field!(stack_bytes, u32, "Bytes of stack that were copied.");
    field!(stack_wanted, u32, "Bytes to the stack's end; 0: not known.");
    field!(weight_ns, u64, "Time that a sample stands for.");
    field!(place, u64, "The place of a wait.");
    field!(thread_pointer, u64, "The thread's pointer to its own control block; 0: not known.");
    field!(
        address_space,
        u64,
        "A number that changes when the process executes another program; 0: there is no address space."
    );

    /// The place of a wait, without what a hostile record has above it.
    pub fn wait_place(&self) -> u32 {
        (self.place() & ((1 << PLACE_BITS) - 1)) as u32
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags() & flag != 0
    }

    /// The user registers.
    pub fn registers(&self) -> [u64; REGISTER_WORDS] {
        let at = offset_of!(RawStack, registers);
        std::array::from_fn(|index| self.word(at + index * 8))
    }

    /// Kernel return addresses, the innermost first.
    pub fn kernel(&self) -> impl Iterator<Item = u64> + '_ {
        let at = offset_of!(RawStack, kernel);
        let count = usize::from(self.kernel_frames()).min(KERNEL_FRAMES);
        (0..count).map(move |index| self.word(at + index * 8)).take_while(|address| *address != 0)
    }

    /// Python frames, the innermost first.
    pub fn python(&self) -> Vec<PythonFrame> {
        let at = offset_of!(RawStack, python);
        let count = usize::from(self.python_frames()).min(PYTHON_FRAMES);
        let frame = |index: usize| {
            let at = at + index * size_of::<PythonFrame>();
            let [owner] = self.take(at + offset_of!(PythonFrame, owner));
            let mark = u32::from_le_bytes(self.take(at + offset_of!(PythonFrame, mark)));
            PythonFrame { code: self.word(at), instruction: self.word(at + 8), owner, reserved: [0; 3], mark }
        };
        (0..count).map(frame).collect()
    }

    /// The copied stack, from the stack pointer upwards.
    pub fn stack(&self) -> &'a [u8] {
        let rest = &self.bytes[RAW_STACK_BYTES..];
        &rest[..rest.len().min(self.stack_bytes() as usize)]
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.take(at))
    }

    /// Bytes of the fixed part: the length was checked, so the default is never used.
    fn take<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }
}

const _: () = assert!(HEADER_BYTES == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::raw::RawRecord;
    use tracer_common::stack::{origin, raw_flags};

    fn record() -> Vec<u8> {
        RawRecord::new(5, origin::WAIT, 11, 10)
            .python_end(1)
            .flags(raw_flags::CUT)
            .syscall(202)
            .stack_wanted(100)
            .place(77)
            .address_space(9)
            .register(16, 0x1234)
            .kernel(&[1, 2])
            .python(&[PythonFrame { code: 8, instruction: 9, owner: 3, reserved: [0; 3], mark: 5 }])
            .stack(&[7; 8])
            .room(&[7; 8])
            .bytes()
    }

    #[test]
    fn fields_are_read_where_the_programs_write_them() {
        let record = record();
        let raw = Raw::new(&record).expect("a whole record");
        assert_eq!((raw.tid(), raw.tgid(), raw.origin(), raw.syscall()), (11, 10, origin::WAIT, 202));
        assert_eq!((raw.place(), raw.stack_wanted(), raw.address_space()), (77, 100, 9));
        assert!(raw.has(raw_flags::CUT) && !raw.has(raw_flags::COMPAT));
        assert_eq!(raw.registers()[16], 0x1234);
        assert_eq!(raw.kernel().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(raw.python(), [PythonFrame { code: 8, instruction: 9, owner: 3, reserved: [0; 3], mark: 5 }]);
        assert_eq!(raw.stack(), [7; 8], "the size class is larger than what was copied");
    }

    #[test]
    fn counts_beyond_the_arrays_and_short_records_are_harmless() {
        let mut record = record();
        record[offset_of!(RawStack, python_frames)] = 255;
        record[offset_of!(RawStack, kernel_frames)] = 255;
        record[offset_of!(RawStack, stack_bytes)] = 255;
        let raw = Raw::new(&record).expect("whole");
        assert_eq!((raw.python().len(), raw.kernel().count(), raw.stack().len()), (PYTHON_FRAMES, 2, 16));
        assert!(Raw::new(&record[..RAW_STACK_BYTES - 1]).is_none());
        record[8] = 1;
        assert!(Raw::new(&record).is_none(), "another kind");
    }
}
