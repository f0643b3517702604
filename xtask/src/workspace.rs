//! Where things lie in the workspace. Reads the environment, runs nothing.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The workspace's root: the folder above the one that this crate was built in.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo puts what it builds for the host.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => root().join(dir),
        _ => root().join("target"),
    }
}

/// Where the kernel side is built: a folder of its own, because another compiler builds it.
pub fn ebpf_target_dir() -> PathBuf {
    target_dir().join("ebpf")
}

/// The object that tracer's build script embeds. It looks at this place whatever CARGO_TARGET_DIR says.
pub fn ebpf_object() -> PathBuf {
    root().join("target/tracer-ebpf.o")
}

/// The binaries that `build` makes.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The tracer.
    pub tracer: PathBuf,
    /// The program with a known sickness per role.
    pub workload: PathBuf,
}

impl Binaries {
    /// Where they lie, built or not.
    pub fn of(release: bool) -> Self {
        let dir = target_dir().join(if release { "release" } else { "debug" });
        Self { tracer: dir.join("tracer"), workload: dir.join("workload") }
    }

    /// The environment variables by which tests find them.
    pub fn variables(&self) -> Result<[(&'static str, String); 2]> {
        Ok([("TRACER_BIN", utf8(&self.tracer)?), ("WORKLOAD_BIN", utf8(&self.workload)?)])
    }
}

/// A path as text, for the command lines that are shown.
pub fn utf8(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| {
        format!("the path {} is not UTF-8: move the clone to a folder with an ordinary name", path.display())
    })
}
