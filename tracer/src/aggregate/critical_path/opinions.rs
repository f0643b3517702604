//! The report's sections `criticality` and `knots`, from one sweep over the history. Groups are threads of one name in processes of one
//! name; at most [`MAX_GROUPS`] are told apart, the others are one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::history::Life;
use super::knots::{Edge, knots};
use super::sweep::{DEVICE, Swept, WHOLE, sweep};
use crate::aggregate::Aggregate;
use crate::aggregate::hash::FastMap;
use crate::aggregate::names::NameId;
use crate::aggregate::spinning::part_of;
use crate::aggregate::stacks::report::Named;
use crate::model::opinions::{Criticality, CriticalityRow, Group, Knot, KnotEdge};
use crate::model::report::seconds;

const MAX_ROWS: usize = 32;
const MAX_GROUPS: usize = 1_024;
const MAX_KNOTS: usize = 8;
const MAX_EDGES: usize = 8;

/// Edges of less than this share of the time are noise.
const NOISE_SHARE: f64 = 0.01;
/// Edges of this share of the time are never taken away.
const HEAVY_SHARE: f64 = 0.2;

const OF: &str = "time in which at least one traced thread had or wanted a CPU";

/// Names of a process and a thread.
type Names = (NameId, NameId);

/// The groups of threads.
#[derive(Default)]
struct Groups {
    of: FastMap<u32, u32>,
    /// Their names and how many threads they have; the first one is that of all that found no room.
    list: Vec<(Option<Names>, u64)>,
}

impl Groups {
    fn of(lives: &[(u32, Life)]) -> Self {
        let mut groups = Groups { of: FastMap::default(), list: vec![(None, 0)] };
        let mut numbers: BTreeMap<Names, u32> = BTreeMap::new();
        for (serial, life) in lives {
            let names = (life.process, life.name);
            let room = groups.list.len() < MAX_GROUPS;
            let number = match numbers.get(&names) {
                Some(number) => *number,
                None if room => {
                    let number = groups.list.len() as u32;
                    numbers.insert(names, number);
                    groups.list.push((Some(names), 0));
                    number
                }
                None => 0,
            };
            groups.of.insert(*serial, number);
            if let Some((_, threads)) = groups.list.get_mut(number as usize) {
                *threads += 1;
            }
        }
        groups
    }
}

impl Aggregate {
    /// Both sections.
    pub(in crate::aggregate) fn opinions(&self, stacks: Option<&Named<'_>>) -> (Option<Criticality>, Vec<Knot>) {
        let mut lives: Vec<(u32, Life)> =
            self.history.serials().filter_map(|serial| Some((serial, *self.history.life(serial)?))).collect();
        lives.sort_unstable_by_key(|(serial, _)| *serial);
        let groups = Groups::of(&lives);
        // A thread counts for the part of its time on a CPU that it does not spin.
        let weight = |serial: u32| {
            let life = self.history.life(serial);
            let share = life.and_then(|life| stacks?.spun_share(life.tgid, life.tid)).unwrap_or_default();
            WHOLE - part_of(u64::from(WHOLE), share.spun.ns, share.all.ns) as u32
        };
        let group = |serial: u32| groups.of.get(&serial).copied().unwrap_or(0);
        let mut samples = self.stacks.timeline.by_time();
        if let Some(stacks) = stacks {
            samples.retain(|(.., stack)| !stacks.spins(*stack));
        }
        let swept = sweep(&self.history, group, weight, &samples);
        (self.criticality(&swept, &lives, stacks), self.knots(&swept, &groups))
    }

