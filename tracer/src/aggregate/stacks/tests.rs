//! Samples, waits with places and definitions to the report, on constructed streams.

use proptest::prelude::*;

use crate::export::to_json;
use crate::model::event::{Event, Meta};
use crate::model::meta::{FrameKind, FrameRecord, ModuleRecord, StackEnd, StackRecord, SymbolRecord};
use crate::model::report::{Report, Row, Stacks, Thread};
use crate::pipeline::analysis::{Analysis, Options};
use crate::pipeline::batch::Batch;
use crate::pipeline::order::{Order, passes};
use crate::testing::{self, stacks as made};

fn section(report: &Report) -> &Stacks {
    report.stacks.as_ref().expect("the family cpu ran")
}

fn thread(report: &Report, tid: u32) -> &Thread {
    let of_tid = |row: &&Row| matches!(row, Row::Thread(thread) if thread.tid == tid);
    match report.threads.iter().find(of_tid) {
        Some(Row::Thread(thread)) => thread,
        _ => panic!("thread {tid} has no row"),
    }
}

#[track_caller]
fn close(what: &str, value: f64, expected: f64) {
    assert!((value - expected).abs() < 1e-6, "{what}: {value} instead of {expected}");
}

#[test]
fn without_the_family_there_is_no_section() {
    let report = testing::contended_report();
    assert!(report.stacks.is_none() && !to_json(&report).expect("a report").contains("\"functions\""));
}

#[test]
fn times_add_up_and_samples_stand_beside_what_was_measured() {
    let report = testing::analyse(&made::stacked_run());
    let stacks = section(&report);
    assert_eq!((stacks.samples, stacks.captures, stacks.recaptured, stacks.changed), (600, 5, 3, 2));
    close("Hz", stacks.sample_hz.expect("samples"), 100.0);
    close("sampled", stacks.sampled_s, 6.0);
    let measured = report.cpu.as_ref().expect("sched").on_cpu_s;
    close("measured", stacks.on_cpu_s.expect("sched"), measured);
    close("their ratio", stacks.sampled_over_on_cpu.expect("both"), 6.0 / measured);
    let waited: f64 = report
        .threads
        .iter()
        .filter_map(|row| if let Row::Thread(thread) = row { Some(thread) } else { None })
        .flat_map(|thread| &thread.waits)
        .map(|wait| wait.total_s)
        .sum();
    close("waited", stacks.waited_s, waited);
    let without: f64 = stacks.waited_without_stack.values().sum();
    close("with and without a stack", stacks.waited_with_stack_s + without, stacks.waited_s);
    close("listed waits", stacks.waits.iter().map(|wait| wait.total_s).sum(), waited);
    for row in &stacks.quality {
        assert_eq!(row.ends.values().sum::<u64>(), row.stacks, "{row:?}");
    }
    let self_s: f64 = stacks.functions.iter().map(|function| function.self_s).sum();
    close("functions by self time", self_s, 6.0);
}

#[test]
fn the_time_of_a_place_is_split_by_how_often_each_stack_was_taken() {
    let report = testing::analyse(&made::stacked_run());
    let stacks = section(&report);
    let worker = thread(&report, 11);
    let wait = &worker.waits[0];
    let times: Vec<(&str, f64)> = wait
        .places
        .iter()
        .map(|place| (place.location.function.as_deref().expect("a function"), place.total_s))
        .collect();
    assert_eq!(times.len(), 2, "{times:?}");
    assert_eq!((times[0].0, times[1].0), ("Loader.get", "app+0x4000"));
    close("three quarters", times[0].1, wait.total_s * 0.75);
    close("a quarter", times[1].1, wait.total_s * 0.25);
    let row = stacks
        .waits
        .iter()
        .find(|row| row.whose.tid == Some(11) && row.location.unsymbolised)
        .expect("the unnamed one");
    close("in the list", row.total_s, wait.total_s * 0.25);
    assert_eq!((row.state.as_str(), row.whose.thread.as_deref()), ("futex", Some("worker")));
    let shown = stacks.stacks.iter().find(|stack| row.stacks.contains(&stack.id)).expect("its stack is shown");
    assert_eq!(shown.frames[0].build_id.as_deref(), Some("b4"), "an address without a name has its build id");
}

