//! What the loader hands to the programs, as one read-only global. The verifier sees its fields as constants, so what is
//! switched off costs nothing.

use crate::block::BlockConfig;

/// Marks an offset or address that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// The function of the kernel that lets a program name the type of an address.
pub const KERNEL_CAST: &str = "bpf_rdonly_cast";
/// Its call in the object, as one instruction: such calls need the function's number in the running kernel's type information, which the
/// loader puts in the place of the last four bytes.
pub const KERNEL_CAST_CALL: [u8; 8] = [0x85, 0x20, 0, 0, b'C', b'A', b'S', b'T'];

/// Which threads are traced.
pub mod filter {
    /// Threads in the tracked set: seeded by user space, inherited over fork.
    pub const TRACKED: u32 = 0;
    /// Every thread but the tracer's own.
    pub const ALL: u32 = 1;
}

/// Where a user function's arguments are in a probe's context.
pub mod calls {
    /// As on x86-64.
    pub const X86_64: u32 = 1;
    /// As on aarch64.
    pub const AARCH64: u32 = 2;
}

/// Byte offsets in kernel structs, resolved from the running kernel's BTF. [`ABSENT`] switches the reading code off.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named after the kernel fields they locate")]
pub struct Offsets {
    pub task_pid: u32,
    pub task_tgid: u32,
    pub task_flags: u32,
    /// `__state`, or `state` before 5.14.
    pub task_state: u32,
    pub task_comm: u32,
    pub task_files: u32,
    pub task_exit_code: u32,
    pub task_thread_pid: u32,
    /// `se.sum_exec_runtime`.
    pub task_sum_exec_runtime: u32,
    /// `se.prev_sum_exec_runtime`.
    pub task_prev_sum_exec_runtime: u32,
    pub pid_level: u32,
    pub pid_numbers: u32,
    /// Size of `struct upid`, the step in `pid.numbers`.
    pub upid_bytes: u32,
    pub files_fdt: u32,
    pub fdtable_max_fds: u32,
    pub fdtable_fd: u32,
    pub file_inode: u32,
    pub file_private_data: u32,
    pub inode_mode: u32,
    pub inode_ino: u32,
    pub socket_sk: u32,
    pub sock_family: u32,
    /// `__sk_common.skc_state`.
    pub sock_state: u32,
    /// `eventpoll.rdllist`: descriptors that are ready, oldest first.
    pub eventpoll_ready: u32,
    /// `epitem.rdllink`: a descriptor's place in that list.
    pub epitem_link: u32,
    /// `epitem.ffd.file`, and the descriptor's number.
    pub epitem_file: u32,
    pub epitem_fd: u32,
    /// The system call's number in `struct pt_regs`.
    pub regs_syscall: u32,
    /// Width of that number in bytes.
    pub regs_syscall_bytes: u32,
    pub regs_arg0: u32,
    pub regs_arg1: u32,
    pub regs_arg2: u32,
    /// x86 `cs`, which tells 32-bit code; absent elsewhere.
    pub regs_cs: u32,
    pub bprm_filename: u32,
    pub cgroup_kn: u32,
    pub cgroup_root: u32,
    pub cgroup_root_hierarchy: u32,
    pub kernfs_node_id: u32,
    /// `cgroup.level`.
    pub cgroup_level: u32,
    /// `cgroup.ancestors`, an array of pointers (6.1 and later).
    pub cgroup_ancestors: u32,
    /// `thread_info.preempt_count` in `task_struct` where the architecture keeps it there.
    pub task_preempt_count: u32,
    /// `se.cfs_rq`.
    pub task_cfs_rq: u32,
    /// `cfs_rq.rq`; absent without group scheduling.
    pub cfs_rq_rq: u32,
    /// `rq.cfs`.
    pub rq_cfs: u32,
    pub rq_cpu: u32,
    /// Bytes at the start of `struct pt_regs` that hold the user registers.
    pub regs_bytes: u32,
    pub regs_ip: u32,
    pub regs_sp: u32,
    pub task_mm: u32,
    /// `thread.fsbase` on x86, `thread.uw.tp_value` on aarch64.
    pub task_thread_pointer: u32,
    pub task_signal: u32,
    /// `signal_struct.live`: threads of the process that have not begun to exit.
    pub signal_live: u32,
    pub mm_start_stack: u32,
    pub mm_mmap_lock: u32,
    /// `rw_semaphore.owner`; absent where such a semaphore is not its own thing (PREEMPT_RT).
    pub rwsem_owner: u32,
    /// `mutex.owner`; absent there too.
    pub mutex_owner: u32,
    /// `rt_mutex_base.owner`, or `rt_mutex.owner` before 5.15.
    pub rtmutex_owner: u32,
    /// `task_struct.throttled` (6.18 and later).
    pub task_throttled: u32,
    /// `cfs_rq.throttle_count`.
    pub cfs_rq_throttle_count: u32,
    pub task_prio: u32,
    pub task_nr_cpus_allowed: u32,
    /// `cfs_rq.throttled_clock_self`: since when the queue is held back; 0: it is not.
    pub cfs_rq_throttled_since: u32,
    /// `cfs_rq.throttled_clock_self_time`: for how long it was held back before.
    pub cfs_rq_throttled_before: u32,
    pub rq_clock: u32,
    pub task_maj_flt: u32,
    pub task_min_flt: u32,
    pub task_pagefault_disabled: u32,
    /// `mm_struct.rss_stat`: the first counter's sum.
    pub mm_rss: u32,
    /// From one of these counters to the next.
    pub mm_rss_stride: u32,
    pub folio_flags: u32,
    pub folio_mapping: u32,
    /// Pages of a large folio; absent before 5.18.
    pub folio_pages: u32,
    /// The bit of `folio_flags` that a large one has.
    pub folio_large_bit: u32,
    pub mapping_host: u32,
    pub inode_sb: u32,
    pub inode_size: u32,
    /// `inode.i_dentry.first`.
    pub inode_dentry: u32,
    pub sb_dev: u32,
    /// `dentry.d_u.d_alias`, to which `inode_dentry` points.
    pub dentry_alias: u32,
    /// `dentry.d_name.name`.
    pub dentry_name: u32,
    pub dentry_parent: u32,
    pub dentry_inode: u32,
    pub inode_generation: u32,
    pub sb_root: u32,
    /// `task_struct.ioac.rchar`; absent without the kernel's accounting of tasks (CONFIG_TASK_XACCT), as are the three below.
    pub task_read_bytes: u32,
    /// `ioac.wchar`.
    pub task_written_bytes: u32,
    /// `ioac.syscr`.
    pub task_reads: u32,
    /// `ioac.syscw`.
    pub task_writes: u32,
    /// The fourth argument of a system call.
    pub regs_arg3: u32,
    /// `mm_struct.brk`: the end of the heap.
    pub mm_brk: u32,
    pub mm_start_brk: u32,
    /// `mm_struct.map_count`.
    pub mm_map_count: u32,
    pub sock_daddr: u32,
    pub sock_saddr: u32,
    pub sock_daddr6: u32,
    pub sock_saddr6: u32,
    pub sock_dport: u32,
    pub sock_num: u32,
    pub sock_protocol: u32,
    pub sock_socket: u32,
    pub socket_file: u32,
    pub tcp_bytes_sent: u32,
    pub tcp_bytes_retrans: u32,
    pub tcp_bytes_received: u32,
    pub tcp_write_seq: u32,
    pub tcp_snd_nxt: u32,
    pub tcp_total_retrans: u32,
    pub tcp_srtt: u32,
    /// Where a task says at what address its kernel stack starts.
    pub task_stack: u32,
    /// `rss_stat.events`, up to 6.1: page faults since the thread handed its own counters of memory in.
    pub task_rss_events: u32,
    /// `rss_stat.count`, up to 6.1: these counters.
    pub task_rss_counts: u32,
}

