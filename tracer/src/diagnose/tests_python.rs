//! The interpreter lock and the collector of CPython on constructed runs: from records to rows and findings.

use serde_json::Value;
use tracer_common::sched::{Switch, SwitchFutex, WakeContext};

use crate::model::event::{Event, Meta};
use crate::model::locks::PYTHON_LOCK;
use crate::model::meta::{Addresses, PythonRecord};
use crate::model::report::{Finding, Futex, Report, RuleOutcome, RuleStatus, Verdict};
use crate::testing::stacks::{START, cpu_ready, definitions, native, sample, stack};
use crate::testing::{self, Leave, meta_event, new_task, switch, woken};

const MS: u64 = 1_000_000;
/// Where the interpreter lock's condition lies, and in it the words that threads wait on.
const LOCK: u64 = 0x9000;
const WORDS: [u64; 3] = [LOCK + 40, LOCK + 44, LOCK + 48];

fn interpreter(tgid: u32, lock: bool, collector: bool) -> Event {
    let addresses = |start: u64, len: u64| Addresses { start, end: start + len };
    meta_event(
        0,
        Meta::Python(PythonRecord {
            tgid,
            version: "3.11.7".to_owned(),
            runtime: addresses(0x8000, 0x20000),
            gil: lock.then(|| addresses(LOCK, 88)),
            gil_handed_over: lock.then(|| addresses(LOCK + 88, 88)),
            module: 1,
            collector: if collector { vec![addresses(0x5000, 0x400)] } else { Vec::new() },
        }),
    )
}

fn on_lock(mut switch: Switch, address: u64) -> Event {
    switch.header.kind = tracer_common::record::sched::SWITCH_FUTEX;
    (switch.prev_state, switch.syscall, switch.object) = (0x2001, 202, address);
    Event::SwitchFutex(SwitchFutex { switch, op: 137, val: 0, words: [0; 6], readable: 1, reserved: 0 })
}

/// What of the run differs.
#[derive(Clone, Copy)]
struct Shape {
    /// Milliseconds of each round of 10 in which `main` waits for the lock.
    waits_ms: u64,
    /// It tries again each so many milliseconds.
    tries_ms: u64,
    rounds: u64,
}

/// `main` (tid 10) of process 10 wants the interpreter lock, and gets it from `preproc` (tid 11), which computes all the time; the rest
/// of each round of 10 ms it sleeps. Its tries wait on different words of the lock.
fn events(shape: Shape) -> Vec<Event> {
    let sleep = Leave::Sleep { syscall: 35, fd_kind: 0, object: 0 };
    let futex = Leave::Sleep { syscall: 202, fd_kind: 0, object: 0 };
    let mut events = vec![
        Event::NewTask(new_task(START, 10, 10, 1, "main")),
        Event::NewTask(new_task(START, 11, 10, 10, "preproc")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(START, 1, 0, 11, Leave::Preempted)),
    ];
    for round in 0..shape.rounds {
        let begins = START + round * 10 * MS + MS / 10;
        let ends = begins + shape.waits_ms * MS;
        let (mut at, mut tries) = (begins, 0);
        while at < ends {
            let until = (at + shape.tries_ms * MS).min(ends);
            events.push(on_lock(switch(at, 0, 10, 0, futex), WORDS[tries % 2]));
            let back = switch(until, 0, 0, 10, Leave::Preempted);
            let (context, waker) = if until < ends { (WakeContext::Timer, 0) } else { (WakeContext::Task, 11) };
            events.push(Event::Switch(woken(back, context, waker, 1000)));
            (at, tries) = (until + 20_000, tries + 1);
        }
        events.push(Event::Switch(switch(ends + MS / 10, 0, 10, 0, sleep)));
        let back = switch(START + (round + 1) * 10 * MS, 0, 0, 10, Leave::Preempted);
        events.push(Event::Switch(woken(back, WakeContext::Timer, 0, 1000)));
    }
    events
}

