//! The claims, each with its trial.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use stillmap::{Anonymous, HugePages, Mapping, Snapshot, faults, page};

use crate::kernel::{address_space, available, resident, size, time, written};
use crate::touch::{How, allocate, first_touch, touch};
use crate::{Claim, Held};

type Trial = io::Result<(String, Held)>;

/// How a claim is tried; files go to the directory.
type Try = fn(&Path) -> Trial;

const MIB: usize = 1 << 20;

/// In order; each is tried when it is asked for.
pub fn all(dir: &Path) -> impl Iterator<Item = Claim> {
    let trials: [(_, Try); 11] = [
        ("mmap grants address space, not RAM", address_space_only),
        (
            "a page of memory comes at the first touch, zeroed",
            zeroed_at_touch,
        ),
        (
            "a page of a file comes at the first touch, with what the file holds",
            file_at_touch,
        ),
        (
            "one fault can bring a huge page instead of hundreds of small ones",
            huge_faults,
        ),
        ("munmap gives RAM back at once", munmap_gives_back),
        (
            "free does not, for many small blocks around one that is kept",
            free_keeps,
        ),
        (
            "free of one large block does: malloc had it from mmap",
            large_free_gives_back,
        ),
        (
            "mapping a pipe does not give its bytes; reading it into a mapping does",
            pipe,
        ),
        (
            "a small change through a mapping writes less than the whole file, which `write` sends",
            change_writes_less,
        ),
        (
            "it writes the changed pages, and nothing else",
            change_writes_pages,
        ),
        (
            "children see what is written to MAP_SHARED memory, and only to that",
            progeny,
        ),
    ];
    trials.into_iter().map(move |(claimed, trial)| {
        let (measured, held) =
            trial(dir).unwrap_or_else(|error| (String::new(), Held::Untried(error.to_string())));
        Claim {
            claimed,
            measured,
            held,
        }
    })
}

fn address_space_only(_: &Path) -> Trial {
    let len = (available() / 2).next_power_of_two() / 2;
    let (space, ram) = (address_space(), resident());
    let start = Instant::now();
    let memory = Anonymous::new(len as usize)?;
    let took = start.elapsed();
    let (space, ram) = (
        address_space().saturating_sub(space),
        resident().saturating_sub(ram),
    );
    let granted = memory.residency()?.resident();
    let measured = format!(
        "{} in {}: address space +{}, RAM +{}, {granted} pages granted",
        size(len),
        time(took),
        size(space),
        size(ram),
    );
    Ok((
        measured,
        (space >= len && ram < len / 1000 && granted == 0).into(),
    ))
}

fn zeroed_at_touch(_: &Path) -> Trial {
    let pages = 1000;
    let mut memory = allocate(HugePages::Never, 100 * MIB)?;
    let stride = memory.len() / pages / page::size() * page::size();
    let before = (faults::count(), memory.residency()?.resident());
    let zeros = memory.iter_mut().step_by(stride).take(pages).map(|byte| {
        let zero = *byte == 0;
        *byte = 1;
        zero
    });
    let zeros = zeros.filter(|&zero| zero).count();
    let faults = (faults::count() - before.0).minor;
    let granted = memory.residency()?.resident() - before.1;
    let measured =
        format!("{pages} pages touched: {granted} granted, {zeros} of them zero, {faults} faults");
    // Reading first maps the zero page, writing then takes one of our own: up to two faults each.
    let as_many = granted == pages && (pages as u64..=2 * pages as u64 + 50).contains(&faults);
    Ok((measured, (as_many && zeros == pages).into()))
}

