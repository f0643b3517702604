//! The text report's lines on calls that map and unmap memory. Left out where there are few of them.

use super::layout::Page;
use super::stacks::name;
use crate::model::mapping::{Mapping, ProcessMapping};
use crate::model::report::Report;
use crate::model::units::{bytes, grouped, percent};

const MAX_ROWS: usize = 4;
/// Fewer calls are every program's.
const LEAST_CALLS: u64 = 5_000;
/// From this part of the mappings that a process may have on it is told.
const NEAR: f64 = 0.5;
/// A function's name may be so long.
const NAME_CHARS: usize = 60;

/// All that there is to say.
pub(super) fn lines(page: &mut Page, report: &Report) {
    let Some(mapping) = &report.mapping else { return };
    let is_near = |process: &&ProcessMapping| near(mapping, process).is_some();
    let shown = mapping.processes.iter().filter(|process| process.calls >= LEAST_CALLS || is_near(process));
    let shown: Vec<&ProcessMapping> = shown.take(MAX_ROWS).collect();
    if shown.is_empty() {
        return;
    }
    page.title("Mapping and unmapping memory");
    for process in shown {
        page.paragraph("  ", &line(mapping, process));
    }
}

/// How many mappings it had of those that it may have, where it is near.
fn near(mapping: &Mapping, process: &ProcessMapping) -> Option<(u64, u64)> {
    let (most, limit) = (process.mappings_most?, mapping.mappings_limit?);
    (most as f64 >= NEAR * limit as f64).then_some((most, limit))
}

fn line(mapping: &Mapping, process: &ProcessMapping) -> String {
    let mut parts = Vec::new();
    let calls = process.of(&["mmap", "mmap_file", "mmap_fixed", "munmap"]);
    let per_s = process.mmap_munmap_per_s.map(|per_s| format!(" ({} a second)", grouped(per_s.round() as u64)));
    if calls > 0 {
        parts.push(format!("mmap and munmap {} times{}", grouped(calls), per_s.unwrap_or_default()));
    }
    for (what, kinds) in [
        ("brk", &["brk_grow", "brk_shrink"][..]),
        ("mremap", &["mremap_grow", "mremap_shrink", "mremap_move"]),
        ("madvise", &["madvise_free", "madvise_other"]),
    ] {
        let calls = process.of(kinds);
        if calls >= LEAST_CALLS {
            parts.push(format!("{what} {} times", grouped(calls)));
        }
    }
    let mut text = format!(
        "{} ({}) called {}; it mapped {}, unmapped {}",
        process.process.as_deref().unwrap_or("?"),
        process.pid,
        if parts.is_empty() { format!("{} times", grouped(process.calls)) } else { parts.join(", ") },
        bytes(process.mapped_bytes),
        bytes(process.unmapped_bytes)
    );
    if let Some(freed) = process.kinds.get("madvise_free") {
        text += &format!(", gave back {} by madvise", bytes(freed.bytes));
    }
    if let Some(function) = process.functions.first() {
        text +=
            &format!(", mostly in {} ({} of the bytes)", name(&function.location, NAME_CHARS), percent(function.share));
    }
    if let Some((most, limit)) = near(mapping, process) {
        text += &format!("; it had up to {} mappings of the {} that it may have", grouped(most), grouped(limit));
    }
    text
}
