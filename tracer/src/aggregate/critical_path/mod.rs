//! Why the run took as long as it did: what each thread did is kept as it happens (`trail`, `history`, `timeline`) and walked
//! backwards from the end of CMD's main thread (`walk`); `report` makes the report's section of it, `phases` what of it a runtime did for
//! itself, and `holders` what the report says of the waits for a lock. Second opinions that need no path: `sweep`, `knots`, `opinions`.

pub mod history;
mod holders;
mod knots;
pub mod opinions;
mod phases;
pub mod report;
mod row;
mod sweep;
pub mod timeline;
pub mod trail;
pub mod walk;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_sweep;
