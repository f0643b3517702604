//! What the families that see memory keep in maps and write no record of: pages of the page cache by file, and at the end what threads
//! that still live had counted since their last record.

use std::{collections::BTreeMap, io};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuHashMap},
};
use tracer_common::{
    block::{DirtiedKey, DirtiedSums, RequestSums},
    config::Config,
    file_calls::{FileCallsKey, FileCallsSlot, FileCallsSums},
    loss::OwnSoftirq,
    mapping::MapSums,
    memory::{CacheSums, FaultSums, FaultWatch, FileKey, StallKind, StallSums, fault_kind, fault_state},
    net::{UnixKey, UnixSums},
};

use super::{
    attach::chain,
    disks,
    loader::{LoadError, map_error, take},
    proc,
};
use crate::model::meta::{CacheRow, DirtiedRow, FaultsRow, FileCallsRow, MappedRow, StallsRow, SumsRecord};

/// Makes plain structs of the binary interface values and keys of maps.
macro_rules! values {
    ($($name:ident of $inner:ty),*) => {$(
        #[doc = concat!("[`", stringify!($inner), "`] in a map.")]
        #[repr(transparent)]
        #[derive(Clone, Copy)]
        pub struct $name(pub $inner);

        // SAFETY: plain numbers without padding (sizes are asserted beside the types), any bit pattern is valid.
        unsafe impl aya::Pod for $name {}
    )*};
}

values!(FaultsValue of FaultSums, StallsValue of StallSums, MappedValue of MapSums, FileValue of FileKey, CacheValue of CacheSums,
    DirtiedKeyValue of DirtiedKey, DirtiedValue of DirtiedSums, RequestValue of RequestSums, CallsKeyValue of FileCallsKey, CallsValue of FileCallsSums,
    CallsSlotValue of FileCallsSlot, WatchValue of FaultWatch, UnixKeyValue of UnixKey, UnixSumsValue of UnixSums,
    OwnSoftirqValue of OwnSoftirq);

/// See the file's head. A family that does not run has none.
pub struct MemoryMaps {
    faults: Option<Array<MapData, FaultsValue>>,
    stalls: Option<Array<MapData, StallsValue>>,
    mapped: Option<Array<MapData, MappedValue>>,
    cache: Option<PerCpuHashMap<MapData, FileValue, CacheValue>>,
    dirtied: Option<PerCpuHashMap<MapData, DirtiedKeyValue, DirtiedValue>>,
    calls: Option<HashMap<MapData, CallsKeyValue, CallsValue>>,
    call_slots: Option<Array<MapData, CallsSlotValue>>,
    /// Requests of disks that are under way, if they are followed.
    requests: Option<HashMap<MapData, u64, RequestValue>>,
    slot_mask: u32,
}

fn array<V: aya::Pod>(ebpf: &mut Ebpf, name: &'static str, on: u32) -> Result<Option<Array<MapData, V>>, LoadError> {
    if on != 1 {
        return Ok(None);
    }
    Array::try_from(take(ebpf, name)?).map(Some).map_err(|error| map_error(name, &error))
}

impl MemoryMaps {
    /// Takes the maps of the families that run.
    pub(super) fn take(ebpf: &mut Ebpf, config: &Config) -> Result<Self, LoadError> {
        let cache = match config.cache {
            1 => {
                let map = PerCpuHashMap::try_from(take(ebpf, "CACHE_FILES")?);
                Some(map.map_err(|error| map_error("CACHE_FILES", &error))?)
            }
            _ => None,
        };
        let dirtied = match config.block.dirtied {
            1 => {
                let map = PerCpuHashMap::try_from(take(ebpf, "DIRTIED")?);
                Some(map.map_err(|error| map_error("DIRTIED", &error))?)
            }
            _ => None,
        };
        let calls = match config.file_calls {
            1 => {
                let map = HashMap::try_from(take(ebpf, "FILE_CALLS")?);
                Some(map.map_err(|error| map_error("FILE_CALLS", &error))?)
            }
            _ => None,
        };
        let requests = match config.block.requests {
            1 => {
                let map = HashMap::try_from(take(ebpf, "REQUESTS")?);
                Some(map.map_err(|error| map_error("REQUESTS", &error))?)
            }
            _ => None,
        };
        Ok(Self {
            dirtied,
            calls,
            call_slots: array(ebpf, "FILE_SLOTS", config.file_calls)?,
            faults: array(ebpf, "FAULTS", config.faults)?,
            stalls: array(ebpf, "STALLS", config.stalls)?,
            mapped: array(ebpf, "MAPPED", config.map)?,
            cache,
            requests,
            slot_mask: config.slot_mask,
        })
    }

