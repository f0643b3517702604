//! Names as a programmer wrote them: Rust and C++ demangled, printable, of bounded length.

use std::fmt;

use cpp_demangle::{DemangleOptions, Symbol};

/// Longest name given; C++ templates make names of 100 KB. The rest is cut, which an ellipsis shows.
const MAX_NAME_BYTES: usize = 1024;

/// The name to show for a symbol.
pub fn readable(symbol: &str) -> String {
    let mut out = Bounded::default();
    if let Ok(name) = rustc_demangle::try_demangle(symbol) {
        // Without the hash at the end.
        let whole = fmt::write(&mut out, format_args!("{name:#}"));
        return out.finish(whole.is_ok()).unwrap_or_else(|| printable(symbol));
    }
    if symbol.starts_with("_Z")
        && let Ok(parsed) = Symbol::new(symbol)
    {
        let whole = parsed.structured_demangle(&mut Structured(&mut out), &DemangleOptions::default());
        return out.finish(whole.is_ok()).unwrap_or_else(|| printable(symbol));
    }
    printable(symbol)
}

/// Without control characters, and not too long: names come from files that anyone may have written.
pub fn printable(name: &str) -> String {
    let mut out = Bounded::default();
    // Failing means only that it is full, which it knows itself.
    let _ = fmt::Write::write_str(&mut out, name);
    out.finish(true).unwrap_or_default()
}

/// Takes 1 KiB of text and then fails: a mangled name of 100 bytes can stand for gigabytes.
#[derive(Default)]
struct Bounded {
    text: String,
    full: bool,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.text.len() >= MAX_NAME_BYTES {
                self.full = true;
                return Err(fmt::Error);
            }
            self.text.push(if character.is_control() { char::REPLACEMENT_CHARACTER } else { character });
        }
        Ok(())
    }
}

impl Bounded {
    /// None: what was written is not a name, for another reason than that it was too long.
    fn finish(mut self, whole: bool) -> Option<String> {
        if self.full {
            self.text.push('…');
        }
        (whole || self.full).then_some(self.text)
    }
}

struct Structured<'a>(&'a mut Bounded);

impl cpp_demangle::DemangleWrite for Structured<'_> {
    fn write_string(&mut self, text: &str) -> fmt::Result {
        fmt::Write::write_str(self.0, text)
    }
}
