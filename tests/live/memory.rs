//! Sizes over time and forecasts: a process that grows to its cgroup's limit, and ones that do not.

use serde_json::Value;

use crate::harness::memory::MemoryCgroup;
use crate::harness::{self, Background, Report, Traced, Tracer, close, list, number, python, text, workload};

const MIB: u64 = 1 << 20;
const FAMILIES: [&str; 2] = ["--family", "cpu,fault,oom,rss"];

fn grown(arguments: &str, cgroup: &MemoryCgroup) -> Traced {
    let arguments = format!("grow {arguments} --cgroup {}", cgroup.folder().display());
    Tracer::run(workload(&arguments)).options(&FAMILIES).go()
}

fn forecasts<'a>(report: &'a Report, cgroup: &MemoryCgroup) -> Vec<&'a Value> {
    let all = report.0["memory"]["forecasts"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter(|forecast| forecast["cgroup"] == cgroup.path()).collect()
}

#[test]
fn forecasts_agree_with_the_moment_at_which_the_kernel_kills() {
    let Some(cgroup) = MemoryCgroup::new(300 * MIB) else { return };
    let traced = grown("--rate 30 --mib 1024", &cgroup).expect_code(137);
    let report = traced.report();
    let killed = report.findings("oom-kill");
    let [kill] = killed[..] else { panic!("one kill, not {killed:?}: {}", report.0["rules"]) };
    assert!(
        text(&kill["culprit"], "function").contains("cache_another")
            || text(&kill["culprit"], "function").contains("touch_pages"),
        "what grew is named: {kill}"
    );
    let end_s = number(&list(&report.0["paging"], "kills")[0], "t_s");
    let made = forecasts(&report, &cgroup);
    let late: Vec<&&Value> = made.iter().filter(|forecast| number(forecast, "t_s") >= end_s / 2.0).collect();
    assert!(late.len() >= 8, "a forecast with most readings: {made:?}");
    let good = late.iter().filter(|forecast| {
        let (left_s, eta_s) = (end_s - number(forecast, "t_s"), number(forecast, "eta_s"));
        (eta_s - left_s).abs() <= (0.15 * left_s).max(1.0)
    });
    let share = good.count() as f64 / late.len() as f64;
    assert!(share >= 0.95, "{share} of {} forecasts are right, the end was at {end_s} s: {late:?}", late.len());
    assert!(report.findings("oom-forecast").is_empty(), "the kill says more");
    let process = &list(&report.0["memory"], "processes")[0];
    assert_eq!(process["pid"], kill["culprit"]["pid"], "{process}");
    let kernel = number(&list(&report.0["paging"], "kills")[0], "anonymous_bytes");
    // The last reading was up to a quarter of a second before.
    close("the last size", number(&process["last"], "anonymous_bytes"), kernel, 0.10, 12.0 * MIB as f64);
}

#[test]
fn growth_that_goes_on_at_the_end_is_foretold_with_who_grows() {
    let Some(cgroup) = MemoryCgroup::new(1024 * MIB) else { return };
    let command = workload(&format!("--announce grow --rate 40 --mib 1024 --cgroup {}", cgroup.folder().display()));
    let mut growing = Background::command(&command);
    let truth = growing.next_json();
    let pid = truth["pid"].to_string();
    let report = Tracer::record(&["--pid", &pid, "--duration", "5s"]).options(&FAMILIES).go().expect_code(0).report();
    let found = report.findings("oom-forecast");
    let [finding] = found[..] else { panic!("one forecast, not {found:?}: {}", report.0["rules"]) };
    let culprit = &finding["culprit"];
    assert_eq!((&culprit["pid"], culprit["cgroup"].as_str()), (&truth["pid"], Some(cgroup.path())), "{finding}");
    let last = forecasts(&report, &cgroup).last().copied().cloned().expect("a forecast");
    close("growth", number(&last, "bytes_per_s"), 40.0 * MIB as f64, 0.15, 0.0);
    for evidence in list(finding, "evidence") {
        let at = report.0.pointer(text(evidence, "source")).and_then(Value::as_f64);
        assert_eq!(at, evidence["value"].as_f64(), "the report has what is cited: {evidence}");
    }
}

