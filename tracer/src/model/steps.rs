//! The report's section `critical_path.steps`: what the steps of a loop went to, and what the slow ones spent more on than the
//! others. Plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::critical_path::{PathOf, PathPart};
use super::stacks::Location;

/// Steps: the time from one entry of a function to the next one in the same thread. Each is walked as the critical path is, so its
/// parts sum to its wall time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Steps {
    /// The function, as it was asked for; or what begins a step, where that was found.
    pub spec: String,
    /// Nobody asked for steps: the thread of the path comes back to this wait at a steady pace, and each time a step begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<FoundSteps>,
    /// Threads that have steps.
    pub threads: u64,
    /// Those with most time in steps; at most 8.
    pub of: Vec<PathOf>,
    /// Entries of the function. The last one of a thread begins a step that does not end.
    pub entries: u64,
    /// Steps that ended in the window; all that follows is of these.
    pub count: u64,
    /// Steps that had begun when their thread or the window ended: no time is made up for them.
    pub incomplete: u64,
    /// Steps of which no more is known than how long they took: what was done then was not kept, or there are too many.
    pub not_walked: u64,
    /// Entries that were forgotten, the oldest ones: there were more than are kept.
    #[serde(skip_serializing_if = "is_zero")]
    pub forgotten: u64,
    /// Entries a second while there were any.
    pub rate_hz: f64,
    /// More than 5,000 a second: seeing them slows the program down, so steps should be begun by a function that is called less often.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub too_fine: bool,
    /// Wall time of all steps.
    pub total_s: f64,
    /// Wall time of these threads before their first entry.
    pub before_s: f64,
    /// And from their last one on: it may be a step's, and what came after the last one.
    pub after_s: f64,
    /// How long they took.
    pub duration: Spread,
    /// What they went to, most time first; at most 24.
    pub causes: Vec<StepCause>,
    /// What that leaves out.
    pub others_s: f64,
    /// Steps that took much longer than the median; absent: there are none that count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow: Option<SlowSteps>,
    /// The longest ones; at most 8.
    pub slowest: Vec<OneStep>,
    /// Where the entries of a Python function were seen, and from when on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub watched: Vec<Watched>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A wait that a thread comes back to at a steady pace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FoundSteps {
    /// What it waits in; see the thread table.
    pub state: String,
    /// The system call, or what tells it further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Where in its code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Location>,
}

/// How a time is spread over steps; a percentile is one of the times themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Spread {
    /// The shortest.
    pub min_s: f64,
    /// Half of them are no longer.
    pub p50_s: f64,
    /// Nine of ten are no longer.
    pub p90_s: f64,
    /// The longest.
    pub max_s: f64,
    /// Their mean.
    pub mean_s: f64,
}

/// One thing that steps went to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StepCause {
    /// What, and how long in all steps together.
    #[serde(flatten)]
    pub part: PathPart,
    /// In how many steps it was met.
    pub steps: u64,
    /// Its time in a step, over all steps: where it was not met it is none.
    pub per_step: Spread,
}

/// Steps that took longer than the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SlowSteps {
    /// From here on a step counts as slow: a fifth above the median.
    pub from_s: f64,
    /// How many there are.
    pub count: u64,
    /// The others.
    pub ordinary: u64,
    /// How much longer a slow step takes, in the mean, than an ordinary one.
    pub more_s: f64,
    /// That, in all slow steps.
    pub total_more_s: f64,
    /// Whether slow steps come regularly: every so many steps, told from the distance between them; absent: they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// What slow steps spend more on than ordinary ones, most first; at most 8.
    pub more_in: Vec<MoreIn>,
}

/// What slow steps spend more on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MoreIn {
    /// Time in a slow step less that in an ordinary one, in the mean.
    pub more_s: f64,
    /// What, and how long in all slow steps together. Its functions are those of slow steps, what they spend more on first.
    #[serde(flatten)]
    pub part: PathPart,
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OneStep {
    /// Its number in its thread, from 1 on.
    pub number: u64,
    /// The thread.
    pub tid: u32,
    /// When it began, from the window's start.
    pub start_s: f64,
    /// How long it took.
    pub s: f64,
    /// What it went to; at most 8.
    pub parts: Vec<PathPart>,
    /// What that leaves out.
    pub others_s: f64,
}

/// A Python function whose entries were seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Watched {
    /// The process.
    pub pid: u32,
    /// The function.
    pub function: String,
    /// Its file.
    pub file: String,
    /// From when on, from the window's start: it had to be seen in a stack first.
    pub from_s: f64,
    /// Why its entries are not seen, or not those of all threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}
