//! The command line: what can be asked, and the help that says so. Man page and completions come from the same table. No
//! effects here.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

pub mod step;
pub mod units;

/// Why is my workload slow? Where do its threads spend their time, and who makes them wait?
#[derive(Debug, Parser)]
#[command(name = "tracer", version, max_term_width = 120, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sudo tracer run -- python3 train.py            trace a command from its first instruction
  sudo tracer record --pid 4711 --duration 30s   attach to a running process and its descendants
  sudo tracer record --all --duration 10s        look at the whole host
  tracer report tracer.trc                       diagnose a capture again, on any machine, without root
  tracer doctor                                  what this host allows, and what to do about the rest

Exit codes: `run` gives CMD's own (125 when tracer itself failed, 126 CMD not executable, 127 CMD not found, 3 when --fail-on
matched); the others 0 done, 1 --fail-on matched, 2 could not run.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a command, trace it and all its descendants, report when it ends
    #[command(after_help = "\
Examples:
  sudo tracer run -- python3 train.py
  sudo tracer run --capture train.trc --format json -o report.json -- ./train.sh --epochs 1
  sudo tracer run --fail-on user-lock-contention -- make bench
  sudo tracer run --step py:train_step -- python3 train.py
  sudo tracer run --step ./server:handle_request -- ./server")]
    Run(RunArgs),
    /// Attach to what runs, with its descendants; report at the duration, at Ctrl-C or when the targets are gone
    #[command(after_help = "\
Examples:
  sudo tracer record --pid 4711 --duration 30s
  sudo tracer record --cgroup /sys/fs/cgroup/training.slice --capture training.trc
  sudo tracer record --container 3f2a90 --duration 1m
  sudo tracer record --comm pt_data_worker --duration 10s
  sudo tracer record --pid 4711 --step py:train_step --duration 1m")]
    Record(RecordArgs),
    /// Diagnose a capture again, without root, on any machine
    Report(ReportArgs),
    /// Give the data behind a report to other tools
    #[command(after_help = "\
Examples:
  tracer export tracer.trc --to ndjson | jq 'select(.kind == \"exec\")'
  tracer export tracer.trc --to json -o report.json
  tracer export tracer.trc --to flamegraph -o flame.svg
  tracer export tracer.trc --to pprof --of off-cpu -o waits.pb.gz && go tool pprof -top waits.pb.gz
  tracer export tracer.trc --to folded --of on-cpu | sort -k2 -t' ' -n")]
    Export(ExportArgs),
    /// Say what this host allows: kernel, type information, capabilities, each family, with remedies
    Doctor(FormatArgs),
    /// List the families: question, programs, hooks, cost class
    Families(FormatArgs),
    /// Print the JSON Schema of reports
    #[command(hide = true)]
    Schema,
    /// Print the man page
    #[command(hide = true)]
    Man,
    /// Print shell completions
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Forms of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs; its schema is stable
    Json,
}

/// Forms of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// The report
    Json,
    /// Every event, one JSON object per line
    Ndjson,
    /// Stacks as text: process;thread;outermost;...;innermost and microseconds
    Folded,
    /// Stacks as a picture (SVG)
    Flamegraph,
    /// Stacks for pprof (profile.proto, gzip)
    Pprof,
}

/// What of threads' time a profile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileOf {
    /// Computing, by samples
    OnCpu,
    /// Waiting, by exact times, with the reason as the innermost frame
    OffCpu,
    /// Both; time ready without a CPU is in neither
    Wall,
}

/// Where results go.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Write to this file instead (`-` is stdout)
    #[arg(short = 'o', long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Form of the report
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Exit with a code of its own when a finding of this class or severity was made
    #[arg(long, value_name = "CLASS|SEVERITY")]
    pub fail_on: Vec<String>,
}

