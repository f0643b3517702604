//! The C library's own locks, in heap memory, in safe clothes. Rust's standard locks do not keep their owner, these do.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The kinds of mutex that a role can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MutexKind {
    Normal,
    Recursive,
    Errorcheck,
    Robust,
    Pi,
    /// A normal mutex that is taken by pthread_mutex_timedlock.
    Timed,
}

/// A C library object that stays where it was made.
struct Pinned<T>(Box<UnsafeCell<T>>);

impl<T> Pinned<T> {
    fn zeroed() -> Self {
        // SAFETY: used for pthread types only, which are plain integers and pointers; each is initialised by its own call next.
        Pinned(Box::new(UnsafeCell::new(unsafe { MaybeUninit::zeroed().assume_init() })))
    }

    fn get(&self) -> *mut T {
        self.0.get()
    }

    fn address(&self) -> String {
        format!("{:#x}", self.0.get() as usize)
    }
}

// SAFETY: the pthread functions are made to be called on one object by several threads.
unsafe impl<T> Sync for Pinned<T> {}
// SAFETY: the object is heap memory without ties to the thread that made it.
unsafe impl<T> Send for Pinned<T> {}

/// A `pthread_mutex_t`.
pub struct Mutex {
    raw: Pinned<libc::pthread_mutex_t>,
    kind: MutexKind,
}

impl Mutex {
    /// A new mutex of a kind.
    pub fn new(kind: MutexKind) -> Self {
        let raw = Pinned::<libc::pthread_mutex_t>::zeroed();
        let attributes = Pinned::<libc::pthread_mutexattr_t>::zeroed();
        // SAFETY: both point to memory of the right type; the attributes are initialised before they are used.
        unsafe {
            libc::pthread_mutexattr_init(attributes.get());
            match kind {
                MutexKind::Normal | MutexKind::Timed => 0,
                MutexKind::Recursive => {
                    libc::pthread_mutexattr_settype(attributes.get(), libc::PTHREAD_MUTEX_RECURSIVE)
                }
                MutexKind::Errorcheck => {
                    libc::pthread_mutexattr_settype(attributes.get(), libc::PTHREAD_MUTEX_ERRORCHECK)
                }
                MutexKind::Robust => libc::pthread_mutexattr_setrobust(attributes.get(), libc::PTHREAD_MUTEX_ROBUST),
                MutexKind::Pi => libc::pthread_mutexattr_setprotocol(attributes.get(), libc::PTHREAD_PRIO_INHERIT),
            };
            libc::pthread_mutex_init(raw.get(), attributes.get());
            libc::pthread_mutexattr_destroy(attributes.get());
        }
        Mutex { raw, kind }
    }

    /// Where it lies.
    pub fn address(&self) -> String {
        self.raw.address()
    }

    /// Takes it.
    pub fn lock(&self) {
        // SAFETY: the mutex is initialised and stays where it is.
        unsafe {
            match self.kind {
                MutexKind::Timed => {
                    let mut deadline = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                    libc::clock_gettime(libc::CLOCK_REALTIME, &mut deadline);
                    deadline.tv_sec += 60;
                    libc::pthread_mutex_timedlock(self.raw.get(), &deadline);
                }
                MutexKind::Recursive => {
                    libc::pthread_mutex_lock(self.raw.get());
                    libc::pthread_mutex_lock(self.raw.get());
                }
                _ => {
                    libc::pthread_mutex_lock(self.raw.get());
                }
            }
        }
    }

    /// Who holds it, by glibc's own record (x86-64 layout); for a priority-inheritance mutex by the word that the kernel hands over
    /// itself, maybe to a waiter that has not run yet.
    pub fn holder(&self) -> Option<u32> {
        let word = if self.kind == MutexKind::Pi { 0 } else { 2 };
        // SAFETY: the words lie inside of the initialised mutex; others write them meanwhile, so they are read as atomics.
        let value = unsafe { AtomicU32::from_ptr(self.raw.get().cast::<u32>().add(word)) }.load(Ordering::Relaxed);
        Some(value & libc::FUTEX_TID_MASK).filter(|tid| *tid != 0)
    }

    /// Gives it back.
    pub fn unlock(&self) {
        // SAFETY: as above; the calling thread holds it.
        unsafe {
            if self.kind == MutexKind::Recursive {
                libc::pthread_mutex_unlock(self.raw.get());
            }
            libc::pthread_mutex_unlock(self.raw.get());
        }
    }
}

/// A `pthread_rwlock_t`.
pub struct RwLock(Pinned<libc::pthread_rwlock_t>);

impl RwLock {
    /// A new lock.
    pub fn new() -> Self {
        let raw = Pinned::zeroed();
        // SAFETY: points to memory of the right type.
        unsafe { libc::pthread_rwlock_init(raw.get(), std::ptr::null()) };
        RwLock(raw)
    }

