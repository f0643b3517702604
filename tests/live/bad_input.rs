//! Wrong use and broken surroundings: one clear sentence, the right exit code, nothing left attached or half-written.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Traced, Tracer, shell, workload};

/// Fails unless the tracer gave up with this code and one sentence that holds these words.
#[track_caller]
fn assert_gave_up(traced: &Traced, code: i32, words: &[&str]) {
    let ended = &traced.ended;
    assert_eq!(ended.code, Some(code), "{ended}");
    let said = ended.stderr.to_lowercase();
    for word in words {
        assert!(said.contains(&word.to_lowercase()), "`{word}` is not in what it said; {ended}");
    }
    assert!(!said.contains("panicked"), "it panicked; {ended}");
}

/// As above, and the complaint is one line.
#[track_caller]
fn assert_one_sentence(traced: &Traced, code: i32, words: &[&str]) {
    assert_gave_up(traced, code, words);
    assert_eq!(traced.ended.stderr.trim().lines().count(), 1, "one sentence; {}", traced.ended);
}

fn words(line: &[&str]) -> Vec<OsString> {
    line.iter().map(OsString::from).collect()
}

#[test]
fn cmds_own_status_is_passed_through() {
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("exit 125", 125), ("kill -TERM $$", 143), ("kill -SEGV $$", 139)]
    {
        let traced = Tracer::run(shell(script)).go();
        assert_eq!(traced.ended.code, Some(code), "`{script}`: {}", traced.ended);
        assert_eq!(traced.report().0["window"]["exit_code"], code, "`{script}`");
    }
}

#[test]
fn a_command_that_is_not_there_is_127() {
    let traced = Tracer::run(words(&["/no/such/program"])).go();
    assert_one_sentence(&traced, 127, &["/no/such/program"]);
    assert!(!traced.folder.path().join("report.json").exists(), "no report of nothing");
    let traced = Tracer::run(words(&["no-such-program-in-path"])).go();
    assert_one_sentence(&traced, 127, &["no-such-program-in-path"]);
}

#[test]
fn a_command_that_is_not_executable_is_126() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("data");
    std::fs::write(&file, "not a program").expect("it can be written");
    let traced = Tracer::run(vec![file.clone().into_os_string()]).go();
    assert_one_sentence(&traced, 126, &[&file.display().to_string()]);
    let traced = Tracer::run(words(&["/tmp"])).go();
    assert_one_sentence(&traced, 126, &["/tmp"]);
}

#[test]
fn wrong_use_of_run_is_125() {
    let marker = tempfile::tempdir().expect("a temporary folder");
    let touched = marker.path().join("started");
    let touch = || vec!["touch".into(), touched.clone().into_os_string()];
    let tries: [(&[&str], &[&str]); 6] = [
        (&["--duration", "0"], &["duration"]),
        (&["--family", "nonsense"], &["nonsense", "sched"]),
        (&["--no-such-option"], &["no-such-option"]),
        (&["--format", "json"], &["-o"]),
        (&["--ring-size", "lots"], &["lots"]),
        (&["-o", "/no/such/folder/report"], &["/no/such/folder"]),
    ];
    for (options, said) in tries {
        let traced = Tracer::run(touch()).bare().options(options).go();
        assert_gave_up(&traced, 125, said);
        assert!(!touched.exists(), "CMD was started with {options:?}");
    }
    let traced = Tracer::plain("run").go();
    assert_gave_up(&traced, 125, &["cmd"]);
    let traced = Tracer::run(touch()).bare().options(&["--capture", "/no/such/folder/capture"]).go();
    assert_gave_up(&traced, 125, &["/no/such/folder/capture"]);
    assert!(!touched.exists(), "CMD was started");
}

#[test]
fn wrong_use_of_other_commands_is_2() {
    let pid = std::process::id().to_string();
    let tries: [(&str, &[&str], &[&str]); 8] = [
        ("record", &[], &["--pid"]),
        ("record", &["--pid", "nobody"], &["nobody"]),
        ("record", &["--pid", &pid, "--duration", "0"], &["duration"]),
        ("record", &["--pid", &pid, "--family", "nonsense"], &["nonsense"]),
        ("record", &["--cgroup", "/no/such/cgroup"], &["/no/such/cgroup"]),
        ("report", &[], &["capture"]),
        ("report", &["/no/such/capture"], &["/no/such/capture"]),
        ("export", &["/no/such/capture", "--to", "nonsense"], &["nonsense"]),
    ];
    for (verb, options, said) in tries {
        let verb: &'static str = match verb {
            "record" => "record",
            "report" => "report",
            _ => "export",
        };
        let traced = Tracer::plain(verb).options(options).go();
        assert_gave_up(&traced, 2, said);
        let left: Vec<_> = std::fs::read_dir(traced.folder.path()).expect("the folder").flatten().collect();
        assert!(left.is_empty(), "`{verb} {options:?}` left {left:?}");
    }
}

