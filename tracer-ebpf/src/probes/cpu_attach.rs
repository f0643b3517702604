//! Family cpu, once: what threads do that waited already when tracing began. They may never switch again, and then no other program
//! sees them. User space reads this iterator (`tracer::kernel::sleepers`), and copies the stacks from the processes' memory.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_seq_write};
use tracer_common::{
    config::filter,
    stack::{SLEEPER_BYTES, origin, place},
};

use crate::{
    access::config,
    emit, maps,
    stack::{self, Request},
    task::{self, Task},
};

/// `struct bpf_iter__task` (kernel/bpf/task_iter.c), which is what programs of this kind are given.
#[repr(C)]
pub struct TaskContext {
    meta: *const Meta,
    /// Null: all have been seen.
    task: Task,
}

/// The beginning of `struct bpf_iter_meta` (linux/bpf.h).
#[repr(C)]
struct Meta {
    seq: *mut c_void,
}

/// A thread of the system.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub fn sleeping_threads(ctx: *const TaskContext) -> i32 {
    // SAFETY: the kernel hands over the context; the verifier knows its fields.
    let (meta, task) = unsafe { ((&raw const (*ctx).meta).read_volatile(), (&raw const (*ctx).task).read_volatile()) };
    if task.is_null() || task::is_running(task) || task::is_kernel_thread(task) {
        return 0;
    }
    let (tid, tgid) = (task::tid(task), task::tgid(task));
    let traced = config!(filter) == filter::ALL || maps::TRACKED.get_ptr(tid).is_some();
    if !traced || tgid == config!(self_tgid) {
        return 0;
    }
    let Some(registers) = task::registers(task) else { return 0 };
    let Some(state) = emit::cpu_state() else { return 0 };
    let request = Request {
        // SAFETY: no arguments.
        ts_ns: unsafe { bpf_ktime_get_ns() },
        origin: origin::ATTACHED,
        tid,
        tgid,
        weight_ns: 0,
        place: place(tgid, registers.at[0], registers.at[1]),
        flags: 0,
    };
    let head = stack::of_sleeper(state, task, request);
    if !head.is_null() {
        // SAFETY: the head has so many bytes and more. Where the reader's buffer is full the kernel calls again.
        unsafe { bpf_seq_write((&raw const (*meta).seq).read_volatile().cast(), head, SLEEPER_BYTES as u32) };
    }
    0
}
