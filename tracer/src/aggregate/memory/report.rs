//! The report's section `memory`.

use std::cmp::Reverse;

use super::tmpfs::{Death, Filling, Mount};
use super::{Cgroup, Process, held, resident};
use crate::aggregate::Aggregate;
use crate::aggregate::build::known;
use crate::model::memory::{
    BusError, CgroupSizes, Forecast, HostSizes, Memory as Section, ProcessSizes, Sizes, TmpfsFilling, TmpfsSizes,
};
use crate::model::meta::{PressureTotals, ProcessMemory};
use crate::model::report::seconds;
use crate::model::stacks::Whose;
use crate::model::text::printable;

/// Rows of each list.
const MAX_ROWS: usize = 32;
/// Of those on file systems in memory.
const MAX_TMPFS: usize = 16;
/// A cgroup without a limit is told if it grew by this.
const TOLD_GROWTH_BYTES: u64 = 16 << 20;
/// Counted by the kernel in pages.
const PAGE_BYTES: u64 = 4096;

impl Aggregate {
    /// The section; none where nothing was read.
    pub(in crate::aggregate) fn memory_part(&self) -> Option<Section> {
        let memory = &self.memory;
        if memory.readings == 0 {
            return None;
        }
        let mut processes: Vec<(u32, &Process)> =
            memory.processes.iter().map(|(pid, process)| (*pid, process)).collect();
        processes.sort_by_key(|(pid, process)| (Reverse(resident(&process.most.1)), *pid));
        let over = processes.split_off(processes.len().min(MAX_ROWS)).len() as u64;
        let names = self.processes.ranked();
        let name = |pid: u32| {
            let process = names.iter().find(|process| process.tgid == pid)?;
            self.names.text(process.name)
        };
        let told = |cgroup: &&Cgroup| {
            let growth = held(&cgroup.last).saturating_sub(held(&cgroup.first));
            let swaps = cgroup.last.swapped.is_some_and(|bytes| bytes > 0);
            cgroup.last.limit.is_some() || cgroup.last.high.is_some() || growth >= TOLD_GROWTH_BYTES || swaps
        };
        let fullest = self.fullest();
        Some(Section {
            readings: memory.readings,
            host: memory.host.as_ref().map(|(first, last, least)| HostSizes {
                total_bytes: last.total,
                available_first_bytes: first.available,
                available_least_bytes: *least,
                available_last_bytes: last.available,
                swap_used_bytes: last.swap_total.saturating_sub(last.swap_free),
                swap_total_bytes: last.swap_total,
                swapped_in_bytes: pages_between(first.swapped_in, last.swapped_in),
                swapped_out_bytes: pages_between(first.swapped_out, last.swapped_out),
                pressure_memory_some_s: between(first.pressure_memory, last.pressure_memory, |total| total.some_us),
                pressure_memory_full_s: between(first.pressure_memory, last.pressure_memory, |total| total.full_us),
                pressure_io_some_s: between(first.pressure_io, last.pressure_io, |total| total.some_us),
                pressure_io_full_s: between(first.pressure_io, last.pressure_io, |total| total.full_us),
            }),
            processes: processes
                .into_iter()
                .map(|(pid, process)| self.process_sizes(pid, process, name(pid)))
                .collect(),
            processes_over: memory.processes_over + over,
            cgroups: memory
                .cgroups
                .values()
                .filter(told)
                .take(MAX_ROWS)
                .map(|cgroup| self.cgroup_sizes(cgroup))
                .collect(),
            forecasts: self.forecasts(),
            tmpfs: fullest.iter().map(|index| self.tmpfs_sizes(&memory.tmpfs.mounts[*index])).collect(),
            tmpfs_over: memory.tmpfs.over + (memory.tmpfs.mounts.len() - fullest.len()) as u64,
            bus_errors: memory
                .tmpfs
                .deaths
                .iter()
                .map(|death| self.bus_error(death, &fullest, name(death.tgid)))
                .collect(),
            bus_errors_over: memory.tmpfs.deaths_over,
            numa: self.numa_part(name),
        })
    }

    pub(in crate::aggregate) fn t_s(&self, t_ns: u64) -> f64 {
        seconds(t_ns.saturating_sub(self.span.start_ns))
    }

    fn series(&self, series: &super::Series) -> Vec<(f64, u64)> {
        series.all().map(|(t_ns, value)| (self.t_s(*t_ns), *value)).collect()
    }

    fn sizes(&self, (t_ns, sizes): &(u64, ProcessMemory)) -> Sizes {
        Sizes {
            t_s: self.t_s(*t_ns),
            anonymous_bytes: sizes.anonymous,
            file_bytes: sizes.file,
            shared_bytes: sizes.shared,
            swapped_bytes: sizes.swapped,
        }
    }

    fn process_sizes(&self, pid: u32, process: &Process, name: Option<String>) -> ProcessSizes {
        ProcessSizes {
            pid,
            process: name,
            cgroup: process.cgroup.as_ref().map(|path| printable(path.as_bytes())),
            first: self.sizes(&process.first),
            most: self.sizes(&process.most),
            last: self.sizes(&process.last),
            peak_bytes: process.last.1.peak,
            swapped_most_bytes: process.swapped_most,
            locked_most_bytes: process.locked_most,
            growth: self.growth_part(&process.growth),
            series: self.series(&process.series),
        }
    }

