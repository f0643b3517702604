//! A MariaDB server of a test's own, on loopback, from the host's package.

use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to answer.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const SERVER: &str = "/usr/sbin/mariadbd";
/// Whom it runs as; it refuses root.
const NOBODY: u32 = 65_534;

/// A running server that asks nobody for a password; dropping it stops it.
pub struct MariaDb {
    server: Child,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    folder: tempfile::TempDir,
}

impl MariaDb {
    /// Starts one; none, with a word on why, where the host has no such package.
    pub fn start() -> Option<Self> {
        if !Path::new(SERVER).exists() {
            println!("not run: this host has no MariaDB server (`cargo xtask setup` installs it)");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("others may enter it");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        chown(&data, Some(NOBODY), Some(NOBODY)).expect("it is the server's");
        let port = super::postgres::free_port();
        let log = std::fs::File::create(folder.path().join("log")).expect("a file");
        let mut server = Command::new(SERVER);
        server.uid(NOBODY).gid(NOBODY).current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
        // Without tables of its own, which it does not need where nobody is asked who he is.
        server.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-grant-tables"]);
        server.args(["--innodb-flush-log-at-trx-commit=0", &format!("--datadir={}", data.display())]);
        server.args([format!("--port={port}"), format!("--socket={}", data.join("socket").display())]);
        let server = server.stdout(Stdio::null()).stderr(log).spawn().expect("the server starts");
        let mut mariadb = MariaDb { server, port, folder };
        mariadb.wait_until_ready();
        Some(mariadb)
    }

    fn wait_until_ready(&mut self) {
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.server.try_wait().expect("it can be asked");
            let late = began.elapsed() > STARTS_WITHIN;
            let said = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && !late, "the server does not answer: {ended:?}: {}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
