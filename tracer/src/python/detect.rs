//! Does a process run CPython, which one, and where are its structures?
//!
//! A module is looked at when its file's name begins with `python` or `libpython`: its name only, since many a path holds
//! "python". It must define `_PyRuntime`, the evaluator and the types by which objects are recognised, and say its version beyond
//! doubt; then the first structures in the process's memory are followed. Anything else is "unknown", with the reason, and the
//! caller keeps to native frames. Not here: when to look (`stacks`).

mod collector;
mod parts;
mod symbols;

use std::{collections::HashMap, sync::Arc};

use tracer_common::python::PythonProcess;

use self::symbols::Symbols;
use super::{
    gil,
    layout::{self, Interpreter, Layout, PUBLISHED_BYTES, THREAD_INTERPRETER, Types, Version},
    memory::{ReadMemory, word},
};
use crate::process::{AddressSpace, Backing, Mapping, Module, ModuleId, Segment};

/// Modules whose symbols are kept.
const MOST_MODULES: usize = 256;
/// With instructions that are functions of their own, the evaluator itself is small, against 31,000 to 86,000 bytes with all of
/// its parts where it holds them all. Not tested on such an interpreter.
const SMALL_EVALUATOR_BYTES: u64 = 8 << 10;

/// What a process is.
#[derive(Clone, Debug, PartialEq)]
pub enum Detected {
    /// No CPython.
    NotPython,
    /// CPython that has not made its first thread yet: look again later.
    NotReady,
    /// CPython, but not one whose frames are known; says why.
    Unknown(String),
    /// CPython.
    Python(Box<Interpreter>),
}

/// Finds interpreters; keeps what files say.
#[derive(Debug, Default)]
pub struct Detector {
    files: HashMap<ModuleId, Result<Arc<Symbols>, String>>,
}

impl Detector {
    /// Knows no file yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at a process.
    pub fn detect(&mut self, space: &AddressSpace, memory: &mut dyn ReadMemory) -> Detected {
        let mut reason = None;
        for module in candidates(space) {
            let symbols = match self.symbols(module) {
                Ok(symbols) => symbols,
                Err(why) => {
                    reason.get_or_insert(why);
                    continue;
                }
            };
            let Some(symbols) = symbols else { continue };
            let Some(bias) = bias(space, module) else { continue };
            return match interpreter(&symbols, (module.id, bias), memory) {
                Ok(Some(interpreter)) => Detected::Python(Box::new(interpreter)),
                Ok(None) => Detected::NotReady,
                Err(why) => Detected::Unknown(why),
            };
        }
        reason.map_or(Detected::NotPython, Detected::Unknown)
    }

    /// What a file says; `None`: it does not hold the interpreter (a small executable beside a shared library does not).
    fn symbols(&mut self, module: &Module) -> Result<Option<Arc<Symbols>>, String> {
        if self.files.len() >= MOST_MODULES {
            self.files.clear();
        }
        let read = || match &module.image {
            Ok(image) => Symbols::read(base_name(&module.path), image).map(Arc::new),
            Err(why) => Err(format!("{}: {why}", module.path)),
        };
        let symbols = self.files.entry(module.id).or_insert_with(read).clone()?;
        Ok(symbols.runtime.is_some().then_some(symbols))
    }
}

/// The modules whose names say Python, each once.
fn candidates(space: &AddressSpace) -> Vec<&Module> {
    let mut modules: Vec<&Module> = Vec::new();
    for mapping in &space.mappings {
        if let Backing::Module(module) = &mapping.backing
            && modules.last().is_none_or(|last| last.id != module.id)
            && is_python(base_name(&module.path))
            && modules.iter().all(|known| known.id != module.id)
        {
            modules.push(module);
        }
    }
    modules
}

fn base_name(path: &str) -> &str {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}

fn is_python(name: &str) -> bool {
    name.strip_prefix("lib").unwrap_or(name).starts_with("python")
}

