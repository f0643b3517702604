//! `--step`: steps of a loop, each counted, and what slow ones spend more on than the others.

use serde_json::Value;

use crate::harness::python::interpreters;
use crate::harness::{self, Report, Traced, Tracer, list, native, number, text, whole, workload, workload_bin};

/// A function of the workload.
fn train_step() -> String {
    format!("{}:workload_train_step", workload_bin().display())
}

fn traced(command: Vec<std::ffi::OsString>, step: &str) -> Traced {
    Tracer::run(command).options(&["--family", "cpu", "--step", step]).go().expect_code(0)
}

/// The section, whose sums must hold.
#[track_caller]
fn steps(report: &Report) -> &Value {
    let steps = &report.0["critical_path"]["steps"];
    assert!(steps.is_object(), "there are steps: {}", report.0["critical_path"]);
    let not_walked = whole(steps, "not_walked");
    assert_eq!(not_walked, 0, "each step is walked: {steps}");
    let causes: f64 = list(steps, "causes").iter().map(|cause| number(cause, "s")).sum();
    let (sum, total) = (causes + number(steps, "others_s"), number(steps, "total_s"));
    assert!((sum - total).abs() <= 1e-6 + 1e-9 * total, "causes sum to {sum} of {total} s: {steps}");
    for step in list(steps, "slowest") {
        let parts: f64 = list(step, "parts").iter().map(|part| number(part, "s")).sum();
        let (sum, s) = (parts + number(step, "others_s"), number(step, "s"));
        assert!((sum - s).abs() <= 1e-6, "the parts of a step sum to {sum} of {s} s: {step}");
    }
    steps
}

/// What slow steps spend more on, but for what a busy machine adds to any of them.
fn more_in(steps: &Value) -> Vec<&Value> {
    let more = steps["slow"]["more_in"].as_array().into_iter().flatten();
    more.filter(|more| more["state"] != "runnable").collect()
}

#[test]
fn each_step_is_counted_and_what_each_tenth_waits_for_is_named() {
    let traced = traced(workload("steps --steps 101"), &train_step());
    let (truth, report) = (traced.truth(), traced.report());
    report.assert_path();
    report.assert_sums();
    let steps = steps(&report);
    assert_eq!((whole(steps, "entries"), whole(steps, "count"), whole(steps, "incomplete")), (101, 100, 1), "{steps}");
    assert_eq!((whole(steps, "threads"), &steps["of"][0]["pid"]), (1, &truth["pid"]), "{steps}");
    let took = list(&truth, "took_s");
    let told: f64 = took.iter().take(100).filter_map(Value::as_f64).sum();
    let total = number(steps, "total_s");
    assert!((total - told).abs() <= 0.02 * told, "steps took {total} s, the program says {told}: {steps}");
    let slow = &steps["slow"];
    assert!(slow["count"].as_u64().is_some_and(|count| count >= 10), "each tenth is slow: {slow}");
    let most = more_in(steps).into_iter().next().unwrap_or_else(|| panic!("a cause: {steps}"));
    let holder = list(&truth, "threads").iter().find(|thread| thread["role"] == "holder").expect("it runs");
    assert_eq!((&most["state"], &most["tid"]), (&"timer".into(), &holder["tid"]), "{slow}");
    assert_eq!(most["within"]["state"], "futex", "the step itself waits for the lock: {slow}");
    assert_eq!(
        most["functions"][0]["function"].as_str().map(|name| name.contains("write_table")),
        Some(true),
        "{slow}"
    );
    let more = number(most, "more_s") * number(slow, "count");
    let held = number(holder, "held_s");
    assert!((0.8..=1.1).contains(&(more / held)), "slow steps have {more} s more of it, it was held {held} s: {slow}");
    let said = Tracer::plain("report").option(traced.capture()).go().expect_code(0).ended.stdout;
    assert!(said.contains("Steps: 100 steps of"), "{said}");
    assert!(said.contains("slow: ") && said.contains("write_table"), "{said}");
}

#[test]
fn of_steps_that_are_all_alike_no_cause_is_called_slow() {
    let traced = traced(workload("steps --steps 60 --healthy"), &train_step());
    let report = traced.report();
    let steps = steps(&report);
    assert_eq!(whole(steps, "count"), 59, "{steps}");
    let median = number(&steps["duration"], "p50_s");
    // Time without a CPU is the machine's; on a virtual one it counts as computing while the hypervisor has the CPU.
    let blamed: Vec<&Value> = more_in(steps)
        .into_iter()
        .filter(|more| more["state"] != "on_cpu" || number(more, "more_s") > median.max(2.0 * traced.stolen_s))
        .collect();
    assert!(blamed.is_empty(), "nothing is to blame: {blamed:?}");
}

