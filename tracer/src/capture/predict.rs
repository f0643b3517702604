//! How the payload words of one group of records are predicted from earlier records, and the choice of it by sampling.
//!
//! A word is stored as it is, or XORed with a word of the previous record on the same CPU (who leaves the CPU now is who got it
//! then), or with the same word of the last record that had the same value in the group's key word (a thread mostly waits in
//! the call in which it waited last). Which one pays is measured on the records, so nothing here knows what a record means.

use crate::pipeline::batch::{Batch, header};

/// Payload words start behind the header.
pub(super) const FIRST_WORD: usize = 4;
/// Longest record that is stored by columns: its word numbers fit a byte, with room for the two other codes.
pub(super) const MAX_COLUMN_BYTES: usize = 960;
/// Records looked at to choose a plan.
const SAMPLES: usize = 1024;
/// Words of the previous record that are tried for a word.
const MAX_TRIED_WORDS: usize = 24;
/// Words that are tried as the key.
const MAX_TRIED_KEYS: usize = 6;
/// Slots of the table from key to record. Keys may share a slot: that costs bytes, never correctness.
pub(super) const KEY_SLOTS: usize = 4096;

/// Where the prediction of one word comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Predicted as 0.
    Plain,
    /// The same word of the last record of the group with the same key.
    SameKey,
    /// This word of the previous record on the same CPU, of whichever group.
    SameCpu(u8),
}

impl Source {
    pub(super) fn code(self) -> u8 {
        match self {
            Source::Plain => 0,
            Source::SameKey => 1,
            Source::SameCpu(word) => word.saturating_add(2),
        }
    }

    pub(super) fn from_code(code: u8) -> Self {
        match code {
            0 => Source::Plain,
            1 => Source::SameKey,
            word => Source::SameCpu(word - 2),
        }
    }
}

/// The plan of one group: a source for each word from [`FIRST_WORD`] on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The word whose value finds the record for [`Source::SameKey`]; never predicted by it.
    pub key: Option<u8>,
    pub sources: Vec<Source>,
}

/// The four bytes of a word; 0 where the record has none.
pub(super) fn word(record: &[u8], index: usize) -> u32 {
    let at = index * 4;
    record.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// The slot of a key.
pub(super) fn key_slot(key: u32) -> usize {
    (key.wrapping_mul(0x9E37_79B1) >> 20) as usize % KEY_SLOTS
}

/// One record of the sample, with the record before it on its CPU.
struct Sample<'a> {
    record: &'a [u8],
    same_cpu: &'a [u8],
}

/// Chooses the plan for the records whose entry in `groups` is `group`, each of `len_bytes`.
pub(super) fn choose(batch: &Batch, groups: &[u8], group: u8, plain: u8, len_bytes: usize) -> Plan {
    let samples = sample(batch, groups, group, plain);
    let words = len_bytes / 4;
    let cost = Cost::new(samples.len());
    let mut best_alone = Vec::new();
    for index in FIRST_WORD..words {
        let mut best = (cost.of(samples.iter().map(|s| word(s.record, index))), Source::Plain);
        for other in FIRST_WORD..words.min(FIRST_WORD + MAX_TRIED_WORDS) {
            if best.0 == 0 {
                break;
            }
            let tried = cost.of(samples.iter().map(|s| word(s.record, index) ^ word(s.same_cpu, other)));
            if is_worth(tried, best.0) {
                best = (tried, Source::SameCpu(other as u8));
            }
        }
        best_alone.push(best);
    }
    let total = |choice: &[(u64, Source)]| choice.iter().map(|(bits, _)| bits).sum::<u64>();
    let mut best = (None, best_alone.clone());
    for key in FIRST_WORD..words.min(FIRST_WORD + MAX_TRIED_KEYS) {
        let with_key = choose_with_key(&samples, key, &best_alone, &cost);
        if total(&with_key) < total(&best.1) {
            best = (Some(key as u8), with_key);
        }
    }
    Plan { key: best.0, sources: best.1.into_iter().map(|(_, source)| source).collect() }
}

