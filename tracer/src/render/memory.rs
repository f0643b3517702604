//! The text report's section on memory: who held what, how it grew, which limits there are, of cgroups and of file systems in memory, what
//! came back from swap, and on which NUMA nodes it lies. Left out where nothing grew, nothing is near a limit and no rule speaks of it.

use super::layout::{Align, Page};
use crate::model::memory::{
    CgroupSizes, GrowthRow, HostSizes, Memory, NumaPart, NumaProcess, ProcessSizes, Sizes, TmpfsSizes,
};
use crate::model::report::Report;
use crate::model::units::{bytes, duration, percent};

const MAX_ROWS: usize = 6;
/// Less growth of a process is not worth a table.
const LEAST_GROWTH_BYTES: u64 = 64 << 20;
/// Less growth of a part of it is not told.
const LEAST_PART_BYTES: u64 = 1 << 20;
/// From this part of its limit on a cgroup is near it.
const NEAR: f64 = 0.8;
/// Columns of the drawn course.
const COURSE_CHARS: usize = 24;
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// All that there is to say.
pub(super) fn section(page: &mut Page, report: &Report) {
    let Some(memory) = &report.memory else { return };
    let of_memory =
        |class: &str| class.starts_with("oom-") || ["shm-exhaustion", "swap-in", "numa-remote"].contains(&class);
    let told = report.findings.iter().any(|finding| of_memory(&finding.class));
    let grew = memory.processes.iter().any(|process| growth(process) >= LEAST_GROWTH_BYTES);
    let near = memory.cgroups.iter().any(is_near) || memory.tmpfs.iter().any(|tmpfs| tmpfs.most_share >= NEAR);
    if !told && !grew && !near {
        return;
    }
    page.title("Memory");
    processes(page, memory);
    growths(page, memory);
    cgroups(page, memory);
    file_systems(page, memory);
    nodes(page, memory);
    if let Some(host) = &memory.host {
        let least =
            format!("the host had {} of {} left at least", bytes(host.available_least_bytes), bytes(host.total_bytes));
        let pressure = host.pressure_memory_some_s.filter(|s| *s >= 0.01);
        let pressure =
            pressure.map(|s| format!(", and tasks were stalled for memory for {}", duration(s))).unwrap_or_default();
        page.paragraph("  ", &format!("{least}{pressure}{}", swap(host)));
    }
}

/// What is and was swapped out, in words; nothing where there is no swap or nothing in it.
fn swap(host: &HostSizes) -> String {
    let back = host.swapped_in_bytes.unwrap_or(0);
    if host.swap_used_bytes == 0 && back == 0 {
        return String::new();
    }
    format!(
        "; {} of its {} of swap were in use, and {} came back from there",
        bytes(host.swap_used_bytes),
        bytes(host.swap_total_bytes),
        bytes(back)
    )
}

/// Where processes' memory lies and where they ran, on hosts with several nodes.
fn nodes(page: &mut Page, memory: &Memory) {
    let shown: Vec<&NumaProcess> = memory.numa.iter().flat_map(|numa| &numa.processes).take(MAX_ROWS).collect();
    if shown.is_empty() {
        return;
    }
    let heading = [
        ("process", Align::Left),
        ("memory", Align::Right),
        ("remote", Align::Right),
        ("at least", Align::Right),
        ("NUMA nodes: part of its memory, part of its time", Align::Left),
    ];
    let of = |part: f64, all: f64| percent(part / all.max(f64::MIN_POSITIVE));
    let row = |process: &&NumaProcess| {
        let (memory, time) = (process.resident_bytes as f64, process.on_cpu_s);
        let part =
            |part: &NumaPart| format!("{}: {}, {}", part.node, of(part.bytes as f64, memory), of(part.on_cpu_s, time));
        vec![
            format!("{} ({})", process.process.as_deref().unwrap_or("?"), process.pid),
            bytes(process.resident_bytes),
            process.remote_share.map(percent).unwrap_or_default(),
            process.least_remote_share.map(percent).unwrap_or_default(),
            process.nodes.iter().take(MAX_ROWS).map(part).collect::<Vec<_>>().join("; "),
        ]
    };
    page.table(&heading, &shown.iter().map(row).collect::<Vec<_>>());
}

fn resident(sizes: &Sizes) -> u64 {
    sizes.anonymous_bytes.saturating_add(sizes.shared_bytes)
}

fn growth(process: &ProcessSizes) -> u64 {
    resident(&process.most).saturating_sub(resident(&process.first))
}

fn is_near(cgroup: &CgroupSizes) -> bool {
    cgroup.limit_bytes.is_some_and(|limit| cgroup.usage_bytes as f64 >= NEAR * limit as f64)
}

