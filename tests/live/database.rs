//! Statements of databases: SQLite, a PostgreSQL and a MariaDB server on loopback, through Python's clients, with and without the index that they
//! miss. What a program measured of its own look-ups is held against what the report says of the statement.

use std::ffi::OsString;
use std::process::Command;

use serde_json::Value;

use crate::harness::mariadb::MariaDb;
use crate::harness::postgres::Postgres;
use crate::harness::report::Report;
use crate::harness::{Tracer, list, number, python, text};

/// The statement that is slow without an index, without its values.
const LOOK_UP: &str = "SELECT id, name FROM items WHERE owner = ? AND name <> ?";
const FAMILIES: [&str; 3] = ["--family", "sched,cpu,net", "--db"];

/// The line of a database.py with Debian's own Python, which has Debian's clients; none, with a word on why, where a client is missing.
fn line(arguments: &str, client: &str) -> Option<Vec<OsString>> {
    let has = Command::new("/usr/bin/python3").args(["-c", &format!("import {client}")]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        println!("not run: /usr/bin/python3 has no {client} (`cargo xtask setup` installs it)");
        return None;
    }
    let mut line = python("database.py", arguments);
    line[0] = "/usr/bin/python3".into();
    Some(line)
}

/// Makes the items, which is not looked at.
fn prepare(arguments: &str, client: &str) {
    let Some(line) = line(&format!("{arguments} --prepare"), client) else { return };
    let output = Command::new(&line[0]).args(&line[1..]).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn traced(arguments: &str, client: &str, options: &[&str]) -> Option<(Value, Report)> {
    let traced = Tracer::run(line(arguments, client)?).options(options).go().expect_code(0);
    Some((traced.truth(), traced.report()))
}

fn statement<'a>(report: &'a Report, wanted: &str) -> &'a Value {
    let statements = list(&report.0["database"], "statements");
    let found = statements.iter().find(|statement| statement["text"].as_str() == Some(wanted));
    found.unwrap_or_else(|| panic!("{wanted} is in {statements:?}"))
}

/// The finding names the statement, its function and its seconds.
#[track_caller]
fn assert_named(truth: &Value, report: &Report, function: &str) {
    let finding = report.finding("database-latency");
    let culprit = &finding["culprit"];
    assert_eq!((&culprit["statement"], &culprit["pid"]), (&LOOK_UP.into(), &truth["pid"]), "{finding}");
    assert!(text(culprit, "function").contains(function), "{finding}");
    assert!(text(culprit, "file").ends_with("database.py"), "{finding}");
    let (lost, took) = (number(finding, "lost_s"), number(truth, "looked_up_s"));
    assert!((0.85 * took..=1.02 * took).contains(&lost), "lost {lost} s of {took} s: {finding}");
    let row = statement(report, LOOK_UP);
    assert_eq!((&row["executions"], &row["failed"]), (&truth["lookups"], &0.into()), "{row}");
    report.assert_silent(&["network-wait", "ipc-wait", "input-starvation", "cpu-bound"]);
    report.assert_path();
}

/// Values are nowhere in what is kept.
#[track_caller]
fn assert_without_values(report: &Report) {
    let all = report.0.to_string();
    assert!(!all.contains("secret-of-bob"), "a value is kept: {all}");
}

/// A database of SQLite, and its folder.
fn sqlite(options: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = format!("sqlite {}", folder.path().join("items.db").display());
    prepare(&format!("{arguments} {options}"), "sqlite3");
    (folder, arguments)
}

#[test]
fn a_statement_of_sqlite_that_misses_an_index_is_named() {
    let (_folder, arguments) = sqlite("");
    let Some((truth, report)) = traced(&arguments, "sqlite3", &FAMILIES) else { return };
    assert_named(&truth, &report, "lambda");
    let row = statement(&report, LOOK_UP);
    let spent = number(&row["spent"], "computing_s") + number(&row["spent"], "queued_s");
    assert!(spent >= 0.9 * number(row, "total_s"), "SQLite computes itself: {row}");
    assert_without_values(&report);
}

#[test]
fn each_of_many_quick_statements_is_counted() {
    let (_folder, arguments) = sqlite("");
    let Some((_, report)) = traced(&format!("{arguments} --prepare"), "sqlite3", &FAMILIES) else { return };
    let coverage = list(&report.0["coverage"], "families");
    let lost = coverage.iter().find(|family| family["family"] == "database").expect("it is told")["lost"].clone();
    let insert = statement(&report, "INSERT INTO items (id, owner, name) VALUES (?)");
    assert_eq!((number(insert, "executions"), &lost), (200_000.0, &0.into()), "{insert}");
}

#[test]
fn a_statement_of_sqlite_with_its_index_is_silent() {
    for _ in 0..crate::healthy::repeats() {
        let (_folder, arguments) = sqlite("--index");
        let Some((truth, report)) = traced(&arguments, "sqlite3", &FAMILIES) else { return };
        report.assert_silent(&["database-latency"]);
        assert_eq!(statement(&report, LOOK_UP)["executions"], truth["lookups"]);
    }
}

#[test]
fn a_statement_that_a_server_is_slow_with_is_named_with_two_clients() {
    let Some(server) = Postgres::start() else { return };
    prepare(&format!("postgres {}", server.port), "psycopg2");
    for client in ["psycopg2", "psycopg"] {
        let arguments = format!("postgres {} --client {client}", server.port);
        let Some((truth, report)) = traced(&arguments, client, &FAMILIES) else { continue };
        assert_named(&truth, &report, "fetch");
        let row = statement(&report, LOOK_UP);
        assert!(
            number(&row["spent"], "server_s") >= 0.8 * number(row, "total_s"),
            "{client}: the server's time: {row}"
        );
        assert_eq!(row["client"], "postgresql", "{client}");
        assert_eq!(row["asynchronous"] == true, client == "psycopg", "{client} sends, and asks later: {row}");
        assert_without_values(&report);
    }
}

