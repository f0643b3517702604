//! For tests only: events as the kernel and the live source write them, their bytes, and streams of them.

mod encode;
pub mod raw;
pub mod stacks;

use tracer_common::block::{BlockDone, DirtyPause, FileSync, Request, block_notes};
use tracer_common::database::Call;
use tracer_common::lock::{Contended, Kind};
use tracer_common::mapping::Mapped;
use tracer_common::memory::{CachedFile, FILE_NAME_BYTES, Faults, FileKey, Stalled, Victim};
use tracer_common::net::Connection;
use tracer_common::record::{Header, meta, sched as kind};
use tracer_common::record::{block, cache, fault, map, net, oom, reclaim, writeback};
use tracer_common::sched::{
    COMM_BYTES, CgroupMove, Exec, Exit, Fork, Moved, NewTask, PATH_BYTES, Rename, Step, Switch, SwitchFutex,
};
use tracer_common::sched::{FdKind, WakeContext, switch_flags};

use crate::model::event::{Event, Meta};
use crate::model::meta::*;
use crate::model::report::Report;
use crate::pipeline::analysis::{Analysis, Options};

pub use self::encode::bytes;

/// A read of 4 KiB by thread 11 of process 10, done at this time.
pub fn block_done(ts_ns: u64) -> BlockDone {
    let request = Request {
        sector: 8,
        file: FileKey { inode: 77, device: 254 << 20, reserved: 0 },
        tid: 11,
        tgid: 10,
        bytes: 4096,
        device: 254 << 20,
        notes: block_notes::TRACED,
        ..Request::default()
    };
    BlockDone { header: header(block::DONE, ts_ns, 0), queued_ns: 1, device_ns: 2, request, asked_ns: 3 }
}

/// A file or a directory on the device of [`block_done`], as the kernel tells it: thread 10 of process 10 has met it.
pub fn met(kind: u16, ts_ns: u64, inode: u64, parent: u64, text: &str) -> CachedFile {
    let mut name = [0; FILE_NAME_BYTES];
    let len = text.len().min(FILE_NAME_BYTES - 1);
    name[..len].copy_from_slice(&text.as_bytes()[..len]);
    let file = FileKey { inode, device: 254 << 20, reserved: 0 };
    CachedFile { header: header(kind, ts_ns, 0), tid: 10, tgid: 10, file, size_bytes: 20_000, name, parent }
}

