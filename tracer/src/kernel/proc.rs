//! What /proc says of threads that exist when tracing begins: names, ids, states, what they wait for. Everything may vanish
//! between two reads; what vanished is simply not there.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use tracer_common::{
    sched::FdKind,
    stack::place,
    syscall::{self, Arch, Class},
};

use super::status::Status;
use crate::model::{container, meta::SeedRecord};

/// Ids of all processes.
pub fn processes() -> Vec<u32> {
    numbers(Path::new("/proc"))
}

/// Ids of a process's threads; empty when it is gone.
pub fn threads(tgid: u32) -> Vec<u32> {
    numbers(&PathBuf::from(format!("/proc/{tgid}/task")))
}

fn numbers(directory: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut ids: Vec<u32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    ids
}

/// Reads a small file; not by its size, which /proc does not know.
pub(super) fn read(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    fs::File::open(path).ok()?.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// A process's parent; `None` when it is gone.
pub fn parent(tgid: u32) -> Option<u32> {
    stat(&read(&format!("/proc/{tgid}/stat"))?).map(|stat| stat.ppid)
}

/// Whether a process has ended and only waits to be reaped.
pub fn is_zombie(tgid: u32) -> bool {
    read(&format!("/proc/{tgid}/stat"))
        .and_then(|bytes| stat(&bytes))
        .is_some_and(|stat| matches!(stat.state, 'Z' | 'X'))
}

/// A thread's process and name.
pub fn identity(tid: u32) -> Option<(u32, Vec<u8>)> {
    let status = read(&format!("/proc/{tid}/status"))?;
    let tgid =
        String::from_utf8_lossy(&status).lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())?;
    Some((tgid, comm(tid)?))
}

/// A thread's priority as the kernel has it; see [`SeedRecord::priority`].
pub fn priority(tid: u32) -> Option<u8> {
    stat(&read(&format!("/proc/{tid}/stat"))?)?.kernel_priority()
}

/// The number of CPUs in a mask as /proc/PID/status prints it: words in hexadecimal.
fn cpus_in_mask(status: &str) -> Option<u16> {
    let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:"))?;
    let bits: u32 = mask.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum();
    u16::try_from(bits).ok()
}

/// A thread's name as the kernel has it.
pub fn comm(tid: u32) -> Option<Vec<u8>> {
    let mut name = read(&format!("/proc/{tid}/comm"))?;
    name.pop();
    Some(name)
}

/// How often a thread has left a CPU. While that stays the same, and it does not run, it has not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches(pub u64);

/// How often a thread has left a CPU; `None` when it is gone, or runs or is ready to.
pub fn switches_asleep(tgid: u32, tid: u32) -> Option<Switches> {
    let status = read(&format!("/proc/{tgid}/task/{tid}/status"))?;
    switches(&String::from_utf8_lossy(&status))
}

fn switches(status: &str) -> Option<Switches> {
    let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    if field("State:").is_none_or(|state| state.starts_with('R')) {
        return None;
    }
    let count = |key: &str| field(key)?.parse::<u64>().ok();
    Some(Switches(count("voluntary_ctxt_switches:")?.wrapping_add(count("nonvoluntary_ctxt_switches:")?)))
}

/// What a thread has moved since its birth by read(2), write(2) and their like: bytes read, bytes written, and the calls. None where
/// it is gone, or the kernel does not count that.
pub fn moved(tid: u32) -> Option<[u64; 4]> {
    let text = read(&format!("/proc/{tid}/task/{tid}/io"))?;
    let text = std::str::from_utf8(&text).ok()?;
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok());
    Some([field("rchar")?, field("wchar")?, field("syscr")?, field("syscw")?])
}

/// Where a thread waits in its code: instruction and stack pointer, which the kernel gives only of one that stands still.
pub fn position(tgid: u32, tid: u32) -> Option<[u64; 2]> {
    position_in(&String::from_utf8_lossy(&read(&format!("/proc/{tgid}/task/{tid}/syscall"))?))
}

