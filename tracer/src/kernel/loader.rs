//! Loads the embedded eBPF object with its configuration and map sizes, and hands over what user space works with. Not here:
//! attaching (`attach`), dividing the memory for rings (`ring_sizes`).

use std::{collections::BTreeMap, fs::File, io, os::fd::OwnedFd, sync::Arc};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::Iter,
};
use thiserror::Error;
use tracer_common::{
    ABI_VERSION, FamilyId,
    block::{DIRTIED, FILES_TOLD, REQUESTS},
    config::{Config, filter},
    file_calls::FILE_CALLS,
    lock::{TOTALS_ENTRIES, Totals, of_totals_key},
    loss::CpuState,
    memory::CACHED_FILES,
    net::UNIX_SOCKETS,
    python::PythonProcess,
};

use super::{
    attach::{self, chain},
    clients::Attacher,
    host::HostFacts,
    kernel_cast,
    memory_maps::MemoryMaps,
    needs::Needs,
    ring_sizes::{PAGE_BYTES, RingSizes, SHARD_NAMES},
    step_points::Points,
};
use crate::{
    families::{FAMILIES, Family, Hook, Readiness, Ring, Settings},
    model::meta::{FamilyRecord, SumsRecord},
};

/// The object that `cargo xtask build` made, or nothing.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer-ebpf.o"));

/// Threads that can be traced at once when not all are.
pub const TRACKED_THREADS: u32 = 1 << 16;
/// Most thread slots; 32 bytes each.
const MOST_SLOTS: u32 = 1 << 17;
/// Python processes known at once.
pub const PYTHON_PROCESSES: u32 = 4096;
/// The reader is woken early after this many records of one CPU.
const WAKEUP_EVERY: u32 = 1 << 13;

/// Why tracing could not start.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Built without an eBPF toolchain.
    #[error("this tracer was built without its eBPF programs: build it with `cargo xtask build`")]
    NoObject,
    /// Not allowed.
    #[error("{0}")]
    NotAllowed(String),
    /// The kernel refused the object or its maps.
    #[error("the kernel refused the eBPF object: {0}")]
    Refused(String),
    /// A family that was asked for, or the only one, cannot run.
    #[error("family {family} cannot run here: {reason}")]
    Unavailable {
        /// The family.
        family: String,
        /// Why.
        reason: String,
    },
    /// The entries of the function that steps begin with cannot be seen.
    #[error("--step: {0}")]
    Steps(String),
    /// A part of the object is missing: object and tracer do not belong together.
    #[error("the eBPF object has no {0}: rebuild both with `cargo xtask build`")]
    Missing(&'static str),
    /// Object and tracer are of different builds.
    #[error(
        "the eBPF object speaks version {object} of the interface, this tracer {tracer}, or their layouts differ: rebuild both with `cargo xtask build`"
    )]
    Stale {
        /// The object's version.
        object: u32,
        /// The tracer's.
        tracer: u32,
    },
    /// A map could not be written or read.
    #[error("eBPF map {0}: {1}")]
    Map(&'static str, String),
}

/// Which threads are traced.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Every thread but the tracer's.
    pub all: bool,
    /// Threads that take this name become traced.
    pub comm: Option<[u8; 16]>,
    /// Tasks that enter this cgroup become traced: hierarchy, depth, kernfs id.
    pub cgroup: Option<(u32, u32, u64)>,
}

/// What is to be loaded.
pub struct Plan<'a> {
    /// The families.
    pub families: Vec<&'static dyn Family>,
    /// Those that were asked for by name: without them there is no run.
    pub insisted: Vec<&'static str>,
    /// Programs to leave out, for tests.
    pub without: Vec<String>,
    /// The filter.
    pub filter: Filter,
    /// All rings together.
    pub ring_bytes: u64,
    /// Samples per second of each CPU: 1 to 999.
    pub sample_hz: u32,
    /// What is traced is started behind this: nothing has happened to it before.
    pub starts_target: bool,
    /// Where steps begin; none: nobody asked.
    pub steps: Option<&'a Points>,
    /// The host.
    pub host: &'a HostFacts,
}

