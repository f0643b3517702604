//! Time that a cause takes which shows in two ways: as waits, and as computing in a phase. On the critical path where there is one, else
//! of the thread that lost most. Used by the rules on memory.

use super::evidence;
use super::threads;
use super::thresholds::bound_s;
use crate::model::report::{Evidence, Report, Thread};
use crate::model::stacks::Phase;

/// A wait, wherever the report tells of one.
pub(super) struct Waiting<'a> {
    /// See the thread table.
    pub state: &'a str,
    /// The system call, or what tells it further.
    pub detail: Option<&'a str>,
    /// What for.
    pub object: Option<&'a str>,
    /// Path of that file.
    pub path: Option<&'a str>,
    /// The process that waited; none: not known, or several of one name.
    pub pid: Option<u32>,
    /// It is a row of a thread's, which has one for all things that it has no row of their own for.
    pub of_thread: bool,
}

/// What was lost.
#[derive(Default)]
pub(super) struct Lost {
    /// How long.
    pub s: f64,
    /// Of it waiting.
    pub waited_s: f64,
    /// Of it computing, as samples tell, and how many those are.
    sampled_s: f64,
    samples: u64,
    /// For how long was looked.
    wall_s: f64,
    /// In how many pieces, samples included.
    pub pieces: u64,
    /// The longest wait; 0: not told.
    pub longest_s: f64,
    /// Share of the path's wall time, where it is of the path.
    pub share: Option<f64>,
    /// The thread with most of it: process and thread.
    pub most: Option<(Option<u32>, u32)>,
    /// Each part: what it is, and where the report holds it.
    parts: Vec<(&'static str, f64, String)>,
}

impl Lost {
    /// What is measured as a whole: how long, in how many pieces, the longest of them, and the share of the path.
    pub fn of(s: f64, pieces: u64, longest_s: f64, share: Option<f64>, wall_s: f64) -> Self {
        Lost { s, pieces, longest_s, share, wall_s, ..Lost::default() }
    }

    fn add(&mut self, what: &'static str, s: f64, pieces: u64, source: String) {
        self.s += s;
        self.pieces += pieces;
        self.parts.push((what, s, source));
    }

    fn add_samples(&mut self, what: &'static str, phase: &Phase, source: String) {
        self.add(what, phase.s, phase.samples, source);
        self.sampled_s += phase.s;
        self.samples += phase.samples;
    }

    /// What was lost at most: an estimate from samples may be too small. Not more than the run.
    pub fn at_most_s(&self) -> f64 {
        bound_s(self.s, (self.sampled_s, self.samples), self.wall_s)
    }

    /// The kernel's own account of a thread instead of what samples say.
    pub fn replace(&mut self, s: f64, pieces: u64) {
        (self.s, self.pieces, self.sampled_s, self.samples) = (s, pieces, 0.0, 0);
    }

    /// Each part as evidence, largest first.
    pub fn evidence(&self) -> Vec<Evidence> {
        let mut parts: Vec<&(&str, f64, String)> = self.parts.iter().collect();
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        parts
            .into_iter()
            .take(MAX_EVIDENCE)
            .map(|(what, s, source)| evidence(what, *s, "s", source.clone(), None))
            .collect()
    }

    /// Says where these seconds are from.
    pub fn whose(&self) -> &'static str {
        if self.share.is_some() {
            "The seconds lost are those of the critical path; computing in the kernel is estimated from samples, and counts at the upper end \
             of what they can mean."
        } else {
            "The seconds lost are those of the thread that lost most, an upper bound; computing in the kernel is estimated from samples, and \
             counts at the upper end of what they can mean."
        }
    }
}

/// Parts that a finding cites.
const MAX_EVIDENCE: usize = 6;

