//! `cargo xtask overhead`: what tracing costs, against its limits. Here are the arguments, the table and the exit status;
//! `yardsticks` says what is measured and how it is decided, `measure` runs it, `timed` is the clock.
//!
//! Ratios are of interleaved pairs with a 95 % interval, beside a control of the bare workload against itself. A limit holds when
//! the interval's upper end is within it and is broken when the lower end is above it; in between pairs are added, and at the
//! end it could not tell.

mod measure;
pub mod timed;
mod yardsticks;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{build, sh, stats::Interval, table, workspace::Binaries};
use measure::Bench;
use yardsticks::{FIRST_PAIRS, MOST_PAIRS, Outcome, Row, Session, Yardstick};

/// Arguments of `overhead`.
#[derive(clap::Args)]
#[command(after_help = "\
Exit status: 0 every limit holds, 1 one is broken, 4 none is broken but one could not be told.

Examples:
  cargo xtask overhead                            everything; takes some minutes on a quiet machine
  cargo xtask overhead pingpong --json cost.json  one yardstick, with the numbers in a file")]
pub struct Arguments {
    /// What to measure; everything when none is named
    yardsticks: Vec<Yardstick>,
    /// Write the numbers to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Add pairs up to this many while a limit lies within the interval
    #[arg(long, value_name = "N", default_value_t = MOST_PAIRS as u16, value_parser = clap::value_parser!(u16).range(FIRST_PAIRS as i64..))]
    pairs: u16,
    /// Measure the tracer and the workload in this folder instead of building them
    #[arg(long, value_name = "FOLDER")]
    binaries: Option<PathBuf>,
    /// Do not run `perf sched record` beside the tracer
    #[arg(long)]
    no_perf: bool,
}

/// Could not tell.
const COULD_NOT_TELL: u8 = 4;

/// The verb.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    sh::can_be_root().context("measuring attaches eBPF programs")?;
    let binaries = match arguments.binaries {
        Some(folder) => Binaries { tracer: folder.join("tracer"), workload: folder.join("workload") },
        None => build::everything(true)?,
    };
    let bench = Bench::new(binaries, !arguments.no_perf)?;
    let mut session = Session::new(&bench, usize::from(arguments.pairs));
    let wanted = match arguments.yardsticks {
        wanted if wanted.is_empty() => Yardstick::value_variants().to_vec(),
        wanted => wanted,
    };
    let rows: Vec<Row> = wanted.into_iter().flat_map(|yardstick| session.measure(yardstick)).collect();
    print!("{}", text(&rows));
    if let Some(file) = arguments.json {
        let text = format!("{:#}\n", json(&rows));
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(exit_code(&rows))
}

fn exit_code(rows: &[Row]) -> ExitCode {
    if rows.iter().any(|row| row.outcome == Outcome::Broken) {
        ExitCode::FAILURE
    } else if rows.iter().any(|row| matches!(row.outcome, Outcome::CouldNotTell(_))) {
        ExitCode::from(COULD_NOT_TELL)
    } else {
        ExitCode::SUCCESS
    }
}

fn text(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let unit = if row.unit.is_empty() { String::new() } else { format!(" {}", row.unit) };
        vec![
            row.what.clone(),
            row.value.map_or("-".to_owned(), |value| format!("{}{unit}", interval(value))),
            row.limit.map_or("-".to_owned(), |limit| format!("{limit}{unit}")),
            row.control.map_or("-".to_owned(), interval),
            row.runs.to_string(),
            outcome(&row.outcome),
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table::text(&["measured", "median [interval]", "at most", "against itself", "runs", "verdict"], &rows, &[2, 4])
}

/// Four digits that count, whatever the unit.
fn interval(Interval { low, mid, high }: Interval) -> String {
    let digits = match mid.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 4,
    };
    format!("{mid:.digits$} [{low:.digits$}, {high:.digits$}]")
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Holds => "holds".to_owned(),
        Outcome::Broken => "BROKEN".to_owned(),
        Outcome::CouldNotTell(why) => format!("could not tell: {why}"),
        Outcome::Shown => "-".to_owned(),
    }
}

fn json(rows: &[Row]) -> Value {
    let ends = |interval: Option<Interval>| {
        interval.map(|Interval { low, mid, high }| json!({ "median": mid, "low": low, "high": high }))
    };
    let row = |row: &Row| {
        let (verdict, reason) = match &row.outcome {
            Outcome::Holds => ("holds", None),
            Outcome::Broken => ("broken", None),
            Outcome::CouldNotTell(why) => ("could-not-tell", Some(why)),
            Outcome::Shown => ("none", None),
        };
        json!({
            "measured": row.what, "value": ends(row.value), "unit": if row.unit.is_empty() { "ratio" } else { row.unit },
            "limit": row.limit, "control": ends(row.control), "runs": row.runs, "verdict": verdict, "reason": reason,
        })
    };
    json!({ "rows": rows.iter().map(row).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(outcome: Outcome) -> Row {
        let value = Some(Interval { low: 1.1, mid: 1.15, high: 1.2 });
        Row { what: "pingpong".to_owned(), value, unit: "", limit: Some(1.3), control: None, outcome, runs: 10 }
    }

    #[test]
    fn the_table_shows_interval_limit_and_verdict() {
        let text = text(&[row(Outcome::Holds)]);
        let expected = "measured  median [interval]        at most  against itself  runs  verdict\n\
                        pingpong  1.1500 [1.1000, 1.2000]      1.3  -                 10  holds\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn broken_outranks_could_not_tell() {
        let unclear = || row(Outcome::CouldNotTell("noise".to_owned()));
        let code = |rows: &[Row]| format!("{:?}", exit_code(rows));
        assert_eq!(code(&[unclear(), row(Outcome::Broken)]), format!("{:?}", ExitCode::from(1)));
        assert_eq!(code(&[unclear(), row(Outcome::Holds)]), format!("{:?}", ExitCode::from(4)));
        assert_eq!(code(&[row(Outcome::Holds), row(Outcome::Shown)]), format!("{:?}", ExitCode::SUCCESS));
    }

    #[test]
    fn the_numbers_are_written_with_their_unit_and_verdict() {
        let written = json(&[row(Outcome::CouldNotTell("noise".to_owned()))]);
        assert_eq!(written["rows"][0]["value"]["high"], 1.2);
        assert_eq!(written["rows"][0]["unit"], "ratio");
        assert_eq!(written["rows"][0]["verdict"], "could-not-tell");
        assert_eq!(written["rows"][0]["reason"], "noise");
    }
}