#[test]
fn the_time_of_a_wait_is_split_by_where_those_were_that_ended_it() {
    let mut events = made::stacked_run();
    let at = events.iter().position(|event| matches!(event, Event::Sampled(_))).expect("stacks");
    let wakers = [100, 100, 103, 100]
        .map(|stack| made::waker(testing::stacks::START + 80_000_000, (10, 10), stack, (10, 11), 8));
    events.splice(at..at, wakers);
    let without = testing::analyse(&made::stacked_run());
    let report = testing::analyse(&events);
    let (wait, before) = (&thread(&report, 11).waits[0], &thread(&without, 11).waits[0]);
    assert!(before.woken_in.is_empty(), "{before:?}");
    assert_eq!(wait.places, before.places, "who ends a wait is not where it was");
    let sum: f64 = wait.woken_in.iter().map(|time| time.total_s).sum();
    close("all of it", sum, wait.total_s);
    close("three quarters", wait.woken_in[0].total_s, wait.total_s * 0.75);
    assert_eq!(section(&report).captures, section(&without).captures, "they are counted by themselves");
    assert!(thread(&report, 10).waits.iter().all(|wait| wait.woken_in.is_empty()), "only of the wait that they ended");
}

#[test]
fn a_place_that_was_never_captured_has_no_stack_and_says_so() {
    let mut events = made::stacked_run();
    events.retain(|event| !matches!(event, Event::Sampled(sampled) if sampled.place == 8));
    let report = testing::analyse(&events);
    let stacks = section(&report);
    close("not captured", stacks.waited_without_stack["not-captured"], thread(&report, 11).waits[0].total_s);
    assert!(thread(&report, 11).waits[0].places.is_empty());
}

#[test]
fn the_innermost_python_function_is_blamed_and_what_runs_below_it_is_told() {
    let report = testing::analyse(&made::stacked_run());
    let stacks = section(&report);
    let step =
        stacks.functions.iter().find(|f| f.location.function.as_deref() == Some("Trainer.step")).expect("blamed");
    assert_eq!((step.location.file.as_deref(), step.location.line), (Some("/src/me/train.py"), Some(40)));
    assert_eq!((step.location.language, step.inside.as_deref()), (Some(FrameKind::Python), Some("axpy")));
    assert_eq!((step.samples, step.whose.thread.as_deref(), step.whose.tid), (400, Some("main"), Some(10)));
    let main = stacks.functions.iter().find(|f| f.location.line == Some(90)).expect("inclusive");
    close("main holds it", main.inclusive_s, step.self_s);
    close("and computes nothing itself", main.self_s, 0.0);
    assert!(!stacks.functions.iter().any(|f| f.location.function.as_deref() == Some("Py_RunMain")), "native callers");
}

