//! Programs compiled here and looked up; where a compiler is missing, a test says so and passes.
//!
//! Files made to break readers are in `tests_hostile.rs`, since some of them end the helper for good.

use std::{
    ffi::OsStr,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use object::{Object, ObjectSymbol, read::elf::ElfFile64};
use tempfile::TempDir;

use super::{helper::HelperKind, *};
use crate::process::ModuleId;

/// A folder with a program in it.
pub struct Built {
    folder: TempDir,
    pub path: PathBuf,
}

/// Compiles `source`; none where the compiler is missing.
pub fn build(compiler: &str, name: &str, source: &str, options: &[&str]) -> Option<Built> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (text, path) = (folder.path().join(name), folder.path().join("program"));
    fs::write(&text, source).expect("writes the source");
    let command = Command::new(compiler).args(options).arg("-o").args([&path, &text]).stdin(Stdio::null()).output();
    let Ok(output) = command else {
        eprintln!("skipped: there is no {compiler} here");
        return None;
    };
    assert!(output.status.success(), "{compiler} failed: {}", String::from_utf8_lossy(&output.stderr));
    Some(Built { folder, path })
}

/// Runs a tool of binutils or the like; false where it is missing.
fn tool<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> bool {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        eprintln!("skipped: there is no {program} here");
        return false;
    };
    assert!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr));
    true
}

pub fn module_at(path: &Path) -> Module {
    Module::of_file(ModuleId(1), path.to_owned())
}

/// The code of a function, by its mangled name.
fn code(path: &Path, symbol: &str) -> Range<u64> {
    let bytes = fs::read(path).expect("reads the program");
    let file = ElfFile64::<object::Endianness>::parse(&*bytes).expect("an ELF file");
    let found = file.symbols().find(|found| found.name() == Ok(symbol)).unwrap_or_else(|| panic!("no symbol {symbol}"));
    assert!(found.size() > 0, "{symbol} has no size");
    found.address()..found.address() + found.size()
}

fn limits() -> Limits {
    Limits { helper: HelperKind::Thread, ..Limits::default() }
}

fn look_up(module: &Module, addresses: impl IntoIterator<Item = u64>) -> Vec<Named> {
    let addresses: Vec<u64> = addresses.into_iter().collect();
    let mut symboliser = Symboliser::new(limits());
    let named = symboliser.module(module, &addresses, &mut |_| {});
    assert_eq!(named.len(), addresses.len(), "one answer for each address");
    assert_eq!(symboliser.problems(), &[] as &[String]);
    named
}

fn functions(named: &Named) -> Vec<&str> {
    named.names.iter().map(|name| name.function.as_str()).collect()
}

const INLINED: &str = "\
volatile int sink;
static inline __attribute__((always_inline)) int innermost(int x) {
    sink = x; return x * 3;
}
static inline __attribute__((always_inline)) int middle(int x) {
    return innermost(x + 1) + sink;
}
__attribute__((noinline)) int outer(int x) {
    sink = 7;
    return middle(x) + sink;
}
int main(int argc, char **argv) { (void)argv; return outer(argc); }
";

#[test]
fn inlined_functions_come_innermost_first_each_with_its_line() {
    let Some(built) = build("gcc", "inlined.c", INLINED, &["-O2", "-g"]) else { return };
    let named = look_up(&module_at(&built.path), code(&built.path, "outer"));
    let mut seen = [false; 3];
    for named in &named {
        assert_eq!(named.missing, None, "{named:?}");
        match functions(named)[..] {
            ["outer"] => seen[0] = true,
            ["middle", "outer"] => seen[1] = true,
            ["innermost", "middle", "outer"] => {
                seen[2] = true;
                let lines: Vec<_> = named.names.iter().map(|name| name.line).collect();
                assert!(matches!(lines[0], Some(2..=4)), "the line that runs: {named:?}");
                assert_eq!(lines[1..], [Some(6), Some(10)], "the lines of the calls: {named:?}");
                let inlined: Vec<_> = named.names.iter().map(|name| name.inlined).collect();
                assert_eq!(inlined, [true, true, false], "{named:?}");
            }
            _ => panic!("no such chain in the program: {named:?}"),
        }
        let files = named.names.iter().map(|name| name.file.as_deref().unwrap_or_default());
        assert!(files.clone().all(|file| file.ends_with("/inlined.c")), "{named:?}");
    }
    assert_eq!(seen, [true; 3], "bytes of all three functions: {named:?}");
}

