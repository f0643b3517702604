//! The report's section `database`.

use std::cmp::Reverse;

use super::split::{Part, Spent};
use super::{Key, Sums};
use crate::aggregate::Aggregate;
use crate::aggregate::build::known;
use crate::aggregate::critical_path::walk::Visit;
use crate::aggregate::hash::FastMap;
use crate::aggregate::stacks::report::Named;
use crate::model::database::{Database, OtherStatements, Statement, StatementTime};
use crate::model::report::seconds;
use crate::model::stacks::{FunctionTime, Whose};

const MAX_STATEMENTS: usize = 64;
const MAX_FUNCTIONS: usize = 4;

/// Time of each statement on the critical path.
type OnPath = FastMap<Key, u64>;

impl Aggregate {
    /// The section; none where databases were not looked at. `visits`: when the critical path led through threads that made calls, and how
    /// long it is.
    pub(in crate::aggregate) fn database_part(
        &self,
        stacks: Option<&Named<'_>>,
        visits: Option<(&[Visit], f64)>,
    ) -> Option<Database> {
        let databases = &self.databases;
        if !databases.is_on {
            return None;
        }
        let spent = databases.split(&self.history, &self.stacks, &self.calls);
        let on_path = visits.map(|(visits, total_s)| (self.on_path(visits), total_s));
        let mut ranked: Vec<(&Key, &Sums)> = databases.sums.iter().filter(|(_, sums)| sums.calls > 0).collect();
        ranked.sort_by_key(|(key, sums)| (Reverse(sums.ns), **key));
        let left_out = ranked.split_off(ranked.len().min(MAX_STATEMENTS));
        let nothing = Spent::default();
        let row = |(key, sums): (&Key, &Sums)| {
            let on_path = on_path.as_ref().map(|(ns, all)| (ns.get(key).copied().unwrap_or(0), *all));
            self.statement(key, sums, spent.get(key).unwrap_or(&nothing), on_path, stacks)
        };
        Some(Database {
            libraries: databases.clients.clone(),
            statements: ranked.into_iter().map(row).collect(),
            others: (!left_out.is_empty()).then(|| OtherStatements {
                statements: left_out.len() as u64,
                executions: left_out.iter().map(|(_, sums)| sums.executions.count).sum(),
                total_s: seconds(left_out.iter().fold(0, |sum, (_, sums)| sum.saturating_add(sums.ns))),
            }),
            over: databases.over,
        })
    }

    fn on_path(&self, visits: &[Visit]) -> OnPath {
        let mut by_thread: FastMap<u32, Vec<(u64, u64)>> = FastMap::default();
        for visit in visits {
            by_thread.entry(visit.serial).or_default().push((visit.from_ns, visit.to_ns));
        }
        by_thread.values_mut().for_each(|visits| visits.sort_unstable());
        let mut on_path = OnPath::default();
        for call in &self.databases.calls {
            let Some(visits) = by_thread.get(&call.serial) else { continue };
            let first = visits.partition_point(|(_, to_ns)| *to_ns <= call.start_ns);
            let during = visits[first..].iter().take_while(|(from_ns, _)| *from_ns < call.end_ns);
            let overlap =
                |(from_ns, to_ns): &(u64, u64)| to_ns.min(&call.end_ns).saturating_sub(*from_ns.max(&call.start_ns));
            let overlap_ns: u64 = during.map(overlap).sum();
            // Between several calls the thread did something else.
            let whole_ns = call.end_ns.saturating_sub(call.start_ns).max(1);
            let ns = u128::from(overlap_ns) * u128::from(call.spent_ns) / u128::from(whole_ns);
            let sum = on_path.entry(call.key).or_default();
            *sum = sum.saturating_add(ns as u64);
        }
        on_path
    }

    fn statement(
        &self,
        key: &Key,
        sums: &Sums,
        spent: &Spent,
        on_path: Option<(u64, f64)>,
        stacks: Option<&Named<'_>>,
    ) -> Statement {
        let most = sums.threads.iter().max_by_key(|(serial, ns)| (**ns, Reverse(**serial)));
        let life = most.and_then(|(serial, _)| self.history.life(*serial)).copied().unwrap_or_default();
        let executions = &sums.executions;
        let ns_each = executions.ns.checked_div(executions.count).unwrap_or(0);
        let of = |part| seconds(spent.of(part));
        Statement {
            client: key.1.id().to_owned(),
            text: self.databases.texts.get(&key.0).cloned(),
            whose: Whose {
                process: self.names.text(life.process),
                pid: known(life.tgid),
                thread: self.names.text(life.name),
                tid: known(life.tid),
            },
            threads: (sums.threads.len() + sums.more_threads.len()) as u64,
            executions: executions.count,
            failed: sums.failed,
            busy: sums.busy,
            calls: sums.calls,
            total_s: seconds(sums.ns),
            prepare_s: seconds(sums.prepare_ns),
            mean_s: seconds(ns_each),
            p50_s: seconds(executions.quantile_ns(0.5)),
            p99_s: seconds(executions.quantile_ns(0.99)),
            max_s: seconds(executions.longest_ns),
            on_path_s: on_path.map(|(ns, _)| seconds(ns)),
            on_path_share: on_path.map(|(ns, all)| if all > 0.0 { seconds(ns) / all } else { 0.0 }),
            asynchronous: sums.asynchronous,
            spent: StatementTime {
                computing_s: of(Part::Computing),
                queued_s: of(Part::Queued),
                send_s: of(Part::Send),
                server_s: of(Part::Server),
                file_s: of(Part::File),
                lock_s: of(Part::Lock),
                other_s: of(Part::Other),
                unknown_s: seconds(spent.of(Part::Unknown).saturating_add(sums.loose_ns)),
            },
            functions: stacks.map(|stacks| functions(stacks, spent)).unwrap_or_default(),
        }
    }
}

/// From which functions a statement was run: those of its samples, and those in which it waited.
fn functions(stacks: &Named<'_>, spent: &Spent) -> Vec<FunctionTime> {
    let mut merged = stacks.callers(&spent.stacks, spent.of(Part::Computing));
    let waits = [Part::Send, Part::Server, Part::File, Part::Lock, Part::Other];
    let waited_ns = waits.into_iter().fold(0u64, |sum, part| sum.saturating_add(spent.of(part)));
    for time in stacks.callers(&spent.waits, waited_ns) {
        match merged.iter_mut().find(|known| known.location == time.location) {
            Some(known) => known.total_s += time.total_s,
            None => merged.push(time),
        }
    }
    merged.sort_by(|left, right| right.total_s.total_cmp(&left.total_s));
    merged.truncate(MAX_FUNCTIONS);
    merged
}
