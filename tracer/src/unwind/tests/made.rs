//! Over files made by the tests byte by byte: rules that no compiler at hand writes, and the other architecture.

use std::sync::Arc;

use tracer_common::stack::{REGISTER_WORDS, raw_flags};

use crate::model::meta::StackEnd;
use crate::process::{AddressSpace, Backing, Bytes, Mapping};
use crate::unwind::{Arch, Outcome, Snapshot, Unwinder, UserFrame};

/// Where code starts in a made file, and in its numbering; each function has 64 bytes.
const CODE: u64 = 0x1000;
/// Where the file is mapped: its numbering plus this.
const BIAS: u64 = 0x5555_0000_0000;
const SP: u64 = 0x7fff_0000_0000;

/// Address in the process of a byte of a function.
fn at(function: u64, byte: u64) -> u64 {
    BIAS + CODE + function * 64 + byte
}

/// A function: its code's first bytes, its augmentation ("zR", "zRS"), and instructions; none: no entry for it.
struct Function {
    code: &'static [u8],
    augmentation: &'static [u8],
    rules: Option<&'static [u8]>,
}

const fn function(rules: &'static [u8]) -> Function {
    Function { code: &[], augmentation: b"zR\0", rules: Some(rules) }
}

fn pad(bytes: &mut Vec<u8>) {
    while !bytes.len().is_multiple_of(8) {
        bytes.push(0);
    }
}

/// A record of `.eh_frame`, with its length in front.
fn record(out: &mut Vec<u8>, content: &[u8]) {
    let mut content = content.to_vec();
    while content.len() % 8 != 4 {
        content.push(0); // DW_CFA_nop
    }
    out.extend(u32::try_from(content.len()).expect("small").to_le_bytes());
    out.extend(content);
}

/// `.eh_frame` at `address`: for each function its own common part and entry.
fn eh_frame(arch: Arch, functions: &[Function], address: u64) -> Vec<u8> {
    let mut out = Vec::new();
    // CFA = rsp + 8, return address at CFA - 8; or CFA = sp + 0, return address in x30.
    let (ra, first): (u8, &[u8]) = match arch {
        Arch::X86_64 => (16, &[0x0c, 7, 8, 0x90, 1]),
        Arch::Aarch64 => (30, &[0x0c, 31, 0]),
    };
    for (index, function) in (0u64..).zip(functions) {
        let Some(rules) = function.rules else { continue };
        let common_at = out.len();
        let mut common = vec![0, 0, 0, 0, 1];
        common.extend(function.augmentation);
        common.extend([1, 0x78, ra, 1, 0x1b]);
        common.extend(first);
        record(&mut out, &common);
        let here = out.len() as u64 + 4;
        let mut entry = Vec::new();
        entry.extend(u32::try_from(here - common_at as u64).expect("small").to_le_bytes());
        let start =
            i64::try_from(CODE + index * 64).expect("small") - i64::try_from(address + here + 4).expect("small");
        entry.extend(i32::try_from(start).expect("near").to_le_bytes());
        entry.extend(64u32.to_le_bytes());
        entry.push(0);
        entry.extend(rules);
        record(&mut out, &entry);
    }
    out.extend([0; 4]);
    out
}

/// An ELF file: one segment, code at [`CODE`], then `.eh_frame_hdr` without a table, then `.eh_frame`.
fn file(arch: Arch, functions: &[Function], entry: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(CODE).expect("small")];
    for function in functions {
        let mut code = function.code.to_vec();
        code.resize(64, 0x90);
        bytes.extend(code);
    }
    pad(&mut bytes);
    let header_at = bytes.len() as u64;
    // Version 1, pcrel sdata4, no count, no table; .eh_frame follows.
    bytes.extend([1, 0x1b, 0xff, 0xff, 4, 0, 0, 0]);
    bytes.extend([0; 4]);
    bytes[usize::try_from(header_at).expect("small") + 4] = 8;
    bytes.extend(eh_frame(arch, functions, header_at + 12));
    let len = bytes.len() as u64;
    let machine: u16 = if arch == Arch::X86_64 { 62 } else { 183 };
    let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    head.extend(3u16.to_le_bytes());
    head.extend(machine.to_le_bytes());
    head.extend(1u32.to_le_bytes());
    for word in [entry, 64, 0] {
        head.extend(word.to_le_bytes());
    }
    head.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 64, 0, 0] {
        head.extend(half.to_le_bytes());
    }
    // PT_LOAD of all, and PT_GNU_EH_FRAME.
    for (kind, flags, offset, len) in [(1u32, 5u32, 0, len), (0x6474_e550, 4, header_at, 12)] {
        head.extend(kind.to_le_bytes());
        head.extend(flags.to_le_bytes());
        for word in [offset, offset, offset, len, len, 8] {
            head.extend(word.to_le_bytes());
        }
    }
    bytes[..head.len()].copy_from_slice(&head);
    bytes
}

