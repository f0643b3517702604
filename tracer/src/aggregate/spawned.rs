//! What a process started: how many processes, how long they lived, what they executed and which of its threads started them. Kept per
//! parent, a few hundred bytes, however many children there are. What of it cost the run is `critical_path`'s.

use super::names::NameId;
use super::thread::Party;

/// Who lives no longer than this spends a good part of its life on being started.
pub const SHORT_NS: u64 = 250_000_000;

/// Programs and threads told apart.
const MAX_ROWS: usize = 16;

/// See the file's head.
#[derive(Clone, Debug, Default)]
pub struct Spawned {
    /// Processes that it started.
    pub started: u64,
    /// Those whose end was seen as well, and the sum of their lives.
    pub ended: (u64, u64),
    /// Of these the ones that lived no longer than [`SHORT_NS`].
    pub short: (u64, u64),
    /// Programs that they executed, and how often; further ones are counted only.
    pub programs: Vec<(NameId, u64)>,
    /// How often a program was executed.
    pub executed: u64,
    /// Its threads that started them; further ones are not told.
    pub threads: Vec<(Party, u64)>,
}

impl Spawned {
    /// A thread started a process.
    pub fn start(&mut self, by: Option<Party>) {
        self.started += 1;
        let Some(by) = by else { return };
        let room = self.threads.len() < MAX_ROWS;
        match self.threads.iter_mut().find(|(party, _)| party.serial == by.serial) {
            Some((_, count)) => *count += 1,
            None if room => self.threads.push((by, 1)),
            None => {}
        }
    }

    /// One of them executed a program.
    pub fn execute(&mut self, program: NameId) {
        self.executed += 1;
        let room = self.programs.len() < MAX_ROWS;
        match self.programs.iter_mut().find(|(known, _)| *known == program) {
            Some((_, count)) => *count += 1,
            None if room => self.programs.push((program, 1)),
            None => {}
        }
    }

    /// One of them ended.
    pub fn end(&mut self, life_ns: u64) {
        self.ended = (self.ended.0 + 1, self.ended.1.saturating_add(life_ns));
        if life_ns <= SHORT_NS {
            self.short = (self.short.0 + 1, self.short.1.saturating_add(life_ns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_lives_are_told_from_long_ones_and_rows_are_bounded() {
        let mut spawned = Spawned::default();
        for serial in 0..100 {
            spawned.start(Some(Party { serial, ..Party::default() }));
            spawned.end(if serial % 4 == 0 { 2 * SHORT_NS } else { SHORT_NS });
        }
        assert_eq!((spawned.started, spawned.ended.0, spawned.short), (100, 100, (75, 75 * SHORT_NS)));
        assert_eq!(spawned.threads.len(), MAX_ROWS);
    }
}
