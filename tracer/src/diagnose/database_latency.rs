//! `database-latency`: the run spends its time in statements of a database. With `--db` each statement is named, with what its time went to;
//! without, that a client's functions compute is told by stacks, and what `--db` would add.
//!
//! What counts is the critical path's time while a thread on it is in a client's calls. Waits for a server alone, without `--db`, are
//! `network-wait`'s.

use super::lost::{Lost, lost};
use super::lost_claim::{self, Words};
use super::thresholds::{REPORTED_SHARE, is_reported};
use super::{Claim, Facts, Outcome, Rule, UNKNOWN_COVERAGE, evidence, family_share, functions, parties};
use crate::model::database::{Database, Statement};
use crate::model::report::{Evidence, Report, Subject};
use crate::model::stacks::{DATABASE, Whose};
use crate::model::units::{count, duration, percent};

/// See the file's head.
pub struct DatabaseLatency;

/// Its calls are seen, begin and end.
const SEEN: f64 = 0.9;
/// It was sent and asked for later.
const LATER: f64 = 0.7;
/// Stacks show it in the client's functions.
const BY_STACKS: f64 = 0.7;
const MAX_CLAIMS: usize = 3;
/// A shorter text names a statement well enough.
const SHOWN_CHARACTERS: usize = 100;
/// From this part of its time on, this is what a statement does.
const MOST: f64 = 0.5;
/// Under this share of the calls seen nothing is said to take little.
const LEAST_SEEN: f64 = 0.9;
/// Executions that are many.
const MANY: u64 = 100;
/// Shorter ones cost by their number.
const QUICK_S: f64 = 0.001;
/// Findings that tell more of what its waits for files are.
const OF_FILES: [&str; 6] =
    ["fsync-stall", "small-random-reads", "slow-storage", "dirty-throttling", "cold-file-mapping", "page-cache-thrash"];

impl Rule for DatabaseLatency {
    fn class(&self) -> &'static str {
        "database-latency"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let report = facts.report;
        match &report.database {
            Some(database) => by_statement(facts, database),
            None => by_stacks(report),
        }
    }
}

/// Without `--db`.
fn by_stacks(report: &Report) -> Outcome {
    if report.stacks.is_none() {
        return Outcome::CouldNotRun(
            "neither statements nor stacks were recorded: run with --db, or with the family cpu".to_owned(),
        );
    }
    let lost = lost(report, |_| false, |phase, _| phase == DATABASE);
    if lost.s <= 0.0 || lost.s < REPORTED_SHARE * report.window.duration_s {
        return Outcome::Silent(
            "the run hardly computed in a database's client; --db tells of each statement, waits included".to_owned(),
        );
    }
    let wall_s = report.window.duration_s;
    let mut culprit = lost_claim::culprit(report, &lost, &Whose::default(), |_| false);
    let phases = lost.most.and_then(|(pid, tid)| parties::row(report, pid, tid)).map(|(_, row)| &row.phases);
    let phase = phases.and_then(|phases| phases.iter().find(|phase| phase.phase == DATABASE));
    if let Some(function) = phase.and_then(|phase| phase.functions.first()) {
        functions::point_at(&mut culprit, &function.location);
    }
    let place = culprit.function.clone().map_or_else(String::new, |function| format!(", called from {function}"));
    let words = Words {
        summary: format!(
            "the run computed for {} ({}) in a database's client{place}; run it with --db to see which statements",
            duration(lost.s),
            percent(lost.s / wall_s)
        ),
        hypothesis: format!(
            "The database works inside the process, as SQLite does, or the client packs and unpacks rows. {}",
            lost.whose().replace("computing in the kernel", "computing")
        ),
        fix: "Run it with --db: it names each statement, how often it runs, how long each time, and what that goes to. An index, fewer \
              rows, or fewer statements of more rows each make it less."
            .to_owned(),
        experiment: format!(
            "Answer the statements from memory, or run half of them: the wall time must fall, by at most {}.",
            duration(lost.at_most_s())
        ),
    };
    let mut evidence = lost.evidence();
    for one in &mut evidence {
        // These samples are not of the kernel's code.
        one.metric = one.metric.replace(" in the kernel", " in the client");
    }
    Outcome::Claims(vec![lost_claim::claim(report, "database-latency", BY_STACKS, &lost, culprit, evidence, words)])
}

