//! The guest as a machine: file systems, cgroup controllers, the loopback device, orphans, and switching it off.

use std::{ffi::CString, fs, io::Write, path::Path, ptr};

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

/// Makes a machine of it; gives what did not work.
pub fn prepare() -> Vec<String> {
    let mut problems = Vec::new();
    for (kind, place, options) in MOUNTS {
        if let Err(error) = mount(kind, place, options) {
            problems.push(format!("cannot mount {kind} at {place}: {error}"));
        }
    }
    // One by one: a controller that this kernel lacks must not keep the others away.
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    for controller in controllers.split_whitespace() {
        if let Err(error) = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}")) {
            problems.push(format!("cgroup controller {controller}: {error}"));
        }
    }
    if let Err(error) = loopback_up() {
        problems.push(format!("the loopback device stays down: {error}"));
    }
    problems
}

fn mount(kind: &str, place: &str, options: &str) -> std::io::Result<()> {
    fs::create_dir_all(place)?;
    let [kind, place, options] = [kind, place, options].map(|text| CString::new(text).unwrap_or_default());
    // SAFETY: four strings that end in zero and live until the call returns.
    let failed = unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) };
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
