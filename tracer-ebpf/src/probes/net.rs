//! Family net: TCP connections as they are made and closed, and what calls move through unix sockets. The programs of these calls see each
//! call at any socket, so user space attaches them while threads wait at unix sockets only.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_common::{
    FamilyId,
    loss::{CpuState, LossReason},
    net::{Connecting, Connection, UnixKey, UnixSums, tcp_state as tcp},
    record::net as kind,
    sched::WakeContext,
};

use crate::{
    access::{add_shared, config, present, probed},
    emit, filter, maps, wake,
};

const FAMILY: FamilyId = FamilyId::Net;
/// AF_UNIX, AF_INET6.
const UNIX: u16 = 1;
const IPV6: u16 = 10;
/// IPPROTO_TCP.
const TCP: u16 = 6;
/// MSG_PEEK: what was read stays to be read again.
const PEEK: u64 = 2;
/// BPF_NOEXIST.
const IF_NEW: u64 = 1;

/// A socket changes its state.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sock = ctx.arg::<*const u8>(0);
    let (old, new) = (ctx.arg::<u64>(1) as u8, ctx.arg::<u64>(2) as u8);
    // SAFETY: probed loads take any address.
    let protocol = unsafe { probed::<u16>(sock, config!(offsets.sock_protocol)) };
    if protocol == TCP
        && let Some(state) = emit::cpu_state()
    {
        changes(state, sock, old, new);
    }
    0
}

/// A call has sent something, or failed to.
#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    moved(ctx.arg(0), ctx.arg::<u64>(1) as i32, true);
    0
}

/// A call has received something, or failed to.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn sock_recv_length(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<u64>(2) & PEEK == 0 {
        moved(ctx.arg(0), ctx.arg::<u64>(1) as i32, false);
    }
    0
}

/// Adds what a call of the current thread moved, if it was through a unix socket.
#[inline(always)]
fn moved(sock: *const u8, bytes: i32, sends: bool) {
    // SAFETY: probed loads take any address.
    if bytes <= 0 || unsafe { probed::<u16>(sock, config!(offsets.sock_family)) } != UNIX {
        return;
    }
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    if !filter::is_tracked(tid, tgid) {
        return;
    }
    // SAFETY: as above.
    let inode = unsafe { inode(sock) };
    if inode == 0 {
        return;
    }
    let key = UnixKey { inode, tgid, reserved: 0 };
    if maps::UNIX.get_ptr(key).is_none() {
        // Another thread may be quicker with the same: either way it is there then.
        let _ = emit::in_ours(|| maps::UNIX.insert(key, UnixSums::default(), IF_NEW));
    }
    let Some(sums) = maps::UNIX.get_ptr_mut(key) else {
        if let Some(state) = emit::cpu_state() {
            emit::lose_preemptible(state, FAMILY, LossReason::MapFull);
        }
        return;
    };
    // SAFETY: words of a value in a map.
    unsafe {
        let (sum, calls) = if sends {
            (&raw mut (*sums).sent_bytes, &raw mut (*sums).sends)
        } else {
            (&raw mut (*sums).received_bytes, &raw mut (*sums).receives)
        };
        add_shared(sum, bytes as u64);
        add_shared(calls, 1);
    }
}

#[inline(always)]
fn changes(state: &mut CpuState, sock: *const u8, old: u8, new: u8) {
    let key = sock as u64;
    // SAFETY: no arguments.
    let ts_ns = unsafe { bpf_ktime_get_ns() };
    if old == tcp::SYN_SENT {
        // SAFETY: the value is copied before anything else is done with the map.
        let Some(asked) = (unsafe { maps::CONNECTING.get(key).copied() }) else { return };
        let _ = maps::CONNECTING.remove(key);
        let took_ns = ts_ns.saturating_sub(asked.since_ts_ns).max(1);
        return write(state, sock, ts_ns, (old, new), (asked.tid, asked.tgid), took_ns);
    }
    let closes = (old == tcp::ESTABLISHED || old == tcp::CLOSE_WAIT) && new != tcp::CLOSE_WAIT;
    if new != tcp::SYN_SENT && !closes {
        return;
    }
    // In a softirq the current thread is any one.
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    if !matches!(wake::context(state, tid), WakeContext::Task) || !filter::tracked(state, tid, tgid) {
        return;
    }
    if new == tcp::SYN_SENT {
        emit::in_ours(|| {
            let _ = maps::CONNECTING.insert(key, Connecting { since_ts_ns: ts_ns, tid, tgid }, 0);
        });
    } else {
        write(state, sock, ts_ns, (old, new), (tid, tgid), 0);
    }
}

