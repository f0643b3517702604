//! The worker over records made by hand, of this very process and of none. Real stacks are for the live tests.

use std::collections::HashSet;

use proptest::prelude::*;
use tracer_common::FamilyId;
use tracer_common::record::{cpu, family_of};
use tracer_common::stack::{KERNEL_FRAMES, RAW_STACK_BYTES, RawStack, Sampled, origin, raw_flags};

use super::Worker;
use crate::model::event::{Event, Meta};
use crate::model::meta::{FrameKind, FrameRecord, ModuleRecord, StackEnd, StackRecord};
use crate::pipeline::batch::{Batch, header};
use crate::pipeline::decode::decode;
use crate::testing::raw::RawRecord;

/// Above the greatest process id that Linux gives.
const NOBODY: u32 = (1 << 22) + 1;
/// The registers' words with the instruction and the stack pointer.
const IP_SP: [usize; 2] = if cfg!(target_arch = "x86_64") { [16, 19] } else { [32, 31] };

/// What was written, checked as it is read: nothing is used before it is defined.
#[derive(Default)]
struct Reader {
    modules: Vec<ModuleRecord>,
    frames: Vec<FrameRecord>,
    stacks: Vec<StackRecord>,
    sampled: Vec<Sampled>,
}

impl Reader {
    fn read(&mut self, batch: &Batch) {
        for record in batch.iter() {
            match decode(record).expect("what was just written") {
                Event::Sampled(sampled) => {
                    assert!(sampled.stack == 0 || self.stacks.iter().any(|stack| stack.id == sampled.stack));
                    self.sampled.push(sampled);
                }
                Event::Meta(_, meta) => match *meta {
                    Meta::Module(module) => self.modules.push(module),
                    Meta::Frame(frame) => {
                        let defined = |id| self.modules.iter().any(|module| module.id == id);
                        assert!(frame.module.is_none_or(defined), "{frame:?} comes before its file");
                        self.frames.push(frame);
                    }
                    Meta::Stack(stack) => {
                        let frames: HashSet<u32> = self.frames.iter().map(|frame| frame.id).collect();
                        assert!(stack.frames.iter().all(|id| frames.contains(id)), "{stack:?} comes before its frames");
                        self.stacks.push(stack);
                    }
                    other => panic!("{other:?} is nothing that the worker writes"),
                },
                other => panic!("{other:?} is nothing that the worker writes"),
            }
        }
    }

    fn last(&self) -> (&Sampled, &StackRecord) {
        let sampled = self.sampled.last().expect("a sample");
        (sampled, self.stacks.iter().find(|stack| stack.id == sampled.stack).expect("its stack"))
    }

    fn addresses(&self) -> Vec<u64> {
        let frame = |id: &u32| self.frames.iter().find(|frame| frame.id == *id).map(|frame| frame.address);
        self.last().1.frames.iter().filter_map(frame).collect()
    }
}

fn take(worker: &mut Worker, reader: &mut Reader, record: RawRecord) {
    let mut batch = Batch::new();
    worker.take(&record.bytes(), &mut batch);
    reader.read(&batch);
}

/// A record of a process that does not exist, with these kernel frames.
fn without_user(origin: u8, kernel: &[u64]) -> RawRecord {
    RawRecord::new(5, origin, NOBODY, NOBODY).flags(raw_flags::NO_USER_SPACE).place(77).kernel(kernel)
}

#[test]
fn a_stack_of_this_process_has_its_file_and_an_end() {
    let (mut worker, mut reader) = (Worker::new(None, None), Reader::default());
    let pid = std::process::id();
    let ip = a_stack_of_this_process_has_its_file_and_an_end as *const () as u64;
    let record = RawRecord::new(5, origin::ON_CPU, pid, pid)
        .flags(raw_flags::IN_USER_CODE)
        .address_space(9)
        .weight_ns(100)
        .register(IP_SP[0], ip)
        .register(IP_SP[1], 0x7000_0000)
        .stack_wanted(64)
        .stack(&[0; 64]);
    take(&mut worker, &mut reader, record.clone());
    take(&mut worker, &mut reader, record);
    let (sampled, stack) = reader.last();
    assert_eq!((sampled.tid, sampled.tgid, sampled.weight_ns, sampled.origin), (pid, pid, 100, origin::ON_CPU));
    assert!(!matches!(stack.end, StackEnd::ProcessGone | StackEnd::NoUserStack), "{stack:?}");
    let innermost = &reader.frames[0];
    assert_eq!((stack.frames[0], innermost.frame_kind), (innermost.id, FrameKind::Native), "{innermost:?}");
    let own = std::env::current_exe().expect("a path");
    let module = reader.modules.iter().find(|module| Some(module.id) == innermost.module).expect("its file");
    assert_eq!(module.path, own.to_string_lossy());
    assert_eq!((reader.sampled.len(), reader.stacks.len()), (2, 1), "defined once");
}

#[test]
fn a_process_that_is_not_there_is_gone() {
    let (mut worker, mut reader) = (Worker::new(None, None), Reader::default());
    take(&mut worker, &mut reader, RawRecord::new(5, origin::ON_CPU, NOBODY, NOBODY).address_space(9).stack(&[0; 64]));
    assert_eq!(reader.last().1.end, StackEnd::ProcessGone);
    assert!(reader.frames.is_empty(), "nothing is known of its code: {:?}", reader.frames);
    take(&mut worker, &mut reader, without_user(origin::ON_CPU, &[]));
    assert_eq!(reader.last().1.end, StackEnd::NoUserStack, "it is no kernel thread either");
}

