//! What descriptors referred to on which threads waited, by process and inode, and who was at the ends of pipes and sockets, told by
//! who waited to read, who waited to write, and who ended these waits. Bounded: so many objects, so much text, so many ends.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tracer_common::sched::WakeContext;

use super::Aggregate;
use super::build::{known, object};
use super::classify::{Detail, Reason, State};
use super::hash::FastMap;
use super::names::NameId;
use super::object_bytes::{At, Io, bytes, counted};
use super::table::Finished;
use super::thread::Party;
use super::waits::WaitStat;
use crate::model::meta::{ObjectRecord, ObjectsRecord};
use crate::model::objects::{FileSystem, Object, ObjectBytes, ObjectEnd, Objects as Section};
use crate::model::report::seconds;

/// Objects kept, and bytes of their text.
const MAX_OBJECTS: usize = 16_384;
const MAX_TEXT_BYTES: usize = 16 << 20;
/// Pipes, sockets and files of which the ends are kept, and threads at an end.
const MAX_ROWS: usize = 65_536;
const MAX_ENDS: usize = 32;
/// Of these the report tells so many.
const MAX_ROWS_TOLD: usize = 64;
const MAX_ENDS_TOLD: usize = 8;
/// Who ended less than this part of an end's waits is not at the other end: signals and other ends of files wake too.
const LEAST_WOKE: u64 = 20;

/// See the file's head.
#[derive(Default)]
pub struct Objects {
    /// By process and inode; none: several different things had that number.
    by_inode: FastMap<(u32, u64), Option<ObjectRecord>>,
    text_bytes: usize,
    /// Descriptors told.
    told: u64,
    /// The last counters.
    gone: u64,
    over: u64,
    /// Those that found no room here.
    refused: u64,
    rows: BTreeMap<(Kind, u64), Row>,
    /// What threads moved.
    io: Io,
}

/// What kind of numbers an object's number is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Pipe,
    Socket,
    File,
}

/// Waits for one object.
#[derive(Default)]
struct Row {
    waits: u64,
    ns: u64,
    /// A wait as an example, and its process.
    reason: Option<(Reason, u32)>,
    readers: BTreeMap<u32, End>,
    writers: BTreeMap<u32, End>,
    /// A wait was in a call whose bytes the kernel does not count.
    uncounted: bool,
}

/// A thread at an end.
#[derive(Clone, Copy, Default)]
struct End {
    tgid: u32,
    name: NameId,
    process: NameId,
    waits: u64,
    ns: u64,
    woke: u64,
}

/// What is known of an object, for a row of the report.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    /// Path of a file.
    pub(super) path: Option<String>,
    /// A pipe or a socket in words.
    pub(super) ends: Option<String>,
}

impl Objects {
    /// Takes a record.
    pub fn record(&mut self, record: &ObjectsRecord) {
        self.gone = self.gone.max(record.gone);
        self.over = self.over.max(record.over);
        for object in &record.objects {
            self.add(object);
        }
    }

    fn add(&mut self, object: &ObjectRecord) {
        let key = (object.tgid, object.inode);
        if let Some(known) = self.by_inode.get_mut(&key) {
            let what = |object: &ObjectRecord| {
                (object.kind.clone(), object.device.clone(), object.path.clone(), object.peer.clone())
            };
            if known.as_ref().is_some_and(|known| what(known) != what(object)) {
                *known = None;
            }
            return;
        }
        let text = [&object.path, &object.local, &object.peer, &object.device];
        let bytes = text.iter().filter_map(|text| text.as_ref()).map(String::len).sum::<usize>() + object.kind.len();
        let of_system = |system: &FileSystem| {
            system.kind.len() + system.mounted_on.len() + system.source.as_ref().map_or(0, String::len)
        };
        let bytes = bytes + object.file_system.as_ref().map_or(0, of_system);
        if self.by_inode.len() >= MAX_OBJECTS || self.text_bytes + bytes > MAX_TEXT_BYTES {
            self.refused += 1;
            return;
        }
        self.text_bytes += bytes;
        self.told += 1;
        self.by_inode.insert(key, Some(object.clone()));
    }

