//! Where the fields are that the programs read: byte offsets resolved from the running kernel's BTF. Pure.
//!
//! A field that this kernel lacks is [`ABSENT`]; the program's code for it is then switched off. Fields of one struct are taken
//! from one type.

use tracer_common::{
    block::BlockOffsets,
    config::{ABSENT, Offsets},
    memory::rss,
    syscall::Arch,
};

use super::btf::{Btf, Struct};

/// Resolves every offset.
pub fn resolve(btf: &Btf, arch: Arch) -> Offsets {
    let mut offsets = Offsets::NONE;
    let find = |name: &str, required: &[&str]| btf.find_struct(name, required);
    let field = |of: Option<Struct>, path: &str| of.and_then(|of| btf.field(of, path)).unwrap_or(ABSENT);

    let task = find("task_struct", &["pid", "tgid", "comm"]);
    offsets.task_pid = field(task, "pid");
    offsets.task_tgid = field(task, "tgid");
    offsets.task_flags = field(task, "flags");
    offsets.task_state = match field(task, "__state") {
        ABSENT => field(task, "state"),
        found => found,
    };
    offsets.task_comm = field(task, "comm");
    offsets.task_stack = field(task, "stack");
    offsets.task_files = field(task, "files");
    offsets.task_exit_code = field(task, "exit_code");
    offsets.task_thread_pid = field(task, "thread_pid");
    offsets.task_sum_exec_runtime = field(task, "se.sum_exec_runtime");
    offsets.task_prev_sum_exec_runtime = field(task, "se.prev_sum_exec_runtime");
    offsets.task_read_bytes = field(task, "ioac.rchar");
    offsets.task_written_bytes = field(task, "ioac.wchar");
    offsets.task_reads = field(task, "ioac.syscr");
    offsets.task_writes = field(task, "ioac.syscw");

    offsets.task_cfs_rq = field(task, "se.cfs_rq");
    let queue = find("cfs_rq", &[]);
    offsets.cfs_rq_rq = field(queue, "rq");
    offsets.cfs_rq_throttle_count = field(queue, "throttle_count");
    offsets.cfs_rq_throttled_since = field(queue, "throttled_clock_self");
    offsets.cfs_rq_throttled_before = field(queue, "throttled_clock_self_time");
    offsets.task_throttled = field(task, "throttled");
    offsets.task_prio = field(task, "prio");
    offsets.task_nr_cpus_allowed = field(task, "nr_cpus_allowed");
    let rq = find("rq", &["cfs", "cpu"]);
    offsets.rq_cfs = field(rq, "cfs");
    offsets.rq_cpu = field(rq, "cpu");
    offsets.rq_clock = field(rq, "clock");

    let pid = find("pid", &["level", "numbers"]);
    offsets.pid_level = field(pid, "level");
    offsets.pid_numbers = field(pid, "numbers");
    offsets.upid_bytes = find("upid", &["nr"]).map_or(ABSENT, |upid| upid.size_bytes);

    offsets.files_fdt = field(find("files_struct", &["fdt"]), "fdt");
    let table = find("fdtable", &["max_fds", "fd"]);
    offsets.fdtable_max_fds = field(table, "max_fds");
    offsets.fdtable_fd = field(table, "fd");
    let file = find("file", &["f_inode", "private_data"]);
    offsets.file_inode = field(file, "f_inode");
    offsets.file_private_data = field(file, "private_data");
    let inode = find("inode", &["i_mode", "i_ino"]);
    offsets.inode_mode = field(inode, "i_mode");
    offsets.inode_ino = field(inode, "i_ino");
    offsets.socket_sk = field(find("socket", &["sk"]), "sk");
    offsets.sock_family = field(find("sock", &["__sk_common"]), "__sk_common.skc_family");

    network(btf, &mut offsets);

    let regs = find("pt_regs", &[]);
    match arch {
        Arch::X86_64 => {
            offsets.regs_syscall = field(regs, "orig_ax");
            offsets.regs_syscall_bytes = 8;
            offsets.regs_arg0 = field(regs, "di");
            offsets.regs_arg1 = field(regs, "si");
            offsets.regs_arg2 = field(regs, "dx");
            offsets.regs_arg3 = field(regs, "r10");
            offsets.regs_cs = field(regs, "cs");
            offsets.regs_ip = field(regs, "ip");
            offsets.regs_sp = field(regs, "sp");
            offsets.task_thread_pointer = field(task, "thread.fsbase");
        }
        Arch::Aarch64 => {
            offsets.regs_syscall = field(regs, "syscallno");
            offsets.regs_syscall_bytes = 4;
            offsets.regs_arg0 = field(regs, "orig_x0");
            let array = field(regs, "regs");
            let element = |index: u32| if array == ABSENT { ABSENT } else { array + 8 * index };
            offsets.regs_arg1 = element(1);
            offsets.regs_arg2 = element(2);
            offsets.regs_arg3 = element(3);
            offsets.task_preempt_count = field(task, "thread_info.preempt_count");
            offsets.regs_ip = field(regs, "pc");
            offsets.regs_sp = field(regs, "sp");
            offsets.task_thread_pointer = field(task, "thread.uw.tp_value");
        }
    }

    // The user registers are the first part on aarch64, all of it on x86.
    let fits = regs.is_some_and(|regs| regs.size_bytes >= register_bytes(arch));
    offsets.regs_bytes = if fits { register_bytes(arch) } else { ABSENT };
    offsets.task_mm = field(task, "mm");
    offsets.task_signal = field(task, "signal");
    offsets.signal_live = field(find("signal_struct", &["live"]), "live");
    offsets.mm_start_stack = field(find("mm_struct", &["start_stack"]), "start_stack");

    offsets.mm_mmap_lock = field(find("mm_struct", &["mmap_lock"]), "mmap_lock");
    // Not by the list of who waits, which has another name from 7.3 on.
    offsets.rwsem_owner = field(find("rw_semaphore", &["owner", "wait_lock"]), "owner");
    offsets.mutex_owner = field(find("mutex", &["owner", "wait_lock"]), "owner");
    offsets.rtmutex_owner = match field(find("rt_mutex_base", &["owner"]), "owner") {
        ABSENT => field(find("rt_mutex", &["owner", "waiters"]), "owner"),
        found => found,
    };

    memory(btf, &mut offsets);

    offsets.bprm_filename = field(find("linux_binprm", &["filename"]), "filename");
    let cgroup = find("cgroup", &["kn", "root", "level"]);
    offsets.cgroup_kn = field(cgroup, "kn");
    offsets.cgroup_root = field(cgroup, "root");
    offsets.cgroup_level = field(cgroup, "level");
    offsets.cgroup_ancestors = field(cgroup, "ancestors");
    offsets.cgroup_root_hierarchy = field(find("cgroup_root", &["hierarchy_id"]), "hierarchy_id");
    offsets.kernfs_node_id = field(find("kernfs_node", &["id"]), "id");
    offsets
}

