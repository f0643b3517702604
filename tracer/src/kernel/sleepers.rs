//! Threads that waited already when tracing began: what an iterator over the kernel's tasks says of each, read once. Not here: the
//! bytes of their stacks, which the reader of stacks takes from the processes' memory (`stacks::attached`).
//!
//! Nothing stops such a thread. It is known to have stood still from one moment to another by its switches, which the kernel counts:
//! [`proc::Switches`](super::proc::Switches).

use std::{collections::HashMap, io, io::Read};

use tracer_common::stack::{RAW_STACK_BYTES, SLEEPER_BYTES};

use super::proc::Switches;
use crate::stacks::Raw;

/// Most threads whose stacks are taken: 3.4 MiB of them.
pub const MAX_SLEEPERS: usize = 4096;

/// A thread that waited.
#[derive(Clone, Debug)]
pub struct Sleeper {
    /// A raw stack's record up to its Python frames.
    pub head: Vec<u8>,
    /// Its switches before that was written.
    pub switches: Switches,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Sleepers {
    /// In the order of their ids.
    pub threads: Vec<Sleeper>,
    /// Those for which there was no room.
    pub over: u64,
    /// Why there are none.
    pub reason: Option<String>,
}

/// Reads what the iterator writes. `before` has the switches of the threads that are wanted.
pub fn read(mut iterator: impl Read, before: &HashMap<u32, Switches>) -> Sleepers {
    let mut found = Sleepers::default();
    let mut record = vec![0u8; RAW_STACK_BYTES];
    loop {
        match iterator.read_exact(&mut record[..SLEEPER_BYTES]) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => {
                found.reason = Some(format!("the kernel's list of threads could not be read: {error}"));
                break;
            }
        }
        let Some(switches) = Raw::new(&record).and_then(|raw| before.get(&raw.tid())) else { continue };
        if found.threads.len() >= MAX_SLEEPERS {
            found.over += 1;
        } else {
            found.threads.push(Sleeper { head: record[..SLEEPER_BYTES].to_vec(), switches: *switches });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::raw::RawRecord;
    use tracer_common::stack::origin;

    #[test]
    fn threads_that_are_not_wanted_and_half_records_are_left_out() {
        let head = |tid| RawRecord::new(5, origin::ATTACHED, tid, 10).bytes()[..SLEEPER_BYTES].to_vec();
        let bytes = [head(11), head(12), head(13)].concat();
        let before = HashMap::from([(11, Switches(3)), (13, Switches(4))]);
        let found = read(&bytes[..bytes.len() - 1], &before);
        assert_eq!(found.threads.len(), 1, "12 is not traced, and of 13 a byte is missing");
        assert_eq!((found.threads[0].switches, found.over), (Switches(3), 0));
        assert_eq!(read(&[][..], &before).threads.len(), 0);
        let many = HashMap::from([(11, Switches(3))]);
        let found = read(&head(11).repeat(MAX_SLEEPERS + 2)[..], &many);
        assert_eq!((found.threads.len(), found.over), (MAX_SLEEPERS, 2));
    }
}
