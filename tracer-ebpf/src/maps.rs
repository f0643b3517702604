//! Every map. Sizes given here are defaults; the loader overrides them (`tracer::kernel::loader`).

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf},
};
use tracer_common::{
    block::{
        DIRTIED as DIRTIED_ENTRIES, DirtiedKey, DirtiedSums, FILES_TOLD as FILES_TOLD_ENTRIES,
        REQUESTS as REQUESTS_ENTRIES, RequestSums,
    },
    database::InCall,
    file_calls::{FileCallsKey, FileCallsSlot, FileCallsSums},
    lock::Totals,
    loss::{CpuState, OwnSoftirq},
    mapping::MapSums,
    memory::{CACHED_FILES, CacheSums, FaultSums, FaultWatch, FileKey, PROCESS_PAGES, ProcessPages, StallSums},
    net::{Connecting, MOST_CONNECTING, UnixKey, UnixSums},
    python::PythonProcess,
};

use crate::{locks::Contention, places::Place, stack::Draft};

/// The program that the one at each switch goes on with. A map for each tracepoint: the kernel lets no others share one.
#[map]
pub static BEHIND_SWITCH: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The same of wake-ups.
#[map]
pub static BEHIND_WAKING: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Frequent records, a ring per shard of CPUs.
#[map]
pub static RING_0: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
pub static RING_1: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
pub static RING_2: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
pub static RING_3: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
pub static RING_4: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
pub static RING_5: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
pub static RING_6: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
pub static RING_7: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Rare records that must not be lost to a storm of frequent ones: life and names of threads.
#[map]
pub static RING_RARE: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Calls of databases' clients with their texts, in the order in which each thread makes them.
#[map]
pub static RING_DATABASE: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Copies of registers and stacks, on their way to the unwinder.
#[map]
pub static RING_STACKS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Where a stack's record is put together before its size is known. With interrupts off, so once per CPU.
#[map]
pub static DRAFTS: PerCpuArray<Draft> = PerCpuArray::with_max_entries(1, 0);

/// The same for threads that waited when tracing began. One reader at a time goes through them.
#[map]
pub static SLEEPER: Array<Draft> = Array::with_max_entries(1, 0);

/// Processes whose first stack was taken, by 12 bits of a hash of theirs.
#[map]
pub static ANNOUNCED: Array<u64> = Array::with_max_entries(1 << 12, 0);

/// Counters and context of each CPU.
#[map]
pub static CPU: PerCpuArray<CpuState> = PerCpuArray::with_max_entries(1, 0);

/// See [`OwnSoftirq`].
#[map]
pub static OWN_SOFTIRQ: Array<OwnSoftirq> = Array::with_max_entries(1, 0);

/// Per-thread state, indexed by the low bits of the thread's id.
#[map]
pub static SLOTS: Array<Slot> = Array::with_max_entries(1, 0);

/// The traced threads, when not all are.
#[map]
pub static TRACKED: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);

/// Entries of the table of places when waits have places; else the loader makes it one. A power of two.
pub const PLACES_ENTRIES: u32 = 1 << 14;

/// Where threads wait: see `places`.
#[map]
pub static PLACES: Array<Place> = Array::with_max_entries(PLACES_ENTRIES, 0);

/// Processes that run Python, by process id. User space finds them; a child has what its parent had.
#[map]
pub static PYTHON: HashMap<u32, PythonProcess> = HashMap::with_max_entries(1, 0);

/// Connections that were asked for, by the address of their socket.
#[map]
pub static CONNECTING: LruHashMap<u64, Connecting> = LruHashMap::with_max_entries(MOST_CONNECTING, 0);

/// What calls moved through unix sockets. One value for all CPUs.
#[map]
pub static UNIX: HashMap<UnixKey, UnixSums> = HashMap::with_max_entries(1, 0);

/// Contentions of sleeping locks, indexed as `SLOTS`.
#[map]
pub static CONTENTIONS: Array<Contention> = Array::with_max_entries(1, 0);

