//! Waits for servers over the network: whom they are for, what that did meanwhile, what went through the connections, and what only looks
//! like it.

use std::ffi::OsString;

use serde_json::Value;

use crate::harness::{Report, Traced, Tracer, list, number, python, shell, text, whole, workload, workload_bin};

fn traced(command: Vec<OsString>) -> Traced {
    Tracer::run(command).options(&["--family", "cpu,net"]).go().expect_code(0)
}

/// The row of the section for a server and a role.
#[track_caller]
fn peer<'a>(report: &'a Report, address: &str, role: &str) -> &'a Value {
    let peers = list(&report.0["network"], "peers");
    let found = peers.iter().find(|peer| peer["address"] == address && peer["role"] == role);
    found.unwrap_or_else(|| panic!("no {role} of {address}: {peers:?}"))
}

/// The finding, whose seconds are those that the program says it waited.
#[track_caller]
fn waited<'a>(what: &str, report: &'a Report, waited_s: f64) -> &'a Value {
    let finding = report.finding("network-wait");
    let lost = number(finding, "lost_s");
    assert!((0.9 * waited_s..=1.1 * waited_s).contains(&lost), "{what}: lost {lost} of {waited_s} s: {finding}");
    report.assert_silent(&["input-starvation", "ipc-wait"]);
    report.assert_path();
    finding
}

#[track_caller]
fn assert_silent(what: &str, report: &Report) {
    assert_eq!(report.rule("network-wait"), "silent", "{what}: {}", report.0["rules"]);
    assert!(report.findings("network-wait").is_empty(), "{what}: {}", report.0["findings"]);
}

/// Bytes of the section are those that the client says it moved.
#[track_caller]
fn assert_bytes(peer: &Value, truth: &Value) {
    let tcp = &peer["tcp"];
    assert_eq!((&tcp["sent_bytes"], &tcp["received_bytes"]), (&truth["sent"], &truth["received"]), "{peer}");
    assert_eq!(tcp["exact"], true, "{peer}");
}

#[test]
fn a_slow_server_on_this_host_is_named_with_what_it_did() {
    for host in ["127.0.0.1", "::1"] {
        let traced = traced(workload(&format!("network --host {host}")));
        let (truth, report) = (traced.truth(), traced.report());
        let finding = waited(host, &report, number(&truth, "waited_s"));
        let culprit = &finding["culprit"];
        assert_eq!(culprit["pid"], truth["server"], "{finding}");
        assert!(text(culprit, "function").contains("slow_answer"), "{finding}");
        let address = text(&truth, "address");
        assert!(text(culprit, "peer").contains(address), "{finding}");
        assert!(text(finding, "hypothesis").starts_with("The server is slow"), "{finding}");
        let client = peer(&report, address, "client");
        assert_eq!(client["peer_pid"], truth["server"], "{client}");
        assert!(number(client, "waited_s") <= number(&truth, "waited_s"), "{client}");
    }
}

#[test]
fn bytes_of_connections_that_were_closed_are_exact() {
    let traced = traced(workload("network --answers 8 --len 200000 --period 20ms"));
    let (truth, report) = (traced.truth(), traced.report());
    let address = text(&truth, "address");
    let client = peer(&report, address, "client");
    // The last connection only says that it is the end: one byte, which belongs to the same server.
    let own = serde_json::json!({ "sent": whole(&truth, "sent") + 1, "received": truth["received"] });
    assert_bytes(client, &own);
    assert_eq!((whole(client, "connections"), whole(client, "closed")), (2, 2), "{client}");
    let connects = &client["connects"];
    assert_eq!((whole(connects, "count"), whole(connects, "failed")), (2, 0), "{client}");
}

#[test]
fn descriptors_that_are_used_again_are_told_apart() {
    let traced = traced(workload("network --reconnect --answers 24"));
    let (truth, report) = (traced.truth(), traced.report());
    waited("reconnect", &report, number(&truth, "waited_s"));
    let client = peer(&report, text(&truth, "address"), "client");
    let own = serde_json::json!({ "sent": whole(&truth, "sent") + 1, "received": truth["received"] });
    assert_bytes(client, &own);
    assert_eq!((whole(client, "connections"), whole(client, "closed")), (25, 25), "{client}");
    let connections = list(&report.0["network"], "connections");
    let ours = connections.iter().filter(|connection| connection["remote"] == truth["address"]);
    assert!(ours.count() >= 20, "each by its own address: {connections:?}");
}

/// More of them than a thread's waits, or the path's, have rows for.
#[test]
fn a_client_that_connects_anew_for_each_question_waits_for_one_server() {
    let traced = traced(workload("network --reconnect --answers 300 --period 5ms"));
    let (truth, report) = (traced.truth(), traced.report());
    let finding = waited("anew", &report, number(&truth, "waited_s"));
    assert_eq!(finding["culprit"]["pid"], truth["server"], "{finding}");
    assert!(text(&finding["culprit"], "function").contains("slow_answer"), "{finding}");
    assert!(text(&finding["culprit"], "peer").contains(text(&truth, "address")), "{finding}");
}

#[test]
fn a_fast_server_and_idle_connections_are_silent() {
    let traced = traced(workload("network --healthy --answers 800 --compute 1ms --idle 6"));
    assert_silent("fast server", &traced.report());
}