/// A program that runs beside the tracer, and what it said of itself when it began.
fn beside(arguments: &str) -> (Background, Value) {
    let mut program = Background::command(&workload(&format!("--announce {arguments}")));
    let truth = program.next_json();
    (program, truth)
}

/// What 5 s of a running program look like.
fn recorded(truth: &Value) -> Report {
    let record = ["--pid", &truth["pid"].to_string(), "--duration", "5s"];
    Tracer::record(&record).options(&FAMILIES).go().expect_code(0).report()
}

#[test]
fn growth_towards_the_end_of_the_hosts_memory_is_foretold_where_it_is_the_traced_programs() {
    let total = std::fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
    let kib = total.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    let total_bytes = kib.expect("MemTotal") << 10;
    // Under half a minute and a tenth of the memory, and still an end in sight.
    let rate = (total_bytes / MIB / 90).max(20);
    let grower = format!("grow --rate {rate} --mib {}", rate * 9);
    let (growing, truth) = beside(&grower);
    let report = recorded(&truth);
    drop(growing);
    let found = report.findings("oom-forecast");
    let [finding] = found[..] else {
        panic!("one forecast, not {found:?}: {} {}", report.0["rules"], report.0["memory"]["forecasts"])
    };
    let culprit = &finding["culprit"];
    assert_eq!((&culprit["pid"], culprit["cgroup"].as_str()), (&truth["pid"], None), "{finding}");
    let forecast =
        list(&report.0["memory"], "forecasts").iter().rfind(|one| one["cgroup"].is_null()).expect("the host's");
    close("growth", number(forecast, "bytes_per_s"), (rate * MIB) as f64, 0.3, 0.0);
    assert!(number(forecast, "limit_bytes") >= total_bytes as f64, "{forecast}");
    let (_growing, _) = beside(&grower);
    let (_sleeping, truth) = beside("sleep --duration 20s");
    let report = recorded(&truth);
    assert!(report.findings("oom-forecast").is_empty(), "it grows beside what is traced: {}", report.0["findings"]);
}

#[test]
fn growth_of_a_program_that_ended_by_itself_is_observed_only() {
    let Some(cgroup) = MemoryCgroup::new(1024 * MIB) else { return };
    let report = grown("--rate 60 --mib 200", &cgroup).expect_code(0).report();
    assert!(report.findings("oom-forecast").is_empty(), "{}", report.0["findings"]);
}

#[test]
fn a_program_that_warms_up_and_then_stays_is_not_foretold_to_end() {
    for _ in 0..crate::healthy::repeats() {
        let Some(cgroup) = MemoryCgroup::new(300 * MIB) else { return };
        let traced = grown("--rate 60 --mib 150 --stay 4s", &cgroup).expect_code(0);
        let report = traced.report();
        for class in ["oom-forecast", "oom-kill"] {
            assert!(report.findings(class).is_empty(), "{class} is silent: {}", report.0["findings"]);
        }
        let process = &list(&report.0["memory"], "processes")[0];
        close("what it held", number(&process["last"], "anonymous_bytes"), 150.0 * MIB as f64, 0.05, 2.0 * MIB as f64);
    }
}

#[test]
fn filling_the_page_cache_up_to_the_limit_is_no_growth() {
    let Some(cgroup) = MemoryCgroup::new(128 * MIB) else { return };
    let disk = harness::storage::disk();
    let arguments = format!("dirty-writer --mib 1024 --folder {disk} --cgroup {}", cgroup.folder().display());
    let traced = Tracer::run(workload(&arguments)).options(&FAMILIES).go().expect_code(0);
    let report = traced.report();
    assert!(report.findings("oom-forecast").is_empty(), "{}", report.0["findings"]);
}

