//! Stacks of threads that waited already when tracing began: their bytes and Python frames are read from the process's memory, and
//! count only if the thread stood still meanwhile. From then on such a record is one like all others.

use std::collections::VecDeque;
use std::mem::offset_of;

use tracer_common::python::walk;
use tracer_common::record::meta;
use tracer_common::stack::{MAX_STACK_BYTES, RAW_STACK_BYTES, RawStack, STACK_PIECE_BYTES, place, raw_flags};

use super::processes::{Processes, Python};
use super::raw::Raw;
use crate::kernel::clock;
use crate::kernel::live::push_meta;
use crate::kernel::proc;
use crate::kernel::sleepers::{Sleeper, Sleepers};
use crate::model::meta::AttachedRecord;
use crate::pipeline::batch::Batch;
use crate::python::{ProcessMemory, ReadMemory, walk};

/// Threads looked at between two looks at the ring: some ten milliseconds.
pub const AT_ONCE: usize = 64;

/// Threads that are still to be looked at, and what became of the others.
#[derive(Default)]
pub struct Attached {
    waiting: VecDeque<Sleeper>,
    record: AttachedRecord,
    told: bool,
    /// The memory of the process looked at last.
    memory: Option<(u32, ProcessMemory)>,
}

impl Attached {
    /// These are to be looked at. `None`: nobody looked for any, and nothing is told.
    pub fn new(sleepers: Option<Sleepers>) -> Self {
        let told = sleepers.is_none();
        let sleepers = sleepers.unwrap_or_default();
        let threads = sleepers.threads.len() as u64 + sleepers.over;
        let record =
            AttachedRecord { threads, over: sleepers.over, reason: sleepers.reason, ..AttachedRecord::default() };
        Attached { waiting: sleepers.threads.into(), record, told, memory: None }
    }

    /// Whether there is something left to do.
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.told
    }

    /// The raw record of the next one; `None`: it did not stand still, or there is none left.
    pub fn next(&mut self, processes: &mut Processes) -> Option<Vec<u8>> {
        let sleeper = self.waiting.pop_front()?;
        let record = self.complete(&sleeper, processes);
        match record {
            Some(_) => self.record.taken += 1,
            None => self.record.moved += 1,
        }
        record
    }

    /// Says once what became of all of them.
    pub fn tell(&mut self, batch: &mut Batch) {
        if !self.told && self.waiting.is_empty() {
            self.told = true;
            self.memory = None;
            push_meta(batch, clock::monotonic_ns(), meta::ATTACHED, &self.record);
        }
    }

    fn complete(&mut self, sleeper: &Sleeper, processes: &mut Processes) -> Option<Vec<u8>> {
        let mut record = sleeper.head.clone();
        record.resize(RAW_STACK_BYTES, 0);
        let raw = Raw::new(&record)?;
        let (tid, tgid, wanted, flags) = (raw.tid(), raw.tgid(), raw.stack_wanted(), raw.flags());
        let (thread_pointer, space_id) = (raw.thread_pointer(), raw.address_space());
        let [ip, sp] = proc::position(tgid, tid).filter(|[ip, sp]| place(tgid, *ip, *sp) == raw.wait_place())?;
        let memory = self.memory(tgid)?;
        let (stack, has_holes) = copy(memory, sp, wanted as usize);
        let (mut python, mut end) = (Vec::new(), walk::NOT_PYTHON);
        if let Python::Yes(interpreter, memory) = &mut processes.get(tgid, space_id).python {
            (python, end) = walk(memory, &interpreter.process, thread_pointer);
        }
        // Last, so that all of the above is of one moment. The position once more: a count says nothing of one that is about to sleep.
        let stood_still = proc::switches_asleep(tgid, tid) == Some(sleeper.switches);
        if !stood_still || proc::position(tgid, tid) != Some([ip, sp]) {
            return None;
        }
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(room) = record.get_mut(at..at + bytes.len()) {
                room.copy_from_slice(bytes);
            }
        };
        put(offset_of!(RawStack, python_frames), &[python.len() as u8]);
        put(offset_of!(RawStack, python_end), &[end]);
        put(offset_of!(RawStack, stack_bytes), &(stack.len() as u32).to_le_bytes());
        if has_holes {
            put(offset_of!(RawStack, flags), &(flags | raw_flags::UNREADABLE).to_le_bytes());
        }
        for (index, frame) in python.iter().enumerate() {
            let mut bytes = [0u8; size_of::<tracer_common::python::PythonFrame>()];
            bytes[..8].copy_from_slice(&frame.code.to_le_bytes());
            bytes[8..16].copy_from_slice(&frame.instruction.to_le_bytes());
            bytes[16] = frame.owner;
            bytes[20..24].copy_from_slice(&frame.mark.to_le_bytes());
            put(offset_of!(RawStack, python) + index * bytes.len(), &bytes);
        }
        record.extend_from_slice(&stack);
        Some(record)
    }

    fn memory(&mut self, tgid: u32) -> Option<&mut ProcessMemory> {
        if self.memory.as_ref().is_none_or(|(of, _)| *of != tgid) {
            self.memory = Some((tgid, ProcessMemory::open(tgid).ok()?));
        }
        self.memory.as_mut().map(|(_, memory)| memory)
    }
}

