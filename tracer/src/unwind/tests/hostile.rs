//! Nonsense of all kinds: registers, stacks, files. It must end soon, and must never panic.

use std::sync::Arc;

use proptest::prelude::*;
use tracer_common::stack::REGISTER_WORDS;

use crate::process::{AddressSpace, Backing, Bytes, Mapping, Modules};
use crate::unwind::{Arch, MAX_FRAMES, Snapshot, Unwinder};

/// This process, whose files have every kind of call frame information.
fn own_space() -> (AddressSpace, Modules) {
    let mut modules = Modules::new();
    let space = AddressSpace::read(std::process::id(), &mut modules).expect("own mappings");
    (space, modules)
}

fn code(space: &AddressSpace) -> Vec<&Mapping> {
    space.mappings.iter().filter(|mapping| mapping.executable && mapping.module().is_some()).collect()
}

/// An address in code, by two random numbers.
fn address_in(code: &[&Mapping], which: usize, at: u64) -> u64 {
    let mapping = code[which % code.len()];
    mapping.start + at % (mapping.end - mapping.start)
}

fn registers(words: &[u64], arch: Arch, ip: u64, sp: u64) -> [u64; REGISTER_WORDS] {
    let mut registers = [0; REGISTER_WORDS];
    registers[..words.len().min(REGISTER_WORDS)].copy_from_slice(&words[..words.len().min(REGISTER_WORDS)]);
    let table = arch.table();
    registers[table.ip_word] = ip;
    registers[table.word_of(table.sp).expect("a word")] = sp;
    registers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_registers_over_any_stack_end_soon(
        words in proptest::collection::vec(any::<u64>(), REGISTER_WORDS),
        slots in proptest::collection::vec((any::<u8>(), any::<usize>(), any::<u64>()), 0..600),
        (which, at, sp) in (any::<usize>(), any::<u64>(), any::<u64>()),
        (wanted, flags, in_syscall, on_arm) in (any::<u32>(), any::<u16>(), any::<bool>(), any::<bool>()),
    ) {
        let (space, _modules) = own_space();
        let code = code(&space);
        let arch = if on_arm { Arch::Aarch64 } else { Arch::X86_64 };
        // Words that look like return addresses, like pointers into the stack, and like nothing.
        let stack: Vec<u8> = (slots.iter())
            .map(|(kind, which, at)| match kind % 4 {
                0 | 1 => address_in(&code, *which, *at),
                2 => sp.wrapping_add(at % 8192),
                _ => *at,
            })
            .flat_map(u64::to_le_bytes)
            .collect();
        let registers = registers(&words, arch, address_in(&code, which, at), sp);
        let snapshot = Snapshot { arch, registers: &registers, stack: &stack, stack_wanted: wanted, in_syscall, flags: flags & !6 };
        let mut frames = Vec::new();
        let mut unwinder = Unwinder::new();
        let start = std::time::Instant::now();
        let outcome = unwinder.unwind(&snapshot, &space, &mut frames);
        let cold = start.elapsed();
        prop_assert!(!frames.is_empty() && frames.len() <= MAX_FRAMES, "{} frames, {outcome:?}", frames.len());
        prop_assert!(cold.as_millis() < 2000, "{cold:?}");
        let first = frames.clone();
        prop_assert_eq!(unwinder.unwind(&snapshot, &space, &mut frames), outcome, "the same again from memory");
        prop_assert_eq!(frames, first);
    }
}

/// A space of one file with these bytes, mapped as its segments say.
fn space_of(bytes: Vec<u8>) -> Option<AddressSpace> {
    let (image, _) = crate::process::test_image(Bytes::Owned(bytes.into())).ok()?;
    let segments = image.segments.clone();
    let module = Arc::new(crate::process::test_module(Ok(image)));
    let mut mappings: Vec<_> = (segments.iter())
        .filter(|segment| segment.len_bytes < 1 << 32 && segment.address < 1 << 40)
        .map(|segment| Mapping {
            start: segment.address,
            end: segment.address + segment.len_bytes,
            offset: segment.offset,
            executable: true,
            backing: Backing::Module(module.clone()),
        })
        .filter(|mapping| mapping.start < mapping.end)
        .collect();
    mappings.sort_by_key(|mapping| mapping.start);
    Some(AddressSpace { mappings, cut: false })
}

