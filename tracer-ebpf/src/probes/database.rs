//! Family database: calls of the functions of databases' clients, at their entry and at their return. Which function a probe is at, its
//! cookie says. A call within another one of these is part of it. What a call was given as text goes ahead of the call's record, in
//! pieces, to user space, which takes the values out.
//!
//! The kernel may take the CPU away from a program at a user probe, so nothing here is per CPU: a thread has a place of its own.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{bpf_get_attach_cookie, bpf_probe_read_user, bpf_probe_read_user_str},
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use tracer_common::{
    FamilyId,
    config::calls,
    database::{Call, InCall, MOST_TEXTS, SHORT_NS, TEXT_BYTES, Text, call, function, text},
    loss::LossReason,
    record::database as kind,
};

use crate::{
    access::{config, word},
    emit, filter, maps,
};

const FAMILY: FamilyId = FamilyId::Database;
/// Short calls are told at least this often.
const MOST_SHORT_NS: u64 = 50_000_000;
/// SQLITE_ROW.
const ROW: i32 = 100;

/// The current thread enters one of the functions.
#[uprobe]
pub fn database_enter(ctx: ProbeContext) -> u32 {
    let context = ctx.as_ptr();
    if let Some((thread, tid, tgid)) = current() {
        enter(context, thread, tid, tgid);
    }
    0
}

/// It returns from one.
#[uretprobe]
pub fn database_leave(ctx: RetProbeContext) -> u32 {
    let context = ctx.as_ptr();
    if let Some((thread, tid, tgid)) = current() {
        leave(context, thread, tid, tgid);
    }
    0
}

/// The place of the current thread, if it is traced.
#[inline(always)]
fn current() -> Option<(&'static mut InCall, u32, u32)> {
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    if !filter::is_tracked(tid, tgid) {
        return None;
    }
    let pointer = maps::IN_CALL.get_ptr_mut(tid & config!(slot_mask))?;
    // SAFETY: plain data in a map, which only this thread uses, and rarely one whose number has the same lower bits.
    Some((unsafe { &mut *pointer }, tid, tgid))
}

#[inline(always)]
fn function_of(context: *mut c_void) -> u16 {
    // SAFETY: the helper takes the program's own context.
    unsafe { bpf_get_attach_cookie(context) as u16 }
}

/// An argument of the function that is entered, or, of a return, its first word.
#[inline(always)]
fn argument<const NUMBER: usize>(context: *mut c_void) -> u64 {
    if config!(database) == calls::AARCH64 {
        return word::<NUMBER>(context);
    }
    match NUMBER {
        0 => word::<14>(context),
        1 => word::<13>(context),
        2 => word::<12>(context),
        3 => word::<11>(context),
        _ => word::<9>(context),
    }
}

#[inline(always)]
fn returned(context: *mut c_void) -> u64 {
    if config!(database) == calls::AARCH64 { word::<0>(context) } else { word::<10>(context) }
}

/// The stack pointer as it was before the call: the return address is not part of it.
#[inline(always)]
fn stack_pointer(context: *mut c_void, entered: bool) -> u64 {
    if config!(database) == calls::AARCH64 {
        return word::<31>(context);
    }
    word::<19>(context) + if entered { 8 } else { 0 }
}

