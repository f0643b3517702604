//! `huge-pages`: the machine's pool of huge pages is made larger, and as it was again. Whether that is slow is decided by what others have
//! left of memory: see `fragments`.

use anyhow::Context;

use crate::roles;
use crate::truth::Run;

#[derive(clap::Args)]
pub struct Options {
    /// MiB that the pool is to have more.
    #[arg(long, default_value_t = 16)]
    mib: u64,
}

const POOL: &str = "/proc/sys/vm/nr_hugepages";
const PAGE_MIB: u64 = 2;

fn pages() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(POOL).with_context(|| format!("cannot read {POOL}"))?;
    text.trim().parse().with_context(|| format!("{POOL} is no number"))
}

/// The kernel makes them, in this thread.
#[inline(never)]
fn set_pool(pages: u64) -> anyhow::Result<()> {
    std::fs::write(POOL, pages.to_string()).with_context(|| format!("cannot write {POOL}"))
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let before = pages()?;
        run.ready(&[]);
        set_pool(before + self.mib / PAGE_MIB)?;
        run.set("added", pages()?.saturating_sub(before));
        set_pool(before)
    }
}