#[test]
fn steps_of_several_threads_are_counted_each_by_itself() {
    let traced = traced(workload("steps --steps 30 --healthy --beside 2 --work 2ms"), &train_step());
    let report = traced.report();
    let steps = steps(&report);
    assert_eq!((whole(steps, "threads"), whole(steps, "entries"), whole(steps, "count")), (3, 90, 87), "{steps}");
    assert_eq!(whole(steps, "incomplete"), 3, "{steps}");
}

#[test]
fn a_replay_and_an_export_have_the_same_steps() {
    let traced = traced(workload("steps --steps 25 --work 1ms"), &train_step());
    let replayed = Report::parse(&traced.replayed().expect_code(0).ended.stdout);
    assert_eq!(replayed.0["critical_path"], traced.report().0["critical_path"]);
    let lines = Tracer::plain("export").option(traced.capture()).options(&["--to", "ndjson"]).go().expect_code(0);
    let entries = lines.ended.stdout.lines().filter(|line| line.contains("\"kind\":\"step\"")).count();
    assert_eq!(entries, 25, "each entry is a record");
}

#[test]
fn of_a_running_program_the_path_is_that_of_the_thread_that_has_the_steps() {
    let command = workload("steps --steps 4000 --announce");
    let mut program = harness::Background::command(&command);
    let pid = program.next_json()["pid"].to_string();
    // By its mere name: it is looked for among what the process has mapped.
    let step = "workload:workload_train_step";
    let tracer = Tracer::record(&["--pid", &pid, "--duration", "1s", "--family", "cpu", "--step", step]);
    let report = tracer.go().expect_code(0).report();
    report.assert_path();
    let steps = steps(&report);
    assert_eq!(report.0["critical_path"]["of"]["tid"].to_string(), pid, "{}", report.0["critical_path"]);
    assert!(whole(steps, "count") >= 20, "{steps}");
    assert_eq!(whole(steps, "incomplete"), 1, "the last one is cut off by the window: {steps}");
    assert_eq!(report.0["target"]["step"], step);
    assert!(more_in(steps).iter().any(|more| more["state"] == "timer"), "{}", steps["slow"]);
}

#[test]
fn a_probe_of_the_programs_author_is_seen_and_its_semaphore_is_raised() {
    let program = native::build("probe.c");
    let step = format!("usdt:{}:loop:step", program.display());
    let traced = traced(native::line(&program, "50"), &step);
    let (truth, report) = (traced.truth(), traced.report());
    let steps = steps(&report);
    assert_eq!((whole(steps, "entries"), whole(steps, "count")), (50, 49), "{steps}");
    assert_eq!(truth["seen"], truth["steps"], "the program was told that somebody looks: {truth}");
}

#[test]
fn steps_of_a_python_function_are_counted_from_the_moment_it_was_seen() {
    for interpreter in interpreters() {
        let name = interpreter.shown();
        if interpreter.version >= (3, 14) || interpreter.root.is_some() {
            continue;
        }
        let traced = traced(interpreter.line("steps.py", "slow 60"), "py:train_step");
        let report = traced.report();
        let steps = steps(&report);
        let (count, watched) = (whole(steps, "count"), &steps["watched"][0]);
        // On a busy machine it takes a while until the interpreter is known.
        assert!((40..=59).contains(&count), "{name}: {count} of 59 steps: {steps}");
        assert!(text(watched, "function").ends_with("train_step") && watched["failed"].is_null(), "{name}: {watched}");
        let slow = &steps["slow"];
        let most = more_in(steps).into_iter().next().unwrap_or_else(|| panic!("{name}: a cause: {steps}"));
        // Until 3.10 Python sleeps by select.
        assert!(most["state"] == "timer" || most["state"] == "poll", "{name}: {slow}");
        assert_eq!(most["cause"], "timer", "{name}: {slow}");
        assert_eq!(most["functions"][0]["function"], "save_checkpoint", "{name}: {slow}");
        // Four to six times 50 ms, however many steps are slow beside these.
        let more = number(most, "more_s") * number(slow, "count");
        assert!((0.16..0.36).contains(&more), "{name}: {more} s more: {slow}");
        // On a busy machine others are slow as well.
        assert!(whole(slow, "count") > 6 || slow["every"] == 10, "{name}: each tenth: {slow}");
    }
}

