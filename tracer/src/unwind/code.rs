//! The few machine instructions that must be known by sight: those before a return address, the return from a signal handler, a
//! thread's last system call. Everything else is for the call frame information to say.

use super::Arch;
use crate::process::Image;

/// `mov $15, %rax; syscall` and `mov $15, %eax; syscall`: rt_sigreturn.
const SIGRETURN_X86_64: [&[u8]; 2] =
    [&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05], &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05]];
/// `mov x8, #139; svc #0`.
const SIGRETURN_AARCH64: [&[u8]; 1] = [&[0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4]];
/// `mov $60, %eax`, `mov $60, %al`, `push $60; pop %rax`; and the system call: exit of one thread.
const EXIT_X86_64: [&[u8]; 3] =
    [&[0xb8, 60, 0, 0, 0, 0x0f, 0x05], &[0xb0, 60, 0x0f, 0x05], &[0x6a, 60, 0x58, 0x0f, 0x05]];
/// `mov x8, #93; svc #0`.
const EXIT_AARCH64: [&[u8]; 1] = [&[0xa8, 0x0b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4]];
/// Behind the call of a thread's function, its exit begins within this many bytes.
const EXIT_WITHIN: u64 = 24;

/// The bytes before this address, up to `len_bytes` of them.
fn before(image: &Image, address: u64, len_bytes: u64) -> Option<&[u8]> {
    let len_bytes = len_bytes.min(address);
    (1..=len_bytes).rev().find_map(|len| {
        let bytes = image.bytes_at(address - len, len)?;
        (bytes.len() as u64 == len).then_some(bytes)
    })
}

/// Whether the instruction that ends at this address makes a system call.
pub(super) fn follows_syscall(arch: Arch, image: &Image, address: u64) -> bool {
    match arch {
        Arch::X86_64 => before(image, address, 2).is_some_and(|bytes| bytes == [0x0f, 0x05]),
        Arch::Aarch64 => before(image, address, 4).is_some_and(|bytes| bytes == [0x01, 0x00, 0x00, 0xd4]),
    }
}

/// Whether the instruction that ends at this address can be a call.
pub(super) fn follows_call(arch: Arch, image: &Image, address: u64) -> bool {
    match arch {
        Arch::X86_64 => before(image, address, 7).is_some_and(ends_with_call_x86_64),
        Arch::Aarch64 => {
            before(image, address, 4).and_then(|bytes| bytes.try_into().ok()).is_some_and(|bytes: [u8; 4]| {
                let word = u32::from_le_bytes(bytes);
                // bl; blr; blraa and its kin.
                word & 0xfc00_0000 == 0x9400_0000
                    || word & 0xffff_fc1f == 0xd63f_0000
                    || word & 0xfeff_f800 == 0xd63f_0800
            })
        }
    }
}

fn ends_with_call_x86_64(bytes: &[u8]) -> bool {
    let at = |back: usize| bytes.len().checked_sub(back).and_then(|index| bytes.get(index)).copied();
    // call rel32
    if at(5) == Some(0xe8) {
        return true;
    }
    // call r/m64: ff /2, with all lengths that the addressing can have.
    (2..=7).any(|len| {
        let (Some(0xff), Some(modrm)) = (at(len), at(len - 1)) else { return false };
        if modrm >> 3 & 7 != 2 {
            return false;
        }
        let (mode, rm) = (modrm >> 6, modrm & 7);
        let sib = mode != 3 && rm == 4;
        let base_is_none = sib && mode == 0 && len > 2 && at(len - 2).is_some_and(|sib| sib & 7 == 5);
        let displacement = match mode {
            0 if rm == 5 || base_is_none => 4,
            1 => 1,
            2 => 4,
            _ => 0,
        };
        len == 2 + usize::from(sib) + displacement
    })
}

