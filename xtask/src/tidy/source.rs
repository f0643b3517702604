//! Rules for single files, over their text alone: how a Rust file opens, what no file may hold, and where `unsafe` may stand.
//! Words that are forbidden are written in two parts here, since this file is checked as well.

use super::Problem;

/// Names of the workloads' roles that are no ordinary words, less `-` and `_`. A tracer that knew them could cheat in its own tests.
const WORKLOAD_NAMES: [&str; 5] = ["pingpong", "forkstorm", "idlepool", "pipequeue", "timerbesidebusy"];

/// Macros that mark unfinished code.
const UNFINISHED: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

/// Folders of one machine.
const MACHINE_PATHS: [&str; 3] = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/")];

/// Hosts of package registries: where packages come from is the user's configuration.
const REGISTRY_HOSTS: [&str; 4] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("deb.debian", ".org"),
    concat!("registry.npmjs", ".org"),
];

/// Where `unsafe` may stand.
const UNSAFE_FOLDERS: [&str; 4] = ["tracer/src/kernel/", "tracer-ebpf/", "tracer-common/", "tests/"];

/// Where Cargo.toml has `test = false`, or may have it: nobody would run a test there.
const WITHOUT_TESTS: [&str; 2] = ["tests/src/", "tracer/src/main.rs"];

/// What is wrong with this file.
pub fn problems(path: &str, text: &str) -> Vec<Problem> {
    let mut problems = of_any_file(path, text);
    if path.ends_with(".rs") {
        problems.extend(of_rust(path, text));
    }
    problems
}

fn of_any_file(path: &str, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (line, content) in numbered(text) {
        if let Some(found) = MACHINE_PATHS.iter().find(|found| names_folder(content, found)) {
            problems.push(Problem::at(path, line, format!("`{found}` is a folder of one machine")));
        }
        // Cargo.lock names the registry in each `source`, as cargo writes it.
        let host = REGISTRY_HOSTS.iter().find(|host| content.contains(*host));
        if let Some(host) = host.filter(|_| path != "Cargo.lock") {
            problems.push(Problem::at(path, line, format!("`{host}` is a package registry's host")));
        }
        if content.contains(concat!("FIX", "ME")) {
            problems.push(Problem::at(
                path,
                line,
                "unfinished: finish it, or write down what is missing as what it is",
            ));
        }
        if path.starts_with("tracer/src/") {
            let lower = content.to_lowercase().replace(['-', '_'], "");
            if let Some(name) = WORKLOAD_NAMES.iter().find(|name| lower.contains(*name)) {
                problems.push(Problem::at(
                    path,
                    line,
                    format!("`{name}` names a workload: the tracer must not know them"),
                ));
            }
        }
    }
    problems
}

fn of_rust(path: &str, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems.push(Problem::of(path, "must open with `//!`: what is here, what is not, and why"));
    }
    let may_be_unsafe = path == "xtask/src/sh.rs" || UNSAFE_FOLDERS.iter().any(|folder| path.starts_with(folder));
    for (line, code) in numbered(&code_only(text)) {
        if let Some(name) = UNFINISHED.iter().find(|name| has_word(code, name)) {
            problems.push(Problem::at(path, line, format!("`{name}` is unfinished code")));
        }
        let squeezed: String = code.split_whitespace().collect();
        if squeezed.contains(concat!("#[ign", "ore")) {
            problems.push(Problem::at(path, line, "a test that is left out proves nothing: fix it or delete it"));
        }
        if squeezed.starts_with(concat!("#[te", "st]")) && WITHOUT_TESTS.iter().any(|place| path.starts_with(place)) {
            problems.push(Problem::at(
                path,
                line,
                "nobody runs tests of this target: its Cargo.toml says `test = false`",
            ));
        }
        if !may_be_unsafe && has_word(code, "unsafe") {
            problems.push(Problem::at(path, line, format!("`unsafe` may stand in {} only", UNSAFE_FOLDERS.join(", "))));
        }
    }
    problems
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Whether an absolute path with this folder in front stands here: the same name further behind belongs to another path.
fn names_folder(line: &str, folder: &str) -> bool {
    let inside_a_path = |c: char| c.is_alphanumeric() || "._-~*}>".contains(c);
    line.match_indices(folder).any(|(at, _)| !line[..at].ends_with(inside_a_path))
}

/// Whether this word stands here, not as a part of a longer name.
fn has_word(code: &str, word: &str) -> bool {
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + word.len()..]);
        !before.ends_with(in_name) && (word.ends_with('!') || !after.starts_with(in_name))
    })
}

