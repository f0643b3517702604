//! What a file says of the interpreter in it: symbols and version. Addresses are the file's own.

use std::ops::Range;

use object::{Architecture, Object, ObjectSymbol, ObjectSymbolTable, SymbolKind, read::elf::ElfFile64};

use super::collector::{by_probe, is_collector};
use super::parts::parts;
use crate::{process::Image, python::layout::Version};

/// Most symbols that are looked at in one table.
const MOST_SYMBOLS: usize = 4 << 20;

/// Most symbols of the collector.
const MOST_COLLECTORS: usize = 16;

/// See the file's head.
#[derive(Debug)]
pub struct Symbols {
    /// `_PyRuntime`; none: the interpreter is not in this file.
    pub runtime: Option<Range<u64>>,
    /// `_PyEval_EvalFrameDefault`, and the parts of it that the compiler put elsewhere.
    pub eval: Vec<Range<u64>>,
    /// `PyCode_Type`.
    pub code_type: Option<u64>,
    /// `PyUnicode_Type`.
    pub text_type: Option<u64>,
    /// `PyBytes_Type`.
    pub bytes_type: Option<u64>,
    /// The collector of garbage; empty: nothing tells where it is.
    pub collector: Vec<Range<u64>>,
    /// The version as the file has it, or why it does not tell.
    pub version: Result<Version, String>,
}

impl Symbols {
    /// Reads a file; `name` is its name without folders.
    pub fn read(name: &str, image: &Image) -> Result<Self, String> {
        let bytes: &[u8] = &image.bytes;
        let file = ElfFile64::parse(bytes).map_err(|error| format!("{name}: {error}"))?;
        let mut found = Self::none();
        let mut version_at = None;
        for table in [file.dynamic_symbol_table(), file.symbol_table()].into_iter().flatten() {
            for symbol in table.symbols().take(MOST_SYMBOLS) {
                if symbol.is_undefined() || !matches!(symbol.kind(), SymbolKind::Data | SymbolKind::Text) {
                    continue;
                }
                if let Ok(name) = symbol.name_bytes() {
                    found.take(name, symbol.address(), symbol.size(), &mut version_at);
                }
            }
        }
        if found.runtime.is_none() {
            return Ok(found);
        }
        if file.architecture() != Architecture::X86_64 {
            return Err(format!("{name}: Python frames are read on x86-64 only"));
        }
        if let [eval] = &found.eval[..] {
            let parts = parts(&file, image, eval);
            found.eval.extend(parts);
        }
        if found.collector.is_empty() {
            found.collector = by_probe(&file, image);
        }
        found.version = match version_at
            .and_then(|at| image.bytes_at(at, 8)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)))
        {
            Some(hex) => from_hex(name, hex),
            None => from_text(name, bytes),
        };
        Ok(found)
    }

    fn none() -> Self {
        let version = Err("CPython of unknown version".to_owned());
        Self {
            runtime: None,
            eval: Vec::new(),
            code_type: None,
            text_type: None,
            bytes_type: None,
            collector: Vec::new(),
            version,
        }
    }

    fn take(&mut self, name: &[u8], address: u64, len_bytes: u64, version_at: &mut Option<u64>) {
        let range = address..address.saturating_add(len_bytes);
        match name {
            b"_PyRuntime" => self.runtime = Some(range),
            b"PyCode_Type" => self.code_type = Some(address),
            b"PyUnicode_Type" => self.text_type = Some(address),
            b"PyBytes_Type" => self.bytes_type = Some(address),
            b"Py_Version" => *version_at = Some(address),
            _ if is_collector(name) => {
                if !range.is_empty() && !self.collector.contains(&range) && self.collector.len() < MOST_COLLECTORS {
                    self.collector.push(range);
                }
            }
            _ => {
                if let Some(rest) = name.strip_prefix(b"_PyEval_EvalFrameDefault")
                    && (rest.is_empty() || rest.starts_with(b".cold"))
                    && !range.is_empty()
                    && !self.eval.contains(&range)
                {
                    self.eval.push(range);
                }
            }
        }
    }
}

/// `Py_Version` of 3.11 and later.
fn from_hex(name: &str, hex: u64) -> Result<Version, String> {
    let [release, micro, minor, major] = (hex as u32).to_le_bytes();
    if major != 3 || release >> 4 != 0xf {
        return Err(format!("{name}: CPython of version {hex:#x}, which is no final release of 3"));
    }
    Ok(Version { minor, micro: Some(micro) })
}

/// The version that the file's name says, if its text says so too: `3.9.18` ends some text in it.
pub(super) fn from_text(name: &str, bytes: &[u8]) -> Result<Version, String> {
    let unknown = || format!("{name}: CPython of unknown version");
    let digits: String =
        name.split_once("python3.").ok_or_else(unknown)?.1.chars().take_while(char::is_ascii_digit).collect();
    let minor: u8 = digits.parse().map_err(|_| unknown())?;
    let start = format!("3.{minor}.");
    let mut micro = None;
    for at in memchr::memmem::find_iter(bytes, start.as_bytes()) {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before)).copied().unwrap_or(0);
        let rest = &bytes[at + start.len()..];
        let len = rest.iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
        let ends = rest.get(len).is_some_and(|byte| *byte == 0 || *byte == b'+');
        if before.is_ascii_digit() || before == b'.' || len == 0 || !ends {
            continue;
        }
        let found: Option<u8> = str::from_utf8(&rest[..len]).ok().and_then(|text| text.parse().ok());
        micro = match (micro, found) {
            (None, Some(found)) => Some(Some(found)),
            (Some(before), Some(found)) if before != Some(found) => Some(None),
            (before, _) => before,
        };
    }
    Ok(Version { minor, micro: micro.ok_or_else(unknown)? })
}