#[test]
fn registers_that_say_nothing_give_a_stack_of_kernel_frames_only() {
    let pid = std::process::id();
    for flag in [raw_flags::NO_REGISTERS, raw_flags::COMPAT] {
        let (mut worker, mut reader) = (Worker::new(None, None), Reader::default());
        take(&mut worker, &mut reader, RawRecord::new(5, origin::ON_CPU, pid, pid).flags(flag).kernel(&[0x50]));
        assert_eq!((reader.last().1.end, reader.addresses()), (StackEnd::Unknown, vec![0x50]));
    }
}

#[test]
fn of_a_wait_the_frames_before_the_scheduler_are_left_out() {
    let (mut worker, mut reader) = (Worker::new(None, Some(0x100..0x200)), Reader::default());
    let frames = [0x50, 0x150, 0x300];
    take(&mut worker, &mut reader, without_user(origin::WAIT, &frames));
    assert_eq!(reader.addresses(), [0x14f, 0x2ff], "addresses in the calls, not behind them");
    take(&mut worker, &mut reader, without_user(origin::ON_CPU, &frames));
    assert_eq!(reader.addresses(), [0x50, 0x14f, 0x2ff], "of a sample all belong to the thread");
    take(&mut worker, &mut reader, without_user(origin::WAIT, &[0x50, 0x300]));
    assert_eq!(reader.addresses(), [0x4f, 0x2ff], "the scheduler was not seen: nothing is left out");
    let mut hidden = Worker::new(None, None);
    let mut reader = Reader::default();
    take(&mut hidden, &mut reader, without_user(origin::WAIT, &frames));
    assert_eq!(reader.addresses(), [0x4f, 0x14f, 0x2ff], "its address is hidden: nothing is left out");
}

#[test]
fn a_place_that_is_captured_again_says_whether_its_stack_changed() {
    let (mut worker, mut reader) = (Worker::new(None, None), Reader::default());
    let other = RawRecord::new(5, origin::WAIT, 9, NOBODY + 1).flags(raw_flags::NO_USER_SPACE).place(77);
    for record in [
        without_user(origin::WAIT, &[0x50]),
        without_user(origin::WAIT, &[0x60]),
        without_user(origin::WAIT, &[0x60]),
        without_user(origin::ON_CPU, &[0x70]),
        other.kernel(&[0x80]),
        without_user(origin::WAIT, &[0x50]),
    ] {
        take(&mut worker, &mut reader, record);
    }
    let refreshed: Vec<u8> = reader.sampled.iter().map(|sampled| sampled.refreshed).collect();
    assert_eq!(refreshed, [0, 3, 1, 0, 0, 3], "new, changed, the same, no wait, another process's, changed");
    assert!(reader.sampled.iter().all(|sampled| sampled.place == 77));
}

#[test]
fn a_kernel_threads_stack_is_whole_unless_it_fills_the_room() {
    // Process 2, where this test sees the kernel's own processes.
    if !std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd") {
        eprintln!("no kernel threads are seen here: nothing was tested");
        return;
    }
    let (mut worker, mut reader) = (Worker::new(None, None), Reader::default());
    let record = RawRecord::new(5, origin::ON_CPU, 2, 2).flags(raw_flags::NO_USER_SPACE);
    take(&mut worker, &mut reader, record.clone().kernel(&[1, 2]));
    assert_eq!(reader.last().1.end, StackEnd::Whole);
    take(&mut worker, &mut reader, record.kernel(&[7; KERNEL_FRAMES]));
    assert_eq!(reader.last().1.end, StackEnd::Cut);
}

/// Any bytes; half of them look like a whole record, and half of those are of this process.
fn nonsense() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..RAW_STACK_BYTES + 512);
    (bytes, any::<bool>(), any::<bool>()).prop_map(|(mut bytes, whole, own)| {
        if whole {
            bytes.resize(bytes.len().max(RAW_STACK_BYTES), 0x5a);
            bytes[8..10].copy_from_slice(&cpu::RAW_STACK.to_le_bytes());
            let tgid = if own { std::process::id() } else { NOBODY };
            let at = std::mem::offset_of!(RawStack, tgid);
            bytes[at..at + 4].copy_from_slice(&tgid.to_le_bytes());
            // Registers and all are any; but half of the records must get as far as to be unwound.
            let at = std::mem::offset_of!(RawStack, flags);
            bytes[at] &= !(raw_flags::NO_USER_SPACE | raw_flags::NO_REGISTERS | raw_flags::COMPAT) as u8;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_record_holds_it_becomes_one_record_of_the_family(records in proptest::collection::vec(nonsense(), 1..4)) {
        let mut worker = Worker::new(None, Some(0x100..0x200));
        for record in &records {
            let mut batch = Batch::new();
            worker.take(record, &mut batch);
            let families: Vec<Option<u8>> =
                batch.iter().map(|record| header(record).map(|header| family_of(header.kind))).collect();
            let (last, before) = families.split_last().expect("one at least");
            prop_assert_eq!(*last, Some(FamilyId::Cpu as u8));
            prop_assert!(before.iter().all(|family| *family == Some(0)), "definitions only: {:?}", families);
        }
    }
}
