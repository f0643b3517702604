//! Runs a workload bare, under the tracer, and under `perf sched record`, and says what each run used. Decides nothing.

use std::{
    env, fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::timed::{self, Sample, used_by_children};
use crate::{
    sh,
    sh::Cmd,
    workspace::{Binaries, utf8},
};

/// Everything that a measurement needs.
pub struct Bench {
    binaries: Binaries,
    own: PathBuf,
    dir: TempDir,
    /// Whether `perf sched record` is measured beside the tracer.
    pub with_perf: bool,
}

/// A run under the tracer.
#[derive(Clone, Debug)]
pub struct Traced {
    /// The workload's part.
    pub sample: Sample,
    /// The tracer's report.
    pub report: Value,
    /// CPU time of the tracer, start and end included, as the kernel accounts it.
    pub tracer_cpu_s: f64,
    /// Size of the capture, where one was asked for.
    pub capture_bytes: Option<f64>,
}

/// Runs of one workload, in pairs: the nth of each list ran next to the nth of the others.
#[derive(Default)]
pub struct Rounds {
    /// Options of the tracer beside its defaults.
    pub options: &'static [&'static str],
    /// Bare.
    pub base: Vec<Sample>,
    /// Bare once more: the control.
    pub control: Vec<Sample>,
    /// Under the tracer.
    pub traced: Vec<Traced>,
    /// Under `perf sched record`.
    pub perf: Vec<Sample>,
}

impl Bench {
    /// Measures these binaries.
    pub fn new(binaries: Binaries, with_perf: bool) -> Result<Self> {
        let own = env::current_exe().context("xtask cannot find its own binary")?;
        let dir = tempfile::tempdir().context("cannot create a temporary folder")?;
        let mut bench = Self { binaries, own, dir, with_perf };
        bench.with_perf &= bench.perf_works();
        Ok(bench)
    }

    /// The workload program with these arguments.
    pub fn workload(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let program = utf8(&self.binaries.workload)?;
        Ok([program.as_str()].iter().chain(arguments).map(|part| (*part).to_owned()).collect())
    }

    /// Runs until there are `pairs` of each. The order turns round from pair to pair, so that a machine that slowly grows faster
    /// or slower favours nobody.
    pub fn rounds(&self, name: &str, command: &[String], rounds: &mut Rounds, pairs: usize) -> Result<()> {
        while rounds.base.len() < pairs {
            let first = self.bare(command)?;
            let traced = self.traced_with(command, rounds.options, false)?;
            let last = self.bare(command)?;
            let is_even = rounds.base.len().is_multiple_of(2);
            let (base, control) = if is_even { (first, last) } else { (last, first) };
            let perf = if self.with_perf { Some(self.perf(command)?) } else { None };
            let beside = perf.as_ref().map_or(String::new(), |perf| format!(", perf {:.3} s", perf.elapsed_s));
            eprintln!(
                "{name} {}/{pairs}: bare {:.3} s, traced {:.3} s, bare again {:.3} s{beside}",
                rounds.base.len() + 1,
                base.elapsed_s,
                traced.sample.elapsed_s,
                control.elapsed_s,
            );
            rounds.base.push(base);
            rounds.control.push(control);
            rounds.traced.push(traced);
            rounds.perf.extend(perf);
        }
        Ok(())
    }

    /// One run with nobody watching.
    pub fn bare(&self, command: &[String]) -> Result<Sample> {
        let (timed, file) = self.timed(command)?;
        let (program, rest) = timed.split_first().context("no command")?;
        Cmd::new(program).args(rest).quiet().run()?;
        timed::read(&file)
    }

    /// One run under the tracer.
    pub fn traced(&self, command: &[String], with_capture: bool) -> Result<Traced> {
        self.traced_with(command, &[], with_capture)
    }

    /// The same with options.
    pub fn traced_with(&self, command: &[String], options: &[&str], with_capture: bool) -> Result<Traced> {
        let (timed, file) = self.timed(command)?;
        let capture = self.dir.path().join("run.trc");
        let path = utf8(&capture)?;
        let kept: &[&str] = if with_capture { &["--capture", &path] } else { &[] };
        let (report, children_cpu_s) = self.tracer(&["run"], &[options, kept].concat(), &timed)?;
        let sample = timed::read(&file)?;
        let capture_bytes = with_capture
            .then(|| fs::metadata(&capture).map(|meta| meta.len() as f64))
            .transpose()
            .with_context(|| format!("the tracer left no capture at {}", capture.display()))?;
        let tracer_cpu_s = (children_cpu_s - sample.cpu_s).max(0.0);
        Ok(Traced { sample, report, tracer_cpu_s, capture_bytes })
    }

    /// The tracer over a command that does nothing: its report, and its CPU time for starting and ending.
    pub fn traced_nothing(&self) -> Result<(Value, f64)> {
        self.tracer(&["run"], &[], &["true".to_owned()])
    }

    /// The tracer over the whole machine for 10 s: its CPU time.
    pub fn everything_for_10_s(&self) -> Result<f64> {
        let capture = utf8(&self.dir.path().join("all.trc"))?;
        let (_, cpu_s) = self.tracer(&["record", "--all", "--duration", "10s"], &["--capture", &capture], &[])?;
        Ok(cpu_s)
    }