fn sample<'a>(batch: &'a Batch, groups: &[u8], group: u8, plain: u8) -> Vec<Sample<'a>> {
    let mut last_on_cpu: Vec<&[u8]> = Vec::new();
    let mut samples = Vec::new();
    for (record, &of) in batch.iter().zip(groups) {
        let Some(header) = header(record).filter(|_| of != plain) else { continue };
        let cpu = usize::from(header.cpu);
        if last_on_cpu.len() <= cpu {
            last_on_cpu.resize(cpu + 1, &[]);
        }
        let same_cpu = std::mem::replace(&mut last_on_cpu[cpu], record);
        if of == group {
            samples.push(Sample { record, same_cpu });
            if samples.len() == SAMPLES {
                break;
            }
        }
    }
    samples
}

fn choose_with_key(samples: &[Sample], key: usize, alone: &[(u64, Source)], cost: &Cost) -> Vec<(u64, Source)> {
    let mut table: Vec<&[u8]> = vec![&[]; KEY_SLOTS];
    let same_key: Vec<&[u8]> =
        samples.iter().map(|s| std::mem::replace(&mut table[key_slot(word(s.record, key))], s.record)).collect();
    let mut choice = alone.to_vec();
    for (offset, best) in choice.iter_mut().enumerate() {
        let index = FIRST_WORD + offset;
        if index == key || best.0 == 0 {
            continue;
        }
        let residues = samples.iter().zip(&same_key).map(|(s, last)| word(s.record, index) ^ word(last, index));
        let tried = cost.of(residues);
        if is_worth(tried, best.0) {
            *best = (tried, Source::SameKey);
        }
    }
    choice
}

/// Estimates what a column of words will cost: the sum of its four byte columns' entropies.
struct Cost {
    /// n * log2(n) in 1/256 bit.
    n_log_n: Vec<u64>,
}

impl Cost {
    fn new(samples: usize) -> Self {
        let n_log_n = (0..=samples).map(|n| if n < 2 { 0 } else { (n as f64 * (n as f64).log2() * 256.0) as u64 });
        Cost { n_log_n: n_log_n.collect() }
    }

    fn of(&self, words: impl Iterator<Item = u32>) -> u64 {
        let mut counts = [[0u16; 256]; 4];
        let mut all = 0usize;
        for word in words {
            for (count, byte) in counts.iter_mut().zip(word.to_le_bytes()) {
                count[usize::from(byte)] += 1;
            }
            all += 1;
        }
        let log = |n: usize| self.n_log_n.get(n).copied().unwrap_or(0);
        let told: u64 = counts.iter().flatten().map(|n| log(usize::from(*n))).sum();
        (4 * log(all)).saturating_sub(told)
    }
}

/// Whether a prediction saves more than chance would: of two plans for noise one always looks a little better.
fn is_worth(predicted: u64, before: u64) -> bool {
    predicted + before / 32 < before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::batch::header_bytes;
    use tracer_common::record::Header;

    fn record(cpu: u16, words: [u32; 4]) -> Vec<u8> {
        let mut bytes = header_bytes(Header { ts_ns: 0, kind: 0x101, cpu, lost: 0 }).to_vec();
        words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes
    }

    #[test]
    fn the_choice_finds_chains_on_a_cpu_and_habits_of_a_key() {
        let mut batch = Batch::new();
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 8
        };
        let mut on_cpu = [0u32; 2];
        for index in 0..2000 {
            let cpu = index % 2;
            let next = random() % 50 + 1000;
            let noise = random();
            batch.push(&record(cpu as u16, [on_cpu[cpu], next, on_cpu[cpu].wrapping_mul(77_777), noise]));
            on_cpu[cpu] = next;
        }
        let plan = choose(&batch, &vec![0; 2000], 0, 255, 32);
        assert_eq!(plan.sources[0], Source::SameCpu(5), "who leaves is who came: {plan:?}");
        assert_eq!(plan.sources[1], Source::Plain, "who comes is chance: {plan:?}");
        assert_eq!((plan.key, plan.sources[2]), (Some(4), Source::SameKey), "a function of who leaves: {plan:?}");
        assert_ne!(plan.sources[3], Source::SameKey, "noise stays noise: {plan:?}");
    }

    #[test]
    fn sources_survive_their_codes() {
        for code in 0..=255 {
            assert_eq!(Source::from_code(code).code(), code);
        }
    }
}