impl Plan<'_> {
    /// Whether programs with this hook are to run: those of steps are for either native or Python functions.
    pub fn wants(&self, hook: Hook) -> bool {
        !hook.is_for_steps() || self.steps.is_some_and(|steps| steps.hook() == hook)
    }
}

/// A program that runs.
pub struct Running {
    /// Its name in the object.
    pub name: &'static str,
    /// The family's name.
    pub family: &'static str,
    /// File descriptor of the program.
    pub fd: aya::programs::ProgramFd,
    /// Whether the kernel counts and measures its runs: not those of a program that another one goes on with, which are parts of that one's.
    pub is_measured: bool,
}

/// Everything that is loaded; dropping it detaches and unloads.
pub struct Loaded {
    /// Keeps programs and links; `None` once detached.
    ebpf: Option<Ebpf>,
    /// What attaches programs while they are needed.
    needs: Needs,
    /// Keeps programs attached where steps begin.
    step_links: Vec<OwnedFd>,
    /// What runs.
    pub running: Vec<Running>,
    /// What became of each family.
    pub families: Vec<FamilyRecord>,
    /// The traced set, when there is a filter.
    tracked: HashMap<MapData, u32, u32>,
    slots: Array<MapData, SlotValue>,
    slot_mask: u32,
    /// Counters.
    pub cpu: PerCpuArray<MapData, CpuStateValue>,
    /// Rings, the rare one first.
    pub rings: Vec<RingBuf<MapData>>,
    /// The ring of calls of databases' clients, and what attaches to their libraries, if they are looked at.
    pub database: Option<(RingBuf<MapData>, Arc<Attacher>)>,
    /// The ring of stacks, if a family takes any.
    pub stacks: Option<RingBuf<MapData>>,
    /// Processes that run Python, by process id, at most [`PYTHON_PROCESSES`]; `None`: nobody reads their frames.
    pub python: Option<HashMap<MapData, u32, PythonProcessValue>>,
    /// Sums of short contentions, if they are counted.
    pub lock_totals: Option<PerCpuHashMap<MapData, u64, TotalsValue>>,
    /// What the families that see memory keep in maps.
    pub memory: MemoryMaps,
    /// Bytes of all rings.
    pub ring_bytes: u64,
}

/// [`CpuState`] as a map value.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct CpuStateValue(pub CpuState);

// SAFETY: plain numbers without padding (asserted beside the type), any bit pattern is valid.
unsafe impl aya::Pod for CpuStateValue {}

/// [`PythonProcess`] as a map value.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct PythonProcessValue(pub PythonProcess);

// SAFETY: plain numbers without padding (its size is asserted beside the type), any bit pattern is valid.
unsafe impl aya::Pod for PythonProcessValue {}

/// [`Totals`] as a map value.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct TotalsValue(pub Totals);

// SAFETY: plain numbers without padding (its size is asserted beside the type), any bit pattern is valid.
unsafe impl aya::Pod for TotalsValue {}

/// The head of a thread slot, as the programs define it; the rest is zero.
#[repr(C)]
#[derive(Clone, Copy)]
struct SlotValue {
    tid: u32,
    tracked: u8,
    rest: [u8; 27],
}

// SAFETY: plain numbers without padding: 4 + 1 + 27 bytes, any bit pattern is valid.
unsafe impl aya::Pod for SlotValue {}