/// Functions that stacks of these frames are put down to.
fn blamed(frames: &[u32]) -> String {
    let mut events = testing::prologue(made::START);
    events.push(made::cpu_ready());
    events.extend(made::definitions());
    let extra: [(u32, u32, &str); 5] = [
        (50, 2, "epoll_wait"),
        (51, 4, "std::sys::sync::mutex::futex::Mutex::lock_contended"),
        (52, 4, "void std::sort<int*>(int*, int*)"),
        (53, 4, "<core::iter::Map<I, F> as core::iter::Iterator>::next"),
        (54, 4, "app::compute"),
    ];
    for (id, module, name) in extra {
        events.push(made::native(id, module, u64::from(id)));
        events.push(made::symbol(id, &[(name, None)]));
    }
    let library = ("/rustc/5980/library/core/src/num/uint_macros.rs", 2457);
    events.push(made::native(55, 4, 55));
    events.push(made::symbol(55, &[("wrapping_add", Some(library)), ("app::mix", Some(("/src/app/mix.rs", 3)))]));
    events.push(made::native(56, 4, 56));
    let header = ("/usr/include/c++/12/bits/stl_vector.h", 1123);
    events.push(made::symbol(56, &[("std::vector<int>::at", Some(header)), ("app::sum", None)]));
    events.push(made::kernel(60, 1));
    events.push(made::symbol(60, &[("__schedule", None)]));
    let jit = FrameRecord { id: 70, frame_kind: FrameKind::Jit, ..FrameRecord::default() };
    events.push(testing::meta_event(0, Meta::Frame(jit.clone())));
    events.push(testing::meta_event(0, Meta::Frame(FrameRecord { id: 71, ..jit })));
    events.push(made::symbol(71, &[("jitted", None)]));
    events.push(made::stack(9, frames));
    events.push(made::sample(made::START + 5, 10, 10, 9, 1_000));
    events.push(testing::meta_event(made::START + 10, Meta::End(Default::default())));
    let report = testing::analyse(&events);
    let function = section(&report).functions.first().and_then(|function| function.location.function.clone());
    function.unwrap_or_else(|| "none".to_owned())
}

#[test]
fn the_function_to_blame_is_chosen_as_written_down() {
    let cases: [(&[u32], &str); 15] = [
        (&[55, 54], "app::mix"),
        (&[56, 54], "app::sum"),
        (&[20, 11, 12, 3, 2, 10], "Loader.get"),
        (&[12, 13], "axpy"),
        (&[20, 50, 54, 13], "app::compute"),
        (&[51, 54, 13], "app::compute"),
        (&[52, 54], "app::compute"),
        (&[53, 54], "app::compute"),
        (&[70, 54], "app::compute"),
        (&[71, 54], "jitted"),
        (&[50], "epoll_wait"),
        (&[70], "code made at run time"),
        (&[60, 20], "futex_wait_queue"),
        (&[60], "__schedule"),
        (&[30, 31], "app+0x4000"),
    ];
    for (frames, function) in cases {
        assert_eq!(blamed(frames), function, "frames {frames:?}");
    }
}

#[test]
fn findings_name_functions() {
    let report = testing::analyse(&made::stacked_run());
    let finding = report.findings.iter().find(|finding| finding.class == "user-lock-contention").expect("it fires");
    let culprit = finding.culprit.as_ref().expect("a holder");
    assert_eq!((culprit.thread.as_deref(), culprit.function.as_deref()), (Some("main"), Some("Trainer.step")));
    assert_eq!((culprit.file.as_deref(), culprit.line), (Some("/src/me/train.py"), Some(40)));
    let victim = &finding.victims[0];
    assert_eq!((victim.tid, victim.function.as_deref(), victim.line), (Some(11), Some("Loader.get"), Some(7)));
    assert!(finding.summary.contains("called by Loader.get (/src/me/data/loader.py:7)"), "{}", finding.summary);
    let text = serde_json::to_value(&report).expect("a report");
    for evidence in &finding.evidence {
        let found = text.pointer(&evidence.source).and_then(|value| value.as_f64());
        assert_eq!(found, Some(evidence.value), "{}: {}", evidence.metric, evidence.source);
    }
}

#[test]
fn samples_outside_of_the_window_are_counted_and_not_used() {
    let mut events = made::stacked_run();
    events.push(made::sample(made::START - 1, 10, 10, 100, 10));
    events.insert(0, made::sample(made::START - 2, 10, 10, 100, 10));
    events.push(made::sample(u64::MAX, 10, 10, 100, 10));
    let report = testing::analyse(&events);
    assert_eq!((section(&report).samples, section(&report).outside_window), (600, Some(3)));
}