#[inline(always)]
fn write(
    state: &mut CpuState,
    sock: *const u8,
    ts_ns: u64,
    (old_state, new_state): (u8, u8),
    (tid, tgid): (u32, u32),
    took_ns: u64,
) {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    // SAFETY: probed loads take any address.
    let record = unsafe {
        let family: u16 = probed(sock, config!(offsets.sock_family));
        let (local, peer) = addresses(sock, family);
        let (sent_bytes, received_bytes) = bytes(sock, old_state);
        Connection {
            header: emit::header(state, ts_ns, cpu, kind::CONNECTION),
            tid,
            tgid,
            inode: inode(sock),
            sent_bytes,
            received_bytes,
            took_ns,
            family,
            old_state,
            new_state,
            local_port: probed(sock, config!(offsets.sock_num)),
            peer_port: u16::from_be(probed(sock, config!(offsets.sock_dport))),
            local,
            peer,
            // The kernel keeps eight times as much.
            rtt_us: probed::<u32>(sock, config!(offsets.tcp_srtt)) >> 3,
            retransmits: probed(sock, config!(offsets.tcp_total_retrans)),
        }
    };
    // A softirq may run in the middle of this.
    emit::submit_preemptible(state, FAMILY, cpu, &record);
}

/// Its own address and the other side's.
#[inline(always)]
unsafe fn addresses(sock: *const u8, family: u16) -> ([u8; 16], [u8; 16]) {
    // SAFETY: probed loads take any address.
    unsafe {
        if family == IPV6 {
            return (probed(sock, config!(offsets.sock_saddr6)), probed(sock, config!(offsets.sock_daddr6)));
        }
        let short = |offset: u32| {
            let [a, b, c, d] = probed::<[u8; 4]>(sock, offset);
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        };
        (short(config!(offsets.sock_saddr)), short(config!(offsets.sock_daddr)))
    }
}

/// Bytes written to it, and bytes that came: what was sent without what was sent again, and what was not sent yet; the other side's end
/// counts as a byte.
#[inline(always)]
unsafe fn bytes(sock: *const u8, old_state: u8) -> (u64, u64) {
    // SAFETY: probed loads take any address.
    unsafe {
        if !present(config!(offsets.tcp_bytes_sent)) || old_state == tcp::SYN_SENT {
            return (0, 0);
        }
        let sent: u64 = probed(sock, config!(offsets.tcp_bytes_sent));
        let again: u64 = probed(sock, config!(offsets.tcp_bytes_retrans));
        let written: u32 = probed(sock, config!(offsets.tcp_write_seq));
        let next: u32 = probed(sock, config!(offsets.tcp_snd_nxt));
        let received: u64 = probed(sock, config!(offsets.tcp_bytes_received));
        let end = u64::from(old_state == tcp::CLOSE_WAIT);
        (sent.saturating_sub(again) + u64::from(written.wrapping_sub(next)), received.saturating_sub(end))
    }
}

/// Inode number of the socket's file.
#[inline(always)]
unsafe fn inode(sock: *const u8) -> u64 {
    // SAFETY: probed loads take any address.
    unsafe {
        let socket: u64 = probed(sock, config!(offsets.sock_socket));
        if socket == 0 || !present(config!(offsets.socket_file)) {
            return 0;
        }
        let file: u64 = probed(socket as *const u8, config!(offsets.socket_file));
        let inode: u64 = if file == 0 { 0 } else { probed(file as *const u8, config!(offsets.file_inode)) };
        if inode == 0 { 0 } else { probed(inode as *const u8, config!(offsets.inode_ino)) }
    }
}
