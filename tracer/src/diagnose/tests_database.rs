//! The rule `database-latency` on constructed runs, and what the section `database` says of them.

use tracer_common::database::{Call, call, function};
use tracer_common::sched::WakeContext;

use super::tests::{assert_evidence_resolves, run, status};
use crate::model::event::{Event, Meta};
use crate::model::meta::{DatabaseRecord, FamilyRecord, StatementText, TargetRecord};
use crate::model::report::{Finding, Report, RuleStatus};
use crate::testing::stacks::{START, cpu_ready, module, native, python, sample, stack, symbol};
use crate::testing::{Leave, database_call, meta_event, new_task, switch, woken};

const MS: u64 = 1_000_000;
const ROUNDS: u64 = 100;
const RECVFROM: i16 = 45;
const PREAD: i16 = 17;
const FDATASYNC: i16 = 75;
const TEXT: &str = "SELECT a FROM t WHERE b = ?";
/// Number of the kind of descriptor that is an IPv4 or IPv6 socket, and of a file.
const INET: u8 = 3;
const FILE: u8 = 1;

/// A run of 1 s in which `client` (10) waits from 1 to 9 ms of each 10 ms, and calls a database.
struct Shape {
    waits: Leave,
    calls: Vec<Call>,
    /// Of the calls that there is a record of.
    share: f64,
}

/// A call in each round, from this time on and for so long, in microseconds.
fn in_each_round(number: u16, statement: u32, from_us: u64, took_us: u64) -> Vec<Call> {
    let one = |round: u64| {
        let start_ns = START + round * 10 * MS + from_us * 1_000;
        Call {
            start_ns,
            spent_ns: took_us * 1_000,
            function: number,
            flags: call::ENDS,
            result: 0,
            statement,
            ..database_call(start_ns + took_us * 1_000, 10, 10)
        }
    };
    (0..ROUNDS).map(one).collect()
}

fn at_socket() -> Leave {
    Leave::Sleep { syscall: RECVFROM, fd_kind: INET, object: 77 }
}