#[inline(always)]
fn enter(context: *mut c_void, thread: &mut InCall, tid: u32, tgid: u32) {
    let name = function_of(context);
    let (handle, sp) = (argument::<0>(context), stack_pointer(context, true));
    if thread.tid != tid {
        if thread.function != 0 || thread.calls != 0 {
            // Another thread's, which has ended or whose number has the same lower bits.
            lose();
        }
        *thread = InCall { tid, ..NOTHING };
    }
    if name == function::SQLITE_RESET {
        if thread.calls > 0 && thread.short_handle == handle {
            flush(thread, tgid, call::ENDS);
        } else if thread.ended_handle != handle {
            // One that has rows left and of which nothing is kept here ends as well.
            let at_ns = now_ns();
            let made = Made { start_ns: at_ns, end_ns: at_ns, spent_ns: 0, handle, calls: 0, result: 0 };
            write(tid, tgid, name, call::ENDS, &made);
        }
        thread.ended_handle = handle;
        return;
    }
    if thread.function != 0 && thread.sp > sp {
        return;
    }
    (thread.function, thread.sp, thread.handle, thread.out) = (u32::from(name), sp, handle, 0);
    let ids = u64::from(tgid) << 32 | u64::from(tid);
    thread.flags = match name {
        function::SQLITE_PREPARE => {
            thread.out = argument::<3>(context);
            send(ids, name, text::STATEMENT, argument::<1>(context), argument::<2>(context) as u32)
        }
        function::SQLITE_PREPARE_V3 => {
            thread.out = argument::<4>(context);
            send(ids, name, text::STATEMENT, argument::<1>(context), argument::<2>(context) as u32)
        }
        function::PQ_EXEC | function::PQ_SEND => send(ids, name, text::STATEMENT, argument::<1>(context), u32::MAX),
        function::PQ_EXEC_PREPARED | function::PQ_SEND_PREPARED => {
            send(ids, name, text::NAME, argument::<1>(context), u32::MAX)
        }
        function::PQ_PREPARE | function::PQ_SEND_PREPARE => {
            send(ids, name, text::NAME, argument::<1>(context), u32::MAX)
                | send(ids, name, text::STATEMENT, argument::<2>(context), u32::MAX)
        }
        function::MYSQL_QUERY | function::MYSQL_PREPARE => {
            send(ids, name, text::STATEMENT, argument::<1>(context), argument::<2>(context) as u32)
        }
        _ => 0,
    };
    // Last: what this program does itself is no part of the call.
    thread.start_ns = now_ns();
}

#[inline(always)]
fn leave(context: *mut c_void, thread: &mut InCall, tid: u32, tgid: u32) {
    let end_ns = now_ns();
    let name = function_of(context);
    if thread.tid != tid
        || thread.function != u32::from(name)
        || name == 0
        || thread.sp != stack_pointer(context, false)
    {
        // Its entry was not seen, or it is part of another call.
        return;
    }
    thread.function = 0;
    let result = returned(context);
    let mut made = Made {
        start_ns: thread.start_ns,
        end_ns,
        spent_ns: end_ns.saturating_sub(thread.start_ns),
        handle: thread.handle,
        calls: 1,
        result: 0,
    };
    let mut flags = thread.flags as u16;
    match name {
        function::SQLITE_STEP => {
            made.result = result as i32;
            let is_short = made.spent_ns < SHORT_NS;
            if made.result != ROW {
                thread.ended_handle = made.handle;
            } else if thread.ended_handle == made.handle {
                thread.ended_handle = 0;
            }
            if thread.calls > 0 && thread.short_handle != made.handle {
                flush(thread, tgid, 0);
            }
            if is_short {
                add(thread, &made);
                if made.result != ROW {
                    flush_with(thread, tgid, call::ENDS, made.result);
                } else if end_ns.saturating_sub(thread.short_start_ns) > MOST_SHORT_NS {
                    flush(thread, tgid, 0);
                }
                return;
            }
            if thread.calls > 0 {
                flush(thread, tgid, 0);
            }
            if made.result != ROW {
                flags |= call::ENDS;
            }
        }
        function::SQLITE_PREPARE | function::SQLITE_PREPARE_V3 => {
            made.result = result as i32;
            made.handle = user_word(thread.out);
            if thread.ended_handle == made.handle {
                thread.ended_handle = 0;
            }
            flags |= call::ENDS;
        }
        function::PQ_GET_RESULT => {
            if result == 0 {
                flags |= call::ENDS;
            }
        }
        function::MYSQL_QUERY | function::MYSQL_PREPARE | function::MYSQL_EXECUTE | function::MYSQL_STMT_STORE => {
            made.result = result as i32;
            flags |= call::ENDS;
        }
        _ => flags |= call::ENDS,
    }
    write(tid, tgid, name, flags, &made);
}

