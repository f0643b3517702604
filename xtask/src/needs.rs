//! Which live tests depend on which eBPF programs: the table `tests/live/needs.tsv`, and the programs there are, as the tracer
//! itself lists them. Runs no test.
//!
//! A line is `test<TAB>program`, or `-<TAB>program<TAB>reason` for a program that no test can depend on here (a fallback that is
//! off where the better hook works). `#` opens a comment.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::{sh::Cmd, workspace};

/// The table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// Test and program.
    pub pairs: Vec<(String, String)>,
    /// Program and the reason why no test depends on it.
    pub exempt: Vec<(String, String)>,
}

/// Where the table lies.
pub fn file() -> PathBuf {
    workspace::root().join("tests/live/needs.tsv")
}

impl Needs {
    /// Reads the checked-in table.
    pub fn load() -> Result<Self> {
        let file = file();
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("{} cannot be used", file.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut needs = Self::default();
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let columns: Vec<&str> = line.split('\t').map(str::trim).collect();
            ensure!(columns.iter().all(|column| !column.is_empty()), "line {number} has an empty column: {line:?}");
            match columns[..] {
                ["-", program, reason] => needs.exempt.push((program.to_owned(), reason.to_owned())),
                [test, program] if test != "-" => needs.pairs.push((test.to_owned(), program.to_owned())),
                _ => bail!("line {number} is neither test<TAB>program nor -<TAB>program<TAB>reason: {line:?}"),
            }
        }
        Ok(needs)
    }

    /// The tests that depend on this program.
    pub fn tests_of(&self, program: &str) -> Vec<&str> {
        self.pairs.iter().filter(|(_, needed)| needed == program).map(|(test, _)| test.as_str()).collect()
    }

    /// What is wrong with the table, given the programs there are: a program without a line, a line without a program.
    pub fn gaps(&self, programs: &[String]) -> Vec<String> {
        let listed =
            self.pairs.iter().map(|(_, program)| program).chain(self.exempt.iter().map(|(program, _)| program));
        let listed: BTreeSet<&String> = listed.collect();
        let unlisted = programs.iter().filter(|program| !listed.contains(program));
        let unlisted = unlisted.map(|program| format!("no live test depends on the program `{program}`"));
        let unknown = listed.iter().filter(|program| !programs.contains(program));
        let unknown = unknown.map(|program| format!("the tracer has no program `{program}`"));
        let both = self.exempt.iter().filter(|(program, _)| self.pairs.iter().any(|(_, needed)| needed == program));
        let both = both.map(|(program, _)| format!("`{program}` is both exempt and depended on"));
        unlisted.chain(unknown).chain(both).collect()
    }
}

/// The names of all eBPF programs, from `tracer families --format json`.
pub fn programs(tracer: &std::path::Path) -> Result<Vec<String>> {
    let command = Cmd::new(tracer).args(["families", "--format", "json"]);
    programs_of(&command.read()?).with_context(|| format!("what `{command}` printed cannot be used"))
}

fn programs_of(json: &str) -> Result<Vec<String>> {
    let families: serde_json::Value = serde_json::from_str(json).context("it is not JSON")?;
    let families = families.as_array().context("it is not an array of families")?;
    let mut names = Vec::new();
    for family in families {
        let programs = family["programs"].as_array().context("a family has no array `programs`")?;
        for program in programs {
            let own = program["name"].as_str().context("a program has no `name`")?;
            for name in std::iter::once(own).chain(program["fallback"]["name"].as_str()) {
                if !names.iter().any(|known| known == name) {
                    names.push(name.to_owned());
                }
            }
        }
    }
    ensure!(!names.is_empty(), "it lists no program");
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# test\tprogram\nstates_sum_up\tswitch\nexecs_are_seen\texec\n\nruns_are_seen\tswitch\n-\traw_switch\tonly without BTF\n";

    #[test]
    fn the_table_is_read() {
        let needs = Needs::parse(TABLE).unwrap();
        assert_eq!(needs.tests_of("switch"), ["states_sum_up", "runs_are_seen"]);
        assert_eq!(needs.exempt, [("raw_switch".to_owned(), "only without BTF".to_owned())]);
    }

    #[test]
    fn a_line_of_another_shape_is_refused_with_its_number() {
        for (line, number) in [("a b", 1), ("#\na\tb\tc", 2), ("-\tb", 1), ("a\t", 1)] {
            let error = Needs::parse(line).unwrap_err().to_string();
            assert!(error.contains(&format!("line {number} ")), "{line:?} gave: {error}");
        }
    }

    #[test]
    fn a_program_without_a_test_and_a_line_without_a_program_are_gaps() {
        let needs = Needs::parse(TABLE).unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(needs.gaps(&names(&["switch", "exec", "raw_switch"])).is_empty());
        assert_eq!(
            needs.gaps(&names(&["switch", "exit", "raw_switch"])),
            ["no live test depends on the program `exit`", "the tracer has no program `exec`"],
        );
    }

    #[test]
    fn programs_are_read_from_what_the_tracer_lists() {
        let json = r#"[{"id":"sched","programs":[{"name":"switch","hook":"h"},{"name":"exec"}]},{"programs":[{"name":"switch"}]}]"#;
        assert_eq!(programs_of(json).unwrap(), ["switch", "exec"]);
        for bad in ["", "{}", "[]", r#"[{"id":"sched"}]"#, r#"[{"programs":[{}]}]"#] {
            assert!(programs_of(bad).is_err(), "{bad:?} was taken");
        }
    }
}
