//! The distribution's package archive, asked through the machine's own package client (apt) without a change to the machine: each
//! suite has a folder of its own with lists, state and cache. Where the archive lies is read from the machine's sources when it is
//! asked; only names of suites are known here. Installs nothing.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{sh::Cmd, workspace::utf8};

/// A package as the archive's index has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, which is the kernel's for a kernel.
    pub version: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its checksum.
    pub sha256: String,
}

/// Where the machine gets its packages from.
#[derive(Clone, Debug, PartialEq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    signed_by: Option<String>,
}

/// The archive, with its suites kept in a folder.
pub struct Archive {
    folder: PathBuf,
    sources: Vec<Source>,
    codename: String,
}

/// Signs for all suites, old and new; from the package `debian-archive-keyring`, which every Debian has.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Archive {
    /// The machine's archive. `folder` is where lists are kept.
    pub fn of_machine(folder: &Path) -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name: &str| {
            release
                .lines()
                .find_map(|line| Some(line.strip_prefix(name)?.trim_matches('"').to_owned()))
                .unwrap_or_default()
        };
        ensure!(
            field("ID=") == "debian" && crate::sh::which("apt-get").is_some(),
            "kernels are taken from Debian's archive by apt, and this machine is not a Debian: run this on one, or in a container of it"
        );
        let codename = field("VERSION_CODENAME=");
        let sources = machine_sources();
        let archive = Self { folder: folder.to_owned(), sources, codename };
        archive.source_of(&archive.codename).context("this machine's apt sources cannot be used")?;
        Ok(archive)
    }

    /// The machine's own suite.
    pub fn codename(&self) -> &str {
        &self.codename
    }

    /// A suite, with its index fetched unless it is there and not to be looked at again.
    pub fn suite(&self, name: &str, refresh: bool) -> Result<Suite> {
        self.suites(&[name], refresh)
    }

    /// Several suites that complete each other: packages are taken from the last one that has them. Such a choice has an index of its own.
    pub fn suites(&self, names: &[&str], refresh: bool) -> Result<Suite> {
        let name = names.join("+");
        let folder = self.folder.join(&name);
        let last = names.last().context("one suite at least")?;
        let suite = Suite { configuration: folder.join("apt.conf"), preferred: (*last).to_owned() };
        let fetched = folder.join("fetched");
        if fetched.exists() && !refresh {
            return Ok(suite);
        }
        for part in ["lists/partial", "cache/archives/partial", "state", "sources.list.d"] {
            fs::create_dir_all(folder.join(part)).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let write = |file: &str, text: &str| {
            fs::write(folder.join(file), text).with_context(|| format!("cannot write {}", folder.join(file).display()))
        };
        write("state/status", "")?;
        let mut lines = String::new();
        for name in names {
            let source = self.source_of(name)?;
            let keyring = source.signed_by.as_deref().unwrap_or(KEYRING);
            lines.push_str(&format!("deb [arch=amd64 signed-by={keyring}] {} {name} main\n", source.uri));
        }
        write("sources.list", &lines)?;
        write("apt.conf", &configuration(&utf8(&folder)?))?;
        suite.apt("apt-get").args(["--quiet=2", "update"]).quiet().run().with_context(|| {
            format!("the index of {name} cannot be had from the machine's package archive: is there a network?")
        })?;
        write("fetched", "")?;
        Ok(suite)
    }

    /// Where a suite lies: security updates beside those of the machine's own, all others beside its main suite.
    fn source_of(&self, suite: &str) -> Result<&Source> {
        let ours =
            if suite.ends_with("-security") { format!("{}-security", self.codename) } else { self.codename.clone() };
        self.sources.iter().find(|source| source.suites.contains(&ours)).with_context(|| {
            format!("no source of this machine has the suite {ours}, beside which {suite} would lie (/etc/apt/sources.list.d)")
        })
    }
}

/// One suite of the archive, or several that are used together.
pub struct Suite {
    configuration: PathBuf,
    preferred: String,
}

impl Suite {
    fn apt(&self, program: &str) -> Cmd {
        Cmd::new(program).env("APT_CONFIG", &self.configuration)
    }

