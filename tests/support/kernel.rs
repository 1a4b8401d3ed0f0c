//! What the kernel reports about this process: descriptors, mappings, threads, resident pages, faults.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

/// Open descriptors with what they refer to, sorted by number.
pub fn descriptors() -> Vec<(i32, PathBuf)> {
    let own = std::fs::read_dir("/proc/self/fd").expect("list descriptors");
    let mut open: Vec<_> = own
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            // The descriptor that lists the directory is gone again after this.
            let target = std::fs::read_link(entry.path()).ok()?;
            let listing = target.starts_with("/proc") && target.ends_with("fd");
            (!listing).then_some((number, target))
        })
        .collect();
    open.sort();
    open
}

/// Threads of this process. One that has left user space for good is none: joining it returns a moment before it is
/// gone from /proc.
pub fn threads() -> usize {
    const PF_EXITING: u64 = 4;
    let tasks = std::fs::read_dir("/proc/self/task").expect("list threads");
    let lives = |task: &std::fs::DirEntry| {
        // Behind the name in parentheses the flags are the seventh field, proc_pid_stat(5).
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let flags = stat.rsplit_once(')')?.1.split_whitespace().nth(6)?;
        Some(flags.parse::<u64>().ok()? & PF_EXITING == 0)
    };
    tasks
        .flatten()
        .filter_map(|task| lives(&task))
        .filter(|&lives| lives)
        .count()
}

/// What a limit is for, as the C library has it.
#[cfg(target_env = "gnu")]
pub type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
pub type Resource = libc::c_int;

/// Sets a limit of this process (getrlimit(2)), and gives what it was; the most that it may be is not lowered.
pub fn limit(resource: Resource, to: u64) -> u64 {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls take one `struct rlimit`.
    unsafe {
        assert_eq!(libc::getrlimit64(resource, &mut limit), 0);
        let before = std::mem::replace(&mut limit.rlim_cur, to);
        limit.rlim_max = limit.rlim_max.max(to);
        assert_eq!(libc::setrlimit64(resource, &limit), 0);
        before
    }
}

/// Lowers a limit for good, but for a process with CAP_SYS_RESOURCE.
pub fn hard_limit(resource: Resource, to: u64) {
    let limit = libc::rlimit64 {
        rlim_cur: to,
        rlim_max: to,
    };
    // SAFETY: reads the one struct.
    assert_eq!(unsafe { libc::setrlimit64(resource, &limit) }, 0);
}

/// One line of /proc/self/maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    pub range: Range<usize>,
    pub permissions: String,
    pub name: String,
}

pub fn mappings() -> Vec<Area> {
    std::fs::read_to_string("/proc/self/maps")
        .expect("read /proc/self/maps")
        .lines()
        .filter_map(area)
        .collect()
}

fn area(line: &str) -> Option<Area> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let permissions = words.next()?;
    (permissions.len() == 4).then(|| Area {
        range: start..end,
        permissions: permissions.to_owned(),
        name: words.skip(3).collect::<Vec<_>>().join(" "),
    })
}

/// The mapping that holds `address`.
pub fn mapping_at(address: usize) -> Option<Area> {
    mappings()
        .into_iter()
        .find(|area| area.range.contains(&address))
}

/// Sum of one field of /proc/self/smaps, in bytes, over all mappings that overlap `range`.
pub fn smaps(range: Range<usize>, field: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("read /proc/self/smaps");
    let mut inside = false;
    let mut sum = 0;
    for line in text.lines() {
        if let Some(area) = area(line) {
            inside = area.range.start < range.end && range.start < area.range.end;
        } else if inside {
            if let Some(value) = line.strip_prefix(field).and_then(|v| v.strip_prefix(':')) {
                sum += kilobytes(value);
            }
        }
    }
    sum
}

/// One field of /proc/self/status, in bytes: `VmRSS`, `RssAnon`, `RssShmem`, ...
pub fn status(field: &str) -> usize {
    find_kilobytes("/proc/self/status", field)
}