/// The last two words of a line of /proc/PID/syscall: `NUMBER ARGUMENTS SP PC`, or `-1 SP PC`.
fn position_in(text: &str) -> Option<[u64; 2]> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [.., sp, ip] = words.as_slice() else { return None };
    let word = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    Some([word(ip)?, word(sp)?]).filter(|[ip, _]| *ip != 0)
}

struct Stat {
    comm: Vec<u8>,
    state: char,
    ppid: u32,
    flags: u64,
    start_ticks: u64,
    /// As /proc prints it: the kernel's less 100.
    priority: i64,
}

impl Stat {
    /// As the kernel has it; those of the deadline class, below 0, count as 0.
    fn kernel_priority(&self) -> Option<u8> {
        u8::try_from((self.priority + 100).max(0)).ok()
    }
}

/// Parses /proc/PID/stat. The name may hold anything, parentheses and line ends too.
fn stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(bytes.get(close + 2..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        comm: bytes.get(open + 1..close)?.to_vec(),
        state: fields.first()?.chars().next()?,
        ppid: fields.get(1)?.parse().ok()?,
        flags: fields.get(6)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
        priority: fields.get(15)?.parse().ok()?,
    })
}

/// Ids in the innermost pid namespace, from /proc/PID/status.
fn namespace_id(status: &str, key: &str) -> u32 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|ids| ids.split_ascii_whitespace().last())
        .and_then(|id| id.parse().ok())
        .unwrap_or(0)
}

/// The path that stands for a thread's cgroups: the unified hierarchy's where it is used, else the memory controller's, else the
/// first that is not the root. With it the hierarchy's number, 0 for the unified one.
pub fn cgroup(text: &str) -> Option<(u32, String)> {
    let lines: Vec<(u32, &str, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            Some((parts.next()?.parse().ok()?, parts.next()?, parts.next()?))
        })
        .collect();
    let by_controller =
        |name: &str| lines.iter().find(|(_, names, path)| names.split(',').any(|n| n == name) && *path != "/");
    lines
        .iter()
        .find(|(hierarchy, _, path)| *hierarchy == 0 && *path != "/")
        .or_else(|| by_controller("memory"))
        .or_else(|| by_controller("cpu"))
        .or_else(|| lines.iter().find(|(_, _, path)| *path != "/"))
        .or_else(|| lines.first())
        .map(|(hierarchy, _, path)| (*hierarchy, (*path).to_owned()))
}

/// The cgroups of a thread.
pub fn cgroup_of(tid: u32) -> Option<(u32, String)> {
    cgroup(&String::from_utf8_lossy(&read(&format!("/proc/{tid}/cgroup"))?))
}

/// The number of the hierarchy that a controller of version 1 is in.
pub fn hierarchy_with(controller: &str) -> Option<u32> {
    let text = read("/proc/self/cgroup")?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, names) = (parts.next()?.parse().ok()?, parts.next()?);
        names.split(',').any(|name| name == controller).then_some(number)
    })
}

/// Every cgroup path of a thread, whatever the hierarchy.
pub fn cgroup_paths(tid: u32) -> Vec<String> {
    let text = read(&format!("/proc/{tid}/cgroup")).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(|line| Some(line.splitn(3, ':').nth(2)?.to_owned())).collect()
}

/// How many ticks of /proc make a second.
pub(super) fn ticks_per_second() -> u64 {
    // SAFETY: sysconf has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100).max(1)
}

/// Reads threads into seed records.
pub struct Scanner {
    arch: Option<Arch>,
    ticks_per_second: u64,
    unix_sockets: BTreeMap<u32, Vec<u64>>,
}

impl Scanner {
    /// `arch` decides what system call numbers mean.
    pub fn new(arch: Option<Arch>) -> Self {
        Self { arch, ticks_per_second: ticks_per_second(), unix_sockets: BTreeMap::new() }
    }

