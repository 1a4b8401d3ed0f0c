//! The destination of a draft's bytes.

use super::DraftOptions;
use super::in_place::overwrite;
use super::new_file::NewFile;
use super::store::Store;
use super::stream::Stream;
use super::target::{Target, TargetName, is_irreplaceable};
use crate::enums::Replace;
use crate::error::{Error, Result};
use std::fs::File;
use std::path::Path;

/// A draft on tmpfs of at least this many bytes is mapped: the file is memory too, and a copy costs as much again (64 MiB take
/// 112 ms of processor time, and 63 ms if mapped). A smaller one takes fewer system calls if it is in other memory first.
const MAPPED_ON_TMPFS: usize = 1 << 20;

#[derive(Debug)]
pub(super) enum Output {
    New(Box<NewFile>),
    /// A file that is there, and keeps its inode, links, owner and rights.
    InPlace(TargetName),
    Stream(Stream),
}

impl Output {
    pub(super) fn create(target: Target, options: &DraftOptions) -> Result<Self> {
        let name = match target {
            Target::Stream(stream) => return Ok(Output::Stream(stream)),
            Target::Name(name) => name,
        };
        if name.name.found.is_none() || options.replace == Replace::Rename {
            return Output::new_file(name, options);
        }
        if options.replace == Replace::InPlace {
            return Output::in_place(name);
        }
        let again = name.again()?;
        match Output::new_file(name, options) {
            Err(e) if is_irreplaceable(&e) => Output::in_place(again),
            other => other,
        }
    }

    fn in_place(name: TargetName) -> Result<Self> {
        name.check_writable()?;
        Ok(Output::InPlace(name))
    }

    fn new_file(name: TargetName, options: &DraftOptions) -> Result<Self> {
        NewFile::create(name, options).map(|file| Output::New(Box::new(file)))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Output::New(file) => file.path(),
            Output::InPlace(target) => &target.path,
            Output::Stream(stream) => &stream.path,
        }
    }

    /// Adds the path: errors of a mapping have none.
    pub(super) fn add_path(&self, error: Error) -> Error {
        error.with_path(|| Some(self.path().to_path_buf()))
    }

    /// The file that is there now, to start with its bytes.
    pub(super) fn open_source(&self) -> Result<File> {
        let target = match self {
            Output::New(file) => file.target(),
            Output::InPlace(target) => target,
            Output::Stream(stream) => {
                return Err(Error::not_a_regular_file(Some(&stream.path)));
            }
        };
        target.check_not_edited()?;
        target.open(libc::O_RDONLY)
    }

    /// Shares the blocks of `source`, where the file system can do that.
    pub(super) fn clone_from(&mut self, source: &File) {
        if let Output::New(file) = self {
            file.clone_from(source);
        }
    }

    /// A store of `len` zero bytes, with the space for them reserved.
    pub(super) fn store(&mut self, options: &DraftOptions, len: usize) -> Result<Store> {
        let fits = options.fits_in_memory(len);
        match self {
            Output::New(_) if options.sparse => Store::sparse(len),
            Output::New(file) => {
                if !file.is_clone() {
                    file.reserve(0, len)?;
                }
                if fits && !(len >= MAPPED_ON_TMPFS && file.is_memory()) {
                    return Store::memory(len);
                }
                match file.mappable_file(options) {
                    Err(_) if fits => Store::memory(len),
                    mappable => Store::mapped(mappable?, len),
                }
            }
            Output::InPlace(_) if !fits => Err(too_large(options)),
            Output::InPlace(_) | Output::Stream(_) => Store::memory(len),
        }
    }

    /// Changes the length of the store, and of the space reserved for it, to `len`.
    pub(super) fn resize(
        &mut self,
        store: &mut Store,
        len: usize,
        options: &DraftOptions,
    ) -> Result<()> {
        let old = store.len();
        let file = match self {
            Output::New(file) if !store.is_sparse() => file,
            Output::InPlace(_) if len > old && !options.fits_in_memory(len) => {
                return Err(too_large(options));
            }
            _ => return store.resize(len),
        };
        file.renew_if_spent(store, options)?;
        if len <= old {
            file.truncate(len)?;
            return store.resize(len);
        }
        file.reserve(old, len)?;
        let grown = if store.is_mapped() || options.fits_in_memory(len) {
            store.resize(len)
        } else {
            let mapped = file.mappable_file(options);
            let copied = mapped.and_then(|mapped| store.copied_to(mapped, len));
            copied.map(|copied| *store = copied)
        };
        grown.inspect_err(|_| {
            let _ = file.truncate(old);
        })
    }

    /// Replaces this output by one for another path.
    pub(super) fn move_to(
        &mut self,
        path: &Path,
        store: &mut Store,
        options: &DraftOptions,
    ) -> Result<()> {
        let mut output = match (&mut *self, Target::resolve(path, options.create_new)?) {
            (Output::New(file), Target::Name(name)) if file.may_move_to(&name, options)? => {
                return file.set_target(name);
            }
            (_, target) => Output::create(target, options)?,
        };
        match &mut output {
            Output::New(file) => {
                let old = match &*self {
                    Output::New(old) => Some(&**old),
                    Output::InPlace(_) | Output::Stream(_) => None,
                };
                file.take_over(old, store, options)?;
            }
            Output::InPlace(_) | Output::Stream(_) if store.is_mapped() => {
                if !options.fits_in_memory(store.len()) {
                    return Err(output.add_path(too_large(options)));
                }
                let mut memory = Store::memory(store.len())?;
                memory.copy_from_slice(store);
                *store = memory;
            }
            Output::InPlace(_) | Output::Stream(_) => {}
        }
        *self = output;
        Ok(())
    }

    pub(super) fn file(&self) -> Result<&File> {
        match self {
            Output::New(file) => file.read_only(),
            Output::Stream(stream) => Ok(stream.file()),
            Output::InPlace(target) => {
                let what = "a file of its own for a draft in place";
                Err(Error::unsupported(Some(&target.path), what))
            }
        }
    }

    pub(super) fn commit(&mut self, store: &mut Store, options: &DraftOptions) -> Result<()> {
        match self {
            Output::Stream(stream) => stream.write_out(store, options.durable),
            Output::InPlace(target) => overwrite(target, store, options.durable),
            Output::New(file) => {
                let len = store.len();
                let done = file.commit(store, options);
                // False if the bytes are lost, see `NewFile::leave`.
                let may_overwrite =
                    options.replace == Replace::RenameOrInPlace && store.len() == len;
                match done {
                    Err(e) if may_overwrite && is_irreplaceable(&e) => {
                        overwrite(file.target(), store, options.durable)
                    }
                    other => other,
                }
            }
        }
    }
}

fn too_large(options: &DraftOptions) -> Error {
    Error::too_large(None, options.memory_limit_or_default())
}
