//! A folder on a disk, a disk to swap to, and file systems on loop devices and cgroups with a limit on I/O of a test's own.

use std::ffi::CString;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder on a disk; `TRACER_TEST_DISK` says where another one is to be used than that of the build.
pub fn disk() -> String {
    let given = std::env::var_os("TRACER_TEST_DISK").map(PathBuf::from);
    given.unwrap_or_else(|| super::workspace().join("target")).display().to_string()
}

/// A file's pages, in memory until this is dropped: what programs read seldom some hosts throw out by themselves (DAMON, agents that
/// reclaim), with much memory free.
pub struct Resident {
    address: *mut libc::c_void,
    len_bytes: usize,
}

impl Resident {
    /// Reads what is not there yet.
    pub fn of(path: &Path) -> Self {
        let file = std::fs::File::open(path).expect("the file can be opened");
        let len_bytes = file.metadata().expect("it has a size").len() as usize;
        let flags = libc::MAP_SHARED | libc::MAP_LOCKED | libc::MAP_POPULATE;
        // SAFETY: a new mapping, to which nothing points.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), len_bytes, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
        assert_ne!(address, libc::MAP_FAILED, "cannot lock {}: {}", path.display(), std::io::Error::last_os_error());
        Resident { address, len_bytes }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, of which no reference is left.
        unsafe { libc::munmap(self.address, self.len_bytes) };
    }
}

/// Swap, switched on while a test needs it.
pub struct Swap {
    device: CString,
}

impl Swap {
    /// On the device that `TRACER_TEST_SWAP_SLOW_WRITES` names, WHICH IS WRITTEN OVER; none, with a word why, where it names none.
    pub fn slow_to_write() -> Option<Self> {
        Self::on("TRACER_TEST_SWAP_SLOW_WRITES")
    }

    /// The same of `TRACER_TEST_SWAP_SLOW_READS`.
    pub fn slow_to_read() -> Option<Self> {
        Self::on("TRACER_TEST_SWAP_SLOW_READS")
    }

    fn on(variable: &str) -> Option<Self> {
        let Some(path) = std::env::var_os(variable).map(PathBuf::from) else {
            eprintln!("not tested: {variable} names no device that may be written over (`cargo xtask vm` has one)");
            return None;
        };
        let device = CString::new(path.as_os_str().as_bytes()).expect("a path");
        write_header(&path).unwrap_or_else(|error| panic!("cannot prepare {}: {error}", path.display()));
        // SAFETY: a string that ends in zero, and flags.
        let failed = unsafe { libc::swapon(device.as_ptr(), 0) };
        assert_eq!(failed, 0, "cannot swap to {}: {}", path.display(), std::io::Error::last_os_error());
        Some(Swap { device })
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // SAFETY: a string that ends in zero.
        if unsafe { libc::swapoff(self.device.as_ptr()) } != 0 {
            eprintln!("cannot clean up: swapoff: {}", std::io::Error::last_os_error());
        }
    }
}

/// What mkswap writes: version, last page, number of bad pages, and the signature at the end of the first page.
fn write_header(device: &Path) -> std::io::Result<()> {
    const PAGE: usize = 4096;
    let mut file = std::fs::File::options().write(true).open(device)?;
    let pages = file.seek(SeekFrom::End(0))? / PAGE as u64;
    let mut page = [0; PAGE];
    page[1024..1028].copy_from_slice(&1u32.to_ne_bytes());
    page[1028..1032].copy_from_slice(&(pages as u32 - 1).to_ne_bytes());
    page[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&page)?;
    file.sync_all()
}

/// An ext4 file system on a loop device, which goes past the page cache to its image; unmounted and removed at the end.
pub struct LoopMount {
    device: String,
    image: PathBuf,
    folder: PathBuf,
}

