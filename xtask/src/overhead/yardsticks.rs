//! The yardsticks: what each one runs, which limit it has, and how it is decided. A yardstick that cannot be measured says why;
//! it never counts as held.

use anyhow::Result;
use clap::ValueEnum;
use serde_json::Value;

use super::measure::{Bench, Rounds, Traced, bpf_share, bpf_share_of, load, number};
use crate::sh::Cmd;
use crate::stats::{Interval, Verdict, is_steady, median, median_interval, range, ratios, verdict};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Yardstick {
    /// Two processes on one CPU throw a byte to and fro: the slowdown, nanoseconds per switch, perf beside it
    Pingpong,
    /// A program that only computes, sampled at 99 Hz: eBPF run time times rate, and the program's CPU time
    Cpu,
    /// Two threads on two CPUs that fight for one mutex, held for about a millisecond: the slowdown
    Locks,
    /// A program that touches memory for the first time: nanoseconds for each page fault
    Faults,
    /// A Python program that computes with NumPy: the slowdown
    Numpy,
    /// A Python program that reads a file from the page cache: the slowdown
    Stream,
    /// Direct reads of 4 KiB at random: the slowdown
    Reads,
    /// Reads of 4 KiB from the page cache, as fast as they go: the slowdown
    Cached,
    /// The same with each call counted (--file-exact): the slowdown
    Exact,
    /// Two processes on one CPU throw 64 KiB to and fro over TCP: the slowdown
    Socket,
    /// Stacks of waits: eBPF run time for each stack that was taken
    Waits,
    /// The tracer's memory with a Python program
    Python,
    /// The tracer's own CPU time in 10 s of an idle machine
    Idle,
    /// Time until all probes are attached
    Attach,
    /// Bytes per switch in the capture
    Bytes,
    /// The tracer's own CPU time at 50,000 switches/s
    Own,
    /// The tracer's memory without its rings, and its rings
    Rss,
}

/// How a row ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Within its limit.
    Holds,
    /// Above its limit.
    Broken,
    /// Neither; with the reason.
    CouldNotTell(String),
    /// It has no limit.
    Shown,
}

/// One line of the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The values.
    pub value: Option<Interval>,
    /// Their unit; empty for ratios.
    pub unit: &'static str,
    /// The limit.
    pub limit: Option<f64>,
    /// The yardstick against itself.
    pub control: Option<Interval>,
    /// How it ended.
    pub outcome: Outcome,
    /// How many pairs or runs.
    pub runs: usize,
}

/// Pairs that are run first, and how many are added while the limit lies within the interval.
pub const FIRST_PAIRS: usize = 10;
/// Above this many it could not tell.
pub const MOST_PAIRS: usize = 40;
/// A yardstick that differs from itself by more than this is refused.
const STEADY: f64 = 0.02;

/// Both ends on one CPU; the same CPU each time, which is what the seed chooses.
const PINGPONG: [&str; 6] = ["--seed", "1", "pingpong", "--pinned", "--count", "200000"];
/// The same with so few switches that starting, ending and naming functions are nearly all of the tracer's work.
const SHORT_PINGPONG: [&str; 6] = ["--seed", "1", "pingpong", "--pinned", "--count", "20000"];
/// Longer than the sampling period, so that every wait's stack is due.
const WAITS: [&str; 8] = ["--seed", "1", "sleep", "--each-cpu", "--period", "20ms", "--duration", "5s"];
/// Two threads, each on a CPU of its own, that block for each other: the work of an item takes a millisecond.
const LOCKS: [&str; 8] = ["--seed", "1", "items", "mutex", "--items", "800", "--loops", "1000000"];
/// A page fault for each page of a GiB.
const FAULTS: [&str; 5] = ["--seed", "1", "touch", "--mib", "1024"];
/// Each page of a file of 128 MiB, in an order of its own.
const DIRECT_READS: [&str; 9] = ["--seed", "1", "reads", "--direct", "--plain", "--mib", "128", "--compute", "0us"];
/// Each page of a file that is in the page cache, a hundred times.
const CACHED_READS: [&str; 11] =
    ["--seed", "1", "reads", "--warm", "--plain", "--mib", "64", "--passes", "100", "--compute", "0us"];