    /// The path of a file that a process had open or mapped, if it lies on this device ("major:minor") or that is not known.
    pub(super) fn path_of(&self, tgid: u32, inode: u64, device: &str) -> Option<String> {
        let known = self.known(tgid, inode)?;
        let fits = known.device.as_ref().is_none_or(|known| known == device);
        known.path.clone().filter(|_| fits)
    }

    /// The same, whichever process had it open, if its device is known.
    pub(super) fn any_path_of(&self, inode: u64, device: &str) -> Option<String> {
        let fits = |object: &&ObjectRecord| object.inode == inode && object.device.as_deref() == Some(device);
        let mut paths: Vec<&String> =
            self.by_inode.values().flatten().filter(fits).filter_map(|object| object.path.as_ref()).collect();
        paths.sort_unstable();
        paths.first().map(|path| (*path).clone())
    }

    pub(super) fn known(&self, tgid: u32, inode: u64) -> Option<&ObjectRecord> {
        self.by_inode.get(&(tgid, inode))?.as_ref()
    }
}

fn kind(reason: Reason) -> Option<Kind> {
    Some(match reason.state {
        State::Pipe => Kind::Pipe,
        State::SocketInet | State::SocketUnix => Kind::Socket,
        State::Other if reason.detail == Detail::Socket => Kind::Socket,
        State::File | State::Poll | State::Fault => Kind::File,
        State::Other if reason.detail == Detail::Device => Kind::File,
        _ => return None,
    })
}

impl Aggregate {
    /// Goes through the waits of all threads that were kept: who is at the ends of what.
    pub(super) fn find_ends(&mut self, finished: &[Finished]) {
        let names: FastMap<u32, (NameId, NameId, u32)> =
            finished.iter().map(|f| (f.thread.serial, (f.thread.name, f.process, f.thread.tgid))).collect();
        let mut rows = std::mem::take(&mut self.objects.rows);
        let io = |f: &Finished| Some(((f.thread.tgid, f.thread.tid), self.moved(&f.thread)?));
        self.objects.io = finished.iter().filter_map(io).collect();
        for thread in finished {
            let Some(detailed) = thread.thread.detailed.as_deref() else { continue };
            for wait in detailed.waits.iter().filter(|wait| wait.object != 0 && wait.count > 0) {
                let Some(kind) = kind(wait.reason) else { continue };
                let key = (kind, wait.object);
                if rows.len() >= MAX_ROWS && !rows.contains_key(&key) {
                    continue;
                }
                let row = rows.entry(key).or_default();
                row.waits += wait.count;
                row.ns = row.ns.saturating_add(wait.total_ns);
                row.reason.get_or_insert((wait.reason, thread.thread.tgid));
                if kind != Kind::File {
                    self.ends(row, thread, wait, &names);
                }
            }
        }
        self.objects.rows = rows;
    }

    fn ends(&self, row: &mut Row, thread: &Finished, wait: &WaitStat, names: &FastMap<u32, (NameId, NameId, u32)>) {
        let call = self.calls.name(wait.reason.syscall);
        row.uncounted |= !["read", "readv", "write", "writev"].contains(&call.as_str());
        let puts = ["write", "writev", "pwrite64", "sendto", "sendmsg", "sendmmsg", "sendfile", "vmsplice"];
        let takes = ["read", "readv", "recvfrom", "recvmsg", "recvmmsg"];
        let (near, far) = if puts.contains(&call.as_str()) {
            (&mut row.writers, &mut row.readers)
        } else if takes.contains(&call.as_str()) {
            (&mut row.readers, &mut row.writers)
        } else {
            return;
        };
        let own = &thread.thread;
        if let Some(end) =
            end_of(near, own.tid, || End { tgid: own.tgid, name: own.name, process: thread.process, ..End::default() })
        {
            end.waits += wait.count;
            end.ns = end.ns.saturating_add(wait.total_ns);
        }
        for waker in wait.wakers.iter().filter(|waker| waker.wake.context == WakeContext::Task) {
            let Some(by) = waker.wake.by.filter(|_| waker.count * LEAST_WOKE >= wait.count) else { continue };
            if let Some(end) = end_of(far, by.tid, || self.end_by(by, names)) {
                end.woke += waker.count;
            }
        }
    }

