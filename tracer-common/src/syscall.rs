//! System calls in which threads wait, with their numbers on x86-64 and aarch64 and what a wait in them means.
//!
//! Only calls that can sleep for long are listed; a sleep in any other is "other" with its number. Source of the numbers:
//! arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h. The aarch64 column is not tested on hardware.

/// Architecture of the host that recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arch {
    /// x86-64.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Arch {
    /// The architecture by the name that uname(2) gives.
    pub fn from_machine(machine: &str) -> Option<Self> {
        match machine {
            "x86_64" => Some(Arch::X86_64),
            "aarch64" => Some(Arch::Aarch64),
            _ => None,
        }
    }
}

/// What a wait in a system call means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// On what its first argument, a file descriptor, refers to.
    Fd,
    /// On a futex.
    Futex,
    /// On several descriptors or an I/O ring.
    Poll,
    /// On a child process.
    Child,
    /// On the clock.
    Timer,
    /// In a file system, by path or for all files.
    File,
    /// For a signal.
    Signal,
    /// In its own end.
    Exit,
    /// In a call that was interrupted by a signal and goes on: the reason is the one before.
    Restart,
    /// In changing its address space.
    Mapping,
    /// In anything else.
    Other,
}

/// One system call.
#[derive(Clone, Copy, Debug)]
pub struct Syscall {
    /// Its name.
    pub name: &'static str,
    x86_64: i16,
    aarch64: i16,
    /// What a wait in it means.
    pub class: Class,
}

const fn call(name: &'static str, x86_64: i16, aarch64: i16, class: Class) -> Syscall {
    Syscall { name, x86_64, aarch64, class }
}

/// The table. -1: the architecture has no such call.
pub const SYSCALLS: &[Syscall] = &[
    call("read", 0, 63, Class::Fd),
    call("write", 1, 64, Class::Fd),
    call("pread64", 17, 67, Class::Fd),
    call("pwrite64", 18, 68, Class::Fd),
    call("readv", 19, 65, Class::Fd),
    call("writev", 20, 66, Class::Fd),
    call("preadv", 295, 69, Class::Fd),
    call("pwritev", 296, 70, Class::Fd),
    call("preadv2", 327, 286, Class::Fd),
    call("pwritev2", 328, 287, Class::Fd),
    call("sendto", 44, 206, Class::Fd),
    call("recvfrom", 45, 207, Class::Fd),
    call("sendmsg", 46, 211, Class::Fd),
    call("recvmsg", 47, 212, Class::Fd),
    call("sendmmsg", 307, 269, Class::Fd),
    call("recvmmsg", 299, 243, Class::Fd),
    call("accept", 43, 202, Class::Fd),
    call("accept4", 288, 242, Class::Fd),
    call("connect", 42, 203, Class::Fd),
    call("shutdown", 48, 210, Class::Fd),
    call("ioctl", 16, 29, Class::Fd),
    call("fcntl", 72, 25, Class::Fd),
    call("flock", 73, 32, Class::Fd),
    call("fsync", 74, 82, Class::Fd),
    call("fdatasync", 75, 83, Class::Fd),
    call("ftruncate", 77, 46, Class::Fd),
    call("fallocate", 285, 47, Class::Fd),
    call("sync_file_range", 277, 84, Class::Fd),
    call("syncfs", 306, 267, Class::Fd),
    call("getdents64", 217, 61, Class::Fd),
    call("fstat", 5, 80, Class::Fd),
    call("close", 3, 57, Class::Fd),
    call("readahead", 187, 213, Class::Fd),
    call("fadvise64", 221, 223, Class::Fd),
    call("splice", 275, 76, Class::Fd),
    call("tee", 276, 77, Class::Fd),
    call("vmsplice", 278, 75, Class::Fd),
    call("sendfile", 40, 71, Class::Fd),
    call("copy_file_range", 326, 285, Class::Fd),
    call("futex", 202, 98, Class::Futex),
    call("futex_waitv", 449, 449, Class::Futex),
    call("futex_wait", 455, 455, Class::Futex),
    call("poll", 7, -1, Class::Poll),
    call("ppoll", 271, 73, Class::Poll),
    call("select", 23, -1, Class::Poll),
    call("pselect6", 270, 72, Class::Poll),
    call("epoll_wait", 232, -1, Class::Poll),
    call("epoll_pwait", 281, 22, Class::Poll),
    call("epoll_pwait2", 441, 441, Class::Poll),
    call("io_uring_enter", 426, 426, Class::Poll),
    call("io_getevents", 208, 4, Class::Poll),
    call("wait4", 61, 260, Class::Child),
    call("waitid", 247, 95, Class::Child),
    call("vfork", 58, -1, Class::Child),
    call("clone", 56, 220, Class::Child),
    call("clone3", 435, 435, Class::Child),
    call("nanosleep", 35, 101, Class::Timer),
    call("clock_nanosleep", 230, 115, Class::Timer),
    call("open", 2, -1, Class::File),
    call("openat", 257, 56, Class::File),
    call("openat2", 437, 437, Class::File),
    call("creat", 85, -1, Class::File),
    call("stat", 4, -1, Class::File),
    call("lstat", 6, -1, Class::File),
    call("newfstatat", 262, 79, Class::File),
    call("statx", 332, 291, Class::File),
    call("access", 21, -1, Class::File),
    call("faccessat", 269, 48, Class::File),
    call("rename", 82, -1, Class::File),
    call("renameat", 264, 38, Class::File),
    call("renameat2", 316, 276, Class::File),
    call("mkdir", 83, -1, Class::File),
    call("mkdirat", 258, 34, Class::File),
    call("rmdir", 84, -1, Class::File),
    call("unlink", 87, -1, Class::File),
    call("unlinkat", 263, 35, Class::File),
    call("link", 86, -1, Class::File),
    call("linkat", 265, 37, Class::File),
    call("symlink", 88, -1, Class::File),
    call("symlinkat", 266, 36, Class::File),
    call("truncate", 76, 45, Class::File),
    call("sync", 162, 81, Class::File),
    call("mount", 165, 40, Class::File),
    call("umount2", 166, 39, Class::File),
    call("execve", 59, 221, Class::File),
    call("execveat", 322, 281, Class::File),
    call("pause", 34, -1, Class::Signal),
    call("rt_sigsuspend", 130, 133, Class::Signal),
    call("rt_sigtimedwait", 128, 137, Class::Signal),
    call("exit", 60, 93, Class::Exit),
    call("exit_group", 231, 94, Class::Exit),
    call("restart_syscall", 219, 128, Class::Restart),
    call("mmap", 9, 222, Class::Mapping),
    call("mprotect", 10, 226, Class::Mapping),
    call("munmap", 11, 215, Class::Mapping),
    call("brk", 12, 214, Class::Mapping),
    call("mremap", 25, 216, Class::Mapping),
    call("madvise", 28, 233, Class::Mapping),
    call("msync", 26, 227, Class::File),
    call("sched_yield", 24, 124, Class::Other),
    call("msgrcv", 70, 188, Class::Other),
    call("semop", 65, 193, Class::Other),
    call("semtimedop", 220, 192, Class::Other),
];

