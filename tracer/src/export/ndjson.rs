//! One line of JSON per record, in the order in which they come: `ts_ns`, `cpu`, `kind`, then the payload's fields under the
//! names of the binary interface. Written as a stream; nothing is kept. Names and paths are made printable, numbers are as the
//! kernel gave them; a futex's `words` are left out where they could not be read.

use std::io;

use serde::Serialize;
use tracer_common::block::BlockOp;
use tracer_common::lock::Kind;
use tracer_common::mapping::MapKind;
use tracer_common::memory::{FaultKind, StallKind};
use tracer_common::record::Header;
use tracer_common::sched::{Switch, SwitchFutex};

use crate::aggregate::network::address;
use crate::model::event::{Event, Meta, kind_name};
use crate::model::text::printable;
use crate::pipeline::decode::Undecoded;

/// Writes one event as a line.
pub fn write_event(event: &Event, out: &mut impl io::Write) -> io::Result<()> {
    let mut line = Line::begin(Some(event.header()), kind_name(event.header().kind).unwrap_or("undecoded"), out)?;
    match event {
        Event::Switch(event) | Event::Arrived(event) | Event::Polled(event) => line.switch(event)?,
        Event::SwitchFutex(event) => line.switch_futex(event)?,
        Event::NewTask(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("creator_tid", event.creator_tid)?;
            line.number("creator_tgid", event.creator_tgid)?;
            line.number("ns_tid", event.ns_tid)?;
            line.number("ns_level", event.ns_level)?;
            line.number("clone_flags", event.clone_flags)?;
            line.text("comm", &event.comm)?;
        }
        Event::Fork(event) => {
            line.number("parent_tid", event.parent_tid)?;
            line.number("parent_tgid", event.parent_tgid)?;
            line.number("child_tid", event.child_tid)?;
            line.number("child_tgid", event.child_tgid)?;
        }
        Event::Exec(event) => {
            line.number("tgid", event.tgid)?;
            line.number("old_tid", event.old_tid)?;
            line.text("comm", &event.comm)?;
            line.text("path", &event.path)?;
        }
        Event::Exit(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("exit_code", event.exit_code)?;
            line.number("sum_exec_runtime_ns", event.sum_exec_runtime_ns)?;
            line.text("comm", &event.comm)?;
        }
        Event::Moved(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("read_bytes", event.read_bytes)?;
            line.number("written_bytes", event.written_bytes)?;
            line.number("reads", event.reads)?;
            line.number("writes", event.writes)?;
        }
        Event::Rename(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.text("comm", &event.comm)?;
        }
        Event::CgroupMove(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("hierarchy", event.hierarchy)?;
            line.number("whole_process", event.whole_process)?;
            line.number("moved_itself", event.moved_itself)?;
            line.text("path", &event.path)?;
        }
        Event::Step(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
        }
        Event::Sampled(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("stack", event.stack)?;
            line.number("weight_ns", event.weight_ns)?;
            line.number("place", event.place)?;
            line.number("origin", event.origin)?;
            line.number("refreshed", event.refreshed)?;
        }
        Event::Contended(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("lock", event.lock)?;
            line.number("duration_ns", event.duration_ns)?;
            line.number("spun_ns", event.spun_ns)?;
            line.number("owner_tid", event.owner_tid)?;
            line.number("owner_tgid", event.owner_tgid)?;
            line.value("lock_kind", Kind::from_number(event.kind).id())?;
            line.number("flags", event.flags)?;
        }
        Event::Faults(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("since_ts_ns", event.since_ts_ns)?;
            line.number("anonymous_pages", event.anonymous_pages)?;
            for (kind, count) in FaultKind::ALL.iter().zip(event.counts) {
                line.number(kind.id(), count)?;
            }
        }
        Event::Stalled(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.value("stall", StallKind::from_number(event.kind).id())?;
            line.number("since_ts_ns", event.since_ts_ns)?;
            line.number("total_ns", event.total_ns)?;
            line.number("pages", event.pages)?;
            line.number("count", event.count)?;
        }
        Event::CachedFile(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("inode", event.file.inode)?;
            line.number("device", event.file.device)?;
            line.number("size_bytes", event.size_bytes)?;
            line.text("name", &event.name)?;
            line.number("parent", event.parent)?;
        }
        Event::BlockDone(event) => {
            let request = &event.request;
            line.number("tid", request.tid)?;
            line.number("tgid", request.tgid)?;
            line.text("op", BlockOp::of(request.flags, request.bytes).id().as_bytes())?;
            line.number("flags", request.flags)?;
            line.number("bytes", request.bytes)?;
            line.number("sector", request.sector)?;
            line.number("disk", request.device)?;
            line.number("inode", request.file.inode)?;
            line.number("device", request.file.device)?;
            line.number("asked_ns", event.asked_ns)?;
            line.number("queued_ns", event.queued_ns)?;
            line.number("device_ns", event.device_ns)?;
            line.number("notes", request.notes)?;
            line.number("requeues", request.requeues)?;
            line.number("status", request.status)?;
        }
        Event::FileSync(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.value("begins", if event.begins == 1 { "true" } else { "false" })?;
        }
        Event::DirtyPause(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("ticks", event.ticks)?;
            line.number("device", event.device)?;
        }
        Event::Mapped(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("since_ts_ns", event.since_ts_ns)?;
            for (kind, (count, bytes)) in MapKind::ALL.iter().zip(event.counts.iter().zip(event.bytes)) {
                line.number(kind.id(), *count)?;
                line.number(&format!("{}_bytes", kind.id()), bytes)?;
            }
            line.number("mappings", event.mappings)?;
            line.number("mappings_most", event.mappings_most)?;
        }
        Event::Call(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("start_ns", event.start_ns)?;
            line.number("spent_ns", event.spent_ns)?;
            line.number("handle", event.handle)?;
            line.number("calls", event.calls)?;
            line.number("result", event.result)?;
            line.number("function", event.function)?;
            line.number("flags", event.flags)?;
            line.number("statement", event.statement)?;
        }
        Event::Connection(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("inode", event.inode)?;
            line.text("local", address(event.family, &event.local, event.local_port).as_bytes())?;
            line.text("peer", address(event.family, &event.peer, event.peer_port).as_bytes())?;
            line.number("old_state", event.old_state)?;
            line.number("new_state", event.new_state)?;
            line.number("took_ns", event.took_ns)?;
            line.number("sent_bytes", event.sent_bytes)?;
            line.number("received_bytes", event.received_bytes)?;
            line.number("rtt_us", event.rtt_us)?;
            line.number("retransmits", event.retransmits)?;
        }
        Event::Victim(event) => {
            line.number("tid", event.tid)?;
            line.number("tgid", event.tgid)?;
            line.number("by_tid", event.by_tid)?;
            line.number("by_tgid", event.by_tgid)?;
            for (name, pages) in
                ["file_pages", "anonymous_pages", "swapped_pages", "shared_pages"].iter().zip(event.pages)
            {
                line.number(name, pages)?;
            }
            line.text("comm", &event.comm)?;
        }
        Event::Meta(_, meta) => line.meta(meta)?,
    }
    line.end()
}

