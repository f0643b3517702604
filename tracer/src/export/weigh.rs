//! Which of the weighted stacks an export of a profile holds.

use crate::model::profile::{Activity, Entry, Profile};

/// What of threads' time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Computing: samples by their weight.
    OnCpu,
    /// Waiting: exact times.
    OffCpu,
    /// Both. Time in which a thread was ready but had no CPU is in neither.
    Wall,
}

/// The entries, in the profile's order.
pub fn selected(profile: &Profile, of: Of) -> impl Iterator<Item = &Entry> {
    profile.entries.iter().filter(move |entry| match of {
        Of::OnCpu => entry.activity == Activity::OnCpu,
        Of::OffCpu => entry.activity != Activity::OnCpu,
        Of::Wall => true,
    })
}
