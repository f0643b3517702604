//! Text tables: columns as wide as their widest cell. Knows nothing of what is in them.

/// Lays rows out below a header. The columns named in `right` are aligned to the right.
pub fn text(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.get(column).map_or(0, |cell| cell.chars().count()));
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut line = String::new();
        for (column, width) in widths.iter().enumerate() {
            let cell = cells.get(column).map_or("", String::as_str);
            let pad = " ".repeat(width - cell.chars().count());
            let gap = if column == 0 { "" } else { "  " };
            let (before, after) = if right.contains(&column) { (pad.as_str(), "") } else { ("", pad.as_str()) };
            line.push_str(&format!("{gap}{before}{cell}{after}"));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    };
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    std::iter::once(line(&header)).chain(rows.iter().map(|row| line(row))).collect()
}

/// "0.4 s", "12 s", "3 min 05 s".
pub fn seconds(s: f64) -> String {
    if s < 9.95 {
        format!("{s:.1} s")
    } else if s < 119.5 {
        format!("{s:.0} s")
    } else {
        let whole = s.round() as u64;
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            vec![vec!["tidy".to_owned(), "0.2 s".to_owned()], vec!["a longer one".to_owned(), "12 s".to_owned()]];
        let expected = "part           took  result\ntidy          0.2 s\na longer one   12 s\n";
        assert_eq!(text(&["part", "took", "result"], &rows, &[1]), expected);
    }

    #[test]
    fn times_are_shown_as_one_would_say_them() {
        let shown: Vec<String> = [0.04, 9.94, 9.96, 119.0, 119.6, 185.2].map(seconds).to_vec();
        assert_eq!(shown, ["0.0 s", "9.9 s", "10 s", "119 s", "2 min 00 s", "3 min 05 s"]);
    }
}
