//! What is taken for an interpreter and what is not.

use super::*;
use crate::{
    process::{Bytes, Image, Segment},
    python::testing::{self, Recorded},
};

fn space(path: &str, bytes: Vec<u8>) -> AddressSpace {
    let module = Arc::new(testing::module(0, path, bytes));
    let mapping = Mapping { start: 0x5000, end: 0x6000, offset: 0, executable: true, backing: Backing::Module(module) };
    AddressSpace { mappings: vec![mapping], cut: false }
}

#[test]
fn the_name_of_the_file_counts_not_its_path() {
    for name in ["/usr/bin/python3", "/opt/x/libpython3.9.so.1.0", "/a/python3.11 (deleted)", "python"] {
        assert!(is_python(base_name(name)), "{name}");
    }
    for name in ["/opt/python3.11/site-packages/torch/lib/libtorch_cpu.so", "/usr/bin/ipython", "[vdso]", ""] {
        assert!(!is_python(base_name(name)), "{name}");
    }
}

#[test]
fn another_program_is_no_python_and_a_broken_file_says_so() {
    let detect = |space| Detector::new().detect(&space, &mut Recorded::default());
    assert_eq!(detect(AddressSpace::default()), Detected::NotPython);
    let own = std::fs::read("/proc/self/exe").expect("this test");
    assert_eq!(detect(space("/usr/bin/cat", own.clone())), Detected::NotPython);
    assert_eq!(detect(space("/usr/bin/python3", own.clone())), Detected::NotPython, "it has no _PyRuntime");
    for len in [0, 4, 63, 64, 4096, own.len() / 2] {
        let broken = detect(space("/usr/bin/python3", own[..len].to_vec()));
        assert!(matches!(broken, Detected::Unknown(_) | Detected::NotPython), "{len} bytes: {broken:?}");
    }
    assert!(matches!(detect(space("/usr/bin/python3", b"#!/bin/sh".to_vec())), Detected::Unknown(_)));
}

#[test]
fn a_version_is_believed_when_name_and_text_agree() {
    use super::symbols::from_text;
    let version = |name, text: &str| from_text(name, text.as_bytes()).map(|version| version.to_string()).ok();
    assert_eq!(version("libpython3.9.so.1.0", "x\0 3.9.18\0y"), Some("3.9.18".into()));
    assert_eq!(
        version("python3.9", "/opt/3.9.2\0and 3.9.18\0"),
        Some("3.9".into()),
        "two, so the last number is not known"
    );
    assert_eq!(version("python3.8", "\0 3.8.1+\0"), Some("3.8.1".into()));
    assert_eq!(version("python3.9", "\0 3.8.18\0"), None, "the name says something else");
    assert_eq!(version("python3", "\0 3.9.18\0"), None, "the name says nothing");
    assert_eq!(version("python3.9", "\0 13.9.18\0 3.9.18.2\0 3.9.\0 3.9.1"), None);
}

#[test]
fn the_bias_is_that_of_the_segment() {
    let segments = vec![
        Segment { offset: 0, address: 0x40_0000, len_bytes: 0x800, executable: false },
        Segment { offset: 0xe10, address: 0x40_1e10, len_bytes: 0x1000, executable: true },
    ];
    let mut module = testing::module(3, "/usr/bin/python3", Vec::new());
    module.image = Ok(Image { bytes: Bytes::Owned(Vec::new().into()), segments, entry: 0, machine: 62, is_64: true });
    let module = Arc::new(module);
    let mapping = |start, offset, executable| Mapping {
        start,
        end: start + 0x2000,
        offset,
        executable,
        backing: Backing::Module(module.clone()),
    };
    let code_only = AddressSpace { mappings: vec![mapping(0x7f00_1000, 0, true)], cut: false };
    assert_eq!(bias(&code_only, &module), Some(0x7f00_1000 - 0x40_1000));
    let both =
        AddressSpace { mappings: vec![mapping(0x7f00_0000, 0, false), mapping(0x7f00_1000, 0, true)], cut: false };
    assert_eq!(bias(&both, &module), Some(0x7f00_0000 - 0x40_0000));
    assert_eq!(bias(&AddressSpace::default(), &module), None);
}

#[test]
fn structures_that_do_not_refer_to_each_other_are_refused() {
    let version = Version { minor: 11, micro: None };
    let layout = layout::table(11).expect("a table");
    let check = |words: &[(u64, u64)]| {
        let mut memory = Recorded::default();
        for (address, word) in words {
            memory.put_word(*address, *word);
        }
        has_begun(version, &layout, 0x100, &mut memory)
    };
    assert_eq!(check(&[(0x100, 0)]), Ok(false));
    assert_eq!(check(&[(0x100, 0x1000), (0x1010, 0)]), Ok(false));
    assert_eq!(check(&[(0x100, 0x1000), (0x1010, 0x2000), (0x2010, 0x1000)]), Ok(true));
    for wrong in [&[][..], &[(0x100, 0x1000)], &[(0x100, 0x1000), (0x1010, 0x2000), (0x2010, 0x1001)]] {
        let result = check(wrong);
        assert!(result.is_err(), "{wrong:x?}: {result:?}");
    }
}

#[test]
fn a_part_of_the_evaluator_that_lies_elsewhere_is_found_without_its_symbol() {
    let (found, _) = testing::interpreters();
    for (minor, program) in found {
        let folder = program.root.clone().unwrap_or_default();
        let in_library = program.path.parent().and_then(|bin| bin.parent()).map(|home| home.join("lib"));
        let mut libraries = in_library.iter().flat_map(std::fs::read_dir).flatten().flatten().map(|entry| entry.path());
        let library = libraries.find(|path| path.to_string_lossy().ends_with(&format!("/libpython3.{minor}.so.1.0")));
        let path = match (&program.root, library) {
            (Some(_), _) => folder.join(program.path.strip_prefix("/").expect("an absolute path")),
            (None, Some(library)) => library,
            (None, None) => program.path,
        };
        let bytes = std::fs::read(&path).expect("the interpreter");
        let module = testing::module(0, &path.to_string_lossy(), bytes);
        let symbols =
            Symbols::read(base_name(&module.path), module.image.as_ref().expect("an image")).expect("symbols");
        let len_bytes: u64 = symbols.eval.iter().map(|range| range.end - range.start).sum();
        println!("3.{minor}: the evaluator has {len_bytes} bytes in {:x?}", symbols.eval);
        assert!(len_bytes > 30_000, "3.{minor}: {:x?}", symbols.eval);
    }
}