/// What the families that see memory read.
fn memory(btf: &Btf, offsets: &mut Offsets) {
    let find = |name: &str, required: &[&str]| btf.find_struct(name, required);
    let field = |of: Option<Struct>, path: &str| of.and_then(|of| btf.field(of, path)).unwrap_or(ABSENT);
    let task = find("task_struct", &["pid", "tgid", "comm"]);
    offsets.task_maj_flt = field(task, "maj_flt");
    offsets.task_min_flt = field(task, "min_flt");
    offsets.task_pagefault_disabled = field(task, "pagefault_disabled");
    // Counters that each CPU has a part of, from 6.2 on; before that plain ones.
    let counters = field(find("mm_struct", &["start_stack"]), "rss_stat");
    let plain = find("mm_rss_stat", &["count"]);
    let counter = find("percpu_counter", &["count", "counters"]);
    (offsets.mm_rss, offsets.mm_rss_stride) = match (counters, plain, counter) {
        (ABSENT, ..) | (_, None, None) => (ABSENT, ABSENT),
        (at, Some(plain), _) => (at.saturating_add(field(Some(plain), "count")), rss::PLAIN_BYTES),
        (at, None, Some(counter)) => (at.saturating_add(field(Some(counter), "count")), counter.size_bytes),
    };
    offsets.task_rss_events = field(task, "rss_stat.events");
    offsets.task_rss_counts = field(task, "rss_stat.count");
    let space = find("mm_struct", &["start_stack"]);
    offsets.mm_brk = field(space, "brk");
    offsets.mm_start_brk = field(space, "start_brk");
    offsets.mm_map_count = field(space, "map_count");
    // Before 5.16 the page cache's tracepoints have a page, whose fields lie where a folio's do.
    let folio = find("folio", &["mapping"]).or_else(|| find("page", &["mapping"]));
    offsets.folio_flags = field(folio, "flags");
    offsets.folio_mapping = field(folio, "mapping");
    offsets.folio_pages = match field(folio, "_nr_pages") {
        ABSENT => field(folio, "_folio_nr_pages"),
        found => found,
    };
    offsets.folio_large_bit = btf.enumerator("pageflags", "PG_head").unwrap_or(ABSENT);
    offsets.mapping_host = field(find("address_space", &["host", "i_pages"]), "host");
    let inode = find("inode", &["i_mode", "i_ino"]);
    offsets.inode_sb = field(inode, "i_sb");
    offsets.inode_size = field(inode, "i_size");
    (offsets.inode_dentry, offsets.inode_generation) = (field(inode, "i_dentry"), field(inode, "i_generation"));
    let super_block = find("super_block", &["s_dev"]);
    (offsets.sb_dev, offsets.sb_root) = (field(super_block, "s_dev"), field(super_block, "s_root"));
    let dentry = find("dentry", &["d_name", "d_parent"]);
    // In a union that has no name any more in 7.3.
    offsets.dentry_alias = match field(dentry, "d_u.d_alias") {
        ABSENT => field(dentry, "d_alias"),
        found => found,
    };
    offsets.dentry_name = field(dentry, "d_name.name");
    (offsets.dentry_parent, offsets.dentry_inode) = (field(dentry, "d_parent"), field(dentry, "d_inode"));
}

