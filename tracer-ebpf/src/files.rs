//! Files, as the families that see the page cache, block devices and writeback tell them: what key an inode has, what it is called, and
//! the record by which user space gets to know it.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_probe_read_kernel_str};
use tracer_common::{
    FamilyId,
    loss::CpuState,
    memory::{CachedFile, FILE_NAME_BYTES, FileKey},
};

use crate::{
    access::{config, present, probed, typed},
    emit::{self, Lane},
};

/// Pages of the page cache: what is read of a folio, or of a page before 5.16.
#[derive(Clone, Copy)]
pub struct Pages {
    /// The file.
    pub file: FileKey,
    /// How many.
    pub count: u64,
    /// `struct inode`; null: they belong to no file.
    pub host: *const u8,
}

/// Those of a folio that the verifier knows.
#[inline(always)]
pub fn pages(folio: *const u8) -> Pages {
    let mut pages = Pages { file: FileKey::default(), count: 1, host: core::ptr::null() };
    // SAFETY: `folio` is known to the verifier, and so is what it leads to.
    unsafe {
        let mapping = typed::<u64>(folio, config!(offsets.folio_mapping)) as *const u8;
        if mapping.is_null() {
            return pages;
        }
        let host = typed::<u64>(mapping, config!(offsets.mapping_host)) as *const u8;
        if host.is_null() {
            return pages;
        }
        pages.host = host;
        pages.file.inode = typed(host, config!(offsets.inode_ino));
        let of = typed::<u64>(host, config!(offsets.inode_sb)) as *const u8;
        if !of.is_null() {
            pages.file.device = typed(of, config!(offsets.sb_dev));
        }
        let large = config!(offsets.folio_large_bit);
        if present(large) && present(config!(offsets.folio_pages)) {
            let flags: u64 = typed(folio, config!(offsets.folio_flags));
            if flags >> (large & 63) & 1 == 1 {
                pages.count = u64::from(typed::<u32>(folio, config!(offsets.folio_pages)));
            }
        }
    }
    pages
}

/// The key of a file; `inode` is any kernel address, or null.
#[inline(always)]
pub fn key(inode: *const u8) -> FileKey {
    let mut file = FileKey::default();
    if inode.is_null() {
        return file;
    }
    // SAFETY: probed loads take any address.
    unsafe {
        file.inode = probed(inode, config!(offsets.inode_ino));
        let of: u64 = probed(inode, config!(offsets.inode_sb));
        if of != 0 {
            file.device = probed(of as *const u8, config!(offsets.sb_dev));
        }
    }
    file
}

/// The key of all small files of this one's device.
#[inline(always)]
pub fn rest(file: FileKey) -> FileKey {
    FileKey { inode: 0, ..file }
}

/// Says which file this is.
#[inline(always)]
pub fn tell(state: &mut CpuState, family: FamilyId, kind: u16, file: FileKey, inode: *const u8, who: (u32, u32)) {
    let record = record(state, kind, file, inode, entry(inode), who);
    emit::submit(state, family, u32::from(record.header.cpu), Lane::Rare, &record);
}

/// The same for a program that may be run in the middle of others of this CPU.
#[inline(always)]
pub fn tell_preemptible(
    state: &mut CpuState,
    family: FamilyId,
    kind: u16,
    (file, inode, entry): (FileKey, *const u8, u64),
    who: (u32, u32),
) {
    let record = record(state, kind, file, inode, entry, who);
    emit::submit_preemptible(state, family, u32::from(record.header.cpu), &record);
}

/// Directories between a file and the root of its file system that are told at most; what is deeper has no path.
const DEEPEST: u32 = 24;

