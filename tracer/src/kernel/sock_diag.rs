//! What the kernel counts of TCP sockets, asked for through netlink (sock_diag(7)) in the network namespace of a traced thread: bytes, time
//! to the other side and back, packets that were sent again. Nothing is attached and no path of a packet gets longer. When it is asked, and of which
//! sockets the answer is used, is decided elsewhere.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use nix::sched::{CloneFlags, setns};

use crate::model::meta::TcpCounts;

/// Numbers of the interface: linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h.
const NETLINK_SOCK_DIAG: libc::c_int = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const INFO: u16 = 2;
/// Every state but TIME_WAIT: such sockets belong to nobody any more.
const STATES: u32 = 0xfff & !(1 << 6);
/// Of a list of sockets no more is read.
const MOST_BYTES: usize = 16 << 20;
const BUFFER_BYTES: usize = 64 << 10;

/// One TCP socket as the kernel counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// The inode of its file; 0: nobody has it open (any more, or not yet).
    pub inode: u64,
    /// As in [`tracer_common::net::tcp_state`].
    pub state: u8,
    /// Its own address.
    pub local: SocketAddr,
    /// The other side's.
    pub peer: SocketAddr,
    /// None: the kernel does not tell, as of those that listen.
    pub counts: Option<TcpCounts>,
}

/// A socket through which one network namespace is asked.
pub struct Asker(OwnedFd);

impl Asker {
    /// Asks in the namespace of this thread. The namespace is entered by a thread of its own that ends at once, so nothing has to be
    /// undone.
    pub fn new(tid: u32) -> io::Result<Self> {
        let namespace = File::open(format!("/proc/{tid}/ns/net"))?;
        let opened = std::thread::spawn(move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            open()
        });
        opened.join().map_err(|_| io::Error::other("the thread that enters the namespace failed"))?.map(Asker)
    }

    /// Every TCP socket of the namespace, as far as there is room for the list.
    pub fn tcp(&self) -> io::Result<Vec<Tcp>> {
        let mut sockets = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.dump(family as u8, &mut sockets)?;
        }
        Ok(sockets)
    }

    fn dump(&self, family: u8, sockets: &mut Vec<Tcp>) -> io::Result<()> {
        let request = request(family);
        // SAFETY: the bytes live until the call returns.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let (mut buffer, mut read) = (vec![0u8; BUFFER_BYTES], 0);
        while read < MOST_BYTES {
            // SAFETY: the buffer has room for the bytes asked for.
            let got = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
            read += got.max(1);
            if !messages(buffer.get(..got).unwrap_or_default(), sockets)? {
                return Ok(());
            }
        }
        Err(io::Error::other("there are too many sockets"))
    }
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, NETLINK_SOCK_DIAG) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let patience = libc::timeval { tv_sec: 0, tv_usec: 200_000 };
    // SAFETY: the value lives until the call returns.
    let set = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const patience).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(family: u8) -> [u8; 72] {
    let mut bytes = [0u8; 72];
    let mut put = |at: usize, part: &[u8]| {
        if let Some(room) = bytes.get_mut(at..at + part.len()) {
            room.copy_from_slice(part);
        }
    };
    put(0, &72u32.to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &REQUEST_DUMP.to_ne_bytes());
    put(16, &[family, libc::IPPROTO_TCP as u8, 1 << (INFO - 1), 0]);
    put(20, &STATES.to_ne_bytes());
    bytes
}

