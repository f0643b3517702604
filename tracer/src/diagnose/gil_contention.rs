//! `gil-contention`: threads of a Python process wait for the interpreter lock while another one of its threads runs.
//!
//! The lock is told by its address, which PYTHON records give, never by how waits look: a queue that is polled every 5 ms looks the
//! same. So without the family `cpu`, which finds interpreters, or where the lock of a version is not known, this rule says that it
//! could not look. One busy thread alone has no waiters; time that a thread waits after giving the lock up is another lock in
//! the report; and a thread that sleeps nearly all the time, and meets the lock when it looks around, loses nothing that counts.

use tracer_common::syscall::is_epoll;

use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, named, parties};
use crate::model::critical_path::{Explained, PathWait};
use crate::model::locks::PYTHON_LOCK;
use crate::model::report::{Evidence, Finding, FunctionTime, Futex, Python, Report, Subject, Thread, Wait, Waiter};
use crate::model::units::{count, duration, percent};

/// See the file's head.
pub struct GilContention;

/// The lock's address is known, and what its holder did during most of the waits was seen.
const HOLDER_SEEN: f64 = 0.9;
/// Who held it is known from who gave it up last.
const HOLDER_INFERRED: f64 = 0.75;
/// From this share of the waits on, what was done meanwhile tells who held the lock.
const MOST_WAITS: f64 = 0.5;
/// A loss under this share of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;
/// A thread that sleeps or polls for this share of its time, ended by no thread, has nothing to do.
const IDLE_SHARE: f64 = 0.75;
const MAX_VICTIMS: usize = 8;
/// Victims whose seconds are evidence.
const MAX_VICTIMS_MEASURED: usize = 4;

impl Rule for GilContention {
    fn class(&self) -> &'static str {
        "gil-contention"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(locks) = &report.locks else {
            return Outcome::CouldNotRun("the family sched did not run".to_owned());
        };
        if report.stacks.is_none() {
            return Outcome::CouldNotRun("the family cpu did not run, which finds the interpreters".to_owned());
        }
        let Some(python) = &report.python else {
            return Outcome::Silent("no process was seen to run CPython".to_owned());
        };
        if python.processes.iter().all(|process| process.lock.is_none()) {
            return Outcome::CouldNotRun(unknown_locks(python));
        }
        let waited = locks.futexes.iter().enumerate().filter(|(_, futex)| is_interpreter_lock(futex));
        let claims: Vec<Claim> = waited.filter_map(|(index, futex)| claim(report, index, futex)).collect();
        if claims.is_empty() {
            let processes = count(python.processes.len() as u64, "Python process");
            return Outcome::Silent(format!(
                "in {processes} no thread waited for the interpreter lock for {} of the time",
                percent(LEAST_SHARE)
            ));
        }
        Outcome::Claims(claims)
    }
}

fn is_interpreter_lock(futex: &Futex) -> bool {
    futex.kind.as_deref() == Some(PYTHON_LOCK)
}