/// Numbers of the system calls that change an address space; negative: none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named after the calls")]
pub struct MapCalls {
    pub mmap: i32,
    pub munmap: i32,
    pub brk: i32,
    pub mremap: i32,
    pub madvise: i32,
}

/// Byte offsets in tracefs tracepoint formats, for kernels without BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named after the format fields they locate")]
pub struct Formats {
    pub switch_prev_pid: u32,
    pub switch_prev_state: u32,
    pub switch_next_pid: u32,
    pub waking_pid: u32,
    pub newtask_pid: u32,
    pub newtask_clone_flags: u32,
    pub newtask_comm: u32,
    pub fork_child_pid: u32,
    pub exec_filename: u32,
    pub exec_old_pid: u32,
    pub rename_newcomm: u32,
    pub begin_lock: u32,
    pub begin_flags: u32,
    pub end_lock: u32,
    pub end_result: u32,
}

/// The whole configuration.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// [`crate::ABI_VERSION`] of the loader. The object's own default says which one it was built with.
    pub abi_version: u32,
    /// See [`filter`].
    pub filter: u32,
    /// The tracer's own process, never traced.
    pub self_tgid: u32,
    /// Number of ring shards less one; a power of two less one.
    pub shard_mask: u32,
    /// Number of thread slots less one; a power of two less one.
    pub slot_mask: u32,
    /// 1: kernel pointers are followed by typed loads; 0: by the probe-read helper.
    pub typed_loads: u32,
    /// 1: `sched_switch` has the previous state as its fourth argument (5.18 and later).
    pub switch_has_state: u32,
    /// 1: the helpers exist that find a task's user registers (5.15 and later) and the current task by its type (5.11).
    pub has_task_pt_regs: u32,
    /// Records between two wake-ups of the reader, less one; a power of two less one.
    pub wakeup_mask: u32,
    /// 1: a thread whose new name equals `comm` becomes traced.
    pub match_comm: u32,
    /// 1: a task that moves into the cgroup below becomes traced.
    pub match_cgroup: u32,
    /// Hierarchy and depth of that cgroup.
    pub cgroup_hierarchy: u32,
    /// Depth of that cgroup below its root.
    pub cgroup_level: u32,
    /// 1: nothing tells an interrupt from a task here, so wakers' contexts are unknown.
    pub no_wake_context: u32,
    /// The cgroup's kernfs id.
    pub cgroup_id: u64,
    /// Distance from a CPU's run queue to its preemption counter in the per-CPU area, wrapping.
    pub preempt_count_from_rq: u64,
    /// The same to the pointer to its current task; 0: not known, or nothing gained.
    pub current_from_rq: u64,
    /// The same to the number of packets that wait for the CPU's softirq; 0: not known.
    pub backlog_from_rq: u64,
    /// The same to the number of times that other CPUs have steered packets there; 0: this kernel does not steer.
    pub steered_from_rq: u64,
    /// The same to what tells in the middle of a softirq whether the current thread runs it itself; all or none are known. To whether packets
    /// are being received (a byte); 0: none of these is known.
    pub receives_from_rq: u64,
    /// To the state of the queue of packets that come from this host.
    pub queue_state_from_rq: u64,
    /// To the address of the top of the CPU's stack for interrupts.
    pub irq_stack_from_rq: u64,
    /// To the CPU's kernel thread that runs softirqs.
    pub ksoftirqd_from_rq: u64,
    /// Time that a sample on a CPU stands for, and waiting time for which a stack is taken; 0: no stacks are taken.
    pub sample_period_ns: u64,
    /// 1: waits get a place, and the stacks of some are taken.
    pub wait_stacks: u32,
    /// 1: Python processes may be known, and their frames are read.
    pub python: u32,
    /// Words of the registers that a sample's own context gives, for kernels without type information; 0: not needed, the task has them.
    pub context_words: u32,
    /// Which of these words is the stack pointer.
    pub context_sp_word: u32,
    /// 1: contentions of kernel locks are noted, and switches say for which one a thread waits.
    pub kernel_locks: u32,
    /// 1: page faults are counted, and a wait in one has the file that it is for.
    pub faults: u32,
    /// A stack stands for about so many page faults; 0: none are taken.
    pub fault_period: u32,
    /// 1: time in reclaim is measured, and switches say when a thread waits within it.
    pub stalls: u32,
    /// 1: pages of files are counted that come into the page cache and leave it.
    pub cache: u32,
    /// 1: calls that change address spaces are counted.
    pub map: u32,
    /// 1: stacks are taken of some of those that map memory.
    pub map_stacks: u32,
    /// Which argument of `mmap_lock_start_locking` says that the lock is taken for writing: 1, or 2 where a path comes before it.
    pub map_write_argument: u32,
    /// See there.
    pub map_calls: MapCalls,
    /// Number of poll(2); negative: none.
    pub poll_syscall: i32,
    /// Number of ppoll(2); negative: none.
    pub ppoll_syscall: i32,
    /// Without that helper: how far above the start of its kernel stack a task's user registers are; 0: not known.
    pub regs_in_stack: u32,
    /// Calls of databases' clients are looked at: see [`calls`]; 0: they are not.
    pub database: u32,
    /// 1: calls that read and write files are counted.
    pub file_calls: u32,
    /// System calls that write to files: a bit per number.
    pub write_syscalls: [u64; 8],
    /// System calls that read or write what their first argument, a descriptor, refers to: a bit per number.
    pub data_syscalls: [u64; 8],
    /// System calls whose first argument is a file descriptor to be looked at: a bit per number.
    pub fd_syscalls: [u64; 8],
    /// System calls that wait in epoll for any of many descriptors: a bit per number.
    pub epoll_syscalls: [u64; 8],
    /// Numbers of the futex wait calls that carry address, operation and value as their first arguments; negative: none.
    pub futex_syscall: i64,
    /// The name that `match_comm` compares with.
    pub comm: [u8; 16],
    /// What the families that see block devices and writeback need.
    pub block: BlockConfig,
    /// 1: page faults are counted without their beginnings being seen: what they change and the kernel's own numbers of them say enough.
    pub faults_by_number: u32,
    /// Type of a kernel struct that begins with a word: any address, called the address of such a one, is followed by a load of one
    /// instruction. 0: this kernel has no [`KERNEL_CAST`] (6.2 and later), and the probe-read helper follows addresses.
    pub word_type: u32,
    /// Offsets in kernel structs.
    pub offsets: Offsets,
    /// Offsets in tracepoint formats.
    pub formats: Formats,
}

