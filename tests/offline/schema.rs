//! The JSON Schema that is checked in is the one that the report's types give, and every report is valid against it.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;
use tracer::model::meta::TargetRecord;
use tracer::model::report::schema_json;

use crate::RECORDED;
use crate::records::{START_NS, new_task, prologue, recording, switch};
use crate::support::{folder, golden_report, report, value};

static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(&checked_in()).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is one")
});

fn checked_in() -> String {
    let path = folder().join("report.schema.json");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where a report breaks the schema that is checked in.
pub fn violations(document: &Value) -> Vec<String> {
    SCHEMA.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn the_schema_that_is_checked_in_is_what_the_types_give() {
    let generated = schema_json().expect("a schema");
    assert!(checked_in() == generated, "report.schema.json is stale: run `cargo xtask bless` and read the diff");
}

#[test]
fn each_recorded_report_is_valid() {
    for capture in RECORDED {
        let violations = violations(&value(&golden_report(capture.name)));
        assert!(violations.is_empty(), "{}: {violations:#?}", capture.name);
    }
}

#[test]
fn reports_of_next_to_nothing_are_valid() {
    let target = TargetRecord::default();
    let start = START_NS;
    let streams = [
        ("nothing", Vec::new()),
        ("a start without an end", prologue(&target)),
        ("no thread", recording(&target, Vec::new())),
        ("a thread that never ran", recording(&target, vec![new_task(start + 1, 10, 10, b"one")])),
        ("one switch, nothing else", vec![switch(start, 0, 0, 10, 0)]),
        ("one switch in a window", recording(&target, vec![switch(start + 5, 0, 10, 0, 1)])),
    ];
    for (what, records) in streams {
        let violations = violations(&value(&report(&records)));
        assert!(violations.is_empty(), "{what}: {violations:#?}");
    }
}

#[test]
fn the_schema_refuses_what_is_no_report() {
    let good = value(&golden_report("mutex"));
    let mut wrong = vec![("an empty object", serde_json::json!({}))];
    for (what, pointer, new) in [
        ("a verdict that does not exist", "/verdict", Value::from("fine")),
        ("a length in words", "/window/duration_s", Value::from("1 s")),
        ("a thread without an id", "/threads/0/tid", Value::Null),
        ("a severity that does not exist", "/findings/0/severity", Value::from("bad")),
    ] {
        let mut document = good.clone();
        *document.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is in the report")) = new;
        wrong.push((what, document));
    }
    for (what, document) in wrong {
        assert!(!violations(&document).is_empty(), "{what} is accepted");
    }
}
