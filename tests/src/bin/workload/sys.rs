//! System calls that the standard library does not offer, in safe clothes.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// The calling thread's id in its pid namespace.
pub fn tid() -> i32 {
    // SAFETY: gettid takes no argument and cannot fail.
    unsafe { libc::gettid() }
}

/// What the kernel accounts for the calling thread.
pub struct ThreadAccount {
    /// Time on CPU, from /proc/thread-self/schedstat: up to a scheduler tick behind.
    pub schedstat_ns: u64,
    /// Time runnable but not on CPU.
    pub run_delay_ns: u64,
    /// Time on CPU, from CLOCK_THREAD_CPUTIME_ID: exact.
    pub cpu_clock_ns: u64,
}

/// Reads the calling thread's account.
pub fn thread_account() -> ThreadAccount {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let mut fields = text.split_whitespace().map(|field| field.parse().unwrap_or(0));
    ThreadAccount {
        schedstat_ns: fields.next().unwrap_or(0),
        run_delay_ns: fields.next().unwrap_or(0),
        cpu_clock_ns: clock_ns(libc::CLOCK_THREAD_CPUTIME_ID),
    }
}

/// Reads a clock.
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Adds up the time that a thread spent in calls that wait, less the CPU time that it used in them.
#[derive(Default)]
pub struct Waited {
    waited_ns: u64,
}

impl Waited {
    /// Makes the call.
    pub fn in_call<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let (wall_ns, cpu_ns) = (clock_ns(libc::CLOCK_MONOTONIC), clock_ns(libc::CLOCK_THREAD_CPUTIME_ID));
        let result = call();
        let used_ns = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
        self.waited_ns += (clock_ns(libc::CLOCK_MONOTONIC) - wall_ns).saturating_sub(used_ns);
        result
    }

    /// Seconds.
    pub fn seconds(&self) -> f64 {
        self.waited_ns as f64 / 1e9
    }
}

/// User and system time of this process, its ended children included.
pub fn process_cpu_s() -> f64 {
    let own = clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID) as f64 / 1e9;
    own + usage_cpu_s(&usage(libc::RUSAGE_CHILDREN))
}

fn usage_cpu_s(usage: &libc::rusage) -> f64 {
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn usage(who: libc::c_int) -> libc::rusage {
    // SAFETY: rusage is plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid rusage for the call to fill.
    unsafe { libc::getrusage(who, &mut usage) };
    usage
}

/// Voluntary and involuntary context switches of this process and its ended children.
pub fn context_switches() -> (u64, u64) {
    let (own, children) = (usage(libc::RUSAGE_SELF), usage(libc::RUSAGE_CHILDREN));
    ((own.ru_nvcsw + children.ru_nvcsw) as u64, (own.ru_nivcsw + children.ru_nivcsw) as u64)
}

/// Binds the calling thread to one CPU. Returns whether the kernel agreed.
pub fn pin(cpu: usize) -> bool {
    pin_to(&[cpu])
}

/// Binds the calling thread to some CPUs. Returns whether the kernel agreed.
pub fn pin_to(cpus: &[usize]) -> bool {
    // SAFETY: cpu_set_t is plain integers, for which zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus {
        // SAFETY: CPU_SET checks `cpu` against the set's size.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: `set` is a valid set of the size given; 0 names the calling thread.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) == 0 }
}

/// What the calling thread touches from now on is to lie on one NUMA node.
pub fn take_memory_of(node: u32) -> io::Result<()> {
    let nodes: libc::c_ulong = 1 << node;
    // SAFETY: a mask of the length given, in bits and one more, as the kernel counts it.
    let failed = unsafe { libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_BIND, &raw const nodes, 65) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread a nice value. Returns whether the kernel agreed.
pub fn nice(value: i32) -> bool {
    // SAFETY: takes three numbers; 0 names the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) == 0 }
}

/// The CPUs that this process may use.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: as in `pin`.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid set of the size given.
    unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    // SAFETY: CPU_ISSET checks its argument against the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Names the calling thread. The kernel keeps 15 bytes, whatever they are.
pub fn set_name(name: &[u8]) {
    let mut bytes = [0_u8; 16];
    let len = name.len().min(15);
    bytes[..len].copy_from_slice(&name[..len]);
    // SAFETY: PR_SET_NAME reads at most 16 bytes up to the zero at the end of `bytes`.
    unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr()) };
}

/// The two ends of a new pipe: to read from, to write to.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the call succeeded, so both descriptors are open and nobody else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// An epoll descriptor for reading from any of these.
pub fn epoll_of(of: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
    // SAFETY: takes a number only.
    let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: the call succeeded, so the descriptor is open and nobody else owns it.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    for fd in of {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: both descriptors are open and `event` is valid.
        check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) })?;
    }
    Ok(epoll)
}