#[test]
fn a_server_that_waits_for_clients_is_silent() {
    let traced = traced(python("network.py", "served"));
    let (truth, report) = (traced.truth(), traced.report());
    assert_silent("server", &report);
    let address = text(&truth, "address");
    assert!(number(peer(&report, address, "listener"), "accept_s") > 1.0, "{}", report.0["network"]);
    assert!(number(peer(&report, address, "server"), "receive_s") > 0.5, "{}", report.0["network"]);
}

#[test]
fn a_client_with_a_timeout_waits_for_its_server_too() {
    let traced = traced(python("network.py", "poll"));
    let (truth, report) = (traced.truth(), traced.report());
    let finding = waited("poll", &report, number(&truth, "waited_s"));
    assert_eq!(finding["culprit"]["pid"], truth["child"], "{finding}");
    assert!(text(&finding["culprit"], "function").contains("answer_slowly"), "{finding}");
    let peers = list(&report.0["network"], "peers");
    assert!(peers.iter().any(|peer| number(peer, "poll_s") > 1.0), "{peers:?}");
}

#[test]
fn an_event_loop_waits_for_the_server_whose_answer_ends_its_wait_in_epoll() {
    let traced = traced(python("network.py", "epoll"));
    let (truth, report) = (traced.truth(), traced.report());
    let findings = report.findings("network-wait");
    for (index, waited) in list(&truth, "waited_s").iter().enumerate() {
        let (address, child) = (&list(&truth, "addresses")[index], &list(&truth, "children")[index]);
        let named = |finding: &&&Value| finding["culprit"]["pid"] == *child;
        let finding = findings.iter().find(named).unwrap_or_else(|| panic!("{child} is not named: {findings:?}"));
        assert!(text(&finding["culprit"], "peer").contains(address.as_str().expect("a text")), "{finding}");
        assert!(text(&finding["culprit"], "function").contains("answer_slowly"), "{finding}");
        let (lost, waited) = (number(finding, "lost_s"), waited.as_f64().expect("seconds"));
        assert!((0.9 * waited..=1.1 * waited).contains(&lost), "lost {lost} of {waited} s: {finding}");
        let peer = peer(&report, address.as_str().expect("a text"), "client");
        assert!(number(peer, "poll_s") > 0.8 * waited, "{peer}");
    }
    report.assert_silent(&["input-starvation", "ipc-wait"]);
    report.assert_path();
}

#[test]
fn an_event_loop_that_waits_for_clients_is_silent() {
    for _ in 0..crate::healthy::repeats() {
        let traced = traced(python("network.py", "looped"));
        let (truth, report) = (traced.truth(), traced.report());
        assert_silent("event loop", &report);
        let address = text(&truth, "address");
        let listener = peer(&report, address, "listener");
        assert!(number(listener, "accept_s") > 1.0, "{listener}");
        let server = peer(&report, address, "server");
        assert!(number(server, "poll_s") > 0.4, "{server}");
        assert_eq!(whole(server, "connections"), 13, "with those that were open for a moment only: {server}");
        let peers = list(&report.0["network"], "peers");
        let clients = peers.iter().filter(|peer| peer["pid"] == truth["pid"] && peer["role"] == "client");
        assert_eq!(clients.count(), 0, "it connects to nobody: {peers:?}");
    }
}

#[test]
fn a_server_in_another_network_namespace_is_named() {
    let script = format!("ip link set lo up && exec {} network", workload_bin().display());
    let mut command: Vec<OsString> = ["unshare", "-n"].map(OsString::from).to_vec();
    command.extend(shell(&script));
    let traced = traced(command);
    let (truth, report) = (traced.truth(), traced.report());
    let finding = waited("namespace", &report, number(&truth, "waited_s"));
    assert_eq!(finding["culprit"]["pid"], truth["server"], "{finding}");
    let client = peer(&report, text(&truth, "address"), "client");
    assert!(number(&client["tcp"], "rtt_s") > 0.0, "it was read in its own namespace: {client}");
}

#[test]
fn a_server_that_has_ended_keeps_its_name_and_no_other_gets_it() {
    let traced = traced(python("network.py", "ended"));
    let (truth, report) = (traced.truth(), traced.report());
    let peers = list(&report.0["network"], "peers");
    let client = peers.iter().find(|peer| peer["role"] == "client").unwrap_or_else(|| panic!("no client: {peers:?}"));
    assert_eq!(client["peer_pid"], truth["child"], "{client}");
    assert!(text(client, "peer_process").starts_with("python"), "{client}");
    waited("ended", &report, number(&truth, "waited_s"));
}

#[test]
fn a_name_in_the_abstract_namespace_is_made_printable_and_forges_no_other() {
    let traced = traced(python("network.py", "abstract"));
    let (truth, report) = (traced.truth(), traced.report());
    let peers = list(&report.0["network"], "peers");
    let unix: Vec<&Value> = peers.iter().filter(|peer| peer["protocol"] == "unix").collect();
    assert!(!unix.is_empty(), "{peers:?}");
    let forged = format!("socket:[{}]", whole(&truth, "inode"));
    let objects = list(&report.0["objects"], "list");
    let pair = objects.iter().find(|object| object["object"] == forged.as_str());
    let pair = pair.unwrap_or_else(|| panic!("no wait for {forged}: {objects:?}"));
    assert!(pair["path"].is_null(), "the name is another socket's: {pair}");
    assert!(!traced.report_text().contains('\u{1b}'), "no control character reaches the report");
    assert_silent("unix", &report);
}
