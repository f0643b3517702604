//! Names of frames from memory that the tests wrote.

use proptest::prelude::*;
use tracer_common::python::PythonProcess;

use super::*;
use crate::python::{
    layout::{self, Types, Version},
    testing::Recorded,
};

const CODE: u64 = 0x7000_0000;
const TYPES: Types = Types { code: 0x11_0000, text: 0x22_0000, bytes: 0x33_0000 };
const PID: u32 = 7;

fn interpreter(minor: u8) -> Interpreter {
    let layout = layout::table(minor).expect("a table");
    Interpreter {
        version: Version { minor, micro: None },
        process: PythonProcess { code_tag_mask: 3, ..layout.process },
        eval: Vec::new(),
        tail_calls: false,
        runtime: 0..0,
        gil: None,
        module: crate::process::ModuleId(0),
        collector: Vec::new(),
        code: layout.code,
        types: TYPES,
    }
}

fn put_text(memory: &mut Recorded, interpreter: &Interpreter, address: u64, text: &str) {
    let widest = text.chars().map(u32::from).max().unwrap_or(0);
    let (kind, ascii) = match widest {
        ..0x80 => (1u32, true),
        0x80..0x100 => (1, false),
        0x100..0x1_0000 => (2, false),
        _ => (4, false),
    };
    let at = if ascii { interpreter.code.ascii } else { interpreter.code.wide };
    let mut bytes = vec![0; usize::from(at)];
    bytes[0] = 1;
    bytes[OBJECT_TYPE..][..8].copy_from_slice(&TYPES.text.to_le_bytes());
    bytes[16..24].copy_from_slice(&(text.chars().count() as u64).to_le_bytes());
    bytes[32..36].copy_from_slice(&(kind << 2 | 1 << 5 | u32::from(ascii) << 6).to_le_bytes());
    for character in text.chars() {
        bytes.extend(&u32::from(character).to_le_bytes()[..kind as usize]);
    }
    bytes.resize(bytes.len().max(40), 0);
    memory.put(address, &bytes);
}

fn put_bytes(memory: &mut Recorded, address: u64, data: &[u8]) {
    let mut bytes = vec![0; 32];
    bytes[0] = 1;
    bytes[OBJECT_TYPE..][..8].copy_from_slice(&TYPES.bytes.to_le_bytes());
    bytes[16..24].copy_from_slice(&(data.len() as u64).to_le_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().max(40), 0);
    memory.put(address, &bytes);
}

/// A code object of 40 bytes of instructions, the first half of which is of line 10, the other of line 11.
fn recorded(interpreter: &Interpreter, function: &str) -> Recorded {
    let (name, file, qualified, table, code) =
        (CODE + 0x1000, CODE + 0x4000, CODE + 0x8000, CODE + 0xc000, CODE + 0xd000);
    let mut memory = Recorded::default();
    let layout = &interpreter.code;
    memory.put(CODE, &[0; CODE_BYTES]);
    memory.put_word(CODE, 1);
    memory.put_word(CODE + OBJECT_TYPE as u64, TYPES.code);
    memory.put_word(CODE + OBJECT_SIZE as u64, 20);
    memory.put(CODE + u64::from(layout.first_line), &10i32.to_le_bytes());
    for (offset, target) in
        [(layout.name, name), (layout.file, file), (layout.qualified, qualified), (layout.lines, table)]
    {
        if offset != NONE {
            memory.put_word(CODE + u64::from(offset), target);
        }
    }
    if layout.code != NONE {
        memory.put_word(CODE + u64::from(layout.code), code);
        put_bytes(&mut memory, code, &[0; 40]);
    }
    put_text(&mut memory, interpreter, name, if layout.qualified == NONE { function } else { "short" });
    put_text(&mut memory, interpreter, qualified, function);
    put_text(&mut memory, interpreter, file, "/srv/a.py");
    let lines: &[u8] = match interpreter.lines() {
        layout::Lines::Lnotab => &[20, 1],
        layout::Lines::Ranges => &[20, 0, 20, 1],
        layout::Lines::Locations => &[0x80 | 7, 0, 0x80 | 1, 0, 0x80 | 11 << 3 | 7, 0, 0, 0x80 | 10 << 3 | 1, 0, 0],
    };
    put_bytes(&mut memory, table, lines);
    memory
}

fn at(interpreter: &Interpreter, offset: i64) -> PythonFrame {
    let instruction = match interpreter.version.minor {
        ..=9 => offset as i32 as u32 as u64,
        10 => (offset / 2) as i32 as u32 as u64,
        _ => (CODE + u64::from(interpreter.code.instructions)).wrapping_add_signed(offset),
    };
    PythonFrame { code: CODE | 1, instruction, ..PythonFrame::default() }
}

