//! The text report's lines on statements of databases. Left out where they took next to nothing.

use super::layout::Page;
use crate::model::database::Statement;
use crate::model::report::Report;
use crate::model::units::{count, duration, percent};

const MAX_STATEMENTS: usize = 8;
/// Statements that took a smaller part of the run are not told.
const LEAST_SHARE: f64 = 0.005;

/// All that there is to say.
pub(super) fn lines(page: &mut Page, report: &Report) {
    let Some(database) = &report.database else { return };
    let wall_s = report.window.duration_s;
    let worth = |statement: &&Statement| statement.total_s >= LEAST_SHARE * wall_s;
    let told: Vec<&Statement> = database.statements.iter().filter(worth).take(MAX_STATEMENTS).collect();
    if told.is_empty() {
        return;
    }
    page.title("Statements of databases");
    for statement in &told {
        page.paragraph("  ", &line(statement));
    }
    let rest = database.statements.len() - told.len() + database.others.map_or(0, |others| others.statements as usize);
    if rest > 0 {
        page.paragraph("  ", &format!("{} more", count(rest as u64, "statement")));
    }
}

fn line(statement: &Statement) -> String {
    let text = statement.text.as_deref().unwrap_or("(prepared before it could be seen)");
    let mut line = format!(
        "{}: {} in {} of {} ({} in 99 of 100)",
        duration(statement.total_s),
        text,
        count(statement.executions, "execution"),
        duration(statement.p50_s),
        duration(statement.p99_s)
    );
    if let Some(on_path_s) = statement.on_path_s {
        line += &format!(", {} on the critical path", duration(on_path_s));
    }
    let spent = &statement.spent;
    let mut parts = [
        ("computing", spent.computing_s),
        ("for a CPU", spent.queued_s),
        ("sending", spent.send_s),
        ("for the server", spent.server_s),
        ("for files", spent.file_s),
        ("for locks", spent.lock_s),
        ("other waits", spent.other_s),
        ("not known", spent.unknown_s),
    ];
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, s)| *s >= 0.05 * statement.total_s && *s > 0.0)
        .map(|(what, s)| format!("{what} {}", percent(s / statement.total_s)))
        .collect();
    if !parts.is_empty() {
        line += &format!("; {}", parts.join(", "));
    }
    if statement.failed > 0 {
        line += &format!("; {} FAILED", count(statement.failed, "execution"));
    }
    line
}
