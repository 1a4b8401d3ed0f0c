//! A draft as a stream: [`Write`] and [`Seek`], for bytes whose number is not known yet.

use super::Draft;
use std::io::{self, Seek, SeekFrom, Write};

/// Minimum growth by io::Write, in bytes.
const GROWTH_MIN: usize = 64 << 10;

/// Writes at the position of the draft, which is 0 at first, and makes the draft longer where that is behind its end.
///
/// # Examples
/// ```
/// use std::io::Write;
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("lines");
/// let mut draft = stillmap::Draft::create(&path, 0)?;
/// for number in 1..=3 {
///     writeln!(draft, "line {number}")?;
/// }
/// draft.commit()?;
/// assert_eq!(std::fs::read(&path)?, b"line 1\nline 2\nline 3\n");
/// # Ok::<(), std::io::Error>(())
/// ```
impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let too_far = || io::Error::from(io::ErrorKind::FileTooLarge);
        let start = usize::try_from(self.position).map_err(|_| too_far())?;
        let end = start.checked_add(bytes.len()).ok_or_else(too_far)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        if end > self.len() {
            self.ensure_len(end)?;
        }
        self[start..end].copy_from_slice(bytes);
        self.position = end as u64;
        Ok(bytes.len())
    }

    /// Does nothing: there is no buffer, and only [`Draft::commit`] publishes the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Draft {
    /// Makes the draft `len` bytes long; what holds it grows by half of its size, so that many small writes are cheap.
    fn ensure_len(&mut self, len: usize) -> io::Result<()> {
        if len > self.store.len() {
            let room = self.store.len() / 2;
            let ahead = len.max(self.store.len() + room.max(GROWTH_MIN));
            if self.resize_store(ahead).is_err() {
                self.resize_store(len)?;
            }
        }
        self.len = len;
        Ok(())
    }
}

/// The position may be behind the end; what is between them is zero after the next write.
impl Seek for Draft {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => (self.len() as u64).checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
