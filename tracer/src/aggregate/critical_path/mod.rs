//! Why the run took as long as it did: what each thread did is kept as it happens (`trail`, `history`, `timeline`) and walked
//! backwards from the end of CMD's main thread (`walk`); `report` makes the report's section of it,
//! `phases` says what of it a runtime did for itself, and `holders` what the report says of the waits for a lock.

pub mod history;
mod holders;
mod phases;
pub mod report;
mod row;
pub mod timeline;
pub mod trail;
pub mod walk;

#[cfg(test)]
mod tests;