/// Where the sections with call frame information lie in a file: from its first to its last byte.
fn frame_sections(bytes: &[u8]) -> (usize, usize) {
    use object::{Object, ObjectSection};
    let file = object::File::parse(bytes).expect("an ELF file");
    let ranges =
        [".eh_frame_hdr", ".eh_frame"].map(|name| file.section_by_name(name).and_then(|section| section.file_range()));
    let ranges: Vec<_> = ranges.into_iter().flatten().collect();
    let start = ranges.iter().map(|range| range.0).min().expect("a section");
    let end = ranges.iter().map(|range| range.0 + range.1).max().expect("a section");
    (usize::try_from(start).expect("small"), usize::try_from(end).expect("small"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_call_frame_information_is_stood(
        damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..200),
        headers in proptest::collection::vec((0usize..1024, any::<u8>()), 0..3),
        slots in proptest::collection::vec(any::<u64>(), 0..200),
        starts in proptest::collection::vec(any::<u64>(), 1..20),
        no_table: bool,
    ) {
        let mut bytes = std::fs::read("/bin/sleep").expect("a program");
        let (first, last) = frame_sections(&bytes);
        if no_table {
            bytes[first] = 0;
        }
        for (at, value) in damage {
            bytes[first + at % (last - first)] = value;
        }
        for (at, value) in headers {
            bytes[at] = value;
        }
        let Some(space) = space_of(bytes) else { return Ok(()) };
        if space.mappings.is_empty() {
            return Ok(());
        }
        let code: Vec<_> = space.mappings.iter().collect();
        let stack: Vec<u8> = slots.iter().map(|at| address_in(&code, 0, *at)).flat_map(u64::to_le_bytes).collect();
        let mut unwinder = Unwinder::new();
        let mut frames = Vec::new();
        for at in starts {
            let registers = registers(&[0x7000; REGISTER_WORDS], Arch::X86_64, address_in(&code, at as usize, at), 0x7000);
            let snapshot = Snapshot {
                arch: Arch::X86_64,
                registers: &registers,
                stack: &stack,
                stack_wanted: u32::try_from(stack.len()).expect("small"),
                in_syscall: at & 1 != 0,
                flags: 0,
            };
            unwinder.unwind(&snapshot, &space, &mut frames);
            prop_assert!(frames.len() <= MAX_FRAMES);
        }
    }
}

#[test]
fn a_return_address_that_calls_itself_ends() {
    // Every word is the same return address: the walk goes up once through the copy and stops at its end.
    let (space, _modules) = own_space();
    let code = code(&space);
    let mut longest = (0, std::time::Duration::ZERO);
    for at in (0..400_000u64).step_by(97) {
        let ip = address_in(&code, 0, at);
        let stack: Vec<u8> = std::iter::repeat_n(ip, 8192).flat_map(u64::to_le_bytes).collect();
        let registers = registers(&[0x7fff_0000; 16], Arch::X86_64, ip, 0x7fff_0000);
        let snapshot = Snapshot {
            arch: Arch::X86_64,
            registers: &registers,
            stack: &stack,
            stack_wanted: 65_536,
            in_syscall: false,
            flags: 0,
        };
        let mut frames = Vec::new();
        let start = std::time::Instant::now();
        Unwinder::new().unwind(&snapshot, &space, &mut frames);
        longest = longest.max((frames.len(), start.elapsed()));
        assert!(frames.len() <= MAX_FRAMES);
    }
    assert!(longest.0 > 3, "some walk goes on for a while: {longest:?}");
}

#[test]
fn a_32_bit_thread_has_its_innermost_frame_only() {
    let (space, _modules) = own_space();
    let code = code(&space);
    let registers = registers(&[0; 16], Arch::X86_64, code[0].start, 0x1000);
    let flags = tracer_common::stack::raw_flags::COMPAT;
    let snapshot = Snapshot {
        arch: Arch::X86_64,
        registers: &registers,
        stack: &[0; 64],
        stack_wanted: 64,
        in_syscall: false,
        flags,
    };
    let mut frames = Vec::new();
    let outcome = Unwinder::new().unwind(&snapshot, &space, &mut frames);
    assert_eq!((frames.len(), outcome.end), (1, crate::model::meta::StackEnd::NoUnwindInfo), "{outcome:?}");
}