/// The text with comments and literals blanked, lines kept. Knows nested comments, raw strings and lifetimes; macros are code.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let end = at + literal_or_comment(rest, out.chars().next_back());
        if end > at {
            out.extend(text[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            let c = rest.chars().next().unwrap_or(' ');
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

/// Length in bytes of the comment or literal that starts here; 0: none does.
fn literal_or_comment(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if let Some(inside) = rest.strip_prefix('"') {
        return 1 + quoted(inside, '"');
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    let in_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with('r') && (!in_name || before == Some('b') || before == Some('c')) {
        return raw_string(rest);
    }
    0
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Up to and with the closing quote.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// A character literal, or 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut inside = rest[1..].chars();
    match (inside.next(), inside.next()) {
        (Some('\\'), _) => 1 + quoted(&rest[1..], '\''),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

/// `r"..."`, `r#"..."#` and so on, or 0.
fn raw_string(rest: &str) -> usize {
    let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
    if !rest[1 + hashes..].starts_with('"') {
        return 0;
    }
    let open = 2 + hashes;
    let close = format!("\"{}", "#".repeat(hashes));
    rest[open..].find(&close).map_or(rest.len(), |at| open + at + close.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(path: &str, text: &str) -> Vec<String> {
        problems(path, text).into_iter().map(|problem| format!("{}: {}", problem.place, problem.says)).collect()
    }

    #[test]
    fn comments_and_literals_are_not_code_and_lines_stay() {
        let text = "a /* x /* y */ z */ b\n\"un\\\"safe\" 'u' '\\'' &'static str r#\"a\"b\"# br\"q\" c // d\nvar\"\"";
        let code = code_only(text);
        let words: Vec<Vec<&str>> = code.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words, [vec!["a", "b"], vec!["&'static", "str", "b", "c"], vec!["var"]], "of {code:?}");
    }

    #[test]
    fn a_rust_file_opens_with_what_it_holds() {
        assert!(says("xtask/src/a.rs", "//! A.\nfn a() {}\n").is_empty());
        assert_eq!(says("xtask/src/a.rs", "// A.\n").len(), 1);
    }

    #[test]
    fn unfinished_code_is_found_and_words_that_hold_it_are_not() {
        let text = "//! A.\nfn a() { todo!() }\n// todo!() in a comment\nfn b() { mytodo!(); \"dbg!\"; }\n";
        assert_eq!(says("xtask/src/a.rs", text), ["xtask/src/a.rs:2: `todo!` is unfinished code"]);
        assert_eq!(says("README.md", concat!("a\nFIX", "ME\n")).len(), 1);
    }

    #[test]
    fn a_test_that_is_left_out_is_found() {
        let text = concat!("//! A.\n#[test]\n# [ign", "ore = \"slow\"]\nfn a() {}\n");
        assert_eq!(says("xtask/src/a.rs", text).len(), 1);
    }

    #[test]
    fn a_test_that_nobody_runs_is_found() {
        let text = concat!("//! A.\nmod tests {\n    #[te", "st]\n    fn a() {}\n}\n");
        assert_eq!(says("tests/src/lib.rs", text).len(), 1);
        assert!(says("tests/offline/a.rs", text).is_empty());
    }

    #[test]
    fn unsafe_stands_where_it_may() {
        let text = "//! A: no unsafe.\n#![deny(unsafe_code)]\nfn a() { unsafe { b() } }\n";
        assert_eq!(says("tracer/src/model/a.rs", text).len(), 1, "one line of three");
        assert!(says("tracer/src/kernel/a.rs", text).is_empty() && says("tracer-ebpf/src/main.rs", text).is_empty());
    }

    #[test]
    fn folders_of_one_machine_are_found_and_longer_paths_are_not() {
        let line = |folder: &str| format!("see {folder}x and a{folder}y\n");
        for folder in MACHINE_PATHS {
            assert_eq!(says("README.md", &line(folder)).len(), 1, "{folder}");
            assert!(says("README.md", &format!("a{folder}y, ${{x}}{folder}z\n")).is_empty(), "{folder}");
        }
    }

    #[test]
    fn registry_hosts_are_found_but_in_the_lock_file() {
        for host in REGISTRY_HOSTS {
            assert_eq!(says("tests/Dockerfile", &format!("RUN get https://{host}/x\n")).len(), 1, "{host}");
            assert!(says("Cargo.lock", &format!("source = \"registry+https://{host}/x\"\n")).is_empty());
        }
    }

    #[test]
    fn the_tracer_does_not_know_its_workloads() {
        assert_eq!(says("tracer/src/diagnose/a.rs", "//! A.\nconst A: &str = \"PingPong\";\n").len(), 1);
        assert!(says("tests/live/a.rs", "//! A.\nconst A: &str = \"pingpong\";\n").is_empty());
    }
}