fn run(shape: Shape, change: impl Fn(&mut Vec<Event>)) -> Report {
    let events = events(shape);
    let (end_ns, kernel) = (START + shape.rounds * 10 * MS, events.len() as u64);
    let mut all = testing::prologue(START);
    for event in &mut all {
        if let Event::Meta(_, meta) = event
            && let Meta::Target(target) = &mut **meta
        {
            target.pids = vec![10];
        }
    }
    all.push(cpu_ready());
    all.extend(events);
    all.extend(definitions());
    for slot in 0..shape.rounds {
        all.push(sample(START + slot * 10 * MS + 2 * MS, 10, 11, 100, 10 * MS));
    }
    change(&mut all);
    all.extend(testing::epilogue(end_ns, kernel));
    testing::analyse(&all)
}

const CONTENDED: Shape = Shape { waits_ms: 8, tries_ms: 5, rounds: 500 };

fn rule<'a>(report: &'a Report, class: &str) -> &'a RuleOutcome {
    report.rules.iter().find(|rule| rule.class == class).expect("the rule is listed")
}

fn found<'a>(list: &'a [Finding], class: &str) -> &'a Finding {
    list.iter().find(|finding| finding.class == class).unwrap_or_else(|| panic!("no {class} in {list:?}"))
}

fn assert_evidence_resolves(report: &Report, finding: &Finding) {
    let json = serde_json::to_value(report).expect("a report");
    for evidence in &finding.evidence {
        let found = json.pointer(&evidence.source).and_then(Value::as_f64);
        assert_eq!(found, Some(evidence.value), "{} at {}", evidence.metric, evidence.source);
    }
}

fn futexes(report: &Report) -> &[Futex] {
    &report.locks.as_ref().expect("sched ran").futexes
}

#[test]
fn waits_on_all_words_of_the_lock_are_one_lock_and_a_finding_that_blames_who_gave_it_up() {
    let report = run(CONTENDED, |all| all.push(interpreter(10, true, true)));
    let [futex] = futexes(&report) else { panic!("one lock: {:?}", futexes(&report)) };
    assert_eq!((futex.address.as_str(), futex.kind.as_deref()), ("0x9000", Some(PYTHON_LOCK)));
    assert_eq!((futex.waits, futex.threads, futex.waiters.len()), (1000, 1, 1), "two tries each round: {futex:?}");
    let waits = report.threads.iter().find_map(|row| match row {
        crate::model::report::Row::Thread(thread) if thread.tid == 10 => Some(&thread.waits),
        _ => None,
    });
    let of_lock = waits.expect("main").iter().filter(|wait| wait.state == "futex").count();
    assert_eq!(of_lock, 1, "the thread's waits are one row as well: {waits:?}");
    let path = report.critical_path.as_ref().expect("a path");
    let wait = path.waits.iter().find(|wait| wait.object.as_deref() == Some("0x9000")).expect("the lock on the path");
    assert!((wait.s - 4.0).abs() < 0.05 && wait.count == 500, "retries are one wait: {wait:?}");
    let finding = found(&report.findings, "gil-contention");
    assert_evidence_resolves(&report, finding);
    let culprit = finding.culprit.as_ref().expect("a culprit");
    assert_eq!((culprit.tid, culprit.thread.as_deref()), (Some(11), Some("preproc")));
    assert_eq!(culprit.function.as_deref(), Some("Trainer.step"), "what it computed: {culprit:?}");
    assert_eq!(finding.victims.iter().map(|victim| victim.tid).collect::<Vec<_>>(), [Some(10)]);
    assert!(finding.lost_s.is_some_and(|lost_s| (lost_s - 4.0).abs() < 0.05), "{finding:?}");
    assert_eq!((finding.confidence, report.verdict), (0.9, Verdict::Bottleneck), "{}", finding.summary);
    assert!(finding.summary.contains("Python's interpreter lock") && finding.summary.contains("preproc (11) computed"));
    assert_eq!(rule(&report, "user-lock-contention").status, RuleStatus::Silent, "it names no owner");
}

#[test]
fn a_record_that_came_before_all_waits_says_the_same_as_one_that_came_behind_them() {
    let behind = run(CONTENDED, |all| all.push(interpreter(10, true, true)));
    let before = run(CONTENDED, |all| all.insert(5, interpreter(10, true, true)));
    assert_eq!(behind, before);
}

