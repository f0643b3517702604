//! Why a thread left the CPU, from one switch record: a pure function. Keeps no state; what an interval then becomes is in
//! `switch`.
//!
//! Order of precedence (measured, see the design's kernel facts): the state bits; the kernel lock that it was seen to wait for; whether it is a kernel thread, whose registers
//! mean nothing; then the system call it sleeps in, and what its file descriptor refers to.

use tracer_common::lock::Kind;
use tracer_common::memory::{STALL_IN_SWITCH, StallKind};
use tracer_common::record::Header;
use tracer_common::sched::{FdKind, Switch, switch_flags};
use tracer_common::state::{Left, left};
use tracer_common::syscall::{Arch, Class, SYSCALLS};

/// Exclusive states of a thread that the scheduling family can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the contract describes them by the ids below")]
pub enum State {
    OnCpu,
    /// Part of the time on a CPU, told apart at the end: see `spinning`.
    Spinning,
    Runnable,
    Throttled,
    Futex,
    KernelLock,
    File,
    Pipe,
    SocketInet,
    SocketUnix,
    Poll,
    Child,
    Timer,
    Fault,
    Memory,
    Stopped,
    Other,
    Unknown,
}

/// Number of [`State`]s.
pub const STATES: usize = 18;

impl State {
    /// Every state, in the order of its number.
    pub const ALL: [State; STATES] = [
        State::OnCpu,
        State::Spinning,
        State::Runnable,
        State::Throttled,
        State::Futex,
        State::KernelLock,
        State::File,
        State::Pipe,
        State::SocketInet,
        State::SocketUnix,
        State::Poll,
        State::Child,
        State::Timer,
        State::Fault,
        State::Memory,
        State::Stopped,
        State::Other,
        State::Unknown,
    ];

    /// The key in reports.
    pub const fn id(self) -> &'static str {
        match self {
            State::OnCpu => "on_cpu",
            State::Spinning => "spinning",
            State::Runnable => "runnable",
            State::Throttled => "throttled",
            State::Futex => "futex",
            State::KernelLock => "kernel_lock",
            State::File => "file",
            State::Pipe => "pipe",
            State::SocketInet => "socket_inet",
            State::SocketUnix => "socket_unix",
            State::Poll => "poll",
            State::Child => "child",
            State::Timer => "timer",
            State::Fault => "fault",
            State::Memory => "memory",
            State::Stopped => "stopped",
            State::Other => "other",
            State::Unknown => "unknown",
        }
    }
}

/// What tells waits of the state `other` from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names in reports say it")]
pub enum Detail {
    None,
    Kernel,
    Exception,
    Socket,
    Device,
    Signal,
    Exit,
    Uninterruptible,
    /// A lock of the kernel, of this kind.
    Lock(Kind),
    /// Freeing memory, or waiting for others to.
    Stall(StallKind),
    /// The system call's own name.
    Call,
}

/// Why a thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The state it is in.
    pub state: State,
    /// What tells it further, for [`State::Other`].
    pub detail: Detail,
    /// The system call; negative: none or not known.
    pub syscall: i16,
}

impl Reason {
    /// Nothing is known.
    pub const UNKNOWN: Reason = Reason { state: State::Unknown, detail: Detail::None, syscall: -1 };

    const fn new(state: State) -> Reason {
        Reason { state, detail: Detail::None, syscall: -1 }
    }

    const fn other(detail: Detail) -> Reason {
        Reason { state: State::Other, detail, syscall: -1 }
    }

    const fn within(mut self, syscall: i16) -> Reason {
        self.syscall = syscall;
        self
    }
}

/// How a thread left the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It still wants to run.
    Runnable,
    /// For good.
    Dead,
    /// It waits.
    Waits(Reason),
    /// It waits again for what it waited for before a signal.
    Resumes,
}

/// What is known of the system call that a thread sleeps in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Nothing.
    NotKnown,
    /// It is in none: an exception.
    None,
    /// Its number.
    Number(i16),
}

/// System calls by their number on the host that recorded.
pub struct Calls {
    /// Index into [`SYSCALLS`] plus one.
    index: [u8; NUMBERS],
}

/// Numbers from here on are not in the table.
const NUMBERS: usize = 512;

const _: () = assert!(SYSCALLS.len() < 255);

impl Calls {
    /// The calls of an architecture; none: every call is "other".
    pub fn new(arch: Option<Arch>) -> Self {
        let mut index = [0; NUMBERS];
        for (position, call) in SYSCALLS.iter().enumerate() {
            let number = arch.and_then(|arch| call.number(arch)).and_then(|number| usize::try_from(number).ok());
            if let Some(slot) = number.and_then(|number| index.get_mut(number)) {
                *slot = position as u8 + 1;
            }
        }
        Calls { index }
    }