    /// What is summed up since tracing began, and, if asked for, which disks there are. `None`: nothing of it is counted.
    pub fn sums(&self, with_disks: bool) -> io::Result<Option<SumsRecord>> {
        if self.cache.is_none() && self.dirtied.is_none() && self.requests.is_none() && self.calls.is_none() {
            return Ok(None);
        }
        let disks = if with_disks && self.requests.is_some() { disks::read() } else { Vec::new() };
        let (files, dirtied, calls) = (self.cache()?, self.dirtied()?, self.calls(false)?);
        Ok(Some(SumsRecord { files, dirtied, calls, disks, ..SumsRecord::default() }))
    }

    /// Files with what became of their pages.
    fn cache(&self) -> io::Result<Vec<CacheRow>> {
        let Some(map) = &self.cache else { return Ok(Vec::new()) };
        let mut files = BTreeMap::new();
        for entry in map.iter() {
            let (file, values) = entry.map_err(|error| io::Error::other(chain(&error)))?;
            let row: &mut CacheRow = files.entry(file.0).or_default();
            (row.device, row.inode) = (file.0.device, file.0.inode);
            let most = values.iter().map(|value| value.0).max_by_key(|sums| sums.reclaimed_writing);
            let writer = most.filter(|sums| sums.reclaimed_writing > 0).map_or(0, |sums| sums.writer);
            (row.writer_tgid, row.writer_tid) = ((writer >> 32) as u32, writer as u32);
            for value in values.iter() {
                row.read += value.0.read;
                row.written += value.0.written;
                row.size_bytes = row.size_bytes.max(value.0.size_bytes);
                row.reclaimed_own += value.0.reclaimed_own;
                row.reclaimed_others += value.0.reclaimed_others;
                row.reclaimed_unused += value.0.reclaimed_unused;
                row.dropped += value.0.dropped;
                row.read_last_ts_ns = row.read_last_ts_ns.max(value.0.read_last_ts_ns);
                row.read_first_ts_ns = match (row.read_first_ts_ns, value.0.read_first_ts_ns) {
                    (0, first) | (first, 0) => first,
                    (one, other) => one.min(other),
                };
                row.reclaimed_writing += value.0.reclaimed_writing;
            }
        }
        Ok(files.into_values().collect())
    }

    /// Pages that processes dirtied, by file.
    fn dirtied(&self) -> io::Result<Vec<DirtiedRow>> {
        let Some(map) = &self.dirtied else { return Ok(Vec::new()) };
        let mut dirtied = Vec::new();
        for entry in map.iter() {
            let (key, values) = entry.map_err(|error| io::Error::other(chain(&error)))?;
            let most = values.iter().map(|value| value.0).max_by_key(|sums| sums.pages).unwrap_or_default();
            let pages = values.iter().fold(0u64, |sum, value| sum.saturating_add(value.0.pages));
            let (device, inode, tgid) = (key.0.file.device, key.0.file.inode, key.0.tgid);
            dirtied.push(DirtiedRow { device, inode, tgid, tid: most.tid, pages });
        }
        dirtied.sort_by_key(|row| (row.device, row.inode, row.tgid));
        Ok(dirtied)
    }

