//! The commands' effects: what happens when something is asked on the command line. Wires the stages together; judges nothing.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, error::ErrorKind};

use crate::cli::{Cli, Command};

mod budget;
mod core;
mod database;
mod limits;
mod live;
mod mappings;
mod memory;
mod moved;
mod network;
mod numa;
mod objects;
mod output;
mod progress;
mod record;
mod replay;
mod run;
mod step;
mod strangers;
mod tables;
mod target;
mod tmpfs;

/// Exit code of `run` when the tracer itself failed.
pub const RUN_FAILED: u8 = 125;
/// Exit code of the other commands when they could not run.
pub const FAILED: u8 = 2;

/// A failure with the exit code that goes with it.
#[derive(Debug)]
pub struct Failure {
    /// One sentence: what, why, what to do.
    pub message: String,
    /// The exit code.
    pub code: u8,
}

impl Failure {
    /// A failure with the command's usual code.
    pub fn new(code: u8, message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), code }
    }
}

/// Runs the tracer. Call it first thing in `main`, before any thread exists.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let result = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Record(args) => record::record(args),
        Command::Report(args) => replay::report(args),
        Command::Export(args) => replay::export(args),
        Command::Doctor(args) => tables::doctor(args),
        Command::Families(args) => tables::families(args),
        Command::Schema => crate::model::report::schema_json()
            .map_err(|error| Failure::new(FAILED, format!("cannot write the schema: {error}")))
            .and_then(|text| output::print(text.as_bytes()))
            .map(|()| 0),
        Command::Man => man(),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "tracer", &mut text);
            output::print(&text).map(|()| 0)
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("tracer: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Help and version are success; wrong use of `run` has a code that cannot be CMD's.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ if std::env::args_os().nth(1).is_some_and(|command| command == "run") => ExitCode::from(RUN_FAILED),
        _ => ExitCode::from(FAILED),
    }
}

fn man() -> Result<u8, Failure> {
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(Cli::command());
    page.render(&mut text).map_err(|error| Failure::new(FAILED, format!("cannot write the man page: {error}")))?;
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("tracer-{}", command.get_name());
        let page = clap_mangen::Man::new(command.clone().name(name));
        page.render(&mut text).map_err(|error| Failure::new(FAILED, format!("cannot write the man page: {error}")))?;
    }
    output::print(&text).map(|()| 0)
}

/// What the tracer says of itself goes to stderr.
fn start_logging(talk: &crate::cli::TalkArgs) {
    let level = match (talk.quiet, talk.verbose) {
        (true, _) => tracing::Level::ERROR,
        (_, 0) => tracing::Level::WARN,
        (_, 1) => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .with_ansi(output::colour(&std::io::stderr()))
        .try_init();
}
