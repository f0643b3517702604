//! `cargo xtask vm`: the live tests on other kernels, each in an emulated machine. Here are the arguments, the order of things and the
//! exit status; `kernels` and `archive` get kernels, `qemu` runs a guest, `guest`, `cpio` and `disks` make what is in it, `console` reads
//! what it says, `matrix` shows it, `fixtures` takes from kernels what unit tests need. The other side of the console is `tests/src/bin/vm-init`.

mod archive;
mod console;
mod cpio;
mod disks;
mod fixtures;
mod guest;
mod kernels;
mod matrix;
mod python;
mod qemu;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{build::Ebpf, workspace};
use archive::Archive;
use disks::Disks;
use kernels::Kernel;
use matrix::{Fate, Ran};
use qemu::{Accel, Limits, Qemu, Size};

/// Arguments of `vm`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask vm                           an old kernel and the newest, without slow tests
  cargo xtask vm 6.12                      the newest 6.12 of the archive
  cargo xtask vm --all                     all lines that are tested
  cargo xtask vm 7.x --test run_queue      tests with this in their names, on the newest kernel
  cargo xtask vm --all --ebpf dev --test all_families
                                           whether verifiers take the eBPF side as a development build has it
  cargo xtask vm --fixtures                all lines' type information for the unit tests; boots nothing

Exit status: 0 all passed, 1 something failed, 77 something was skipped (no network and not cached) and nothing failed.")]
pub struct Arguments {
    /// Lines of kernels: 6.1, 6.12; 7.x for the newest of a series
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// All lines that are tested
    #[arg(long, conflicts_with = "kernels")]
    all: bool,
    /// Only tests with this in their names; of all live tests where none of the plan (tests/live/vm.tsv) has it
    #[arg(long, value_name = "FILTER")]
    test: Option<String>,
    /// What runs the guest's code
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    accel: Accel,
    /// How the eBPF object is built
    #[arg(long, value_enum, default_value_t)]
    ebpf: Ebpf,
    /// Boot nothing: write what the unit tests need of these kernels' type information (all lines if none is named)
    #[arg(long, conflicts_with_all = ["test", "accel", "memory", "cpus", "limit", "test_limit", "ebpf", "keep"])]
    fixtures: bool,
    /// Keep what tracer wrote, a report and a capture for each run that a test made (target/vm/kept)
    #[arg(long)]
    keep: bool,
    /// Look for newer kernels than those that are cached
    #[arg(long)]
    refresh: bool,
    /// Memory of a guest in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(512..=1_048_576))]
    memory: u32,
    /// CPUs of a guest
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: u32,
    /// Seconds that a guest has in all
    #[arg(long, value_name = "SECONDS", default_value_t = 1200, value_parser = clap::value_parser!(u64).range(10..))]
    limit: u64,
    /// Seconds that a test has
    #[arg(long, value_name = "SECONDS", default_value_t = 330, value_parser = clap::value_parser!(u64).range(1..))]
    test_limit: u64,
}

/// What an old kernel and the newest have between them is mostly alike.
const BY_DEFAULT: [&str; 2] = ["6.1", "7"];

/// Measured: 16 s with a large file system, on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// What automake's and others' test runners call skipped.
const SKIPPED: u8 = 77;

/// The verb.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    archive::is_supported()?;
    let lines = lines(&arguments)?;
    let folder = workspace::target_dir().join("vm");
    fs::create_dir_all(folder.join("logs")).with_context(|| format!("cannot create {}", folder.display()))?;
    let archive = Archive::of_machine(&folder.join("apt"));
    let get = |line: &String| kernels::get(line, &folder.join("kernels"), &archive, arguments.refresh);
    if arguments.fixtures {
        let kernels = lines.iter().map(get).collect::<Result<Vec<Kernel>>>()?;
        fixtures::write(&kernels)?;
        return Ok(ExitCode::SUCCESS);
    }
    let qemu = match Qemu::find(&folder.join("qemu"), &archive, arguments.accel) {
        Ok(qemu) => qemu,
        // What was asked for and cannot be is an error; what cannot be had is no word on the tracer.
        Err(error) if arguments.accel == Accel::Kvm => return Err(error),
        Err(error) => {
            eprintln!("SKIPPED, not passed: {error:#}");
            return Ok(ExitCode::from(SKIPPED));
        }
    };
    // Before the build, which takes minutes: without any kernel there is nothing to build for.
    let kernels: Vec<(String, Result<Kernel>)> = lines
        .into_iter()
        .map(|line| {
            let kernel = get(&line);
            (line, kernel)
        })
        .collect();
    if kernels.iter().all(|(_, kernel)| kernel.is_err()) {
        for (line, kernel) in &kernels {
            eprintln!("SKIPPED, not passed: {line}: {:#}", kernel.as_ref().err().context("it is there")?);
        }
        return Ok(ExitCode::from(SKIPPED));
    }
    let ran = run_all(&arguments, &folder, &qemu, &archive, kernels)?;
    Ok(ran)
}

