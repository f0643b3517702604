//! Weighted stacks as folded text: `process;thread;outermost;...;innermost microseconds`, one line per stack, sorted. What flame
//! graph programs read.
//!
//! Threads of a process that have the same name are one. A wait's state is its innermost frame, in brackets; kernel functions end
//! in `_[k]`, as elsewhere. Inlined functions are frames. A name without symbol is the file and the address in it.

use std::collections::BTreeMap;
use std::io;

use super::weigh::{Of, selected};
use crate::model::meta::FrameKind;
use crate::model::profile::{Activity, Entry, Frame, NoStack, Profile};

/// The lines, sorted, and their weights in nanoseconds.
pub fn lines(profile: &Profile, of: Of) -> BTreeMap<String, u64> {
    let frames: Vec<Vec<String>> = profile.frames.iter().map(|frame| names(profile, frame)).collect();
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    for entry in selected(profile, of) {
        let sum = lines.entry(line(profile, &frames, entry)).or_default();
        *sum = sum.saturating_add(entry.ns);
    }
    lines
}

/// Writes the lines. Weights under half a microsecond go.
pub fn write(profile: &Profile, of: Of, out: &mut impl io::Write) -> io::Result<()> {
    for (line, ns) in lines(profile, of) {
        let microseconds = ns.saturating_add(500) / 1_000;
        if microseconds > 0 {
            writeln!(out, "{line} {microseconds}")?;
        }
    }
    Ok(())
}

fn line(profile: &Profile, frames: &[Vec<String>], entry: &Entry) -> String {
    let process = match &entry.process {
        Some(name) => format!("{name} ({})", entry.pid),
        None if entry.pid != 0 => format!("process {}", entry.pid),
        None => "[unknown process]".to_owned(),
    };
    let mut line = plain(&process);
    let mut push = |part: &str| {
        line.push(';');
        line.push_str(part);
    };
    push(&plain(entry.thread.as_deref().unwrap_or("[unknown thread]")));
    match entry.stack.map(|stack| profile.stacks.get(stack)) {
        Ok(Some(stack)) => {
            for frame in stack.frames.iter().rev() {
                frames.get(*frame).into_iter().flatten().for_each(|name| push(name));
            }
        }
        Ok(None) => push(no_stack(NoStack::NotRecorded)),
        Err(why) => push(no_stack(why)),
    }
    if let Activity::Waiting { state, detail } = &entry.activity {
        push(&match detail {
            Some(detail) => format!("[{state} {}]", plain(detail)),
            None => format!("[{state}]"),
        });
    }
    line
}

/// What stands for a missing stack.
pub fn no_stack(why: NoStack) -> &'static str {
    match why {
        NoStack::NoPlace => "[no stack: place not known]",
        NoStack::NotCaptured => "[no stack: none taken]",
        NoStack::NoRoom => "[no stack: no room]",
        NoStack::NotRecorded => "[no stack: not recorded]",
    }
}

/// The names at a frame, outermost first.
fn names(profile: &Profile, frame: &Frame) -> Vec<String> {
    if frame.names.is_empty() {
        return vec![plain(&unnamed(profile, frame))];
    }
    let suffix = if frame.kind == FrameKind::Kernel { "_[k]" } else { "" };
    let of_python = |file: &str| format!(" ({})", file.rsplit('/').next().unwrap_or(file));
    let name = |name: &crate::model::profile::Name| {
        let file = name.file.as_deref().filter(|_| frame.kind == FrameKind::Python).map(of_python).unwrap_or_default();
        plain(&format!("{}{file}{suffix}", name.function))
    };
    frame.names.iter().rev().map(name).collect()
}

/// What stands for an address without a name.
pub fn unnamed(profile: &Profile, frame: &Frame) -> String {
    let module = frame.module.and_then(|module| profile.modules.get(module));
    let path = module.map(|module| module.path.rsplit('/').next().unwrap_or(&module.path));
    match frame.kind {
        FrameKind::Native => format!("{}+{:#x}", path.unwrap_or("[native]"), frame.address),
        FrameKind::Kernel => format!("[kernel]+{:#x}_[k]", frame.address),
        FrameKind::Jit => "[code made at run time]".to_owned(),
        FrameKind::Python => "[Python]".to_owned(),
        FrameKind::Unknown => "[unknown]".to_owned(),
    }
}

/// A name without what separates names, and without line ends.
fn plain(name: &str) -> String {
    name.chars()
        .map(|character| match character {
            ';' => ':',
            character if character.is_control() => ' ',
            character => character,
        })
        .collect()
}
