//! Calls of databases' clients, put together to executions of statements. Bounded: so many statements, so many that are under way, and so
//! many calls of which it is kept when they were; what is over is counted. The report's section is made in `report`, what threads did in the
//! calls in `split`.

mod report;
mod split;

use std::collections::{BTreeSet, VecDeque};

use tracer_common::database::{Call, call, function};

use super::Aggregate;
use super::hash::FastMap;
use super::thread::Span;
use super::times::Times;
use crate::model::meta::{DatabaseRecord, FamilyRecord};
use crate::symbol::clients::Client;

/// Calls of which it is kept when they were: 48 MiB.
const MAX_CALLS: usize = 1 << 20;
/// Statements under way, by handle.
const MAX_OPEN: usize = 65_536;
/// Statements sent over one connection and not answered yet.
const MAX_SENT: usize = 1_024;
/// Statements with sums of their own.
const MAX_STATEMENTS: usize = 4_352;
/// Threads of one statement.
const MAX_THREADS: usize = 256;
/// Libraries that are told.
const MAX_LIBRARIES: usize = 64;
/// SQLite's codes for a row and for the end of rows.
const ROW: i32 = 100;
const DONE: i32 = 101;
/// SQLITE_BUSY and SQLITE_LOCKED, without their extensions; ER_LOCK_WAIT_TIMEOUT comes as a failure only.
const BUSY: [i32; 2] = [5, 6];

/// A statement: its number, or 0 with its client where the text is not known.
type Key = (u32, Client);

/// See the file's head.
#[derive(Default)]
pub struct Databases {
    clients: Vec<String>,
    texts: FastMap<u32, String>,
    sums: FastMap<Key, Sums>,
    /// Executions that have begun, by process and handle.
    open: FastMap<(u32, u64), VecDeque<Open>>,
    calls: Vec<Kept>,
    over: u64,
    is_on: bool,
}

/// Sums of one statement.
#[derive(Default)]
struct Sums {
    executions: Times,
    failed: u64,
    busy: u64,
    calls: u64,
    ns: u64,
    prepare_ns: u64,
    asynchronous: bool,
    /// Threads by serial number, with their time.
    threads: FastMap<u32, u64>,
    more_threads: BTreeSet<u32>,
    /// Time of calls of which it is not kept when they were.
    loose_ns: u64,
}

/// An execution that has begun.
struct Open {
    key: Key,
    start_ns: u64,
    spent_ns: u64,
    /// It is asked for later, and this is preparing it.
    sent: Option<bool>,
}

/// When calls were.
#[derive(Clone, Copy)]
struct Kept {
    serial: u32,
    key: Key,
    start_ns: u64,
    end_ns: u64,
    spent_ns: u64,
    /// Several short ones, in which no thread waits.
    several: bool,
}

impl Databases {
    /// Takes word of whether databases are looked at.
    pub fn family(&mut self, record: &FamilyRecord) -> bool {
        self.is_on |= record.family == "database" && record.status != "unavailable";
        self.is_on
    }

    /// Takes what is told of libraries and texts.
    pub fn record(&mut self, record: &DatabaseRecord) {
        let DatabaseRecord { library, .. } = record;
        if let Some(library) = library.as_ref().filter(|_| self.clients.len() < MAX_LIBRARIES)
            && !self.clients.contains(library)
        {
            self.clients.push(library.clone());
        }
        if let Some(statement) = &record.statement
            && self.texts.len() < MAX_STATEMENTS
        {
            self.texts.insert(statement.statement, statement.text.clone());
        }
    }

    /// Threads that made calls, by serial number.
    pub fn threads(&self) -> BTreeSet<u32> {
        self.calls.iter().map(|call| call.serial).collect()
    }

    fn take(&mut self, event: &Call, serial: u32, span: &Span) {
        let Some(client) = Client::of(event.function) else { return };
        let start_ns = event.start_ns.max(span.start_ns);
        let (key, handle) = ((event.statement, client), (event.tgid, event.handle));
        let ends = event.flags & call::ENDS != 0;
        let kept = Kept {
            serial,
            key,
            start_ns,
            end_ns: event.header.ts_ns,
            spent_ns: event.spent_ns.min(event.header.ts_ns.saturating_sub(start_ns)),
            several: event.flags & call::SEVERAL != 0,
        };
        match event.function {
            function::SQLITE_PREPARE | function::SQLITE_PREPARE_V3 | function::PQ_PREPARE | function::MYSQL_PREPARE => {
                self.spend(kept, event.calls);
                if let Some(sums) = self.sums(key) {
                    sums.prepare_ns += kept.spent_ns;
                }
            }
            function::SQLITE_RESET | function::SQLITE_STEP => self.step(event, kept, handle, ends),
            function::PQ_SEND | function::PQ_SEND_PREPARED | function::PQ_SEND_PREPARE => {
                let sent = Some(event.function == function::PQ_SEND_PREPARE);
                self.begin(handle, Open { key, start_ns, spent_ns: 0, sent });
                if let Some(sums) = self.sums(key) {
                    sums.calls += 1;
                }
            }
            function::PQ_GET_RESULT if ends => self.answered(kept, handle),
            function::PQ_GET_RESULT => {}
            function::MYSQL_STORE => {
                // Its rows: part of the execution before it.
                if let Some(key) = self.open.get(&handle).and_then(|open| open.back()).map(|open| open.key) {
                    self.spend(Kept { key, ..kept }, event.calls);
                }
            }
            function::MYSQL_STMT_STORE => self.spend(kept, event.calls),
            _ => {
                self.spend(kept, event.calls);
                self.end(key, kept.spent_ns, event.result, client);
                if event.function == function::MYSQL_QUERY {
                    self.open.remove(&handle);
                    self.begin(handle, Open { key, start_ns, spent_ns: 0, sent: None });
                }
            }
        }
    }