fn space(arch: Arch, functions: &[Function], entry: u64) -> AddressSpace {
    let bytes = file(arch, functions, entry);
    let len = bytes.len() as u64;
    let (image, _) = crate::process::test_image(Bytes::Owned(bytes.into())).expect("an image");
    let backing = Backing::Module(Arc::new(crate::process::test_module(Ok(image))));
    let made = Mapping { start: BIAS, end: BIAS + len, offset: 0, executable: true, backing };
    let anonymous = Backing::Anonymous(String::new());
    let jit = Mapping { start: 0x1000, end: 0x2000, offset: 0, executable: true, backing: anonymous };
    AddressSpace { mappings: vec![jit, made], cut: false }
}

/// Unwinds a thread at `ip` with these words on its stack, which ends behind them.
fn unwind(arch: Arch, space: &AddressSpace, ip: u64, set: &[(u8, u64)], words: &[u64]) -> (Outcome, Vec<UserFrame>) {
    let stack: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut registers = [0; REGISTER_WORDS];
    let table = arch.table();
    registers[table.ip_word] = ip;
    for (register, value) in [(table.sp, SP)].iter().chain(set) {
        registers[table.word_of(*register).expect("a word")] = *value;
    }
    let stack_wanted = u32::try_from(stack.len()).expect("small");
    let snapshot = Snapshot { arch, registers: &registers, stack: &stack, stack_wanted, in_syscall: false, flags: 0 };
    let mut frames = Vec::new();
    let outcome = Unwinder::new().unwind(&snapshot, space, &mut frames);
    (outcome, frames)
}

fn addresses(frames: &[UserFrame]) -> Vec<u64> {
    frames.iter().map(|frame| frame.address).collect()
}

/// Nothing more than the common part says; the return address undefined.
const PLAIN: Function = function(&[]);
const START: Function = function(&[0x07, 16]);

#[test]
fn a_plain_chain_ends_where_the_return_address_is_undefined() {
    let space = space(Arch::X86_64, &[PLAIN, PLAIN, START], 0);
    let (outcome, frames) = unwind(Arch::X86_64, &space, at(0, 3), &[], &[at(1, 9), at(2, 5), 0]);
    assert_eq!((outcome.end, outcome.rescued), (StackEnd::Whole, false));
    assert_eq!(addresses(&frames), [at(0, 3), at(1, 8), at(2, 4)]);
    let cfas: Vec<_> = frames.iter().map(|frame| frame.frame_address - SP).collect();
    assert_eq!(cfas, [8, 16, 24], "the outermost has one as well");
}

#[test]
fn a_zero_return_address_ends_a_stack_at_its_end_only() {
    let space = space(Arch::X86_64, &[PLAIN], 0);
    let (outcome, frames) = unwind(Arch::X86_64, &space, at(0, 3), &[], &[at(0, 9), 0, 1]);
    assert_eq!((outcome.end, frames.len()), (StackEnd::Whole, 2));
    let mut words = vec![0; 8192];
    words[0] = at(0, 9);
    let (outcome, frames) = unwind(Arch::X86_64, &space, at(0, 3), &[], &words);
    assert_eq!((outcome.end, frames.len()), (StackEnd::Unknown, 2), "64 KiB before its end it is a wrong turn");
}

#[test]
fn a_wrong_return_address_is_no_end() {
    let space = space(Arch::X86_64, &[PLAIN], 0);
    let (outcome, frames) = unwind(Arch::X86_64, &space, at(0, 3), &[], &[0x1234_5678, 0, 0]);
    assert_eq!((outcome.end, outcome.unknown_address, frames.len()), (StackEnd::Unknown, Some(0x1234_5677), 1));
}

#[test]
fn a_rule_that_leads_downwards_or_in_circles_ends() {
    // CFA = rbx + 8, for ever the same.
    let space = space(Arch::X86_64, &[function(&[0x0c, 3, 8])], 0);
    let (outcome, frames) = unwind(Arch::X86_64, &space, at(0, 3), &[(3, SP + 8)], &[1, at(0, 9), 1, 1]);
    assert_eq!((outcome.end, frames.len()), (StackEnd::Unknown, 2));
}

