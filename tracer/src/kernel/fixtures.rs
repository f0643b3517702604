//! What tracer finds in the type information of every kernel of the matrix, without booting one (`cargo xtask vm --fixtures` writes it anew).
//! What a kernel lacks is asserted by name, so that a field which moves is noticed here: where nothing says that it is missing, what
//! it was read for is missing silently.

use proptest::prelude::*;
use tracer_common::{
    config::{ABSENT, Config},
    syscall::Arch,
};

use super::{
    btf::Btf,
    host::{HostFacts, Pretend},
    offsets,
};
use crate::families::{FAMILIES, Hook, Readiness, Settings};

/// A kernel's type information, of which what tracer asks for was kept; and what it lacks.
struct Kernel {
    line: &'static str,
    packed: &'static [u8],
    /// Fields that it does not have.
    absent: &'static [&'static str],
    /// What families say that they lack, and beginnings of the sentences in which they do; all others are ready.
    lacks: &'static [(&'static str, &'static [&'static str])],
}

/// Of x86 none has it: there the counter is no field of a task.
const OF_AARCH64: &str = "task_preempt_count";

const KERNELS: [Kernel; 5] = [
    Kernel {
        line: "5.10",
        packed: include_bytes!("fixtures/5.10.btf.zst"),
        absent: &[
            "cfs_rq_throttled_before",
            "cfs_rq_throttled_since",
            "cgroup_ancestors",
            "folio_pages",
            "queue_disk",
            OF_AARCH64,
            "task_throttled",
        ],
        lacks: &[
            ("sched", &["this kernel does not describe its per-CPU variables"]),
            (
                "net",
                &[
                    "this kernel does not describe its per-CPU variables",
                    "this kernel has no tracepoint sock_send_length",
                    "this kernel has no tracepoint sock_recv_length",
                ],
            ),
            ("lock", &["this kernel does not report contention of its locks"]),
            (
                "fault",
                &[
                    "threads of this kernel count their memory themselves",
                    "this kernel has no helper for loops",
                    "this kernel has no tracepoint mm_filemap_fault",
                ],
            ),
            ("cache", &["large folios are not described"]),
            ("map", &["this kernel has no tracepoint mmap_lock_start_locking"]),
            ("block", &["this kernel has no tracepoint block_io_start"]),
            ("writeback", &["large folios are not described"]),
            ("database", &["this kernel does not tell a program at which of its probes it runs"]),
        ],
    },
    Kernel {
        line: "6.1",
        packed: include_bytes!("fixtures/6.1.btf.zst"),
        absent: &["cfs_rq_throttled_before", "cfs_rq_throttled_since", "request_disk", OF_AARCH64, "task_throttled"],
        lacks: &[
            (
                "fault",
                &[
                    "threads of this kernel count their memory themselves",
                    "this kernel has no tracepoint mm_filemap_fault",
                ],
            ),
            ("block", &["this kernel has no tracepoint block_io_start"]),
            (
                "net",
                &["this kernel has no tracepoint sock_send_length", "this kernel has no tracepoint sock_recv_length"],
            ),
        ],
    },
    Kernel {
        line: "6.12",
        packed: include_bytes!("fixtures/6.12.btf.zst"),
        absent: &["request_disk", OF_AARCH64, "task_rss_counts", "task_rss_events", "task_throttled"],
        lacks: &[],
    },
    Kernel {
        line: "6.18",
        packed: include_bytes!("fixtures/6.18.btf.zst"),
        absent: &["request_disk", OF_AARCH64, "task_rss_counts", "task_rss_events"],
        lacks: &[],
    },
    Kernel {
        line: "7",
        packed: include_bytes!("fixtures/7.btf.zst"),
        absent: &["request_disk", OF_AARCH64, "task_rss_counts", "task_rss_events"],
        lacks: &[],
    },
];

/// Nobody can run there without user probes, which are looked for on the machine that runs the tests.
const NEEDS_USER_PROBES: &str = "database";

impl Kernel {
    fn blob(&self) -> Vec<u8> {
        zstd::decode_all(self.packed).expect("a fixture is compressed by zstd")
    }

