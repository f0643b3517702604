//! What a file descriptor of a live process refers to: its path, its kind, a socket's addresses. Everything may vanish between two
//! reads, and a number may be given again meanwhile, so what was read counts only if the inode is the expected one. What is looked
//! up, and how often, is decided elsewhere.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    io::Read,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
};

use super::status::Status;
use crate::model::{meta::ObjectRecord, text::printable};

/// Descriptors of a process that are looked through when the one that it waited on is closed already.
const MOST_DESCRIPTORS: usize = 256;
/// Descriptors of one process that are looked through for sockets.
const MOST_HELD: usize = 4_096;
/// Of a list of mappings no more is read.
const MOST_MAPS_BYTES: u64 = 4 << 20;
/// Of a list of sockets no more is read.
const MOST_LIST_BYTES: u64 = 16 << 20;

/// What the thread's descriptor `fd` refers to, or another of its descriptors for the same inode; none where there is none.
/// Addresses of sockets are not looked up: see [`SocketLists`].
pub fn object(tid: u32, fd: u32, inode: u64) -> Option<ObjectRecord> {
    if let Some(object) = descriptor(tid, fd, inode) {
        return Some(object);
    }
    let entries = fs::read_dir(format!("/proc/{tid}/fd")).ok()?;
    let others = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let other =
        others.take(MOST_DESCRIPTORS).filter(|other| *other != fd).find_map(|other| descriptor(tid, other, inode));
    other.or_else(|| mapped(tid, inode))
}

/// A file that the thread's process has mapped, by its inode.
fn mapped(tid: u32, inode: u64) -> Option<ObjectRecord> {
    let mut text = Vec::new();
    fs::File::open(format!("/proc/{tid}/maps")).ok()?.take(MOST_MAPS_BYTES).read_to_end(&mut text).ok()?;
    text.split(|byte| *byte == b'\n').find_map(|line| mapping(line, inode)).map(|object| ObjectRecord { tid, ..object })
}

/// A line of /proc/PID/maps: addresses, rights, offset, device, inode, and behind spaces the path.
fn mapping(line: &[u8], inode: u64) -> Option<ObjectRecord> {
    const DELETED: &[u8] = b" (deleted)";
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(3)?).ok()?;
    let number: u64 = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let path = fields.next()?.trim_ascii_start();
    if number != inode || path.is_empty() {
        return None;
    }
    let part = |text: &str| u32::from_str_radix(text, 16).ok();
    let (major, minor) = device.split_once(':')?;
    // The kernel writes a newline in a path as \012, and adds this word to files without a name.
    let named = path.strip_suffix(DELETED);
    Some(ObjectRecord {
        fd: u32::MAX,
        inode,
        kind: "file".to_owned(),
        device: Some(format!("{}:{}", part(major)?, part(minor)?)),
        path: Some(printable(named.unwrap_or(path))),
        deleted: named.is_some(),
        ..ObjectRecord::default()
    })
}

fn descriptor(tid: u32, fd: u32, inode: u64) -> Option<ObjectRecord> {
    let path = PathBuf::from(format!("/proc/{tid}/fd/{fd}"));
    let link = fs::read_link(&path).ok()?.into_os_string();
    // Not stat(2), which may ask a server that does not answer.
    let file = Status::of(&path).ok();
    // What the kernel's record holds is the inode's own number; a file system may tell another one to stat(2).
    let told = super::proc::read(&format!("/proc/{tid}/fdinfo/{fd}")).and_then(|text| own_number(&text));
    let is_it = told.map_or_else(|| file.as_ref().is_some_and(|file| file.inode == inode), |told| told == inode);
    if !is_it {
        return None;
    }
    let mut object = ObjectRecord { tid, fd, inode, ..ObjectRecord::default() };
    if let Some(file) = &file {
        object.device = Some(format!("{}:{}", file.device.0, file.device.1));
    }
    name(&mut object, link, file.is_some_and(|file| file.links == 0));
    Some(object)
}

/// The field `ino` of a descriptor's fdinfo, which kernels before 5.14 lack.
fn own_number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.lines().find_map(|line| line.strip_prefix("ino:")?.trim().parse().ok())
}

/// What the link of a descriptor says.
fn name(object: &mut ObjectRecord, link: OsString, has_no_name: bool) {
    const DELETED: &[u8] = b" (deleted)";
    let bytes = link.into_vec();
    if let Some(kind) = bytes.strip_prefix(b"anon_inode:") {
        object.kind = printable(kind.strip_prefix(b"[").and_then(|kind| kind.strip_suffix(b"]")).unwrap_or(kind));
    } else if bytes.starts_with(b"pipe:[") {
        "pipe".clone_into(&mut object.kind);
    } else if bytes.starts_with(b"socket:[") {
        "socket".clone_into(&mut object.kind);
    } else {
        "file".clone_into(&mut object.kind);
        // A file may be called like that: only one without a name is deleted.
        let path = bytes.strip_suffix(DELETED).filter(|_| has_no_name);
        object.deleted = path.is_some();
        object.path = Some(printable(path.unwrap_or(&bytes)));
    }
}

