//! Finds libraries of databases' clients, and has the programs attached to them: those of the system before anything runs, others when a
//! traced process has mapped them. A thread of its own looks, a few times in the life of a process: a library may be loaded late.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use tracer_common::record::meta;

use super::step;
use crate::{
    kernel::{
        clients::{Attacher, Library},
        file_map::FileMap,
        live::push_meta,
    },
    model::{meta::DatabaseRecord, text::printable},
    pipeline::{
        batch::{Batch, header},
        decode,
    },
    symbol::clients,
};

/// Processes that are looked at; further ones are not.
const MOST_PROCESSES: usize = 4_096;
/// Processes that are on their way to the thread.
const MOST_WAITING: usize = 1_024;
/// A process is looked at after these times since it was met, and then each time after the last of them.
const AFTER_MS: [u64; 7] = [0, 20, 60, 150, 400, 1_000, 3_000];
/// Files that are known not to be clients.
const MOST_LOOKED_AT: usize = 65_536;

/// The library at a path, if it is a client's.
fn library(path: &Path, file: File) -> Result<Option<Library>, String> {
    let map = FileMap::new(&file).map_err(|error| format!("it cannot be read: {error}"))?;
    let calls = clients::find(&map)?;
    drop(map);
    Ok((!calls.is_empty()).then(|| Library { file, path: path.to_owned(), calls }))
}

/// What is attached to before anything runs: what `--db` names, which must be clients, and what the system's folders have.
pub fn libraries(named: &[PathBuf]) -> Result<Vec<Library>, String> {
    let mut found = Vec::new();
    for path in named {
        let shown = printable(path.as_os_str().as_encoded_bytes());
        let file = step::open(path).map_err(|error| format!("--db={shown}: it cannot be opened: {error}"))?;
        match library(path, file) {
            Ok(Some(library)) => found.push(library),
            Ok(None) => {
                return Err(format!(
                    "--db={shown}: it has no functions of SQLite, libpq, libmysqlclient or libmariadb among its symbols"
                ));
            }
            Err(problem) => return Err(format!("--db={shown}: {problem}")),
        }
    }
    for folder in step::library_folders() {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| is_client(path)) {
            // One that cannot be read is looked at again when somebody maps it.
            if let Ok(Some(library)) =
                step::open(&path).map_err(|_| String::new()).and_then(|file| library(&path, file))
            {
                found.push(library);
            }
        }
    }
    Ok(found)
}

fn is_client(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(clients::is_client)
}

/// Attaches, and tells of each library.
pub fn attach(attacher: &Attacher, libraries: &[Library]) -> Result<Vec<DatabaseRecord>, String> {
    let mut records = Vec::new();
    for library in libraries {
        if attacher.attach(library)? {
            records.push(record(library));
        }
    }
    Ok(records)
}

fn record(library: &Library) -> DatabaseRecord {
    let path = printable(library.path.as_os_str().as_encoded_bytes());
    DatabaseRecord { library: Some(path), ..DatabaseRecord::default() }
}

/// Passes processes on to the thread that looks at them, and what it finds into the stream.
pub struct Databases {
    processes: Option<SyncSender<u32>>,
    found: Option<Receiver<DatabaseRecord>>,
}

impl Databases {
    /// With something to attach with; none: nobody asked.
    pub fn new(attacher: Option<Arc<Attacher>>) -> Self {
        let nobody = Databases { processes: None, found: None };
        let Some(attacher) = attacher else { return nobody };
        let (processes, asked) = sync_channel(MOST_WAITING);
        let (tell, found) = sync_channel(MOST_WAITING);
        let looker = Looker { attacher, tell, due: BTreeMap::new(), looked_at: HashSet::new() };
        let thread = std::thread::Builder::new().name("tracer-clients".to_owned()).spawn(move || looker.run(&asked));
        match thread {
            Ok(_) => Databases { processes: Some(processes), found: Some(found) },
            Err(error) => {
                tracing::warn!("libraries of databases' clients that are loaded later are not seen: {error}");
                nobody
            }
        }
    }

