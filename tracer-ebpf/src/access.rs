//! Reading: the configuration and kernel memory. The only file that dereferences a kernel pointer.
//!
//! A typed load follows a pointer that the verifier knows to be of a kernel struct; it costs one instruction, because the
//! configuration is read-only and frozen, so the verifier sees the offset as a constant. A probed load calls the helper and
//! works with any address.

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
#[cfg(target_arch = "bpf")]
use tracer_common::config::KERNEL_CAST_CALL;
use tracer_common::config::{ABSENT, Config};

/// What the loader decided. Overwritten at load time, read-only from then on.
#[unsafe(no_mangle)]
static CONFIG: Config = Config::NONE;

/// Reads one field of the configuration.
macro_rules! config {
    ($($field:ident).+) => {{
        #[allow(unused_unsafe, reason = "some uses stand inside an unsafe block")]
        // SAFETY: the static lives for ever; volatile, so that the compiler does not fold the default value in.
        let value = unsafe { core::ptr::read_volatile(&raw const (*$crate::access::config_pointer()).$($field).+) };
        value
    }};
}
pub(crate) use config;

/// Where the configuration is.
#[inline(always)]
pub fn config_pointer() -> *const Config {
    &raw const CONFIG
}

/// One word of a program's context. In assembly, because the compiler joins loads of two branches into one behind a pointer that it computes,
/// and the verifier wants the offset in the instruction.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn word<const NUMBER: usize>(context: *mut core::ffi::c_void) -> u64 {
    let value: u64;
    // SAFETY: the verifier checks the offset against the context's size.
    unsafe {
        core::arch::asm!(
            "{value} = *(u64 *)({context} + {offset})",
            value = out(reg) value,
            context = in(reg) context,
            offset = const NUMBER * 8,
            options(readonly, nostack, preserves_flags)
        );
    }
    value
}

/// The same where nothing is run: lints are checked without an eBPF toolchain.
#[cfg(not(target_arch = "bpf"))]
pub fn word<const NUMBER: usize>(context: *mut core::ffi::c_void) -> u64 {
    // SAFETY: the context has more words than any NUMBER.
    unsafe { context.cast::<u64>().add(NUMBER).read_volatile() }
}

/// Adds to a word of a map that other CPUs add to as well.
///
/// # Safety
/// `to` points to an aligned word of a value of a map.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn add_shared(to: *mut u64, more: u64) {
    // In assembly: Rust's own atomic integers have no such operation on this target.
    // SAFETY: the caller's.
    unsafe {
        core::arch::asm!("lock *(u64 *)({to} + 0) += {more}", to = in(reg) to, more = in(reg) more, options(nostack));
    }
}

/// The same where nothing is run.
///
/// # Safety
/// As above.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn add_shared(to: *mut u64, more: u64) {
    // SAFETY: the caller's.
    unsafe { to.write_volatile(to.read_volatile().wrapping_add(more)) };
}

/// Whether this kernel has the field at all.
#[inline(always)]
pub fn present(offset: u32) -> bool {
    offset != ABSENT
}

/// Reads a field behind a pointer that the verifier knows; zero when the kernel lacks it.
///
/// # Safety
/// `base` points to the kernel struct that `offset` belongs to, and came from the verifier's own knowledge (a program argument
/// or a typed load); the kernel handles faults.
#[inline(always)]
pub unsafe fn typed<T: Copy + Default>(base: *const u8, offset: u32) -> T {
    if !present(offset) {
        return T::default();
    }
    if config!(typed_loads) == 1 {
        // SAFETY: the verifier checks type and offset, faults read as zero.
        unsafe { ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
    } else {
        // SAFETY: the helper accepts any address.
        unsafe { probed(base, offset) }
    }
}

/// Reads a field behind any kernel address; zero when the kernel lacks it or the address is bad.
///
/// # Safety
/// None beyond a meaningful address: the helper checks it.
#[inline(always)]
pub unsafe fn probed<T: Copy + Default>(base: *const u8, offset: u32) -> T {
    if !present(offset) {
        return T::default();
    }
    if size_of::<T>() <= size_of::<u64>() && config!(word_type) != 0 {
        // SAFETY: the verifier sees that the load is within the type's first word; the kernel handles faults.
        return unsafe { ptr::read_volatile(word_at(base.wrapping_add(offset as usize) as u64).cast::<T>()) };
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `value` has room for `T`; on failure the helper zeroes it, so it stays initialised. T is a plain number.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            base.wrapping_add(offset as usize).cast(),
        );
        value.assume_init()
    }
}

/// The same address as a pointer through which the verifier lets a program read one word: bad addresses read as zero, as by the helper.
/// The kernel's function is no call in the end: the verifier puts a move in its place, so this costs a tenth of the helper.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn word_at(address: u64) -> *const u8 {
    let pointer: *const u8;
    // SAFETY: a call by its convention.
    unsafe {
        core::arch::asm!(
            ".byte {0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}",
            const KERNEL_CAST_CALL[0],
            const KERNEL_CAST_CALL[1],
            const KERNEL_CAST_CALL[2],
            const KERNEL_CAST_CALL[3],
            const KERNEL_CAST_CALL[4],
            const KERNEL_CAST_CALL[5],
            const KERNEL_CAST_CALL[6],
            const KERNEL_CAST_CALL[7],
            lateout("r0") pointer,
            inlateout("r1") address => _,
            inlateout("r2") u64::from(config!(word_type)) => _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(readonly, nostack)
        );
    }
    pointer
}

/// The same where nothing is run.
#[cfg(not(target_arch = "bpf"))]
unsafe fn word_at(address: u64) -> *const u8 {
    address as *const u8
}

/// Reads `N` words of the current thread's memory; `None` when any of it is not resident.
#[inline(always)]
pub fn user_words<const N: usize>(address: u64) -> Option<[u32; N]> {
    let mut words = [0u32; N];
    // SAFETY: `words` has room for the bytes asked for; the helper checks the address.
    let result = unsafe { bpf_probe_read_user(words.as_mut_ptr().cast(), (N * 4) as u32, address as *const _) };
    (result == 0).then_some(words)
}