#[test]
fn ends_are_counted_by_kind_and_files_without_unwind_information_are_named() {
    let mut events = made::stacked_run();
    let ended =
        |id, end, rescued| StackRecord { id, frames: vec![12], end, rescued, at_module: Some(3), ..Default::default() };
    let ends = [
        (StackEnd::NoUnwindInfo, false),
        (StackEnd::Whole, true),
        (StackEnd::Cut, false),
        (StackEnd::ProcessGone, false),
        (StackEnd::NoUserStack, false),
    ];
    for (number, (end, rescued)) in ends.into_iter().enumerate() {
        let id = 500 + number as u64;
        events.push(testing::meta_event(0, Meta::Stack(ended(id, end, rescued))));
        events.push(made::sample(made::START + 50, 10, 10, id, 0));
    }
    // The table was full; the recording lacks it.
    events.push(made::sample(made::START + 50, 10, 10, 0, 0));
    events.push(made::sample(made::START + 50, 10, 10, 777, 0));
    let report = testing::analyse(&events);
    let row = section(&report).quality.iter().find(|row| row.kind == "on-cpu").expect("samples");
    let ends: Vec<(&str, u64)> = row.ends.iter().map(|(end, count)| (end.as_str(), *count)).collect();
    let expected = [
        ("cut", 1),
        ("no-room", 1),
        ("no-unwind-info", 1),
        ("no-user-stack", 1),
        ("not-recorded", 1),
        ("process-gone", 1),
        ("rescued", 1),
        ("whole", 600),
    ];
    assert_eq!(ends, expected);
    assert_eq!(section(&report).no_unwind_files[0].file, "/lib/fast.so");
    assert_eq!(row.stacks, 607);
    let whole = row.whole_share.expect("there are user stacks");
    close("whole and rescued, without the thread that was ending", whole, 601.0 / 606.0);
}

#[test]
fn a_capture_without_names_says_so() {
    let mut events = made::stacked_run();
    let unnamed = |event: &Event| match event {
        Event::Meta(_, meta) => match &**meta {
            Meta::Symbol(_) => false,
            Meta::Frame(frame) => frame.frame_kind != FrameKind::Python,
            _ => true,
        },
        _ => true,
    };
    events.retain(unnamed);
    let report = testing::analyse(&events);
    assert_eq!(section(&report).unsymbolised.as_deref(), Some("unsymbolised (build id + offset)"));
    let text = crate::render::text::render(&report, crate::render::text::Style { width: 100, colour: false });
    assert!(text.contains("fast.so+0x3000") && text.contains("unsymbolised"), "{text}");
}

#[test]
fn hostile_definitions_do_no_harm_and_are_counted() {
    let mut events = made::stacked_run();
    let huge = StackRecord { id: 900, frames: (0..200_000).collect(), ..StackRecord::default() };
    let dangling =
        StackRecord { id: 901, frames: vec![u32::MAX, 12, u32::MAX], at_module: Some(77), ..StackRecord::default() };
    let empty = StackRecord { id: 902, ..StackRecord::default() };
    for stack in [huge, dangling, empty, StackRecord::default()] {
        let id = stack.id;
        events.push(testing::meta_event(0, Meta::Stack(stack)));
        events.push(made::sample(made::START + 60, 10, 10, id, 7));
    }
    // Other contents under known numbers; a frame in a file that is not there; a name without end.
    events.push(made::stack(100, &[30]));
    events.push(made::native(12, 99, 5));
    events.push(testing::meta_event(
        0,
        Meta::Module(ModuleRecord { id: 1, path: "/other".to_owned(), ..Default::default() }),
    ));
    events.push(made::native(40, 1234, 5));
    events.push(made::stack(903, &[40]));
    events.push(made::sample(made::START + 60, 10, 10, 903, 7));
    events.push(made::symbol(31, &[(&"x".repeat(100_000), None)]));
    events.push(testing::meta_event(0, Meta::Symbol(SymbolRecord { frame: u32::MAX, ..Default::default() })));
    let report = testing::analyse(&events);
    let stacks = section(&report);
    assert_eq!(stacks.samples, 605);
    assert_eq!(stacks.definitions_contradicting, Some(3));
    let json = to_json(&report).expect("a report");
    assert!(json.len() < 1 << 20, "{} bytes", json.len());
    let step =
        stacks.functions.iter().find(|f| f.location.function.as_deref() == Some("Trainer.step")).expect("unchanged");
    assert_eq!(step.samples, 401, "the first definition stays; frame 1 is in the huge stack as well");
}

