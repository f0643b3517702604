//! A thread can give itself any name, and a program lie at any path: none of them reaches a terminal or a parser as it is.

use tracer::export::ndjson::write_event;
use tracer::model::meta::{
    CostRecord, EndRecord, FamilyRecord, HostRecord, NameRecord, ProgramCost, SeedRecord, TargetRecord,
};
use tracer::model::report::{Report, Row};
use tracer::pipeline::decode::decode;
use tracer_common::record::meta;

use crate::records::{START_NS, cgroup_move, exec, meta_record, new_task, recording, rename, switch};
use crate::support::{assert_sound, capture_of, json, read, report, text};

/// Names as the kernel would give them, and how they must look.
const NAMES: [(&[u8], &str); 7] = [
    (b"\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
    (b"bad\xff\xfebytes", "bad\\xff\\xfebytes"),
    (b"two\nlines\ttab", "two\\x0alines\\x09tab"),
    ("left\u{202e}right".as_bytes(), "left\\u{202e}right"),
    (b"\x7f\x08\x08over", "\\x7f\\x08\\x08over"),
    ("cut\u{9b}31m".as_bytes(), "cut\\u{9b}31m"),
    (b"quote\"back\\", "quote\"back\\"),
];

/// In every text that user space writes: control characters, and one that changes the direction of writing.
const HOSTILE: &str = "esc\u{1b}]0;title\u{7}\u{7f}\u{202e}";

fn evil() -> Vec<Vec<u8>> {
    let at = |ms: u64| START_NS + ms * 1_000_000;
    let mut body = Vec::new();
    for (index, (name, _)) in NAMES.iter().enumerate() {
        let tid = 100 + index as u32;
        body.push(new_task(at(1), tid, tid, b"before"));
        body.push(exec(at(2), tid, b"program", &[b"/tmp/", *name].concat()));
        body.push(rename(at(3), tid, tid, name));
        body.push(cgroup_move(at(3), tid, &[b"/slice/", *name].concat()));
        let ms = 10 + index as u64 * 10;
        body.push(switch(at(ms), 0, 0, tid, 0));
        body.push(switch(at(ms + 5), 0, tid, 0, 1));
    }
    let seed = SeedRecord {
        tid: 300,
        tgid: 300,
        comm: HOSTILE.to_owned(),
        state: "S".to_owned(),
        cgroup: Some(format!("/{HOSTILE}")),
        ..SeedRecord::default()
    };
    body.push(meta_record(meta::SEED, at(0), &seed));
    body.push(meta_record(
        meta::NAME,
        at(4),
        &NameRecord { tid: 400, tgid: 400, comm: HOSTILE.to_owned(), priority: None },
    ));
    let target = TargetRecord {
        mode: "run".to_owned(),
        command: vec!["./prog".to_owned(), HOSTILE.to_owned()],
        comm: Some(HOSTILE.to_owned()),
        cgroup: Some(format!("/{HOSTILE}")),
        container: Some(HOSTILE.to_owned()),
        user: Some(HOSTILE.to_owned()),
        ..TargetRecord::default()
    };
    let host = HostRecord {
        tracer_version: HOSTILE.to_owned(),
        kernel: HOSTILE.to_owned(),
        arch: HOSTILE.to_owned(),
        cgroup_version: HOSTILE.to_owned(),
        clock: HOSTILE.to_owned(),
        ..HostRecord::default()
    };
    body.push(meta_record(meta::HOST, at(0), &host));
    let (family, status, reason) = (HOSTILE.to_owned(), HOSTILE.to_owned(), Some(HOSTILE.to_owned()));
    body.push(meta_record(meta::FAMILIES, at(0), &FamilyRecord { family, status, reason }));
    let program = ProgramCost { name: HOSTILE.to_owned(), runs: 3, ns: 300 };
    body.push(meta_record(
        meta::COST,
        at(5),
        &CostRecord { measured_s: 0.1, programs: vec![program], ..CostRecord::default() },
    ));
    let mut records = recording(&target, body);
    records.push(meta_record(meta::END, at(1000), &EndRecord { reason: HOSTILE.to_owned(), ..EndRecord::default() }));
    records
}

/// The report by way of a capture, as `tracer report` makes it.
fn evil_report() -> Report {
    report(&read(&capture_of(&evil(), 1 << 20)).expect("opens").records)
}

/// Characters that no output may hold.
#[track_caller]
fn assert_tame(what: &str, text: &str) {
    for (number, line) in text.lines().enumerate() {
        let steers = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || c == '\u{fffd}';
        let found = line.chars().find(|c| steers(*c));
        assert!(found.is_none(), "{what}, line {}: {found:?} in {line:?}", number + 1);
    }
}

/// Every string of a JSON document, keys too.
fn strings(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => found.push(text.clone()),
        serde_json::Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        serde_json::Value::Object(fields) => {
            for (key, field) in fields {
                found.push(key.clone());
                strings(field, found);
            }
        }
        _ => {}
    }
}

/// Fails where a JSON document holds a string that could steer a terminal once a program has unescaped and printed it.
#[track_caller]
fn assert_tame_json(what: &str, document: &str) {
    assert_tame(what, document);
    let value = serde_json::from_str(document).unwrap_or_else(|error| panic!("{what}: {error}: {document}"));
    let mut found = Vec::new();
    strings(&value, &mut found);
    found.iter().for_each(|text| {
        let lines = text.replace('\n', "<line feed>");
        assert!(!text.contains('\n'), "{what}: a line feed in {lines:?}");
        assert_tame(what, text);
    });
}

#[test]
fn names_are_escaped_in_the_report() {
    let report = evil_report();
    assert_sound("hostile names", &report);
    let names: Vec<&str> = report
        .threads
        .iter()
        .filter_map(|row| if let Row::Thread(thread) = row { thread.name.as_deref() } else { None })
        .collect();
    for (raw, expected) in NAMES {
        // The kernel keeps 15 bytes of a name.
        let kept = &raw[..raw.len().min(15)];
        let shown = if raw.len() > 15 { tracer::model::text::printable(kept) } else { expected.to_owned() };
        assert!(names.contains(&shown.as_str()), "{shown:?} is not among {names:?}");
    }
}

#[test]
fn nothing_in_the_text_steers_a_terminal() {
    assert_tame("text", &text(&evil_report()));
}

#[test]
fn nothing_in_the_json_steers_a_terminal() {
    assert_tame_json("json", &json(&evil_report()));
}

#[test]
fn nothing_in_the_export_steers_a_terminal() {
    let mut lines = Vec::new();
    for record in evil() {
        write_event(&decode(&record).expect("well-formed"), &mut lines).expect("memory");
    }
    let text = String::from_utf8(lines).expect("UTF-8");
    for line in text.lines() {
        assert_tame_json("ndjson", line);
    }
    for path in ["/tmp/\\\\x1b[31mred", "/slice/bad\\\\xff\\\\xfebytes"] {
        assert!(text.contains(path), "{path} is not in the export");
    }
}
