//! The thread that reads the ring of raw stacks. Here: its life, from the first record to the names at the end. What becomes of a
//! record is `worker`'s.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::pipe2,
};

use super::worker::Worker;
use crate::kernel::{self, clock};
use crate::pipeline::batch::Batch;

/// The ring is looked at this often, and at once when the kernel says so: for the first stack of a process.
const POLL_MS: u16 = 50;
/// And this often for [`FLEETING_NS`] after a process was first seen, which may not live long, and after Python code was found freed
/// before it had a name: while modules are imported each one's code lives for some milliseconds only.
const POLL_FLEETING_MS: u16 = 3;
/// See above.
const FLEETING_NS: u64 = 1_000_000_000;
/// Bytes of records in a batch.
const BATCH_BYTES: usize = 64 << 10;
/// Records that are on their way to the ring when tracing ends land within this time.
const SETTLE_NS: u64 = 2_000_000_000;

/// How far the naming is: done, all.
pub type Progress = Box<dyn FnMut(usize, usize) + Send>;

/// The running thread.
pub struct Running {
    thread: JoinHandle<io::Result<()>>,
    stop: OwnedFd,
    target: SyncSender<u64>,
    popped: Arc<AtomicU64>,
}

/// Starts it. Batches go to `send`, which is that of the rings' reader as well.
pub fn spawn(
    ring: RingBuf<MapData>,
    worker: Worker,
    send: SyncSender<Batch>,
    progress: Progress,
) -> io::Result<Running> {
    kernel::raise_open_files();
    let (stopped, stop) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(io::Error::from)?;
    let (target, wanted) = sync_channel(1);
    let popped = Arc::new(AtomicU64::new(0));
    let reader = Reader { ring, worker, send, popped: Arc::clone(&popped) };
    let thread = std::thread::Builder::new().name("tracer-stacks".to_owned()).spawn(move || {
        kernel::hurry();
        reader.run(&stopped, &wanted, progress)
    })?;
    Ok(Running { thread, stop, target, popped })
}

impl Running {
    /// Raw records that were taken off the ring.
    pub fn popped(&self) -> u64 {
        self.popped.load(Ordering::Acquire)
    }

    /// Ends it: it takes what is left of `submitted` records, names what it has seen and hands that over.
    pub fn finish(self, submitted: u64) -> io::Result<u64> {
        let _ = self.target.try_send(submitted);
        let _ = nix::unistd::write(&self.stop, &[1]);
        let ended = self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reads stacks failed")));
        ended.map(|()| self.popped.load(Ordering::Acquire))
    }
}

struct Reader {
    ring: RingBuf<MapData>,
    worker: Worker,
    send: SyncSender<Batch>,
    popped: Arc<AtomicU64>,
}

impl Reader {
    fn run(mut self, stopped: &OwnedFd, wanted: &Receiver<u64>, progress: Progress) -> io::Result<()> {
        loop {
            let mut fds =
                [PollFd::new(self.ring.as_fd(), PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
            // Interrupted or not: there is work to look for.
            let busy = self.worker.is_busy();
            let fleeting = self.worker.fleeting_ns() + FLEETING_NS > clock::monotonic_ns();
            let _ = poll(
                &mut fds,
                PollTimeout::from(match (busy, fleeting) {
                    (true, _) => 0,
                    (_, true) => POLL_FLEETING_MS,
                    _ => POLL_MS,
                }),
            );
            let stop = fds[1].any().unwrap_or(false);
            if stop {
                let submitted = wanted.recv().unwrap_or(0);
                return self.finish(submitted, progress);
            }
            if !self.drain() {
                return Ok(());
            }
        }
    }

    /// Takes all records that are there. False when nobody listens any more.
    fn drain(&mut self) -> bool {
        let mut batch = Batch::new();
        self.worker.begin_batch();
        while let Some(record) = self.ring.next() {
            self.worker.take(&record, &mut batch);
            self.popped.fetch_add(1, Ordering::Release);
            if batch.byte_len() >= BATCH_BYTES {
                if self.send.send(std::mem::take(&mut batch)).is_err() {
                    return false;
                }
                self.worker.begin_batch();
            }
        }
        self.worker.take_attached(&mut batch);
        batch.is_empty() || self.send.send(batch).is_ok()
    }

    fn finish(mut self, submitted: u64, progress: Progress) -> io::Result<()> {
        let deadline_ns = clock::monotonic_ns() + SETTLE_NS;
        while self.drain()
            && (self.popped.load(Ordering::Acquire) < submitted || self.worker.is_busy())
            && clock::monotonic_ns() < deadline_ns
        {
            if !self.worker.is_busy() {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        drop(self.ring);
        let send = self.send;
        self.worker.name_all(progress, &mut |batch| send.send(batch).is_ok());
        Ok(())
    }
}
