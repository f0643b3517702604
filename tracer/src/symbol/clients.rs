//! Functions of databases' clients, and where a file has them. Any bytes may come.

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSymbol, ObjectSymbolTable, SymbolKind};
use tracer_common::database::function;

use super::entry;

/// Most symbols that are looked at in one table.
const MOST_SYMBOLS: usize = 1 << 20;

/// A database's client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Client {
    /// The whole database is in the process.
    Sqlite,
    /// libpq.
    Postgres,
    /// libmysqlclient, and MariaDB's libmariadb.
    Mysql,
}

impl Client {
    /// Its name in reports.
    pub const fn id(self) -> &'static str {
        match self {
            Client::Sqlite => "sqlite",
            Client::Postgres => "postgresql",
            Client::Mysql => "mysql",
        }
    }

    /// Whose function this is.
    pub const fn of(function: u16) -> Option<Self> {
        match function {
            function::SQLITE_PREPARE..=function::SQLITE_RESET => Some(Client::Sqlite),
            function::PQ_EXEC..=function::PQ_GET_RESULT => Some(Client::Postgres),
            function::MYSQL_QUERY..=function::MYSQL_STMT_STORE => Some(Client::Mysql),
            _ => None,
        }
    }
}

/// A function to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub function: u16,
    /// Its symbol.
    pub name: &'static str,
    /// Offset in the file of its first instruction.
    pub offset: u64,
    /// When it returns does not matter.
    pub entry_only: bool,
}

/// Symbols and what they are.
const FUNCTIONS: [(&str, u16); 19] = [
    ("sqlite3_prepare", function::SQLITE_PREPARE),
    ("sqlite3_prepare_v2", function::SQLITE_PREPARE),
    ("sqlite3_prepare_v3", function::SQLITE_PREPARE_V3),
    ("sqlite3_step", function::SQLITE_STEP),
    ("sqlite3_reset", function::SQLITE_RESET),
    ("PQexec", function::PQ_EXEC),
    ("PQexecParams", function::PQ_EXEC),
    ("PQexecPrepared", function::PQ_EXEC_PREPARED),
    ("PQprepare", function::PQ_PREPARE),
    ("PQsendQuery", function::PQ_SEND),
    ("PQsendQueryParams", function::PQ_SEND),
    ("PQsendQueryPrepared", function::PQ_SEND_PREPARED),
    ("PQsendPrepare", function::PQ_SEND_PREPARE),
    ("PQgetResult", function::PQ_GET_RESULT),
    ("mysql_real_query", function::MYSQL_QUERY),
    ("mysql_store_result", function::MYSQL_STORE),
    ("mysql_stmt_prepare", function::MYSQL_PREPARE),
    ("mysql_stmt_execute", function::MYSQL_EXECUTE),
    ("mysql_stmt_store_result", function::MYSQL_STMT_STORE),
];

/// Those without which the others of a client tell nothing.
const NEEDED: [u16; 3] = [function::SQLITE_STEP, function::PQ_EXEC, function::MYSQL_QUERY];

/// Whether a file's name is one that clients' libraries have: `libpq.so.5`, `libpq-9b38f5e3.so.5.16` in a wheel.
pub fn is_client(file_name: &str) -> bool {
    const STEMS: [&str; 5] = ["libsqlite3", "libpq", "libmariadb", "libmysqlclient", "libsqlcipher"];
    let rest = STEMS.iter().find_map(|stem| file_name.strip_prefix(stem));
    rest.is_some_and(|rest| rest.starts_with(['.', '-']) && rest.contains(".so"))
}

/// The functions that a file has, by its symbols; none: it is no client.
pub fn find(bytes: &[u8]) -> Result<Vec<Call>, String> {
    let file = ElfFile64::<Endianness>::parse(bytes)
        .map_err(|error| format!("it is no 64-bit program or library: {error}"))?;
    let mut found: Vec<(usize, u64)> = Vec::new();
    for table in [file.symbol_table(), file.dynamic_symbol_table()].into_iter().flatten() {
        for symbol in table.symbols().take(MOST_SYMBOLS) {
            let is_code = !symbol.is_undefined() && symbol.kind() == SymbolKind::Text && symbol.address() != 0;
            let Some(name) = symbol.name().ok().filter(|_| is_code) else { continue };
            if let Some(index) = FUNCTIONS.iter().position(|(known, _)| *known == name) {
                found.push((index, symbol.address()));
            }
        }
    }
    // The same function may stand in both tables.
    found.sort_unstable();
    found.dedup();
    if !found.iter().any(|(index, _)| NEEDED.contains(&FUNCTIONS[*index].1)) {
        return Ok(Vec::new());
    }
    let call = |(index, address): (usize, u64)| {
        let (name, function) = FUNCTIONS[index];
        let places = entry::places(&file, std::iter::once((address, 0)), name)?;
        let calls = places.into_iter().map(move |place| Call {
            function,
            name,
            offset: place.offset,
            entry_only: function == function::SQLITE_RESET,
        });
        Ok(calls)
    };
    let calls: Result<Vec<_>, String> = found.into_iter().map(call).collect();
    let mut calls: Vec<Call> = calls?.into_iter().flatten().collect();
    // Two symbols of one function are one probe.
    let mut seen = std::collections::HashSet::new();
    calls.retain(|call| seen.insert(call.offset));
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_known_by_their_names() {
        for name in ["libpq.so.5", "libpq-9b38f5e3.so.5.16", "libsqlite3.so.0.8.6", "libmariadb.so.3"] {
            assert!(is_client(name), "{name}");
        }
        for name in ["libpqxx.so", "libpq", "libsqlite3.a", "libpq.conf", "sqlite3", "libsqlite3x.so"] {
            assert!(!is_client(name), "{name}");
        }
    }

    #[test]
    fn each_function_is_of_one_client() {
        for (name, number) in FUNCTIONS {
            let client = Client::of(number).unwrap_or_else(|| panic!("{name} is of one"));
            let prefix = match client {
                Client::Sqlite => "sqlite3_",
                Client::Postgres => "PQ",
                Client::Mysql => "mysql_",
            };
            assert!(name.starts_with(prefix), "{name}");
        }
        assert_eq!((Client::of(0), Client::of(function::END)), (None, None));
    }

    #[test]
    fn what_is_no_client_has_none() {
        let own = std::fs::read("/proc/self/exe").expect("this program");
        assert_eq!(find(&own), Ok(Vec::new()));
        assert!(find(b"#!/bin/sh").is_err());
    }
}
