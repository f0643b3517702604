//! Type information of kernels, made small and kept with tracer's sources, so that its unit tests look for offsets in every kernel of the matrix
//! without booting one. What is kept of it is decided by the program that makes it (`tests/offline/reduce_btf`); here it is run, and
//! written down which packages the kernels were from.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};

use super::kernels::Kernel;
use crate::{sh::Cmd, workspace};

const FOLDER: &str = "tracer/src/kernel/fixtures";
const SOURCES: &str = "kernels.tsv";
const HEAD: &str = "# What the fixtures were made from, by `cargo xtask vm --fixtures`: line, version, Debian's package, its SHA-256.\n";

/// Writes the fixtures of some kernels; those of others stay.
pub fn write(kernels: &[Kernel]) -> Result<()> {
    let folder = workspace::root().join(FOLDER);
    let file = folder.join(SOURCES);
    let mut rows = parse(&fs::read_to_string(&file).unwrap_or_default());
    for kernel in kernels {
        Cmd::cargo()
            .args(["run", "--quiet", "-p", "tests", "--example", "reduce-btf", "--"])
            .arg(&kernel.image)
            .arg(folder.join(format!("{}.btf.zst", kernel.line)))
            .run()
            .with_context(|| format!("there is no fixture of {}", kernel.version))?;
        rows.insert(kernel.line.clone(), kernel.package()?.join("\t"));
    }
    fs::write(&file, text(&rows)).with_context(|| format!("cannot write {}", file.display()))
}

fn parse(text: &str) -> BTreeMap<String, String> {
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| line.split_once('\t')).map(|(line, rest)| (line.to_owned(), rest.to_owned())).collect()
}

fn text(rows: &BTreeMap<String, String>) -> String {
    let rows = rows.iter().map(|(line, rest)| format!("{line}\t{rest}\n"));
    HEAD.to_owned() + &rows.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_of_other_kernels_stays() {
        let mut rows = parse("# head\n5.10\t5.10.1-1\tlinux\tab\n6.1\t6.1.9-1\tlinux\tcd\n");
        rows.insert("6.1".to_owned(), "6.1.10-1\tlinux\tef".to_owned());
        assert_eq!(text(&rows), format!("{HEAD}5.10\t5.10.1-1\tlinux\tab\n6.1\t6.1.10-1\tlinux\tef\n"));
        assert_eq!(parse(&text(&rows)), rows);
    }
}