    fn host(&self) -> HostFacts {
        host(Btf::parse(&self.blob()).expect("a fixture is well-formed"))
    }
}

/// Type information of the kernel of this line.
pub fn btf_of(line: &str) -> Btf {
    let kernel = KERNELS.iter().find(|kernel| kernel.line == line).expect("a kernel of the matrix");
    Btf::parse(&kernel.blob()).expect("a fixture")
}

/// A host on which nothing but the type information stands in the way.
fn host(btf: Btf) -> HostFacts {
    HostFacts {
        arch: "x86_64".to_owned(),
        initial_pid_namespace: true,
        capabilities: vec!["CAP_SYS_ADMIN".to_owned()],
        has_btf: true,
        btf: Some(btf),
        ..HostFacts::gather(Pretend { no_btf: true, no_tracefs: true })
    }
}

fn btf(host: &HostFacts) -> &Btf {
    host.btf.as_ref().expect("a host of these tests has type information")
}

/// Names of the fields that were not found, in the order of the alphabet.
fn absent(btf: &Btf) -> Vec<String> {
    let all = format!("{:#?}\n{:#?}", offsets::resolve(btf, Arch::X86_64), offsets::block(btf));
    let of_absent = format!(": {ABSENT},");
    let mut names: Vec<String> =
        all.lines().filter_map(|line| line.trim().strip_suffix(&of_absent)).map(str::to_owned).collect();
    names.sort();
    names
}

fn configuration(host: &HostFacts) -> Config {
    let mut config = Config::NONE;
    for family in FAMILIES {
        family.configure(host, Settings { sample_hz: 99 }, &mut config);
    }
    config
}

#[test]
fn offsets_that_each_kernel_lacks_are_the_known_ones() {
    for kernel in &KERNELS {
        assert_eq!(absent(btf(&kernel.host())), kernel.absent, "{}", kernel.line);
    }
}

#[test]
fn offsets_that_families_need_are_there_or_the_family_says_so() {
    let has_user_probes = std::path::Path::new("/sys/bus/event_source/devices/uprobe").exists();
    for kernel in &KERNELS {
        let host = kernel.host();
        for family in FAMILIES.iter().filter(|family| has_user_probes || family.name() != NEEDS_USER_PROBES) {
            let readiness = family.can_run(&host);
            let said: Vec<&str> = readiness.reason().map(|reason| reason.split("; ").collect()).unwrap_or_default();
            let lacks = kernel.lacks.iter().find(|(name, _)| *name == family.name());
            let expected = lacks.map_or(&[][..], |(_, sentences)| sentences);
            assert!(
                said.len() == expected.len() && said.iter().zip(expected).all(|(said, start)| said.starts_with(start)),
                "{} on {}: {readiness:?}, expected {expected:?}",
                family.name(),
                kernel.line
            );
        }
        let ready = FAMILIES.iter().filter(|family| family.can_run(&host) == Readiness::Ready).count();
        assert!(ready + kernel.lacks.len() + 1 >= FAMILIES.len(), "{}: {ready} are ready", kernel.line);
    }
}

/// Facts of these kernels that no one says are missing: they are chosen by, and a wrong choice reads something else.
#[test]
fn offsets_are_read_in_the_way_of_each_kernel() {
    /// sched_switch's arguments, typed loads, registers in the kernel's stack, the argument of `mmap_lock_start_locking`, that of a pause.
    type Ways = (usize, u32, u32, u32, u32);
    let expected: [(&str, Ways); 5] = [
        ("5.10", (3, 0, 4 * 4096 - 21 * 8, 1, 10)),
        ("6.1", (4, 1, 0, 2, 10)),
        ("6.12", (4, 1, 0, 2, 10)),
        ("6.18", (4, 1, 0, 1, 6)),
        ("7", (4, 1, 0, 1, 6)),
    ];
    for (kernel, (line, ways)) in KERNELS.iter().zip(expected) {
        assert_eq!(kernel.line, line);
        let host = kernel.host();
        let arguments = btf(&host).tracepoint_args("sched_switch").expect("every kernel has it");
        let config = configuration(&host);
        let found = (
            arguments,
            config.typed_loads,
            config.regs_in_stack,
            config.map_write_argument,
            config.block.pause_argument,
        );
        assert_eq!(found, ways, "{line}");
        assert_eq!(config.switch_has_state, u32::from(arguments == 4), "{line}");
        assert_eq!(config.no_wake_context, u32::from(line == "5.10"), "only that has no per-CPU variables");
        assert_eq!(config.backlog_from_rq == 0, line == "5.10", "{line}");
        assert_eq!(config.steered_from_rq == 0, line == "5.10", "{line}: Debian's kernels steer packets");
        assert_eq!(config.word_type == 0, ["5.10", "6.1"].contains(&line), "{line}: since 6.2");
        assert_eq!(config.current_from_rq == 0, config.word_type == 0, "{line}: where loads cost less than a helper");
        assert_ne!(config.block.locked_bit, ABSENT, "{line}");
        assert_ne!(config.block.written_bit, ABSENT, "{line}");
    }
}

