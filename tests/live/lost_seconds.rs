//! What a finding says is lost bounds what removing its cause saves: the same work is run with and without the bottleneck, in turn. For
//! each rule whose cause a test can take away.

use std::ffi::OsString;
use std::time::Instant;

use crate::harness::host::CpuCgroup;
use crate::harness::memory::MemoryCgroup;
use crate::harness::storage::{IoCgroup, LoopMount, disk};
use crate::harness::{self, Background, Tracer, number, python, shell, workload};

/// Pairs of runs. Medians are compared, so that a burst of someone else's load in one of them does not count.
const PAIRS: usize = 3;

/// Of those that must be close, not only bounded.
const PAIRS_OF_CLOSE: usize = 5;

const MIB: u64 = 1 << 20;

/// CPUs that others may use while a run is measured.
const MOST_OF_OTHERS: f64 = 0.25;

/// So often a run is repeated because of others.
const MOST_DISTURBED: usize = 3;

/// Rules of which no pair can be made, and why.
const WITHOUT_A_PAIR: [(&str, &str); 11] = [
    ("deadlock", "the run does not end"),
    ("oom-kill", "the run does not end by itself: less work is done"),
    ("shm-exhaustion", "the run does not end by itself: less work is done"),
    ("oom-forecast", "what is to come is told, and nothing is lost yet"),
    ("cpu-bound", "the work itself is what it costs"),
    ("cpu-steal", "unproven: this host is not asked to take its CPUs away"),
    ("irq-load", "unproven: no device here has so many interrupts"),
    (
        "direct-reclaim",
        "the whole host would have to run out of memory: guests alone do, where time is not what it is elsewhere",
    ),
    ("compaction-stall", "memory of the whole host would have to be in pieces: in guests alone it is"),
    ("swap-in", "this host has no swap, and the tests switch it on in guests alone"),
    ("numa-remote", "no seconds are claimed"),
];

/// Rules with a test below.
const WITH_A_PAIR: [&str; 30] = [
    "database-latency",
    "small-random-reads",
    "slow-storage",
    "dirty-throttling",
    "cpu-quota-throttling",
    "page-cache-thrash",
    "cache-eviction",
    "pinned-memory",
    "memory-limit",
    "cold-file-mapping",
    "allocation-churn",
    "page-fault-storm",
    "fork-copy-on-write",
    "fsync-stall",
    "logging-convoy",
    "user-lock-contention",
    "allocator-contention",
    "gil-contention",
    "mmap-lock-contention",
    "kernel-lock-contention",
    "low-priority",
    "cpu-oversubscription",
    "spin-wait",
    "run-queue-wait",
    "process-spawn-storm",
    "straggler",
    "gc-pauses",
    "network-wait",
    "ipc-wait",
    "input-starvation",
];

/// One bottleneck, and the same work without it.
struct Pair {
    class: &'static str,
    sick: Vec<OsString>,
    fixed: Vec<OsString>,
    families: &'static str,
    /// What the programs call the time that the work took, in their own account.
    took: &'static str,
    pairs: usize,
    /// Something else runs beside it that takes CPU time, and is to.
    beside: bool,
}

impl Pair {
    fn new(class: &'static str, sick: Vec<OsString>, fixed: Vec<OsString>) -> Self {
        assert!(WITH_A_PAIR.contains(&class), "{class} is in the list of those with a pair");
        Pair { class, sick, fixed, families: "cpu", took: "elapsed_s", pairs: PAIRS, beside: false }
    }

    /// Of the workload, with these arguments.
    fn of(class: &'static str, sick: &str, fixed: &str) -> Self {
        Pair::new(class, workload(sick), workload(fixed))
    }

    fn families(mut self, families: &'static str) -> Self {
        self.families = families;
        self
    }

    fn took(mut self, took: &'static str) -> Self {
        self.took = took;
        self
    }

    fn beside(mut self) -> Self {
        self.beside = true;
        self
    }

