//! Stacks of real programs: every one must lead to the thread's start, through the functions that are known to be there.

use super::programs::*;
use super::recorder::{Program, Recorded};
use crate::model::meta::StackEnd;

/// Of a chain f0 calls f1 calls ... the functions that are on the stack must be f0 to fN without a gap, f0 called by `caller`.
fn assert_chain(names: &[String], caller: &str, facts: &str) -> usize {
    let numbers: Vec<(usize, usize)> =
        (names.iter().enumerate()).filter_map(|(at, name)| Some((at, name.strip_prefix('f')?.parse().ok()?))).collect();
    let expected: Vec<usize> = (0..numbers.len()).rev().collect();
    let found: Vec<usize> = numbers.iter().map(|(_, number)| *number).collect();
    assert_eq!(found, expected, "the chain has a gap: {facts}: {names:#?}");
    let caller_at = numbers.last().map_or(0, |(at, _)| at + 1);
    let rest = &names[caller_at..];
    assert!(rest.iter().any(|name| name == caller), "no {caller} below the chain: {facts}: {names:#?}");
    if !numbers.is_empty() {
        assert_eq!(rest.first().map(String::as_str), Some(caller), "{caller} called f0: {facts}: {names:#?}");
    }
    numbers.len()
}

fn facts(recorded: &Recorded) -> String {
    format!(
        "ip {:#x} sp {:#x}, {} bytes, {} wanted",
        recorded.registers[16],
        recorded.registers[19],
        recorded.stack.len(),
        recorded.stack_wanted
    )
}

/// Unwinds at each of many instructions in a row. Gives the names that were innermost, and how many chains were complete.
fn step_through(program: &mut Program, tid: i32, caller: &str, steps: usize) -> (Vec<String>, usize) {
    let (mut innermost, mut complete) = (Vec::new(), 0);
    program.stop(tid);
    for _ in 0..steps {
        let recorded = program.record(tid);
        let (names, outcome, _) = program.unwind(&recorded);
        let facts = facts(&recorded);
        assert_eq!(outcome.end, StackEnd::Whole, "{outcome:?}: {facts}: {names:#?}");
        complete += usize::from(assert_chain(&names, caller, &facts) == 20);
        let first = names.first().cloned().unwrap_or_default();
        if innermost.last() != Some(&first) {
            innermost.push(first);
        }
        program.step(tid);
    }
    program.release(tid);
    (innermost, complete)
}

fn check(source: &str, flags: &[&str], steps: usize, must_meet: &[&str]) {
    let Some(mut program) = Program::start(source, flags) else { return };
    let tid = program.pid();
    let (met, complete) = step_through(&mut program, tid, "main", steps);
    for name in must_meet {
        assert!(met.iter().any(|met| met == name), "{name} was met: {met:?}");
    }
    assert!(complete > 0, "of {steps} stacks some hold all 20 functions");
}

#[test]
fn twenty_functions_without_frame_pointers_at_every_instruction() {
    check(&chain(SPIN, "", ""), &[], 3000, &["leaf", "f19"]);
}

#[test]
fn the_same_in_a_static_program() {
    check(&chain(CALLS, "", ""), &["-static"], 6000, &["leaf", "f0", "f19"]);
}

#[test]
fn the_same_without_a_sorted_table() {
    check(&chain(SPIN, "", ""), &["-Wl,--no-eh-frame-hdr"], 2000, &["leaf"]);
}