    /// Runs the tracer: its report, and the CPU time of all that ran in it.
    fn tracer(&self, verb: &[&str], options: &[&str], command: &[String]) -> Result<(Value, f64)> {
        let file = self.dir.path().join("report.json");
        let mut tracer = Cmd::new(&self.binaries.tracer).quiet().args(verb).args(options);
        tracer = tracer.args(["--format", "json", "-o"]).arg(&file);
        if !command.is_empty() {
            if sh::is_root() && env::var_os("SUDO_UID").is_some() {
                // The workload writes into a folder that is root's; by default it would run as the invoking user.
                tracer = tracer.args(["--user", "root"]);
            }
            tracer = tracer.arg("--").args(command);
        }
        let (before, _) = used_by_children()?;
        tracer.privileged().run()?;
        let (after, _) = used_by_children()?;
        let text =
            fs::read_to_string(&file).with_context(|| format!("the tracer left no report at {}", file.display()))?;
        let report = serde_json::from_str(&text).context("the tracer's report is not JSON")?;
        Ok((report, after - before))
    }

    fn perf(&self, command: &[String]) -> Result<Sample> {
        let (timed, file) = self.timed(command)?;
        let data = self.dir.path().join("perf.data");
        Cmd::new("sh")
            .args(["-c", "exec perf sched record -o \"$@\" >/dev/null 2>&1", "sh"])
            .arg(&data)
            .args(timed)
            .quiet()
            .privileged()
            .run()?;
        let sample = timed::read(&file);
        fs::remove_file(&data).with_context(|| format!("perf left nothing at {}", data.display()))?;
        sample
    }

    fn perf_works(&self) -> bool {
        if sh::which("perf").is_none() {
            eprintln!("note: perf is not installed; `perf sched record` is not measured beside the tracer");
            return false;
        }
        let data = self.dir.path().join("perf.data");
        let works =
            Cmd::new("perf").args(["sched", "record", "-o"]).arg(&data).arg("true").privileged().ask().is_some();
        if !works {
            eprintln!("note: `perf sched record` fails here and is not measured beside the tracer");
        }
        works
    }

    /// The command with `xtask timed` before it, and the file that it writes.
    fn timed(&self, command: &[String]) -> Result<(Vec<String>, PathBuf)> {
        // A name of its own for every run, so that an old file is never taken for a new one.
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_nanos();
        let file = self.dir.path().join(format!("sample-{now_ns}.json"));
        let mut timed: Vec<String> = vec![utf8(&self.own)?, "timed".to_owned(), "--output".to_owned(), utf8(&file)?];
        timed.push("--".to_owned());
        timed.extend_from_slice(command);
        Ok((timed, file))
    }
}

/// Load average of the last minute.
pub fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    let first = text.split_whitespace().next().and_then(|number| number.parse().ok());
    first.context("/proc/loadavg does not begin with a number")
}

/// A number of a report, by its path: `number(report, "/window/attach_s")`.
pub fn number(report: &Value, path: &str) -> Result<f64> {
    report.pointer(path).and_then(Value::as_f64).with_context(|| format!("the report has no number {path}"))
}

/// Share of one CPU that all eBPF programs together took while they were measured.
pub fn bpf_share(report: &Value) -> Result<f64> {
    bpf_share_of(report, |_| true)
}

/// The same of the programs whose names are these.
pub fn bpf_share_of(report: &Value, is_wanted: impl Fn(&str) -> bool) -> Result<f64> {
    let measured_s = number(report, "/overhead/measured_s")?;
    ensure!(measured_s > 0.0, "the tracer measured its programs' run time for {measured_s} s");
    let programs = report.pointer("/overhead/programs").and_then(Value::as_array);
    let programs = programs.context("the report has no array /overhead/programs")?;
    let ns = |program: &Value| {
        let runs = program["runs"].as_f64().context("a program has no number `runs`")?;
        // Absent for a program that did not run.
        Ok(runs * program["ns_per_run"].as_f64().unwrap_or(0.0))
    };
    let wanted = programs.iter().filter(|program| program["name"].as_str().is_some_and(&is_wanted));
    let total_ns = wanted.map(ns).sum::<Result<f64>>()?;
    Ok(total_ns / 1e9 / measured_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_share_is_runs_times_length_over_the_time_measured() {
        let report = serde_json::json!({ "overhead": { "measured_s": 2.0, "programs": [
            { "name": "a", "runs": 1_000_000, "ns_per_run": 100.0 }, { "name": "b", "runs": 0 } ] } });
        let share = bpf_share(&report).unwrap();
        assert!((share - 0.05).abs() < 1e-12, "0.1 s in 2 s are 5 %, not {share}");
        assert_eq!(bpf_share_of(&report, |name| name == "b").unwrap(), 0.0, "it did not run");
    }

    #[test]
    fn nothing_measured_is_an_error_and_not_zero() {
        let report = serde_json::json!({ "overhead": { "measured_s": 0.0, "programs": [] } });
        assert!(bpf_share(&report).is_err());
        let error = number(&report, "/window/attach_s").unwrap_err();
        assert_eq!(error.to_string(), "the report has no number /window/attach_s");
    }
}
