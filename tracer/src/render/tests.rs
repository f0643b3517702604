//! What a person sees, on constructed runs.

use super::text::{Style, render};
use crate::model::report::{Overhead, Report, Row};
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
fn who_held_and_who_woke_is_told_at_any_width() {
    for width in [60, 80, 100, 200] {
        let report = testing::contended_report();
        let text = render(&report, Style { width, colour: false });
        assert!(text.contains("held by main (10)"), "width {width}:\n{text}");
        assert!(text.contains("woken by main (10)"), "width {width}:\n{text}");
    }
}

#[test]
fn kernel_threads_are_no_long_waits_unless_there_is_nothing_else() {
    let waits = |text: &str| text.split("Longest waits").nth(1).unwrap_or_default().to_owned();
    let style = Style { width: 100, colour: false };
    let mut report = testing::contended_report();
    let mut kernel = |keep: bool| {
        for row in &mut report.threads {
            let Row::Thread(thread) = row else { continue };
            let mut wait = thread.waits[0].clone();
            (wait.state, wait.detail) = ("other".to_owned(), Some("kernel".to_owned()));
            wait.total_s *= 2.0;
            if keep {
                thread.waits.push(wait);
            } else {
                thread.waits = vec![wait];
            }
        }
        waits(&render(&report, style))
    };
    let with_others = kernel(true);
    assert!(with_others.contains("futex") && !with_others.contains("other kernel"), "{with_others}");
    let alone = kernel(false);
    assert!(alone.contains("other kernel"), "{alone}");
}

#[test]
fn coverage_is_short_when_nothing_was_lost_and_says_how_old_its_counters_are() {
    let words = |report: &Report| {
        let text = render(report, Style { width: 100, colour: false });
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let mut report = testing::contended_report();
    report.coverage.counters_age_s = Some(0.4);
    let text = words(&report);
    assert!(text.contains("counters as of 400 ms before the end"), "{text}");
    report.coverage.counters_age_s = None;
    let family = &mut report.coverage.families[0];
    (family.seen, family.lost) = (family.seen.map(|seen| seen + 7), Some(7));
    family.by_reason.insert("ring_full".to_owned(), 7);
    let text = words(&report);
    assert!(text.contains("7 lost (map_full 0, recursion 0, ring_full 7)"), "{text}");
}

#[test]
fn starting_up_is_told_apart_from_tracing() {
    let mut report = testing::contended_report();
    let overhead = Overhead { tracer_cpu_s: 0.15, startup_cpu_s: Some(0.13), ..Overhead::default() };
    report.overhead = Some(overhead.clone());
    let text = render(&report, Style { width: 200, colour: false });
    assert!(text.contains("tracer 20.0 ms of CPU time") && text.contains("130 ms before it to start up"), "{text}");
    report.overhead = Some(Overhead { startup_cpu_s: None, ..overhead });
    let text = render(&report, Style { width: 200, colour: false });
    assert!(text.contains("tracer 150 ms of CPU time, its start-up included"), "{text}");
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

#[test]
fn functions_that_compute_and_wait_are_told_at_any_width() {
    for width in [60, 80, 100, 200] {
        let report = testing::analyse(&testing::stacks::stacked_run());
        let text = render(&report, Style { width, colour: false });
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "Where CPU time goes: 6.00 s sampled",
            "67 %",
            "train.py:40",
            "Where threads wait: 4.00 s in all",
            "Loader.get",
        ] {
            assert!(text.contains(part), "width {width}: {part} is missing in\n{text}");
        }
        for part in
            ["600 samples at 100 Hz stand for 6.00 s on a CPU, 6.00 s measured", "100 % of 600 sampled stacks whole"]
        {
            assert!(words.contains(part), "width {width}: {part} is missing in\n{text}");
        }
        for line in text.lines() {
            assert!(
                line.chars().count() <= width.max(80),
                "{} columns instead of {width}: {line}",
                line.chars().count()
            );
        }
    }
}

#[test]
fn a_long_or_hostile_name_does_not_break_the_tables() {
    use crate::model::event::Meta;
    use crate::model::meta::{FrameKind, FrameRecord};
    use testing::stacks as made;
    let mut events = made::stacked_run();
    for (id, function) in [(600, "evil\u{1b}[2J\n\u{202e}name".to_owned()), (601, "very_long::".repeat(300))] {
        let frame = FrameRecord {
            id,
            frame_kind: FrameKind::Python,
            function: Some(function),
            file: Some("/a/".repeat(400)),
            line: Some(u32::MAX),
            ..FrameRecord::default()
        };
        events.push(testing::meta_event(0, Meta::Frame(frame)));
        events.push(made::stack(u64::from(id), &[id]));
        events.push(made::sample(made::START + 50, 10, 10, u64::from(id), 1_000_000_000));
    }
    let text = render(&testing::analyse(&events), Style { width: 80, colour: false });
    assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
    assert!(
        text.contains("name") && text.contains("...") && text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
}
