//! Progress of long work after a run, on a terminal only.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::stacks::Progress;

/// Nothing is shown for work that takes less than this, and not more often afterwards.
const EVERY: Duration = Duration::from_millis(200);

/// Shows how many frames have a name by now.
pub fn naming(quiet: bool) -> Progress {
    let shows = !quiet && std::io::stderr().is_terminal();
    let (mut last, mut shown) = (None::<Instant>, false);
    Box::new(move |done, all| {
        if !shows {
            return;
        }
        let since = last.get_or_insert_with(Instant::now).elapsed();
        let mut stderr = std::io::stderr().lock();
        if done >= all && shown {
            // The line is not worth keeping.
            let _ = write!(stderr, "\r\x1b[K");
            shown = false;
        } else if done < all && since >= EVERY {
            let _ = write!(stderr, "\rtracer: naming frames, {done} of {all}\x1b[K");
            (last, shown) = (Some(Instant::now()), true);
        }
        let _ = stderr.flush();
    })
}