    /// One run while nobody else had the CPUs, if there is such a one.
    fn run(&self, command: &[OsString]) -> (Option<(f64, String)>, f64) {
        for _ in 0..MOST_DISTURBED {
            let (before, started) = (harness::host::busy_and_own_s(), Instant::now());
            let outcome = self.run_once(command);
            let (after, wall_s) = (harness::host::busy_and_own_s(), started.elapsed().as_secs_f64());
            let others = ((after.0 - before.0) - (after.1 - before.1)) / wall_s;
            if self.beside || others <= MOST_OF_OTHERS {
                return outcome;
            }
            println!("{}: run again: others used {others:.2} CPUs meanwhile", self.class);
        }
        self.run_once(command)
    }

    /// One run: what is said to be lost (none: nothing), and how long the work took.
    fn run_once(&self, command: &[OsString]) -> (Option<(f64, String)>, f64) {
        let traced = Tracer::run(command.to_vec()).options(&["--family", self.families]).go().expect_code(0);
        let report = traced.report();
        let found = report.findings(self.class);
        let lost = found.first().map(|finding| (number(finding, "lost_s"), finding["summary"].to_string()));
        (lost, number(&traced.truth(), self.took))
    }

    /// Runs the pairs; what must be there while they run is made by `beside` for the sick ones and by `beside_fixed` for the others.
    fn measure<T>(&self, beside: impl Fn() -> T, beside_fixed: impl Fn() -> T) -> Result<Measured, String> {
        let (mut lost, mut sick, mut fixed, mut said) = (Vec::new(), Vec::new(), Vec::new(), String::new());
        for _ in 0..self.pairs {
            let present = beside();
            let (found, took_s) = self.run(&self.sick);
            drop(present);
            let (lost_s, summary) = found.ok_or_else(|| format!("no {} in {:?}", self.class, self.sick))?;
            lost.push(lost_s);
            sick.push(took_s);
            said = summary;
            let present = beside_fixed();
            let (found, took_s) = self.run(&self.fixed);
            drop(present);
            if let Some((_, summary)) = found {
                return Err(format!("{} in {:?}: {summary}", self.class, self.fixed));
            }
            fixed.push(took_s);
        }
        let fixed_s = median(&fixed);
        // A run that took longer has lost more: each run's loss is held against its own time.
        let saved: Vec<f64> = sick.iter().map(|took_s| took_s - fixed_s).collect();
        let ratios: Vec<f64> = saved.iter().zip(&lost).map(|(saved, lost)| saved / lost).collect();
        let most = fixed.iter().copied().fold(0.0, f64::max);
        let noise_s = most - fixed.iter().copied().fold(f64::INFINITY, f64::min);
        let (lost_s, ratio) = (median(&lost), median(&ratios));
        println!(
            "{}: lost {lost_s:.3} s, saved {:.3} s of {:.3} s, ratio {ratio:.3} {ratios:.3?}, noise {noise_s:.3} s",
            self.class,
            median(&saved),
            median(&sick),
        );
        Ok(Measured { lost_s, ratio, noise_s, said })
    }

    /// Fails unless the measured holds; measured once more if it does not, since others may have had the machine.
    #[track_caller]
    fn assert<T>(
        &self,
        beside: impl Fn() -> T,
        beside_fixed: impl Fn() -> T,
        holds: impl Fn(&Measured) -> Result<(), String>,
    ) {
        let once = || self.measure(&beside, &beside_fixed).and_then(|measured| holds(&measured));
        let outcome = once().or_else(|wrong| {
            println!("{}: measured again: {wrong}", self.class);
            once()
        });
        if let Err(wrong) = outcome {
            panic!("{}: {wrong}", self.class);
        }
    }

    /// What is said to be lost is a bound.
    #[track_caller]
    fn assert_bound(&self) {
        self.assert(|| (), || (), Measured::is_bound);
    }

    /// And near to what is saved.
    #[track_caller]
    fn assert_close(&self) {
        self.assert(|| (), || (), |measured| measured.is_bound().and_then(|()| measured.is_close()));
    }
}

