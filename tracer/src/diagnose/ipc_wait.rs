//! `ipc-wait`: the run takes as long as copying data from one process to another does, through a pipe or a unix socket: the kernel copies
//! it in and out in small pieces, both ends wait for each other in turn, and Python's multiprocessing pickles it besides.
//!
//! What counts is time on the critical path that went into this, at either end, by samples of the functions; waits in which each end
//! waited for the other; and the time in which one end had the CPU that the other one was ready for. That a producer works before it sends is `input-starvation`'s. Small messages are a conversation, not
//! a transport: what a call moves in the mean tells them, or, where nobody counts the bytes, whether the writer had to wait for room.

use std::collections::BTreeSet;

use super::thresholds::{REPORTED_SHARE, bound_s, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, evidence, functions, parties};
use crate::model::critical_path::{CriticalPath, PathPart, PathPhase};
use crate::model::objects::{Object, ObjectEnd};
use crate::model::report::{Evidence, Finding, Report, Subject};
use crate::model::stacks::{IPC_COPY, IPC_PACK};
use crate::model::units::{bytes, duration, grouped, percent};

/// See the file's head.
pub struct IpcWait;

/// A smaller part of the wall time is not worth a word.
const LEAST_SHARE: f64 = 0.01;
/// A call that moves less in the mean, a page, is part of a conversation.
const LEAST_BYTES_PER_CALL: f64 = 4096.0;
/// Who waited less often for room was not held up by it.
const LEAST_WAITS_FOR_ROOM: u64 = 20;
/// Findings that say of time in queues for a CPU what it went to.
const QUEUEING: [&str; 4] = ["low-priority", "cpu-oversubscription", "run-queue-wait", "cpu-quota-throttling"];
/// The functions were seen, and the bytes counted.
const COUNTED: f64 = 0.9;
/// The functions were seen.
const NOT_COUNTED: f64 = 0.75;

impl Rule for IpcWait {
    fn class(&self) -> &'static str {
        "ipc-wait"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        let Some(path) = &report.critical_path else {
            return Outcome::CouldNotRun("it is about a critical path, and this recording has none".to_owned());
        };
        if report.stacks.is_none() {
            return Outcome::CouldNotRun("the family cpu did not run: what was copied is told by functions".to_owned());
        }
        let moving = Moving::of(facts, path);
        if moving.lost_s() < LEAST_SHARE * report.window.duration_s {
            return Outcome::Silent("hardly any time went into copying data through pipes and unix sockets".to_owned());
        }
        match moving.link {
            None => Outcome::Silent(
                "data was copied through pipes or unix sockets, but nobody was seen to wait for one".to_owned(),
            ),
            Some(link) if !link.is_bulk => {
                Outcome::Silent(format!("what went through the {} were small messages", link.words()))
            }
            Some(link) => Outcome::Claims(vec![moving.claim(report, link)]),
        }
    }
}

/// The pipe or socket through which most went.
#[derive(Clone, Copy)]
struct Link<'a> {
    object: &'a Object,
    index: usize,
    is_bulk: bool,
}

impl<'a> Link<'a> {
    /// The one at whose ends most of this was done; of several that for which was waited most often.
    fn of(report: &'a Report, phases: &[(usize, &PathPhase)]) -> Option<Self> {
        let objects = report.objects.as_ref()?;
        let moved_s = |object: &Object| {
            let ends = tids(object);
            let own = phases.iter().filter(|(_, phase)| phase.whose.tid.is_some_and(|tid| ends.contains(&tid)));
            own.map(|(_, phase)| phase.what.s).sum::<f64>()
        };
        let all = objects.list.iter().enumerate().filter(|(_, object)| is_stream(object));
        let ranked = all.map(|(index, object)| (moved_s(object), index, object)).filter(|(moved_s, ..)| *moved_s > 0.0);
        let (_, index, object) = ranked.reduce(|a, b| if (b.0, b.2.waits) > (a.0, a.2.waits) { b } else { a })?;
        // The two ends of a socket are two objects.
        let same = objects.list.iter().filter(|other| is_stream(other) && tids(other) == tids(object));
        let for_room = same.flat_map(|other| &other.writers).map(|end| end.waits).sum::<u64>();
        let is_bulk = match &object.bytes {
            Some(bytes) => {
                [bytes.per_read, bytes.per_write].into_iter().flatten().any(|mean| mean >= LEAST_BYTES_PER_CALL)
            }
            None => for_room >= LEAST_WAITS_FOR_ROOM,
        };
        Some(Link { object, index, is_bulk })
    }