    fn step(&mut self, event: &Call, kept: Kept, handle: (u32, u64), ends: bool) {
        if event.calls > 0 {
            self.spend(kept, event.calls);
        }
        let before_ns = self.open.get(&handle).and_then(|open| open.back()).map(|open| open.spent_ns);
        let spent_ns = before_ns.unwrap_or(0).saturating_add(kept.spent_ns);
        if !ends {
            self.open.remove(&handle);
            self.begin(handle, Open { key: kept.key, start_ns: kept.start_ns, spent_ns, sent: None });
            return;
        }
        self.open.remove(&handle);
        // One that had no more rows is reset as well: that is no execution.
        if event.calls > 0 || before_ns.is_some() {
            let result = if event.function == function::SQLITE_RESET { 0 } else { event.result };
            self.end(kept.key, spent_ns, result, Client::Sqlite);
        }
    }

    /// The answer of what was sent first over a connection is complete.
    fn answered(&mut self, kept: Kept, handle: (u32, u64)) {
        let Some(open) = self.open.get_mut(&handle).and_then(VecDeque::pop_front) else { return };
        let spent_ns = kept.end_ns.saturating_sub(open.start_ns);
        let kept = Kept { key: open.key, start_ns: open.start_ns, spent_ns, ..kept };
        self.spend(kept, 1);
        if open.sent == Some(true) {
            if let Some(sums) = self.sums(open.key) {
                sums.prepare_ns += spent_ns;
            }
        } else {
            self.end(open.key, spent_ns, 0, Client::Postgres);
        }
        if let Some(sums) = self.sums(open.key) {
            sums.asynchronous = true;
        }
    }

    fn begin(&mut self, handle: (u32, u64), open: Open) {
        if self.open.len() >= MAX_OPEN && !self.open.contains_key(&handle) {
            return;
        }
        let list = self.open.entry(handle).or_default();
        if list.len() < MAX_SENT {
            list.push_back(open);
        }
    }

    fn sums(&mut self, key: Key) -> Option<&mut Sums> {
        if self.sums.len() >= MAX_STATEMENTS && !self.sums.contains_key(&key) {
            return None;
        }
        Some(self.sums.entry(key).or_default())
    }

    /// Adds the time of calls.
    fn spend(&mut self, kept: Kept, calls: u32) {
        let is_kept = self.calls.len() < MAX_CALLS;
        let Some(sums) = self.sums(kept.key) else {
            self.over += u64::from(calls);
            return;
        };
        sums.calls += u64::from(calls);
        sums.ns = sums.ns.saturating_add(kept.spent_ns);
        if sums.threads.len() < MAX_THREADS || sums.threads.contains_key(&kept.serial) {
            *sums.threads.entry(kept.serial).or_default() += kept.spent_ns;
        } else {
            sums.more_threads.insert(kept.serial);
        }
        if is_kept {
            self.calls.push(kept);
        } else {
            sums.loose_ns = sums.loose_ns.saturating_add(kept.spent_ns);
            self.over += u64::from(calls);
        }
    }

    fn end(&mut self, key: Key, ns: u64, result: i32, client: Client) {
        let Some(sums) = self.sums(key) else { return };
        sums.executions.add(ns);
        sums.failed += u64::from(result != 0 && !(client == Client::Sqlite && [ROW, DONE].contains(&result)));
        sums.busy += u64::from(client == Client::Sqlite && BUSY.contains(&(result & 0xff)));
    }
}