/// A file of so many bytes that are not zero, on the disk and not in RAM.
fn cold_file(dir: &Path, len: usize) -> io::Result<File> {
    let mut file = tempfile::tempfile_in(dir)?;
    let block: Vec<u8> = (0..MIB).map(|i| (i % 251) as u8 + 1).collect();
    for _ in 0..len / MIB {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    for advice in [libc::POSIX_FADV_DONTNEED, libc::POSIX_FADV_NORMAL] {
        // SAFETY: takes numbers.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) };
    }
    Ok(file)
}

fn file_at_touch(dir: &Path) -> Trial {
    let file = cold_file(dir, 64 * MIB)?;
    // SAFETY: the file has no name; nobody else can change it.
    let bytes = unsafe { Snapshot::map_unguarded(&file) }?;
    let before = bytes.residency()?.resident();
    if before > 0 {
        return Ok((
            String::new(),
            Held::Untried(format!("{} keeps its files in RAM", dir.display())),
        ));
    }
    let faults = faults::count();
    let middle = 37 * MIB + 12345;
    let found = black_box(&bytes)[middle];
    let faults = faults::count() - faults;
    let after = bytes.residency()?.resident();
    let mut expected = [0];
    file.read_exact_at(&mut expected, middle as u64)?;
    let measured = format!(
        "64 MiB mapped: {before} pages in RAM; one byte read: it is the file's, {} major fault, and {after} pages \
         are in RAM by readahead",
        faults.major,
    );
    let held = found == expected[0]
        && faults.major == 1
        && (1..bytes.len() / page::size() / 2).contains(&after);
    Ok((measured, held.into()))
}

fn huge_faults(_: &Path) -> Trial {
    let len = 256 * MIB;
    let Some(huge) = page::huge_size() else {
        return Ok((
            String::new(),
            Held::Untried("this kernel has no huge pages".to_owned()),
        ));
    };
    // RAM that a virtual machine has not used yet is slow the first time, whoever gets it.
    let fastest = |how| -> stillmap::Result<_> {
        let costs = (0..4).map(|_| first_touch(how, len));
        let costs = costs.collect::<stillmap::Result<Vec<_>>>()?;
        Ok(costs.into_iter().min_by_key(|cost| cost.time))
    };
    let (Some(small), Some(large)) = (fastest(How::SmallPages)?, fastest(How::HugePages)?) else {
        return Err(io::Error::other("nothing was measured"));
    };
    let ratio = small.time.as_secs_f64() / large.time.as_secs_f64();
    let measured = format!(
        "{} touched: {} faults in {} with pages of {}, {} faults in {} with huge pages of {}: {ratio:.1} times as fast",
        size(len as u64),
        small.faults.minor,
        time(small.time),
        size(page::size() as u64),
        large.faults.minor,
        time(large.time),
        size(huge as u64),
    );
    let fewer = large.faults.minor * 20 < small.faults.minor;
    Ok((measured, (fewer && ratio > 1.0).into()))
}

fn munmap_gives_back(_: &Path) -> Trial {
    let len = 256 * MIB;
    let before = resident();
    let mut memory = Anonymous::new(len)?;
    touch(&mut memory);
    let full = resident().saturating_sub(before);
    let start = Instant::now();
    drop(memory);
    let took = start.elapsed();
    let left = resident().saturating_sub(before);
    let measured = format!(
        "RAM +{} when full, +{} after munmap, which took {}",
        size(full),
        size(left),
        time(took)
    );
    Ok((measured, (full >= len as u64 && left < MIB as u64).into()))
}

fn free_keeps(_: &Path) -> Trial {
    const BLOCK: usize = 1000;
    let count = 200_000;
    // The list of them is memory too, and is there all the time.
    let mut blocks: Vec<Box<[u8; BLOCK]>> = Vec::with_capacity(count);
    let before = resident();
    blocks.extend((0..count).map(|i| Box::new([i as u8; BLOCK])));
    let full = resident().saturating_sub(before);
    // Only the newest one stays, at the upper end of the heap.
    let kept = blocks.pop();
    blocks.clear();
    let left = resident().saturating_sub(before);
    drop(kept);
    let after = resident().saturating_sub(before);
    drop(blocks);
    let measured = format!(
        "{count} blocks of {BLOCK} B: RAM +{}; all but one freed: +{} left; that one as well: +{}\n\
         an Anonymous of that size, discarded but for one page: +{} left",
        size(full),
        size(left),
        size(after),
        size(discarded_but_one(count * BLOCK)?),
    );
    Ok((measured, (left > full / 2).into()))
}

/// The same with a mapping: what is left of it, in bytes.
fn discarded_but_one(len: usize) -> io::Result<u64> {
    let before = resident();
    let mut memory = Anonymous::new(len)?;
    touch(&mut memory);
    memory.discard(..len - page::size())?;
    let left = resident().saturating_sub(before);
    black_box(&memory);
    Ok(left)
}

fn large_free_gives_back(_: &Path) -> Trial {
    let len = 256 * MIB;
    let before = resident();
    let block = black_box(vec![1_u8; len]);
    let full = resident().saturating_sub(before);
    drop(block);
    let left = resident().saturating_sub(before);
    let measured = format!("RAM +{} when full, +{} after free", size(full), size(left));
    Ok((measured, (full >= len as u64 && left < MIB as u64).into()))
}

/// Read end and write end.
fn pipe_ends() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are new, and nobody else's.
    Ok(ends.map(|end| unsafe { File::from_raw_fd(end) }).into())
}

