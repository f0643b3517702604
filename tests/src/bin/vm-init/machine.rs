//! The guest as a machine: file systems, cgroup controllers, the loopback device, orphans, and switching it off.

use std::{
    ffi::CString,
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    ptr,
    time::{Duration, Instant},
};

/// Where QEMU's debug-exit device listens (`xtask/src/vm/qemu.rs` puts it there).
const EXIT_PORT: u16 = 0x501;

/// What is mounted: type, place, options. Those that a kernel does not know are told, and the tests that need them fail by themselves.
const MOUNTS: [(&str, &str, &str); 9] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("tmpfs", "/dev/shm", ""),
    ("tmpfs", "/tmp", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("securityfs", "/sys/kernel/security", ""),
    ("bpf", "/sys/fs/bpf", ""),
    ("cgroup2", "/sys/fs/cgroup", ""),
];

/// The disks, as `xtask/src/vm/disks.rs` numbers them: for swap, and with a file system, which is mounted here.
const SWAPS: [(u32, &str); 2] = [(1, "TRACER_TEST_SWAP_SLOW_WRITES"), (3, "TRACER_TEST_SWAP_SLOW_READS")];
const FILES: u32 = 2;
pub const DISK: &str = "/disk";
/// The driver finds them while this runs already.
const DISKS_LIMIT: Duration = Duration::from_secs(5);

/// chroot(1) and nice(1), which tests call as `chroot FOLDER PROGRAM...` and `nice -n NUMBER PROGRAM...`, are this program by other names.
/// The status where it is not the other program's.
pub fn another_if_asked() -> Option<i32> {
    let mut arguments = std::env::args_os();
    let name = arguments.next()?;
    let done = match Path::new(&name).file_name()?.to_str()? {
        "chroot" => std::os::unix::fs::chroot(arguments.next()?).and_then(|()| std::env::set_current_dir("/")),
        "nice" => {
            let more = arguments.nth(1)?.to_str()?.parse().ok()?;
            // SAFETY: takes a number. That it gives -1 may be no error, and one of it costs the tests some speed.
            unsafe { libc::nice(more) };
            Ok(())
        }
        _ => return None,
    };
    let program = arguments.next()?;
    let error = match done {
        Ok(()) => std::process::Command::new(&program).args(arguments).exec(),
        Err(error) => error,
    };
    eprintln!("{}: {}: {error}", name.display(), program.display());
    Some(126)
}

/// Makes a machine of it; gives what did not work.
pub fn prepare() -> Vec<String> {
    let mut problems = Vec::new();
    for (kind, place, options) in MOUNTS {
        if let Err(error) = mount(kind, kind, place, options) {
            problems.push(format!("cannot mount {kind} at {place}: {error}"));
        }
    }
    if let Err(error) = mount_disk() {
        problems.push(format!("there is no disk: {error}"));
    }
    // One by one: a controller that this kernel lacks must not keep the others away.
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    for controller in controllers.split_whitespace() {
        if let Err(error) = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}")) {
            problems.push(format!("cgroup controller {controller}: {error}"));
        }
    }
    if let Err(error) = keep_code_as_it_is().and_then(|()| keep_memory_readable()) {
        problems.push(format!("settings of the kernel: {error}"));
    }
    if let Err(error) = loopback_up() {
        problems.push(format!("the loopback device stays down: {error}"));
    }
    problems
}

/// The devices for swap, with the variables by which tests find them.
pub fn swaps() -> impl Iterator<Item = (&'static str, String)> {
    SWAPS.into_iter().filter_map(|(number, variable)| Some((variable, disk(number)?)))
}

/// The device with this number. They are found side by side, so their names do not tell which is which.
fn disk(number: u32) -> Option<String> {
    let is_it = |name: &String| {
        let said = fs::read_to_string(format!("/sys/class/block/{name}/nsid")).unwrap_or_default();
        said.trim().parse() == Ok(number)
    };
    let names =
        fs::read_dir("/sys/class/block").ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let device = names.into_iter().find(is_it).map(|name| format!("/dev/{name}"))?;
    Path::new(&device).exists().then_some(device)
}

