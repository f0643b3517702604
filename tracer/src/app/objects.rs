//! What the descriptors are on which threads waited: /proc is asked once per thread, descriptor and inode, by a thread of its own, so
//! that reading the rings waits for nothing. And once per process that uses files on disks, what it sees mounted: the kernel tells where
//! in their file systems these lie. The answers enter the stream as records. Bounded: so many keys and objects, so much time for
//! look-ups; what is over is counted, and the record says so.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ffi::OsString,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tracer_common::record::{Header, block, meta};

use super::{budget::Budget, moved::Movers, network::Connections};
use crate::{
    kernel::{
        clock,
        live::push_meta,
        mounts::{self, Mounts},
        objects::{self, SocketLists},
        proc, tmpfs,
    },
    model::meta::{MountsRecord, ObjectRecord, ObjectsRecord},
    pipeline::{
        batch::{Batch, header, header_bytes},
        descriptor::{self, Descriptor},
    },
};

/// Descriptors asked for: at most 1.5 MiB of keys. Further ones are counted as over the bound.
const MOST_KEYS: usize = 65_536;
/// Objects kept and written.
const MOST_OBJECTS: usize = 8_192;
/// Questions that wait for an answer.
const MOST_PENDING: usize = 4_096;
/// Look-ups a second; each takes some 20 us.
const LOOKUPS_PER_S: u32 = 2_000;
/// Looking up files takes at most one in so many parts of a CPU's time, and so much ahead. What is closed already takes 200 us: a program that
/// opens another file each time must not pay for all of them. The kernel tells the paths of files on disks too.
const PART_FOR_FILES: u64 = 50;
const AHEAD_FOR_FILES_NS: u64 = 40_000_000;
/// Files that wait for that.
const MOST_LATER: usize = 4_096;
const LATER: Duration = Duration::from_millis(20);
/// Processes whose mounts are asked for, and mount namespaces of them.
const MOST_PROCESSES: usize = 4_096;
const MOST_NAMESPACES: usize = 64;
/// Records of directories that are kept for captures that drop their older part: each has 120 bytes.
const MOST_DIRECTORIES: usize = 4_096;
/// Lists of sockets are read at most this often, since they may be long.
const LIST_PERIOD: Duration = Duration::from_millis(100);
/// At the end an answer is waited for this long.
const LAST_WAIT: Duration = Duration::from_millis(500);
/// Objects in one record.
const OBJECTS_PER_RECORD: usize = 64;

/// What is asked.
enum Question {
    /// What this is.
    Descriptor(Descriptor),
    /// What this process sees mounted; 0: the tracer.
    Mounts(u32),
}

/// The asking side.
pub struct Objects {
    asked: HashSet<Descriptor>,
    asked_mounts: HashSet<u32>,
    over: u64,
    questions: Option<SyncSender<Question>>,
    /// Questions put, and those that were dealt with.
    put: u64,
    dealt: Arc<AtomicU64>,
    answers: Receiver<ObjectsRecord>,
    answering: Option<JoinHandle<()>>,
    known: Vec<ObjectRecord>,
    mounts: Vec<MountsRecord>,
    directories: Vec<Vec<u8>>,
    counted: ObjectsRecord,
}

