//! `poll-wait`: waits in poll, select or epoll for a pipe that another thread writes to now and then.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(Clone, Copy, clap::ValueEnum)]
enum Call {
    Poll,
    Select,
    Epoll,
}

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_enum, default_value = "poll")]
    call: Call,
    #[arg(long, value_parser = roles::duration, default_value = "10ms")]
    period: Duration,
    #[arg(long, value_parser = roles::duration, default_value = "1s")]
    duration: Duration,
}

fn wait(call: Call, fd: RawFd, epoll: BorrowedFd<'_>) {
    // SAFETY: every structure lives until its call returns, and each count given is one.
    unsafe {
        match call {
            Call::Poll => {
                let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
                libc::poll(&mut poll, 1, -1);
            }
            Call::Select => {
                let mut set: libc::fd_set = std::mem::zeroed();
                libc::FD_SET(fd, &mut set);
                let null = std::ptr::null_mut();
                libc::select(fd + 1, &mut set, null, null, std::ptr::null_mut());
            }
            Call::Epoll => sys::epoll_wait(epoll),
        }
    }
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let (from, to) = sys::pipe().context("cannot make a pipe")?;
        let epoll = sys::epoll_of(&[from.as_fd()]).context("cannot make an epoll descriptor")?;
        let (call, period, end) = (self.call, self.period, Instant::now() + self.duration);
        let waiter = run.spawn("waiter", move |truth| {
            let (mut waited, mut byte) = (sys::Waited::default(), [0]);
            loop {
                waited.in_call(|| wait(call, from.as_raw_fd(), epoll.as_fd()));
                if !sys::read_full(from.as_fd(), &mut byte).unwrap_or(false) {
                    break;
                }
            }
            truth.set("waited_s", waited.seconds());
        })?;
        let writer = run.spawn("writer", move |_| {
            while Instant::now() < end {
                std::thread::sleep(period);
                let _ = sys::write_full(to.as_fd(), &[1]);
            }
        })?;
        let workers = vec![waiter, writer];
        run.ready(&workers);
        run.join(workers)
    }
}
