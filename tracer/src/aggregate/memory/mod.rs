//! Sizes of processes and cgroups over time, as user space read them. Bounded: 1,024 processes and 128 cgroups with up to 256 points each
//! (every second one is dropped when there are more), 512 forecasts.

mod forecast;
mod report;

use std::collections::BTreeMap;

use self::forecast::Trend;
use super::thread::Span;
use crate::model::meta::{CgroupMemory, HostMemory, MemoryRecord, ProcessMemory};

/// Processes kept.
const MAX_PROCESSES: usize = 1_024;
/// Cgroups kept.
const MAX_CGROUPS: usize = 128;
/// Points kept of each.
const MAX_POINTS: usize = 256;
/// Forecasts kept.
const MAX_FORECASTS: usize = 512;

/// Values over time; the first and the last one always stay.
#[derive(Clone, Debug, Default)]
pub struct Series {
    points: Vec<(u64, u64)>,
    last: Option<(u64, u64)>,
    /// One of so many is kept.
    step: u64,
    seen: u64,
}

impl Series {
    fn push(&mut self, t_ns: u64, value: u64) {
        self.step = self.step.max(1);
        if self.seen.is_multiple_of(self.step) {
            if self.points.len() >= MAX_POINTS {
                let mut position = 0;
                self.points.retain(|_| {
                    position += 1;
                    position % 2 == 1
                });
                self.step *= 2;
            }
            if self.seen.is_multiple_of(self.step) {
                self.points.push((t_ns, value));
            }
        }
        self.seen += 1;
        self.last = Some((t_ns, value));
    }

    /// The kept points and the last one.
    fn all(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let last = self.last.filter(|last| self.points.last() != Some(last));
        self.points.iter().copied().chain(last)
    }
}

/// A process.
#[derive(Clone, Debug, Default)]
struct Process {
    cgroup: Option<String>,
    first: (u64, ProcessMemory),
    most: (u64, ProcessMemory),
    last: (u64, ProcessMemory),
    series: Series,
}

/// A cgroup.
#[derive(Clone, Debug)]
struct Cgroup {
    first: CgroupMemory,
    last: CgroupMemory,
    series: Series,
    trend: Trend,
}

/// A forecast that was made.
#[derive(Clone, Debug)]
struct Made {
    t_ns: u64,
    cgroup: String,
    bytes: u64,
    limit: u64,
    eta: forecast::Eta,
}

/// See the file's head.
#[derive(Default)]
pub struct Memory {
    readings: u64,
    host: Option<(HostMemory, HostMemory, u64)>,
    processes: BTreeMap<u32, Process>,
    processes_over: u64,
    cgroups: BTreeMap<String, Cgroup>,
    forecasts: Vec<Made>,
    /// One forecast of so many is kept.
    forecast_step: u64,
    forecasts_made: u64,
}

/// What cannot be dropped and read again.
fn held(cgroup: &CgroupMemory) -> u64 {
    cgroup.anonymous.saturating_add(cgroup.shared).saturating_add(cgroup.kernel)
}

fn resident(process: &ProcessMemory) -> u64 {
    process.anonymous.saturating_add(process.shared)
}

impl Memory {
    /// Takes a reading.
    pub fn record(&mut self, record: &MemoryRecord, span: &Span) {
        if record.at_ns < span.start_ns {
            return;
        }
        self.readings += 1;
        let t_ns = record.at_ns;
        if let Some(host) = &record.host {
            let (_, last, least) = self.host.get_or_insert_with(|| (host.clone(), host.clone(), host.available));
            *last = host.clone();
            *least = (*least).min(host.available);
        }
        for process in &record.processes {
            self.process(t_ns, process);
        }
        for cgroup in &record.cgroups {
            self.cgroup(t_ns, cgroup);
        }
    }

    fn process(&mut self, t_ns: u64, sizes: &ProcessMemory) {
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&sizes.pid) {
            self.processes_over += 1;
            return;
        }
        let now = (t_ns, ProcessMemory { cgroup: None, ..sizes.clone() });
        let known = self.processes.entry(sizes.pid).or_insert_with(|| Process {
            first: now.clone(),
            most: now.clone(),
            ..Process::default()
        });
        if let Some(cgroup) = &sizes.cgroup {
            known.cgroup = Some(cgroup.clone());
        }
        if resident(sizes) > resident(&known.most.1) {
            known.most = now.clone();
        }
        known.last = now;
        known.series.push(t_ns, resident(sizes));
    }

    fn cgroup(&mut self, t_ns: u64, cgroup: &CgroupMemory) {
        if self.cgroups.len() >= MAX_CGROUPS && !self.cgroups.contains_key(&cgroup.path) {
            return;
        }
        let known = self.cgroups.entry(cgroup.path.clone()).or_insert_with(|| Cgroup {
            first: cgroup.clone(),
            last: cgroup.clone(),
            series: Series::default(),
            trend: Trend::default(),
        });
        known.last = cgroup.clone();
        known.series.push(t_ns, held(cgroup));
        known.trend.push(t_ns, held(cgroup));
        let Some(limit) = cgroup.limit else { return };
        let Some(eta) = known.trend.until(limit) else { return };
        self.forecast_step = self.forecast_step.max(1);
        if self.forecasts.len() >= MAX_FORECASTS {
            let mut position = 0;
            self.forecasts.retain(|_| {
                position += 1;
                position % 2 == 1
            });
            self.forecast_step *= 2;
        }
        if self.forecasts_made.is_multiple_of(self.forecast_step) {
            let made = Made { t_ns, cgroup: cgroup.path.clone(), bytes: held(cgroup), limit, eta };
            self.forecasts.push(made);
        }
        self.forecasts_made += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_series_is_thinned_out_and_keeps_its_ends() {
        let mut series = Series::default();
        (0..10_000).for_each(|t| series.push(t, t * 2));
        let all: Vec<(u64, u64)> = series.all().collect();
        assert!(all.len() <= MAX_POINTS + 1 && all.len() > MAX_POINTS / 3, "{}", all.len());
        assert_eq!((all.first(), all.last()), (Some(&(0, 0)), Some(&(9_999, 19_998))));
        let gaps: std::collections::BTreeSet<u64> = all.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(gaps.len() <= 2, "evenly, but for the last: {gaps:?}");
    }
}