fn config_for(plan: &Plan, families: &[&'static dyn Family], slots: u32) -> Config {
    let mut config = Config::NONE;
    config.filter = if plan.filter.all { filter::ALL } else { filter::TRACKED };
    config.self_tgid = std::process::id();
    config.slot_mask = slots - 1;
    config.wakeup_mask = WAKEUP_EVERY - 1;
    if let Some(comm) = plan.filter.comm {
        config.match_comm = 1;
        config.comm = comm;
    }
    if let Some((hierarchy, level, id)) = plan.filter.cgroup {
        config.match_cgroup = 1;
        config.cgroup_hierarchy = hierarchy;
        config.cgroup_level = level;
        config.cgroup_id = id;
    }
    for family in families {
        family.configure(plan.host, Settings { sample_hz: plan.sample_hz }, &mut config);
    }
    config
}

/// A family that the kernel refused, and what it said.
type Refusal = (String, String);

/// The families of the plan that can run here, in the order of their numbers, and what became of the others. Those that were asked
/// for by name must be able to, and one at least.
fn able(plan: &Plan, refused: &[Refusal]) -> Result<(Vec<&'static dyn Family>, Vec<FamilyRecord>), LoadError> {
    let mut able: Vec<&'static dyn Family> = Vec::new();
    let mut unable: Vec<FamilyRecord> = Vec::new();
    let mut chosen = plan.families.clone();
    chosen.sort_by_key(|family| family.id());
    for family in chosen {
        let lacks = |id: &&FamilyId| !able.iter().any(|other| other.id() == **id);
        let refusal = refused.iter().find(|(name, _)| name == family.name()).map(|(_, reason)| reason.clone());
        let reason = match (refusal, family.can_run(plan.host)) {
            (Some(reason), _) | (None, Readiness::Unavailable { reason, .. }) => Some(reason),
            _ => family.builds_on().iter().find(lacks).map(|id| {
                let name = FAMILIES.iter().find(|other| other.id() == *id).map_or("?", |other| other.name());
                format!("it builds on family {name}, which does not run: choose both or neither")
            }),
        };
        let Some(reason) = reason else {
            able.push(family);
            continue;
        };
        if plan.insisted.contains(&family.name()) {
            return Err(LoadError::Unavailable { family: family.name().to_owned(), reason });
        }
        unable.push(FamilyRecord {
            family: family.name().to_owned(),
            status: "unavailable".to_owned(),
            reason: Some(reason),
        });
    }
    match (able.is_empty(), unable.first()) {
        (true, Some(first)) => Err(LoadError::Unavailable {
            family: first.family.clone(),
            reason: first.reason.clone().unwrap_or_default(),
        }),
        _ => Ok((able, unable)),
    }
}

/// Loads and attaches.
pub fn load(plan: &Plan) -> Result<Loaded, LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::NoObject);
    }
    check_version(OBJECT)?;
    plan.host.may_trace().map_err(LoadError::NotAllowed)?;
    raise_memlock();
    let slots = plan.host.pid_max.next_power_of_two().min(MOST_SLOTS);
    let aya_btf = if plan.host.has_btf { aya::Btf::from_sys_fs().ok() } else { None };
    let mut refused: Vec<Refusal> = Vec::new();
    // A family that the kernel refuses is left out, unless it was asked for by name: what it would have seen is not worth the rest. The
    // others are loaded anew, since what programs do depends on which families there are.
    let (attached, config, sizes) = loop {
        let (able, unable) = able(plan, &refused)?;
        let takes_stacks = able.iter().any(|family| family.ring() == Ring::Stacks);
        let mut config = config_for(plan, &able, slots);
        let sizes = RingSizes::divide(plan.ring_bytes, plan.host.cpus_possible, takes_stacks, config.database != 0);
        config.shard_mask = sizes.shards - 1;
        match attempt_both(plan, &able, &mut config, aya_btf.as_ref(), sizes) {
            Ok(mut attached) => {
                attached.3.extend(unable);
                break (attached, config, sizes);
            }
            Err(LoadError::Unavailable { family, reason }) if refused.iter().all(|(other, _)| *other != family) => {
                tracing::warn!("family {family} is left out: {reason}");
                refused.push((family, reason));
            }
            Err(error) => return Err(error),
        }
    };
    let (mut ebpf, step_links, running, families) = attached;
    drop(aya_btf);
    let mut rings = vec![ring(&mut ebpf, "RING_RARE")?];
    for name in &SHARD_NAMES[..sizes.shards as usize] {
        rings.push(ring(&mut ebpf, name)?);
    }
    let attacher = attacher(&running);
    let database = match attacher {
        Some(attacher) => Some((ring(&mut ebpf, "RING_DATABASE")?, Arc::new(attacher))),
        None => None,
    };
    let stacks = if sizes.stacks_bytes > 0 { Some(ring(&mut ebpf, "RING_STACKS")?) } else { None };
    let python = if config.python == 1 { Some(hash(&mut ebpf, "PYTHON")?) } else { None };
    let lock_totals = if config.kernel_locks == 1 {
        let totals = PerCpuHashMap::try_from(take(&mut ebpf, "LOCK_TOTALS")?);
        Some(totals.map_err(|error| map_error("LOCK_TOTALS", &error))?)
    } else {
        None
    };
    let memory = MemoryMaps::take(&mut ebpf, &config)?;
    let needs = Needs::new(&mut ebpf, plan, &config, &running)?;
    let cpu = PerCpuArray::try_from(take(&mut ebpf, "CPU")?).map_err(|error| map_error("CPU", &error))?;
    let tracked = hash(&mut ebpf, "TRACKED")?;
    let slot_map = Array::try_from(take(&mut ebpf, "SLOTS")?).map_err(|error| map_error("SLOTS", &error))?;
    Ok(Loaded {
        ebpf: Some(ebpf),
        needs,
        step_links,
        running,
        families,
        tracked,
        slots: slot_map,
        slot_mask: slots - 1,
        cpu,
        rings,
        database,
        stacks,
        python,
        lock_totals,
        memory,
        ring_bytes: sizes.total_bytes(),
    })
}