/// Nothing where this guest was given none.
fn mount_disk() -> std::io::Result<()> {
    if fs::read_dir("/sys/class/nvme").into_iter().flatten().count() == 0 {
        return Ok(());
    }
    let start = Instant::now();
    loop {
        let mounted = match disk(FILES) {
            Some(device) => mount(&device, "ext4", DISK, "discard"),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        match mounted {
            Err(_) if start.elapsed() < DISKS_LIMIT => std::thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}

/// The tracer has the kernel measure programs now and then, which changes the kernel's code each time. Where one processor does that and
/// another runs a program meanwhile, it may find a breakpoint there that is gone already ("Oops: int3", with QEMU 10.0 too): an emulated
/// one only. So it is measured all the time.
fn keep_code_as_it_is() -> std::io::Result<()> {
    set("bpf_stats_enabled", "1")
}

/// To see from which node memory is used the kernel makes it unreadable now and then, until its process uses it again; and while it moves
/// small pages together into a huge one. Programs of the tracer cannot read it then: on 5.10 13 of 100 stacks of a Python program that had
/// just begun, on 6.12 2 of 90. The README says so; tests of stacks would fail now and then. Huge pages that are touched as such stay.
fn keep_memory_readable() -> std::io::Result<()> {
    set("numa_balancing", "0")?;
    set_file("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs", "3600000")
}

/// Changes a setting of the kernel, if this one has it.
fn set(name: &str, value: &str) -> std::io::Result<()> {
    set_file(&format!("/proc/sys/kernel/{name}"), value)
}

fn set_file(file: &str, value: &str) -> std::io::Result<()> {
    match fs::write(file, value) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn mount(source: &str, kind: &str, place: &str, options: &str) -> std::io::Result<()> {
    fs::create_dir_all(place)?;
    let [source, kind, place, options] =
        [source, kind, place, options].map(|text| CString::new(text).unwrap_or_default());
    // SAFETY: four strings that end in zero and live until the call returns.
    let failed = unsafe { libc::mount(source.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) };
    if failed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn loopback_up() -> std::io::Result<()> {
    // SAFETY: plain numbers and a name, all of which may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the calls take numbers and one struct, which is there.
    let failed = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let failed = libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw mut request);
        libc::close(socket);
        failed
    };
    if failed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// After a test: what it left running is killed, and orphans that have ended are collected.
pub fn tidy_up() {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<libc::pid_t>().ok()) else { continue };
        // The kernel's own threads have no program.
        if pid != 1 && fs::read_link(Path::new("/proc").join(&name).join("exe")).is_ok() {
            // SAFETY: takes two numbers.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
    collect_orphans(0);
}

/// Collects children that have ended, other than this one: who waits for that wants its status.
pub fn collect_orphans(other_than: u32) {
    loop {
        // SAFETY: plain numbers, which the call fills.
        let mut about: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the call writes one struct, which is there.
        let failed =
            unsafe { libc::waitid(libc::P_ALL, 0, &raw mut about, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
        // SAFETY: a struct of a child's end, or still all zero.
        let pid = unsafe { about.si_pid() };
        if failed != 0 || pid == 0 || u32::try_from(pid) == Ok(other_than) {
            return;
        }
        // SAFETY: without a place for the status.
        unsafe { libc::waitpid(pid, ptr::null_mut(), libc::WNOHANG) };
    }
}

/// Switches off with a status for QEMU; by rebooting, which QEMU was told to take for the end, where there is no such device.
pub fn off(status: u8) -> ! {
    let _ = std::io::stdout().flush();
    let disk = CString::new(DISK).unwrap_or_default();
    // SAFETY: a string that ends in zero. Where nothing is mounted there is nothing to do.
    unsafe { libc::umount2(disk.as_ptr(), 0) };
    // SAFETY: without the drain the machine is gone before the serial port has sent the last lines. The port belongs to a device
    // that does nothing but end the machine.
    unsafe {
        libc::tcdrain(1);
        if libc::ioperm(u64::from(EXIT_PORT), 1, 1) == 0 {
            std::arch::asm!("out dx, al", in("dx") EXIT_PORT, in("al") status);
        }
        libc::reboot(libc::RB_AUTOBOOT);
    }
    loop {
        std::thread::park();
    }
}