/// One field of /proc/meminfo, in bytes.
pub fn meminfo(field: &str) -> usize {
    find_kilobytes("/proc/meminfo", field)
}

fn find_kilobytes(file: &str, field: &str) -> usize {
    let text = std::fs::read_to_string(file).expect("read from /proc");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    kilobytes(line.unwrap_or_else(|| panic!("no {field} in {file}")))
}

fn kilobytes(value: &str) -> usize {
    let number = value.trim().trim_end_matches(" kB").trim();
    1024 * number.parse::<usize>().expect("a number of kB")
}

/// How many pages of `bytes` hold memory, by mincore: for private memory those granted to us, for shared memory those
/// that exist at all.
pub fn resident_pages(bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        return 0;
    }
    let page = page_size();
    let start = bytes.as_ptr() as usize / page * page;
    let end = (bytes.as_ptr() as usize + bytes.len()).next_multiple_of(page);
    let mut pages = vec![0u8; (end - start) / page];
    // SAFETY: one answer byte for every page of the range.
    let result = unsafe { libc::mincore(start as *mut _, end - start, pages.as_mut_ptr()) };
    assert_eq!(
        result,
        0,
        "mincore({start:#x}, {:#x}): {}",
        end - start,
        std::io::Error::last_os_error()
    );
    pages.iter().filter(|&&page| page & 1 == 1).count()
}

/// How many pages of `bytes` are in this process's page tables, by /proc/self/pagemap: touching those cannot fault.
pub fn present_pages(bytes: &[u8]) -> usize {
    use std::os::unix::fs::FileExt;
    if bytes.is_empty() {
        return 0;
    }
    let page = page_size();
    let first = bytes.as_ptr() as usize / page;
    let last = (bytes.as_ptr() as usize + bytes.len()).div_ceil(page);
    let mut entries = vec![0u8; (last - first) * 8];
    std::fs::File::open("/proc/self/pagemap")
        .and_then(|map| map.read_exact_at(&mut entries, first as u64 * 8))
        .expect("read /proc/self/pagemap");
    let number = |entry: &[u8]| u64::from_ne_bytes(entry.try_into().expect("8 bytes"));
    entries
        .chunks_exact(8)
        .filter(|entry| number(entry) >> 63 == 1)
        .count()
}

/// Minor page faults of this thread so far.
pub fn minor_faults() -> u64 {
    // SAFETY: an all-zero rusage is valid, and the kernel fills it in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
        usage
    };
    usage.ru_minflt as u64
}

/// True if touching a page that is there costs no fault; prints `skipped:` if it does. User-mode Linux learns by a fault
/// that a page is used.
pub fn present_pages_do_not_fault() -> bool {
    const LEN: usize = 1 << 20;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: new memory, which no other code knows, read inside its bounds and unmapped once.
    let faults = unsafe {
        let start = libc::mmap(std::ptr::null_mut(), LEN, access, flags, -1, 0);
        assert_ne!(start, libc::MAP_FAILED);
        let before = minor_faults();
        for at in (0..LEN).step_by(page_size()) {
            start.cast::<u8>().add(at).read_volatile();
        }
        let faults = minor_faults() - before;
        libc::munmap(start, LEN);
        faults
    };
    let none = faults < 8;
    if !none {
        super::skip("touching a page that is there costs a fault on this machine");
    }
    none
}

/// The magic number of the file system that holds an open file or directory, fstatfs(2).
#[allow(clippy::unnecessary_cast)] // its type differs with the C library
pub fn file_system(fd: impl AsFd) -> u64 {
    // SAFETY: zero bits are a valid struct.
    let mut system: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: writes the one struct.
    let result = unsafe { libc::fstatfs(fd.as_fd().as_raw_fd(), &mut system) };
    assert_eq!(result, 0, "fstatfs: {}", std::io::Error::last_os_error());
    system.f_type as u64
}

