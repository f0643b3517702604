//! The text report's two tables of functions, and its paragraph on how good the stacks behind them are.

use super::layout::{Align, Page};
use crate::model::meta::FrameKind;
use crate::model::report::Report;
use crate::model::stacks::{CpuFunction, Location, StackQuality, Stacks, WaitFunction};
use crate::model::units::{count, duration, grouped, percent};

const MAX_FUNCTIONS: usize = 8;
const MAX_WAITS: usize = 8;
/// A function with less of the sampled time is not shown.
const LEAST_SHARE: f64 = 0.005;
/// Columns of the tables but for function and place.
const OTHER_COLUMNS: usize = 44;
const LEAST_FUNCTION: usize = 16;
const LEAST_PLACE: usize = 12;
const MAX_FILES: usize = 3;

/// How wide the cells of functions and of their places may be.
struct Room {
    function: usize,
    place: usize,
}

impl Room {
    fn of(page: &Page, others: usize) -> Self {
        let room = page.width().saturating_sub(others);
        let function = (room * 55 / 100).max(LEAST_FUNCTION);
        Room { function, place: room.saturating_sub(function).max(LEAST_PLACE) }
    }
}

/// Which functions computed.
pub(super) fn computing(page: &mut Page, report: &Report) {
    let Some(stacks) = &report.stacks else { return };
    let shown: Vec<&CpuFunction> =
        stacks.functions.iter().filter(|function| function.self_share >= LEAST_SHARE).take(MAX_FUNCTIONS).collect();
    if shown.is_empty() {
        return;
    }
    page.title(&format!("Where CPU time goes: {} sampled", duration(stacks.sampled_s)));
    let heading = [
        ("self", Align::Right),
        ("total", Align::Right),
        ("function", Align::Left),
        ("at", Align::Left),
        ("mostly in thread", Align::Left),
    ];
    let room = Room::of(page, OTHER_COLUMNS);
    let lines: Vec<Vec<String>> = shown
        .iter()
        .map(|function| {
            vec![
                percent(function.self_share),
                percent(function.inclusive_share),
                name(&function.location, room.function),
                place(&function.location, room.place),
                thread(function.whose.thread.as_deref(), function.whose.tid, function.threads),
            ]
        })
        .collect();
    page.table(&heading, &lines);
}

/// Which functions waited.
pub(super) fn waiting(page: &mut Page, report: &Report) {
    let Some(stacks) = &report.stacks else { return };
    // A kernel thread waits for work, which says little; there are many of them.
    let of_kernel = |wait: &WaitFunction| wait.state == "other" && wait.detail.as_deref() == Some("kernel");
    let all = stacks.waits.iter().all(of_kernel);
    let shown: Vec<&WaitFunction> =
        stacks.waits.iter().filter(|wait| all || !of_kernel(wait)).take(MAX_WAITS).collect();
    if shown.is_empty() {
        return;
    }
    page.title(&format!("Where threads wait: {} in all", duration(stacks.waited_s)));
    let heading = [
        ("time", Align::Right),
        ("for", Align::Left),
        ("function", Align::Left),
        ("at", Align::Left),
        ("thread", Align::Left),
    ];
    let room = Room::of(page, OTHER_COLUMNS + 6);
    let lines: Vec<Vec<String>> = shown
        .iter()
        .map(|wait| {
            let state = wait.detail.as_ref().filter(|_| wait.state == "other").unwrap_or(&wait.state);
            let missing = || wait.no_stack.as_ref().map_or_else(|| "?".to_owned(), |why| format!("no stack: {why}"));
            let function =
                if wait.location.function.is_some() { name(&wait.location, room.function) } else { missing() };
            vec![
                duration(wait.total_s),
                state.clone(),
                function,
                place(&wait.location, room.place),
                thread(wait.whose.thread.as_deref(), wait.whose.tid, wait.threads),
            ]
        })
        .collect();
    page.table(&heading, &lines);
}