    fn words(&self) -> String {
        self.object.ends.clone().unwrap_or_else(|| self.object.object.clone())
    }

    /// How much went through it, in words.
    fn rate(&self) -> String {
        match &self.object.bytes {
            Some(through) if through.ends_agree => format!("{} a second", bytes(through.per_s_at_most as u64)),
            Some(through) => format!("at most {} a second", bytes(through.per_s_at_most as u64)),
            None => "how much is not known".to_owned(),
        }
    }
}

/// The threads at both ends.
fn tids(object: &Object) -> BTreeSet<u32> {
    object.readers.iter().chain(&object.writers).map(|end| end.tid).collect()
}

fn is_stream(object: &Object) -> bool {
    let other = object.kind.as_deref().is_some_and(|kind| kind == "tcp" || kind == "udp");
    object.object.starts_with("pipe:[") || object.object.starts_with("socket:[") && !other
}

fn is_ipc(phase: &PathPhase) -> bool {
    [IPC_COPY, IPC_PACK].contains(&phase.what.phase.as_str())
}

/// What of the path went into moving data.
struct Moving<'a> {
    path: &'a CriticalPath,
    /// Parts with such time, and where the path has them.
    parts: Vec<(usize, &'a PathPart, f64)>,
    /// The same by thread and kind.
    phases: Vec<(usize, &'a PathPhase)>,
    link: Option<Link<'a>>,
    /// Waits for the link in which its ends waited for each other.
    mutual: Vec<(usize, &'a PathPart)>,
    /// Threads at its ends that queued for a CPU which another one of them had.
    turns: Vec<Turn<'a>>,
}

/// A thread of one end that queued while the other end had its CPU: they take turns.
struct Turn<'a> {
    part: &'a PathPart,
    index: usize,
    /// For how long it was behind the other end, and where the report has that.
    behind_s: f64,
    source: String,
    /// For how long the CPU was idle meanwhile: waking up takes time.
    idle_s: f64,
    /// All its queueing, on the path or not.
    all_s: f64,
}

impl<'a> Turn<'a> {
    fn of(facts: &Facts<'_>, link: Link<'_>, (index, part): (usize, &'a PathPart)) -> Option<Self> {
        if facts.earlier.iter().any(|finding| QUEUEING.contains(&finding.class.as_str())) {
            return None;
        }
        let ends = tids(link.object);
        let tid = part.tid.filter(|tid| part.state == "runnable" && ends.contains(tid))?;
        let (row, thread) = parties::row(facts.report, part.pid, tid)?;
        let queued = thread.queued.as_ref()?;
        let mut behind = queued.behind.iter().enumerate();
        let (at, other) = behind.find(|(_, behind)| behind.tid != tid && ends.contains(&behind.tid))?;
        let all_s = queued.siblings_s + queued.others_s + queued.idle_s + queued.unknown_s;
        let source = format!("/threads/{row}/queued/behind/{at}/total_s");
        (all_s > 0.0).then_some(Turn { part, index, behind_s: other.total_s, source, idle_s: queued.idle_s, all_s })
    }

    fn share(&self) -> f64 {
        ((self.behind_s + self.idle_s) / self.all_s).min(1.0)
    }
}

impl<'a> Moving<'a> {
    fn of(facts: &Facts<'a>, path: &'a CriticalPath) -> Self {
        let all = || path.parts.iter().enumerate();
        let phases: Vec<(usize, &PathPhase)> =
            path.phases.iter().enumerate().filter(|(_, phase)| is_ipc(phase)).collect();
        let link = Link::of(facts.report, &phases);
        let of_link =
            |part: &PathPart| part.object.is_some() && part.object.as_ref() == link.map(|link| &link.object.object);
        Moving {
            path,
            parts: all().filter_map(|(index, part)| Some((index, part, part.ipc_s?))).collect(),
            phases,
            link,
            mutual: all().filter(|(_, part)| part.cause.as_deref() == Some("mutual") && of_link(part)).collect(),
            turns: link.map(|link| all().filter_map(|part| Turn::of(facts, link, part)).collect()).unwrap_or_default(),
        }
    }

    /// What `lost_s` can be at most: copying is known from samples.
    fn at_most_s(&self, wall_s: f64) -> f64 {
        let samples = self.phases.iter().map(|(_, phase)| phase.what.samples).sum();
        bound_s(self.lost_s(), (self.copied_s(), samples), wall_s)
    }

    fn copied_s(&self) -> f64 {
        self.parts.iter().map(|(.., ipc_s)| ipc_s).sum()
    }

    fn lost_s(&self) -> f64 {
        let waited: f64 = self.mutual.iter().map(|(_, part)| part.s).sum();
        let queued: f64 = self.turns.iter().map(|turn| turn.part.s * turn.share()).sum();
        self.copied_s() + waited + queued
    }

    fn claim(&self, report: &Report, link: Link<'_>) -> Claim {
        let wall_s = report.window.duration_s;
        let (lost_s, at_most_s) = (self.lost_s(), self.at_most_s(wall_s));
        let own = if link.object.bytes.is_some() { COUNTED } else { NOT_COUNTED };
        let of = &self.path.of;
        let finding = Finding {
            class: IpcWait.class().to_owned(),
            rank: 0,
            severity: severity(lost_s, wall_s),
            confidence: confidence(report, own),
            summary: format!(
                "{} lost {} of {} ({}) to data that was copied through the {}, {}{}",
                parties::named("thread", of.thread.as_deref(), of.tid),
                duration(lost_s),
                duration(wall_s),
                percent(lost_s / wall_s),
                link.words(),
                link.rate(),
                self.mostly(lost_s),
            ),
            lost_s: Some(at_most_s),
            share_of_wall: (self.path.total_s > 0.0).then(|| lost_s / self.path.total_s),
            speedup_bound: speedup_bound(at_most_s, wall_s),
            culprit: self.phases.first().map(|(_, most)| culprit(report, most, link)),
            victims: vec![parties::party(report, (Some(of.pid), of.process.as_ref()), (of.tid, of.thread.as_ref()))],
            evidence: self.evidence(link, wall_s),
            hypothesis: format!(
                "All data is copied twice on its way, into the {kind} and out of it, in pieces of at most what it holds, for which one \
                 end waits for the other; what is pickled is copied and made anew besides. {}",
                self.room(link),
                kind = kind(link.object),
            ),
            fix: fix(link.object),
            experiment: format!(
                "Send the first message as it is and then only a number for each, and let the receiver use the first one again: the wall \
                 time must fall, by at most {}. If a larger buffer alone makes it fall, it is the waiting for each other, else the copying.",
                duration(at_most_s)
            ),
            consequences: Vec::new(),
        };
        Claim { finding, reported: is_reported(lost_s, wall_s, link.object.waits, 0.0) }
    }

    /// Who did most of it, where, in words.
    fn mostly(&self, lost_s: f64) -> String {
        let Some((_, most)) = self.phases.first() else { return String::new() };
        let function = most.what.functions.first().and_then(|time| functions::words(&time.location));
        let place = function.map(|function| format!(" in {function}")).unwrap_or_default();
        format!("; {} of it {}{place}", percent(most.what.s / lost_s), did(most))
    }

    /// How often its ends waited for each other.
    fn room(&self, link: Link<'_>) -> String {
        let sum = |ends: &[ObjectEnd]| ends.iter().map(|end| end.waits).sum::<u64>();
        let (empty, full) = (sum(&link.object.readers), sum(&link.object.writers));
        format!(
            "Here it was waited for {} times because it was empty and {} times because it was full.",
            grouped(empty),
            grouped(full)
        )
    }

    fn evidence(&self, link: Link<'_>, wall_s: f64) -> Vec<Evidence> {
        let mut list = Vec::new();
        let threshold = Some(("reporting threshold of all", REPORTED_SHARE * wall_s));
        for (index, part, ipc_s) in self.parts.iter().take(4) {
            let metric = format!("of the critical path, {} moving data", who(part));
            let source = format!("/critical_path/parts/{index}/ipc_s");
            list.push(evidence(&metric, *ipc_s, "s", source, threshold.filter(|_| list.is_empty())));
        }
        for (index, part) in self.mutual.iter().take(2) {
            let metric = format!("of it, {} waiting for who waits for it", who(part));
            list.push(evidence(&metric, part.s, "s", format!("/critical_path/parts/{index}/s"), None));
        }
        for turn in self.turns.iter().filter(|turn| turn.share() > 0.0).take(2) {
            let source = format!("/critical_path/parts/{}/s", turn.index);
            list.push(evidence(
                &format!("of it, {} queueing for a CPU", who(turn.part)),
                turn.part.s,
                "s",
                source,
                None,
            ));
            let all = Some(("all its queueing", turn.all_s));
            list.push(evidence(
                "of its queueing, while the other end had that CPU",
                turn.behind_s,
                "s",
                turn.source.clone(),
                all,
            ));
        }
        for (index, phase) in self.phases.iter().take(4) {
            let function = phase.what.functions.first().and_then(|time| functions::words(&time.location));
            let place = function.map(|function| format!(", mostly in {function}")).unwrap_or_default();
            let metric = format!("{}{place}", did(phase));
            list.push(evidence(&metric, phase.what.s, "s", format!("/critical_path/phases/{index}/s"), None));
        }
        let at = |field: &str| format!("/objects/list/{}/{field}", link.index);
        if let Some(through) = &link.object.bytes {
            let metric = if through.ends_agree { "moved through it" } else { "moved through it, at most" };
            list.push(evidence(metric, through.at_most as f64, "B", at("bytes/at_most"), None));
            list.push(evidence("in a second", through.per_s_at_most, "B/s", at("bytes/per_s_at_most"), None));
        }
        let ends = [
            ("readers", "waited to read from it", &link.object.readers),
            ("writers", "waited for room in it", &link.object.writers),
        ];
        for (field, what, end) in ends {
            if let Some(first) = end.first().filter(|end| end.waits > 0) {
                let name = parties::named("thread", first.thread.as_deref(), first.tid);
                let source = at(&format!("{field}/0/total_s"));
                list.push(evidence(
                    &format!("{name} {what}, {} times", grouped(first.waits)),
                    first.total_s,
                    "s",
                    source,
                    None,
                ));
            }
        }
        list
    }
}

/// The thread that did most of it, where.
fn culprit(report: &Report, most: &PathPhase, link: Link<'_>) -> Subject {
    let whose = &most.whose;
    let mut culprit = match whose.tid {
        Some(tid) => parties::party(report, (whose.pid, whose.process.as_ref()), (tid, whose.thread.as_ref())),
        None => Subject {
            process: whose.process.clone(),
            pid: whose.pid,
            thread: whose.thread.clone(),
            ..Subject::default()
        },
    };
    if let Some(function) = most.what.functions.first() {
        functions::point_at(&mut culprit, &function.location);
    }
    culprit.peer = Some(link.words());
    culprit
}

fn who(part: &PathPart) -> String {
    let name = part.thread.as_deref().unwrap_or("?");
    match part.tid {
        Some(tid) => format!("thread {name} ({tid})"),
        None => format!("threads named {name}"),
    }
}

fn did(phase: &PathPhase) -> String {
    let whose = &phase.whose;
    let name = parties::named("thread", whose.thread.as_deref(), whose.tid.unwrap_or(0));
    if phase.what.phase == IPC_COPY {
        format!("{name} copied in the kernel")
    } else {
        format!("{name} pickled or put together")
    }
}

fn kind(object: &Object) -> &'static str {
    if object.object.starts_with("pipe:[") { "pipe" } else { "socket" }
}

fn fix(object: &Object) -> String {
    let buffer = match kind(object) {
        "pipe" => "make the pipe larger (fcntl F_SETPIPE_SZ, up to /proc/sys/fs/pipe-max-size)",
        _ => "make the socket's buffer larger (SO_SNDBUF)",
    };
    format!(
        "Do not copy it: keep the data in memory that both processes map, and send only where it lies (Python: \
         multiprocessing.shared_memory; PyTorch: share_memory_() or the sharing strategy file_system). Where it must be copied, send fewer \
         objects, without pickling (send_bytes, or protocol 5 with buffers), and {buffer}."
    )
}
