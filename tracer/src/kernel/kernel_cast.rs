//! The kernel's function by which programs follow any address with a load of one instruction, where it has it (6.2 and later). Calls of
//! such functions name them by their numbers in the running kernel's type information, so these are put into the object before it is
//! loaded. Not here: the loads themselves (`access` in `tracer-ebpf`).

use object::{Object, ObjectSection, SectionKind};
use tracer_common::config::{Config, KERNEL_CAST, KERNEL_CAST_CALL};

use super::btf::Btf;

/// One instruction.
const INSTRUCTION_BYTES: usize = 8;
/// `r0 = 0`, which stands in the place of the call where nothing reaches it: verifiers of old kernels refuse a call of nothing even there.
const NOTHING: [u8; INSTRUCTION_BYTES] = [0xb7, 0, 0, 0, 0, 0, 0, 0];

/// The type by which addresses are called: a struct that begins with a word. `None`: this kernel lacks the function, or the type.
pub fn word_type(btf: &Btf) -> Option<u32> {
    btf.function(KERNEL_CAST)?;
    let word = btf.find_struct("timespec64", &["tv_sec", "tv_nsec"])?;
    (btf.field(word, "tv_sec") == Some(0)).then_some(word.id)
}

/// The object with the function's number in each call, or without the calls where the configuration does without.
pub fn put_in(object: &[u8], btf: Option<&Btf>, config: &Config) -> Vec<u8> {
    let mut bytes = object.to_vec();
    let number = if config.word_type == 0 { None } else { btf.and_then(|btf| btf.function(KERNEL_CAST)) };
    let instruction = number.map_or(NOTHING, |number| {
        let mut call = KERNEL_CAST_CALL;
        call[4..].copy_from_slice(&number.to_le_bytes());
        call
    });
    let sections: Vec<(u64, u64)> = match object::File::parse(object) {
        Ok(file) => {
            let code = file.sections().filter(|section| section.kind() == SectionKind::Text);
            code.filter_map(|section| section.file_range()).collect()
        }
        Err(_) => Vec::new(),
    };
    for (start, length) in sections {
        let Some(code) = bytes.get_mut(start as usize..(start + length) as usize) else { continue };
        for place in code.chunks_exact_mut(INSTRUCTION_BYTES).filter(|place| **place == KERNEL_CAST_CALL) {
            place.copy_from_slice(&instruction);
        }
    }
    bytes
}