/// Which processes have which of these sockets open. Looks through the descriptors of all processes.
pub fn socket_holders(wanted: &BTreeSet<u64>) -> Vec<(u64, u32)> {
    let mut holders = Vec::new();
    for pid in super::proc::processes() {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let inodes = entries.take(MOST_HELD).filter_map(|entry| {
            let link = fs::read_link(entry.ok()?.path()).ok()?;
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
        });
        let found: BTreeSet<u64> = inodes.filter(|inode| wanted.contains(inode)).collect();
        holders.extend(found.into_iter().map(|inode| (inode, pid)));
    }
    holders
}

/// The network namespace of a thread.
pub fn network_of(tid: u32) -> Option<OsString> {
    fs::read_link(format!("/proc/{tid}/ns/net")).ok().map(PathBuf::into_os_string)
}

/// The sockets of one network namespace, as /proc lists them.
pub struct SocketLists {
    lists: Vec<(&'static str, Vec<u8>)>,
}

impl SocketLists {
    /// Reads the lists of the namespace in which this thread is.
    pub fn read(tid: u32) -> Self {
        let list = |name: &'static str| {
            let mut bytes = Vec::new();
            let file = fs::File::open(format!("/proc/{tid}/net/{name}")).ok()?;
            file.take(MOST_LIST_BYTES).read_to_end(&mut bytes).ok()?;
            Some((name, bytes))
        };
        Self { lists: ["unix", "tcp", "tcp6", "udp", "udp6"].into_iter().filter_map(list).collect() }
    }

    /// Unix sockets with two lines: the kernel writes a name as it is, so a newline in one begins a line that says what the name's owner
    /// likes. The socket's own line is there as well.
    fn listed_twice(&self) -> BTreeSet<u64> {
        let (mut once, mut twice) = (BTreeSet::new(), BTreeSet::new());
        let unix_list = self.lists.iter().filter(|(protocol, _)| *protocol == "unix");
        for line in unix_list.flat_map(|(_, list)| list.split(|byte| *byte == b'\n').skip(1)) {
            if let Some(socket) = unix(line)
                && !once.insert(socket.inode)
            {
                twice.insert(socket.inode);
            }
        }
        twice
    }