/// Waits until one of them can be read.
pub fn epoll_wait(epoll: BorrowedFd<'_>) {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: there is room for one event.
    unsafe { libc::epoll_wait(epoll.as_raw_fd(), &mut event, 1, -1) };
}

/// Reads until `buffer` is full. False at the end of the stream.
pub fn read_full(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<bool> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        // SAFETY: `rest` is writable for its length.
        let count = unsafe { libc::read(fd.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len()) };
        match count {
            0 => return Ok(false),
            count if count > 0 => done += count as usize,
            _ => retry_if_interrupted()?,
        }
    }
    Ok(true)
}

/// Writes all of `bytes`.
pub fn write_full(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        // SAFETY: `rest` is readable for its length.
        let count = unsafe { libc::write(fd.as_raw_fd(), rest.as_ptr().cast(), rest.len()) };
        match count {
            count if count >= 0 => done += count as usize,
            _ => retry_if_interrupted()?,
        }
    }
    Ok(())
}

fn retry_if_interrupted() -> io::Result<()> {
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

/// Moves a file's position.
pub fn seek(fd: BorrowedFd<'_>, offset_bytes: u64) -> io::Result<()> {
    // SAFETY: takes a descriptor and numbers.
    let position = unsafe { libc::lseek(fd.as_raw_fd(), offset_bytes as i64, libc::SEEK_SET) };
    if position < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Turns a system call's result into a `Result`.
pub fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Forks. `child` runs in the child, which then ends with the status that it returns; the parent gets the child's pid.
/// Only for processes that have one thread at this moment.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the caller has no other threads, so no lock can be left held in the child.
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        let status = child();
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(status) };
    }
    Ok(pid)
}

/// Replaces this process by `path`. Returns only if that failed.
pub fn exec(path: &CString, arguments: &[CString]) -> io::Error {
    let mut pointers: Vec<*const libc::c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: path and arguments are strings that end with a zero, the list ends with a null pointer.
    unsafe { libc::execv(path.as_ptr(), pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Waits for a child; -1 for any. Returns its pid and wait status, or nothing if none has ended and `block` is false.
pub fn wait(pid: i32, block: bool) -> io::Result<Option<(i32, i32)>> {
    let mut status = 0;
    let options = if block { 0 } else { libc::WNOHANG };
    // SAFETY: `status` is a valid integer for the call to fill.
    let ended = check(unsafe { libc::waitpid(pid, &mut status, options) })?;
    Ok((ended != 0).then_some((ended, status)))
}

/// Sends a signal.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two numbers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Starts a session of its own and lets go of the standard streams, so that nobody waits for this process.
pub fn detach() {
    // SAFETY: the path is a string that ends with a zero; the calls take descriptors and numbers only.
    unsafe {
        libc::setsid();
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for fd in 0..3 {
            libc::dup2(null, fd);
        }
    }
}

/// Computes until `duration` has passed. Does not enter the kernel.
pub fn compute(duration: Duration) -> u64 {
    let end = Instant::now() + duration;
    let mut x = 1;
    while Instant::now() < end {
        x = compute_loops(x, 200);
    }
    x
}

/// Computes until this thread has had so much CPU time.
pub fn compute_cpu(duration: Duration) {
    let end = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) + duration.as_nanos() as u64;
    while clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) < end {
        compute_loops(1, 2000);
    }
}

/// A fixed amount of work that no optimiser removes.
pub fn compute_loops(mut x: u64, loops: u64) -> u64 {
    for _ in 0..loops {
        x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
    x
}

/// Asks the C library to use one malloc arena only.
pub fn one_malloc_arena() -> bool {
    // SAFETY: mallopt takes two numbers.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) == 1 }
}

/// How many bytes are in a pipe.
pub fn bytes_in_pipe(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD fills one integer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) })?;
    Ok(bytes as usize)
}

