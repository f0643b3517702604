//! How much went through a pipe or a socket, as far as the kernel's counts of the threads at its ends bound it: nobody counts by
//! descriptor, so what a thread moved in all is an upper bound, and the smaller one of both ends a better one.

use super::hash::FastMap;
use crate::model::network::UnixCounts;
use crate::model::objects::ObjectBytes;
use crate::model::report::ThreadIo;

/// Rates of both ends that differ by less are one.
const AGREE: f64 = 0.9;

/// What threads moved, by process and thread.
pub(super) type Io = FastMap<(u32, u32), ThreadIo>;

/// A thread at an end: process, thread, and whether it waited there itself.
pub(super) type At = (u32, u32, bool);

/// All threads at one end.
struct Side {
    bytes: u64,
    per_s: f64,
    per_call: f64,
}

impl Side {
    /// None where not all of them are known, or they moved nothing in calls that are counted. Of a socket only those are that waited
    /// in such a call.
    fn of(ends: &[At], is_socket: bool, io: &Io, get: fn(&ThreadIo) -> (u64, u64)) -> Option<Self> {
        let (mut bytes, mut per_s, mut calls) = (0u64, 0.0, 0u64);
        for (tgid, tid, waited) in ends {
            let io = io.get(&(*tgid, *tid)).filter(|_| *waited || !is_socket)?;
            let (moved, made) = get(io);
            bytes = bytes.saturating_add(moved);
            calls = calls.saturating_add(made);
            per_s += moved as f64 / io.over_s;
        }
        (bytes > 0 && calls > 0).then(|| Side { bytes, per_s, per_call: bytes as f64 / calls as f64 })
    }
}

/// What went through an object with these threads at its ends; none where no end is known.
pub(super) fn bytes(readers: &[At], writers: &[At], is_socket: bool, io: &Io) -> Option<ObjectBytes> {
    let reading = Side::of(readers, is_socket, io, |io| (io.read_bytes, io.reads));
    let writing = Side::of(writers, is_socket, io, |io| (io.written_bytes, io.writes));
    let rates = reading.as_ref().zip(writing.as_ref()).map(|(reading, writing)| (reading.per_s, writing.per_s));
    let least = [&reading, &writing].into_iter().flatten().reduce(|a, b| if b.per_s < a.per_s { b } else { a })?;
    Some(ObjectBytes {
        at_most: least.bytes,
        per_s_at_most: least.per_s,
        ends_agree: rates.is_some_and(|(reading, writing)| reading.min(writing) >= AGREE * reading.max(writing)),
        counted_s: None,
        per_read: reading.as_ref().map(|side| side.per_call),
        per_write: writing.as_ref().map(|side| side.per_call),
    })
}

/// The same where the calls at the socket itself were counted.
pub(super) fn counted(counts: &UnixCounts) -> ObjectBytes {
    let bytes = counts.sent_bytes.max(counts.received_bytes);
    let mean = |bytes: u64, calls: u64| (calls > 0).then(|| bytes as f64 / calls as f64);
    ObjectBytes {
        at_most: bytes,
        per_s_at_most: bytes as f64 / counts.counted_s,
        ends_agree: true,
        counted_s: Some(counts.counted_s),
        per_read: mean(counts.received_bytes, counts.receives),
        per_write: mean(counts.sent_bytes, counts.sends),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn io(read_bytes: u64, written_bytes: u64, over_s: f64) -> ThreadIo {
        ThreadIo { read_bytes, written_bytes, reads: 16, writes: 4, over_s }
    }

    #[test]
    fn the_end_that_moved_less_bounds_what_went_through() {
        let known: Io = [((1, 1), io(100 * MIB, 0, 2.0)), ((2, 2), io(0, 96 * MIB, 2.0))].into_iter().collect();
        let told = bytes(&[(1, 1, true)], &[(2, 2, false)], false, &known).expect("both ends are known");
        assert_eq!((told.at_most, told.per_s_at_most, told.ends_agree), (96 * MIB, 48.0 * MIB as f64, true));
        assert_eq!((told.per_read, told.per_write), (Some(6.25 * MIB as f64), Some(24.0 * MIB as f64)));
    }

    #[test]
    fn one_end_alone_bounds_it_too_but_nothing_agrees() {
        let known: Io = [((1, 1), io(100 * MIB, 0, 2.0))].into_iter().collect();
        let told = bytes(&[(1, 1, true)], &[(2, 2, true)], false, &known).expect("the reader is known");
        assert_eq!((told.at_most, told.ends_agree, told.per_write), (100 * MIB, false, None));
        assert_eq!(bytes(&[], &[(2, 2, true)], false, &known), None);
        assert_eq!(bytes(&[(1, 1, true), (3, 3, true)], &[], false, &known), None, "another reader is not known");
    }

    #[test]
    fn what_sockets_own_calls_move_is_not_known_and_never_0() {
        let known: Io = [((1, 1), io(100 * MIB, 0, 2.0)), ((2, 2), io(0, 0, 2.0))].into_iter().collect();
        let told = bytes(&[(1, 1, true)], &[(2, 2, false)], true, &known).expect("the reader waited in read(2)");
        assert_eq!((told.at_most, told.ends_agree), (100 * MIB, false));
        assert_eq!(bytes(&[(2, 2, true)], &[], true, &known), None, "it counted nothing");
    }
}
