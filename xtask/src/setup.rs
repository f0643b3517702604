//! `cargo xtask setup`: makes sure that there is an eBPF toolchain. Says which one is used; when there is none, installs what it
//! can, each command shown first, and otherwise says what to install. Never removes a package.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Result, bail, ensure};

use crate::{
    sh,
    sh::Cmd,
    toolchain::{self, LINKER_VERSION, Survey, Toolchain},
};

/// Arguments of `setup`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only look; install nothing
    #[arg(long)]
    check: bool,
}

/// LLVM of the compiler in Debian's `rustc-web` family, which names the packages to install. When Debian moves on, so does this.
const DEBIAN_LLVM: u32 = 22;
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// The verb.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let survey = toolchain::survey();
    let found = match survey.usable() {
        Some(found) => found,
        None if arguments.check => bail!("{}", advice(&survey)),
        None => install(&survey)?,
    };
    eprintln!("eBPF toolchain: {found}");
    Ok(ExitCode::SUCCESS)
}

/// The toolchain, installed first where there is none. Says nothing when all is there.
pub fn toolchain() -> Result<Toolchain> {
    let survey = toolchain::survey();
    match survey.usable() {
        Some(found) => Ok(found),
        None => install(&survey),
    }
}

fn install(survey: &Survey) -> Result<Toolchain> {
    for remark in &survey.remarks {
        eprintln!("note: {remark}");
    }
    let done = install_what_can_be(survey);
    let after = toolchain::survey();
    match (done, after.usable()) {
        (_, Some(found)) => Ok(found),
        (Ok(()), None) => bail!("{}", advice(&after)),
        (Err(error), None) => bail!("{error:#}\n{}", advice(&after)),
    }
}

fn install_what_can_be(survey: &Survey) -> Result<()> {
    let has_apt = sh::which("apt-get").is_some();
    if survey.compilers.is_empty() {
        if has_apt && debian_offers_a_compiler()? {
            apt_install(DEBIAN_COMPILER.map(str::to_owned).to_vec())?;
        } else if sh::which("rustup").is_some() {
            let nightly = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
            Cmd::new("rustup").args(nightly).run()?;
        } else {
            bail!("there is neither a rustup nor a package of a usable compiler here");
        }
    }
    let after = toolchain::survey();
    if after.usable().is_some() {
        return Ok(());
    }
    if let Some(linker) = &after.linker {
        // Somebody put it there; replacing it is theirs to decide.
        bail!("{} does not go with any compiler here, and this set-up replaces no program", linker.file.display());
    }
    install_linker(&after, has_apt)
}

/// Programs that the live tests start, and Debian's package of each.
const TEST_PROGRAMS: [(&str, &str); 3] = [("cc", "gcc"), ("c++", "g++"), ("python3", "python3")];
/// The same of a database's server and of Python's clients: what the package brings to tell that it is there.
const DATABASES: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", "postgresql"),
    ("/usr/lib/python3/dist-packages/psycopg2", "python3-psycopg2"),
    ("/usr/lib/python3/dist-packages/psycopg", "python3-psycopg"),
    ("/usr/sbin/mariadbd", "mariadb-server-core"),
    ("/usr/lib/python3/dist-packages/MySQLdb", "python3-mysqldb"),
];

/// Installs what the live tests need and this machine lacks. Where that cannot be, the tests that miss it say so themselves.
pub fn test_programs() -> Result<()> {
    let names = |(_, package): &(&str, &str)| (*package).to_owned();
    let programs = TEST_PROGRAMS.iter().filter(|(program, _)| sh::which(program).is_none()).map(names);
    let databases = DATABASES.iter().filter(|(path, _)| !Path::new(path).exists()).map(names);
    let (programs, databases): (Vec<String>, Vec<String>) = (programs.collect(), databases.collect());
    let has_apt = sh::which("apt-get").is_some();
    if programs.is_empty() && databases.is_empty() {
        return Ok(());
    }
    if !has_apt {
        let missing = [programs, databases].concat();
        println!("the live tests need what is called {} elsewhere: install it", missing.join(", "));
        return Ok(());
    }
    if !databases.is_empty()
        && let Err(error) = apt_install(databases)
    {
        println!("tests of databases will say that they did not run: {error}");
    }
    if programs.is_empty() { Ok(()) } else { apt_install(programs) }
}

/// As bpf-linker's own instructions have it: its release where cargo-binstall is there, else from source against the LLVM of the
/// first compiler for which there is one. Debian's compiler always has one, so it comes in where a nightly's LLVM is too new.
fn install_linker(survey: &Survey, has_apt: bool) -> Result<()> {
    if sh::which("cargo-binstall").is_some() {
        return Cmd::cargo().args(["binstall", "-y", &format!("bpf-linker@{LINKER_VERSION}")]).run();
    }
    let of_compilers: Vec<u32> = survey.compilers.iter().filter_map(|compiler| compiler.llvm).collect();
    if let Some(llvm) = of_compilers.iter().copied().find(|llvm| has_llvm(*llvm)) {
        let built = build_linker(llvm);
        if built.is_ok() || !has_apt {
            return built;
        }
        // A library that LLVM needs may be missing; apt has them all.
    }
    ensure!(has_apt, "bpf-linker cannot be built: there is no LLVM {of_compilers:?} with its libraries in /usr/lib");
    let is_offered = |llvm: &u32| candidate(&format!("llvm-{llvm}-dev")).is_some();
    if let Some(llvm) = of_compilers.iter().copied().find(is_offered) {
        apt_install(llvm_packages(llvm))?;
        return build_linker(llvm);
    }
    ensure!(debian_offers_a_compiler()?, "bpf-linker cannot be built: apt offers no LLVM for {of_compilers:?}");
    let compiler = DEBIAN_COMPILER.map(str::to_owned);
    apt_install(compiler.into_iter().chain(llvm_packages(DEBIAN_LLVM)).collect())?;
    build_linker(DEBIAN_LLVM)
}

