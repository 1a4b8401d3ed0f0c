//! A file that takes its path in one step, or replaces the file there.

use super::DraftOptions;
use super::file_rights::{FileRights, Present};
use super::publish::{self, NotNamed};
use super::store::Store;
use super::target::TargetName;
use super::temp_file::{TempFile, sync_directory};
use crate::enums::Replace;
use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::input::copy_into;
use crate::space;
use crate::sys::dir;
use crate::sys::write;
use std::fs::{File, FileTimes};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

#[derive(Debug)]
pub(super) struct NewFile {
    target: TargetName,
    temp: TempFile,
    /// All its bytes have blocks.
    is_reserved: bool,
    /// It has the bytes of the file that it was cloned from, and shares blocks with it.
    is_clone: bool,
    /// It cannot be written to any more, or its content on the disk is unknown.
    is_spent: bool,
    rights: FileRights,
    /// The descriptor that the caller got.
    read_only: OnceLock<File>,
    /// The times of the file before that.
    times_before: OnceLock<Times>,
}

/// How often rights are copied, if they change each time before the file is published.
const RIGHTS_COPIES_MAX: usize = 8;

/// When the file was last read and modified.
type Times = (Option<SystemTime>, Option<SystemTime>);

impl NewFile {
    pub(super) fn create(target: TargetName, options: &DraftOptions) -> Result<Self> {
        let attributes = target.check_writable()?;
        target.check_replaceable(attributes)?;
        let is_new = target.name.found.is_none() && options.mode.is_none();
        let temp = TempFile::create(&target, is_new.then_some(0o666)).map_err(|e| {
            let is_there = target.name.found.is_some();
            match e {
                Error::Os { source, .. } if is_there => target.replace_error("open", source),
                other => other,
            }
        })?;
        let stat = dir::stat(temp.file().as_fd());
        let created = stat.map_err(|e| target.error("fstat", e))?;
        let mut file = NewFile {
            rights: FileRights::new(created, is_new && temp.hidden_name().is_none()),
            target,
            temp,
            is_reserved: true,
            is_clone: false,
            is_spent: false,
            read_only: OnceLock::new(),
            times_before: OnceLock::new(),
        };
        let is_hidden = file.temp.hidden_name().is_some();
        let (rights, target) = (&mut file.rights, &file.target);
        rights.prepare(file.temp.file(), is_hidden, target, options)?;
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.target.path
    }

    pub(super) fn target(&self) -> &TargetName {
        &self.target
    }

    pub(super) fn file(&self) -> &File {
        self.temp.file()
    }

    pub(super) fn is_clone(&self) -> bool {
        self.is_clone
    }

    /// Reserves space for the bytes `old..new`, and makes them part of the file; or leaves it as it was.
    pub(super) fn reserve(&mut self, old: usize, new: usize) -> Result<()> {
        let (old, new) = (old as u64, new as u64);
        match space::extend(self.file(), old, new) {
            Err(e) if space::is_unsupported(&e) => {
                // Written zeros would reserve nothing where writes go to new places; `commit` gives the draft back.
                self.is_reserved = false;
                let sized = write::set_len(self.file(), new);
                sized.map_err(|e| self.target.error("ftruncate", e))
            }
            other => other.map_err(|e| self.target.error("fallocate", e)),
        }
    }

    /// Makes the file shorter, and releases its space.
    pub(super) fn truncate(&self, len: usize) -> Result<()> {
        let truncated = self.file().set_len(len as u64);
        truncated.map_err(|e| self.target.error("ftruncate", e))
    }

    /// Makes the file a clone of another (reflink), if the file system can do that.
    pub(super) fn clone_from(&mut self, source: &File) {
        let cloned = crate::sys::file::clone_into(source.as_fd(), self.file().as_fd());
        self.is_clone = cloned.is_ok();
        self.is_reserved &= !self.is_clone;
    }

    /// The file, if stores through a mapping cannot raise a signal on a full disk, and no other process can open it.
    pub(super) fn mappable_file(&self, options: &DraftOptions) -> Result<&File> {
        let file = self.file();
        let writes_in_place =
            || FileSystem::from_fd(file.as_fd()).is_ok_and(FileSystem::writes_in_place);
        if self.temp.hidden_name().is_none() && self.is_reserved && writes_in_place() {
            return Ok(file);
        }
        let limit = options.memory_limit_or_default();
        Err(Error::too_large(Some(self.path()), limit))
    }