fn pipe(_: &Path) -> Trial {
    let len = 64 * MIB;
    let (reader, mut writer) = pipe_ends()?;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let mapped = unsafe {
        let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
        libc::mmap(
            std::ptr::null_mut(),
            len,
            protection,
            flags,
            reader.as_raw_fd(),
            0,
        )
    };
    let refused = io::Error::last_os_error();
    let is_refused = mapped == libc::MAP_FAILED;
    let feeder = std::thread::spawn(move || {
        let block: Vec<u8> = (0..MIB).map(|i| (i % 251) as u8).collect();
        (0..len / MIB).try_for_each(|_| writer.write_all(&block))
    });
    let start = Instant::now();
    let bytes = Snapshot::from_fd(reader)?;
    let took = start.elapsed();
    feeder
        .join()
        .map_err(|_| io::Error::other("the writer panicked"))??;
    let equal = bytes
        .iter()
        .enumerate()
        .all(|(i, &byte)| byte == (i % MIB % 251) as u8);
    let mmap = if is_refused {
        refused.to_string()
    } else {
        "accepted".to_owned()
    };
    let measured = format!(
        "mmap: {mmap}; Snapshot: {} in {}, {}",
        size(bytes.len() as u64),
        time(took),
        if equal {
            "every byte as sent"
        } else {
            "other bytes than sent"
        },
    );
    Ok((measured, (is_refused && equal && bytes.len() == len).into()))
}

/// What a file of `len` bytes cost on the device when one byte was changed at each of some places.
struct Change {
    len: usize,
    places: usize,
    by_mapping: (u64, Duration),
    by_write: (u64, Duration),
}

impl Change {
    fn made(dir: &Path) -> io::Result<Change> {
        let (len, places) = (64 * MIB, 10);
        let path = tempfile::Builder::new().tempfile_in(dir)?.into_temp_path();
        let mut content: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        fs::write(&path, &content)?;
        File::open(&path)?.sync_all()?;
        let place = |number: usize| number * len / places + 4321;
        // First, since it needs the file for itself.
        let by_mapping = device_writes(|| {
            let mut map = stillmap::Exclusive::open(&path)?;
            (0..places).for_each(|number| map[place(number)] = 0);
            Ok(map.close()?)
        })?;
        (0..places).for_each(|number| content[place(number)] = 1);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let by_write = device_writes(|| {
            file.write_all_at(&content, 0)?;
            file.sync_data()
        })?;
        if by_write.0 == 0 {
            let why = format!("{} is on no device", dir.display());
            return Err(io::Error::other(why));
        }
        Ok(Change {
            len,
            places,
            by_mapping,
            by_write,
        })
    }
}

fn device_writes(work: impl FnOnce() -> io::Result<()>) -> io::Result<(u64, Duration)> {
    let unknown = || io::Error::other("/proc/self/io does not tell");
    let (before, start) = (written().ok_or_else(unknown)?, Instant::now());
    work()?;
    let took = start.elapsed();
    Ok((written().ok_or_else(unknown)?.saturating_sub(before), took))
}

fn change_writes_less(dir: &Path) -> Trial {
    let change = Change::made(dir)?;
    let measured = format!(
        "{} bytes of {} changed: {} written in {} through stillmap::Exclusive, {} in {} by `write`",
        change.places,
        size(change.len as u64),
        size(change.by_mapping.0),
        time(change.by_mapping.1),
        size(change.by_write.0),
        time(change.by_write.1),
    );
    Ok((measured, (change.by_mapping.0 < change.by_write.0).into()))
}

fn change_writes_pages(dir: &Path) -> Trial {
    let change = Change::made(dir)?;
    let each = change.by_mapping.0 / change.places as u64;
    let measured = format!("{} written for each changed byte", size(each));
    // `Exclusive` splits the folios of the file; by a plain mapping each would be written as a whole, up to 2 MiB.
    Ok((measured, (each <= page::size() as u64).into()))
}

fn progeny(_: &Path) -> Trial {
    let mut shared = Anonymous::shared(page::size())?;
    let mut private = Anonymous::new(page::size())?;
    stillmap::fork::scope(|scope| {
        scope.spawn(|| {
            shared[0] = 7;
            private[0] = 7;
        })?;
        Ok::<(), stillmap::Error>(())
    })??;
    let (shared, private) = (black_box(&shared)[0], black_box(&private)[0]);
    let measured = format!(
        "a forked child wrote 7: the parent reads {shared} from MAP_SHARED, {private} from MAP_PRIVATE"
    );
    Ok((measured, (shared == 7 && private == 0).into()))
}
