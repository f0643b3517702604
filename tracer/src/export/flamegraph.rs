//! Weighted stacks as a flame graph: an SVG that a browser can search and zoom, drawn by `inferno` from the folded lines.

use std::io;

use inferno::flamegraph::{self, Options};

use super::folded;
use super::weigh::Of;
use crate::model::profile::Profile;

/// Writes the picture. A profile without any time is an error: there is nothing to draw.
pub fn write(profile: &Profile, of: Of, out: &mut impl io::Write) -> io::Result<()> {
    let mut text = Vec::new();
    folded::write(profile, of, &mut text)?;
    let text = String::from_utf8(text).map_err(io::Error::other)?;
    if text.is_empty() {
        return Err(io::Error::other("the capture holds no samples and no waits to draw"));
    }
    let mut options = Options::default();
    options.title = match of {
        Of::OnCpu => "On-CPU time",
        Of::OffCpu => "Time waited, by function and reason",
        Of::Wall => "On-CPU time and time waited",
    }
    .to_owned();
    // Longer lines do not fit the picture; the whole sentence is in the report.
    options.subtitle = Some(
        "all threads summed up; samples by their period, waits exact, split over the stacks of their place".to_owned(),
    );
    options.notes = "tracer".to_owned();
    options.count_name = "microseconds".to_owned();
    options.name_type = "Function:".to_owned();
    // The same profile always gives the same colours.
    options.deterministic = true;
    flamegraph::from_lines(&mut options, text.lines(), out)
}
