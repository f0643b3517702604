//! Stacks out of an exported capture: `sampled` lines, with the stacks, frames, symbols and modules that they refer to.

use std::collections::HashMap;

use serde_json::Value;

use super::{Traced, list, number, text, whole};

/// `origin` of a `sampled` line.
const ON_CPU: u64 = 1;
const WAIT: u64 = 2;
const WAKER: u64 = 5;

/// Why a stack was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The thread was on a CPU.
    OnCpu,
    /// It began to wait.
    Wait,
    /// It ended another one's wait.
    Waker,
}

/// A function in a stack: of a frame whose code holds inlined functions there are several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name; the file and address where none is known.
    pub name: String,
    /// native, kernel, python, jit, unknown.
    pub kind: String,
    /// Source file, where known.
    pub file: Option<String>,
    /// Line in it.
    pub line: Option<u64>,
    /// The file with its code, for native frames.
    pub module: Option<String>,
}

/// A stack that was taken.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub ts_ns: u64,
    /// Of which thread.
    pub tid: u64,
    /// Of which process.
    pub tgid: u64,
    /// Why.
    pub origin: Origin,
    /// Time that it stands for, for samples on a CPU.
    pub weight_ns: u64,
    /// Innermost first.
    pub functions: Vec<Function>,
    /// whole, cut, unreadable, no-unwind-info, process-gone, no-user-stack; `none` where the sample has no stack.
    pub end: String,
    /// A part was found by a search.
    pub rescued: bool,
    /// How reading Python frames ended, where not well, or that they did not fit.
    pub python: Option<String>,
}

impl Sample {
    /// Names, innermost first.
    pub fn names(&self) -> Vec<&str> {
        self.functions.iter().map(|function| function.name.as_str()).collect()
    }

    /// Whether these names are in it, from the inside to the outside, with anything between them.
    pub fn holds(&self, names: &[&str]) -> bool {
        let mut rest = self.functions.iter();
        names.iter().all(|name| rest.any(|function| is(&function.name, name)))
    }

    /// Whether these names follow each other in it directly.
    pub fn holds_adjoining(&self, names: &[&str]) -> bool {
        let fits = |window: &[Function]| window.iter().zip(names).all(|(function, name)| is(&function.name, name));
        self.functions.windows(names.len()).any(fits)
    }

    /// One line for messages.
    pub fn shown(&self) -> String {
        let python = self.python.as_ref().map(|python| format!(", python {python}")).unwrap_or_default();
        format!("{:?} {} {}{python}: {}", self.origin, self.tid, self.end, self.names().join(" < "))
    }
}

/// A name is one's own also with a C++ parameter list.
fn is(shown: &str, name: &str) -> bool {
    shown == name || shown.strip_prefix(name).is_some_and(|rest| rest.starts_with('('))
}

/// All stacks of a capture.
pub struct Stacks {
    /// In the order of the export.
    pub samples: Vec<Sample>,
    /// MODULE lines, by number.
    pub modules: HashMap<u64, Value>,
}

/// Reading the clock, its first look-up by the dynamic linker included, takes less.
const EDGE_NS: u64 = 1_000_000;

impl Stacks {
    /// Of a run with the family `cpu`.
    pub fn of(traced: &Traced) -> Self {
        Self::from_events(&traced.events())
    }

    /// Of exported lines.
    pub fn from_events(events: &[Value]) -> Self {
        let of_kind = |kind: &'static str| events.iter().filter(move |event| event["kind"] == kind);
        let by = |kind: &'static str, key: &'static str| {
            of_kind(kind).map(|event| (whole(event, key), event.clone())).collect::<HashMap<u64, Value>>()
        };
        let modules = by("module", "id");
        let (frames, stacks, symbols) = (by("frame", "id"), by("stack", "id"), by("symbol", "frame"));
        let functions: HashMap<u64, Vec<Function>> =
            frames.iter().map(|(id, frame)| (*id, functions(frame, symbols.get(id), &modules))).collect();
        let samples = of_kind("sampled").map(|event| sample(event, &stacks, &functions)).collect();
        Stacks { samples, modules }
    }