pub fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// True if the kernel can fault pages in on demand (MADV_POPULATE_READ and _WRITE, Linux 5.14); prints `skipped:` if it
/// cannot.
pub fn can_populate() -> bool {
    // SAFETY: an empty range, of which nothing is asked.
    let can = unsafe { libc::madvise(std::ptr::null_mut(), 0, libc::MADV_POPULATE_READ) } == 0;
    if !can {
        super::skip("MADV_POPULATE_READ needs Linux 5.14");
    }
    can
}

/// How many mappings a process may have, vm.max_map_count.
pub fn most_mappings() -> usize {
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("read it");
    most.trim().parse().expect("a number")
}

/// Makes as many mappings as the process may have: pieces of one, each with another protection than the next. What it
/// gives back makes room for two of them, as often as it is called.
pub fn fill_mappings() -> impl FnMut() {
    let page = page_size();
    let pages = most_mappings() + 2;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let (none, len) = (libc::PROT_NONE, pages * page);
    // SAFETY: new address space that no code touches.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, none, flags, -1, 0) };
    assert_ne!(start, libc::MAP_FAILED);
    let start = start.addr();
    let protect = move |piece: usize, access| {
        let at = (start + piece * page) as *mut _;
        // SAFETY: inside the mapping made above.
        unsafe { libc::mprotect(at, page, access) == 0 }
    };
    let mut pieces = (1..pages).step_by(2);
    let full = pieces.any(|piece| !protect(piece, libc::PROT_READ));
    assert!(full, "more mappings than {}", pages - 2);
    let mut piece = 1;
    move || {
        assert!(protect(piece, libc::PROT_NONE));
        piece += 2;
    }
}

fn limit_of(resource: Resource) -> libc::rlimit64 {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes the one struct.
    assert_eq!(unsafe { libc::getrlimit64(resource, &mut limit) }, 0);
    limit
}

/// True if a process like this one may lock 4 MiB, which is half of the kernel's default limit (since Linux 5.16);
/// prints `skipped:` if it may not.
pub fn may_lock() -> bool {
    const LEN: usize = 4 << 20;
    // SAFETY: memory of our own that no other code knows.
    let locked = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let start = libc::mmap(std::ptr::null_mut(), LEN, libc::PROT_READ, flags, -1, 0);
        assert_ne!(start, libc::MAP_FAILED);
        let locked = libc::mlock(start, LEN) == 0;
        libc::munmap(start, LEN);
        locked
    };
    if !locked {
        let limit = limit_of(libc::RLIMIT_MEMLOCK).rlim_cur;
        super::skip(format_args!("RLIMIT_MEMLOCK allows {limit} bytes only"));
    }
    locked
}

/// Raises the limit to this many descriptors; prints `skipped:` if it may not.
pub fn may_open(count: u64) -> bool {
    let mut limit = limit_of(libc::RLIMIT_NOFILE);
    if limit.rlim_cur < count {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: reads the one struct.
        unsafe { libc::setrlimit64(libc::RLIMIT_NOFILE, &limit) };
    }
    if limit.rlim_cur < count {
        let may = limit.rlim_cur;
        super::skip(format_args!("RLIMIT_NOFILE allows {may} descriptors only"));
    }
    limit.rlim_cur >= count
}

/// True if the user of this process may have this many; prints `skipped:` if not. There is no limit for root.
pub fn may_start(count: u64) -> bool {
    let limit = limit_of(libc::RLIMIT_NPROC).rlim_cur;
    let may = super::is_root() || limit >= count;
    if !may {
        super::skip(format_args!("RLIMIT_NPROC allows {limit} processes only"));
    }
    may
}

/// True if this process may make a file of this length; prints `skipped:` if it may not. SIGXFSZ would kill the process.
pub fn may_write(bytes: u64) -> bool {
    let limit = limit_of(libc::RLIMIT_FSIZE).rlim_cur;
    if limit < bytes {
        super::skip(format_args!("RLIMIT_FSIZE allows {limit} bytes only"));
    }
    limit >= bytes
}

