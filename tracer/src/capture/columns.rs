//! A batch of records as the body of a chunk, both ways: grouped by kind and length, predicted, transposed to byte columns,
//! compressed by zstd. Lossless, and in the order of the batch. Knows no kind of record but family 0 (JSON, kept as it is).
//!
//! Unpacked body, numbers as LEB128 unless said otherwise:
//!
//! ```text
//! records, base time, number of groups
//! per group: length, kind (2 bytes), records, key word or 0 (1 byte), a source per payload word (1 byte each),
//!            a bit per byte column: stored, or all zero
//! number of plain records
//! order: the group of each record (1 byte; 255 plain), only where there is a choice
//! plain records: lengths, then bytes
//! columns: group by group, byte by byte
//! ```
//!
//! Each larger column is a zstd frame of its own: columns of noise and columns of repetition share no statistics.

use super::format::MAX_CHUNK_BYTES;
use super::predict::{self, FIRST_WORD, KEY_SLOTS, MAX_COLUMN_BYTES, Plan, Source, key_slot, word};
use crate::pipeline::batch::{Batch, header, header_bytes};
use std::{collections::HashMap, io};
use tracer_common::record::{HEADER_BYTES, Header, family_of};

/// In the order: a record that is kept as it is.
const PLAIN: u8 = 255;
/// Smaller groups are not worth their description.
const MIN_GROUP_RECORDS: u32 = 8;
/// A plan is chosen anew when it was used 1, 2, 4, 8 times, then every so many times.
const PLAN_USES: u32 = 16;
/// Plans kept; beyond it all are chosen anew.
const MAX_PLANS: usize = 1024;
/// Columns shorter than this share a frame.
const MIN_FRAME_BYTES: usize = 1024;

/// What decoding and encoding remember of each CPU.
#[derive(Clone, Copy)]
struct Cpu {
    ts_ns: u64,
    lost: u32,
    /// Index of its last record in the batch, plus 1.
    record: u32,
}

fn cpu_at(cpus: &mut Vec<Cpu>, cpu: u16, base_ts_ns: u64) -> &mut Cpu {
    let index = usize::from(cpu);
    if cpus.len() <= index {
        cpus.resize(index + 1, Cpu { ts_ns: base_ts_ns, lost: 0, record: 0 });
    }
    &mut cpus[index]
}

fn earlier(batch: &Batch, index_plus_1: u32) -> &[u8] {
    (index_plus_1 as usize).checked_sub(1).and_then(|index| batch.get(index)).unwrap_or_default()
}

struct Group {
    kind: u16,
    len_bytes: usize,
    records: u32,
    plan: Plan,
    /// Index of the last record by key, plus 1; empty without a key.
    by_key: Vec<u32>,
    /// Records handled so far.
    done: usize,
    /// Where its columns start.
    at: usize,
}

impl Group {
    fn prepare(&mut self, at: usize) {
        self.at = at;
        self.done = 0;
        self.by_key = if self.plan.key.is_some() { vec![0; KEY_SLOTS] } else { Vec::new() };
    }

    /// Puts the record at `index` into the key table and gives the one that was there.
    fn replace_by_key(&mut self, key: u32, index: usize) -> u32 {
        match self.by_key.get_mut(key_slot(key)) {
            Some(slot) => std::mem::replace(slot, index as u32 + 1),
            None => 0,
        }
    }
}

fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (((difference as i64) >> 63) as u64)
}

fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

/// Packs batches. Keeps plans and buffers from one to the next.
pub(super) struct Packer {
    plans: HashMap<(u16, usize), (Plan, u32)>,
    groups_of: Vec<u8>,
    body: Vec<u8>,
    frame_ends: Vec<usize>,
    columns: Vec<u8>,
    zstd: zstd::bulk::Compressor<'static>,
}

impl Packer {
    /// A packer that compresses at this zstd level.
    pub(super) fn new(level: i32) -> io::Result<Self> {
        Ok(Packer {
            plans: HashMap::new(),
            groups_of: Vec::new(),
            body: Vec::new(),
            frame_ends: Vec::new(),
            columns: Vec::new(),
            zstd: zstd::bulk::Compressor::new(level)?,
        })
    }

    /// Appends the packed batch to `out` and gives the length of the unpacked body.
    pub(super) fn pack(&mut self, batch: &Batch, out: &mut Vec<u8>) -> io::Result<usize> {
        self.body.clear();
        self.frame_ends.clear();
        let mut groups = self.group(batch);
        self.plan(batch, &mut groups);
        let mut columns_bytes = 0;
        for group in &mut groups {
            group.prepare(columns_bytes);
            columns_bytes += group.len_bytes * group.records as usize;
        }
        self.columns.clear();
        self.columns.resize(columns_bytes, 0);
        let base_ts_ns = batch
            .iter()
            .zip(&self.groups_of)
            .find(|(_, group)| **group != PLAIN)
            .and_then(|(record, _)| header(record))
            .map_or(0, |header| header.ts_ns);
        self.fill_columns(batch, &mut groups, base_ts_ns);
        self.describe(batch, &groups, base_ts_ns);
        self.append_columns(&groups);
        self.compress(out)?;
        Ok(self.body.len())
    }

