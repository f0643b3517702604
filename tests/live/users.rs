//! Users: without root, under sudo, and as somebody else.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Tracer, shell, trace, tracer_bin};

/// The user that owns nothing.
const NOBODY: u32 = 65_534;

/// The tracer's binary and a folder that anybody may use.
struct Public {
    folder: tempfile::TempDir,
    tracer: PathBuf,
}

impl Public {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the mode can be changed");
        };
        open(folder.path(), 0o777);
        let tracer = folder.path().join("tracer");
        std::fs::copy(tracer_bin(), &tracer).expect("the tracer can be copied");
        open(&tracer, 0o755);
        Public { folder, tracer }
    }

    fn as_nobody(&self, arguments: &[&str]) -> std::process::Output {
        use std::os::unix::process::CommandExt;
        let mut line = Command::new(&self.tracer);
        line.args(arguments).current_dir(self.folder.path()).uid(NOBODY).gid(NOBODY);
        line.output().expect("the tracer runs")
    }
}

#[test]
fn without_root_tracing_is_refused_with_a_sentence_that_helps() {
    let public = Public::new();
    for (arguments, code) in [(&["run", "--", "true"][..], 125), (&["record", "--all", "--duration", "1s"][..], 2)] {
        let output = public.as_nobody(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains("root") || said.contains("CAP_BPF"), "it says what is missing: {said}");
        assert_eq!(said.trim().lines().count(), 1, "one sentence: {said}");
    }
    let left: Vec<_> =
        std::fs::read_dir(public.folder.path()).expect("the folder").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["tracer"], "nothing is left behind");
}

#[test]
fn without_root_doctor_families_and_report_work() {
    let public = Public::new();
    let doctor = public.as_nobody(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert_eq!(doctor.status.code(), Some(0), "{}", String::from_utf8_lossy(&doctor.stderr));
    assert!(said.contains("CAP_BPF") && said.contains("CAP_PERFMON"), "what is missing: {said}");
    assert_eq!(public.as_nobody(&["families"]).status.code(), Some(0));
    let traced = trace("sleep --duration 100ms");
    let copy = public.folder.path().join("capture.trc");
    std::fs::copy(traced.capture(), &copy).expect("the capture can be copied");
    std::os::unix::fs::chown(&copy, Some(NOBODY), Some(NOBODY)).expect("it can be given away");
    let output = public.as_nobody(&["report", "capture.trc", "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), traced.replayed().ended.stdout, "the same for everybody");
}

fn under_sudo(tracer: Tracer) -> Tracer {
    let id = NOBODY.to_string();
    tracer.env("SUDO_UID", &id).env("SUDO_GID", &id).env("SUDO_USER", "nobody")
}

#[test]
fn under_sudo_cmd_runs_as_the_invoking_user_and_files_are_theirs() {
    let traced = under_sudo(Tracer::run(shell("id -u; id -g"))).go().expect_code(0);
    assert_eq!(traced.ended.stdout, format!("{NOBODY}\n{NOBODY}\n"), "CMD's user and group; {}", traced.ended);
    assert!(traced.ended.stderr.contains("nobody"), "one line says so; {}", traced.ended);
    for name in ["report.json", "capture.trc"] {
        let file = std::fs::metadata(traced.folder.path().join(name)).expect(name);
        assert_eq!(file.uid(), NOBODY, "owner of {name}");
    }
    assert_eq!(traced.report().0["target"]["user"], "nobody", "the report says so");
}

#[test]
fn under_sudo_user_root_overrides() {
    let traced = under_sudo(Tracer::run(shell("id -u"))).options(&["--user", "root"]).go().expect_code(0);
    assert_eq!(traced.ended.stdout, "0\n", "CMD's user; {}", traced.ended);
}

#[test]
fn another_user_can_be_named() {
    let traced = Tracer::run(shell("id -u; echo $HOME")).options(&["--user", "nobody"]).go().expect_code(0);
    assert!(traced.ended.stdout.starts_with(&format!("{NOBODY}\n")), "CMD's user; {}", traced.ended);
    assert!(!traced.ended.stdout.contains("/root"), "not root's home; {}", traced.ended);
}
