//! From a source to the pure stages: batches, the order of records, decoding, the loop. Knows no family but in `decode`.

pub mod analysis;
pub mod batch;
pub mod decode;
pub mod descriptor;
pub mod order;
pub mod sql;
pub mod statements;