#[test]
fn the_same_with_debug_frame_only() {
    let flags = ["-g", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-gz=none"];
    check(&chain(SPIN, "", ""), &flags, 2000, &["leaf"]);
}

#[test]
fn a_callback_out_of_libc() {
    check(&chain(QSORT, "", ""), &[], 6000, &["compare"]);
}

#[test]
fn frames_of_a_size_known_at_run_time() {
    check(&chain(ALLOCA, "", ""), &[], 4000, &["fill", "leaf"]);
}

#[test]
fn realigned_stacks() {
    check(&chain(REALIGNED, "", ""), &["-mavx"], 4000, &["fill", "inner", "leaf"]);
}

#[test]
fn calls_through_the_plt_and_into_the_vdso() {
    check(&chain(CALLS, "", ""), &["-Wl,-z,lazy"], 8000, &["leaf", "vdso:clock_gettime"]);
}

#[test]
fn code_made_at_run_time_is_passed_and_marked() {
    let Some(mut program) = Program::start(&chain(JIT, "", ""), &[]) else { return };
    let tid = program.pid();
    program.stop(tid);
    let (mut rescued, mut others) = (0, 0);
    for _ in 0..3000 {
        let recorded = program.record(tid);
        let (names, outcome, frames) = program.unwind(&recorded);
        assert_eq!(outcome.end, StackEnd::Whole, "{outcome:?}: {}: {names:#?}", facts(&recorded));
        assert_chain(&names, "main", &facts(&recorded));
        let made = names.first().is_some_and(|name| name == "?");
        assert_eq!(outcome.rescued, made, "{names:?}");
        if made {
            assert_eq!((names[1].as_str(), frames[1].rescued), ("leaf", true), "{names:?}");
            rescued += 1;
        } else {
            others += 1;
        }
        program.step(tid);
    }
    assert!(rescued > 500 && others > 500, "{rescued} rescued, {others} others");
}

/// Every instruction from the interrupted one through the handler and back.
#[test]
fn a_signal_handler_and_what_it_interrupted() {
    let source = chain(SPIN, &handler(20), &timer(5000, false));
    let Some(mut program) = Program::start(&source, &[]) else { return };
    let tid = program.pid();
    let (met, _) = step_through(&mut program, tid, "main", 5000);
    assert!(met.iter().any(|name| name == "handled"), "{met:?}");
    program.stop(tid);
    let mut returns = 0;
    for _ in 0..5000 {
        let recorded = program.record(tid);
        let (names, _, _) = program.unwind(&recorded);
        if let Some(at) = names.iter().position(|name| name == "handler") {
            returns += 1;
            let behind = names.get(at + 1).map(String::as_str);
            assert!(matches!(behind, Some("__restore_rt" | "[libc.so.6]")), "the handler returns there: {names:?}");
        }
        program.step(tid);
    }
    assert!(returns > 100, "{returns} stacks were taken in the handler");
}

#[test]
fn a_handler_with_a_stack_of_its_own_says_that_the_rest_was_not_copied() {
    let source = chain(SPIN, &handler(1_000_000), &timer(500, true));
    let Some(mut program) = Program::start(&source, &[]) else { return };
    let tid = program.pid();
    let (mut in_handler, mut taken) = (0, 0);
    // On a busy machine the handler seldom runs when the program is stopped.
    while taken < 200 || (in_handler <= 20 && taken < 5_000) {
        taken += 1;
        std::thread::sleep(std::time::Duration::from_micros(300));
        program.stop(tid);
        let recorded = program.record(tid);
        let (names, outcome, _) = program.unwind(&recorded);
        if names.iter().any(|name| name == "handler") {
            in_handler += 1;
            assert!(matches!(outcome.end, StackEnd::Unreadable | StackEnd::Cut), "{outcome:?}: {names:?}");
        } else {
            assert_eq!(outcome.end, StackEnd::Whole, "{outcome:?}: {names:#?}");
        }
        program.release(tid);
    }
    assert!(in_handler > 20, "{in_handler} of {taken} stacks were taken in the handler");
}

#[test]
fn a_thread_that_computes_and_its_waiting_creator() {
    let before = "void *run(void *p) { for (;;) f0(4); }\n";
    let main = "pthread_t t; pthread_create(&t, 0, run, 0); pthread_join(t, 0);";
    let Some(mut program) = Program::start(&chain(CALLS, before, main), &[]) else { return };
    program.wait_for_threads(2);
    let threads = program.threads();
    step_through(&mut program, threads[1], "run", 3000);
    program.stop(threads[0]);
    let recorded = program.record(threads[0]);
    let (names, outcome, _) = program.unwind(&recorded);
    assert_eq!(outcome.end, StackEnd::Whole, "{outcome:?}: {names:#?}");
    assert!(names.iter().any(|name| name == "main"), "{names:#?}");
}

#[test]
fn a_waiting_thread() {
    for flags in [&[][..], &["-static"]] {
        let Some(mut program) = Program::start(&chain(SLEEP, "", ""), flags) else { return };
        let tid = program.pid();
        for _ in 0..20 {
            program.stop(tid);
            let recorded = program.record(tid);
            let (names, outcome, _) = program.unwind(&recorded);
            assert_eq!(outcome.end, StackEnd::Whole, "{outcome:?}: {}: {names:#?}", facts(&recorded));
            assert_chain(&names, "main", &facts(&recorded));
            program.release(tid);
        }
    }
}

#[test]
fn a_stack_that_is_not_all_there_says_so() {
    let Some(mut program) = Program::start(&chain(SLEEP, "", ""), &[]) else { return };
    let tid = program.pid();
    program.stop(tid);
    let whole = program.record(tid);
    let (names, _, _) = program.unwind(&whole);
    let at_most = names.len();
    for len in (0..whole.stack.len()).step_by(97) {
        let mut part = whole.clone();
        part.stack.truncate(len);
        let (names, outcome, _) = program.unwind(&part);
        assert!(names.len() <= at_most);
        assert!(matches!(outcome.end, StackEnd::Cut | StackEnd::Whole), "{len} bytes: {outcome:?}");
        part.flags |= tracer_common::stack::raw_flags::UNREADABLE;
        let (_, outcome, _) = program.unwind(&part);
        assert!(matches!(outcome.end, StackEnd::Unreadable | StackEnd::Whole), "{len} bytes: {outcome:?}");
    }
}

/// Frames and end of a recursion.
fn recursion(depth: u32, room: u32) -> Option<(usize, usize, StackEnd)> {
    let mut program = Program::start(&deep(depth, room), &[])?;
    let tid = program.pid();
    program.stop(tid);
    let recorded = program.record(tid);
    let (names, outcome, _) = program.unwind(&recorded);
    Some((recorded.stack.len(), names.iter().filter(|name| *name == "down").count(), outcome.end))
}

#[test]
fn a_stack_of_sixty_kilobytes_is_whole_and_a_longer_one_is_cut() {
    let Some((bytes, frames, end)) = recursion(55, 1024) else { return };
    assert_eq!((frames, end), (55, StackEnd::Whole), "{bytes} bytes");
    assert!(bytes > 55 * 1024 && bytes < 64 << 10, "{bytes} bytes");
    let Some((bytes, frames, end)) = recursion(200, 1024) else { return };
    assert_eq!((bytes, end), (64 << 10, StackEnd::Cut), "{frames} frames");
    assert!((58..=65).contains(&frames), "{frames} frames of a kilobyte in 64 KiB");
}

#[test]
fn a_stack_of_too_many_frames_is_cut() {
    let Some((bytes, frames, end)) = recursion(900, 16) else { return };
    // It may still be in the function that wrote the byte.
    let most = crate::unwind::MAX_FRAMES;
    assert!((most - 1..=most).contains(&frames) && end == StackEnd::Cut, "{frames} frames, {end:?}, {bytes} bytes");
}
