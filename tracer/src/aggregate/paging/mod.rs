//! Memory as the kernel's programs see it: page faults, time lost to reclaim, files in the page cache, kills. Bounded, see the parts; what
//! finds no room is counted. Not here: what user space reads of limits and sizes.

pub mod cache;
pub mod faults;
pub(super) mod loads;
pub(super) mod report;
pub mod stalls;

use tracer_common::memory::Victim;

use self::cache::Cache;
use self::faults::Faults;
use self::stalls::Stalls;
use super::thread::Span;
use crate::model::meta::{FamilyRecord, SumsRecord};

/// Kills kept.
const MAX_VICTIMS: usize = 64;

/// See the file's head.
#[derive(Default)]
pub struct Paging {
    /// Page faults.
    pub faults: Faults,
    /// Time lost to reclaim.
    pub stalls: Stalls,
    /// Files in the page cache.
    pub cache: Cache,
    victims: Vec<Victim>,
    /// Kills without room.
    victims_over: u64,
    sees_kills: bool,
}

impl Paging {
    /// A family was told of.
    pub fn family(&mut self, family: &FamilyRecord) {
        let runs = family.status != "unavailable";
        match family.family.as_str() {
            "fault" => self.faults.active |= runs,
            "reclaim" => self.stalls.active |= runs,
            "cache" => self.cache.active |= runs,
            "oom" => self.sees_kills |= runs,
            _ => {}
        }
    }

    /// Takes what the programs kept in maps.
    pub fn sums(&mut self, record: &SumsRecord, span: &Span) {
        self.cache.sums(&record.files);
        for row in &record.faults {
            self.faults.row(row, span);
        }
        for row in &record.stalls {
            self.stalls.row(row, span);
        }
    }

    /// A process was chosen to be killed. One that shares its memory with others is marked with each of them: the first one counts.
    pub fn victim(&mut self, event: &Victim, span: &Span) {
        if event.header.ts_ns < span.start_ns || self.victims.iter().any(|known| known.tgid == event.tgid) {
            return;
        }
        if self.victims.len() < MAX_VICTIMS {
            self.victims.push(*event);
        } else {
            self.victims_over += 1;
        }
    }

    fn is_active(&self) -> bool {
        self.faults.active || self.stalls.active || self.cache.active || self.sees_kills || !self.victims.is_empty()
    }
}