    fn cgroup_sizes(&self, cgroup: &Cgroup) -> CgroupSizes {
        let (first, last) = (&cgroup.first, &cgroup.last);
        let since = |first: Option<u64>, last: Option<u64>| Some(last?.saturating_sub(first?));
        CgroupSizes {
            path: printable(last.path.as_bytes()),
            limit_bytes: last.limit,
            high_bytes: last.high,
            usage_bytes: last.usage,
            anonymous_bytes: last.anonymous,
            file_bytes: last.file,
            shared_bytes: last.shared,
            kernel_bytes: last.kernel,
            dirty_bytes: last.dirty,
            limit_hits: last.limit_hits.saturating_sub(first.limit_hits),
            oom_kills: since(first.oom_kills, last.oom_kills),
            refaulted_bytes: pages_between(first.refaults_file, last.refaults_file),
            swapped_bytes: last.swapped.filter(|bytes| *bytes > 0),
            swap_limit_bytes: last.swap_limit,
            refaulted_anonymous_bytes: pages_between(first.refaults_anonymous, last.refaults_anonymous)
                .filter(|bytes| *bytes > 0),
            pressure_full_s: between(first.pressure, last.pressure, |total| total.full_us),
            series: self.series(&cgroup.series),
        }
    }

    /// The file systems in memory that are told, the fullest first.
    fn fullest(&self) -> Vec<usize> {
        let mounts = &self.memory.tmpfs.mounts;
        let mut all: Vec<usize> = (0..mounts.len()).collect();
        all.sort_by(|a, b| {
            let (a, b) = (&mounts[*a], &mounts[*b]);
            b.most.share().total_cmp(&a.most.share()).then_with(|| (&a.path, a.pid).cmp(&(&b.path, b.pid)))
        });
        all.truncate(MAX_TMPFS);
        all
    }

    fn tmpfs_sizes(&self, mount: &Mount) -> TmpfsSizes {
        TmpfsSizes {
            path: printable(mount.path.as_bytes()),
            device: printable(mount.device.as_bytes()),
            pid: mount.pid,
            size_bytes: mount.last.size,
            first_bytes: mount.first.used,
            most_bytes: mount.most.used,
            most_share: mount.most.share(),
            most_t_s: self.t_s(mount.most.t_ns),
            last_bytes: mount.last.used,
            last_t_s: self.t_s(mount.last.t_ns),
            series: self.series(&mount.series),
        }
    }

    fn bus_error(&self, death: &Death, told: &[usize], process: Option<String>) -> BusError {
        let (name, named) = self.stacks.name_of(death.tgid, death.tid).unwrap_or_default();
        let filling = |filling: &Filling| {
            let reading = filling.reading;
            Some(TmpfsFilling {
                tmpfs: told.iter().position(|index| *index == filling.mount)? as u64,
                used_bytes: reading.used,
                used_share: reading.share(),
                before_s: seconds(death.t_ns.saturating_sub(reading.t_ns)),
                bytes_per_s: filling.per_s,
            })
        };
        BusError {
            t_s: self.t_s(death.t_ns),
            whose: Whose {
                process: self.names.text(named).or(process),
                pid: known(death.tgid),
                thread: self.names.text(name),
                tid: known(death.tid),
            },
            fillings: death.fillings.iter().filter_map(filling).collect(),
        }
    }

    /// Those of all cgroups and of the host, in the order of time.
    fn forecasts(&self) -> Vec<Forecast> {
        let of = |cgroup: &Cgroup| {
            let made = cgroup.forecasts.all();
            made.map(|made| self.forecast(Some(&cgroup.last.path), made)).collect::<Vec<_>>()
        };
        let mut all: Vec<Forecast> = self.memory.cgroups.values().flat_map(of).collect();
        all.extend(self.memory.host_forecasts.all().map(|made| self.forecast(None, made)));
        all.sort_by(|a, b| a.t_s.total_cmp(&b.t_s));
        all
    }

    fn forecast(&self, path: Option<&str>, made: &super::Made) -> Forecast {
        Forecast {
            t_s: self.t_s(made.t_ns),
            cgroup: path.map(|path| printable(path.as_bytes())),
            bytes: made.bytes,
            limit_bytes: made.limit,
            bytes_per_s: made.eta.per_s,
            eta_s: made.eta.s,
            eta_low_s: made.eta.low_s,
            eta_high_s: made.eta.high_s,
        }
    }
}

/// Bytes of the pages that a counter counted between two readings.
fn pages_between(first: Option<u64>, last: Option<u64>) -> Option<u64> {
    Some(last?.saturating_sub(first?).saturating_mul(PAGE_BYTES))
}

/// Seconds of pressure between two readings.
fn between(
    first: Option<PressureTotals>,
    last: Option<PressureTotals>,
    total_us: impl Fn(PressureTotals) -> u64,
) -> Option<f64> {
    Some(seconds(total_us(last?).saturating_sub(total_us(first?)).saturating_mul(1000)))
}