/// What an ordinary program does with arrays: it makes them, computes with them and lets them go.
const NUMPY: &str = "
import json, time
import numpy
start = time.monotonic()
random = numpy.random.default_rng(1)
weights = random.random((400, 400))
batches = [random.random((400, 400)) for _ in range(8)]
total = 0.0
for step in range(400):
    hidden = numpy.maximum(batches[step % 8] @ weights, 0)
    total += float((hidden / hidden.max()).sum())
    weights = weights * 0.999 + 0.001
print(json.dumps({'elapsed_s': time.monotonic() - start}))
";
/// Reads a file of 64 MiB that is in the page cache, sixty times, in pieces of 1 MiB.
const STREAM: &str = "
import json, tempfile, time
with tempfile.TemporaryFile(buffering=0) as file:
    file.write(bytes(64 << 20))
    buffer = bytearray(1 << 20)
    start = time.monotonic()
    for _ in range(60):
        file.seek(0)
        while file.readinto(buffer):
            pass
print(json.dumps({'elapsed_s': time.monotonic() - start}))
";
/// A process and its child, on one CPU, send each other 64 KiB over a connection of this host, 48,000 times.
const SOCKET: &str = "
import json, os, socket, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
listener = socket.create_server(('127.0.0.1', 0))
message = bytes(64 << 10)
def receive(end):
    room = memoryview(bytearray(64 << 10))
    while room:
        got = end.recv_into(room)
        if got == 0:
            return False
        room = room[got:]
    return True
child = os.fork()
if child == 0:
    end, _ = listener.accept()
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while receive(end):
        end.sendall(message)
    os._exit(0)
end = socket.create_connection(listener.getsockname())
end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
start = time.monotonic()
for _ in range(48000):
    end.sendall(message)
    receive(end)
took = time.monotonic() - start
end.close()
os.waitpid(child, 0)
print(json.dumps({'elapsed_s': took}))
";
/// Computes and sleeps for two seconds.
const PYTHON: &str = "
import json, time
try:
    import numpy
except ImportError:
    pass
start = time.monotonic()
while time.monotonic() < start + 2:
    sum(range(100000))
    time.sleep(0.005)
print(json.dumps({'elapsed_s': time.monotonic() - start}))
";
const RATE_OF_OWN: f64 = 50_000.0;

/// The ping-pong is run once for all yardsticks that read it.
pub struct Session<'a> {
    bench: &'a Bench,
    most_pairs: usize,
    pingpong: Rounds,
}

impl<'a> Session<'a> {
    /// Nothing measured yet.
    pub fn new(bench: &'a Bench, most_pairs: usize) -> Self {
        Self { bench, most_pairs, pingpong: Rounds::default() }
    }

    /// Measures one yardstick. One that cannot be measured is a row that says why.
    pub fn measure(&mut self, yardstick: Yardstick) -> Vec<Row> {
        let rows = match yardstick {
            Yardstick::Pingpong => self.pingpong(),
            Yardstick::Cpu => self.cpu(),
            Yardstick::Locks => self.locks(),
            Yardstick::Faults => self.faults(),
            Yardstick::Numpy => self.numpy(),
            Yardstick::Stream => self.python_slowdown("reading a file from the page cache, slowdown", STREAM, 1.05),
            Yardstick::Reads => self.reads("direct 4 KiB reads, slowdown", &DIRECT_READS, 1.03, &[]),
            Yardstick::Cached => self.reads("cached 4 KiB reads, slowdown", &CACHED_READS, 1.05, &[]),
            Yardstick::Exact => {
                self.reads("cached 4 KiB reads, each counted, slowdown", &CACHED_READS, 1.30, &["--file-exact"])
            }
            Yardstick::Socket => self.python_slowdown("64 KiB to and fro over TCP, slowdown", SOCKET, 1.05),
            Yardstick::Waits => self.waits(),
            Yardstick::Python => self.python(),
            Yardstick::Idle => self.idle(),
            Yardstick::Attach => self.attach(),
            Yardstick::Bytes => self.bytes(),
            Yardstick::Own => self.own(),
            Yardstick::Rss => self.rss(),
        };
        rows.unwrap_or_else(|error| {
            let name = yardstick.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            let outcome = Outcome::CouldNotTell(format!("{error:#}"));
            vec![Row { what: name, value: None, unit: "", limit: None, control: None, outcome, runs: 0 }]
        })
    }

