//! Definitions that samples refer to, so that rotation does not lose them: MODULE, FRAME, STACK and SYMBOL records come once in a
//! stream, and any later sample may need them. Each segment of a bounded capture gets those that its own samples need, again, in
//! front of the first that does. Kept in memory up to [`MAX_BYTES`]; what found no room is counted.

use std::collections::HashMap;

use tracer_common::record::{HEADER_BYTES, cpu, meta};
use tracer_common::stack::Sampled;

use crate::model::event::Event;
use crate::model::meta::{FrameRecord, ModuleRecord, StackRecord, SymbolRecord};
use crate::pipeline::batch::{Batch, header};
use crate::pipeline::decode::decode;

/// Bytes of definitions kept.
pub(super) const MAX_BYTES: usize = 48 << 20;

/// What tells a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Module(u32),
    Frame(u32),
    Symbol(u32),
    Stack(u64),
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    start: usize,
    len_bytes: usize,
    /// The segment that last got it, counted from the start of the capture.
    lap: u64,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Defined {
    arena: Vec<u8>,
    slots: HashMap<Key, Slot>,
    /// The segment being written, counted from the start of the capture.
    lap: u64,
    /// Definitions that found no room.
    pub(super) refused: u64,
}

impl Defined {
    /// Takes a copy of the record if it is a definition.
    pub(super) fn look_at(&mut self, record: &[u8]) {
        let Some(key) = key(record) else { return };
        if self.arena.len() + record.len() > MAX_BYTES {
            // A name that comes once more replaces the first, also where there is no room for it.
            self.slots.remove(&key);
            self.refused += 1;
            return;
        }
        let slot = Slot { start: self.arena.len(), len_bytes: record.len(), lap: self.lap };
        self.arena.extend_from_slice(record);
        self.slots.insert(key, slot);
    }

    /// A new segment begins: nothing is defined in it yet.
    pub(super) fn turn(&mut self) {
        self.lap += 1;
    }

    /// Adds to `out` what this record needs and the segment lacks; nothing for most records.
    pub(super) fn needed(&mut self, record: &[u8], out: &mut Batch) {
        let is_sample = header(record).is_some_and(|header| header.kind == cpu::SAMPLED);
        if !is_sample || self.lap == 0 {
            return;
        }
        let Ok(Event::Sampled(Sampled { stack, .. })) = decode(record) else { return };
        let known = self.slots.get(&Key::Stack(stack)).copied();
        let Some(slot) = known.filter(|slot| slot.lap != self.lap) else { return };
        let Some(definition) = self.bytes(slot).and_then(parse::<StackRecord>) else { return };
        if let Some(module) = definition.at_module {
            self.again(Key::Module(module), out);
        }
        for number in definition.frames {
            self.frame_again(number, out);
        }
        self.again(Key::Stack(stack), out);
    }

    fn frame_again(&mut self, number: u32, out: &mut Batch) {
        let Some(slot) = self.slots.get(&Key::Frame(number)).copied().filter(|slot| slot.lap != self.lap) else {
            return;
        };
        let frame = self.bytes(slot).and_then(parse::<FrameRecord>);
        if let Some(module) = frame.and_then(|frame| frame.module) {
            self.again(Key::Module(module), out);
        }
        self.again(Key::Frame(number), out);
        self.again(Key::Symbol(number), out);
    }

    fn again(&mut self, key: Key, out: &mut Batch) {
        let lap = self.lap;
        let Some(slot) = self.slots.get_mut(&key).filter(|slot| slot.lap != lap) else { return };
        slot.lap = lap;
        if let Some(record) = self.arena.get(slot.start..slot.start + slot.len_bytes) {
            out.push(record);
        }
    }

    fn bytes(&self, slot: Slot) -> Option<&[u8]> {
        self.arena.get(slot.start..slot.start + slot.len_bytes)
    }
}

fn parse<T: serde::de::DeserializeOwned>(record: &[u8]) -> Option<T> {
    serde_json::from_slice(record.get(HEADER_BYTES..)?).ok()
}

fn key(record: &[u8]) -> Option<Key> {
    Some(match header(record)?.kind {
        meta::MODULE => Key::Module(parse::<ModuleRecord>(record)?.id),
        meta::FRAME => Key::Frame(parse::<FrameRecord>(record)?.id),
        meta::SYMBOL => Key::Symbol(parse::<SymbolRecord>(record)?.frame),
        meta::STACK => Key::Stack(parse::<StackRecord>(record)?.id),
        _ => return None,
    })
}