/// Writes a record that could not be decoded, with the number of its kind where it has one.
pub fn write_undecoded(undecoded: &Undecoded, out: &mut impl io::Write) -> io::Result<()> {
    let mut line = Line::begin(undecoded.header, "undecoded", out)?;
    if let Some(header) = undecoded.header {
        line.number("kind_number", header.kind)?;
    }
    line.end()
}

/// A line that is being written.
struct Line<'a, W: io::Write> {
    out: &'a mut W,
    empty: bool,
}

impl<'a, W: io::Write> Line<'a, W> {
    fn begin(header: Option<Header>, kind: &str, out: &'a mut W) -> io::Result<Self> {
        out.write_all(b"{")?;
        let mut line = Line { out, empty: true };
        if let Some(header) = header {
            line.number("ts_ns", header.ts_ns)?;
            line.number("cpu", header.cpu)?;
        }
        line.value("kind", kind)?;
        Ok(line)
    }

    fn end(self) -> io::Result<()> {
        self.out.write_all(b"}\n")
    }

    fn key(&mut self, key: &str) -> io::Result<()> {
        if !self.empty {
            self.out.write_all(b",")?;
        }
        self.empty = false;
        // Keys are ours: letters and underscores.
        write!(self.out, "\"{key}\":")
    }

    fn number(&mut self, key: &str, number: impl std::fmt::Display) -> io::Result<()> {
        self.key(key)?;
        write!(self.out, "{number}")
    }

    fn value(&mut self, key: &str, value: impl Serialize) -> io::Result<()> {
        self.key(key)?;
        Ok(serde_json::to_writer(&mut *self.out, &value)?)
    }

    fn text(&mut self, key: &str, bytes: &[u8]) -> io::Result<()> {
        self.value(key, printable(bytes))
    }