    /// True if its file system keeps files in memory.
    pub(super) fn is_memory(&self) -> bool {
        FileSystem::from_fd(self.file().as_fd()).is_ok_and(|system| system == FileSystem::Tmpfs)
    }

    /// The file, open for reading only: through it nothing can change the bytes.
    pub(super) fn read_only(&self) -> Result<&File> {
        if self.read_only.get().is_none() {
            let what = "a second descriptor of a draft, without /proc or read permission,";
            let reader = self.temp.reopen_read_only();
            let reader = reader.ok_or_else(|| Error::unsupported(Some(self.path()), what))?;
            // Kept when a commit fails.
            if self.times_before.get().is_none() {
                let _ = self.times_before.set(self.times()?);
            }
            let _ = self.read_only.set(reader);
        }
        let reader = self.read_only.get();
        reader.ok_or_else(|| Error::unsupported(Some(self.path()), "a second descriptor"))
    }

    fn times(&self) -> Result<Times> {
        let metadata = self.file().metadata();
        let metadata = metadata.map_err(|e| self.target.error("fstat", e))?;
        Ok((metadata.accessed().ok(), metadata.modified().ok()))
    }

    /// True if a draft for this path may be kept in the present file.
    pub(super) fn may_move_to(&self, target: &TargetName, options: &DraftOptions) -> Result<bool> {
        // linkat(2) does not work between two mounts of one directory.
        let is_same_mount = dir::mount_id(self.target.dir()) == dir::mount_id(target.dir());
        let is_same = is_same_mount && self.target.directory()?.id == target.directory()?.id;
        let is_new = target.name.found.is_none() || options.replace == Replace::Rename;
        Ok(is_same && is_new && !self.is_spent)
    }

    pub(super) fn set_target(&mut self, target: TargetName) -> Result<()> {
        let attributes = target.check_writable()?;
        target.check_replaceable(attributes)?;
        self.target = target;
        Ok(())
    }

    /// Takes the place of `old`: reserves space for the bytes of the store, has those of a mapped one, and what the caller
    /// has set on `old`. After an error the store is as it was, and may map the old file.
    pub(super) fn take_over(
        &mut self,
        old: Option<&NewFile>,
        store: &mut Store,
        options: &DraftOptions,
    ) -> Result<()> {
        if !store.is_sparse() {
            self.reserve(0, store.len())?;
        }
        let copied = if store.is_mapped() {
            Some(store.copied_to(self.mappable_file(options)?, store.len())?)
        } else {
            None
        };
        // After the bytes, which change the times.
        if let Some(old) = old {
            self.copy_set_by_caller(old)?;
        }
        if let Some(copied) = copied {
            *store = copied;
        }
        Ok(())
    }

    /// Replaces a file that a failed commit has left in an unknown state by a new one.
    pub(super) fn renew_if_spent(
        &mut self,
        store: &mut Store,
        options: &DraftOptions,
    ) -> Result<()> {
        if self.is_spent {
            let mut new = NewFile::create(self.target.again()?, options)?;
            new.take_over(Some(self), store, options)?;
            *self = new;
        }
        Ok(())
    }

    /// What the caller has set on `old`, whose place this file takes: owner, access, attributes and times.
    fn copy_set_by_caller(&self, old: &NewFile) -> Result<()> {
        if old.times_before.get().is_none() {
            // The caller never had a descriptor.
            return Ok(());
        }
        let times = self.times()?;
        let copied = old.rights.copy_set_by_caller(old.file(), self.file());
        copied.map_err(|(operation, e)| self.target.error(operation, e))?;
        if let Some(times) = old.times_set_by_caller()? {
            let set = self.file().set_times(times);
            set.map_err(|e| self.target.error("futimens", e))?;
        }
        let _ = self.times_before.set(times);
        Ok(())
    }

    /// Durable, visible, and durably visible. `store` holds the bytes, and may map the file.
    pub(super) fn commit(&mut self, store: &mut Store, options: &DraftOptions) -> Result<()> {
        self.renew_if_spent(store, options)?;
        let times = self.times_set_by_caller()?;
        let present = self.rights.look(self.file());
        let mut present = present.map_err(|e| self.target.error("fstat", e))?;
        let written = store.write_to(self.file(), self.is_clone, options.durable);
        written.map_err(|(operation, e)| self.target.error(operation, e))?;
        self.finish(store.len() as u64, &mut present, times, options)?;
        self.close_writer(store, present.stat.mode & 0o111 != 0)?;
        if let Err(NotNamed { error, was_linked }) = self.give_name(options) {
            if was_linked {
                self.leave(store, options);
            } else {
                self.regain_writer(store);
            }
            return Err(error);
        }
        // From here on other processes can open it.
        self.is_spent = true;
        if options.durable {
            let synced = sync_directory(self.temp.file(), &self.target);
            synced.inspect_err(|_| self.leave(store, options))?;
        }
        Ok(())
    }