const STATIC_BESIDE_EXPORTED: &str = "\
volatile int sink;
__attribute__((noinline)) int exported_before(int x) { sink = x; return x + 1; }
static __attribute__((noinline)) int hidden(int x) { sink = x; sink = x + 2; return x * 5; }
__attribute__((noinline)) int exported_after(int x) { return hidden(x) + sink; }
";

const SHARED: &[&str] = &["-O2", "-shared", "-fPIC", "-fno-toplevel-reorder"];

#[test]
fn a_static_function_of_a_stripped_file_has_no_name_rather_than_its_neighbours() {
    let Some(built) = build("gcc", "lib.c", STATIC_BESIDE_EXPORTED, SHARED) else { return };
    let (hidden, exported) = (code(&built.path, "hidden"), code(&built.path, "exported_before"));
    let whole = look_up(&module_at(&built.path), hidden.clone());
    assert!(whole.iter().all(|named| functions(named) == ["hidden"]), "before it is stripped: {whole:?}");
    if !tool("strip", &[OsStr::new("-s"), built.path.as_os_str()]) {
        return;
    }
    let stripped = look_up(&module_at(&built.path), hidden);
    assert!(stripped.iter().all(|named| *named == Named::missing(missing::NOT_COVERED)), "{stripped:?}");
    let exported = look_up(&module_at(&built.path), exported);
    assert!(exported.iter().all(|named| functions(named) == ["exported_before"]), "{exported:?}");
}

#[test]
fn a_file_without_any_symbol_says_so() {
    let Some(built) = build("gcc", "none.c", "int main(void) { return 0; }", &["-O2", "-static"]) else { return };
    let main = code(&built.path, "main");
    if tool("strip", &[OsStr::new("-s"), built.path.as_os_str()]) {
        assert_eq!(look_up(&module_at(&built.path), [main.start]), [Named::missing(missing::NO_SYMBOLS)]);
    }
}

#[test]
fn symbols_packed_into_a_stripped_file_are_found() {
    let Some(built) = build("gcc", "lib.c", STATIC_BESIDE_EXPORTED, SHARED) else { return };
    let hidden = code(&built.path, "hidden");
    let packed = built.folder.path().join("packed");
    let symbols = [OsStr::new("--only-keep-debug"), built.path.as_os_str(), packed.as_os_str()];
    if !tool("objcopy", &symbols) || !tool("xz", &[packed.as_os_str()]) {
        return;
    }
    tool("strip", &[OsStr::new("-s"), built.path.as_os_str()]);
    let section = format!(".gnu_debugdata={}", packed.with_extension("xz").display());
    tool("objcopy", &[OsStr::new("--add-section"), OsStr::new(&section), built.path.as_os_str()]);
    let named = look_up(&module_at(&built.path), hidden);
    assert!(named.iter().all(|named| functions(named) == ["hidden"]), "{named:?}");
}

#[test]
fn a_stripped_file_is_named_from_the_debug_file_that_it_links_to_if_that_is_the_right_one() {
    for options in [&["-O2", "-g", "-Wl,--build-id=sha1"][..], &["-O2", "-g", "-Wl,--build-id=none"]] {
        let Some(built) = build("gcc", "inlined.c", INLINED, options) else { return };
        let outer = code(&built.path, "outer");
        let debug = built.folder.path().join("program.debug");
        let apart = [OsStr::new("--only-keep-debug"), built.path.as_os_str(), debug.as_os_str()];
        if !tool("objcopy", &apart) {
            return;
        }
        tool("strip", &[OsStr::new("-s"), built.path.as_os_str()]);
        let link = format!("--add-gnu-debuglink={}", debug.display());
        tool("objcopy", &[OsStr::new(&link), built.path.as_os_str()]);
        let named = look_up(&module_at(&built.path), outer.clone());
        let chain = named.iter().any(|named| functions(named) == ["innermost", "middle", "outer"]);
        assert!(chain, "{options:?}: {named:?}");
        assert!(named.iter().all(|named| functions(named).last() == Some(&"outer")), "{options:?}: {named:?}");

        let other = build("gcc", "inlined.c", &INLINED.replace("x * 3", "x * 1234567"), options).expect("built before");
        fs::copy(&other.path, &debug).expect("puts another file there");
        let named = look_up(&module_at(&built.path), outer);
        assert!(named.iter().all(|named| named.names.is_empty()), "{options:?}, another program's: {named:?}");
    }
}