/// How much is said.
#[derive(Debug, Clone, Args)]
pub struct TalkArgs {
    /// Say nothing but results and errors
    #[arg(long, short = 'q', conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice for everything
    #[arg(long, short = 'v', action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// How tracing works.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// Only these families and those that they build on (see `tracer families`); each must be able to run here
    #[arg(long, value_name = "FAMILY", value_delimiter = ',')]
    pub family: Vec<String>,
    /// Not these families
    #[arg(long, value_name = "FAMILY", value_delimiter = ',')]
    pub no_family: Vec<String>,
    /// Memory of all rings between kernel and tracer together
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = units::size)]
    pub ring_size: u64,
    /// Samples per second on each CPU, and of each second that a thread waits: 1 to 999
    #[arg(long, value_name = "HZ", default_value = "99", value_parser = clap::value_parser!(u32).range(1..=999))]
    pub sample_hz: u32,
    /// Bound of the capture file; the oldest part goes first
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = units::size)]
    pub capture_size: u64,
    /// The thread whose critical path is shown: its id, or its name (of several the one that lived longest). `run` shows that of CMD's
    /// main thread without this, `record` none
    #[arg(long, value_name = "THREAD")]
    pub focus: Option<String>,
    /// The function whose entries begin steps, as of a training loop: the report tells what steps went to, and what slow ones spend
    /// more on. FILE:SYMBOL (`./server:handle_request`, `libfoo.so:step`), usdt:FILE:PROVIDER:NAME, py:FUNCTION or
    /// py:FILE.py:FUNCTION (`py:train_step`). `record` then shows the critical path of the thread that has the steps
    #[arg(long, value_name = "SPEC")]
    pub step: Option<step::AskedStep>,
    /// Tell of each statement of SQLite, PostgreSQL and MySQL how long it took, at the functions of their clients' libraries (libsqlite3,
    /// libpq, libmariadb, libmysqlclient): the system's, those that traced processes load, and FILE, a program or a library that has
    /// these functions in it. Texts are kept without values. Adds some microseconds to each call
    #[arg(long, value_name = "FILE", num_args = 0.., require_equals = true, value_delimiter = ',')]
    pub db: Option<Vec<PathBuf>>,
    /// Count every call that reads or writes a file, exactly, by file and process. Each system call of the whole host takes some 80 ns
    /// longer then
    #[arg(long)]
    pub file_exact: bool,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub duration: Option<Duration>,
    /// Leave a program out, to test that its absence is noticed
    #[arg(long, hide = true, value_name = "PROGRAM")]
    pub without_program: Vec<String>,
    /// Act as on a host without this: `btf`, `tracefs`
    #[arg(long, hide = true, value_name = "THING")]
    pub pretend_no: Vec<String>,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where results go.
    #[command(flatten)]
    pub output: OutputArgs,
    /// How tracing works.
    #[command(flatten)]
    pub trace: TraceArgs,
    /// How much is said.
    #[command(flatten)]
    pub talk: TalkArgs,
    /// Keep the events in this file
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// Run CMD as this user; under sudo it is the user who called it
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Arguments of `record`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["pid", "cgroup", "container", "comm", "all"]))]
pub struct RecordArgs {
    /// These processes and their descendants
    #[arg(long, value_name = "PID", value_delimiter = ',', num_args = 1..)]
    pub pid: Vec<u32>,
    /// Every process in this cgroup, now or later: a directory, or a path as /proc/PID/cgroup shows it
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
    /// Every process in the container whose id starts like this
    #[arg(long, value_name = "ID")]
    pub container: Option<String>,
    /// Every process of this name, now or later
    #[arg(long, value_name = "NAME")]
    pub comm: Option<String>,
    /// Every process of the host
    #[arg(long)]
    pub all: bool,
    /// Where results go.
    #[command(flatten)]
    pub output: OutputArgs,
    /// How tracing works.
    #[command(flatten)]
    pub trace: TraceArgs,
    /// How much is said.
    #[command(flatten)]
    pub talk: TalkArgs,
    /// Keep the events in this file
    #[arg(long, value_name = "FILE", default_value = "tracer.trc")]
    pub capture: PathBuf,
    /// Keep no events
    #[arg(long, conflicts_with = "capture")]
    pub no_capture: bool,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The capture
    pub capture: PathBuf,
    /// Where results go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The capture
    pub capture: PathBuf,
    /// Form of the data
    #[arg(long, value_enum)]
    pub to: ExportFormat,
    /// What of threads' time, for folded, flamegraph and pprof
    #[arg(long, value_enum, default_value = "wall")]
    pub of: ProfileOf,
    /// Write to this file instead (`-` is stdout)
    #[arg(short = 'o', long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Arguments of tables.
#[derive(Debug, Args)]
pub struct FormatArgs {
    /// Form of the table
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Act as on a host without this: `btf`, `tracefs`
    #[arg(long, hide = true, value_name = "THING")]
    pub pretend_no: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_table_of_arguments_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_behind_the_command_is_the_commands() {
        let cli = Cli::try_parse_from(["tracer", "run", "--duration", "2s", "--", "ls", "-o", "x"]).expect("parses");
        let Command::Run(run) = cli.command else { unreachable!("run was asked for") };
        assert_eq!(run.command, ["ls", "-o", "x"]);
        assert_eq!(run.trace.duration, Some(Duration::from_secs(2)));
        assert!(run.output.output.is_none());
    }

    #[test]
    fn an_unknown_option_is_not_the_command() {
        assert!(Cli::try_parse_from(["tracer", "run", "--no-such-option", "--", "ls"]).is_err());
        assert!(Cli::try_parse_from(["tracer", "run", "--no-such-option", "ls"]).is_err());
        let cli = Cli::try_parse_from(["tracer", "run", "ls", "-l", "--", "-o"]).expect("parses without the dashes");
        let Command::Run(run) = cli.command else { unreachable!("run was asked for") };
        assert_eq!(run.command, ["ls", "-l", "--", "-o"]);
    }

    #[test]
    fn record_wants_exactly_one_kind_of_target() {
        assert!(Cli::try_parse_from(["tracer", "record"]).is_err());
        assert!(Cli::try_parse_from(["tracer", "record", "--all", "--pid", "1"]).is_err());
        assert!(Cli::try_parse_from(["tracer", "record", "--pid", "1,2"]).is_ok());
    }
}