    fn switch(&mut self, event: &Switch) -> io::Result<()> {
        self.number("prev_tid", event.prev_tid)?;
        self.number("next_tid", event.next_tid)?;
        self.number("waker_tid", event.waker_tid)?;
        self.number("wake_delta_ns", event.wake_delta_ns)?;
        self.number("prev_state", event.prev_state)?;
        self.number("flags", event.flags)?;
        self.number("syscall", event.syscall)?;
        self.number("arg0", event.arg0)?;
        self.number("fd_kind", event.fd_kind)?;
        let [low, middle, high] = event.place;
        self.number("place", u32::from_le_bytes([low, middle, high, 0]))?;
        self.number("object", event.object)
    }

    fn switch_futex(&mut self, event: &SwitchFutex) -> io::Result<()> {
        self.switch(&event.switch)?;
        self.number("op", event.op)?;
        self.number("val", event.val)?;
        if event.readable == 1 {
            self.value("words", event.words)?;
        }
        self.number("readable", event.readable)
    }

    fn meta(&mut self, meta: &Meta) -> io::Result<()> {
        match meta {
            Meta::Host(payload) => self.fields(payload),
            Meta::Target(payload) => self.fields(payload),
            Meta::Families(payload) => self.fields(payload),
            Meta::Start(payload) => self.fields(payload),
            Meta::Tick(payload) => self.fields(payload),
            Meta::Loss(payload) => self.fields(payload),
            Meta::Seed(payload) => self.fields(payload),
            Meta::Name(payload) => self.fields(payload),
            Meta::Cost(payload) => self.fields(payload),
            Meta::End(payload) => self.fields(payload),
            Meta::Module(payload) => self.fields(payload),
            Meta::Frame(payload) => self.fields(payload),
            Meta::Stack(payload) => self.fields(payload),
            Meta::Symbol(payload) => self.fields(payload),
            Meta::Locks(payload) => self.fields(payload),
            Meta::CpuLimits(payload) => self.fields(payload),
            Meta::Attached(payload) => self.fields(payload),
            Meta::Python(payload) => self.fields(payload),
            Meta::Objects(payload) => self.fields(payload),
            Meta::Sums(payload) => self.fields(payload),
            Meta::Memory(payload) => self.fields(payload),
            Meta::Steps(payload) => self.fields(payload),
            Meta::Database(payload) => self.fields(payload),
        }
    }

    /// The fields of a payload, behind those of the header.
    fn fields(&mut self, payload: &impl Serialize) -> io::Result<()> {
        let object = serde_json::to_string(payload)?;
        match object.strip_prefix('{').and_then(|object| object.strip_suffix('}')) {
            Some(inner) if !inner.is_empty() => {
                self.out.write_all(b",")?;
                self.out.write_all(inner.as_bytes())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::decode::decode;
    use crate::testing;

    fn parse(lines: &[u8]) -> Vec<serde_json::Value> {
        let text = std::str::from_utf8(lines).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    #[test]
    fn each_event_is_one_line_with_time_cpu_and_kind() {
        let events = testing::one_of_each();
        let mut lines = Vec::new();
        for event in &events {
            write_event(event, &mut lines).expect("memory");
        }
        let values = parse(&lines);
        assert_eq!(values.len(), events.len());
        for (value, event) in values.iter().zip(&events) {
            assert_eq!(value["ts_ns"], event.header().ts_ns, "{value}");
            assert_eq!(value["kind"].as_str(), kind_name(event.header().kind), "{value}");
        }
        let of_kind = |kind: &str| values.iter().find(|value| value["kind"] == kind).expect(kind);
        let (switch, rename, seed) = (of_kind("switch"), of_kind("rename"), of_kind("seed"));
        assert_eq!((&switch["prev_tid"], &switch["syscall"]), (&10.into(), &0.into()));
        assert_eq!(of_kind("switch-futex")["words"][2], 10);
        assert_eq!(rename["comm"], "a\\x1b\"b", "the name is printable, and quoted for JSON");
        assert_eq!(seed["comm"], "seeded");
    }

    #[test]
    fn what_could_not_be_decoded_keeps_its_number() {
        let mut record = testing::bytes(&testing::one_of_each()[0]);
        record.truncate(20);
        let mut lines = Vec::new();
        write_undecoded(&decode(&record).expect_err("cut"), &mut lines).expect("memory");
        write_undecoded(&decode(&record[..3]).expect_err("cut"), &mut lines).expect("memory");
        let values = parse(&lines);
        assert_eq!((&values[0]["kind"], &values[0]["kind_number"]), (&"undecoded".into(), &0x101.into()));
        assert_eq!(values[1], serde_json::json!({"kind": "undecoded"}));
    }
}
