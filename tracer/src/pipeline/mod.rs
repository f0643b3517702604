//! From a source to the pure stages: batches, the order of records, the loop. Knows no family.

pub mod analysis;
pub mod batch;
pub mod decode;
