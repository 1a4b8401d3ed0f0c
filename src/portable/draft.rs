//! A new file, written in memory, and put in place by a rename.

#[cfg_attr(
    test,
    allow(
        clippy::duplicate_mod,
        reason = "Linux compiles both for the unit tests"
    )
)]
#[path = "../draft/commit_error.rs"]
mod commit_error;
#[cfg_attr(test, allow(clippy::duplicate_mod, reason = "as above"))]
#[path = "../draft/stdio.rs"]
mod stdio;

pub use commit_error::CommitError;

use super::memory::{Buffer, CACHE_LINE};
use super::pages::{Kind, Pages};
use super::snapshot::Snapshot;
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::enums::Replace;
use crate::error::text::OPEN_DIRECTORY;
use crate::error::{Error, Result};
use crate::options::setters;
use crate::sys::{self, Directory, Temporary};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{self, Path, PathBuf};
use std::ptr::NonNull;

/// A new file, which appears complete or not at all. The bytes are in memory until [`commit`](Draft::commit) writes them to
/// a temporary file beside the target, syncs it (`F_FULLFSYNC` on Apple's systems), and renames it over the target.
///
/// On Windows the temporary file is marked for deletion until it is renamed: a process that ends leaves none. A target that
/// is open without sharing its deletion cannot be replaced; before Windows 10 and on FAT no target that is open.
///
/// # Examples
/// ```
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("greeting");
/// let mut draft = stillmap::Draft::create(&path, 5)?;
/// draft.copy_from_slice(b"hello");
/// draft.commit()?;
/// assert_eq!(std::fs::read(&path)?, b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "a draft that is dropped writes nothing"]
pub struct Draft {
    store: Buffer,
    len: usize,
    position: u64,
    target: Target,
    options: DraftOptions,
}

#[derive(Debug)]
enum Target {
    File(PathBuf),
    Stdout,
}

/// How to make a [`Draft`]; made by [`Draft::options`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct DraftOptions {
    create_new: bool,
    replace: Replace,
    require_attributes: bool,
    mode: Option<u32>,
    durable: bool,
}

impl Default for DraftOptions {
    fn default() -> Self {
        DraftOptions {
            create_new: false,
            replace: Replace::Rename,
            require_attributes: false,
            mode: None,
            durable: true,
        }
    }
}

setters! {
    impl DraftOptions;

    /// Fails if the path exists when the draft is committed.
    fn create_new(enable: bool) { create_new = enable; }

    /// How a file that exists is replaced.
    fn replace(how: Replace) { replace = how; }

    /// Whether all attributes of the replaced file must be kept. Only its permissions can be kept here, so replacing a file
    /// by a rename is [`Error::Unsupported`] then.
    fn require_attributes(enable: bool) { require_attributes = enable; }

    /// The permissions of the file, on Unix, less the umask. Default: those of the file that is replaced, or 0666.
    fn mode(mode: u32) { mode = Some(mode); }

    /// Whether to wait until the file is on the device; default true.
    fn durable(enable: bool) { durable = enable; }

    /// No effect: zeros are written.
    fn sparse(_enable: bool) {}

    /// No effect: the bytes are in memory.
    fn memory_limit(_bytes: u64) {}
}

impl DraftOptions {
    /// A draft of `len` zeros.
    ///
    /// # Errors
    /// [`Error::IsDirectory`]; [`Error::Os`].
    pub fn create<P: AsRef<Path>>(self, path: P, len: usize) -> Result<Draft> {
        Draft::new(self, Target::resolve(path.as_ref(), self)?, len)
    }

    /// A draft with the bytes of a file that exists.
    ///
    /// # Errors
    /// As [`Snapshot::open`] and [`create`](DraftOptions::create); [`Error::Busy`] if another process writes to the file
    /// meanwhile.
    pub fn edit<P: AsRef<Path>>(self, path: P) -> Result<Draft> {
        let old = Snapshot::open(path.as_ref())?;
        if !old.is_consistent() {
            return Err(Error::is_written(Some(path.as_ref())));
        }
        let mut draft = self.create(path, old.len())?;
        draft.copy_from_slice(&old);
        Ok(draft)
    }
}