    fn criticality(&self, swept: &Swept, lives: &[(u32, Life)], stacks: Option<&Named<'_>>) -> Option<Criticality> {
        if swept.active_ns == 0 {
            return None;
        }
        let mut by_tid: FastMap<u32, Vec<(u64, f64)>> = FastMap::default();
        for ((tid, stack), rate) in &swept.at_samples {
            by_tid.entry(*tid).or_default().push((*stack, *rate));
        }
        // By names and function: time, threads, and the stack that counts most.
        type Row = (f64, BTreeSet<u32>, (f64, u64));
        let mut rows: BTreeMap<(Names, Option<usize>), Row> = BTreeMap::new();
        for (serial, life) in lives {
            let Some(ns) = swept.critical_ns.get(serial).copied() else { continue };
            let names = (life.process, life.name);
            let mut sampled = by_tid.get(&life.tid).cloned().unwrap_or_default();
            sampled.sort_by_key(|(stack, _)| *stack);
            let all: f64 = sampled.iter().map(|(_, rate)| rate).sum();
            let parts: Vec<(u64, f64)> = if all > 0.0 { sampled } else { vec![(0, 1.0)] };
            let all = if all > 0.0 { all } else { 1.0 };
            for (stack, rate) in parts {
                let function = stacks.and_then(|stacks| stacks.function_of(stack));
                let row = rows.entry((names, function)).or_default();
                let part = ns * rate / all;
                row.0 += part;
                row.1.insert(*serial);
                if part > row.2.0 {
                    row.2 = (part, stack);
                }
            }
        }
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by(|(a_key, a), (b_key, b)| b.0.total_cmp(&a.0).then(a_key.cmp(b_key)));
        let others: f64 = rows.iter().skip(MAX_ROWS).map(|(_, row)| row.0).sum();
        let total = swept.active_ns as f64;
        let row = |(((process, thread), _), (ns, threads, (_, stack))): ((Names, Option<usize>), Row)| CriticalityRow {
            share: ns / total,
            s: nanoseconds(ns),
            process: self.names.text(process),
            thread: self.names.text(thread),
            threads: threads.len() as u64,
            location: stacks.and_then(|stacks| stacks.location_of(stack)).unwrap_or_default(),
        };
        let from_ns = self.history.complete_from_ns();
        Some(Criticality {
            of: OF.to_owned(),
            total_s: seconds(swept.active_ns),
            rows: rows.into_iter().take(MAX_ROWS).map(row).collect(),
            others_s: nanoseconds(others),
            kept_s: (from_ns > 0).then(|| seconds(self.span.now_ns.saturating_sub(from_ns))),
        })
    }

    fn knots(&self, swept: &Swept, groups: &Groups) -> Vec<Knot> {
        let devices = groups.list.len();
        let node = |group: u32| if group == DEVICE { devices } else { group as usize };
        let size = |group: u32| groups.list.get(group as usize).map_or(1, |(_, threads)| (*threads).max(1));
        let mut edges: Vec<Edge> = swept
            .edges
            .iter()
            .map(|((from, to), ns)| Edge { from: node(*from), to: node(*to), weight: *ns as f64 / size(*from) as f64 })
            .collect();
        edges.sort_by(|a, b| b.weight.total_cmp(&a.weight).then((a.from, a.to).cmp(&(b.from, b.to))));
        let window_ns = self.span.now_ns.saturating_sub(self.span.start_ns.max(self.history.complete_from_ns())) as f64;
        let found = knots(devices + 1, &edges, NOISE_SHARE * window_ns, HEAVY_SHARE * window_ns);
        let mut rows: Vec<Knot> = found.into_iter().map(|nodes| self.knot(&nodes, &edges, groups)).collect();
        rows.sort_by(|a, b| b.weight_s.total_cmp(&a.weight_s));
        rows.truncate(MAX_KNOTS);
        rows
    }

    fn knot(&self, nodes: &[usize], edges: &[Edge], groups: &Groups) -> Knot {
        let group = |node: usize| match groups.list.get(node) {
            Some((names, threads)) => Group {
                process: names.and_then(|(process, _)| self.names.text(process)),
                thread: names.and_then(|(_, thread)| self.names.text(thread)),
                threads: *threads,
            },
            None => Group { thread: Some("devices".to_owned()), ..Group::default() },
        };
        let mut into: Vec<&Edge> = edges.iter().filter(|edge| nodes.contains(&edge.to)).collect();
        into.sort_by_key(|edge| Reverse(edge.weight as u64));
        let edge = |edge: &&Edge| KnotEdge { from: group(edge.from), to: group(edge.to), s: nanoseconds(edge.weight) };
        Knot {
            groups: nodes.iter().map(|node| group(*node)).collect(),
            weight_s: nanoseconds(into.iter().map(|edge| edge.weight).sum()),
            edges: into.iter().take(MAX_EDGES).map(edge).collect(),
        }
    }
}

/// Seconds, to the nanosecond: sums of floating numbers have more digits than they know.
fn nanoseconds(ns: f64) -> f64 {
    seconds(ns.round() as u64)
}
