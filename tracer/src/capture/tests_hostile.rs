//! Tests with bytes that no writer wrote: cut off, flipped, mutated, random. Nothing may panic, grow without bound, or pass as
//! records that were never written.

use super::format::{CHUNK_HEADER_BYTES, FILE_HEADER_BYTES};
use super::simulate::{Random, ball_game, mixed};
use super::tests::{read, records_of, rotated_capture, written};
use super::*;
use proptest::prelude::*;

#[test]
fn every_truncation_gives_a_prefix_and_a_cut() {
    let batches = [ball_game(120)];
    let bytes = written(&batches, Options { chunk_bytes: 2000, ..Options::default() });
    let all = records_of(&batches);
    for len in 0..bytes.len() {
        match read(&bytes[..len]) {
            Err(error) => assert!(len < FILE_HEADER_BYTES as usize, "cut at {len}: {error}"),
            Ok(read) => {
                assert!(all.starts_with(&read.records), "cut at {len}: not a prefix");
                assert!(read.cut.is_some() && !read.stats.complete, "cut at {len}: nobody says so");
            }
        }
    }
}

#[test]
fn no_flipped_bit_goes_unnoticed_or_harms() {
    let batches = [ball_game(30), mixed(60)];
    let bytes = written(&batches, Options { chunk_bytes: 2000, ..Options::default() });
    let all = records_of(&batches);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match read(&flipped) {
            Err(_) => assert!(bit / 8 < FILE_HEADER_BYTES as usize, "bit {bit}: no error behind the file header"),
            Ok(read) => {
                assert!(all.starts_with(&read.records), "bit {bit}: wrong records");
                assert!(read.cut.is_some(), "bit {bit} flipped unnoticed");
            }
        }
    }
}

/// Changes some bytes; with `sealed` it then makes all checksums right again, so that the code behind them is reached.
fn mutate(bytes: &[u8], random: &mut Random, sealed: bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.between(1, 6) {
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(6) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at.max(1)),
            3 => {
                bytes.insert(at, random.next() as u8);
            }
            4 => {
                let end = (at + 8).min(bytes.len());
                bytes[at..end].fill([0, 0xff, 0x80, 1][random.below(4) as usize]);
            }
            _ => {
                let from = random.below(bytes.len() as u64) as usize;
                let len = random.below(64).min((bytes.len() - at.max(from)) as u64) as usize;
                bytes.copy_within(from..from + len, at);
            }
        }
    }
    if sealed {
        let seal = |bytes: &mut [u8]| {
            if let Ok(header) = <&mut [u8; 64]>::try_from(bytes) {
                format::seal(header);
            }
        };
        bytes.get_mut(..64).into_iter().for_each(seal);
        let mut at = FILE_HEADER_BYTES as usize;
        while at + CHUNK_HEADER_BYTES <= bytes.len() {
            let stored = u32::from_le_bytes([bytes[at + 32], bytes[at + 33], bytes[at + 34], bytes[at + 35]]) as usize;
            let body_at = at + CHUNK_HEADER_BYTES;
            let end = body_at.saturating_add(stored).min(bytes.len());
            let crc = crc32fast::hash(&bytes[body_at..end]);
            bytes[at + 36..at + 40].copy_from_slice(&crc.to_le_bytes());
            seal(&mut bytes[at..at + 64]);
            at = end;
        }
    }
    bytes
}

#[test]
fn thousands_of_mutated_captures_are_read_without_harm() {
    let plain = written(&[ball_game(40), mixed(80)], Options { chunk_bytes: 2500, ..Options::default() });
    let rotated = rotated_capture(3_000).0;
    let mut random = Random(42);
    for round in 0..4_000 {
        let original = if round % 8 == 0 { &rotated } else { &plain };
        let bytes = mutate(original, &mut random, round % 2 == 0);
        if let Ok(read) = read(&bytes) {
            assert!(read.records.len() < 100_000, "round {round}: records out of nothing");
        }
    }
}

#[test]
fn thousands_of_mutated_bodies_are_unpacked_without_harm() {
    let mut random = Random(99);
    let mut packer = columns::Packer::new(1).expect("a packer");
    let mut unharmed = 0;
    for round in 0..3_000 {
        let (batch, mut packed) = (mixed(40), Vec::new());
        let raw_bytes = packer.pack(&batch, &mut packed).expect("packed");
        let mut raw = zstd::bulk::decompress(&packed, raw_bytes).expect("unpacked");
        // The description is in front: most changes go there.
        let reach = if round % 3 == 0 { raw.len() } else { raw.len().min(180) };
        for _ in 0..random.between(1, 4) {
            let at = random.below(reach as u64) as usize;
            raw[at] = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.below(6) as usize];
        }
        let packed = zstd::bulk::compress(&raw, 1).expect("packed again");
        unharmed += usize::from(columns::unpack(&packed, raw.len(), batch.len()).is_some());
    }
    assert!(unharmed > 0 && unharmed < 3_000, "{unharmed} of 3000 still unpack: the test reaches neither side");
}

#[test]
fn a_chunk_of_a_newer_tracer_is_skipped_and_counted() {
    let mut bytes = written(&[ball_game(120)], Options { chunk_bytes: 2000, ..Options::default() });
    let first = &mut bytes[FILE_HEADER_BYTES as usize..][..CHUNK_HEADER_BYTES];
    first[4] = 200;
    if let Ok(header) = <&mut [u8; 64]>::try_from(first) {
        format::seal(header);
    }
    let read = read(&bytes).expect("opens");
    assert_eq!((read.stats.unknown_chunks, read.cut, read.stats.complete), (1, None, true));
    assert_eq!(read.stats.records + read.stats.missing_records, 120);
}

#[test]
fn a_small_file_that_unpacks_to_much_is_bounded_by_what_it_declares() {
    let packed = zstd::bulk::compress(&vec![0u8; 8 << 20], 19).expect("packed");
    assert!(columns::unpack(&packed, 1 << 10, 0).is_none(), "more than the declared 1 KiB");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_no_harm(start in 0usize..3, bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let good = written(&[], Options::default());
        let mut file = good[..[0, 8, 64][start]].to_vec();
        file.extend_from_slice(&bytes);
        if let Ok(read) = read(&file) {
            prop_assert!(read.records.is_empty(), "records out of nothing");
        }
    }
}
