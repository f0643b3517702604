//! Python of other releases, for guests: the interpreter with all that it depends on, unpacked from the archive to a folder that a guest
//! has on its disk. Its loader and libraries are not those of this machine, so tests enter the folder by chroot.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::archive::{self, Archive};

/// The root within what becomes the disk.
const ROOT: &str = "python";

/// Folders of the root that are links into /usr since the packages of some release, and must be before those of older ones come.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// The folder that holds [`ROOT`] with a suite's Python.
pub fn get(suite: &str, folder: &Path, archive: &Result<Archive>) -> Result<PathBuf> {
    let place = folder.join(suite);
    if place.join(ROOT).is_dir() {
        return Ok(place);
    }
    let archive = archive.as_ref().map_err(|error| anyhow::anyhow!("not cached, and {error:#}"))?;
    eprintln!("unpacking Python of {suite}");
    let debs = archive.suite(suite, false)?.download_closure("python3")?;
    let work = folder.join(format!("{suite}.partial"));
    let _ = fs::remove_dir_all(&work);
    let root = work.join(ROOT);
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name)).with_context(|| format!("cannot create {}", root.display()))?;
        symlink(format!("usr/{name}"), root.join(name)).context("cannot link")?;
    }
    for deb in &debs {
        archive::unpack(deb, &[], &root)?;
        fs::remove_file(deb).with_context(|| format!("cannot remove {}", deb.display()))?;
    }
    for useless in ["usr/share/doc", "usr/share/man", "usr/share/locale"] {
        let _ = fs::remove_dir_all(root.join(useless));
    }
    fs::create_dir_all(root.join("tmp")).context("cannot create /tmp of it")?;
    let _ = fs::remove_dir_all(&place);
    fs::rename(&work, &place).with_context(|| format!("cannot move Python to {}", place.display()))?;
    Ok(place)
}
