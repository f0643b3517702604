//! What a guest says on its console, line by line, and what became of the guest: passed, failed, panicked, hung, never booted, out of
//! time. Pure: lines, exit statuses and the reasons for ending come as arguments. The other side is `tests/src/bin/vm-init`.

use serde_json::Value;

/// Exit statuses of QEMU: its debug-exit device makes 2v + 1 of v, and `vm-init` gives 0x10 or 0x11. QEMU's own errors are 1, a
/// panic or a reboot is 0.
const PASSED: i32 = 33;
const FAILED: i32 = 35;

/// One test in one guest.
#[derive(Clone, Debug, PartialEq)]
pub struct TestResult {
    /// `module::name`.
    pub test: String,
    /// How it went.
    pub outcome: TestOutcome,
    /// How long it took in the guest.
    pub seconds: f64,
    /// How it ended and what it printed last, of one that failed.
    pub said: String,
}

/// How a test went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TestOutcome {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// Its family cannot run on this kernel, so it was left out.
    Unavailable,
}

/// A family as the tracer's `doctor` tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct FamilyStatus {
    /// Its name.
    pub family: String,
    /// `ready`, `degraded` or `unavailable`.
    pub status: String,
    /// Why.
    pub reason: Option<String>,
}

/// All that a guest has said so far.
#[derive(Clone, Debug, Default)]
pub struct Console {
    /// Its kernel, by its own word.
    pub kernel: Option<String>,
    /// Seconds from power-on to the first program.
    pub booted_s: f64,
    /// Families, in the tracer's order.
    pub families: Vec<FamilyStatus>,
    /// Results, in the order in which they came.
    pub results: Vec<TestResult>,
    /// What did not work in the guest itself.
    pub problems: Vec<String>,
    /// The test that runs.
    running: Option<String>,
    panic: Option<String>,
    oops: Option<String>,
    ended: Option<u64>,
}

/// Why QEMU is no more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stop {
    /// It ended by itself, with a status or by a signal.
    Ended(Option<i32>),
    /// It was killed: the guest was silent for this many seconds.
    Silent(u64),
    /// It was killed: the guest had this many seconds in all.
    Limit(u64),
}

/// What became of a guest.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The last line and the exit status say so.
    Passed,
    /// It came to its end, and tests failed.
    TestsFailed(u64),
    /// Anything else, in words: `panicked: ...`, `hung: ...`, `never booted: ...`, `timed out: ...`, `broke off: ...`.
    Lost(String),
}

impl Console {
    /// Takes a line.
    pub fn line(&mut self, line: &str) {
        let line = line.trim_end_matches(['\r', '\n']);
        let Some(rest) = line.strip_prefix("@vm ") else { return self.kernels(line) };
        let Some((kind, json)) = rest.split_once(' ') else { return };
        // The kernel may print into the middle of a line. What is missing then is seen at the end.
        let Ok(value) = serde_json::from_str::<Value>(json) else {
            return self.problems.push(format!("a line of the guest was torn: {line:?}"));
        };
        match kind {
            "boot" => {
                self.kernel = value["kernel"].as_str().map(str::to_owned);
                self.booted_s = value["uptime_s"].as_f64().unwrap_or(0.0);
                self.problems.extend(strings(&value["problems"]));
            }
            "doctor" => self.families = families(&value["families"]),
            "begin" => self.running = value["test"].as_str().map(str::to_owned),
            "result" => {
                self.running = None;
                self.results.extend(result(&value));
            }
            "broken" => self.problems.push(format!("{}: {}", text(&value["reason"]), text(&value["said"]))),
            "end" => self.ended = value["failed"].as_u64(),
            _ => self.problems.push(format!("a line of an unknown kind: {line:?}")),
        }
    }

