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

    /// Ends the window and gives the weighted stacks, for exports.
    pub fn finish_profile(self) -> crate::model::profile::Profile {
        self.aggregate.into_profile()
    }

    /// Ends the window and writes the report.
    pub fn finish(self) -> Report {
        let mut report = self.aggregate.finish(self.generator, self.max_rows);
        diagnose(&mut report);
        report
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::export::to_json;
    use crate::render::text::{Style, render};
    use crate::testing;

    #[test]
    fn a_report_reads_back_as_it_was_written() {
        let report = testing::contended_report();
        let json = to_json(&report).expect("a report");
        assert_eq!(serde_json::from_str::<Report>(&json).expect("its own JSON"), report);
        let schema = crate::model::report::schema_json().expect("a schema");
        let parsed: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
        let required = parsed["required"].as_array().expect("required keys");
        for key in ["schema", "window", "verdict", "threads", "coverage"] {
            assert!(required.iter().any(|name| name == key), "{key} is required: {required:?}");
        }
        assert!(!required.iter().any(|name| name == "overhead"), "a capture may lack it");
    }

    #[test]
    fn costs_become_overhead() {
        let mut events = testing::contended_run(5);
        let end = events.pop().expect("an end");
        let program = crate::model::meta::ProgramCost { name: "sched_switch".to_owned(), runs: 1000, ns: 200_000 };
        let cost = crate::model::meta::CostRecord {
            measured_s: 0.1,
            programs: vec![program],
            tracer_cpu_s: 0.05,
            tracer_rss_bytes: 1 << 20,
            ring_bytes: 4096,
        };
        events.push(testing::meta_event(end.header().ts_ns, crate::model::event::Meta::Cost(cost)));
        events.push(end);
        let overhead = testing::analyse(&events).overhead.expect("measured");
        assert_eq!((overhead.programs[0].ns_per_run, overhead.programs[0].cpu_share), (Some(200.0), Some(0.002)));
        let all = overhead.cpu_share.expect("measured");
        assert!((all - 0.102).abs() < 1e-9, "0.2 % by programs and 0.05 s of 0.5 s by the tracer: {all}");
    }

    proptest! {
        #[test]
        fn damaged_records_never_make_it_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..40)
        ) {
            let mut records: Vec<Vec<u8>> =
                testing::one_of_each().iter().chain(&testing::contended_run(2)).map(testing::bytes).collect();
            for (record, byte, value) in edits {
                let record = record.get_mut(&mut records);
                let position = byte.index(record.len());
                record[position] = value;
            }
            let mut analysis = Analysis::new(Options::default());
            records.iter().for_each(|record| analysis.record(record));
            let report = analysis.finish();
            let text = render(&report, Style { width: 80, colour: false });
            prop_assert!(text.starts_with("Verdict: "), "{text}");
            let json = to_json(&report);
            prop_assert!(json.is_ok(), "{json:?}");
        }
    }
}
