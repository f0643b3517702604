//! Family sched, the rare part: birth, name, program, cgroup and end of threads, by BTF tracepoints.

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_probe_read_kernel_str},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_common::{
    FamilyId,
    loss::{CpuState, LossReason},
    record::{Header, sched as kind},
    sched::{COMM_BYTES, CgroupMove, Exec, Exit, Fork, Moved, NewTask, PATH_BYTES, Rename},
};

use crate::{
    access::{config, present, probed},
    emit::{self, Lane},
    filter, numbered,
    probes::sched::unseen_arrival,
    python_processes,
    task::{self, Task},
};

const FAMILY: FamilyId = FamilyId::Sched;
/// The new task has its creator's address space (uapi/linux/sched.h).
const CLONE_VM: u64 = 0x100;

/// A record's header and the CPU that writes it.
#[inline(always)]
fn now(state: &CpuState, kind: u16) -> (Header, u32) {
    // SAFETY: no arguments.
    let (ts_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    (emit::header(state, ts_ns, cpu, kind), cpu)
}

/// Whether this is the name that user space looks for.
#[inline(always)]
fn name_matches(comm: &[u8; COMM_BYTES]) -> bool {
    if config!(match_comm) != 1 {
        return false;
    }
    let wanted = config!(comm);
    let mut i = 0;
    while i < COMM_BYTES {
        if comm[i] != wanted[i] {
            return false;
        }
        if comm[i] == 0 {
            break;
        }
        i += 1;
    }
    true
}

/// Copies a kernel string, ended by a zero.
#[inline(always)]
fn path(address: u64) -> [u8; PATH_BYTES] {
    let mut path = [0u8; PATH_BYTES];
    if address != 0 {
        // SAFETY: room for the bytes asked for; the helper checks the address.
        unsafe { bpf_probe_read_kernel_str(path.as_mut_ptr().cast(), PATH_BYTES as u32, address as *const _) };
    }
    path
}

/// A task was created; its creator is current.
#[btf_tracepoint(function = "task_newtask")]
pub fn task_newtask(ctx: BtfTracePointContext) -> i32 {
    let child = ctx.arg::<*const u8>(0);
    let clone_flags: u64 = ctx.arg(1);
    if let Some(state) = emit::cpu_state() {
        new_task(state, child, clone_flags);
    }
    0
}

#[inline(always)]
fn new_task(state: &mut CpuState, child: Task, clone_flags: u64) {
    let creator = task::current();
    let (creator_tid, creator_tgid) = (task::tid(creator), task::tgid(creator));
    let tid = task::tid(child);
    if !filter::tracked(state, creator_tid, creator_tgid) {
        // The id may have been a traced thread's before.
        if let Some(slot) = filter::slot(tid)
            && slot.tid == tid
        {
            filter::take(slot, 0, 0);
        }
        return;
    }
    emit::see(state, FAMILY);
    if !filter::track(tid) {
        emit::lose(state, FAMILY, LossReason::MapFull);
        return;
    }
    numbered::new_task(state, tid, task::tgid(child), clone_flags & CLONE_VM != 0);
    let (ns_tid, ns_level) = task::namespace_id(child);
    let (header, cpu) = now(state, kind::NEW_TASK);
    let record = NewTask {
        header,
        tid,
        tgid: task::tgid(child),
        creator_tid,
        creator_tgid,
        ns_tid,
        ns_level,
        clone_flags,
        comm: task::comm(child),
    };
    emit::submit(state, FAMILY, cpu, Lane::Rare, &record);
}

/// A fork is complete: the child is about to become runnable.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent = ctx.arg::<*const u8>(0);
    let child = ctx.arg::<*const u8>(1);
    if let Some(state) = emit::cpu_state()
        && filter::tracked(state, task::tid(child), task::tgid(child))
    {
        python_processes::inherit(task::tgid(parent), task::tgid(child));
        emit::see(state, FAMILY);
        let (header, cpu) = now(state, kind::FORK);
        let record = Fork {
            header,
            parent_tid: task::tid(parent),
            parent_tgid: task::tgid(parent),
            child_tid: task::tid(child),
            child_tgid: task::tgid(child),
        };
        emit::submit(state, FAMILY, cpu, Lane::Rare, &record);
    }
    0
}