#[test]
fn the_frame_can_hang_on_any_register() {
    // In the first: CFA = r10 + 0. In the second: CFA = rbx + 16, rbx saved at CFA - 24.
    let functions = [function(&[0x0c, 10, 0]), function(&[0x0c, 3, 16, 0x83, 3]), PLAIN, START];
    let space = space(Arch::X86_64, &functions, 0);
    let words = [7, 8, at(1, 9), 0xb, 0xc, at(2, 9), at(3, 5), 0];
    let (outcome, frames) = unwind(Arch::X86_64, &space, at(0, 3), &[(10, SP + 24), (3, SP + 32)], &words);
    assert_eq!(outcome.end, StackEnd::Whole, "{frames:#x?}");
    assert_eq!(addresses(&frames), [at(0, 3), at(1, 8), at(2, 8), at(3, 4)]);
}

#[test]
fn a_frame_register_that_is_lost_is_no_wrong_frame() {
    // The caller's frame hangs on r10, which no function preserves.
    let space = space(Arch::X86_64, &[PLAIN, function(&[0x0c, 10, 0])], 0);
    let (outcome, frames) = unwind(Arch::X86_64, &space, at(0, 3), &[(10, SP + 16)], &[at(1, 9), at(1, 9), 0]);
    assert_eq!((outcome.end, frames.len()), (StackEnd::Unknown, 2));
}

#[test]
fn without_unwind_information_the_file_is_named() {
    let none = Function { code: &[], augmentation: b"zR\0", rules: None };
    let space = space(Arch::X86_64, &[PLAIN, none], 0);
    let (outcome, frames) = unwind(Arch::X86_64, &space, at(0, 3), &[], &[at(1, 9), 1, 2, 3]);
    assert_eq!((outcome.end, frames.len()), (StackEnd::NoUnwindInfo, 2));
    assert_eq!(outcome.at_module, frames[1].module);
    assert!(outcome.at_module.is_some());
    let (outcome, frames) = unwind(Arch::X86_64, &space, 0x1080, &[], &[1, 2, 3]);
    assert_eq!((outcome.end, outcome.at_module, frames.len()), (StackEnd::NoUnwindInfo, None, 1), "made at run time");
}

#[test]
fn a_gap_is_passed_only_if_the_start_is_reached_behind_it() {
    // call rel32 at the functions' first bytes: a return address is 5 bytes behind their start.
    const CALL: &[u8] = &[0xe8, 0, 0, 0, 0];
    let calls = |rules| Function { code: CALL, augmentation: b"zR\0", rules: Some(rules) };
    let space = space(Arch::X86_64, &[calls(&[]), calls(&[0x07, 16])], 0);
    let (outcome, frames) = unwind(Arch::X86_64, &space, 0x1080, &[], &[1, at(0, 9), 2, at(0, 5), at(1, 5), 3]);
    assert_eq!((outcome.end, outcome.rescued), (StackEnd::Whole, true), "{frames:#x?}");
    assert_eq!(addresses(&frames), [0x1080, at(0, 4), at(1, 4)], "a word that follows no call is passed over");
    assert_eq!(frames.iter().map(|frame| frame.rescued).collect::<Vec<_>>(), [false, true, false]);
    let (outcome, frames) = unwind(Arch::X86_64, &space, 0x1080, &[], &[1, 2, at(0, 5), 7, 3]);
    assert_eq!((outcome.end, outcome.rescued, frames.len()), (StackEnd::NoUnwindInfo, false, 1), "it leads nowhere");
}

#[test]
fn an_entry_point_without_rules_is_a_start() {
    let none = Function { code: &[], augmentation: b"zR\0", rules: None };
    let space = space(Arch::X86_64, &[PLAIN, none], CODE + 64);
    let (outcome, frames) = unwind(Arch::X86_64, &space, at(0, 3), &[], &[at(1, 9), 1, 0x7fff_1234]);
    assert_eq!((outcome.end, frames.len()), (StackEnd::Whole, 2));
}

