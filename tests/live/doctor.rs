//! `doctor` and `families`: what this host allows, against what the host itself shows.

use std::path::Path;

use crate::harness::Tracer;

/// The lines that mention a word.
fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.to_lowercase().contains(word)).collect()
}

#[test]
fn doctor_says_that_sched_is_ready() {
    let said = Tracer::plain("doctor").go().expect_code(0).ended.stdout;
    let ready = lines(&said, "sched").iter().any(|line| line.contains("ready"));
    assert!(ready, "no line says that sched is ready: {said}");
}

#[test]
fn doctor_says_what_the_kernel_does_not_offer_and_why() {
    let said = Tracer::plain("doctor").go().expect_code(0).ended.stdout;
    let kprobe = lines(&said, "kprobe");
    assert!(!kprobe.is_empty(), "no line about kprobes: {said}");
    assert!(!lines(&said, "fentry").is_empty(), "no line about fentry: {said}");
    if Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        return;
    }
    let explained =
        kprobe.iter().any(|line| line.contains("unavailable") && line.len() > "kprobe unavailable".len() + 10);
    assert!(explained, "this kernel has no kprobes, and no line says so with a reason: {said}");
}

#[test]
fn doctor_as_json_says_the_same() {
    let ended = Tracer::plain("doctor").options(&["--format", "json"]).go().expect_code(0).ended;
    let value: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended}"));
    let all = value.to_string();
    for word in ["sched", "ready", "kprobe", "fentry"] {
        assert!(all.contains(word), "`{word}` is not in {all}");
    }
}

#[test]
fn families_lists_sched_with_its_programs() {
    let said = Tracer::plain("families").go().expect_code(0).ended.stdout;
    assert!(said.contains("2 of them unproven") && said.contains("(cpu-steal, irq-load)"), "{said}");
    for word in ["sched", "sched_switch", "sched_waking"] {
        assert!(said.contains(word), "`{word}` is not in {said}");
    }
}