    fn class(&self, number: i16) -> Class {
        self.entry(number).map_or(Class::Other, |call| call.class)
    }

    /// The call's name, or its number where it is not listed.
    pub fn name(&self, number: i16) -> String {
        self.entry(number).map_or_else(|| format!("syscall {number}"), |call| call.name.to_owned())
    }

    /// Whether a call returns a file's data.
    pub fn reads(&self, number: i16) -> bool {
        self.entry(number).is_some_and(|call| crate::model::paging::reads(call.name))
    }

    /// Whether a call closes a descriptor: its table no longer has it when the call waits.
    pub fn closes(&self, number: i16) -> bool {
        self.entry(number).is_some_and(|call| call.name == "close")
    }

    /// Whether a record says in which call a thread waits, or that it is in none.
    pub fn knows(&self, switch: &Switch) -> bool {
        let all = switch_flags::HAS_REGS | switch_flags::COMPAT | switch_flags::PREEMPT | switch_flags::QUEUE_FACTS;
        switch.flags & all == switch_flags::HAS_REGS && switch.syscall >= 0
    }

    fn entry(&self, number: i16) -> Option<&'static tracer_common::syscall::Syscall> {
        let slot = *self.index.get(usize::try_from(number).ok()?)?;
        SYSCALLS.get(usize::from(slot).checked_sub(1)?)
    }

    /// Whether a thread that left the CPU ready to run did so of itself, by sched_yield.
    pub fn is_yield(&self, switch: &Switch) -> bool {
        let own = switch.flags & (switch_flags::HAS_REGS | switch_flags::COMPAT | switch_flags::PREEMPT);
        own == switch_flags::HAS_REGS && self.entry(switch.syscall).is_some_and(|call| call.name == "sched_yield")
    }

    /// The name of what a wait in `other` is.
    pub fn detail_name(&self, detail: Detail, syscall: i16) -> Option<String> {
        Some(match detail {
            Detail::None => return None,
            Detail::Kernel => "kernel".to_owned(),
            Detail::Exception => "exception".to_owned(),
            Detail::Socket => "socket_other".to_owned(),
            Detail::Device => "device".to_owned(),
            Detail::Signal => "signal".to_owned(),
            Detail::Exit => "exit".to_owned(),
            Detail::Uninterruptible => "uninterruptible".to_owned(),
            Detail::Lock(kind) => kind.id().to_owned(),
            Detail::Stall(kind) => kind.id().to_owned(),
            Detail::Call => self.name(syscall),
        })
    }

    /// How `switch.prev_tid` left.
    pub fn departure(&self, switch: &Switch) -> Departure {
        let has = |flag| switch.flags & flag != 0;
        let call = if !has(switch_flags::HAS_REGS) || has(switch_flags::COMPAT) {
            // The numbers of 32-bit code are of another table; only "no call at all" reads the same.
            if has(switch_flags::HAS_REGS) && switch.syscall < 0 { Call::None } else { Call::NotKnown }
        } else if switch.syscall < 0 {
            Call::None
        } else {
            Call::Number(switch.syscall)
        };
        let left = left(switch.prev_state, has(switch_flags::PREEMPT));
        let waits_for = (switch.flags & switch_flags::LOCK_MASK) >> switch_flags::LOCK_SHIFT;
        if waits_for > STALL_IN_SWITCH && matches!(left, Left::Sleeping | Left::Uninterruptible) {
            // Whatever it does to free memory, waiting for locks included, is for want of it.
            let syscall = if let Call::Number(number) = call { number } else { -1 };
            let stall = StallKind::from_number((waits_for - STALL_IN_SWITCH) as u8);
            return Departure::Waits(Reason { state: State::Memory, detail: Detail::Stall(stall), syscall });
        }
        let lock = Kind::from_number(waits_for as u8);
        if lock != Kind::Unknown && matches!(left, Left::Sleeping | Left::Uninterruptible) {
            // It was seen to wait for that lock: no guess from the call that it is in is as good.
            let syscall = if let Call::Number(number) = call { number } else { -1 };
            return Departure::Waits(Reason { state: State::KernelLock, detail: Detail::Lock(lock), syscall });
        }
        self.classify(left, has(switch_flags::PREV_KTHREAD), call, FdKind::from_number(switch.fd_kind))
    }

    /// How a thread left, from what is known of it.
    pub fn classify(&self, left: Left, kernel_thread: bool, call: Call, fd_kind: FdKind) -> Departure {
        let uninterruptible = match left {
            Left::Runnable => return Departure::Runnable,
            Left::Dead => return Departure::Dead,
            Left::Stopped => return Departure::Waits(Reason::new(State::Stopped)),
            Left::Unknown => return Departure::Waits(Reason::UNKNOWN),
            Left::Uninterruptible => true,
            Left::Sleeping => false,
        };
        if kernel_thread {
            return Departure::Waits(Reason::other(Detail::Kernel));
        }
        let reason = match call {
            Call::NotKnown if uninterruptible => Reason::other(Detail::Uninterruptible),
            Call::NotKnown => Reason::UNKNOWN,
            Call::None if uninterruptible => Reason::new(State::Fault),
            Call::None => Reason::other(Detail::Exception),
            Call::Number(number) => match self.class(number) {
                Class::Restart => return Departure::Resumes,
                // Only files are waited for so in close: until what is left of them has been written.
                Class::Fd if uninterruptible && fd_kind == FdKind::Unknown && self.closes(number) => {
                    Reason::new(State::File).within(number)
                }
                class => in_call(class, fd_kind).within(number),
            },
        };
        Departure::Waits(reason)
    }
}