#[test]
fn a_statement_that_a_server_has_an_index_for_is_silent() {
    let Some(server) = Postgres::start() else { return };
    prepare(&format!("postgres {} --index", server.port), "psycopg2");
    for _ in 0..crate::healthy::repeats() {
        let arguments = format!("postgres {}", server.port);
        let Some((truth, report)) = traced(&arguments, "psycopg2", &FAMILIES) else { return };
        report.assert_silent(&["database-latency"]);
        assert_eq!(statement(&report, LOOK_UP)["executions"], truth["lookups"]);
    }
}

#[test]
fn a_statement_that_mariadb_is_slow_with_is_named_and_with_its_index_silent() {
    let Some(server) = MariaDb::start() else { return };
    let arguments = format!("mysql {} --lookups 50", server.port);
    prepare(&arguments, "MySQLdb");
    let Some((truth, report)) = traced(&arguments, "MySQLdb", &FAMILIES) else { return };
    assert_named(&truth, &report, "fetch");
    let row = statement(&report, LOOK_UP);
    assert_eq!(row["client"], "mysql", "{row}");
    assert!(number(&row["spent"], "server_s") >= 0.8 * number(row, "total_s"), "the server's time: {row}");
    assert_without_values(&report);
    prepare(&format!("{arguments} --index"), "MySQLdb");
    for _ in 0..crate::healthy::repeats() {
        let Some((truth, report)) = traced(&arguments, "MySQLdb", &FAMILIES) else { return };
        report.assert_silent(&["database-latency"]);
        assert_eq!(statement(&report, LOOK_UP)["executions"], truth["lookups"]);
    }
}

#[test]
fn a_writer_that_waits_for_the_databases_lock_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = format!("locked {}", folder.path().join("results.db").display());
    let Some((truth, report)) = traced(&arguments, "sqlite3", &FAMILIES) else { return };
    let finding = report.finding("database-latency");
    assert_eq!(finding["culprit"]["statement"], "INSERT INTO results VALUES (?)", "{finding}");
    assert!(text(finding, "summary").contains("waits for locks"), "{finding}");
    let row = statement(&report, "INSERT INTO results VALUES (?)");
    let (locked, took) = (number(&row["spent"], "lock_s"), number(&truth, "looked_up_s"));
    assert!((0.9 * took..=1.01 * took).contains(&locked), "{locked} s of {took} s: {row}");
}

#[test]
fn without_the_option_stacks_tell_that_it_is_a_database_and_what_the_option_would_add() {
    let options = ["--family", "sched,cpu,net"];
    let (_folder, arguments) = sqlite("");
    let Some((truth, report)) = traced(&arguments, "sqlite3", &options) else { return };
    let finding = report.finding("database-latency");
    assert_eq!(finding["culprit"]["pid"], truth["pid"], "{finding}");
    assert!(text(finding, "summary").contains("--db"), "{finding}");
    assert!(report.0["database"].is_null(), "statements are looked at only where that is asked for");
    let Some(server) = Postgres::start() else { return };
    prepare(&format!("postgres {}", server.port), "psycopg2");
    let Some((_, report)) = traced(&format!("postgres {}", server.port), "psycopg2", &options) else { return };
    let finding = report.finding("network-wait");
    assert!(text(finding, "fix").contains("--db"), "{finding}");
}

#[test]
fn a_library_that_is_loaded_late_and_from_elsewhere_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("libsqlite3-copy.so.0");
    let system =
        ["/lib", "/usr/lib"].map(|folder| format!("{folder}/{}-linux-gnu/libsqlite3.so.0", std::env::consts::ARCH));
    let Some(system) = system.iter().find(|path| std::path::Path::new(path).exists()) else {
        println!("not run: this host has no libsqlite3 where Debian has it");
        return;
    };
    std::fs::copy(system, &own).expect("it can be copied");
    let script = "import ctypes, sys, time\n\
                  time.sleep(0.2)\n\
                  sqlite = ctypes.CDLL(sys.argv[1])\n\
                  time.sleep(0.6)\n\
                  database, statement = ctypes.c_void_p(), ctypes.c_void_p()\n\
                  assert sqlite.sqlite3_open(b':memory:', ctypes.byref(database)) == 0\n\
                  text = b'SELECT 42 WHERE 1 = 1'\n\
                  assert sqlite.sqlite3_prepare_v2(database, text, -1, ctypes.byref(statement), None) == 0\n\
                  assert sqlite.sqlite3_step(statement) == 100\n\
                  assert sqlite.sqlite3_reset(statement) == 0\n\
                  for _ in range(3):\n    assert sqlite.sqlite3_step(statement) == 100\n    sqlite.sqlite3_reset(statement)\n";
    let command = ["/usr/bin/python3", "-c", script, own.to_str().expect("a path")].map(Into::into).to_vec();
    let report = Tracer::run(command).options(&["--family", "sched", "--db"]).go().expect_code(0).report();
    let row = statement(&report, "SELECT ? WHERE ? = ?");
    assert_eq!((number(row, "executions"), number(row, "failed")), (4.0, 0.0), "{row}");
    let libraries = list(&report.0["database"], "libraries");
    assert!(libraries.iter().any(|library| library.as_str() == own.to_str()), "{libraries:?}");
}