#[test]
fn of_several_symbols_of_one_function_the_global_one_is_taken_then_the_shortest() {
    let source = "\
int sink;
static int a_local(int x) { sink = x; return x; }
int zz_global_long(int x) __attribute__((alias(\"a_local\")));
int zz_global(int x) __attribute__((alias(\"a_local\")));
int zy_global(int x) __attribute__((alias(\"a_local\")));
int b_weak(int x) __attribute__((weak, alias(\"a_local\")));
";
    let Some(built) = build("gcc", "alias.c", source, SHARED) else { return };
    let named = look_up(&module_at(&built.path), code(&built.path, "a_local"));
    assert!(named.iter().all(|named| functions(named) == ["zy_global"]), "{named:?}");
}

#[test]
fn a_label_within_a_function_and_a_symbol_without_size_do_not_hide_the_function() {
    let source = "\
__asm__(\".text\\n.globl with_label\\n.type with_label,@function\\nwith_label:\\n nop\\n nop\\n\"
        \"label_inside:\\n nop\\n nop\\n ret\\n.size with_label,.-with_label\\n\"
        \".globl sizeless\\n.type sizeless,@function\\nsizeless:\\n nop\\n nop\\n nop\\n ret\\n\");
";
    let Some(built) = build("gcc", "labels.c", source, SHARED) else { return };
    let range = code(&built.path, "with_label");
    let named = look_up(&module_at(&built.path), range.clone());
    assert!(named.iter().skip(3).all(|named| functions(named) == ["with_label"]), "{named:?}");
    let beyond = look_up(&module_at(&built.path), [range.end, range.end + 1]);
    assert_eq!(functions(&beyond[0]), ["sizeless"], "its first byte is its own");
    assert_eq!(beyond[1], Named::missing(missing::NOT_COVERED), "how far it reaches is not known");
}

#[test]
fn cpp_names_are_demangled_also_of_what_is_inlined() {
    let source = "\
namespace deep { volatile int sink;
template <typename T> struct Box { T value; __attribute__((always_inline)) inline T twice() const { sink = value; return value * 2; } };
namespace { __attribute__((noinline)) int unnamed(int x) { sink = x; return x + sink; } }
__attribute__((noinline)) long run(Box<long> const &box, int n) { return box.twice() + unnamed(n); } }
int main(int argc, char **) { return deep::run(deep::Box<long>{argc}, argc); }
";
    let Some(built) = build("g++", "deep.cpp", source, &["-O2", "-g"]) else { return };
    let named = look_up(&module_at(&built.path), code(&built.path, "_ZN4deep3runERKNS_3BoxIlEEi"));
    let outer = "deep::run(deep::Box<long> const&, int)";
    assert!(named.iter().all(|named| functions(named).last() == Some(&outer)), "{named:?}");
    let inlined = named.iter().find(|named| named.names.len() > 1).expect("something is inlined");
    assert_eq!(functions(inlined), ["deep::Box<long>::twice() const", outer]);
    let unnamed = look_up(&module_at(&built.path), code(&built.path, "_ZN4deep12_GLOBAL__N_17unnamedEi"));
    assert_eq!(functions(&unnamed[0]), ["deep::(anonymous namespace)::unnamed(int)"]);
}

#[test]
fn rust_names_are_demangled_without_their_hash() {
    let source = "\
mod inner { #[inline(never)] pub fn busy(n: u64) -> u64 { std::hint::black_box(n) + 1 } }
fn main() { std::process::exit(inner::busy(std::env::args().count() as u64) as i32 & 1); }
";
    let Some(built) = build("rustc", "named.rs", source, &["-O", "-g", "--crate-name", "named"]) else { return };
    let bytes = fs::read(&built.path).expect("reads the program");
    let file = ElfFile64::<object::Endianness>::parse(&*bytes).expect("an ELF file");
    let busy = file.symbols().find(|symbol| symbol.name().is_ok_and(|name| name.contains("5inner4busy")));
    let busy = busy.expect("a symbol of the function").address();
    let named = look_up(&module_at(&built.path), [busy]);
    assert_eq!(functions(&named[0]).last(), Some(&"named::inner::busy"), "{named:?}");
    assert_eq!(named[0].names.last().and_then(|name| name.line), Some(1), "{named:?}");
}

#[test]
fn a_file_that_was_deleted_is_read_through_its_descriptor() {
    use std::os::fd::AsRawFd;
    let Some(built) = build("gcc", "inlined.c", INLINED, &["-O2", "-g"]) else { return };
    let outer = code(&built.path, "outer");
    let open = fs::File::open(&built.path).expect("opens the program");
    fs::remove_file(&built.path).expect("deletes the program");
    let mut module = module_at(&built.path);
    module.open_path = Some(PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())));
    let named = look_up(&module, outer);
    assert!(named.iter().any(|named| named.names.len() == 3 && named.names[0].line.is_some()), "{named:?}");
}

#[test]
fn a_helper_that_does_not_answer_or_ends_costs_the_lines_and_not_the_names() {
    let Some(built) = build("gcc", "inlined.c", INLINED, &["-O2", "-g"]) else { return };
    let outer = code(&built.path, "outer");
    let addresses: Vec<u64> = outer.collect();
    // One that ends is not waited for, however long it takes to start on a busy machine.
    let (short, long) = (Duration::from_millis(200), Duration::from_secs(600));
    let cases = [
        ("sleep 600", short, Some(missing::TIMED_OUT), "no time left"),
        ("exit 1", long, None, "ended"),
        ("cat", long, None, "ended"),
    ];
    for (script, debug_info, missing, why) in cases {
        let helper = HelperKind::Program("/bin/sh".into(), vec!["-c".to_owned(), script.to_owned()]);
        let mut symboliser = Symboliser::new(Limits { helper, debug_info, ..Limits::default() });
        let started = Instant::now();
        let named = symboliser.module(&module_at(&built.path), &addresses, &mut |_| {});
        assert!(started.elapsed() < Duration::from_secs(300), "{script}: waited for {:?}", started.elapsed());
        assert!(named.iter().all(|named| functions(named) == ["outer"]), "{script}: {named:?}");
        assert!(named.iter().all(|named| named.missing.as_deref() == missing), "{script}: {named:?}");
        let problems = symboliser.problems().join("\n");
        assert!(problems.contains(why), "{script}: {problems:?}");
    }
}

#[test]
fn without_time_for_symbol_tables_nothing_is_named_and_it_is_said() {
    let Some(built) = build("gcc", "inlined.c", INLINED, &["-O2"]) else { return };
    let mut symboliser = Symboliser::new(Limits { symbol_tables: Duration::ZERO, ..limits() });
    let named = symboliser.module(&module_at(&built.path), &[code(&built.path, "outer").start], &mut |_| {});
    assert_eq!(named, [Named::missing(missing::TIMED_OUT)]);
}

#[test]
fn progress_is_told_up_to_the_last_address() {
    let Some(built) = build("gcc", "inlined.c", INLINED, &["-O2", "-g"]) else { return };
    let addresses: Vec<u64> = (0x1000..0x1000 + 2 * QUESTION_ADDRESSES as u64 + 9).collect();
    let mut told = Vec::new();
    Symboliser::new(limits()).module(&module_at(&built.path), &addresses, &mut |done| told.push(done));
    assert!(told.is_sorted() && told.len() >= 3, "{told:?}");
    assert_eq!(told.last(), Some(&addresses.len()));
}

#[test]
fn the_kernels_own_functions_have_names_where_it_shows_them() {
    let list = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let wanted = list.lines().find_map(|line| line.strip_suffix(" T schedule").or(line.strip_suffix(" t do_exit")));
    let Some(start) = wanted.and_then(|start| u64::from_str_radix(start, 16).ok()).filter(|start| *start != 0) else {
        return eprintln!("skipped: the kernel hides its addresses from this user");
    };
    let named = Symboliser::new(limits()).kernel(&[start + 1, 0x1000]);
    assert!(matches!(functions(&named[0])[..], ["schedule" | "do_exit"]), "{named:?}");
    assert_eq!(named[1], Named::missing(missing::NOT_COVERED));
}
