//! Runs the tracer and the workloads, and gives access to what they print. Holds no test.

pub mod bpf;
pub mod host;
pub mod mariadb;
pub mod memory;
pub mod native;
pub mod postgres;
pub mod process;
pub mod python;
pub mod report;
pub mod stacks;
pub mod storage;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

pub use process::{Background, Ended, until};
pub use report::Report;

/// No test needs a run that is longer, in an emulated machine either.
const LIMIT: Duration = Duration::from_secs(180);

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in a folder of the workspace").to_owned()
}

fn binary(variable: &str, name: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| workspace().join("target/debug").join(name), PathBuf::from);
    assert!(
        path.is_file(),
        "there is no {name} at {}: run `cargo xtask test live`, or set {variable} to its absolute path",
        path.display()
    );
    path
}

/// The tracer's binary. Fails the test when these tests cannot run at all.
pub fn tracer_bin() -> PathBuf {
    assert!(
        effective_uid() == 0,
        "the live tests attach eBPF programs: run them as root (`cargo xtask test live` does)"
    );
    binary("TRACER_BIN", "tracer")
}

fn effective_uid() -> u32 {
    // SAFETY: takes no argument and cannot fail.
    unsafe { libc::geteuid() }
}

/// The workloads' binary.
pub fn workload_bin() -> PathBuf {
    binary("WORKLOAD_BIN", "workload")
}

/// A workload's command line.
pub fn workload(arguments: &str) -> Vec<OsString> {
    std::iter::once(workload_bin().into_os_string()).chain(arguments.split_whitespace().map(OsString::from)).collect()
}

/// A shell's command line.
pub fn shell(script: &str) -> Vec<OsString> {
    ["/bin/sh", "-c", script].map(OsString::from).to_vec()
}

/// The command line of one of the Python programs beside these tests. The interpreter itself, not a script that looks for one.
pub fn python(script: &str, arguments: &str) -> Vec<OsString> {
    let answer = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let answer = answer.expect("these tests need python3 in PATH");
    let interpreter = String::from_utf8(answer.stdout).expect("a path in UTF-8").trim().to_owned();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("live/python").join(script);
    let mut line = vec![OsString::from(interpreter), script.into_os_string()];
    line.extend(arguments.split_whitespace().map(OsString::from));
    line
}

/// A call of the tracer. Everything that it writes goes to a folder of its own.
pub struct Tracer {
    folder: TempDir,
    verb: &'static str,
    options: Vec<OsString>,
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    wants_report: bool,
    limit: Duration,
}

/// What is left of a call of the tracer.
pub struct Traced {
    /// How it ended and what it printed.
    pub ended: Ended,
    /// Where it was run and wrote its files.
    pub folder: TempDir,
    /// CPU time that the hypervisor or interrupts took meanwhile, from all CPUs. The tracer counts it as time on CPU, the kernel's
    /// account of a thread does not.
    pub stolen_s: f64,
}

impl Tracer {
    fn new(verb: &'static str) -> Self {
        Tracer {
            folder: tempfile::Builder::new().prefix("tracer-live-").tempdir().expect("a temporary folder"),
            verb,
            options: Vec::new(),
            command: Vec::new(),
            environment: Vec::new(),
            wants_report: false,
            limit: LIMIT,
        }
    }

    /// `tracer VERB OPTIONS`.
    pub fn plain(verb: &'static str) -> Self {
        Self::new(verb)
    }

    /// `tracer run -- COMMAND`, with a JSON report and a capture.
    pub fn run(command: Vec<OsString>) -> Self {
        let mut tracer = Self::new("run").reporting();
        tracer.command = command;
        tracer
    }

    /// `tracer record TARGET`, with a JSON report and a capture.
    pub fn record(target: &[&str]) -> Self {
        Self::new("record").options(target).reporting()
    }

    fn reporting(mut self) -> Self {
        self.wants_report = true;
        self
    }

    /// Leaves out the options that ask for a JSON report and a capture.
    pub fn bare(mut self) -> Self {
        self.wants_report = false;
        self
    }

    /// Adds an option.
    pub fn option(mut self, option: impl AsRef<OsStr>) -> Self {
        self.options.push(option.as_ref().to_owned());
        self
    }

