//! Names for addresses: of files (symbol tables, debug information), of the kernel, and of code that JITs write maps of.
//!
//! Work after the run, on files that [`process`](crate::process) keeps open, so the process may be gone and the file unlinked. Two
//! steps: the symbol tables are read here, by bounded reads; debug information (inlined functions, file and line) is read by
//! blazesym in a helper process ([`helper`]), since a hostile file can make any reader of DWARF run out of stack, memory or time.
//! A name is given only where a symbol's size or a function's range covers the address: never the neighbour's name.
//! Not here: which addresses belong to which file, Python's names.

pub mod clients;
mod debug_file;
mod demangle;
mod dwarf;
mod elf;
pub mod entry;
pub mod helper;
mod kernel;
pub mod perf_map;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_hostile;
pub mod usdt;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    model::meta::SymbolName,
    process::{Module, patience::Patience},
    symbol::{
        debug_file::DebugFile,
        elf::{Elf, Source},
        helper::{Helper, HelperKind},
        table::Found,
    },
};

/// A file whose symbol tables take longer to come is not waited for, so that there is time for those of others.
const LONGEST_FOR_A_FILE: Duration = Duration::from_secs(5);
/// Addresses that one question to the helper holds. A question that fails is repeated address by address.
const QUESTION_ADDRESSES: usize = 256;
/// Helpers started at most: each one that dies costs the names of one module's lines.
const MAX_HELPERS: u32 = 8;
/// Sentences kept in [`Symboliser::problems`].
const MAX_PROBLEMS: usize = 32;

/// What naming may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Time for debug information, of all modules together.
    pub debug_info: Duration,
    /// Time for symbol tables, of all modules together.
    pub symbol_tables: Duration,
    /// Files with debug information that are larger are left alone.
    pub debug_file_bytes: u64,
    /// What reads debug information.
    pub helper: HelperKind,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            debug_info: Duration::from_secs(10),
            symbol_tables: Duration::from_secs(10),
            debug_file_bytes: 2 << 30,
            helper: HelperKind::Itself,
        }
    }
}

/// What is known of an address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Named {
    /// The innermost inlined function first; empty: none is known.
    pub names: Vec<SymbolName>,
    /// Why there is no name: see [`missing`]. With names and [`missing::TIMED_OUT`]: lines and inlined functions were not looked up.
    pub missing: Option<String>,
}

/// Words of `Named::missing`.
pub mod missing {
    /// The file has no symbols at all.
    pub const NO_SYMBOLS: &str = "no-symbols";
    /// No symbol covers the address.
    pub const NOT_COVERED: &str = "not-covered";
    /// The file could not be read, or is not what it should be.
    pub const UNREADABLE: &str = "unreadable";
    /// There was no time left.
    pub const TIMED_OUT: &str = "timed-out";
    /// The kernel does not show its addresses (`kernel.kptr_restrict`).
    pub const ADDRESSES_HIDDEN: &str = "addresses-hidden";
}

impl Named {
    fn missing(word: &str) -> Self {
        Self { names: Vec::new(), missing: Some(word.to_owned()) }
    }
}

/// Names addresses within [`Limits`]. Drop it when done: the helper ends and its memory is given back.
#[derive(Debug)]
pub struct Symboliser {
    limits: Limits,
    helper: Option<Helper>,
    helpers_started: u32,
    debug_info_left: Duration,
    symbol_tables_left: Duration,
    patience: Patience,
    problems: Vec<String>,
}

