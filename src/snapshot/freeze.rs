//! From writable memory to bytes that do not change.

use super::Snapshot;
use crate::anonymous::Anonymous;
use crate::backing::Backing;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::region::Region;
use crate::shareable::Shareable;
use crate::shared::Shared;
use crate::sys::file;
use std::os::fd::AsFd;

impl Anonymous {
    /// Read-only from here on. Private memory is kept and only changes its protection; shared memory is copied,
    /// since a forked child may still hold it writable.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if there is no memory for the copy.
    ///
    /// # Examples
    /// ```
    /// let mut memory = stillmap::Anonymous::new(3)?;
    /// memory.copy_from_slice(b"abc");
    /// let frozen = memory.freeze()?;
    /// assert_eq!(&frozen[..], b"abc");
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn freeze(self) -> Result<Snapshot> {
        let memory = if self.is_shared() {
            Buffer::copy_of(&self)?
        } else {
            let (mut region, len) = self.into_region();
            region.protect_read_only()?;
            Buffer::from_region(region, len)
        };
        Ok(Snapshot::memory(memory))
    }
}

impl<T: ?Sized + Shareable> Shared<T> {
    /// Makes the bytes of a memfd final: no process, this one included, can ever change them again, nor make them
    /// more or fewer.
    ///
    /// To send them, clone the descriptor first ([`as_fd`](Shared::as_fd)); the receiver's
    /// [`Snapshot::from_fd`] finds the seals and maps it without a copy.
    ///
    /// # Errors
    /// In each case this mapping is gone; a cloned descriptor keeps the memory, and can be mapped and sealed later.
    /// - [`Error::Busy`] while somebody else has it mapped, a forked child for example.
    /// - [`Error::Unprotectable`] if it is not a memfd, or one that takes no seals.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Backing, Shared, Snapshot};
    /// use std::sync::atomic::AtomicU8;
    ///
    /// let memory = Shared::<[AtomicU8]>::memfd_slice("message", 7)?;
    /// memory.write_at(0, b"message")?;
    /// let fd = memory.as_fd().unwrap().try_clone_to_owned()?;
    /// let sealed = memory.seal()?;
    /// assert_eq!(&sealed[..], b"message");
    /// assert_eq!(sealed.backing(), Backing::Sealed);
    /// assert_eq!(&Snapshot::from_fd(&fd)?[..], b"message");
    /// assert!(std::fs::File::from(fd).set_len(100).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// Source: fcntl(2) on `F_ADD_SEALS`, Linux 3.17.
    #[doc(alias = "F_ADD_SEALS")]
    pub fn seal(self) -> Result<Snapshot> {
        let len = self.size();
        // The kernel seals nothing that is mapped writable, so the mapping has to go first.
        let (fd, path) = self.into_fd();
        let unprotectable = |path, why| Err(Error::Unprotectable { path, why });
        let Some(fd) = fd else {
            return unprotectable(None, "only a memfd can be sealed");
        };
        let path = path.or_else(|| file::name(fd.as_fd()));
        let all = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
        match file::add_seals(fd.as_fd(), all) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => return Err(Error::Busy { path }),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                return unprotectable(path, "only a memfd can be sealed");
            }
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                return unprotectable(path, "it takes no seals");
            }
            Err(e) => return Err(Error::os("fcntl", path.as_deref(), e)),
        }
        // A peer may have shortened it before it was sealed.
        let size = file::stat(fd.as_fd()).map_err(|e| Error::os("statx", path.as_deref(), e))?;
        if size.size < len as u64 {
            return Err(Error::Faulted { path });
        }
        if len == 0 {
            return Ok(Snapshot::mapped(Region::empty(), 0, 0, Backing::Sealed));
        }
        let mapped = Region::file(fd.as_fd(), 0, len);
        let (region, delta) = mapped.map_err(|e| Error::os("mmap", path.as_deref(), e))?;
        Ok(Snapshot::mapped(region, delta, len, Backing::Sealed))
    }
}