#[test]
fn who_is_killed_by_somebody_else_is_no_victim_of_want_of_memory() {
    let killing = "import os, signal; data = bytearray(64 << 20); os.kill(os.getpid(), signal.SIGKILL)";
    let mut command = python("memory.py", "");
    command.truncate(1);
    command.extend(["-c", killing].map(std::ffi::OsString::from));
    let traced = Tracer::run(command).options(&FAMILIES).go().expect_code(137);
    let report = traced.report();
    assert!(report.findings("oom-kill").is_empty(), "{}", report.0["findings"]);
}

#[test]
fn the_history_of_a_killed_process_is_there_when_the_whole_host_is_traced() {
    let Some(cgroup) = MemoryCgroup::new(96 * MIB) else { return };
    let arguments = format!("grow --rate 30 --mib 512 --cgroup {}", cgroup.folder().display());
    let options = ["--all", "--duration", "6s", "--family", "cpu,fault,oom,rss"];
    let (tracer, folder) = Tracer::record(&options).start();
    // The probes must be there before it begins.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let command = workload(&arguments);
    let mut child = std::process::Command::new(&command[0]).args(&command[1..]).spawn().expect("the workload starts");
    let pid = child.id();
    child.wait().expect("it ends");
    let ended = tracer.end_within(std::time::Duration::from_secs(60));
    assert_eq!(ended.code, Some(0), "{ended}");
    let report = Report::read(&folder.path().join("report.json"), &ended);
    let kills = list(&report.0["paging"], "kills");
    assert!(kills.iter().any(|kill| kill["pid"] == pid), "the kill of {pid} is told: {kills:?}");
    let processes = list(&report.0["memory"], "processes");
    let own = processes.iter().find(|process| process["pid"] == pid);
    let own = own.unwrap_or_else(|| panic!("its sizes are told: {processes:?}"));
    let series = list(own, "series");
    assert!(series.len() >= 6, "over its life: {own}");
    assert!(number(&own["most"], "anonymous_bytes") > 60.0 * MIB as f64, "until shortly before its end: {own}");
}

#[test]
fn what_grew_is_told_by_mapping_and_sums_up_to_the_growth_by_kind() {
    let disk = harness::storage::disk();
    // The last reading is to see it at rest.
    let traced =
        Tracer::run(workload(&format!("kinds --settle 5s --folder {disk}"))).options(&FAMILIES).go().expect_code(0);
    let (report, truth) = (traced.report(), traced.truth());
    let processes = list(&report.0["memory"], "processes");
    let own = processes.iter().find(|process| process["pid"] == truth["pid"]);
    let growth = &own.unwrap_or_else(|| panic!("it is told: {processes:?}"))["growth"];
    let grew = |row: &Value| number(row, "last_bytes") - number(row, "first_bytes");
    let rows = list(growth, "by");
    println!("{}", serde_json::to_string_pretty(growth).unwrap_or_default());
    let of = |class: &str, kind: &str| -> f64 {
        let ours = |row: &&Value| row["class"] == class && row["kind"] == kind;
        rows.iter().filter(ours).filter(|row| class != "file" || row["path"] == truth["path"]).map(grew).sum()
    };
    let known = [("heap", "anonymous", 48), ("arena", "anonymous", 40), ("anonymous", "anonymous", 72)];
    for (class, kind, mib) in known.into_iter().chain([("file", "file", 64), ("shared", "shared", 56)]) {
        close(class, of(class, kind), (mib * MIB) as f64, 0.02, 0.0);
    }
    for kind in ["anonymous", "file", "shared"] {
        let by_rows: f64 = rows.iter().filter(|row| row["kind"] == kind).map(grew).sum();
        let key = format!("{kind}_bytes");
        let by_kind = number(&growth["last"], &key) - number(&growth["first"], &key);
        close(kind, by_rows, by_kind, 0.02, 0.0);
    }
    let took_s = number(growth, "read_s");
    assert!(took_s <= 0.02 * number(&report.0["window"], "duration_s"), "reading took {took_s} s");
}
