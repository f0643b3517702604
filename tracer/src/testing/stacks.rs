//! Streams of a run with stacks: Python over native code over the kernel, samples and waits with places.

use tracer_common::record::cpu;
use tracer_common::stack::{Sampled, origin};

use super::*;

const MS: u64 = 1_000_000;
/// When it starts.
pub const START: u64 = 1_000_000_000;
/// Files: the interpreter, libc, an extension, a program without symbols.
pub const MODULES: [&str; 4] = ["/usr/bin/python3.11", "/lib/libc.so.6", "/lib/fast.so", "/opt/app"];

/// A file.
pub fn module(id: u32, path: &str) -> Event {
    let build_id = Some(format!("b{id}"));
    meta_event(0, Meta::Module(ModuleRecord { id, path: path.to_owned(), build_id, deleted: false }))
}

/// An address in a file, named by `symbol`.
pub fn native(id: u32, module: u32, address: u64) -> Event {
    let frame =
        FrameRecord { id, frame_kind: FrameKind::Native, module: Some(module), address, ..FrameRecord::default() };
    meta_event(0, Meta::Frame(frame))
}

/// An address in the kernel.
pub fn kernel(id: u32, address: u64) -> Event {
    meta_event(0, Meta::Frame(FrameRecord { id, frame_kind: FrameKind::Kernel, address, ..FrameRecord::default() }))
}

/// A Python function at a line.
pub fn python(id: u32, function: &str, file: &str, line: u32) -> Event {
    let frame = FrameRecord {
        id,
        frame_kind: FrameKind::Python,
        function: Some(function.to_owned()),
        file: Some(file.to_owned()),
        line: Some(line),
        ..FrameRecord::default()
    };
    meta_event(0, Meta::Frame(frame))
}

