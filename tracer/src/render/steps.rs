//! The text report's lines about steps: how long they take, what they go to, and what slow ones spend more on.

use super::critical_path::{did, place, waited_in};
use super::layout::{Align, Page};
use super::stacks::thread;
use crate::model::critical_path::PathPart;
use crate::model::report::Report;
use crate::model::steps::{StepCause, Steps, Watched};
use crate::model::units::{count, duration, percent};

const MAX_CAUSES: usize = 6;
const MAX_MORE: usize = 3;
/// A cause with less of the time is not shown.
const LEAST_SHARE: f64 = 0.01;
/// Columns of the table but for the function.
const OTHER_COLUMNS: usize = 90;
const LEAST_FUNCTION: usize = 14;
/// Room for a function in a sentence.
const IN_SENTENCE: usize = 48;

/// The steps of the critical path.
pub(super) fn section(page: &mut Page, report: &Report) {
    let Some(steps) = report.critical_path.as_ref().and_then(|path| path.steps.as_ref()) else { return };
    if steps.entries == 0 {
        page.title(&format!("Steps: none of {}", steps.spec));
        let failed = failed(steps);
        let why = if failed.is_empty() { "no entry was seen".to_owned() } else { failed.join("; ") };
        page.paragraph("  ", &why);
        return;
    }
    let threads = if steps.threads > 1 { format!(" of {}", count(steps.threads, "thread")) } else { String::new() };
    let begins = if steps.found.is_some() { "found by" } else { "of" };
    page.title(&format!("Steps: {} {begins} {}{threads}", count(steps.count, "step"), steps.spec));
    let spread = &steps.duration;
    if steps.count > 0 {
        page.paragraph(
            "  ",
            &format!(
                "a step took {} (median), nine of ten at most {}, the longest {}",
                duration(spread.p50_s),
                duration(spread.p90_s),
                duration(spread.max_s)
            ),
        );
        slow(page, steps);
        // What nobody asked for is told in full where it makes a difference.
        if steps.found.is_none() || steps.slow.is_some() {
            table(page, steps);
        }
    }
    notes(page, steps);
}

/// What slow steps spend more on: the line that says most.
fn slow(page: &mut Page, steps: &Steps) {
    let Some(slow) = &steps.slow else { return };
    let every = slow.every.map(|every| format!(", one every {every} steps")).unwrap_or_default();
    let mut said = format!(
        "{} of {} took {} or longer{every}: {} more each",
        slow.count,
        slow.count + slow.ordinary,
        duration(slow.from_s),
        duration(slow.more_s)
    );
    for (index, more) in slow.more_in.iter().take(MAX_MORE).enumerate() {
        said.push_str(if index == 0 { ", of it " } else { "; " });
        said.push_str(&format!("{} {}", duration(more.more_s), in_words(&more.part)));
    }
    page.paragraph("  slow: ", &said);
}

/// Who did what, where.
fn in_words(part: &PathPart) -> String {
    let who = thread(part.thread.as_deref(), part.tid, part.threads);
    let mut said = format!("{who} {}", did(part));
    let place = place(part, IN_SENTENCE);
    if !place.is_empty() {
        said.push_str(&format!(" in {place}"));
    }
    if let Some(within) = &part.within {
        said.push_str(&format!(" while it waited in {}", waited_in(within)));
    }
    said
}

fn table(page: &mut Page, steps: &Steps) {
    let shown: Vec<&StepCause> =
        steps.causes.iter().filter(|cause| cause.part.share >= LEAST_SHARE).take(MAX_CAUSES).collect();
    if shown.is_empty() {
        return;
    }
    let heading = [
        ("share", Align::Right),
        ("median", Align::Right),
        ("9 of 10", Align::Right),
        ("longest", Align::Right),
        ("thread", Align::Left),
        ("did", Align::Left),
        ("function", Align::Left),
        ("and it waited in", Align::Left),
    ];
    let room = page.width().saturating_sub(OTHER_COLUMNS).max(LEAST_FUNCTION);
    let line = |cause: &&StepCause| {
        let (part, spread) = (&cause.part, &cause.per_step);
        vec![
            percent(part.share),
            duration(spread.p50_s),
            duration(spread.p90_s),
            duration(spread.max_s),
            thread(part.thread.as_deref(), part.tid, part.threads),
            did(part),
            place(part, room),
            part.within.as_ref().map(waited_in).unwrap_or_default(),
        ]
    };
    page.table(&heading, &shown.iter().map(line).collect::<Vec<_>>());
}

fn notes(page: &mut Page, steps: &Steps) {
    let first = if steps.found.is_some() { "wait" } else { "entry" };
    let mut notes = vec![format!(
        "{} before the first {first}, {} from the last one on",
        duration(steps.before_s),
        duration(steps.after_s)
    )];
    if steps.forgotten > 0 {
        notes.push(format!("the times of the oldest {} were forgotten", count(steps.forgotten, "step")));
    }
    if steps.not_walked > 0 {
        notes.push(format!("of {} only the time is known", count(steps.not_walked, "step")));
    }
    if steps.too_fine {
        notes.push(format!(
            "it is entered {:.0} times a second, which slows the program down: name a function that is called less often",
            steps.rate_hz
        ));
    }
    notes.extend(failed(steps));
    page.paragraph("  ", &notes.join("; "));
}

/// Python functions whose entries are not seen, and why.
fn failed(steps: &Steps) -> Vec<String> {
    let said = |watched: &Watched| {
        let failed = watched.failed.as_ref()?;
        Some(format!("{} of process {}: {failed}", watched.function, watched.pid))
    };
    steps.watched.iter().filter_map(said).collect()
}
