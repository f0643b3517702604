//! Streams of switch records as real ones look, for tests that measure. A fixed seed: the same bytes in each run.

use crate::pipeline::batch::{Batch, header_bytes};
use tracer_common::record::{Header, sched};

/// A small generator of pseudo-random numbers (xorshift64*).
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound.max(1)
    }

    /// From `from` up to but without `to`.
    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }

    /// A positive number whose logarithm is about evenly spread.
    pub(super) fn spread(&mut self, from: u64, doublings: u64) -> u64 {
        let base = from << self.below(doublings);
        base + self.below(base)
    }
}

/// The fields of a switch that vary.
#[derive(Clone, Copy, Default)]
pub(super) struct Switch {
    pub ts_ns: u64,
    pub cpu: u16,
    pub prev: u32,
    pub next: u32,
    pub waker: u32,
    pub wake_delta_ns: u32,
    pub state: u32,
    pub flags: u16,
    pub syscall: i16,
    pub arg0: u32,
    pub fd_kind: u8,
    pub object: u64,
}

impl Switch {
    pub(super) fn push_to(self, batch: &mut Batch, kind: u16) {
        let mut bytes = [0u8; 96];
        bytes[..16].copy_from_slice(&header_bytes(Header { ts_ns: self.ts_ns, kind, cpu: self.cpu, lost: 0 }));
        for (index, word) in [self.prev, self.next, self.waker, self.wake_delta_ns, self.state].iter().enumerate() {
            bytes[16 + index * 4..20 + index * 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes[36..38].copy_from_slice(&self.flags.to_le_bytes());
        bytes[38..40].copy_from_slice(&self.syscall.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.arg0.to_le_bytes());
        bytes[44] = self.fd_kind;
        bytes[48..56].copy_from_slice(&self.object.to_le_bytes());
        if kind == sched::SWITCH_FUTEX {
            bytes[56..60].copy_from_slice(&128u32.to_le_bytes());
            bytes[60..64].copy_from_slice(&2u32.to_le_bytes());
            bytes[64..68].copy_from_slice(&2u32.to_le_bytes());
            bytes[72..76].copy_from_slice(&self.waker.to_le_bytes());
            bytes[76..80].copy_from_slice(&1u32.to_le_bytes());
            bytes[88..92].copy_from_slice(&1u32.to_le_bytes());
            batch.push(&bytes);
        } else {
            batch.push(&bytes[..56]);
        }
    }
}

/// Two threads that hand a byte to each other through two pipes, both on one CPU.
pub(super) fn ball_game(switches: usize) -> Batch {
    let (mut batch, mut random, mut ts_ns) = (Batch::new(), Random(1), 86_400_000_000_000);
    let ends = [(31_337, 5, 84_511), (31_338, 4, 84_512)];
    for index in 0..switches {
        ts_ns += random.between(1200, 1800);
        let (prev, arg0, inode) = ends[index % 2];
        let next = ends[(index + 1) % 2].0;
        let wake_delta_ns = random.between(300, 800) as u32;
        let switch = Switch {
            ts_ns,
            cpu: 1,
            prev,
            next,
            waker: prev,
            wake_delta_ns,
            state: 1,
            flags: 0b1_0101_0110,
            syscall: 0,
            arg0,
            fd_kind: 2,
            object: inode,
        };
        switch.push_to(&mut batch, sched::SWITCH);
    }
    batch
}

/// Fifty threads on four CPUs: each has two or three calls that it waits in, some waits are futexes, some switches pre-empt,
/// every other switch goes to or comes from the idle task. Records come as a source gives them: per CPU and 100 us.
pub(super) fn mixed(switches: usize) -> Batch {
    let mut random = Random(7);
    let mut habits = Vec::new();
    for thread in 0..50u32 {
        let habit: Vec<(u16, Switch)> = (0..random.between(2, 4))
            .map(|_| {
                let futex = random.below(3) == 0;
                let call = [0, 1, 232, 45, 35, 202][random.below(5) as usize];
                let object = random.between(10_000, 90_000);
                let wait = Switch {
                    prev: 4000 + thread * 3,
                    state: if futex { 8193 } else { 1 },
                    syscall: if futex { 202 } else { call },
                    arg0: if futex { 0x5566_0000 + thread * 64 } else { random.between(3, 40) as u32 },
                    fd_kind: if futex { 0 } else { random.between(1, 5) as u8 },
                    object: if futex { 0x7f55_1234_0000 + object * 64 } else { object },
                    ..Switch::default()
                };
                (if futex { sched::SWITCH_FUTEX } else { sched::SWITCH }, wait)
            })
            .collect();
        habits.push(habit);
    }
    let (mut batch, mut now, mut on_cpu, mut start_ns) = (Batch::new(), [0u64; 4], [None::<usize>; 4], 5_000_000_000);
    now.fill(start_ns);
    while batch.len() < switches {
        start_ns += 100_000;
        for cpu in 0..4 {
            while now[cpu] < start_ns {
                now[cpu] += random.spread(800, 7);
                one_switch(&mut batch, &mut random, &habits, &mut on_cpu[cpu], now[cpu], cpu as u16);
            }
        }
    }
    batch
}

fn one_switch(
    batch: &mut Batch,
    random: &mut Random,
    habits: &[Vec<(u16, Switch)>],
    on_cpu: &mut Option<usize>,
    ts_ns: u64,
    cpu: u16,
) {
    let (kind, mut switch) = match *on_cpu {
        None => (sched::SWITCH, Switch::default()),
        Some(thread) if random.below(8) == 0 => {
            (sched::SWITCH, Switch { prev: 4000 + thread as u32 * 3, flags: 1, ..Switch::default() })
        }
        Some(thread) => {
            let habit = &habits[thread];
            habit[(random.below(habit.len() as u64 + 2) as usize).min(habit.len() - 1)]
        }
    };
    let next = if on_cpu.is_some() && random.below(2) == 0 { None } else { Some(random.below(50) as usize) };
    switch.ts_ns = ts_ns;
    switch.cpu = cpu;
    switch.flags |= 0b100_0110;
    if let Some(next) = next {
        switch.next = 4000 + next as u32 * 3;
        switch.waker = 4000 + random.below(50) as u32 * 3;
        switch.wake_delta_ns = random.spread(500, 6) as u32;
        switch.flags |= 0b1_0001_0000;
    }
    *on_cpu = next;
    switch.push_to(batch, kind);
}
