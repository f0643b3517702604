//! Takes what names the recording machine out of a capture, so that it can be checked in:
//! `cargo run -p tests --example scrub-capture -- IN.trc OUT.trc`.
//!
//! Two things are changed: the kernel's release keeps only its version number, and threads that were not traced (neighbours of
//! the workload, of which a capture holds the names because they had a CPU before or after it) are called `neighbour-N`. All
//! other records, their order and the chunks they lie in stay; so does a missing end marker.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result};
use tracer::capture::{Options, Reader, Writer};
use tracer::model::event::{Event, Meta};
use tracer::pipeline::batch::{Batch, header_bytes};
use tracer::pipeline::decode::decode;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else { anyhow::bail!("two arguments are needed: IN.trc OUT.trc") };
    let (batches, complete) = read(Path::new(from))?;
    let traced = traced(&batches);
    let mut writer = Writer::create(Path::new(to), Options::default())?;
    let mut neighbours = 0;
    for batch in &batches {
        let mut changed = Batch::new();
        for record in batch.iter() {
            changed.push(&scrubbed(record, &traced, &mut neighbours)?);
        }
        writer.write(&changed)?;
        // Old enough for a chunk of its own.
        writer.tick(u64::MAX)?;
    }
    if complete {
        writer.finish()?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<(Vec<Batch>, bool)> {
    let mut reader = Reader::open(path)?;
    let mut batches = Vec::new();
    while let Some(batch) = reader.next_batch()? {
        batches.push(batch);
    }
    Ok((batches, reader.stats().complete))
}

/// The threads that the capture is about, and the tracer's own.
fn traced(batches: &[Batch]) -> HashSet<u32> {
    let mut traced = HashSet::new();
    for record in batches.iter().flat_map(Batch::iter) {
        match decode(record) {
            Ok(Event::NewTask(task)) => traced.insert(task.tid),
            Ok(Event::Meta(_, meta)) => match *meta {
                Meta::Seed(seed) => traced.insert(seed.tid),
                Meta::Name(name) if name.comm.starts_with("tracer") => traced.insert(name.tid),
                _ => continue,
            },
            _ => continue,
        };
    }
    traced
}

fn scrubbed(record: &[u8], traced: &HashSet<u32>, neighbours: &mut u32) -> Result<Vec<u8>> {
    let Ok(Event::Meta(header, meta)) = decode(record) else { return Ok(record.to_vec()) };
    let payload = match *meta {
        Meta::Host(mut host) => {
            let version = host.kernel.split('-').next().context("a kernel release")?.to_owned();
            host.kernel = version;
            serde_json::to_vec(&host)?
        }
        Meta::Name(mut name) if !traced.contains(&name.tid) => {
            *neighbours += 1;
            name.comm = format!("neighbour-{neighbours}");
            serde_json::to_vec(&name)?
        }
        _ => return Ok(record.to_vec()),
    };
    Ok([&header_bytes(header)[..], &payload].concat())
}