/// What the families that see block devices and writeback read.
pub fn block(btf: &Btf) -> BlockOffsets {
    let find = |name: &str, required: &[&str]| btf.find_struct(name, required);
    let field = |of: Option<Struct>, path: &str| of.and_then(|of| btf.field(of, path)).unwrap_or(ABSENT);
    let request = find("request", &["cmd_flags", "__data_len", "__sector"]);
    let disk = find("gendisk", &["major", "first_minor"]);
    let bio = find("bio", &["bi_opf", "bi_end_io"]);
    BlockOffsets {
        request_flags: field(request, "cmd_flags"),
        request_bytes: field(request, "__data_len"),
        request_sector: field(request, "__sector"),
        request_bio: field(request, "bio"),
        request_queue: field(request, "q"),
        queue_disk: field(find("request_queue", &["queue_flags", "elevator"]), "disk"),
        request_disk: field(request, "rq_disk"),
        disk_major: field(disk, "major"),
        disk_first_minor: field(disk, "first_minor"),
        bio_vecs: field(bio, "bi_io_vec"),
        bio_end_io: field(bio, "bi_end_io"),
        bio_private: field(bio, "bi_private"),
        // From 7.1 on, where it may be a mask instead of an address, it has another name.
        page_head: match field(find("page", &["flags", "_refcount"]), "compound_head") {
            ABSENT => field(find("page", &["flags", "_refcount"]), "compound_info"),
            found => found,
        },
        dio_iocb: field(find("iomap_dio", &["iocb"]), "iocb"),
        iocb_file: field(find("kiocb", &["ki_filp"]), "ki_filp"),
        writeback_bdi: field(find("bdi_writeback", &["bdi"]), "bdi"),
        bdi_device: field(find("backing_dev_info", &["owner", "wb"]), "owner"),
        device_number: field(find("device", &["kobj", "devt"]), "devt"),
    }
}

