//! Merges a thread's Python frames into its native ones. Pure.
//!
//! A native frame in the evaluator stands for a run of Python frames, which takes its place. Both lists are innermost first. How
//! long a run is depends on the version ([`Runs`]). There can be more evaluators than runs (the evaluator was entered, and its
//! frame not yet linked; or it was unlinked already) or fewer (a native stack that is cut, or has a gap from a rescue).

use tracer_common::python::{PythonFrame, walk};

use super::layout::{Interpreter, Runs};
use crate::unwind::UserFrame;

/// One frame of the merged stack: an index into one of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// A native frame.
    Native(usize),
    /// A Python frame.
    Python(usize),
}

/// The merged stack, innermost first, and whether it is a misfit: where the native frames stand between the Python frames is
/// partly a guess then.
///
/// `native_whole`: the native frames reach the thread's start. If they do not, the outer evaluators are missing, and what they ran
/// follows behind the last native frame. All Python frames but shims appear once and in order, all native frames that are not of
/// the evaluator too.
pub fn merge(
    native: &[UserFrame],
    native_whole: bool,
    python: &[PythonFrame],
    python_end: u8,
    interpreter: &Interpreter,
) -> (Vec<Merged>, bool) {
    let runs = runs(python, interpreter);
    let evals = native.iter().filter(|frame| interpreter.is_eval(frame.address)).count();
    let python_whole = python_end == walk::WHOLE;
    // Outer ends meet where both are there. Otherwise the inner ends do.
    let from_outer = python_whole && (native_whole || evals > runs.len());
    let missing = runs.len().saturating_sub(evals);
    let spare = evals.saturating_sub(runs.len());
    let (unplaced_inner, unused_inner) = if from_outer { (missing, spare) } else { (0, 0) };
    let misfit = unplaced_inner > 0 || (missing > 0 && native_whole);
    let mut merger = Merger { runs: runs.into_iter(), merged: Vec::with_capacity(native.len() + python.len()) };
    let mut seen = 0;
    for (index, frame) in native.iter().enumerate() {
        if !interpreter.is_eval(frame.address) {
            merger.merged.push(Merged::Native(index));
            continue;
        }
        if seen == unused_inner {
            merger.take(unplaced_inner);
        }
        let is_placed = seen >= unused_inner && merger.evaluator(native, index, interpreter);
        if !is_placed {
            merger.merged.push(Merged::Native(index));
        }
        seen += 1;
    }
    merger.take(usize::MAX);
    (merger.merged, misfit)
}

struct Merger {
    runs: std::vec::IntoIter<Vec<usize>>,
    merged: Vec<Merged>,
}

impl Merger {
    /// Writes the next runs, which have no native frame.
    fn take(&mut self, count: usize) {
        for run in self.runs.by_ref().take(count) {
            self.merged.extend(run.into_iter().map(Merged::Python));
        }
    }

    /// Writes the next run instead of the native frame `index`; false: there is none, or it holds nothing but a shim.
    fn evaluator(&mut self, native: &[UserFrame], index: usize, interpreter: &Interpreter) -> bool {
        let Some(run) = self.runs.next().filter(|run| !run.is_empty()) else { return false };
        if interpreter.tail_calls && index > 0 && self.merged.last() == Some(&Merged::Native(index - 1)) {
            // What the evaluator called is one of its own instructions, as long as it lies in the same file.
            let (inner, own) = (&native[index - 1], &native[index]);
            if inner.module == own.module && !inner.rescued && !interpreter.is_eval(inner.address) {
                self.merged.pop();
            }
        }
        self.merged.extend(run.into_iter().map(Merged::Python));
        true
    }
}

/// The runs, innermost first, without shims: a run that held nothing else is empty.
fn runs(python: &[PythonFrame], interpreter: &Interpreter) -> Vec<Vec<usize>> {
    let mut runs = Vec::new();
    let mut run = Vec::new();
    for (index, frame) in python.iter().enumerate() {
        let is_shim = interpreter.is_shim(frame);
        if !is_shim {
            run.push(index);
        }
        let ends = match interpreter.runs() {
            Runs::Single => true,
            Runs::AtEntry => frame.owner != 0,
            Runs::AtShim => is_shim,
        };
        if ends {
            runs.push(std::mem::take(&mut run));
        }
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
