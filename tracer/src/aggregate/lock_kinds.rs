//! What a futex is: a lock, a condition variable, a semaphore... Decided by what the memory at its address told when threads began to
//! wait, else by the functions of the stacks that they waited in, else by who ended the waits. Where none of these decides, the kind is
//! not known.
//!
//! By functions, the innermost one of the C library's, Rust's or Go's own names counts: pthread_cond_wait is built of the same futexes as
//! everything else, and only its caller knows it. A kind needs half of the time that has a stack.

use std::collections::BTreeMap;

use tracer_common::futex::{Observed, op};

use super::build::Writer;
use super::locks::Lock;

/// The kind of an allocator's lock.
pub const MALLOC_ARENA: &str = "malloc arena";

/// glibc's heaps other than the first lie at multiples of this, with the arena's lock near their beginning (malloc/arena.c).
const HEAP_ALIGNMENT: u64 = 64 << 20;
/// Bytes of a heap's own header on all versions seen, and of the arena up to its lock.
const HEAP_HEADER_BYTES: u64 = 0x60;

/// Whether the memory is that of an arena behind a heap's header: the lock word with waiters, the flags, one that says whether there are
/// fast chunks, padding (malloc/malloc.c, `struct malloc_state`).
pub fn is_heap_arena(address: u64, seen: Observed) -> bool {
    let at = address % HEAP_ALIGNMENT;
    let [word, flags, fast, padding, ..] = seen.words;
    let plain = seen.op == op::WAIT | op::PRIVATE && seen.val == 2;
    plain && (0x10..HEAP_HEADER_BYTES).contains(&at) && word <= 2 && flags < 16 && fast <= 1 && padding == 0
}

/// What a function, or a group of them, waits for, by the beginning of its name; the first that fits.
const BY_FUNCTION: [(&str, &str); 40] = [
    ("pthread_cond_", "condition variable"),
    ("pthread_barrier_", "barrier"),
    ("pthread_rwlock_", "pthread rwlock"),
    ("pthread_join", "join"),
    ("pthread_timedjoin", "join"),
    ("pthread_clockjoin", "join"),
    ("pthread_once", "once"),
    ("pthread_mutex_", "pthread mutex"),
    ("new_sem_", "semaphore"),
    ("sem_timedwait", "semaphore"),
    ("sem_clockwait", "semaphore"),
    ("sem_wait", "semaphore"),
    ("call_once", "once"),
    ("cnd_", "condition variable"),
    ("mtx_", "pthread mutex"),
    ("std::sys::sync::mutex", "Rust mutex"),
    ("std::sys::sync::condvar", "Rust condition variable"),
    ("std::sys::sync::rwlock", "Rust rwlock"),
    ("std::sys::sync::once", "Rust once"),
    ("std::sys::sync::thread_parking", "Rust park"),
    ("std::sys_common::thread_parking", "Rust park"),
    ("std::sys::unix::locks::futex_mutex", "Rust mutex"),
    ("std::sys::unix::locks::futex_condvar", "Rust condition variable"),
    ("std::sys::unix::locks::futex_rwlock", "Rust rwlock"),
    ("std::sys::pal::unix::sync::mutex", "Rust mutex"),
    ("parking_lot::raw_mutex", "Rust mutex"),
    ("parking_lot::raw_rwlock", "Rust rwlock"),
    ("parking_lot::condvar", "Rust condition variable"),
    ("runtime.notesleep", "Go note"),
    ("runtime.notetsleep", "Go note"),
    ("runtime.lock2", "Go lock"),
    ("runtime.lock", "Go lock"),
    ("malloc", MALLOC_ARENA),
    ("calloc", MALLOC_ARENA),
    ("realloc", MALLOC_ARENA),
    ("free", MALLOC_ARENA),
    ("memalign", MALLOC_ARENA),
    ("posix_memalign", MALLOC_ARENA),
    ("aligned_alloc", MALLOC_ARENA),
    ("arena_get", MALLOC_ARENA),
];