fn by_statement(facts: &Facts<'_>, database: &Database) -> Outcome {
    let report = facts.report;
    let wall_s = report.window.duration_s;
    if database.libraries.is_empty() {
        return Outcome::CouldNotRun(
            "no library of a database's client was found: name the file that has its functions, as in --db=./server"
                .to_owned(),
        );
    }
    let mut cases: Vec<Case<'_>> = database
        .statements
        .iter()
        .enumerate()
        .map(|(index, statement)| Case { report, index, statement, all: None })
        .collect();
    cases.sort_by(|a, b| b.lost_s().total_cmp(&a.lost_s()));
    let Some(first) = cases.first() else {
        return Outcome::Silent("no statement was run".to_owned());
    };
    let seen = family_share(report, "database");
    let all_s: f64 = cases.iter().map(Case::lost_s).sum::<f64>().min(wall_s);
    let is_little = all_s <= 0.0 || all_s < REPORTED_SHARE * wall_s;
    if is_little && let Some(seen) = seen.filter(|seen| *seen < LEAST_SEEN) {
        return Outcome::CouldNotRun(format!(
            "{} of the calls are missing, what was seen took {}: use larger rings (--ring-size)",
            percent(1.0 - seen),
            duration(all_s)
        ));
    }
    if is_little {
        let on_path = if report.critical_path.is_some() { " on the critical path" } else { "" };
        return Outcome::Silent(format!(
            "all statements together took {}{on_path}, {} of the run",
            duration(all_s),
            percent(all_s / wall_s)
        ));
    }
    // Of one database, so that it can be said of which.
    let alike = cases.iter().all(|case| case.statement.client == first.statement.client);
    if !first.is_reported() && cases.len() > 1 && alike {
        // None by itself: all of them, of which the first is named.
        let executions = cases.iter().map(|case| case.statement.executions).sum();
        let all = Case { all: Some((cases.len() as u64, executions, all_s)), ..*first };
        return Outcome::Claims(vec![all.claim(facts)]);
    }
    let worth = cases.iter().filter(|case| case.lost_s() >= REPORTED_SHARE * wall_s);
    Outcome::Claims(worth.take(MAX_CLAIMS).map(|case| case.claim(facts)).collect())
}

/// What most of a statement's time goes to.
#[derive(Clone, Copy, PartialEq)]
enum Goes {
    Computing,
    Server,
    Sending,
    Files,
    Locks,
    Queueing,
    Several,
}

/// A statement.
#[derive(Clone, Copy)]
struct Case<'a> {
    report: &'a Report,
    index: usize,
    statement: &'a Statement,
    /// It stands for so many statements and executions, which took so long.
    all: Option<(u64, u64, f64)>,
}