impl Target {
    fn resolve(path: &Path, options: DraftOptions) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::is_directory(Some(path)));
        }
        let name = follow(path, !options.create_new);
        name.map(Target::File)
            .map_err(|e| Error::os("open", Some(path), e))
    }

    fn path(&self) -> &Path {
        match self {
            Target::File(path) => path,
            Target::Stdout => Path::new("/dev/stdout"),
        }
    }
}

impl Draft {
    /// A draft of `len` zeros for a path.
    ///
    /// # Errors
    /// As [`DraftOptions::create`].
    pub fn create<P: AsRef<Path>>(path: P, len: usize) -> Result<Self> {
        Draft::options().create(path, len)
    }

    /// A draft with the bytes of a file that exists.
    ///
    /// # Errors
    /// As [`DraftOptions::edit`].
    pub fn edit<P: AsRef<Path>>(path: P) -> Result<Self> {
        Draft::options().edit(path)
    }

    /// A draft for standard output.
    ///
    /// # Errors
    /// [`Error::Os`] if the allocator has no more memory.
    pub fn stdout(len: usize) -> Result<Self> {
        Draft::new(Draft::options(), Target::Stdout, len)
    }

    /// How to replace a file, with which permissions, and whether to wait for the device.
    pub fn options() -> DraftOptions {
        DraftOptions::default()
    }

    /// Makes it longer or shorter; bytes that are new are zero.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Os`] if the allocator has no more memory.
    pub fn resize(&mut self, len: usize) -> Result<()> {
        self.resize_store(len)?;
        self.len = len;
        Ok(())
    }

    /// Puts the file in place.
    ///
    /// # Errors
    /// [`CommitError`], which has the draft.
    #[allow(clippy::result_large_err, reason = "the draft is given back")]
    pub fn commit(self) -> std::result::Result<(), CommitError> {
        match self.write(&self.target) {
            Ok(()) => Ok(()),
            Err(error) => Err(CommitError { error, draft: self }),
        }
    }

    /// Puts the file in place under another path.
    ///
    /// # Errors
    /// [`CommitError`], which has the draft.
    #[allow(clippy::result_large_err, reason = "the draft is given back")]
    pub fn commit_to<P: AsRef<Path>>(self, path: P) -> std::result::Result<(), CommitError> {
        let target = Target::resolve(path.as_ref(), self.options);
        match target.and_then(|target| self.write(&target)) {
            Ok(()) => Ok(()),
            Err(error) => Err(CommitError { error, draft: self }),
        }
    }