const _: () = assert!(size_of::<Offsets>() == 111 * 4);
const _: () = assert!(size_of::<Formats>() == 15 * 4);
const _: () = assert!(
    size_of::<Config>()
        == 14 * 4 + 10 * 8 + 24 * 4 + 64 + 64 + 64 + 64 + 8 + 16 + size_of::<BlockConfig>() + 111 * 4 + 15 * 4
);

impl Offsets {
    /// No offset known.
    pub const NONE: Offsets = Offsets {
        task_pid: ABSENT,
        task_tgid: ABSENT,
        task_flags: ABSENT,
        task_state: ABSENT,
        task_comm: ABSENT,
        task_files: ABSENT,
        task_exit_code: ABSENT,
        task_thread_pid: ABSENT,
        task_sum_exec_runtime: ABSENT,
        task_prev_sum_exec_runtime: ABSENT,
        pid_level: ABSENT,
        pid_numbers: ABSENT,
        upid_bytes: ABSENT,
        files_fdt: ABSENT,
        fdtable_max_fds: ABSENT,
        fdtable_fd: ABSENT,
        file_inode: ABSENT,
        file_private_data: ABSENT,
        inode_mode: ABSENT,
        inode_ino: ABSENT,
        socket_sk: ABSENT,
        sock_family: ABSENT,
        sock_state: ABSENT,
        eventpoll_ready: ABSENT,
        epitem_link: ABSENT,
        epitem_file: ABSENT,
        epitem_fd: ABSENT,
        regs_syscall: ABSENT,
        regs_syscall_bytes: 8,
        regs_arg0: ABSENT,
        regs_arg1: ABSENT,
        regs_arg2: ABSENT,
        regs_cs: ABSENT,
        bprm_filename: ABSENT,
        cgroup_kn: ABSENT,
        cgroup_root: ABSENT,
        cgroup_root_hierarchy: ABSENT,
        kernfs_node_id: ABSENT,
        cgroup_level: ABSENT,
        cgroup_ancestors: ABSENT,
        task_preempt_count: ABSENT,
        task_cfs_rq: ABSENT,
        cfs_rq_rq: ABSENT,
        rq_cfs: ABSENT,
        rq_cpu: ABSENT,
        regs_bytes: ABSENT,
        regs_ip: ABSENT,
        regs_sp: ABSENT,
        task_mm: ABSENT,
        task_thread_pointer: ABSENT,
        task_signal: ABSENT,
        signal_live: ABSENT,
        mm_start_stack: ABSENT,
        mm_mmap_lock: ABSENT,
        rwsem_owner: ABSENT,
        mutex_owner: ABSENT,
        rtmutex_owner: ABSENT,
        task_throttled: ABSENT,
        cfs_rq_throttle_count: ABSENT,
        task_prio: ABSENT,
        task_nr_cpus_allowed: ABSENT,
        cfs_rq_throttled_since: ABSENT,
        cfs_rq_throttled_before: ABSENT,
        rq_clock: ABSENT,
        task_maj_flt: ABSENT,
        task_min_flt: ABSENT,
        task_pagefault_disabled: ABSENT,
        mm_rss: ABSENT,
        mm_rss_stride: ABSENT,
        folio_flags: ABSENT,
        folio_mapping: ABSENT,
        folio_pages: ABSENT,
        folio_large_bit: ABSENT,
        mapping_host: ABSENT,
        inode_sb: ABSENT,
        inode_size: ABSENT,
        inode_dentry: ABSENT,
        sb_dev: ABSENT,
        dentry_alias: ABSENT,
        dentry_name: ABSENT,
        dentry_parent: ABSENT,
        dentry_inode: ABSENT,
        inode_generation: ABSENT,
        sb_root: ABSENT,
        task_read_bytes: ABSENT,
        task_written_bytes: ABSENT,
        task_reads: ABSENT,
        task_writes: ABSENT,
        regs_arg3: ABSENT,
        mm_brk: ABSENT,
        mm_start_brk: ABSENT,
        mm_map_count: ABSENT,
        sock_daddr: ABSENT,
        sock_saddr: ABSENT,
        sock_daddr6: ABSENT,
        sock_saddr6: ABSENT,
        sock_dport: ABSENT,
        sock_num: ABSENT,
        sock_protocol: ABSENT,
        sock_socket: ABSENT,
        socket_file: ABSENT,
        tcp_bytes_sent: ABSENT,
        tcp_bytes_retrans: ABSENT,
        tcp_bytes_received: ABSENT,
        tcp_write_seq: ABSENT,
        tcp_snd_nxt: ABSENT,
        tcp_total_retrans: ABSENT,
        tcp_srtt: ABSENT,
        task_stack: ABSENT,
        task_rss_events: ABSENT,
        task_rss_counts: ABSENT,
    };
}