impl Aggregate {
    /// A call has returned.
    pub(in crate::aggregate) fn called(&mut self, event: &Call) {
        if !self.span.is_open() || event.header.ts_ns < self.span.start_ns || event.tid == self.held {
            return;
        }
        let thread = self.threads.find(event.tid).and_then(|index| self.threads.get(index));
        if let Some(serial) = thread.map(|thread| thread.serial) {
            self.databases.take(event, serial, &self.span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::record::{Header, database as kind};

    /// A call that took so long, and what is special about it.
    fn call(function: u16, handle: u64, start_ns: u64, spent_ns: u64, flags: u16) -> Call {
        let header = Header { ts_ns: start_ns + spent_ns, kind: kind::CALL, cpu: 0, lost: 0 };
        let calls = u32::from(function != function::SQLITE_RESET);
        let statement = match function {
            function::PQ_GET_RESULT | function::MYSQL_STORE => 0,
            _ => 1,
        };
        Call { header, tid: 5, tgid: 4, start_ns, spent_ns, handle, calls, result: 0, function, flags, statement }
    }

    fn taken(calls: &[Call]) -> Databases {
        let mut databases = Databases::default();
        let span = Span { start_ns: 1_000, now_ns: 1_000, gaps: Default::default() };
        calls.iter().for_each(|call| databases.take(call, 9, &span));
        databases
    }

    fn sums(databases: &Databases, client: Client) -> (u64, u64, u64, u64) {
        let sums = &databases.sums[&(1, client)];
        (sums.executions.count, sums.executions.ns, sums.calls, sums.ns)
    }

    #[test]
    fn steps_are_one_execution_until_there_are_no_more_rows_or_it_is_reset() {
        let row = |start_ns| Call { result: ROW, ..call(function::SQLITE_STEP, 7, start_ns, 100, 0) };
        let done = |start_ns| Call { result: DONE, ..call(function::SQLITE_STEP, 7, start_ns, 50, call::ENDS) };
        let reset = |start_ns| call(function::SQLITE_RESET, 7, start_ns, 0, call::ENDS);
        let databases =
            taken(&[row(2_000), row(3_000), done(4_000), reset(4_100), row(5_000), reset(5_200), reset(5_300)]);
        assert_eq!(sums(&databases, Client::Sqlite), (2, 250 + 100, 4, 350), "a reset after the end is no execution");
        let short = Call { calls: 40, ..call(function::SQLITE_STEP, 7, 6_000, 900, call::ENDS | call::SEVERAL) };
        assert_eq!(sums(&taken(&[short]), Client::Sqlite), (1, 900, 40, 900));
    }

    #[test]
    fn a_failure_and_a_locked_database_are_counted() {
        let ends = |result| Call { result, ..call(function::SQLITE_STEP, 7, 2_000, 100, call::ENDS) };
        let databases = taken(&[ends(DONE), ends(0), ends(5), ends(5 | 2 << 8), ends(19)]);
        let sums = &databases.sums[&(1, Client::Sqlite)];
        assert_eq!((sums.executions.count, sums.failed, sums.busy), (5, 3, 2));
    }

    #[test]
    fn what_is_sent_is_under_way_until_its_answer_is_complete() {
        let sent = |start_ns| call(function::PQ_SEND, 7, start_ns, 10, call::ENDS);
        let asked = |start_ns, flags| call(function::PQ_GET_RESULT, 7, start_ns, 10, flags);
        let databases = taken(&[sent(2_000), asked(3_000, 0), asked(3_990, call::ENDS), asked(5_000, call::ENDS)]);
        assert_eq!(sums(&databases, Client::Postgres), (1, 2_000, 2, 2_000), "from sending to the last answer, once");
        // A pipeline: answers come in the order in which it was sent.
        let databases = taken(&[sent(2_000), sent(2_100), asked(3_000, call::ENDS), asked(4_000, call::ENDS)]);
        assert_eq!(sums(&databases, Client::Postgres), (2, 1_010 + 1_910, 4, 2_920));
        assert!(databases.sums[&(1, Client::Postgres)].asynchronous);
    }

    #[test]
    fn preparing_counts_apart_from_executions() {
        let databases = taken(&[
            call(function::PQ_PREPARE, 7, 2_000, 300, call::ENDS),
            call(function::PQ_EXEC_PREPARED, 7, 3_000, 100, call::ENDS),
        ]);
        assert_eq!(sums(&databases, Client::Postgres), (1, 100, 2, 400));
        assert_eq!(databases.sums[&(1, Client::Postgres)].prepare_ns, 300);
    }

    #[test]
    fn rows_that_are_stored_are_of_the_query_before() {
        let databases = taken(&[
            call(function::MYSQL_QUERY, 7, 2_000, 300, call::ENDS),
            call(function::MYSQL_STORE, 7, 3_000, 100, call::ENDS),
            call(function::MYSQL_STORE, 8, 4_000, 100, call::ENDS),
        ]);
        assert_eq!(sums(&databases, Client::Mysql), (1, 300, 2, 400), "another connection's are not");
    }

    #[test]
    fn a_call_from_before_the_window_counts_from_its_start() {
        let databases = taken(&[call(function::PQ_EXEC, 7, 500, 1_000, call::ENDS)]);
        assert_eq!(sums(&databases, Client::Postgres), (1, 500, 1, 500));
    }
}