/// Sums of contentions too short for a record, by `lock::totals_key`.
#[map]
pub static LOCK_TOTALS: PerCpuHashMap<u64, Totals> = PerCpuHashMap::with_max_entries(1, 0);

/// Page faults of which there is no record yet, indexed as `SLOTS`.
#[map]
pub static FAULTS: Array<FaultSums> = Array::with_max_entries(1, 0);

/// Sums of pages of processes, indexed by the low bits of their ids.
#[map]
pub static PAGES: Array<ProcessPages> = Array::with_max_entries(PROCESS_PAGES, 0);

/// 1: faults that add no page, and which nobody saw begin, are taken for copies of pages: from a fork until user space has looked.
#[map]
pub static TAKEN_FOR_COPIES: Array<u32> = Array::with_max_entries(1, 0);

/// See [`FaultWatch`].
#[map]
pub static FAULT_WATCH: Array<FaultWatch> = Array::with_max_entries(1, 0);

/// Where the stack of a page fault, or of a call that maps memory, is put together. Interrupts are on then, so it is not that of samples.
#[map]
pub static FAULT_DRAFTS: PerCpuArray<Draft> = PerCpuArray::with_max_entries(1, 0);

/// Stalls for want of memory of which there is no record yet, indexed as `SLOTS`.
#[map]
pub static STALLS: Array<StallSums> = Array::with_max_entries(1, 0);

/// Calls that change address spaces of which there is no record yet, indexed as `SLOTS`.
#[map]
pub static MAPPED: Array<MapSums> = Array::with_max_entries(1, 0);

/// Files whose pages came into the page cache.
#[map]
pub static CACHE_FILES: PerCpuHashMap<FileKey, CacheSums> = PerCpuHashMap::with_max_entries(CACHED_FILES, 0);

/// Requests of block devices that are under way, by their addresses.
#[map]
pub static REQUESTS: HashMap<u64, RequestSums> = HashMap::with_max_entries(REQUESTS_ENTRIES, 0);

/// Files of requests that user space was told of, with a hash of their names.
#[map]
pub static FILES_TOLD: LruHashMap<FileKey, u32> = LruHashMap::with_max_entries(FILES_TOLD_ENTRIES, 0);

/// Pages that processes dirtied, by file.
#[map]
pub static DIRTIED: PerCpuHashMap<DirtiedKey, DirtiedSums> = PerCpuHashMap::with_max_entries(DIRTIED_ENTRIES, 0);

/// Files that threads read and write, indexed as `SLOTS`.
#[map]
pub static FILE_SLOTS: Array<FileCallsSlot> = Array::with_max_entries(1, 0);

/// Calls that read and write files, by file and process. One value for all CPUs: it is added to when a thread goes to another file.
#[map]
pub static FILE_CALLS: HashMap<FileCallsKey, FileCallsSums> = HashMap::with_max_entries(1, 0);

/// Calls of databases' clients that threads are in, indexed as `SLOTS`.
#[map]
pub static IN_CALL: Array<InCall> = Array::with_max_entries(1, 0);

/// See [`Slot::tracked`].
pub const POLLS: u8 = 2;

/// State of one thread. Threads whose ids share their low bits share a slot: the later one takes it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slot {
    /// Whose it is; 0: nobody's.
    pub tid: u32,
    /// 0: not traced; 1: traced; [`POLLS`]: traced, and it waits in epoll.
    pub tracked: u8,
    /// A `WakeContext`.
    pub wake_context: u8,
    /// Entry of the table of places, if `place` is set.
    pub place_index: u16,
    /// Who was current when it was last woken.
    pub waker_tid: u32,
    /// The place at which it waits; 0: none.
    pub place: u32,
    /// When it was last woken; 0: not since it last ran. Of a throttled thread: for how long its queue had been so when it left.
    pub wake_ts_ns: u64,
    /// When it last left a CPU to wait; `u64::MAX`: it left runnable; one less: throttled.
    pub wait_ts_ns: u64,
}

const _: () = assert!(size_of::<Slot>() == 32);
