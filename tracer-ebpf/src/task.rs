//! What is read of a task: ids, state, user registers, the file behind a descriptor.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs},
};
use tracer_common::{
    loss::CpuState,
    sched::{COMM_BYTES, FdKind, QueueFacts},
};

use crate::access::{config, present, probed, typed};

/// A `struct task_struct` that the verifier knows.
pub type Task = *const u8;

/// PF_KTHREAD (linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;
/// x86 code segment of 32-bit user code.
const CS_32BIT: u16 = 0x23;

/// The thread's id. 0 is the idle task.
#[inline(always)]
pub fn tid(task: Task) -> u32 {
    // SAFETY: `task` is known to the verifier.
    unsafe { typed(task, config!(offsets.task_pid)) }
}

/// The process's id.
#[inline(always)]
pub fn tgid(task: Task) -> u32 {
    // SAFETY: `task` is known to the verifier.
    unsafe { typed(task, config!(offsets.task_tgid)) }
}

/// Whether it runs or is ready to. True where the kernel does not tell.
#[inline(always)]
pub fn is_running(task: Task) -> bool {
    // SAFETY: `task` is known to the verifier.
    unsafe { typed::<u32>(task, config!(offsets.task_state)) == 0 }
}

/// Whether it is a kernel thread, whose user registers mean nothing.
#[inline(always)]
pub fn is_kernel_thread(task: Task) -> bool {
    // SAFETY: `task` is known to the verifier.
    let flags: u32 = unsafe { typed(task, config!(offsets.task_flags)) };
    flags & KERNEL_THREAD != 0
}

/// Whether this kernel tells ready threads from those that a CPU quota holds back.
#[inline(always)]
pub fn tells_throttling() -> bool {
    present(config!(offsets.task_throttled)) || present(config!(offsets.cfs_rq_throttle_count))
}

/// Whether a task that leaves the CPU ready to run does so because its cgroup's CPU quota is used up. From 6.18 on a task is
/// throttled by itself, on its way back to user code, and says so; before, its whole queue was (kernel/sched/fair.c).
#[inline(always)]
pub fn is_throttled(task: Task) -> bool {
    let own = config!(offsets.task_throttled);
    // SAFETY: `task` is known to the verifier, and so is the queue that it points to.
    unsafe {
        if present(own) {
            return typed::<u8>(task, own) != 0;
        }
        let queue = typed::<u64>(task, config!(offsets.task_cfs_rq)) as *const u8;
        !queue.is_null() && typed::<i32>(queue, config!(offsets.cfs_rq_throttle_count)) > 0
    }
}

/// For how long the quota has held back the queue that a task waits in, until now; 0: this kernel does not tell. Read twice, it
/// gives the time between, also when the task ran again long after its queue was let go (kernel/sched/fair.c, tg_throttle_down and
/// tg_unthrottle_up).
#[inline(always)]
pub fn held_back_ns(task: Task) -> u64 {
    let before = config!(offsets.cfs_rq_throttled_before);
    if !present(before) || !present(config!(offsets.rq_clock)) || !present(config!(offsets.cfs_rq_rq)) {
        return 0;
    }
    // SAFETY: `task` is known to the verifier, and so are the queues that it leads to.
    unsafe {
        let queue = typed::<u64>(task, config!(offsets.task_cfs_rq)) as *const u8;
        if queue.is_null() {
            return 0;
        }
        let (before, since) =
            (typed::<u64>(queue, before), typed::<u64>(queue, config!(offsets.cfs_rq_throttled_since)));
        if since == 0 {
            return before;
        }
        let rq = typed::<u64>(queue, config!(offsets.cfs_rq_rq)) as *const u8;
        if rq.is_null() { before } else { before + typed::<u64>(rq, config!(offsets.rq_clock)).saturating_sub(since) }
    }
}

/// Priority and number of CPUs of a task, packed.
#[inline(always)]
pub fn queue_facts(task: Task) -> u64 {
    // SAFETY: `task` is known to the verifier.
    unsafe {
        QueueFacts::pack(typed(task, config!(offsets.task_prio)), typed(task, config!(offsets.task_nr_cpus_allowed)))
    }
}

/// For how long a thread that leaves its CPU has run since it got it; `None` for realtime threads, of which no account is kept.
#[inline(always)]
pub fn ran_ns(task: Task) -> Option<u64> {
    const FIRST_FAIR_PRIORITY: i32 = 100;
    if !present(config!(offsets.task_prev_sum_exec_runtime)) || !present(config!(offsets.task_sum_exec_runtime)) {
        return None;
    }
    // SAFETY: `task` is known to the verifier.
    unsafe {
        if typed::<i32>(task, config!(offsets.task_prio)) < FIRST_FAIR_PRIORITY {
            return None;
        }
        let sum: u64 = typed(task, config!(offsets.task_sum_exec_runtime));
        let before: u64 = typed(task, config!(offsets.task_prev_sum_exec_runtime));
        sum.checked_sub(before)
    }
}

