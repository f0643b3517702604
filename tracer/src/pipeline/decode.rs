//! Record bytes to [`Event`]s, by checked reads only. A record that cannot be decoded is an [`Undecoded`] value for the ledger,
//! never an error that ends anything: its kind may be newer than this tracer, or the capture damaged.
//!
//! Every kernel kind has one exact length. A longer record is from another binary interface and is refused as well: its fields
//! may mean something else. Interprets nothing; that is `aggregate`.

use serde::de::DeserializeOwned;
use serde_json::Value;
use tracer_common::block::{BlockDone, DirtyPause, FileSync, Request};
use tracer_common::database::Call;
use tracer_common::lock::Contended;
use tracer_common::mapping::{MAP_KINDS, Mapped};
use tracer_common::memory::{CachedFile, Faults, FileKey, Stalled, Victim};
use tracer_common::net::Connection;
use tracer_common::record::{
    HEADER_BYTES, Header, block, cache, cpu, database, fault, file_exact, lock, map, meta, net, oom, reclaim,
    sched as kind, writeback,
};
use tracer_common::sched::{
    CgroupMove, Exec, Exit, Fork, Moved, NewTask, Rename, Step, Switch, SwitchFutex, WakeContext, switch_flags as flags,
};
use tracer_common::stack::Sampled;

use super::batch::header;
use crate::model::event::{Event, Meta};
use crate::model::text::printable;

/// A record that could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecoded {
    /// Its header; none when it is shorter than one.
    pub header: Option<Header>,
    /// Why.
    pub cause: Cause,
}

/// See [`Undecoded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Shorter than a header.
    NoHeader,
    /// A kind that this version does not know.
    UnknownKind,
    /// Not the length of its kind.
    WrongLength,
    /// A payload of user space that is not what its kind has.
    BadPayload,
}

/// Decodes one record.
pub fn decode(record: &[u8]) -> Result<Event, Undecoded> {
    let Some(header) = header(record) else {
        return Err(Undecoded { header: None, cause: Cause::NoHeader });
    };
    let mut fields = Fields(&record[HEADER_BYTES..]);
    let event = match header.kind {
        kind::SWITCH => fields.switch(header).map(Event::Switch),
        kind::SWITCH_FUTEX => fields.switch_futex(header).map(Event::SwitchFutex),
        kind::ARRIVED => fields.switch(header).map(Event::Arrived),
        kind::POLLED => fields.switch(header).map(Event::Polled),
        kind::NEW_TASK => fields.new_task(header).map(Event::NewTask),
        kind::FORK => fields.fork(header).map(Event::Fork),
        kind::EXEC => fields.exec(header).map(Event::Exec),
        kind::EXIT => fields.exit(header).map(Event::Exit),
        kind::MOVED => fields.moved(header).map(Event::Moved),
        kind::RENAME => fields.rename(header).map(Event::Rename),
        kind::CGROUP_MOVE => fields.cgroup_move(header).map(Event::CgroupMove),
        kind::STEP => fields.step(header).map(Event::Step),
        cpu::SAMPLED => fields.sampled(header).map(Event::Sampled),
        lock::CONTENDED => fields.contended(header).map(Event::Contended),
        fault::FAULTS => fields.faults(header).map(Event::Faults),
        reclaim::STALLED => fields.stalled(header).map(Event::Stalled),
        cache::FILE | block::FILE | block::DIRECTORY | writeback::FILE | file_exact::FILE => {
            fields.cached_file(header).map(Event::CachedFile)
        }
        map::MAPPED => fields.mapped(header).map(Event::Mapped),
        block::DONE => fields.block_done(header).map(Event::BlockDone),
        writeback::PAUSE => fields.dirty_pause(header).map(Event::DirtyPause),
        writeback::SYNC => fields.file_sync(header).map(Event::FileSync),
        database::CALL => fields.call(header).map(Event::Call),
        net::CONNECTION => fields.connection(header).map(Event::Connection),
        oom::VICTIM => fields.victim(header).map(Event::Victim),
        _ => return decode_meta(header, fields.0),
    };
    match event {
        Some(event) if fields.0.is_empty() => Ok(event),
        _ => Err(Undecoded { header: Some(header), cause: Cause::WrongLength }),
    }
}