/// Functions of the allocator that no prefix above covers, without the underscores in front.
const ALLOCATOR: [&str; 12] = [
    "int_malloc",
    "int_free",
    "int_free_merge_chunk",
    "int_realloc",
    "int_memalign",
    "mid_memalign",
    "libc_malloc",
    "libc_calloc",
    "libc_free",
    "libc_realloc",
    "libc_memalign",
    "tcache_init",
];

/// Functions that take the lock of a stream, likewise.
const STREAM: [&str; 16] = [
    "flockfile",
    "IO_flockfile",
    "IO_puts",
    "IO_fputs",
    "IO_fwrite",
    "IO_fflush",
    "IO_fread",
    "IO_getc",
    "IO_putc",
    "puts",
    "fputs",
    "fwrite",
    "fflush",
    "fread",
    "fprintf",
    "printf",
];

/// Functions between a call and its futex that tell nothing.
fn serves(name: &str) -> bool {
    let starts = ["__lll_", "lll_", "futex_", "__futex", "syscall", "__syscall", "std::sys::pal::unix::futex"];
    starts.iter().any(|start| name.starts_with(start))
}

/// A name without what C libraries put in front of it for their own use.
fn public_name(name: &str) -> &str {
    name.strip_prefix("__GI_").unwrap_or(name).trim_start_matches('_')
}

/// The kind that these functions, innermost first, wait for.
fn by_functions<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    // Behind what serves, the functions of libraries are few: whoever waits is near.
    const DEPTH: usize = 6;
    for name in names.filter(|name| !serves(name)).take(DEPTH) {
        let public = public_name(name.trim_start_matches('<'));
        let found = BY_FUNCTION.iter().find(|(start, _)| public.starts_with(start) || name.starts_with(start));
        let is_whole = |kind: &str| kind != MALLOC_ARENA || is_allocator(public);
        match found.filter(|(_, kind)| is_whole(kind)) {
            Some((_, kind)) => return Some(kind),
            None if ALLOCATOR.contains(&public) => return Some(MALLOC_ARENA),
            None if STREAM.contains(&public) => return Some("stdio stream"),
            None => {}
        }
    }
    None
}

/// Whether a native function is the C library's allocator.
pub(super) fn allocates(name: &str) -> bool {
    let name = public_name(name);
    is_allocator(name) || ALLOCATOR.contains(&name)
}

/// The allocator's names are words that other functions begin with.
fn is_allocator(name: &str) -> bool {
    let end = name.find(['.', '@']).unwrap_or(name.len());
    let whole = ["malloc", "calloc", "realloc", "free", "memalign", "posix_memalign", "aligned_alloc"];
    whole.contains(&&name[..end]) || name.starts_with("arena_get") || name.starts_with("malloc_consolidate")
}

