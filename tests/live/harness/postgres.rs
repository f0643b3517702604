//! A PostgreSQL server of a test's own, on loopback, from the host's package.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to answer.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// A running server; dropping it stops it.
pub struct Postgres {
    server: Child,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    _folder: tempfile::TempDir,
}

/// The newest server of the host.
fn programs() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin"));
    folders.filter(|folder| folder.join("postgres").is_file()).max()
}

/// Who it is to run as, for it refuses root: user and group of the package.
fn user() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2).map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

impl Postgres {
    /// Starts one; none, with a word on why, where the host has no such package.
    pub fn start() -> Option<Self> {
        let (Some(programs), Some((uid, gid))) = (programs(), user()) else {
            println!("not run: this host has no PostgreSQL server (`cargo xtask setup` installs it)");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("others may enter it");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        chown(&data, Some(uid), Some(gid)).expect("it is the server's");
        let run = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.uid(uid).gid(gid).current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
            command
        };
        let made = run("initdb").args(["-A", "trust", "-N", "-D"]).arg(&data).output().expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let log = std::fs::File::create(folder.path().join("log")).expect("a file");
        let mut server = run("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(&data).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        server.args(["-c", "autovacuum=off", "-c", "fsync=off"]).stdout(Stdio::null()).stderr(log);
        let server = server.spawn().expect("the server starts");
        let mut postgres = Postgres { server, port, _folder: folder };
        postgres.wait_until_ready(&programs);
        Some(postgres)
    }

    fn wait_until_ready(&mut self, programs: &Path) {
        let began = Instant::now();
        loop {
            let port = self.port.to_string();
            let asked = Command::new(programs.join("pg_isready")).args(["-q", "-h", "127.0.0.1", "-p", &port]).status();
            if asked.expect("pg_isready runs").success() {
                return;
            }
            let ended = self.server.try_wait().expect("it can be asked");
            let late = began.elapsed() > STARTS_WITHIN;
            assert!(ended.is_none() && !late, "the server does not answer: {ended:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, without writing anything down.
        // SAFETY: takes numbers only; the process is a child that was not waited for.
        unsafe { libc::kill(self.server.id() as i32, libc::SIGQUIT) };
        let _ = self.server.wait();
    }
}

/// A port that nobody has now.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}
