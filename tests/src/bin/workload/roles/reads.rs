//! `reads`: a thread reads the samples of a file that is not in memory, small ones at random, each by a call of its own, or by io_uring.
//! Healthy: the same bytes in order in large pieces, or from the page cache.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// Where the file is made. Must be on a disk.
    #[arg(long)]
    folder: PathBuf,
    /// Size of the file.
    #[arg(long, default_value_t = 96)]
    mib: usize,
    /// How often it is read.
    #[arg(long, default_value_t = 1)]
    passes: usize,
    /// Computing with each sample.
    #[arg(long, value_parser = roles::duration, default_value = "10us")]
    compute: Duration,
    /// Reads past the page cache.
    #[arg(long)]
    direct: bool,
    /// By io_uring, 16 at a time, past the page cache.
    #[arg(long)]
    uring: bool,
    /// In large pieces, one after the other.
    #[arg(long)]
    in_order: bool,
    /// The page cache has it.
    #[arg(long)]
    warm: bool,
    /// Does nothing but read: neither measures nor looks at the bytes.
    #[arg(long)]
    plain: bool,
    /// The folder of a cgroup to go to before reading.
    #[arg(long)]
    cgroup: Option<PathBuf>,
}

const SAMPLE_BYTES: usize = 4 << 10;
const PIECE_BYTES: usize = 1 << 20;
/// Reads of a ring under way at a time.
const DEPTH: usize = 16;

/// Reads these pieces, each of the size of the buffer.
#[inline(never)]
fn read_samples(
    file: &File,
    buffer: &mut [u8],
    pieces: &[usize],
    compute: Duration,
    waited: &mut sys::Waited,
) -> std::io::Result<u64> {
    let mut sum = 0;
    for piece in pieces {
        waited.in_call(|| file.read_exact_at(buffer, (piece * buffer.len()) as u64))?;
        sum += buffer.iter().step_by(512).map(|byte| u64::from(*byte)).sum::<u64>();
        sys::compute_cpu(compute);
    }
    Ok(sum)
}

/// Reads them, and nothing else.
#[inline(never)]
fn read_plainly(file: &File, buffer: &mut [u8], pieces: &[usize]) -> std::io::Result<()> {
    pieces.iter().try_for_each(|piece| file.read_exact_at(buffer, (piece * buffer.len()) as u64))
}

/// Reads them by io_uring. The buffer has room for as many as are under way.
#[inline(never)]
fn read_by_ring(file: &File, buffer: &mut [u8], pieces: &[usize]) -> std::io::Result<()> {
    let mut ring = io_uring::IoUring::new(DEPTH as u32)?;
    let size = buffer.len() / DEPTH;
    let (mut next, mut free, mut under_way) = (pieces.iter(), (0..DEPTH).collect::<Vec<usize>>(), 0);
    loop {
        while let Some(slot) = free.pop() {
            let Some(piece) = next.next() else { break };
            let (fd, room) = (io_uring::types::Fd(file.as_raw_fd()), &mut buffer[slot * size..][..size]);
            let read = io_uring::opcode::Read::new(fd, room.as_mut_ptr(), size as u32);
            let entry = read.offset((piece * size) as u64).build().user_data(slot as u64);
            // SAFETY: file and buffer live until the ring is gone, and no slot is used twice at a time.
            unsafe { ring.submission().push(&entry) }.map_err(|error| std::io::Error::other(error.to_string()))?;
            under_way += 1;
        }
        if under_way == 0 {
            return Ok(());
        }
        ring.submit_and_wait(1)?;
        for done in ring.completion() {
            if done.result() != size as i32 {
                return Err(std::io::Error::other(format!("a read gave {}", done.result())));
            }
            free.push(done.user_data() as usize);
            under_way -= 1;
        }
    }
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let path = self.folder.join(format!("samples-{}-{}", std::process::id(), fastrand::u32(..)));
        let outcome = self.work(run, &path);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        run.set("path", path.display().to_string());
        outcome
    }
}

impl Options {
    fn work(&self, run: &mut Run, path: &std::path::Path) -> anyhow::Result<()> {
        let made = File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
        let piece: Vec<u8> = (0..PIECE_BYTES).map(|at| (at >> 9) as u8).collect();
        for number in 0..self.mib {
            made.write_all_at(&piece, (number * PIECE_BYTES) as u64).context("cannot write the file")?;
        }
        made.sync_all().context("cannot sync it")?;
        if !self.warm {
            sys::evict(made.as_fd()).context("cannot evict it")?;
        }
        let flags = if self.direct || self.uring { libc::O_DIRECT } else { 0 };
        let file = File::options().read(true).custom_flags(flags).open(path).context("cannot open it again")?;
        if let Some(cgroup) = &self.cgroup {
            roles::enter_cgroup(cgroup)?;
        }
        let size = if self.in_order { PIECE_BYTES } else { SAMPLE_BYTES };
        let mut pieces: Vec<usize> = (0..(self.mib << 20) / size).collect();
        if !self.in_order {
            sys::read_at_random(file.as_fd()).context("cannot advise the kernel")?;
            run.random.shuffle(&mut pieces);
        }
        run.ready(&[]);
        let reader = std::thread::Builder::new().name("dataset-rd".to_owned());
        let compute = self.compute * (size / SAMPLE_BYTES) as u32;
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let (file, pieces) = (&file, &pieces);
            let reader = reader.spawn_scoped(scope, move || -> std::io::Result<_> {
                // Aligned to pages, as direct reads want it.
                let mut memory = sys::Mapping::new(if self.uring { DEPTH * size } else { size }, true)?;
                let (before, started) = (sys::disk_read_bytes()?, Instant::now());
                let mut waited = sys::Waited::default();
                for _ in 0..self.passes {
                    if self.uring {
                        read_by_ring(file, memory.bytes_mut(), pieces)?;
                        continue;
                    }
                    if self.plain {
                        read_plainly(file, memory.bytes_mut(), pieces)?;
                        continue;
                    }
                    read_samples(file, memory.bytes_mut(), pieces, compute, &mut waited)?;
                }
                let took_s = started.elapsed().as_secs_f64();
                Ok((sys::tid(), took_s, waited.seconds(), sys::disk_read_bytes()? - before))
            });
            let reader = reader.context("cannot start a thread")?;
            let (tid, took_s, waited_s, read) =
                reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?.context("cannot read")?;
            run.set("reader_tid", tid);
            run.set("took_s", took_s);
            run.set("waited_s", waited_s);
            run.set("disk_read_bytes", read);
            Ok(())
        })?;
        run.set("reads", (pieces.len() * self.passes) as u64);
        run.set("size_bytes", (self.mib << 20) as u64);
        Ok(())
    }
}
