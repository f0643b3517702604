//! All families together: each loads and attaches beside the others, as `doctor` says that it can, and what it saw is accounted for.
//! What each of them measures is tested elsewhere.

use serde_json::Value;

use crate::harness::{Tracer, list, text, whole, workload};

/// Families with what `doctor` says of them.
fn said_by_doctor() -> Vec<Value> {
    let said = Tracer::plain("doctor").options(&["--format", "json"]).go().expect_code(0).ended.stdout;
    let said: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    list(&said, "families").to_vec()
}

#[test]
fn all_families_that_can_run_here_load_together_and_are_as_doctor_says() {
    let said = said_by_doctor();
    let usable = said.iter().filter(|family| family["status"] != "unavailable");
    let names: Vec<&str> = usable.clone().map(|family| text(family, "family")).collect();
    assert!(names.contains(&"sched"), "sched can run on every kernel that is supported: {said:?}");
    let traced = Tracer::run(workload("mutex --threads 4 --hold 3ms --duration 2s"))
        .options(&["--family", &names.join(",")])
        .go()
        .expect_code(0);
    let report = traced.report();
    let families = list(&report.0["coverage"], "families");
    for family in usable {
        let name = text(family, "family");
        let row = families.iter().find(|row| row["family"] == name);
        let row = row.unwrap_or_else(|| panic!("{name} is not in {families:?}"));
        assert_eq!(row["status"], family["status"], "{name}, of which doctor says {family}: {row}");
        assert_eq!(whole(row, "seen"), whole(row, "submitted") + whole(row, "lost"), "{name}: {row}");
    }
    assert_eq!(report.rule("user-lock-contention"), "fired", "{}", report.0["rules"]);
    report.assert_sums();
}