fn lines(arguments: &Arguments) -> Result<Vec<String>> {
    match (arguments.all, arguments.kernels.as_slice()) {
        (true, _) => Ok(kernels::lines()),
        (false, []) if arguments.fixtures => Ok(kernels::lines()),
        (false, []) => Ok(BY_DEFAULT.map(str::to_owned).to_vec()),
        (false, asked) => asked.iter().map(|one| kernels::line_of(one)).collect(),
    }
}

fn run_all(
    arguments: &Arguments,
    folder: &Path,
    qemu: &Qemu,
    archive: &Result<Archive>,
    kernels: Vec<(String, Result<Kernel>)>,
) -> Result<ExitCode> {
    let binaries = guest::build(&folder.join("bin"), arguments.ebpf)?;
    let slow_too = arguments.all || !arguments.kernels.is_empty();
    let plan = guest::plan(arguments.test.as_deref(), slow_too, &binaries.tests()?)?;
    let with_python = plan.iter().any(|one| one.python);
    let python = |line: &str| {
        let get = || python::get(kernels::python_of(line), &folder.join("python"), archive);
        with_python.then(get).transpose().with_context(|| format!("no Python for the guest of {line} can be had"))
    };
    let initrd = folder.join("initramfs.cpio");
    fs::write(&initrd, binaries.initramfs(&plan, arguments.test_limit, arguments.keep)?)
        .with_context(|| format!("cannot write {}", initrd.display()))?;
    let mut all = Vec::new();
    for (line, kernel) in kernels {
        let kernel = kernel.and_then(|kernel| Ok((python(&line)?, kernel)));
        let ran = match kernel {
            Ok((python, kernel)) => boot(arguments, folder, qemu, &kernel, python.as_deref(), &initrd, plan.len())?,
            Err(error) => {
                eprintln!("SKIPPED, not passed: {line}: {error:#}");
                Ran {
                    line,
                    version: String::new(),
                    fate: Fate::Skipped(format!("{error:#}")),
                    console: Default::default(),
                }
            }
        };
        all.push(ran);
    }
    println!("\n{}", matrix::text(&all, &plan));
    Ok(match matrix::worst(&all) {
        matrix::Worst::Passed => ExitCode::SUCCESS,
        matrix::Worst::Skipped => ExitCode::from(SKIPPED),
        matrix::Worst::Failed => ExitCode::FAILURE,
    })
}

fn boot(
    arguments: &Arguments,
    folder: &Path,
    qemu: &Qemu,
    kernel: &Kernel,
    python: Option<&Path>,
    initrd: &Path,
    planned: usize,
) -> Result<Ran> {
    let size = Size { memory_mib: arguments.memory, cpus: arguments.cpus };
    let limits = Limits {
        boot: BOOT_LIMIT,
        // A test that hangs is ended in the guest; when even that does not come, the guest hangs.
        silence: Duration::from_secs(arguments.test_limit + 30),
        whole: Duration::from_secs(arguments.limit),
    };
    let disks = Disks::new(folder, python)?;
    let command = qemu.command(&kernel.image, initrd, size, disks.as_ref())?;
    let log: PathBuf = folder.join("logs").join(format!("{}.log", kernel.line));
    eprintln!("booting {} ({}, {} CPUs, {} MiB)", kernel.version, qemu.accel(), size.cpus, size.memory_mib);
    let start = Instant::now();
    let (console, stop) = qemu::run(&command, limits, &log)?;
    let outcome = console.outcome(stop, planned);
    if let Some(disks) = disks.as_ref().filter(|_| arguments.keep) {
        let to = folder.join("kept").join(&kernel.line);
        disks.take_out("kept", &to)?;
        eprintln!("what tracer wrote: {}", to.display());
    }
    let ran = Ran {
        line: kernel.line.clone(),
        version: kernel.version.clone(),
        fate: Fate::Ran { outcome, took_s: start.elapsed().as_secs_f64() },
        console,
    };
    eprintln!("{}", matrix::one_line(&ran));
    if matrix::is_failed(&ran) {
        eprintln!("{}\nconsole: {}\nagain: {command}", matrix::failures(&ran), log.display());
    }
    Ok(ran)
}