/// What one bottleneck cost.
struct Measured {
    lost_s: f64,
    /// Seconds saved without it, as a part of those that are said to be lost.
    ratio: f64,
    /// Of the runs without the bottleneck: greatest less smallest. What is smaller cannot be told.
    noise_s: f64,
    said: String,
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Measured {
    fn is_bound(&self) -> Result<(), String> {
        if self.ratio * self.lost_s <= 1.05 * self.lost_s + self.noise_s { Ok(()) } else { Err(self.words()) }
    }

    fn is_close(&self) -> Result<(), String> {
        let off_s = (1.0 - self.ratio).abs() * self.lost_s;
        if off_s <= 0.2 * self.lost_s + self.noise_s { Ok(()) } else { Err(self.words()) }
    }

    fn words(&self) -> String {
        let Measured { lost_s, ratio, noise_s, said } = self;
        format!("saved {ratio:.3} times what is lost, {lost_s:.3} s (noise {noise_s:.3} s): {said}")
    }
}

fn two_cpus() -> bool {
    let enough = std::thread::available_parallelism().map_or(1, usize::from) >= 2;
    if !enough {
        println!("not tested: needs two CPUs");
    }
    enough
}

#[test]
fn each_rule_has_a_pair_or_a_reason_why_not() {
    let report = Tracer::run(shell("true")).go().expect_code(0).report();
    let known =
        |class: &str| WITH_A_PAIR.contains(&class) || WITHOUT_A_PAIR.iter().any(|(without, _)| *without == class);
    let rules = harness::list(&report.0, "rules");
    let missing: Vec<&str> =
        rules.iter().filter_map(|rule| rule["class"].as_str()).filter(|class| !known(class)).collect();
    assert!(missing.is_empty(), "no pair: {missing:?}");
    assert_eq!(rules.len(), WITH_A_PAIR.len() + WITHOUT_A_PAIR.len(), "what is listed is a rule");
}

/// The three that must be close.
fn items(class: &'static str, arguments: &str) {
    let mut pair = Pair::of(class, &format!("items {arguments}"), &format!("items {arguments} --fixed"));
    pair.pairs = PAIRS_OF_CLOSE;
    pair.took("took_s").assert_close();
}

#[test]
fn a_mutex_of_two_threads_costs_what_two_mutexes_save() {
    if two_cpus() {
        items("user-lock-contention", "mutex --items 600");
    }
}

#[test]
fn a_sync_of_each_item_costs_what_leaving_it_out_saves() {
    items("fsync-stall", &format!("fsync --items 8000 --loops 50000 --folder {}", disk()));
}

#[test]
fn a_sleeping_producer_costs_what_its_sleep_does() {
    items("input-starvation", "producer --items 300 --loops 500000");
}

#[test]
fn database_latency_loses_what_an_index_saves() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = |name: &str, options: &str| {
        let path = folder.path().join(name);
        python("database.py", &format!("sqlite {} {options}", path.display()))
    };
    for (name, options) in [("without.db", "--prepare"), ("with.db", "--prepare --index")] {
        let command = line(name, options);
        let made = std::process::Command::new(&command[0]).args(&command[1..]).status().expect("it runs");
        assert!(made.success(), "the items are made");
    }
    let pair = Pair::new("database-latency", line("without.db", ""), line("with.db", ""));
    pair.families("sched,cpu,database").took("took_s").assert_close();
}

#[test]
fn a_slow_server_costs_what_a_fast_one_saves() {
    let run = "network --answers 24";
    let pair = Pair::of("network-wait", run, &format!("{run} --healthy"));
    pair.families("cpu,net").took("took_s").assert_close();
}

/// A CPU, for what shares one.
fn a_cpu() -> usize {
    crate::run_queue::a_cpu()
}

fn noise(cpu: usize) -> Option<Background> {
    Some(crate::run_queue::noise(cpu))
}

#[test]
fn a_cpu_quota_bounds_what_no_quota_saves() {
    let (Some(limited), Some(free)) = (CpuCgroup::new(), CpuCgroup::new()) else { return };
    limited.set_quota(0.3);
    let run = |cgroup: &CpuCgroup| format!("quota --pinned --work 700ms --cgroup {}", cgroup.child().display());
    Pair::of("cpu-quota-throttling", &run(&limited), &run(&free)).assert_bound();
}