fn report(shape: &Shape) -> Report {
    let target = TargetRecord { mode: "run".to_owned(), pids: vec![10], ..TargetRecord::default() };
    let family = FamilyRecord { family: "database".to_owned(), status: "ready".to_owned(), reason: None };
    let told = |record: DatabaseRecord| meta_event(START, Meta::Database(record));
    let library = Some("/lib/libpq.so.5".to_owned());
    let text = |statement, text: &str| {
        let text = StatementText { statement, client: "postgresql".to_owned(), text: text.to_owned() };
        told(DatabaseRecord { statement: Some(text), ..DatabaseRecord::default() })
    };
    let mut events = vec![
        meta_event(START, Meta::Target(target)),
        meta_event(START, Meta::Families(family)),
        told(DatabaseRecord { library, ..DatabaseRecord::default() }),
        text(1, TEXT),
        text(2, "INSERT INTO t VALUES (?)"),
        Event::NewTask(new_task(START, 10, 10, 1, "client")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
    ];
    for round in 0..ROUNDS {
        let at = |us: u64| START + round * 10 * MS + us * 1_000;
        events.push(Event::Switch(switch(at(1_000), 0, 10, 0, shape.waits)));
        let back = switch(at(9_000), 0, 0, 10, Leave::Preempted);
        events.push(Event::Switch(woken(back, WakeContext::Device, 0, 1_000)));
    }
    events.extend(shape.calls.iter().map(|call| Event::Call(Box::new(*call))));
    events.sort_by_key(|event| event.header().ts_ns);
    let mut report = run(events, ROUNDS * 10);
    let families = &mut report.coverage.families;
    families
        .iter_mut()
        .filter(|family| family.family == "database")
        .for_each(|family| family.share = Some(shape.share));
    super::diagnose(&mut report);
    report
}

fn found(report: &Report) -> &Finding {
    let mut found = report.findings.iter().filter(|finding| finding.class == "database-latency");
    let first = found.next().unwrap_or_else(|| panic!("{:?} {:?}", report.rules, report.database));
    assert_eq!(found.next(), None);
    assert_evidence_resolves(report);
    first
}

#[test]
fn a_slow_statement_is_named_and_its_time_is_the_servers() {
    let mut calls = in_each_round(function::PQ_EXEC, 1, 500, 8_700);
    calls.extend(in_each_round(function::PQ_EXEC, 2, 9_300, 100));
    let report = report(&Shape { waits: at_socket(), calls, share: 1.0 });
    let finding = found(&report);
    assert!((0.86..0.88).contains(&finding.lost_s.expect("measured")), "{finding:?}");
    let culprit = finding.culprit.as_ref().expect("the client");
    assert_eq!((culprit.statement.as_deref(), culprit.tid), (Some(TEXT), Some(10)), "{finding:?}");
    assert!(finding.summary.contains("PostgreSQL server"), "{}", finding.summary);
    assert_eq!(status(&report, "network-wait"), RuleStatus::Silent, "said once: {:?}", report.rules);
    let statements = &report.database.as_ref().expect("a section").statements;
    let (slow, quick) = (&statements[0], &statements[1]);
    assert_eq!((slow.executions, quick.executions, slow.threads), (ROUNDS, ROUNDS, 1));
    let near = |value: f64, wanted: f64| (value - wanted).abs() < 0.002;
    assert!(near(slow.spent.server_s, 0.8) && near(slow.spent.computing_s, 0.07), "{slow:?}");
    assert!(near(slow.total_s, 0.87) && near(slow.p50_s, 0.0087) && near(quick.total_s, 0.01), "{slow:?} {quick:?}");
}

#[test]
fn what_is_lost_lowers_the_confidence() {
    let calls = in_each_round(function::PQ_EXEC, 1, 500, 8_700);
    let confidence = |share| {
        let report = report(&Shape { waits: at_socket(), calls: calls.clone(), share });
        found(&report).confidence
    };
    assert_eq!((confidence(1.0), confidence(0.5)), (0.9, 0.45));
}

#[test]
fn quick_statements_and_waits_between_them_are_silent() {
    let calls = in_each_round(function::PQ_EXEC, 1, 9_300, 100);
    let report = report(&Shape { waits: at_socket(), calls, share: 1.0 });
    assert_eq!(status(&report, "database-latency"), RuleStatus::Silent, "{:?}", report.rules);
    assert_eq!(status(&report, "network-wait"), RuleStatus::Fired, "the waits are for something else");
}

#[test]
fn little_time_is_no_answer_where_most_calls_are_missing() {
    let calls = in_each_round(function::PQ_EXEC, 1, 9_300, 100);
    let report = report(&Shape { waits: at_socket(), calls, share: 0.02 });
    let rule = report.rules.iter().find(|rule| rule.class == "database-latency").expect("it looked");
    assert_eq!(rule.status, RuleStatus::CouldNotRun, "{rule:?}");
    assert!(rule.reason.contains("98 % of the calls are missing"), "{rule:?}");
}

#[test]
fn many_statements_none_of_which_is_much_are_told_together() {
    let mut calls = in_each_round(function::PQ_EXEC, 1, 500, 4_200);
    calls.extend(in_each_round(function::PQ_EXEC, 2, 4_800, 4_100));
    let report = report(&Shape { waits: at_socket(), calls, share: 1.0 });
    let finding = found(&report);
    assert!(finding.summary.starts_with("2 statements of PostgreSQL took 830 ms"), "{}", finding.summary);
}

#[test]
fn a_file_that_it_waits_for_is_told() {
    let of = |syscall| {
        let waits = Leave::Sleep { syscall, fd_kind: FILE, object: 77 };
        report(&Shape { waits, calls: in_each_round(function::SQLITE_STEP, 1, 500, 8_700), share: 1.0 })
    };
    let synced = of(FDATASYNC);
    assert_eq!(
        (status(&synced, "fsync-stall"), status(&synced, "database-latency")),
        (RuleStatus::Fired, RuleStatus::Silent)
    );
    let observed = synced.observed.iter().find(|finding| finding.class == "database-latency").expect("it was seen");
    assert!(observed.summary.ends_with("reported as fsync-stall"), "{}", observed.summary);
    let report = of(PREAD);
    let finding = found(&report);
    assert!(finding.summary.contains("waits for files"), "{}", finding.summary);
    let spent = report.database.as_ref().expect("a section").statements[0].spent;
    assert!((0.79..0.81).contains(&spent.file_s), "{spent:?}");
}

#[test]
fn without_the_option_a_clients_functions_are_told_by_stacks() {
    let events = |library: &str| {
        let mut events = vec![
            meta_event(
                START,
                Meta::Target(TargetRecord { mode: "run".to_owned(), pids: vec![10], ..TargetRecord::default() }),
            ),
            cpu_ready(),
            module(1, library),
            native(1, 1, 0x100),
            symbol(1, &[("sqlite3VdbeExec", None)]),
            python(2, "load_batch", "/app/train.py", 7),
            stack(1, &[1, 2]),
            Event::NewTask(new_task(START, 10, 10, 1, "client")),
            Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
        ];
        events.extend((0..100).map(|at| sample(START + at * 10 * MS, 10, 10, 1, 10 * MS)));
        events
    };
    let report = run(events("/usr/lib/libsqlite3.so.0"), 1_000);
    let finding = found(&report);
    let culprit = finding.culprit.as_ref().expect("who called it");
    assert_eq!(culprit.function.as_deref(), Some("load_batch"), "{finding:?}");
    assert!(finding.summary.contains("--db"), "{}", finding.summary);
    let other = run(events("/usr/lib/libother.so"), 1_000);
    assert_eq!(status(&other, "database-latency"), RuleStatus::Silent, "{:?}", other.rules);
}
