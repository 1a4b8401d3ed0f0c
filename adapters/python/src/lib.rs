//! Files as Python buffers that do not change.

mod buffer;

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicPtr, Ordering};

use buffer::Exports;
use pyo3::exceptions::{PyBufferError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyMemoryView, PySlice};
use pyo3::{PyTypeInfo, ffi};
use stillmap::{Error, SnapshotOptions};

/// An `OSError` with errno, text and path, so that Python chooses the subclass.
fn os_error(error: Error) -> PyErr {
    let path = error.path().map(|path| path.as_os_str().to_owned());
    match error.raw_os_error() {
        Some(errno) => {
            let text = std::io::Error::from_raw_os_error(errno).to_string();
            let text = text.split(" (os error").next().unwrap_or(&text).to_owned();
            PyOSError::new_err((errno, text, path))
        }
        None => PyOSError::new_err(error.to_string()),
    }
}

fn closed() -> PyErr {
    PyValueError::new_err("it is closed")
}

fn in_use() -> PyErr {
    PyBufferError::new_err("a view of the bytes exists")
}

/// An element, or a view of a slice without a copy.
fn item<'py>(this: &Bound<'py, PyAny>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let view = PyMemoryView::from(this)?;
    if index.is_instance_of::<PySlice>() || index.is_instance_of::<PyInt>() {
        return view.get_item(index);
    }
    Err(pyo3::exceptions::PyTypeError::new_err(
        "an index is an integer or a slice",
    ))
}

/// How many pages of a snapshot are in RAM.
#[pyclass(frozen, get_all, module = "stillmap")]
struct Residency {
    resident: usize,
    pages: usize,
}

#[pymethods]
impl Residency {
    fn __repr__(&self) -> String {
        format!(
            "Residency(resident={}, pages={})",
            self.resident, self.pages
        )
    }
}

#[pyclass(module = "stillmap")]
struct Snapshot {
    inner: Option<stillmap::Snapshot>,
    exports: Exports,
}

impl Snapshot {
    fn inner(&self) -> PyResult<&stillmap::Snapshot> {
        self.inner.as_ref().ok_or_else(closed)
    }
}

#[pymethods]
impl Snapshot {
    #[getter]
    fn backing(&self) -> PyResult<String> {
        Ok(format!("{:?}", self.inner()?.backing()).to_lowercase())
    }

    #[getter]
    fn is_consistent(&self) -> PyResult<bool> {
        Ok(self.inner()?.is_consistent())
    }

    #[getter]
    fn residency(&self) -> PyResult<Residency> {
        let residency = self.inner()?.pages().residency(..).map_err(os_error)?;
        Ok(Residency {
            resident: residency.resident_pages(),
            pages: residency.pages(),
        })
    }

    #[getter]
    fn closed(&self) -> bool {
        self.inner.is_none()
    }

    fn close(&mut self) -> PyResult<()> {
        if self.exports.any() {
            return Err(in_use());
        }
        self.inner = None;
        Ok(())
    }

    fn __len__(&self) -> PyResult<usize> {
        Ok(self.inner()?.len())
    }

    fn __getitem__<'py>(
        this: &Bound<'py, Self>,
        index: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        item(this.as_any(), index)
    }

    fn __enter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __exit__(
        &mut self,
        _kind: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        self.close().map(|()| false)
    }

    /// # Safety
    /// Called by Python with a `Py_buffer` to be filled.
    unsafe fn __getbuffer__(
        this: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: i32,
    ) -> PyResult<()> {
        let snapshot = this.try_borrow()?;
        let bytes = snapshot.inner()?;
        let (start, len) = (bytes.as_ptr().cast_mut(), bytes.len());
        // SAFETY:
        // - `view` is Python's, see above.
        // - The bytes stay where they are while the export is counted: `close` refuses, and `view` holds `this`.
        // - The buffer is read-only.
        unsafe { buffer::fill(view, this.as_any(), start, len, true, flags) }?;
        snapshot.exports.add();
        Ok(())
    }

    /// # Safety
    /// Called by Python, once for each buffer that `__getbuffer__` filled.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.exports.remove();
    }
}

#[pyclass(module = "stillmap")]
struct Draft {
    inner: Option<stillmap::Draft>,
    /// Where the bytes are. Taken once: no reference to them is made while Python may write to them.
    start: AtomicPtr<u8>,
    len: usize,
    exports: Exports,
}

impl Draft {
    fn take(&mut self) -> PyResult<stillmap::Draft> {
        if self.exports.any() {
            return Err(in_use());
        }
        self.inner.take().ok_or_else(closed)
    }
}

#[pymethods]
impl Draft {
    /// To another path if one is given. A draft that could not be committed is as it was.
    #[pyo3(signature = (path=None))]
    fn commit(&mut self, py: Python<'_>, path: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let other = path.map(self::path).transpose()?;
        let draft = self.take()?;
        // Without the interpreter lock, because it waits for the disk.
        let done = py.detach(|| match other {
            None => draft.commit().map_err(Box::new),
            Some(path) => draft.commit_to(path).map_err(Box::new),
        });
        done.map_err(|failed| {
            self.inner = Some(failed.draft);
            os_error(failed.error)
        })
    }