impl Writer<'_> {
    /// The kind of a lock and how it was decided.
    pub(super) fn lock_kind(&self, lock: &Lock) -> Option<(String, &'static str)> {
        if let Some(kind) = lock.kind {
            return Some((kind.id().to_owned(), "memory"));
        }
        if lock.heap_arena > 0 && lock.heap_arena * 2 >= lock.waits {
            return Some((MALLOC_ARENA.to_owned(), "memory"));
        }
        if let Some(kind) = self.kind_by_functions(lock) {
            return Some((kind.to_owned(), "function"));
        }
        let joins = lock.joins > 0 && lock.joins == lock.completed;
        joins.then(|| ("join".to_owned(), "wake"))
    }

    fn kind_by_functions(&self, lock: &Lock) -> Option<&'static str> {
        let stacks = self.stacks.as_ref()?;
        let mut time: BTreeMap<Option<&'static str>, u64> = BTreeMap::new();
        for (place, ns) in lock.waiters.iter().flat_map(|waiter| &waiter.places) {
            let Some(names) = stacks.names_at(lock.tgid, *place) else { continue };
            let sum = time.entry(by_functions(names.iter().map(|name| &**name))).or_default();
            *sum = sum.saturating_add(*ns);
        }
        let all = time.values().fold(0u64, |sum, ns| sum.saturating_add(*ns));
        let (kind, ns) = time.into_iter().max_by_key(|(_, ns)| *ns)?;
        kind.filter(|_| ns >= all / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(names: &[&str]) -> Option<&'static str> {
        by_functions(names.iter().copied())
    }

    #[test]
    fn the_function_nearest_to_the_futex_tells() {
        let wait = ["__futex_abstimed_wait_common64", "__futex_abstimed_wait_common"];
        for (names, wanted) in [
            (vec!["___pthread_cond_wait", "main"], "condition variable"),
            (vec!["__pthread_cond_wait_common", "___pthread_cond_timedwait", "take_gil"], "condition variable"),
            (vec!["__new_sem_wait_slow64", "take"], "semaphore"),
            (vec!["__pthread_clockjoin_ex", "main"], "join"),
            (vec!["___pthread_barrier_wait", "work"], "barrier"),
            (vec!["__pthread_rwlock_wrlock_full64", "___pthread_rwlock_wrlock"], "pthread rwlock"),
            (vec!["<std::sys::sync::mutex::futex::Mutex>::lock_contended", "work"], "Rust mutex"),
            (vec!["std::sys::sync::condvar::futex::Condvar::wait_optional_timeout"], "Rust condition variable"),
            (vec!["runtime.futexsleep", "runtime.notesleep", "runtime.stopm"], "Go note"),
        ] {
            let names: Vec<&str> = wait.iter().copied().chain(names).collect();
            assert_eq!(kind(&names), Some(wanted), "{names:?}");
        }
        assert_eq!(
            kind(&["__lll_lock_wait", "lll_mutex_lock_optimized", "___pthread_mutex_lock"]),
            Some("pthread mutex")
        );
        assert_eq!(kind(&["__lll_lock_wait_private", "_int_free", "__GI___libc_free"]), Some(MALLOC_ARENA));
        assert_eq!(kind(&["__lll_lock_wait_private", "__GI___libc_malloc", "work"]), Some(MALLOC_ARENA));
        assert_eq!(kind(&["__lll_lock_wait_private", "_IO_fputs", "log"]), Some("stdio stream"));
    }

    #[test]
    fn names_that_only_begin_like_it_and_foreign_ones_tell_nothing() {
        assert_eq!(kind(&["futex_wait", "free_list_lock", "work"]), None);
        assert_eq!(kind(&["syscall", "semantic_wait", "main"]), None);
        assert_eq!(kind(&["libfoo.so+0x10"]), None);
        assert_eq!(kind(&[]), None);
        let far = ["a", "b", "c", "d", "e", "f", "pthread_cond_wait"];
        assert_eq!(kind(&far), None, "a lock of its own in a callback of something that waits");
    }

    #[test]
    fn an_arena_is_told_by_its_place_and_its_first_words() {
        let seen = |words| Observed { op: op::WAIT | op::PRIVATE, val: 2, words };
        assert!(is_heap_arena(0x7f12_c000_0030, seen([2, 0, 1, 0, 0, 0])));
        assert!(is_heap_arena(0x7f12_c000_0020, seen([0, 4, 0, 0, 0x1234, 0x7f12])), "given back a moment ago");
        assert!(!is_heap_arena(0x7f12_c000_1030, seen([2, 0, 1, 0, 0, 0])), "elsewhere in the heap");
        assert!(!is_heap_arena(0x7f12_c000_0030, seen([2, 0, 4711, 1, 0, 0])), "a mutex");
        assert!(!is_heap_arena(0x7f12_c000_0030, Observed { op: op::WAIT, ..seen([2, 0, 1, 0, 0, 0]) }), "shared");
    }
}
