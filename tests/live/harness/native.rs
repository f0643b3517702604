//! Builds the C and C++ programs of `native/` as AI workloads are built: optimised, without frame pointers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// As the programs' file headers promise. Sibling calls would leave functions out of the stack.
const OPTIONS: &[&str] = &["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-pthread"];

/// The folder of the sources.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("native")
}

/// Where what is built goes: not a temporary folder, which may not allow to execute.
pub fn built() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("native");
    std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    folder
}

/// Compiles a source into `name` in a folder of [`built`].
pub fn build_as(source: &str, name: &str, options: &[&str]) -> PathBuf {
    let compiler = if source.ends_with(".cpp") { "c++" } else { "cc" };
    let output = built().join(name);
    if let Some(folder) = output.parent() {
        std::fs::create_dir_all(folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    }
    // Another test may run what is there: the new file takes its place whole.
    let new = output.with_extension(format!("new-{}-{}", std::process::id(), fastrand::u32(..)));
    let mut line = Command::new(compiler);
    line.args(OPTIONS).arg("-o").arg(&new).arg(sources().join(source)).args(options);
    let compiled = line.output().unwrap_or_else(|error| {
        panic!("these tests build C and C++ programs: install a compiler that is called `{compiler}` ({error})")
    });
    assert!(compiled.status.success(), "{line:?} failed: {}", String::from_utf8_lossy(&compiled.stderr));
    std::fs::rename(&new, &output).unwrap_or_else(|error| panic!("cannot make {}: {error}", output.display()));
    output
}

/// Compiles a source to a program of its name.
pub fn build(source: &str) -> PathBuf {
    let name = source.split('.').next().unwrap_or(source);
    build_as(source, name, &[])
}

/// A command line.
pub fn line(program: &Path, arguments: &str) -> Vec<OsString> {
    std::iter::once(program.as_os_str().to_owned()).chain(arguments.split_whitespace().map(OsString::from)).collect()
}