    /// What the kernel says of itself. A warning is told, not taken for the end.
    fn kernels(&mut self, line: &str) {
        if self.panic.is_none() && line.contains("Kernel panic - not syncing") {
            self.panic = Some(without_time(line).to_owned());
        }
        let marks = ["BUG: ", "Oops: ", "WARNING: ", "general protection fault"];
        if self.oops.is_none() && marks.iter().any(|mark| without_time(line).starts_with(mark)) {
            self.oops = Some(without_time(line).to_owned());
            self.problems.push(format!("the kernel said: {}", without_time(line)));
        }
    }

    /// What became of the guest, of which `planned` tests were expected.
    pub fn outcome(&self, stop: Stop, planned: usize) -> Outcome {
        if let Some(panic) = &self.panic {
            return Outcome::Lost(format!("panicked{}: {panic}", self.during()));
        }
        let booted = self.kernel.is_some();
        match stop {
            Stop::Silent(s) if !booted => {
                Outcome::Lost(format!("never booted: its first program said nothing in {s} s"))
            }
            Stop::Limit(s) if !booted => {
                Outcome::Lost(format!("never booted: its first program said nothing in {s} s"))
            }
            Stop::Silent(s) => Outcome::Lost(format!("hung{}: silent for {s} s", self.during())),
            Stop::Limit(s) => Outcome::Lost(format!("timed out{}: not at its end after {s} s", self.during())),
            Stop::Ended(status) if !booted => Outcome::Lost(format!("never booted: QEMU {}", how(status))),
            Stop::Ended(status) => self.of_the_end(status, planned),
        }
    }

    /// Both have to agree: the last line and the status.
    fn of_the_end(&self, status: Option<i32>, planned: usize) -> Outcome {
        let missing = planned.saturating_sub(self.results.len());
        match (self.ended, status) {
            (Some(0), Some(PASSED)) if missing > 0 => {
                Outcome::Lost(format!("broke off: {missing} of {planned} tests have no result"))
            }
            (Some(0), Some(PASSED)) => Outcome::Passed,
            (Some(failed), Some(FAILED)) if failed > 0 => Outcome::TestsFailed(failed),
            (Some(failed), _) => {
                Outcome::Lost(format!("broke off: its last line says {failed} failed, but QEMU {}", how(status)))
            }
            (None, _) => Outcome::Lost(format!("broke off{}: no last line, and QEMU {}", self.during(), how(status))),
        }
    }

    fn during(&self) -> String {
        match &self.running {
            Some(test) => format!(" in {test}"),
            None => String::new(),
        }
    }

    /// The test that runs, or ran when the guest was lost.
    pub fn running(&self) -> Option<&str> {
        self.running.as_deref()
    }
}

