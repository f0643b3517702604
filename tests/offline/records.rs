//! Bytes of records as the kernel and user space write them, for captures that nobody recorded.

use serde::Serialize;
use tracer_common::record::{Header, meta, sched as kind};
use tracer_common::sched::switch_flags as flags;

use tracer::model::meta::{
    CpuLoss, EndRecord, FamilyLoss, FamilyRecord, HostRecord, LossRecord, StartRecord, TargetRecord,
};
use tracer::pipeline::batch::header_bytes;

/// When constructed recordings start.
pub const START_NS: u64 = 1_000_000_000;

/// A record of any kind.
pub fn record(kind: u16, ts_ns: u64, cpu: u16, payload: &[u8]) -> Vec<u8> {
    [&header_bytes(Header { ts_ns, kind, cpu, lost: 0 })[..], payload].concat()
}

/// A record of user space.
pub fn meta_record(kind: u16, ts_ns: u64, payload: &impl Serialize) -> Vec<u8> {
    record(kind, ts_ns, 0, &serde_json::to_vec(payload).expect("plain data"))
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Bytes as a field of fixed length, filled with zeros.
pub fn field<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    let length = bytes.len().min(N - 1);
    field[..length].copy_from_slice(&bytes[..length]);
    field
}

/// A new thread of the host's pid namespace.
pub fn new_task(ts_ns: u64, tid: u32, tgid: u32, comm: &[u8]) -> Vec<u8> {
    let ids = words(&[tid, tgid, 1, 1, tid, 0, 0, 0]);
    record(kind::NEW_TASK, ts_ns, 0, &[&ids[..], &field::<16>(comm)].concat())
}

/// A new name.
pub fn rename(ts_ns: u64, tid: u32, tgid: u32, comm: &[u8]) -> Vec<u8> {
    record(kind::RENAME, ts_ns, 0, &[&words(&[tid, tgid])[..], &field::<16>(comm)].concat())
}

/// A program was executed by a leader.
pub fn exec(ts_ns: u64, tgid: u32, comm: &[u8], path: &[u8]) -> Vec<u8> {
    record(kind::EXEC, ts_ns, 0, &[&words(&[tgid, tgid])[..], &field::<16>(comm), &field::<128>(path)].concat())
}

/// A process moved to another cgroup.
pub fn cgroup_move(ts_ns: u64, tgid: u32, path: &[u8]) -> Vec<u8> {
    record(kind::CGROUP_MOVE, ts_ns, 0, &[&words(&[tgid, tgid, 0, 1])[..], &field::<128>(path)].concat())
}

/// The end of a thread.
pub fn exit(ts_ns: u64, tid: u32, tgid: u32, comm: &[u8]) -> Vec<u8> {
    record(kind::EXIT, ts_ns, 0, &[&words(&[tid, tgid, 0, 0, 0, 0])[..], &field::<16>(comm)].concat())
}

/// A switch between threads that are traced (0: the idle task), the first one asleep in `read` of a pipe or, with `state` 0,
/// pushed off.
pub fn switch(ts_ns: u64, cpu: u16, prev: u32, next: u32, state: u32) -> Vec<u8> {
    let mut bits = flags::HAS_REGS;
    bits |= if prev != 0 { flags::PREV_TRACKED } else { 0 };
    bits |= if next != 0 { flags::NEXT_TRACKED } else { 0 };
    bits |= if state == 0 { flags::PREEMPT } else { 0 };
    let mut payload = words(&[prev, next, 0, 0, state]);
    payload.extend(bits.to_le_bytes());
    payload.extend(if state == 0 { -1_i16 } else { 0 }.to_le_bytes());
    payload.extend(words(&[3]));
    payload.extend([if state == 0 { 0 } else { 2 }, 0, 0, 0]);
    payload.extend(77_u64.to_le_bytes());
    record(kind::SWITCH, ts_ns, cpu, &payload)
}

/// Facts about the host, a target, the family, the start.
pub fn prologue(target: &TargetRecord) -> Vec<Vec<u8>> {
    let host = HostRecord { kernel: "6.1".into(), arch: "x86_64".into(), cpus: 2, ..HostRecord::default() };
    let family = FamilyRecord { family: "sched".into(), status: "ready".into(), reason: None };
    let start = StartRecord { attach_s: 0.1, unix_offset_ns: 1_700_000_000_000_000_000, boot_offset_ns: 0 };
    vec![
        meta_record(meta::HOST, START_NS, &host),
        meta_record(meta::TARGET, START_NS, target),
        meta_record(meta::FAMILIES, START_NS, &family),
        meta_record(meta::START, START_NS, &start),
    ]
}

/// Counters that say that nothing of so many records was lost, and an orderly end.
pub fn epilogue(end_ns: u64, kernel_records: u64) -> Vec<Vec<u8>> {
    let cpu = CpuLoss { seen: kernel_records, submitted: kernel_records, lost: vec![0, 0], wakers_forgotten: 0 };
    let family = FamilyLoss { family: "sched".into(), cpus: vec![cpu], recursion_misses: 0, queued: 0 };
    let end = EndRecord { reason: "target-ended".into(), exit_code: Some(0), ..EndRecord::default() };
    vec![meta_record(meta::LOSS, end_ns, &LossRecord { families: vec![family] }), meta_record(meta::END, end_ns, &end)]
}

/// A whole recording of `body`, 1 s long.
pub fn recording(target: &TargetRecord, body: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let kernel_records = body.iter().filter(|record| record[9] == 1).count() as u64;
    let end = epilogue(START_NS + 1_000_000_000, kernel_records);
    prologue(target).into_iter().chain(body).chain(end).collect()
}