/// Takes the messages of one datagram; false: the list has ended.
fn messages(mut bytes: &[u8], sockets: &mut Vec<Tcp>) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (word(bytes, 0), half(bytes, 4)) {
        let length = length as usize;
        let Some(payload) = bytes.get(16..length) else { return Ok(false) };
        match kind {
            MESSAGE_DONE => return Ok(false),
            MESSAGE_ERROR => {
                let error = word(payload, 0).map_or(0, |error| (error as i32).wrapping_neg());
                return Err(io::Error::from_raw_os_error(error));
            }
            _ => sockets.extend(socket(payload)),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// `struct inet_diag_msg` with its attributes.
fn socket(bytes: &[u8]) -> Option<Tcp> {
    const HEAD_BYTES: usize = 72;
    let (family, state) = (*bytes.first()?, *bytes.get(1)?);
    let port = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize, port: u16| -> Option<SocketAddr> {
        if i32::from(family) == libc::AF_INET6 {
            let host = Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?);
            // An IPv4 connection of a socket of both families.
            return Some(host.to_ipv4_mapped().map_or_else(|| (host, port).into(), |host| (host, port).into()));
        }
        Some((Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?), port).into())
    };
    let mut tcp = Tcp {
        inode: u64::from(word(bytes, 68)?),
        state,
        local: address(8, port(4)?)?,
        peer: address(24, port(6)?)?,
        counts: None,
    };
    let mut rest = bytes.get(HEAD_BYTES..)?;
    while let (Some(length), Some(kind)) = (half(rest, 0), half(rest, 2)) {
        let Some(value) = rest.get(4..usize::from(length)) else { break };
        if kind == INFO {
            tcp.counts = counts(value, state);
        }
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(tcp)
}

/// `struct tcp_info`; none where it is an older one, without the bytes that were sent (before 4.19).
fn counts(info: &[u8], state: u8) -> Option<TcpCounts> {
    use tracer_common::net::tcp_state::{CLOSE_WAIT, LAST_ACK};
    let long = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    // Once the other side has closed, its end counts as a byte that came.
    let end = u64::from([CLOSE_WAIT, LAST_ACK].contains(&state));
    let unsent = u64::from(word(info, 144)?);
    Some(TcpCounts {
        sent_bytes: long(200)?.saturating_sub(long(208)?) + unsent,
        received_bytes: long(128)?.saturating_sub(end),
        packets: word(info, 136)?,
        retransmits: word(info, 100)?,
        rtt_us: word(info, 68)?,
        // What was never measured is all ones.
        min_rtt_us: word(info, 148).map(|us| if us == u32::MAX { 0 } else { us })?,
        unacknowledged: word(info, 24)?,
        busy_us: long(168)?,
        no_window_us: long(176)?,
        no_buffer_us: long(184)?,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Shutdown, TcpListener, TcpStream},
        os::unix::fs::MetadataExt,
    };

    use super::*;

    fn inode(stream: &TcpStream) -> u64 {
        std::fs::metadata(format!("/proc/self/fd/{}", stream.as_raw_fd())).expect("stat").ino()
    }

    #[test]
    fn both_ends_of_a_connection_are_told_with_their_bytes() {
        let asker = match Asker::new(std::process::id()) {
            Ok(asker) => asker,
            Err(error) => {
                eprintln!("not run: this kernel or user cannot be asked: {error}");
                return;
            }
        };
        for host in ["127.0.0.1", "::1"] {
            let Ok(listener) = TcpListener::bind((host, 0)) else {
                eprintln!("not run: no address {host}");
                continue;
            };
            let address = listener.local_addr().expect("bound");
            let mut near = TcpStream::connect(address).expect("connected");
            let (mut far, _) = listener.accept().expect("accepted");
            near.write_all(&[1; 300_000]).expect("room");
            far.read_exact(&mut [0; 300_000]).expect("there");
            far.write_all(&[2; 5]).expect("room");
            near.read_exact(&mut [0; 5]).expect("there");
            far.shutdown(Shutdown::Both).expect("ended");
            near.read_to_end(&mut Vec::new()).expect("the end");
            let all = asker.tcp().expect("a list");
            let one = |inode: u64| all.iter().find(|socket| socket.inode == inode).expect("it is listed").clone();
            let (mine, theirs) = (one(inode(&near)), one(inode(&far)));
            assert_eq!((mine.local, mine.peer), (theirs.peer, theirs.local), "{mine:?}");
            assert_eq!(mine.peer, address);
            let counts = mine.counts.expect("counted");
            assert_eq!((counts.sent_bytes, counts.received_bytes), (300_000, 5), "{mine:?}");
            assert_eq!(theirs.counts.map(|counts| counts.sent_bytes), Some(5), "{theirs:?}");
            assert!(counts.rtt_us > 0 && counts.packets > 0, "{counts:?}");
            let listens = all.iter().any(|socket| socket.state == 10 && socket.local == address);
            assert!(listens, "the one that listens is there too");
        }
    }

    #[test]
    fn a_way_that_was_never_measured_hides_no_bytes() {
        let mut info = [0u8; 232];
        info[148..152].copy_from_slice(&u32::MAX.to_ne_bytes());
        info[200..208].copy_from_slice(&700u64.to_ne_bytes());
        let counts = counts(&info, 1).expect("it is long enough");
        assert_eq!((counts.sent_bytes, counts.min_rtt_us), (700, 0));
    }

    #[test]
    fn damaged_answers_end_and_name_nothing() {
        let mut sockets = Vec::new();
        for bytes in [&[][..], &[1; 15], &[0; 16], &[255; 64]] {
            let _ = messages(bytes, &mut sockets);
        }
        let mut short = 20u32.to_ne_bytes().to_vec();
        short.extend_from_slice(&[SOCK_DIAG_BY_FAMILY.to_ne_bytes(), [0; 2]].concat());
        short.extend_from_slice(&[2; 12]);
        assert!(messages(&short, &mut sockets).is_ok_and(|more| more));
        assert_eq!(sockets, []);
        let mut error = 36u32.to_ne_bytes().to_vec();
        error.extend_from_slice(&[MESSAGE_ERROR.to_ne_bytes(), [0; 2]].concat());
        error.extend_from_slice(&[0; 8]);
        error.extend_from_slice(&(-libc::ENOENT).to_ne_bytes());
        error.extend_from_slice(&[0; 16]);
        let told = messages(&error, &mut sockets).map_err(|error| error.raw_os_error());
        assert_eq!(told, Err(Some(libc::ENOENT)));
    }
}