/// The current task. Kernels that lack the helper for its registers may lack the one for its type as well, which is two versions older:
/// there the verifier does not know what it is, and all loads are probed.
#[inline(always)]
pub fn current() -> Task {
    if config!(has_task_pt_regs) == 1 {
        // SAFETY: no arguments.
        unsafe { bpf_get_current_task_btf() as Task }
    } else {
        current_address()
    }
}

/// The same on every kernel, but only for probed loads: the verifier does not know what it is.
#[inline(always)]
pub fn current_address() -> Task {
    // SAFETY: no arguments.
    unsafe { bpf_get_current_task() as Task }
}

/// The current thread and its process: from the CPU's own note of it, where that was found and a load costs less than a helper.
#[inline(always)]
pub fn current_ids(state: &CpuState) -> (u32, u32) {
    if state.run_queue == 0 || config!(current_from_rq) == 0 {
        let ids = bpf_get_current_pid_tgid();
        return (ids as u32, (ids >> 32) as u32);
    }
    // SAFETY: probed loads take any address; the current task always exists.
    unsafe {
        let current: u64 = probed(state.run_queue.wrapping_add(config!(current_from_rq)) as *const u8, 0);
        (
            probed(current as *const u8, config!(offsets.task_pid)),
            probed(current as *const u8, config!(offsets.task_tgid)),
        )
    }
}

/// As [`is_kernel_thread`], of a task by its address.
#[inline(always)]
pub fn is_kernel_thread_at(task: u64) -> bool {
    // SAFETY: probed loads take any address.
    unsafe { probed::<u32>(task as *const u8, config!(offsets.task_flags)) & KERNEL_THREAD != 0 }
}

/// Whether a thread of a program is in a system call, by the address of its task and how far its registers are from its kernel stack; 0: that
/// is not known, nor is this.
#[inline(always)]
pub fn is_in_call(task: u64, regs_from_stack: u64) -> bool {
    // SAFETY: as above; numbers have eight bytes where stacks are looked at.
    unsafe {
        let stack: u64 = probed(task as *const u8, config!(offsets.task_stack));
        let regs = stack.wrapping_add(regs_from_stack) as *const u8;
        regs_from_stack != 0 && probed::<i64>(regs, config!(offsets.regs_syscall)) >= 0
    }
}

/// The thread's name.
#[inline(always)]
pub fn comm(task: Task) -> [u8; COMM_BYTES] {
    let mut comm = [0u8; COMM_BYTES];
    let offset = config!(offsets.task_comm);
    if present(offset) {
        // SAFETY: room for the bytes asked for; the helper checks the address.
        unsafe {
            bpf_probe_read_kernel(
                comm.as_mut_ptr().cast(),
                COMM_BYTES as u32,
                task.wrapping_add(offset as usize).cast(),
            )
        };
    }
    comm
}

/// Id in the task's own pid namespace and that namespace's depth.
#[inline(always)]
pub fn namespace_id(task: Task) -> (u32, u32) {
    // SAFETY: probed loads take any address.
    unsafe {
        let pid: u64 = probed(task, config!(offsets.task_thread_pid));
        if pid == 0 {
            return (0, 0);
        }
        let level: u32 = probed(pid as *const u8, config!(offsets.pid_level));
        let numbers = config!(offsets.pid_numbers);
        if !present(numbers) || level > 32 {
            return (0, 0);
        }
        let offset = u64::from(numbers) + u64::from(level) * u64::from(config!(offsets.upid_bytes));
        (probed((pid + offset) as *const u8, 0), level)
    }
}

/// Where a thread is in the kernel, from its user registers.
#[derive(Clone, Copy)]
pub struct Registers {
    /// System call number; negative: entered by an exception or a signal.
    pub syscall: i16,
    /// First three arguments.
    pub args: [u64; 3],
    /// 32-bit code: the number is of another table.
    pub compat: bool,
    /// Instruction and stack pointer; zeros unless stacks are taken.
    pub at: [u64; 2],
}

/// Whether this kernel tells the user registers of tasks.
#[inline(always)]
pub fn tells_registers() -> bool {
    config!(has_task_pt_regs) == 1 || config!(regs_in_stack) != 0
}

