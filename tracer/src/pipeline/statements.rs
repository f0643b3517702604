//! Puts a number to the text of each statement while records are read from their ring: the texts, which have values in them, go no
//! further. Which call a text is for follows from the thread, since a thread's records keep their order. Bounded: so many statements, and
//! so many that were prepared; what finds no room has the number 0.

use std::collections::HashMap;

use tracer_common::{
    database::{TEXT_BYTES, function, text},
    record::{HEADER_BYTES, database as kind},
};

use super::{batch::header, sql};
use crate::{model::meta::StatementText, symbol::clients::Client};

/// Statements with a number.
const MOST_STATEMENTS: usize = 4_096;
/// Statements that are prepared, of all processes.
const MOST_PREPARED: usize = 65_536;
/// Threads whose texts are on their way.
const MOST_PENDING: usize = 4_096;
/// Bytes of a text.
const MOST_BYTES: usize = TEXT_BYTES * tracer_common::database::MOST_TEXTS;

/// Where fields of [`tracer_common::database::Call`] are.
const TID: usize = HEADER_BYTES;
const TGID: usize = TID + 4;
const HANDLE: usize = TGID + 4 + 16;
const RESULT: usize = HANDLE + 8 + 4;
const FUNCTION: usize = RESULT + 4;
const STATEMENT: usize = FUNCTION + 4;
const CALL_BYTES: usize = 64;
const _: () = assert!(STATEMENT + 4 == CALL_BYTES);

/// Where fields of [`tracer_common::database::Text`] are.
const WHAT: usize = TGID + 4;
const OFFSET: usize = WHAT + 4;
const LIMIT: usize = OFFSET + 4;
const BYTES: usize = LIMIT + 8;
const _: () = assert!(BYTES + TEXT_BYTES == size_of::<tracer_common::database::Text>());

/// What a thread gave to the function that it is in.
#[derive(Default)]
struct Pending {
    statement: Vec<u8>,
    name: Vec<u8>,
    /// The statement goes on.
    is_cut: bool,
}

/// See the file's head.
#[derive(Default)]
pub struct Statements {
    numbers: HashMap<(Client, String), u32>,
    pending: HashMap<u32, Pending>,
    /// By process, and address of the statement.
    prepared: HashMap<(u32, u64), u32>,
    /// By process, connection, and the statement's name in it.
    named: HashMap<(u32, u64, Vec<u8>), u32>,
}

/// What becomes of a record.
#[derive(Debug, Default, PartialEq)]
pub struct Taken {
    /// The record to be kept: a call with its number.
    pub call: Option<Vec<u8>>,
    /// A statement that was not met before.
    pub new: Option<StatementText>,
}