/// What of block devices cannot be had without the fields that are missing: one sentence each.
pub fn missing_for_block(offsets: &Offsets, block: &BlockOffsets) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    if [block.request_flags, block.request_bytes, block.request_sector].contains(&ABSENT) {
        lacks.push("struct request is not described: what devices were asked to do is unknown");
    }
    if block.disk_major == ABSENT || (block.queue_disk == ABSENT && block.request_disk == ABSENT) {
        lacks.push("struct gendisk is not described: devices are not told from each other");
    }
    let page = [offsets.folio_mapping, offsets.mapping_host, block.bio_vecs, block.page_head, offsets.inode_ino];
    if page.contains(&ABSENT) || block.request_bio == ABSENT {
        lacks.push("struct bio or page is not described: the files that requests are for are unknown");
    }
    if block.dio_iocb == ABSENT || block.iocb_file == ABSENT {
        lacks.push("direct I/O is not described: its files are unknown");
    }
    lacks
}

/// What the family that sees the network reads.
fn network(btf: &Btf, offsets: &mut Offsets) {
    let find = |name: &str, required: &[&str]| btf.find_struct(name, required);
    let field = |of: Option<Struct>, path: &str| of.and_then(|of| btf.field(of, path)).unwrap_or(ABSENT);
    let sock = find("sock", &["__sk_common"]);
    offsets.sock_state = field(sock, "__sk_common.skc_state");
    let item = find("epitem", &["rdllink", "ffd"]);
    offsets.eventpoll_ready = field(find("eventpoll", &["rdllist"]).filter(|_| item.is_some()), "rdllist");
    offsets.epitem_link = field(item, "rdllink");
    (offsets.epitem_file, offsets.epitem_fd) = (field(item, "ffd.file"), field(item, "ffd.fd"));
    offsets.sock_daddr = field(sock, "__sk_common.skc_daddr");
    offsets.sock_saddr = field(sock, "__sk_common.skc_rcv_saddr");
    offsets.sock_daddr6 = field(sock, "__sk_common.skc_v6_daddr");
    offsets.sock_saddr6 = field(sock, "__sk_common.skc_v6_rcv_saddr");
    offsets.sock_dport = field(sock, "__sk_common.skc_dport");
    offsets.sock_num = field(sock, "__sk_common.skc_num");
    offsets.sock_protocol = field(sock, "sk_protocol");
    offsets.sock_socket = field(sock, "sk_socket");
    offsets.socket_file = field(find("socket", &["sk"]), "file");
    let tcp = find("tcp_sock", &["snd_nxt", "write_seq"]);
    offsets.tcp_bytes_sent = field(tcp, "bytes_sent");
    offsets.tcp_bytes_retrans = field(tcp, "bytes_retrans");
    offsets.tcp_bytes_received = field(tcp, "bytes_received");
    offsets.tcp_write_seq = field(tcp, "write_seq");
    offsets.tcp_snd_nxt = field(tcp, "snd_nxt");
    offsets.tcp_total_retrans = field(tcp, "total_retrans");
    offsets.tcp_srtt = field(tcp, "srtt_us");
}

/// What of connections cannot be had without the fields that are missing: one sentence each.
pub fn missing_for_net(offsets: &Offsets) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    if [offsets.sock_daddr, offsets.sock_saddr, offsets.sock_dport, offsets.sock_num].contains(&ABSENT) {
        lacks.push("struct sock is not described: addresses of connections that end are unknown");
    }
    let counts = [offsets.tcp_bytes_sent, offsets.tcp_bytes_retrans, offsets.tcp_bytes_received];
    if counts.contains(&ABSENT) {
        lacks.push(
            "struct tcp_sock does not count bytes: those of connections that end between two readings are unknown",
        );
    }
    lacks
}

/// What of page faults cannot be had without the fields that are missing: one sentence each.
pub fn missing_for_faults(offsets: &Offsets) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    if offsets.task_maj_flt == ABSENT {
        lacks.push(
            "struct task_struct does not count major faults: files that had to be read are not told from cached ones",
        );
    }
    if offsets.mm_rss == ABSENT || offsets.task_mm == ABSENT {
        lacks.push("struct mm_struct is not described: huge pages are not told from small ones");
    }
    if offsets.mapping_host == ABSENT || offsets.inode_ino == ABSENT {
        lacks.push("struct address_space is not described: the file that a page fault waits for is unknown");
    }
    if offsets.task_rss_counts != ABSENT {
        lacks.push(
            "threads of this kernel count their memory themselves (until 6.2): the code in which it is first touched is unknown",
        );
    }
    lacks
}

