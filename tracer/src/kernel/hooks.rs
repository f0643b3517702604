//! Which kinds of hook this kernel offers, found out by trying where trying is harmless. For `doctor`; nothing depends on it.

use std::{io, os::fd::FromRawFd, path::Path};

use serde::Serialize;

use super::host::HostFacts;

/// A kind of hook and whether it can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookKind {
    /// Its name.
    pub hook: &'static str,
    /// "ready" or "unavailable".
    pub status: &'static str,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

fn kind(hook: &'static str, outcome: Result<(), String>) -> HookKind {
    match outcome {
        Ok(()) => HookKind { hook, status: "ready", reason: None },
        Err(reason) => HookKind { hook, status: "unavailable", reason: Some(reason) },
    }
}

/// Looks at every kind.
pub fn survey(host: &HostFacts) -> Vec<HookKind> {
    let allowed = host.may_trace();
    let source = |name: &str, option: &str| {
        allowed.clone()?;
        if Path::new("/sys/bus/event_source/devices").join(name).exists() {
            Ok(())
        } else {
            Err(format!("this kernel has no {name} event source: it was built without {option}"))
        }
    };
    let btf_tracepoint = allowed.clone().and_then(|()| match &host.btf {
        Some(btf) if btf.tracepoint_args("sched_switch").is_some() => Ok(()),
        Some(_) => Err("the kernel's BTF describes no tracepoints".to_owned()),
        None => Err("no BTF: the kernel was built without CONFIG_DEBUG_INFO_BTF".to_owned()),
    });
    let tracepoint = allowed.clone().and_then(|()| match &host.tracefs {
        Some(_) => Ok(()),
        None => Err("tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing".to_owned()),
    });
    let iterator = allowed.clone().and_then(|()| match &host.btf {
        Some(btf) if btf.function("bpf_iter_task").is_some() => Ok(()),
        Some(_) => Err("the kernel's BTF describes no iterator over tasks: it came with 5.8".to_owned()),
        None => Err("no BTF: the kernel was built without CONFIG_DEBUG_INFO_BTF".to_owned()),
    });
    vec![
        kind("tp_btf", btf_tracepoint),
        kind("iter", iterator),
        kind("tracepoint", tracepoint),
        kind("kprobe", source("kprobe", "CONFIG_KPROBES")),
        kind("fentry", allowed.clone().and_then(|()| fentry(host))),
        kind("uprobe", source("uprobe", "CONFIG_UPROBES")),
        kind("perf-software-clock", source("software", "CONFIG_PERF_EVENTS")),
        kind(
            "perf-hardware-counters",
            allowed.and_then(|()| {
                if Path::new("/sys/bus/event_source/devices/cpu").exists() {
                    Ok(())
                } else {
                    Err("the processor's counters are not visible: a virtual machine that does not pass them on?"
                        .to_owned())
                }
            }),
        ),
    ]
}

/// Loads a program that does nothing at the entry of a function that always exists; it is never attached.
fn fentry(host: &HostFacts) -> Result<(), String> {
    let btf = host.btf.as_ref().ok_or_else(|| "no BTF".to_owned())?;
    let function = btf.function("vfs_read").ok_or_else(|| "the kernel's BTF describes no functions".to_owned())?;
    /// BPF_PROG_LOAD, BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY (uapi/linux/bpf.h).
    const PROG_LOAD: libc::c_int = 5;
    const TRACING: u32 = 26;
    const FENTRY: u32 = 24;
    // mov r0, 0; exit
    let instructions: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
    let license = c"GPL";
    let mut attributes = [0u8; 128];
    let mut put = |at: usize, bytes: &[u8]| attributes[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &TRACING.to_le_bytes());
    put(4, &(instructions.len() as u32).to_le_bytes());
    put(8, &(instructions.as_ptr() as u64).to_le_bytes());
    put(16, &(license.as_ptr() as u64).to_le_bytes());
    put(68, &FENTRY.to_le_bytes());
    put(108, &function.to_le_bytes());
    // SAFETY: the attributes and what they point to live until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, attributes.as_mut_ptr(), attributes.len()) };
    if fd < 0 {
        let error = io::Error::last_os_error();
        return Err(format!("the kernel refuses such programs: {error}"));
    }
    // SAFETY: a new descriptor that nobody else owns; closed at once.
    drop(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) });
    Ok(())
}
