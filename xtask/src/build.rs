//! `cargo xtask build`: the eBPF object first, then the tracer, which embeds it, and the workloads. A build with nothing to do
//! takes seconds, because the object is only written anew when its bytes changed.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use object::{Object, ObjectSection};

use crate::{
    setup,
    sh::Cmd,
    workspace::{self, Binaries},
};

/// Arguments of `build`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Build the tracer optimised; the eBPF object always is
    #[arg(long)]
    release: bool,
    /// How the eBPF object is built
    #[arg(long, value_enum, default_value_t)]
    ebpf: Ebpf,
}

/// How the eBPF object is built: optimised either way, since verifiers refuse other code, and with debug information, of which the
/// types of maps and programs are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, ValueEnum)]
pub enum Ebpf {
    /// As it is shipped
    #[default]
    Release,
    /// As a development build: other code for the same programs
    Dev,
}

impl Ebpf {
    /// Cargo's profile, which is a folder's name too.
    fn profile(self) -> &'static str {
        match self {
            Ebpf::Release => "release",
            Ebpf::Dev => "ebpf-dev",
        }
    }
}

const TARGET: &str = "bpfel-unknown-none";

/// The verb.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let binaries = everything_with(arguments.release, arguments.ebpf)?;
    eprintln!("built {} and {}", binaries.tracer.display(), binaries.workload.display());
    Ok(ExitCode::SUCCESS)
}

/// Everything, the toolchain included where it is missing.
pub fn everything(release: bool) -> Result<Binaries> {
    everything_with(release, Ebpf::Release)
}

/// The same with the object built in some way. It stays the one that is embedded until the next build.
pub fn everything_with(release: bool, how: Ebpf) -> Result<Binaries> {
    ebpf(how)?;
    host(release)
}

/// The tracer and the workloads, with whatever object there is: the eBPF toolchain is not needed.
pub fn host(release: bool) -> Result<Binaries> {
    let object = workspace::ebpf_object();
    if !object.exists() {
        // An empty file is the stub. Cargo would run the build script anew each time if it watched for a file that is not there.
        put(&object, &[])?;
    }
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    Cmd::cargo().args(["build", "-p", "tracer", "-p", "tests", "--bins"]).args(profile).run()?;
    Ok(Binaries::of(release))
}

fn ebpf(how: Ebpf) -> Result<()> {
    let toolchain = setup::toolchain()?;
    let dir = workspace::ebpf_target_dir();
    toolchain
        .cargo()
        .args([
            "build",
            "-p",
            "tracer-ebpf",
            "--profile",
            how.profile(),
            "-Zbuild-std=core",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&dir)
        .run()
        .with_context(|| format!("the eBPF object was not built; the toolchain is {toolchain}"))?;
    let built = dir.join(TARGET).join(how.profile()).join("tracer-ebpf");
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    check(&bytes).with_context(|| format!("{} cannot be used", built.display()))?;
    let object = workspace::ebpf_object();
    if fs::read(&object).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    put(&object, &bytes)
}

/// Renamed into place, so that a build that runs at the same time never embeds half an object.
fn put(object: &Path, bytes: &[u8]) -> Result<()> {
    let folder = object.parent().context("the eBPF object lies in no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let partial = object.with_extension("partial");
    fs::write(&partial, bytes).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, object).with_context(|| format!("cannot write {}", object.display()))
}

/// Programs without type information are refused by the kernel at load time, in words that say nothing of the build.
fn check(bytes: &[u8]) -> Result<()> {
    let file = object::File::parse(bytes).context("it is not an object file")?;
    let has_programs = file.sections().any(|section| {
        let name = section.name().unwrap_or_default();
        name != ".text" && section.kind() == object::SectionKind::Text && section.size() > 0
    });
    if has_programs && file.section_by_name(".BTF").is_none_or(|section| section.size() == 0) {
        bail!(
            "it holds programs but no .BTF section: bpf-linker was not given `--btf` (.cargo/config.toml), or RUSTFLAGS pushed it aside"
        );
    }
    Ok(())
}