/// Throws a file's pages out of memory, those that are on its disk.
pub fn evict(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Says that a file will be read here and there, so that nothing is read ahead.
pub fn read_at_random(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Bytes that this process had read from disks, as the kernel counts them.
pub fn disk_read_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let value = text.lines().find_map(|line| line.strip_prefix("read_bytes:")?.trim().parse().ok());
    value.ok_or_else(|| io::Error::other("no read_bytes"))
}

/// Minor and major page faults of this process.
pub fn page_faults() -> (u64, u64) {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure has room; zeroes are a valid one.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    (usage.ru_minflt as u64, usage.ru_majflt as u64)
}

/// Memory, given back when dropped. Whoever uses its address has to know that.
pub struct Mapping {
    address: *mut libc::c_void,
    len_bytes: usize,
}

impl Mapping {
    /// Maps memory; with `populate` all of it is there when this returns.
    pub fn new(len_bytes: usize, populate: bool) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if populate { libc::MAP_POPULATE } else { 0 };
        // SAFETY: asks for new memory at an address of the kernel's choice.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), len_bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Mapping { address, len_bytes }) }
    }

    /// Maps memory that children made by [`fork`] have in common with this process.
    pub fn shared(len_bytes: usize) -> io::Result<Self> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: asks for new memory at an address of the kernel's choice.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len_bytes, access, flags, -1, 0) };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Mapping { address, len_bytes }) }
    }

    /// Writes a byte every so many bytes, and says how many.
    pub fn mark(&mut self, step_bytes: usize, byte: u8) -> usize {
        let places = (0..self.len_bytes).step_by(step_bytes);
        // SAFETY: the places are in the mapping, which is writable; another process that has it expects such writes.
        places.map(|at| unsafe { self.address.cast::<u8>().add(at).write_volatile(byte) }).count()
    }

    /// Where it is.
    pub fn address(&self) -> *mut libc::c_void {
        self.address
    }

    /// Writes its first byte.
    pub fn touch(&mut self) {
        // SAFETY: the memory is mapped, writable before `make_read_only`, and nobody else has it.
        unsafe { self.address.cast::<u8>().write_volatile(1) };
    }

    /// Maps a file, to read; with `random` the kernel is told that nothing is to be read ahead.
    pub fn of_file(file: BorrowedFd<'_>, len_bytes: usize, random: bool) -> io::Result<Self> {
        // SAFETY: asks for a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), len_bytes, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = Mapping { address, len_bytes };
        if random {
            // SAFETY: advice on memory that only this value knows.
            check(unsafe { libc::madvise(address, len_bytes, libc::MADV_RANDOM) })?;
        }
        Ok(mapping)
    }

    /// Maps a file, to read and write; what is written goes to the file.
    pub fn of_writable_file(file: BorrowedFd<'_>, len_bytes: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: asks for a new mapping at an address of the kernel's choice.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), len_bytes, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Mapping { address, len_bytes }) }
    }

    /// Its bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is of this length, writable, and borrowed as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.address.cast(), self.len_bytes) }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping, which nobody writes to; a file is never shortened while it is mapped.
        unsafe { std::slice::from_raw_parts(self.address.cast(), self.len_bytes) }
    }

    /// Has the kernel write to all of it.
    pub fn fill_by_kernel(&mut self) -> io::Result<()> {
        let zeroes = std::fs::File::open("/dev/zero")?;
        // SAFETY: the mapping, which is writable and nobody else's.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.address.cast::<u8>(), self.len_bytes) };
        read_full(zeroes.as_fd(), bytes).map(drop)
    }

    /// Writes a byte of each page.
    pub fn touch_pages(&mut self) {
        for at in (0..self.len_bytes).step_by(4096) {
            // SAFETY: within the mapping, which is writable and nobody else's.
            unsafe { self.address.cast::<u8>().add(at).write_volatile(1) };
        }
    }

    /// Has the kernel bring one of so many parts of it in, in one call; page by page where it cannot (before 5.14).
    pub fn populate(&self, part: usize, parts: usize) {
        let each = (self.len_bytes / parts).next_multiple_of(4096);
        let (from, to) = ((part * each).min(self.len_bytes), ((part + 1) * each).min(self.len_bytes));
        // SAFETY: within memory that only this value knows; what lies in it stays as it is.
        if unsafe { libc::madvise(self.address.byte_add(from), to - from, libc::MADV_POPULATE_WRITE) } == 0 {
            return;
        }
        for at in (from..to).step_by(4096) {
            // SAFETY: within the mapping, which is writable; each part is one thread's.
            unsafe { self.address.cast::<u8>().add(at).write_volatile(1) };
        }
    }

    /// Writes a byte of each page from one offset to another. Apart from the one above, whose name tests look for.
    pub fn touch_between(&mut self, from: usize, to: usize) {
        for at in (from..to.min(self.len_bytes)).step_by(4096) {
            // SAFETY: within the mapping, which is writable and nobody else's.
            unsafe { self.address.cast::<u8>().add(at).write_volatile(1) };
        }
    }

    /// Brings it in and keeps it there.
    pub fn lock(&self) -> io::Result<()> {
        // SAFETY: locks memory that this value knows; what lies in it stays as it is.
        check(unsafe { libc::mlock(self.address, self.len_bytes) }).map(drop)
    }

    /// Makes it larger or smaller, perhaps elsewhere.
    pub fn resize(&mut self, len_bytes: usize) -> io::Result<()> {
        // SAFETY: memory that only this value knows, which forgets where it was.
        let address = unsafe { libc::mremap(self.address, self.len_bytes, len_bytes, libc::MREMAP_MAYMOVE) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        (self.address, self.len_bytes) = (address, len_bytes);
        Ok(())
    }

    /// Gives its pages back and keeps the addresses: it reads as zeroes.
    pub fn give_back(&mut self) -> io::Result<()> {
        // SAFETY: memory that only this value knows, and whose bytes nobody relies on.
        check(unsafe { libc::madvise(self.address, self.len_bytes, libc::MADV_DONTNEED) }).map(drop)
    }

    /// Gives every second page back.
    pub fn keep_every_second_page(&mut self) -> io::Result<()> {
        for at in (0..self.len_bytes).step_by(2 * 4096) {
            // SAFETY: a page of memory that only this value knows, and whose bytes nobody relies on.
            check(unsafe { libc::madvise(self.address.byte_add(at), 4096, libc::MADV_DONTNEED) })?;
        }
        Ok(())
    }

    /// It is to be in small pages.
    pub fn want_small_pages(&self) -> io::Result<()> {
        // SAFETY: advice on memory that only this value knows.
        check(unsafe { libc::madvise(self.address, self.len_bytes, libc::MADV_NOHUGEPAGE) }).map(drop)
    }

    /// Whether children that are forked do not have it.
    pub fn keep_from_children(&mut self, keep: bool) -> io::Result<()> {
        let advice = if keep { libc::MADV_DONTFORK } else { libc::MADV_DOFORK };
        // SAFETY: memory that only this value knows.
        check(unsafe { libc::madvise(self.address, self.len_bytes, advice) }).map(drop)
    }

    /// Makes it read-only.
    pub fn make_read_only(self) -> io::Result<()> {
        // SAFETY: protects memory that only this value knows.
        check(unsafe { libc::mprotect(self.address, self.len_bytes, libc::PROT_READ) }).map(drop)
    }
}