    /// Adds options.
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(OsString::from));
        self
    }

    /// Sets a variable of the tracer's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn line(&self) -> Command {
        let mut line = Command::new(tracer_bin());
        line.arg(self.verb).current_dir(self.folder.path());
        if matches!(self.verb, "run" | "record") {
            if let Some(program) = std::env::var_os("TRACER_WITHOUT") {
                line.arg("--without-program").arg(program);
            }
            if self.wants_report {
                line.args(["--family", "sched", "--format", "json", "-o", "report.json", "--capture", "capture.trc"]);
            }
        }
        line.args(&self.options);
        if !self.command.is_empty() {
            line.arg("--").args(&self.command);
        }
        for (name, value) in &self.environment {
            line.env(name, value);
        }
        line
    }

    /// Runs it to its end.
    pub fn go(self) -> Traced {
        let limit = self.limit;
        let stolen_before_s = host::stolen_s();
        let (background, folder) = self.start();
        let ended = background.end_within(limit);
        keep(folder.path());
        Traced { ended, folder, stolen_s: host::stolen_s() - stolen_before_s }
    }

    /// Starts it.
    pub fn start(self) -> (Background, TempDir) {
        (Background::start(self.line()), self.folder)
    }
}

/// Copies what a run wrote to where `TRACER_TEST_KEEP` says, if it does: a folder for each, named by the test.
fn keep(folder: &Path) {
    let Some(kept) = std::env::var_os("TRACER_TEST_KEEP").map(PathBuf::from) else { return };
    let test = std::thread::current().name().unwrap_or("unnamed").replace("::", ".");
    let free =
        (1..).map(|run| kept.join(format!("{test}-{run}"))).find(|place| !place.exists()).expect("numbers go on");
    std::fs::create_dir_all(&free).unwrap_or_else(|error| panic!("cannot make {}: {error}", free.display()));
    for name in ["report.json", "capture.trc"] {
        // Not every call of the tracer writes both.
        let _ = std::fs::copy(folder.join(name), free.join(name));
    }
}

impl Traced {
    /// Fails unless the tracer ended with this status.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.ended.code, Some(code), "exit code; {}", self.ended);
        self
    }

    /// The report that the run wrote.
    pub fn report(&self) -> Report {
        Report::read(&self.folder.path().join("report.json"), &self.ended)
    }

    /// The bytes of that report.
    pub fn report_text(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("report.json"))
            .unwrap_or_else(|e| panic!("{e}; {}", self.ended))
    }

    /// The capture that the run wrote.
    pub fn capture(&self) -> PathBuf {
        self.folder.path().join("capture.trc")
    }

    /// What the workload says of itself: the last line of JSON on standard output.
    pub fn truth(&self) -> Value {
        self.truths().pop().unwrap_or_else(|| panic!("the workload printed no JSON; {}", self.ended))
    }

    /// Every line of JSON on standard output.
    pub fn truths(&self) -> Vec<Value> {
        self.ended.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The capture as `tracer report` shows it.
    pub fn replayed(&self) -> Traced {
        replay(&self.capture(), &["--format", "json"])
    }

    /// Every event of the capture, as `tracer export` gives it.
    pub fn events(&self) -> Vec<Value> {
        let exported = Tracer::plain("export").option(self.capture()).options(&["--to", "ndjson"]).go().expect_code(0);
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("a line that is no JSON: {line}: {e}"));
        exported.ended.stdout.lines().map(parse).collect()
    }
}

/// `tracer report CAPTURE OPTIONS`.
pub fn replay(capture: &Path, options: &[&str]) -> Traced {
    Tracer::plain("report").option(capture).options(options).go()
}

/// Traces a workload that is expected to end well.
pub fn trace(arguments: &str) -> Traced {
    let mut traced = trace_once(arguments);
    for _ in 0..3 {
        let hidden_s = hidden_from_tracing_s(&traced);
        if hidden_s <= 0.01 {
            break;
        }
        eprintln!("run again: this host hid switches from tracing, {hidden_s:.3} s of the workload's time are unknown");
        traced = trace_once(arguments);
    }
    traced
}

/// Time that is unknown because a switch was neither seen nor lost. Some hosts keep those of a protected process from every tracer;
/// a run in which that hit the workload says nothing about this one.
fn hidden_from_tracing_s(traced: &Traced) -> f64 {
    let report = traced.report();
    report.threads().filter_map(|thread| thread["unknown_detail"]["unseen-switch"].as_f64()).sum()
}

fn trace_once(arguments: &str) -> Traced {
    Tracer::run(workload(arguments)).go().expect_code(0)
}

/// Fails unless two numbers are within a share and an amount of each other.
#[track_caller]
pub fn close(what: &str, got: f64, wanted: f64, share: f64, amount: f64) {
    let allowed = wanted.abs() * share + amount;
    assert!(
        (got - wanted).abs() <= allowed,
        "{what}: the report says {got}, the program {wanted}, allowed is {allowed} either way"
    );
}

/// A number in JSON.
#[track_caller]
pub fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {value}"))
}

/// A whole number in JSON.
#[track_caller]
pub fn whole(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no whole number `{key}` in {value}"))
}

/// A text in JSON.
#[track_caller]
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text `{key}` in {value}"))
}

/// A list in JSON; empty where the key is absent.
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}
