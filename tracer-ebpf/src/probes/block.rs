//! Family block: requests of block devices, from when they are made until they are done, with the file that they are for and who made
//! them. One record a request, whoever made it: a device that others keep busy is slow for all.
//!
//! A request is made in the thread that wants it (`block_io_start`), or a kernel thread's for what was written through the page cache.
//! Its file is that of its first page, or the one that direct I/O was begun for. Programs run in tasks and in interrupts that come in the
//! middle of these, so they count in ways that lose nothing then. On the host where this was built the kernel does not report the end of some
//! (up to 3 of 1,000, whole batches of them): these are written down when their place is used again, without times.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_common::{
    FamilyId,
    block::{ASKING_NS, BlockDone, Request, RequestSums, block_notes as notes},
    loss::LossReason,
    memory::FileKey,
    record::block as kind,
};

use crate::{
    access::{config, present, probed, word},
    emit, files, filter, maps, task,
};

const FAMILY: FamilyId = FamilyId::Block;
/// Kind of file: a block device (S_IFMT, S_IFBLK).
const KIND_OF_FILE: u16 = 0xf000;
const BLOCK_DEVICE: u16 = 0x6000;
/// Of a page's mapping: it is not a file's (PAGE_MAPPING_FLAGS).
const NO_FILE: u64 = 3;
/// BPF_ANY.
const ANY: u64 = 0;

/// A request is made from what a thread wants.
#[btf_tracepoint(function = "block_io_start")]
pub fn block_io_start(ctx: BtfTracePointContext) -> i32 {
    let request = word::<0>(ctx.as_ptr());
    // Requests are used again and again: this one's last use is over, and the kernel did not report it (see the file's head).
    if let Some(last) = maps::REQUESTS.get_ptr(request) {
        // SAFETY: a value in a map; it is copied.
        done(&unsafe { *last }, 0, notes::UNTIMED);
    }
    keep(request, &made(request));
    0
}

/// The device gets a request. On kernels that do not report their making, this is the first that is seen of them.
#[btf_tracepoint(function = "block_rq_issue")]
pub fn block_rq_issue(ctx: BtfTracePointContext) -> i32 {
    let request = word::<0>(ctx.as_ptr());
    if maps::REQUESTS.get_ptr(request).is_none() {
        keep(request, &made(request));
    }
    if let Some(sums) = maps::REQUESTS.get_ptr_mut(request) {
        let base = request as *const u8;
        // SAFETY: a value in a map that belongs to this request; probed loads take any address.
        unsafe {
            (*sums).issued_ts_ns = bpf_ktime_get_ns();
            // Others may have been joined to it since.
            (*sums).request.bytes = probed(base, config!(block.offsets.request_bytes));
            (*sums).request.sector = probed(base, config!(block.offsets.request_sector));
        }
    }
    0
}

/// The device cannot take it now.
#[btf_tracepoint(function = "block_rq_requeue")]
pub fn block_rq_requeue(ctx: BtfTracePointContext) -> i32 {
    if let Some(sums) = maps::REQUESTS.get_ptr_mut(word::<0>(ctx.as_ptr())) {
        // SAFETY: as above.
        unsafe { (*sums).request.requeues = (*sums).request.requeues.saturating_add(1) };
    }
    0
}

/// A request was joined to another one, which goes on.
#[btf_tracepoint(function = "block_rq_merge")]
pub fn block_rq_merge(ctx: BtfTracePointContext) -> i32 {
    let request = word::<0>(ctx.as_ptr());
    let _ = emit::in_ours(|| maps::REQUESTS.remove(request));
    0
}

/// A request, or a part of it, is done.
#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_rq_complete(ctx: BtfTracePointContext) -> i32 {
    let (request, status, done_bytes) = (word::<0>(ctx.as_ptr()), word::<1>(ctx.as_ptr()), word::<2>(ctx.as_ptr()));
    // SAFETY: a value in a map; it is copied.
    let Some(sums) = maps::REQUESTS.get_ptr(request).map(|sums| unsafe { *sums }) else { return 0 };
    // SAFETY: probed loads take any address.
    let left: u32 = unsafe { probed(request as *const u8, config!(block.offsets.request_bytes)) };
    if (done_bytes as u32) < left {
        return 0;
    }
    let _ = emit::in_ours(|| maps::REQUESTS.remove(request));
    done(&sums, status as u8, 0);
    0
}

