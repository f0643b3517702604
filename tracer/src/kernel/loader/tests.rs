//! Which families are loaded when the kernel refuses one, and that object and table of families belong together.

use super::*;

/// Names of the programs in the object: functions in sections other than .text.
fn programs_in(bytes: &[u8]) -> Vec<String> {
    use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
    let file = object::File::parse(bytes).expect("the object is ELF");
    let mut names: Vec<String> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
        .filter(|symbol| {
            let section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
            section.is_some_and(|section| section.name().is_ok_and(|name| name != ".text"))
        })
        .filter_map(|symbol| symbol.name().ok().map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// A host without type information, which can run what needs none.
fn plain_host() -> HostFacts {
    HostFacts {
        initial_pid_namespace: true,
        capabilities: vec!["CAP_SYS_ADMIN".to_owned()],
        tracefs: Some("/sys/kernel/tracing".into()),
        ..HostFacts::gather(crate::kernel::host::Pretend { no_btf: true, no_tracefs: true })
    }
}

#[test]
fn a_family_that_the_kernel_refused_is_left_out_with_its_reason_unless_it_was_asked_for_by_name() {
    let host = plain_host();
    let mut plan = Plan {
        families: FAMILIES.to_vec(),
        insisted: Vec::new(),
        without: Vec::new(),
        filter: Filter::default(),
        ring_bytes: 0,
        sample_hz: 99,
        starts_target: false,
        steps: None,
        host: &host,
    };
    let names = |able: &[&'static dyn Family]| able.iter().map(|family| family.name()).collect::<Vec<_>>();
    let refused = |family: &str| vec![(family.to_owned(), "too complex".to_owned())];
    let before = names(&able(&plan, &[]).expect("some can run").0);
    assert!(before.starts_with(&["sched", "cpu"]), "{before:?}");
    let (after, unable) = able(&plan, &refused("cpu")).expect("sched can run alone");
    assert_eq!(names(&after), before.iter().copied().filter(|name| *name != "cpu").collect::<Vec<_>>());
    let record = unable.iter().find(|record| record.family == "cpu").expect("it is told of");
    assert_eq!((record.status.as_str(), record.reason.as_deref()), ("unavailable", Some("too complex")));
    let nothing = able(&plan, &refused("sched")).err().map(|error| error.to_string()).unwrap_or_default();
    assert_eq!(nothing, "family sched cannot run here: too complex", "all others build on it");
    plan.insisted = vec!["cpu"];
    let error = able(&plan, &refused("cpu")).err().map(|error| error.to_string()).unwrap_or_default();
    assert_eq!(error, "family cpu cannot run here: too complex");
}

#[test]
fn each_call_of_the_kernels_cast_gets_its_number_or_is_taken_out() {
    use tracer_common::config::KERNEL_CAST_CALL;
    if OBJECT.is_empty() {
        eprintln!("not run: built without an eBPF toolchain");
        return;
    }
    let btf = crate::kernel::fixtures::btf_of("6.18");
    let mut config = Config { word_type: 1, ..Config::NONE };
    let count = |bytes: &[u8], call: [u8; 8]| bytes.chunks_exact(8).filter(|instruction| **instruction == call).count();
    let calls = count(OBJECT, KERNEL_CAST_CALL);
    assert!(calls > 10, "programs follow addresses: {calls}");
    let with = kernel_cast::put_in(OBJECT, Some(&btf), &config);
    let mut numbered = KERNEL_CAST_CALL;
    let number = btf.function("bpf_rdonly_cast").expect("6.18 has it");
    numbered[4..].copy_from_slice(&number.to_le_bytes());
    assert_eq!((count(&with, KERNEL_CAST_CALL), count(&with, numbered)), (0, calls));
    config.word_type = 0;
    let without = kernel_cast::put_in(OBJECT, Some(&btf), &config);
    assert_eq!((count(&without, KERNEL_CAST_CALL), count(&without, numbered)), (0, 0));
    assert_eq!((with.len(), without.len()), (OBJECT.len(), OBJECT.len()), "nothing else moves");
}

#[test]
fn the_object_has_the_listed_programs_and_no_others() {
    if OBJECT.is_empty() {
        eprintln!("not run: built without an eBPF toolchain");
        return;
    }
    check_version(OBJECT).expect("the object of this build");
    let mut listed: Vec<String> = FAMILIES
        .iter()
        .flat_map(|family| family.programs())
        .flat_map(|program| [Some(program.name), program.fallback.map(|other| other.name)])
        .flatten()
        .map(str::to_owned)
        .collect();
    listed.sort();
    assert_eq!(programs_in(OBJECT), listed);
}
