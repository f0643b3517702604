//! Decoded records: what the pure stages work on. The kernel's fixed layouts keep the types of `tracer-common`, field by field;
//! what user space wrote is parsed. Large and rare payloads are boxed so that a switch moves few bytes.

use tracer_common::block::{BlockDone, DirtyPause, FileSync};
use tracer_common::database::Call;
use tracer_common::lock::Contended;
use tracer_common::mapping::Mapped;
use tracer_common::memory::{CachedFile, Faults, Stalled, Victim};
use tracer_common::net::Connection;
use tracer_common::record::{
    Header, block, cache, cpu, database, fault, file_exact, lock, map, meta, net, oom, reclaim, sched as kind,
    writeback,
};
use tracer_common::sched::{CgroupMove, Exec, Exit, Fork, Moved, NewTask, Rename, Step, Switch, SwitchFutex};
use tracer_common::stack::Sampled;

use super::meta::{
    AttachedRecord, CostRecord, CpuLimitsRecord, DatabaseRecord, EndRecord, FamilyRecord, FrameRecord, HostRecord,
    LocksRecord, LossRecord, MemoryRecord, ModuleRecord, NameRecord, ObjectsRecord, PythonRecord, SeedRecord,
    StackRecord, StartRecord, StepsRecord, SumsRecord, SymbolRecord, TargetRecord, TickRecord,
};

/// One record, decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A context switch.
    Switch(Switch),
    /// A context switch into a futex wait.
    SwitchFutex(SwitchFutex),
    /// A thread leaves a CPU that was not seen to get it.
    Arrived(Switch),
    /// A thread's wait in epoll is being ended by a socket of the network.
    Polled(Switch),
    /// A new task.
    NewTask(NewTask),
    /// A fork is complete.
    Fork(Fork),
    /// A program was executed.
    Exec(Box<Exec>),
    /// A thread ends.
    Exit(Exit),
    /// What a thread that ends has read and written.
    Moved(Moved),
    /// A thread's name changed.
    Rename(Rename),
    /// A task moved to another cgroup.
    CgroupMove(Box<CgroupMove>),
    /// A thread begins a step.
    Step(Step),
    /// A stack was taken.
    Sampled(Sampled),
    /// A thread waited for a lock of the kernel.
    Contended(Contended),
    /// A thread had page faults.
    Faults(Faults),
    /// A thread was kept from its work for want of memory.
    Stalled(Stalled),
    /// A file came into the page cache.
    CachedFile(Box<CachedFile>),
    /// A thread mapped or unmapped memory.
    Mapped(Box<Mapped>),
    /// A device is done with a request.
    BlockDone(Box<BlockDone>),
    /// A thread is about to be paused for dirtying too much.
    DirtyPause(DirtyPause),
    /// A file system begins or ends a sync.
    FileSync(FileSync),
    /// A call of a database's client has returned.
    Call(Box<Call>),
    /// A connection was made, could not be made, or is closed.
    Connection(Box<Connection>),
    /// A process was chosen to be killed for want of memory.
    Victim(Box<Victim>),
    /// What user space wrote.
    Meta(Header, Box<Meta>),
}

/// The payload of a record of family 0.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each is described where its payload is defined")]
pub enum Meta {
    Host(HostRecord),
    Target(TargetRecord),
    Families(FamilyRecord),
    Start(StartRecord),
    Tick(TickRecord),
    Loss(LossRecord),
    Seed(SeedRecord),
    Name(NameRecord),
    Cost(CostRecord),
    End(EndRecord),
    Module(ModuleRecord),
    Frame(FrameRecord),
    Stack(StackRecord),
    Symbol(SymbolRecord),
    Locks(LocksRecord),
    CpuLimits(CpuLimitsRecord),
    /// Stacks of threads that waited already when tracing began.
    Attached(AttachedRecord),
    Python(PythonRecord),
    Objects(ObjectsRecord),
    Sums(SumsRecord),
    Memory(MemoryRecord),
    Steps(StepsRecord),
    Database(DatabaseRecord),
}

impl Event {
    /// The header that the record had.
    pub fn header(&self) -> Header {
        match self {
            Event::Switch(event) => event.header,
            Event::SwitchFutex(event) => event.switch.header,
            Event::Arrived(event) => event.header,
            Event::Polled(event) => event.header,
            Event::NewTask(event) => event.header,
            Event::Fork(event) => event.header,
            Event::Exec(event) => event.header,
            Event::Exit(event) => event.header,
            Event::Moved(event) => event.header,
            Event::Rename(event) => event.header,
            Event::CgroupMove(event) => event.header,
            Event::Step(event) => event.header,
            Event::Sampled(event) => event.header,
            Event::Contended(event) => event.header,
            Event::Faults(event) => event.header,
            Event::Stalled(event) => event.header,
            Event::CachedFile(event) => event.header,
            Event::Mapped(event) => event.header,
            Event::BlockDone(event) => event.header,
            Event::DirtyPause(event) => event.header,
            Event::FileSync(event) => event.header,
            Event::Call(event) => event.header,
            Event::Connection(event) => event.header,
            Event::Victim(event) => event.header,
            Event::Meta(header, _) => *header,
        }
    }
}

/// The name of a kind of record in exports; none for kinds that this version does not know.
pub const fn kind_name(number: u16) -> Option<&'static str> {
    Some(match number {
        kind::SWITCH => "switch",
        kind::SWITCH_FUTEX => "switch-futex",
        kind::NEW_TASK => "new-task",
        kind::FORK => "fork",
        kind::EXEC => "exec",
        kind::EXIT => "exit",
        kind::RENAME => "rename",
        kind::CGROUP_MOVE => "cgroup-move",
        kind::ARRIVED => "arrived",
        kind::POLLED => "polled",
        kind::STEP => "step",
        kind::MOVED => "moved",
        cpu::SAMPLED => "sampled",
        lock::CONTENDED => "contended",
        fault::FAULTS => "faults",
        reclaim::STALLED => "stalled",
        cache::FILE => "cached-file",
        map::MAPPED => "mapped",
        database::CALL => "database-call",
        net::CONNECTION => "connection",
        oom::VICTIM => "oom-victim",
        block::DONE => "block-done",
        block::FILE => "block-file",
        block::DIRECTORY => "block-directory",
        writeback::PAUSE => "dirty-pause",
        writeback::SYNC => "file-sync",
        writeback::FILE => "dirtied-file",
        file_exact::FILE => "called-file",
        meta::HOST => "host",
        meta::TARGET => "target",
        meta::FAMILIES => "families",
        meta::START => "start",
        meta::TICK => "tick",
        meta::LOSS => "loss",
        meta::SEED => "seed",
        meta::NAME => "name",
        meta::COST => "cost",
        meta::END => "end",
        meta::MODULE => "module",
        meta::FRAME => "frame",
        meta::STACK => "stack",
        meta::SYMBOL => "symbol",
        meta::LOCKS => "locks",
        meta::CPU_LIMITS => "cpu-limits",
        meta::ATTACHED => "attached",
        meta::PYTHON => "python",
        meta::OBJECTS => "objects",
        meta::SUMS => "sums",
        meta::MEMORY => "memory",
        meta::DATABASE => "database",
        meta::STEPS => "steps",
        _ => return None,
    })
}
