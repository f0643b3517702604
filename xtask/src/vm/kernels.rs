//! Which kernels there are, and getting one: a line (6.1, 6.12) is looked up in the suites that may have it, the newest of the line
//! is fetched, and only the kernel itself is kept. The archive forgets old versions, so a line is asked for, never a version.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::archive::{self, Archive, Package};

/// Lines that `--all` runs, the oldest first, and the suites that have them, in the order in which they are asked. `7` is the newest
/// of that whole series. Last the suite whose Python the guest has: 3.9, 3.11, 3.13 twice, and the newest, when this was written 3.14.
const LINES: [(&str, &[&str], &str); 5] = [
    ("5.10", &["bullseye-security", "bullseye"], "bullseye"),
    ("6.1", &["bookworm-security", "bookworm"], "bookworm"),
    ("6.12", &["bookworm-security", "trixie-security", "trixie"], "trixie"),
    ("6.18", &["trixie-backports"], "trixie"),
    ("7", &["trixie-backports", "sid"], "sid"),
];

/// For lines of which nothing is known.
const ALL_SUITES: [&str; 6] =
    ["trixie-backports", "sid", "bookworm-security", "trixie-security", "bookworm", "bullseye"];

/// Kernels that are not known to the table still have one that boots.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The line asked for.
    pub line: String,
    /// The package's version.
    pub version: String,
    /// The file that QEMU loads.
    pub image: PathBuf,
}

impl Kernel {
    /// What its package is: version, name and checksum.
    pub fn package(&self) -> Result<[String; 3]> {
        let file = self.image.with_file_name("version");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.try_into().ok().with_context(|| format!("{} has not three lines: remove it", file.display()))
    }
}

/// All lines.
pub fn lines() -> Vec<String> {
    LINES.iter().map(|(line, ..)| (*line).to_owned()).collect()
}

/// The suite whose Python the guest of a line has.
pub fn python_of(line: &str) -> &'static str {
    LINES.iter().find(|(known, ..)| *known == line).map_or("trixie", |(.., python)| *python)
}

/// A line as it is asked for: `7.x` and `v6.1` are understood, and what is no version is refused.
pub fn line_of(asked: &str) -> Result<String> {
    let line = asked.trim_start_matches('v').trim_end_matches(".x");
    let is_line =
        !line.is_empty() && line.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    if !is_line {
        bail!(
            "`{asked}` is no line of kernels: say 6.1, or 7.x for the newest of a series (known: {})",
            lines().join(", ")
        );
    }
    Ok(line.to_owned())
}

/// A line's kernel, from the folder if it is there.
pub fn get(line: &str, folder: &Path, archive: &Result<Archive>, refresh: bool) -> Result<Kernel> {
    let place = folder.join(line);
    let cached = cached(line, &place);
    if let (Some(kernel), false) = (&cached, refresh) {
        return Ok(kernel.clone());
    }
    let fetched = match archive {
        Ok(archive) => fetch(line, &place, archive, refresh, cached.as_ref()),
        Err(error) => bail!("not cached, and {error:#}"),
    };
    fetched.with_context(|| format!("not cached, and no {line} can be had"))
}

fn cached(line: &str, place: &Path) -> Option<Kernel> {
    let version = fs::read_to_string(place.join("version")).ok()?;
    let image = place.join("vmlinuz");
    let version = version.lines().next()?.to_owned();
    image.is_file().then(|| Kernel { line: line.to_owned(), version, image })
}

fn fetch(line: &str, place: &Path, archive: &Archive, refresh: bool, cached: Option<&Kernel>) -> Result<Kernel> {
    let known = LINES.iter().find(|(known, ..)| *known == line).map(|(_, suites, _)| *suites);
    let mut tried = Vec::new();
    for suite in known.unwrap_or(&ALL_SUITES) {
        match fetch_from(line, suite, place, archive, refresh, cached) {
            Ok(kernel) => return Ok(kernel),
            Err(error) => tried.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("{}", tried.join("; "))
}

/// An index may list what is not there any more: then the next suite is asked.
fn fetch_from(
    line: &str,
    suite_name: &str,
    place: &Path,
    archive: &Archive,
    refresh: bool,
    cached: Option<&Kernel>,
) -> Result<Kernel> {
    let suite = archive.suite(suite_name, refresh)?;
    let listed = suite.packages(&format!("^linux-(image|binary)-.*{line}.*-cloud-amd64(-unsigned)?$"))?;
    let package = newest(&listed, line).context("lists no such kernel")?;
    if let Some(cached) = cached.filter(|cached| cached.version == package.version) {
        return Ok(cached.clone());
    }
    let work = place.with_extension("partial");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    eprintln!("fetching {} {} ({} MB) from {suite_name}", package.name, package.version, package.size / 1_000_000);
    let deb = suite.download(&package.name, &work)?;
    archive::unpack(&deb, &["./boot/vmlinuz*", "./usr/lib/modules/*/vmlinuz*"], &work.join("files"))?;
    let found = find(&work.join("files")).with_context(|| format!("{} holds no vmlinuz", package.name))?;
    fs::rename(&found, work.join("vmlinuz")).context("cannot move the kernel")?;
    fs::write(work.join("version"), format!("{}\n{}\n{}\n", package.version, package.name, package.sha256))
        .context("cannot write the version")?;
    fs::remove_file(&deb).and_then(|()| fs::remove_dir_all(work.join("files"))).context("cannot tidy up")?;
    let _ = fs::remove_dir_all(place);
    fs::rename(&work, place).with_context(|| format!("cannot move the kernel to {}", place.display()))?;
    super::kernels::cached(line, place).context("what was just written is not there")
}

fn find(folder: &Path) -> Option<PathBuf> {
    fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        let is_kernel = entry.file_name().to_string_lossy().starts_with("vmlinuz");
        if path.is_dir() { find(&path) } else { is_kernel.then_some(path) }
    })
}

