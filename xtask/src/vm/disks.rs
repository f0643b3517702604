//! The disks of a guest: two that tests may swap to, slow to write or to read, and one with a file system. Sparse files, made anew for each
//! guest, so that no run finds what another has left. They are behind one NVMe controller, whose driver is built into the kernels; others are modules.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{sh, sh::Cmd, workspace::utf8};

/// Size of each in MiB; files of that much hold only what a guest has written.
const SIZE_MIB: u64 = 4096;

/// What a slow disk for swap writes, or reads, in a second: not more than some cloud's disks. An emulated processor is too slow to outrun a
/// quick disk. Where writing is slow, the kernel's own thread that frees memory does not keep up with those that want some. Where reading is
/// slow, what comes back is waited for.
const SWAP_BYTES_PER_S: u64 = 24 << 20;

/// The disks of one guest.
pub struct Disks {
    slow_to_write: PathBuf,
    files: PathBuf,
    slow_to_read: PathBuf,
}

impl Disks {
    /// New ones, of which the second one holds what a folder has; none, with a word why, where this machine cannot make a file system.
    pub fn new(folder: &Path, content: Option<&Path>) -> Result<Option<Self>> {
        let Some(program) = tool("mke2fs") else {
            eprintln!("guests have no disks: there is no mke2fs here (package e2fsprogs)");
            return Ok(None);
        };
        let image = |name: &str| folder.join(format!("{name}.img"));
        let disks = Self { slow_to_write: image("swap-1"), files: image("files"), slow_to_read: image("swap-2") };
        for image in [&disks.slow_to_write, &disks.files, &disks.slow_to_read] {
            let _ = fs::remove_file(image);
            let file = File::create_new(image).with_context(|| format!("cannot create {}", image.display()))?;
            file.set_len(SIZE_MIB << 20).with_context(|| format!("cannot size {}", image.display()))?;
        }
        let options = ["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        let mut command = Cmd::new(utf8(&program)?).args(options);
        if let Some(content) = content {
            command = command.arg("-d").arg(content);
        }
        command.arg(&disks.files).quiet().run()?;
        Ok(Some(disks))
    }

    /// Copies a folder from the disk with files, once the guest is off.
    pub fn take_out(&self, name: &str, to: &Path) -> Result<()> {
        let _ = fs::remove_dir_all(to);
        fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
        // The folder itself comes along; debugfs has no way to take what is in it, and complains of owners where it is not root.
        let request = format!("rdump {name} {}", utf8(to)?);
        let program = tool("debugfs").context("there is no debugfs here (package e2fsprogs)")?;
        Cmd::new(utf8(&program)?).args(["-R", &request]).arg(&self.files).quiet().read().map(drop)
    }

    /// Arguments of QEMU. The guest knows them by their numbers, 1 and 3 for swap and 2 with files (`tests/src/bin/vm-init/machine.rs`).
    pub fn arguments(&self) -> Result<Vec<String>> {
        let mut arguments = vec!["-device".to_owned(), "nvme,id=disks,serial=tests".to_owned()];
        let limit = |what: &str| format!(",throttling.bps-{what}={SWAP_BYTES_PER_S}");
        let disks = [
            ("swap-1", &self.slow_to_write, limit("write")),
            ("files", &self.files, String::new()),
            ("swap-2", &self.slow_to_read, limit("read")),
        ];
        for (number, (name, image, limit)) in disks.into_iter().enumerate() {
            // Nothing has to survive the guest.
            let image = utf8(image)?.replace(',', ",,");
            let drive = format!("if=none,id={name},file={image},format=raw,cache=unsafe,discard=unmap{limit}");
            let space = format!("nvme-ns,drive={name},bus=disks,nsid={}", number + 1);
            arguments.extend(["-drive".to_owned(), drive, "-device".to_owned(), space]);
        }
        Ok(arguments)
    }
}

/// A program of e2fsprogs. Users may have no /sbin on PATH.
fn tool(name: &str) -> Option<PathBuf> {
    let sbin = Path::new("/sbin").join(name);
    sh::which(name).or_else(|| sbin.is_file().then_some(sbin))
}

impl Drop for Disks {
    fn drop(&mut self) {
        for image in [&self.slow_to_write, &self.files, &self.slow_to_read] {
            let _ = fs::remove_file(image);
        }
    }
}
