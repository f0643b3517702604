//! Weighted stacks as pprof has them: the messages of `profile.proto`, compressed by gzip. Written by hand: the schema is small
//! and has not changed in years.
//!
//! Values per sample: number of samples and nanoseconds on a CPU, number of waits and nanoseconds waited; `--of` leaves two of them.
//! Labels: `process`, `pid`, `thread`, `tid`, and for waits `state`. An address is the one in its file, so files start at 0.

use std::collections::BTreeMap;
use std::io::{self, Write};

use prost::Message;

use super::folded::{no_stack, unnamed};
use super::weigh::{Of, selected};
use crate::model::meta::FrameKind;
use crate::model::profile::{Activity, ESTIMATOR, Entry, Frame, Profile};

/// `perftools.profiles.Profile`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are those of profile.proto")]
pub struct Proto {
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    pub string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    pub time_nanos: i64,
    #[prost(int64, tag = "10")]
    pub duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    pub period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    pub period: i64,
    #[prost(int64, repeated, tag = "13")]
    pub comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    pub default_sample_type: i64,
}

/// What a value is.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
#[expect(missing_docs, reason = "the names are those of profile.proto")]
pub struct ValueType {
    #[prost(int64, tag = "1")]
    pub r#type: i64,
    #[prost(int64, tag = "2")]
    pub unit: i64,
}

/// A stack with its values.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are those of profile.proto")]
pub struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    pub location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    pub label: Vec<Label>,
}

/// A word beside a stack.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
#[expect(missing_docs, reason = "the names are those of profile.proto")]
pub struct Label {
    #[prost(int64, tag = "1")]
    pub key: i64,
    #[prost(int64, tag = "2")]
    pub str: i64,
    #[prost(int64, tag = "3")]
    pub num: i64,
}

/// A file.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
#[expect(missing_docs, reason = "the names are those of profile.proto")]
pub struct Mapping {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub memory_start: u64,
    #[prost(uint64, tag = "3")]
    pub memory_limit: u64,
    #[prost(uint64, tag = "4")]
    pub file_offset: u64,
    #[prost(int64, tag = "5")]
    pub filename: i64,
    #[prost(int64, tag = "6")]
    pub build_id: i64,
    #[prost(bool, tag = "7")]
    pub has_functions: bool,
    #[prost(bool, tag = "8")]
    pub has_filenames: bool,
    #[prost(bool, tag = "9")]
    pub has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    pub has_inline_frames: bool,
}

/// A frame.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are those of profile.proto")]
pub struct Location {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub mapping_id: u64,
    #[prost(uint64, tag = "3")]
    pub address: u64,
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Line>,
}

/// A function at a line.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
#[expect(missing_docs, reason = "the names are those of profile.proto")]
pub struct Line {
    #[prost(uint64, tag = "1")]
    pub function_id: u64,
    #[prost(int64, tag = "2")]
    pub line: i64,
}

/// A function.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
#[expect(missing_docs, reason = "the names are those of profile.proto")]
pub struct Function {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(int64, tag = "2")]
    pub name: i64,
    #[prost(int64, tag = "3")]
    pub system_name: i64,
    #[prost(int64, tag = "4")]
    pub filename: i64,
    #[prost(int64, tag = "5")]
    pub start_line: i64,
}

/// Where the kernel's code stands in the table of files.
const KERNEL: &str = "[kernel.kallsyms]";

/// Writes the profile, compressed.
pub fn write(profile: &Profile, of: Of, out: &mut impl io::Write) -> io::Result<()> {
    let mut gzip = flate2::write::GzEncoder::new(out, flate2::Compression::default());
    gzip.write_all(&proto(profile, of).encode_to_vec())?;
    gzip.finish()?.flush()
}