    fn pingpong(&mut self) -> Result<Vec<Row>> {
        const LIMIT: f64 = 1.30;
        let command = self.bench.workload(&PINGPONG)?;
        let mut rounds = std::mem::take(&mut self.pingpong);
        let row = self.slowdown("pingpong, slowdown (aim 1.15)", &command, LIMIT, &mut rounds)?;
        self.pingpong = rounds;
        let pairs = row.runs;
        let rounds = &self.pingpong;
        let base = elapsed(&rounds.base);
        let switches: Vec<f64> = rounds.traced.iter().map(|traced| traced.sample.switches).collect();
        let added = traced_elapsed(&rounds.traced).into_iter().zip(&base).map(|(traced, base)| (traced - base) * 1e9);
        let per_switch: Vec<f64> = added.zip(&switches).map(|(ns, switches)| ns / switches).collect();
        let mut rows = vec![row, shown("pingpong, added per switch", "ns", median_interval(&per_switch), pairs)];
        if !rounds.perf.is_empty() {
            let perf = median_interval(&ratios(&elapsed(&rounds.perf), &base));
            rows.push(shown("pingpong, slowdown by perf sched record", "", perf, pairs));
        }
        Ok(rows)
    }

    fn locks(&mut self) -> Result<Vec<Row>> {
        let command = self.bench.workload(&LOCKS)?;
        Ok(vec![self.slowdown("lock-heavy, slowdown", &command, 1.05, &mut Rounds::default())?])
    }

    /// Pairs of a command until the limit is told.
    fn slowdown(&self, what: &str, command: &[String], limit: f64, rounds: &mut Rounds) -> Result<Row> {
        let mut pairs = FIRST_PAIRS;
        loop {
            self.bench.rounds(what, command, rounds, pairs)?;
            let base = elapsed(&rounds.base);
            let slowdown = median_interval(&ratios(&traced_elapsed(&rounds.traced), &base));
            let control = median_interval(&ratios(&elapsed(&rounds.control), &base));
            let row = decided(what, "", slowdown, limit, control, pairs);
            if !wants_more(&row) || pairs >= self.most_pairs {
                return Ok(row);
            }
            pairs = (pairs + FIRST_PAIRS).min(self.most_pairs);
        }
    }

    /// The touching alone is timed, by the program itself: the memory is cold or warm as the host likes, so pairs and medians.
    fn faults(&mut self) -> Result<Vec<Row>> {
        const LIMIT_NS: f64 = 150.0;
        let command = self.bench.workload(&FAULTS)?;
        // The first run has the host provide the memory.
        self.bench.bare(&command)?;
        let mut rounds = Rounds::default();
        self.bench.rounds("faults", &command, &mut rounds, 2 * FIRST_PAIRS)?;
        let faults = 1024.0 * 1024.0 * 1024.0 / 4096.0;
        let per_fault = |more: &[f64]| -> Vec<f64> {
            more.iter().zip(elapsed(&rounds.base)).map(|(more, base)| (more - base) * 1e9 / faults).collect()
        };
        let added = median_interval(&per_fault(&traced_elapsed(&rounds.traced)));
        let bare: Vec<f64> = elapsed(&rounds.base).iter().map(|s| s * 1e9 / faults).collect();
        let control = median_interval(&ratios(&elapsed(&rounds.control), &elapsed(&rounds.base)));
        Ok(vec![
            decided("page fault, added", "ns", added, LIMIT_NS, control, rounds.base.len()),
            shown("page fault, bare", "ns", median_interval(&bare), rounds.base.len()),
        ])
    }

