//! A test that fails in CI is run a second time, by itself: the machine is shared, and what a test measures may be another's doing.
//! One that passes then is called flaky, aloud and with what it printed when it failed; it is a defect to be looked into, of the test or
//! of what it tests. More than [`MOST`] at once are no chance, and nothing is run again.

use std::{
    io::{BufRead, BufReader, Write},
    process::ExitStatus,
};

use anyhow::{Context, Result, bail};

use crate::sh::{self, Cmd};

/// So many tests may fail at first.
const MOST: usize = 3;

/// Of what a failed test said, so many characters are repeated.
const MOST_SAID: usize = 400;

/// Runs the tests; to `command` nothing but arguments of libtest, those of the first run among them, is to be added. Anything but
/// success, at first or then, is an error.
pub fn run(command: &Cmd, arguments: &[String]) -> Result<()> {
    run_into(command, arguments, &mut std::io::stdout().lock())
}

fn run_into(command: &Cmd, arguments: &[String], shown: &mut impl Write) -> Result<()> {
    let all = command.clone().args(arguments);
    let mut seen = Seen::default();
    let status = watch(&all, shown, &mut seen)?;
    if status.success() {
        return Ok(());
    }
    let failed = std::mem::take(&mut seen.failed);
    let mut still = Vec::new();
    let once_more = !failed.is_empty() && failed.len() <= MOST;
    for test in failed.iter().filter(|_| once_more) {
        let again = command.clone().args(["--exact", test, "--test-threads=1"]);
        if !watch(&again, shown, &mut seen)?.success() {
            still.push(test.as_str());
        }
    }
    for said in &seen.said {
        eprintln!("FAILED: {said}");
    }
    if !once_more {
        bail!("`{all}` {}", sh::how_it_ended(status));
    }
    if !still.is_empty() {
        bail!("{} failed twice", still.join(", "));
    }
    for test in &failed {
        eprintln!("FLAKY: {test} failed (see above), and passed when it was run again by itself");
    }
    Ok(())
}

/// What libtest's output told of tests that failed.
#[derive(Default)]
struct Seen {
    failed: Vec<String>,
    /// Of each panic: thread, place and the first line.
    said: Vec<String>,
    /// The line before this one told of a panic.
    panicked: bool,
}

impl Seen {
    fn line(&mut self, line: &str) {
        self.failed.extend(failed_in(line));
        if std::mem::take(&mut self.panicked)
            && let Some(place) = self.said.last_mut()
        {
            *place = format!("{place} {line}").chars().take(MOST_SAID).collect();
        }
        if line.starts_with("thread '") && line.contains("panicked at ") {
            self.said.push(line.to_owned());
            self.panicked = true;
        }
    }
}

/// Lets its output through, and finds the tests that failed in it.
fn watch(command: &Cmd, shown: &mut impl Write, seen: &mut Seen) -> Result<ExitStatus> {
    let mut child = command.start_reading()?;
    let output = child.stdout.take().context("its output is a pipe")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.with_context(|| format!("cannot read what `{command}` prints"))?;
        shown.write_all(&line).and_then(|()| shown.write_all(b"\n")).context("cannot print")?;
        seen.line(&String::from_utf8_lossy(&line));
    }
    child.wait().with_context(|| format!("cannot wait for `{command}`"))
}

/// The test that a line of libtest says has failed.
fn failed_in(line: &str) -> Option<String> {
    let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    (!name.contains(' ')).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that says of each test what libtest would: `one` passes, `two` passes the second time, `three` never.
    fn fake(folder: &std::path::Path, tests: &str) -> Cmd {
        let script = r#"
            folder=$1; tests=$2; shift 2
            if [ "$1" = --exact ]; then tests=$2; fi
            status=0
            for test in $tests; do
                case $test in
                    two) if [ -e "$folder/seen" ]; then end=ok; else end=FAILED; fi; touch "$folder/seen" ;;
                    one) end=ok ;;
                    *) end=FAILED ;;
                esac
                echo "test $test ... $end"
                [ $end = ok ] || status=101
            done
            exit $status"#;
        Cmd::new("sh").args(["-c", script, "sh"]).arg(folder).arg(tests).quiet()
    }

    #[test]
    fn a_test_that_passes_the_second_time_is_no_failure_and_one_that_does_not_is() {
        let said = |tests: &str| {
            let folder = tempfile::tempdir().expect("a folder");
            run_into(&fake(folder.path(), tests), &[], &mut Vec::new()).map_err(|error| error.to_string())
        };
        assert_eq!(said("one one"), Ok(()));
        assert_eq!(said("one two"), Ok(()));
        assert_eq!(said("two three one"), Err("three failed twice".to_owned()));
        let many = said("a b c d").expect_err("so many are no chance");
        assert!(many.contains("ended with status 101"), "{many}");
    }

    #[test]
    fn what_a_failed_test_said_is_kept_in_one_line() {
        let mut seen = Seen::default();
        let line = "thread 'paging::a_kill' (12) panicked at tests/live/paging.rs:3:5:";
        for line in
            ["test paging::a_kill ... FAILED", line, "no oom-kill: []", "stack backtrace:", "thread 'x' is well"]
        {
            seen.line(line);
        }
        assert_eq!(seen.said, [format!("{line} no oom-kill: []")]);
        seen.line(line);
        seen.line(&"x".repeat(1_000));
        assert_eq!(seen.said[1].len(), MOST_SAID);
    }

    #[test]
    fn failed_tests_are_found_in_libtests_lines() {
        assert_eq!(failed_in("test paging::a_kill ... FAILED"), Some("paging::a_kill".to_owned()));
        for other in ["test paging::a_kill ... ok", "test result: FAILED. 1 passed", "a test x ... FAILED", ""] {
            assert_eq!(failed_in(other), None, "{other}");
        }
    }
}