/// A program was executed.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task = ctx.arg::<*const u8>(0);
    let old_tid = ctx.arg::<u64>(1) as u32;
    let bprm = ctx.arg::<*const u8>(2);
    if let Some(state) = emit::cpu_state() {
        exec(state, task, old_tid, bprm);
    }
    0
}

#[inline(always)]
fn exec(state: &mut CpuState, task: Task, old_tid: u32, bprm: *const u8) {
    let (tid, tgid) = (task::tid(task), task::tgid(task));
    let comm = task::comm(task);
    let mut traced = filter::tracked(state, old_tid, tgid);
    if old_tid != tid && traced {
        // The leader died under the id that this thread has now.
        filter::forget(old_tid);
        traced = filter::track(tid);
    } else if !traced && name_matches(&comm) {
        traced = filter::track(tid);
    }
    if !traced {
        return;
    }
    python_processes::forget(tgid);
    numbered::executed(task, tid);
    emit::see(state, FAMILY);
    // SAFETY: a probed load takes any address.
    let filename: u64 = unsafe { probed(bprm, config!(offsets.bprm_filename)) };
    let (header, cpu) = now(state, kind::EXEC);
    let record = Exec { header, tgid, old_tid, comm, path: path(filename) };
    emit::submit(state, FAMILY, cpu, Lane::Rare, &record);
}

/// A thread ends; its last switch follows and frees its slot.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task = ctx.arg::<*const u8>(0);
    let (tid, tgid) = (task::tid(task), task::tgid(task));
    if let Some(state) = emit::cpu_state()
        && filter::tracked(state, tid, tgid)
    {
        if config!(python) == 1 && task::process_is_over(task) {
            python_processes::forget(tgid);
        }
        arrived_unseen(state, task, tid);
        moved(state, task);
        emit::see(state, FAMILY);
        let (header, cpu) = now(state, kind::EXIT);
        // SAFETY: probed loads take any address.
        let (exit_code, sum_exec_runtime_ns) = unsafe {
            (probed(task, config!(offsets.task_exit_code)), probed(task, config!(offsets.task_sum_exec_runtime)))
        };
        let record = Exit { header, tid, tgid, exit_code, reserved: 0, sum_exec_runtime_ns, comm: task::comm(task) };
        emit::submit(state, FAMILY, cpu, Lane::Rare, &record);
    }
    0
}

/// A thread that nobody saw get its CPU: for how long it ran must be told now, since the scheduler's account begins anew before the last
/// switch, when the thread leaves its group.
#[inline(always)]
fn arrived_unseen(state: &mut CpuState, task: Task, tid: u32) {
    if let Some(slot) = filter::slot(tid) {
        let (header, cpu) = now(state, kind::ARRIVED);
        unseen_arrival(state, slot, task, header, cpu);
    }
}

/// What a thread that ends has read and written, where the kernel counts that.
#[inline(always)]
fn moved(state: &mut CpuState, task: Task) {
    if !present(config!(offsets.task_read_bytes)) {
        return;
    }
    // SAFETY: probed loads take any address.
    let (read_bytes, written_bytes): (u64, u64) =
        unsafe { (probed(task, config!(offsets.task_read_bytes)), probed(task, config!(offsets.task_written_bytes))) };
    if read_bytes.saturating_add(written_bytes) < Moved::LEAST_BYTES {
        return;
    }
    // SAFETY: as above.
    let (reads, writes) =
        unsafe { (probed(task, config!(offsets.task_reads)), probed(task, config!(offsets.task_writes))) };
    emit::see(state, FAMILY);
    let (header, cpu) = now(state, kind::MOVED);
    let record =
        Moved { header, tid: task::tid(task), tgid: task::tgid(task), read_bytes, written_bytes, reads, writes };
    emit::submit(state, FAMILY, cpu, Lane::Rare, &record);
}

