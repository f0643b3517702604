//! What is in a guest: the tracer, the workloads, the live tests, the first program and the libraries that they load, packed with the
//! plan into the file system that the kernel unpacks. Which tests those are stands in `tests/live/vm.tsv`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::cpio::Archive;
use crate::{
    build::Ebpf,
    sh::Cmd,
    test,
    workspace::{self, utf8},
};

/// A test that guests run.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The family whose probes it needs; it is left out where that cannot run.
    pub family: String,
    /// `module::name`.
    pub test: String,
    /// Only where kernels are named, or `--all`.
    pub slow: bool,
    /// Needs a Python.
    pub python: bool,
}

/// The binaries, without debug information, and the libraries that they load.
pub struct Binaries {
    live: test::Live,
    folder: PathBuf,
    libraries: Vec<PathBuf>,
}

/// Where they lie in the guest.
const NAMES: [&str; 4] = ["vm-init", "tracer", "workload", "live"];

/// Builds them: the very binaries that run here, so where these tests have just run there is nothing to do. Their copies go to `folder`.
pub fn build(folder: &Path, ebpf: Ebpf) -> Result<Binaries> {
    let live = test::Live::build_with(ebpf)?;
    let built = &live.binaries;
    let init = built.tracer.with_file_name("vm-init");
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut libraries = Vec::new();
    for (name, from) in NAMES.into_iter().zip([&init, &built.tracer, &built.workload, &live.executable]) {
        // Lines of source are of no use there, and the guest has to unpack every byte.
        Cmd::new("strip").args(["--strip-debug", "-o"]).arg(folder.join(name)).arg(from).quiet().run()?;
        libraries.extend(libraries_of(&Cmd::new("ldd").arg(from).quiet().read()?));
    }
    libraries.sort();
    libraries.dedup();
    Ok(Binaries { live, folder: folder.to_owned(), libraries })
}

/// Files in what ldd prints: `name => file (address)` or `file (address)`. What the kernel brings itself has no file.
fn libraries_of(said: &str) -> Vec<PathBuf> {
    let file = |line: &str| {
        let line = line.split_once("=>").map_or(line, |(_, file)| file).trim();
        let file = line.split(' ').next()?;
        file.starts_with('/').then(|| PathBuf::from(file))
    };
    said.lines().filter_map(file).collect()
}

impl Binaries {
    /// Names of all live tests.
    pub fn tests(&self) -> Result<Vec<String>> {
        self.live.list()
    }

    /// The guest's first file system.
    pub fn initramfs(&self, plan: &[Planned], test_limit_s: u64, keep: bool) -> Result<Vec<u8>> {
        let tests: Vec<_> = plan.iter().map(|one| json!({"family": one.family, "test": one.test})).collect();
        let plan = json!({"tests": tests, "test_limit_s": test_limit_s, "keep": keep}).to_string();
        let mut archive = Archive::default();
        for folder in ["dev", "proc", "sys", "tmp", "vm", "vm/python"] {
            archive.folder(folder);
        }
        archive.character_device("dev/console", 5, 1);
        archive.file("vm/plan.json", plan.as_bytes());
        let init = read(&self.folder.join(NAMES[0]))?;
        archive.file("init", &init);
        for other in ["chroot", "nice"] {
            archive.file(&format!("vm/{other}"), &init);
        }
        for name in &NAMES[1..] {
            archive.file(&format!("vm/{name}"), &read(&self.folder.join(name))?);
        }
        for script in scripts()? {
            let name = script.file_name().unwrap_or_default().to_string_lossy().into_owned();
            archive.file(&format!("vm/python/{name}"), &read(&script)?);
        }
        let mut folders = BTreeSet::new();
        let files = &self.libraries;
        let places: Vec<String> = files.iter().map(|file| utf8(file)).collect::<Result<_>>()?;
        for place in &places {
            // Parents first, which is the order of their names.
            let parents = Path::new(place).ancestors().skip(1).filter(|folder| folder.parent().is_some());
            folders.extend(parents.map(|folder| folder.display().to_string()));
        }
        folders.iter().for_each(|folder| archive.folder(folder.trim_start_matches('/')));
        for (place, file) in places.iter().zip(files) {
            archive.file(place.trim_start_matches('/'), &read(file)?);
        }
        Ok(archive.finish())
    }
}