    /// The packages whose names match, a regular expression of apt's.
    pub fn packages(&self, expression: &str) -> Result<Vec<Package>> {
        let names = self.apt("apt-cache").args(["search", "--names-only", expression]).quiet().read()?;
        let names: Vec<&str> = names.lines().filter_map(|line| line.split(' ').next()).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let shown = self.apt("apt-cache").args(["show", "--no-all-versions"]).args(names).quiet().read()?;
        Ok(packages(&shown))
    }

    /// Fetches a package's file into a folder.
    pub fn download(&self, package: &str, to: &Path) -> Result<PathBuf> {
        self.apt("apt-get").args(["--quiet=2", "download", package]).folder(to).quiet().run()?;
        let files = debs(to)?;
        match files.as_slice() {
            [file] => Ok(file.clone()),
            _ => bail!("apt-get put {} files into {}", files.len(), to.display()),
        }
    }

    /// Fetches a package with all that it depends on, as if nothing were installed.
    pub fn download_closure(&self, package: &str) -> Result<Vec<PathBuf>> {
        let options = ["--quiet=2", "install", "--yes", "--download-only", "--no-install-recommends"];
        self.apt("apt-get").args(options).args(["--target-release", &self.preferred, package]).quiet().run()?;
        let folder = self.configuration.parent().context("a suite has a folder")?;
        debs(&folder.join("cache/archives"))
    }
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let files = entries.flatten().map(|entry| entry.path());
    Ok(files.filter(|file| file.extension().is_some_and(|kind| kind == "deb")).collect())
}

/// Files out of a package, by patterns of tar; all without a pattern.
pub fn unpack(deb: &Path, patterns: &[&str], to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let tar = to.join("all.tar");
    let bytes = Cmd::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).quiet().read_bytes()?;
    fs::write(&tar, bytes).with_context(|| format!("cannot write {}", tar.display()))?;
    let command = Cmd::new("tar").arg("-xf").arg(&tar).arg("-C").arg(to).quiet();
    // What is a link to a folder stays one where a package has the folder.
    let mut command = command.args(["--no-same-owner", "--keep-directory-symlink"]);
    if !patterns.is_empty() {
        command = command.arg("--wildcards").args(patterns);
    }
    // tar is not content where one of several patterns matches nothing; what came is looked at by the caller.
    command.ask();
    fs::remove_file(&tar).with_context(|| format!("cannot remove {}", tar.display()))
}

/// All that makes a suite independent of the machine's lists and of what is installed. The machine's settings are still read.
fn configuration(folder: &str) -> String {
    let part = |name: &str, place: &str| format!("Dir::{name} \"{folder}/{place}\";\n");
    let mut text = String::new();
    text.push_str(&part("Etc::sourcelist", "sources.list"));
    text.push_str(&part("Etc::sourceparts", "sources.list.d"));
    text.push_str(&part("State", "state"));
    text.push_str(&part("State::lists", "lists"));
    text.push_str(&part("State::status", "state/status"));
    text.push_str(&part("Cache", "cache"));
    // No translations and no icons: they are larger than the index. A suite that cannot be had is an error, not a warning.
    text.push_str("Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n");
    text.push_str("APT::Update::Error-Mode \"any\";\nAPT::Sandbox::User \"root\";\nAPT::Architecture \"amd64\";\n");
    text.push_str("Acquire::Retries \"1\";\nAcquire::http::Timeout \"20\";\nAcquire::https::Timeout \"20\";\n");
    text
}

fn machine_sources() -> Vec<Source> {
    let mut sources = one_line(&fs::read_to_string("/etc/apt/sources.list").unwrap_or_default());
    let entries = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|kind| kind.to_str()) {
            Some("sources") => sources.extend(stanzas(&text)),
            Some("list") => sources.extend(one_line(&text)),
            _ => {}
        }
    }
    sources
}