    /// Fails: there is no file yet.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn file(&self) -> Result<&File> {
        Err(Error::unsupported(Some(self.path()), "the file of a draft"))
    }

    /// Prefetch, populate, lock and residency of its pages, as far as the platform has them.
    pub fn pages(&self) -> Pages<'_> {
        Pages::new(self, Kind::Heap)
    }

    fn new(options: DraftOptions, target: Target, len: usize) -> Result<Self> {
        Ok(Draft {
            store: Buffer::zeroed(len, CACHE_LINE)?,
            len,
            position: 0,
            target,
            options,
        })
    }

    fn resize_store(&mut self, len: usize) -> Result<()> {
        self.store.resize(len)
    }

    fn path(&self) -> &Path {
        self.target.path()
    }

    fn write(&self, target: &Target) -> Result<()> {
        let path = target.path();
        let Target::File(_) = target else {
            let mut out = io::stdout().lock();
            let written = out.write_all(self).and_then(|()| out.flush());
            return written.map_err(|e| Error::os("write", Some(path), e));
        };
        let old = fs::metadata(path).ok();
        match (&old, self.options.replace) {
            _ if self.options.create_new => self.replace(path, None),
            // A device or a pipe is written to.
            (Some(old), _) if !old.is_file() => self.write_over(path),
            (Some(_), Replace::InPlace) => self.write_over(path),
            (Some(old), Replace::RenameOrInPlace) => match self.replace(path, Some(old)) {
                Err(e) if is_irreplaceable(&e) => self.write_over(path),
                done => done,
            },
            _ => self.replace(path, old.as_ref()),
        }
    }

    fn write_over(&self, path: &Path) -> Result<()> {
        let failed = |operation| move |e| Error::os(operation, Some(path), e);
        let open = OpenOptions::new().write(true).open(path);
        let mut file = open.map_err(failed("open"))?;
        let Some(old) = file.metadata().ok().filter(fs::Metadata::is_file) else {
            return file.write_all(self).map_err(failed("write"));
        };
        let old_end = usize::try_from(old.len()).unwrap_or(usize::MAX);
        let (front, back) = self.split_at(self.len().min(old_end));
        // First what takes more space: if there is none, the file stays as it was.
        if let Err(e) = write_at(&mut file, front.len() as u64, back) {
            let _ = file.set_len(old.len());
            return Err(failed("write")(e));
        }
        write_at(&mut file, 0, front).map_err(failed("write"))?;
        file.set_len(self.len() as u64)
            .map_err(failed("ftruncate"))?;
        self.sync(&file, path)
    }

    fn sync(&self, file: &File, path: &Path) -> Result<()> {
        if !self.options.durable {
            return Ok(());
        }
        let synced = file.sync_all();
        synced.map_err(|e| Error::os("fsync", Some(path), e))
    }

    /// By way of a temporary file in the same directory, which is removed if anything fails.
    fn replace(&self, path: &Path, old: Option<&fs::Metadata>) -> Result<()> {
        if old.is_some() && self.options.require_attributes {
            return Err(Error::unsupported(
                Some(path),
                "keeping all attributes of a file",
            ));
        }
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        // Opened first: the file is not replaced if that fails.
        let synced = self.options.durable.then(|| Directory::open(directory));
        let synced = synced.transpose();
        let synced = synced.map_err(|e| Error::open_directory(Some(directory), e))?;
        // Until it has the permissions of the old file, only the user may open it.
        let of_new_file = if old.is_some() { 0o600 } else { 0o666 };
        let mode = self.options.mode.unwrap_or(of_new_file);
        let mut temporary = Temporary::new(directory, builder(mode))
            .map_err(|e| Error::os(CREATE, Some(path), e))?;
        let written = temporary.file().write_all(self);
        written.map_err(|e| Error::os("write", Some(path), e))?;
        if let Some(old) = old.filter(|_| self.options.mode.is_none()) {
            let kept = sys::keep_rights(temporary.file(), old);
            kept.map_err(|e| Error::os("fchmod", Some(path), e))?;
        }
        self.sync(temporary.file(), path)?;
        let renamed = temporary.rename(path, !self.options.create_new);
        renamed.map_err(|e| Error::os(RENAME, Some(path), e))?;
        // Windows has no such call: its rename is as durable as the volume's journal.
        let synced = synced.map_or(Ok(()), |directory| directory.sync());
        synced.map_err(|e| Error::os("fsync", Some(directory), e))
    }
}

/// As many symbolic links as are followed to a name that no file has yet.
const LINKS_MAX: usize = 40;

/// Where a path leads now, also if no file is there yet; `links` are followed.
fn follow(path: &Path, links: bool) -> io::Result<PathBuf> {
    // Not every platform has a working directory.
    let mut path = path::absolute(path).unwrap_or(path.into());
    if !links {
        return Ok(path);
    }
    for _ in 0..LINKS_MAX {
        if path.exists() {
            // A pipe of /dev/fd has no other path, nor have the files of some volumes.
            return Ok(fs::canonicalize(&path).unwrap_or(path));
        }
        match (fs::read_link(&path), path.parent()) {
            (Ok(to), Some(directory)) => path = directory.join(to),
            _ => return Ok(path),
        }
    }
    fs::canonicalize(path)
}

fn write_at(file: &mut File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)
}

/// The operations that a draft in place does not need.
const CREATE: &str = "create a temporary file";
const RENAME: &str = "rename";

/// True for an error of a file that cannot be replaced, but perhaps be written to.
fn is_irreplaceable(error: &Error) -> bool {
    match error {
        Error::Os {
            operation, source, ..
        } => {
            [CREATE, RENAME, OPEN_DIRECTORY].contains(operation)
                && source.kind() != io::ErrorKind::StorageFull
        }
        // Not all attributes can be kept.
        Error::Unsupported { .. } => true,
        _ => false,
    }
}

/// A file with this mode, less the umask.
fn builder(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".draft");
    sys::set_mode(&mut builder, mode);
    builder
}

// SAFETY: the bytes of `store`, which promises the same for at least as many.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Draft {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        let (start, len) = self.store.start_and_len();
        (start, self.len.min(len))
    }
}

impl_byte_slice!(Draft, debug: path);
impl_byte_slice_mut!(Draft);