/// A function's name in so many characters: without what it is called with, and from its end, where names differ.
pub(super) fn name(location: &Location, room: usize) -> String {
    let Some(function) = &location.function else { return "?".to_owned() };
    let native = matches!(location.language, Some(FrameKind::Native | FrameKind::Kernel | FrameKind::Jit));
    if native && !location.unsymbolised { tail(&without_arguments(function), room) } else { tail(function, room) }
}

/// A demangled name without parameters, and with its template arguments as `<>`.
fn without_arguments(name: &str) -> String {
    let anonymous = "(anonymous namespace)";
    let (mut text, mut depth, mut rest, mut last) = (String::new(), 0usize, name, ' ');
    while let Some(character) = rest.chars().next() {
        if depth == 0 && rest.starts_with(anonymous) {
            text.push_str(anonymous);
            rest = &rest[anonymous.len()..];
            continue;
        }
        let operator = text.ends_with("operator");
        match character {
            '(' if depth == 0 && !text.is_empty() && !operator => break,
            '<' if depth > 0 || !text.is_empty() && !operator => {
                if depth == 0 {
                    text.push_str("<>");
                }
                depth += 1;
            }
            // An arrow is no bracket.
            '>' if depth > 0 && last != '-' => depth -= 1,
            character if depth == 0 => text.push(character),
            _ => {}
        }
        last = character;
        rest = &rest[character.len_utf8()..];
    }
    // Unbalanced: no name of C++ or Rust.
    if depth == 0 { text } else { name.to_owned() }
}

/// File and line, or the file that the code lies in, in so many characters.
fn place(location: &Location, room: usize) -> String {
    match (&location.file, location.line, &location.module) {
        (Some(file), Some(line), _) => path_tail(&format!("{file}:{line}"), room),
        (Some(file), None, _) => path_tail(file, room),
        (None, _, Some(module)) if !location.unsymbolised => path_tail(module, room),
        (None, _, Some(_)) => "unsymbolised".to_owned(),
        (None, _, None) => String::new(),
    }
}

/// As many of a path's last parts as fit, at least the last one.
fn path_tail(path: &str, room: usize) -> String {
    if path.chars().count() <= room {
        return path.to_owned();
    }
    let starts = path.match_indices('/').map(|(at, _)| &path[at + 1..]);
    let fits = starts.clone().find(|part| part.chars().count() <= room);
    fits.map_or_else(|| tail(path, room), str::to_owned)
}

fn tail(text: &str, room: usize) -> String {
    let length = text.chars().count();
    if length <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().skip(length - room.saturating_sub(3).min(length)).collect();
    format!("...{kept}")
}

pub(super) fn thread(name: Option<&str>, tid: Option<u32>, threads: u64) -> String {
    let name = name.unwrap_or("?");
    match (tid, threads) {
        (Some(tid), 0 | 1) => format!("{name} ({tid})"),
        (Some(tid), more) => format!("{name} ({tid}), {} in all", grouped(more)),
        (None, threads) => format!("{name}, {}", count(threads, "thread")),
    }
}

/// How good the stacks are. Says so where they are all whole as well.
pub(super) fn quality(page: &mut Page, report: &Report) {
    let Some(stacks) = &report.stacks else { return };
    let mut parts = vec![samples(stacks)];
    parts.extend(["on-cpu", "wait"].into_iter().filter_map(|kind| ends(stacks, kind)));
    if stacks.waited_s > 0.0 {
        let share = percent(stacks.waited_with_stack_s / stacks.waited_s);
        parts.push(format!("{share} of {} waited has a stack", duration(stacks.waited_s)));
    }
    if let Some(changed) = stacks.changed_share {
        let again = grouped(stacks.recaptured);
        parts.push(format!(
            "of {again} places of waits that were looked at again {} had another stack",
            percent(changed)
        ));
    }
    parts.extend(stacks.unsymbolised.clone());
    let mut warn = |number: Option<u64>, text: &str| parts.extend(number.map(|n| format!("{} {text}", grouped(n))));
    warn(stacks.definitions_without_room, "definitions of stacks found no room");
    warn(stacks.definitions_contradicting, "definitions contradict earlier ones: the recording is damaged");
    if !stacks.no_unwind_files.is_empty() {
        let files: Vec<String> = stacks.no_unwind_files.iter().take(MAX_FILES).map(|file| file.file.clone()).collect();
        parts.push(format!("without unwind information: {}", files.join(", ")));
    }
    parts.push(stacks.estimator.clone());
    page.paragraph("Stacks:   ", &parts.join("; "));
}

