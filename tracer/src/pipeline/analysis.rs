//! The pure half behind one door: record bytes in the order of time go in, a report comes out. A live run and a replay use this
//! and nothing else, which is why they report the same.

use super::decode::decode;
use crate::aggregate::Aggregate;
use crate::aggregate::table::Bounds;
use crate::diagnose::diagnose;
use crate::model::report::{Generator, Report};

/// What a caller may choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What writes the report.
    pub generator: Generator,
    /// Rows of the thread table; further threads are summed up in one more.
    pub max_rows: usize,
    /// How many threads are followed.
    pub bounds: Bounds,
}

impl Default for Options {
    fn default() -> Self {
        let generator = Generator { version: env!("CARGO_PKG_VERSION").to_owned(), abi: tracer_common::ABI_VERSION };
        Options { generator, max_rows: 512, bounds: Bounds::default() }
    }
}

/// See the file's head.
pub struct Analysis {
    generator: Generator,
    max_rows: usize,
    aggregate: Aggregate,
}

impl Analysis {
    /// Nothing recorded yet.
    pub fn new(options: Options) -> Self {
        let Options { generator, max_rows, bounds } = options;
        Analysis { generator, max_rows, aggregate: Aggregate::new(bounds) }
    }

    /// Takes one record, of the kernel or of user space. Records come in the order of time; late ones are used and counted.
    pub fn record(&mut self, record: &[u8]) {
        match decode(record) {
            Ok(event) => self.aggregate.event(&event),
            Err(undecoded) => self.aggregate.undecoded(undecoded),
        }
    }

    /// Every live thread, for a capture that drops its oldest part.
    pub fn keyframe(&self) -> Vec<crate::model::meta::SeedRecord> {
        self.aggregate.keyframe()
    }

    /// Ends the window and writes the report.
    pub fn finish(self) -> Report {
        let mut report = self.aggregate.finish(self.generator, self.max_rows);
        diagnose(&mut report);
        report
    }
}