/// A name as the kernel stores it.
pub fn comm(name: &str) -> [u8; COMM_BYTES] {
    let mut bytes = [0; COMM_BYTES];
    let len = name.len().min(COMM_BYTES - 1);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

/// A path as the kernel stores it.
pub fn path(name: &str) -> [u8; PATH_BYTES] {
    let mut bytes = [0; PATH_BYTES];
    let len = name.len().min(PATH_BYTES - 1);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

/// A header of the kernel.
pub fn header(kind: u16, ts_ns: u64, cpu: u16) -> Header {
    Header { ts_ns, kind, cpu, lost: 0 }
}

/// A record of user space.
pub fn meta_event(ts_ns: u64, payload: Meta) -> Event {
    let kind = match payload {
        Meta::Host(_) => meta::HOST,
        Meta::Target(_) => meta::TARGET,
        Meta::Families(_) => meta::FAMILIES,
        Meta::Start(_) => meta::START,
        Meta::Tick(_) => meta::TICK,
        Meta::Loss(_) => meta::LOSS,
        Meta::Seed(_) => meta::SEED,
        Meta::Name(_) => meta::NAME,
        Meta::Cost(_) => meta::COST,
        Meta::End(_) => meta::END,
        Meta::Module(_) => meta::MODULE,
        Meta::Frame(_) => meta::FRAME,
        Meta::Stack(_) => meta::STACK,
        Meta::Symbol(_) => meta::SYMBOL,
        Meta::Locks(_) => meta::LOCKS,
        Meta::CpuLimits(_) => meta::CPU_LIMITS,
        Meta::Attached(_) => meta::ATTACHED,
        Meta::Python(_) => meta::PYTHON,
        Meta::Objects(_) => meta::OBJECTS,
        Meta::Sums(_) => meta::SUMS,
        Meta::Memory(_) => meta::MEMORY,
        Meta::Steps(_) => meta::STEPS,
        Meta::Database(_) => meta::DATABASE,
    };
    Event::Meta(header(kind, ts_ns, 0), Box::new(payload))
}

/// A thread enters the function whose entries begin steps.
pub fn step(ts_ns: u64, tid: u32, tgid: u32) -> Event {
    Event::Step(Step { header: header(kind::STEP, ts_ns, 0), tid, tgid })
}

/// A call of `sqlite3_step` of 2 ns that brings a row of statement 1.
pub fn database_call(ts_ns: u64, tid: u32, tgid: u32) -> Call {
    Call {
        header: header(tracer_common::record::database::CALL, ts_ns, 0),
        tid,
        tgid,
        start_ns: ts_ns.saturating_sub(2),
        spent_ns: 2,
        handle: 0x1000,
        calls: 1,
        result: 100,
        function: tracer_common::database::function::SQLITE_STEP,
        flags: 0,
        statement: 1,
    }
}

/// A wait of 12 ns for a kernel lock that another thread of the process holds.
pub fn contended(ts_ns: u64, tid: u32, tgid: u32, kind: Kind, owner_tid: u32) -> Contended {
    Contended {
        header: header(tracer_common::record::lock::CONTENDED, ts_ns, 0),
        tid,
        tgid,
        lock: 0xffff_8880_0000_1000,
        duration_ns: 12,
        spun_ns: 0,
        owner_tid,
        owner_tgid: tgid,
        kind: kind as u8,
        flags: 0,
        reserved: 0,
    }
}

/// The same switch, out of which the thread that leaves waits for a kernel lock.
pub fn for_kernel_lock(mut switch: Switch, kind: Kind) -> Switch {
    switch.flags |= (kind as u16) << switch_flags::LOCK_SHIFT;
    switch
}

/// How a thread leaves the CPU.
#[derive(Clone, Copy)]
pub enum Leave {
    /// Pre-empted.
    Preempted,
    /// Asleep in a system call on an object behind a descriptor of a kind (numbers of x86-64).
    Sleep {
        /// The call.
        syscall: i16,
        /// Number of the `FdKind`.
        fd_kind: u8,
        /// Inode or address.
        object: u64,
    },
    /// Uninterruptible, entered by an exception.
    Fault,
    /// For good.
    Dead,
}

/// A switch between two traced threads; 0 is the idle task.
pub fn switch(ts_ns: u64, cpu: u16, prev_tid: u32, next_tid: u32, leave: Leave) -> Switch {
    let (prev_state, syscall, fd_kind, object) = match leave {
        Leave::Preempted => (0, -1, 0, 0),
        Leave::Sleep { syscall, fd_kind, object } => (0x2001, syscall, fd_kind, object),
        Leave::Fault => (2, -1, 0, 0),
        Leave::Dead => (0x80, 60, 0, 0),
    };
    let mut flags = switch_flags::HAS_REGS;
    if matches!(leave, Leave::Preempted) {
        flags |= switch_flags::PREEMPT;
    }
    if prev_tid != 0 {
        flags |= switch_flags::PREV_TRACKED;
    }
    if next_tid != 0 {
        flags |= switch_flags::NEXT_TRACKED;
    }
    Switch {
        header: header(kind::SWITCH, ts_ns, cpu),
        prev_tid,
        next_tid,
        waker_tid: 0,
        wake_delta_ns: 0,
        prev_state,
        flags,
        syscall,
        arg0: 0,
        fd_kind,
        place: [0; 3],
        object,
    }
}

/// The same switch, with who woke `next_tid` and when.
pub fn woken(mut switch: Switch, context: WakeContext, waker_tid: u32, wake_delta_ns: u32) -> Switch {
    switch.flags |= switch_flags::HAS_WAKER | (context as u16) << switch_flags::WAKE_CONTEXT_SHIFT;
    switch.waker_tid = waker_tid;
    switch.wake_delta_ns = wake_delta_ns;
    switch
}

/// A thread that leaves its CPU now, after it ran for so long, and got it in a switch that nobody saw.
pub fn arrived(ts_ns: u64, cpu: u16, tid: u32, ran_ns: u64) -> Switch {
    let mut record = switch(ts_ns, cpu, 0, tid, Leave::Preempted);
    record.header.kind = kind::ARRIVED;
    (record.flags, record.object) = (switch_flags::NEXT_TRACKED, ran_ns);
    record
}

/// A thread's wait in epoll is being ended by this socket of the network.
pub fn polled(ts_ns: u64, cpu: u16, tid: u32, inode: u64) -> Switch {
    let mut record = switch(ts_ns, cpu, tid, 0, Leave::Preempted);
    (record.header.kind, record.flags, record.prev_state) = (kind::POLLED, switch_flags::PREV_TRACKED, 0);
    (record.arg0, record.fd_kind, record.object) = (5, FdKind::SocketInet as u8, inode);
    record
}

/// The same switch, `prev_tid` waiting for the pthread mutex at `address` that `owner` holds.
pub fn on_mutex(mut switch: Switch, address: u64, owner: u32) -> SwitchFutex {
    switch.header.kind = kind::SWITCH_FUTEX;
    switch.prev_state = 0x2001;
    switch.syscall = 202;
    switch.object = address;
    SwitchFutex { switch, op: 128, val: 2, words: [2, 0, owner, 1, 0, 0], readable: 1, reserved: 0 }
}

/// A new thread of the host's pid namespace.
pub fn new_task(ts_ns: u64, tid: u32, tgid: u32, creator_tid: u32, name: &str) -> NewTask {
    NewTask {
        header: header(kind::NEW_TASK, ts_ns, 0),
        tid,
        tgid,
        creator_tid,
        creator_tgid: creator_tid,
        ns_tid: tid,
        ns_level: 0,
        clone_flags: 0,
        comm: comm(name),
    }
}

/// A seed of the host's pid namespace, asleep in no known call.
pub fn seed(tid: u32, tgid: u32, name: &str, state: &str) -> SeedRecord {
    SeedRecord {
        tid,
        tgid,
        ppid: 1,
        ns_tid: tid,
        ns_tgid: tgid,
        comm: name.to_owned(),
        state: state.to_owned(),
        ..SeedRecord::default()
    }
}

/// Counters of two CPUs, and a cgroup that may use half a CPU: thread 10 is in one below it. `spent_ms` of each went by.
pub fn cpu_limits(spent_ms: u64) -> CpuLimitsRecord {
    let ns = spent_ms * 1_000_000;
    let cpu = |cpu| CpuTimes { cpu, busy_ns: ns / 2, idle_ns: ns / 2, ..CpuTimes::default() };
    let cgroup = CgroupCpu {
        path: "/limited".to_owned(),
        quota_ns: 50_000_000,
        period_ns: 100_000_000,
        periods: spent_ms / 100,
        throttled_periods: spent_ms / 100,
        throttled_ns: ns / 2,
    };
    CpuLimitsRecord {
        cpus: vec![cpu(0), cpu(1)],
        cgroups: vec![cgroup],
        members: vec![CgroupMember { tid: 10, path: "/limited/job".to_owned() }],
    }
}

/// A host of two CPUs, x86-64, and one family that is ready.
pub fn prologue(start_ns: u64) -> Vec<Event> {
    let host = HostRecord {
        tracer_version: "0".to_owned(),
        abi_version: 1,
        kernel: "6.18".to_owned(),
        arch: "x86_64".to_owned(),
        cpus: 2,
        memory_bytes: 1 << 30,
        cgroup_version: "v2".to_owned(),
        clock: "monotonic".to_owned(),
        max_map_count: 0,
    };
    let target = TargetRecord { mode: "run".to_owned(), command: vec!["cmd".to_owned()], ..TargetRecord::default() };
    let family = FamilyRecord { family: "sched".to_owned(), status: "ready".to_owned(), reason: None };
    let start = StartRecord { attach_s: 0.1, unix_offset_ns: 1_700_000_000_000_000_000, boot_offset_ns: 0 };
    vec![
        meta_event(start_ns, Meta::Host(host)),
        meta_event(start_ns, Meta::Target(target)),
        meta_event(start_ns, Meta::Families(family)),
        meta_event(start_ns, Meta::Start(start)),
    ]
}

/// Counters that say that nothing of these kernel records was lost, and an orderly end.
pub fn epilogue(end_ns: u64, kernel_records: u64) -> Vec<Event> {
    let cpu = CpuLoss { seen: kernel_records, submitted: kernel_records, lost: vec![0, 0], wakers_forgotten: 0 };
    let family = FamilyLoss { family: "sched".to_owned(), cpus: vec![cpu], recursion_misses: 0, queued: 0 };
    let end = EndRecord { reason: "target-ended".to_owned(), exit_code: Some(0), ..EndRecord::default() };
    vec![meta_event(end_ns, Meta::Loss(LossRecord { families: vec![family] })), meta_event(end_ns, Meta::End(end))]
}

/// What a thread that ends has read and written: bytes, bytes, calls, calls.
pub fn moved(ts_ns: u64, tid: u32, tgid: u32, [read_bytes, written_bytes, reads, writes]: [u64; 4]) -> Moved {
    Moved { header: header(kind::MOVED, ts_ns, 0), tid, tgid, read_bytes, written_bytes, reads, writes }
}

/// One event of each kind.
pub fn one_of_each() -> Vec<Event> {
    let sleep = Leave::Sleep { syscall: 0, fd_kind: 2, object: 77 };
    let mut events = vec![
        Event::Switch(woken(switch(5, 1, 10, 11, sleep), WakeContext::Task, 12, 100)),
        Event::SwitchFutex(on_mutex(switch(6, 1, 11, 10, sleep), 0x7f00_1234, 10)),
        Event::Arrived(arrived(6, 1, 11, 100)),
        Event::Polled(polled(6, 1, 10, 78)),
        Event::NewTask(new_task(7, 20, 10, 10, "child")),
        Event::Fork(Fork {
            header: header(kind::FORK, 8, 0),
            parent_tid: 1,
            parent_tgid: 1,
            child_tid: 2,
            child_tgid: 2,
        }),
        Event::Exec(Box::new(Exec {
            header: header(kind::EXEC, 9, 0),
            tgid: 10,
            old_tid: 11,
            comm: comm("prog"),
            path: path("/bin/prog"),
        })),
        Event::Exit(Exit {
            header: header(kind::EXIT, 10, 0),
            tid: 11,
            tgid: 10,
            exit_code: 256,
            reserved: 0,
            sum_exec_runtime_ns: 5,
            comm: comm("prog"),
        }),
        Event::Moved(moved(10, 11, 10, [1 << 26, 8, 1024, 1])),
        Event::Rename(Rename { header: header(kind::RENAME, 11, 0), tid: 11, tgid: 10, comm: comm("a\x1b\"b") }),
        Event::CgroupMove(Box::new(CgroupMove {
            header: header(kind::CGROUP_MOVE, 12, 0),
            tid: 11,
            tgid: 10,
            hierarchy: 0,
            whole_process: 1,
            moved_itself: 0,
            path: path("/a.slice"),
        })),
        meta_event(13, Meta::Tick(TickRecord { complete_ts_ns: 12, ..TickRecord::default() })),
        meta_event(14, Meta::Seed(seed(9, 9, "seeded", "S"))),
        meta_event(15, Meta::Name(NameRecord { tid: 3, tgid: 3, comm: "other".to_owned(), priority: Some(120) })),
        meta_event(16, Meta::Cost(CostRecord { measured_s: 1.0, ..CostRecord::default() })),
        Event::Contended(contended(17, 10, 10, Kind::MmapWrite, 12)),
        meta_event(
            18,
            Meta::Locks(LocksRecord { short: vec![ShortContentions { tgid: 10, kind: 9, count: 2, ns: 3 }] }),
        ),
        meta_event(19, Meta::CpuLimits(cpu_limits(0))),
        Event::Faults(Faults {
            header: header(fault::FAULTS, 19, 0),
            tid: 11,
            tgid: 10,
            since_ts_ns: 5,
            anonymous_pages: 300,
            counts: [1, 2, 3, 4, 5, 6, 7, 8],
        }),
        Event::Stalled(Stalled {
            header: header(reclaim::STALLED, 19, 0),
            tid: 11,
            tgid: 10,
            since_ts_ns: 6,
            total_ns: 7,
            pages: 8,
            count: 9,
            kind: 1,
            reserved: [0; 3],
        }),
        Event::CachedFile(Box::new(CachedFile {
            header: header(cache::FILE, 19, 0),
            tid: 11,
            tgid: 10,
            file: FileKey { inode: 77, device: 254 << 20, reserved: 0 },
            size_bytes: 4096,
            name: [b'x'; 64],
            parent: 2,
        })),
        Event::BlockDone(Box::new(block_done(19))),
        Event::FileSync(FileSync { header: header(writeback::SYNC, 19, 0), tid: 11, tgid: 10, begins: 1, reserved: 0 }),
        Event::DirtyPause(DirtyPause {
            header: header(writeback::PAUSE, 19, 0),
            tid: 11,
            tgid: 10,
            ticks: 5,
            device: 254 << 20,
        }),
        Event::Victim(Box::new(Victim {
            header: header(oom::VICTIM, 19, 0),
            tid: 11,
            tgid: 10,
            by_tid: 12,
            by_tgid: 12,
            pages: [1, 2, 3, 4],
            comm: comm("victim"),
        })),
        Event::Mapped(Box::new(Mapped {
            header: header(map::MAPPED, 19, 0),
            tid: 11,
            tgid: 10,
            since_ts_ns: 7,
            bytes: std::array::from_fn(|kind| 4096 << kind),
            counts: std::array::from_fn(|kind| kind as u32 + 1),
            mappings: 40,
            mappings_most: 41,
            reserved: 0,
        })),
        Event::Call(Box::new(database_call(19, 11, 10))),
        Event::Connection(Box::new(Connection {
            header: header(net::CONNECTION, 19, 0),
            tid: 11,
            tgid: 10,
            inode: 77,
            sent_bytes: 100,
            received_bytes: 200,
            took_ns: 0,
            family: 2,
            old_state: 8,
            new_state: 9,
            local_port: 40_000,
            peer_port: 80,
            local: std::array::from_fn(|byte| byte as u8),
            peer: std::array::from_fn(|byte| 16 + byte as u8),
            rtt_us: 50,
            retransmits: 3,
        })),
        meta_event(19, Meta::Sums(SumsRecord::default())),
        meta_event(
            19,
            Meta::Memory(MemoryRecord {
                at_ns: 18,
                nodes: vec![NodeMemory { node: 1, cpus: vec![(2, 3)], miss: Some(5), ..NodeMemory::default() }],
                numa: vec![ProcessNodes {
                    pid: 10,
                    nodes: vec![NodeBytes { node: 1, bytes: 7 }],
                    ..ProcessNodes::default()
                }],
                ..MemoryRecord::default()
            }),
        ),
        step(19, 10, 10),
    ];
    events.extend(prologue(4));
    events.extend(epilogue(20, 9));
    events
}

/// What the pure half makes of events, by their bytes.
pub fn analyse(events: &[Event]) -> Report {
    let mut analysis = Analysis::new(Options::default());
    for event in events {
        analysis.record(&bytes(event));
    }
    analysis.finish()
}

const MS: u64 = 1_000_000;

/// Two threads of process 10 that take a mutex in turn: `worker` waits 60 ms of each 100 ms while `main` holds it, `main` 20 ms.
pub fn contended_run(rounds: u64) -> Vec<Event> {
    const START: u64 = 1_000_000_000;
    let idle = Leave::Sleep { syscall: 202, fd_kind: 0, object: 0 };
    let mut events = vec![
        Event::NewTask(new_task(START, 10, 10, 1, "main")),
        Event::NewTask(new_task(START, 11, 10, 10, "worker")),
        Event::Switch(switch(START, 0, 0, 10, Leave::Preempted)),
        Event::Switch(switch(START, 1, 0, 11, Leave::Preempted)),
    ];
    for round in 0..rounds {
        let at = |ms: u64| START + (round * 100 + ms) * MS;
        events.push(Event::SwitchFutex(on_mutex(switch(at(10), 1, 11, 0, idle), 0x7f00_1000, 10)));
        events.push(Event::Switch(woken(switch(at(70), 1, 0, 11, Leave::Preempted), WakeContext::Task, 10, 1000)));
        events.push(Event::SwitchFutex(on_mutex(switch(at(75), 0, 10, 0, idle), 0x7f00_1000, 11)));
        events.push(Event::Switch(woken(switch(at(95), 0, 0, 10, Leave::Preempted), WakeContext::Task, 11, 1000)));
    }
    let kernel_records = events.len() as u64;
    let end = epilogue(START + rounds * 100 * MS, kernel_records);
    prologue(START).into_iter().chain(events).chain(end).collect()
}

/// The report of such a run of 5 s.
pub fn contended_report() -> Report {
    analyse(&contended_run(50))
}