    fn reads(
        &mut self,
        what: &str,
        arguments: &[&str],
        limit: f64,
        options: &'static [&'static str],
    ) -> Result<Vec<Row>> {
        let folder = crate::workspace::utf8(&crate::workspace::target_dir())?;
        let command = self.bench.workload(&[arguments, &["--folder", &folder]].concat())?;
        let mut rounds = Rounds { options, ..Rounds::default() };
        Ok(vec![self.slowdown(what, &command, limit, &mut rounds)?])
    }

    fn numpy(&mut self) -> Result<Vec<Row>> {
        anyhow::ensure!(Cmd::new("python3").args(["-c", "import numpy"]).ask().is_some(), "python3 has no NumPy here");
        self.python_slowdown("Python with NumPy, slowdown", NUMPY, 1.02)
    }

    fn python_slowdown(&self, what: &str, program: &str, limit: f64) -> Result<Vec<Row>> {
        let command: Vec<String> = ["python3", "-c", program].map(str::to_owned).to_vec();
        Ok(vec![self.slowdown(what, &command, limit, &mut Rounds::default())?])
    }

    /// Too small an effect for a clock: decided by what the kernel says of the programs' run time, unless the CPU time of the
    /// program itself contradicts it. The wall time stands beside it.
    fn cpu(&mut self) -> Result<Vec<Row>> {
        const LIMIT: f64 = 1.005;
        let command = self.calibrated_cpu()?;
        let mut rounds = Rounds::default();
        let mut pairs = FIRST_PAIRS;
        loop {
            self.bench.rounds("cpu", &command, &mut rounds, pairs)?;
            let cpu = |samples: &[super::timed::Sample]| samples.iter().map(|one| one.cpu_s).collect::<Vec<_>>();
            let traced_cpu: Vec<f64> = rounds.traced.iter().map(|traced| traced.sample.cpu_s).collect();
            let of_child = median_interval(&ratios(&traced_cpu, &cpu(&rounds.base)));
            let control = median_interval(&ratios(&cpu(&rounds.control), &cpu(&rounds.base)));
            let shares: Vec<f64> =
                rounds.traced.iter().map(|traced| Ok(1.0 + bpf_share(&traced.report)?)).collect::<Result<_>>()?;
            let by_bpf = median_interval(&shares);
            let wall = median_interval(&ratios(&traced_elapsed(&rounds.traced), &elapsed(&rounds.base)));
            let mut main = decided("cpu, slowdown by eBPF run time", "", by_bpf, LIMIT, control, pairs);
            if main.outcome == Outcome::Holds && of_child.is_some_and(|one| verdict(one, LIMIT) == Verdict::Broken) {
                main.outcome =
                    Outcome::CouldNotTell("the program's own CPU time grew by more than the limit".to_owned());
            }
            if wants_more(&main) && pairs < self.most_pairs {
                pairs = (pairs + FIRST_PAIRS).min(self.most_pairs);
                continue;
            }
            return Ok(vec![
                main,
                shown("cpu, the program's CPU time, ratio", "", of_child, pairs),
                shown("cpu, wall time, ratio", "", wall, pairs),
            ]);
        }
    }

    /// An amount of work that takes about 2 s here, whatever the workload's unit is.
    fn calibrated_cpu(&self) -> Result<Vec<String>> {
        let mut work = 1_000_000_u64;
        loop {
            let command = self.bench.workload(&["--seed", "1", "cpu", "--pinned", "--work", &work.to_string()])?;
            let took_s = self.bench.bare(&command)?.elapsed_s;
            if took_s >= 1.5 {
                return Ok(command);
            }
            let factor = if took_s < 0.1 { 10.0 } else { 2.0 / took_s };
            work = (work as f64 * factor) as u64;
        }
    }

    /// Threads that wait for 20 ms at a time, each at a place of its own: the stack of nearly every wait is taken.
    fn waits(&mut self) -> Result<Vec<Row>> {
        let command = self.bench.workload(&WAITS)?;
        // Stacks are taken behind switches, so the time is in that of these: what they take without stacks comes off.
        let switches = |report: &Value| bpf_share_of(report, |name| name == "sched_switch");
        let cost = |_| {
            let without = switches(&self.bench.traced_with(&command, &["--family", "sched"], false)?.report)?;
            let report = self.bench.traced(&command, false)?.report;
            let rate = number(&report, "/stacks/captures")? / number(&report, "/window/duration_s")?;
            Ok((switches(&report)? - without) * 1e9 / rate)
        };
        let cost_ns = (0..3).map(cost).collect::<Result<Vec<_>>>()?;
        Ok(vec![shown("waits, eBPF run time per stack taken", "ns", range(&cost_ns), 3)])
    }

    /// All of the tracer's memory, rings included, while a Python program that has imported NumPy computes and sleeps.
    fn python(&mut self) -> Result<Vec<Row>> {
        const MIB: f64 = 1024.0 * 1024.0;
        let command: Vec<String> = ["python3", "-c", PYTHON].map(str::to_owned).to_vec();
        let with_numpy = Cmd::new("python3").args(["-c", "import numpy"]).ask().is_some();
        let what =
            if with_numpy { "resident memory, Python with NumPy" } else { "resident memory, Python (no NumPy here)" };
        let resident = |_| Ok(number(&self.bench.traced(&command, false)?.report, "/overhead/tracer_rss_bytes")? / MIB);
        let resident = (0..3).map(resident).collect::<Result<Vec<_>>>()?;
        Ok(vec![decided(what, "MiB", range(&resident), 300.0, None, 3)])
    }

    fn idle(&mut self) -> Result<Vec<Row>> {
        const LIMIT: f64 = 0.3;
        let load_before = load()?;
        let cpu_s = (0..3).map(|_| self.bench.everything_for_10_s()).collect::<Result<Vec<_>>>()?;
        let mut row = decided("idle machine for 10 s, CPU time of the tracer", "s", range(&cpu_s), LIMIT, None, 3);
        if row.outcome == Outcome::Broken && load_before > 0.5 {
            row.outcome = Outcome::CouldNotTell(format!("the machine was not idle: its load was {load_before}"));
        }
        Ok(vec![row])
    }

    fn attach(&mut self) -> Result<Vec<Row>> {
        let attach = |_| number(&self.bench.traced_nothing()?.0, "/window/attach_s");
        let attach_s = (0..5).map(attach).collect::<Result<Vec<_>>>()?;
        Ok(vec![decided("time to attached", "s", range(&attach_s), 0.5, None, 5)])
    }

    fn bytes(&mut self) -> Result<Vec<Row>> {
        let command = self.bench.workload(&PINGPONG)?;
        let per_switch = |_| {
            let traced = self.bench.traced(&command, true)?;
            Ok(traced.capture_bytes.unwrap_or(f64::NAN) / traced.sample.switches)
        };
        let bytes = (0..3).map(per_switch).collect::<Result<Vec<_>>>()?;
        Ok(vec![decided("capture, bytes per switch", "B", range(&bytes), 10.0, None, 3)])
    }

    /// CPU time per switch at full speed, less that of a tenth of the run, times 50,000: the tracer's work grows with the events.
    fn own(&mut self) -> Result<Vec<Row>> {
        let short = self.bench.workload(&SHORT_PINGPONG)?;
        let short = (0..9).map(|_| self.bench.traced(&short, false)).collect::<Result<Vec<_>>>()?;
        let base_s = median(&short.iter().map(|traced| traced.tracer_cpu_s).collect::<Vec<_>>());
        let base_switches = median(&short.iter().map(|traced| traced.sample.switches).collect::<Vec<_>>());
        self.some_pingpongs()?;
        let share = |traced: &Traced| {
            (traced.tracer_cpu_s - base_s).max(0.0) / (traced.sample.switches - base_switches).max(1.0) * RATE_OF_OWN
        };
        let shares: Vec<f64> = self.pingpong.traced.iter().map(|traced| share(traced) * 100.0).collect();
        let what = "own CPU at 50,000 switches/s, scaled";
        Ok(vec![decided(what, "%", median_interval(&shares), 5.0, None, shares.len())])
    }

    fn rss(&mut self) -> Result<Vec<Row>> {
        const MIB: f64 = 1024.0 * 1024.0;
        self.some_pingpongs()?;
        let of = |path: &str| -> Result<Vec<f64>> {
            self.pingpong.traced.iter().map(|traced| Ok(number(&traced.report, path)? / MIB)).collect()
        };
        let (resident, rings) = (of("/overhead/tracer_rss_bytes")?, of("/overhead/ring_bytes")?);
        // A ring's pages are mapped twice in a row, so that a record never wraps; both mappings count as resident.
        let without: Vec<f64> = resident.iter().zip(&rings).map(|(all, rings)| (all - 2.0 * rings).max(0.0)).collect();
        let runs = without.len();
        Ok(vec![
            decided("resident memory without rings", "MiB", range(&without), 48.0, None, runs),
            decided("rings", "MiB", range(&rings), 16.0, None, runs),
        ])
    }

    fn some_pingpongs(&mut self) -> Result<()> {
        let command = self.bench.workload(&PINGPONG)?;
        self.bench.rounds("pingpong", &command, &mut self.pingpong, FIRST_PAIRS)
    }
}