    /// Takes the processes that a batch tells of, and puts what was found meanwhile into `records`.
    pub fn look(&mut self, batch: &Batch, records: &mut Batch) {
        let Some(found) = &self.found else { return };
        for pid in batch.iter().filter_map(decode::process) {
            // One that finds no room is met again when it executes another program, or its libraries by another process.
            let _ = self.processes.as_ref().map(|processes| processes.try_send(pid));
        }
        let ts_ns = batch.iter().next().and_then(header).map_or(0, |header| header.ts_ns);
        while let Ok(record) = found.try_recv() {
            push_meta(records, ts_ns, meta::DATABASE, &record);
        }
    }
}

/// When a process is to be looked at, and how often it was.
struct Due {
    met: Instant,
    next: Instant,
    tries: usize,
}

struct Looker {
    attacher: Arc<Attacher>,
    tell: SyncSender<DatabaseRecord>,
    due: BTreeMap<u32, Due>,
    /// Files by device and inode number.
    looked_at: HashSet<(u64, u64)>,
}

impl Looker {
    fn run(mut self, asked: &Receiver<u32>) {
        loop {
            let now = Instant::now();
            let next = self.due.values().map(|due| due.next).min();
            let wait = next.map_or(Duration::from_secs(60), |next| next.saturating_duration_since(now));
            match asked.recv_timeout(wait) {
                Ok(pid) => self.meet(pid),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.look();
        }
    }

    fn meet(&mut self, pid: u32) {
        if self.due.len() < MOST_PROCESSES || self.due.contains_key(&pid) {
            let now = Instant::now();
            self.due.insert(pid, Due { met: now, next: now, tries: 0 });
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        let ready: Vec<u32> = self.due.iter().filter(|(_, due)| due.next <= now).map(|(pid, _)| *pid).collect();
        for pid in ready {
            if self.look_at(pid).is_none() {
                self.due.remove(&pid);
                continue;
            }
            if let Some(due) = self.due.get_mut(&pid) {
                due.tries += 1;
                let last = Duration::from_millis(AFTER_MS[AFTER_MS.len() - 1]);
                due.next =
                    AFTER_MS.get(due.tries).map_or(now + last, |ms| due.met + Duration::from_millis(*ms)).max(now);
            }
        }
    }

    /// Looks at what a process has mapped. None: it is gone.
    fn look_at(&mut self, pid: u32) -> Option<()> {
        let program = PathBuf::from(format!("/proc/{pid}/exe"));
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        let shown = fs::read_link(&program).unwrap_or_default();
        self.look_into(&shown, || step::open(&program).ok());
        for line in maps.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (Some(range), Some(permissions)) = (fields.next(), fields.next()) else { continue };
            let Some(path) = fields.nth(3).map(Path::new).filter(|path| is_client(path)) else { continue };
            if permissions.contains('x') {
                self.look_into(path, || step::open(Path::new(&format!("/proc/{pid}/map_files/{range}"))).ok());
            }
        }
        Some(())
    }

    fn look_into(&mut self, path: &Path, open: impl Fn() -> Option<File>) {
        let Some((file, metadata)) = open().and_then(|file| file.metadata().ok().map(|metadata| (file, metadata)))
        else {
            return;
        };
        if self.looked_at.len() >= MOST_LOOKED_AT || !self.looked_at.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        let attached = library(path, file).and_then(|found| match found {
            Some(library) => attach(&self.attacher, std::slice::from_ref(&library)),
            None => Ok(Vec::new()),
        });
        match attached {
            Ok(records) => records.into_iter().for_each(|record| drop(self.tell.try_send(record))),
            Err(problem) => tracing::warn!("calls of {} are not seen: {problem}", path.display()),
        }
    }
}