    fn end_by(&self, party: Party, names: &FastMap<u32, (NameId, NameId, u32)>) -> End {
        // When it ended a wait its process may not have been known yet.
        let (name, process, tgid) = match names.get(&party.serial) {
            Some((name, process, tgid)) => (name.or(party.name), process.or(party.process), *tgid),
            None => (party.name, party.process, party.tgid),
        };
        if party.serial != 0 {
            return End { tgid, name, process, ..End::default() };
        }
        let Some(stranger) = self.strangers.get(&party.tid) else { return End::default() };
        let leader = self.strangers.get(&stranger.tgid).map_or(NameId::NONE, |leader| leader.name);
        End { tgid: stranger.tgid, name: stranger.name, process: leader, ..End::default() }
    }

    /// What a wait's object is.
    pub(super) fn told(&self, tgid: u32, reason: Reason, object: u64) -> Told {
        let Some(kind) = kind(reason).filter(|_| object != 0) else { return Told::default() };
        let known = self.objects.known(tgid, object);
        let path = known.filter(|known| known.kind == "file").and_then(|known| known.path.clone());
        // /proc tells of one moment only.
        let several = || self.paths.only(object).filter(|file| kind == Kind::File && self.paths.is_several(*file));
        let path = match several() {
            Some(file) => self.paths.path_of(file, &[tgid]),
            None => path.or_else(|| self.met_path(kind, (tgid, object))),
        };
        let row = self.objects.rows.get(&(kind, object));
        let ends = if path.is_some() { None } else { self.words(kind, known, row) };
        Told { path, ends }
    }

    /// Path of a file that /proc did not tell of, as the kernel did when it met it.
    fn met_path(&self, kind: Kind, key: (u32, u64)) -> Option<String> {
        let is_new = kind == Kind::File && !self.objects.by_inode.contains_key(&key);
        let file = is_new.then(|| self.paths.only(key.1)).flatten()?;
        self.paths.path_of(file, &[key.0])
    }

    /// A pipe or a socket in words.
    fn words(&self, kind: Kind, known: Option<&ObjectRecord>, row: Option<&Row>) -> Option<String> {
        let mut text = match (kind, known.map(|known| known.kind.as_str())) {
            (Kind::Pipe, _) => "pipe".to_owned(),
            (Kind::Socket, Some("unix")) => "unix socket".to_owned(),
            (Kind::Socket, Some(protocol @ ("tcp" | "udp"))) => format!("{protocol} socket"),
            (Kind::Socket, _) => "socket".to_owned(),
            (Kind::File, Some(anonymous)) => return Some(anonymous.to_owned()),
            (Kind::File, None) => return None,
        };
        let bare = text.len();
        if let Some(peer) = known.and_then(|known| known.peer.as_ref().or(known.path.as_ref())) {
            text.push_str(&format!(" {peer}"));
        }
        let writers = row.and_then(|row| self.whom(&row.writers));
        let readers = row.and_then(|row| self.whom(&row.readers));
        text.extend(writers.map(|writers| format!(" from {writers}")));
        text.extend(readers.map(|readers| format!(" to {readers}")));
        (text.len() > bare).then_some(text)
    }