#[test]
fn a_frame_has_function_file_and_line_in_every_version() {
    for minor in 8..=12 {
        let interpreter = interpreter(minor);
        let mut memory = recorded(&interpreter, "Class.method");
        let mut codes = Codes::new();
        for (offset, line) in [(-2, Some(10)), (0, Some(10)), (18, Some(10)), (20, Some(11)), (38, Some(11))] {
            let name = codes.frame(&mut memory, PID, &interpreter, &at(&interpreter, offset)).expect("a name");
            assert_eq!(
                (&*name.function, &*name.file, name.line),
                ("Class.method", "/srv/a.py", line),
                "3.{minor} at {offset}"
            );
        }
        let beyond = codes.frame(&mut memory, PID, &interpreter, &at(&interpreter, 40));
        assert_eq!(beyond, Err(Missing::NotCode), "3.{minor}: an instruction behind the code");
    }
}

#[test]
fn every_kind_of_string_is_read_and_made_printable() {
    let interpreter = interpreter(12);
    let long = "x".repeat(600);
    let cut = format!("{}…", "x".repeat(512));
    for (text, shown) in [
        ("naïve", "naïve"),
        ("функция", "функция"),
        ("f_𝒳", "f_𝒳"),
        ("a\u{1b}[2J", "a\\x1b[2J"),
        ("", ""),
        (&long, &cut),
    ] {
        let mut memory = recorded(&interpreter, text);
        let name = Codes::new().frame(&mut memory, PID, &interpreter, &at(&interpreter, 0)).expect("a name");
        assert_eq!(&*name.function, shown);
    }
}

#[test]
fn a_code_object_that_was_replaced_is_read_again() {
    let interpreter = interpreter(12);
    let mut codes = Codes::new();
    let mut memory = recorded(&interpreter, "before");
    let frame = at(&interpreter, 0);
    assert_eq!(&*codes.frame(&mut memory, PID, &interpreter, &frame).expect("a name").function, "before");
    put_text(&mut memory, &interpreter, CODE + 0x20000, "after");
    memory.put_word(CODE + u64::from(interpreter.code.qualified), CODE + 0x20000);
    assert_eq!(&*codes.frame(&mut memory, PID, &interpreter, &frame).expect("a name").function, "after");
    memory.put_word(CODE + OBJECT_TYPE as u64, TYPES.text);
    assert_eq!(
        codes.frame(&mut memory, PID, &interpreter, &frame),
        Err(Missing::NotCode),
        "not even what it was before"
    );
    memory.clear();
    assert_eq!(
        &*codes.frame(&mut memory, PID, &interpreter, &frame).expect("a name").function,
        "after",
        "the process has exited"
    );
    codes.forget(PID);
    assert_eq!(codes.frame(&mut memory, PID, &interpreter, &frame), Err(Missing::Unreadable));
}

#[test]
fn what_has_another_mark_than_the_frame_is_not_what_ran() {
    for minor in 8..=12 {
        let interpreter = interpreter(minor);
        let mut codes = Codes::new();
        let mut memory = recorded(&interpreter, "before");
        let frame = PythonFrame { mark: marked(&interpreter, &mut memory), ..at(&interpreter, 0) };
        assert_ne!(frame.mark, 0, "3.{minor}");
        // Freed, and its memory used for another function, before anyone has looked.
        let name = if interpreter.code.qualified == NONE { interpreter.code.name } else { interpreter.code.qualified };
        put_text(&mut memory, &interpreter, CODE + 0x20000, "after");
        // And with other constants.
        let other = |memory: &mut Recorded, at| {
            memory.put_word(CODE + u64::from(name), CODE + at);
            memory.put_word(CODE + 24, u64::from(at == 0x20000));
        };
        let original = CODE + if interpreter.code.qualified == NONE { 0x1000 } else { 0x8000 };
        other(&mut memory, 0x20000);
        let missing = codes.frame(&mut memory, PID, &interpreter, &frame);
        assert_eq!(missing, Err(Missing::NotCode), "3.{minor}: the other's name would be wrong");
        // Looked at in time: then it is known although it has gone since, where marks are no one else's.
        let expected = if minor >= FIRST_WITH_CODE_VERSION { Ok("before") } else { Err(Missing::NotCode) };
        let mut named = |memory: &mut Recorded, frame| {
            codes.frame(memory, PID, &interpreter, frame).map(|name| name.function.to_string())
        };
        other(&mut memory, original - CODE);
        assert_eq!(named(&mut memory, &frame).as_deref(), Ok("before"), "3.{minor}");
        other(&mut memory, 0x20000);
        assert_eq!(named(&mut memory, &frame).as_deref().map_err(|missing| *missing), expected, "3.{minor}");
        other(&mut memory, original - CODE);
        (0..LONG_LIVED).for_each(|_| drop(named(&mut memory, &frame)));
        other(&mut memory, 0x20000);
        assert_eq!(named(&mut memory, &frame).as_deref(), Ok("before"), "3.{minor}: it was there for long");
        let later = PythonFrame { mark: marked(&interpreter, &mut memory), ..frame };
        assert_eq!(named(&mut memory, &later).as_deref(), Ok("after"), "3.{minor}");
    }
}

