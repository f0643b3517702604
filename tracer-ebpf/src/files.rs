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

/// Says which file this is.
#[inline(always)]
pub fn tell(state: &mut CpuState, family: FamilyId, kind: u16, file: FileKey, inode: *const u8, who: (u32, u32)) {
    let record = record(state, kind, file, inode, who);
    emit::submit(state, family, u32::from(record.header.cpu), Lane::Rare, &record);
}

/// The same for a program that may be run in the middle of others of this CPU.
#[inline(always)]
pub fn tell_preemptible(
    state: &mut CpuState,
    family: FamilyId,
    kind: u16,
    file: FileKey,
    inode: *const u8,
    who: (u32, u32),
) {
    let record = record(state, kind, file, inode, who);
    emit::submit_preemptible(state, family, u32::from(record.header.cpu), &record);
}

#[inline(always)]
fn record(state: &CpuState, kind: u16, file: FileKey, inode: *const u8, (tid, tgid): (u32, u32)) -> CachedFile {
    // SAFETY: no arguments.
    let (ts_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    CachedFile {
        header: emit::header(state, ts_ns, cpu, kind),
        tid,
        tgid,
        file,
        // SAFETY: `inode` is one.
        size_bytes: unsafe { probed(inode, config!(offsets.inode_size)) },
        name: name(inode),
    }
}

/// The last part of a path of the file, by the directory entry that is listed first.
#[inline(always)]
fn name(inode: *const u8) -> [u8; FILE_NAME_BYTES] {
    let mut name = [0u8; FILE_NAME_BYTES];
    let (alias, at) = (config!(offsets.dentry_alias), config!(offsets.dentry_name));
    if !present(config!(offsets.inode_dentry)) || !present(alias) || !present(at) {
        return name;
    }
    // SAFETY: probed loads take any address; room for the bytes asked for.
    unsafe {
        let listed: u64 = probed(inode, config!(offsets.inode_dentry));
        if listed != 0 {
            let text: u64 = probed((listed - u64::from(alias)) as *const u8, at);
            bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), FILE_NAME_BYTES as u32, text as *const _);
        }
    }
    name
}