/// Writes a request down.
#[inline(always)]
fn done(sums: &RequestSums, status: u8, noted: u8) {
    let Some(state) = emit::cpu_state() else { return };
    // SAFETY: no arguments.
    let (now_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let (issued_ns, note) = match sums.issued_ts_ns {
        0 if sums.request.bytes == 0 => (now_ns, notes::NOT_ISSUED),
        // An interrupt came in the middle of the program that sees it, and handed another one over: the kernel runs it once at a time.
        0 => (sums.made_ts_ns, notes::UNTIMED),
        issued_ns => (issued_ns, 0),
    };
    let record = BlockDone {
        header: emit::header(state, now_ns, cpu, kind::DONE),
        queued_ns: issued_ns.saturating_sub(sums.made_ts_ns),
        device_ns: now_ns.saturating_sub(issued_ns),
        request: Request { notes: sums.request.notes | note | noted, status, ..sums.request },
        asked_ns: sums.asked_ns,
    };
    emit::submit_preemptible(state, FAMILY, cpu, &record);
}

#[inline(always)]
fn keep(request: u64, sums: &RequestSums) {
    if emit::in_ours(|| maps::REQUESTS.insert(request, sums, ANY)).is_err()
        && let Some(state) = emit::cpu_state()
    {
        emit::lose_preemptible(state, FAMILY, LossReason::MapFull);
    }
}

/// What is known of a request when it is made.
#[inline(always)]
fn made(request: u64) -> RequestSums {
    let base = request as *const u8;
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    // SAFETY: no arguments; probed loads take any address.
    let (made_ts_ns, bio, mut request) = unsafe {
        let request = Request {
            sector: probed(base, config!(block.offsets.request_sector)),
            tid,
            tgid,
            flags: probed(base, config!(block.offsets.request_flags)),
            bytes: probed(base, config!(block.offsets.request_bytes)),
            device: device(base),
            ..Request::default()
        };
        (bpf_ktime_get_ns(), probed::<u64>(base, config!(block.offsets.request_bio)) as *const u8, request)
    };
    if filter::is_tracked(tid, tgid) {
        request.notes |= notes::TRACED;
    }
    if task::is_kernel_thread(task::current()) {
        request.notes |= notes::KERNEL_THREAD;
    }
    let (inode, direct) = inode_of(bio, request.flags & 0xff == 0);
    if direct {
        request.notes |= notes::DIRECT;
    }
    if !inode.is_null() {
        if is_device(inode) {
            request.notes |= notes::DEVICE_DATA;
        } else {
            request.file = files::key(inode);
            if request.notes & (notes::TRACED | notes::KERNEL_THREAD) != 0 {
                tell(request.file, inode, (tid, tgid));
            }
        }
    }
    let asked_ns = if direct { 0 } else { asked_ns(request.file, ids, made_ts_ns) };
    RequestSums { made_ts_ns, issued_ts_ns: 0, asked_ns, request }
}

/// How long ago the current thread began to want the pages that it makes a request for now: what the file system does in between is
/// part of what it waits for. Read on the same CPU, as nearly always, or not at all.
#[inline(always)]
fn asked_ns(file: FileKey, who: u64, now_ns: u64) -> u64 {
    if config!(cache) != 1 || file.inode == 0 {
        return 0;
    }
    let own = maps::CACHE_FILES.get_ptr_mut(file);
    let Some(sums) = own.or_else(|| maps::CACHE_FILES.get_ptr_mut(files::rest(file))) else { return 0 };
    // SAFETY: a per-CPU value.
    unsafe {
        let asked_ts_ns = (*sums).asked_ts_ns;
        if (*sums).reader != who || asked_ts_ns == 0 {
            return 0;
        }
        (*sums).asked_ts_ns = 0;
        let ago_ns = now_ns.saturating_sub(asked_ts_ns);
        if ago_ns < ASKING_NS { ago_ns } else { 0 }
    }
}

/// Whether an inode is a block device.
#[inline(always)]
fn is_device(inode: *const u8) -> bool {
    // SAFETY: probed loads take any address.
    let mode: u16 = unsafe { probed(inode, config!(offsets.inode_mode)) };
    mode & KIND_OF_FILE == BLOCK_DEVICE
}

/// A file that is met for the first time is told of, and so are the directories that lead to it.
#[inline(always)]
fn tell(file: FileKey, inode: *const u8, who: (u32, u32)) {
    let entry = files::entry(inode);
    if !is_told(file, files::name_hash(entry))
        && let Some(state) = emit::cpu_state()
    {
        files::tell_preemptible(state, FAMILY, kind::FILE, (file, inode, entry), who);
        files::tell_directories(state, (FAMILY, kind::DIRECTORY), entry, who, is_told);
    }
}

/// Whether a file was told by this name, or cannot be; from now on it was. That is kept for as many as there is room for: one may be told
/// twice. Another file may get the number of one that is deleted.
#[inline(always)]
fn is_told(file: FileKey, name_hash: u32) -> bool {
    if let Some(told) = maps::FILES_TOLD.get_ptr(file) {
        // SAFETY: a value in a map.
        let told = unsafe { told.read_volatile() };
        if told == name_hash || name_hash == 0 {
            return true;
        }
    }
    emit::in_ours(|| maps::FILES_TOLD.insert(file, name_hash, ANY)).is_err()
}

/// The number of the device.
#[inline(always)]
unsafe fn device(request: *const u8) -> u32 {
    // SAFETY: probed loads take any address.
    unsafe {
        let disk = if present(config!(block.offsets.queue_disk)) {
            let queue: u64 = probed(request, config!(block.offsets.request_queue));
            probed::<u64>(queue as *const u8, config!(block.offsets.queue_disk))
        } else {
            probed::<u64>(request, config!(block.offsets.request_disk))
        };
        if disk == 0 {
            return 0;
        }
        let major: u32 = probed(disk as *const u8, config!(block.offsets.disk_major));
        let minor: u32 = probed(disk as *const u8, config!(block.offsets.disk_first_minor));
        major << 20 | minor & 0xf_ffff
    }
}

/// Whether a page is being read into the page cache, or written from there: it is locked, or marked.
#[inline(always)]
unsafe fn is_in_transfer(page: *const u8, reads: bool) -> bool {
    let bit = if reads { config!(block.locked_bit) } else { config!(block.written_bit) };
    // SAFETY: probed loads take any address.
    let flags: u64 = unsafe { probed(page, config!(offsets.folio_flags)) };
    !present(bit) || flags >> (bit & 63) & 1 == 1
}

/// A page, or the one that the folio begins with which it is a part of (`_compound_head` in include/linux/page-flags.h). What a page says
/// of its head is the address, or, from 7.1 on where a page's size is a power of two, a mask: all its upper bits are set, as those of no page's
/// address are, since the kernel's own code lies there.
#[inline(always)]
fn head_of(page: u64, said: u64) -> u64 {
    const UPPER_BITS: u64 = !0 << 32;
    if said & 1 == 0 {
        page
    } else if said & UPPER_BITS == UPPER_BITS {
        page & said
    } else {
        said - 1
    }
}

/// The inode that the first part of a request is for, null if there is none, and whether it goes past the page cache.
#[inline(always)]
fn inode_of(bio: *const u8, reads: bool) -> (*const u8, bool) {
    let none = core::ptr::null();
    if bio.is_null() {
        return (none, false);
    }
    // SAFETY: probed loads take any address.
    unsafe {
        let mut whole = bio;
        let mut end: u64 = probed(bio, config!(block.offsets.bio_end_io));
        if end != 0 && end == config!(block.chain_end) {
            whole = probed::<u64>(bio, config!(block.offsets.bio_private)) as *const u8;
            end = probed(whole, config!(block.offsets.bio_end_io));
        }
        if end != 0 && end == config!(block.dio_end) {
            let direct: u64 = probed(whole, config!(block.offsets.bio_private));
            let call: u64 = probed(direct as *const u8, config!(block.offsets.dio_iocb));
            let file: u64 = probed(call as *const u8, config!(block.offsets.iocb_file));
            return (probed::<u64>(file as *const u8, config!(offsets.file_inode)) as *const u8, true);
        }
        let parts: u64 = probed(bio, config!(block.offsets.bio_vecs));
        // `bio_vec` begins with its page.
        let mut page: u64 = if parts == 0 { 0 } else { probed(parts as *const u8, 0) };
        if page == 0 {
            return (none, false);
        }
        page = head_of(page, probed(page as *const u8, config!(block.offsets.page_head)));
        let mapping: u64 = probed(page as *const u8, config!(offsets.folio_mapping));
        if mapping == 0 || mapping & NO_FILE != 0 {
            // Memory of a process: direct I/O of some kind, or swap.
            return (none, false);
        }
        let inode = probed::<u64>(mapping as *const u8, config!(offsets.mapping_host)) as *const u8;
        if !is_device(inode) && !is_in_transfer(page as *const u8, reads) {
            // A mapped file that direct I/O reads to or writes from, by ways that are not known here.
            return (none, false);
        }
        (inode, false)
    }
}
