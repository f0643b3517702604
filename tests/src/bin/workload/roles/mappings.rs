//! `mappings`: a known number of calls that map, unmap and give back memory, of known sizes, each kind from a function of its own. Healthy: it
//! works on memory that it has already, and makes none of these calls.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// Large mappings that are made, touched and given back; small ones as many; the other calls a tenth of it.
    #[arg(long, default_value_t = 4000)]
    count: u64,
    /// Of each large mapping this many pages are touched.
    #[arg(long, default_value_t = 1)]
    pages: usize,
    /// Only the large mappings.
    #[arg(long)]
    only_large: bool,
    #[arg(long)]
    healthy: bool,
    /// How long a healthy one works.
    #[arg(long, value_parser = roles::duration, default_value = "1s")]
    duration: Duration,
}

const PAGE: usize = 4096;
const LARGE_BYTES: usize = 1 << 20;
const SMALL_BYTES: usize = 256 << 10;
/// Large and small mappings take turns of so many.
const TURN: u64 = 100;
const KEPT_BYTES: usize = 48 << 20;
const STEP_BYTES: usize = 128 << 10;

/// A function that maps, touches and unmaps, with nothing between it and the C library.
macro_rules! mapper {
    ($name:ident) => {
        #[inline(never)]
        fn $name(count: u64, len_bytes: usize, pages: usize) -> std::io::Result<()> {
            let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            for _ in 0..count {
                // SAFETY: asks for new memory at an address of the kernel's choice.
                let address = unsafe { libc::mmap(std::ptr::null_mut(), len_bytes, access, flags, -1, 0) };
                if address == libc::MAP_FAILED {
                    return Err(std::io::Error::last_os_error());
                }
                for page in 0..pages.min(len_bytes / PAGE) {
                    // SAFETY: within the mapping, which is writable and nobody else's.
                    unsafe { address.cast::<u8>().add(page * PAGE).write_volatile(1) };
                }
                // SAFETY: nobody else knows it.
                sys::check(unsafe { libc::munmap(address, len_bytes) })?;
            }
            Ok(())
        }
    };
}

mapper!(map_much);
mapper!(map_little);

#[inline(never)]
fn map_a_file(count: u64, file: &std::fs::File) -> std::io::Result<()> {
    for _ in 0..count {
        drop(sys::Mapping::of_file(file.as_fd(), SMALL_BYTES, false)?);
    }
    Ok(())
}

/// Each round makes it larger and smaller again.
#[inline(never)]
fn resize(count: u64) -> std::io::Result<()> {
    let mut mapping = sys::Mapping::new(SMALL_BYTES, false)?;
    for _ in 0..count {
        mapping.resize(2 * SMALL_BYTES)?;
        mapping.resize(SMALL_BYTES)?;
    }
    Ok(())
}

/// Each round touches the same pages and gives them back.
#[inline(never)]
fn give_back(count: u64) -> std::io::Result<()> {
    let mut mapping = sys::Mapping::new(LARGE_BYTES, false)?;
    for _ in 0..count {
        mapping.touch_between(0, 4 * PAGE);
        mapping.give_back()?;
    }
    Ok(())
}

/// Advice that changes the mapping.
#[inline(never)]
fn advise(count: u64) -> std::io::Result<()> {
    let mut mapping = sys::Mapping::new(SMALL_BYTES, false)?;
    for round in 0..count {
        mapping.keep_from_children(round % 2 == 0)?;
    }
    Ok(())
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        run.set("healthy", self.healthy);
        let mut kept = sys::Mapping::new(LARGE_BYTES, false).context("cannot map memory")?;
        kept.touch_pages();
        run.ready(&[]);
        if self.healthy {
            let end = Instant::now() + self.duration;
            while Instant::now() < end {
                kept.touch_pages();
            }
            return Ok(());
        }
        let started = Instant::now();
        let mut left = self.count;
        while left > 0 {
            let turn = left.min(TURN);
            map_much(turn, LARGE_BYTES, self.pages).context("cannot map much")?;
            if !self.only_large {
                map_little(turn, SMALL_BYTES, 0).context("cannot map little")?;
            }
            left -= turn;
        }
        run.set("took_s", started.elapsed().as_secs_f64());
        if self.only_large {
            return Ok(());
        }
        let few = self.count / 10;
        let exe = std::fs::File::open("/proc/self/exe").context("cannot open this program")?;
        map_a_file(few, &exe).context("cannot map a file")?;
        resize(few).context("cannot resize")?;
        give_back(few).context("cannot give back")?;
        advise(few).context("cannot advise")?;
        sys::move_heap_end(few, STEP_BYTES).context("cannot move the heap's end")?;
        let more = sys::Mapping::new(KEPT_BYTES, false).context("cannot map memory")?;
        run.set("count", self.count);
        run.set("few", few);
        run.set("large_bytes", LARGE_BYTES as u64);
        run.set("small_bytes", SMALL_BYTES as u64);
        run.set("step_bytes", STEP_BYTES as u64);
        run.set("own_bytes", sys::mapped_by_itself().context("cannot read the mappings")?);
        // They stay until the process ends.
        std::mem::forget((kept, more));
        Ok(())
    }
}
