//! Reads a JSON report (`tracer-report/1`) by its keys, as a user's script would.

use std::path::Path;

use serde_json::Value;

use super::{Ended, list, number, text, whole};

/// A report.
pub struct Report(pub Value);

impl Report {
    /// Reads a file; `ended` is shown when that fails.
    #[track_caller]
    pub fn read(path: &Path, ended: &Ended) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("no report: {error}; {ended}"));
        Self::parse(&text)
    }

    /// Reads a text.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        Report(serde_json::from_str(text).unwrap_or_else(|error| panic!("the report is no JSON: {error}: {text}")))
    }

    /// The one finding of a class, each piece of whose evidence stands where it says.
    #[track_caller]
    pub fn finding(&self, class: &str) -> &Value {
        let found = self.findings(class);
        let [finding] = found[..] else {
            panic!("one {class}, not {found:?}; observed: {}; rules: {}", self.0["observed"], self.0["rules"])
        };
        for evidence in list(finding, "evidence") {
            let at = self.0.pointer(text(evidence, "source")).and_then(Value::as_f64);
            assert_eq!(at, evidence["value"].as_f64(), "the report has what is cited: {evidence}");
        }
        finding
    }

    /// Fails if any of these classes is reported.
    #[track_caller]
    pub fn assert_silent(&self, classes: &[&str]) {
        for class in classes {
            assert!(self.findings(class).is_empty(), "{class} is silent: {}", self.0["findings"]);
        }
    }

    /// The threads that have rows of their own.
    pub fn threads(&self) -> impl Iterator<Item = &Value> {
        list(&self.0, "threads").iter().filter(|row| row.get("tid").is_some())
    }

    /// The thread with this id.
    #[track_caller]
    pub fn thread(&self, tid: u64) -> &Value {
        let found = self.threads().find(|thread| thread["tid"] == tid);
        found.unwrap_or_else(|| panic!("thread {tid} is not in the report; there are {}", self.thread_list()))
    }

    /// The thread that has this id in its own pid namespace.
    #[track_caller]
    pub fn thread_by_ns(&self, ns_tid: u64) -> &Value {
        let found = self.threads().find(|thread| thread["ns_tid"] == ns_tid && thread["ns_tid"] != thread["tid"]);
        found.unwrap_or_else(|| panic!("no thread is {ns_tid} in its namespace; there are {}", self.thread_list()))
    }

    fn thread_list(&self) -> String {
        let show = |t: &Value| format!("{}/{} (ns {}) {}", t["pid"], t["tid"], t["ns_tid"], t["name"]);
        self.threads().map(show).collect::<Vec<_>>().join(", ")
    }

    /// The rows of the processes.
    #[track_caller]
    pub fn process(&self, pid: u64) -> &Value {
        let processes = list(&self.0["cpu"], "processes");
        let found = processes.iter().find(|process| process["pid"] == pid);
        found.unwrap_or_else(|| panic!("process {pid} is not in the report; there are {processes:?}"))
    }

    /// The futexes that threads waited for.
    pub fn futexes(&self) -> &[Value] {
        list(&self.0["locks"], "futexes")
    }

    /// The futex at this address.
    #[track_caller]
    pub fn futex(&self, address: &str) -> &Value {
        let found = self.futexes().iter().find(|futex| futex["address"] == address);
        found.unwrap_or_else(|| {
            panic!("no wait for the futex at {address} is in the report; there are {:?}", self.futexes())
        })
    }

    /// Findings of a class that limit.
    pub fn findings(&self, class: &str) -> Vec<&Value> {
        list(&self.0, "findings").iter().filter(|finding| finding["class"] == class).collect()
    }

    /// What became of a rule.
    #[track_caller]
    pub fn rule(&self, class: &str) -> &str {
        let found = list(&self.0, "rules").iter().find(|rule| rule["class"] == class);
        text(found.unwrap_or_else(|| panic!("rule {class} is not in the report")), "status")
    }

    /// The ledger of family `sched`.
    #[track_caller]
    pub fn ledger(&self) -> &Value {
        let found = list(&self.0["coverage"], "families").iter().find(|family| family["family"] == "sched");
        found.unwrap_or_else(|| panic!("family sched is not in the report's coverage: {}", self.0["coverage"]))
    }

    /// Fails unless both sums of the ledger hold.
    #[track_caller]
    pub fn assert_sums(&self) {
        let ledger = self.ledger();
        let by_reason = ledger["by_reason"].as_object().into_iter().flatten();
        let reasons: u64 = by_reason.filter_map(|(_, count)| count.as_u64()).sum();
        assert_eq!(whole(ledger, "lost"), reasons, "the losses sum to `lost`: {ledger}");
        assert_eq!(
            whole(ledger, "seen"),
            whole(ledger, "submitted") + whole(ledger, "lost"),
            "seen = submitted + lost: {ledger}"
        );
        let missing = ledger["missing"].as_u64().unwrap_or(0);
        let accounted = whole(ledger, "decoded") + whole(ledger, "undecoded") + whole(ledger, "queued") + missing;
        assert_eq!(
            whole(ledger, "submitted"),
            accounted,
            "submitted = decoded + undecoded + queued + missing: {ledger}"
        );
    }

    /// Fails unless each thread's states sum to its wall time, and little of it is unknown.
    #[track_caller]
    pub fn assert_states(&self) {
        for thread in self.threads() {
            let states = thread["states"].as_object().unwrap_or_else(|| panic!("no states: {thread}"));
            let sum: f64 = states.values().filter_map(Value::as_f64).sum();
            let wall = number(thread, "wall_s");
            assert!((sum - wall).abs() < 1e-6 + wall * 1e-9, "states sum to {sum}, wall time is {wall}: {thread}");
        }
        self.assert_path();
    }

    /// Fails unless the parts of the critical path, if there is one, sum to its time, and nearly all of it is known.
    #[track_caller]
    pub fn assert_path(&self) {
        let path = &self.0["critical_path"];
        if path.is_null() {
            return;
        }
        let parts: f64 = list(path, "parts").iter().map(|part| number(part, "s")).sum();
        let (sum, total) = (parts + path["others"]["s"].as_f64().unwrap_or(0.0), number(path, "total_s"));
        assert!((sum - total).abs() <= 0.001 * total, "the parts of the critical path sum to {sum} of {total}: {path}");
        let little = number(path, "unknown_s") <= 0.02 * total + 0.005;
        assert!(little || whole(self.ledger(), "lost") > 0, "too much of the critical path is unknown: {path}");
    }

    /// Seconds on the critical path of the parts that `matches` picks, and of all.
    #[track_caller]
    pub fn on_path(&self, matches: impl Fn(&Value) -> bool) -> (f64, f64) {
        let path = &self.0["critical_path"];
        let parts = list(path, "parts").iter().filter(|part| matches(part));
        (parts.map(|part| number(part, "s")).sum(), number(path, "total_s"))
    }
}

/// Seconds that a thread was in a state; 0 where the state is not in the report.
pub fn state(thread: &Value, key: &str) -> f64 {
    thread["states"][key].as_f64().unwrap_or(0.0)
}

/// A thread's waits in a state.
pub fn waits<'a>(thread: &'a Value, key: &str) -> Vec<&'a Value> {
    list(thread, "waits").iter().filter(|wait| wait["state"] == key).collect()
}

/// How often the wakers that `matches` picks ended the waits, and how often all did.
pub fn wakers(waits: &[&Value], matches: impl Fn(&Value) -> bool) -> (u64, u64) {
    let all = || waits.iter().flat_map(|wait| list(wait, "wakers"));
    let count = |waker: &Value| waker["count"].as_u64().unwrap_or(0);
    (all().filter(|waker| matches(waker)).map(count).sum(), all().map(count).sum())
}