impl Symboliser {
    /// Starts nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            debug_info_left: limits.debug_info,
            symbol_tables_left: limits.symbol_tables,
            limits,
            helper: None,
            helpers_started: 0,
            patience: Patience::default(),
            problems: Vec::new(),
        }
    }

    /// What went wrong, in sentences; at most 32.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Names for `addresses` of the kernel, one each. Without lines.
    pub fn kernel(&mut self, addresses: &[u64]) -> Vec<Named> {
        kernel::name(addresses)
    }

    /// Names for `addresses` (in the file's own numbering), one each. Calls `progress` with the number of addresses done, now and then.
    pub fn module(&mut self, module: &Module, addresses: &[u64], progress: &mut dyn FnMut(usize)) -> Vec<Named> {
        let mut sorted = addresses.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut named = self.by_tables(module, &sorted);
        if let Some(debug_info) = named.debug_info.take() {
            self.add_debug_info(&debug_info.open_path(), &module.path, &sorted, &mut named.named, progress);
        }
        progress(addresses.len());
        let of = |address: &u64| sorted.binary_search(address).ok().and_then(|index| named.named.get(index)).cloned();
        addresses.iter().map(|address| of(address).unwrap_or_default()).collect()
    }

    fn by_tables(&mut self, module: &Module, sorted: &[u64]) -> ByTables {
        let started = Instant::now();
        let deadline = started + self.symbol_tables_left;
        let debug_file_bytes = self.limits.debug_file_bytes;
        let found = match &module.far {
            None => look_in_tables(module, sorted, deadline, debug_file_bytes),
            Some(_) if self.symbol_tables_left.is_zero() => {
                Ok(ByTables { named: vec![Named::missing(missing::TIMED_OUT); sorted.len()], debug_info: None })
            }
            Some(system) => {
                let (module, sorted) = (module.clone(), sorted.to_vec());
                let work = move || look_in_tables(&module, &sorted, deadline, debug_file_bytes);
                let longest = self.symbol_tables_left.min(LONGEST_FOR_A_FILE);
                self.patience.within(longest, system, work).unwrap_or_else(|why| Err(elf::ElfError::NoBytes(why)))
            }
        };
        self.symbol_tables_left = self.symbol_tables_left.saturating_sub(started.elapsed());
        match found {
            Ok(found) => found,
            Err(why) => {
                self.problem(format!("{}: {why}: its functions have no names", module.path));
                ByTables { named: vec![Named::missing(missing::UNREADABLE); sorted.len()], debug_info: None }
            }
        }
    }

    /// Asks the helper about each address and lets its answers amend `named`.
    fn add_debug_info(
        &mut self,
        path: &Path,
        shown: &str,
        sorted: &[u64],
        named: &mut [Named],
        progress: &mut dyn FnMut(usize),
    ) {
        let mut done = 0;
        for (addresses, named) in sorted.chunks(QUESTION_ADDRESSES).zip(named.chunks_mut(QUESTION_ADDRESSES)) {
            match self.ask(path, shown, addresses) {
                Ok(answers) => named.iter_mut().zip(answers).for_each(|(named, answer)| amend(named, answer)),
                Err(Failure::TimedOut) => {
                    named.iter_mut().for_each(|named| named.missing = Some(missing::TIMED_OUT.to_owned()))
                }
                Err(Failure::Died) => return,
            }
            done += addresses.len();
            progress(done);
        }
    }

    fn ask(&mut self, path: &Path, shown: &str, addresses: &[u64]) -> Result<Vec<dwarf::Answer>, Failure> {
        if self.debug_info_left.is_zero() {
            return Err(Failure::TimedOut);
        }
        if self.helper.is_none() {
            if self.helpers_started == MAX_HELPERS {
                return Err(Failure::Died);
            }
            self.helpers_started += 1;
            self.helper = match Helper::start(&self.limits.helper) {
                Ok(helper) => Some(helper),
                Err(error) => {
                    self.helpers_started = MAX_HELPERS;
                    self.problem(format!(
                        "the helper that reads debug information did not start: {error}: no lines are known"
                    ));
                    return Err(Failure::Died);
                }
            };
        }
        let Some(helper) = &mut self.helper else { return Err(Failure::Died) };
        let started = Instant::now();
        let answer = helper.ask(path, addresses, self.debug_info_left);
        self.debug_info_left = self.debug_info_left.saturating_sub(started.elapsed());
        match answer {
            Ok(reply) => {
                if let Some(why) = reply.problem {
                    self.problem(format!("{shown}: part of its debug information was not read: {why}"));
                }
                Ok(reply.answers)
            }
            Err(error) => {
                self.helper = None;
                self.problem(format!("{shown}: its debug information was not read: {error}"));
                Err(if matches!(error, helper::HelperError::TimedOut) {
                    self.debug_info_left = Duration::ZERO;
                    Failure::TimedOut
                } else {
                    Failure::Died
                })
            }
        }
    }

    fn problem(&mut self, sentence: String) {
        tracing::debug!("{sentence}");
        if self.problems.len() < MAX_PROBLEMS && !self.problems.contains(&sentence) {
            self.problems.push(sentence);
        }
    }
}