    /// Sorts the records into groups; small groups and what has no fixed layout stay plain.
    fn group(&mut self, batch: &Batch) -> Vec<Group> {
        let mut found: Vec<(u16, usize, u32)> = Vec::new();
        self.groups_of.clear();
        for record in batch.iter() {
            let by_columns = header(record)
                .filter(|header| family_of(header.kind) != 0 && record.len() <= MAX_COLUMN_BYTES)
                .map(|header| (header.kind, record.len()));
            let group = by_columns.and_then(|(kind, len)| {
                let known = found.iter().position(|group| (group.0, group.1) == (kind, len));
                known.or_else(|| {
                    let room = found.len() < usize::from(PLAIN);
                    room.then(|| {
                        found.push((kind, len, 0));
                        found.len() - 1
                    })
                })
            });
            if let Some(group) = group {
                found[group].2 += 1;
            }
            self.groups_of.push(group.map_or(PLAIN, |group| group as u8));
        }
        let mut groups: Vec<Group> = Vec::new();
        let mut renumbered = [PLAIN; 256];
        for (old, (kind, len_bytes, records)) in found.into_iter().enumerate() {
            if records >= MIN_GROUP_RECORDS {
                renumbered[old] = groups.len() as u8;
                let plan = Plan::default();
                groups.push(Group { kind, len_bytes, records, plan, by_key: Vec::new(), done: 0, at: 0 });
            }
        }
        self.groups_of.iter_mut().for_each(|group| *group = renumbered[usize::from(*group)]);
        groups
    }

    fn plan(&mut self, batch: &Batch, groups: &mut [Group]) {
        if self.plans.len() > MAX_PLANS {
            self.plans.clear();
        }
        for (number, group) in groups.iter_mut().enumerate() {
            let (plan, uses) = self.plans.entry((group.kind, group.len_bytes)).or_default();
            if *uses == 0 || uses.is_power_of_two() || uses.is_multiple_of(PLAN_USES) {
                *plan = predict::choose(batch, &self.groups_of, number as u8, PLAIN, group.len_bytes);
            }
            *uses = uses.wrapping_add(1);
            group.plan = plan.clone();
        }
    }

    fn fill_columns(&mut self, batch: &Batch, groups: &mut [Group], base_ts_ns: u64) {
        let mut cpus = Vec::new();
        for (index, (record, group)) in batch.iter().zip(&self.groups_of).enumerate() {
            let (Some(group), Some(header)) = (groups.get_mut(usize::from(*group)), header(record)) else { continue };
            let cpu = cpu_at(&mut cpus, header.cpu, base_ts_ns);
            let same_cpu = earlier(batch, cpu.record);
            let key = group.plan.key.map(|key| word(record, usize::from(key)));
            let same_key = key.map_or(0, |key| group.replace_by_key(key, index));
            let same_key = earlier(batch, same_key);
            let rows = group.records as usize;
            let columns = &mut self.columns[group.at..group.at + rows * group.len_bytes];
            let mut put = |column: usize, bytes: &[u8]| {
                for (offset, byte) in bytes.iter().enumerate() {
                    columns[(column + offset) * rows + group.done] = *byte;
                }
            };
            put(0, &zigzag(header.ts_ns.wrapping_sub(cpu.ts_ns)).to_le_bytes());
            put(10, &header.cpu.to_le_bytes());
            if header.lost != cpu.lost {
                put(12, &header.lost.wrapping_sub(cpu.lost).to_le_bytes());
            }
            let words = record[HEADER_BYTES..].chunks_exact(4);
            let tail = words.remainder();
            for (at, (bytes, source)) in words.zip(&group.plan.sources).enumerate() {
                let value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                let residue = value
                    ^ match source {
                        Source::Plain => 0,
                        Source::SameKey => word(same_key, FIRST_WORD + at),
                        Source::SameCpu(other) => word(same_cpu, usize::from(*other)),
                    };
                if residue != 0 {
                    put(HEADER_BYTES + at * 4, &residue.to_le_bytes());
                }
            }
            put(record.len() - tail.len(), tail);
            group.done += 1;
            *cpu = Cpu { ts_ns: header.ts_ns, lost: header.lost, record: index as u32 + 1 };
        }
    }