#[test]
fn steps_of_a_python_function_that_are_all_alike_have_no_slow_cause() {
    let traced = traced(harness::python("steps.py", "even 60"), "py:steps.py:train_step");
    let report = traced.report();
    let steps = steps(&report);
    assert!(whole(steps, "count") >= 40, "{steps}");
    let waits: Vec<&Value> = more_in(steps).into_iter().filter(|more| more["state"] != "on_cpu").collect();
    assert!(waits.is_empty(), "nothing waits: {waits:?}");
}

#[test]
fn a_python_function_is_watched_in_threads_that_come_later_and_in_forked_children() {
    let traced = traced(harness::python("steps_threads.py", ""), "py:train_step");
    let report = traced.report();
    let steps = steps(&report);
    assert_eq!((whole(steps, "threads"), whole(steps, "incomplete")), (4, 4), "{steps}");
    let entries = whole(steps, "entries");
    assert!((60..=80).contains(&entries), "{entries} of 80 calls: {steps}");
    assert_eq!(list(steps, "watched").len(), 2, "a process and its child: {steps}");
}

/// Starts `run` with a step that is nowhere; gives what it says.
#[track_caller]
fn refused(step: &str) -> String {
    let tracer = Tracer::run(harness::shell("echo ran")).bare().options(&["--step", step]);
    let ended = tracer.go().expect_code(125).ended;
    assert_eq!(ended.stdout, "", "the command does not run: {ended}");
    assert_eq!(ended.stderr.trim().lines().count(), 1, "one sentence: {ended}");
    ended.stderr
}

#[test]
fn what_is_nowhere_is_refused_in_a_sentence_before_the_command_runs() {
    let workload = workload_bin().display().to_string();
    for (step, said) in [
        ("/nowhere/program:step".to_owned(), "/nowhere/program cannot be opened: No such file"),
        ("no-such-library.so:step".to_owned(), "no file no-such-library.so is found in PATH"),
        (format!("{workload}:workload_train_stop"), "is `workload_train_step` meant?"),
        (format!("{workload}:pthread_mutex_lock"), "it calls `pthread_mutex_lock`, which is in another file"),
        (format!("usdt:{workload}:a:b"), "it has no prob"),
        (format!("{}:step", harness::workspace().join("Cargo.toml").display()), "no 64-bit program"),
    ] {
        let stderr = refused(&step);
        assert!(stderr.contains(said), "{step}: {stderr}");
    }
    let ended =
        Tracer::run(harness::shell("echo ran")).bare().options(&["--step", "nothing"]).go().expect_code(125).ended;
    assert!(ended.stderr.contains("names no function: write FILE:SYMBOL"), "{ended}");
}

#[test]
fn a_function_that_is_never_entered_is_said_to_be() {
    let traced = traced(harness::shell("true"), &train_step());
    assert!(traced.ended.stderr.contains("it was not entered by any traced thread"), "{}", traced.ended);
    assert_eq!(whole(&traced.report().0["critical_path"]["steps"], "entries"), 0);
}

#[test]
fn steps_that_nobody_asked_for_are_found_by_the_wait_that_the_main_thread_comes_back_to() {
    let traced = Tracer::run(workload("straggler --steps 40")).options(&["--family", "cpu"]).go().expect_code(0);
    let report = traced.report();
    let steps = steps(&report);
    assert_eq!(text(&steps["found"], "state"), "socket_unix", "it meets the other rank: {steps}");
    let place = text(&steps["found"]["place"], "function");
    assert!(place.contains("straggler"), "{steps}");
    assert!((35..=39).contains(&whole(steps, "count")), "one for each meeting but the first: {steps}");
    let p50 = number(&steps["duration"], "p50_s");
    assert!((0.030..0.060).contains(&p50), "5 ms of work and 30 ms late: {steps}");
    let shown = harness::replay(&traced.capture(), &[]).ended.stdout;
    assert!(shown.contains("found by its waits in"), "{shown}");
}

#[test]
fn a_program_without_a_rhythm_has_no_steps() {
    for role in ["cpu --duration 400ms", "mutex --duration 400ms", "pingpong --count 20000", "steps --steps 8"] {
        let report = Tracer::run(workload(role)).go().expect_code(0).report();
        assert!(report.0["critical_path"]["steps"].is_null(), "{role}: {}", report.0["critical_path"]["steps"]);
    }
}