/// What is added to an address of the file to give one of the process.
fn bias(space: &AddressSpace, module: &Module) -> Option<u64> {
    let image = module.image.as_ref().ok()?;
    let of_this = |mapping: &&Mapping| mapping.module().is_some_and(|of| of.id == module.id);
    space.mappings.iter().filter(of_this).find_map(|mapping| {
        let end = mapping.offset.saturating_add(mapping.end.saturating_sub(mapping.start));
        let holds = |segment: &&Segment| {
            // The mapping begins at the start of the page in which the segment does.
            segment.executable == mapping.executable
                && mapping.offset <= segment.offset.saturating_add(segment.len_bytes)
                && segment.offset < end
        };
        let segment = image.segments.iter().find(holds)?;
        let address = segment.address.wrapping_sub(segment.offset).wrapping_add(mapping.offset);
        Some(mapping.start.wrapping_sub(address))
    })
}

/// The interpreter, checked against the process's memory; `None`: it has not begun.
fn interpreter(
    symbols: &Symbols,
    (module, bias): (ModuleId, u64),
    memory: &mut dyn ReadMemory,
) -> Result<Option<Interpreter>, String> {
    let Some(runtime) = &symbols.runtime else { return Ok(None) };
    let runtime = runtime.start.wrapping_add(bias)..runtime.end.wrapping_add(bias);
    let (version, layout) = layout_of(symbols, runtime.start, memory)?;
    let (Some(code), Some(text), Some(bytes)) = (symbols.code_type, symbols.text_type, symbols.bytes_type) else {
        return Err(format!("CPython {version}: its file does not name the types of code, str and bytes"));
    };
    if symbols.eval.is_empty() {
        return Err(format!("CPython {version}: its file does not name the evaluator"));
    }
    let head = runtime.start.wrapping_add(layout.head);
    if !has_begun(version, &layout, head, memory)? {
        return Ok(None);
    }
    let eval_bytes = symbols.eval.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add);
    Ok(Some(Interpreter {
        version,
        process: PythonProcess { interpreters_head: head, ..layout.process },
        eval: symbols.eval.iter().map(|range| range.start.wrapping_add(bias)..range.end.wrapping_add(bias)).collect(),
        tail_calls: version.minor >= 14 && eval_bytes < SMALL_EVALUATOR_BYTES,
        gil: gil::find(version, &runtime, head, memory),
        runtime,
        module,
        collector: symbols.collector.clone(),
        code: layout.code,
        types: Types { code: code.wrapping_add(bias), text: text.wrapping_add(bias), bytes: bytes.wrapping_add(bias) },
    }))
}

/// From the interpreter itself where it says so, from the tables where its file does.
fn layout_of(symbols: &Symbols, runtime: u64, memory: &mut dyn ReadMemory) -> Result<(Version, Layout), String> {
    let mut bytes = [0; PUBLISHED_BYTES];
    if memory.read(runtime, &mut bytes)
        && let Some(result) = layout::published(&bytes)
    {
        return result;
    }
    let version = symbols.version.clone()?;
    let layout = layout::table(version.minor).ok_or_else(|| {
        let which =
            if version.minor < 8 { "before 3.8" } else { "without the table of offsets that such a version has" };
        format!("CPython {version}: {which}")
    })?;
    Ok((version, layout))
}

/// Follows the first structures: whether they are there, and whether they refer to each other as they must.
fn has_begun(version: Version, layout: &Layout, head: u64, memory: &mut dyn ReadMemory) -> Result<bool, String> {
    let unreadable = || format!("CPython {version}: its memory could not be read");
    let interpreter = word(memory, head).ok_or_else(unreadable)?;
    if interpreter == 0 {
        return Ok(false);
    }
    let other = || format!("CPython {version}: its structures are not as this version has them");
    let threads = interpreter.wrapping_add(u64::from(layout.process.interpreter_threads));
    let thread = word(memory, threads).ok_or_else(other)?;
    if thread == 0 {
        return Ok(false);
    }
    let back = word(memory, thread.wrapping_add(THREAD_INTERPRETER)).ok_or_else(other)?;
    if back == interpreter { Ok(true) } else { Err(other()) }
}

#[cfg(test)]
#[path = "detect_tests.rs"]
mod tests;
