//! Over this process itself, over files that a test makes, and over texts that no kernel writes.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tracer-process-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A copy of `sleep` under a name of the test's choice, running.
struct Sleeper(Child);

impl Sleeper {
    fn start(path: &std::path::Path) -> Self {
        // Of all tests here only one at a time writes a program and starts it: a child that is being forked holds the file open for
        // writing, and then it cannot be executed.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(|error| error.into_inner());
        std::fs::copy("/bin/sleep", path).expect("a copy");
        let mut tries = 0;
        let child = loop {
            match Command::new(path).arg("60").stdout(Stdio::null()).spawn() {
                Ok(child) => break child,
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < 100 => tries += 1,
                Err(error) => panic!("{}: {error}", path.display()),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        let sleeper = Self(child);
        // Its libraries are there once it sleeps.
        let start = std::time::Instant::now();
        while !std::fs::read_to_string(format!("/proc/{}/wchan", sleeper.0.id()))
            .is_ok_and(|at| at.contains("nanosleep"))
            && start.elapsed() < std::time::Duration::from_secs(2)
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        sleeper
    }

    fn space(&self, modules: &mut Modules) -> AddressSpace {
        AddressSpace::read(self.0.id(), modules).expect("its mappings")
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn module_named<'a>(modules: &'a Modules, end: &str) -> &'a Arc<Module> {
    let found = modules.all().iter().find(|module| module.path.ends_with(end));
    found.unwrap_or_else(|| panic!("{end}: {:?}", modules.all().iter().map(|module| &module.path).collect::<Vec<_>>()))
}

#[test]
fn this_process_is_seen_as_it_is() {
    let mut modules = Modules::new();
    let space = AddressSpace::read(std::process::id(), &mut modules).expect("own mappings");
    let here = this_process_is_seen_as_it_is as *const () as usize as u64;
    let mapping = space.find(here).expect("this function lies somewhere");
    let module = mapping.module().expect("in a file");
    assert!(mapping.executable);
    let exe = std::env::current_exe().expect("this program");
    assert_eq!(module.path, exe.display().to_string());
    let image = module.image.as_ref().expect("it can be read");
    let address = mapping.module_address(here).expect("an address of it");
    let len = 16;
    let code = image.bytes_at(address, len).expect("its code");
    let offset = usize::try_from(mapping.file_offset(here)).expect("small");
    assert_eq!(code, &std::fs::read(&exe).expect("the file")[offset..offset + len as usize]);
    assert!(space.find(0).is_none(), "nothing lies at 0");
    let open_path = module.open_path.as_ref().expect("a descriptor");
    assert_eq!(std::fs::metadata(open_path).expect("works").len(), image.bytes.len() as u64);
    let vdso = module_named(&modules, "[vdso]");
    let image = vdso.image.as_ref().expect("the vdso was copied");
    assert!(matches!(image.bytes, Bytes::Owned(_)) && vdso.build_id.is_some(), "{vdso:?}");
}

#[test]
fn processes_share_their_files() {
    let folder = Folder::new();
    let sleepers = [Sleeper::start(&folder.0.join("one")), Sleeper::start(&folder.0.join("two"))];
    let mut modules = Modules::new();
    sleepers[0].space(&mut modules);
    let before = modules.all().len();
    sleepers[1].space(&mut modules);
    assert_eq!(modules.all().len(), before + 1, "only the program itself is another file");
    assert!(modules.all().iter().enumerate().all(|(at, module)| module.id.0 as usize == at));
}

#[test]
fn a_deleted_and_a_replaced_program_are_the_ones_that_run() {
    let folder = Folder::new();
    let path = folder.0.join("program");
    let sleeper = Sleeper::start(&path);
    let len = std::fs::metadata(&path).expect("it is there").len();
    std::fs::remove_file(&path).expect("deleted");
    std::fs::write(&path, b"another file").expect("replaced");
    let mut modules = Modules::new();
    sleeper.space(&mut modules);
    let module = module_named(&modules, "/program");
    assert!(module.deleted, "{module:?}");
    assert_eq!(module.image.as_ref().map(|image| image.bytes.len() as u64), Ok(len));
    assert!(module.build_id.is_some());
}

#[test]
fn hostile_names_are_shown_escaped_and_their_files_are_found() {
    for (name, shown) in [
        ("new\nline", "new\\x0aline"),
        ("looks (deleted)", "looks (deleted)"),
        ("esc\x1b[2J", "esc\\x1b[2J"),
        ("two  spaces ", "two  spaces "),
    ] {
        let folder = Folder::new();
        let sleeper = Sleeper::start(&folder.0.join(name));
        let mut modules = Modules::new();
        sleeper.space(&mut modules);
        let module = module_named(&modules, &format!("/{shown}"));
        assert!(module.image.is_ok() && !module.deleted, "{module:?}");
    }
}

#[test]
fn a_process_that_has_ended_is_gone() {
    let folder = Folder::new();
    let mut sleeper = Sleeper::start(&folder.0.join("program"));
    let pid = sleeper.0.id();
    sleeper.0.kill().expect("killed");
    // Until it is waited for it is a zombie, with an empty list.
    let start = std::time::Instant::now();
    while !crate::kernel::proc::is_zombie(pid) && start.elapsed() < std::time::Duration::from_secs(2) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let mut modules = Modules::new();
    let zombie = AddressSpace::read(pid, &mut modules);
    assert!(matches!(zombie, Err(SpaceError::ProcessGone { .. })), "{zombie:?}");
    sleeper.0.wait().expect("ended");
    let gone = AddressSpace::read(pid, &mut modules);
    assert!(matches!(gone, Err(SpaceError::ProcessGone { .. })), "{gone:?}");
}

#[test]
fn a_file_shortened_while_it_is_mapped_is_damaged_and_nothing_more() {
    let folder = Folder::new();
    let path = folder.0.join("program");
    let sleeper = Sleeper::start(&path);
    let mut modules = Modules::new();
    sleeper.space(&mut modules);
    let module = module_named(&modules, "/program").clone();
    drop(sleeper);
    File::options().write(true).open(&path).expect("it can be written now").set_len(100).expect("shortened");
    let bytes = &module.image.as_ref().expect("an image").bytes;
    assert_eq!(bytes.iter().skip(4096).filter(|byte| **byte != 0).count(), 0, "zeros behind its new end");
}

/// A line for a file of the test's own.
fn backing_of(path: &std::path::Path, name: &str) -> Backing {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(path).expect("it is there");
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let text = format!("1000-2000 r-xp 00000000 {major:x}:{minor:x} {} {name}", metadata.ino());
    let mut modules = Modules::new();
    modules.backing(std::process::id(), &MapsLine::parse(text.as_bytes()).expect("a line"))
}

#[test]
fn only_regular_files_are_opened() {
    let folder = Folder::new();
    let fifo = folder.0.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    // Opening it would wait for a writer.
    let backing = backing_of(&fifo, &fifo.display().to_string());
    assert!(matches!(&backing, Backing::Anonymous(name) if name.ends_with("/fifo")), "{backing:?}");
    let backing = backing_of(std::path::Path::new("/dev/null"), "/dev/null");
    assert!(matches!(&backing, Backing::Anonymous(name) if name == "/dev/null"), "{backing:?}");
}

#[test]
fn without_map_files_a_path_counts_only_for_the_same_file() {
    let folder = Folder::new();
    let (path, other) = (folder.0.join("file"), folder.0.join("other"));
    std::fs::copy("/bin/sleep", &path).expect("a file");
    std::fs::write(&other, b"x").expect("another");
    let backing = backing_of(&path, &path.display().to_string());
    assert!(matches!(&backing, Backing::Module(module) if module.image.is_ok()), "{backing:?}");
    let backing = backing_of(&path, &other.display().to_string());
    let Backing::Module(module) = backing else { panic!("{backing:?}") };
    let reason = module.image.as_ref().expect_err("it is another file");
    assert!(reason.contains("another file has this path now"), "{reason}");
}

#[test]
fn what_is_no_elf_file_says_so() {
    let folder = Folder::new();
    let path = folder.0.join("file");
    for (content, reason) in [
        (&b""[..], "the file is empty"),
        (b"\x7fEL", "not an ELF file"),
        (b"#!/bin/sh", "not an ELF file"),
        (b"\x7fELF", "not an ELF file of this machine's byte order"),
        (b"\x7fELF\x02\x01\x01", "damaged ELF file"),
    ] {
        std::fs::write(&path, content).expect("a file");
        let Backing::Module(module) = backing_of(&path, &path.display().to_string()) else { panic!("a module") };
        let said = module.image.as_ref().expect_err("no image");
        assert!(said.starts_with(reason), "{said}, not {reason}");
    }
}

#[test]
fn segments_that_share_a_page_are_told_apart() {
    let segment = |offset, address, len_bytes, executable| Segment { offset, address, len_bytes, executable };
    let image = Image {
        bytes: Bytes::Owned(Arc::from(&[][..])),
        segments: vec![
            segment(0, 0, 0x1234, false),
            segment(0x1234, 0x2234, 0x1000, true),
            segment(0x2234, 0x4234, 8, false),
        ],
        entry: 0,
        machine: 62,
        is_64: true,
    };
    assert_eq!(image.address_of(0x1233, true), Some(0x1233), "held by the first only");
    assert_eq!(image.address_of(0x1234, true), Some(0x2234));
    assert_eq!(image.address_of(0x2233, true), Some(0x3233));
    assert_eq!(image.address_of(0x2236, false), Some(0x4236));
    assert_eq!(image.address_of(0x2fff, false), Some(0x4fff), "by the rounding to pages");
    assert_eq!(image.address_of(0x3000, true), None);
    assert_eq!(image.offset_of(0x2234), Some((0x1234, 0x1000)));
    assert_eq!(image.offset_of(0x3234), None);
}

#[test]
fn only_code_and_files_with_code_are_kept_and_without_overlap() {
    let text = b"1000-2000 r--p 00000000 08:01 7 /lib/a\n2000-3000 r-xp 00001000 08:01 7 /lib/a\n\
        5000-6000 rw-p 00000000 00:00 0 [heap]\n6000-7000 r--p 00000000 08:01 8 /data\n\
        8000-9000 rwxp 00000000 00:00 0 \n2800-4000 r-xp 00000000 08:01 9 /lib/moved\njunk\n";
    let mut asked = 0;
    let space = AddressSpace::of_maps(text, |line| {
        asked += 1;
        Backing::Anonymous(String::from_utf8_lossy(line.name).into_owned())
    });
    let ranges: Vec<_> = space.mappings.iter().map(|mapping| (mapping.start, mapping.end)).collect();
    assert_eq!((ranges, asked), (vec![(0x1000, 0x2000), (0x2000, 0x3000), (0x8000, 0x9000)], 3));
    assert!(space.find(0x2fff).is_some() && space.find(0x3000).is_none() && space.find(0xfff).is_none());
}

proptest! {
    #[test]
    fn any_text_of_maps_and_any_address_are_stood(text in proptest::collection::vec(any::<u8>(), 0..400), address: u64) {
        let space = AddressSpace::of_maps(&text, |_| Backing::Anonymous(String::new()));
        let _ = space.find(address);
    }

    #[test]
    fn any_numbers_in_maps_are_stood(numbers in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 0..20)) {
        let text: String = (numbers.iter())
            .map(|(start, end, offset, inode)| format!("{start:x}-{end:x} r-xp {offset:x} 08:01 {inode} /x\n"))
            .collect();
        let space = AddressSpace::of_maps(text.as_bytes(), |_| Backing::Anonymous(String::new()));
        prop_assert!(space.mappings.windows(2).all(|pair| pair[0].end <= pair[1].start));
        for mapping in &space.mappings {
            prop_assert!(space.find(mapping.start).is_some() && space.find(mapping.end - 1).is_some());
            let _ = mapping.module_address(mapping.end);
        }
    }

    #[test]
    fn damaged_headers_are_stood(damage in proptest::collection::vec((0usize..2048, any::<u8>()), 1..40), address: u64, len: u64, cut: u16) {
        let mut bytes = std::fs::read("/bin/sleep").expect("a program");
        for (at, value) in damage {
            bytes[at] = value;
        }
        if cut & 1 != 0 {
            bytes.truncate(usize::from(cut));
        }
        if let Ok((image, _)) = registry::image(Bytes::Owned(bytes.into())) {
            let _ = (image.bytes_at(address, len), image.address_of(address, true), image.offset_of(address));
            for segment in &image.segments {
                let _ = (image.bytes_at(segment.address, len), image.address_of(segment.offset, false));
            }
        }
    }
}

#[test]
fn a_file_that_is_written_over_is_another_module() {
    let folder = Folder::new();
    let path = folder.0.join("file");
    std::fs::copy("/bin/sleep", &path).expect("a file");
    let text = |inode| format!("1000-2000 r-xp 00000000 {} {inode} {}", device(&path), path.display());
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).expect("it is there"));
    let mut modules = Modules::new();
    let id = |modules: &mut Modules| match modules
        .backing(std::process::id(), &MapsLine::parse(text(inode).as_bytes()).expect("a line"))
    {
        Backing::Module(module) => module.id.0,
        Backing::Anonymous(name) => panic!("{name}"),
    };
    assert_eq!((id(&mut modules), id(&mut modules)), (0, 0));
    let mut file = File::options().write(true).open(&path).expect("it can be written");
    file.seek(SeekFrom::End(0)).expect("its end");
    file.write_all(b"more").expect("written");
    assert_eq!(id(&mut modules), 1);
}

fn device(path: &std::path::Path) -> String {
    let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(path).expect("it is there"));
    format!("{:x}:{:x}", libc::major(device), libc::minor(device))
}