/// Programs of tests in Python, by their names.
fn scripts() -> Result<Vec<PathBuf>> {
    let folder = workspace::root().join("tests/live/python");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry.context("cannot read a folder")?.path();
        if path.extension().is_some_and(|kind| kind == "py") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The checked-in plan, perhaps without what is slow, or those tests with a word in their names: of the plan first, of all live tests if
/// none of it has it.
pub fn plan(filter: Option<&str>, slow_too: bool, all: &[String]) -> Result<Vec<Planned>> {
    let file = workspace::root().join("tests/live/vm.tsv");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let plan = parse(&text).with_context(|| format!("{} cannot be used", file.display()))?;
    let absent: Vec<&str> =
        plan.iter().map(|one| one.test.as_str()).filter(|test| !all.iter().any(|is| is == test)).collect();
    ensure!(absent.is_empty(), "{} lists tests that do not exist: {}", file.display(), absent.join(", "));
    let Some(word) = filter else {
        let (left_out, chosen): (Vec<Planned>, Vec<Planned>) = plan.into_iter().partition(|one| one.slow && !slow_too);
        if !left_out.is_empty() {
            eprintln!("left out: {} slow tests, which `cargo xtask vm --all` runs", left_out.len());
        }
        return Ok(chosen);
    };
    let chosen: Vec<Planned> = plan.into_iter().filter(|one| one.test.contains(word)).collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let others = all.iter().filter(|test| test.contains(word));
    let others: Vec<Planned> =
        others.map(|test| Planned { family: "-".to_owned(), test: test.clone(), slow: false, python: false }).collect();
    ensure!(!others.is_empty(), "no live test has `{word}` in its name");
    Ok(others)
}

/// `family<TAB>test`, and perhaps `<TAB>slow` or `<TAB>python`, which is slow too; `#` opens a comment.
fn parse(text: &str) -> Result<Vec<Planned>> {
    let mut plan = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let columns: Vec<&str> = line.split('\t').map(str::trim).collect();
        match columns[..] {
            [family, test, ref rest @ ..]
                if !family.is_empty() && !test.is_empty() && matches!(rest, [] | ["slow" | "python"]) =>
            {
                plan.push(Planned {
                    family: family.to_owned(),
                    test: test.to_owned(),
                    slow: !rest.is_empty(),
                    python: rest == ["python"],
                });
            }
            _ => bail!("line {number} is not family<TAB>test, or that and <TAB>slow or <TAB>python: {line:?}"),
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_read_and_lines_of_another_shape_are_refused() {
        let plan = parse("# family\ttest\nsched\ta::b\nrss\tc::d\tslow\ncpu\te::f\tpython\n").unwrap();
        let planned = |family: &str, test: &str, slow, python| Planned {
            family: family.to_owned(),
            test: test.to_owned(),
            slow,
            python,
        };
        let wanted = [
            planned("sched", "a::b", false, false),
            planned("rss", "c::d", true, false),
            planned("cpu", "e::f", true, true),
        ];
        assert_eq!(plan, wanted);
        for bad in ["sched", "sched\t", "a\tb\tc", "a\tb\tslow\tslow"] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("line 1 "), "{bad:?} gave: {error}");
        }
    }

    #[test]
    fn the_files_of_libraries_are_taken_from_what_ldd_prints() {
        let said = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        assert_eq!(libraries_of(said), [Path::new("/lib/x/libc.so.6"), Path::new("/lib64/ld.so.2")]);
        assert!(libraries_of("\tstatically linked\n").is_empty());
    }

    #[test]
    fn a_filter_takes_from_the_plan_first_and_else_from_all_live_tests() {
        let file = workspace::root().join("tests/live/vm.tsv");
        let of_plan = parse(&fs::read_to_string(file).unwrap()).unwrap();
        let mut all: Vec<String> = of_plan.iter().map(|one| one.test.clone()).collect();
        all.push("module::in_no_plan".to_owned());
        assert_eq!(plan(None, true, &all).unwrap(), of_plan);
        let quick = plan(None, false, &all).unwrap();
        assert!(quick.len() < of_plan.len() && quick.iter().all(|one| !one.slow), "{quick:?}");
        for one in [of_plan.first().unwrap(), of_plan.iter().find(|one| one.slow).unwrap()] {
            assert_eq!(plan(Some(&one.test), false, &all).unwrap()[0], *one, "what is asked for is run");
        }
        assert_eq!(plan(Some("in_no_plan"), false, &all).unwrap()[0].test, "module::in_no_plan");
        assert!(plan(Some("no such word"), true, &all).is_err());
        assert!(plan(None, true, &[]).unwrap_err().to_string().contains("do not exist"));
    }
}