    /// Calls that read and write files; `with_last`: also those to the file that a thread is at, when no program runs any more.
    fn calls(&self, with_last: bool) -> io::Result<Vec<FileCallsRow>> {
        let Some(map) = &self.calls else { return Ok(Vec::new()) };
        let mut all: BTreeMap<FileCallsKey, FileCallsSums> = BTreeMap::new();
        for entry in map.iter() {
            let (key, sums) = entry.map_err(|error| io::Error::other(chain(&error)))?;
            all.insert(key.0, sums.0);
        }
        // Each entry, not those of threads that live: one that runs a program takes another id.
        let slots = self.call_slots.iter().filter(|_| with_last).flat_map(|slots| slots.iter().flatten());
        for CallsSlotValue(slot) in slots.filter(|slot| slot.0.tid != 0 && slot.0.is_file == 1) {
            let key = FileCallsKey { file: slot.file, tgid: slot.tgid, reserved: 0 };
            all.entry(key).or_default().add(&slot.sums);
        }
        Ok(all.iter().map(|(key, sums)| calls_row(key, sums)).collect())
    }

    /// What threads that live have counted since their last record. No program runs any more.
    pub fn rest(&self, record: &mut SumsRecord) {
        // What was read of them before stays where this cannot be read.
        record.calls = self.calls(true).unwrap_or_else(|_| std::mem::take(&mut record.calls));
        record.unfinished = self.requests.as_ref().map_or(0, |map| map.keys().flatten().count() as u64);
        if self.faults.is_none() && self.stalls.is_none() && self.mapped.is_none() {
            return;
        }
        for tid in proc::processes().into_iter().flat_map(proc::threads) {
            let index = tid & self.slot_mask;
            let faults = self.faults.as_ref().and_then(|map| map.get(&index, 0).ok());
            record.faults.extend(faults.and_then(|value| faults_of(tid, &value.0)));
            let stalls = self.stalls.as_ref().and_then(|map| map.get(&index, 0).ok());
            record.stalls.extend(stalls.and_then(|value| stalls_of(tid, &value.0)));
            let mapped = self.mapped.as_ref().and_then(|map| map.get(&index, 0).ok());
            record.mapped.extend(mapped.and_then(|value| mapped_of(tid, &value.0)));
        }
    }
}

fn calls_row(key: &FileCallsKey, sums: &FileCallsSums) -> FileCallsRow {
    let FileCallsSums { reads, read_bytes, writes, written_bytes } = *sums;
    let (device, inode) = (key.file.device, key.file.inode);
    FileCallsRow { device, inode, tgid: key.tgid, reads, read_bytes, writes, written_bytes }
}

fn faults_of(tid: u32, sums: &FaultSums) -> Option<FaultsRow> {
    if sums.tid != tid || (sums.pending == 0 && sums.open == fault_state::NONE) {
        return None;
    }
    let mut counts = sums.counts;
    if [fault_state::OPEN, fault_state::LEFT].contains(&sums.open) {
        // Whether it was a major one shows in a count that was not read again: it counts as a minor one.
        let kind = fault_kind(sums.error, sums.touched, sums.huge == 1, false);
        counts[kind as usize] += 1;
    }
    Some(FaultsRow { tid, tgid: sums.tgid, since_ts_ns: sums.since_ts_ns, counts: counts.to_vec() })
}

fn mapped_of(tid: u32, sums: &MapSums) -> Option<MappedRow> {
    let any = sums.tid == tid && sums.pending != 0;
    any.then(|| MappedRow {
        tid,
        tgid: sums.tgid,
        since_ts_ns: sums.since_ts_ns,
        counts: sums.counts.to_vec(),
        bytes: sums.bytes.to_vec(),
        mappings: sums.mappings,
        mappings_most: sums.mappings_most,
    })
}

fn stalls_of(tid: u32, sums: &StallSums) -> Option<StallsRow> {
    let any = sums.tid == tid && sums.count != 0;
    any.then(|| StallsRow {
        tid,
        tgid: sums.tgid,
        stall: StallKind::from_number(sums.kind).id().to_owned(),
        since_ts_ns: sums.since_ts_ns,
        until_ts_ns: sums.last_ts_ns,
        total_ns: sums.total_ns,
        pages: sums.pages,
        count: u64::from(sums.count),
    })
}