impl Syscall {
    /// Its number on this architecture.
    pub const fn number(&self, arch: Arch) -> Option<i16> {
        let number = match arch {
            Arch::X86_64 => self.x86_64,
            Arch::Aarch64 => self.aarch64,
        };
        if number < 0 { None } else { Some(number) }
    }
}

/// The listed call with this number.
pub fn lookup(arch: Arch, number: i16) -> Option<&'static Syscall> {
    SYSCALLS.iter().find(|call| call.number(arch) == Some(number))
}

/// The number of the call with this name.
pub fn number(arch: Arch, name: &str) -> Option<i16> {
    SYSCALLS.iter().find(|call| call.name == name).and_then(|call| call.number(arch))
}

/// A bit for each call whose first argument is a file descriptor to be looked at when a thread waits in it.
pub fn fd_bitmap(arch: Arch) -> [u64; 8] {
    bitmap(arch, |call| call.class == Class::Fd)
}

/// A bit for each call that writes to a file: pages that come into the page cache meanwhile are made, not read.
pub fn write_bitmap(arch: Arch) -> [u64; 8] {
    const WRITES: [&str; 9] =
        ["write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "splice", "copy_file_range", "fallocate"];
    bitmap(arch, |call| WRITES.contains(&call.name))
}

/// Whether a thread waits in epoll in the call with this name.
pub fn is_epoll(name: &str) -> bool {
    ["epoll_wait", "epoll_pwait", "epoll_pwait2"].contains(&name)
}

/// A bit for each call in which a thread waits in epoll, whose descriptor is the first argument.
pub fn epoll_bitmap(arch: Arch) -> [u64; 8] {
    bitmap(arch, |call| is_epoll(call.name))
}

/// A bit for each call that reads or writes what its first argument refers to, and returns how many bytes it moved. Those that move data
/// between two descriptors are not among them.
pub fn data_bitmap(arch: Arch) -> [u64; 8] {
    const MOVES: [&str; 10] =
        ["read", "pread64", "readv", "preadv", "preadv2", "write", "pwrite64", "writev", "pwritev", "pwritev2"];
    bitmap(arch, |call| MOVES.contains(&call.name))
}

fn bitmap(arch: Arch, wanted: impl Fn(&Syscall) -> bool) -> [u64; 8] {
    let mut bits = [0u64; 8];
    for call in SYSCALLS.iter().filter(|call| wanted(call)) {
        if let Some(number) = call.number(arch) {
            bits[number as usize / 64] |= 1 << (number as usize % 64);
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_listed_twice() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            for (i, a) in SYSCALLS.iter().enumerate() {
                for b in &SYSCALLS[i + 1..] {
                    assert!(
                        a.number(arch).is_none() || a.number(arch) != b.number(arch),
                        "{} and {} share {:?} on {arch:?}",
                        a.name,
                        b.name,
                        a.number(arch)
                    );
                }
            }
        }
    }

    #[test]
    fn every_number_fits_the_bitmap() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            assert!(SYSCALLS.iter().filter_map(|call| call.number(arch)).all(|number| (number as usize) < 512));
            let bits = fd_bitmap(arch);
            let read = number(arch, "read").map(|n| n as usize).unwrap_or(511);
            assert!(bits[read / 64] >> (read % 64) & 1 == 1, "read is looked at on {arch:?}");
        }
    }

    #[test]
    fn numbers_agree_with_the_c_library_of_this_host() {
        if cfg!(target_arch = "x86_64") {
            assert_eq!(number(Arch::X86_64, "futex"), Some(202));
            assert_eq!(number(Arch::X86_64, "epoll_wait"), Some(232));
            assert_eq!(lookup(Arch::X86_64, 230).map(|call| call.name), Some("clock_nanosleep"));
        }
    }
}
