//! tracefs: where it is mounted, and the layout of its events. Needed only for classic tracepoints.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tracer_common::config::{ABSENT, Formats};

/// Where tracefs is mounted. When it is not, it is mounted at its own place in sysfs, which is empty otherwise; without the
/// right to do that, there is none.
pub fn mount_point() -> Option<PathBuf> {
    let usual = Path::new("/sys/kernel/tracing");
    for candidate in [usual, Path::new("/sys/kernel/debug/tracing")] {
        if candidate.join("events").is_dir() {
            return Some(candidate.to_owned());
        }
    }
    let none: Option<&str> = None;
    nix::mount::mount(Some("tracefs"), usual, Some("tracefs"), nix::mount::MsFlags::empty(), none).ok()?;
    usual.join("events").is_dir().then(|| usual.to_owned())
}

/// Reads the layouts that the fallback programs need.
pub fn formats(tracefs: &Path) -> Formats {
    let mut formats = Formats::NONE;
    let event = |category: &str, name: &str| {
        fs::read_to_string(tracefs.join("events").join(category).join(name).join("format")).unwrap_or_default()
    };
    let switch = event("sched", "sched_switch");
    formats.switch_prev_pid = field(&switch, "prev_pid");
    formats.switch_prev_state = field(&switch, "prev_state");
    formats.switch_next_pid = field(&switch, "next_pid");
    formats.waking_pid = field(&event("sched", "sched_waking"), "pid");
    let newtask = event("task", "task_newtask");
    formats.newtask_pid = field(&newtask, "pid");
    formats.newtask_clone_flags = field(&newtask, "clone_flags");
    formats.newtask_comm = field(&newtask, "comm");
    formats.fork_child_pid = field(&event("sched", "sched_process_fork"), "child_pid");
    let exec = event("sched", "sched_process_exec");
    formats.exec_filename = field(&exec, "filename");
    formats.exec_old_pid = field(&exec, "old_pid");
    formats.rename_newcomm = field(&event("task", "task_rename"), "newcomm");
    formats
}

/// Adds those of the family that sees locks.
pub fn lock_formats(tracefs: &Path, formats: &mut Formats) {
    let event =
        |name: &str| fs::read_to_string(tracefs.join("events/lock").join(name).join("format")).unwrap_or_default();
    let (begin, end) = (event("contention_begin"), event("contention_end"));
    formats.begin_lock = field(&begin, "lock_addr");
    formats.begin_flags = field(&begin, "flags");
    formats.end_lock = field(&end, "lock_addr");
    formats.end_result = field(&end, "ret");
}

/// Offset of a field in a format such as `field:pid_t prev_pid; offset:24; size:4; signed:1;`.
fn field(format: &str, name: &str) -> u32 {
    format
        .lines()
        .filter_map(|line| line.trim().strip_prefix("field:"))
        .find_map(|line| {
            let mut parts = line.split(';').map(str::trim);
            let declared = parts.next()?.rsplit([' ', '*']).next()?;
            let declared = declared.split('[').next()?;
            if declared != name {
                return None;
            }
            parts.find_map(|part| part.strip_prefix("offset:"))?.parse().ok()
        })
        .unwrap_or(ABSENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_declared_name() {
        let format = "format:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
                      \tfield:char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\
                      \tfield:pid_t prev_pid;\toffset:24;\tsize:4;\tsigned:1;\n\
                      \tfield:__data_loc char[] filename;\toffset:8;\tsize:4;\tsigned:0;\n";
        assert_eq!(field(format, "prev_pid"), 24);
        assert_eq!(field(format, "prev_comm"), 8);
        assert_eq!(field(format, "filename"), 8);
        assert_eq!(field(format, "pid"), ABSENT, "not a part of another name");
    }
}
