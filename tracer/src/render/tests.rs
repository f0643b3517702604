//! What a person sees, on constructed runs.

use super::text::{Style, render};
use crate::testing;

#[test]
fn the_answer_comes_first_and_coverage_is_always_there() {
    let text = render(&testing::contended_report(), Style { width: 100, colour: false });
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "Verdict: bottleneck");
    assert!(lines[1].contains("worker"), "{text}");
    for part in [
        "fix ",
        "prove ",
        "evidence ",
        "Threads: 2",
        "Longest waits",
        "Locks that had a holder",
        "Coverage: sched ready",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("events seen, all written, 0 lost, all decoded"), "{text}");
    assert!(!text.contains('\x1b'), "no colour was asked for");
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for width in [80, 120] {
        let text = render(&testing::contended_report(), Style { width, colour: false });
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{} columns instead of {width}: {line}", line.chars().count());
        }
    }
}

#[test]
fn colours_change_no_character() {
    let plain = render(&testing::contended_report(), Style { width: 100, colour: false });
    let coloured = render(&testing::contended_report(), Style { width: 100, colour: true });
    assert_ne!(plain, coloured);
    let mut stripped = coloured;
    for code in ["1", "2", "31", "32", "33", "0"] {
        stripped = stripped.replace(&format!("\x1b[{code}m"), "");
    }
    assert_eq!(plain, stripped);
}

#[test]
fn an_empty_recording_has_a_text_too() {
    let report = crate::pipeline::analysis::Analysis::new(Default::default()).finish();
    let text = render(&report, Style { width: 80, colour: false });
    assert!(text.starts_with("Verdict: inconclusive"), "{text}");
    assert!(text.contains("Coverage: "), "{text}");
}