impl Formats {
    /// No format known.
    pub const NONE: Formats = Formats {
        switch_prev_pid: ABSENT,
        switch_prev_state: ABSENT,
        switch_next_pid: ABSENT,
        waking_pid: ABSENT,
        newtask_pid: ABSENT,
        newtask_clone_flags: ABSENT,
        newtask_comm: ABSENT,
        fork_child_pid: ABSENT,
        exec_filename: ABSENT,
        exec_old_pid: ABSENT,
        rename_newcomm: ABSENT,
        begin_lock: ABSENT,
        begin_flags: ABSENT,
        end_lock: ABSENT,
        end_result: ABSENT,
    };
}

impl Config {
    /// Traces nothing, reads nothing.
    pub const NONE: Config = Config {
        abi_version: crate::ABI_VERSION,
        filter: filter::TRACKED,
        self_tgid: 0,
        shard_mask: 0,
        slot_mask: 0,
        typed_loads: 0,
        switch_has_state: 0,
        has_task_pt_regs: 0,
        wakeup_mask: 0,
        match_comm: 0,
        match_cgroup: 0,
        cgroup_hierarchy: 0,
        cgroup_level: 0,
        no_wake_context: 1,
        cgroup_id: 0,
        preempt_count_from_rq: 0,
        current_from_rq: 0,
        backlog_from_rq: 0,
        steered_from_rq: 0,
        receives_from_rq: 0,
        queue_state_from_rq: 0,
        irq_stack_from_rq: 0,
        ksoftirqd_from_rq: 0,
        sample_period_ns: 0,
        wait_stacks: 0,
        python: 0,
        context_words: 0,
        context_sp_word: 0,
        kernel_locks: 0,
        faults: 0,
        fault_period: 0,
        stalls: 0,
        cache: 0,
        map: 0,
        map_stacks: 0,
        map_write_argument: 1,
        map_calls: MapCalls { mmap: -1, munmap: -1, brk: -1, mremap: -1, madvise: -1 },
        poll_syscall: -1,
        ppoll_syscall: -1,
        regs_in_stack: 0,
        database: 0,
        file_calls: 0,
        write_syscalls: [0; 8],
        data_syscalls: [0; 8],
        fd_syscalls: [0; 8],
        epoll_syscalls: [0; 8],
        futex_syscall: -1,
        comm: [0; 16],
        block: BlockConfig::NONE,
        faults_by_number: 0,
        word_type: 0,
        offsets: Offsets::NONE,
        formats: Formats::NONE,
    };
}