/// A course over time as a row of blocks, the highest of all its points filling one.
fn course(series: &[(f64, u64)]) -> String {
    let (Some(first), Some(last)) = (series.first(), series.last()) else { return String::new() };
    let most = series.iter().map(|(_, value)| *value).max().unwrap_or(0);
    if most == 0 || last.0 <= first.0 {
        return String::new();
    }
    let mut columns = [0u64; COURSE_CHARS];
    for (t_s, value) in series {
        let place = ((t_s - first.0) / (last.0 - first.0) * (COURSE_CHARS - 1) as f64).round() as usize;
        if let Some(column) = columns.get_mut(place) {
            *column = (*column).max(*value);
        }
    }
    // A moment without a reading is as the one before.
    let mut before = 0;
    let block = |value: u64| {
        before = if value == 0 { before } else { value };
        let level = before as f64 / most as f64 * (BLOCKS.len() - 1) as f64;
        BLOCKS[(level.round() as usize).min(BLOCKS.len() - 1)]
    };
    columns.into_iter().map(block).collect()
}

fn processes(page: &mut Page, memory: &Memory) {
    let shown: Vec<&ProcessSizes> = memory.processes.iter().take(MAX_ROWS).collect();
    if shown.is_empty() {
        return;
    }
    let heading = [
        ("process", Align::Left),
        ("anonymous", Align::Right),
        ("files", Align::Right),
        ("shared", Align::Right),
        ("grew by", Align::Right),
        ("anonymous and shared over time", Align::Left),
    ];
    let row = |process: &&ProcessSizes| {
        vec![
            format!("{} ({})", process.process.as_deref().unwrap_or("?"), process.pid),
            bytes(process.most.anonymous_bytes),
            bytes(process.most.file_bytes),
            bytes(process.most.shared_bytes),
            bytes(growth(process)),
            course(&process.series),
        ]
    };
    page.table(&heading, &shown.iter().map(row).collect::<Vec<_>>());
}

fn cgroups(page: &mut Page, memory: &Memory) {
    let shown: Vec<&CgroupSizes> =
        memory.cgroups.iter().filter(|cgroup| cgroup.limit_bytes.is_some()).take(MAX_ROWS).collect();
    if shown.is_empty() {
        return;
    }
    let heading = [
        ("cgroup", Align::Left),
        ("limit", Align::Right),
        ("used", Align::Right),
        ("not droppable", Align::Right),
        ("hit", Align::Right),
        ("not droppable over time", Align::Left),
    ];
    let row = |cgroup: &&CgroupSizes| {
        let held = cgroup.anonymous_bytes.saturating_add(cgroup.shared_bytes).saturating_add(cgroup.kernel_bytes);
        vec![
            cgroup.path.clone(),
            cgroup.limit_bytes.map(bytes).unwrap_or_default(),
            bytes(cgroup.usage_bytes),
            bytes(held),
            crate::model::units::grouped(cgroup.limit_hits),
            course(&cgroup.series),
        ]
    };
    page.table(&heading, &shown.iter().map(row).collect::<Vec<_>>());
}

fn file_systems(page: &mut Page, memory: &Memory) {
    let shown: Vec<&TmpfsSizes> = memory.tmpfs.iter().filter(|tmpfs| tmpfs.most_bytes > 0).take(MAX_ROWS).collect();
    if shown.is_empty() {
        return;
    }
    let heading = [
        ("file system in memory", Align::Left),
        ("size", Align::Right),
        ("most used", Align::Right),
        ("at the end", Align::Right),
        ("seen by", Align::Right),
        ("used over time", Align::Left),
    ];
    let row = |tmpfs: &&TmpfsSizes| {
        vec![
            tmpfs.path.clone(),
            bytes(tmpfs.size_bytes),
            bytes(tmpfs.most_bytes),
            bytes(tmpfs.last_bytes),
            tmpfs.pid.to_string(),
            course(&tmpfs.series),
        ]
    };
    page.table(&heading, &shown.iter().map(row).collect::<Vec<_>>());
}

/// What grew in the processes that grew most.
fn growths(page: &mut Page, memory: &Memory) {
    let grew = |row: &GrowthRow| row.most_bytes.saturating_sub(row.first_bytes);
    let mut rows = Vec::new();
    for process in memory.processes.iter().take(MAX_ROWS).filter(|process| growth(process) >= LEAST_GROWTH_BYTES) {
        let by = process.growth.iter().flat_map(|growth| &growth.by).filter(|row| grew(row) >= LEAST_PART_BYTES);
        rows.extend(by.take(MAX_ROWS).map(|row| {
            vec![
                format!("{} ({})", process.process.as_deref().unwrap_or("?"), process.pid),
                row.path.clone().unwrap_or_else(|| row.class.clone()),
                row.kind.clone(),
                bytes(row.first_bytes),
                bytes(grew(row)),
                bytes(row.last_bytes),
            ]
        }));
    }
    if rows.is_empty() {
        return;
    }
    let heading = [
        ("process", Align::Left),
        ("where it grew", Align::Left),
        ("kind", Align::Left),
        ("at first", Align::Right),
        ("grew by", Align::Right),
        ("at the end", Align::Right),
    ];
    page.table(&heading, &rows);
}