    /// Everything in front of the columns.
    fn describe(&mut self, batch: &Batch, groups: &[Group], base_ts_ns: u64) {
        let body = &mut self.body;
        put_number(body, batch.len() as u64);
        put_number(body, base_ts_ns);
        put_number(body, groups.len() as u64);
        for group in groups {
            put_number(body, group.len_bytes as u64);
            body.extend_from_slice(&group.kind.to_le_bytes());
            put_number(body, u64::from(group.records));
            body.push(group.plan.key.unwrap_or(0));
            body.extend(group.plan.sources.iter().map(|source| source.code()));
            let rows = group.records as usize;
            let columns = &self.columns[group.at..group.at + rows * group.len_bytes];
            let mut bits = vec![0u8; group.len_bytes.div_ceil(8)];
            for (column, bytes) in columns.chunks_exact(rows).enumerate() {
                let stored = bytes.iter().any(|byte| *byte != 0);
                bits[column / 8] |= u8::from(stored) << (column % 8);
            }
            body.extend_from_slice(&bits);
        }
        let in_groups: u64 = groups.iter().map(|group| u64::from(group.records)).sum();
        let plain = batch.len() as u64 - in_groups;
        put_number(body, plain);
        self.frame_ends.push(body.len());
        if groups.len() + usize::from(plain > 0) > 1 {
            body.extend_from_slice(&self.groups_of);
        }
        self.frame_ends.push(body.len());
        let plain_records = || batch.iter().zip(&self.groups_of).filter(|(_, group)| **group == PLAIN);
        plain_records().for_each(|(record, _)| put_number(body, record.len() as u64));
        plain_records().for_each(|(record, _)| body.extend_from_slice(record));
        self.frame_ends.push(body.len());
    }

    fn append_columns(&mut self, groups: &[Group]) {
        for group in groups {
            let rows = group.records as usize;
            for column in self.columns[group.at..group.at + rows * group.len_bytes].chunks_exact(rows) {
                if column.iter().any(|byte| *byte != 0) {
                    self.body.extend_from_slice(column);
                    self.frame_ends.push(self.body.len());
                }
            }
        }
    }

    fn compress(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let mut from = 0;
        for &to in &self.frame_ends {
            if to - from < MIN_FRAME_BYTES && to < self.body.len() {
                continue;
            }
            let at = out.len();
            out.resize(at + zstd::zstd_safe::compress_bound(to - from), 0);
            let len = self.zstd.compress_to_buffer(&self.body[from..to], &mut out[at..])?;
            out.truncate(at + len);
            from = to;
            if to == self.body.len() {
                break;
            }
        }
        Ok(())
    }
}

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a body from its start; every step is checked.
struct Body<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Body<'a> {
    fn take(&mut self, len_bytes: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len_bytes)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn group(&mut self) -> Option<(Group, Vec<usize>)> {
        let len_bytes = usize::try_from(self.number()?).ok()?;
        if !(HEADER_BYTES..=MAX_COLUMN_BYTES).contains(&len_bytes) {
            return None;
        }
        let kind = u16::from_le_bytes([self.byte()?, self.byte()?]);
        let records = u32::try_from(self.number()?).ok().filter(|records| *records > 0)?;
        let key = self.byte()?;
        let words = len_bytes / 4;
        let key = match usize::from(key) {
            0 => None,
            word if (FIRST_WORD..words).contains(&word) => Some(key),
            _ => return None,
        };
        let sources: Vec<Source> = self.take(words - FIRST_WORD)?.iter().map(|code| Source::from_code(*code)).collect();
        let key_by_key = key.is_some_and(|key| sources[usize::from(key) - FIRST_WORD] == Source::SameKey);
        if key_by_key {
            return None;
        }
        let bits = self.take(len_bytes.div_ceil(8))?;
        let stored = (0..len_bytes).filter(|column| bits[column / 8] >> (column % 8) & 1 == 1).collect();
        let plan = Plan { key, sources };
        Some((Group { kind, len_bytes, records, plan, by_key: Vec::new(), done: 0, at: 0 }, stored))
    }
}

