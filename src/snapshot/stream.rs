//! What has no size is read to its end: pipes, FIFOs, sockets, terminals, devices, and files that say 0.

use super::Snapshot;
use super::options::SnapshotOptions;
use crate::budget::default_memory_limit;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::input::Source;
use crate::sys::file;

/// What a pipe is widened to, in bytes: the most that an unprivileged process may ask for (pipe(7), `pipe-max-size`).
const PIPE_CAPACITY: i32 = 1 << 20;

/// Below this nobody asks how much memory there is.
const UNASKED: u64 = 64 << 20;

/// Reads to the end, or for as long as `options.len` says. `position` is given if the offset can be set.
pub(super) fn take(
    options: &mut SnapshotOptions<'_>,
    source: &Source<'_>,
    position: Option<u64>,
) -> Result<Snapshot> {
    if options.must_map {
        return Err(Error::NotMappable {
            path: source.name(),
            what: "it has no size, it can only be read",
        });
    }
    // Not a pipe, or not allowed: then its capacity is what it is.
    let _ = file::set_pipe_capacity(source.fd(), PIPE_CAPACITY);
    skip(options, source, position)?;

    let wanted = options.len;
    let mut memory = Buffer::for_stream()?;
    let mut limit = Limit::new(options, source);
    loop {
        let done = memory.len() as u64;
        limit.ask(done);
        // Never cut to the limit: what keeps messages or records apart is read whole or not at all.
        let most = wanted.map_or(usize::MAX, |wanted| wanted - memory.len());
        memory.make_room(most)?;
        let n = memory.read_from(most, |into| file::read(source.fd(), into));
        let n = n.map_err(|e| source.error("read", e))?;
        if n == 0 {
            break;
        }
        limit.check(memory.len() as u64)?;
        options.report(memory.len() as u64, wanted.map(|wanted| wanted as u64));
    }
    if let Some(wanted) = wanted.filter(|wanted| memory.len() < *wanted) {
        return Err(Error::out_of_bounds(
            options.offset,
            wanted as u64,
            options.offset.saturating_add(memory.len() as u64),
        ));
    }
    Ok(Snapshot::memory(memory.finish()?, true))
}

/// Leaves the first `options.offset` bytes out.
fn skip(options: &SnapshotOptions<'_>, source: &Source<'_>, position: Option<u64>) -> Result<()> {
    let offset = options.offset;
    if offset == 0 {
        return Ok(());
    }
    if let Some(position) = position {
        let wanted = position.saturating_add(offset);
        if source.set_position(wanted)? == wanted {
            return Ok(());
        }
    }
    let mut scratch = Buffer::for_stream()?;
    let mut left = offset;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        scratch.clear();
        let n = scratch.read_from(most, |into| file::read(source.fd(), into));
        let n = n.map_err(|e| source.error("read", e))? as u64;
        if n == 0 {
            return Err(Error::out_of_bounds(
                offset,
                options.len.unwrap_or(0) as u64,
                offset - left,
            ));
        }
        left -= n;
    }
    Ok(())
}

/// The most bytes to take; the machine is asked only once there are many.
struct Limit<'a> {
    source: &'a Source<'a>,
    bytes: u64,
    asked: bool,
}

impl<'a> Limit<'a> {
    fn new(options: &SnapshotOptions<'_>, source: &'a Source<'a>) -> Self {
        Limit {
            source,
            bytes: options.stream_limit(),
            asked: options.has_stream_limit(),
        }
    }

    fn ask(&mut self, done: u64) {
        if !self.asked && done >= UNASKED {
            self.asked = true;
            // What is there now is taken already; of what is left, half.
            self.bytes = done.saturating_add(default_memory_limit());
        }
    }

    fn check(&self, done: u64) -> Result<()> {
        match done > self.bytes {
            true => Err(Error::TooLarge {
                path: self.source.name(),
                limit: self.bytes,
            }),
            false => Ok(()),
        }
    }
}
