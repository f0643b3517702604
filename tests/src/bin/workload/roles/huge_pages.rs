//! `huge-pages`: threads ask for huge pages. Whether that is slow is decided by what others have left: see `fragments`.

use anyhow::{Context, ensure};

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// MiB that are asked for.
    #[arg(long, default_value_t = 16)]
    mib: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Before all others, the kernel's own threads among them.
    #[arg(long)]
    first: bool,
}

/// Touches memory for which huge pages are wanted, each once.
#[inline(never)]
fn touch_huge(memory: &mut sys::Mapping) {
    memory.mark(2 << 20, 1);
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        ensure!(!self.first || sys::nice(-20), "cannot go before others: be root");
        let mut all = Vec::new();
        for _ in 0..self.threads {
            let huge = sys::Mapping::new((self.mib << 20) / self.threads, false).context("cannot map memory")?;
            huge.want_huge_pages(true).context("cannot ask for huge pages: has this kernel none?")?;
            all.push(huge);
        }
        run.ready(&[]);
        std::thread::scope(|scope| all.iter_mut().for_each(|huge| drop(scope.spawn(|| touch_huge(huge)))));
        Ok(())
    }
}