    /// Where it lies.
    pub fn address(&self) -> String {
        self.0.address()
    }

    /// Takes it to read or to write.
    pub fn lock(&self, write: bool) {
        // SAFETY: initialised and stays where it is.
        unsafe {
            if write {
                libc::pthread_rwlock_wrlock(self.0.get())
            } else {
                libc::pthread_rwlock_rdlock(self.0.get())
            };
        }
    }

    /// Gives it back.
    pub fn unlock(&self) {
        // SAFETY: as above; the calling thread holds it.
        unsafe { libc::pthread_rwlock_unlock(self.0.get()) };
    }
}

/// A mutex with a condition and a counter of tokens under it.
pub struct Tokens {
    mutex: Mutex,
    condition: Pinned<libc::pthread_cond_t>,
    count: UnsafeCell<i64>,
}

// SAFETY: `count` is only touched while `mutex` is held.
unsafe impl Sync for Tokens {}

impl Tokens {
    /// None to take yet.
    pub fn new() -> Self {
        let condition = Pinned::zeroed();
        // SAFETY: points to memory of the right type.
        unsafe { libc::pthread_cond_init(condition.get(), std::ptr::null()) };
        Tokens { mutex: Mutex::new(MutexKind::Normal), condition, count: UnsafeCell::new(0) }
    }

    /// Where the condition lies.
    pub fn address(&self) -> String {
        self.condition.address()
    }

    /// Adds tokens: wakes one waiter for one, all for more.
    pub fn put(&self, count: i64) {
        self.mutex.lock();
        // SAFETY: the mutex is held.
        unsafe { *self.count.get() += count };
        self.mutex.unlock();
        // SAFETY: initialised and stays where it is.
        unsafe {
            if count == 1 {
                libc::pthread_cond_signal(self.condition.get())
            } else {
                libc::pthread_cond_broadcast(self.condition.get())
            }
        };
    }

    /// Waits for a token and takes it.
    pub fn take(&self) {
        self.mutex.lock();
        // SAFETY: the mutex is held whenever the count is read or written, and held by this thread when it waits.
        unsafe {
            while *self.count.get() == 0 {
                libc::pthread_cond_wait(self.condition.get(), self.mutex.raw.get());
            }
            *self.count.get() -= 1;
        }
        self.mutex.unlock();
    }
}

/// A `sem_t`.
pub struct Semaphore(Pinned<libc::sem_t>);

impl Semaphore {
    /// A semaphore with a first value.
    pub fn new(value: u32) -> Self {
        let raw = Pinned::zeroed();
        // SAFETY: points to memory of the right type; not shared with other processes.
        unsafe { libc::sem_init(raw.get(), 0, value) };
        Semaphore(raw)
    }

    /// Where it lies.
    pub fn address(&self) -> String {
        self.0.address()
    }

    /// Waits for it and takes it.
    pub fn take(&self) {
        // SAFETY: initialised and stays where it is.
        while unsafe { libc::sem_wait(self.0.get()) } != 0 {}
    }

    /// Gives one back.
    pub fn put(&self) {
        // SAFETY: initialised and stays where it is.
        unsafe { libc::sem_post(self.0.get()) };
    }
}

/// A stdio stream that throws away what it is given.
pub struct Stream(*mut libc::FILE);

// SAFETY: stdio streams carry their own lock.
unsafe impl Sync for Stream {}
// SAFETY: as above.
unsafe impl Send for Stream {}

unsafe extern "C" {
    fn flockfile(stream: *mut libc::FILE);
    fn funlockfile(stream: *mut libc::FILE);
}

impl Stream {
    /// Opens `/dev/null`.
    pub fn open() -> anyhow::Result<Self> {
        // SAFETY: both strings end with a zero.
        let stream = unsafe { libc::fopen(c"/dev/null".as_ptr(), c"w".as_ptr()) };
        anyhow::ensure!(!stream.is_null(), "cannot open /dev/null: {}", std::io::Error::last_os_error());
        Ok(Stream(stream))
    }

    /// Waits for the stream's lock, writes a line, keeps the lock for `hold`. Returns what it waited.
    pub fn write_line(&self, hold: Duration) -> Duration {
        let before = std::time::Instant::now();
        // SAFETY: the stream is open for as long as this process lives.
        unsafe { flockfile(self.0) };
        let waited = before.elapsed();
        // SAFETY: as above, and the text ends with a zero.
        unsafe {
            libc::fputs(c"a line of a log\n".as_ptr(), self.0);
            libc::fflush(self.0);
        }
        crate::sys::compute(hold);
        // SAFETY: this thread took the lock above.
        unsafe { funlockfile(self.0) };
        waited
    }
}
