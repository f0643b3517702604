//! What is in a guest: the tracer, the workloads, the live tests and the first program, built to need no library, packed with the plan
//! into the file system that the kernel unpacks. Which tests those are stands in `tests/live/vm.tsv`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::cpio::Archive;
use crate::{build, sh::Cmd, test, workspace};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A test that guests run.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The family whose probes it needs; it is left out where that cannot run.
    pub family: String,
    /// `module::name`.
    pub test: String,
}

/// The binaries.
pub struct Binaries {
    folder: PathBuf,
    live: PathBuf,
}

/// Builds them. A folder of their own, since other flags would make cargo build everything anew each time.
pub fn build(folder: &Path) -> Result<Binaries> {
    build::ebpf()?;
    let command = Cmd::cargo()
        .args(["build", "-p", "tracer", "-p", "tests", "--bins", "--test", "live", "--target", TARGET])
        .args(["--message-format=json-render-diagnostics", "--target-dir"])
        .arg(folder)
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static")
        // Lines of source are of no use there, and the guest has to unpack every byte.
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_PROFILE_DEV_STRIP", "debuginfo")
        .env("CARGO_INCREMENTAL", "0");
    let live = test::executable_of(&command.read()?).context("cargo did not say where it built the live tests")?;
    Ok(Binaries { folder: folder.join(TARGET).join("debug"), live })
}

impl Binaries {
    /// Names of all live tests.
    pub fn tests(&self) -> Result<Vec<String>> {
        let text = Cmd::new(&self.live).args(["--list", "--format=terse"]).quiet().read()?;
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    /// The guest's first file system.
    pub fn initramfs(&self, plan: &[Planned], test_limit_s: u64) -> Result<Vec<u8>> {
        let tests: Vec<_> = plan.iter().map(|one| json!({"family": one.family, "test": one.test})).collect();
        let plan = json!({"tests": tests, "test_limit_s": test_limit_s}).to_string();
        let mut archive = Archive::default();
        for folder in ["dev", "proc", "sys", "tmp", "vm"] {
            archive.folder(folder);
        }
        archive.character_device("dev/console", 5, 1);
        archive.file("vm/plan.json", plan.as_bytes());
        archive.file("init", &read(&self.folder.join("vm-init"))?);
        archive.file("vm/tracer", &read(&self.folder.join("tracer"))?);
        archive.file("vm/workload", &read(&self.folder.join("workload"))?);
        archive.file("vm/live", &read(&self.live)?);
        Ok(archive.finish())
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The checked-in plan, or those tests with a word in their names: of the plan first, of all live tests if none of it has it.
pub fn plan(filter: Option<&str>, all: &[String]) -> Result<Vec<Planned>> {
    let file = workspace::root().join("tests/live/vm.tsv");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let plan = parse(&text).with_context(|| format!("{} cannot be used", file.display()))?;
    let absent: Vec<&str> =
        plan.iter().map(|one| one.test.as_str()).filter(|test| !all.iter().any(|is| is == test)).collect();
    ensure!(absent.is_empty(), "{} lists tests that do not exist: {}", file.display(), absent.join(", "));
    let Some(word) = filter else { return Ok(plan) };
    let chosen: Vec<Planned> = plan.into_iter().filter(|one| one.test.contains(word)).collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let others = all.iter().filter(|test| test.contains(word));
    let others: Vec<Planned> = others.map(|test| Planned { family: "-".to_owned(), test: test.clone() }).collect();
    ensure!(!others.is_empty(), "no live test has `{word}` in its name");
    Ok(others)
}

/// `family<TAB>test`; `#` opens a comment.
fn parse(text: &str) -> Result<Vec<Planned>> {
    let mut plan = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let columns: Vec<&str> = line.split('\t').map(str::trim).collect();
        match columns[..] {
            [family, test] if !family.is_empty() && !test.is_empty() => {
                plan.push(Planned { family: family.to_owned(), test: test.to_owned() });
            }
            _ => bail!("line {number} is not family<TAB>test: {line:?}"),
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_read_and_lines_of_another_shape_are_refused() {
        let plan = parse("# family\ttest\nsched\ta::b\n").unwrap();
        assert_eq!(plan, [Planned { family: "sched".to_owned(), test: "a::b".to_owned() }]);
        for bad in ["sched", "sched\t", "a\tb\tc"] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("line 1 "), "{bad:?} gave: {error}");
        }
    }

    #[test]
    fn a_filter_takes_from_the_plan_first_and_else_from_all_live_tests() {
        let file = workspace::root().join("tests/live/vm.tsv");
        let of_plan = parse(&fs::read_to_string(file).unwrap()).unwrap();
        let mut all: Vec<String> = of_plan.iter().map(|one| one.test.clone()).collect();
        all.push("module::in_no_plan".to_owned());
        assert_eq!(plan(None, &all).unwrap(), of_plan);
        assert_eq!(plan(Some(&of_plan[0].test), &all).unwrap()[0], of_plan[0]);
        assert_eq!(plan(Some("in_no_plan"), &all).unwrap()[0].test, "module::in_no_plan");
        assert!(plan(Some("no such word"), &all).is_err());
        assert!(plan(None, &[]).unwrap_err().to_string().contains("do not exist"));
    }
}
