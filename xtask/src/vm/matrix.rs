//! The results of all kernels as text: the table of kernel, family and test, with the reasons below it. Pure.

use super::{
    console::{Console, Outcome, TestOutcome},
    guest::Planned,
};
use crate::table;

/// A kernel and what became of it.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The line asked for.
    pub line: String,
    /// The package's version; empty where none could be had.
    pub version: String,
    /// What became of it.
    pub fate: Fate,
    /// What it said.
    pub console: Console,
}

/// What became of a kernel.
#[derive(Clone, Debug)]
pub enum Fate {
    /// No kernel could be had: why.
    Skipped(String),
    /// It was started.
    Ran {
        /// How it went.
        outcome: Outcome,
        /// From the start to the end of the emulator.
        took_s: f64,
    },
}

/// The worst of all kernels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Worst {
    /// All passed.
    Passed,
    /// Nothing failed, not all was run.
    Skipped,
    /// Something failed.
    Failed,
}

/// Whether something failed there.
pub fn is_failed(ran: &Ran) -> bool {
    matches!(&ran.fate, Fate::Ran { outcome, .. } if *outcome != Outcome::Passed)
}

/// What the exit status is to say.
pub fn worst(all: &[Ran]) -> Worst {
    if all.iter().any(is_failed) {
        Worst::Failed
    } else if all.iter().any(|ran| matches!(ran.fate, Fate::Skipped(_))) {
        Worst::Skipped
    } else {
        Worst::Passed
    }
}

/// A kernel in a line.
pub fn one_line(ran: &Ran) -> String {
    let passed = ran.console.results.iter().filter(|one| one.outcome == TestOutcome::Passed).count();
    let unavailable = ran.console.results.iter().filter(|one| one.outcome == TestOutcome::Unavailable).count();
    let end = match &ran.fate {
        Fate::Skipped(why) => return format!("vm {}: SKIPPED, not passed: {why}", ran.line),
        Fate::Ran { outcome: Outcome::Passed, .. } => "passed".to_owned(),
        Fate::Ran { outcome: Outcome::TestsFailed(count), .. } => format!("FAILED: {count}"),
        Fate::Ran { outcome: Outcome::Lost(why), .. } => format!("FAILED: {why}"),
    };
    let Fate::Ran { took_s, .. } = &ran.fate else { return end };
    format!(
        "vm {}: booted in {}, {} in all, {passed} passed, {unavailable} unavailable: {end}",
        ran.version,
        table::seconds(ran.console.booted_s),
        table::seconds(*took_s),
    )
}

/// What the tests that failed printed last, and what else went wrong in the guest.
pub fn failures(ran: &Ran) -> String {
    let failed = ran.console.results.iter().filter(|one| one.outcome == TestOutcome::Failed);
    let failed = failed.map(|one| format!("-- {} on {}: {}\n", one.test, ran.version, one.said));
    let problems = ran.console.problems.iter().map(|problem| format!("-- {problem}\n"));
    failed.chain(problems).collect()
}

/// Reasons, each with a number by which cells refer to it.
#[derive(Default)]
struct Reasons(Vec<String>);

impl Reasons {
    fn number(&mut self, reason: &str) -> usize {
        let known = self.0.iter().position(|one| one == reason);
        known.unwrap_or_else(|| {
            self.0.push(reason.to_owned());
            self.0.len() - 1
        }) + 1
    }
}

/// The table.
pub fn text(all: &[Ran], plan: &[Planned]) -> String {
    let mut reasons = Reasons::default();
    let mut families: Vec<&str> = Vec::new();
    let named = all.iter().flat_map(|ran| ran.console.families.iter().map(|one| one.family.as_str()));
    for family in named.chain(plan.iter().map(|one| one.family.as_str())) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    let mut rows = Vec::new();
    for family in families {
        if family != "-" {
            let cells = all.iter().map(|ran| family_cell(ran, family, &mut reasons));
            rows.push([family.to_owned(), String::new()].into_iter().chain(cells).collect());
        }
        for planned in plan.iter().filter(|one| one.family == family) {
            let cells = all.iter().map(|ran| test_cell(ran, &planned.test, &mut reasons));
            rows.push([String::new(), planned.test.clone()].into_iter().chain(cells).collect());
        }
    }
    let ends = all.iter().map(|ran| end_cell(ran, &mut reasons));
    rows.push(["kernel".to_owned(), "as a whole".to_owned()].into_iter().chain(ends).collect());
    let headers: Vec<String> = all.iter().map(header).collect();
    let header: Vec<&str> = ["family", "test"].into_iter().chain(headers.iter().map(String::as_str)).collect();
    let mut text = table::text(&header, &rows, &[]);
    for (index, reason) in reasons.0.iter().enumerate() {
        text.push_str(&format!("[{}] {reason}\n", index + 1));
    }
    text
}

