//! Seals shared memory, so that no process can change its bytes.

use super::Shared;
use crate::backing::Backing;
use crate::error::{Error, Result};
use crate::held::Held;
use crate::range;
use crate::region::Region;
use crate::shareable::Shareable;
use crate::snapshot::Snapshot;
use crate::sys::file;
use std::os::fd::AsFd;

impl<T: ?Sized + Shareable> Shared<T> {
    /// Seals the whole memfd: no process, this one included, can change its bytes or its size again. The snapshot has the
    /// bytes of this value.
    ///
    /// To send them, clone the descriptor first ([`fd`](Shared::fd)); the receiver's
    /// [`Snapshot::from_fd`] finds the seals and maps it without a copy.
    ///
    /// # Errors
    /// In each case this mapping is gone; a cloned descriptor keeps the memory, and can be mapped and sealed later.
    /// - [`Error::Busy`] while another process has it mapped, a forked child for example.
    /// - [`Error::Unsealable`] if it is not a memfd, or one that takes no seals.
    /// - [`Error::PagesLost`] if another process has shortened it before.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Backing, Shared, Snapshot};
    /// use std::sync::atomic::AtomicU8;
    ///
    /// let memory = Shared::<[AtomicU8]>::memfd_slice("message", 7)?;
    /// memory.write_at(0, b"message")?;
    /// let fd = memory.fd().unwrap().try_clone_to_owned()?;
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
        let (offset, len) = (self.offset, self.size());
        // The kernel refuses to seal what is mapped writable, so the mapping is dropped first.
        let (fd, path) = self.into_fd();
        let Some(fd) = fd else {
            return Err(Error::unsealable(None, "only a memfd can be sealed"));
        };
        let path = path.or_else(|| file::name(fd.as_fd()));
        let path = path.as_deref();
        let all = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
        file::add_seals(fd.as_fd(), all).map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => Error::busy(path, "it is mapped elsewhere"),
            Some(libc::EINVAL) => Error::unsealable(path, "only a memfd can be sealed"),
            Some(libc::EPERM) => Error::unsealable(path, "it takes no seals"),
            _ => Error::os("fcntl", path, e),
        })?;
        // Another process may have shortened it before it was sealed.
        let stat = file::stat(fd.as_fd()).map_err(|e| Error::os("fstat", path, e))?;
        if range::check_window(offset, Some(len as u64), stat.size).is_err() {
            return Err(Error::pages_lost(path));
        }
        if len == 0 {
            let held = Held::mapped(Region::empty(), 0, 0, Backing::Sealed);
            return Ok(Snapshot::from_held(held));
        }
        let mapped = Region::file(fd.as_fd(), offset, len);
        let (region, offset_in_page) = mapped.map_err(|e| Error::os("mmap", path, e))?;
        let held = Held::mapped(region, offset_in_page, len, Backing::Sealed);
        Ok(Snapshot::from_held(held))
    }
}
