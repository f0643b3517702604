//! Which eBPF toolchain this machine has: a nightly of rustup's with `rust-src`, or Debian's `rustc-web` family, each with a
//! bpf-linker whose LLVM can read what the compiler writes. Only looks around, in a fraction of a second; `setup` installs.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};

use crate::{sh, sh::Cmd, workspace};

/// The bpf-linker that setup installs and that the build was tested with.
pub const LINKER_VERSION: &str = "0.13.0";

const LIBRARY: &str = "lib/rustlib/src/rust/library/core/Cargo.toml";

/// A compiler that can build `core` for the eBPF target.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiler {
    /// "rustup's nightly-x86_64-..." or "Debian's rustc-web".
    pub name: String,
    /// Folder that holds `bin/rustc` and `bin/cargo`.
    pub prefix: PathBuf,
    /// A release compiler needs RUSTC_BOOTSTRAP to take `-Z` options.
    pub is_release: bool,
    /// Version as `rustc -vV` gives it.
    pub version: String,
    /// Its LLVM's major version.
    pub llvm: Option<u32>,
}

/// A bpf-linker.
#[derive(Clone, Debug, PartialEq)]
pub struct Linker {
    /// Where it lies.
    pub file: PathBuf,
    /// Its LLVM's major version; not known for one that LLVM is linked into.
    pub llvm: Option<u32>,
}

/// A compiler and a linker that go together.
#[derive(Clone, Debug, PartialEq)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// The linker.
    pub linker: Linker,
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Compilers that would do, in order of preference.
    pub compilers: Vec<Compiler>,
    /// The linker that would be used.
    pub linker: Option<Linker>,
    /// What lies there and cannot be used, and why: one sentence each.
    pub remarks: Vec<String>,
}

impl Survey {
    /// The first compiler that the linker goes with.
    pub fn usable(&self) -> Option<Toolchain> {
        let linker = self.linker.as_ref()?;
        let compiler = self.compilers.iter().find(|compiler| can_read(linker.llvm, compiler.llvm))?;
        Some(Toolchain { compiler: compiler.clone(), linker: linker.clone() })
    }
}

/// Looks around.
pub fn survey() -> Survey {
    let mut survey = Survey { linker: linker(), ..Survey::default() };
    rustup_compilers(&mut survey);
    debian_compiler(&mut survey);
    if let Some(linker) = &survey.linker {
        for compiler in survey.compilers.iter().filter(|compiler| !can_read(linker.llvm, compiler.llvm)) {
            survey.remarks.push(format!(
                "{} has LLVM {}, but the LLVM {} of {} cannot read what it writes",
                compiler.name,
                major(compiler.llvm),
                major(linker.llvm),
                linker.file.display(),
            ));
        }
    }
    survey
}

/// LLVM reads the bitcode of older versions, not of newer ones. What is not known is not held against it: the link would tell.
fn can_read(linker: Option<u32>, compiler: Option<u32>) -> bool {
    match (linker, compiler) {
        (Some(linker), Some(compiler)) => linker >= compiler,
        _ => true,
    }
}

fn rustup_compilers(survey: &mut Survey) {
    let Some(home) = home_folder("RUSTUP_HOME", ".rustup") else { return };
    let Ok(folders) = fs::read_dir(home.join("toolchains")) else { return };
    let mut folders: Vec<PathBuf> = folders.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    for prefix in folders {
        let toolchain = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !toolchain.starts_with("nightly") {
            continue;
        }
        if !prefix.join(LIBRARY).exists() {
            survey.remarks.push(format!(
                "rustup's {toolchain} lacks rust-src (rustup component add rust-src --toolchain {toolchain})"
            ));
            continue;
        }
        add_compiler(survey, format!("rustup's {toolchain}"), prefix, false);
    }
}

fn debian_compiler(survey: &mut Survey) {
    let prefix = PathBuf::from("/usr");
    if !sh::is_executable(&prefix.join("bin/rustc")) || !sh::is_executable(&prefix.join("bin/cargo")) {
        return;
    }
    if !prefix.join(LIBRARY).exists() {
        survey
            .remarks
            .push("/usr/bin/rustc lacks its library's sources (Debian: rust-web-src beside rustc-web)".to_owned());
        return;
    }
    add_compiler(survey, "the distribution's /usr/bin/rustc".to_owned(), prefix, true);
}

fn add_compiler(survey: &mut Survey, name: String, prefix: PathBuf, is_release: bool) {
    let rustc = prefix.join("bin/rustc");
    let Some(text) = Cmd::new(&rustc).arg("-vV").without_env(FOREIGN).ask() else {
        survey.remarks.push(format!("{} does not run", rustc.display()));
        return;
    };
    let (version, llvm) = versions(&text);
    let needed = env!("CARGO_PKG_RUST_VERSION");
    if older(&version, needed) {
        survey.remarks.push(format!("{name} is {version}, older than the {needed} that the workspace needs"));
        return;
    }
    survey.compilers.push(Compiler { name, prefix, is_release, version, llvm });
}

