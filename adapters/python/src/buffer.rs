//! The buffer protocol (PEP 688, PEP 3118): filling a view, and counting the views that exist.

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::{PyBufferError, PyOverflowError};
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;
use pyo3::{PyErr, PyResult, ffi};

/// Views of a value that exist.
#[derive(Default)]
pub struct Exports {
    count: AtomicUsize,
    kept: Option<Py<PyMemoryView>>,
}

impl Exports {
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    pub fn add(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    pub fn remove(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }

    /// Keeps the view of a `with` block.
    pub fn keep(&mut self, view: Py<PyMemoryView>) {
        self.kept = Some(view);
    }

    pub fn kept(&mut self) -> Option<Py<PyMemoryView>> {
        self.kept.take()
    }
}

/// Fills a view of bytes that `owner` holds.
///
/// # Safety
/// - `view` is a `Py_buffer` of Python's.
/// - `start..start + len` stays valid, and writable unless `read_only`, until the view is released.
pub unsafe fn fill(
    view: *mut ffi::Py_buffer,
    owner: &Bound<'_, PyAny>,
    start: *mut u8,
    len: usize,
    read_only: bool,
    flags: i32,
) -> PyResult<()> {
    if read_only && flags & ffi::PyBUF_WRITABLE != 0 {
        // numpy asks for a writable view first. An error that is not fetched from Python takes 0.3 µs less.
        return Err(PyBufferError::new_err("the bytes are read-only"));
    }
    let len = isize::try_from(len).map_err(|e| PyOverflowError::new_err(e.to_string()))?;
    let (owner_ptr, start) = (owner.as_ptr(), start.cast());
    // SAFETY: PyBuffer_FillInfo fills `view` and takes a reference to `owner`; the caller is responsible for the bytes.
    let filled =
        unsafe { ffi::PyBuffer_FillInfo(view, owner_ptr, start, len, i32::from(read_only), flags) };
    if filled == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(owner.py()))
    }
}
