//! Paths in the documents: a document must not name a file that is not there.

use super::Problem;

const DOCUMENTS: [&str; 2] = ["README.md", "ARCHITECTURE.md"];

/// Folders whose files the documents speak of.
const FOLDERS: [&str; 7] = [".cargo/", ".ci/", "tests/", "tracer-common/", "tracer-ebpf/", "tracer/", "xtask/"];

/// Whether this file is checked.
pub fn is_document(path: &str) -> bool {
    DOCUMENTS.contains(&path)
}

/// Paths between backticks that do not exist.
pub fn problems(path: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // Between the first and the second backtick, the third and the fourth, and so on.
        for span in line.split('`').skip(1).step_by(2) {
            for named in span.split_whitespace().filter_map(named_path).flat_map(spread) {
                if !exists(&named) {
                    problems.push(Problem::at(path, index + 1, format!("`{named}` does not exist")));
                }
            }
        }
    }
    problems
}

/// The path that a word names, less punctuation, a line number, and what follows a wildcard or a placeholder.
fn named_path(word: &str) -> Option<&str> {
    let word = word.trim_end_matches([',', '.', ';', ':', ')']).trim_start_matches('(');
    if !FOLDERS.iter().any(|folder| word.starts_with(folder)) {
        return None;
    }
    let word = word.split(':').next()?;
    let plain = word.find(['*', '<']).map_or(word, |at| &word[..at]);
    // Of `tests/off*` only the folder is known to exist.
    Some(if plain.len() < word.len() { plain.rsplit_once('/')?.0 } else { plain })
}

/// `a/{b,c}.rs` is two paths.
fn spread(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let Some((choices, after)) = rest.split_once('}') else { return vec![path.to_owned()] };
    choices.split(',').map(|choice| format!("{before}{choice}{after}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_does_not_exist_is_found() {
        let text = "See `tracer/src/a.rs` and `tracer/src/gone.rs:12`,\nnot tracer/src/prose.rs, `other/x.rs` or `cargo xtask run`.\n";
        let found = problems("README.md", text, &|path| path == "tracer/src/a.rs");
        assert_eq!(found, [Problem::at("README.md", 1, "`tracer/src/gone.rs` does not exist")]);
    }

    #[test]
    fn wildcards_placeholders_and_choices_are_understood() {
        assert_eq!(named_path("tests/offline/*.snap"), Some("tests/offline"));
        assert_eq!(named_path("(tracer/src/families/<family>.rs)"), Some("tracer/src/families"));
        assert_eq!(spread("xtask/src/{run,test}.rs"), ["xtask/src/run.rs", "xtask/src/test.rs"]);
        assert_eq!(named_path("tracer"), None);
    }
}