fn samples(stacks: &Stacks) -> String {
    let Some(hz) = stacks.sample_hz else { return "no samples of threads on a CPU".to_owned() };
    let exact = stacks.on_cpu_s.map(|on_cpu_s| format!(", {} measured", duration(on_cpu_s))).unwrap_or_default();
    format!(
        "{} at {hz:.0} Hz stand for {} on a CPU{exact}",
        count(stacks.samples, "sample"),
        duration(stacks.sampled_s)
    )
}

/// How the stacks of one kind ended.
fn ends(stacks: &Stacks, kind: &str) -> Option<String> {
    let rows: Vec<&StackQuality> = stacks.quality.iter().filter(|row| row.kind == kind).collect();
    let all: u64 = rows.iter().map(|row| row.stacks).sum();
    let of = |end: &str| rows.iter().filter_map(|row| row.ends.get(end)).sum::<u64>();
    if all == 0 {
        return None;
    }
    let what = if kind == "wait" { "stacks of waits" } else { "sampled stacks" };
    let whole = of("whole") + of("rescued");
    let ending = of("no-user-stack");
    let with_user_stack = all.saturating_sub(ending);
    if with_user_stack == 0 {
        return Some(format!("{} {what}, all of threads that were ending", grouped(all)));
    }
    let mut text =
        format!("{} of {} {what} whole", percent(whole as f64 / with_user_stack as f64), grouped(with_user_stack));
    let mut notes = Vec::new();
    let rescued = of("rescued");
    if rescued > 0 {
        notes.push(format!("{} of them through code made at run time", grouped(rescued)));
    }
    for end in ["cut", "unreadable", "no-unwind-info", "process-gone", "unknown", "no-room", "not-recorded"] {
        if of(end) > 0 {
            notes.push(format!("{} {end}", grouped(of(end))));
        }
    }
    let misfit: u64 = rows.iter().map(|row| row.python_misfit).sum();
    if misfit > 0 {
        notes.push(format!("{} with Python frames that do not fit", grouped(misfit)));
    }
    if ending > 0 {
        notes.push(format!("not counted: {} of threads that were ending", grouped(ending)));
    }
    if !notes.is_empty() {
        text.push_str(&format!(" ({})", notes.join(", ")));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_loses_its_arguments_first_and_its_front_then() {
        let cases = [
            (
                "at::native::(anonymous namespace)::gemm<float>(long, float const*)",
                "at::native::(anonymous namespace)::gemm<>",
            ),
            ("void std::sort<int*>(int*, int*)", "void std::sort<>"),
            ("<T as core::fmt::Display>::fmt", "<T as core::fmt::Display>::fmt"),
            ("Foo::operator()(int) const", "Foo::operator()"),
            ("Foo::operator->() const", "Foo::operator->"),
            ("call<fn(u8) -> u8>::go", "call<>::go"),
            ("bool operator< <int>(int)", "bool operator< <>"),
            ("plain", "plain"),
            ("bad<<<", "bad<<<"),
        ];
        for (from, to) in cases {
            assert_eq!(without_arguments(from), to, "{from}");
        }
        assert_eq!(tail("at::native::cpu_kernel", 16), "...e::cpu_kernel", "from its end");
        assert_eq!(
            path_tail("/usr/lib/python3/site-packages/torch/nn/modules/linear.py:116", 30),
            "torch/nn/modules/linear.py:116"
        );
        assert_eq!(path_tail("/x/averylongfilenamethatdoesnotfit.py:116", 20), "...doesnotfit.py:116");
    }
}