/// The newest kernel of a line. Up to 6.18 the kernel is in linux-image, which is empty from 6.19 on: then it is in linux-binary.
fn newest<'a>(packages: &'a [Package], line: &str) -> Option<&'a Package> {
    const SMALLEST: u64 = 1_000_000;
    let fits = packages.iter().filter(|package| package.size > SMALLEST && is_of(&package.name, line));
    // Of signed and unsigned alike in version, any: QEMU asks for no signature.
    fits.max_by(|one, other| by_version(&one.version, &other.version))
}

fn is_of(name: &str, line: &str) -> bool {
    let rest = name.strip_prefix("linux-image-").or_else(|| name.strip_prefix("linux-binary-"));
    let Some(rest) = rest.map(|rest| rest.strip_prefix("unsigned-").unwrap_or(rest)) else { return false };
    let Some(behind) = rest.strip_prefix(line) else { return false };
    // "6.1" is no "6.12", and a release candidate is no release.
    behind.starts_with(['.', '+', '-']) && !rest.contains("-rc") && !rest.contains("-dbg")
}

/// Compares the numbers of two versions, as far as they are dotted numbers.
fn by_version(one: &str, other: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        let upstream = text.rsplit_once(':').map_or(text, |(_, rest)| rest);
        let parts = upstream.split(['.', '-', '+', '~']);
        parts.map_while(|part| part.parse().ok()).collect()
    };
    numbers(one).cmp(&numbers(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, size: u64) -> Package {
        Package { name: name.to_owned(), version: version.to_owned(), size, sha256: String::new() }
    }

    #[test]
    fn the_newest_of_a_line_is_picked_by_its_numbers() {
        let packages = [
            package("linux-image-6.1.0-50-cloud-amd64-unsigned", "6.1.176-1", 26_000_000),
            package("linux-image-6.1.0-9-cloud-amd64-unsigned", "6.1.99-1", 26_000_000),
            package("linux-image-6.12.95+deb12-cloud-amd64-unsigned", "6.12.95-1", 34_000_000),
        ];
        assert_eq!(newest(&packages, "6.1").map(|one| one.version.as_str()), Some("6.1.176-1"));
        assert_eq!(newest(&packages, "6.12").map(|one| one.version.as_str()), Some("6.12.95-1"));
        assert_eq!(newest(&packages, "6.18"), None);
    }

    #[test]
    fn empty_packages_candidates_and_debug_information_are_no_kernels() {
        let packages = [
            package("linux-image-7.3.4+deb13-cloud-amd64", "7.3.4-1", 2_000),
            package("linux-binary-unsigned-7.3.4+deb13-cloud-amd64", "7.3.4-1", 13_600_000),
            package("linux-binary-7.4-rc1-cloud-amd64", "7.4~rc1-1", 13_600_000),
            package("linux-image-7.3.5-cloud-amd64-dbg", "7.3.5-1", 900_000_000),
        ];
        assert_eq!(
            newest(&packages, "7").map(|one| one.name.as_str()),
            Some("linux-binary-unsigned-7.3.4+deb13-cloud-amd64")
        );
    }

    #[test]
    fn a_line_is_understood_or_refused() {
        assert_eq!(line_of("7.x").unwrap(), "7");
        assert_eq!(line_of("v6.1").unwrap(), "6.1");
        for bad in ["", "newest", "6.", "6.1-rc1"] {
            assert!(line_of(bad).is_err(), "{bad:?} was taken");
        }
    }
}
