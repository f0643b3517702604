//! A capture gives the report that the live run gave, on any machine, for any user.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Report, Traced, Tracer, python, trace, workload};

/// Fails unless a report is valid against the schema that is checked in.
#[track_caller]
pub fn assert_valid(report: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("offline/report.schema.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let schema: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let validator = jsonschema::validator_for(&schema).expect("the schema is one");
    let errors: Vec<String> =
        validator.iter_errors(report).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "the report breaks its schema: {errors:?}");
}

/// A report's text without the values of the two keys in which a replay may differ.
fn without_live_parts(text: &str) -> String {
    let mut kept = String::new();
    let mut depth = 0_usize;
    let (mut in_string, mut escaped, mut start) = (false, false, 0);
    let mut dropping = None;
    for (at, c) in text.char_indices() {
        if in_string {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                let rest = &text[at..];
                let live = rest.starts_with("\"overhead\"") || rest.starts_with("\"generator\"");
                if depth == 1 && dropping.is_none() && live {
                    kept.push_str(text[start..at].trim_end().trim_end_matches(','));
                    dropping = Some(at);
                }
            }
            '{' | '[' => depth += 1,
            '}' | ']' => {
                depth -= 1;
                if depth == 1 && dropping.take().is_some() {
                    start = at + 1;
                }
            }
            _ => {}
        }
    }
    kept.push_str(&text[start..]);
    kept
}

#[track_caller]
fn assert_same(what: &str, live: &str, replayed: &str) {
    let (live, replayed) = (without_live_parts(live), without_live_parts(replayed));
    if live != replayed {
        let at = live.lines().zip(replayed.lines()).position(|(a, b)| a != b).unwrap_or(0);
        let around = |text: &str| text.lines().skip(at.saturating_sub(6)).take(14).collect::<Vec<_>>().join("\n");
        panic!("{what}: differs at line {}\n--- live\n{}\n--- replay\n{}", at + 1, around(&live), around(&replayed));
    }
}

fn rich() -> Traced {
    trace("mutex --threads 4 --hold 1ms --duration 400ms")
}

#[test]
fn a_replay_is_the_live_report_byte_for_byte() {
    let traced = rich();
    let live = traced.report_text();
    assert_same("replay", &live, &traced.replayed().expect_code(0).ended.stdout);
    let again = traced.replayed().expect_code(0).ended.stdout;
    assert_eq!(again, traced.replayed().ended.stdout, "two replays");
    assert_valid(&Report::parse(&live).0);
}

#[test]
fn a_storm_replays_as_it_was() {
    let traced = trace("fork-storm --count 200 --rate 500/s");
    assert_same("replay", &traced.report_text(), &traced.replayed().expect_code(0).ended.stdout);
}

#[test]
fn time_zone_and_locale_change_nothing() {
    let traced = rich();
    let here = traced.replayed().expect_code(0).ended.stdout;
    for (zone, locale) in [("Asia/Kathmandu", "de_DE.UTF-8"), ("America/St_Johns", "tr_TR.UTF-8"), ("", "C")] {
        let there = Tracer::plain("report").option(traced.capture()).options(&["--format", "json"]);
        let there = there.env("TZ", zone).env("LC_ALL", locale).env("LANG", locale).go().expect_code(0);
        assert_eq!(here, there.ended.stdout, "in {zone} and {locale}");
        let live =
            Tracer::run(workload("sleep --duration 50ms")).env("TZ", zone).env("LC_ALL", locale).go().expect_code(0);
        assert_same("live", &live.report_text(), &live.replayed().expect_code(0).ended.stdout);
    }
}

#[test]
fn a_capture_reads_the_same_when_the_traced_binary_is_gone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = folder.path().join(format!("gone-{}", fastrand::u32(..)));
    std::fs::copy(crate::harness::workload_bin(), &copy).expect("the workload can be copied");
    let mut command = workload("mutex --duration 200ms");
    command[0] = copy.into_os_string();
    let traced = Tracer::run(command).go().expect_code(0);
    drop(folder);
    assert_same("replay", &traced.report_text(), &traced.replayed().expect_code(0).ended.stdout);
}

#[test]
fn export_to_json_is_the_report() {
    let traced = rich();
    let exported = Tracer::plain("export").option(traced.capture()).options(&["--to", "json"]).go().expect_code(0);
    assert_same("export", &traced.report_text(), &exported.ended.stdout);
}

#[test]
fn a_python_program_replays_as_it_was() {
    let traced = Tracer::run(python("gil_fight.py", "0.3")).go().expect_code(0);
    assert_same("replay", &traced.report_text(), &traced.replayed().expect_code(0).ended.stdout);
}

#[test]
fn text_without_live_parts_is_what_it_says() {
    let text = "{\n  \"schema\": \"x\",\n  \"generator\": {\n    \"v\": \"a}\\\"\"\n  },\n  \"window\": [1],\n  \"overhead\": {\n    \"p\": []\n  }\n}\n";
    let same = "{\n  \"schema\": \"x\",\n  \"window\": [1]\n}\n";
    assert_eq!(without_live_parts(text), same);
    assert_eq!(without_live_parts(same), same);
}
