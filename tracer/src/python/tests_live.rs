//! Live interpreters, whose memory is read as tracer reads it. No eBPF, no rights beyond those over an own child.
//!
//! On a thread that runs, the walk in user space would see several moments at once; the programs walk on the thread's own CPU. So
//! here the child is stopped at arbitrary moments, which is what the programs see. What sleeps is read without stopping it.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use tracer_common::python::{WALKED_FRAMES, walk as end};

use super::{
    Codes, Detected, Detector, Interpreter, Missing, ProcessMemory, PyName,
    testing::{self, Program},
    walk,
};
use crate::process::{AddressSpace, Modules};

const FILES: [(&str, &str); 2] = [
    ("chain_main.py", include_str!("test_data/chain_main.py")),
    ("chain_lib.py", include_str!("test_data/chain_lib.py")),
];
/// Moments at which the child is stopped.
const MOMENTS: u32 = 200;
/// Looks at what sleeps.
const LOOKS: u32 = 40;

/// A running interpreter and what is known of it.
struct Subject {
    child: Child,
    folder: PathBuf,
    threads: BTreeMap<String, u64>,
    interpreter: Interpreter,
    memory: ProcessMemory,
    codes: Codes,
    /// Looks at threads that were entering the evaluator.
    unset: u32,
}

