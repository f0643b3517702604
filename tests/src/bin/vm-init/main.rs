//! The first and only program of the guests that `cargo xtask vm` boots: mounts what the tests need, asks the tracer what this kernel
//! allows, runs the tests of the plan one after the other, and switches the machine off. It judges nothing but exit statuses; what
//! the results mean is xtask's to say (`xtask/src/vm/console.rs` reads the lines that this prints).
//!
//! Lines for xtask begin with `@vm ` and have a kind and then JSON. Whatever else is on the console is the kernel's or a test's.

mod machine;
mod watched;

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

/// Where xtask puts the binaries and the plan.
const FOLDER: &str = "/vm";

/// What the debug-exit device is given: a value of our own, which no crash gives by chance.
const PASSED: u8 = 0x10;
const FAILED: u8 = 0x11;

fn main() {
    if let Some(code) = machine::another_if_asked() {
        std::process::exit(code);
    }
    if std::process::id() != 1 {
        eprintln!("vm-init is the first program of a guest that `cargo xtask vm` boots: it is of no use elsewhere");
        std::process::exit(2);
    }
    let problems = machine::prepare();
    say(
        "boot",
        &json!({"kernel": first_line("/proc/sys/kernel/osrelease"), "uptime_s": uptime_s(), "problems": problems}),
    );
    let failed = match plan() {
        Ok(plan) => run(&plan),
        Err(error) => {
            say("broken", &json!({"reason": error}));
            1
        }
    };
    say("end", &json!({"failed": failed, "uptime_s": uptime_s()}));
    machine::off(if failed == 0 { PASSED } else { FAILED });
}

/// One line for xtask. It begins a line of its own, whatever was printed before it.
fn say(kind: &str, what: &Value) {
    println!("\n@vm {kind} {what}");
}

fn plan() -> Result<Value, String> {
    let file = Path::new(FOLDER).join("plan.json");
    let text = fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{} is not JSON: {error}", file.display()))
}

/// Runs the plan; how many of its tests failed.
fn run(plan: &Value) -> usize {
    let limit = Duration::from_secs(plan["test_limit_s"].as_u64().unwrap_or(60));
    let keep = plan["keep"].as_bool().unwrap_or(false);
    let unavailable = doctor(limit);
    let none = Vec::new();
    let mut failed = 0;
    for test in plan["tests"].as_array().unwrap_or(&none) {
        let name = test["test"].as_str().unwrap_or_default();
        let family = test["family"].as_str().unwrap_or_default();
        if unavailable.iter().any(|one| one == family) {
            say("result", &json!({"test": name, "outcome": "unavailable"}));
            continue;
        }
        say("begin", &json!({"test": name, "uptime_s": uptime_s()}));
        let mut live = live();
        if keep {
            live.env("TRACER_TEST_KEEP", Path::new(machine::DISK).join("kept"));
        }
        let ended = watched::run(live.args(["--exact", name, "--test-threads=1", "--nocapture"]), limit);
        let passed = ended.is_success() && ended.text.contains("test result: ok. 1 passed");
        failed += usize::from(!passed);
        let outcome = if passed { "pass" } else { "fail" };
        let said = if passed && !plan["loud"].as_bool().unwrap_or(false) { String::new() } else { ended.tail(6_000) };
        let how = ended.how();
        say("result", &json!({"test": name, "outcome": outcome, "how": how, "seconds": ended.seconds, "said": said}));
        machine::tidy_up();
    }
    failed
}

/// What the tracer says of this kernel; gives the families that cannot run here.
fn doctor(limit: Duration) -> Vec<String> {
    let ended = watched::run(tracer().args(["doctor", "--format", "json"]), limit);
    let start = ended.text.find('{').unwrap_or(0);
    let Ok(said) = serde_json::from_str::<Value>(&ended.text[start..]) else {
        say("broken", &json!({"reason": format!("tracer doctor {}", ended.how()), "said": ended.tail(3_000)}));
        return Vec::new();
    };
    say("doctor", &json!({"hooks": said["hooks"], "families": said["families"]}));
    let families = said["families"].as_array().cloned().unwrap_or_default();
    let unavailable = families.iter().filter(|family| family["status"] == "unavailable");
    unavailable.filter_map(|family| family["family"].as_str().map(str::to_owned)).collect()
}

fn tracer() -> Command {
    with_variables(Command::new(Path::new(FOLDER).join("tracer")))
}

fn live() -> Command {
    with_variables(Command::new(Path::new(FOLDER).join("live")))
}

fn with_variables(mut command: Command) -> Command {
    let file = |name: &str| Path::new(FOLDER).join(name);
    command.env("TRACER_BIN", file("tracer")).env("WORKLOAD_BIN", file("workload"));
    // Where tests may write, and what they may swap to (`tests/live/harness/storage.rs`).
    if Path::new(machine::DISK).exists() {
        command.env("TRACER_TEST_DISK", machine::DISK);
    }
    command.envs(machine::swaps());
    let python = Path::new(machine::DISK).join("python");
    if python.exists() {
        command.env("TRACER_TEST_PYTHON_ROOTS", python);
    }
    // Not where they lie on the machine that built the tests: that may be below what is mounted here.
    command.env("TRACER_TEST_SCRIPTS", file("python"));
    command.env("PATH", "/usr/bin:/bin:/vm").env("HOME", "/tmp").env("RUST_BACKTRACE", "0").current_dir("/tmp");
    command
}

fn uptime_s() -> f64 {
    first_line("/proc/uptime").split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

fn first_line(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}