#[test]
fn another_program_on_the_cpu_bounds_what_its_absence_saves() {
    let run = format!("crowded --cpu {} --work 800ms", a_cpu());
    let pair = Pair::of("run-queue-wait", &run, &run).beside();
    pair.assert(|| noise(a_cpu()), || None, Measured::is_bound);
}

#[test]
fn a_low_priority_bounds_what_a_normal_one_saves() {
    let run = |nice: &str| format!("crowded --cpu {} --work 50ms --nice {nice}", a_cpu());
    let pair = Pair::of("low-priority", &run("19"), &run("0")).beside();
    pair.assert(|| noise(a_cpu()), || noise(a_cpu()), Measured::is_bound);
}

#[test]
fn too_many_spinning_threads_bound_what_as_many_as_cpus_save() {
    if two_cpus() {
        let run = |threads: u32| format!("oversub --threads {threads} --cpus 2 --steps 100");
        Pair::of("cpu-oversubscription", &run(8), &run(2)).assert_bound();
    }
}

#[test]
fn a_spinning_waiter_bounds_what_a_blocked_one_saves() {
    let run = "spin-wait --busy --duration 900ms";
    Pair::of("spin-wait", run, &run.replace("--busy", "--healthy")).assert_bound();
}

#[test]
fn a_slow_rank_bounds_what_a_fast_one_saves() {
    if two_cpus() {
        let run = "straggler --steps 40";
        Pair::of("straggler", run, &format!("{run} --healthy")).assert_bound();
    }
}

#[test]
fn a_process_per_item_bounds_what_one_for_all_saves() {
    let run = "spawn-storm --items 1200";
    Pair::of("process-spawn-storm", run, &format!("{run} --healthy")).assert_bound();
}

#[test]
fn messages_through_a_pipe_bound_what_shared_memory_saves() {
    Pair::of("ipc-wait", "ipc", "ipc --healthy").assert_bound();
}

#[test]
fn one_arena_bounds_what_many_save() {
    if two_cpus() {
        let run = "arena --threads 6 --allocations 3000000";
        Pair::of("allocator-contention", run, &format!("{run} --healthy")).assert_bound();
    }
}

#[test]
fn a_shared_address_space_bounds_what_two_save() {
    if two_cpus() {
        let run = "mmap-lock --threads 1 --rounds 300";
        let pair = Pair::of("mmap-lock-contention", run, &format!("{run} --healthy"));
        pair.families("cpu,lock").assert_bound();
    }
}

#[test]
fn a_shared_pipe_bounds_what_two_save() {
    let run = "pipe-lock --threads 1 --calls 400";
    let pair = Pair::of("kernel-lock-contention", run, &format!("{run} --healthy"));
    pair.families("cpu,lock").assert_bound();
}

#[test]
fn the_interpreter_lock_bounds_what_a_process_saves() {
    if two_cpus() {
        let run = |who: &str| python("gil_requests.py", &format!("{who} 200"));
        Pair::new("gil-contention", run("thread"), run("subprocess")).took("requests_s").assert_bound();
    }
}

#[test]
fn collections_bound_what_freezing_saves() {
    let run = |how: &str| python("gc_steps.py", &format!("400000 25 {how}"));
    Pair::new("gc-pauses", run(""), run("freeze")).took("took_s").assert_bound();
}

#[test]
fn a_slow_log_bounds_what_a_fast_one_saves() {
    let run = |how: &str| python("log_convoy.py", how);
    Pair::new("logging-convoy", run(""), run("fast")).took("wall_s").assert_bound();
}

/// Of memory, where the families that see it must run.
fn of_memory(pair: Pair) {
    pair.families("cpu,fault,reclaim,cache,rss").took("took_s").assert_bound();
}

fn of_storage(pair: Pair) {
    pair.families("cpu,cache,block,writeback").took("took_s").assert_bound();
}

#[test]
fn first_touches_bound_what_kept_memory_saves() {
    let run = "touch --mib 2560";
    of_memory(Pair::of("page-fault-storm", run, &format!("{run} --healthy")));
}