fn unknown_locks(python: &Python) -> String {
    let mut versions: Vec<&str> = python.processes.iter().map(|process| process.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    format!("where CPython {} keeps its interpreter lock is not known", versions.join(", "))
}

/// What is known of the wait and of who held the lock.
struct Case<'a> {
    report: &'a Report,
    index: usize,
    futex: &'a Futex,
    waiter: &'a Waiter,
    on_path: Option<(usize, &'a PathWait)>,
    holder: Option<Holder<'a>>,
}

/// The thread that kept the lock most of the time.
struct Holder<'a> {
    tid: u32,
    name: Option<&'a String>,
    /// What it did meanwhile, and which row of the explanation says so.
    did: Option<(usize, &'a Explained)>,
    /// In this function.
    function: Option<&'a FunctionTime>,
}

fn claim(report: &Report, index: usize, futex: &Futex) -> Option<Claim> {
    let waiter = futex.waiters.first()?;
    let wall_s = report.window.duration_s;
    let on_path = parties::much_on_path(report, futex);
    let lost_s = on_path.map_or(waiter.total_s, |(_, wait)| wait.s);
    if lost_s < LEAST_SHARE * wall_s {
        return None;
    }
    let case = Case { report, index, futex, waiter, on_path, holder: holder(futex) };
    let explained = case.holder.as_ref().map_or(0.0, |holder| explained(futex, holder.tid));
    let own_confidence = if explained >= MOST_WAITS { HOLDER_SEEN } else { HOLDER_INFERRED };
    let finding = Finding {
        class: GilContention.class().to_owned(),
        rank: 0,
        severity: severity(lost_s, wall_s),
        confidence: confidence(report, own_confidence),
        summary: case.summary(),
        lost_s: Some(lost_s),
        share_of_wall: on_path.map(|(_, wait)| wait.share),
        speedup_bound: speedup_bound(lost_s, wall_s),
        culprit: Some(case.culprit()),
        victims: futex.waiters.iter().filter(|waiter| case.is_victim(waiter)).take(MAX_VICTIMS)
            .map(|waiter| parties::waiter(report, futex, waiter)).collect(),
        evidence: case.evidence(),
        hypothesis: case.hypothesis(),
        fix: "Move that computing to another process (multiprocessing, a subprocess), or into native code that releases the lock; let \
              threads that answer requests have less of it to wait for (sys.setswitchinterval), or use a build of Python without the \
              lock."
            .to_owned(),
        experiment: format!(
            "Run it without the work of {}, or with that work in a process of its own: the waits for this lock must go, and the wall \
             time may fall by up to {}.",
            case.holder.as_ref().map_or("the other threads".to_owned(), Holder::words),
            duration(lost_s)
        ),
        consequences: Vec::new(),
    };
    let reported = is_reported(lost_s, wall_s, futex.waits, futex.max_s) && !case.is_idle();
    Some(Claim { finding, reported })
}

/// Who kept the lock while the longest waiter wanted it: who did most meanwhile; else who ended most waits.
fn holder(futex: &Futex) -> Option<Holder<'_>> {
    let did = futex.explanation.as_ref().and_then(|explanation| {
        // Standing ready without a CPU says nothing of what the lock was kept for.
        let rows = explanation.did.iter().enumerate();
        rows.filter(|(_, did)| !matches!(did.state.as_str(), "runnable" | "unknown" | "throttled"))
            .max_by(|(_, left), (_, right)| left.s.total_cmp(&right.s))
    });
    if let Some((index, did)) = did {
        let did_it = Some((index, did));
        if let Some(tid) = did.tid {
            return Some(Holder { tid, name: did.thread.as_ref(), did: did_it, function: did.functions.first() });
        }
        if let Some(by) = did.by.first() {
            return Some(Holder { tid: by.tid, name: by.thread.as_ref(), did: did_it, function: by.functions.first() });
        }
    }
    let waker = futex.wakers.iter().find(|waker| waker.pid == Some(futex.pid) && waker.tid.is_some())?;
    Some(Holder { tid: waker.tid?, name: waker.thread.as_ref(), did: None, function: None })
}

/// The share of the longest waiter's time that is explained by what mostly this thread did, or by its having no CPU.
fn explained(futex: &Futex, tid: u32) -> f64 {
    let rows = futex.explanation.iter().flat_map(|explanation| &explanation.did);
    let mostly = |did: &&Explained| did.tid.or(did.by.first().map(|by| by.tid)) == Some(tid);
    rows.filter(mostly).map(|did| did.share).sum()
}

impl Holder<'_> {
    fn words(&self) -> String {
        parties::named("thread", self.name.map(String::as_str), self.tid)
    }

    /// What it did, as far as that is known.
    fn did(&self) -> String {
        let function = self.function.and_then(|function| functions::words(&function.location));
        let place = function.map(|function| format!(" in {function}")).unwrap_or_default();
        let Some((_, did)) = self.did else { return "kept it".to_owned() };
        let object = did.object.as_ref().map(|object| format!(", {object}")).unwrap_or_default();
        match (did.state.as_str(), &did.detail) {
            ("on_cpu", _) => format!("computed{place}"),
            ("timer", _) => format!("slept{place} and kept the lock"),
            (state, Some(call)) if call != state => {
                format!("waited for {state} ({call}{object}){place} and kept the lock")
            }
            (state, _) => format!("waited for {state}{place} and kept the lock"),
        }
    }
}

impl<'a> Case<'a> {
    fn row(&self, tid: u32) -> Option<(usize, &'a Thread)> {
        parties::row(self.report, Some(self.futex.pid), tid)
    }

    /// The holder is to blame and no victim, although it too waits for the lock now and then.
    fn is_victim(&self, waiter: &Waiter) -> bool {
        self.holder.as_ref().is_none_or(|holder| holder.tid != waiter.tid)
    }

    fn culprit(&self) -> Subject {
        let mut culprit = match &self.holder {
            Some(holder) => {
                let process = (Some(self.futex.pid), self.futex.process.as_ref());
                parties::party(self.report, process, (holder.tid, holder.name))
            }
            None => Subject { process: self.futex.process.clone(), pid: Some(self.futex.pid), ..Subject::default() },
        };
        culprit.lock = Some(format!("{PYTHON_LOCK} at {}", self.futex.address));
        if let Some(function) = self.holder.as_ref().and_then(|holder| holder.function) {
            functions::point_at(&mut culprit, &function.location);
        }
        culprit
    }

