//! Addresses of kernel symbols, from /proc/kallsyms.

use std::{
    fs::File,
    io::{BufRead, BufReader},
};

/// Addresses of these symbols, in their order; `None` for a symbol that is not there or whose address is hidden. Reading stops
/// as soon as all are found.
pub fn addresses<const N: usize>(names: [&str; N]) -> [Option<u64>; N] {
    let mut found = [None; N];
    if let Ok(file) = File::open("/proc/kallsyms") {
        scan(BufReader::with_capacity(1 << 16, file), names, &mut found);
    }
    found
}

fn scan<const N: usize>(mut lines: impl BufRead, names: [&str; N], found: &mut [Option<u64>; N]) {
    let mut line = String::with_capacity(256);
    let mut open = N;
    while open > 0 {
        line.clear();
        if !matches!(lines.read_line(&mut line), Ok(1..)) {
            return;
        }
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
        let Some(index) = names.iter().position(|wanted| *wanted == name) else { continue };
        if found[index].is_none()
            && words.next().is_none()
            && let Ok(address) = u64::from_str_radix(address, 16)
            && address != 0
        {
            found[index] = Some(address);
            open -= 1;
        }
    }
}

/// The addresses of one function: from its symbol to the next one. `None` when they are hidden or it is not there.
pub fn range(name: &str) -> Option<std::ops::Range<u64>> {
    let [start] = addresses([name]);
    let start = start?;
    let file = File::open("/proc/kallsyms").ok()?;
    next_after(BufReader::with_capacity(1 << 16, file), start).map(|end| start..end)
}

/// The least address above this one.
fn next_after(lines: impl BufRead, start: u64) -> Option<u64> {
    let address = |line: String| u64::from_str_radix(line.split(' ').next()?, 16).ok();
    lines.lines().map_while(Result::ok).filter_map(address).filter(|address| *address > start).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_and_missing_symbols_are_none_and_modules_do_not_count() {
        let text = "0000000000000000 T hidden\nffffffff81000000 T wanted\nffffffffc0000000 t other\t[module]\n";
        let mut found = [None; 3];
        scan(text.as_bytes(), ["wanted", "hidden", "other"], &mut found);
        assert_eq!(found, [Some(0xffff_ffff_8100_0000), None, None]);
    }

    #[test]
    fn a_function_ends_where_the_next_symbol_starts_wherever_that_is_listed() {
        let text =
            "ffffffff81000040 T later\nffffffff81000000 T wanted\nffffffff81000000 t alias\nffffffff81000020 t next\n";
        assert_eq!(next_after(text.as_bytes(), 0xffff_ffff_8100_0000), Some(0xffff_ffff_8100_0020));
    }
}
