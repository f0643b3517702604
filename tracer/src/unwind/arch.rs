//! What differs between architectures: which word of the copied registers is which DWARF register, and which of them a function
//! must preserve. A new architecture is a table here and its instructions in `code`.

use tracer_common::stack::REGISTER_WORDS;

use super::Arch;

/// Most registers that a function must preserve, of any architecture, without the return address.
pub(super) const MAX_SAVED: usize = 11;
/// DWARF numbers that are followed are below this.
pub(super) const MAX_REGISTERS: usize = 33;

/// The registers of an architecture, by their DWARF numbers.
#[derive(Debug)]
pub(super) struct Table {
    /// ELF machine number of its files.
    pub machine: u16,
    /// The stack pointer.
    pub sp: u8,
    /// The column of the return address.
    pub ra: u8,
    /// The frame pointer, where code uses one.
    pub frame: u8,
    /// The return address is in a register until a function saves it.
    pub ra_in_register: bool,
    /// Preserved by functions.
    pub saved: &'static [u8],
    /// Word of the instruction pointer.
    pub ip_word: usize,
    /// For each DWARF number from 0 its word.
    words: &'static [u8],
    /// Bits of an address that are one; others may hold a signature of the pointer.
    pub address_mask: u64,
    /// In a signal's frame: from the stack pointer to the saved registers, and for each of them its DWARF number in order.
    pub signal_offset: u64,
    /// See there. [`IP`] stands for the instruction pointer.
    pub signal_words: &'static [u8],
}

/// In [`Table::signal_words`].
pub(super) const IP: u8 = 0xfe;

// rax rdx rcx rbx rsi rdi rbp rsp r8 to r15, then the return address's column, which is no register.
static X86_64: Table = Table {
    machine: object::elf::EM_X86_64,
    sp: 7,
    ra: 16,
    frame: 6,
    ra_in_register: false,
    saved: &[3, 6, 12, 13, 14, 15],
    ip_word: 16,
    words: &[10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0],
    address_mask: u64::MAX,
    // struct ucontext: flags 8, link 8, stack 24, then gregs: r8 to r15, rdi rsi rbp rbx rdx rax rcx rsp rip.
    signal_offset: 40,
    signal_words: &[8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, IP],
};

// x0 to x30, sp.
static AARCH64: Table = Table {
    machine: object::elf::EM_AARCH64,
    sp: 31,
    ra: 30,
    frame: 29,
    ra_in_register: true,
    saved: &[19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29],
    ip_word: 32,
    words: &[
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29,
        30, 31,
    ],
    address_mask: (1 << 48) - 1,
    // siginfo 128, then ucontext: flags 8, link 8, stack 24, mask 128, padding 8, fault address 8; x0 to x30, sp, pc.
    signal_offset: 128 + 176 + 8,
    signal_words: &[
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29,
        30, 31, IP,
    ],
};

impl Table {
    /// The word of a register among the copied ones.
    pub(super) fn word_of(&self, register: u8) -> Option<usize> {
        self.words.get(usize::from(register)).map(|word| usize::from(*word))
    }
}

impl Arch {
    pub(super) fn table(self) -> &'static Table {
        match self {
            Arch::X86_64 => &X86_64,
            Arch::Aarch64 => &AARCH64,
        }
    }
}

/// The values of registers, as far as they are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    values: [u64; MAX_REGISTERS],
    known: u64,
}

impl Registers {
    /// None known.
    pub(super) const fn unknown() -> Self {
        Self { values: [0; MAX_REGISTERS], known: 0 }
    }

    /// All that were copied.
    pub(super) fn copied(table: &Table, words: &[u64; REGISTER_WORDS]) -> Self {
        let mut registers = Self::unknown();
        for (register, word) in (0u8..).zip(table.words) {
            if let Some(value) = words.get(usize::from(*word)) {
                registers.set(register, *value);
            }
        }
        registers
    }

    /// Its value, if that is known.
    #[inline]
    pub(super) fn get(&self, register: u8) -> Option<u64> {
        let value = *self.values.get(usize::from(register))?;
        (self.known >> register & 1 != 0).then_some(value)
    }

    #[inline]
    pub(super) fn set(&mut self, register: u8, value: u64) {
        if let Some(place) = self.values.get_mut(usize::from(register)) {
            *place = value;
            self.known |= 1 << register;
        }
    }

    /// Forgets all.
    pub(super) fn forget(&mut self) {
        self.known = 0;
    }

    #[inline]
    pub(super) fn put(&mut self, register: u8, value: Option<u64>) {
        if let Some(value) = value {
            self.set(register, value);
        }
    }
}
