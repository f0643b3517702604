//! Every thread and process is there, under its names, with its parent, its cgroup and its end.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{Traced, Tracer, close, host::Cgroup, list, number, report::state, text, trace, whole, workload};

/// How many events of each value of a key there are.
pub fn tally<'a>(events: impl Iterator<Item = &'a Value>, key: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for event in events {
        let value = event[key].as_str().map_or_else(|| event[key].to_string(), str::to_owned);
        *counts.entry(value).or_default() += 1;
    }
    counts
}

/// The events of one kind.
pub fn of_kind<'a>(events: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["kind"] == kind)
}

#[test]
fn each_thread_is_in_the_report_under_its_name() {
    let traced = trace("mutex --healthy --threads 6 --duration 300ms");
    let (truth, report) = (traced.truth(), traced.report());
    let pid = whole(&truth, "pid");
    for own in list(&truth, "threads") {
        let row = report.thread(whole(own, "tid"));
        assert_eq!(row["name"], own["name"], "name of {own}");
        assert_eq!(whole(row, "pid"), pid, "process of {row}");
        close("wall time", number(row, "wall_s"), number(own, "wall_s"), 0.02, 0.01);
    }
}

#[test]
fn names_that_threads_give_themselves_are_kept_in_order() {
    let traced = trace("rename --count 3 --period 50ms");
    let truth = traced.truth();
    let own = &list(&truth, "threads")[0];
    let report = traced.report();
    let row = report.thread(whole(own, "tid"));
    let names = list(&truth, "names");
    assert_eq!(row["name"], names[2], "the last name: {row}");
    let before: Vec<&Value> = list(row, "names_before").iter().rev().take(3).rev().collect();
    assert_eq!(before, [&own["name"], &names[0], &names[1]], "names before it: {row}");
}

#[test]
fn an_odd_name_is_escaped_everywhere() {
    let traced = trace("rename --odd --count 1 --period 30ms");
    let truth = traced.truth();
    let report = traced.report();
    let row = report.thread(whole(&list(&truth, "threads")[0], "tid"));
    assert_eq!(text(row, "name"), "\\x1b[31m\\xff\\xfe\\x0ax", "the name as printable text");
    let shown = crate::harness::replay(&traced.capture(), &[]).expect_code(0);
    let exported = Tracer::plain("export").option(traced.capture()).options(&["--to", "ndjson"]).go().expect_code(0);
    for (what, text) in [("text report", &shown.ended.stdout), ("export", &exported.ended.stdout)] {
        let control = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(control, None, "{what} holds a control character");
        assert!(text.contains("[31m"), "{what} shows the name: {text}");
    }
}

#[test]
fn a_program_executed_by_another_thread_than_the_first_is_followed() {
    let traced = trace("exec-thread --after 300ms");
    let truths = traced.truths();
    let (before, after) = (&truths[0], &truths[1]);
    let report = traced.report();
    let row = report.thread(whole(before, "pid"));
    close("time on CPU after the exec", state(row, "on_cpu"), number(after, "cpu_s"), 0.05, 0.06);
    let events = traced.events();
    let old =
        of_kind(&events, "exec").any(|exec| exec["old_tid"] == before["executor_tid"] && exec["tgid"] == before["pid"]);
    assert!(old, "no exec event names the thread that executed: {:?}", of_kind(&events, "exec").collect::<Vec<_>>());
    report.assert_states();
}

fn storm() -> Traced {
    trace("fork-storm --count 100 --rate 400/s")
}

#[test]
fn each_executed_program_is_in_the_export_by_its_name() {
    let traced = storm();
    let (truth, events) = (traced.truth(), traced.events());
    let names = tally(of_kind(&events, "exec"), "comm");
    for (name, count) in truth["names"].as_object().expect("names") {
        assert_eq!(names.get(name).copied(), count.as_u64(), "execs of {name}; all: {names:?}");
    }
}

#[test]
fn each_end_of_a_process_is_in_the_export_with_its_code() {
    let traced = storm();
    let (truth, events) = (traced.truth(), traced.events());
    let names = truth["names"].as_object().expect("names");
    let ends =
        of_kind(&events, "exit").filter(|exit| exit["comm"].as_str().is_some_and(|name| names.contains_key(name)));
    let codes = tally(ends, "exit_code");
    for (code, count) in truth["exit_codes"].as_object().expect("codes") {
        let as_wait_gives_it = (code.parse::<u32>().expect("a number") << 8).to_string();
        assert_eq!(codes.get(&as_wait_gives_it).copied(), count.as_u64(), "ends with {code}; all: {codes:?}");
    }
}

#[test]
fn each_fork_is_in_the_export_with_its_parent() {
    let traced = storm();
    let (truth, events) = (traced.truth(), traced.events());
    let forks = of_kind(&events, "fork").filter(|fork| fork["parent_tgid"] == truth["pid"]).count() as u64;
    assert_eq!(forks, whole(&truth, "forks"), "forks by {}", truth["pid"]);
}

#[test]
fn a_move_to_another_cgroup_is_seen() {
    let cgroup = Cgroup::new();
    let traced = Tracer::run(workload(&format!("cgroup-move --to {}", cgroup.folder().display()))).go().expect_code(0);
    let (truth, events) = (traced.truth(), traced.events());
    let moved: Vec<&Value> = of_kind(&events, "cgroup-move").collect();
    let here = moved.iter().any(|event| event["tgid"] == truth["pid"] && event["path"] == cgroup.path());
    assert!(here, "no event for the move to {}: {moved:?}", cgroup.path());
    if cgroup.is_unified() {
        let report = traced.report();
        let row = report.thread(whole(&truth, "pid"));
        assert!(text(row, "cgroup").ends_with(cgroup.path()), "the thread's cgroup: {row}");
    }
}

#[test]
fn a_child_knows_its_parent() {
    let traced = trace("child-wait --duration 100ms");
    let (truth, report) = (traced.truth(), traced.report());
    let child = report.thread(whole(&truth, "child"));
    assert_eq!(child["parent_pid"], truth["pid"], "parent of {child}");
    assert!(child["end_unix_ns"].as_u64() > child["start_unix_ns"].as_u64(), "it started and ended: {child}");
}

#[test]
fn no_more_is_taken_from_threads_than_the_host_says() {
    let traced = trace("cpu --threads 2 --duration 500ms");
    let (truth, report) = (traced.truth(), traced.report());
    for own in list(&truth, "threads") {
        let row = report.thread(whole(own, "tid"));
        let taken_s = number(row, "taken_s");
        assert!(taken_s <= traced.stolen_s + 0.01, "the host says {} s: {row}", traced.stolen_s);
        let account_s = number(own, "schedstat_ns") / 1e9;
        assert!(taken_s <= state(row, "on_cpu") - account_s + 0.01, "its own account is {account_s} s: {row}");
    }
}
