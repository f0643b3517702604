//! Time of which nothing is known, in words: whose it is, why, and what to do. Part of the verdict, not a rule.

use std::collections::BTreeMap;

use crate::model::report::{Report, Row, Thread};
use crate::model::units::{duration, percent};

/// Threads named.
const MAX_NAMED: usize = 3;

/// Who has most of the unknown time, why, and what to do about it.
pub fn explain(report: &Report, unknown_s: f64) -> String {
    let unknown = |thread: &Thread| thread.states.get("unknown").copied().unwrap_or(0.0);
    let mut threads: Vec<&Thread> = report
        .threads
        .iter()
        .filter_map(|row| if let Row::Thread(thread) = row { Some(&**thread) } else { None })
        .collect();
    let mut reasons: BTreeMap<&str, f64> = BTreeMap::new();
    for (reason, seconds) in threads.iter().flat_map(|thread| &thread.unknown_detail) {
        *reasons.entry(reason).or_default() += seconds;
    }
    threads.retain(|thread| unknown(thread) > 0.0);
    threads.sort_by(|a, b| unknown(b).total_cmp(&unknown(a)));
    // Who has little of it is no part of the answer.
    let most = threads.first().map_or(0.0, |thread| unknown(thread));
    let named: Vec<String> = threads
        .iter()
        .take(MAX_NAMED)
        .filter(|thread| unknown(thread) * 10.0 >= most)
        .map(|thread| {
            let name = thread.name.as_deref().unwrap_or("without a known name");
            format!("{name} ({}) with {}", thread.tid, duration(unknown(thread)))
        })
        .collect();
    let main = reasons.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let (reason, share) = main.map_or(("", 0.0), |(reason, seconds)| (reason, seconds / unknown_s));
    let whose = match named.as_slice() {
        [] => "that of threads without a row".to_owned(),
        [one] => format!("mostly that of thread {one}"),
        several => format!("mostly that of threads {}", several.join(", ")),
    };
    let why = match reason {
        "lost-records" => {
            format!("records were lost{}; use larger rings (--ring-size) or trace fewer threads", lossy_cpus(report))
        }
        "unseen-switch" => {
            "switches off and onto a CPU were not seen, and nothing counts them as lost; run it again, and if \
             that stays, look what on this host hides switches from tracing (a security agent, a sandbox)"
                .to_owned()
        }
        "unread-reason" => {
            "what was waited for could not be read (32-bit code, or asleep since before tracing began); leave \
             these threads out, or trace from the start with `tracer run`"
                .to_owned()
        }
        _ => "the recording does not say why".to_owned(),
    };
    let mostly = if (0.0..0.95).contains(&share) && !reason.is_empty() {
        format!("for {} of it ", percent(share))
    } else {
        String::new()
    };
    format!("{whose}: {mostly}{why}")
}

/// " (on CPUs 0, 3)", where the counters tell which CPUs lost events.
pub fn lossy_cpus(report: &Report) -> String {
    const MAX_CPUS: usize = 8;
    let mut cpus: Vec<u32> =
        report.coverage.families.iter().flat_map(|family| family.lost_by_cpu.keys().copied()).collect();
    cpus.sort_unstable();
    cpus.dedup();
    match cpus.as_slice() {
        [] => String::new(),
        [cpu] => format!(" (on CPU {cpu})"),
        list if list.len() > MAX_CPUS => format!(" (on {} CPUs)", list.len()),
        list => format!(" (on CPUs {})", list.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    }
}