// SAFETY: an address and a length; access is by `&mut`, or through the kernel.
unsafe impl Send for Mapping {}
// SAFETY: see above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: unmaps memory that only this value knows.
        unsafe { libc::munmap(self.address, self.len_bytes) };
    }
}

/// Moves the end of the heap up by so many steps and down again, without the C library knowing: nobody may allocate meanwhile.
#[inline(never)]
pub fn move_heap_end(steps: u64, step_bytes: usize) -> io::Result<()> {
    // SAFETY: asks where the end is.
    let end = unsafe { libc::sbrk(0) };
    for step in (1..=steps).chain((0..steps).rev()) {
        // SAFETY: the end is never below what it was.
        check(unsafe { libc::brk(end.wrapping_add(step as usize * step_bytes)) })?;
    }
    Ok(())
}

/// Bytes of this process's mappings but for those that the kernel made when it executed the program.
pub fn mapped_by_itself() -> io::Result<u64> {
    let exe = std::fs::read_link("/proc/self/exe")?;
    let by_kernel = |path: &str| {
        path.starts_with("[v") || path == "[stack]" || path.contains("/ld-linux") || std::path::Path::new(path) == exe
    };
    let mut bytes = 0;
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let (range, rest) = line.split_once(' ').unwrap_or_default();
        let path = rest.split_once('/').map_or_else(
            || rest.split_once('[').map_or(String::new(), |(_, name)| format!("[{name}")),
            |(_, path)| format!("/{path}"),
        );
        let mut ends = range.split('-').filter_map(|end| u64::from_str_radix(end, 16).ok());
        if let (Some(start), Some(end)) = (ends.next(), ends.next())
            && !by_kernel(&path)
        {
            bytes += end - start;
        }
    }
    Ok(bytes)
}

/// A new file in a folder, to read and write, that has no name and so is gone with this process.
pub fn unnamed_file(folder: &std::path::Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_TMPFILE);
    options.read(true).write(true).open(folder)
}

/// Mounts a file system in memory on a folder, in a mount namespace of this process's own.
pub fn mount_tmpfs(folder: &std::path::Path, size_bytes: usize) -> io::Result<()> {
    let folder = CString::new(folder.as_os_str().as_encoded_bytes())?;
    let options = CString::new(format!("size={size_bytes}"))?;
    // SAFETY: takes a number.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let private = libc::MS_REC | libc::MS_PRIVATE;
    let none = std::ptr::null();
    // SAFETY: strings end with a zero; what is not used for a change of propagation may be null.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) })?;
    let kind = c"tmpfs".as_ptr();
    // SAFETY: strings end with a zero, and the options of a tmpfs are one.
    check(unsafe { libc::mount(kind, folder.as_ptr(), kind, 0, options.as_ptr().cast()) }).map(drop)
}

/// Unmounts what is mounted on a folder, though who looks at this process may have it open for a moment.
pub fn unmount(folder: &std::path::Path) -> io::Result<()> {
    let folder = CString::new(folder.as_os_str().as_encoded_bytes())?;
    // SAFETY: the string ends with a zero.
    check(unsafe { libc::umount2(folder.as_ptr(), libc::MNT_DETACH) }).map(drop)
}
