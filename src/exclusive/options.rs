//! How an `Exclusive` is opened.

use super::{Exclusive, open};
use crate::error::Result;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// How to open an [`Exclusive`]; made by [`Exclusive::options`].
///
/// # Examples
/// ```no_run
/// let options = stillmap::Exclusive::options().wait(std::time::Duration::from_secs(1));
/// let mut file = options.open("data")?;
/// file[0] += 1;
/// file.close()?;
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ExclusiveOptions {
    wait: Option<Duration>,
}

impl ExclusiveOptions {
    /// How long to wait until no other descriptor has the file open, and until a lease of another process is released;
    /// then it is [`Busy`](crate::Error::Busy). Default: about 30 milliseconds for an open file, as a child that was
    /// forked and has not executed its program yet has it open; for a lease, as long as open(2) blocks.
    ///
    /// # Examples
    /// ```no_run
    /// let options = stillmap::Exclusive::options().wait(std::time::Duration::from_secs(1));
    /// options.open("data")?.close()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn wait(mut self, time: Duration) -> Self {
        self.wait = Some(time);
        self
    }

    /// Opens a file: [`Exclusive::open`].
    ///
    /// # Errors
    /// As [`Exclusive::open`].
    ///
    /// # Examples
    /// ```no_run
    /// stillmap::Exclusive::options().open("data")?.close()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<Exclusive> {
        open::path(path.as_ref(), self.wait)
    }

    /// A file that is open already: [`Exclusive::from_file`].
    ///
    /// # Errors
    /// As [`Exclusive::from_file`].
    ///
    /// # Examples
    /// ```no_run
    /// let file = std::fs::File::options().read(true).write(true).open("data")?;
    /// stillmap::Exclusive::options().from_file(file)?.close()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_file(&self, file: File) -> Result<Exclusive> {
        open::file(file, self.wait)
    }
}
