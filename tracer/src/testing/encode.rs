//! For tests only: the bytes of records, as the kernel and the live source write them.

use tracer_common::sched::Switch;

use crate::model::event::{Event, Meta};
use crate::pipeline::batch::header_bytes;

/// The bytes of a record.
pub fn bytes(event: &Event) -> Vec<u8> {
    let mut out = header_bytes(event.header()).to_vec();
    let mut words = |words: &[u32]| words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    match event {
        Event::Switch(event) | Event::Arrived(event) | Event::Polled(event) => switch_bytes(event, &mut out),
        Event::SwitchFutex(event) => {
            switch_bytes(&event.switch, &mut out);
            let mut words = |words: &[u32]| words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
            words(&[event.op, event.val]);
            words(&event.words);
            words(&[event.readable, event.reserved]);
        }
        Event::NewTask(e) => {
            words(&[e.tid, e.tgid, e.creator_tid, e.creator_tgid, e.ns_tid, e.ns_level]);
            out.extend_from_slice(&e.clone_flags.to_le_bytes());
            out.extend_from_slice(&e.comm);
        }
        Event::Fork(e) => words(&[e.parent_tid, e.parent_tgid, e.child_tid, e.child_tgid]),
        Event::Exec(e) => {
            words(&[e.tgid, e.old_tid]);
            out.extend_from_slice(&e.comm);
            out.extend_from_slice(&e.path);
        }
        Event::Exit(e) => {
            words(&[e.tid, e.tgid, e.exit_code, e.reserved]);
            out.extend_from_slice(&e.sum_exec_runtime_ns.to_le_bytes());
            out.extend_from_slice(&e.comm);
        }
        Event::Moved(e) => {
            words(&[e.tid, e.tgid]);
            for word in [e.read_bytes, e.written_bytes, e.reads, e.writes] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
        Event::Rename(e) => {
            words(&[e.tid, e.tgid]);
            out.extend_from_slice(&e.comm);
        }
        Event::CgroupMove(e) => {
            words(&[e.tid, e.tgid, e.hierarchy, u32::from(e.whole_process) | u32::from(e.moved_itself) << 16]);
            out.extend_from_slice(&e.path);
        }
        Event::Step(e) => words(&[e.tid, e.tgid]),
        Event::Sampled(e) => {
            words(&[e.tid, e.tgid]);
            out.extend_from_slice(&e.stack.to_le_bytes());
            out.extend_from_slice(&e.weight_ns.to_le_bytes());
            out.extend_from_slice(&e.place.to_le_bytes());
            out.extend_from_slice(&[e.origin, e.refreshed]);
            out.extend_from_slice(&e.reserved.to_le_bytes());
        }
        Event::Contended(e) => {
            words(&[e.tid, e.tgid]);
            out.extend_from_slice(&e.lock.to_le_bytes());
            out.extend_from_slice(&e.duration_ns.to_le_bytes());
            for word in [e.spun_ns, e.owner_tid, e.owner_tgid] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&[e.kind, e.flags]);
            out.extend_from_slice(&e.reserved.to_le_bytes());
        }
        Event::Faults(e) => {
            words(&[e.tid, e.tgid]);
            out.extend_from_slice(&e.since_ts_ns.to_le_bytes());
            out.extend_from_slice(&e.anonymous_pages.to_le_bytes());
            e.counts.iter().for_each(|count| out.extend_from_slice(&count.to_le_bytes()));
        }
        Event::Stalled(e) => {
            words(&[e.tid, e.tgid]);
            for word in [e.since_ts_ns, e.total_ns, e.pages] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&e.count.to_le_bytes());
            out.push(e.kind);
            out.extend_from_slice(&e.reserved);
        }
        Event::CachedFile(e) => {
            words(&[e.tid, e.tgid]);
            out.extend_from_slice(&e.file.inode.to_le_bytes());
            out.extend_from_slice(&e.file.device.to_le_bytes());
            out.extend_from_slice(&e.file.reserved.to_le_bytes());
            out.extend_from_slice(&e.size_bytes.to_le_bytes());
            out.extend_from_slice(&e.name);
            out.extend_from_slice(&e.parent.to_le_bytes());
        }
        Event::BlockDone(e) => {
            let r = &e.request;
            for word in [e.queued_ns, e.device_ns, r.sector, r.file.inode] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            for word in [r.file.device, r.file.reserved, r.tid, r.tgid, r.flags, r.bytes, r.device] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&[r.notes, r.requeues, r.status, r.reserved]);
            out.extend_from_slice(&e.asked_ns.to_le_bytes());
        }
        Event::DirtyPause(e) => words(&[e.tid, e.tgid, e.ticks, e.device]),
        Event::FileSync(e) => words(&[e.tid, e.tgid, e.begins, e.reserved]),
        Event::Mapped(e) => {
            words(&[e.tid, e.tgid]);
            out.extend_from_slice(&e.since_ts_ns.to_le_bytes());
            e.bytes.iter().for_each(|bytes| out.extend_from_slice(&bytes.to_le_bytes()));
            e.counts.iter().for_each(|count| out.extend_from_slice(&count.to_le_bytes()));
            let rest = [e.mappings, e.mappings_most, e.reserved];
            rest.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        }
        Event::Call(e) => {
            words(&[e.tid, e.tgid]);
            [e.start_ns, e.spent_ns, e.handle].iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
            out.extend_from_slice(&e.calls.to_le_bytes());
            out.extend_from_slice(&e.result.to_le_bytes());
            [e.function, e.flags].iter().for_each(|half| out.extend_from_slice(&half.to_le_bytes()));
            out.extend_from_slice(&e.statement.to_le_bytes());
        }
        Event::Connection(e) => {
            words(&[e.tid, e.tgid]);
            let counts = [e.inode, e.sent_bytes, e.received_bytes, e.took_ns];
            counts.iter().for_each(|count| out.extend_from_slice(&count.to_le_bytes()));
            out.extend_from_slice(&e.family.to_le_bytes());
            out.extend_from_slice(&[e.old_state, e.new_state]);
            [e.local_port, e.peer_port].iter().for_each(|port| out.extend_from_slice(&port.to_le_bytes()));
            [e.local, e.peer].iter().for_each(|address| out.extend_from_slice(address));
            [e.rtt_us, e.retransmits].iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        }
        Event::Victim(e) => {
            words(&[e.tid, e.tgid, e.by_tid, e.by_tgid]);
            e.pages.iter().for_each(|pages| out.extend_from_slice(&pages.to_le_bytes()));
            out.extend_from_slice(&e.comm);
        }
        Event::Meta(_, payload) => out.extend_from_slice(&payload_bytes(payload)),
    }
    out
}