    /// What /proc says of this thread now; `None` when it is gone.
    pub fn seed(&mut self, tgid: u32, tid: u32) -> Option<SeedRecord> {
        let base = format!("/proc/{tgid}/task/{tid}");
        let stat = stat(&read(&format!("{base}/stat"))?)?;
        let status = String::from_utf8_lossy(&read(&format!("{base}/status"))?).into_owned();
        let (_, cgroup) = cgroup_of(tid).unzip();
        let cpu_ns = read(&format!("{base}/schedstat"))
            .and_then(|text| String::from_utf8_lossy(&text).split(' ').next()?.parse().ok())
            .unwrap_or(0);
        let mut seed = SeedRecord {
            tid,
            tgid,
            ppid: stat.ppid,
            ns_tid: namespace_id(&status, "NSpid:"),
            ns_tgid: namespace_id(&status, "NStgid:"),
            comm: String::from_utf8_lossy(&stat.comm).into_owned(),
            start_boot_ns: stat.start_ticks.saturating_mul(1_000_000_000 / self.ticks_per_second),
            state: stat.state.to_string(),
            container: cgroup.as_deref().and_then(container::id_in).map(str::to_owned),
            cgroup,
            cpu_ns,
            kernel_thread: stat.flags & 0x0020_0000 != 0,
            priority: stat.kernel_priority(),
            cpus_allowed: cpus_in_mask(&status),
            ..SeedRecord::default()
        };
        if !seed.kernel_thread && stat.state != 'R' && stat.state != 'Z' {
            self.wait(&mut seed, &base);
        }
        Some(seed)
    }

    /// Adds the system call that the thread waits in and what it waits for.
    fn wait(&mut self, seed: &mut SeedRecord, base: &str) {
        let Some(text) = read(&format!("{base}/syscall")) else { return };
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut words = text.split_ascii_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse::<i64>().ok()) else { return };
        seed.syscall = Some(number);
        seed.place = position_in(&text).map(|[ip, sp]| place(seed.tgid, ip, sp));
        // Without a call there are only the two words above.
        for (arg, word) in seed.args.iter_mut().zip(words).take(if number < 0 { 0 } else { 6 }) {
            *arg = u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap_or(0);
        }
        let (Some(arch), Ok(number)) = (self.arch, i16::try_from(number)) else { return };
        match syscall::lookup(arch, number).map(|call| call.class) {
            Some(Class::Fd) => self.descriptor(seed, base),
            Some(Class::Futex) => seed.futex_words = futex_words(seed.tgid, seed.args[0]),
            _ => {}
        }
    }

    fn descriptor(&mut self, seed: &mut SeedRecord, base: &str) {
        let path = format!("{base}/fd/{}", seed.args[0] as u32);
        // Not stat(2): the thread may wait for a file system that does not answer, and so would we.
        let Ok(status) = Status::of(Path::new(&path)) else { return };
        seed.inode = status.inode;
        seed.fd_kind = match status.kind() {
            libc::S_IFREG | libc::S_IFDIR => FdKind::File,
            libc::S_IFIFO => FdKind::Pipe,
            libc::S_IFCHR => FdKind::CharDevice,
            libc::S_IFBLK => FdKind::BlockDevice,
            libc::S_IFSOCK => self.socket(seed.tgid, status.inode),
            _ if fs::read_link(&path).is_ok_and(|target| target.to_string_lossy().starts_with("anon_inode")) => {
                FdKind::Anonymous
            }
            _ => FdKind::Unknown,
        } as u8;
    }

    /// Which family a socket is of: the lists of the process's network namespace say.
    fn socket(&mut self, tgid: u32, inode: u64) -> FdKind {
        let unix = self.unix_sockets.entry(tgid).or_insert_with(|| {
            let text = read(&format!("/proc/{tgid}/net/unix")).unwrap_or_default();
            let mut inodes: Vec<u64> = String::from_utf8_lossy(&text)
                .lines()
                .filter_map(|line| line.split_ascii_whitespace().nth(6)?.parse().ok())
                .collect();
            inodes.sort_unstable();
            inodes
        });
        if unix.binary_search(&inode).is_ok() {
            return FdKind::SocketUnix;
        }
        let listed = |list: &str| {
            let text = read(&format!("/proc/{tgid}/net/{list}")).unwrap_or_default();
            let wanted = inode.to_string();
            String::from_utf8_lossy(&text).lines().any(|line| line.split_ascii_whitespace().nth(9) == Some(&wanted))
        };
        if ["tcp", "tcp6", "udp", "udp6"].iter().any(|list| listed(list)) {
            FdKind::SocketInet
        } else {
            FdKind::SocketOther
        }
    }
}

