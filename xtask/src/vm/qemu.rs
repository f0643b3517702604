//! The emulator: which one, by what it runs (KVM only where it truly works), and one guest from power-on to its end, with the limits
//! that end one which hangs. What the guest says is read by `console`.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::Child,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::{
    archive::{self, Archive},
    console::{Console, Stop},
    disks::Disks,
};
use crate::{sh, sh::Cmd, workspace::utf8};

const PROGRAM: &str = "qemu-system-x86_64";

/// Says that the private one is unpacked; another name than before it was taken from backports.
const COMPLETE: &str = "complete-2";

/// What runs the guest's code.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Accel {
    /// KVM where it truly works, else software
    Auto,
    /// The processor's own virtualisation
    Kvm,
    /// Software emulation: ten to twenty times slower
    Tcg,
}

/// An emulator that can be started.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    /// Set where it was unpacked privately: its root.
    root: Option<PathBuf>,
    /// Whether KVM is used.
    kvm: bool,
}

/// What a guest gets.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Number of CPUs.
    pub cpus: u32,
}

/// When a guest is ended.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From power-on to the first line.
    pub boot: Duration,
    /// Without a line.
    pub silence: Duration,
    /// In all.
    pub whole: Duration,
}

impl Qemu {
    /// The one on PATH, else one that is unpacked into a folder of ours. Nothing is installed: a package manager may have to remove
    /// something for it.
    pub fn find(folder: &Path, archive: &Result<Archive>, accel: Accel) -> Result<Self> {
        let kvm = kvm(accel)?;
        if let Some(program) = sh::which(PROGRAM) {
            return Ok(Self { program, root: None, kvm });
        }
        let root = folder.join("root");
        let program = root.join("usr/bin").join(PROGRAM);
        if !folder.join(COMPLETE).exists() {
            match archive {
                Ok(archive) => unpack(folder, &root, archive)?,
                Err(error) => anyhow::bail!("there is no {PROGRAM} on PATH, and none can be had: {error:#}"),
            }
        }
        ensure!(program.is_file(), "there is no {}: remove {} and try again", program.display(), folder.display());
        Ok(Self { program, root: Some(root), kvm })
    }

    /// By what it runs.
    pub fn accel(&self) -> &'static str {
        if self.kvm { "kvm" } else { "tcg" }
    }

    /// The command that boots a kernel.
    pub fn command(&self, kernel: &Path, initrd: &Path, size: Size, disks: Option<&Disks>) -> Result<Cmd> {
        // Others work on this machine too.
        let mut command = Cmd::new("nice").args(["-n", "10"]).arg(&self.program);
        if let Some(root) = &self.root {
            let root = utf8(root)?;
            let libraries = format!("{root}/usr/lib/x86_64-linux-gnu:{root}/lib/x86_64-linux-gnu");
            command = command
                .env("LD_LIBRARY_PATH", libraries)
                .env("QEMU_MODULE_DIR", format!("{root}/usr/lib/x86_64-linux-gnu/qemu"))
                .args(["-L", &format!("{root}/usr/share/qemu"), "-L", &format!("{root}/usr/share/seabios")]);
        }
        let cpus = size.cpus.to_string();
        let memory = format!("{}M", size.memory_mib);
        let (accel, processor) = if self.kvm { ("kvm", "host") } else { ("tcg,thread=multi", "max") };
        Ok(command
            .args(["-accel", accel, "-cpu", processor, "-smp", &cpus, "-m", &memory])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
            .args(["-device", "isa-debug-exit,iobase=0x501,iosize=1"])
            .args(numa(size))
            .args(disks.map(Disks::arguments).transpose()?.unwrap_or_default())
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            // Two: what kills the kernel is printed, and no less grave word of it may tear a line of the guest's.
            .args(["-append", "console=ttyS0 quiet loglevel=2 panic=-1"]))
    }
}

/// Two nodes, each with half of all, where there is a CPU for each.
fn numa(size: Size) -> Vec<String> {
    if size.cpus < 2 {
        return Vec::new();
    }
    let (half_mib, half) = (size.memory_mib / 2, size.cpus / 2);
    let nodes = [(half_mib, 0, half - 1), (size.memory_mib - half_mib, half, size.cpus - 1)];
    let node = |(number, (mib, first, last)): (usize, (u32, u32, u32))| {
        let memory = format!("memory-backend-ram,id=memory{number},size={mib}M");
        let node = format!("node,nodeid={number},cpus={first}-{last},memdev=memory{number}");
        ["-object".to_owned(), memory, "-numa".to_owned(), node]
    };
    nodes.into_iter().enumerate().flat_map(node).collect()
}

