//! Threads in a pid namespace of their own: both of their ids are right, and so is the owner of their lock.

use std::ffi::OsString;

use crate::harness::{Tracer, list, number, text, whole, workload};

#[test]
fn in_a_pid_namespace_owner_and_ids_are_right() {
    let mut command: Vec<OsString> = ["unshare", "-pf", "--mount-proc"].map(OsString::from).to_vec();
    command.extend(workload("mutex --hog --hold 4ms --threads 3 --duration 600ms"));
    let traced = Tracer::run(command).go().expect_code(0);
    // The program knows the ids of its namespace only.
    let (truth, report) = (traced.truth(), traced.report());
    let own_pid = whole(&truth, "pid");
    assert!(own_pid < 10, "the program runs in a namespace of its own: {truth}");
    let mut hog = None;
    for own in list(&truth, "threads") {
        let row = report.thread_by_ns(whole(own, "tid"));
        assert_eq!(row["name"], own["name"], "{row}");
        assert_eq!(whole(row, "ns_pid"), own_pid, "process id in the namespace: {row}");
        assert_eq!(report.thread(whole(row, "tid"))["pid"], row["pid"], "host ids: {row}");
        assert_ne!(row["pid"], own_pid, "process id on the host: {row}");
        if own["role"] == "hog" {
            hog = Some(row.clone());
        }
    }
    let hog = hog.expect("one thread is the hog");
    let futex = report.futex(list(&truth, "locks")[0].as_str().expect("an address"));
    let owners = list(futex, "owners");
    let all: u64 = owners.iter().map(|owner| whole(owner, "count")).sum();
    let first = owners.first().unwrap_or_else(|| panic!("no owner: {futex}"));
    assert_eq!(first["tid"], hog["tid"], "the owner by the host's id: {futex}");
    assert_eq!(first["ns_tid"], hog["ns_tid"], "the owner by its own id: {futex}");
    assert_eq!(text(first, "thread"), text(&hog, "name"), "the owner's name: {futex}");
    assert!(whole(first, "count") * 100 >= all * 95, "other owners: {futex}");
    assert!(number(futex, "waits_with_owner") >= 0.9 * number(futex, "waits"), "owners are known: {futex}");
}

#[test]
fn a_deadlock_in_a_pid_namespace_is_found_by_attaching() {
    let mut command: Vec<OsString> = ["unshare", "-pf", "--mount-proc"].map(OsString::from).to_vec();
    command.extend(workload("deadlock"));
    let mut hung = crate::harness::Background::command(&command);
    let truth = hung.next_json();
    let target = crate::harness::process::children(hung.pid());
    assert_eq!(target.len(), 1, "unshare has one child");
    let pid = target[0].to_string();
    let report = Tracer::record(&["--pid", &pid, "--duration", "500ms"]).go().expect_code(0).report();
    for wait in list(&truth, "waits") {
        let row = report.thread_by_ns(whole(wait, "tid"));
        let on_lock = list(row, "waits").iter().find(|seen| seen["object"] == wait["lock"]);
        let on_lock = on_lock.unwrap_or_else(|| panic!("no wait for {}: {row}", wait["lock"]));
        let owner = list(on_lock, "owners").first().unwrap_or_else(|| panic!("no owner: {on_lock}"));
        assert_eq!(owner["ns_tid"], wait["owner"], "owner of {}: {on_lock}", wait["lock"]);
    }
}