/// A thread gets another name.
#[btf_tracepoint(function = "task_rename")]
pub fn task_rename(ctx: BtfTracePointContext) -> i32 {
    let task = ctx.arg::<*const u8>(0);
    let name = ctx.arg::<u64>(1);
    if let Some(state) = emit::cpu_state() {
        rename(state, task, name);
    }
    0
}

#[inline(always)]
fn rename(state: &mut CpuState, task: Task, name: u64) {
    let (tid, tgid) = (task::tid(task), task::tgid(task));
    let mut comm = [0u8; COMM_BYTES];
    // SAFETY: room for the bytes asked for; the helper checks the address.
    unsafe { bpf_probe_read_kernel_str(comm.as_mut_ptr().cast(), COMM_BYTES as u32, name as *const _) };
    let mut traced = filter::tracked(state, tid, tgid);
    if !traced && name_matches(&comm) && tgid != config!(self_tgid) {
        traced = filter::track(tid);
    }
    if !traced {
        return;
    }
    emit::see(state, FAMILY);
    let (header, cpu) = now(state, kind::RENAME);
    emit::submit(state, FAMILY, cpu, Lane::Rare, &Rename { header, tid, tgid, comm });
}

/// A task moves to another cgroup.
#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn cgroup_attach_task(ctx: BtfTracePointContext) -> i32 {
    let cgroup = ctx.arg::<*const u8>(0);
    let path = ctx.arg::<u64>(1);
    let task = ctx.arg::<*const u8>(2);
    let whole: u64 = ctx.arg(3);
    if let Some(state) = emit::cpu_state() {
        cgroup_move(state, cgroup, path, task, whole & 1 == 1);
    }
    0
}

#[inline(always)]
fn cgroup_move(state: &mut CpuState, cgroup: *const u8, address: u64, task: Task, whole: bool) {
    let (tid, tgid) = (task::tid(task), task::tgid(task));
    // SAFETY: probed loads take any address.
    let hierarchy: u32 = unsafe {
        let root: u64 = probed(cgroup, config!(offsets.cgroup_root));
        probed(root as *const u8, config!(offsets.cgroup_root_hierarchy))
    };
    let mut traced = filter::tracked(state, tid, tgid);
    if !traced && tgid != config!(self_tgid) && in_wanted_cgroup(cgroup, hierarchy) {
        traced = filter::track(tid);
    }
    if !traced {
        return;
    }
    emit::see(state, FAMILY);
    let (header, cpu) = now(state, kind::CGROUP_MOVE);
    let record = CgroupMove {
        header,
        tid,
        tgid,
        hierarchy,
        whole_process: whole as u16,
        moved_itself: (task::tid(task::current()) == tid) as u16,
        path: path(address),
    };
    emit::submit(state, FAMILY, cpu, Lane::Rare, &record);
}

/// Whether this cgroup is the one that user space looks for, or below it.
#[inline(always)]
fn in_wanted_cgroup(cgroup: *const u8, hierarchy: u32) -> bool {
    if config!(match_cgroup) != 1 || hierarchy != config!(cgroup_hierarchy) {
        return false;
    }
    let wanted_level = config!(cgroup_level);
    let ancestors = config!(offsets.cgroup_ancestors);
    // SAFETY: probed loads take any address.
    unsafe {
        let level: u32 = probed(cgroup, config!(offsets.cgroup_level));
        let mut candidate = cgroup as u64;
        if present(ancestors) && level > wanted_level {
            candidate = probed(cgroup.wrapping_add(wanted_level as usize * 8), ancestors);
        }
        let node: u64 = probed(candidate as *const u8, config!(offsets.cgroup_kn));
        probed::<u64>(node as *const u8, config!(offsets.kernfs_node_id)) == config!(cgroup_id)
    }
}