/// Adds a short call to those that there is no record of.
#[inline(always)]
fn add(thread: &mut InCall, made: &Made) {
    if thread.calls == 0 {
        (thread.short_handle, thread.short_start_ns, thread.short_ns) = (made.handle, made.start_ns, 0);
    }
    thread.calls += 1;
    thread.short_end_ns = made.end_ns;
    thread.short_ns += made.spent_ns;
}

#[inline(always)]
fn flush(thread: &mut InCall, tgid: u32, flags: u16) {
    flush_with(thread, tgid, flags, ROW);
}

/// Writes down the short calls.
#[inline(always)]
fn flush_with(thread: &mut InCall, tgid: u32, flags: u16, result: i32) {
    let made = Made {
        start_ns: thread.short_start_ns,
        end_ns: thread.short_end_ns,
        spent_ns: thread.short_ns,
        handle: thread.short_handle,
        calls: thread.calls,
        result,
    };
    thread.calls = 0;
    write(thread.tid, tgid, function::SQLITE_STEP, flags | call::SEVERAL, &made);
}

const NOTHING: InCall = InCall {
    tid: 0,
    function: 0,
    sp: 0,
    start_ns: 0,
    handle: 0,
    out: 0,
    flags: 0,
    calls: 0,
    short_handle: 0,
    short_start_ns: 0,
    short_end_ns: 0,
    short_ns: 0,
    ended_handle: 0,
};

/// Calls that were made.
struct Made {
    start_ns: u64,
    end_ns: u64,
    spent_ns: u64,
    handle: u64,
    calls: u32,
    result: i32,
}

#[inline(never)]
fn write(tid: u32, tgid: u32, function: u16, flags: u16, made: &Made) {
    let Some(state) = emit::cpu_state() else { return };
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let record = Call {
        header: emit::header(state, made.end_ns, cpu, kind::CALL),
        tid,
        tgid,
        start_ns: made.start_ns,
        spent_ns: made.spent_ns,
        handle: made.handle,
        calls: made.calls,
        result: made.result,
        function,
        flags,
        statement: 0,
    };
    emit::submit_to_own(&maps::RING_DATABASE, state, FAMILY, &record);
}

/// Hands a text over in pieces. Gives [`call::TEXT_LOST`], or 0.
#[inline(never)]
fn send(ids: u64, function: u16, what: u16, address: u64, limit: u32) -> u32 {
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    let Some(state) = emit::cpu_state() else { return 0 };
    // SAFETY: no arguments.
    let (ts_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let mut record = Text {
        header: emit::header(state, ts_ns, cpu, kind::TEXT),
        tid,
        tgid,
        what,
        function,
        offset: 0,
        limit,
        reserved: 0,
        bytes: [0; TEXT_BYTES],
    };
    for piece in 0..MOST_TEXTS {
        record.offset = (piece * TEXT_BYTES) as u32;
        // One byte is the zero that ends a text; of one that goes on it is written over.
        let from = (address + u64::from(record.offset)) as *const c_void;
        // SAFETY: `bytes` has this room; the helper checks the address.
        let length = unsafe { bpf_probe_read_user_str(record.bytes.as_mut_ptr().cast(), TEXT_BYTES as u32, from) };
        let goes_on = length == TEXT_BYTES as i64;
        if goes_on {
            // SAFETY: as above, and the address was read from just now.
            unsafe {
                bpf_probe_read_user(record.bytes.as_mut_ptr().cast(), TEXT_BYTES as u32, from);
            }
        }
        if maps::RING_DATABASE.output::<Text>(&record, 0).is_err() {
            return u32::from(call::TEXT_LOST);
        }
        if !goes_on {
            return 0;
        }
    }
    0
}

/// Counts a call of which there will be no record.
#[inline(always)]
fn lose() {
    if let Some(state) = emit::cpu_state() {
        emit::lose_preemptible(state, FAMILY, LossReason::MapFull);
    }
}

#[inline(always)]
fn user_word(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: `value` has room; the helper checks the address.
    unsafe { bpf_probe_read_user((&raw mut value).cast(), 8, address as *const c_void) };
    value
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}
