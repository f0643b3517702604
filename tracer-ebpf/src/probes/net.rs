//! Family net: which thread's packets wake which, and TCP connections as they are made and closed.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_common::{
    FamilyId,
    loss::CpuState,
    net::{Connecting, Connection, tcp_state as tcp},
    record::net as kind,
    sched::WakeContext,
};

use crate::{
    access::{config, present, probed},
    emit, filter, maps, wake,
};

const FAMILY: FamilyId = FamilyId::Net;
const IPV6: u16 = 10;
/// IPPROTO_TCP.
const TCP: u16 = 6;

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
