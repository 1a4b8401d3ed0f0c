//! The options of an open as plain values: the window, the limits, and which strategies are allowed.

use crate::buffer;

/// For `Private` a file of at most this size, in bytes, is copied rather than cloned: that is faster.
const PRIVATE_READ_MAX: u64 = 256 << 10;

/// The options of an open.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Bytes to skip at the start.
    pub(crate) offset: u64,
    /// `None`: up to the end.
    pub(crate) len: Option<usize>,
    pub(crate) limits: Limits,
    pub(crate) access: Access,
    /// Whether a lease may be used.
    pub(crate) lease: bool,
    /// Whether nothing but small files may be copied.
    pub(crate) require_mapping: bool,
    /// Whether a stream may be continued in an unnamed file.
    pub(crate) spill: bool,
    /// Whether all pages of a mapping are faulted in before it is returned.
    pub(crate) populate: bool,
}

/// The most bytes, by where they go. `None`: the default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Of the input.
    pub(crate) size: Option<u64>,
    /// In memory.
    pub(crate) memory: Option<u64>,
    /// Read or copied rather than mapped.
    pub(crate) copy: Option<u64>,
}

/// The access to the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// Stores are private to this process.
    CopyOnWrite,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            offset: 0,
            len: None,
            limits: Limits::default(),
            access: Access::Read,
            lease: true,
            require_mapping: false,
            spill: false,
            populate: false,
        }
    }
}

impl Request {
    /// True if all bytes are wanted, wherever they go.
    pub(crate) fn is_unlimited(&self) -> bool {
        self.offset == 0 && !self.is_bounded() && self.limits.memory.is_none()
    }

    /// True if the caller set a bound that waiting for a FIFO's writer would break.
    pub(crate) fn is_bounded(&self) -> bool {
        let limits = &self.limits;
        self.require_mapping || self.len.is_some() || limits.size.or(limits.copy).is_some()
    }

    /// True if a file may be mapped under a lease.
    pub(crate) fn may_lease(&self) -> bool {
        self.lease && self.access == Access::Read
    }

    /// True if this many bytes of a file are read, since that costs less than mapping them.
    pub(crate) fn is_read(&self, len: u64) -> bool {
        self.is_read_faster(len) && self.may_copy(len)
    }

    fn is_read_faster(&self, len: u64) -> bool {
        match self.access {
            Access::CopyOnWrite => len <= PRIVATE_READ_MAX,
            Access::Read => buffer::is_reading_faster(len),
        }
    }

    pub(crate) fn may_copy(&self, len: u64) -> bool {
        let limit = self.limits.copy.unwrap_or(u64::MAX);
        len <= limit && (len <= buffer::READ_MAX as u64 || !self.require_mapping)
    }

    /// The length of the window, where it is given.
    pub(super) fn window_len(&self) -> Option<u64> {
        self.len.map(|len| len as u64)
    }

    /// The most bytes to read of a stream, with those that are skipped.
    pub(super) fn stream_limit(&self) -> Option<u64> {
        self.limits.size.into_iter().chain(self.limits.copy).min()
    }
}