/// What the page cache cannot do without: one sentence each.
pub fn missing_for_cache(offsets: &Offsets) -> Vec<&'static str> {
    let needed = [offsets.folio_mapping, offsets.mapping_host, offsets.inode_ino, offsets.inode_sb, offsets.sb_dev];
    if needed.contains(&ABSENT) {
        return vec!["pages of the page cache are not described: their files are unknown"];
    }
    if offsets.folio_pages == ABSENT || offsets.folio_large_bit == ABSENT {
        return vec!["large folios are not described: each counts as one page"];
    }
    Vec::new()
}

/// What calls on files cannot do without: one sentence each.
pub fn missing_for_file_calls(offsets: &Offsets) -> Vec<&'static str> {
    let needed = [
        offsets.regs_syscall,
        offsets.regs_arg0,
        offsets.task_files,
        offsets.files_fdt,
        offsets.fdtable_fd,
        offsets.fdtable_max_fds,
        offsets.file_inode,
        offsets.inode_mode,
        offsets.inode_ino,
        offsets.inode_sb,
        offsets.sb_dev,
    ];
    if needed.contains(&ABSENT) {
        return vec!["open files are not described: which file a call is for is unknown"];
    }
    Vec::new()
}

/// What of calls that change address spaces cannot be had without the fields that are missing: one sentence each.
pub fn missing_for_map(offsets: &Offsets) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    if [offsets.task_mm, offsets.regs_syscall, offsets.regs_arg3].contains(&ABSENT) {
        lacks.push("struct task_struct or pt_regs is not described: which call locks an address space is unknown");
    }
    if offsets.mm_brk == ABSENT || offsets.mm_start_brk == ABSENT {
        lacks.push("struct mm_struct is not described: the heap's growth by brk is unknown");
    }
    if offsets.mm_map_count == ABSENT {
        lacks.push("struct mm_struct does not count mappings");
    }
    lacks
}

/// Bytes of the user registers, as programs on a clock have them in their context (uapi: asm/ptrace.h): 21 and 34 words.
pub const fn register_bytes(arch: Arch) -> u32 {
    match arch {
        Arch::X86_64 => 21 * 8,
        Arch::Aarch64 => 34 * 8,
    }
}

/// Which word of them is the stack pointer.
pub const fn stack_pointer_word(arch: Arch) -> u32 {
    match arch {
        Arch::X86_64 => 19,
        Arch::Aarch64 => 31,
    }
}

/// How far above the start of its kernel stack a task's user registers are, for kernels before 5.15; `None`: not known. They are at the top of the
/// stack, whose size is four pages (THREAD_SIZE in arch/x86/include/asm/page_64_types.h, without KASAN; the top has no padding there).
pub fn registers_in_stack(btf: &Btf, arch: Arch) -> Option<u32> {
    const STACK_BYTES: u32 = 4 * 4096;
    match arch {
        Arch::X86_64 => STACK_BYTES.checked_sub(btf.find_struct("pt_regs", &["orig_ax", "ss"])?.size_bytes),
        Arch::Aarch64 => None,
    }
}

/// What of stacks cannot be had without the fields that are missing: one sentence each.
pub fn missing_for_stacks(offsets: &Offsets) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    if [offsets.regs_bytes, offsets.regs_ip, offsets.regs_sp].contains(&ABSENT) {
        lacks.push("struct pt_regs is not described: no user stacks of waits, nor of samples inside the kernel");
    }
    if offsets.task_mm == ABSENT || offsets.mm_start_stack == ABSENT {
        lacks.push("struct mm_struct is not described: the end of main threads' stacks is unknown");
    }
    if offsets.task_thread_pointer == ABSENT {
        lacks.push("struct thread_struct is not described: the end of threads' stacks is unknown, and there are no Python frames");
    }
    lacks
}