fn build_linker(llvm: u32) -> Result<()> {
    let feature = format!("llvm-{llvm}");
    // Without LLVM_PREFIX its build script looks in the wrong folder.
    let version = ["--version", LINKER_VERSION, "--locked", "--no-default-features", "--features", &feature];
    Cmd::cargo().args(["install", "bpf-linker"]).args(version).env("LLVM_PREFIX", llvm_prefix(llvm)).run()
}

fn has_llvm(llvm: u32) -> bool {
    let prefix = llvm_prefix(llvm);
    Path::new(&prefix).join("bin/llvm-config").exists() && Path::new(&prefix).join("lib/libLLVM.so").exists()
}

fn llvm_prefix(llvm: u32) -> String {
    format!("/usr/lib/llvm-{llvm}")
}

fn llvm_packages(llvm: u32) -> Vec<String> {
    let of_llvm = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    of_llvm.into_iter().chain(["zlib1g-dev", "libzstd-dev", "libxml2-dev"].map(str::to_owned)).collect()
}

/// Whether apt offers a new enough rustc-web; asks the archive for newer lists only when the ones here do not.
fn debian_offers_a_compiler() -> Result<bool> {
    let offered = || {
        let is_new_enough = |version: String| !is_older(&version, env!("CARGO_PKG_RUST_VERSION"));
        candidate(DEBIAN_COMPILER[0]).is_some_and(is_new_enough)
            && candidate(&format!("llvm-{DEBIAN_LLVM}-dev")).is_some()
    };
    if offered() {
        return Ok(true);
    }
    apt_update()?;
    Ok(offered())
}

fn apt_update() -> Result<()> {
    sh::can_be_root()?;
    Cmd::new("apt-get").arg("update").privileged().run()
}

fn apt_install(packages: Vec<String>) -> Result<()> {
    sh::can_be_root()?;
    let install = Cmd::new("apt-get")
        .args(["install", "-y", "--no-remove", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .privileged();
    if install.status()?.success() {
        return Ok(());
    }
    // The lists may name versions that the archive has replaced since.
    apt_update()?;
    install.run()
}

/// The version that apt would install.
fn candidate(package: &str) -> Option<String> {
    let text = Cmd::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").ask()?;
    candidate_of(&text)
}

fn candidate_of(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

fn is_older(version: &str, needed: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).take(2).collect()
    };
    numbers(version) < numbers(needed)
}

/// What is there, and exactly what to install.
fn advice(survey: &Survey) -> String {
    let mut text = "no usable eBPF toolchain".to_owned();
    for remark in &survey.remarks {
        text.push_str(&format!("\n  found: {remark}"));
    }
    if survey.linker.is_none() {
        text.push_str("\n  missing: bpf-linker, on PATH or in ~/.cargo/bin");
    }
    text.push_str(&format!(
        "\nOne of these makes it complete:\n  \
         any distribution: rustup toolchain install nightly --profile minimal --component rust-src\n                    \
         and bpf-linker {LINKER_VERSION}: cargo install cargo-binstall && cargo binstall bpf-linker@{LINKER_VERSION}\n                    \
         (or your distribution's package of it, if its LLVM is not older than the nightly's)"
    ));
    if is_debian_like() {
        text.push_str(&format!(
            "\n  Debian: apt-get install --no-remove --no-install-recommends {} {}\n          \
             LLVM_PREFIX=/usr/lib/llvm-{DEBIAN_LLVM} cargo install bpf-linker --version {LINKER_VERSION} --locked \
             --no-default-features --features llvm-{DEBIAN_LLVM}",
            DEBIAN_COMPILER.join(" "),
            llvm_packages(DEBIAN_LLVM).join(" "),
        ));
    }
    text
}

fn is_debian_like() -> bool {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    names_debian(&text)
}

fn names_debian(os_release: &str) -> bool {
    let ids = os_release.lines().filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")));
    ids.flat_map(|value| value.trim_matches('"').split_whitespace()).any(|id| id == "debian")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_install_is_read_from_its_policy() {
        let known = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(candidate_of(known).as_deref(), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(candidate_of("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_of(""), None, "an unknown package has no policy");
    }

    #[test]
    fn debians_versions_are_compared_with_the_workspaces() {
        assert!(is_older("1.85.0+dfsg3-1~deb12u3", "1.95") && !is_older("1.96.0+dfsg1-1~deb12u2", "1.95"));
    }

    #[test]
    fn debian_and_what_derives_from_it_is_told_from_others() {
        assert!(names_debian("NAME=x\nID=debian\n") && names_debian("ID=mint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!names_debian("ID=fedora\n") && !names_debian(""));
    }

    #[test]
    fn the_advice_names_what_was_found_and_what_is_missing() {
        let survey = Survey { remarks: vec!["rustup's nightly-x lacks rust-src".to_owned()], ..Survey::default() };
        let text = advice(&survey);
        for part in ["nightly-x lacks rust-src", "missing: bpf-linker", "--component rust-src", LINKER_VERSION] {
            assert!(text.contains(part), "the advice does not say '{part}':\n{text}");
        }
    }
}
