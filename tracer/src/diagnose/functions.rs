//! What rules say of functions, from the stacks in the report. Silent where the family `cpu` did not run.

use crate::model::report::{FunctionTime, Report, Row, Subject, Thread, Wait};
use crate::model::stacks::Location;

/// A function with its place, in words; none where nothing named it or there is no stack.
pub(super) fn words(location: &Location) -> Option<String> {
    let function = location.function.as_ref()?;
    Some(match (&location.file, location.line) {
        (Some(file), Some(line)) => format!("{function} ({file}:{line})"),
        (Some(file), None) => format!("{function} ({file})"),
        (None, _) => function.clone(),
    })
}

/// Makes a finding's subject name a function.
pub(super) fn point_at(subject: &mut Subject, location: &Location) {
    subject.function = location.function.clone();
    subject.file = location.file.clone();
    subject.line = location.line;
}

/// What a thread did most, waiting for one lock left out.
pub(super) struct Doing<'a> {
    /// The function and its time.
    pub time: &'a FunctionTime,
    /// It waited there; false: it computed.
    pub waited: bool,
    /// Where the report holds the time.
    pub source: String,
}

/// What this thread did most over the run, but for these waits: while it waits for a lock it does not hold it.
pub(super) fn doing<'a>(report: &'a Report, pid: u32, tid: u32, but_for: impl Fn(&Wait) -> bool) -> Option<Doing<'a>> {
    let (index, thread) = report.threads.iter().enumerate().find_map(|(index, row)| match row {
        Row::Thread(thread) if thread.tid == tid && thread.pid == Some(pid) => Some((index, &**thread)),
        _ => None,
    })?;
    let computed = thread.functions.first().map(|time| Doing {
        time,
        waited: false,
        source: format!("/threads/{index}/functions/0/total_s"),
    });
    let waited = waited_most(thread, but_for).map(|(wait, time)| Doing {
        time,
        waited: true,
        source: format!("/threads/{index}/waits/{wait}/places/0/total_s"),
    });
    [computed, waited].into_iter().flatten().reduce(|a, b| if b.time.total_s > a.time.total_s { b } else { a })
}

fn waited_most(thread: &Thread, but_for: impl Fn(&Wait) -> bool) -> Option<(usize, &FunctionTime)> {
    let others = thread.waits.iter().enumerate().filter(|(_, wait)| !but_for(wait));
    let places = others.filter_map(|(index, wait)| Some((index, wait.places.first()?)));
    places.reduce(|a, b| if b.1.total_s > a.1.total_s { b } else { a })
}
