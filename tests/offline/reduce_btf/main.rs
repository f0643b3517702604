//! Makes a fixture for the tests of `tracer/src/kernel/fixtures.rs` from a kernel: its type information, of which only what tracer asks for is kept.
//! `cargo xtask vm --fixtures` runs it for each kernel of the matrix:
//! `cargo run -p tests --example reduce-btf -- VMLINUZ OUT.btf.zst`. VMLINUZ may be a kernel's /sys/kernel/btf/vmlinux too.
//!
//! Fails where tracer would find anything else in the fixture than in the whole: then a name is missing in `wanted`.

mod image;
mod reduce;

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, bail, ensure};
use reduce::Wanted;
use tracer::{
    families::{FAMILIES, Hook, Settings},
    kernel::{
        btf::Btf,
        host::{HostFacts, Pretend},
        offsets,
    },
};
use tracer_common::{config::Config, syscall::Arch};

/// The structs that `kernel/offsets.rs` looks for; what lies within them comes along.
const STRUCTS: &[&str] = &[
    "address_space",
    "backing_dev_info",
    "bdi_writeback",
    "bio",
    "cfs_rq",
    "cgroup",
    "cgroup_root",
    "dentry",
    "device",
    "epitem",
    "eventpoll",
    "fdtable",
    "file",
    "files_struct",
    "folio",
    "gendisk",
    "inode",
    "iomap_dio",
    "kernfs_node",
    "kiocb",
    "linux_binprm",
    "mm_rss_stat",
    "mm_struct",
    "mutex",
    "napi_struct",
    "page",
    "pcpu_hot",
    "percpu_counter",
    "pid",
    "pt_regs",
    "request",
    "request_queue",
    "rq",
    "rt_mutex",
    "rt_mutex_base",
    "rw_semaphore",
    "signal_struct",
    "sk_buff_head",
    "sock",
    "softnet_data",
    "socket",
    "super_block",
    "task_struct",
    "tcp_sock",
    "timespec64",
    "upid",
];
const ENUMS: &[&str] = &["bpf_func_id", "pageflags"];
const VARIABLES: &[&str] =
    &["__preempt_count", "current_task", "hardirq_stack_ptr", "ksoftirqd", "pcpu_hot", "runqueues", "softnet_data"];
/// The one that `kernel/hooks.rs` tries a program on, and the one that `kernel/kernel_cast.rs` looks for.
const FUNCTIONS: &[&str] = &["vfs_read", "bpf_rdonly_cast"];

/// A fixture is read by people too, in a review: as a number of bytes.
const MOST_BYTES: usize = 60 * 1024;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else { bail!("two arguments are needed: VMLINUZ OUT.btf.zst") };
    let image = fs::read(from).with_context(|| format!("cannot read {from}"))?;
    let whole = image::type_information(&image).with_context(|| format!("{from} cannot be used"))?;
    let reduced = reduce::reduce(&whole, &wanted())?;
    compare(&whole, &reduced).context("tracer finds something else in the fixture: is a name missing in `wanted`?")?;
    let packed = zstd::bulk::compress(&reduced, 19).context("cannot compress it")?;
    ensure!(packed.len() <= MOST_BYTES, "the fixture has {} bytes, more than {MOST_BYTES}", packed.len());
    fs::write(to, &packed).with_context(|| format!("cannot write {to}"))?;
    println!("{to}: {} bytes of type information, {} kept, {} compressed", whole.len(), reduced.len(), packed.len());
    Ok(())
}

fn wanted() -> Wanted {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    let mut wanted = Wanted {
        structs: set(STRUCTS),
        enums: set(ENUMS),
        variables: set(VARIABLES),
        functions: set(FUNCTIONS),
        typedefs: BTreeSet::new(),
    };
    for hook in hooks() {
        match hook {
            Hook::TpBtf { name } | Hook::Behind { name, .. } => {
                wanted.typedefs.insert(format!("btf_trace_{name}"));
            }
            Hook::Iterator { over } => drop(wanted.functions.insert(format!("bpf_iter_{over}"))),
            _ => {}
        }
    }
    wanted
}

/// All hooks of all programs, those of their fallbacks included.
fn hooks() -> impl Iterator<Item = Hook> {
    let programs = FAMILIES.iter().flat_map(|family| family.programs());
    programs.flat_map(|program| [Some(program.hook), program.fallback.map(|other| other.hook)]).flatten()
}

/// All that tracer takes from type information is the same in both.
fn compare(whole: &[u8], reduced: &[u8]) -> Result<()> {
    let host = |blob: &[u8]| -> Result<HostFacts> {
        Ok(HostFacts {
            arch: "x86_64".to_owned(),
            initial_pid_namespace: true,
            capabilities: vec!["CAP_SYS_ADMIN".to_owned()],
            has_btf: true,
            btf: Some(Btf::parse(blob)?),
            ..HostFacts::gather(Pretend { no_btf: true, no_tracefs: true })
        })
    };
    let (whole, reduced) = (host(whole)?, host(reduced)?);
    let (of_whole, of_reduced) = (whole.btf.as_ref().context("just set")?, reduced.btf.as_ref().context("just set")?);
    let same = |what: &str, one: String, other: String| {
        ensure!(one == other, "{what}: the whole gives\n{one}\nand the fixture\n{other}");
        Ok(())
    };
    let offsets = |btf| format!("{:#?} {:#?}", offsets::resolve(btf, Arch::X86_64), offsets::block(btf));
    same("offsets", offsets(of_whole), offsets(of_reduced))?;
    let (mut config, mut config_of_reduced) = (Config::NONE, Config::NONE);
    for family in FAMILIES {
        let can_run = |host| format!("{:?}", family.can_run(host));
        same(family.name(), can_run(&whole), can_run(&reduced))?;
        let settings = Settings { sample_hz: 99 };
        family.configure(&whole, settings, &mut config);
        family.configure(&reduced, settings, &mut config_of_reduced);
    }
    // The number of a type is another one where there are fewer types.
    for config in [&mut config, &mut config_of_reduced] {
        config.word_type = config.word_type.min(1);
    }
    same("the programs' configuration", format!("{config:#?}"), format!("{config_of_reduced:#?}"))?;
    for hook in hooks() {
        match hook {
            Hook::TpBtf { name } | Hook::Behind { name, .. } => {
                let arguments = |btf: &Btf| format!("{:?}", btf.tracepoint_args(name));
                same(name, arguments(of_whole), arguments(of_reduced))?;
            }
            Hook::Iterator { over } => {
                let is_there = |btf: &Btf| btf.function(&format!("bpf_iter_{over}")).is_some().to_string();
                same(over, is_there(of_whole), is_there(of_reduced))?;
            }
            _ => {}
        }
    }
    Ok(())
}
