//! Addresses of kernel symbols, from /proc/kallsyms.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    ops::Range,
};

/// The addresses of one function: from its symbol to the next one. `None` when they are hidden or it is not there.
pub fn range(name: &str) -> Option<Range<u64>> {
    range_in(BufReader::with_capacity(1 << 16, File::open("/proc/kallsyms").ok()?), name)
}

/// Where these functions begin, from one reading. `None`: hidden, or not there.
pub fn addresses<const N: usize>(names: [&str; N]) -> [Option<u64>; N] {
    let mut found = [None; N];
    if let Ok(file) = File::open("/proc/kallsyms") {
        addresses_in(BufReader::with_capacity(1 << 16, file), names, &mut found);
    }
    found
}

fn addresses_in<const N: usize>(mut lines: impl BufRead, names: [&str; N], found: &mut [Option<u64>; N]) {
    let mut line = Vec::with_capacity(256);
    while found.contains(&None) {
        line.clear();
        if !matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
            return;
        }
        let mut words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let (Some(address), Some(_), Some(symbol)) = (words.next(), words.next(), words.next()) else { continue };
        let Some(at) = names.iter().position(|name| name.as_bytes() == symbol) else { continue };
        let address = hexadecimal(address).filter(|address| *address != 0);
        found[at] = found[at].or(address);
    }
}

/// The kernel lists its own symbols by address, the modules' behind them. While that holds, the next one in the list is the next one
/// in memory, and the rest need not be read.
fn range_in(mut lines: impl BufRead, name: &str) -> Option<Range<u64>> {
    let mut line = Vec::with_capacity(256);
    let mut addresses: Vec<u64> = Vec::with_capacity(1 << 17);
    let mut start = None;
    let mut in_order = true;
    loop {
        line.clear();
        if !matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
            break;
        }
        let mut words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let (Some(address), Some(_), Some(symbol)) = (words.next(), words.next(), words.next()) else { continue };
        let Some(address) = hexadecimal(address) else { continue };
        in_order &= addresses.last().is_none_or(|last| *last <= address);
        addresses.push(address);
        if start.is_none() && symbol == name.as_bytes() && words.next().is_none() && address != 0 {
            start = Some(address);
        }
        if in_order && start.is_some_and(|start| address > start) {
            break;
        }
    }
    let start = start?;
    addresses.into_iter().filter(|address| *address > start).min().map(|end| start..end)
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_and_missing_symbols_are_none_and_modules_do_not_count() {
        let text = "0000000000000000 T hidden\nffffffff81000000 T wanted\nffffffffc0000000 t other\t[module]\n\
                    ffffffffc0000010 t last\t[module]\n";
        assert_eq!(range_in(text.as_bytes(), "wanted"), Some(0xffff_ffff_8100_0000..0xffff_ffff_c000_0000));
        assert_eq!(range_in(text.as_bytes(), "hidden"), None, "its address is zero for those who may not see it");
        assert_eq!(range_in(text.as_bytes(), "other"), None, "it is a module's");
        assert_eq!(range_in(text.as_bytes(), "missing"), None);
    }

    #[test]
    fn several_are_found_in_one_reading() {
        let text =
            "ffffffff81000000 T one\n0000000000000000 t hidden\nffffffff81000040 t two\nffffffff81000080 t two\n";
        let mut found = [None; 3];
        addresses_in(text.as_bytes(), ["two", "hidden", "one"], &mut found);
        assert_eq!(found, [Some(0xffff_ffff_8100_0040), None, Some(0xffff_ffff_8100_0000)]);
    }

    #[test]
    fn a_function_ends_where_the_next_symbol_starts_wherever_that_is_listed() {
        let text =
            "ffffffff81000040 T later\nffffffff81000000 T wanted\nffffffff81000000 t alias\nffffffff81000020 t next\n";
        assert_eq!(range_in(text.as_bytes(), "wanted"), Some(0xffff_ffff_8100_0000..0xffff_ffff_8100_0020));
    }

    #[test]
    fn where_the_list_is_in_order_it_is_read_no_further_than_the_function() {
        let text =
            "ffffffff81000000 T wanted\nffffffff81000000 t alias\nffffffff81000020 t next\nffffffff81000010 t x\n";
        let mut rest = text.as_bytes();
        assert_eq!(range_in(&mut rest, "wanted"), Some(0xffff_ffff_8100_0000..0xffff_ffff_8100_0020));
        assert_eq!(rest, b"ffffffff81000010 t x\n");
    }
}
