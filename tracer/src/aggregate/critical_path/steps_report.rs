//! Walked steps as the report's section: what they went to, and what slow ones spend more on.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::cycle::{self, Cycle};
use super::history::Reader;
use super::report::{RowKey, Writer};
use super::step_causes::{Walked, every, mean, slow_from_ns, spread, walk_steps};
use super::steps::{Row, Span, Steps as Entries};
use super::walk::Path;
use crate::aggregate::Aggregate;
use crate::aggregate::block::report::Folders;
use crate::aggregate::stacks::report::Named;
use crate::model::report::seconds;
use crate::model::stacks::FunctionTime;
use crate::model::steps::{FoundSteps, MoreIn, OneStep, SlowSteps, StepCause, Steps, Watched};

const MAX_OF: usize = 8;
const MAX_CAUSES: usize = 24;
const MAX_MORE: usize = 8;
const MAX_OF_STEP: usize = 8;

/// More entries a second slow the program down: each costs up to ten microseconds on a virtual machine, a twentieth of the time then.
const MOST_HZ: f64 = 5_000.0;

/// What slow steps take longer than ordinary ones, of the time of all steps, before it is worth a word.
const LEAST_MORE: f64 = 0.01;
/// Of what they take longer, a cause's part that is worth a line.
const LEAST_OF_MORE: f64 = 0.05;
/// Fewer steps than these are not told apart.
const LEAST_STEPS: u64 = 4;

impl Aggregate {
    /// The section: of the steps that were asked for, else of those that the thread of the path is found to have.
    pub(super) fn steps_section(&self, serial: u32, stacks: Option<&Named<'_>>) -> Option<Steps> {
        if let Some(spec) = self.target.as_ref()?.step.clone() {
            return Some(self.told_steps(spec, &self.steps, stacks));
        }
        let life = self.history.life(serial)?;
        let mut reader = Reader::new(&self.history, &self.pythons);
        let cycle = cycle::find(&mut reader, serial, (life.start_ns, life.end_ns))?;
        let found = self.found(&cycle, life.tgid, stacks);
        let spec = found_words(&found);
        Some(Steps { found: Some(found), ..self.told_steps(spec, &cycle.steps(serial), stacks) })
    }

    fn found(&self, cycle: &Cycle, tgid: u32, stacks: Option<&Named<'_>>) -> FoundSteps {
        let places = stacks.map(|stacks| stacks.places(tgid, &[(cycle.place, 1)])).unwrap_or_default();
        FoundSteps {
            state: cycle.reason.state.id().to_owned(),
            detail: self.wait_detail(cycle.reason),
            place: places.into_iter().next().map(|time| time.location),
        }
    }

    fn told_steps(&self, spec: String, steps: &Entries, stacks: Option<&Named<'_>>) -> Steps {
        let rows = steps.rows(&self.history);
        let mut times: Vec<u64> = rows.values().flat_map(|row| &row.spans).map(Span::ns).collect();
        times.sort_unstable();
        let count = times.len() as u64;
        let median_ns = times.get((times.len().max(1) - 1) / 2).copied().unwrap_or(0);
        let from_ns = slow_from_ns(median_ns);
        let walked = walk_steps(&rows, (&self.history, &self.stacks.timeline, &self.pythons), from_ns);
        let reader = Reader::new(&self.history, &self.pythons);
        let over_all = |of: fn(&Row) -> u64| seconds(rows.values().map(of).fold(0, u64::saturating_add));
        let entered_s = seconds(steps.last_ns.saturating_sub(steps.first_ns));
        let entries = steps.entries();
        let rate_hz = if entered_s > 0.0 { entries.saturating_sub(1) as f64 / entered_s } else { 0.0 };
        let folders = self.folders();
        let told = Told { aggregate: self, stacks, reader: &reader, walked: &walked, folders: &folders };
        let (causes, others_ns) = told.causes();
        Steps {
            spec,
            found: None,
            threads: rows.len() as u64,
            of: told.of(&rows),
            entries,
            count,
            incomplete: rows.len() as u64,
            not_walked: count.saturating_sub(walked.slow + walked.ordinary),
            forgotten: steps.forgotten,
            rate_hz,
            too_fine: rate_hz > MOST_HZ,
            total_s: over_all(Row::total_ns),
            before_s: over_all(|row| row.before_ns),
            after_s: over_all(|row| row.after_ns),
            duration: spread(&times, count),
            causes,
            others_s: seconds(others_ns),
            slow: told.slow(&rows, median_ns),
            slowest: walked.longest.iter().map(|(span, path)| told.one(span, path)).collect(),
            watched: self.watched(),
        }
    }