/// `deb [options] URI suite component...`
fn one_line(text: &str) -> Vec<Source> {
    let of = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        Some(Source { uri: uri.to_owned(), suites: vec![suite.to_owned()], signed_by: signed_by.map(str::to_owned) })
    };
    text.lines().filter_map(of).collect()
}

/// Stanzas of `Key: value`.
fn stanzas(text: &str) -> Vec<Source> {
    let of = |fields: Vec<(String, String)>| {
        let value = |key: &str| fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        let types = value("Types")?;
        let uri = value("URIs")?.split_whitespace().next()?.to_owned();
        let suites = value("Suites")?.split_whitespace().map(str::to_owned).collect();
        // A key may stand in the file itself; then Debian's keyring is taken.
        let signed_by = value("Signed-By").filter(|file| file.starts_with('/')).cloned();
        types.split_whitespace().any(|kind| kind == "deb").then_some(Source { uri, suites, signed_by })
    };
    fields(text).into_iter().filter_map(of).collect()
}

/// Stanzas, parted by empty lines, as pairs; lines that go on are left out.
fn fields(text: &str) -> Vec<Vec<(String, String)>> {
    let mut all = vec![Vec::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            all.push(Vec::new());
        } else if let (Some((key, value)), false) = (line.split_once(':'), line.starts_with([' ', '\t']))
            && let Some(last) = all.last_mut()
        {
            last.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    all.retain(|stanza| !stanza.is_empty());
    all
}

/// Packages of what `apt-cache show` prints.
fn packages(text: &str) -> Vec<Package> {
    let of = |fields: Vec<(String, String)>| {
        let value = |key: &str| fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        Some(Package {
            name: value("Package")?,
            version: value("Version")?,
            size: value("Size")?.parse().ok()?,
            sha256: value("SHA256")?,
        })
    };
    fields(text).into_iter().filter_map(of).collect()
}

/// Whether this machine runs what the guests run.
pub fn is_supported() -> Result<()> {
    ensure!(
        env::consts::ARCH == "x86_64",
        "guests are x86-64 and run this machine's own build of the tests, and this machine is {}: run it on an x86-64 machine",
        env::consts::ARCH
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sources_are_read() {
        let text = "Types: deb deb-src\n# a comment\nURIs: http://mirror.invalid/debian\nSuites: bookworm bookworm-updates\n\
            Components: main\nSigned-By: /k.gpg\n\nTypes: deb-src\nURIs: http://x.invalid\nSuites: bookworm\n";
        let expected = |signed_by: &str, suites: &[&str]| Source {
            uri: "http://mirror.invalid/debian".to_owned(),
            suites: suites.iter().map(|suite| (*suite).to_owned()).collect(),
            signed_by: Some(signed_by.to_owned()),
        };
        assert_eq!(stanzas(text), [expected("/k.gpg", &["bookworm", "bookworm-updates"])]);
        let text = "# deb http://x.invalid a b\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.invalid/debian bookworm main\n";
        assert_eq!(one_line(text), [expected("/k.gpg", &["bookworm"])]);
    }

    #[test]
    fn other_suites_lie_beside_the_machines_own() {
        let source = |uri: &str, suite: &str| Source { uri: uri.into(), suites: vec![suite.into()], signed_by: None };
        let sources = vec![source("main", "bookworm"), source("security", "bookworm-security")];
        let archive = Archive { folder: PathBuf::new(), sources, codename: "bookworm".into() };
        assert_eq!(archive.source_of("bullseye-security").unwrap().uri, "security");
        assert_eq!(archive.source_of("trixie-backports").unwrap().uri, "main");
        let without = Archive { sources: vec![source("main", "bookworm")], ..archive };
        let error = without.source_of("trixie-security").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("bookworm-security"), "{error}");
    }

    #[test]
    fn packages_are_read_from_the_index() {
        let text = "Package: linux-image-6.1\nVersion: 6.1.1-1\nDescription: a\n kernel\nSize: 12\nSHA256: ab\n\nPackage: half\n";
        let expected =
            Package { name: "linux-image-6.1".into(), version: "6.1.1-1".into(), size: 12, sha256: "ab".into() };
        assert_eq!(packages(text), [expected]);
    }
}