/// Says which directories lead to a directory entry, the nearest first, up to one for which `is_told` holds.
#[inline(always)]
pub fn tell_directories(
    state: &mut CpuState,
    (family, kind): (FamilyId, u16),
    entry: u64,
    who: (u32, u32),
    is_told: impl Fn(FileKey, u32) -> bool,
) {
    let (parent_at, inode_at) = (config!(offsets.dentry_parent), config!(offsets.dentry_inode));
    if entry == 0 || !present(parent_at) || !present(inode_at) {
        return;
    }
    let mut below = entry;
    for _ in 0..DEEPEST {
        // SAFETY: probed loads take any address.
        let (directory, inode) = unsafe {
            let directory: u64 = probed(below as *const u8, parent_at);
            (directory, probed::<u64>(directory as *const u8, inode_at) as *const u8)
        };
        let file = key(inode);
        // The root's own entry leads to itself.
        if file.inode == 0 || directory == below || is_told(file, name_hash(directory)) {
            return;
        }
        let record = record(state, kind, file, inode, directory, who);
        emit::submit_preemptible(state, family, u32::from(record.header.cpu), &record);
        below = directory;
    }
}

#[inline(always)]
fn record(
    state: &CpuState,
    kind: u16,
    file: FileKey,
    inode: *const u8,
    entry: u64,
    (tid, tgid): (u32, u32),
) -> CachedFile {
    // SAFETY: no arguments; `inode` is one.
    let (ts_ns, cpu, generation) =
        unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id(), probed(inode, config!(offsets.inode_generation))) };
    CachedFile {
        header: emit::header(state, ts_ns, cpu, kind),
        tid,
        tgid,
        file: FileKey { reserved: generation, ..file },
        // SAFETY: `inode` is one.
        size_bytes: unsafe { probed(inode, config!(offsets.inode_size)) },
        name: name(entry),
        parent: parent(entry),
    }
}

/// The directory entry of a file that is listed first; 0: it has none.
#[inline(always)]
pub fn entry(inode: *const u8) -> u64 {
    let alias = config!(offsets.dentry_alias);
    if !present(config!(offsets.inode_dentry)) || !present(alias) {
        return 0;
    }
    // SAFETY: probed loads take any address.
    let listed: u64 = unsafe { probed(inode, config!(offsets.inode_dentry)) };
    if listed == 0 { 0 } else { listed - u64::from(alias) }
}

/// The last part of a path of a file, by its directory entry.
#[inline(always)]
fn name(entry: u64) -> [u8; FILE_NAME_BYTES] {
    let mut name = [0u8; FILE_NAME_BYTES];
    let at = config!(offsets.dentry_name);
    if entry != 0 && present(at) {
        // SAFETY: probed loads take any address; room for the bytes asked for.
        unsafe {
            let text: u64 = probed(entry as *const u8, at);
            bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), FILE_NAME_BYTES as u32, text as *const _);
        }
    }
    name
}

/// The kernel's hash of an entry's name and directory (`struct qstr` in include/linux/dcache.h); 0: not known.
#[inline(always)]
pub fn name_hash(entry: u64) -> u32 {
    const HASH_BEFORE_NAME: u32 = 8;
    let at = config!(offsets.dentry_name);
    // SAFETY: probed loads take any address.
    if entry == 0 || !present(at) { 0 } else { unsafe { probed(entry as *const u8, at - HASH_BEFORE_NAME) } }
}

/// Inode number of the directory that has an entry; 0: not known.
#[inline(always)]
fn parent(entry: u64) -> u64 {
    // SAFETY: probed loads take any address, and give 0 where the kernel lacks the field.
    unsafe {
        let directory: u64 = probed(entry as *const u8, config!(offsets.dentry_parent));
        let inode: u64 = probed(directory as *const u8, config!(offsets.dentry_inode));
        if entry == 0 || inode == 0 {
            return 0;
        }
        if directory == entry {
            // The root, or what was opened by a handle, and hangs nowhere.
            let of: u64 = probed(inode as *const u8, config!(offsets.inode_sb));
            if probed::<u64>(of as *const u8, config!(offsets.sb_root)) != entry {
                return 0;
            }
        }
        probed(inode as *const u8, config!(offsets.inode_ino))
    }
}