fn how(status: Option<i32>) -> String {
    status.map_or("was killed".to_owned(), |status| format!("ended with status {status}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

fn families(value: &Value) -> Vec<FamilyStatus> {
    let of = |one: &Value| FamilyStatus {
        family: text(&one["family"]).to_owned(),
        status: text(&one["status"]).to_owned(),
        reason: one["reason"].as_str().map(str::to_owned),
    };
    value.as_array().into_iter().flatten().map(of).collect()
}

fn result(value: &Value) -> Option<TestResult> {
    let outcome = match text(&value["outcome"]) {
        "pass" => TestOutcome::Passed,
        "fail" => TestOutcome::Failed,
        "unavailable" => TestOutcome::Unavailable,
        _ => return None,
    };
    let said = match (text(&value["how"]), text(&value["said"])) {
        (how, "") => how.to_owned(),
        (how, said) => format!("{how}\n{said}"),
    };
    let seconds = value["seconds"].as_f64().unwrap_or(0.0);
    Some(TestResult { test: text(&value["test"]).to_owned(), outcome, seconds, said })
}

/// A kernel's line without its `[   12.345678] `.
fn without_time(line: &str) -> &str {
    match line.trim_start().strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, rest)) if time.trim().parse::<f64>().is_ok() => rest,
        _ => line.trim_start(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Console {
        let mut console = Console::default();
        lines.iter().for_each(|line| console.line(line));
        console
    }

    const BOOT: &str = "@vm boot {\"kernel\":\"6.1.0-50\",\"uptime_s\":2.5,\"problems\":[]}\r";
    const PASS: &str =
        "@vm result {\"test\":\"a::b\",\"outcome\":\"pass\",\"how\":\"ended with status 0\",\"seconds\":1.5}";

    #[test]
    fn a_guest_passes_only_with_its_last_line_and_the_right_status() {
        let whole = heard(&[BOOT, PASS, "@vm end {\"failed\":0}"]);
        assert_eq!(whole.outcome(Stop::Ended(Some(33)), 1), Outcome::Passed);
        for status in [Some(0), Some(1), Some(35), None] {
            let outcome = whole.outcome(Stop::Ended(status), 1);
            assert!(matches!(&outcome, Outcome::Lost(why) if why.starts_with("broke off")), "{status:?}: {outcome:?}");
        }
        let without_end = heard(&[BOOT, PASS]);
        assert!(matches!(without_end.outcome(Stop::Ended(Some(33)), 1), Outcome::Lost(_)));
    }

    #[test]
    fn a_result_that_got_lost_is_no_pass() {
        let console = heard(&[BOOT, PASS, "@vm result {\"test\":\"c::[ 1.0] torn", "@vm end {\"failed\":0}"]);
        let outcome = console.outcome(Stop::Ended(Some(33)), 2);
        assert_eq!(outcome, Outcome::Lost("broke off: 1 of 2 tests have no result".to_owned()));
        assert!(console.problems[0].contains("torn"), "{:?}", console.problems);
    }

    #[test]
    fn panics_hangs_and_guests_that_never_boot_are_told_apart() {
        let why = |lines: &[&str], stop| match heard(lines).outcome(stop, 1) {
            Outcome::Lost(why) => why,
            other => panic!("{other:?}"),
        };
        let begin = "@vm begin {\"test\":\"a::b\"}";
        let panic = "[    3.100000] Kernel panic - not syncing: Attempted to kill init!";
        assert_eq!(why(&[BOOT, begin], Stop::Silent(90)), "hung in a::b: silent for 90 s");
        assert_eq!(why(&[BOOT, begin, PASS], Stop::Limit(600)), "timed out: not at its end after 600 s");
        assert_eq!(
            why(&[BOOT, begin, panic], Stop::Ended(Some(0))),
            "panicked in a::b: Kernel panic - not syncing: Attempted to kill init!"
        );
        assert!(why(&[], Stop::Silent(60)).starts_with("never booted"));
        assert_eq!(why(&["qemu: no such option"], Stop::Ended(Some(1))), "never booted: QEMU ended with status 1");
    }

    #[test]
    fn failures_are_told_with_what_they_printed() {
        let fail =
            "@vm result {\"test\":\"a::b\",\"outcome\":\"fail\",\"how\":\"ended with status 101\",\"said\":\"boom\"}";
        let console = heard(&[BOOT, fail, "@vm end {\"failed\":1}"]);
        assert_eq!(console.outcome(Stop::Ended(Some(35)), 1), Outcome::TestsFailed(1));
        assert_eq!(console.results[0].said, "ended with status 101\nboom");
    }

    #[test]
    fn families_and_their_reasons_are_read() {
        let line = "@vm doctor {\"families\":[{\"family\":\"sched\",\"status\":\"ready\"},\
            {\"family\":\"lock\",\"status\":\"unavailable\",\"reason\":\"no tracepoint\"}]}";
        let families = heard(&[line]).families;
        assert_eq!((families[0].status.as_str(), &families[0].reason), ("ready", &None));
        assert_eq!(families[1].reason.as_deref(), Some("no tracepoint"));
    }

    #[test]
    fn a_warning_of_the_kernel_is_told() {
        let console = heard(&["[   12.345678] WARNING: CPU: 0 PID: 1 at kernel/x.c:1", "nothing"]);
        assert_eq!(console.problems, ["the kernel said: WARNING: CPU: 0 PID: 1 at kernel/x.c:1"]);
    }
}