fn elapsed(samples: &[super::timed::Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.elapsed_s).collect()
}

fn traced_elapsed(traced: &[Traced]) -> Vec<f64> {
    traced.iter().map(|traced| traced.sample.elapsed_s).collect()
}

fn shown(what: &str, unit: &'static str, value: Option<Interval>, runs: usize) -> Row {
    Row { what: what.to_owned(), value, unit, limit: None, control: None, outcome: Outcome::Shown, runs }
}

fn decided(
    what: &str,
    unit: &'static str,
    value: Option<Interval>,
    limit: f64,
    control: Option<Interval>,
    runs: usize,
) -> Row {
    let outcome = match value {
        None => Outcome::CouldNotTell("too few measurements".to_owned()),
        _ if control.is_some_and(|control| !is_steady(control, STEADY)) => {
            Outcome::CouldNotTell("refused: against itself it is off by more than 2 %".to_owned())
        }
        Some(value) => match verdict(value, limit) {
            Verdict::Holds => Outcome::Holds,
            Verdict::Broken => Outcome::Broken,
            Verdict::Open => Outcome::CouldNotTell(format!("the limit lies within the interval of {runs}")),
        },
    };
    Row { what: what.to_owned(), value, unit, limit: Some(limit), control, outcome, runs }
}

/// More pairs narrow the interval, and they may steady a control that was off by chance.
fn wants_more(row: &Row) -> bool {
    matches!(row.outcome, Outcome::CouldNotTell(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(mid: f64) -> Interval {
        Interval { low: mid - 0.05, mid, high: mid + 0.05 }
    }

    #[test]
    fn a_limit_is_held_broken_or_open() {
        let row = |mid| decided("x", "", Some(around(mid)), 1.30, Some(around(1.0)), 10);
        assert_eq!(row(1.15).outcome, Outcome::Holds);
        assert_eq!(row(1.40).outcome, Outcome::Broken);
        assert!(wants_more(&row(1.29)), "{:?}", row(1.29));
    }

    #[test]
    fn a_yardstick_that_is_off_against_itself_is_refused_even_if_it_would_hold() {
        let row = decided("x", "", Some(around(1.15)), 1.30, Some(around(1.03)), 10);
        assert_eq!(row.outcome, Outcome::CouldNotTell("refused: against itself it is off by more than 2 %".to_owned()));
    }

    #[test]
    fn nothing_measured_is_never_held() {
        assert!(wants_more(&decided("x", "", None, 1.30, None, 0)));
    }
}