impl Objects {
    /// Starts the thread that answers; where that fails nothing is asked.
    pub fn new() -> Self {
        let (questions, asked) = sync_channel(MOST_PENDING);
        let (answer, answers) = channel();
        let thread = std::thread::Builder::new().name("tracer-objects".to_owned());
        let dealt = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&dealt);
        let answering = thread.spawn(move || Answerer::default().run(&asked, &answer, &theirs)).ok();
        let mut objects = Objects {
            asked: HashSet::new(),
            asked_mounts: HashSet::new(),
            over: 0,
            questions: answering.is_some().then_some(questions),
            put: 0,
            dealt,
            answers,
            answering,
            known: Vec::new(),
            mounts: Vec::new(),
            directories: Vec::new(),
            counted: ObjectsRecord::default(),
        };
        objects.ask_mounts(0);
        objects
    }

    /// Asks for what a batch's threads wait on, and puts what was answered meanwhile into `records`. True: it belongs before the
    /// batch, which is the last one.
    pub fn look(&mut self, batch: &Batch, records: &mut Batch) -> bool {
        let mut last = false;
        for record in batch.iter() {
            if let Some(descriptor) = descriptor::descriptor(record) {
                self.ask(descriptor);
            }
            if let Some(tgid) = descriptor::user_of_file(record) {
                self.ask_mounts(tgid);
            }
            let kind = header(record).map(|header| header.kind);
            if kind == Some(block::DIRECTORY) && self.directories.len() < MOST_DIRECTORIES {
                self.directories.push(record.to_vec());
            }
            last |= kind == Some(meta::END);
        }
        let ts_ns = batch.iter().next().and_then(header).map_or(0, |header| header.ts_ns);
        while let Ok(answer) = self.answers.try_recv() {
            self.take(answer, ts_ns, records);
        }
        if last {
            self.finish(ts_ns, records);
        }
        last
    }

    fn ask(&mut self, descriptor: Descriptor) {
        if self.asked.contains(&descriptor) {
            return;
        }
        if self.asked.len() >= MOST_KEYS {
            self.over += 1;
            return;
        }
        self.asked.insert(descriptor);
        self.put(Question::Descriptor(descriptor));
    }

    fn ask_mounts(&mut self, tgid: u32) {
        if !self.asked_mounts.contains(&tgid) && self.asked_mounts.len() < MOST_PROCESSES {
            self.asked_mounts.insert(tgid);
            self.put(Question::Mounts(tgid));
        }
    }

    fn put(&mut self, question: Question) {
        match self.questions.as_ref().map(|questions| questions.try_send(question)) {
            Some(Err(TrySendError::Full(_))) => self.over += 1,
            Some(Err(TrySendError::Disconnected(_))) => self.questions = None,
            Some(Ok(())) => self.put += 1,
            None => {}
        }
    }

    fn take(&mut self, mut answer: ObjectsRecord, ts_ns: u64, records: &mut Batch) {
        let objects = std::mem::take(&mut answer.objects);
        let told = ObjectsRecord {
            moved: std::mem::take(&mut answer.moved),
            sockets: std::mem::take(&mut answer.sockets),
            listening: std::mem::take(&mut answer.listening),
            mounts: std::mem::take(&mut answer.mounts),
            ..ObjectsRecord::default()
        };
        self.counted = answer;
        self.mounts.extend_from_slice(&told.mounts);
        push_meta(records, ts_ns, meta::OBJECTS, &self.record(&objects, told));
        self.known.extend(objects);
    }

    /// A record with the counts of both sides; `told` has what else it is to say.
    fn record(&self, objects: &[ObjectRecord], told: ObjectsRecord) -> ObjectsRecord {
        let over = self.counted.over + self.over;
        ObjectsRecord { objects: objects.to_vec(), over, gone: self.counted.gone, ..told }
    }

    /// Waits for the last answers.
    fn finish(&mut self, ts_ns: u64, records: &mut Batch) {
        self.questions = None;
        let until = Instant::now() + LAST_WAIT;
        while let Ok(answer) = self.answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.take(answer, ts_ns, records);
        }
        if self.answering.take_if(|thread| thread.is_finished()).is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the thread that looks up files and sockets failed: some waits have no path");
        }
        // What is still to be looked at is not waited for.
        self.over += self.put.saturating_sub(self.dealt.load(Ordering::Acquire));
        if self.over > 0 {
            push_meta(records, ts_ns, meta::OBJECTS, &self.record(&[], ObjectsRecord::default()));
        }
    }

    /// Everything known, again: for a capture that drops its older part.
    pub fn again(&self, ts_ns: u64, records: &mut Batch) {
        for objects in self.known.chunks(OBJECTS_PER_RECORD) {
            push_meta(records, ts_ns, meta::OBJECTS, &self.record(objects, ObjectsRecord::default()));
        }
        for mounts in self.mounts.chunks(OBJECTS_PER_RECORD) {
            let told = ObjectsRecord { mounts: mounts.to_vec(), ..ObjectsRecord::default() };
            push_meta(records, ts_ns, meta::OBJECTS, &self.record(&[], told));
        }
        for directory in &self.directories {
            records.push(&at(directory, ts_ns));
        }
    }
}

