//! The table of roles, and how their options are written.

mod arena;
mod cgroup_move;
mod child_wait;
mod condvar;
mod cpu;
mod crowded;
mod daemonise;
mod deadlock;
mod dirty_writer;
mod eviction;
mod exec_thread;
mod file_wait;
mod fork_storm;
mod fragments;
mod grow;
mod huge_pages;
mod idle_pool;
mod ipc;
mod items;
mod join;
mod kinds;
mod mapped_file;
mod mappings;
mod mmap_lock;
mod mutex;
mod network;
mod never_switch;
mod numa;
mod oversub;
mod pin;
mod pingpong;
mod pipe_lock;
mod pipe_queue;
mod poll_wait;
mod quota;
mod reads;
mod rename;
mod rwlock;
mod semaphore;
mod shm;
mod sleep;
mod socket;
mod spawn_storm;
mod spin_wait;
mod stdio;
mod steps;
mod stopped;
mod stopwatch;
mod straggler;
mod timer_beside_busy;
mod touch;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::truth::Run;

/// What a role runs with.
pub trait Options {
    /// Runs the role. It adds its facts to `run`, whose line is printed afterwards.
    fn run(&self, run: &mut Run) -> anyhow::Result<()>;
}

macro_rules! roles {
    ($($(#[$doc:meta])* $variant:ident $name:literal $module:ident,)*) => {
        /// Every role.
        #[derive(clap::Subcommand)]
        pub enum Role {
            $($(#[$doc])* #[command(name = $name)] $variant($module::Options),)*
        }

        impl Role {
            /// The role's name on the command line.
            pub fn name(&self) -> &'static str {
                match self { $(Role::$variant(_) => $name,)* }
            }

            /// Runs it.
            pub fn run(&self, run: &mut Run) -> anyhow::Result<()> {
                match self { $(Role::$variant(options) => Options::run(options, run),)* }
            }
        }
    };
}

/// Moves this process to the cgroup with this folder.
pub fn enter_cgroup(folder: &Path) -> anyhow::Result<()> {
    let procs = folder.join("cgroup.procs");
    std::fs::write(&procs, "0").with_context(|| format!("cannot write {}", procs.display()))
}

roles! {
    /// Threads fight for one pthread mutex. Healthy: each has its own.
    Mutex "mutex" mutex,
    /// Threads fight for one read-write lock: no owner to be known.
    Rwlock "rwlock" rwlock,
    /// Threads wait on a condition for tokens: no owner.
    Condvar "condvar" condvar,
    /// Threads write to one stdio stream: its lock names no owner.
    Stdio "stdio" stdio,
    /// Threads allocate from one malloc arena: its lock names no owner.
    Arena "arena" arena,
    /// Threads wait for a semaphore: no owner.
    Semaphore "semaphore" semaphore,
    /// Threads wait for other threads to end: no owner.
    Join "join" join,
    /// A buffer is pinned for each batch. Healthy: once.
    Pin "pin" pin,
    /// Two processes or threads throw a byte to and fro through two pipes.
    Pingpong "pingpong" pingpong,
    /// Threads compute.
    Cpu "cpu" cpu,
    /// A thread sleeps, wakes, sleeps.
    Sleep "sleep" sleep,
    /// A sleeper on the same CPU as a busy loop, which did not wake it.
    TimerBesideBusy "timer-beside-busy" timer_beside_busy,
    /// Short-lived processes or threads at a fixed rate.
    ForkStorm "fork-storm" fork_storm,
    /// Many threads wait for work that hardly comes: healthy.
    IdlePool "idle-pool" idle_pool,
    /// A fixed number of items with one bottleneck, or with that removed.
    Items "items" items,
    /// A process sends large messages to another one through a pipe or socket. Healthy: in shared memory.
    Ipc "ipc" ipc,
    /// A producer feeds a consumer through a pipe: healthy.
    PipeQueue "pipe-queue" pipe_queue,
    /// Two threads take two mutexes in opposite order and hang.
    Deadlock "deadlock" deadlock,
    /// A client waits for a slow server of this host, over TCP.
    Network "network" network,
    /// A thread spins on one CPU and never leaves it by itself.
    NeverSwitch "never-switch" never_switch,
    /// A thread changes its name.
    Rename "rename" rename,
    /// A thread that is not the first of its process executes a program.
    ExecThread "exec-thread" exec_thread,
    /// A client waits for a slow server through a stream socket.
    Socket "socket" socket,
    /// Writes and fsyncs a file over and over.
    FileWait "file-wait" file_wait,
    /// Waits for a sleeping child.
    ChildWait "child-wait" child_wait,
    /// Waits in poll, select or epoll for a pipe that is written to now and then.
    PollWait "poll-wait" poll_wait,
    /// A child is stopped by a signal for a while.
    Stopped "stopped" stopped,
    /// Notes the time and becomes another program.
    Stopwatch "stopwatch" stopwatch,
    /// A descendant outlives its parent.
    Daemonise "daemonise" daemonise,
    /// Moves itself into another cgroup.
    CgroupMove "cgroup-move" cgroup_move,
    /// Threads fight for the lock of their address space. Healthy: the one that holds it long has its own.
    MmapLock "mmap-lock" mmap_lock,
    /// Memory is touched for the first time, once or over and over. Healthy: memory that is kept.
    Touch "touch" touch,
    /// Memory is mapped, unmapped and given back by known calls. Healthy: it makes none.
    Mappings "mappings" mappings,
    /// A mapped file is read in passes, or at random. Healthy: it fits into memory, or is there already.
    MappedFile "mapped-file" mapped_file,
    /// A file is read from its disk in small pieces at random. Healthy: in order, or from memory.
    Reads "reads" reads,
    /// A file is read over and over while another one is written. Healthy: past the page cache.
    Eviction "eviction" eviction,
    /// Memory grows at a steady pace until a limit ends it. Healthy: it grows, then stays.
    Grow "grow" grow,
    /// Memory of each kind grows by a known amount.
    Kinds "kinds" kinds,
    /// A child fills a file on a small file system in memory until it is killed. Healthy: it has room.
    Shm "shm" shm,
    /// A file is written in a cgroup with room for a part of it. Healthy: with room for all.
    DirtyWriter "dirty-writer" dirty_writer,
    /// Threads fight for a pipe's mutex. Healthy: each has a pipe of its own.
    PipeLock "pipe-lock" pipe_lock,
    /// Threads spin at a barrier, more of them than CPUs. Healthy: one per CPU.
    Oversub "oversub" oversub,
    /// A thread spins for another one that computes on the same CPU. Healthy: it blocks.
    SpinWait "spin-wait" spin_wait,
    /// Two processes meet after each step, of which one comes late. Healthy: both take as long.
    Straggler "straggler" straggler,
    /// A loop of steps, of which each tenth waits for a lock. Healthy: all are alike.
    Steps "steps" steps,
    /// A thread runs a short-lived process for each item. Healthy: one process for all items.
    SpawnStorm "spawn-storm" spawn_storm,
    /// A thread computes in a cgroup with a CPU quota. Healthy: it does not reach it.
    Quota "quota" quota,
    /// A thread works on memory of another NUMA node. Healthy: of its own.
    Numa "numa" numa,
    /// Free memory is left in pieces. Healthy: as it was.
    Fragments "fragments" fragments,
    /// The pool of huge pages is made larger for a moment.
    HugePages "huge-pages" huge_pages,
    /// A thread computes on one CPU, perhaps with low priority, beside whatever else runs there.
    Crowded "crowded" crowded,
}

/// Reads `30s`, `1.5s`, `500ms`, `20us`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits =
        text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(|| format!("{text} has no unit: write 2ms or 3s"))?;
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| format!("{number} is no number"))?;
    let factor = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "ns" => 1e-9,
        _ => return Err(format!("{unit} is no unit of time: write s, ms, us or ns")),
    };
    Duration::try_from_secs_f64(number * factor).map_err(|error| error.to_string())
}

/// Reads `500/s` or `500`: how often per second.
pub fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.parse::<f64>() {
        Ok(rate) if rate > 0.0 => Ok(rate),
        _ => Err(format!("{text} is no rate: write 500/s")),
    }
}