impl Subject {
    fn start(program: &Program) -> Self {
        let temporary = format!("tracer-python-{}", std::process::id());
        let folder = match &program.root {
            Some(root) => root.join("tmp").join(&temporary),
            None => std::env::temp_dir().join(&temporary),
        };
        fs::create_dir_all(&folder).expect("a folder");
        for (name, text) in FILES {
            fs::write(folder.join(name), text).expect("a script");
        }
        let mut command = match &program.root {
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(&program.path).arg("-B").arg(format!("/tmp/{temporary}/chain_main.py"));
                command
            }
            None => {
                let mut command = Command::new(&program.path);
                command.arg("-B").arg(folder.join("chain_main.py"));
                command
            }
        };
        command.stdout(Stdio::piped());
        let mut child = command.spawn().expect("the interpreter");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut threads = BTreeMap::new();
        while threads.len() < 4 {
            let line = lines.next().expect("a line of each thread").expect("text");
            let (name, pointer) = line.split_once(' ').expect("name and number");
            threads.insert(name.to_owned(), pointer.parse().expect("a number"));
        }
        // The pipe stays open: nothing is written any more.
        std::mem::forget(lines);
        let mut memory = ProcessMemory::open(child.id()).expect("its memory");
        let space = AddressSpace::read(child.id(), &mut Modules::new()).expect("its maps");
        let detected = Detector::new().detect(&space, &mut memory);
        let Detected::Python(interpreter) = detected else { panic!("{}: {detected:?}", program.path.display()) };
        Self { child, folder, threads, interpreter: *interpreter, memory, codes: Codes::new(), unset: 0 }
    }

    /// The named frames of a thread, innermost first, shims left out; and how the walk ended.
    fn stack(&mut self, thread: &str) -> (Vec<PyName>, u8) {
        let (frames, end) = walk(&mut self.memory, &self.interpreter.process, self.threads[thread]);
        let mut names = Vec::new();
        for frame in &frames {
            match self.codes.frame(&mut self.memory, self.child.id(), &self.interpreter, frame) {
                Ok(name) => names.push(name),
                Err(Missing::Shim) => {}
                Err(missing) => panic!("{thread}: {frame:x?}: {missing}, behind {names:?}, of {frames:x?}"),
            }
        }
        (names, end)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn each_interpreter_here_gives_the_frames_that_its_program_has() {
    let (found, missing) = testing::interpreters();
    println!("not here: {}", missing.iter().map(|minor| format!("3.{minor} ")).collect::<String>());
    for (minor, program) in found {
        let mut subject = Subject::start(&program);
        assert_eq!(subject.interpreter.version.minor, minor, "{}", program.path.display());
        let looks = asleep(&mut subject);
        cut(&mut subject);
        let frames = stopped(&mut subject);
        exited(&mut subject);
        let (version, unset) = (subject.interpreter.version, subject.unset);
        println!(
            "{version}: {looks} looks at what sleeps, {frames} frames of stopped threads right; {unset} times the thread was entering the evaluator"
        );
    }
}

/// What sleeps is read while other threads run: all of its chain, function, file and line.
fn asleep(subject: &mut Subject) -> u32 {
    let qualified = subject.interpreter.version.minor >= 11;
    let method = if qualified { "Outer.Inner.sleep" } else { "sleep" };
    let expected = [vec!["sleeping"], vec!["recurse"; 21], vec![method, "main", "<module>"]].concat();
    let mut right = 0;
    // It says that it is about to sleep, and then sleeps.
    std::thread::sleep(Duration::from_millis(50));
    for _ in 0..LOOKS {
        let (names, end) = subject.stack("main");
        let functions: Vec<&str> = names.iter().map(|name| &*name.function).collect();
        assert_eq!(functions, expected, "3.{}", subject.interpreter.version.minor);
        assert_eq!(end, end::WHOLE);
        check(&names);
        let innermost = names[0].line.and_then(|line| text_of(&names[0].file, line)).expect("a line");
        assert!(innermost.contains("time.sleep"), "{innermost}");
        right += 1;
    }
    right
}

fn cut(subject: &mut Subject) {
    let (names, end) = subject.stack("deep");
    assert_eq!(end, end::CUT, "300 levels");
    assert!(names.len() == WALKED_FRAMES && names.iter().all(|name| &*name.function == "deep"), "{names:?}");
}

/// The threads that run are stopped at arbitrary moments.
fn stopped(subject: &mut Subject) -> usize {
    let mut frames = 0;
    for moment in 0..MOMENTS {
        std::thread::sleep(Duration::from_micros(u64::from(moment % 7) * 211));
        kill(subject.pid(), Signal::SIGSTOP).expect("stop");
        waitpid(subject.pid(), Some(WaitPidFlag::WUNTRACED)).expect("stopped");
        for thread in ["running", "dozing"] {
            let (names, end) = subject.stack(thread);
            if end == end::UNREADABLE && matches!(subject.interpreter.version.minor, 11 | 12) {
                assert!(names.is_empty(), "{names:?}");
                subject.unset += 1;
                continue;
            }
            assert_eq!(end, end::WHOLE, "{names:?}");
            let outermost = names.last().expect("frames");
            assert!(outermost.function.ends_with("_bootstrap"), "{names:?}");
            check(&names);
            frames += names.len();
        }
        kill(subject.pid(), Signal::SIGCONT).expect("go on");
    }
    frames
}

/// Names that were read stay known when the process is gone; what was not read is missing.
fn exited(subject: &mut Subject) {
    let (frames, _) = walk(&mut subject.memory, &subject.interpreter.process, subject.threads["main"]);
    subject.child.kill().expect("kill");
    subject.child.wait().expect("its end");
    let pid = subject.child.id();
    let known = subject.codes.frame(&mut subject.memory, pid, &subject.interpreter, &frames[0]);
    assert_eq!(known.map(|name| name.function.to_string()), Ok("sleeping".to_owned()));
    subject.codes.forget(pid);
    let gone = subject.codes.frame(&mut subject.memory, pid, &subject.interpreter, &frames[0]);
    assert_eq!(gone, Err(Missing::Unreadable));
    let again = walk(&mut subject.memory, &subject.interpreter.process, subject.threads["main"]);
    assert_eq!(again, (Vec::new(), end::UNREADABLE));
}

/// Each frame in the two files: its line says that it calls the next inner function, or, if there is none, lies in the function.
fn check(names: &[PyName]) {
    for (index, name) in names.iter().enumerate() {
        let Some(line) = name.line else {
            // Where a generator ends there is no line, in the interpreter's own opinion.
            assert!(index == 0 && &*name.function == "generate", "{}: no line, in {names:?}", name.function);
            continue;
        };
        let Some(text) = text_of(&name.file, line) else { continue };
        match index.checked_sub(1) {
            None => {
                assert!(belongs(&name.file, line, last_part(&name.function)), "{text:?} is of another, in {names:?}")
            }
            Some(inner) => {
                let inner = &names[inner];
                let calls = text.split_once("# -> ").map_or("", |(_, calls)| calls);
                let is_called = calls
                    .split_whitespace()
                    .any(|callee| callee == &*inner.function || last_part(callee) == &*inner.function);
                // Python code of the standard library is called by lines without such a note.
                assert!(is_called || text_of(&inner.file, 1).is_none(), "{text:?} calls {inner:?}, in {names:?}");
            }
        }
    }
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn text_of(file: &str, line: u32) -> Option<&'static str> {
    let (_, text) = FILES.iter().find(|(name, _)| file.ends_with(name))?;
    text.lines().nth(line as usize - 1)
}

/// Does a line belong to a function? The line of its head (or of its decorator) does, and is run by the enclosing one as well.
fn belongs(file: &str, line: u32, function: &str) -> bool {
    let text = text_of(file, line).unwrap_or("");
    let head = if text.trim_start().starts_with('@') { line + 1 } else { line };
    let name = text_of(file, head).and_then(head_of);
    name == Some(function) || enclosing(file, line) == Some(function)
}

fn enclosing(file: &str, line: u32) -> Option<&'static str> {
    let indent = |text: &str| text.len() - text.trim_start().len();
    let own = indent(text_of(file, line)?);
    let above = (1..line).rev().filter_map(|number| text_of(file, number));
    above.filter(|text| indent(text) < own).find_map(head_of)
}

fn head_of(text: &'static str) -> Option<&'static str> {
    Some(text.trim_start().strip_prefix("def ")?.split_once('(')?.0)
}
