//! Payloads of the family that sees statements of databases, at the functions of their clients' libraries. Every struct starts with the
//! [`Header`].

use crate::record::Header;

/// Functions that are looked at: the cookie of their probes, and [`Call::function`].
pub mod function {
    /// `sqlite3_prepare_v2(db, text, bytes, out, …)`.
    pub const SQLITE_PREPARE: u16 = 1;
    /// `sqlite3_prepare_v3(db, text, bytes, flags, out, …)`.
    pub const SQLITE_PREPARE_V3: u16 = 2;
    /// `sqlite3_step(statement)`.
    pub const SQLITE_STEP: u16 = 3;
    /// `sqlite3_reset(statement)`: only its entry.
    pub const SQLITE_RESET: u16 = 4;
    /// `PQexec(connection, text)`, which waits for the answer.
    pub const PQ_EXEC: u16 = 5;
    /// `PQexecPrepared(connection, name, …)`, likewise.
    pub const PQ_EXEC_PREPARED: u16 = 6;
    /// `PQprepare(connection, name, text, …)`, likewise.
    pub const PQ_PREPARE: u16 = 7;
    /// `PQsendQuery(connection, text)`, which does not wait.
    pub const PQ_SEND: u16 = 8;
    /// `PQsendQueryPrepared(connection, name, …)`, likewise.
    pub const PQ_SEND_PREPARED: u16 = 9;
    /// `PQsendPrepare(connection, name, text, …)`, likewise.
    pub const PQ_SEND_PREPARE: u16 = 10;
    /// `PQgetResult(connection)`: null when there is no more.
    pub const PQ_GET_RESULT: u16 = 11;
    /// `mysql_real_query(connection, text, bytes)`.
    pub const MYSQL_QUERY: u16 = 12;
    /// `mysql_store_result(connection)`, which receives all rows.
    pub const MYSQL_STORE: u16 = 13;
    /// `mysql_stmt_prepare(statement, text, bytes)`.
    pub const MYSQL_PREPARE: u16 = 14;
    /// `mysql_stmt_execute(statement)`.
    pub const MYSQL_EXECUTE: u16 = 15;
    /// `mysql_stmt_store_result(statement)`.
    pub const MYSQL_STMT_STORE: u16 = 16;
    /// One more than the largest.
    pub const END: u16 = 17;
}

/// Bits of [`Call::flags`].
pub mod call {
    /// Its execution has ended with it; it was reset, has no more rows, or was one call.
    pub const ENDS: u16 = 1;
    /// Several short calls, one after the other; `start_ns` is that of the first.
    pub const SEVERAL: u16 = 2;
    /// A part of the text, or all of it, did not find room in the ring.
    pub const TEXT_LOST: u16 = 4;
}

/// Calls of `sqlite3_step` that bring a row in less than this are told together: no thread sleeps and wakes in less.
pub const SHORT_NS: u64 = 20_000;

/// A call of one of these functions has returned.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Kind [`crate::record::database::CALL`]; its time is that of returning.
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// When it was called.
    pub start_ns: u64,
    /// For how long it was in the call, or in the calls.
    pub spent_ns: u64,
    /// Address of the statement, or of the connection.
    pub handle: u64,
    /// How many calls this is.
    pub calls: u32,
    /// What it gave back: SQLite's and MySQL's code, of others 0.
    pub result: i32,
    /// See [`function`].
    pub function: u16,
    /// See [`call`].
    pub flags: u16,
    /// Number of the statement's text, from 1 on. The programs write 0; user space, which sees the texts, fills it in.
    pub statement: u32,
}

const _: () = assert!(size_of::<Call>() == 64);

/// What a [`Text`] is.
pub mod text {
    /// The statement.
    pub const STATEMENT: u16 = 0;
    /// The name that a prepared statement has in its connection.
    pub const NAME: u16 = 1;
}

/// Bytes of one [`Text`], and how many of them a text is cut to.
pub const TEXT_BYTES: usize = 192;
/// See there.
pub const MOST_TEXTS: usize = 6;

/// A piece of a statement's text, just before the [`Call`] that it is for. It has values in it and is not kept: user space takes them out
/// before anything is written down.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// Kind [`crate::record::database::TEXT`].
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// See [`text`].
    pub what: u16,
    /// The function to which it was given.
    pub function: u16,
    /// How many bytes come before it.
    pub offset: u32,
    /// The text ends after so many bytes, or at a zero.
    pub limit: u32,
    /// Zero.
    pub reserved: u32,
    /// The piece, ended by a zero where it is the last one.
    pub bytes: [u8; TEXT_BYTES],
}

const _: () = assert!(size_of::<Text>() == 40 + TEXT_BYTES);

/// What the programs know of a thread: the call that it is in, and short calls that there is no record of yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InCall {
    /// The thread; 0: none.
    pub tid: u32,
    /// The function that it is in; 0: none. What this one calls does not count.
    pub function: u32,
    /// Stack pointer at its entry.
    pub sp: u64,
    /// When it was called.
    pub start_ns: u64,
    /// What it was called for.
    pub handle: u64,
    /// Where it puts the address of a statement.
    pub out: u64,
    /// [`call::TEXT_LOST`], or 0.
    pub flags: u32,
    /// Short calls so far.
    pub calls: u32,
    /// Of these the statement, the time of the first and the last, and the sum.
    pub short_handle: u64,
    /// See above.
    pub short_start_ns: u64,
    /// See above.
    pub short_end_ns: u64,
    /// See above.
    pub short_ns: u64,
    /// The statement that ended last.
    pub ended_handle: u64,
}

const _: () = assert!(size_of::<InCall>() == 88);