/// What attaches the programs that see calls of databases' clients, if they run.
fn attacher(running: &[Running]) -> Option<Attacher> {
    let at = |hook: Hook| running_at(running, |other| other == hook)?.fd.try_clone().ok();
    Some(Attacher::new(at(Hook::CallEntry)?, at(Hook::CallReturn)?))
}

/// The program that runs at such a hook.
fn running_at(running: &[Running], is_it: impl Fn(Hook) -> bool) -> Option<&Running> {
    let all = FAMILIES.iter().flat_map(|family| family.programs());
    let names: Vec<&str> = all.filter(|program| is_it(program.hook)).map(|program| program.name).collect();
    running.iter().find(|running| names.contains(&running.name))
}

/// Refuses an object that was built with another version of the interface: its configuration's default says which.
fn check_version(bytes: &[u8]) -> Result<(), LoadError> {
    use object::{Object, ObjectSection, ObjectSymbol};
    let found = object::File::parse(bytes).ok().and_then(|file| {
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok("CONFIG"))?;
        let section = file.section_by_index(symbol.section_index()?).ok()?;
        let at = usize::try_from(symbol.address()).ok()?;
        let version = section.data().ok()?.get(at..at + 4)?;
        Some((u32::from_le_bytes([version[0], version[1], version[2], version[3]]), symbol.size()))
    });
    match found {
        Some((ABI_VERSION, size)) if size == size_of::<Config>() as u64 => Ok(()),
        Some((version, _)) => Err(LoadError::Stale { object: version, tracer: ABI_VERSION }),
        None => Err(LoadError::Missing("configuration")),
    }
}

pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::Missing(name))
}

fn ring(ebpf: &mut Ebpf, name: &'static str) -> Result<RingBuf<MapData>, LoadError> {
    RingBuf::try_from(take(ebpf, name)?).map_err(|error| map_error(name, &error))
}

fn hash<V: aya::Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<HashMap<MapData, u32, V>, LoadError> {
    HashMap::try_from(take(ebpf, name)?).map_err(|error| map_error(name, &error))
}

pub(super) fn map_error(name: &'static str, error: &dyn std::error::Error) -> LoadError {
    LoadError::Map(name, chain(error))
}

type Attached = (Ebpf, Vec<OwnedFd>, Vec<Running>, Vec<FamilyRecord>);

