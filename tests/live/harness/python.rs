//! The interpreters of this host, and the call chain that `python/chain_outer.py` promises.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::stacks::{Function, Sample};

/// A CPython.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// The executable itself.
    pub path: PathBuf,
    /// As in (3, 12).
    pub version: (u32, u32),
    /// The folder that is its root, where it is not the host's.
    pub root: Option<PathBuf>,
}

/// Root, file and folder of packages.
type Identity = (Option<PathBuf>, String, String);

/// Every CPython from 3.8 on: pyenv's, Debian's, the one in PATH, those that the variable LIVE_PYTHONS names (separated by colons;
/// those of virtual environments with NumPy, for instance), and /usr/bin/python3.N of the root folders that
/// TRACER_TEST_PYTHON_ROOTS names, entered by chroot.
pub fn interpreters() -> Vec<Interpreter> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv"));
    let pyenv = std::env::var_os("PYENV_ROOT").map(PathBuf::from).or(home).unwrap_or_default().join("versions");
    let folders = std::fs::read_dir(pyenv).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = std::env::var_os("LIVE_PYTHONS").unwrap_or_default();
    let named = std::env::split_paths(&named).filter(|path| path.is_absolute()).collect::<Vec<_>>();
    let usual = ["/usr/bin/python3", "python3"].map(PathBuf::from);
    let candidates =
        folders.map(|folder| folder.join("bin/python3")).chain(usual).chain(named).map(|path| (None, path));
    let roots = std::env::var_os("TRACER_TEST_PYTHON_ROOTS").unwrap_or_default();
    let roots: Vec<PathBuf> = std::env::split_paths(&roots).filter(|root| root.is_absolute()).collect();
    let in_root = |root: &PathBuf| {
        let root = root.clone();
        (8..=14).map(move |minor| (Some(root.clone()), PathBuf::from(format!("/usr/bin/python3.{minor}"))))
    };
    let candidates = candidates.chain(roots.iter().flat_map(in_root));
    // The same interpreter under another name counts once, unless it has other packages.
    let found: BTreeMap<Identity, Interpreter> = candidates.filter_map(|(root, path)| asked(root, &path)).collect();
    let mut found: Vec<Interpreter> = found.into_values().filter(|found| found.version >= (3, 8)).collect();
    found.sort_by_key(|found| found.version);
    found
}

/// What an interpreter says of itself, with its file and the folder of its packages; none where it does not run.
fn asked(root: Option<PathBuf>, path: &Path) -> Option<(Identity, Interpreter)> {
    let program = "import os, sys; print(sys.executable, os.path.realpath(sys.executable), sys.prefix, *sys.version_info[:2], \
                   sys.implementation.name)";
    let answer = within(root.as_deref(), path).args(["-c", program]).output().ok();
    let answer = answer.filter(|answer| answer.status.success())?;
    let answer = String::from_utf8(answer.stdout).ok()?;
    let words: Vec<&str> = answer.split_whitespace().collect();
    let [path, file, packages, major, minor, "cpython"] = words[..] else { return None };
    let version = (major.parse().ok()?, minor.parse().ok()?);
    Some(((root.clone(), file.to_owned(), packages.to_owned()), Interpreter { path: path.into(), version, root }))
}

fn within(root: Option<&Path>, path: &Path) -> Command {
    let Some(root) = root else { return Command::new(path) };
    let mut command = Command::new("chroot");
    command.arg(root).arg(path);
    command
}

impl Interpreter {
    /// The command line of a script beside these tests.
    pub fn line(&self, script: &str, arguments: &str) -> Vec<OsString> {
        let mut line = vec![self.path.clone().into_os_string(), folder().join(script).into_os_string()];
        if let Some(root) = &self.root {
            line[1] = scripts_in(root).join(script).into_os_string();
            line.splice(0..0, ["chroot".into(), root.clone().into_os_string()]);
        }
        line.extend(arguments.split_whitespace().map(OsString::from));
        line
    }

    /// Whether it has a module.
    pub fn imports(&self, module: &str) -> bool {
        let answer = within(self.root.as_deref(), &self.path).args(["-c", &format!("import {module}")]).output();
        answer.is_ok_and(|answer| answer.status.success())
    }

