//! Merging by hand-made stacks, and what holds for any.

use proptest::prelude::*;
use tracer_common::python::{PythonFrame, PythonProcess, walk};

use super::*;
use crate::{
    process::ModuleId,
    python::layout::{CodeLayout, Types, Version},
};

const EVAL: u64 = 0x1000;
const SHIM: u8 = 3;

fn interpreter(minor: u8, tail_calls: bool) -> Interpreter {
    Interpreter {
        version: Version { minor, micro: None },
        process: PythonProcess::default(),
        eval: vec![EVAL..EVAL + 0x100, 0x3000..0x3010],
        tail_calls,
        runtime: 0..0,
        gil: None,
        module: crate::process::ModuleId(0),
        collector: Vec::new(),
        code: CodeLayout::default(),
        types: Types::default(),
    }
}

/// `e`: the evaluator, `c`: its cold part, anything else: another function.
fn native(names: &str) -> Vec<UserFrame> {
    let address = |name| match name {
        'e' => EVAL + 8,
        'c' => 0x3008,
        other => 0x10_0000 + u64::from(u32::from(other)),
    };
    let frame = |name| UserFrame {
        address: address(name),
        frame_address: 0,
        module: Some(ModuleId(1)),
        module_address: 0,
        rescued: false,
    };
    names.chars().map(frame).collect()
}

fn python(owners: &[u8]) -> Vec<PythonFrame> {
    owners.iter().map(|owner| PythonFrame { owner: *owner, ..PythonFrame::default() }).collect()
}

/// The merged stack as text: native names as they are, Python frames as digits; and whether it is a misfit.
fn merged(names: &str, whole: bool, owners: &[u8], end: u8, interpreter: &Interpreter) -> (String, bool) {
    let (frames, misfit) = merge(&native(names), whole, &python(owners), end, interpreter);
    let text = frames.iter().map(|frame| match frame {
        Merged::Native(index) => names.chars().nth(*index).expect("an index in the list"),
        Merged::Python(index) => char::from(b'0' + *index as u8),
    });
    (text.collect(), misfit)
}

fn fits(text: &str) -> (String, bool) {
    (text.to_owned(), false)
}

#[test]
fn before_3_11_each_frame_takes_its_evaluators_place() {
    let old = interpreter(10, false);
    assert_eq!(merged("sexecm", true, &[0, 0, 0], walk::WHOLE, &old), fits("s0x12m"), "also one in its cold part");
}

#[test]
fn in_3_11_a_run_ends_at_an_entry() {
    let interpreter = interpreter(11, false);
    assert_eq!(merged("sexem", true, &[0, 0, 1, 0, 1], walk::WHOLE, &interpreter), fits("s012x34m"));
}

#[test]
fn from_3_12_on_a_run_ends_at_a_shim_which_is_dropped() {
    let interpreter = interpreter(12, false);
    assert_eq!(merged("sexem", true, &[0, 1, SHIM, 0, SHIM], walk::WHOLE, &interpreter), fits("s01x3m"));
    assert_eq!(
        merged("sexem", true, &[SHIM, 0, SHIM], walk::WHOLE, &interpreter),
        fits("sex1m"),
        "an evaluator that has only begun stays"
    );
}

#[test]
fn an_evaluator_whose_frame_is_not_linked_yet_stays() {
    let interpreter = interpreter(12, false);
    assert_eq!(merged("exeyem", true, &[0, SHIM, 0, SHIM], walk::WHOLE, &interpreter), fits("ex0y2m"));
}

#[test]
fn a_cut_native_stack_is_aligned_from_the_inner_end() {
    let interpreter = interpreter(12, false);
    let owners = [0, SHIM, 0, SHIM, 0, SHIM];
    assert_eq!(merged("sexe", false, &owners, walk::WHOLE, &interpreter), fits("s0x24"), "the outer one follows");
    assert_eq!(merged("s", false, &owners, walk::WHOLE, &interpreter), fits("s024"));
}

#[test]
fn cut_python_frames_are_aligned_from_the_inner_end() {
    let interpreter = interpreter(12, false);
    assert_eq!(merged("sexeyem", true, &[0, SHIM, 0, 0], walk::CUT, &interpreter), fits("s0x23yem"));
    assert_eq!(merged("sexem", true, &[], walk::UNREADABLE, &interpreter), fits("sexem"));
}

#[test]
fn a_gap_in_a_whole_native_stack_is_a_misfit() {
    let interpreter = interpreter(12, false);
    assert_eq!(
        merged("sexm", true, &[0, SHIM, 0, SHIM], walk::WHOLE, &interpreter),
        ("s02xm".to_owned(), true),
        "the outer ends meet, the rest stands before them"
    );
    assert_eq!(merged("sxm", true, &[0, SHIM], walk::WHOLE, &interpreter), ("sxm0".to_owned(), true));
}

#[test]
fn with_tail_calls_the_frame_that_the_evaluator_called_belongs_to_it() {
    let interpreter = interpreter(14, true);
    assert_eq!(merged("shexhem", true, &[0, SHIM, 0, SHIM], walk::WHOLE, &interpreter), fits("s0x2m"));
    assert_eq!(merged("hem", true, &[0, SHIM], walk::WHOLE, &interpreter), fits("0m"));
    assert_eq!(merged("em", true, &[0, SHIM], walk::WHOLE, &interpreter), fits("0m"));
    assert_eq!(merged("heem", true, &[0, SHIM, 0, SHIM], walk::WHOLE, &interpreter), fits("02m"));
}

fn is_evaluators(name: char) -> bool {
    matches!(name, 'e' | 'c')
}

proptest! {
    #[test]
    fn all_frames_appear_in_order_and_once(
        names in "[abec]{0,24}",
        whole: bool,
        owners in prop::collection::vec(0u8..5, 0..24),
        end in 0u8..6,
        minor in 8u8..15,
    ) {
        let interpreter = interpreter(minor, false);
        let frames = python(&owners);
        let (merged, _) = merge(&native(&names), whole, &frames, end, &interpreter);
        let natives: Vec<usize> = merged.iter().filter_map(|frame| match frame {
            Merged::Native(index) => Some(*index),
            Merged::Python(_) => None,
        }).collect();
        let pythons: Vec<usize> = merged.iter().filter_map(|frame| match frame {
            Merged::Python(index) => Some(*index),
            Merged::Native(_) => None,
        }).collect();
        let functions: Vec<usize> = (0..frames.len()).filter(|index| !interpreter.is_shim(&frames[*index])).collect();
        prop_assert_eq!(pythons, functions, "each Python frame but shims");
        prop_assert!(natives.is_sorted_by(|a, b| a < b), "{:?}", natives);
        let others = |list: &[usize]| list.iter().copied().filter(|index| !is_evaluators(names.as_bytes()[*index].into())).collect::<Vec<_>>();
        prop_assert_eq!(others(&natives), others(&(0..names.len()).collect::<Vec<_>>()), "each native frame but evaluators");
    }
}