    fn watched(&self) -> Vec<Watched> {
        let row = |(record, ts_ns): &(crate::model::meta::StepsRecord, u64)| Watched {
            pid: record.tgid,
            function: record.function.clone(),
            file: record.file.clone(),
            from_s: seconds(ts_ns.saturating_sub(self.span.start_ns)),
            failed: record.failed.clone(),
        };
        self.steps.watched.iter().map(row).collect()
    }
}

/// Which wait begins a step, in words.
fn found_words(found: &FoundSteps) -> String {
    let call = found.detail.as_deref().unwrap_or(&found.state);
    let function = found.place.as_ref().and_then(|place| place.function.as_deref());
    function.map_or_else(|| format!("its waits in {call}"), |function| format!("its waits in {call} in {function}"))
}

/// What the section is made of.
struct Told<'a> {
    aggregate: &'a Aggregate,
    stacks: Option<&'a Named<'a>>,
    reader: &'a Reader<'a>,
    folders: &'a Folders<'a>,
    walked: &'a Walked,
}

impl<'a> Told<'a> {
    fn writer(&self, path: &'a Path, total_ns: u64) -> Writer<'a> {
        let Told { aggregate, stacks, reader, folders, .. } = *self;
        Writer { aggregate, stacks, path, reader, total_ns, tgid: 0, folders }
    }

    fn of(&self, rows: &BTreeMap<u32, Row>) -> Vec<crate::model::critical_path::PathOf> {
        let mut serials: Vec<(u64, u32)> = rows.iter().map(|(serial, row)| (row.total_ns(), *serial)).collect();
        serials.sort_by_key(|(ns, serial)| (Reverse(*ns), *serial));
        let writer = self.writer(&self.walked.all_path, 0);
        serials.into_iter().take(MAX_OF).map(|(_, serial)| writer.of(serial)).collect()
    }

    /// What all steps went to, and the time that is left out.
    fn causes(&self) -> (Vec<StepCause>, u64) {
        let walked = self.walked;
        let writer = self.writer(&walked.all_path, walked.total_ns);
        let mut rows: Vec<_> = writer.rows_unspun().into_iter().collect();
        rows.sort_by(|(left_key, left), (right_key, right)| {
            (Reverse(left.ns), left_key).cmp(&(Reverse(right.ns), right_key))
        });
        let others = rows.split_off(rows.len().min(MAX_CAUSES));
        let count = walked.slow + walked.ordinary;
        let cause = |(key, row): &(RowKey, super::row::Row)| {
            let values = walked.values.get(key).map_or(&[][..], Vec::as_slice);
            StepCause { part: writer.part(key, row, None), steps: values.len() as u64, per_step: spread(values, count) }
        };
        (rows.iter().map(cause).collect(), others.iter().fold(0, |sum, (_, row)| sum + row.ns))
    }

    /// What slow steps spend more on; none where they do not matter.
    fn slow(&self, rows: &BTreeMap<u32, Row>, median_ns: u64) -> Option<SlowSteps> {
        let from_ns = slow_from_ns(median_ns);
        let walked = self.walked;
        let of_slow: u64 = walked.in_slow.values().sum();
        let of_ordinary = walked.total_ns.saturating_sub(of_slow);
        let more_ns = mean(of_slow, walked.slow).saturating_sub(mean(of_ordinary, walked.ordinary));
        let total_more_ns = more_ns.saturating_mul(walked.slow);
        let enough = walked.ordinary > 0 && walked.slow + walked.ordinary >= LEAST_STEPS;
        if !enough || total_more_ns == 0 || (total_more_ns as f64) < LEAST_MORE * walked.total_ns as f64 {
            return None;
        }
        // A rhythm is that of the steps that make the difference, which on a busy machine others are slow beside.
        let from_most_ns = from_ns.max(median_ns.saturating_add(more_ns / 2));
        let is_most = |span: &&Span| span.ns() >= from_most_ns;
        let numbers = |row: &Row| row.spans.iter().filter(is_most).map(|span| span.number).collect();
        let numbers: Vec<Vec<u64>> = rows.values().map(numbers).collect();
        Some(SlowSteps {
            from_s: seconds(from_ns),
            count: walked.slow,
            ordinary: walked.ordinary,
            more_s: seconds(more_ns),
            total_more_s: seconds(total_more_ns),
            every: every(&numbers),
            more_in: self.more_in(more_ns),
        })
    }

    fn more_in(&self, more_ns: u64) -> Vec<MoreIn> {
        let of_slow: u64 = self.walked.in_slow.values().sum();
        let slow = self.writer(&self.walked.slow_path, of_slow);
        let all = self.writer(&self.walked.all_path, self.walked.total_ns);
        let mut in_all = all.rows_unspun();
        let mut rows: Vec<_> = slow
            .rows_unspun()
            .into_iter()
            .map(|(key, row)| (self.walked.more_ns(&key), key, row))
            .filter(|(more, ..)| *more as f64 >= LEAST_OF_MORE * more_ns as f64 && *more > 0)
            .collect();
        rows.sort_by(|(left, left_key, _), (right, right_key, _)| {
            (Reverse(left), left_key).cmp(&(Reverse(right), right_key))
        });
        rows.truncate(MAX_MORE);
        let line = |(more, key, row): &(i64, RowKey, super::row::Row)| {
            let mut part = slow.part(key, row, None);
            if let Some(row) = in_all.remove(key) {
                let functions = std::mem::take(&mut part.functions);
                part.functions = self.by_more(functions, &all.part(key, &row, None).functions);
            }
            MoreIn { more_s: seconds(more.unsigned_abs()), part }
        };
        rows.iter().map(line).collect()
    }

    /// Functions of slow steps, those first of which a slow step has most more than an ordinary one.
    fn by_more(&self, mut slow: Vec<FunctionTime>, all: &[FunctionTime]) -> Vec<FunctionTime> {
        let (slow_count, ordinary) = (self.walked.slow.max(1) as f64, self.walked.ordinary.max(1) as f64);
        let more = |time: &FunctionTime| {
            let in_all = all.iter().find(|known| known.location.function == time.location.function);
            let in_ordinary = in_all.map_or(0.0, |known| (known.total_s - time.total_s).max(0.0));
            time.total_s / slow_count - in_ordinary / ordinary
        };
        slow.sort_by(|left, right| more(right).total_cmp(&more(left)));
        slow
    }

    /// One step with its own parts.
    fn one(&self, span: &Span, path: &'a Path) -> OneStep {
        let writer = self.writer(path, span.ns());
        let mut rows: Vec<_> = writer.rows_unspun().into_iter().collect();
        rows.sort_by(|(left_key, left), (right_key, right)| {
            (Reverse(left.ns), left_key).cmp(&(Reverse(right.ns), right_key))
        });
        let others = rows.split_off(rows.len().min(MAX_OF_STEP));
        OneStep {
            number: span.number,
            tid: self.reader.life(span.serial).map_or(0, |life| life.tid),
            start_s: seconds(span.start_ns.saturating_sub(self.aggregate.span.start_ns)),
            s: seconds(span.ns()),
            parts: rows.iter().map(|(key, row)| writer.part(key, row, None)).collect(),
            others_s: seconds(others.iter().fold(0, |sum, (_, row)| sum + row.ns)),
        }
    }
}