    /// Copies the rights of the file to be replaced, and makes this one durable. Then it checks the rights again: fsync(2) may
    /// take seconds, and the owner may have removed rights meanwhile.
    fn finish(
        &mut self,
        len: u64,
        present: &mut Present,
        times: Option<FileTimes>,
        options: &DraftOptions,
    ) -> Result<()> {
        for number in 0..RIGHTS_COPIES_MAX {
            let found = self.target.look()?;
            let (file, at) = (self.temp.file(), (&self.target, found.as_ref()));
            let has_changed = self.rights.finish(file, len, present, at, options)?;
            if number > 0 && !has_changed {
                break;
            }
            if let Some(times) = times {
                let set = file.set_times(times);
                set.map_err(|e| self.target.error("futimens", e))?;
            }
            if options.durable {
                if let Err(e) = file.sync_all() {
                    // If fsync fails once, a second one that succeeds proves nothing.
                    self.is_spent = true;
                    return Err(self.target.error("fsync", e));
                }
            }
            let now = dir::stat_at(self.target.dir(), &self.target.name.name);
            if now.ok() == found.map(|found| found.stat) {
                break;
            }
        }
        Ok(())
    }

    fn times_set_by_caller(&self) -> Result<Option<FileTimes>> {
        let Some(before) = self.times_before.get() else {
            return Ok(None);
        };
        let now = self.times()?;
        let (Some(accessed), Some(modified)) = now else {
            return Ok(None);
        };
        let times = FileTimes::new()
            .set_accessed(accessed)
            .set_modified(modified);
        Ok((now != *before).then_some(times))
    }

    fn give_name(&mut self, options: &DraftOptions) -> Result<(), NotNamed> {
        let (fd, create_new) = (self.temp.file().as_fd(), options.create_new);
        match self.temp.hidden_name() {
            Some(name) => {
                let renamed = publish::rename_into_place(name, &self.target, create_new);
                renamed.map_err(|error| NotNamed {
                    error,
                    was_linked: false,
                })?;
            }
            None => publish::link_into_place(fd, &self.target, create_new)?,
        }
        self.temp.forget_hidden_name();
        Ok(())
    }

    /// Leaves the file open for reading only: a program that is open for writing cannot be started (`ETXTBSY`).
    fn close_writer(&mut self, store: &mut Store, is_executable: bool) -> Result<()> {
        let Some(reader) = self
            .read_only
            .take()
            .or_else(|| self.temp.reopen_read_only())
        else {
            return Ok(());
        };
        store
            .detach(&reader)
            .map_err(|e| e.with_path(|| Some(self.target.path.clone())))?;
        self.temp.set_file(reader);
        if is_executable {
            publish::wait_for_writers(self.file().as_fd());
        }
        Ok(())
    }

    /// After a failure of a file that had a name: other processes may have opened it, so its bytes are copied to a new
    /// file, or to memory. If there is no room for either, the bytes are lost.
    fn leave(&mut self, store: &mut Store, options: &DraftOptions) {
        self.is_spent = true;
        if !store.is_mapped() {
            return;
        }
        match self.copied(store.len(), options) {
            Ok((file, copy)) => (*self, *store) = (file, copy),
            Err(_) => store.read_back(self.temp.file()),
        }
    }

    /// A new file for the same target, with the first `len` bytes of this one, mapped.
    fn copied(&self, len: usize, options: &DraftOptions) -> Result<(NewFile, Store)> {
        let mut new = NewFile::create(self.target.again()?, options)?;
        new.reserve(0, len)?;
        let to = new.mappable_file(options)?.try_clone();
        let to = to.map_err(|e| self.target.error("dup", e))?;
        let copied = copy_into(self.file().as_fd(), 0..len as u64, to, &mut |_| Ok(()));
        copied.map_err(|e| self.target.error("copy_file_range", e))?;
        new.copy_set_by_caller(self)?;
        let store = Store::mapped(new.file(), len)?;
        Ok((new, store))
    }

    /// After a failure: the draft can be changed again.
    fn regain_writer(&mut self, store: &mut Store) {
        let regained = self.temp.regain_writer();
        let file = self.temp.file();
        self.is_spent = regained.is_err() || store.attach(file).is_err();
    }
}