#[test]
fn without_the_locks_address_the_rule_says_that_it_could_not_look() {
    let unknown = run(CONTENDED, |all| all.push(interpreter(10, false, true)));
    let outcome = rule(&unknown, "gil-contention");
    assert_eq!(outcome.status, RuleStatus::CouldNotRun, "{}", outcome.reason);
    assert!(outcome.reason.contains("3.11.7"), "{}", outcome.reason);
    let no_python = run(CONTENDED, |_| {});
    assert_eq!(
        rule(&no_python, "gil-contention").status,
        RuleStatus::Silent,
        "a queue polled each 5 ms looks the same"
    );
    assert_eq!(rule(&no_python, "gc-pauses").status, RuleStatus::Silent);
    let no_stacks = run(CONTENDED, |all| {
        all.retain(|event| *event != cpu_ready() && !matches!(event, Event::Sampled(_)));
    });
    assert_eq!(rule(&no_stacks, "gil-contention").status, RuleStatus::CouldNotRun);
    assert_eq!(rule(&no_stacks, "gc-pauses").status, RuleStatus::CouldNotRun);
}

#[test]
fn a_thread_that_sleeps_and_only_looks_now_and_then_is_no_victim() {
    let report = run(Shape { waits_ms: 1, ..CONTENDED }, |all| all.push(interpreter(10, true, true)));
    assert_eq!(rule(&report, "gil-contention").status, RuleStatus::Silent, "{:?}", report.findings);
    assert_eq!(found(&report.observed, "gil-contention").victims[0].tid, Some(10), "10 % of its time, but it sleeps");
}

#[test]
fn waiting_until_another_thread_has_taken_the_lock_is_no_wait_for_it() {
    let report = run(CONTENDED, |all| {
        all.push(interpreter(10, true, true));
        for event in all {
            if let Event::SwitchFutex(futex) = event {
                futex.switch.object += 88;
            }
        }
    });
    assert_eq!(futexes(&report)[0].kind.as_deref(), Some("python interpreter lock, handing over"));
    assert_eq!(rule(&report, "gil-contention").status, RuleStatus::Silent);
}

/// The run with samples of `preproc` that lie in the collector, one in each `every` of them.
fn collecting(every: u64, known: bool) -> Report {
    run(CONTENDED, |all| {
        all.push(interpreter(10, true, known));
        all.push(native(40, 1, 0x5010));
        all.push(stack(140, &[12, 40, 1, 2, 10, 13]));
        let samples = all.iter_mut().filter_map(|event| match event {
            Event::Sampled(sampled) if sampled.tid == 11 => Some(sampled),
            _ => None,
        });
        samples.step_by(every as usize).for_each(|sampled| sampled.stack = 140);
    })
}

#[test]
fn time_below_the_collector_is_a_finding_that_names_the_function_that_started_it() {
    let report = collecting(2, true);
    let finding = found(&report.findings, "gc-pauses");
    assert_evidence_resolves(&report, finding);
    let culprit = finding.culprit.as_ref().expect("a culprit");
    assert_eq!((culprit.tid, culprit.function.as_deref()), (Some(11), Some("Trainer.step")));
    let path = report.critical_path.as_ref().expect("a path");
    let [phase] = &path.phases[..] else { panic!("one thread collects: {:?}", path.phases) };
    assert_eq!((phase.what.phase.as_str(), phase.what.samples, phase.whose.tid), ("python-gc", 250, Some(11)));
    assert!((phase.what.s - 2.0).abs() < 0.05, "half of what it computed while main waited: {phase:?}");
    let lost_s = finding.lost_s.expect("seconds");
    assert!((1.05 * phase.what.s..1.15 * phase.what.s).contains(&lost_s), "at most, by 250 samples: {finding:?}");
    assert_eq!(finding.consequences, ["gil-contention"], "the lock is held meanwhile");
}

#[test]
fn little_time_in_the_collector_is_only_observed_and_an_unknown_collector_said() {
    let little = collecting(40, true);
    assert_eq!(rule(&little, "gc-pauses").status, RuleStatus::Silent, "{:?}", little.findings);
    assert!(little.observed.iter().any(|finding| finding.class == "gc-pauses"), "{:?}", little.observed);
    assert_eq!(rule(&collecting(2, false), "gc-pauses").status, RuleStatus::CouldNotRun);
}