fn in_call(class: Class, fd_kind: FdKind) -> Reason {
    match class {
        Class::Fd => match fd_kind {
            FdKind::File | FdKind::BlockDevice => Reason::new(State::File),
            FdKind::Pipe => Reason::new(State::Pipe),
            FdKind::SocketInet => Reason::new(State::SocketInet),
            FdKind::SocketUnix => Reason::new(State::SocketUnix),
            FdKind::SocketOther => Reason::other(Detail::Socket),
            FdKind::CharDevice => Reason::other(Detail::Device),
            // An eventfd, timerfd or signalfd: the thread waits to be told of something, as in poll.
            FdKind::Anonymous => Reason::new(State::Poll),
            FdKind::Unknown => Reason::other(Detail::Call),
        },
        Class::Futex => Reason::new(State::Futex),
        // It polls this one alone.
        Class::Poll if fd_kind == FdKind::SocketInet => Reason::new(State::SocketInet),
        Class::Poll => Reason::new(State::Poll),
        Class::Child => Reason::new(State::Child),
        Class::Timer => Reason::new(State::Timer),
        Class::File => Reason::new(State::File),
        Class::Signal => Reason::other(Detail::Signal),
        Class::Exit => Reason::other(Detail::Exit),
        Class::Restart | Class::Mapping | Class::Other => Reason::other(Detail::Call),
    }
}

