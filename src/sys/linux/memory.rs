//! System calls on mappings: mmap, munmap, mremap, mprotect, madvise.

use super::{retry_eintr, to_off_t};
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

/// The address of an anonymous mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Address {
    #[default]
    Anywhere,
    /// A hint.
    Hint(usize),
    /// The exact address, without replacing a mapping (`MAP_FIXED_NOREPLACE`, Linux 4.17).
    Fixed(usize),
}

/// The pages of an anonymous mapping, if it does not only reserve addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
    /// Zeroed, readable and writable.
    Zeroed,
    /// The same from the pool of reserved huge pages (`MAP_HUGETLB`).
    Reserved,
    /// No access: address space and nothing else.
    None,
}

/// Zeros on the heap; `ENOMEM` where there is no memory, for which `vec!` ends the process.
pub(crate) fn heap_zeros(len: usize) -> io::Result<Vec<u8>> {
    let mut zeros = Vec::new();
    let reserved = zeros.try_reserve_exact(len);
    reserved.map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
    zeros.resize(len, 0);
    Ok(zeros)
}

/// mmap(2) of private anonymous memory. Never replaces a mapping.
pub(crate) fn map_anonymous(
    len: usize,
    address: Address,
    pages: PageKind,
) -> io::Result<NonNull<u8>> {
    let (protection, flags) = match pages {
        PageKind::Zeroed => (READ_WRITE, 0),
        PageKind::Reserved => (READ_WRITE, libc::MAP_HUGETLB),
        PageKind::None => (libc::PROT_NONE, libc::MAP_NORESERVE),
    };
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    map(len, address, protection, flags, (-1, 0))
}

/// mmap(2) of a file from `offset` on, a multiple of the page size, shared and writable. Never replaces a mapping.
pub(crate) fn map_shared(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: usize,
    address: Address,
) -> io::Result<NonNull<u8>> {
    let file = (fd.as_raw_fd(), to_off_t(offset)?);
    map(len, address, READ_WRITE, libc::MAP_SHARED, file)
}

/// mmap(2) of zeroed memory that forked children share. Never replaces a mapping.
pub(crate) fn map_shared_anonymous(len: usize) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    map(len, Address::Anywhere, READ_WRITE, flags, (-1, 0))
}

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn map(
    len: usize,
    address: Address,
    protection: i32,
    flags: i32,
    (fd, offset): (i32, i64),
) -> io::Result<NonNull<u8>> {
    let (address, exactly) = match address {
        Address::Anywhere => (0, 0),
        Address::Hint(address) => (address, 0),
        Address::Fixed(address) => (address, libc::MAP_FIXED_NOREPLACE),
    };
    let address = ptr::without_provenance_mut(address);
    // SAFETY: without MAP_FIXED the kernel puts the mapping where nothing is mapped.
    checked(unsafe { libc::mmap64(address, len, protection, flags | exactly, fd, offset) })
}

fn checked(start: *mut libc::c_void) -> io::Result<NonNull<u8>> {
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// munmap(2).
///
/// # Safety
/// `start..start+len` is mapped, owned by the caller, and no reference into it is left.
pub(crate) unsafe fn unmap(start: NonNull<u8>, len: usize) -> io::Result<()> {
    // SAFETY: the caller owns the range and gives it up.
    retry_eintr(|| unsafe { libc::munmap(start.as_ptr().cast(), len) }).map(drop)
}

/// mremap(2) with `MREMAP_MAYMOVE`: the same pages under a new length, perhaps elsewhere.
///
/// # Safety
/// `start..start+old` is one mapping, owned by the caller, and no reference into it is left.
pub(crate) unsafe fn remap(start: NonNull<u8>, old: usize, new: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: the caller owns the range; MREMAP_MAYMOVE alone replaces nothing.
    checked(unsafe { libc::mremap(start.as_ptr().cast(), old, new, libc::MREMAP_MAYMOVE) })
}

/// mremap(2) with `MREMAP_FIXED`: moves a mapping over another in one step.
///
/// # Safety
/// - `start..start+old` is one mapping, owned by the caller, and no reference into it is left.
/// - `target..target+new` is owned by the caller, and a thread that reads it meanwhile finds the same
///   bytes there afterwards, or no reference into it is left.
pub(crate) unsafe fn remap_onto(
    start: NonNull<u8>,
    old: usize,
    target: NonNull<u8>,
    new: usize,
) -> io::Result<()> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: the caller owns both ranges, see above.
    checked(unsafe {
        libc::mremap(
            start.as_ptr().cast(),
            old,
            new,
            flags,
            target.as_ptr().cast::<libc::c_void>(),
        )
    })
    .map(drop)
}

/// mmap(2) with `MAP_FIXED`: pages of a file, shared and read-only, in place of what is mapped there, in one step.
///
/// # Safety
/// As [`remap_onto`] for its target.
pub(crate) unsafe fn map_fixed_file(
    target: NonNull<u8>,
    len: usize,
    fd: BorrowedFd<'_>,
    offset: u64,
) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        map_fixed(
            target,
            len,
            (libc::PROT_READ, libc::MAP_SHARED),
            fd.as_raw_fd(),
            offset,
        )
    }
}

/// mmap(2) with `MAP_FIXED`: the first `len` bytes of a file, shared and writable, in place of what is mapped there, in one
/// step.
///
/// # Safety
/// As [`remap_onto`] for its target.
pub(crate) unsafe fn map_fixed_shared(
    target: NonNull<u8>,
    len: usize,
    fd: BorrowedFd<'_>,
) -> io::Result<()> {
    let access = (READ_WRITE, libc::MAP_SHARED);
    // SAFETY: the caller's promise.
    unsafe { map_fixed(target, len, access, fd.as_raw_fd(), 0) }
}