/// A record as if it were written then.
fn at(record: &[u8], ts_ns: u64) -> Vec<u8> {
    let Some(header) = header(record) else { return record.to_vec() };
    let mut moved = header_bytes(Header { ts_ns, ..header }).to_vec();
    moved.extend_from_slice(record.get(moved.len()..).unwrap_or_default());
    moved
}

/// The answering side.
struct Answerer {
    /// Process of each thread.
    processes: HashMap<u32, u32>,
    /// By process, descriptor and inode: whether it is a pipe or a socket.
    told: HashMap<(u32, u32, u64), bool>,
    movers: Movers,
    moved: Vec<crate::model::meta::MovedRecord>,
    connections: Connections,
    mounts: Mounts,
    namespaces: HashSet<u64>,
    ready: Vec<ObjectRecord>,
    ready_mounts: Vec<MountsRecord>,
    /// Sockets whose addresses are not looked up yet, by network namespace.
    sockets: HashMap<OsString, Vec<ObjectRecord>>,
    listed: Instant,
    counted: ObjectsRecord,
    /// Look-ups since then.
    window: (Instant, u32),
    /// Files that wait for time to look them up, the newest of which comes first: it is the likeliest to be open still.
    later: VecDeque<Descriptor>,
}

impl Default for Answerer {
    fn default() -> Self {
        let now = Instant::now();
        Answerer {
            processes: HashMap::new(),
            told: HashMap::new(),
            movers: Movers::default(),
            moved: Vec::new(),
            connections: Connections::default(),
            mounts: Mounts::default(),
            namespaces: HashSet::new(),
            ready: Vec::new(),
            ready_mounts: Vec::new(),
            sockets: HashMap::new(),
            listed: now.checked_sub(LIST_PERIOD).unwrap_or(now),
            counted: ObjectsRecord::default(),
            window: (now, 0),
            later: VecDeque::new(),
        }
    }
}