/// The kernel's `struct pt_regs` of the task's entry from user code. Null where this kernel cannot tell. Without the helper they are where
/// it looks for them, at the top of the task's kernel stack (task_pt_regs in arch/x86/include/asm/processor.h).
#[inline(always)]
pub fn user_registers(task: Task) -> *const u8 {
    if config!(has_task_pt_regs) == 1 {
        // SAFETY: `task` is known to the verifier.
        return unsafe { bpf_task_pt_regs(task.cast_mut().cast()) as *const u8 };
    }
    if config!(regs_in_stack) == 0 {
        return core::ptr::null();
    }
    // SAFETY: a field of the task; the address is not followed here.
    match unsafe { typed::<u64>(task, config!(offsets.task_stack)) } {
        0 => core::ptr::null(),
        stack => (stack + u64::from(config!(regs_in_stack))) as *const u8,
    }
}

/// The user registers of a task that is not running user code. `None` where this kernel cannot tell.
#[inline(always)]
pub fn registers(task: Task) -> Option<Registers> {
    if !tells_registers() || !present(config!(offsets.regs_syscall)) {
        return None;
    }
    let regs = user_registers(task);
    if regs.is_null() {
        return None;
    }
    // SAFETY: known to the verifier as `struct pt_regs`, or else all loads are probed.
    unsafe {
        Some(Registers {
            syscall: syscall(regs),
            args: [
                typed(regs, config!(offsets.regs_arg0)),
                typed(regs, config!(offsets.regs_arg1)),
                typed(regs, config!(offsets.regs_arg2)),
            ],
            compat: is_compat(regs),
            at: if config!(wait_stacks) == 1 {
                [typed(regs, config!(offsets.regs_ip)), typed(regs, config!(offsets.regs_sp))]
            } else {
                [0; 2]
            },
        })
    }
}

/// The same of the thread that leaves its CPU in a switch. A call of a helper and back costs more than all the loads, so it is called
/// once on each CPU: the registers are as far from the start of every thread's kernel stack.
#[inline(always)]
pub fn registers_in_switch(state: &mut CpuState, prev: Task) -> Option<Registers> {
    if config!(word_type) == 0 || config!(has_task_pt_regs) == 0 || !present(config!(offsets.regs_syscall)) {
        return registers(prev);
    }
    // SAFETY: `prev` is known to the verifier; what is written is read back as a number, which may be reckoned with; probed loads take any
    // address.
    unsafe {
        // To the verifier of 7.0 and later a typed load gives a pointer.
        let stack: u64 = probed(prev, config!(offsets.task_stack));
        let noted = &raw mut state.regs_from_stack;
        let mut distance = noted.read_volatile();
        if distance == 0 {
            noted.write_volatile(bpf_task_pt_regs(prev.cast_mut().cast()) as u64);
            let regs = noted.read_volatile();
            if regs == 0 {
                return None;
            }
            distance = regs.wrapping_sub(stack);
            noted.write_volatile(distance);
        }
        let regs = stack.wrapping_add(distance) as *const u8;
        Some(Registers {
            syscall: syscall_number(if config!(offsets.regs_syscall_bytes) == 4 {
                i64::from(probed::<i32>(regs, config!(offsets.regs_syscall)))
            } else {
                probed::<i64>(regs, config!(offsets.regs_syscall))
            }),
            args: [
                probed(regs, config!(offsets.regs_arg0)),
                probed(regs, config!(offsets.regs_arg1)),
                probed(regs, config!(offsets.regs_arg2)),
            ],
            compat: probed::<u16>(regs, config!(offsets.regs_cs)) == CS_32BIT,
            at: if config!(wait_stacks) == 1 {
                [probed(regs, config!(offsets.regs_ip)), probed(regs, config!(offsets.regs_sp))]
            } else {
                [0; 2]
            },
        })
    }
}

/// A system call's number as it is kept; negative: none.
#[inline(always)]
fn syscall_number(number: i64) -> i16 {
    if (0..512).contains(&number) { number as i16 } else { -1 }
}

/// Number of the system call by which the kernel was entered; negative: none.
///
/// # Safety
/// `regs` came from [`user_registers`].
#[inline(always)]
pub unsafe fn syscall(regs: *const u8) -> i16 {
    let offset = config!(offsets.regs_syscall);
    if !present(offset) {
        return -1;
    }
    // SAFETY: known to the verifier as `struct pt_regs`.
    let number: i64 = unsafe {
        if config!(offsets.regs_syscall_bytes) == 4 {
            i64::from(typed::<i32>(regs, offset))
        } else {
            typed::<i64>(regs, offset)
        }
    };
    syscall_number(number)
}