/// What of kernel locks cannot be had without the fields that are missing: one sentence each.
pub fn missing_for_locks(offsets: &Offsets) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    if offsets.task_mm == ABSENT || offsets.mm_mmap_lock == ABSENT {
        lacks.push("struct mm_struct is not described: its lock is not told from other semaphores");
    }
    if offsets.rwsem_owner == ABSENT || offsets.mutex_owner == ABSENT {
        lacks.push("semaphores and mutexes of this kernel do not say who owns them: owners of some locks are unknown");
    }
    lacks
}

/// Distance from a CPU's run queue to its preemption counter, both in the per-CPU section; wrapping. The counter is a variable of
/// its own up to 6.1 and from 6.15 on, between them a field of `pcpu_hot` (arch/x86/include/asm/preempt.h, current.h).
pub fn preempt_count_from_rq(btf: &Btf) -> Option<u64> {
    hot_from_rq(btf, "__preempt_count", "preempt_count")
}

/// Distance from a CPU's run queue to the pointer to its current task, as above: a variable of its own, or a field of `pcpu_hot`.
pub fn current_from_rq(btf: &Btf) -> Option<u64> {
    hot_from_rq(btf, "current_task", "current_task")
}

/// The same of any such variable: by its own name, or as a field of `pcpu_hot`.
fn hot_from_rq(btf: &Btf, own: &str, field: &str) -> Option<u64> {
    let run_queue = u64::from(btf.per_cpu_variable("runqueues")?);
    let variable = match btf.per_cpu_variable(own) {
        Some(own) => u64::from(own),
        None => {
            let hot = btf.find_struct("pcpu_hot", &[field])?;
            u64::from(btf.per_cpu_variable("pcpu_hot")?) + u64::from(btf.field(hot, field)?)
        }
    };
    Some(variable.wrapping_sub(run_queue))
}

/// Distances from a CPU's run queue to the number of packets that wait there to be received, and to the number of times that other CPUs
/// have steered packets there (0: this kernel does not), both in `softnet_data` (include/linux/netdevice.h).
pub fn backlog_from_rq(btf: &Btf) -> Option<(u64, u64)> {
    let run_queue = u64::from(btf.per_cpu_variable("runqueues")?);
    let start = u64::from(btf.per_cpu_variable("softnet_data")?).wrapping_sub(run_queue);
    let packets = btf.find_struct("softnet_data", &["input_pkt_queue"])?;
    let queue = btf.find_struct("sk_buff_head", &["qlen"])?;
    let waiting = u64::from(btf.field(packets, "input_pkt_queue")?) + u64::from(btf.field(queue, "qlen")?);
    let steered = btf.field(packets, "received_rps").map_or(0, |at| start.wrapping_add(u64::from(at)));
    Some((start.wrapping_add(waiting), steered))
}

/// Distances from a CPU's run queue to what tells, in the middle of a softirq, whether the current thread runs it itself.
pub struct SoftirqDistances {
    /// Whether packets are being received: `softnet_data.in_net_rx_action` (6.4 and later).
    pub receives: u64,
    /// The state of the queue of packets from this host: `softnet_data.backlog`.
    pub queue_state: u64,
    /// The address of the top of the stack for interrupts.
    pub irq_stack: u64,
    /// The kernel thread that runs softirqs.
    pub ksoftirqd: u64,
}

/// See [`SoftirqDistances`]. `None`: one of them is not known; on other machines than x86-64 softirqs have other stacks.
pub fn softirq_distances(btf: &Btf, arch: Arch) -> Option<SoftirqDistances> {
    if arch != Arch::X86_64 {
        return None;
    }
    let run_queue = u64::from(btf.per_cpu_variable("runqueues")?);
    let from_rq = |at: u64| at.wrapping_sub(run_queue);
    let packets = btf.find_struct("softnet_data", &["in_net_rx_action", "backlog"])?;
    let queue = btf.find_struct("napi_struct", &["state"])?;
    let start = u64::from(btf.per_cpu_variable("softnet_data")?);
    Some(SoftirqDistances {
        receives: from_rq(start + u64::from(btf.field(packets, "in_net_rx_action")?)),
        queue_state: from_rq(start + u64::from(btf.field(packets, "backlog")?) + u64::from(btf.field(queue, "state")?)),
        irq_stack: hot_from_rq(btf, "hardirq_stack_ptr", "hardirq_stack_ptr")?,
        ksoftirqd: from_rq(u64::from(btf.per_cpu_variable("ksoftirqd")?)),
    })
}

