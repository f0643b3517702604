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
}