/// The thread that woke `switch.next_tid`, how, and when, where the record says it.
pub fn wake_ns(switch: &Switch) -> Option<u64> {
    if switch.flags & switch_flags::HAS_WAKER == 0 {
        return None;
    }
    let unit_ns = if switch.flags & switch_flags::WAKE_DELTA_US != 0 { 1000 } else { 1 };
    let Header { ts_ns, .. } = switch.header;
    Some(ts_ns.saturating_sub(u64::from(switch.wake_delta_ns) * unit_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLEEPING: u32 = 0x2001;

    fn calls() -> Calls {
        Calls::new(Some(Arch::X86_64))
    }

    fn waits(left: Left, kernel_thread: bool, call: Call, fd_kind: FdKind) -> (&'static str, Option<String>) {
        let calls = calls();
        match calls.classify(left, kernel_thread, call, fd_kind) {
            Departure::Waits(reason) => (reason.state.id(), calls.detail_name(reason.detail, reason.syscall)),
            other => panic!("{other:?} is no wait"),
        }
    }

    #[test]
    fn a_descriptor_tells_what_a_read_waits_for() {
        let read = |fd_kind| waits(Left::Sleeping, false, Call::Number(0), fd_kind);
        assert_eq!(read(FdKind::File), ("file", None));
        assert_eq!(read(FdKind::BlockDevice), ("file", None));
        assert_eq!(read(FdKind::Pipe), ("pipe", None));
        assert_eq!(read(FdKind::SocketInet), ("socket_inet", None));
        assert_eq!(read(FdKind::SocketUnix), ("socket_unix", None));
        assert_eq!(read(FdKind::SocketOther), ("other", Some("socket_other".to_owned())));
        assert_eq!(read(FdKind::CharDevice), ("other", Some("device".to_owned())));
        assert_eq!(read(FdKind::Anonymous), ("poll", None));
        assert_eq!(read(FdKind::Unknown), ("other", Some("read".to_owned())));
    }

    #[test]
    fn state_bits_come_before_everything_else() {
        let classify = |left| calls().classify(left, true, Call::Number(0), FdKind::Pipe);
        assert_eq!(classify(Left::Runnable), Departure::Runnable);
        assert_eq!(classify(Left::Dead), Departure::Dead);
        assert_eq!(waits(Left::Stopped, true, Call::Number(0), FdKind::Pipe).0, "stopped");
        assert_eq!(waits(Left::Unknown, true, Call::Number(0), FdKind::Pipe).0, "unknown");
    }

    #[test]
    fn a_kernel_threads_registers_mean_nothing() {
        let kernel = ("other", Some("kernel".to_owned()));
        assert_eq!(waits(Left::Uninterruptible, true, Call::Number(0), FdKind::Unknown), kernel);
        assert_eq!(waits(Left::Sleeping, true, Call::None, FdKind::Unknown), kernel);
    }

    #[test]
    fn without_a_system_call_only_uninterruptible_sleep_is_a_fault() {
        assert_eq!(waits(Left::Uninterruptible, false, Call::None, FdKind::Unknown), ("fault", None));
        let exception = ("other", Some("exception".to_owned()));
        assert_eq!(waits(Left::Sleeping, false, Call::None, FdKind::Unknown), exception);
        let uninterruptible = ("other", Some("uninterruptible".to_owned()));
        assert_eq!(waits(Left::Uninterruptible, false, Call::NotKnown, FdKind::Unknown), uninterruptible);
        assert_eq!(waits(Left::Sleeping, false, Call::NotKnown, FdKind::Unknown), ("unknown", None));
    }

    #[test]
    fn calls_are_told_by_their_class() {
        let call = |number| waits(Left::Sleeping, false, Call::Number(number), FdKind::Unknown);
        assert_eq!(call(202), ("futex", None));
        assert_eq!(call(232), ("poll", None));
        assert_eq!(call(61), ("child", None));
        assert_eq!(call(230), ("timer", None));
        assert_eq!(call(257), ("file", None));
        assert_eq!(call(130), ("other", Some("signal".to_owned())));
        assert_eq!(call(231), ("other", Some("exit".to_owned())));
        assert_eq!(call(11), ("other", Some("munmap".to_owned())));
        assert_eq!(call(65), ("other", Some("semop".to_owned())));
        assert_eq!(call(499), ("other", Some("syscall 499".to_owned())));
        assert_eq!(call(32_000), ("other", Some("syscall 32000".to_owned())));
        let resumed = calls().classify(Left::Sleeping, false, Call::Number(219), FdKind::Unknown);
        assert_eq!(resumed, Departure::Resumes);
    }

    #[test]
    fn who_waits_in_close_for_what_is_left_to_be_written_waits_for_a_file() {
        let close = |left| waits(left, false, Call::Number(3), FdKind::Unknown);
        assert_eq!(close(Left::Uninterruptible), ("file", None));
        assert_eq!(
            close(Left::Sleeping),
            ("other", Some("close".to_owned())),
            "of a socket, perhaps, or of a file in FUSE"
        );
        assert_eq!(waits(Left::Uninterruptible, false, Call::Number(0), FdKind::Unknown).0, "other");
    }

    #[test]
    fn a_kernel_lock_comes_before_the_call_but_not_before_the_state() {
        use crate::testing::{Leave, for_kernel_lock, switch};
        let munmap = Leave::Sleep { syscall: 11, fd_kind: 0, object: 0 };
        let reason = Reason { state: State::KernelLock, detail: Detail::Lock(Kind::MmapWrite), syscall: 11 };
        let waits = for_kernel_lock(switch(1, 0, 1, 2, munmap), Kind::MmapWrite);
        assert_eq!(calls().departure(&waits), Departure::Waits(reason));
        let fault = for_kernel_lock(switch(1, 0, 1, 2, Leave::Fault), Kind::MmapRead);
        let reason = Reason { state: State::KernelLock, detail: Detail::Lock(Kind::MmapRead), syscall: -1 };
        assert_eq!(calls().departure(&fault), Departure::Waits(reason));
        let preempted = for_kernel_lock(switch(1, 0, 1, 2, Leave::Preempted), Kind::Mutex);
        assert_eq!(calls().departure(&preempted), Departure::Runnable);
    }

    #[test]
    fn code_of_32_bits_gets_no_call_of_the_wrong_table() {
        let mut switch = crate::testing::switch(1, 0, 1, 2, crate::testing::Leave::Fault);
        switch.flags |= switch_flags::COMPAT;
        switch.prev_state = SLEEPING;
        switch.syscall = 202;
        assert_eq!(calls().departure(&switch), Departure::Waits(Reason::UNKNOWN));
        switch.syscall = -1;
        assert_eq!(calls().departure(&switch), Departure::Waits(Reason::other(Detail::Exception)));
    }
}