/// Threads that a record mentions and that may not be traced: a waker, a lock's owner, and whoever had the CPU before or gets it after. 0: none.
pub fn strangers(record: &[u8]) -> [u32; 3] {
    let Some(header) = header(record) else { return [0; 3] };
    let mut fields = Fields(&record[HEADER_BYTES..]);
    let switch = match header.kind {
        kind::SWITCH | kind::SWITCH_FUTEX | kind::ARRIVED => fields.switch(header),
        // The move may have made it a traced one: nothing told its name.
        kind::CGROUP_MOVE => return [fields.u32().unwrap_or(0), 0, 0],
        lock::CONTENDED => return [fields.contended(header).map_or(0, |contended| contended.owner_tid), 0, 0],
        _ => None,
    };
    let Some(switch) = switch else { return [0; 3] };
    let has = |flag: u16| switch.flags & flag != 0;
    let context = (switch.flags & flags::WAKE_CONTEXT_MASK) >> flags::WAKE_CONTEXT_SHIFT;
    let by_task = has(flags::HAS_WAKER) && context == WakeContext::Task as u16;
    [
        if by_task { switch.waker_tid } else { 0 },
        if has(flags::PREV_TRACKED) { 0 } else { switch.prev_tid },
        if has(flags::NEXT_TRACKED) { 0 } else { switch.next_tid },
    ]
}