/// Whether these registers are of 32-bit code.
///
/// # Safety
/// `regs` came from [`user_registers`].
#[inline(always)]
pub unsafe fn is_compat(regs: *const u8) -> bool {
    // SAFETY: known to the verifier as `struct pt_regs`.
    unsafe { typed::<u16>(regs, config!(offsets.regs_cs)) == CS_32BIT }
}

/// The task's address space; null: a kernel thread, or one that is exiting.
#[inline(always)]
pub fn address_space(task: Task) -> *const u8 {
    // SAFETY: `task` is known to the verifier.
    unsafe { typed::<u64>(task, config!(offsets.task_mm)) as *const u8 }
}

/// The thread's pointer to its own control block; 0: not known.
#[inline(always)]
pub fn thread_pointer(task: Task) -> u64 {
    // SAFETY: `task` is known to the verifier.
    unsafe { typed(task, config!(offsets.task_thread_pointer)) }
}

/// Whether every thread of the task's process has begun to exit.
#[inline(always)]
pub fn process_is_over(task: Task) -> bool {
    let live = config!(offsets.signal_live);
    // SAFETY: `task` is known to the verifier; the rest is probed.
    unsafe {
        let signal: u64 = typed(task, config!(offsets.task_signal));
        present(live) && signal != 0 && probed::<u32>(signal as *const u8, live) == 0
    }
}

/// Whether the first argument of this call is a descriptor worth a look.
#[inline(always)]
pub fn takes_fd(syscall: i16) -> bool {
    // SAFETY: the configuration lives for ever.
    unsafe { in_bitmap(syscall, (&raw const (*crate::access::config_pointer()).fd_syscalls).cast()) }
}

/// Whether a thread waits in epoll in this call.
#[inline(always)]
pub fn is_epoll(syscall: i16) -> bool {
    // SAFETY: the configuration lives for ever.
    unsafe { in_bitmap(syscall, (&raw const (*crate::access::config_pointer()).epoll_syscalls).cast()) }
}

/// Whether this call writes to a file.
#[inline(always)]
pub fn is_write(syscall: i16) -> bool {
    // SAFETY: the configuration lives for ever.
    unsafe { in_bitmap(syscall, (&raw const (*crate::access::config_pointer()).write_syscalls).cast()) }
}

/// Whether this call reads or writes what its first argument refers to, and returns how many bytes.
#[inline(always)]
pub fn moves_data(syscall: i16) -> bool {
    // SAFETY: the configuration lives for ever.
    unsafe { in_bitmap(syscall, (&raw const (*crate::access::config_pointer()).data_syscalls).cast()) }
}

/// Whether the bit of this call is set.
///
/// # Safety
/// There are eight words.
#[inline(always)]
unsafe fn in_bitmap(syscall: i16, words: *const u64) -> bool {
    if syscall < 0 {
        return false;
    }
    let index = (syscall as usize >> 6) & 7;
    // SAFETY: the index is below eight.
    let word = unsafe { core::ptr::read_volatile(words.add(index)) };
    word >> (syscall as u64 & 63) & 1 == 1
}

/// What is open behind a descriptor of this task, and its inode: addresses. Zeroes: nothing.
#[inline(always)]
pub fn open_file(task: Task, fd: u32) -> (u64, u64) {
    // SAFETY: typed loads start at a task the verifier knows; the rest are probed.
    unsafe {
        let files: *const u8 = typed::<u64>(task, config!(offsets.task_files)) as *const u8;
        if files.is_null() {
            return (0, 0);
        }
        let table: *const u8 = typed::<u64>(files, config!(offsets.files_fdt)) as *const u8;
        if table.is_null() || fd >= typed::<u32>(table, config!(offsets.fdtable_max_fds)) {
            return (0, 0);
        }
        let array: u64 = typed(table, config!(offsets.fdtable_fd));
        let file: u64 = probed((array + u64::from(fd) * 8) as *const u8, 0);
        (file, probed(file as *const u8, config!(offsets.file_inode)))
    }
}

/// Kind and inode number of the file behind a descriptor of this task.
#[inline(always)]
pub fn file(task: Task, fd: u32) -> (FdKind, u64) {
    let (file, inode) = open_file(task, fd);
    if inode == 0 {
        return (FdKind::Unknown, 0);
    }
    kind_of(file, inode)
}

