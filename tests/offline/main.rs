//! Tests over captures: no root, no eBPF. Replays them through the same stages as a live run.
//!
//! Here: the recorded captures of `captures/` and by which command each was recorded. The tests are in the modules.
//!
//! Recorded on a host of two CPUs, as root, in a folder that held only `workload`, `tracer` and scripts of `live/python`, with the first CPU to themselves
//! (`taskset -c 0 nice -n -20`), or in a guest of 6.12 (`cargo xtask vm 6.12 --test pressure --keep`), then made fit to be checked in by `scrub.rs`. To record one anew: run its command below under
//! `./tracer run --capture NAME.trc --` (or as it says), run the scrubber over it, then `cargo xtask bless` and read the diff.
//! The workload draws the names of its threads at random, so they differ from recording to recording.

mod goldens;
mod malformed;
mod names;
mod properties;
mod records;
mod rules;
mod schema;
mod stacks;
mod support;
mod symbols;
mod whole;

/// A capture that is checked in.
pub struct Recorded {
    /// Its file in `captures/`, without `.trc`.
    pub name: &'static str,
    /// What was run, and how where it was not `tracer run`.
    pub command: &'static str,
    /// Why it is here.
    pub why: &'static str,
}

macro_rules! recorded {
    ($($test:ident $name:literal $command:literal $why:literal;)*) => {
        /// All captures.
        pub const RECORDED: &[Recorded] = &[$(Recorded { name: $name, command: $command, why: $why },)*];

        mod golden {
            //! One test per capture, so that each failure shows.
            $(#[test] fn $test() { crate::goldens::check($name); })*
        }
    };
}

recorded! {
    mutex "mutex" "./workload mutex --threads 4 --sleep --duration 1s"
        "a contended mutex: the rule fires with waiters and owners";
    mutex_healthy "mutex-healthy" "./workload mutex --healthy --threads 3 --duration 300ms"
        "its healthy twin";
    mutex_pi "mutex-pi" "./workload mutex --kind pi --threads 4 --sleep --duration 1s"
        "a mutex that the kernel hands over";
    mutex_in_pid_namespace "mutex-in-pid-namespace"
        "unshare -pf --mount-proc ./workload mutex --threads 4 --sleep --duration 1s"
        "owners are known by the ids of another pid namespace";
    mutex_attached "mutex-attached" "./workload mutex --threads 4 --sleep --duration 20s, record --pid for 1 s"
        "threads are seeded in mid-wait, and outlive the window";
    deadlock "deadlock" "./workload deadlock --duration 20s, record --pid for 1 s"
        "no switch at all: everything comes from seeds";
    pingpong "pingpong" "./workload pingpong --count 4000"
        "many short waits on pipes";
    cpu "cpu" "./workload cpu --duration 800ms"
        "the target only computes";
    one_node "one-node" "./workload cpu --duration 800ms, run --family sched,rss"
        "sizes are read on a host with one NUMA node, which says so";
    swap_in "swap-in" "in a guest: ./workload touch --mib 28 --passes 2 --cgroup FOLDER, with 14 MiB and swap, run --family sched,cpu,fault,reclaim,rss"
        "memory that was swapped out is needed again";
    direct_reclaim "direct-reclaim"
        "in a guest: ./workload touch --first --populate 4 --mib 735, run --family sched,cpu,fault,reclaim,rss"
        "a process wants more memory than the machine has";
    compaction "compaction" "in a guest: ./workload huge-pages --mib 343, run --family sched,cpu,fault,reclaim,rss"
        "huge pages are wanted where memory is in pieces";
    two_nodes "two-nodes" "in a guest: ./workload numa --mib 300 --memory-node 0 --cpu-node 1, run --family sched,cpu,fault,reclaim,rss"
        "memory of another NUMA node than the thread's";
    sleep "sleep" "./workload sleep --duration 700ms"
        "the target only sleeps";
    fork_storm "fork-storm" "./workload fork-storm --count 50"
        "many short-lived processes, more than the text shows";
    condvar "condvar" "./workload condvar --duration 700ms --period 20ms"
        "futexes without an owner, beside a thread that computes";
    idle_pool "idle-pool" "./workload idle-pool --duration 500ms --threads 12"
        "threads that wait for work and are healthy";
    socket "socket" "./workload socket --duration 300ms"
        "a client waits for its server";
    network "network" "./workload network --answers 24, run --family sched,cpu,net"
        "a client waits for a slow server of this host, over TCP";
    network_healthy "network-healthy" "./workload network --healthy --answers 60 --compute 5ms --idle 3, run --family sched,cpu,net"
        "its healthy twin";
    database "database" "/usr/bin/python3 database.py sqlite items.db --lookups 120, run --family sched,cpu --db"
        "a statement of SQLite goes through all rows, since its table has no index";
    stopped "stopped" "./workload stopped"
        "a child is stopped and continued";
    lossy "lossy" "./workload pingpong --count 60000, run --ring-size 64KiB"
        "most records were lost, and counted";
    mmap_lock "mmap-lock" "./workload mmap-lock --duration 1500ms, run --family sched,lock"
        "threads wait for the lock of their address space, behind one that maps much";
    pipe_lock "pipe-lock" "./workload pipe-lock --threads 1 --duration 1s, run --family sched,lock"
        "a mutex of the kernel, held by a thread that sleeps";
    killed "killed" "./workload sleep --duration 3s, the tracer killed after 1.7 s"
        "no end marker: the window is not complete";
    unseen_switches "unseen-switches" "./workload condvar --duration 700ms --period 20ms, on both CPUs under chrt -f 1"
        "the host hid a process from tracing, so switches are missing that nothing counts as lost: that time is unknown";
    quota "quota" "./workload quota --pinned --cgroup CGROUP --duration 3s, a cgroup below one with a tenth of a CPU; run --family sched"
        "a CPU quota holds a thread back, and on a crowded host others make it wait as well";
    oversub "oversub" "./workload oversub --duration 3s, run --family sched"
        "more spinning threads than CPUs, on a crowded host";
    low_priority "low-priority" "./workload crowded --cpu 0 --nice 19 --duration 2s beside one at nice 0, run --family sched"
        "a thread of low priority beside one of a normal one";
    first_touch "first-touch" "./workload touch --mib 2048, without debug information; run --family sched,cpu,fault,reclaim,cache,oom"
        "two GiB are touched for the first time";
    churn "churn" "./workload touch --mib 64 --passes 24 --churn --compute 10ms, likewise; run --family sched,cpu,fault"
        "memory is mapped, touched and given back over and over";
    mapping "mapping" "./workload touch --mib 64 --passes 24 --churn --compute 10ms, likewise; run --family sched,cpu,fault,map"
        "the same with the calls that map and unmap it";
    dirty_writer "dirty-writer"
        "./workload dirty-writer --mib 2600 --folder /srv/models --cgroup CGROUP, likewise, with a limit of 64 MiB; run --family sched,cpu,reclaim,cache"
        "a writer whose cgroup is at its limit frees memory instead of writing";
    thrash "thrash"
        "./workload mapped-file --mib 192 --passes 20 --folder /srv/models --cgroup CGROUP, likewise, with a limit of 128 MiB; run --family sched,cpu,fault,reclaim,cache"
        "a mapped file that does not fit into its cgroup is read again and again";
    eviction "eviction"
        "./workload eviction --passes 1 --mib 88 --compute 20us --folder /srv/models --cgroup CGROUP, likewise, with a limit of 128 MiB; run --family sched,cpu,reclaim,cache,rss"
        "what a thread writes pushes a file out of the page cache that another one reads";
    pinned "pinned" "./workload pin --batches 30, likewise; run --family sched,cpu,fault,rss"
        "a buffer is pinned anew for each batch";
    reads "reads" "./workload reads --mib 18 --direct --folder /srv/models, likewise, on a loop device; run --family sched,block"
        "a file is read in small pieces at random";
    io_limit "io-limit"
        "./workload reads --mib 4 --direct --folder /srv/models --cgroup CGROUP, likewise, 4 MiB a second by blkio.throttle; run --family sched,cpu,block,writeback"
        "a limit on I/O holds a thread back, and not the device";
    dirty_paused "dirty-paused"
        "./workload dirty-writer --mib 300 --folder /srv/models, likewise, on a loop device of which 8 MiB may be dirty; run --family sched,cpu,cache,block,writeback"
        "the kernel pauses a writer, since more is dirty than may be";
    cold "cold" "./workload mapped-file --mib 96 --random 9000 --folder /srv/models, likewise; run --family sched,cpu,fault,cache"
        "a mapped file is read as it is touched, page by page";
    cow "cow" "/usr/bin/python3 memory.py cow, run --family sched,cpu,fault"
        "forked workers look at the strings of their parent, which copies them";
    oom_kill "oom-kill"
        "./workload touch --mib 256 --cgroup CGROUP, without debug information, with a limit of 128 MiB; run --family sched,cpu,fault,oom"
        "the kernel kills a process for want of memory";
    growth "growth"
        "./workload grow --rate 40 --mib 1024 --cgroup CGROUP, likewise, with a limit of 1 GiB; record --pid for 5 s, --family sched,cpu,fault,rss"
        "memory of a cgroup grows towards its limit";
    shm "shm" "./workload shm, without debug information; run --family sched,cpu,fault,rss"
        "a child fills a file system of 64 MiB in memory through a mapping, and dies of SIGBUS";
    shm_healthy "shm-healthy" "./workload shm --mib 32, likewise; run --family sched,cpu,fault,rss"
        "its healthy twin: it fills a half";
    ipc "ipc" "/usr/bin/python3 ipc.py bytes count 8, run --family sched,cpu"
        "large messages are copied through a pipe";
    plateau "plateau"
        "./workload grow --rate 60 --mib 90 --cgroup CGROUP --stay 3s, likewise, with a limit of 256 MiB; run --family sched,rss"
        "a program that warms up and then stays: its limit will not be reached";
    fsync "fsync" "nice -n -20 ./workload items fsync --items 3300 --loops 20000, run --family sched"
        "each item is synced to a file";
    starved "starved" "nice -n -20 ./workload items producer --items 200 --loops 200000, run --family sched"
        "main waits for a child process that sleeps before each item";
    logging_convoy "logging-convoy" "/usr/bin/python3 log_convoy.py, run --family sched"
        "threads wait for the lock under which one of them writes to a pipe with a slow reader";
    spawn_storm "spawn-storm" "./workload spawn-storm --items 700, run --family sched"
        "a short-lived process for each item";
    spin_wait "spin-wait" "./workload spin-wait --busy --duration 1500ms, without debug information; run --family sched,cpu"
        "a thread spins on the CPU that another one needs";
    straggler "straggler" "./workload straggler, without debug information; run --family sched,cpu"
        "the slower one of two peers that meet again and again";
    arena "arena" "taskset -c 0 ./workload arena --threads 8, without debug information; run --family sched,cpu"
        "threads wait for one arena of malloc, on one CPU";
    gil "gil" "/usr/bin/python3 gil_requests.py thread 120, on both CPUs; run --family sched,cpu"
        "a Python thread computes while main wants the interpreter lock for each request; a stripped interpreter";
    steps "steps"
        "./workload steps --steps 41, without debug information; run --family sched,cpu --step ./workload:workload_train_step"
        "each tenth step waits for a lock whose holder sleeps";
    steps_healthy "steps-healthy"
        "./workload steps --healthy --steps 41, without debug information; run --family sched,cpu and --step as above"
        "its healthy twin: all steps are alike";
    steps_python "steps-python" "/usr/bin/python3 steps.py slow 41; run --family sched,cpu --step py:train_step"
        "steps of a Python function, seen from its third call on";
    gc "gc" "/usr/bin/python3 gc_steps.py 300000 20, on both CPUs; run --family sched,cpu"
        "Python's collector of garbage looks at many objects over and over, in a stripped interpreter";
}