/// Why the helper gave no answer.
enum Failure {
    TimedOut,
    Died,
}

/// What the symbol tables say, and where debug information lies.
struct ByTables {
    named: Vec<Named>,
    debug_info: Option<DebugInfo>,
}

/// A file with debug information.
enum DebugInfo {
    /// The module itself.
    Own(PathBuf),
    /// Another one, held open.
    Apart(DebugFile),
}

impl DebugInfo {
    fn open_path(&self) -> PathBuf {
        match self {
            Self::Own(path) => path.clone(),
            Self::Apart(file) => file.open_path(),
        }
    }
}

fn look_in_tables(
    module: &Module,
    sorted: &[u64],
    deadline: Instant,
    debug_file_bytes: u64,
) -> Result<ByTables, elf::ElfError> {
    let source = Source::of(module)?;
    let file = Elf::read(&source)?;
    let mut search = table::Search::new(sorted, deadline);
    search.tables_of(&file)?;
    let mut debug_info = module.open_path.clone().filter(|_| file.has_debug_info()).map(DebugInfo::Own);
    if debug_info.is_none()
        && let Some(found) = debug_file::find(&file, module, debug_file_bytes, debug_file::DIRECTORIES)
    {
        match read_debug_file(&found, &mut search) {
            Ok(true) => debug_info = Some(DebugInfo::Apart(found)),
            Ok(false) => {}
            // Its symbol table would be worth having; where it is damaged, the file's own tables still count.
            Err(error) => tracing::debug!("{}: {error}", found.path.display()),
        }
    }
    let word = if search.timed_out() {
        missing::TIMED_OUT
    } else if search.symbols() == 0 {
        missing::NO_SYMBOLS
    } else {
        missing::NOT_COVERED
    };
    let named = search.finish().into_iter().map(|found| by_table(found, word)).collect();
    Ok(ByTables { named, debug_info })
}

/// Whether there is more in it than a symbol table.
fn read_debug_file(found: &DebugFile, search: &mut table::Search<'_>) -> Result<bool, elf::ElfError> {
    let source = found.source()?;
    let elf = Elf::read(&source)?;
    search.tables_of(&elf)?;
    Ok(elf.has_debug_info())
}

fn by_table(found: Option<Found>, word: &str) -> Named {
    match found {
        Some(found) => Named {
            names: vec![SymbolName { function: demangle::readable(&found.name), ..SymbolName::default() }],
            missing: None,
        },
        None => Named::missing(word),
    }
}

/// Adds what debug information knows. The function's own name stays that of the symbol table where there is one: it tells a clone
/// (`.cold`, `.constprop`) and an anonymous namespace, which debug information does not.
fn amend(named: &mut Named, answer: dwarf::Answer) {
    let Some(mut outer) = answer.function else { return };
    if let Some(symbol) = named.names.last() {
        outer.function.clone_from(&symbol.function);
    }
    if outer.function.is_empty() {
        return;
    }
    named.names = answer.inlined;
    named.names.push(outer);
    named.missing = None;
}