/// Release and LLVM major version from `rustc -vV`.
fn versions(text: &str) -> (String, Option<u32>) {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let llvm = value("LLVM version:").and_then(|version| version.split('.').next()?.parse().ok());
    (value("release:").unwrap_or("of unknown version").to_owned(), llvm)
}

/// Whether a version such as `1.97.0-nightly` is below one such as `1.95`. One that cannot be read is not.
fn older(version: &str, needed: &str) -> bool {
    let numbers = |text: &str| {
        let mut parts = text.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        Some((parts.next()?, parts.next()?))
    };
    matches!((numbers(version), numbers(needed)), (Some(version), Some(needed)) if version < needed)
}

fn linker() -> Option<Linker> {
    let beside_cargo = home_folder("CARGO_HOME", ".cargo").map(|home| home.join("bin/bpf-linker"));
    let file = sh::which("bpf-linker").or_else(|| beside_cargo.filter(|file| sh::is_executable(file)))?;
    // The shared libraries that it names are strings in the file; asking the dynamic loader would take longer.
    let llvm = fs::read(&file).ok().and_then(|bytes| llvm_of_library(&bytes));
    Some(Linker { file, llvm })
}

/// 22 of `libLLVM.so.22.1`, `libLLVM-22.so` in a binary.
fn llvm_of_library(bytes: &[u8]) -> Option<u32> {
    ["libLLVM.so.", "libLLVM-"].iter().find_map(|prefix| {
        let mut places = bytes.windows(prefix.len()).enumerate().filter(|(_, window)| *window == prefix.as_bytes());
        places.find_map(|(at, _)| {
            let rest = &bytes[at + prefix.len()..];
            let digits: String =
                rest.iter().take_while(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
            digits.parse().ok()
        })
    })
}

fn home_folder(variable: &str, default: &str) -> Option<PathBuf> {
    match env::var_os(variable) {
        Some(folder) if !folder.is_empty() => Some(folder.into()),
        _ => env::var_os("HOME").map(|home| Path::new(&home).join(default)),
    }
}

fn major(llvm: Option<u32>) -> String {
    llvm.map_or("of unknown version".to_owned(), |major| major.to_string())
}

/// What another toolchain must not see of the one that runs xtask. RUSTFLAGS would push aside the flags of the eBPF target in
/// `.cargo/config.toml`.
const FOREIGN: &[&str] = &[
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
];

impl Toolchain {
    /// Its cargo, set up to build for the eBPF target.
    pub fn cargo(&self) -> Cmd {
        let command = Cmd::new(self.compiler.prefix.join("bin/cargo"))
            .folder(workspace::root())
            .without_env(FOREIGN)
            .env("RUSTC", self.compiler.prefix.join("bin/rustc"))
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker.file);
        if self.compiler.is_release { command.env("RUSTC_BOOTSTRAP", "1") } else { command }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compiler, linker } = self;
        write!(to, "{} {} (LLVM {}), ", compiler.name, compiler.version, major(compiler.llvm))?;
        write!(to, "{} (LLVM {})", linker.file.display(), major(linker.llvm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(name: &str, llvm: u32) -> Compiler {
        Compiler {
            name: name.to_owned(),
            prefix: "/usr".into(),
            is_release: true,
            version: "1.96.0".to_owned(),
            llvm: Some(llvm),
        }
    }

    #[test]
    fn the_first_compiler_that_the_linker_can_read_is_used() {
        let survey = Survey {
            compilers: vec![compiler("a nightly", 23), compiler("the distribution's", 22)],
            linker: Some(Linker { file: "/bin/bpf-linker".into(), llvm: Some(22) }),
            remarks: vec![],
        };
        let found = survey.usable().map(|toolchain| toolchain.compiler.name);
        assert_eq!(found.as_deref(), Some("the distribution's"), "LLVM 22 cannot read the bitcode of LLVM 23");
        let without = Survey { linker: None, ..survey };
        assert_eq!(without.usable(), None, "no linker, no toolchain");
    }

    #[test]
    fn a_linker_whose_llvm_is_not_known_is_tried() {
        assert!(can_read(None, Some(23)) && can_read(Some(23), Some(22)) && !can_read(Some(21), Some(22)));
    }

    #[test]
    fn versions_are_read_from_what_rustc_prints() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(versions(text), ("1.96.0".to_owned(), Some(22)));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(older("1.85.0", "1.95") && older("1.9.0", "1.95"));
        assert!(!older("1.97.0-nightly", "1.95") && !older("1.95.0", "1.95") && !older("2.0.0", "1.95"));
    }

    #[test]
    fn the_linkers_llvm_is_read_from_the_libraries_it_names() {
        assert_eq!(llvm_of_library(b"\0libc.so.6\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_of_library(b"\0libLLVM-19.so.1\0"), Some(19));
        assert_eq!(llvm_of_library(b"\0libLLVM.so.\0 libLLVM-x"), None);
    }
}