/// Typed loads are one instruction; where a verifier will not have them, the helper reads the same bytes.
fn attempt_both(
    plan: &Plan,
    able: &[&'static dyn Family],
    config: &mut Config,
    btf: Option<&aya::Btf>,
    sizes: RingSizes,
) -> Result<Attached, LoadError> {
    match attempt(plan, able, config, btf, sizes) {
        Err(first) if config.typed_loads == 1 => {
            tracing::debug!("typed loads refused ({first}), using the probe-read helper");
            (config.typed_loads, config.word_type) = (0, 0);
            attempt(plan, able, config, btf, sizes)
        }
        other => other,
    }
}

fn attempt(
    plan: &Plan,
    able: &[&'static dyn Family],
    config: &Config,
    btf: Option<&aya::Btf>,
    sizes: RingSizes,
) -> Result<Attached, LoadError> {
    // SAFETY: `Config` is plain numbers without padding (its size is asserted), and lives as long as the slice.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const *config).cast::<u8>(), size_of::<Config>()) };
    let object = kernel_cast::put_in(OBJECT, plan.host.btf.as_ref(), config);
    let mut loader = EbpfLoader::new();
    loader.btf(btf).override_global("CONFIG", bytes, true);
    loader.map_max_entries("RING_RARE", sizes.rare_bytes);
    for (index, name) in SHARD_NAMES.iter().enumerate() {
        loader.map_max_entries(name, if (index as u32) < sizes.shards { sizes.shard_bytes } else { PAGE_BYTES });
    }
    loader.map_max_entries("RING_STACKS", sizes.stacks_bytes.max(PAGE_BYTES));
    loader.map_max_entries("RING_DATABASE", sizes.database_bytes.max(PAGE_BYTES));
    loader.map_max_entries("SLOTS", config.slot_mask + 1);
    loader.map_max_entries("TRACKED", if config.filter == filter::ALL { 1 } else { TRACKED_THREADS });
    if config.wait_stacks == 0 {
        loader.map_max_entries("PLACES", 1);
    }
    let with_locks = |entries| if config.kernel_locks == 1 { entries } else { 1 };
    loader.map_max_entries("CONTENTIONS", with_locks(config.slot_mask + 1));
    loader.map_max_entries("LOCK_TOTALS", with_locks(TOTALS_ENTRIES));
    let per_thread = |on: u32| if on == 1 { config.slot_mask + 1 } else { 1 };
    loader.map_max_entries("FAULTS", per_thread(config.faults));
    loader.map_max_entries("STALLS", per_thread(config.stalls));
    loader.map_max_entries("MAPPED", per_thread(config.map));
    loader.map_max_entries("IN_CALL", per_thread(u32::from(config.database != 0)));
    loader.map_max_entries("CACHE_FILES", if config.cache == 1 { CACHED_FILES } else { 1 });
    loader.map_max_entries("REQUESTS", if config.block.requests == 1 { REQUESTS } else { 1 });
    loader.map_max_entries("FILES_TOLD", if config.block.requests == 1 { FILES_TOLD } else { 1 });
    loader.map_max_entries("DIRTIED", if config.block.dirtied == 1 { DIRTIED } else { 1 });
    let with_unix = able.iter().any(|family| !family.while_at_unix_sockets().is_empty());
    loader.map_max_entries("UNIX", if with_unix { UNIX_SOCKETS } else { 1 });
    loader.map_max_entries("FILE_SLOTS", per_thread(config.file_calls));
    loader.map_max_entries("FILE_CALLS", if config.file_calls == 1 { FILE_CALLS } else { 1 });
    loader.map_max_entries("PYTHON", if config.python == 1 { PYTHON_PROCESSES } else { 1 });
    let mut ebpf = loader.load(&object).map_err(|error| LoadError::Refused(chain(&error)))?;
    let mut running = Vec::new();
    let mut families = Vec::new();
    let wanted: Vec<(&'static str, Hook)> = able
        .iter()
        .flat_map(|family| family.programs())
        .filter(|program| plan.without.iter().all(|name| name != program.name) && plan.wants(program.hook))
        .map(|program| (program.name, program.hook))
        .collect();
    let mut programs = attach::Programs::load(&mut ebpf, btf, &wanted, plan.steps);
    for family in able {
        families.push(attach::family(*family, plan, config, &mut programs, &mut running)?);
    }
    let links = std::mem::take(&mut programs.links);
    Ok((ebpf, links, running, families))
}

/// Before 5.11 eBPF memory counts against this limit. Failing to raise it matters only there, and shows as a refused map.
fn raise_memlock() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

impl Loaded {
    /// Adds a thread to the traced set.
    pub fn track(&mut self, tid: u32) -> Result<(), LoadError> {
        self.tracked
            .insert(tid, 1, 0)
            .map_err(|error| LoadError::Map("TRACKED", format!("thread {tid} does not fit: {}", chain(&error))))?;
        let value = SlotValue { tid, tracked: 1, rest: [0; 27] };
        self.slots.set(tid & self.slot_mask, value, 0).map_err(|error| map_error("SLOTS", &error))
    }

    /// The program to be run where a Python function is watched, if that was asked for.
    pub fn step_watch(&self) -> Option<aya::programs::ProgramFd> {
        running_at(&self.running, |hook| hook == Hook::StepWatch)?.fd.try_clone().ok()
    }

    /// Opens the iterator over the kernel's objects of this kind for reading; `None`: none runs.
    pub fn iterate(&mut self, kind: &str) -> Result<Option<File>, String> {
        let goes_over_it = |hook| matches!(hook, Hook::Iterator { over } if over == kind);
        let Some(name) = running_at(&self.running, goes_over_it).map(|running| running.name) else { return Ok(None) };
        let Some(program) = self.ebpf.as_mut().and_then(|ebpf| ebpf.program_mut(name)) else { return Ok(None) };
        let program: &mut Iter = program.try_into().map_err(|error| chain(&error))?;
        let link = program.attach().and_then(|link| program.take_link(link)).map_err(|error| chain(&error))?;
        link.into_file().map(Some).map_err(|error| chain(&error))
    }

    /// Attaches or detaches what is needed now and then only.
    pub fn look_at_needs(&mut self, now_ns: u64) {
        if let Some(ebpf) = &mut self.ebpf {
            self.needs.look(ebpf, now_ns, || counters(&self.cpu));
        }
    }

    /// What the programs keep in maps, and, if asked for, which disks there are. `None`: nothing of it is counted.
    pub fn sums(&self, with_disks: bool) -> io::Result<Option<SumsRecord>> {
        let memory = self.memory.sums(with_disks)?;
        let unix = self.needs.unix()?;
        Ok(match (memory, unix) {
            (memory, None) => memory,
            (memory, unix) => Some(SumsRecord { unix, ..memory.unwrap_or_default() }),
        })
    }

    /// Detaches every program. Maps and counters stay readable.
    pub fn detach(&mut self) {
        self.step_links.clear();
        if let Some((_, attacher)) = &self.database {
            attacher.detach();
        }
        self.ebpf = None;
        self.needs.stop();
    }

    /// Sums of short contentions by process and kind, over all CPUs; what found no room stands under process 0. `None`: they are
    /// not counted.
    pub fn short_contentions(&self) -> io::Result<Option<BTreeMap<(u32, u8), Totals>>> {
        let Some(map) = &self.lock_totals else { return Ok(None) };
        let mut sums: BTreeMap<(u32, u8), Totals> = BTreeMap::new();
        let mut add = |key, totals: Totals| {
            let sum = sums.entry(key).or_default();
            sum.count += totals.count;
            sum.ns += totals.ns;
        };
        for entry in map.iter() {
            let (key, values) = entry.map_err(|error| io::Error::other(chain(&error)))?;
            values.iter().for_each(|value| add(of_totals_key(key), value.0));
        }
        for cpu in self.counters()?.iter().filter(|cpu| cpu.locks_rest.count > 0) {
            add((0, 0), cpu.locks_rest);
        }
        Ok(Some(sums))
    }

    /// The counters of each CPU.
    pub fn counters(&self) -> io::Result<Vec<CpuState>> {
        counters(&self.cpu)
    }
}

fn counters(map: &PerCpuArray<MapData, CpuStateValue>) -> io::Result<Vec<CpuState>> {
    let values = map.get(&0, 0).map_err(|error| io::Error::other(chain(&error)))?;
    Ok(values.iter().map(|value| value.0).collect())
}

#[cfg(test)]
mod tests;
