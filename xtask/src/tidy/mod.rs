//! `cargo xtask tidy`: the rules that the compiler does not know, checked in seconds over every file that git tracks or would
//! track. Here are the list of files, the order of the checks and what they say; `source` holds the rules for single files,
//! `docs` that for paths in the documents, `licence` that for dependencies.

mod docs;
mod licence;
mod source;

use std::{fs, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{sh::Cmd, workspace};

/// Arguments of `tidy`.
#[derive(clap::Args)]
pub struct Arguments {}

/// A rule broken at a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// "tracer/src/main.rs:12" or what else is at fault.
    pub place: String,
    /// What is wrong with it and what to do.
    pub says: String,
}

impl Problem {
    /// A problem with a file as a whole.
    pub fn of(place: &str, says: impl Into<String>) -> Self {
        Self { place: place.to_owned(), says: says.into() }
    }

    /// A problem on a line, counted from 1.
    pub fn at(path: &str, line: usize, says: impl Into<String>) -> Self {
        Self { place: format!("{path}:{line}"), says: says.into() }
    }
}

/// What may lie at the top level: the fixed tree, documents, licences, and tools' own files.
const TOP_LEVEL: [&str; 17] = [
    ".cargo",
    ".ci",
    ".gitattributes",
    ".gitignore",
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "clippy.toml",
    "rustfmt.toml",
    "tests",
    "tracer",
    "tracer-common",
    "tracer-ebpf",
    "xtask",
];

/// Above this many lines a file is named, no more.
const LONG_FILE_LINES: usize = 600;

/// The verb.
pub fn main(_: Arguments) -> Result<ExitCode> {
    let files = check()?;
    eprintln!("tidy: {files} files are in order");
    Ok(ExitCode::SUCCESS)
}

/// Checks everything; says how many files there are.
pub fn check() -> Result<usize> {
    let files = files()?;
    let mut problems = top_level(&files);
    for path in &files {
        let file = workspace::root().join(path);
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        // What is not text is a recorded capture: no rule here reads those.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        problems.extend(source::problems(path, &text));
        if docs::is_document(path) {
            problems.extend(docs::problems(path, &text, &|named| workspace::root().join(named).exists()));
        }
        let lines = text.lines().count();
        if path.ends_with(".rs") && lines > LONG_FILE_LINES {
            eprintln!("tidy: warning: {path} has {lines} lines; above {LONG_FILE_LINES} a file is a question mark");
        }
    }
    problems.extend(licence::problems()?);
    if problems.is_empty() {
        return Ok(files.len());
    }
    for Problem { place, says } in &problems {
        eprintln!("tidy: {place}: {says}");
    }
    bail!("tidy found {} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" })
}

/// What git tracks and what it would track, as far as it still exists.
fn files() -> Result<Vec<String>> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let text = Cmd::new("git").args(list).folder(workspace::root()).quiet().read()?;
    let mut files: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
    files.sort();
    files.dedup();
    files.retain(|path| workspace::root().join(path).is_file());
    Ok(files)
}

fn top_level(files: &[String]) -> Vec<Problem> {
    let mut entries: Vec<&str> = files.iter().filter_map(|path| path.split('/').next()).collect();
    entries.dedup();
    let unknown = entries.into_iter().filter(|entry| !TOP_LEVEL.contains(entry));
    unknown
        .map(|entry| Problem::of(entry, "the top level is fixed: put it into one of the folders there are"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fixed_tree_lies_at_the_top_level() {
        let files = ["Cargo.toml", "notes/a.md", "notes/b.md", "tests/live/main.rs"].map(str::to_owned);
        let problems = top_level(&files);
        assert_eq!(problems.iter().map(|problem| problem.place.as_str()).collect::<Vec<_>>(), ["notes"]);
    }
}