/// The same of an open file and its inode, by their addresses.
#[inline(always)]
fn kind_of(file: u64, inode: u64) -> (FdKind, u64) {
    // SAFETY: probed loads take any address.
    unsafe {
        let (mode, number) = inode_facts(inode as *const u8);
        let kind = match mode & 0o170000 {
            0o100000 | 0o040000 => FdKind::File,
            0o010000 => FdKind::Pipe,
            0o020000 => FdKind::CharDevice,
            0o060000 => FdKind::BlockDevice,
            0o140000 => socket(file),
            0 => FdKind::Anonymous,
            _ => FdKind::Unknown,
        };
        (kind, number)
    }
}

/// First argument of the system call in which a thread is that gets a CPU; 0: not known.
#[inline(always)]
fn first_argument(state: &CpuState, task: Task) -> u64 {
    // SAFETY: probed loads take any address; `task` is known to the verifier, and so is what comes from `user_registers`.
    unsafe {
        if config!(word_type) != 0 && state.regs_from_stack != 0 {
            let stack: u64 = probed(task, config!(offsets.task_stack));
            return probed(stack.wrapping_add(state.regs_from_stack) as *const u8, config!(offsets.regs_arg0));
        }
        let regs = user_registers(task);
        if regs.is_null() { 0 } else { typed(regs, config!(offsets.regs_arg0)) }
    }
}

/// The socket of the network that ended a thread's wait in epoll: its inode number, descriptor and TCP state. It is the first of those that
/// are ready: the list was empty when the thread went to sleep. All are 0 where that is something else, or nothing: the time was up, or
/// another thread has it.
#[inline(always)]
pub fn polled(state: &CpuState, task: Task) -> (u64, u32, u8) {
    const NONE: (u64, u32, u8) = (0, 0, 0);
    if !present(config!(offsets.eventpoll_ready)) || !tells_registers() {
        return NONE;
    }
    let (epoll, _) = open_file(task, first_argument(state, task) as u32);
    // SAFETY: probed loads take any address.
    unsafe {
        let poll: u64 = probed(epoll as *const u8, config!(offsets.file_private_data));
        let list = poll.wrapping_add(u64::from(config!(offsets.eventpoll_ready)));
        let first: u64 = probed(list as *const u8, 0);
        if poll == 0 || first == 0 || first == list {
            return NONE;
        }
        let item = first.wrapping_sub(u64::from(config!(offsets.epitem_link))) as *const u8;
        let file: u64 = probed(item, config!(offsets.epitem_file));
        let inode: u64 = probed(file as *const u8, config!(offsets.file_inode));
        if inode == 0 {
            return NONE;
        }
        let (kind, number) = kind_of(file, inode);
        if kind as u8 != FdKind::SocketInet as u8 {
            return NONE;
        }
        (number, probed(item, config!(offsets.epitem_fd)), probed(sock(file), config!(offsets.sock_state)))
    }
}

/// Bytes at the start of `struct inode` that hold mode and number on all kernels seen so far.
const INODE_HEAD_BYTES: usize = 80;

/// Mode and number of an inode: in one read where both lie at its start, since a read by the helper costs more than its bytes.
#[inline(always)]
unsafe fn inode_facts(inode: *const u8) -> (u16, u64) {
    let (mode, number) = (config!(offsets.inode_mode) as usize, config!(offsets.inode_ino) as usize);
    // SAFETY: probed loads take any address; the offsets are checked against the buffer.
    unsafe {
        if config!(word_type) == 0 && mode + 2 <= INODE_HEAD_BYTES && number + 8 <= INODE_HEAD_BYTES {
            let mut head = core::mem::MaybeUninit::<[u64; INODE_HEAD_BYTES / 8]>::zeroed();
            bpf_probe_read_kernel(head.as_mut_ptr().cast(), INODE_HEAD_BYTES as u32, inode.cast());
            let head = head.as_ptr().cast::<u8>();
            (head.add(mode).cast::<u16>().read_volatile(), head.add(number).cast::<u64>().read_volatile())
        } else {
            (probed(inode, mode as u32), probed(inode, number as u32))
        }
    }
}

/// The `struct sock` of a socket's file.
#[inline(always)]
unsafe fn sock(file: u64) -> *const u8 {
    // SAFETY: probed loads take any address.
    unsafe {
        let socket: u64 = probed(file as *const u8, config!(offsets.file_private_data));
        probed::<u64>(socket as *const u8, config!(offsets.socket_sk)) as *const u8
    }
}

#[inline(always)]
unsafe fn socket(file: u64) -> FdKind {
    // SAFETY: as above.
    unsafe {
        match probed::<u16>(sock(file), config!(offsets.sock_family)) {
            1 => FdKind::SocketUnix,
            2 | 10 => FdKind::SocketInet,
            _ => FdKind::SocketOther,
        }
    }
}
