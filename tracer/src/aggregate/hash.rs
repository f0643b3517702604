//! A hasher for small integer keys that the kernel hands out (thread ids, address-space numbers with addresses): one multiply
//! per word. Keys come from the traced host itself, so resistance against chosen collisions is not needed; order of iteration is
//! never used.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map with the hasher of this file.
pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<MultiplyHasher>>;

/// See the file's head.
#[derive(Clone, Copy, Default)]
pub struct MultiplyHasher(u64);

/// 2^64 over the golden ratio: spreads consecutive numbers evenly.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl MultiplyHasher {
    fn mix(&mut self, word: u64) {
        let product = (self.0 ^ word).wrapping_mul(MULTIPLIER);
        // The map takes its bucket from the low bits and its tag from the high ones; a product's entropy is in the high half.
        self.0 = product ^ (product >> 32);
    }
}

impl Hasher for MultiplyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }
}
