//! `logging-convoy`: threads wait for a lock under which others write to something slow: a pipe that is read slowly, a terminal, a
//! socket, a log. The lock may be one whose owner its memory does not tell (Python's, stdio's): what counts is what those did who
//! ended the waits. Writing and syncing data under a lock is `user-lock-contention`'s.

use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties};
use crate::model::critical_path::{Explained, Explanation, PathWait};
use crate::model::objects::{Object, ObjectEnd};
use crate::model::report::{Evidence, Finding, Futex, Report, Subject};
use crate::model::units::{count, duration, percent};

/// See the file's head.
pub struct LoggingConvoy;

/// From this part of the waits on the writes explain the lock.
const MOSTLY: f64 = 0.5;
/// The descriptor and the writes were seen.
const WRITES_SEEN: f64 = 0.9;
const MAX_VICTIMS: usize = 8;

const WRITES: [&str; 5] = ["write", "writev", "sendto", "sendmsg", "sendmmsg"];

impl Rule for LoggingConvoy {
    fn class(&self) -> &'static str {
        "logging-convoy"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let Some(locks) = &facts.report.locks else {
            return Outcome::CouldNotRun("the family sched did not run".to_owned());
        };
        let cases = locks.futexes.iter().enumerate().filter_map(|(index, futex)| Case::new(facts.report, index, futex));
        let claims: Vec<Claim> = cases.map(|case| case.claim()).collect();
        if claims.is_empty() {
            return Outcome::Silent(
                "no lock was waited for while others wrote to a pipe, socket, terminal or log".to_owned(),
            );
        }
        Outcome::Claims(claims)
    }
}

/// A lock and the writes under it.
struct Case<'a> {
    report: &'a Report,
    index: usize,
    futex: &'a Futex,
    explanation: &'a Explanation,
    /// The longest writes, and where the explanation has them.
    at: usize,
    write: &'a Explained,
    /// Of the waits, all writes.
    share: f64,
}

impl<'a> Case<'a> {
    fn new(report: &'a Report, index: usize, futex: &'a Futex) -> Option<Self> {
        let explanation = futex.explanation.as_ref()?;
        let writes = || explanation.did.iter().enumerate().filter(|(_, did)| is_log(report, did));
        let (at, write) = writes().next()?;
        let share = writes().map(|(_, did)| did.share).sum();
        let case = Case { report, index, futex, explanation, at, write, share };
        (share >= MOSTLY).then_some(case)
    }

    fn claim(&self) -> Claim {
        let (report, futex) = (self.report, self.futex);
        let wall_s = report.window.duration_s;
        let waiter = futex.waiters.iter().find(|waiter| waiter.tid == self.explanation.of_tid);
        let on_path = parties::much_on_path(report, futex);
        let writes_s = self.writes_on_path().map_or(0.0, |(_, s)| s);
        let lost_s = match &on_path {
            // Writes that nobody waited for at the lock are lost to the same descriptor.
            Some((_, wait)) => wait.s + (writes_s - wait.s * self.share.min(1.0)).max(0.0),
            None => waiter.map_or(0.0, |waiter| waiter.total_s),
        };
        let to = self.to();
        let of = futex.process.as_deref().unwrap_or("?");
        let whom = self.reader().map(|reader| format!("; {} reads it too slowly", end(reader))).unwrap_or_default();
        let finding = Finding {
            class: LoggingConvoy.class().to_owned(),
            rank: 0,
            severity: severity(lost_s, wall_s),
            confidence: confidence(report, WRITES_SEEN),
            summary: format!(
                "{} of process {of} ({}) lost up to {} ({} of {}) in writing to {to}, and in waiting for the lock at {} under which that \
                 is done{whom}",
                count(futex.threads, "thread"),
                futex.pid,
                duration(lost_s),
                percent(lost_s / wall_s),
                duration(wall_s),
                futex.address,
            ),
            lost_s: Some(lost_s),
            share_of_wall: on_path.as_ref().map(|(_, wait)| if wait.s > 0.0 { lost_s * wait.share / wait.s } else { 0.0 }),
            speedup_bound: speedup_bound(lost_s, wall_s),
            culprit: Some(self.culprit()),
            victims: futex.waiters.iter().take(MAX_VICTIMS).map(|waiter| parties::waiter(report, futex, waiter)).collect(),
            evidence: self.evidence(on_path.map(|(index, wait)| (index, wait.s)), wall_s),
            hypothesis: format!(
                "Each message is written under one lock, and the write waits until {to} takes it. Meanwhile every thread that has a \
                 message waits for the lock: for {} of the longest waiter's time others wrote.",
                percent(self.share)
            ),
            fix: "Write from one thread: let the others put messages into a queue (Python: logging.handlers.QueueHandler and \
                  QueueListener), log less, or make the reading side faster (a larger pipe, a file instead of a pipe or terminal)."
                .to_owned(),
            experiment: "Run it once with the messages thrown away (to /dev/null) or at a higher log level: the wait for this lock must \
                         go, and the wall time fall by at most the seconds lost and the writes themselves."
                .to_owned(),
            consequences: vec!["user-lock-contention".to_owned()],
        };
        let reported = is_reported(lost_s, wall_s, futex.waits, futex.max_s);
        Claim { finding, reported }
    }