/// Sums up waits and phases that these conditions pick; of a phase they see its name and its process.
pub(super) fn lost(
    report: &Report,
    waits: impl Fn(&Waiting<'_>) -> bool,
    phases: impl Fn(&str, Option<u32>) -> bool,
) -> Lost {
    let found =
        if report.critical_path.is_some() { on_path(report, waits, phases) } else { of_threads(report, waits, phases) };
    Lost { wall_s: report.window.duration_s, ..found }
}

fn on_path(report: &Report, waits: impl Fn(&Waiting<'_>) -> bool, phases: impl Fn(&str, Option<u32>) -> bool) -> Lost {
    let mut lost = Lost::default();
    let Some(path) = &report.critical_path else { return lost };
    // Waits for objects have rows of their own, of one object each, where parts of the path may be of several. So have those in page
    // faults, which are for a file or for none. Others have none.
    let has_row = |state: &str, object: Option<&String>| object.is_some() || state == "fault";
    let parts = path.parts.iter().enumerate();
    // Those for many files of a folder have one for these.
    for (index, part) in parts.filter(|(_, part)| part.path.is_none() && !has_row(&part.state, part.object.as_ref())) {
        let waiting = Waiting {
            state: &part.state,
            detail: part.detail.as_deref(),
            object: None,
            path: part.path.as_deref(),
            pid: part.pid,
            of_thread: false,
        };
        if waits(&waiting) {
            lost.add("waiting on the critical path", part.s, part.pieces, format!("/critical_path/parts/{index}/s"));
            lost.waited_s += part.s;
        }
    }
    let waited = path.waits.iter().enumerate();
    for (index, wait) in waited.filter(|(_, wait)| has_row(&wait.state, wait.object.as_ref())) {
        let waiting = Waiting {
            state: &wait.state,
            detail: wait.detail.as_deref(),
            object: wait.object.as_deref(),
            path: wait.path.as_deref(),
            pid: wait.pid,
            of_thread: false,
        };
        if !waits(&waiting) {
            continue;
        }
        lost.add("waiting on the critical path", wait.s, wait.count, format!("/critical_path/waits/{index}/s"));
        lost.waited_s += wait.s;
        if wait.queued_s > 0.0 {
            // Without these waits threads would not have left their CPU, nor queued for it.
            let source = format!("/critical_path/waits/{index}/queued_s");
            lost.add("waiting for a CPU after these waits", wait.queued_s, 0, source);
        }
    }
    let waiting = of_threads(report, &waits, |_, _| false);
    (lost.most, lost.longest_s) = (waiting.most.filter(|_| lost.waited_s > 0.0), waiting.longest_s);
    let mut most = lost.waited_s;
    for (index, phase) in path.phases.iter().enumerate() {
        if phases(&phase.what.phase, phase.whose.pid) {
            let source = format!("/critical_path/phases/{index}/s");
            lost.add_samples("computing in the kernel on the critical path, by samples", &phase.what, source);
            if let Some(tid) = phase.whose.tid.filter(|_| phase.what.s > most) {
                (most, lost.most) = (phase.what.s, Some((phase.whose.pid, tid)));
            }
        }
    }
    lost.share = Some(if path.total_s > 0.0 { lost.s / path.total_s } else { 0.0 });
    lost
}

/// The same of the thread that lost most, whether the path waited for it or not.
pub(super) fn lost_by_a_thread(
    report: &Report,
    waits: impl Fn(&Waiting<'_>) -> bool,
    phases: impl Fn(&str, Option<u32>) -> bool,
) -> Lost {
    Lost { wall_s: report.window.duration_s, ..of_threads(report, waits, phases) }
}

fn of_threads(
    report: &Report,
    waits: impl Fn(&Waiting<'_>) -> bool,
    phases: impl Fn(&str, Option<u32>) -> bool,
) -> Lost {
    let of = |(index, thread): (usize, &Thread)| {
        let mut lost = Lost { most: Some((thread.pid, thread.tid)), ..Lost::default() };
        for (number, wait) in thread.waits.iter().enumerate() {
            let waiting = Waiting {
                state: &wait.state,
                detail: wait.detail.as_deref(),
                object: wait.object.as_deref(),
                path: wait.path.as_deref(),
                pid: thread.pid,
                of_thread: true,
            };
            if waits(&waiting) {
                lost.add(
                    "waiting of the thread",
                    wait.total_s,
                    wait.count,
                    format!("/threads/{index}/waits/{number}/total_s"),
                );
                lost.waited_s += wait.total_s;
                lost.longest_s = lost.longest_s.max(wait.max_s);
            }
        }
        let own = |(_, phase): &(usize, &Phase)| phases(&phase.phase, thread.pid);
        for (number, phase) in thread.phases.iter().enumerate().filter(own) {
            let source = format!("/threads/{index}/phases/{number}/s");
            lost.add_samples("computing of the thread in the kernel, by samples", phase, source);
        }
        lost
    };
    threads(report).map(of).filter(|lost| lost.s > 0.0).reduce(|a, b| if b.s > a.s { b } else { a }).unwrap_or_default()
}