/// The six words at a futex's address.
fn futex_words(tgid: u32, address: u64) -> Option<[u32; 6]> {
    let memory = fs::File::open(format!("/proc/{tgid}/mem")).ok()?;
    let mut bytes = [0u8; 24];
    memory.read_exact_at(&mut bytes, address).ok()?;
    let mut words = [0u32; 6];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse_stat() {
        let mut text = b"77 (a) S (b\xff) S 5 77 77 0 -1 2097152".to_vec();
        text.extend_from_slice(&b" 0".repeat(8));
        text.extend_from_slice(b" 39 19 0 0 4242 0");
        let stat = stat(&text).expect("well-formed");
        assert_eq!(stat.comm, b"a) S (b\xff");
        assert_eq!((stat.state, stat.ppid, stat.flags, stat.start_ticks), ('S', 5, 2_097_152, 4242));
        assert_eq!(stat.kernel_priority(), Some(139), "nice 19");
    }

    #[test]
    fn where_a_thread_waits_is_told_in_a_call_and_outside_of_one() {
        let in_call = "202 0x1 0x80 0x2 0x0 0x0 0x0 0x7ffd10 0x7f10\n";
        assert_eq!(position_in(in_call), Some([0x7f10, 0x7ffd10]));
        assert_eq!(position_in("-1 0x7ffd10 0x7f10\n"), Some([0x7f10, 0x7ffd10]), "a page fault");
        assert_eq!(position_in("running\n"), None);
        assert_eq!(position_in("-1 0x0 0x0\n"), None, "a kernel thread");
    }

    #[test]
    fn switches_of_a_thread_that_runs_say_nothing() {
        let status = |state: &str| {
            format!("Name:\tx\nState:\t{state} (x)\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t2\n")
        };
        assert_eq!(switches(&status("S")), Some(Switches(7)));
        assert_eq!(switches(&status("R")), None);
    }

    #[test]
    fn cpus_of_a_mask_of_several_words_are_counted() {
        assert_eq!(cpus_in_mask("Cpus_allowed:\tff,00000003\nCpus_allowed_list:\t0-1,32-39\n"), Some(10));
        assert_eq!(cpus_in_mask("Name:\tx\n"), None);
    }

    #[test]
    fn the_cgroup_that_counts_is_the_unified_one_or_the_memory_controllers() {
        assert_eq!(cgroup("4:memory:/job\n1:cpu:/\n0::/\n"), Some((4, "/job".to_owned())));
        assert_eq!(cgroup("0::/system.slice/x\n"), Some((0, "/system.slice/x".to_owned())));
        assert_eq!(cgroup("2:cpu,cpuacct:/a:b\n0::/\n"), Some((2, "/a:b".to_owned())), "a path may hold colons");
        assert_eq!(cgroup("0::/\n"), Some((0, "/".to_owned())));
        assert_eq!(cgroup(""), None);
    }

    #[test]
    fn this_very_thread_is_seen() {
        let pid = std::process::id();
        let seed = Scanner::new(Some(Arch::X86_64)).seed(pid, pid).expect("this process lives");
        assert_eq!(seed.tgid, pid);
        assert!(seed.start_boot_ns > 0 && !seed.kernel_thread, "{seed:?}");
    }
}