    /// A thread, a process or how many processes.
    fn whom(&self, ends: &BTreeMap<u32, End>) -> Option<String> {
        let named = |name: NameId, id: u32| match self.names.text(name) {
            Some(name) => format!("{name} ({id})"),
            None => id.to_string(),
        };
        let mut all = ends.iter();
        let (tid, first) = all.next()?;
        if ends.len() == 1 {
            return Some(named(first.name, *tid));
        }
        if all.all(|(_, end)| end.tgid == first.tgid) {
            return Some(format!("{} threads of {}", ends.len(), named(first.process.or(first.name), first.tgid)));
        }
        let processes: std::collections::BTreeSet<u32> = ends.values().map(|end| end.tgid).collect();
        Some(format!("{} processes", processes.len()))
    }

    /// The report's section; none where nothing is known.
    pub(super) fn objects_part(&self) -> Option<Section> {
        let objects = &self.objects;
        if objects.rows.is_empty() && objects.told + objects.gone + objects.over == 0 {
            return None;
        }
        let mut rows: Vec<(&(Kind, u64), &Row)> = objects.rows.iter().collect();
        rows.sort_by_key(|(key, row)| (Reverse(row.ns), **key));
        rows.truncate(MAX_ROWS_TOLD);
        Some(Section {
            known: objects.told,
            gone: objects.gone,
            over: objects.over + objects.refused,
            list: rows.into_iter().filter_map(|(key, row)| self.object_row(*key, row)).collect(),
        })
    }

    fn object_row(&self, (kind, number): (Kind, u64), row: &Row) -> Option<Object> {
        let (reason, tgid) = row.reason?;
        let known = self.objects.known(tgid, number);
        let field = |field: fn(&ObjectRecord) -> &Option<String>| known.and_then(|known| field(known).clone());
        Some(Object {
            object: object(reason, number)?,
            kind: known.map(|known| known.kind.clone()),
            path: field(|known| &known.path),
            deleted: known.is_some_and(|known| known.deleted),
            device: field(|known| &known.device),
            file_system: known.and_then(|known| known.file_system.clone()),
            local: field(|known| &known.local),
            peer: field(|known| &known.peer),
            ends: if kind == Kind::File { None } else { self.words(kind, known, Some(row)) },
            bytes: self.bytes_through(kind, number, row),
            waits: row.waits,
            total_s: seconds(row.ns),
            readers: self.end_rows(&row.readers),
            writers: self.end_rows(&row.writers),
        })
    }

    /// How much went through a pipe or a socket.
    fn bytes_through(&self, kind: Kind, number: u64, row: &Row) -> Option<ObjectBytes> {
        if kind == Kind::Socket
            && let Some(counts) = self.network.unix([number].iter(), None)
        {
            return Some(counted(&counts));
        }
        let at = |ends: &BTreeMap<u32, End>| -> Vec<At> {
            ends.iter().map(|(tid, end)| (end.tgid, *tid, end.waits > 0)).collect()
        };
        if kind == Kind::File || row.uncounted {
            return None;
        }
        bytes(&at(&row.readers), &at(&row.writers), kind == Kind::Socket, &self.objects.io)
    }

    fn end_rows(&self, ends: &BTreeMap<u32, End>) -> Vec<ObjectEnd> {
        let mut ends: Vec<(&u32, &End)> = ends.iter().collect();
        ends.sort_by_key(|(tid, end)| (Reverse(end.waits + end.woke), **tid));
        let row = |(tid, end): (&u32, &End)| ObjectEnd {
            pid: known(end.tgid),
            tid: *tid,
            thread: self.names.text(end.name),
            process: self.names.text(end.process),
            waits: end.waits,
            total_s: seconds(end.ns),
            woke: end.woke,
        };
        ends.into_iter().take(MAX_ENDS_TOLD).map(row).collect()
    }
}

fn end_of(ends: &mut BTreeMap<u32, End>, tid: u32, new: impl FnOnce() -> End) -> Option<&mut End> {
    if ends.len() >= MAX_ENDS && !ends.contains_key(&tid) {
        return None;
    }
    Some(ends.entry(tid).or_insert_with(new))
}