unsafe fn map_fixed(
    target: NonNull<u8>,
    len: usize,
    (protection, flags): (i32, i32),
    fd: i32,
    offset: u64,
) -> io::Result<()> {
    let target = target.as_ptr().cast();
    let (flags, offset) = (flags | libc::MAP_FIXED, offset as libc::off64_t);
    // SAFETY: the caller owns the target.
    checked(unsafe { libc::mmap64(target, len, protection, flags, fd, offset) }).map(drop)
}

/// Copies from a mapping of this process: process_vm_readv(2), which fails with `EFAULT` where a load would be a signal.
///
/// # Safety
/// `to..to+len` is mapped memory that the caller may write to, and no code reads it meanwhile.
pub(crate) unsafe fn read_mapped(from: usize, to: NonNull<u8>, len: usize) -> io::Result<usize> {
    let buffer = |start| libc::iovec {
        iov_base: start,
        iov_len: len,
    };
    let (to, from) = (
        buffer(to.as_ptr().cast()),
        buffer(ptr::without_provenance_mut(from)),
    );
    let own = std::process::id() as libc::pid_t;
    let (to, from) = (&raw const to, &raw const from);
    // SAFETY: it reads two structs, and writes to the memory of the first, which the caller may write to.
    let read = retry_eintr(|| unsafe { libc::process_vm_readv(own, to, 1, from, 1, 0) })?;
    Ok(read.unsigned_abs())
}

/// True if every page of a range is mapped: msync(2) fails with `ENOMEM` otherwise. `MS_ASYNC` does nothing else.
pub(crate) fn is_mapped(start: NonNull<u8>, len: usize) -> bool {
    // SAFETY: msync(2) changes no byte.
    let done = retry_eintr(|| unsafe { libc::msync(start.as_ptr().cast(), len, libc::MS_ASYNC) });
    !done.is_err_and(|e| e.raw_os_error() == Some(libc::ENOMEM))
}

/// The areas (VMAs) that a range consists of, proc_pid_maps(5), lowest first.
pub(crate) fn vmas(range: Range<usize>) -> io::Result<Vec<Range<usize>>> {
    // Names of files need not be UTF-8.
    let maps = fs::read("/proc/self/maps")?;
    let areas = String::from_utf8_lossy(&maps);
    let areas = areas.lines().filter_map(vma);
    let parts = areas.map(|area| area.start.max(range.start)..area.end.min(range.end));
    Ok(parts.filter(|part| !part.is_empty()).collect())
}

/// The addresses at the head of a line of maps or smaps: `7f00-7f40 r--p ...`.
pub(crate) fn vma(line: &str) -> Option<Range<usize>> {
    let (range, _) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    Some(address(start)?..address(end)?)
}

/// mprotect(2) to read-only.
///
/// # Safety
/// The range is mapped, owned by the caller, and no code writes to it any more.
pub(crate) unsafe fn protect_read_only(start: NonNull<u8>, len: usize) -> io::Result<()> {
    // SAFETY: taking write access away cannot change a byte.
    retry_eintr(|| unsafe { libc::mprotect(start.as_ptr().cast(), len, libc::PROT_READ) }).map(drop)
}

/// mprotect(2): no access. No byte changes; touching one raises SIGSEGV.
pub(crate) fn protect_none(range: Range<usize>) -> io::Result<()> {
    let start = ptr::without_provenance_mut(range.start);
    // SAFETY: taking access away cannot change a byte.
    retry_eintr(|| unsafe { libc::mprotect(start, range.len(), libc::PROT_NONE) }).map(drop)
}

/// mprotect(2) to readable and writable.
///
/// # Safety
/// The range is mapped writable memory of the caller, and stores to it may be made.
pub(crate) unsafe fn protect_read_write(range: Range<usize>) -> io::Result<()> {
    let start = ptr::without_provenance_mut(range.start);
    // SAFETY: as the caller promises.
    retry_eintr(|| unsafe { libc::mprotect(start, range.len(), READ_WRITE) }).map(drop)
}

/// mmap(2) with `MAP_FIXED`: address space without access in place of what is mapped there.
///
/// # Safety
/// The range is mapped and owned by the caller, and no reference into it is used any more.
pub(crate) unsafe fn map_fixed_none(range: Range<usize>) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let start = ptr::without_provenance_mut(range.start);
    let start = NonNull::new(start).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the caller owns the range.
    unsafe { map_fixed(start, range.len(), (libc::PROT_NONE, flags), -1, 0) }
}

/// msync(2) with `MS_SYNC`: the stores to a shared mapping are on the disk when it returns. An address that is not
/// mapped is `ENOMEM`.
pub(crate) fn sync(start: NonNull<u8>, len: usize) -> io::Result<()> {
    // SAFETY: msync(2) changes no byte of ours.
    retry_eintr(|| unsafe { libc::msync(start.as_ptr().cast(), len, libc::MS_SYNC) }).map(drop)
}

/// madvise(2).
///
/// # Safety
/// The range is mapped and owned by the caller; if `advice` destroys bytes, the caller holds them exclusively.
pub(crate) unsafe fn advise(start: NonNull<u8>, len: usize, advice: i32) -> io::Result<()> {
    // SAFETY: the caller owns the range and answers for what the advice does to it.
    retry_eintr(|| unsafe { libc::madvise(start.as_ptr().cast(), len, advice) }).map(drop)
}