#[test]
fn a_pid_that_does_not_exist_is_2() {
    let limit = std::fs::read_to_string("/proc/sys/kernel/pid_max").expect("/proc is mounted");
    let beyond = (limit.trim().parse::<u64>().expect("a number") - 1).to_string();
    let traced = Tracer::record(&["--pid", &beyond, "--duration", "1s"]).go();
    assert_one_sentence(&traced, 2, &[&beyond]);
    let left: Vec<_> = std::fs::read_dir(traced.folder.path()).expect("the folder").flatten().collect();
    assert!(left.is_empty(), "nothing is left behind: {left:?}");
}

#[test]
fn a_pid_that_ends_while_the_tracer_attaches_does_no_harm() {
    for ms in [20, 120, 250] {
        let mut program =
            crate::harness::Background::command(&workload(&format!("sleep --announce --duration {ms}ms")));
        let pid = program.next_json()["pid"].to_string();
        let reaper = std::thread::spawn(move || program.end_within(std::time::Duration::from_secs(10)));
        let traced = Tracer::record(&["--pid", &pid, "--duration", "5s"]).go();
        reaper.join().expect("the workload ends").code.expect("by itself");
        match traced.ended.code {
            Some(0) => drop(traced.report()),
            Some(2) => assert_one_sentence(&traced, 2, &[&pid]),
            _ => panic!("neither recorded nor refused: {}", traced.ended),
        }
    }
}

/// A file system of 64 KiB, unmounted at the end.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().display().to_string();
        let status =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs", &path]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot mount a small tmpfs at {path}");
        Small(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_no_half_of_a_report() {
    let small = Small::new();
    // Writes until nothing fits any more.
    let filled = std::fs::write(small.0.path().join("filler"), vec![0; 1 << 20]);
    assert!(filled.is_err(), "the file system is full");
    let report = small.0.path().join("report.json");
    let traced = Tracer::run(shell("exit 0")).bare().options(&["--format", "json", "-o"]).option(&report).go();
    assert_one_sentence(&traced, 125, &[&report.display().to_string(), "space"]);
    let left = std::fs::metadata(&report).map_or(0, |file| file.len());
    assert_eq!(left, 0, "half of a report is left");
}

#[test]
fn a_capture_that_fills_the_disk_is_said_and_the_report_is_still_made() {
    let small = Small::new();
    let capture = small.0.path().join("capture.trc");
    let tracer = Tracer::run(workload("pingpong --pinned --count 300000")).bare();
    let tracer = tracer.options(&["--format", "json", "-o", "report.json"]).option("--capture").option(&capture);
    let traced = tracer.go();
    assert_eq!(traced.ended.code, Some(125), "a capture that was asked for is not whole; {}", traced.ended);
    assert!(traced.ended.stderr.contains("capture"), "it says so; {}", traced.ended);
    let report = traced.report();
    report.assert_sums();
    assert!(report.0["coverage"]["capture_failed_writes"].as_u64() > Some(0), "{}", report.0["coverage"]);
}

#[test]
fn files_are_for_their_owner_only() {
    let traced = Tracer::run(shell("exit 0")).go().expect_code(0);
    for name in ["report.json", "capture.trc"] {
        let mode = std::fs::metadata(traced.folder.path().join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "mode of {name}");
    }
}

#[test]
fn a_report_to_stderr_leaves_stdout_to_cmd() {
    let traced = Tracer::run(shell("echo only this; exit 3")).bare().go();
    assert_eq!(traced.ended.code, Some(3), "{}", traced.ended);
    assert_eq!(traced.ended.stdout, "only this\n", "standard output is CMD's");
    assert!(traced.ended.stderr.contains("lost"), "the report is on standard error; {}", traced.ended);
    assert!(!traced.ended.stderr.contains('\x1b'), "no colour without a terminal; {}", traced.ended);
    let left: Vec<_> = std::fs::read_dir(traced.folder.path()).expect("the folder").flatten().collect();
    assert!(left.is_empty(), "nothing is left behind: {left:?}");
    let traced = Tracer::run(shell("exit 0")).bare().options(&["-o", "-"]).go().expect_code(0);
    assert!(traced.ended.stdout.contains("lost"), "the report is on standard output; {}", traced.ended);
}