#[test]
fn what_is_freed_and_not_used_again_yet_is_no_code_either() {
    let interpreter = interpreter(11);
    for (object, references) in [(0, 0), (0, 0x7f12_3456_7890), (0x4000, 0), (0x8000, 0x7f12_3456_7890)] {
        let mut memory = recorded(&interpreter, "f");
        memory.put_word(CODE + object, references);
        let missing = Codes::new().frame(&mut memory, PID, &interpreter, &at(&interpreter, 0));
        assert_eq!(missing, Err(Missing::NotCode), "{object:#x}: {references:#x}");
    }
    for immortal in [0x3fff_ffff, 0xffff_ffff, 0x0004_0000_c000_0000] {
        let mut memory = recorded(&interpreter, "f");
        memory.put_word(CODE, immortal);
        Codes::new().frame(&mut memory, PID, &interpreter, &at(&interpreter, 0)).expect("a name");
    }
}

#[test]
fn the_same_addresses_with_other_names_are_another_code_object() {
    let interpreter = interpreter(11);
    let mut codes = Codes::new();
    let mut memory = recorded(&interpreter, "before");
    let frame = PythonFrame { mark: marked(&interpreter, &mut memory), ..at(&interpreter, 0) };
    assert_eq!(&*codes.frame(&mut memory, PID, &interpreter, &frame).expect("a name").function, "before");
    put_text(&mut memory, &interpreter, CODE + 0x8000, "behind");
    assert_eq!(&*codes.frame(&mut memory, PID, &interpreter, &frame).expect("a name").function, "behind");
    put_text(&mut memory, &interpreter, CODE + 0x4000, "/srv/b.py");
    assert_eq!(&*codes.frame(&mut memory, PID, &interpreter, &frame).expect("a name").file, "/srv/b.py");
}

/// The mark of the code object as the programs read it.
fn marked(interpreter: &Interpreter, memory: &mut Recorded) -> u32 {
    let mut bytes = [0; MARK_WORDS * 8];
    assert!(memory.read(CODE + interpreter.process.code_mark, &mut bytes));
    mark_in(&bytes, &interpreter.process)
}

#[test]
fn within_a_batch_a_code_object_is_read_once() {
    let interpreter = interpreter(11);
    let mut memory = recorded(&interpreter, "f");
    let mut codes = Codes::new();
    let frame = at(&interpreter, 0);
    codes.begin_batch();
    codes.frame(&mut memory, PID, &interpreter, &frame).expect("a name");
    let first = memory.reads;
    codes.frame(&mut memory, PID, &interpreter, &frame).expect("a name");
    assert_eq!(memory.reads, first, "in the same batch");
    codes.begin_batch();
    codes.frame(&mut memory, PID, &interpreter, &frame).expect("a name");
    assert_eq!(memory.reads, first + 3, "the object and its two names in the next one");
}

#[test]
fn what_the_interpreter_made_for_itself_is_no_frame() {
    let interpreter = interpreter(12);
    let mut memory = recorded(&interpreter, "__init__");
    for field in [interpreter.code.name, interpreter.code.file] {
        memory.put_word(CODE + u64::from(field), CODE + 0x8000);
    }
    let mut codes = Codes::new();
    assert_eq!(codes.frame(&mut memory, PID, &interpreter, &at(&interpreter, 0)), Err(Missing::Shim));
    let shim = PythonFrame { owner: 3, ..at(&interpreter, 0) };
    assert_eq!(codes.frame(&mut Recorded::default(), PID, &interpreter, &shim), Err(Missing::Shim));
}

#[test]
fn what_is_kept_is_bounded() {
    let mut codes = Codes::new();
    let interpreter = interpreter(12);
    let mut memory = recorded(&interpreter, "f");
    codes.frame(&mut memory, PID, &interpreter, &at(&interpreter, 0)).expect("a name");
    let (_, code) = codes.young.iter().next().expect("one");
    let large = Code { table: vec![0; TABLE_BYTES].into(), ..code.clone() };
    let small = code.clone();
    for address in 0..200 {
        codes.keep((PID, address, 0), large.clone());
        let bytes: usize = codes.young.values().chain(codes.old.values()).map(Code::cost_bytes).sum();
        assert!(bytes <= MOST_BYTES, "{bytes} after {address}");
    }
    for address in 0..3 * MOST_CODES as u64 {
        codes.keep((PID, address, 0), small.clone());
    }
    assert!(codes.young.len() + codes.old.len() <= MOST_CODES);
    assert_eq!(codes.young_bytes, codes.young.values().map(Code::cost_bytes).sum::<usize>());
}

proptest! {
    #[test]
    fn hostile_memory_gives_a_name_or_a_reason(
        minor in 8u8..13,
        offset in -8i64..64,
        changes in prop::collection::vec((0u64..0x100, any::<u64>()), 0..4),
        deep in prop::collection::vec((0usize..5, 0u64..48, any::<u64>()), 0..4),
    ) {
        let interpreter = interpreter(minor);
        let mut memory = recorded(&interpreter, "f");
        for (at, value) in changes {
            memory.put_word(CODE + at.min(CODE_BYTES as u64 - 8), value);
        }
        for (object, at, value) in deep {
            memory.put(CODE + [0x1000, 0x4000, 0x8000, 0xc000, 0xd000][object] + at.min(32), &value.to_le_bytes());
        }
        let _ = Codes::new().frame(&mut memory, PID, &interpreter, &at(&interpreter, offset));
    }
}