    /// Adds to sockets what the lists say of them.
    pub fn tell(&self, objects: &mut [&mut ObjectRecord]) {
        let mut by_inode: std::collections::HashMap<u64, Vec<usize>> = std::collections::HashMap::new();
        for (index, object) in objects.iter().enumerate() {
            by_inode.entry(object.inode).or_default().push(index);
        }
        let twice = self.listed_twice();
        for (protocol, list) in &self.lists {
            for line in list.split(|byte| *byte == b'\n').skip(1) {
                let Some(socket) = (if *protocol == "unix" { unix(line) } else { inet(line) }) else { continue };
                let socket = if *protocol == "unix" && twice.contains(&socket.inode) {
                    Socket { inode: socket.inode, ..Socket::default() }
                } else {
                    socket
                };
                for index in by_inode.get(&socket.inode).into_iter().flatten() {
                    let Some(object) = objects.get_mut(*index) else { continue };
                    protocol.trim_end_matches('6').clone_into(&mut object.kind);
                    object.path = socket.path.clone();
                    object.local.clone_from(&socket.local);
                    object.peer.clone_from(&socket.peer);
                }
            }
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Socket {
    inode: u64,
    path: Option<String>,
    local: Option<String>,
    peer: Option<String>,
}

/// A line of /proc/net/unix: number, references, protocol, flags, type, state, inode, and where it has one its path, which may hold
/// spaces.
fn unix(line: &[u8]) -> Option<Socket> {
    let mut rest = line;
    let mut field = || {
        let start = rest.iter().position(|byte| *byte != b' ')?;
        let tail = rest.get(start..)?;
        let end = tail.iter().position(|byte| *byte == b' ').unwrap_or(tail.len());
        rest = tail.get(end..)?;
        tail.get(..end)
    };
    let inode = std::str::from_utf8(field().and_then(|_| {
        (0..5).for_each(|_| {
            field();
        });
        field()
    })?)
    .ok()?
    .parse()
    .ok()?;
    let path = rest.strip_prefix(b" ").filter(|path| !path.is_empty()).map(printable);
    Some(Socket { inode, path, ..Socket::default() })
}

/// A line of /proc/net/tcp and its like: number, local address, remote address, ..., inode as the tenth field.
fn inet(line: &[u8]) -> Option<Socket> {
    let line = std::str::from_utf8(line).ok()?;
    let mut fields = line.split_ascii_whitespace();
    let (local, peer) = (fields.nth(1)?, fields.next()?);
    let inode = fields.nth(6)?.parse().ok()?;
    let peer = address(peer).filter(|peer| peer.port() != 0);
    Some(Socket {
        inode,
        path: None,
        local: address(local).map(|local| local.to_string()),
        peer: peer.map(|peer| peer.to_string()),
    })
}

/// An address as the kernel prints it: its words as this host has them in memory, in hexadecimal, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| -> Option<[u8; 4]> {
        Some(u32::from_str_radix(host.get(index * 8..index * 8 + 8)?, 16).ok()?.to_ne_bytes())
    };
    match host.len() {
        8 => Some((Ipv4Addr::from(word(0)?), port).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            // An IPv4 peer of a socket of both families.
            let host = Ipv6Addr::from(bytes);
            Some(host.to_ipv4_mapped().map_or_else(|| (host, port).into(), |host| (host, port).into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::TcpListener, os::fd::AsRawFd};

    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn lines_of_socket_lists_are_read() {
        let line =
            b"   0: 0100007F:1F90 0200007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 4242 1 0";
        let socket = inet(line).expect("a line of tcp");
        let text = (socket.inode, socket.local.as_deref(), socket.peer.as_deref());
        assert_eq!(text, (4242, Some("127.0.0.1:8080"), Some("127.0.0.2:80")));
        let mapped = address("0000000000000000FFFF00000100007F:0016").map(|address| address.to_string());
        assert_eq!(mapped.as_deref(), Some("127.0.0.1:22"));
        let unix_socket = unix(b"ffff: 00000002 00000000 00010000 0001 01 777 /run/a b").expect("a line of unix");
        assert_eq!((unix_socket.inode, unix_socket.path.as_deref()), (777, Some("/run/a b")));
        assert_eq!(unix(b"ffff: 00000002 00000000 00010000 0001 01 778").map(|socket| socket.path), Some(None));
        assert_eq!(unix(b""), None);
        assert_eq!(inet(b"junk"), None);
    }

    #[test]
    fn a_line_that_is_a_part_of_another_sockets_name_names_nothing() {
        let list = b"Num\nff: 00000002 00000000 00010000 0001 01 777\nff: 00000002 00000000 00010000 0001 01 778 @a\n\
            ff: 00000002 00000000 00010000 0001 01 777 /tmp/forged\nff: 00000002 00000000 00010000 0001 01 779 /run/b\n";
        let lists = SocketLists { lists: vec![("unix", list.to_vec())] };
        let socket = |inode| ObjectRecord { inode, kind: "socket".to_owned(), ..ObjectRecord::default() };
        let (mut victim, mut other) = (socket(777), socket(779));
        lists.tell(&mut [&mut victim, &mut other]);
        assert_eq!((victim.kind.as_str(), victim.path.as_deref()), ("unix", None), "{victim:?}");
        assert_eq!(other.path.as_deref(), Some("/run/b"));
    }

    #[test]
    fn a_mapped_file_is_found_by_its_inode() {
        let line =
            b"7f0000000000-7f0000001000 r--s 00000000 fd:01 4242                       /data/model a.safetensors";
        let seen = mapping(line, 4242).expect("its inode");
        assert_eq!((seen.path.as_deref(), seen.device.as_deref()), (Some("/data/model a.safetensors"), Some("253:1")));
        assert_eq!(mapping(line, 4243), None);
        let deleted = mapping(b"7f00-7f10 r--s 0 08:02 7    /tmp/x (deleted)", 7).expect("its inode");
        assert_eq!((deleted.path.as_deref(), deleted.deleted), (Some("/tmp/x"), true));
        for junk in [&b""[..], b"7f00-7f10 rw-p 0 00:00 0", b"a b c d e f", b"1-2 r 0 zz:1 7 /x"] {
            assert_eq!(mapping(junk, 7), None, "{junk:?}");
        }
    }

    #[test]
    fn own_descriptors_are_told() {
        let pid = std::process::id();
        let mut file = tempfile::NamedTempFile::with_prefix("odd\nname").expect("a file");
        file.write_all(b"x").expect("written");
        let path = file.path().to_owned();
        let inode = file.as_file().metadata().expect("stat").ino();
        let fd = file.as_file().as_raw_fd() as u32;
        let seen = object(pid, fd, inode).expect("the file is open");
        assert_eq!((seen.kind.as_str(), seen.deleted), ("file", false), "{seen:?}");
        assert!(seen.path.as_deref().is_some_and(|path| path.contains("odd\\x0aname")), "{seen:?}");
        let by_inode = object(pid, 1_000_000, inode).expect("found by its inode");
        assert_eq!(by_inode.path, seen.path);
        assert_eq!(object(pid, fd, inode + 1).map(|object| object.fd), None, "it is another inode");
        fs::remove_file(&path).expect("removed");
        let seen_again = object(pid, fd, inode).expect("still open");
        assert!(seen_again.deleted && seen_again.path == seen.path, "{seen_again:?}");
    }

    #[test]
    fn a_listening_sockets_address_is_told() {
        let pid = std::process::id();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let fd = listener.as_raw_fd() as u32;
        let inode = fs::metadata(format!("/proc/self/fd/{fd}")).expect("stat").ino();
        let mut seen = object(pid, fd, inode).expect("it is open");
        SocketLists::read(pid).tell(&mut [&mut seen]);
        let address = listener.local_addr().expect("bound").to_string();
        assert_eq!((seen.kind.as_str(), seen.local.as_ref()), ("tcp", Some(&address)), "{seen:?}");
        assert_eq!(seen.peer, None);
    }
}
