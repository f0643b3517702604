//! Licences of all dependencies: permissive ones only.

use anyhow::{Context, Result};

use super::Problem;
use crate::sh::Cmd;

/// What may be linked into a binary that is MIT OR Apache-2.0, without further duties than to name the authors.
const ALLOWED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Platforms that tracer is built for: what other platforms would pull in is not shipped.
const PLATFORMS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// Dependencies whose licence is not allowed.
pub fn problems() -> Result<Vec<Problem>> {
    let platforms = PLATFORMS.iter().flat_map(|platform| ["--filter-platform", platform]);
    let command = Cmd::cargo().args(["metadata", "--locked", "--format-version", "1"]).args(platforms).quiet();
    let metadata: serde_json::Value =
        serde_json::from_str(&command.read()?).with_context(|| format!("`{command}` printed no JSON"))?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    Ok(packages
        .iter()
        .filter_map(|package| {
            let name = format!("{} {}", package["name"].as_str()?, package["version"].as_str()?);
            let licence = package["license"].as_str();
            (!licence.is_some_and(is_allowed)).then(|| {
                let licence = licence.unwrap_or("none that is named in its manifest");
                Problem::of(&name, format!("its licence is {licence}: only permissive ones are allowed"))
            })
        })
        .collect())
}

/// Whether an SPDX expression can be met with allowed licences alone. `/` is how older manifests write OR.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    any_of(&mut rest).is_some_and(|allowed| allowed && rest.is_empty())
}

/// `a OR b`; `None`: not an expression.
fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = all_of(words)?;
    while words.first() == Some(&"OR") {
        *words = &words[1..];
        allowed |= all_of(words)?;
    }
    Some(allowed)
}

/// `a AND b`, which binds closer.
fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = one(words)?;
    while words.first() == Some(&"AND") {
        *words = &words[1..];
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    if *first == "(" {
        let allowed = any_of(words)?;
        let (close, rest) = words.split_first()?;
        *words = rest;
        return (*close == ")").then_some(allowed);
    }
    // An exception only adds permissions.
    if words.first() == Some(&"WITH") {
        *words = words.get(2..)?;
    }
    Some(ALLOWED.contains(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissive_licences_are_allowed() {
        for licence in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
            "MIT OR Apache-2.0 OR GPL-2.0-only",
            "BSD-3-Clause AND BSD-2-Clause",
        ] {
            assert!(is_allowed(licence), "{licence} was refused");
        }
    }

    #[test]
    fn others_and_what_cannot_be_read_are_refused() {
        for licence in ["GPL-3.0-only", "MPL-2.0", "MIT AND LGPL-2.1-or-later", "(MIT", "MIT OR", "", "MIT Apache-2.0"]
        {
            assert!(!is_allowed(licence), "{licence:?} was allowed");
        }
    }
}
