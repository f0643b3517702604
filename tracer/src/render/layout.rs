//! Text in columns and paragraphs, with colours or without. Knows no report.

/// The colours in use, by what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tint {
    Title,
    Bad,
    Warn,
    Good,
    Dim,
}

impl Tint {
    const fn code(self) -> &'static str {
        match self {
            Tint::Title => "1",
            Tint::Bad => "31",
            Tint::Warn => "33",
            Tint::Good => "32",
            Tint::Dim => "2",
        }
    }
}

/// Text being written.
pub(super) struct Page {
    pub(super) text: String,
    width: usize,
    colour: bool,
}

/// Narrower than this the tables do not fit.
const LEAST_WIDTH: usize = 60;

/// Where the last cell starts that stands below its row.
const BELOW: usize = 10;

impl Page {
    pub(super) fn new(width: usize, colour: bool) -> Self {
        Page { text: String::new(), width: width.max(LEAST_WIDTH), colour }
    }

    /// Columns there are.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn tint(&self, tint: Tint, text: &str) -> String {
        if self.colour { format!("\x1b[{}m{text}\x1b[0m", tint.code()) } else { text.to_owned() }
    }

    pub(super) fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    pub(super) fn title(&mut self, title: &str) {
        self.line("");
        let title = self.tint(Tint::Title, title);
        self.line(&title);
    }

    /// A paragraph: its first line starts with `label`, the others are indented as far.
    pub(super) fn paragraph(&mut self, label: &str, text: &str) {
        let indent = label.chars().count();
        let room = self.width.saturating_sub(indent).max(20);
        let mut line = String::new();
        let mut first = true;
        let mut put = |page: &mut String, line: &str| {
            let lead = if std::mem::take(&mut first) { label.to_owned() } else { " ".repeat(indent) };
            page.push_str(format!("{lead}{line}").trim_end());
            page.push('\n');
        };
        let mut lines = Vec::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && printed_width(&line) + 1 + printed_width(word) > room {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
        for line in lines {
            put(&mut self.text, &line);
        }
    }

    /// Rows under a heading. Columns are as wide as their widest cell; what does not fit of the last one goes on below.
    pub(super) fn table(&mut self, heading: &[(&str, Align)], rows: &[Vec<String>]) {
        let widths: Vec<usize> = (0..heading.len())
            .map(|column| {
                let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| printed_width(cell));
                cells.chain([heading[column].0.len()]).max().unwrap_or(0)
            })
            .collect();
        let titles: Vec<String> = heading.iter().map(|(title, _)| (*title).to_owned()).collect();
        let beside = self.beside(&widths, rows);
        let head = self.row(heading, &widths, &titles, beside);
        let head = self.tint(Tint::Dim, &head);
        self.line(&head);
        for row in rows {
            for line in self.row(heading, &widths, row, beside).lines() {
                self.line(line);
            }
        }
    }

    fn row(&self, heading: &[(&str, Align)], widths: &[usize], cells: &[String], beside: bool) -> String {
        let mut line = String::from(" ");
        let mut used = 1;
        for (column, cell) in cells.iter().enumerate() {
            let (Some(width), Some((_, align))) = (widths.get(column), heading.get(column)) else { continue };
            let gap = if column == 0 { 1 } else { 2 };
            line.push_str(&" ".repeat(gap));
            used += gap;
            if column + 1 == heading.len() {
                line.push_str(&self.last_cell(cell, used, beside));
                continue;
            }
            let padding = " ".repeat(width.saturating_sub(printed_width(cell)));
            match align {
                Align::Left => line.extend([cell.as_str(), &padding]),
                Align::Right => line.extend([padding.as_str(), cell]),
            }
            used += width;
        }
        line.trim_end().to_owned()
    }

    /// Whether the last cells of all rows, broken at their commas, fit beside the other columns.
    fn beside(&self, widths: &[usize], rows: &[Vec<String>]) -> bool {
        let others = widths.len().saturating_sub(1);
        let used = 1 + 2 * others + widths.iter().take(others).sum::<usize>() + 1;
        let room = self.width.saturating_sub(used);
        let last = rows.iter().filter_map(|row| row.last());
        last.flat_map(|cell| cell.split(", ")).all(|part| printed_width(part) < room)
    }

    /// The last cell of a row that has used so much of the width. Where it does not fit it breaks at its commas, beside the
    /// other cells or below them.
    fn last_cell(&self, cell: &str, used: usize, beside: bool) -> String {
        let room = self.width.saturating_sub(used);
        if cell.contains('\x1b') || cell.chars().count() <= room {
            return cell.to_owned();
        }
        let (indent, room) = if beside { (used, room) } else { (BELOW, self.width - BELOW) };
        let mut lines: Vec<String> = if beside { Vec::new() } else { vec![String::new()] };
        let mut line = String::new();
        let mut parts = cell.split(", ").peekable();
        while let Some(part) = parts.next() {
            let part = if parts.peek().is_some() { format!("{part},") } else { part.to_owned() };
            if !line.is_empty() && line.chars().count() + 1 + part.chars().count() > room {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&part);
        }
        lines.push(line);
        lines.iter().map(|line| cut(line, room)).collect::<Vec<_>>().join(&format!("\n{}", " ".repeat(indent)))
    }
}

#[derive(Clone, Copy)]
pub(super) enum Align {
    Left,
    Right,
}

/// Characters that a terminal shows: colours take no room.
fn printed_width(text: &str) -> usize {
    let mut width = 0;
    let mut in_colour = false;
    for character in text.chars() {
        match character {
            '\x1b' => in_colour = true,
            'm' if in_colour => in_colour = false,
            _ if in_colour => {}
            _ => width += 1,
        }
    }
    width
}

fn cut(text: &str, room: usize) -> String {
    if text.contains('\x1b') || text.chars().count() <= room {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(room.saturating_sub(3)).collect();
    short.push_str("...");
    short
}
