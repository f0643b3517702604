//! Names of kernel functions, from /proc/kallsyms, in one pass.
//!
//! The list has no sizes: a function reaches to the next symbol of any kind, and at most 256 KiB. Not here: lines, which need a
//! kernel image that is almost never there.

use std::{
    cmp::Reverse,
    fs::File,
    io::{BufRead, BufReader, Read},
};

use crate::{
    model::meta::SymbolName,
    symbol::{Named, demangle, missing},
};

/// No function of a kernel is larger.
const MAX_FUNCTION_BYTES: u64 = 256 << 10;
/// Longest line; names have at most 512 bytes.
const MAX_LINE_BYTES: u64 = 4096;

/// One [`Named`] for each address.
pub fn name(addresses: &[u64]) -> Vec<Named> {
    match File::open("/proc/kallsyms") {
        Ok(file) => name_by(BufReader::with_capacity(1 << 16, file), addresses),
        Err(_) => vec![Named::missing(missing::UNREADABLE); addresses.len()],
    }
}

/// The symbol that starts last at or before an address; of two that start there, the greater one.
type Best = Option<Candidate>;
/// Start, whether it is a function, whether it is global, name: shorter ones and those earlier in the alphabet are greater.
type Candidate = (u64, bool, bool, Reverse<(usize, String)>);

fn name_by(mut list: impl BufRead, addresses: &[u64]) -> Vec<Named> {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut best: Vec<Best> = vec![None; sorted.len()];
    let (mut line, mut shown, mut cut) = (Vec::with_capacity(256), false, false);
    loop {
        line.clear();
        match (&mut list).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => {
                cut = true;
                break;
            }
        }
        let line = String::from_utf8_lossy(&line);
        let Some((start, kind, symbol)) = parse(&line) else { continue };
        shown |= start != 0;
        let index = sorted.partition_point(|address| *address < start);
        let Some(best) = best.get_mut(index).filter(|_| start != 0) else { continue };
        let function = matches!(kind, 't' | 'T' | 'w' | 'W');
        if best.as_ref().is_some_and(|(known, ..)| *known > start) {
            continue;
        }
        let candidate = Some((start, function, kind.is_ascii_uppercase(), Reverse((symbol.len(), symbol.to_owned()))));
        if candidate > *best {
            *best = candidate;
        }
    }
    // What is best for an address is also a candidate for all that follow it.
    for index in 1..best.len() {
        if best[index - 1] > best[index] {
            best[index] = best[index - 1].clone();
        }
    }
    let word = match (shown, cut) {
        (_, true) => missing::UNREADABLE,
        (false, _) => missing::ADDRESSES_HIDDEN,
        _ => missing::NOT_COVERED,
    };
    let of = |address: &u64| {
        let best = sorted.binary_search(address).ok().and_then(|index| best.get(index)?.as_ref());
        named(best, *address, word)
    };
    addresses.iter().map(of).collect()
}

fn named(best: Option<&Candidate>, address: u64, word: &str) -> Named {
    match best {
        Some((start, true, _, Reverse((_, symbol)))) if address - start < MAX_FUNCTION_BYTES => Named {
            names: vec![SymbolName { function: demangle::readable(symbol), ..SymbolName::default() }],
            missing: None,
        },
        _ => Named::missing(word),
    }
}

fn parse(line: &str) -> Option<(u64, char, &str)> {
    let mut words = line.split_ascii_whitespace();
    let start = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = words.next()?.chars().next()?;
    let symbol = words.next()?;
    // Marks in code, not functions.
    (!symbol.starts_with('$')).then_some((start, kind, symbol))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
ffffffff81000000 T _stext
ffffffff81000000 T startup_64
ffffffff81000100 t helper
ffffffff81000200 D some_data
ffffffff81000300 t local_alias
ffffffff81000300 T global_alias_long
ffffffff81000300 T global_alias
not an address
ffffffffc0001000 t in_module\t[module]
ffffffff81000400 T core_after_module
";

    fn function(named: &Named) -> Option<&str> {
        named.names.first().map(|name| name.function.as_str())
    }

    #[test]
    fn a_kernel_address_has_the_name_of_the_symbol_before_it_whatever_the_order_of_the_list() {
        let addresses = [
            0xffff_ffff_8100_0104,
            0xffff_ffff_8100_0301,
            0xffff_ffff_8100_0450,
            0xffff_ffff_c000_1010,
            0xffff_ffff_8100_00ff,
        ];
        let named = name_by(LIST.as_bytes(), &addresses);
        let names: Vec<_> = named.iter().map(function).collect();
        let expected = ["helper", "global_alias", "core_after_module", "in_module", "_stext"].map(Some);
        assert_eq!(names, expected, "global before local, then the shorter name");
    }

    #[test]
    fn an_address_in_data_before_everything_or_far_behind_a_symbol_has_no_name() {
        let named = name_by(LIST.as_bytes(), &[0xffff_ffff_8100_0210, 0x1000, 0xffff_ffff_8200_0000]);
        assert!(named.iter().all(|named| named == &Named::missing(missing::NOT_COVERED)), "{named:?}");
    }

    #[test]
    fn hidden_kernel_addresses_are_said_to_be_hidden() {
        let named =
            name_by("0000000000000000 T _stext\n0000000000000000 t helper\n".as_bytes(), &[0xffff_ffff_8100_0104]);
        assert_eq!(named, [Named::missing(missing::ADDRESSES_HIDDEN)]);
    }

    #[test]
    fn nonsense_instead_of_a_list_of_symbols_names_nothing() {
        let named = name_by(&[0xff, 0, 0x0a, b'f', b' ', 0x0a][..], &[1, u64::MAX, 0, 15]);
        assert!(named.iter().all(|named| named.names.is_empty()), "{named:?}");
    }
}