#[test]
fn ten_thousand_stacks_and_their_names_are_kept() {
    let mut events = testing::prologue(made::START);
    events.push(made::cpu_ready());
    events.push(made::module(1, "/bin/deep"));
    for number in 1..=10_000u32 {
        events.push(made::native(number, 1, u64::from(number)));
        events.push(made::symbol(number, &[(&format!("f{number}"), None)]));
        events.push(made::stack(u64::from(number), &[number, 1]));
        events.push(made::sample(made::START + 1, 10, 10, u64::from(number), 1));
    }
    let report = testing::analyse(&events);
    let stacks = section(&report);
    assert_eq!(
        (stacks.samples, stacks.definitions_without_room),
        (0, None),
        "the window is empty: {:?}",
        report.window
    );
    events.push(testing::meta_event(made::START + 10, Meta::End(Default::default())));
    let report = testing::analyse(&events);
    assert_eq!((section(&report).samples, section(&report).quality[0].ends["whole"]), (10_000, 10_000));
}

/// A stream's report, its records handed through the order as a source would.
fn ordered_report(events: &[Event]) -> String {
    let mut batch = Batch::new();
    events.iter().for_each(|event| batch.push(&testing::bytes(event)));
    let (mut order, mut analysis) = (Order::default(), Analysis::new(Options::default()));
    order.push(&batch);
    order.finish(&mut |record| analysis.record(record));
    to_json(&analysis.finish()).expect("a report")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn samples_and_definitions_may_stand_anywhere(places in prop::collection::vec(any::<prop::sample::Index>(), 700)) {
        let events = made::stacked_run();
        let expected = ordered_report(&events);
        let (free, mut fixed): (Vec<Event>, Vec<Event>) =
            events.into_iter().partition(|event| passes(event.header().kind));
        for (event, place) in free.into_iter().zip(places.iter().cycle()) {
            // Also in front of START and behind END.
            fixed.insert(place.index(fixed.len() + 1), event);
        }
        prop_assert!(ordered_report(&fixed) == expected, "another report");
    }

    #[test]
    fn damaged_definitions_never_make_it_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..60)
    ) {
        let mut records: Vec<Vec<u8>> = made::stacked_run().iter().map(testing::bytes).collect();
        for (record, byte, value) in edits {
            let record = record.get_mut(&mut records);
            let position = byte.index(record.len());
            record[position] = value;
        }
        let mut analysis = Analysis::new(Options::default());
        records.iter().for_each(|record| analysis.record(record));
        let report = analysis.finish();
        prop_assert!(to_json(&report).is_ok());
        if let Some(stacks) = &report.stacks {
            let without: f64 = stacks.waited_without_stack.values().sum();
            let sum = stacks.waited_with_stack_s + without;
            // A damaged time can make the window as long as its numbers go.
            let sane = stacks.waited_s < 1e9;
            prop_assert!(!sane || (sum - stacks.waited_s).abs() <= 1e-9 * stacks.waited_s.max(1.0), "{sum} of {}", stacks.waited_s);
            for row in &stacks.quality {
                prop_assert_eq!(row.ends.values().sum::<u64>(), row.stacks);
            }
        }
    }
}
