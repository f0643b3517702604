//! Why the run took as long as it did: what each thread did is kept as it happens (`trail`, `history`, `timeline`) and walked
//! backwards from the end of CMD's main thread (`walk`); `report` makes the report's section of it, `phases` what of it a runtime did for
//! itself, and `holders` what the report says of the waits for a lock. `steps` cuts a thread's time at the entries of a function and walks
//! each step by itself, `cycle` finds such cuts where none were asked for, `step_causes` sums up what steps went to, `steps_report` tells it. Second opinions that need no path: `sweep`, `knots`, `opinions`.

mod cycle;
pub mod history;
mod holders;
mod knots;
pub mod opinions;
mod phases;
mod polls;
pub mod report;
mod row;
mod step_causes;
pub mod steps;
mod steps_report;
mod sweep;
pub mod timeline;
pub mod trail;
pub mod walk;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_steps;
#[cfg(test)]
mod tests_sweep;