/// The thread or process whose cgroup may be one that was not met before: one that existed, that executed a program, or that moved.
pub fn newcomer(record: &[u8]) -> Option<u32> {
    let header = header(record)?;
    match header.kind {
        kind::EXEC | kind::CGROUP_MOVE => Fields(&record[HEADER_BYTES..]).u32(),
        meta::SEED => match decode(record) {
            Ok(Event::Meta(_, meta)) => match *meta {
                Meta::Seed(seed) if seed.tid == seed.tgid => Some(seed.tid),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// The process that a record tells of: one that existed, that was forked, or that executed a program.
pub fn process(record: &[u8]) -> Option<u32> {
    let header = header(record)?;
    match header.kind {
        kind::EXEC => Fields(record.get(HEADER_BYTES..)?).u32(),
        kind::FORK => {
            let fork = Fields(record.get(HEADER_BYTES..)?).fork(header)?;
            (fork.child_tid == fork.child_tgid).then_some(fork.child_tgid)
        }
        meta::SEED => newcomer(record),
        _ => None,
    }
}

fn decode_meta(header: Header, payload: &[u8]) -> Result<Event, Undecoded> {
    let meta = match header.kind {
        meta::HOST => json(payload).map(Meta::Host),
        meta::TARGET => json(payload).map(Meta::Target),
        meta::FAMILIES => json(payload).map(Meta::Families),
        meta::START => json(payload).map(Meta::Start),
        meta::TICK => json(payload).map(Meta::Tick),
        meta::LOSS => json(payload).map(Meta::Loss),
        meta::SEED => json(payload).map(Meta::Seed),
        meta::NAME => json(payload).map(Meta::Name),
        meta::COST => json(payload).map(Meta::Cost),
        meta::END => json(payload).map(Meta::End),
        meta::MODULE => json(payload).map(Meta::Module),
        meta::FRAME => json(payload).map(Meta::Frame),
        meta::STACK => json(payload).map(Meta::Stack),
        meta::SYMBOL => json(payload).map(Meta::Symbol),
        meta::LOCKS => json(payload).map(Meta::Locks),
        meta::CPU_LIMITS => json(payload).map(Meta::CpuLimits),
        meta::ATTACHED => json(payload).map(Meta::Attached),
        meta::PYTHON => json(payload).map(Meta::Python),
        meta::OBJECTS => json(payload).map(Meta::Objects),
        meta::SUMS => json(payload).map(Meta::Sums),
        meta::MEMORY => json(payload).map(Meta::Memory),
        meta::STEPS => json(payload).map(Meta::Steps),
        meta::DATABASE => json(payload).map(Meta::Database),
        _ => return Err(Undecoded { header: Some(header), cause: Cause::UnknownKind }),
    };
    match meta {
        Some(meta) => Ok(Event::Meta(header, Box::new(meta))),
        None => Err(Undecoded { header: Some(header), cause: Cause::BadPayload }),
    }
}

fn json<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    // What needs no escape in JSON and is ASCII but for DEL is printable as it stands, and that is nearly every payload.
    if !payload.iter().any(|byte| matches!(byte, b'\\' | 0x7f..)) {
        return serde_json::from_slice(payload).ok();
    }
    let mut value = serde_json::from_slice(payload).ok()?;
    make_printable(&mut value);
    serde_json::from_value(value).ok()
}

/// Makes all texts of a payload printable, whoever wrote the capture.
fn make_printable(value: &mut Value) {
    match value {
        Value::String(text) => *text = printable(text.as_bytes()),
        Value::Array(items) => items.iter_mut().for_each(make_printable),
        Value::Object(fields) => fields.values_mut().for_each(make_printable),
        _ => {}
    }
}

/// What of a record is not read yet. Each read takes its bytes off the front, in the order of the layout's fields.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        // Not split_first_chunk, whose checks take a third of a development build's time.
        let bytes = *self.0.first_chunk::<N>()?;
        self.0 = &self.0[N..];
        Some(bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn i16(&mut self) -> Option<i16> {
        self.take().map(i16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn switch(&mut self, header: Header) -> Option<Switch> {
        Some(Switch {
            header,
            prev_tid: self.u32()?,
            next_tid: self.u32()?,
            waker_tid: self.u32()?,
            wake_delta_ns: self.u32()?,
            prev_state: self.u32()?,
            flags: self.u16()?,
            syscall: self.i16()?,
            arg0: self.u32()?,
            fd_kind: self.u8()?,
            place: self.take()?,
            object: self.u64()?,
        })
    }

    fn switch_futex(&mut self, header: Header) -> Option<SwitchFutex> {
        let switch = self.switch(header)?;
        let (op, val) = (self.u32()?, self.u32()?);
        let mut words = [0; 6];
        for word in &mut words {
            *word = self.u32()?;
        }
        Some(SwitchFutex { switch, op, val, words, readable: self.u32()?, reserved: self.u32()? })
    }

    fn step(&mut self, header: Header) -> Option<Step> {
        Some(Step { header, tid: self.u32()?, tgid: self.u32()? })
    }

    fn sampled(&mut self, header: Header) -> Option<Sampled> {
        Some(Sampled {
            header,
            tid: self.u32()?,
            tgid: self.u32()?,
            stack: self.u64()?,
            weight_ns: self.u64()?,
            place: self.u32()?,
            origin: self.u8()?,
            refreshed: self.u8()?,
            reserved: self.u16()?,
        })
    }

    fn contended(&mut self, header: Header) -> Option<Contended> {
        Some(Contended {
            header,
            tid: self.u32()?,
            tgid: self.u32()?,
            lock: self.u64()?,
            duration_ns: self.u64()?,
            spun_ns: self.u32()?,
            owner_tid: self.u32()?,
            owner_tgid: self.u32()?,
            kind: self.u8()?,
            flags: self.u8()?,
            reserved: self.u16()?,
        })
    }

    fn faults(&mut self, header: Header) -> Option<Faults> {
        let mut faults = Faults {
            header,
            tid: self.u32()?,
            tgid: self.u32()?,
            since_ts_ns: self.u64()?,
            anonymous_pages: self.u64()?,
            counts: Default::default(),
        };
        for count in &mut faults.counts {
            *count = self.u32()?;
        }
        Some(faults)
    }

    fn mapped(&mut self, header: Header) -> Option<Box<Mapped>> {
        let (tid, tgid, since_ts_ns) = (self.u32()?, self.u32()?, self.u64()?);
        let (mut bytes, mut counts) = ([0; MAP_KINDS], [0; MAP_KINDS]);
        for sum in &mut bytes {
            *sum = self.u64()?;
        }
        for count in &mut counts {
            *count = self.u32()?;
        }
        let (mappings, mappings_most, reserved) = (self.u32()?, self.u32()?, self.u32()?);
        Some(Box::new(Mapped { header, tid, tgid, since_ts_ns, bytes, counts, mappings, mappings_most, reserved }))
    }

    fn connection(&mut self, header: Header) -> Option<Box<Connection>> {
        let (tid, tgid, inode) = (self.u32()?, self.u32()?, self.u64()?);
        let (sent_bytes, received_bytes, took_ns) = (self.u64()?, self.u64()?, self.u64()?);
        let family = self.u16()?;
        let [old_state, new_state] = self.take()?;
        Some(Box::new(Connection {
            header,
            tid,
            tgid,
            inode,
            sent_bytes,
            received_bytes,
            took_ns,
            family,
            old_state,
            new_state,
            local_port: self.u16()?,
            peer_port: self.u16()?,
            local: self.take()?,
            peer: self.take()?,
            rtt_us: self.u32()?,
            retransmits: self.u32()?,
        }))
    }

    fn stalled(&mut self, header: Header) -> Option<Stalled> {
        Some(Stalled {
            header,
            tid: self.u32()?,
            tgid: self.u32()?,
            since_ts_ns: self.u64()?,
            total_ns: self.u64()?,
            pages: self.u64()?,
            count: self.u32()?,
            kind: self.u8()?,
            reserved: self.take()?,
        })
    }

    pub(super) fn cached_file(&mut self, header: Header) -> Option<Box<CachedFile>> {
        Some(Box::new(CachedFile {
            header,
            tid: self.u32()?,
            tgid: self.u32()?,
            file: FileKey { inode: self.u64()?, device: self.u32()?, reserved: self.u32()? },
            size_bytes: self.u64()?,
            name: self.take()?,
            // Captures of before it was told end here.
            parent: self.u64().unwrap_or(0),
        }))
    }

    fn block_done(&mut self, header: Header) -> Option<Box<BlockDone>> {
        let (queued_ns, device_ns) = (self.u64()?, self.u64()?);
        let (sector, file) = (self.u64()?, FileKey { inode: self.u64()?, device: self.u32()?, reserved: self.u32()? });
        let (tid, tgid, flags, bytes, device) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        let [notes, requeues, status, reserved] = self.take()?;
        let request = Request { sector, file, tid, tgid, flags, bytes, device, notes, requeues, status, reserved };
        // Captures of before it was told end here.
        let asked_ns = self.u64().unwrap_or(0);
        Some(Box::new(BlockDone { header, queued_ns, device_ns, request, asked_ns }))
    }

    fn file_sync(&mut self, header: Header) -> Option<FileSync> {
        let (tid, tgid, begins, reserved) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        Some(FileSync { header, tid, tgid, begins, reserved })
    }

    fn dirty_pause(&mut self, header: Header) -> Option<DirtyPause> {
        let (tid, tgid, ticks, device) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        Some(DirtyPause { header, tid, tgid, ticks, device })
    }

    fn call(&mut self, header: Header) -> Option<Box<Call>> {
        Some(Box::new(Call {
            header,
            tid: self.u32()?,
            tgid: self.u32()?,
            start_ns: self.u64()?,
            spent_ns: self.u64()?,
            handle: self.u64()?,
            calls: self.u32()?,
            result: self.u32()? as i32,
            function: self.u16()?,
            flags: self.u16()?,
            statement: self.u32()?,
        }))
    }

    fn victim(&mut self, header: Header) -> Option<Box<Victim>> {
        let (tid, tgid, by_tid, by_tgid) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        let mut pages = [0; tracer_common::memory::rss::KINDS];
        for count in &mut pages {
            *count = self.u64()?;
        }
        Some(Box::new(Victim { header, tid, tgid, by_tid, by_tgid, pages, comm: self.take()? }))
    }

    fn new_task(&mut self, header: Header) -> Option<NewTask> {
        Some(NewTask {
            header,
            tid: self.u32()?,
            tgid: self.u32()?,
            creator_tid: self.u32()?,
            creator_tgid: self.u32()?,
            ns_tid: self.u32()?,
            ns_level: self.u32()?,
            clone_flags: self.u64()?,
            comm: self.take()?,
        })
    }

    fn fork(&mut self, header: Header) -> Option<Fork> {
        Some(Fork {
            header,
            parent_tid: self.u32()?,
            parent_tgid: self.u32()?,
            child_tid: self.u32()?,
            child_tgid: self.u32()?,
        })
    }

    fn exec(&mut self, header: Header) -> Option<Box<Exec>> {
        Some(Box::new(Exec { header, tgid: self.u32()?, old_tid: self.u32()?, comm: self.take()?, path: self.take()? }))
    }

    fn exit(&mut self, header: Header) -> Option<Exit> {
        Some(Exit {
            header,
            tid: self.u32()?,
            tgid: self.u32()?,
            exit_code: self.u32()?,
            reserved: self.u32()?,
            sum_exec_runtime_ns: self.u64()?,
            comm: self.take()?,
        })
    }

    fn moved(&mut self, header: Header) -> Option<Moved> {
        Some(Moved {
            header,
            tid: self.u32()?,
            tgid: self.u32()?,
            read_bytes: self.u64()?,
            written_bytes: self.u64()?,
            reads: self.u64()?,
            writes: self.u64()?,
        })
    }

    fn rename(&mut self, header: Header) -> Option<Rename> {
        Some(Rename { header, tid: self.u32()?, tgid: self.u32()?, comm: self.take()? })
    }

    fn cgroup_move(&mut self, header: Header) -> Option<Box<CgroupMove>> {
        Some(Box::new(CgroupMove {
            header,
            tid: self.u32()?,
            tgid: self.u32()?,
            hierarchy: self.u32()?,
            whole_process: self.u16()?,
            moved_itself: self.u16()?,
            path: self.take()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::event::kind_name;
    use crate::testing;

    #[test]
    fn every_kind_comes_back_as_it_was_written() {
        for event in testing::one_of_each() {
            let record = testing::bytes(&event);
            assert_eq!(decode(&record).as_ref(), Ok(&event), "{} bytes", record.len());
            assert!(kind_name(event.header().kind).is_some(), "{event:?} has a name");
        }
    }

    #[test]
    fn texts_of_user_space_are_printable_once_decoded() {
        let payload = "{\"comm\":\"a\\u001b[2J\u{7f}\u{202e}\\\\x1b\u{e9}\",\"tid\":7}";
        let Ok(Event::Meta(_, meta)) =
            decode(&[&[0, 0, 0, 0, 0, 0, 0, 0, 8, 0][..], &[0; 6], payload.as_bytes()].concat())
        else {
            panic!("a NAME record");
        };
        let comm = "a\\x1b[2J\\x7f\\u{202e}\\x1b\u{e9}".to_owned();
        assert_eq!(*meta, Meta::Name(crate::model::meta::NameRecord { tid: 7, tgid: 0, comm, priority: None }));
    }

    #[test]
    fn a_kernel_record_of_another_length_is_refused() {
        for event in testing::one_of_each().into_iter().filter(|event| event.header().kind >> 8 == 1) {
            let mut record = testing::bytes(&event);
            for end in HEADER_BYTES..record.len() {
                let cut = decode(&record[..end]).expect_err("cut");
                assert_eq!(cut.cause, Cause::WrongLength, "{event:?} cut at {end}");
            }
            record.push(0);
            assert_eq!(decode(&record).expect_err("long").cause, Cause::WrongLength, "{event:?} with a byte more");
        }
    }

    #[test]
    fn what_is_not_known_keeps_its_kind_for_the_ledger() {
        let mut record = testing::bytes(&testing::one_of_each()[0]);
        record[8..10].copy_from_slice(&0x0277u16.to_le_bytes());
        let refused = decode(&record).expect_err("unknown kind");
        assert_eq!((refused.header.map(|header| header.kind), refused.cause), (Some(0x0277), Cause::UnknownKind));
        assert_eq!(decode(&record[..15]).expect_err("short").cause, Cause::NoHeader);
        record[8..10].copy_from_slice(&meta::SEED.to_le_bytes());
        assert_eq!(decode(&record).expect_err("no JSON").cause, Cause::BadPayload);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..260), number in 0u16..14, family in 0u16..4) {
            let mut bytes = bytes;
            let _ = decode(&bytes);
            if bytes.len() >= HEADER_BYTES {
                bytes[8..10].copy_from_slice(&(family << 8 | number).to_le_bytes());
                if let Ok(event) = decode(&bytes) {
                    prop_assert_eq!(testing::bytes(&event), bytes, "a decoded kernel record holds all its bytes");
                }
            }
        }
    }
}
