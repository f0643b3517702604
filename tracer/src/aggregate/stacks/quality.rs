//! How good the stacks are: how they ended, how many of their frames have names, which files are to blame.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::report::{Measured, Named, grow};
use crate::model::meta::{FrameKind, StackEnd};
use crate::model::profile::{Activity, NoStack};
use crate::model::report::seconds;
use crate::model::stacks::{FileCount, StackQuality};

const MAX_QUALITY_ROWS: usize = 32;
const MAX_FILES: usize = 16;

impl Named<'_> {
    /// How stacks ended, per process and kind.
    pub(super) fn quality(&self, measured: &Measured) -> Vec<StackQuality> {
        let mut rows: BTreeMap<(u32, &str), StackQuality> = BTreeMap::new();
        let mut sampled_ns: BTreeMap<u32, u64> = BTreeMap::new();
        let names: BTreeMap<u32, String> = self
            .profile
            .entries
            .iter()
            .filter_map(|entry| Some((entry.pid, entry.process.as_ref()?.to_string())))
            .collect();
        let row = |tgid: u32, kind: &'static str| StackQuality {
            pid: (tgid != 0).then_some(tgid),
            process: names.get(&tgid).cloned(),
            kind: kind.to_owned(),
            ..StackQuality::default()
        };
        for entry in self.profile.entries.iter().filter(|entry| entry.activity == Activity::OnCpu) {
            let row = rows.entry((entry.pid, "on-cpu")).or_insert_with(|| row(entry.pid, "on-cpu"));
            self.judge(row, entry.stack, entry.count);
            let sampled_ns = sampled_ns.entry(entry.pid).or_default();
            grow(sampled_ns, entry.ns);
            row.sampled_s = Some(seconds(*sampled_ns));
            row.on_cpu_s = measured.on_cpu_ns_of.get(&entry.pid).copied().map(seconds);
        }
        for (tgid, place) in self.stacks.captures.keys() {
            let row = rows.entry((*tgid, "wait")).or_insert_with(|| row(*tgid, "wait"));
            for (stack, count) in self.stacks.taken_at(*tgid, *place) {
                let stack = stack.and_then(|id| self.by_id.get(&id).copied().ok_or(NoStack::NotRecorded));
                self.judge(row, stack, count);
            }
        }
        let mut rows: Vec<StackQuality> = rows.into_values().collect();
        rows.sort_by_key(|row| (Reverse(row.stacks), row.pid, row.kind.clone()));
        let rest = rows.split_off(rows.len().min(MAX_QUALITY_ROWS));
        for kind in ["on-cpu", "wait"] {
            let of_kind = rest.iter().filter(|row| row.kind == kind);
            let rest = of_kind.cloned().reduce(merged);
            rows.extend(rest.map(|row| StackQuality { pid: None, process: None, ..row }));
        }
        rows.iter_mut().for_each(finish);
        rows
    }

    fn judge(&self, row: &mut StackQuality, stack: Result<usize, NoStack>, count: u64) {
        row.stacks += count;
        let Some(stack) = stack.ok().and_then(|stack| self.profile.stacks.get(stack)) else {
            let why = stack.err().unwrap_or(NoStack::NotRecorded);
            *row.ends.entry(no_stack(why).to_owned()).or_default() += count;
            return;
        };
        *row.ends.entry(end(stack.end, stack.rescued).to_owned()).or_default() += count;
        row.python_misfit += if stack.python_misfit { count } else { 0 };
        if let Some(python_end) = &stack.python_end {
            *row.python_ends.entry(python_end.to_string()).or_default() += count;
        }
        let (mut python, mut frames, mut named) = (false, 0, 0);
        for frame in stack.frames.iter().filter_map(|frame| self.profile.frames.get(*frame)) {
            python |= frame.kind == FrameKind::Python;
            frames += 1;
            named += u64::from(!frame.names.is_empty());
        }
        row.python += if python { count } else { 0 };
        row.frames = row.frames.saturating_add(count.saturating_mul(frames));
        row.frames_named = row.frames_named.saturating_add(count.saturating_mul(named));
    }

    /// The files in which stacks ended for want of unwind information.
    pub(super) fn blamed_files(&self) -> Vec<FileCount> {
        let mut files: BTreeMap<usize, u64> = BTreeMap::new();
        let mut add = |stack: Option<usize>, count: u64| {
            let stack = stack.and_then(|stack| self.profile.stacks.get(stack));
            let ended = stack.filter(|stack| stack.end == StackEnd::NoUnwindInfo);
            if let Some(module) = ended.and_then(|stack| stack.at_module) {
                *files.entry(module).or_default() += count;
            }
        };
        for entry in self.profile.entries.iter().filter(|entry| entry.activity == Activity::OnCpu) {
            add(entry.stack.ok(), entry.count);
        }
        for (id, count) in self.stacks.captures.values().flatten() {
            add(self.by_id.get(id).copied(), *count);
        }
        let mut ranked: Vec<(usize, u64)> = files.into_iter().collect();
        ranked.sort_by_key(|(module, count)| (Reverse(*count), *module));
        let row = |(module, stacks): (usize, u64)| {
            let module = self.profile.modules.get(module)?;
            let build_id = module.build_id.as_ref().map(|id| id.to_string());
            Some(FileCount { file: module.path.to_string(), build_id, stacks })
        };
        ranked.into_iter().take(MAX_FILES).filter_map(row).collect()
    }
}

/// Why there is no stack, as keys of the report.
pub fn no_stack(why: NoStack) -> &'static str {
    match why {
        NoStack::NoPlace => "no-place",
        NoStack::NotCaptured => "not-captured",
        NoStack::NoRoom => "no-room",
        NoStack::NotRecorded => "not-recorded",
    }
}

/// How a stack ended, as keys of the report.
pub fn end(end: StackEnd, rescued: bool) -> &'static str {
    match end {
        StackEnd::Whole if rescued => "rescued",
        StackEnd::Whole => "whole",
        StackEnd::Cut => "cut",
        StackEnd::Unreadable => "unreadable",
        StackEnd::NoUnwindInfo => "no-unwind-info",
        StackEnd::ProcessGone => "process-gone",
        StackEnd::NoUserStack => "no-user-stack",
        StackEnd::Unknown => "unknown",
    }
}

fn add_counts(sum: &mut BTreeMap<String, u64>, other: &BTreeMap<String, u64>) {
    for (key, count) in other {
        *sum.entry(key.clone()).or_default() += count;
    }
}

/// Two rows of one kind as one of all further processes.
fn merged(mut sum: StackQuality, other: StackQuality) -> StackQuality {
    sum.stacks += other.stacks;
    add_counts(&mut sum.ends, &other.ends);
    add_counts(&mut sum.python_ends, &other.python_ends);
    sum.python += other.python;
    sum.python_misfit += other.python_misfit;
    sum.frames += other.frames;
    sum.frames_named += other.frames_named;
    let plus = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a + b);
    sum.sampled_s = plus(sum.sampled_s, other.sampled_s);
    sum.on_cpu_s = plus(sum.on_cpu_s, other.on_cpu_s);
    sum
}

fn finish(row: &mut StackQuality) {
    let of = |key: &str| row.ends.get(key).copied().unwrap_or(0);
    let share = |part: u64, whole: u64| if whole > 0 { part as f64 / whole as f64 } else { 0.0 };
    let with_user_stack = row.stacks.saturating_sub(of("no-user-stack"));
    row.whole_share = (with_user_stack > 0).then(|| share(of("whole") + of("rescued"), with_user_stack));
    row.named_share = (row.frames > 0).then(|| share(row.frames_named, row.frames));
}