/// Runs a program of the distribution; an error says what it was and what it said.
fn tool(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl LoopMount {
    /// One of this size; none, with a word why, where this host has no loop devices or not the programs.
    pub fn new(mib: u64) -> Option<Self> {
        Self::make(mib).map_err(|why| eprintln!("not tested: no file system on a loop device: {why}")).ok()
    }

    fn make(mib: u64) -> Result<Self, String> {
        let name = format!("live-loop-{}-{}", std::process::id(), fastrand::u32(..));
        let target = super::workspace().join("target");
        let (image, folder) = (target.join(format!("{name}.img")), target.join(&name));
        let file = std::fs::File::create_new(&image).map_err(|error| error.to_string())?;
        file.set_len(mib << 20).map_err(|error| error.to_string())?;
        std::fs::create_dir(&folder).map_err(|error| error.to_string())?;
        let device = tool("losetup", &["--direct-io=on", "--find", "--show", &image.display().to_string()])
            .inspect_err(|_| {
                let _ = (std::fs::remove_file(&image), std::fs::remove_dir(&folder));
            })?;
        let mount = LoopMount { device, image, folder };
        tool("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &mount.device])?;
        tool("mount", &[&mount.device, &mount.folder.display().to_string()])?;
        Ok(mount)
    }

    /// Where it is mounted.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Name of the device.
    pub fn disk(&self) -> &str {
        self.device.trim_start_matches("/dev/")
    }

    /// Not more than this may be dirty at a time. False, with a word, where the kernel (before 6.2) has no such limit for a device.
    pub fn limit_dirty(&self, bytes: u64) -> bool {
        let number = std::fs::read_to_string(format!("/sys/block/{}/dev", self.disk())).unwrap_or_default();
        let limits = PathBuf::from(format!("/sys/class/bdi/{}", number.trim()));
        let set = |file: &str, text: String| std::fs::write(limits.join(file), text);
        let done = set("strict_limit", "1".to_owned()).and_then(|()| set("max_bytes", bytes.to_string()));
        done.map_err(|error| eprintln!("not tested: {} takes no limit: {error}", limits.display())).is_ok()
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let folder = self.folder.display().to_string();
        for (program, arguments) in [("umount", ["-l", &folder]), ("losetup", ["-d", &self.device])] {
            if let Err(error) = tool(program, &arguments) {
                eprintln!("cannot clean up: {error}");
            }
        }
        let _ = (std::fs::remove_file(&self.image), std::fs::remove_dir(&self.folder));
    }
}

/// A cgroup under the controller of block I/O, version 1; removed at the end.
pub struct IoCgroup {
    folder: PathBuf,
}

impl IoCgroup {
    /// One that may read so many bytes a second of the disk below a folder; none, with a word why, where that cannot be had.
    pub fn new(below: &Path, bytes_per_s: u64) -> Option<Self> {
        let made = Self::make(below, bytes_per_s);
        made.map_err(|why| eprintln!("not tested: no cgroup with a limit on I/O: {why}")).ok()
    }

    fn make(below: &Path, bytes_per_s: u64) -> Result<Self, String> {
        use std::os::unix::fs::MetadataExt;
        let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
        let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let has = |options: &str| options.split(',').any(|option| option == "blkio");
        let root = fields.find(|f| f.get(2) == Some(&"cgroup") && f.get(3).is_some_and(|options| has(options)));
        let root = root.ok_or("no hierarchy with the controller blkio is mounted here")?[1].to_owned();
        let device = below.metadata().map_err(|error| error.to_string())?.dev();
        let number = format!("{}:{}", libc::major(device), libc::minor(device));
        if !Path::new(&format!("/sys/dev/block/{number}/queue")).exists() {
            return Err(format!("{} is on {number}, which is no whole disk", below.display()));
        }
        let folder = Path::new(&root).join(format!("live-io-{}-{}", std::process::id(), fastrand::u32(..)));
        std::fs::create_dir(&folder).map_err(|error| error.to_string())?;
        let cgroup = IoCgroup { folder };
        let limit = cgroup.folder.join("blkio.throttle.read_bps_device");
        std::fs::write(limit, format!("{number} {bytes_per_s}")).map_err(|error| error.to_string())?;
        Ok(cgroup)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for IoCgroup {
    fn drop(&mut self) {
        // Whoever was in it has ended, or goes away at once.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("cannot remove {}", self.folder.display());
    }
}
