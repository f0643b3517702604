//! tracer's kernel side: one binary of eBPF programs, a module per probe family.
//!
//! Here: the programs and what they share. Not here: any decision about what a wait means. Programs read raw facts (state bits,
//! registers, memory words) and write them down; user space judges, where judgement can be tested.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod access;
mod emit;
mod faults;
mod files;
mod filter;
mod locks;
mod mapped;
mod maps;
mod numbered;
mod places;
mod probes;
mod python;
mod python_processes;
mod repeat;
mod stack;
mod stalls;
mod task;
mod wake;

/// Lets the programs call helpers that the kernel reserves for GPL-compatible code.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
