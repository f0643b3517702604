//! A page of memory that comes when another thread provides it: userfaultfd(2), in safe clothes. Stands for memory behind a slow disk.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::sys::{Mapping, check};

/// linux/userfaultfd.h; the C library has none of it.
const API: u64 = 0xaa;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_ZEROPAGE: libc::c_ulong = 0xc020_aa04;
const REGISTER_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;
const MESSAGE_BYTES: usize = 32;

/// Bytes of the page.
pub const PAGE_BYTES: usize = 4096;

/// See the file's head.
pub struct Page {
    fd: OwnedFd,
    memory: Mapping,
}

impl Page {
    /// A page that is not there.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes flags only.
        let number = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        let number = check(number as libc::c_int)?;
        // SAFETY: the call succeeded, so the descriptor is open and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        let page = Page { fd, memory: Mapping::new(PAGE_BYTES, false)? };
        page.ask(UFFDIO_API, [API, 0, 0, 0])?;
        page.ask(UFFDIO_REGISTER, [page.address(), PAGE_BYTES as u64, REGISTER_MISSING, 0])?;
        Ok(page)
    }

    fn address(&self) -> u64 {
        self.memory.address() as u64
    }

    fn ask(&self, request: libc::c_ulong, mut words: [u64; 4]) -> io::Result<()> {
        // SAFETY: no structure of these requests is longer than four words.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), request, words.as_mut_ptr()) }).map(drop)
    }

    /// Waits for somebody to need the page; false: nobody did.
    pub fn is_needed(&self, timeout_ms: i32) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        if check(unsafe { libc::poll(&raw mut poll, 1, timeout_ms) })? == 0 {
            return Ok(false);
        }
        let mut message = [0_u8; MESSAGE_BYTES];
        // SAFETY: `message` is writable for its length.
        let count = unsafe { libc::read(self.fd.as_raw_fd(), message.as_mut_ptr().cast(), MESSAGE_BYTES) };
        Ok(count == MESSAGE_BYTES as isize && message[0] == EVENT_PAGEFAULT)
    }

    /// Provides it; whoever needs it goes on.
    pub fn provide(&self) -> io::Result<()> {
        self.ask(UFFDIO_ZEROPAGE, [self.address(), PAGE_BYTES as u64, 0, 0])
    }

    /// Takes it away again.
    pub fn take_away(&self) -> io::Result<()> {
        // SAFETY: memory that only this value knows, and that holds nothing.
        check(unsafe { libc::madvise(self.memory.address(), PAGE_BYTES, libc::MADV_DONTNEED) }).map(drop)
    }

    /// Writes it to a descriptor. The kernel needs the page for that.
    pub fn write_to(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the memory is mapped for its length.
        let count = unsafe { libc::write(fd.as_raw_fd(), self.memory.address(), PAGE_BYTES) };
        if count == PAGE_BYTES as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
