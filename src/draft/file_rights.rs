//! The rights of a draft's file: those that it got when it was created, those that the caller has set since, and those of the
//! old file that have changed until it is published.

use super::DraftOptions;
use super::rights::{Loss, Rights, SET_ID};
use super::target::TargetName;
use crate::error::{COPY_RIGHTS, Result};
use crate::resolve::Found;
use crate::sys::dir::{self, InodeStat};
use crate::sys::write;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

#[derive(Debug)]
pub(super) struct FileRights {
    /// Owner, group and mode as the kernel made it.
    created: InodeStat,
    /// Owner, group and mode that were copied to it. If the file has others, the caller has set them, and they stay.
    copied: InodeStat,
    /// The rights of the file to be replaced that were copied last.
    from: Option<Rights>,
    /// Mode and ACL are those of a new file, or of the file to be replaced.
    has_access: bool,
}

/// Owner, group and mode that the file has, and which of them the caller has set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present {
    pub(super) stat: InodeStat,
    is_owner_of_caller: bool,
    is_access_of_caller: bool,
}

impl FileRights {
    /// `has_access`: the kernel gave it those of a new file.
    pub(super) fn new(created: InodeStat, has_access: bool) -> Self {
        FileRights {
            created,
            copied: created,
            from: None,
            has_access,
        }
    }

    /// Copies the rights at creation, as far as possible, so that a failure is reported early.
    pub(super) fn prepare(
        &mut self,
        file: &File,
        is_hidden: bool,
        target: &TargetName,
        options: &DraftOptions,
    ) -> Result<()> {
        if self.has_access {
            return Ok(());
        }
        let check_loss = |loss| check_loss(target, options, loss);
        if let Some(found) = &target.name.found {
            let rights = Rights::read(found, target).with_mode(options.mode);
            check_loss(rights.unknown())?;
            check_loss(rights.copy_attributes(None, file))?;
            let owner = rights.copy_owner(file, &mut self.copied);
            check_loss(owner.map_err(|e| target.error("fchown", e))?)?;
            self.from = Some(rights);
        }
        // A hidden file stays private until it is published.
        if !is_hidden {
            if self.from.is_none() {
                self.from = Some(self.of_new_file(target)?.with_mode(options.mode));
            }
            if let Some(rights) = &self.from {
                let loss = rights.copy_access(file, &mut self.copied);
                check_loss(loss.map_err(|(operation, e)| target.error(operation, e))?)?;
            }
            self.has_access = true;
        }
        Ok(())
    }

    fn of_new_file(&self, target: &TargetName) -> Result<Rights> {
        let rights = Rights::of_new_file(target, &self.created);
        rights.map_err(|e| target.error("getxattr", e))
    }

    /// To be called before bytes are written, because a write removes set-user-ID bits, unless the process has `CAP_FSETID`.
    pub(super) fn look(&self, file: &File) -> io::Result<Present> {
        let stat = dir::stat(file.as_fd())?;
        let copied = &self.copied;
        // A commit that failed has set these bits, and reserving space has removed them.
        let removed = copied.permissions() & SET_ID;
        Ok(Present {
            stat,
            is_owner_of_caller: (stat.uid, stat.gid) != (copied.uid, copied.gid),
            is_access_of_caller: stat.permissions() | removed != copied.permissions(),
        })
    }

    /// Copies the rights that have changed since. `found` is the file that has the name now, and `len` is the length of the
    /// new file. Returns whether anything has changed.
    pub(super) fn finish(
        &mut self,
        file: &File,
        len: u64,
        present: &mut Present,
        (target, found): (&TargetName, Option<&Found>),
        options: &DraftOptions,
    ) -> Result<bool> {
        let rights = match found {
            Some(found) => Some(Rights::read(found, target)),
            None if self.from.is_none() && self.has_access => None,
            None => Some(self.of_new_file(target)?),
        };
        let Some(rights) = rights.map(|rights| rights.with_mode(options.mode)) else {
            self.finish_set_id(file, len, present, (target, options))?;
            return Ok(false);
        };
        let check_loss = |loss| check_loss(target, options, loss);
        let from = self.from.as_ref();
        check_loss(rights.unknown())?;
        check_loss(rights.copy_attributes(from, file))?;
        let own = &mut present.stat;
        if !present.is_owner_of_caller && !from.is_some_and(|from| from.has_same_owner(&rights)) {
            let loss = rights.copy_owner(file, own);
            check_loss(loss.map_err(|e| target.error("fchown", e))?)?;
            (self.copied.uid, self.copied.gid) = (own.uid, own.gid);
        }
        let is_done = self.has_access && from.is_some_and(|from| from.has_same_access(&rights));
        if !present.is_access_of_caller && !is_done {
            let loss = rights.copy_access(file, own);
            check_loss(loss.map_err(|(operation, e)| target.error(operation, e))?)?;
            self.copied.mode = own.mode;
        }
        self.has_access = true;
        let has_changed = from != Some(&rights);
        self.from = Some(rights);
        self.finish_set_id(file, len, present, (target, options))?;
        Ok(has_changed)
    }

    /// Sets the set-user-ID and set-group-ID bits after all writes, which would remove them. If they are those of a replaced
    /// file, a truncation to the same length follows: it removes them where a write to that file would have removed them.
    fn finish_set_id(
        &mut self,
        file: &File,
        len: u64,
        present: &Present,
        (target, options): (&TargetName, &DraftOptions),
    ) -> Result<()> {
        let mode = present.stat.permissions();
        let bits = match &self.from {
            _ if present.is_access_of_caller => mode & SET_ID,
            Some(from) => from.set_id(&present.stat),
            None => 0,
        };
        if bits == 0 {
            return Ok(());
        }
        let set = file.set_permissions(Permissions::from_mode(mode & !SET_ID | bits));
        set.map_err(|e| target.error("fchmod", e))?;
        if present.is_access_of_caller {
            return Ok(());
        }
        if options.mode.is_none() {
            write::set_len(file, len).map_err(|e| target.error("ftruncate", e))?;
        }
        let now = dir::stat(file.as_fd()).map_err(|e| target.error("fstat", e))?;
        self.copied.mode = now.mode;
        Ok(())
    }

    /// Copies the rights that the caller has set on `from`, which has these rights, to `file`, which replaces it.
    pub(super) fn copy_set_by_caller(
        &self,
        from: &File,
        file: &File,
    ) -> Result<(), (&'static str, io::Error)> {
        let mut present = self.look(from).map_err(|e| ("fstat", e))?;
        let now = Rights::of_file(from, &present.stat);
        now.copy_attributes(self.from.as_ref(), file);
        if present.is_owner_of_caller {
            let mut own = dir::stat(file.as_fd()).map_err(|e| ("fstat", e))?;
            now.copy_owner(file, &mut own).map_err(|e| ("fchown", e))?;
        }
        if present.is_access_of_caller {
            // Exactly, whatever its owner is now.
            let mode = present.stat.permissions();
            now.copy_access(file, &mut present.stat)?;
            let set = file.set_permissions(Permissions::from_mode(mode));
            set.map_err(|e| ("fchmod", e))?;
        }
        Ok(())
    }
}

fn check_loss(target: &TargetName, options: &DraftOptions, loss: Loss) -> Result<()> {
    match loss {
        Some(e) if options.require_attributes => Err(target.error(COPY_RIGHTS, e)),
        _ => Ok(()),
    }
}