/// The messages.
pub fn proto(profile: &Profile, of: Of) -> Proto {
    let mut builder = Builder { profile, proto: Proto::default(), texts: BTreeMap::new(), functions: BTreeMap::new() };
    builder.text("");
    let nanoseconds = |builder: &mut Builder, name: &str| builder.value_type(name, "nanoseconds");
    if of != Of::OffCpu {
        builder.value_type("samples", "count");
        nanoseconds(&mut builder, "cpu");
    }
    if of != Of::OnCpu {
        builder.value_type("waits", "count");
        nanoseconds(&mut builder, "wait");
    }
    builder.modules();
    builder.frames();
    let missing = builder.missing();
    for entry in selected(profile, of) {
        builder.entry(entry, of, &missing);
    }
    let comment = builder.text(&format!("tracer: {ESTIMATOR}"));
    let period_type = ValueType { r#type: builder.text("cpu"), unit: builder.text("nanoseconds") };
    let default_sample_type = builder.text(if of == Of::OffCpu { "wait" } else { "cpu" });
    let mut proto = builder.proto;
    proto.comment.push(comment);
    proto.default_sample_type = default_sample_type;
    if profile.period_ns > 0 && of != Of::OffCpu {
        (proto.period_type, proto.period) = (Some(period_type), signed(profile.period_ns));
    }
    proto.time_nanos = profile.start_unix_ns.map_or(0, signed);
    proto.duration_nanos = signed(profile.duration_ns);
    proto
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

struct Builder<'a> {
    profile: &'a Profile,
    proto: Proto,
    texts: BTreeMap<String, i64>,
    functions: BTreeMap<(i64, i64), u64>,
}

impl Builder<'_> {
    fn text(&mut self, text: &str) -> i64 {
        if let Some(index) = self.texts.get(text) {
            return *index;
        }
        let index = self.proto.string_table.len() as i64;
        self.proto.string_table.push(text.to_owned());
        self.texts.insert(text.to_owned(), index);
        index
    }

    fn value_type(&mut self, name: &str, unit: &str) {
        let value_type = ValueType { r#type: self.text(name), unit: self.text(unit) };
        self.proto.sample_type.push(value_type);
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let (name, filename) = (self.text(name), self.text(file));
        if let Some(id) = self.functions.get(&(name, filename)) {
            return *id;
        }
        let id = self.proto.function.len() as u64 + 1;
        self.proto.function.push(Function { id, name, system_name: name, filename, start_line: 0 });
        self.functions.insert((name, filename), id);
        id
    }

    /// Files by their index plus 1, then the kernel.
    fn modules(&mut self) {
        let profile = self.profile;
        for (index, module) in profile.modules.iter().enumerate() {
            let build_id = module.build_id.as_deref().unwrap_or_default();
            let id = index as u64 + 1;
            let of_module = |frame: &&Frame| frame.module == Some(index) && frame.kind == FrameKind::Native;
            self.mapping(id, &module.path, build_id, profile.frames.iter().filter(of_module));
        }
        let id = profile.modules.len() as u64 + 1;
        self.mapping(id, KERNEL, "", profile.frames.iter().filter(|frame| frame.kind == FrameKind::Kernel));
    }

    fn mapping<'f>(&mut self, id: u64, path: &str, build_id: &str, frames: impl Iterator<Item = &'f Frame>) {
        let frames: Vec<&Frame> = frames.collect();
        let names = || frames.iter().flat_map(|frame| &frame.names);
        let mapping = Mapping {
            id,
            memory_start: 0,
            memory_limit: frames.iter().map(|frame| frame.address).max().unwrap_or(0).saturating_add(1),
            file_offset: 0,
            filename: self.text(path),
            build_id: self.text(build_id),
            // Readers then look for no names of their own.
            has_functions: names().next().is_some(),
            has_filenames: names().any(|name| name.file.is_some()),
            has_line_numbers: names().any(|name| name.line.is_some()),
            has_inline_frames: names().any(|name| name.inlined),
        };
        self.proto.mapping.push(mapping);
    }

    /// Frames by their index plus 1.
    fn frames(&mut self) {
        let profile = self.profile;
        for (index, frame) in profile.frames.iter().enumerate() {
            let mut line = Vec::new();
            for name in &frame.names {
                let function_id = self.function(&name.function, name.file.as_deref().unwrap_or_default());
                line.push(Line { function_id, line: name.line.map_or(0, i64::from) });
            }
            if line.is_empty() {
                let function_id = self.function(&unnamed(profile, frame), "");
                line.push(Line { function_id, line: 0 });
            }
            let mapping_id = match (frame.kind, frame.module) {
                (FrameKind::Kernel, _) => profile.modules.len() as u64 + 1,
                (FrameKind::Native, Some(module)) => module as u64 + 1,
                _ => 0,
            };
            let address = if mapping_id == 0 { 0 } else { frame.address };
            self.proto.location.push(Location { id: index as u64 + 1, mapping_id, address, line });
        }
    }

    /// Locations that stand for missing stacks.
    fn missing(&mut self) -> BTreeMap<&'static str, u64> {
        use crate::model::profile::NoStack;
        let mut missing = BTreeMap::new();
        for why in [NoStack::NoPlace, NoStack::NotCaptured, NoStack::NoRoom, NoStack::NotRecorded] {
            let function_id = self.function(no_stack(why), "");
            let id = self.proto.location.len() as u64 + 1;
            self.proto.location.push(Location {
                id,
                mapping_id: 0,
                address: 0,
                line: vec![Line { function_id, line: 0 }],
            });
            missing.insert(no_stack(why), id);
        }
        missing
    }

    fn entry(&mut self, entry: &Entry, of: Of, missing: &BTreeMap<&'static str, u64>) {
        let stack = entry.stack.map(|stack| self.profile.stacks.get(stack));
        let location_id = match stack {
            Ok(Some(stack)) if !stack.frames.is_empty() => stack.frames.iter().map(|frame| *frame as u64 + 1).collect(),
            Ok(_) => Vec::new(),
            Err(why) => missing.get(no_stack(why)).copied().into_iter().collect(),
        };
        let own = [signed(entry.count), signed(entry.ns)];
        let (on_cpu, waited) = if entry.activity == Activity::OnCpu { (own, [0; 2]) } else { ([0; 2], own) };
        let value = match of {
            Of::OnCpu => on_cpu.to_vec(),
            Of::OffCpu => waited.to_vec(),
            Of::Wall => [on_cpu, waited].concat(),
        };
        let mut label = Vec::new();
        let mut word = |builder: &mut Self, key: &str, text: &str| {
            let (key, str) = (builder.text(key), builder.text(text));
            label.push(Label { key, str, num: 0 });
        };
        if let Some(process) = &entry.process {
            word(self, "process", process);
        }
        if let Some(thread) = &entry.thread {
            word(self, "thread", thread);
        }
        if let Activity::Waiting { state, detail } = &entry.activity {
            let detail = detail.as_ref().map(|detail| format!(" {detail}")).unwrap_or_default();
            word(self, "state", &format!("{state}{detail}"));
        }
        for (key, id) in [("pid", entry.pid), ("tid", entry.tid)] {
            let key = self.text(key);
            label.push(Label { key, str: 0, num: i64::from(id) });
        }
        self.proto.sample.push(Sample { location_id, value, label });
    }
}
