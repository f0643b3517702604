//! `ipc`: a child process sends large messages to its parent through a pipe or a pair of unix sockets. Healthy: the messages lie in
//! memory that both have, and a byte for each goes through the pipe.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

/// Bytes between those that are written of a message that is made.
const PAGE_BYTES: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Over {
    Pipe,
    Unix,
}

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_enum, default_value = "pipe")]
    over: Over,
    #[arg(long, default_value_t = 30)]
    messages: u64,
    #[arg(long, default_value_t = 64)]
    mib: usize,
    /// The messages lie in shared memory.
    #[arg(long)]
    healthy: bool,
}

/// One end, whatever it is.
enum End {
    Pipe(std::os::fd::OwnedFd),
    Unix(UnixStream),
}

/// What is sent, in memory that may be shared.
#[inline(never)]
fn make_batch(memory: &mut sys::Mapping, number: u64) -> usize {
    memory.mark(PAGE_BYTES, number as u8)
}

#[inline(never)]
fn send_batch(end: &mut End, batch: &[u8]) -> std::io::Result<()> {
    match end {
        End::Pipe(fd) => sys::write_full(fd.as_fd(), batch),
        End::Unix(stream) => stream.write_all(batch),
    }
}

#[inline(never)]
fn receive_batch(end: &mut End, batch: &mut [u8]) -> std::io::Result<()> {
    match end {
        End::Pipe(fd) => sys::read_full(fd.as_fd(), batch).map(drop),
        End::Unix(stream) => stream.read_exact(batch),
    }
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let len_bytes = self.mib << 20;
        let (near, far) = match self.over {
            Over::Pipe => {
                let (from, to) = sys::pipe().context("cannot make a pipe")?;
                (End::Pipe(from), End::Pipe(to))
            }
            Over::Unix => {
                let (near, far) = UnixStream::pair().context("cannot make a pair of sockets")?;
                (End::Unix(near), End::Unix(far))
            }
        };
        let mut memory = sys::Mapping::shared(len_bytes).context("cannot map memory")?;
        let mut batch = vec![0; if self.healthy { 1 } else { len_bytes }];
        let (mut near_end, mut far_end) = (Some(near), Some(far));
        let child = sys::fork(|| {
            drop(near_end.take());
            let Some(mut far) = far_end.take() else { return 1 };
            let sent = (0..self.messages).try_for_each(|number| {
                std::hint::black_box(make_batch(&mut memory, number));
                send_batch(&mut far, &batch)
            });
            i32::from(sent.is_err())
        })?;
        drop(far_end.take());
        let mut near = near_end.take().context("it was not taken")?;
        run.set("child", child);
        run.ready(&[]);
        let started = Instant::now();
        for _ in 0..self.messages {
            receive_batch(&mut near, &mut batch)?;
        }
        run.set("took_s", started.elapsed().as_secs_f64());
        run.set("bytes", self.messages * batch.len() as u64);
        sys::wait(child, true)?;
        Ok(())
    }
}
