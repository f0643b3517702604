//! `exec-thread`: a thread that is not the first of its process executes a program and so becomes the first.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// For how long the new program computes.
    #[arg(long, default_value = "200ms")]
    after: String,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let path = CString::new(own.as_os_str().as_bytes())?;
        let mut arguments = vec![path.clone()];
        for argument in ["cpu", "--duration", &self.after] {
            arguments.push(CString::new(argument)?);
        }
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let worker = run.spawn("executor", move |truth| {
            let _ = receiver.recv();
            sys::compute(Duration::from_millis(20));
            truth.set("error", sys::exec(&path, &arguments).to_string());
        })?;
        run.set("executor_tid", worker.tid());
        // The line must be out before the program is replaced. The new one prints its own, with the same pid.
        let workers = vec![worker];
        run.say_ready(&workers);
        let _ = sender.send(());
        run.join(workers)
    }
}