/// Unpacks what [`Packer::pack`] gave; `None` if it is damaged. `raw_bytes` bounds the memory used.
pub(super) fn unpack(stored: &[u8], raw_bytes: usize, records: usize) -> Option<Batch> {
    let mut raw = Vec::with_capacity(raw_bytes);
    zstd::bulk::Decompressor::new().ok()?.decompress_to_buffer(stored, &mut raw).ok()?;
    if raw.len() != raw_bytes {
        return None;
    }
    let mut body = Body { bytes: &raw, at: 0 };
    if body.number()? != records as u64 {
        return None;
    }
    let base_ts_ns = body.number()?;
    let group_count = body.number()?;
    if group_count > u64::from(PLAIN) {
        return None;
    }
    let mut groups = Vec::new();
    for _ in 0..group_count {
        groups.push(body.group()?);
    }
    let plain_count = usize::try_from(body.number()?).ok()?;
    let bytes_of = |group: &Group| (group.records as u64).checked_mul(group.len_bytes as u64);
    let column_bytes = groups.iter().try_fold(0u64, |sum, (group, _)| sum.checked_add(bytes_of(group)?))?;
    let in_groups = groups.iter().map(|(group, _)| group.records as usize).sum::<usize>();
    if column_bytes > MAX_CHUNK_BYTES as u64 || in_groups.checked_add(plain_count)? != records {
        return None;
    }
    let one_group = groups.len() + usize::from(plain_count > 0) <= 1;
    let order = if one_group { None } else { Some(body.take(records)?) };
    let mut plain_lens = Body { bytes: body.bytes, at: body.at };
    let mut plain_bytes = 0usize;
    for _ in 0..plain_count {
        plain_bytes = plain_bytes.checked_add(usize::try_from(body.number()?).ok()?)?;
    }
    let mut plain = Body { bytes: body.take(plain_bytes)?, at: 0 };
    let mut rows = Rows { groups: Vec::new(), cpus: Vec::new(), base_ts_ns, batch: Batch::new(), row: Vec::new() };
    for (group, stored) in groups {
        rows.add_group(group, &stored, &mut body)?;
    }
    if body.at != body.bytes.len() {
        return None;
    }
    let only = if rows.groups.is_empty() { PLAIN } else { 0 };
    let mut plain_left = plain_count;
    for index in 0..records {
        match order.map_or(only, |order| order[index]) {
            PLAIN => {
                plain_left = plain_left.checked_sub(1)?;
                rows.batch.push(plain.take(plain_lens.number()? as usize)?);
            }
            group => rows.next(usize::from(group))?,
        }
    }
    // All records are there, so no group and no plain record is left over: their numbers add up.
    Some(rows.batch)
}

/// The stored byte columns of a group, each with its place in the record.
type Columns<'a> = Vec<(usize, &'a [u8])>;

/// Turns columns back into records.
struct Rows<'a> {
    groups: Vec<(Group, Columns<'a>)>,
    cpus: Vec<Cpu>,
    base_ts_ns: u64,
    batch: Batch,
    row: Vec<u8>,
}

impl<'a> Rows<'a> {
    fn add_group(&mut self, mut group: Group, stored: &[usize], body: &mut Body<'a>) -> Option<()> {
        group.prepare(0);
        let mut columns = Vec::with_capacity(stored.len());
        for &column in stored {
            columns.push((column, body.take(group.records as usize)?));
        }
        self.groups.push((group, columns));
        Some(())
    }

    fn next(&mut self, group: usize) -> Option<()> {
        let (group, columns) = self.groups.get_mut(group)?;
        let row = &mut self.row;
        row.clear();
        row.resize(group.len_bytes, 0);
        for (column, bytes) in columns.iter() {
            row[*column] = *bytes.get(group.done)?;
        }
        if group.done >= group.records as usize {
            return None;
        }
        group.done += 1;
        let stored = header(row)?;
        let cpu = cpu_at(&mut self.cpus, stored.cpu, self.base_ts_ns);
        let restored = Header {
            ts_ns: cpu.ts_ns.wrapping_add(unzigzag(stored.ts_ns)),
            kind: group.kind,
            cpu: stored.cpu,
            lost: cpu.lost.wrapping_add(stored.lost),
        };
        row[..HEADER_BYTES].copy_from_slice(&header_bytes(restored));
        let same_cpu = earlier(&self.batch, cpu.record);
        let index = self.batch.len();
        for (at, source) in group.plan.sources.iter().enumerate() {
            if let Source::SameCpu(other) = source {
                xor_word(row, FIRST_WORD + at, word(same_cpu, usize::from(*other)));
            }
        }
        if let Some(key) = group.plan.key {
            let last = group.replace_by_key(word(row, usize::from(key)), index);
            let same_key = earlier(&self.batch, last);
            for (at, source) in group.plan.sources.iter().enumerate() {
                if *source == Source::SameKey {
                    xor_word(row, FIRST_WORD + at, word(same_key, FIRST_WORD + at));
                }
            }
        }
        *cpu = Cpu { ts_ns: restored.ts_ns, lost: restored.lost, record: index as u32 + 1 };
        self.batch.push(row);
        Some(())
    }
}

fn xor_word(record: &mut [u8], index: usize, with: u32) {
    if let Some(bytes) = record.get_mut(index * 4..index * 4 + 4) {
        bytes.iter_mut().zip(with.to_le_bytes()).for_each(|(byte, with)| *byte ^= with);
    }
}
