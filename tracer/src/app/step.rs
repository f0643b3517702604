//! Finds what `--step` names before anything runs: the file, and in it the instruction. That of a Python function is found later, when
//! a stack shows it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::{
    cli::{TraceArgs, step::StepSpec},
    families::Ring,
    kernel::{file_map::FileMap, step_points::Points, user_probe::Point},
    symbol::entry,
};

/// Where libraries are, beside what LD_LIBRARY_PATH names.
const LIBRARIES: [&str; 7] = [
    "/usr/local/lib",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib",
];

/// Where steps begin; none: nobody asked. `running` are processes that may have the file mapped.
pub fn points(args: &TraceArgs, running: impl IntoIterator<Item = u32>) -> Result<Option<Points>, String> {
    let Some(spec) = &args.step else { return Ok(None) };
    let said = |problem: String| format!("--step {}: {problem}", crate::model::text::printable(spec.text.as_bytes()));
    let points = match &spec.what {
        StepSpec::Python(_) => {
            let takes_stacks = super::live::choose(args)?.iter().any(|family| family.ring() == Ring::Stacks);
            if !takes_stacks {
                return Err(said(
                    "a Python function is found by stacks, and the family that takes them is left out".to_owned(),
                ));
            }
            Points::Python
        }
        StepSpec::Symbol { file, symbol } => {
            code(file, running, |bytes| entry::function(bytes, symbol)).map_err(said)?
        }
        StepSpec::Probe { file, provider, name } => {
            code(file, running, |bytes| entry::probe(bytes, provider, name)).map_err(said)?
        }
    };
    Ok(Some(points))
}

fn code(
    name: &str,
    running: impl IntoIterator<Item = u32>,
    find: impl Fn(&[u8]) -> Result<Vec<entry::Place>, String>,
) -> Result<Points, String> {
    let (path, file) = find_file(name, running)?;
    let shown = crate::model::text::printable(path.as_os_str().as_encoded_bytes());
    let map = FileMap::new(&file).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let places = find(&map).map_err(|problem| format!("{shown}: {problem}"))?;
    let at = places.into_iter().map(|place| Point { offset: place.offset, counter: place.counter }).collect();
    Ok(Points::Code { file, path, at })
}

/// Folders of libraries: what LD_LIBRARY_PATH names, and the system's.
pub(super) fn library_folders() -> Vec<PathBuf> {
    let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let all = std::env::split_paths(&named).chain(LIBRARIES.iter().map(PathBuf::from));
    all.filter(|folder| folder.is_absolute()).collect()
}

/// Opens a regular file, and nothing else.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// An absolute path is first one in the root of a process that runs, which may be another one than ours. A mere name is looked for among what the processes have mapped, then as the shell
/// looks for programs and the loader for libraries.
fn find_file(name: &str, running: impl IntoIterator<Item = u32>) -> Result<(PathBuf, File), String> {
    let failed = |path: &Path, error: io::Error| {
        format!("{} cannot be opened: {error}", crate::model::text::printable(path.as_os_str().as_encoded_bytes()))
    };
    let own = PathBuf::from(name);
    if let Some(relative) = name.strip_prefix('/') {
        let within = |pid: u32| open(&Path::new(&format!("/proc/{pid}/root")).join(relative)).ok();
        if let Some(file) = running.into_iter().find_map(within) {
            return Ok((own, file));
        }
        return open(&own).map(|file| (own.clone(), file)).map_err(|error| failed(&own, error));
    }
    if name.contains('/') {
        return open(&own).map(|file| (own.clone(), file)).map_err(|error| failed(&own, error));
    }
    if let Some(found) = running.into_iter().find_map(|pid| mapped(pid, name)) {
        return Ok(found);
    }
    let programs = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&programs).chain(library_folders());
    for folder in folders.filter(|folder| folder.is_absolute()) {
        let path = folder.join(name);
        if path.is_file() {
            return open(&path).map(|file| (path.clone(), file)).map_err(|error| failed(&path, error));
        }
    }
    Err(format!(
        "no file {0} is found in PATH, LD_LIBRARY_PATH or the system's folders of libraries: give its path, as in ./{0}",
        crate::model::text::printable(name.as_bytes())
    ))
}

/// The file of this name that a process has mapped as code, also one that is deleted by now.
fn mapped(pid: u32, name: &str) -> Option<(PathBuf, File)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (range, permissions) = (fields.next()?, fields.next()?);
        let path = PathBuf::from(fields.nth(3)?);
        if !permissions.contains('x') || path.file_name().is_none_or(|file| file != name) {
            return None;
        }
        let file = open(Path::new(&format!("/proc/{pid}/map_files/{range}"))).ok()?;
        Some((path, file))
    })
}