    /// Those of a thread within a time, as a program tells of itself: `tid`, `from_ns`, `to_ns`. Without those at its edges, where the
    /// thread reads the clock and is not in the chain.
    pub fn within<'a>(&'a self, spell: &Value) -> Vec<&'a Sample> {
        let (tid, from, to) = (whole(spell, "tid"), whole(spell, "from_ns"), whole(spell, "to_ns"));
        let inside = from + EDGE_NS..=to.saturating_sub(EDGE_NS);
        let fits = |sample: &&Sample| sample.tid == tid && inside.contains(&sample.ts_ns);
        self.samples.iter().filter(fits).collect()
    }
}

/// The samples of one origin.
pub fn of_origin<'a>(samples: &[&'a Sample], origin: Origin) -> Vec<&'a Sample> {
    samples.iter().copied().filter(|sample| sample.origin == origin).collect()
}

fn sample(event: &Value, stacks: &HashMap<u64, Value>, functions: &HashMap<u64, Vec<Function>>) -> Sample {
    let stack = stacks.get(&whole(event, "stack"));
    let frames = stack.map_or(&[][..], |stack| list(stack, "frames"));
    let ids = frames.iter().filter_map(Value::as_u64);
    let python = stack.and_then(|stack| {
        let misfit = (stack["python_misfit"] == true).then(|| "does not fit".to_owned());
        stack["python_end"].as_str().map(str::to_owned).or(misfit)
    });
    Sample {
        ts_ns: whole(event, "ts_ns"),
        tid: whole(event, "tid"),
        tgid: whole(event, "tgid"),
        origin: match whole(event, "origin") {
            ON_CPU => Origin::OnCpu,
            WAIT => Origin::Wait,
            WAKER => Origin::Waker,
            other => panic!("origin {other}: {event}"),
        },
        weight_ns: number(event, "weight_ns") as u64,
        functions: ids.flat_map(|id| functions.get(&id).cloned().unwrap_or_default()).collect(),
        end: stack.map_or("none", |stack| text(stack, "end")).to_owned(),
        rescued: stack.is_some_and(|stack| stack["rescued"] == true),
        python,
    }
}

fn functions(frame: &Value, symbol: Option<&Value>, modules: &HashMap<u64, Value>) -> Vec<Function> {
    let kind = text(frame, "frame_kind").to_owned();
    let module = frame["module"].as_u64().and_then(|id| modules.get(&id)).map(|module| text(module, "path").to_owned());
    let text_of = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
    if let Some(name) = text_of(frame, "function") {
        let (file, line) = (text_of(frame, "file"), frame["line"].as_u64());
        return vec![Function { name, kind, file, line, module }];
    }
    let names = symbol.map_or(&[][..], |symbol| list(symbol, "names"));
    if names.is_empty() {
        let place = module.as_deref().unwrap_or(&kind);
        let name = format!("{place}+{:#x}", whole(frame, "address"));
        return vec![Function { name, kind, file: None, line: None, module }];
    }
    let named = |name: &Value| Function {
        name: text(name, "function").to_owned(),
        kind: kind.clone(),
        file: text_of(name, "file"),
        line: name["line"].as_u64(),
        module: module.clone(),
    };
    names.iter().map(named).collect()
}

/// How many samples are as they should be.
pub fn count(samples: &[&Sample], is_good: impl Fn(&Sample) -> bool) -> usize {
    samples.iter().filter(|sample| is_good(sample)).count()
}

/// Prints the share of samples that are as they should be, and fails below 99 %, or with fewer than `at_least` samples.
#[track_caller]
pub fn assert_share(what: &str, samples: &[&Sample], at_least: usize, is_good: impl Fn(&Sample) -> bool) {
    let good = count(samples, &is_good);
    let rescued = count(samples, |sample| sample.rescued);
    println!("{what}: {good} of {} stacks are right, {rescued} of them rescued", samples.len());
    let bad = samples.iter().filter(|sample| !is_good(sample));
    let examples: String = bad.take(5).map(|sample| format!("\n  {}", sample.shown())).collect();
    assert!(samples.len() >= at_least, "{what}: only {} stacks were taken, of at least {at_least}", samples.len());
    // Memory that the kernel has made unreadable for a moment, as it does to see which NUMA node it is used from, may be in any one.
    let bad = samples.len() - good;
    let few = bad * 100 <= samples.len() || (bad == 1 && samples.len() >= 20);
    assert!(few, "{what}: {good} of {} are right; not so:{examples}", samples.len());
}
