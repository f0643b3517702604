//! What the kernel says of loaded eBPF programs, asked by bpf(2) and /proc: independent of the tracer.

use std::collections::BTreeSet;

/// Commands of bpf(2) (uapi/linux/bpf.h).
const PROG_GET_FD_BY_ID: libc::c_long = 13;

/// Ids of the programs that a process holds, directly or by links.
pub fn held_by(pid: u32) -> BTreeSet<u32> {
    let mut ids = BTreeSet::new();
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return ids };
    for entry in entries.flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        ids.extend(text.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok()));
    }
    ids
}

/// Whether the kernel still holds a program of this id.
pub fn is_loaded(id: u32) -> bool {
    let mut attributes = [0_u32; 32];
    attributes[0] = id;
    // SAFETY: the kernel reads at most the size given, all of which is initialised.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_GET_FD_BY_ID, attributes.as_mut_ptr(), size_of_val(&attributes)) };
    if fd < 0 {
        return false;
    }
    // SAFETY: the descriptor was made by the call above and is used nowhere else.
    unsafe { libc::close(fd as i32) };
    true
}