impl Answerer {
    fn run(mut self, questions: &Receiver<Question>, answers: &Sender<ObjectsRecord>, dealt: &AtomicU64) {
        crate::kernel::hurry();
        let mut budget = Budget::new(PART_FOR_FILES, AHEAD_FOR_FILES_NS);
        loop {
            let due = [self.movers.due_in(), self.connections.due_in()];
            let due = due.into_iter().flatten().min().unwrap_or(Duration::from_secs(3600));
            let wait = if self.sockets.is_empty() { due } else { LIST_PERIOD };
            let wait = if self.later.is_empty() { wait } else { wait.min(LATER) };
            let ended = match questions.recv_timeout(wait) {
                Ok(question) => {
                    for question in std::iter::once(question).chain(questions.try_iter().take(OBJECTS_PER_RECORD)) {
                        match question {
                            Question::Descriptor(file) if file.is_file => self.look_up_later(file),
                            Question::Descriptor(descriptor) => self.look_up(descriptor),
                            Question::Mounts(tgid) => self.see_mounts(tgid),
                        }
                        dealt.fetch_add(1, Ordering::Release);
                    }
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            self.look_up_files(&mut budget);
            if ended {
                self.counted.over += self.later.len() as u64;
            }
            if ended || self.listed.elapsed() >= LIST_PERIOD {
                self.list();
            }
            self.moved.append(&mut self.movers.look(ended));
            let counts = (self.counted.gone, self.counted.over);
            let (objects, moved) = (std::mem::take(&mut self.ready), std::mem::take(&mut self.moved));
            let sockets = self.connections.look(ended);
            let listening = self.connections.listening();
            let mounts = std::mem::take(&mut self.ready_mounts);
            let told = ObjectsRecord { objects, moved, sockets, listening, mounts, ..self.counted.clone() };
            let any = !told.objects.is_empty()
                || !told.moved.is_empty()
                || !told.sockets.is_empty()
                || !told.listening.is_empty()
                || !told.mounts.is_empty();
            let says = any || (ended && counts != (0, 0));
            if says && answers.send(told).is_err() {
                return;
            }
            if ended {
                return;
            }
        }
    }

    fn look_up_later(&mut self, file: Descriptor) {
        if self.later.len() >= MOST_LATER {
            self.later.pop_front();
            self.counted.over += 1;
        }
        self.later.push_back(file);
    }

    /// Looks up files for as long as their time lasts.
    fn look_up_files(&mut self, budget: &mut Budget) {
        while let Some(file) = self.later.pop_back() {
            if budget.spend(clock::monotonic_ns(), || self.look_up(file)).is_none() {
                self.later.push_back(file);
                return;
            }
        }
    }

    /// Keeps the look-ups to their rate, by waiting: the questions queue meanwhile.
    fn pace(&mut self) {
        let since = self.window.0.elapsed();
        if since >= Duration::from_secs(1) {
            self.window = (Instant::now(), 0);
        } else if self.window.1 >= LOOKUPS_PER_S {
            std::thread::sleep(Duration::from_secs(1) - since);
            self.window = (Instant::now(), 0);
        }
        self.window.1 += 1;
    }

    /// Tells what a process sees mounted; nothing if it is gone.
    fn see_mounts(&mut self, tgid: u32) {
        let pid = if tgid == 0 { std::process::id() } else { tgid };
        let Some(namespace) = tmpfs::namespace(pid) else { return };
        let is_new = !self.namespaces.contains(&namespace) && self.namespaces.len() < MOST_NAMESPACES;
        let mounts = if is_new { mounts::on_disks(pid) } else { Vec::new() };
        self.namespaces.insert(namespace);
        self.ready_mounts.push(MountsRecord { tgid, namespace, mounts });
    }

    fn look_up(&mut self, question: Descriptor) {
        let Descriptor { tid, fd, inode, .. } = question;
        if self.processes.len() >= MOST_KEYS {
            self.processes.clear();
        }
        let tgid = match self.processes.get(&tid) {
            Some(tgid) => *tgid,
            None => match proc::identity(tid) {
                Some((tgid, _)) => *self.processes.entry(tid).or_insert(tgid),
                None => {
                    self.counted.gone += 1;
                    return;
                }
            },
        };
        if let Some(is_stream) = self.told.get(&(tgid, fd, inode)) {
            if *is_stream {
                self.moved.extend(self.movers.watch(tgid, tid));
            }
            return;
        }
        if self.told.len() >= MOST_OBJECTS {
            self.counted.over += 1;
            return;
        }
        self.pace();
        let Some(mut object) = objects::object(tid, fd, inode) else {
            self.counted.gone += 1;
            return;
        };
        let is_stream = object.kind == "pipe" || object.kind == "socket";
        if is_stream {
            self.moved.extend(self.movers.watch(tgid, tid));
        }
        self.told.insert((tgid, fd, inode), is_stream);
        object.tgid = tgid;
        object.file_system = self.mounts.of(&object);
        match objects::network_of(tid).filter(|_| object.kind == "socket") {
            Some(network) => self.sockets.entry(network).or_default().push(object),
            None => self.ready.push(object),
        }
    }

    /// Looks up the addresses of sockets, namespace by namespace.
    fn list(&mut self) {
        for (network, mut sockets) in std::mem::take(&mut self.sockets) {
            self.listed = Instant::now();
            if let Some(tid) = sockets.iter().map(|socket| socket.tid).find(|tid| objects::network_of(*tid).is_some()) {
                SocketLists::read(tid).tell(&mut sockets.iter_mut().collect::<Vec<_>>());
            }
            for socket in sockets.iter().filter(|socket| socket.kind == "tcp") {
                self.connections.watch((socket.tgid, socket.tid), &network, socket.inode);
            }
            self.ready.append(&mut sockets);
        }
    }
}