/// The stack as the programs copy it: from its pointer to its end, or where that is not known (`wanted` 0) up to the first page that
/// cannot be read. Other such pages are zeroes, and said to be there.
fn copy(memory: &mut dyn ReadMemory, from: u64, wanted: usize) -> (Vec<u8>, bool) {
    let most = if wanted == 0 { MAX_STACK_BYTES } else { wanted.min(MAX_STACK_BYTES) };
    let mut stack = vec![0u8; most];
    let (mut done, mut has_holes) = (0, false);
    while done < most {
        let at = from.wrapping_add(done as u64);
        let to_page_end = STACK_PIECE_BYTES - (at % STACK_PIECE_BYTES as u64) as usize;
        let piece = to_page_end.min(most - done);
        if !memory.read(at, &mut stack[done..done + piece]) {
            if wanted == 0 {
                stack.truncate(done);
                return (stack, false);
            }
            has_holes = true;
            stack[done..done + piece].fill(0);
        }
        done += piece;
    }
    (stack, has_holes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages 1 to 3, but for page 2.
    struct Pages;

    impl ReadMemory for Pages {
        fn read(&mut self, address: u64, out: &mut [u8]) -> bool {
            out.fill(7);
            matches!(address / 4096, 1 | 3)
        }
    }

    #[test]
    fn pages_that_cannot_be_read_are_zeroes_or_the_end() {
        let (stack, has_holes) = copy(&mut Pages, 4096 + 4000, 96 + 4096 + 10);
        assert!(has_holes && stack.len() == 96 + 4096 + 10, "{}", stack.len());
        assert_eq!((stack[95], stack[96], stack[96 + 4095], stack[96 + 4096]), (7, 0, 0, 7));
        assert_eq!(copy(&mut Pages, 4096 + 4000, 0), (vec![7; 96], false), "where its end is not known");
        assert_eq!(copy(&mut Pages, 2 * 4096, 0), (Vec::new(), false));
    }

    #[test]
    fn nothing_is_told_where_nobody_looked_and_the_reason_where_somebody_could_not() {
        let mut batch = Batch::new();
        let mut nobody = Attached::new(None);
        nobody.tell(&mut batch);
        assert!(batch.is_empty() && !nobody.is_busy());
        let mut refused = Attached::new(Some(Sleepers { reason: Some("no".to_owned()), ..Sleepers::default() }));
        assert!(refused.is_busy());
        refused.tell(&mut batch);
        refused.tell(&mut batch);
        assert!(!refused.is_busy());
        assert_eq!(batch.iter().count(), 1);
    }
}
