//! What debug information says of an address, by blazesym. Runs in the helper only.
//!
//! blazesym fails a whole question for one bad address and reads a damaged file again for each question: so a question that
//! fails is asked again address by address, and a file that never gave an answer is given up.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use blazesym::symbolize::{
    CodeInfo, Input, Sym, Symbolized, Symbolizer,
    source::{Elf, Source},
};
use serde::{Deserialize, Serialize};

use crate::{model::meta::SymbolName, symbol::demangle};

/// Addresses that may fail, one after the other, before a file is given up.
const MAX_FAILURES: usize = 4;

/// About one address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The function that it lies in, with file and line; its name may be empty: not known. None: nothing is known.
    pub function: Option<SymbolName>,
    /// Functions inlined there, the innermost first.
    pub inlined: Vec<SymbolName>,
}

/// About the addresses of one question.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// One for each.
    pub answers: Vec<Answer>,
    /// What went wrong, in a sentence.
    pub problem: Option<String>,
}

/// Reads one file at a time; the one before is let go.
#[derive(Default)]
pub struct Reader {
    open: Option<(PathBuf, Symbolizer)>,
    given_up: Option<PathBuf>,
}

impl Reader {
    /// Answers for `addresses` in the file at `path`.
    pub fn answer(&mut self, path: &Path, addresses: &[u64]) -> Reply {
        if self.given_up.as_deref() == Some(path) {
            return Reply { answers: vec![Answer::default(); addresses.len()], problem: None };
        }
        if self.open.as_ref().is_none_or(|(open, _)| open != path) {
            self.open = Some((path.to_owned(), symbolizer()));
        }
        let Some((_, symbolizer)) = &self.open else { return Reply::default() };
        // Left behind half-way, a symboliser may be in any state: it is dropped.
        let outcome = catch_unwind(AssertUnwindSafe(|| answers(symbolizer, path, addresses)));
        let (answers, problem, give_up) =
            outcome.unwrap_or_else(|_| (Vec::new(), Some("its reader failed".to_owned()), true));
        if give_up {
            self.open = None;
            self.given_up = Some(path.to_owned());
        }
        let mut reply = Reply { answers, problem };
        reply.answers.resize(addresses.len(), Answer::default());
        reply
    }
}

fn symbolizer() -> Symbolizer {
    // Demangling is ours: its output is bounded. A file is never replaced under its descriptor: no need to look.
    Symbolizer::builder()
        .enable_auto_reload(false)
        .enable_code_info(true)
        .enable_inlined_fns(true)
        .enable_demangling(false)
        .build()
}

fn answers(symbolizer: &Symbolizer, path: &Path, addresses: &[u64]) -> (Vec<Answer>, Option<String>, bool) {
    let source = Source::Elf(Elf::new(path));
    if let Ok(symbols) = symbolizer.symbolize(&source, Input::VirtOffset(addresses)) {
        return (
            symbols.into_iter().zip(addresses).map(|(symbol, address)| answer(symbol, *address)).collect(),
            None,
            false,
        );
    }
    let mut answers = Vec::with_capacity(addresses.len());
    let (mut problem, mut failures) = (None, 0);
    for address in addresses {
        match symbolizer.symbolize_single(&source, Input::VirtOffset(*address)) {
            Ok(symbol) => {
                answers.push(answer(symbol, *address));
                failures = 0;
            }
            Err(error) => {
                answers.push(Answer::default());
                problem = Some(error.to_string());
                failures += 1;
            }
        }
        if failures == MAX_FAILURES {
            return (answers, problem, true);
        }
    }
    (answers, problem, false)
}

fn answer(symbol: Symbolized<'_>, address: u64) -> Answer {
    let Symbolized::Sym(symbol) = symbol else { return Answer::default() };
    let covers = covers(&symbol, address);
    // From outside to inside, each with the line that runs in it.
    let inlined = symbol.inlined.iter().rev();
    let inlined =
        inlined.map(|function| SymbolName { inlined: true, ..name(&function.name, function.code_info.as_ref()) });
    let inlined = inlined.collect();
    let function = name(if covers { &symbol.name } else { "" }, symbol.code_info.as_deref());
    Answer { function: (!function.function.is_empty() || function.line.is_some()).then_some(function), inlined }
}

/// A symbol without size is taken by blazesym for everything up to the next one.
fn covers(symbol: &Sym<'_>, address: u64) -> bool {
    symbol.size.is_some_and(|size| address.checked_sub(symbol.addr).is_some_and(|offset| offset < size as u64))
}

fn name(function: &str, code: Option<&CodeInfo<'_>>) -> SymbolName {
    SymbolName {
        function: demangle::readable(function),
        file: code.map(|code| demangle::printable(&code.to_path().to_string_lossy())).filter(|file| !file.is_empty()),
        line: code.and_then(|code| code.line).filter(|line| *line != 0),
        inlined: false,
    }
}