/// True if this process has this many addresses; prints `skipped:` if not.
pub fn may_map(bytes: u64) -> bool {
    // A 32-bit process has no such number.
    let len = usize::try_from(bytes).unwrap_or(usize::MAX);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: addresses without memory that no other code knows.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        super::skip(format_args!("a process has fewer than {bytes} addresses"));
        return false;
    }
    // SAFETY: mapped above.
    unsafe { libc::munmap(start, len) };
    true
}

/// Current offset of a descriptor.
pub fn offset_of(fd: impl AsFd) -> u64 {
    // SAFETY: lseek takes any number for a descriptor.
    let at = unsafe { libc::lseek64(fd.as_fd().as_raw_fd(), 0, libc::SEEK_CUR) };
    assert!(at >= 0, "lseek: {}", std::io::Error::last_os_error());
    at as u64
}

/// Kernel id of this thread, for [`interrupt`] and [`is_sleeping`].
pub fn thread_id() -> libc::pid_t {
    // SAFETY: gettid cannot fail.
    unsafe { libc::gettid() }
}

/// The state of the thread of that name, proc_pid_stat(5), if there is one.
pub fn state_of(name: &str) -> Option<char> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("list threads");
    let stats =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let mut states = stats.filter_map(|stat| {
        let (before, rest) = stat.rsplit_once(") ")?;
        before
            .ends_with(&format!("({name}"))
            .then(|| rest.chars().next())?
    });
    states.next()
}

/// Sends a signal to one thread of this process.
pub fn interrupt(thread: libc::pid_t, signal: i32) {
    // SAFETY: tgkill takes plain numbers; the callers have a handler in place.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
    assert_eq!(result, 0, "tgkill: {}", std::io::Error::last_os_error());
}

/// True while the thread waits in an interruptible system call.
pub fn is_sleeping(thread: libc::pid_t) -> bool {
    is_in_state(&format!("/proc/self/task/{thread}/stat"), 'S')
}

/// True while the thread waits in a system call that no signal interrupts.
pub fn is_blocked(thread: libc::pid_t) -> bool {
    is_in_state(&format!("/proc/self/task/{thread}/stat"), 'D')
}

/// True while the process is stopped.
pub fn is_stopped(process: libc::pid_t) -> bool {
    is_in_state(&format!("/proc/{process}/stat"), 'T')
}

fn is_in_state(stat: &str, state: char) -> bool {
    std::fs::read_to_string(stat)
        .ok()
        .and_then(|stat| {
            let (_, rest) = stat.rsplit_once(") ")?;
            Some(rest.starts_with(state))
        })
        .unwrap_or(false)
}

/// A set of everything that can leak, to be compared before and after.
#[derive(Debug)]
pub struct Holdings {
    pub descriptors: Vec<(i32, PathBuf)>,
    pub mappings: Vec<Area>,
    pub threads: usize,
    pub resident: usize,
}

impl Holdings {
    pub fn now() -> Self {
        Holdings {
            descriptors: descriptors(),
            mappings: mappings(),
            threads: threads(),
            resident: status("VmRSS"),
        }
    }

    /// Fails if this process now holds more than then. A few mappings and megabytes belong to the allocator.
    #[track_caller]
    pub fn assert_nothing_left(&self, what: impl std::fmt::Display) {
        let now = Holdings::now();
        assert_eq!(now.descriptors, self.descriptors, "{what}: descriptors");
        assert_eq!(now.threads, self.threads, "{what}: threads");
        assert!(
            now.mappings.len() <= self.mappings.len() + 8,
            "{what}: {} mappings, {} before",
            now.mappings.len(),
            self.mappings.len()
        );
        assert!(
            now.resident <= self.resident + (16 << 20),
            "{what}: {} KiB resident, {} before",
            now.resident / 1024,
            self.resident / 1024
        );
    }
}