#[test]
fn a_signals_frame_gives_back_the_interrupted_registers() {
    const RETURN: Function =
        Function { code: &[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05], augmentation: b"zR\0", rules: None };
    // The interrupted function's frame hangs on r10, and it is at its first byte: no byte before it belongs to it.
    let space = space(Arch::X86_64, &[PLAIN, RETURN, function(&[0x0c, 10, 0]), START], 0);
    let mut words = vec![at(1, 0)];
    words.extend([0; 5]); // ucontext's first 40 bytes
    let interrupted_sp = SP + 8 * 64;
    let general = [8, 9, interrupted_sp + 16, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, interrupted_sp, at(2, 0)];
    words.extend(general);
    words.resize(64, 0);
    words.extend([1, at(3, 5), 0]);
    let (outcome, frames) = unwind(Arch::X86_64, &space, at(0, 3), &[], &words);
    assert_eq!(outcome.end, StackEnd::Whole, "{frames:#x?}");
    assert_eq!(addresses(&frames), [at(0, 3), at(1, 0), at(2, 0), at(3, 4)]);
}

#[test]
fn an_arm_chain_with_signed_return_addresses() {
    // A leaf that has saved nothing; then x29 and x30 at CFA - 16 and - 8 of a frame of 32 bytes; then the start.
    let functions = [PLAIN, function(&[0x0e, 32, 0x9d, 2, 0x9e, 1]), function(&[0x07, 30])];
    let space = space(Arch::Aarch64, &functions, 0);
    let signed = 0x1234u64 << 48 | at(2, 8);
    let words = [1, 2, 0x29, signed, 5];
    let (outcome, frames) = unwind(Arch::Aarch64, &space, at(0, 4), &[(30, at(1, 8))], &words);
    assert_eq!(outcome.end, StackEnd::Whole, "{frames:#x?}");
    assert_eq!(addresses(&frames), [at(0, 4), at(1, 7), at(2, 7)]);
    // A caller that says nothing of its return address has lost it: it is not that of the function it called.
    let functions = [PLAIN, function(&[0x0e, 32])];
    let (outcome, frames) =
        unwind(Arch::Aarch64, &self::space(Arch::Aarch64, &functions, 0), at(0, 4), &[(30, at(1, 8))], &words);
    assert_eq!((outcome.end, frames.len()), (StackEnd::Unknown, 2));
}

#[test]
fn what_could_not_be_copied_is_said() {
    let space = space(Arch::X86_64, &[PLAIN], 0);
    let registers = [0; REGISTER_WORDS];
    for (flags, end) in
        [(raw_flags::NO_USER_SPACE, StackEnd::NoUserStack), (raw_flags::NO_REGISTERS, StackEnd::Unreadable)]
    {
        let snapshot = Snapshot {
            arch: Arch::X86_64,
            registers: &registers,
            stack: &[],
            stack_wanted: 0,
            in_syscall: false,
            flags,
        };
        let mut frames = Vec::new();
        let outcome = Unwinder::new().unwind(&snapshot, &space, &mut frames);
        assert_eq!((outcome.end, frames.len()), (end, 0));
    }
}

#[test]
fn entries_of_hostile_length_are_bounded_in_each_and_in_sum() {
    const LONG: Function = function(&[0; 100_000]);
    const TOO_LONG: Function = function(&[0; 140_000]);
    let too_long = space(Arch::X86_64, &[TOO_LONG, START], 0);
    let (outcome, frames) = unwind(Arch::X86_64, &too_long, at(0, 3), &[], &[at(1, 5), 0]);
    assert_eq!((outcome.end, frames.len()), (StackEnd::NoUnwindInfo, 1), "longer than any real one");

    let functions: Vec<_> = (0..60).map(|_| LONG).chain([START]).collect();
    let long = space(Arch::X86_64, &functions, 0);
    let stack: Vec<u8> = (1..61u64).map(|function| at(function, 9)).flat_map(u64::to_le_bytes).collect();
    let mut registers = [0; REGISTER_WORDS];
    (registers[16], registers[19]) = (at(0, 3), SP);
    let snapshot = Snapshot {
        arch: Arch::X86_64,
        registers: &registers,
        stack: &stack,
        stack_wanted: u32::try_from(stack.len()).expect("small"),
        in_syscall: false,
        flags: 0,
    };
    let mut unwinder = Unwinder::new();
    let mut frames = Vec::new();
    let outcome = unwinder.unwind(&snapshot, &long, &mut frames);
    assert_eq!((outcome.end, frames.len()), (StackEnd::NoUnwindInfo, 42), "4 MiB of entries were executed");
    let outcome = unwinder.unwind(&snapshot, &long, &mut frames);
    assert_eq!((outcome.end, frames.len()), (StackEnd::Whole, 61), "those are known now, and the others are found");
}