#[test]
fn memory_made_anew_bounds_what_kept_memory_saves() {
    let run = |how: &str| python("memory.py", &format!("churn {how}"));
    of_memory(Pair::new("allocation-churn", run(""), run("--healthy")));
}

#[test]
fn copied_pages_bound_what_not_looking_at_them_saves() {
    let run = |how: &str| python("memory.py", &format!("cow {how}"));
    of_memory(Pair::new("fork-copy-on-write", run(""), run("--apart")));
}

#[test]
fn a_cold_file_bounds_what_a_warm_one_saves() {
    let run = format!("mapped-file --mib 256 --random 24000 --folder {}", disk());
    of_memory(Pair::of("cold-file-mapping", &run, &format!("{run} --warm")));
}

#[test]
fn a_file_that_does_not_fit_bounds_what_more_room_saves() {
    let (Some(tight), Some(wide)) = (MemoryCgroup::new(128 * MIB), MemoryCgroup::new(1024 * MIB)) else { return };
    let run = |cgroup: &MemoryCgroup| {
        format!("mapped-file --mib 256 --passes 16 --folder {} --cgroup {}", disk(), cgroup.folder().display())
    };
    of_memory(Pair::of("page-cache-thrash", &run(&tight), &run(&wide)));
}

#[test]
fn a_file_that_is_pushed_out_bounds_what_writing_past_the_page_cache_saves() {
    let Some(cgroup) = MemoryCgroup::new(256 * MIB) else { return };
    let run = format!("eviction --passes 2 --folder {} --cgroup {}", disk(), cgroup.folder().display());
    of_memory(Pair::of("cache-eviction", &run, &format!("{run} --direct")));
}

#[test]
fn a_pinned_buffer_for_each_batch_bounds_what_one_for_all_saves() {
    of_memory(Pair::of("pinned-memory", "pin --batches 40", "pin --batches 40 --reuse"));
}

#[test]
fn small_random_reads_bound_what_reading_in_order_saves() {
    let run = format!("reads --direct --mib 160 --folder {}", disk());
    of_storage(Pair::of("small-random-reads", &run, &format!("{run} --in-order")));
}

#[test]
fn a_limit_on_io_bounds_what_lifting_it_saves() {
    let limit = |bytes| IoCgroup::new(std::path::Path::new(&disk()), bytes);
    let (Some(tight), Some(wide)) = (limit(4 * MIB), limit(4096 * MIB)) else { return };
    let run = |cgroup: &IoCgroup| {
        format!("reads --mib 6 --direct --folder {} --cgroup {}", disk(), cgroup.folder().display())
    };
    of_storage(Pair::of("slow-storage", &run(&tight), &run(&wide)));
}

#[test]
fn pauses_of_a_writer_bound_what_room_for_dirty_pages_saves() {
    let (Some(tight), Some(wide)) = (LoopMount::new(2048), LoopMount::new(2048)) else { return };
    if !tight.limit_dirty(8 * MIB) {
        return;
    }
    let run = |mount: &LoopMount| format!("dirty-writer --mib 1536 --folder {}", mount.folder().display());
    // The kernel's own threads write the file out. What the writer computes is left out: copying takes several times as long on a virtual
    // machine whose host has to find the memory first, which is so for the one that runs first.
    let pair = Pair::of("dirty-throttling", &run(&tight), &run(&wide)).beside();
    pair.families("cpu,cache,block,writeback").took("waited_s").assert_bound();
}

#[test]
fn a_writer_at_its_limit_bounds_what_more_room_saves() {
    let (Some(tight), Some(wide)) = (MemoryCgroup::new(64 * MIB), MemoryCgroup::new(6144 * MIB)) else { return };
    let run = |cgroup: &MemoryCgroup| {
        format!("dirty-writer --mib 4096 --folder {} --cgroup {}", disk(), cgroup.folder().display())
    };
    // The kernel's own threads write the file out. Closing the file, which has no name any more, waits for what of it is being written.
    let pair = Pair::of("memory-limit", &run(&tight), &run(&wide)).beside().took("took_s");
    pair.families("cpu,fault,reclaim,cache,rss").assert_bound();
}