    /// The writes to the same thing on the critical path, with what explains them, and where the report has them.
    fn writes_on_path(&self) -> Option<(usize, f64)> {
        let write = self.write;
        let same = |wait: &PathWait| {
            wait.object.is_some()
                && (&wait.state, &wait.detail, &wait.object) == (&write.state, &write.detail, &write.object)
        };
        let waits = &self.report.critical_path.as_ref()?.waits;
        waits.iter().enumerate().find(|(_, wait)| same(wait)).map(|(index, wait)| (index, wait.s))
    }

    /// What is written to, in words.
    fn to(&self) -> String {
        let write = self.write;
        let named = write.path.clone().or_else(|| write.ends.as_ref().map(|ends| format!("the {ends}")));
        named.or_else(|| write.object.clone()).unwrap_or_else(|| format!("a {}", write.state))
    }

    fn object(&self) -> Option<&'a Object> {
        let objects = self.report.objects.as_ref()?;
        objects.list.iter().find(|object| Some(&object.object) == self.write.object.as_ref())
    }

    fn reader(&self) -> Option<&'a ObjectEnd> {
        self.object()?.readers.first()
    }

    fn culprit(&self) -> Subject {
        // Who reads too slowly, else who writes.
        let mut culprit = match (self.reader(), self.write.tid) {
            (Some(reader), _) => {
                let process = (reader.pid, reader.process.as_ref());
                parties::party(self.report, process, (reader.tid, reader.thread.as_ref()))
            }
            (None, Some(tid)) => {
                let process = (Some(self.futex.pid), self.futex.process.as_ref());
                parties::party(self.report, process, (tid, self.write.thread.as_ref()))
            }
            (None, None) => {
                Subject { process: self.futex.process.clone(), pid: Some(self.futex.pid), ..Subject::default() }
            }
        };
        culprit.lock = Some(format!("{} at {}", self.futex.kind.as_deref().unwrap_or("lock"), self.futex.address));
        culprit.path = self.write.path.clone();
        culprit.peer = self.write.ends.clone();
        if self.reader().is_none()
            && let Some(function) = self.write.functions.first()
        {
            functions::point_at(&mut culprit, &function.location);
        }
        culprit
    }

    fn evidence(&self, on_path: Option<(usize, f64)>, wall_s: f64) -> Vec<Evidence> {
        let at = |field: &str| format!("/locks/futexes/{}/{field}", self.index);
        let threshold = Some(("reporting threshold", REPORTED_SHARE * wall_s));
        let mut list = vec![
            evidence("wait of all threads for the lock", self.futex.total_s, "s", at("total_s"), threshold),
            evidence("waits", self.futex.waits as f64, "1", at("waits"), None),
            evidence(
                "of the longest waiter's time explained by a write under the lock",
                self.write.s,
                "s",
                at(&format!("explanation/did/{}/s", self.at)),
                Some(("its waits that others ended", self.explanation.total_s)),
            ),
        ];
        list.extend(on_path.map(|(index, s)| {
            let source = format!("/critical_path/waits/{index}/s");
            evidence("of the critical path, for waits for this lock", s, "s", source, Some(("wall time", wall_s)))
        }));
        list.extend(self.writes_on_path().map(|(index, s)| {
            let source = format!("/critical_path/waits/{index}/s");
            evidence("of the critical path, for the writes", s, "s", source, Some(("wall time", wall_s)))
        }));
        list
    }
}

/// Whether this is a write to something that takes messages.
fn is_log(report: &Report, did: &Explained) -> bool {
    if !did.detail.as_deref().is_some_and(|call| WRITES.contains(&call)) {
        return false;
    }
    let is_device =
        |object: &Object| Some(&object.object) == did.object.as_ref() && is_terminal(object.path.as_deref());
    match did.state.as_str() {
        "pipe" | "socket_unix" => true,
        "file" => did.path.as_deref().is_some_and(|path| path.contains(".log")),
        "other" => {
            is_terminal(did.path.as_deref()) || report.objects.iter().flat_map(|objects| &objects.list).any(is_device)
        }
        _ => false,
    }
}

fn is_terminal(path: Option<&str>) -> bool {
    path.is_some_and(|path| path.starts_with("/dev/pts/") || path.starts_with("/dev/tty") || path == "/dev/console")
}

fn end(end: &ObjectEnd) -> String {
    match &end.thread {
        Some(name) => format!("{name} ({})", end.tid),
        None => format!("thread {}", end.tid),
    }
}