impl Case<'_> {
    fn lost_s(&self) -> f64 {
        let own_s = self.statement.on_path_s.unwrap_or(self.statement.total_s);
        self.all.map_or(own_s, |(_, _, s)| s).min(self.report.window.duration_s)
    }

    fn executions(&self) -> u64 {
        self.all.map_or(self.statement.executions, |(_, executions, _)| executions)
    }

    fn is_reported(&self) -> bool {
        is_reported(self.lost_s(), self.report.window.duration_s, self.executions(), self.statement.max_s)
    }

    fn goes(&self) -> Goes {
        let spent = &self.statement.spent;
        let parts = [
            (spent.computing_s, Goes::Computing),
            (spent.server_s, Goes::Server),
            (spent.send_s, Goes::Sending),
            (spent.file_s, Goes::Files),
            (spent.lock_s, Goes::Locks),
            (spent.queued_s, Goes::Queueing),
        ];
        let most = parts.into_iter().find(|(s, _)| *s >= MOST * self.statement.total_s && *s > 0.0);
        most.map_or(Goes::Several, |(_, goes)| goes)
    }

    /// It costs by how often it is run.
    fn is_many(&self) -> bool {
        self.statement.executions >= MANY && self.statement.mean_s < QUICK_S
    }

    fn text(&self) -> String {
        match &self.statement.text {
            Some(text) if text.chars().count() > SHOWN_CHARACTERS => {
                let shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
                format!("`{shown}…`")
            }
            Some(text) => format!("`{text}`"),
            None => "a statement that was prepared before it could be seen".to_owned(),
        }
    }

    fn database(&self) -> &'static str {
        match self.statement.client.as_str() {
            "sqlite" => "SQLite",
            "postgresql" => "PostgreSQL",
            _ => "MySQL",
        }
    }

    fn summary(&self) -> String {
        let statement = self.statement;
        let lost_s = self.lost_s();
        let share = percent(lost_s / self.report.window.duration_s);
        let place = statement.functions.first().and_then(|function| functions::words(&function.location));
        let place = place.map_or_else(String::new, |place| format!(" in {place}"));
        let each = format!("{}, {} each{place}", count(statement.executions, "execution"), duration(statement.mean_s));
        if let Some((statements, executions, _)) = self.all {
            return format!(
                "{} of {} took {} ({share}): {}; most of it {}: {each}",
                count(statements, "statement"),
                self.database(),
                duration(lost_s),
                count(executions, "execution"),
                self.text()
            );
        }
        let database = self.database();
        let goes = match self.goes() {
            Goes::Computing if statement.client == "sqlite" => "SQLite computes".to_owned(),
            Goes::Computing => format!("{database}'s client computes, packing and unpacking"),
            Goes::Server => format!("it waits for the {database} server"),
            Goes::Sending => format!("it waits for the {database} server to take it"),
            Goes::Files => format!("{database} waits for files"),
            Goes::Locks => format!("{database} waits for locks"),
            Goes::Queueing => format!("{database}'s client waits for a CPU"),
            Goes::Several => format!("{database}, in several ways"),
        };
        format!("{} took {} ({share}): {each}; {goes}", self.text(), duration(lost_s))
    }

    fn hypothesis(&self) -> String {
        let mean = duration(self.statement.mean_s);
        let executions = count(self.statement.executions, "execution");
        let cause = match self.goes() {
            _ if self.is_many() => format!("No execution is slow ({mean}); there are {executions}, and each has its own way to the database and back."),
            Goes::Computing if self.statement.client == "sqlite" => {
                "SQLite goes through more rows than the statement needs, as where there is no index for what it compares or sorts by.".to_owned()
            }
            Goes::Computing => "Many rows are packed or unpacked.".to_owned(),
            Goes::Server => format!("The server works on each execution for {mean}: it goes through more rows than it gives, or waits itself (locks, its disks)."),
            Goes::Sending => "The server takes what is sent slowly.".to_owned(),
            Goes::Files => "Each transaction is brought to the disk before the next begins, or rows are read that the page cache does not have.".to_owned(),
            Goes::Locks => "Another connection, or thread, holds the database.".to_owned(),
            Goes::Queueing => "The thread does not get a CPU while it runs the statement.".to_owned(),
            Goes::Several => "No one part of it is most of its time.".to_owned(),
        };
        let whose = if self.statement.on_path_s.is_some() {
            "The seconds lost are those of the critical path."
        } else {
            "The seconds lost are those of all threads, an upper bound."
        };
        let later = if self.statement.asynchronous {
            " It is sent and asked for later: what the thread did meanwhile for others counts as well."
        } else {
            ""
        };
        format!("{cause} {whose}{later}")
    }

    fn fix(&self) -> String {
        match self.goes() {
            _ if self.is_many() => "Run one statement for many rows (executemany in one transaction, IN or a join instead of a query for each row), or keep \
                                    the answers."
                .to_owned(),
            Goes::Computing if self.statement.client == "sqlite" => {
                "Look at its EXPLAIN QUERY PLAN: where it says SCAN, add an index on the columns in WHERE, JOIN and ORDER BY; select fewer \
                 columns and rows."
                    .to_owned()
            }
            Goes::Server => "Look at its EXPLAIN (ANALYZE, BUFFERS) on the server: a sequential scan or a sort of many rows wants an index; see what \
                             the server waits for (pg_stat_activity, or `tracer record` of the server)."
                .to_owned(),
            Goes::Files => "Make one transaction of many statements; for SQLite use WAL with synchronous=NORMAL where that is safe enough.".to_owned(),
            Goes::Locks => "Keep transactions short, write from one connection, and use WAL, where readers and a writer do not wait for each other."
                .to_owned(),
            Goes::Queueing => "Give the threads more CPUs, or have fewer of them: see the findings on run queues.".to_owned(),
            Goes::Computing | Goes::Sending | Goes::Several => {
                "Select fewer rows and columns, and move data in bulk (COPY, LOAD DATA) rather than row by row.".to_owned()
            }
        }
    }

    fn evidence(&self) -> Vec<Evidence> {
        let (statement, index) = (self.statement, self.index);
        let at = |field: &str| format!("/database/statements/{index}/{field}");
        let threshold = Some(("reporting threshold of all", REPORTED_SHARE * self.report.window.duration_s));
        let mut list = vec![match statement.on_path_s {
            Some(s) => evidence("of the critical path in its calls", s, "s", at("on_path_s"), threshold),
            None => evidence("time in its calls, of all threads", statement.total_s, "s", at("total_s"), threshold),
        }];
        list.push(evidence("executions", statement.executions as f64, "1", at("executions"), None));
        let longest = Some(("of 99 in 100 at most", statement.p99_s));
        list.push(evidence("time of an execution, half at most", statement.p50_s, "s", at("p50_s"), longest));
        let spent = &statement.spent;
        let mut parts = vec![
            ("computing", spent.computing_s, "computing_s"),
            ("waiting for the server", spent.server_s, "server_s"),
            ("sending", spent.send_s, "send_s"),
            ("waiting for files", spent.file_s, "file_s"),
            ("waiting for locks", spent.lock_s, "lock_s"),
            ("waiting for a CPU", spent.queued_s, "queued_s"),
        ];
        parts.retain(|(_, s, _)| *s >= REPORTED_SHARE * statement.total_s && *s > 0.0);
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        let all = Some(("its calls", statement.total_s));
        for (what, s, field) in parts.into_iter().take(3) {
            list.push(evidence(&format!("of its calls {what}"), s, "s", at(&format!("spent/{field}")), all));
        }
        if statement.failed > 0 {
            list.push(evidence("executions that failed", statement.failed as f64, "1", at("failed"), None));
        }
        list
    }

    fn culprit(&self) -> Subject {
        let whose = &self.statement.whose;
        let mut culprit = parties::party(
            self.report,
            (whose.pid, whose.process.as_ref()),
            (whose.tid.unwrap_or(0), whose.thread.as_ref()),
        );
        if let Some(function) = self.statement.functions.first() {
            functions::point_at(&mut culprit, &function.location);
        }
        culprit.statement.clone_from(&self.statement.text);
        culprit
    }

    fn claim(&self, facts: &Facts<'_>) -> Claim {
        let lost_s = self.lost_s();
        let own = if self.statement.asynchronous { LATER } else { SEEN };
        let own = own * family_share(self.report, "database").unwrap_or(UNKNOWN_COVERAGE);
        let share =
            self.report.critical_path.as_ref().filter(|path| path.total_s > 0.0).map(|path| lost_s / path.total_s);
        let lost = Lost::of(lost_s, self.executions(), self.statement.max_s, share, self.report.window.duration_s);
        let mut words = Words {
            summary: self.summary(),
            hypothesis: self.hypothesis(),
            fix: self.fix(),
            experiment: format!(
                "Answer the statement from memory, or leave it out: the wall time must fall, by at most {}.",
                duration(lost_s)
            ),
        };
        let told = facts.earlier.iter().find(|finding| {
            OF_FILES.contains(&finding.class.as_str()) && finding.lost_s.is_some_and(|s| s >= MOST * lost_s)
        });
        let told = told.filter(|_| self.goes() == Goes::Files);
        if let Some(told) = told {
            words.summary += &format!("; what it waits for is reported as {}", told.class);
        }
        let mut claim =
            lost_claim::claim(self.report, "database-latency", own, &lost, self.culprit(), self.evidence(), words);
        claim.reported &= told.is_none();
        claim
    }
}