fn word(record: &[u8], at: usize) -> Option<u32> {
    record.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn half(record: &[u8], at: usize) -> Option<u16> {
    record.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

impl Statements {
    /// Takes a record of the family's ring. One that is none of them is kept as it is.
    pub fn take(&mut self, record: &[u8]) -> Taken {
        match header(record).map(|header| header.kind) {
            Some(kind::TEXT) => {
                self.text(record);
                Taken::default()
            }
            Some(kind::CALL) if record.len() == CALL_BYTES => self.call(record).unwrap_or_default(),
            _ => Taken { call: Some(record.to_vec()), new: None },
        }
    }

    fn text(&mut self, record: &[u8]) -> Option<()> {
        let (tid, what) = (word(record, TID)?, half(record, WHAT)?);
        let (offset, limit) = (word(record, OFFSET)? as usize, word(record, LIMIT)? as usize);
        let bytes = record.get(BYTES..BYTES + TEXT_BYTES)?;
        if self.pending.len() >= MOST_PENDING && !self.pending.contains_key(&tid) {
            return None;
        }
        let pending = self.pending.entry(tid).or_default();
        let (list, is_statement) = match what {
            text::STATEMENT => (&mut pending.statement, true),
            text::NAME => (&mut pending.name, false),
            _ => return None,
        };
        if offset == 0 {
            list.clear();
        }
        let end = bytes.iter().position(|byte| *byte == 0);
        let room = limit.saturating_sub(offset).min(MOST_BYTES.saturating_sub(offset));
        if list.len() == offset {
            list.extend_from_slice(&bytes[..end.unwrap_or(bytes.len()).min(room)]);
        }
        if is_statement {
            pending.is_cut = end.is_none() && limit > offset + TEXT_BYTES;
        }
        Some(())
    }

    fn call(&mut self, record: &[u8]) -> Option<Taken> {
        let (tid, tgid) = (word(record, TID)?, word(record, TGID)?);
        let handle = u64::from_le_bytes(record.get(HANDLE..HANDLE + 8)?.try_into().ok()?);
        let number = half(record, FUNCTION)?;
        let failed = word(record, RESULT)? != 0;
        let pending = self.pending.remove(&tid).unwrap_or_default();
        let mut new = None;
        let client = Client::of(number);
        let statement = match number {
            function::SQLITE_PREPARE | function::SQLITE_PREPARE_V3 | function::MYSQL_PREPARE => {
                let statement = self.number(client, &pending, &mut new);
                if !failed {
                    keep(&mut self.prepared, (tgid, handle), statement);
                }
                statement
            }
            function::PQ_PREPARE | function::PQ_SEND_PREPARE => {
                let statement = self.number(client, &pending, &mut new);
                keep(&mut self.named, (tgid, handle, pending.name), statement);
                statement
            }
            function::PQ_EXEC | function::PQ_SEND | function::MYSQL_QUERY => self.number(client, &pending, &mut new),
            function::PQ_EXEC_PREPARED | function::PQ_SEND_PREPARED => {
                self.named.get(&(tgid, handle, pending.name)).copied().unwrap_or(0)
            }
            _ => self.prepared.get(&(tgid, handle)).copied().unwrap_or(0),
        };
        let mut call = record.to_vec();
        call.get_mut(STATEMENT..STATEMENT + 4)?.copy_from_slice(&statement.to_le_bytes());
        Some(Taken { call: Some(call), new })
    }

    /// The number of a text; 0: it could not be read, or there is no room.
    fn number(&mut self, client: Option<Client>, pending: &Pending, new: &mut Option<StatementText>) -> u32 {
        let Some(client) = client.filter(|_| !pending.statement.is_empty()) else { return 0 };
        let text = sql::normalised(&String::from_utf8_lossy(&pending.statement), client, pending.is_cut);
        if let Some(known) = self.numbers.get(&(client, text.clone())) {
            return *known;
        }
        if self.numbers.len() >= MOST_STATEMENTS {
            return 0;
        }
        let number = self.numbers.len() as u32 + 1;
        *new = Some(StatementText { statement: number, client: client.id().to_owned(), text: text.clone() });
        self.numbers.insert((client, text), number);
        number
    }
}

/// A place that is used again has another statement from then on.
fn keep<K: std::hash::Hash + Eq>(map: &mut HashMap<K, u32>, key: K, statement: u32) {
    if map.len() < MOST_PREPARED || map.contains_key(&key) {
        map.insert(key, statement);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::batch::header_bytes;
    use tracer_common::record::Header;

    fn head(kind: u16, tid: u32) -> Vec<u8> {
        let mut bytes = header_bytes(Header { ts_ns: 1, kind, cpu: 0, lost: 0 }).to_vec();
        [tid, 7].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes
    }

    /// The records of a text, as the programs cut it.
    fn texts(tid: u32, what: u16, text: &str, limit: u32) -> Vec<Vec<u8>> {
        let mut all = text.as_bytes().to_vec();
        all.push(0);
        let piece = |(index, bytes): (usize, &[u8])| {
            let mut record = head(kind::TEXT, tid);
            record.extend(what.to_le_bytes());
            record.extend(0u16.to_le_bytes());
            record.extend(((index * TEXT_BYTES) as u32).to_le_bytes());
            record.extend(limit.to_le_bytes());
            record.extend([0; 4]);
            let mut padded = bytes.to_vec();
            padded.resize(TEXT_BYTES, 0);
            record.extend(padded);
            record
        };
        all.chunks(TEXT_BYTES).take(tracer_common::database::MOST_TEXTS).enumerate().map(piece).collect()
    }

    fn call(tid: u32, number: u16, handle: u64) -> Vec<u8> {
        let mut record = head(kind::CALL, tid);
        record.extend([0; 16]);
        record.extend(handle.to_le_bytes());
        record.extend(1u32.to_le_bytes());
        record.extend([0; 4]);
        record.extend(number.to_le_bytes());
        record.extend([0; 6]);
        record
    }

    fn number_of(taken: &Taken) -> Option<u32> {
        word(taken.call.as_deref()?, STATEMENT)
    }

    #[test]
    fn a_prepared_statement_is_known_by_its_address_until_that_is_used_again() {
        let mut statements = Statements::default();
        for (text, number, is_new) in [("SELECT 1", 1, true), ("SELECT 2", 1, false), ("SELECT a FROM t", 2, true)] {
            for record in texts(5, text::STATEMENT, text, u32::MAX) {
                assert_eq!(statements.take(&record), Taken::default(), "a text is not kept");
            }
            let taken = statements.take(&call(5, function::SQLITE_PREPARE, 0x1000));
            assert_eq!((number_of(&taken), taken.new.is_some()), (Some(number), is_new), "{text}");
            assert_eq!(number_of(&statements.take(&call(6, function::SQLITE_STEP, 0x1000))), Some(number));
        }
        assert_eq!(number_of(&statements.take(&call(6, function::SQLITE_STEP, 0x2000))), Some(0), "not seen");
    }

    #[test]
    fn a_name_is_known_in_its_connection() {
        let mut statements = Statements::default();
        let name = |statements: &mut Statements| {
            texts(5, text::NAME, "_pg3_0", u32::MAX).iter().for_each(|record| drop(statements.take(record)));
        };
        name(&mut statements);
        for record in texts(5, text::STATEMENT, "SELECT b FROM t WHERE c = $1", u32::MAX) {
            statements.take(&record);
        }
        let prepared = statements.take(&call(5, function::PQ_PREPARE, 0x10));
        assert_eq!(
            prepared.new.map(|new| (new.client, new.text)),
            Some(("postgresql".to_owned(), "SELECT b FROM t WHERE c = ?".to_owned()))
        );
        for (connection, number) in [(0x10, 1), (0x20, 0)] {
            name(&mut statements);
            assert_eq!(number_of(&statements.take(&call(5, function::PQ_EXEC_PREPARED, connection))), Some(number));
        }
    }

    #[test]
    fn a_long_text_is_put_together_and_a_longer_one_cut() {
        let mut statements = Statements::default();
        let long = format!("SELECT {} FROM t WHERE secret = 'x'", vec!["a"; 60].join(", "));
        for record in texts(5, text::STATEMENT, &long, u32::MAX) {
            statements.take(&record);
        }
        let new = statements.take(&call(5, function::PQ_EXEC, 1)).new.expect("a statement");
        assert!(new.text.ends_with("FROM t WHERE secret = ?"), "{}", new.text);
        let longer = format!("SELECT {}", vec!["a"; 2000].join(", "));
        texts(5, text::STATEMENT, &longer, u32::MAX).iter().for_each(|record| drop(statements.take(record)));
        let new = statements.take(&call(5, function::PQ_EXEC, 1)).new.expect("a statement");
        assert!(new.text.ends_with('…'), "{}", new.text);
        texts(5, text::STATEMENT, "SELECT a, b FROM t", 8).iter().for_each(|record| drop(statements.take(record)));
        let new = statements.take(&call(5, function::MYSQL_QUERY, 1)).new.expect("a statement");
        assert_eq!(new.text, "SELECT a", "what comes after the length that was given is not part of it");
    }
}