/// What a tracer cannot do without the fields that are missing: one sentence each.
pub fn missing(offsets: &Offsets) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    if offsets.task_pid == ABSENT || offsets.task_tgid == ABSENT {
        lacks.push("struct task_struct has no pid and tgid: threads cannot be told apart");
    }
    if offsets.regs_syscall == ABSENT || offsets.regs_arg0 == ABSENT {
        lacks.push("struct pt_regs is not described: what a thread waits for is unknown");
    }
    if offsets.task_files == ABSENT || offsets.file_inode == ABSENT || offsets.inode_mode == ABSENT {
        lacks.push("struct file is not described: files, pipes and sockets cannot be told apart");
    }
    if offsets.eventpoll_ready == ABSENT || offsets.epitem_file == ABSENT {
        lacks.push("struct eventpoll is not described: which socket ends a wait in epoll is unknown");
    }
    if offsets.pid_numbers == ABSENT || offsets.upid_bytes == ABSENT {
        lacks.push("struct pid is not described: ids inside containers are unknown");
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As arch/arm64/include/asm/ptrace.h has it: the registers in a union, then the first argument as it was, then the number.
    #[test]
    fn the_registers_of_aarch64_are_found() {
        let mut builder = crate::kernel::btf::testing::Builder::default();
        let long = builder.int("unsigned long", 8);
        let int = builder.int("int", 4);
        let regs = builder.array(long, int, 31);
        let user = builder.record("user_pt_regs", false, 272, &[("regs", regs, 0), ("sp", long, 248)]);
        let plain = builder.record("", false, 272, &[("regs", regs, 0), ("sp", long, 248), ("pc", long, 256)]);
        let union = builder.record("", true, 272, &[("user_regs", user, 0), ("", plain, 0)]);
        builder.record("pt_regs", false, 336, &[("", union, 0), ("orig_x0", long, 272), ("syscallno", int, 280)]);
        let info = builder.record("thread_info", false, 24, &[("flags", long, 0), ("preempt_count", int, 16)]);
        let task = [("thread_info", info, 0), ("pid", int, 100), ("tgid", int, 104), ("comm", long, 200)];
        builder.record("task_struct", false, 400, &task);
        let btf = Btf::parse(&builder.finish()).expect("a well-formed blob");
        let offsets = resolve(&btf, Arch::Aarch64);
        assert_eq!((offsets.regs_syscall, offsets.regs_syscall_bytes), (280, 4));
        assert_eq!((offsets.regs_arg0, offsets.regs_arg1, offsets.regs_arg2), (272, 8, 16));
        assert_eq!(offsets.task_preempt_count, 16, "in the task, not per CPU");
        assert_eq!(offsets.regs_cs, ABSENT, "no 32-bit segment there");
        assert_eq!((offsets.regs_ip, offsets.regs_sp), (256, 248));
        assert_eq!(offsets.regs_sp, stack_pointer_word(Arch::Aarch64) * 8, "as in the context of a program on a clock");
        assert_eq!(offsets.regs_bytes, 272);
        assert_eq!(resolve(&btf, Arch::X86_64).regs_syscall, ABSENT, "these are not x86's registers");
    }

    /// Up to 7.0 a part of a large page has its head's address, from 7.1 on that or a mask, under another name.
    #[test]
    fn what_a_page_says_of_its_head_is_found_under_both_names() {
        for (name, expected) in [("compound_head", 8), ("compound_info", 8), ("something_else", ABSENT)] {
            let mut builder = crate::kernel::btf::testing::Builder::default();
            let long = builder.int("unsigned long", 8);
            let int = builder.int("int", 4);
            let tail = builder.record("", false, 8, &[(name, long, 0)]);
            let union = builder.record("", true, 40, &[("lru", long, 0), ("", tail, 0)]);
            builder.record("page", false, 64, &[("flags", long, 0), ("", union, 8), ("_refcount", int, 52)]);
            let btf = Btf::parse(&builder.finish()).expect("a well-formed blob");
            assert_eq!(block(&btf).page_head, expected, "{name}");
        }
    }

    /// Up to 6.1 an array of plain counters in the address space, and counters of each thread; then a structure for each counter.
    #[test]
    fn counters_of_resident_memory_are_found_as_both_kinds_of_kernels_have_them() {
        let of = |old: bool| {
            let mut builder = crate::kernel::btf::testing::Builder::default();
            let long = builder.int("long", 8);
            let int = builder.int("int", 4);
            let (counters, own) = if old {
                let array = builder.array(long, int, 4);
                let own = builder.array(int, int, 4);
                let own = builder.record("task_rss_stat", false, 20, &[("events", int, 0), ("count", own, 4)]);
                (builder.record("mm_rss_stat", false, 32, &[("count", array, 0)]), Some(own))
            } else {
                let one = [("lock", int, 0), ("count", long, 8), ("counters", long, 32)];
                let one = builder.record("percpu_counter", false, 40, &one);
                (builder.array(one, int, 4), None)
            };
            builder.record("mm_struct", false, 900, &[("start_stack", long, 300), ("rss_stat", counters, 640)]);
            let mut task = vec![("pid", int, 100), ("tgid", int, 104), ("comm", long, 200)];
            task.extend(own.map(|own| ("rss_stat", own, 500)));
            builder.record("task_struct", false, 600, &task);
            let offsets = resolve(&Btf::parse(&builder.finish()).expect("a well-formed blob"), Arch::X86_64);
            (offsets.mm_rss, offsets.mm_rss_stride, offsets.task_rss_events, offsets.task_rss_counts)
        };
        assert_eq!(of(true), (640, rss::PLAIN_BYTES, 500, 504));
        assert_eq!(of(false), (648, 40, ABSENT, ABSENT));
    }

    #[test]
    fn user_registers_lie_at_the_top_of_the_kernel_stack() {
        let mut builder = crate::kernel::btf::testing::Builder::default();
        let long = builder.int("unsigned long", 8);
        builder.record("pt_regs", false, 168, &[("orig_ax", long, 120), ("ss", long, 160)]);
        let btf = Btf::parse(&builder.finish()).expect("a well-formed blob");
        assert_eq!(registers_in_stack(&btf, Arch::X86_64), Some(16384 - 168));
        assert_eq!(registers_in_stack(&btf, Arch::Aarch64), None, "its kernel stacks differ in size");
    }

    #[test]
    fn every_offset_resolves_on_the_running_kernel() {
        let Ok(blob) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            eprintln!("not run: this kernel has no BTF");
            return;
        };
        let btf = Btf::parse(&blob).expect("the kernel's own BTF");
        let offsets = resolve(&btf, Arch::X86_64);
        assert_eq!(missing(&offsets), Vec::<&str>::new(), "{offsets:?}");
        assert_eq!(missing_for_stacks(&offsets), Vec::<&str>::new(), "{offsets:?}");
        assert_eq!(missing_for_locks(&offsets), Vec::<&str>::new(), "{offsets:?}");
        assert_eq!(missing_for_faults(&offsets), Vec::<&str>::new(), "{offsets:?}");
        assert_eq!(missing_for_map(&offsets), Vec::<&str>::new(), "{offsets:?}");
        assert_eq!(missing_for_net(&offsets), Vec::<&str>::new(), "{offsets:?}");
        assert_eq!(missing_for_cache(&offsets), Vec::<&str>::new(), "{offsets:?}");
        assert!(
            ![offsets.inode_size, offsets.inode_dentry, offsets.dentry_alias, offsets.dentry_name].contains(&ABSENT)
        );
        assert!(![offsets.dentry_parent, offsets.dentry_inode, offsets.sb_root].contains(&ABSENT));
        assert_eq!(btf.enumerator("pageflags", "PG_locked"), Some(0));
        assert_eq!(btf.enumerator("pageflags", "no such flag"), None);
        assert_eq!(offsets.regs_sp, stack_pointer_word(Arch::X86_64) * 8, "as in the context of a program on a clock");
        assert!(btf.tracepoint_args("sched_switch").is_some_and(|args| args >= 3));
        assert_eq!(btf.tracepoint_args("no_such_tracepoint"), None);
    }
}
