//! How much the threads read and write that wait for pipes and sockets: the kernel's own counts, from /proc, now and then. What a
//! thread had moved when it ended comes from the kernel's records. Bounded: so many threads, so many looks a second; further threads
//! have no counts.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    kernel::{clock, proc},
    model::meta::MovedRecord,
};

/// Threads looked at. A look takes some 10 us.
const MOST_THREADS: usize = 64;
/// How often.
const PERIOD: Duration = Duration::from_secs(1);
/// Who moved less since it was written last is not written again.
const WORTH_BYTES: u64 = 1 << 20;

/// See the file's head.
pub struct Movers {
    /// Process, and what was written last, by thread.
    threads: BTreeMap<u32, MovedRecord>,
    next: Instant,
}

impl Default for Movers {
    fn default() -> Self {
        Movers { threads: BTreeMap::new(), next: Instant::now() + PERIOD }
    }
}

impl Movers {
    /// A thread waits for a pipe or a socket. Gives its counts if it is a new one.
    pub fn watch(&mut self, tgid: u32, tid: u32) -> Option<MovedRecord> {
        if self.threads.contains_key(&tid) || self.threads.len() >= MOST_THREADS {
            return None;
        }
        let first = look(tgid, tid)?;
        self.threads.insert(tid, first.clone());
        Some(first)
    }

    /// How long until the next look; none: there is nobody to look at.
    pub fn due_in(&self) -> Option<Duration> {
        (!self.threads.is_empty()).then(|| self.next.saturating_duration_since(Instant::now()))
    }

    /// Looks at all threads, if it is time or `at_once`. Gives those that moved something worth a record. Who is gone makes room.
    pub fn look(&mut self, at_once: bool) -> Vec<MovedRecord> {
        if !at_once && Instant::now() < self.next {
            return Vec::new();
        }
        self.next = Instant::now() + PERIOD;
        let mut moved = Vec::new();
        self.threads.retain(|tid, before| {
            let Some(now) = look(before.tgid, *tid) else { return false };
            if bytes(&now).saturating_sub(bytes(before)) >= WORTH_BYTES {
                *before = now.clone();
                moved.push(now);
            }
            true
        });
        moved
    }
}

fn bytes(moved: &MovedRecord) -> u64 {
    moved.read_bytes.saturating_add(moved.written_bytes)
}

fn look(tgid: u32, tid: u32) -> Option<MovedRecord> {
    let [read_bytes, written_bytes, reads, writes] = proc::moved(tid)?;
    Some(MovedRecord { ts_ns: clock::monotonic_ns(), tgid, tid, read_bytes, written_bytes, reads, writes })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_thread_that_moves_much_is_written_again_and_one_that_moves_little_is_not() {
        let Some(tid) = proc::identity(std::process::id()).map(|_| nix::unistd::gettid().as_raw() as u32) else {
            return;
        };
        let mut movers = Movers::default();
        assert_eq!(movers.due_in(), None, "nobody to look at");
        let Some(first) = movers.watch(std::process::id(), tid) else {
            eprintln!("not run: this kernel does not count what threads read");
            return;
        };
        assert!(movers.due_in().is_some());
        assert_eq!(movers.watch(std::process::id(), tid), None, "it is known");
        assert_eq!(movers.look(true), [], "it moved nothing worth a record");
        let (mut from, mut to) = std::io::pipe().expect("a pipe");
        let mut buffer = [0; 4096];
        for _ in 0..512 {
            to.write_all(&buffer).expect("room");
            from.read_exact(&mut buffer).expect("there");
        }
        assert_eq!(movers.look(false), [], "it is not time");
        let moved = movers.look(true);
        let [moved] = &moved[..] else { panic!("one record: {moved:?}") };
        let difference = |get: fn(&MovedRecord) -> u64| get(moved) - get(&first);
        assert!(difference(|moved| moved.read_bytes) >= 1 << 21, "{first:?} {moved:?}");
        assert!(difference(|moved| moved.written_bytes) >= 1 << 21, "{first:?} {moved:?}");
        assert!((512..600).contains(&difference(|moved| moved.writes)), "{first:?} {moved:?}");
    }
}