/// A new tracepoint, or one that is looked for by another name, has no prototype in fixtures that were made before.
#[test]
fn offsets_have_a_kernel_in_which_each_tracepoint_is_found() {
    let hosts: Vec<HostFacts> = KERNELS.iter().map(Kernel::host).collect();
    let programs = FAMILIES.iter().flat_map(|family| family.programs());
    for hook in programs.flat_map(|program| [Some(program.hook), program.fallback.map(|other| other.hook)]).flatten() {
        let is_there = |host: &HostFacts| match hook {
            Hook::TpBtf { name } | Hook::Behind { name, .. } => btf(host).tracepoint_args(name).is_some(),
            Hook::Iterator { over } => btf(host).function(&format!("bpf_iter_{over}")).is_some(),
            _ => true,
        };
        assert!(hosts.iter().any(is_there), "no fixture has {hook:?}: `cargo xtask vm --fixtures` writes them anew");
    }
}

#[test]
fn offsets_fixtures_are_small_and_say_where_they_are_from() {
    let sources = include_str!("fixtures/kernels.tsv");
    let lines: Vec<&str> = sources.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), KERNELS.len(), "{sources}");
    for kernel in &KERNELS {
        let columns: Vec<&str> = lines
            .iter()
            .map(|line| line.split('\t').collect())
            .find(|columns: &Vec<&str>| columns[0] == kernel.line)
            .expect("a line each");
        assert!(columns.len() == 4 && columns[1].starts_with(&format!("{}.", kernel.line)), "{columns:?}");
        assert!(kernel.packed.len() <= 60 * 1024, "{} has {} bytes", kernel.line, kernel.packed.len());
    }
}

/// Asks for all that is ever asked for.
fn ask(types: Btf) {
    let host = host(types);
    absent(btf(&host));
    configuration(&host);
    for family in FAMILIES {
        family.can_run(&host);
    }
}

proptest! {
    // Each case takes milliseconds: the machine's own facts are gathered, too.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn offsets_of_a_blob_that_is_cut_are_an_error(kernel in 0..KERNELS.len(), cut in any::<prop::sample::Index>()) {
        let blob = KERNELS[kernel].blob();
        prop_assert!(Btf::parse(&blob[..cut.index(blob.len())]).is_err());
    }

    #[test]
    fn offsets_of_a_blob_with_changed_bytes_never_panic(
        kernel in 0..KERNELS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200),
    ) {
        let mut blob = KERNELS[kernel].blob();
        for (at, value) in changes {
            let at = at.index(blob.len());
            blob[at] = value;
        }
        if let Ok(btf) = Btf::parse(&blob) {
            ask(btf);
        }
    }

    #[test]
    fn offsets_of_a_blob_with_changed_bits_never_panic(
        kernel in 0..KERNELS.len(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u32..8), 1..200),
    ) {
        let mut blob = KERNELS[kernel].blob();
        for (at, bit) in flips {
            // Behind the header, where more of them get as far as being asked.
            let at = 24 + at.index(blob.len() - 24);
            blob[at] ^= 1 << bit;
        }
        if let Ok(btf) = Btf::parse(&blob) {
            ask(btf);
        }
    }
}
