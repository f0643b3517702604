//! A rotated capture defines the stacks of its samples, whenever it is read.

use super::simulate::Random;
use super::tests::{batch_of, read, record};
use super::*;
use crate::model::event::{Event, Meta};
use crate::model::meta::{FrameRecord, ModuleRecord, StackRecord, SymbolName, SymbolRecord};
use crate::pipeline::decode::decode;
use std::collections::HashSet;
use std::io::Cursor;
use tracer_common::record::{cpu, meta, sched};

fn json(kind: u16, payload: &impl serde::Serialize) -> Vec<u8> {
    record(kind, 0, 1, &serde_json::to_vec(payload).expect("plain data"))
}

fn definitions(stacks: u32) -> Vec<Vec<u8>> {
    let mut records =
        vec![json(meta::MODULE, &ModuleRecord { id: 1, path: "/bin/a".to_owned(), ..ModuleRecord::default() })];
    for number in 1..=stacks {
        let frame = FrameRecord { id: number, module: Some(1), address: u64::from(number), ..FrameRecord::default() };
        let name = SymbolName { function: format!("f{number}"), ..SymbolName::default() };
        let symbol = SymbolRecord { frame: number, names: vec![name], ..SymbolRecord::default() };
        // Each stack shares a frame with the one before it.
        let frames = vec![number, number.max(2) - 1];
        let stack = StackRecord { id: 1000 + u64::from(number), frames, ..StackRecord::default() };
        records.extend([json(meta::FRAME, &frame), json(meta::SYMBOL, &symbol), json(meta::STACK, &stack)]);
    }
    records
}

fn sample(ts_ns: u64, stack: u64) -> Vec<u8> {
    let mut payload = [0; 32];
    payload[8..16].copy_from_slice(&stack.to_le_bytes());
    payload[28] = 1;
    record(cpu::SAMPLED, 0, ts_ns, &payload)
}

/// What samples refer to and nothing that was read defines; and how many samples there are.
fn dangling(records: &[Vec<u8>]) -> (Vec<String>, u64) {
    let (mut modules, mut frames, mut symbols, mut stacks) =
        (HashSet::new(), HashSet::new(), HashSet::new(), HashSet::new());
    let (mut used, mut lacks, mut samples) = (HashSet::new(), Vec::new(), 0);
    for record in records {
        match decode(record) {
            Ok(Event::Sampled(sampled)) => {
                samples += 1;
                used.insert(sampled.stack);
            }
            Ok(Event::Meta(_, meta)) => match *meta {
                Meta::Module(module) => drop(modules.insert(module.id)),
                Meta::Frame(frame) => drop(frames.insert((frame.id, frame.module))),
                Meta::Symbol(symbol) => drop(symbols.insert(symbol.frame)),
                Meta::Stack(stack) => drop(stacks.insert((stack.id, stack.frames))),
                _ => {}
            },
            _ => {}
        }
    }
    let of_id = |id: &u64| stacks.iter().find(|(known, _)| known == id);
    for id in &used {
        let Some((_, numbers)) = of_id(id) else {
            lacks.push(format!("stack {id}"));
            continue;
        };
        for number in numbers {
            let defined =
                frames.iter().any(|(known, module)| known == number && module.is_none_or(|m| modules.contains(&m)));
            if !defined || !symbols.contains(number) {
                lacks.push(format!("frame {number} of stack {id}"));
            }
        }
    }
    (lacks, samples)
}

#[test]
fn every_sample_of_a_rotated_capture_is_defined_in_it_at_every_moment() {
    let options = Options { max_bytes: Some(LEAST_MAX_BYTES), chunk_bytes: 8 << 10, ..Options::default() };
    let mut writer = Writer::new(Cursor::new(Vec::new()), "t", options).expect("a writer");
    writer.write(&batch_of(&definitions(60))).expect("written");
    let (mut random, mut previous, mut seen) = (Random(3), 0, 0);
    for number in 0..2_000u64 {
        let mut records: Vec<Vec<u8>> = (0..10)
            .map(|_| record(sched::FORK, 0, number, &(0..16).map(|_| random.next() as u8).collect::<Vec<_>>()))
            .collect();
        // Few stacks often, the others seldom: some are not used for several segments.
        let stack = if random.below(10) > 0 { random.below(3) } else { random.below(60) };
        records.push(sample(number, 1001 + stack));
        writer.write(&batch_of(&records)).expect("written");
        let stats = writer.stats();
        if stats.chunks == previous {
            continue;
        }
        previous = stats.chunks;
        let read = read(writer.sink().get_ref()).expect("opens");
        let (lacks, samples) = dangling(&read.records);
        assert_eq!(lacks, Vec::<String>::new(), "after {number} rounds, of {samples} samples");
        seen += samples;
    }
    let stats = writer.finish().expect("finished");
    assert!(stats.rotated_chunks > 20 && seen > 1_000, "{stats:?}, {seen} samples looked at");
    assert_eq!((stats.unpinned_records, stats.failed_records), (0, 0));
}

#[test]
fn an_unbounded_capture_defines_nothing_twice() {
    let mut records = definitions(20);
    records.extend((0..2_000).map(|number| sample(number, 1001 + number % 20)));
    let bytes = super::tests::written(&[batch_of(&records)], Options { chunk_bytes: 4096, ..Options::default() });
    assert!(read(&bytes).expect("opens").records == records, "the records as they were given, no more");
}