fn header(ran: &Ran) -> String {
    let version = ran.version.split(['-', '+']).next().unwrap_or_default();
    if version.is_empty() { ran.line.clone() } else { version.to_owned() }
}

fn family_cell(ran: &Ran, family: &str, reasons: &mut Reasons) -> String {
    let Some(status) = ran.console.families.iter().find(|one| one.family == family) else { return "-".to_owned() };
    match &status.reason {
        Some(reason) => format!("{} [{}]", status.status, reasons.number(reason)),
        None => status.status.clone(),
    }
}

fn test_cell(ran: &Ran, test: &str, reasons: &mut Reasons) -> String {
    match ran.console.results.iter().find(|one| one.test == test) {
        Some(result) => match result.outcome {
            TestOutcome::Passed => "pass".to_owned(),
            TestOutcome::Failed => {
                let said = result.said.lines().next().unwrap_or_default();
                format!("FAIL [{}]", reasons.number(&format!("{test} {said}")))
            }
            TestOutcome::Unavailable => "unavailable".to_owned(),
        },
        None if ran.console.running() == Some(test) => "LOST".to_owned(),
        None => "-".to_owned(),
    }
}

fn end_cell(ran: &Ran, reasons: &mut Reasons) -> String {
    match &ran.fate {
        Fate::Skipped(why) => format!("SKIPPED [{}]", reasons.number(why)),
        Fate::Ran { outcome: Outcome::Passed, took_s } => format!("pass, {}", table::seconds(*took_s)),
        Fate::Ran { outcome: Outcome::TestsFailed(count), .. } => format!("FAIL: {count} tests"),
        Fate::Ran { outcome: Outcome::Lost(why), .. } => format!("FAIL [{}]", reasons.number(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(line: &str, lines: &[&str], outcome: Outcome) -> Ran {
        let mut console = Console::default();
        lines.iter().for_each(|line| console.line(line));
        let fate = Fate::Ran { outcome, took_s: 12.0 };
        Ran { line: line.to_owned(), version: format!("{line}.7-1"), fate, console }
    }

    fn skipped() -> Ran {
        let fate = Fate::Skipped("no network".to_owned());
        Ran { line: "7".to_owned(), version: String::new(), fate, console: Console::default() }
    }

    const DOCTOR: &str =
        "@vm doctor {\"families\":[{\"family\":\"lock\",\"status\":\"degraded\",\"reason\":\"no owners\"}]}";
    const PASS: &str = "@vm result {\"test\":\"a::b\",\"outcome\":\"pass\"}";
    const FAIL: &str = "@vm result {\"test\":\"a::b\",\"outcome\":\"fail\",\"how\":\"ended with status 101\"}";

    #[test]
    fn the_table_says_what_each_kernel_did_and_why() {
        let plan = [Planned { family: "lock".to_owned(), test: "a::b".to_owned(), slow: false, python: false }];
        let all = [
            ran("6.1", &[DOCTOR, PASS], Outcome::Passed),
            ran("6.2", &[DOCTOR, FAIL], Outcome::TestsFailed(1)),
            skipped(),
        ];
        let expected = "\
family  test        6.1.7         6.2.7          7
lock                degraded [1]  degraded [1]   -
        a::b        pass          FAIL [2]       -
kernel  as a whole  pass, 12 s    FAIL: 1 tests  SKIPPED [3]
[1] no owners
[2] a::b ended with status 101
[3] no network
";
        assert_eq!(text(&all, &plan), expected);
    }

    #[test]
    fn a_failure_is_worse_than_what_was_skipped() {
        let passed = || ran("6.1", &[], Outcome::Passed);
        let failed = || ran("6.1", &[], Outcome::Lost("hung".to_owned()));
        assert_eq!(worst(&[passed()]), Worst::Passed);
        assert_eq!(worst(&[passed(), skipped()]), Worst::Skipped);
        assert_eq!(worst(&[skipped(), failed()]), Worst::Failed);
    }
}
