//! Files mapped into this process for reading, such that nobody who shortens such a file can end this process.
//!
//! Touching a page that a mapped file no longer has raises SIGBUS. The files looked at here belong to others (the libraries of
//! traced processes), so a handler puts a page of zeros there instead: the reader sees damaged content, which it must stand
//! anyway. Only addresses of maps made here are treated so; for any other the handler that was there before decides.
//! Not here: what the bytes mean.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use memmap2::{Mmap, MmapOptions};

/// Most maps that live at the same time; one more is refused.
pub const MAX_FILE_MAPS: usize = 8192;

/// A file's bytes, or zeros where the file has become shorter since.
#[derive(Debug)]
pub struct FileMap {
    /// Its line in the table of ranges. Dropped before the map is undone, see [`Drop`].
    slot: usize,
    map: Mmap,
}

impl FileMap {
    /// Maps a regular file of at least one byte. The caller has made sure that it is one.
    pub fn new(file: &File) -> io::Result<Self> {
        install_handler()?;
        // SAFETY: the map is read-only and private. Others may write to the file while its bytes are borrowed here, which no
        // reader of a live file can rule out; all that is read from it is plain bytes, checked as hostile input, and pages that
        // the file loses are replaced by the handler above.
        let map = unsafe { MmapOptions::new().map_copy_read_only(file)? };
        let start = map.as_ptr() as usize;
        let slot = register(start, start.saturating_add(map.len()))
            .ok_or_else(|| io::Error::other(format!("more than {MAX_FILE_MAPS} files are mapped at the same time")))?;
        Ok(Self { slot, map })
    }
}

impl Deref for FileMap {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for FileMap {
    fn drop(&mut self) {
        let range = &RANGES[self.slot];
        range.end.store(0, Ordering::SeqCst);
        range.start.store(0, Ordering::SeqCst);
    }
}

/// Pages that had to be replaced since this process began.
pub fn lost_pages() -> u64 {
    LOST_PAGES.load(Ordering::Relaxed)
}

/// A range of addresses; `end` 0: not valid (yet).
struct Range {
    start: AtomicUsize,
    end: AtomicUsize,
}

static RANGES: [Range; MAX_FILE_MAPS] =
    [const { Range { start: AtomicUsize::new(0), end: AtomicUsize::new(0) } }; MAX_FILE_MAPS];
static LOST_PAGES: AtomicU64 = AtomicU64::new(0);
static PREVIOUS: OnceLock<Handler> = OnceLock::new();

struct Handler {
    previous: libc::sigaction,
    page_bytes: usize,
}

/// Claims a line of the table.
fn register(start: usize, end: usize) -> Option<usize> {
    // Address 0 is never mapped, so 0 stands for a free line.
    let slot = RANGES
        .iter()
        .position(|range| range.start.compare_exchange(0, start, Ordering::SeqCst, Ordering::SeqCst).is_ok())?;
    RANGES[slot].end.store(end, Ordering::SeqCst);
    Some(slot)
}

fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: all-zero bytes are a valid sigaction.
        let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: a null action only reads the present one into `previous`, which is ours.
        if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut previous) } != 0 {
            return Err(last_errno());
        }
        // SAFETY: sysconf has no preconditions.
        let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        // The handler finds `PREVIOUS` set: it is set before the handler is installed, and only here.
        let _ = PREVIOUS.set(Handler { previous, page_bytes });
        // SAFETY: as above.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler has the signature that SA_SIGINFO asks for and does only what a signal handler may.
        match unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    });
    installed.map_err(io::Error::from_raw_os_error)
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)
}

/// Runs in the thread that touched the page. Allocates nothing and takes no lock.
extern "C" fn on_bus_error(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let Some(handler) = PREVIOUS.get() else { return };
    // SAFETY: the kernel hands a valid siginfo over, and SIGBUS has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let page = address & !(handler.page_bytes - 1);
    let ours = RANGES.iter().any(|range| {
        let (start, end) = (range.start.load(Ordering::SeqCst), range.end.load(Ordering::SeqCst));
        start != 0 && start <= address && address < end.next_multiple_of(handler.page_bytes)
    });
    if ours {
        // SAFETY: the page lies in a map of this module that is alive, since its line is in the table, and nothing but that map
        // lies there; the errno of the interrupted code is kept.
        unsafe {
            let errno = libc::__errno_location();
            let before = *errno;
            let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let done = libc::mmap(page as *mut libc::c_void, handler.page_bytes, libc::PROT_READ, flags, -1, 0);
            *errno = before;
            if done != libc::MAP_FAILED {
                LOST_PAGES.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }
    // Not ours: the access is repeated on return and meets the handler that was there before.
    // SAFETY: puts back what sigaction gave out.
    unsafe { libc::sigaction(libc::SIGBUS, &handler.previous, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_shortened_under_its_map_reads_as_zeros() {
        let path = std::env::temp_dir().join(format!("tracer-file-map-{}", std::process::id()));
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
        file.write_all(&[7; 3 * 4096]).expect("its content");
        let map = FileMap::new(&file).expect("a map");
        assert_eq!((map.len(), map[0], map[8192]), (3 * 4096, 7, 7));
        let before = lost_pages();
        file.set_len(0).expect("shortened");
        assert_eq!(map.iter().filter(|byte| **byte != 0).count(), 0, "no byte is left, and this process lives");
        assert_eq!(lost_pages() - before, 3);
        drop(map);
        let _ = std::fs::remove_file(&path);
    }

    #[test]
    fn a_line_of_the_table_is_free_again_after_its_map() {
        let file = File::open("/proc/self/exe").expect("this program");
        let map = FileMap::new(&file).expect("a map");
        assert!(map.starts_with(b"\x7fELF"));
        let slot = map.slot;
        drop(map);
        assert_eq!(RANGES[slot].end.load(Ordering::SeqCst), 0);
    }
}
