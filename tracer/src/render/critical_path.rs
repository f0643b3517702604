//! The text report's table of the critical path.

use super::layout::{Align, Page};
use super::stacks::{name, thread};
use crate::model::critical_path::{CriticalPath, PathPart, PathWithin};
use crate::model::report::Report;
use crate::model::units::{count, duration, percent};

const MAX_PARTS: usize = 10;
/// A part with less of the time is not shown.
const LEAST_SHARE: f64 = 0.005;
/// Columns of the table but for the function.
const OTHER_COLUMNS: usize = 68;
const LEAST_FUNCTION: usize = 14;

/// What the wall time of CMD's main thread went to.
pub(super) fn path(page: &mut Page, report: &Report) {
    let Some(path) = &report.critical_path else { return };
    let shown: Vec<&PathPart> = path.parts.iter().filter(|part| part.share >= LEAST_SHARE).take(MAX_PARTS).collect();
    if shown.is_empty() {
        return;
    }
    let whose = path.of.thread.as_deref().unwrap_or("CMD");
    page.title(&format!("Critical path: the {} of {whose} ({})", duration(path.total_s), path.of.tid));
    let heading = [
        ("share", Align::Right),
        ("time", Align::Right),
        ("thread", Align::Left),
        ("did", Align::Left),
        ("function", Align::Left),
        ("and it waited in", Align::Left),
    ];
    let room = page.width().saturating_sub(OTHER_COLUMNS).max(LEAST_FUNCTION);
    let lines: Vec<Vec<String>> = shown
        .iter()
        .map(|part| {
            vec![
                percent(part.share),
                duration(part.s),
                thread(part.thread.as_deref(), part.tid, part.threads),
                did(part),
                place(part, room),
                part.within.as_ref().map(waited_in).unwrap_or_default(),
            ]
        })
        .collect();
    page.table(&heading, &lines);
    rest(page, path, shown.len());
}

/// Where it was, or what for where that is a file: the end of a path says most.
pub(super) fn place(part: &PathPart, room: usize) -> String {
    let function = part.functions.first().map(|function| name(&function.location, room));
    let file = part.path.as_ref().map(|path| {
        let skipped = path.chars().count().saturating_sub(room.saturating_sub(1));
        let tail: String = path.chars().skip(skipped).collect();
        if skipped > 0 { format!("…{tail}") } else { tail }
    });
    match (function, file) {
        (Some(function), Some(file)) if function.chars().count() + file.chars().count() < room => {
            format!("{function} {file}")
        }
        (Some(function), None) => function,
        (_, Some(file)) => file,
        (None, None) => String::new(),
    }
}

/// What a part is, in two or three words.
pub(super) fn did(part: &PathPart) -> String {
    let call = part.detail.as_ref().filter(|detail| **detail != part.state);
    let what = match (part.state.as_str(), call) {
        ("on_cpu", _) => return "computed".to_owned(),
        ("spinning", _) => return "spun".to_owned(),
        ("runnable", _) => return "had no CPU".to_owned(),
        ("unknown", _) => return "not known".to_owned(),
        ("timer", _) => return "slept".to_owned(),
        ("other", Some(call)) => call.clone(),
        (state, Some(call)) => format!("{state} {call}"),
        (state, None) => state.to_owned(),
    };
    match (part.cause.as_deref(), &part.waker) {
        (Some("process"), Some(process)) => format!("{what} by {process}"),
        (Some("not-ended"), _) => format!("{what}, not ended"),
        (Some("timer"), _) => format!("{what}, timed out"),
        _ => what,
    }
}

pub(super) fn waited_in(within: &PathWithin) -> String {
    match &within.detail {
        Some(call) if *call != within.state => format!("{} {call}", within.state),
        _ => within.state.clone(),
    }
}

fn rest(page: &mut Page, path: &CriticalPath, shown: usize) {
    let hidden = path.parts.iter().skip(shown);
    let (parts, share) = hidden.fold((0, 0.0), |(parts, share), part| (parts + 1, share + part.share));
    let others = path.others.as_ref();
    let (parts, share) = (parts + others.map_or(0, |o| o.parts), share + others.map_or(0.0, |o| o.share));
    let mut notes = Vec::new();
    if parts > 0 {
        notes.push(format!("{} more: {}", count(parts, "part"), percent(share)));
    }
    if path.unknown_s > 0.0 {
        notes.push(format!("not known: {}", percent(path.unknown_share)));
    }
    if let Some(kept_s) = path.kept_s {
        notes.push(format!("of what threads did only the last {} was kept", duration(kept_s)));
    }
    if !notes.is_empty() {
        page.paragraph("  ", &notes.join("; "));
    }
}
