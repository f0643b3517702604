//! The unwinder over stacks of real programs, compiled and stopped by the tests themselves (`recorder`, `programs`, `live`), and
//! over nonsense (`hostile`).

mod hostile;
mod live;
mod made;
mod programs;
mod recorder;