fn switch_bytes(e: &Switch, out: &mut Vec<u8>) {
    for word in [e.prev_tid, e.next_tid, e.waker_tid, e.wake_delta_ns, e.prev_state] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&e.flags.to_le_bytes());
    out.extend_from_slice(&e.syscall.to_le_bytes());
    out.extend_from_slice(&e.arg0.to_le_bytes());
    out.push(e.fd_kind);
    out.extend_from_slice(&e.place);
    out.extend_from_slice(&e.object.to_le_bytes());
}

fn payload_bytes(meta: &Meta) -> Vec<u8> {
    match meta {
        Meta::Host(payload) => serde_json::to_vec(payload),
        Meta::Target(payload) => serde_json::to_vec(payload),
        Meta::Families(payload) => serde_json::to_vec(payload),
        Meta::Start(payload) => serde_json::to_vec(payload),
        Meta::Tick(payload) => serde_json::to_vec(payload),
        Meta::Loss(payload) => serde_json::to_vec(payload),
        Meta::Seed(payload) => serde_json::to_vec(payload),
        Meta::Name(payload) => serde_json::to_vec(payload),
        Meta::Cost(payload) => serde_json::to_vec(payload),
        Meta::End(payload) => serde_json::to_vec(payload),
        Meta::Module(payload) => serde_json::to_vec(payload),
        Meta::Frame(payload) => serde_json::to_vec(payload),
        Meta::Stack(payload) => serde_json::to_vec(payload),
        Meta::Symbol(payload) => serde_json::to_vec(payload),
        Meta::Locks(payload) => serde_json::to_vec(payload),
        Meta::CpuLimits(payload) => serde_json::to_vec(payload),
        Meta::Attached(payload) => serde_json::to_vec(payload),
        Meta::Python(payload) => serde_json::to_vec(payload),
        Meta::Objects(payload) => serde_json::to_vec(payload),
        Meta::Sums(payload) => serde_json::to_vec(payload),
        Meta::Memory(payload) => serde_json::to_vec(payload),
        Meta::Steps(payload) => serde_json::to_vec(payload),
        Meta::Database(payload) => serde_json::to_vec(payload),
    }
    .expect("plain data")
}
