//! What the tests share: captures in and reports out, by the library's own stages, and what every report must fulfil.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tracer::capture::{CaptureError, Cut, Options, Reader, Writer};
use tracer::export::to_json;
use tracer::model::report::{Finding, Report, Row};
use tracer::pipeline::analysis::{self, Analysis};
use tracer::pipeline::batch::Batch;
use tracer::pipeline::order::Order;
use tracer::render::text::{Style, render};

/// This folder.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("offline")
}

/// The file of a checked-in capture.
pub fn capture_path(name: &str) -> PathBuf {
    folder().join("captures").join(format!("{name}.trc"))
}

/// The bytes of a checked-in capture.
pub fn capture_bytes(name: &str) -> Vec<u8> {
    let path = capture_path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is in a capture.
pub struct Content {
    /// All records, in the order of the file.
    pub records: Vec<Vec<u8>>,
    /// What could not be read.
    pub cut: Option<Cut>,
}

/// Reads a capture to its end.
pub fn read(bytes: &[u8]) -> Result<Content, CaptureError> {
    let mut reader = Reader::from_reader(Cursor::new(bytes), "test.trc")?;
    let mut records = Vec::new();
    while let Some(batch) = reader.next_batch()? {
        records.extend(batch.iter().map(<[u8]>::to_vec));
    }
    Ok(Content { records, cut: reader.cut() })
}

/// The records of a checked-in capture.
pub fn records_of(name: &str) -> Vec<Vec<u8>> {
    read(&capture_bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}")).records
}

/// The report of records, handed over in batches of `per_batch`.
pub fn report_in_batches(records: &[Vec<u8>], per_batch: usize) -> Report {
    let mut analysis = Analysis::new(analysis::Options::default());
    let mut order = Order::default();
    for chunk in records.chunks(per_batch.max(1)) {
        let mut batch = Batch::new();
        chunk.iter().for_each(|record| batch.push(record));
        order.push(&batch);
        order.drain(&mut |record| analysis.record(record));
    }
    order.finish(&mut |record| analysis.record(record));
    analysis.finish()
}

/// The report of records.
pub fn report(records: &[Vec<u8>]) -> Report {
    report_in_batches(records, usize::MAX)
}

/// The report of a checked-in capture.
pub fn golden_report(name: &str) -> Report {
    report(&records_of(name))
}

/// A capture of these records.
pub fn capture_of(records: &[Vec<u8>], chunk_bytes: usize) -> Vec<u8> {
    let options = Options { chunk_bytes, ..Options::default() };
    let mut writer = Writer::new(Cursor::new(Vec::new()), "test.trc", options).expect("memory takes a header");
    let mut batch = Batch::new();
    records.iter().for_each(|record| batch.push(record));
    writer.write(&batch).expect("memory takes chunks");
    writer.finish().expect("memory takes an end");
    writer.into_sink().into_inner()
}

/// As text, as wide as a usual terminal.
pub fn text(report: &Report) -> String {
    render(report, Style { width: 100, colour: false })
}

/// As JSON.
pub fn json(report: &Report) -> String {
    to_json(report).expect("a report is plain data")
}

/// As a parsed JSON document.
pub fn value(report: &Report) -> Value {
    serde_json::to_value(report).expect("a report is plain data")
}

/// The report without what tells one run of the tracer from another.
pub fn without_live_parts(mut report: Report) -> Report {
    report.overhead = None;
    report.generator = Default::default();
    report
}

/// What is wrong with a report, whatever it was made of: sums that do not hold, evidence that does not resolve, JSON that its
/// own schema refuses, text that could steer a terminal.
pub fn defects(report: &Report) -> Vec<String> {
    let mut defects = Vec::new();
    for row in &report.threads {
        let (who, wall_s, states) = match row {
            Row::Thread(thread) => (format!("thread {}", thread.tid), thread.wall_s, &thread.states),
            Row::Others(others) => ("the others".to_owned(), others.wall_s, &others.states),
        };
        let sum: f64 = states.values().sum();
        if (sum - wall_s).abs() > 1e-9 + wall_s * 1e-9 {
            defects.push(format!("{who}: the states sum to {sum}, wall time is {wall_s}: {states:?}"));
        }
        if !(wall_s >= 0.0 && states.values().all(|seconds| *seconds >= 0.0)) {
            defects.push(format!("{who}: negative or no number: {wall_s}, {states:?}"));
        }
    }
    let document = value(report);
    for finding in report.findings.iter().chain(&report.observed) {
        defects.extend(unresolved(&document, finding));
    }
    defects.extend(crate::schema::violations(&document));
    defects.extend(ledger(report));
    let text = text(report);
    if !text.starts_with("Verdict: ") {
        defects.push(format!("the text does not start with a verdict: {text}"));
    }
    if let Some(control) = text.chars().find(|c| c.is_control() && *c != '\n') {
        defects.push(format!("the text holds {control:?}"));
    }
    defects
}

/// Evidence of a finding that the report does not hold, or holds with another value.
fn unresolved(document: &Value, finding: &Finding) -> Vec<String> {
    let mut wrong = Vec::new();
    if finding.evidence.is_empty() {
        wrong.push(format!("{}: no evidence", finding.class));
    }
    for evidence in &finding.evidence {
        let found = document.pointer(&evidence.source).and_then(Value::as_f64);
        if found != Some(evidence.value) {
            let Finding { class, .. } = finding;
            wrong.push(format!("{class}: {:?} is {found:?}, the evidence says {}", evidence.source, evidence.value));
        }
    }
    wrong
}

/// Sums of the ledger that do not hold. Where the counters are themselves damaged they need not.
fn ledger(report: &Report) -> Vec<String> {
    let mut wrong = Vec::new();
    for family in &report.coverage.families {
        if let (Some(lost), reasons) =
            (family.lost, family.by_reason.values().fold(0_u64, |sum, n| sum.saturating_add(*n)))
            && lost != reasons
        {
            wrong.push(format!("{}: lost {lost}, the reasons sum to {reasons}", family.family));
        }
        if family.share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            wrong.push(format!("{}: a share of {:?}", family.family, family.share));
        }
    }
    wrong
}

/// Fails unless a report is sound.
#[track_caller]
pub fn assert_sound(what: &str, report: &Report) {
    let defects = defects(report);
    assert!(defects.is_empty(), "{what}: {defects:#?}\n{}", json(report));
}

#[test]
fn the_checks_see_what_is_wrong_with_a_report() {
    let good = golden_report("mutex");
    assert_eq!(defects(&good), Vec::<String>::new());
    type Damage = fn(&mut Report);
    let damages: [(&str, Damage); 6] = [
        ("a state that is too long", |report| {
            if let Some(Row::Thread(thread)) = report.threads.first_mut() {
                thread.states.insert("on_cpu".to_owned(), 9.0);
            }
        }),
        ("evidence of another value", |report| report.findings[0].evidence[0].value += 1.0),
        ("evidence from nowhere", |report| {
            report.findings[0].evidence[0].source = "/locks/futexes/99/waits".to_owned()
        }),
        ("no evidence", |report| report.findings[0].evidence.clear()),
        ("a loss without a reason", |report| report.coverage.families[0].lost = Some(7)),
        ("a name that steers a terminal", |report| report.verdict_reason = "\u{1b}[31m".to_owned()),
    ];
    for (what, damage) in damages {
        let mut bad = good.clone();
        damage(&mut bad);
        assert!(!defects(&bad).is_empty(), "{what} goes unnoticed");
    }
}