/// That /dev/kvm opens is not enough: a host that is a guest itself may offer one that runs no ordinary kernel.
fn kvm(accel: Accel) -> Result<bool> {
    let has_flag = fs::read_to_string("/proc/cpuinfo")
        .unwrap_or_default()
        .lines()
        .any(|line| line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"));
    let opens = File::options().read(true).write(true).open("/dev/kvm");
    match accel {
        Accel::Tcg => Ok(false),
        Accel::Auto => Ok(has_flag && opens.is_ok()),
        Accel::Kvm => {
            opens.context("--accel kvm: cannot open /dev/kvm")?;
            ensure!(
                has_flag,
                "--accel kvm: the processor shows neither vmx nor svm, so ordinary kernels do not run: use --accel tcg"
            );
            Ok(true)
        }
    }
}

/// Of QEMU 7.2, which bookworm has, guests with two processors panicked now and then ("Oops: int3", seen once in some five runs): where the
/// kernel changes its own code, as it does when a tracepoint is switched on, one processor ran a breakpoint that another had removed already.
/// That is the emulator's: code was translated without a lock on its page until 8.1 ("accel/tcg: Always lock pages before translation"). So the
/// suite's backports are asked first, where they have it.
fn unpack(folder: &Path, root: &Path, archive: &Archive) -> Result<()> {
    let own = archive.codename();
    let newer = archive.suites(&[own, &format!("{own}-backports")], false);
    let suite = newer.or_else(|_| archive.suite(own, false))?;
    eprintln!("unpacking a private {PROGRAM} to {}: none is on PATH", folder.display());
    let debs = suite.download_closure("qemu-system-x86")?;
    let _ = fs::remove_dir_all(root);
    for deb in &debs {
        let name = deb.file_name().unwrap_or_default().to_string_lossy();
        // The machine's own: the loader that starts the emulator belongs to it.
        if !name.starts_with("libc6_") && !name.starts_with("libc-bin_") {
            archive::unpack(deb, &[], root)?;
        }
    }
    for deb in &debs {
        fs::remove_file(deb).with_context(|| format!("cannot remove {}", deb.display()))?;
    }
    File::create(folder.join(COMPLETE)).context("cannot note that the emulator is complete")?;
    Ok(())
}

/// Runs a guest to its end. Each line goes to the log and to the console.
pub fn run(command: &Cmd, limits: Limits, log: &Path) -> Result<(Console, Stop)> {
    let mut log_file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    writeln!(log_file, "+ {command}").context("cannot write the log")?;
    let mut child = command.clone().quiet().start()?;
    let (to, lines) = mpsc::channel();
    let readers = [
        child.stdout.take().map(|from| read(from, to.clone())),
        child.stderr.take().map(|from| read(from, to.clone())),
    ];
    drop(to);
    let mut console = Console::default();
    let start = Instant::now();
    let mut last = start;
    let stop = loop {
        let (limit, why): (Instant, fn(u64) -> Stop) = deadline(&console, start, last, limits);
        match lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                last = Instant::now();
                writeln!(log_file, "{line}").context("cannot write the log")?;
                console.line(&line);
            }
            Err(RecvTimeoutError::Timeout) => {
                break end(&mut child, why(last.elapsed().max(Duration::from_secs(1)).as_secs()), start)?;
            }
            Err(RecvTimeoutError::Disconnected) => {
                break Stop::Ended(child.wait().context("cannot wait for the emulator")?.code());
            }
        }
    };
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    Ok((console, stop))
}

fn deadline(console: &Console, start: Instant, last: Instant, limits: Limits) -> (Instant, fn(u64) -> Stop) {
    if console.kernel.is_none() {
        return (start + limits.boot, Stop::Silent);
    }
    let (silent, whole) = (last + limits.silence, start + limits.whole);
    if silent < whole { (silent, Stop::Silent) } else { (whole, Stop::Limit) }
}

fn end(child: &mut Child, why: Stop, start: Instant) -> Result<Stop> {
    child.kill().and_then(|()| child.wait()).context("cannot end the emulator")?;
    Ok(match why {
        Stop::Limit(_) => Stop::Limit(start.elapsed().as_secs()),
        other => other,
    })
}

fn read(from: impl Read + Send + 'static, to: Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut bytes = Vec::new();
        while from.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
            bytes.clear();
            if to.send(line).is_err() {
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        boot: Duration::from_millis(600),
        silence: Duration::from_millis(600),
        whole: Duration::from_millis(2500),
    };

    fn guest(script: &str) -> (Console, Stop) {
        let log = tempfile::NamedTempFile::new().unwrap();
        run(&Cmd::new("sh").args(["-c", script]), LIMITS, log.path()).unwrap()
    }

    const BOOT: &str = r#"echo '@vm boot {"kernel":"6.1","uptime_s":1}'"#;

    #[test]
    fn all_memory_and_all_cpus_are_on_one_of_two_nodes() {
        let told = numa(Size { memory_mib: 2049, cpus: 3 }).join(" ");
        let node = |number, mib, cpus| {
            let memory = format!("-object memory-backend-ram,id=memory{number},size={mib}M");
            format!("{memory} -numa node,nodeid={number},cpus={cpus},memdev=memory{number}")
        };
        assert_eq!(told, format!("{} {}", node(0, 1024, "0-0"), node(1, 1025, "1-2")));
        assert!(numa(Size { memory_mib: 2048, cpus: 1 }).is_empty());
    }

    #[test]
    fn a_guest_that_never_speaks_is_ended() {
        let (console, stop) = guest("exec sleep 60");
        assert!(console.kernel.is_none() && matches!(stop, Stop::Silent(_)), "{stop:?}");
    }

    #[test]
    fn a_guest_that_falls_silent_is_ended_and_one_that_talks_on_has_a_limit_too() {
        let (console, stop) = guest(&format!("{BOOT}; exec sleep 60"));
        assert!(console.kernel.is_some() && matches!(stop, Stop::Silent(_)), "{stop:?}");
        let (_, stop) = guest(&format!("{BOOT}; while :; do echo on; sleep 0.1; done"));
        assert!(matches!(stop, Stop::Limit(_)), "{stop:?}");
    }

    #[test]
    fn a_guest_that_ends_has_its_status_and_all_of_its_lines() {
        let (console, stop) = guest(&format!(r#"{BOOT}; printf '@vm end {{"failed":0}}'; exit 33"#));
        assert_eq!(stop, Stop::Ended(Some(33)));
        assert_eq!(console.outcome(stop, 0), super::super::console::Outcome::Passed);
    }
}