/// A function, and its file and line.
pub type Named<'a> = (&'a str, Option<(&'a str, u32)>);

/// Names of a frame, the innermost inlined one first.
pub fn symbol(frame: u32, names: &[Named]) -> Event {
    let last = names.len().saturating_sub(1);
    let name = |(index, (function, place)): (usize, &Named)| SymbolName {
        function: (*function).to_owned(),
        file: place.map(|(file, _)| file.to_owned()),
        line: place.map(|(_, line)| line),
        inlined: index < last,
    };
    let names = names.iter().enumerate().map(name).collect();
    meta_event(0, Meta::Symbol(SymbolRecord { frame, names, missing: None }))
}

/// A whole stack of these frames, innermost first.
pub fn stack(id: u64, frames: &[u32]) -> Event {
    meta_event(
        0,
        Meta::Stack(StackRecord { id, frames: frames.to_vec(), end: StackEnd::Whole, ..StackRecord::default() }),
    )
}

/// A sample of a thread on a CPU.
pub fn sample(ts_ns: u64, tgid: u32, tid: u32, stack: u64, weight_ns: u64) -> Event {
    Event::Sampled(Sampled {
        header: header(cpu::SAMPLED, ts_ns, 0),
        tid,
        tgid,
        stack,
        weight_ns,
        place: 0,
        origin: origin::ON_CPU,
        refreshed: 0,
        reserved: 0,
    })
}

/// A stack taken as a wait began.
pub fn capture(ts_ns: u64, tgid: u32, tid: u32, stack: u64, place: u32, refreshed: u8) -> Event {
    let Event::Sampled(sampled) = sample(ts_ns, tgid, tid, stack, 0) else { unreachable!("as it was made") };
    Event::Sampled(Sampled { place, origin: origin::WAIT, refreshed, ..sampled })
}

/// A stack of a thread that ends the wait of `wakee`, process and thread, at a place.
pub fn waker(ts_ns: u64, (tgid, tid): (u32, u32), stack: u64, wakee: (u32, u32), place: u32) -> Event {
    let who = u64::from(wakee.0) << 32 | u64::from(wakee.1);
    let Event::Sampled(sampled) = sample(ts_ns, tgid, tid, stack, who) else { unreachable!("as it was made") };
    Event::Sampled(Sampled { place, origin: origin::WAKER, ..sampled })
}

/// The switch, with the place of the wait that it begins.
pub fn at_place(mut switch: Switch, place: u32) -> Switch {
    let [low, middle, high, _] = place.to_le_bytes();
    switch.place = [low, middle, high];
    switch
}

/// What the stacks of [`stacked_run`] are made of. Frames: 1 to 3 Python, 10 the evaluator's caller, 11 libc's lock, 12 fast
/// code in an extension with an inlined function, 13 `main`, 20 the kernel's wait, 30 an address that nothing names.
pub fn definitions() -> Vec<Event> {
    let mut events: Vec<Event> = MODULES.iter().zip(1..).map(|(path, id)| module(id, path)).collect();
    events.extend([
        python(1, "Trainer.step", "/src/me/train.py", 40),
        python(2, "main", "/src/me/train.py", 90),
        python(3, "Loader.get", "/src/me/data/loader.py", 7),
        native(10, 1, 0x1000),
        native(11, 2, 0x2000),
        native(12, 3, 0x3000),
        native(13, 1, 0x1100),
        kernel(20, 0xffff_8000_0000),
        native(30, 4, 0x4000),
        native(31, 4, 0x4100),
        symbol(10, &[("Py_RunMain", None)]),
        symbol(11, &[("pthread_mutex_lock", None)]),
        symbol(12, &[("axpy", Some(("/src/fast.c", 3))), ("kernel_loop", Some(("/src/fast.c", 30)))]),
        symbol(13, &[("main", None)]),
        symbol(20, &[("futex_wait_queue", None)]),
        // 100: computing below Trainer.step; 101: the same thread waits in Loader.get; 102: native code; 103: without names.
        stack(100, &[12, 1, 2, 10, 13]),
        stack(101, &[20, 11, 3, 2, 10, 13]),
        stack(102, &[20, 11, 12, 13]),
        stack(103, &[30, 31]),
    ]);
    events
}

/// The family `cpu` is ready.
pub fn cpu_ready() -> Event {
    meta_event(
        START,
        Meta::Families(FamilyRecord { family: "cpu".to_owned(), status: "ready".to_owned(), reason: None }),
    )
}

/// Two threads of process 10 for 5 s, as in [`contended_run`]: of each 100 ms `main` (tid 10) computes 80 and waits 20 ms at
/// place 7, `worker` (tid 11) computes 40 and waits 60 ms at place 8. Samples of 10 ms, stacks of waits as they were taken.
pub fn stacked_run() -> Vec<Event> {
    let mut events = contended_run(50);
    for event in &mut events {
        if let Event::SwitchFutex(futex) = event {
            let place = if futex.switch.prev_tid == 10 { 7 } else { 8 };
            futex.switch = at_place(futex.switch, place);
        }
    }
    let end = events.split_off(events.len() - 2);
    events.insert(3, cpu_ready());
    events.extend(definitions());
    for round in 0..50u64 {
        for slot in 0..8 {
            events.push(sample(START + (round * 100 + slot * 10 + 1) * MS, 10, 10, 100, 10 * MS));
        }
        for slot in 0..4 {
            events.push(sample(START + (round * 100 + slot * 10 + 2) * MS, 10, 11, 102, 10 * MS));
        }
    }
    // At place 7 always the same stack; at place 8 three of four times the one, once the other.
    events.push(capture(START + 75 * MS, 10, 10, 101, 7, 0));
    for (number, stack) in [101, 101, 103, 101].into_iter().enumerate() {
        let refreshed = [0, 1, 3, 3][number];
        events.push(capture(START + (number as u64 * 100 + 10) * MS, 10, 11, stack, 8, refreshed));
    }
    events.extend(end);
    events
}