/// Whether a signal handler's return leads to this address: the return from a signal begins there, or goes on there (`inside`).
pub(super) fn is_signal_return(arch: Arch, image: &Image, address: u64, inside: bool) -> bool {
    let patterns: &[&[u8]] = match arch {
        Arch::X86_64 => &SIGRETURN_X86_64,
        Arch::Aarch64 => &SIGRETURN_AARCH64,
    };
    patterns.iter().any(|pattern| {
        let last = if inside { pattern.len() as u64 - 1 } else { 0 };
        (0..=last).any(|back| {
            let start = address.checked_sub(back);
            start.and_then(|start| image.bytes_at(start, pattern.len() as u64)).is_some_and(|bytes| bytes == *pattern)
        })
    })
}

/// Whether the thread ends right behind this return address: whatever was called there is what the thread was started for.
pub(super) fn is_before_exit(arch: Arch, image: &Image, address: u64) -> bool {
    let patterns: &[&[u8]] = match arch {
        Arch::X86_64 => &EXIT_X86_64,
        Arch::Aarch64 => &EXIT_AARCH64,
    };
    let Some(bytes) = image.bytes_at(address, EXIT_WITHIN) else { return false };
    patterns.iter().any(|pattern| bytes.windows(pattern.len()).any(|window| window == *pattern))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Bytes, Segment};

    fn image(bytes: &[u8]) -> Image {
        let segment = Segment { offset: 0, address: 0x1000, len_bytes: bytes.len() as u64, executable: true };
        Image { bytes: Bytes::Owned(bytes.into()), segments: vec![segment], entry: 0, machine: 62, is_64: true }
    }

    #[test]
    fn calls_of_all_lengths_are_known() {
        for call in [
            &[0xe8, 1, 2, 3, 4][..],               // call rel32
            &[0xff, 0xd0],                         // call *%rax
            &[0x41, 0xff, 0xd4],                   // call *%r12
            &[0xff, 0x10],                         // call *(%rax)
            &[0xff, 0x50, 0x18],                   // call *0x18(%rax)
            &[0xff, 0x90, 0x88, 1, 0, 0],          // call *0x188(%rax)
            &[0xff, 0x15, 1, 2, 3, 4],             // call *x(%rip)
            &[0xff, 0x14, 0xc8],                   // call *(%rax,%rcx,8)
            &[0xff, 0x54, 0x24, 0x08],             // call *8(%rsp)
            &[0xff, 0x94, 0x24, 0x08, 1, 0, 0],    // call *0x108(%rsp)
            &[0xff, 0x14, 0xc5, 0x00, 0x10, 0, 0], // call *0x1000(,%rax,8)
        ] {
            let mut bytes = vec![0x90; 8];
            bytes.extend(call);
            let end = 0x1000 + bytes.len() as u64;
            assert!(follows_call(Arch::X86_64, &image(&bytes), end), "{call:02x?}");
            assert!(
                follows_call(Arch::X86_64, &image(call), 0x1000 + call.len() as u64),
                "{call:02x?} at a file's start"
            );
        }
        for other in [&[0x90; 8][..], &[0xff, 0xe0], &[0xff, 0xc0], &[0x0f, 0x05], &[0xff, 0x50], &[0xff]] {
            let end = 0x1000 + other.len() as u64;
            assert!(!follows_call(Arch::X86_64, &image(other), end), "{other:02x?} is no call");
        }
        assert!(!follows_call(Arch::X86_64, &image(&[0xe8, 0, 0, 0, 0]), 0), "nothing is before address 0");
        assert!(!follows_call(Arch::X86_64, &image(&[0xe8, 0, 0, 0, 0]), u64::MAX));
    }

    #[test]
    fn a_signals_return_is_known_from_its_first_byte_to_its_last() {
        let mut bytes = vec![0x90];
        bytes.extend(SIGRETURN_X86_64[0]);
        bytes.push(0x90);
        let image = image(&bytes);
        assert!(is_signal_return(Arch::X86_64, &image, 0x1001, false));
        assert!(!is_signal_return(Arch::X86_64, &image, 0x1002, false));
        assert!((0x1001..=0x1009).all(|address| is_signal_return(Arch::X86_64, &image, address, true)));
        assert!(!is_signal_return(Arch::X86_64, &image, 0x1000, true));
        assert!(!is_signal_return(Arch::X86_64, &image, 0x100a, true));
        assert!(follows_syscall(Arch::X86_64, &image, 0x100a));
    }
}