    /// Whether who waits longest hardly has anything to do.
    fn is_idle(&self) -> bool {
        let Some((_, thread)) = self.row(self.waiter.tid) else { return false };
        let of = |state: &str| thread.states.get(state).copied().unwrap_or(0.0);
        // Which socket ended a wait in epoll is known, but the thread waited for any of them.
        let at_sockets = |wait: &&Wait| wait.state == "socket_inet" && wait.detail.as_deref().is_some_and(is_epoll);
        let polled_s: f64 = thread.waits.iter().filter(at_sockets).map(|wait| wait.total_s).sum();
        of("timer") + of("poll") + polled_s >= IDLE_SHARE * thread.wall_s
    }

    fn summary(&self) -> String {
        let (futex, wall_s) = (self.futex, self.report.window.duration_s);
        let waiter = match self.row(self.waiter.tid) {
            Some((_, thread)) => named(thread),
            None => format!("thread {}", self.waiter.tid),
        };
        let process = match &futex.process {
            Some(process) => format!("{process} ({})", futex.pid),
            None => futex.pid.to_string(),
        };
        let others =
            if futex.threads > 1 { format!(" ({} in all)", count(futex.threads, "thread")) } else { String::new() };
        let waited = duration(self.waiter.total_s);
        let part = match self.on_path {
            Some((_, wait)) => {
                format!(", {} ({} of {}) of the critical path", duration(wait.s), percent(wait.share), duration(wall_s))
            }
            None => format!(" ({} of {})", percent(self.waiter.total_s / wall_s), duration(wall_s)),
        };
        let meanwhile = self.holder.as_ref().map(|holder| format!("; meanwhile {} {}", holder.words(), holder.did()));
        format!(
            "{waiter} of process {process} waited {waited} for Python's interpreter lock{others}{part}{}",
            meanwhile.unwrap_or_default()
        )
    }

    fn hypothesis(&self) -> String {
        let seconds = match (self.on_path, &self.report.critical_path) {
            (Some(_), _) => {
                "The seconds lost are those of the critical path that waits for this lock are the reason of."
            }
            (None, Some(_)) => {
                "The seconds lost are those of the thread that waited longest, an upper bound for its own work: the critical path of \
                 CMD's main thread hardly waits for this lock."
            }
            (None, None) => "The seconds lost are those of the thread that waited longest, an upper bound.",
        };
        let keeps = match self.holder.as_ref().and_then(|holder| holder.did) {
            Some((_, did)) if did.state != "on_cpu" => {
                "Native code waits without giving the lock up, so all Python threads of the process stand still."
            }
            _ => {
                "A thread that computes in Python gives the lock up only when another one has waited for it for 5 ms \
                 (sys.getswitchinterval), so each step of the others that needs the lock takes that much longer."
            }
        };
        let idle = if self.is_idle() {
            " The thread that waited sleeps nearly all of its time, so this hardly delays anything."
        } else {
            ""
        };
        format!("One thread at a time runs Python code. {keeps} {seconds}{idle}")
    }

    fn evidence(&self) -> Vec<Evidence> {
        let (futex, wall_s) = (self.futex, self.report.window.duration_s);
        let at = |field: &str| format!("/locks/futexes/{}/{field}", self.index);
        let mut list = Vec::new();
        if let Some((index, wait)) = self.on_path {
            let source = format!("/critical_path/waits/{index}/s");
            let threshold = Some(("reporting threshold", REPORTED_SHARE * wall_s));
            list.push(evidence("of the critical path, for waits for this lock", wait.s, "s", source, threshold));
        }
        let measured = futex.waiters.iter().enumerate().filter(|(_, waiter)| self.is_victim(waiter));
        for (index, waiter) in measured.take(MAX_VICTIMS_MEASURED) {
            let metric = format!("wait of thread {} for the lock", waiter.tid);
            list.push(evidence(
                &metric,
                waiter.total_s,
                "s",
                at(&format!("waiters/{index}/total_s")),
                Some(("wall time", wall_s)),
            ));
        }
        list.push(evidence("tries for the lock that had to wait", futex.waits as f64, "1", at("waits"), None));
        let Some(holder) = &self.holder else { return list };
        if let Some((index, did)) = holder.did {
            let metric = format!("of the longest waiter's time explained by state {} of the holder", did.state);
            list.push(evidence(&metric, did.s, "s", at(&format!("explanation/did/{index}/s")), None));
        }
        let waker = futex.wakers.iter().enumerate().find(|(_, waker)| waker.tid == Some(holder.tid));
        if let Some((index, waker)) = waker {
            let metric = format!("waits that {} ended by giving the lock up", holder.words());
            list.push(evidence(&metric, waker.count as f64, "1", at(&format!("wakers/{index}/count")), None));
        }
        if let Some((index, thread)) = self.row(holder.tid) {
            let on_cpu_s = thread.states.get("on_cpu").copied().unwrap_or(0.0);
            let source = format!("/threads/{index}/states/on_cpu");
            list.push(evidence("CPU time of the holder", on_cpu_s, "s", source, Some(("wall time", wall_s))));
        }
        list
    }
}