    /// For messages.
    pub fn shown(&self) -> String {
        let root = self.root.as_ref().map(|root| format!(" in {}", root.display())).unwrap_or_default();
        format!("CPython {}.{} ({}{root})", self.version.0, self.version.1, self.path.display())
    }
}

/// Copies the scripts into a root; their folder as it is called there.
fn scripts_in(root: &Path) -> PathBuf {
    let there = Path::new("/tmp/tracer-live-python");
    let target = root.join("tmp/tracer-live-python");
    std::fs::create_dir_all(&target).unwrap_or_else(|error| panic!("cannot make {}: {error}", target.display()));
    for entry in std::fs::read_dir(folder()).into_iter().flatten().flatten() {
        let to = target.join(entry.file_name());
        if entry.path().extension().is_some_and(|end| end == "py") {
            std::fs::copy(entry.path(), &to).unwrap_or_else(|error| panic!("cannot copy to {}: {error}", to.display()));
        }
    }
    there.to_owned()
}

/// Where the programs lie: beside these tests, or where `TRACER_TEST_SCRIPTS` says.
fn folder() -> PathBuf {
    let given = std::env::var_os("TRACER_TEST_SCRIPTS").map(PathBuf::from);
    given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("live/python"))
}

/// A function that must be in a stack.
#[derive(Clone, Debug)]
pub struct Expected {
    name: &'static str,
    file: &'static str,
    lines: std::ops::RangeInclusive<u64>,
}

/// Number of the line with this remark.
#[track_caller]
pub fn line_of(file: &str, remark: &str) -> u64 {
    let text = std::fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let found = text.lines().position(|line| line.ends_with(&format!("  # {remark}")));
    found.unwrap_or_else(|| panic!("{file} has no line marked `# {remark}`")) as u64 + 1
}

/// The chain of `chain_outer.py`, innermost first.
pub fn chain(mode: &str) -> Vec<Expected> {
    let (outer, inner) = ("chain_outer.py", "chain_inner.py");
    let at = |name, file, remark: &str| {
        let line = line_of(file, remark);
        Expected { name, file, lines: line..=line }
    };
    let innermost = match mode {
        "sleep" => at("rest", inner, "in rest"),
        _ => Expected {
            name: "compute",
            file: inner,
            lines: line_of(inner, "from compute")..=line_of(inner, "to compute"),
        },
    };
    let fourth = format!("in fourth, {mode}");
    vec![
        innermost,
        at("fourth", outer, &fourth),
        at("Third.method", inner, "in Third.method"),
        at("second", inner, "in second"),
        at("first", outer, "in first"),
        at("run", outer, "in run"),
    ]
}

/// Whether the Python functions of a stack hold the chain without a gap, with files and lines. Names are qualified from 3.11 on.
pub fn holds(sample: &Sample, chain: &[Expected], version: (u32, u32)) -> bool {
    let python: Vec<&Function> = sample.functions.iter().filter(|function| function.kind == "python").collect();
    python.windows(chain.len()).any(|window| window.iter().zip(chain).all(|(seen, wanted)| fits(seen, wanted, version)))
}

fn fits(seen: &Function, wanted: &Expected, version: (u32, u32)) -> bool {
    let plain = wanted.name.rsplit('.').next().unwrap_or(wanted.name);
    let name =
        if version >= (3, 11) { seen.name == wanted.name } else { seen.name == plain || seen.name == wanted.name };
    let file = seen.file.as_deref().is_some_and(|file| file.ends_with(wanted.file));
    name && file && seen.line.is_some_and(|line| wanted.lines.contains(&line))
}

/// A stack's Python functions with files and lines, for messages.
pub fn shown(sample: &Sample) -> String {
    let python = sample.functions.iter().filter(|function| function.kind == "python");
    let line = |function: &Function| {
        let file = function.file.as_deref().unwrap_or("?").rsplit('/').next().unwrap_or_default().to_owned();
        format!("{} {file}:{}", function.name, function.line.unwrap_or(0))
    };
    python.map(line).collect::<Vec<_>>().join(" < ")
}