    fn discard(&mut self) -> PyResult<()> {
        self.take().map(drop)
    }

    fn __len__(&self) -> PyResult<usize> {
        self.inner.as_ref().map(|_| self.len).ok_or_else(closed)
    }

    fn __getitem__<'py>(
        this: &Bound<'py, Self>,
        index: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        item(this.as_any(), index)
    }

    fn __enter__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyMemoryView>> {
        let view = PyMemoryView::from(this.as_any())?;
        // Released at the end of the block, so that the commit finds no view of it.
        this.try_borrow_mut()?.exports.keep(view.clone().unbind());
        Ok(view)
    }

    fn __exit__(
        this: &Bound<'_, Self>,
        kind: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let view = this.try_borrow_mut()?.exports.kept();
        let released = match view {
            Some(view) => view.bind(this.py()).call_method0("release").map(drop),
            None => Ok(()),
        };
        if kind.is_none() {
            released?;
            this.try_borrow_mut()?.commit(this.py(), None)?;
        } else if released.is_ok() {
            // A failure here would hide the exception. What still has a view is discarded with the last of them.
            let _ = this.try_borrow_mut()?.discard();
        }
        Ok(false)
    }

    /// # Safety
    /// Called by Python with a `Py_buffer` to be filled.
    unsafe fn __getbuffer__(
        this: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: i32,
    ) -> PyResult<()> {
        // Another thread may be committing it.
        let draft = this.try_borrow()?;
        let len = draft.__len__()?;
        let start = draft.start.load(Ordering::Relaxed);
        // SAFETY:
        // - `view` is Python's, see above.
        // - The bytes stay where they are, and no Rust reference to them is made, while the export is counted: `take`
        //   refuses, and `view` holds `this`.
        unsafe { buffer::fill(view, this.as_any(), start, len, false, flags) }?;
        draft.exports.add();
        Ok(())
    }

    /// # Safety
    /// Called by Python, once for each buffer that `__getbuffer__` filled.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.exports.remove();
    }
}

/// The bytes of a path, or of a descriptor from its current offset on.
#[pyfunction]
#[pyo3(signature = (file, /, *, offset=0, length=None))]
fn open(
    py: Python<'_>,
    file: &Bound<'_, PyAny>,
    offset: u64,
    length: Option<usize>,
) -> PyResult<Snapshot> {
    let options = move || {
        let options = SnapshotOptions::default().offset(offset);
        match length {
            Some(length) => options.len(length),
            None => options,
        }
    };
    let opened = if PyInt::is_type_of(file) {
        let fd: i32 = file.extract()?;
        if fd < 0 {
            return Err(PyValueError::new_err("a descriptor is not negative"));
        }
        // SAFETY: the caller passes a descriptor that stays open during the call; a wrong number is an error of fcntl(2).
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        py.detach(|| options().from_fd(fd))
    } else {
        let path = path(file)?;
        py.detach(|| options().open(path))
    };
    Ok(Snapshot {
        inner: Some(opened.map_err(os_error)?),
        exports: Exports::default(),
    })
}

/// A new file of `length` bytes, to be written as a buffer and committed.
#[pyfunction]
#[pyo3(signature = (path, length, /))]
fn draft(py: Python<'_>, path: &Bound<'_, PyAny>, length: usize) -> PyResult<Draft> {
    let path = self::path(path)?;
    let made = py.detach(|| stillmap::Draft::create(path, length));
    let mut made = made.map_err(os_error)?;
    Ok(Draft {
        start: AtomicPtr::new(made.as_mut_ptr()),
        len: made.len(),
        inner: Some(made),
        exports: Exports::default(),
    })
}

/// A `str`, `bytes` or path object as a path, by the rules of Python's own `open`.
fn path(path: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let mut name: *mut ffi::PyObject = std::ptr::null_mut();
    // SAFETY: it stores a new reference to a `bytes` in `name`, or sets an error and returns 0.
    let status = unsafe { ffi::PyUnicode_FSConverter(path.as_ptr(), (&raw mut name).cast()) };
    if status == 0 {
        return Err(PyErr::fetch(path.py()));
    }
    // SAFETY: a new reference, see above.
    let name = unsafe { Bound::from_owned_ptr(path.py(), name) };
    Ok(OsStr::from_bytes(name.cast::<PyBytes>()?.as_bytes()).into())
}

#[pymodule]
fn _stillmap(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Snapshot>()?;
    module.add_class::<Draft>()?;
    module.add_class::<Residency>()?;
    module.add_function(wrap_pyfunction!(open, module)?)?;
    module.add_function(wrap_pyfunction!(draft, module)?)
}
