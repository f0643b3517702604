//! The loop behind a live run: batches go to the capture, into order, into the analysis. On a thread of its own.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender},
    },
    thread::JoinHandle,
};

use tracer_common::record::meta;

use super::{database::Databases, limits::Limits, memory::Memory, objects::Objects, output, strangers::Strangers};
use crate::{
    capture::{Options, Writer},
    kernel::{clients::Attacher, clock, live::push_meta},
    model::report::Report,
    pipeline::{
        analysis::{self, Analysis},
        batch::Batch,
        order::Order,
    },
};

/// What the capture lost so far, for the end record.
#[derive(Debug, Default)]
pub struct CaptureLoss {
    /// Chunks that could not be written.
    pub failed_writes: AtomicU64,
    /// Records that are not in the file.
    pub dropped_records: AtomicU64,
}

/// The loop's state.
struct Core {
    analysis: Analysis,
    order: Order,
    capture: Option<Writer>,
    loss: Arc<CaptureLoss>,
    strangers: Strangers,
    limits: Limits,
    memory: Memory,
    objects: Objects,
    databases: Databases,
}

/// A running loop.
pub struct Running {
    thread: JoinHandle<Report>,
    /// See [`CaptureLoss`].
    pub loss: Arc<CaptureLoss>,
}

/// Opens the capture file.
pub fn capture(path: &Path, max_bytes: u64) -> Result<Writer, String> {
    let writer = Writer::create(path, Options { max_bytes: Some(max_bytes), ..Options::default() })
        .map_err(|error| error.to_string())?;
    output::give_to_invoker(writer.sink())
        .map_err(|error| format!("cannot give {} to the invoking user: {error}", path.display()))?;
    Ok(writer)
}

/// Starts the loop. It ends when the source does.
pub fn spawn(
    capture: Option<Writer>,
    first: Batch,
    batches: Receiver<Batch>,
    give_back: SyncSender<Batch>,
    attacher: Option<Arc<Attacher>>,
) -> std::io::Result<Running> {
    let loss = Arc::new(CaptureLoss::default());
    let mut core = Core {
        analysis: Analysis::new(analysis::Options::default()),
        order: Order::default(),
        capture,
        loss: Arc::clone(&loss),
        strangers: Strangers::default(),
        limits: Limits::new(),
        memory: Memory::new(),
        objects: Objects::new(),
        databases: Databases::new(attacher),
    };
    let thread = std::thread::Builder::new().name("tracer-core".to_owned()).spawn(move || {
        core.take(&first);
        for batch in batches {
            core.take(&batch);
            let _ = give_back.try_send(batch);
        }
        core.finish()
    })?;
    Ok(Running { thread, loss })
}

impl Running {
    /// The report, once the source has ended.
    pub fn join(self) -> Result<Report, String> {
        self.thread.join().map_err(|_| "the analysis failed; the capture, if one was kept, is whole".to_owned())
    }
}

impl Core {
    /// Takes a batch, and what can be added to it.
    fn take(&mut self, batch: &Batch) {
        let mut names = Batch::new();
        self.strangers.name(batch, &mut names);
        if !names.is_empty() {
            self.pass(&names);
        }
        let mut more = Batch::new();
        self.databases.look(batch, &mut more);
        let last = self.limits.look(batch, &mut more)
            | self.memory.look(batch, &mut more)
            | self.objects.look(batch, &mut more);
        if last {
            self.pass(&more);
        }
        self.pass(batch);
        if !last && !more.is_empty() {
            self.pass(&more);
        }
    }

    fn pass(&mut self, batch: &Batch) {
        if let Some(capture) = &mut self.capture {
            let written = capture.write(batch).and_then(|()| capture.tick(clock::monotonic_ns()));
            if let Err(error) = written {
                tracing::warn!("{error}");
            }
            let stats = capture.stats();
            self.loss.failed_writes.store(stats.failed_chunks, Ordering::Relaxed);
            self.loss.dropped_records.store(stats.dropped_records(), Ordering::Relaxed);
        }
        self.order.push(batch);
        self.order.drain(&mut |record| self.analysis.record(record));
        if let Some(capture) = &mut self.capture
            && capture.wants_keyframe()
        {
            let mut keyframe = Batch::new();
            let now_ns = clock::monotonic_ns();
            for seed in self.analysis.keyframe() {
                push_meta(&mut keyframe, now_ns, meta::SEED, &seed);
            }
            self.objects.again(now_ns, &mut keyframe);
            capture.write_keyframe(&keyframe);
        }
    }

    fn finish(mut self) -> Report {
        self.order.finish(&mut |record| self.analysis.record(record));
        if let Some(mut capture) = self.capture.take()
            && let Err(error) = capture.finish()
        {
            tracing::warn!("{error}");
        }
        self.analysis.finish()
    }
}
