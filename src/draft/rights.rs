//! Owner, group, mode, ACL and extended attributes: from the file that is replaced to the file that replaces it.

use super::target::TargetName;
use crate::resolve::Found;
use crate::sys::credentials;
use crate::sys::dir::{self, InodeStat};
use crate::sys::xattr::{self, Target};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, fchown};

const ACL: &CStr = c"system.posix_acl_access";
const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

pub(super) const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// Attributes that belong to one inode or one content: the ACL is copied on its own, and the kernel drops or computes
/// the others (capabilities(7): a write removes the capabilities of a file).
const NOT_COPIED: [&[u8]; 4] = [
    b"system.posix_acl_",
    b"security.capability",
    b"security.ima",
    b"security.evm",
];

/// Owner, group, mode, ACL and extended attributes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    uid: u32,
    gid: u32,
    /// With an ACL, the bits of the group are the ACL's mask.
    mode: u32,
    acl: Option<Vec<u8>>,
    attributes: BTreeMap<CString, Vec<u8>>,
    /// The errno of what could not be read.
    unknown: Option<i32>,
}

impl Rights {
    fn without_attributes(stat: &InodeStat, mode: u32) -> Self {
        Rights {
            uid: stat.uid,
            gid: stat.gid,
            mode,
            acl: None,
            attributes: BTreeMap::new(),
            unknown: None,
        }
    }

    pub(super) fn read(found: &Found, target: &TargetName) -> Self {
        let mut rights = Rights::without_attributes(&found.stat, found.stat.permissions());
        // A descriptor opened as O_PATH has no attributes, but its path in /proc does.
        let path = dir::proc_path(found.fd.as_fd());
        let by_path = Target::Path(&path);
        match xattr::list(by_path) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
                match dir::open_at(target.dir(), &target.name.name, flags, 0) {
                    Ok(file) => {
                        let by_fd = Target::Fd(file.as_fd());
                        rights.read_attributes(by_fd, xattr::list(by_fd));
                    }
                    Err(e) => rights.without_acl(&e),
                }
            }
            names => rights.read_attributes(by_path, names),
        }
        rights
    }

    /// Those of an open file, which has this owner, group and mode.
    pub(super) fn of_file(file: &File, stat: &InodeStat) -> Self {
        let mut rights = Rights::without_attributes(stat, stat.permissions());
        let by_fd = Target::Fd(file.as_fd());
        rights.read_attributes(by_fd, xattr::list(by_fd));
        rights
    }

    fn read_attributes(&mut self, from: Target<'_>, names: io::Result<Vec<CString>>) {
        match xattr::get(from, ACL) {
            Ok(acl) => self.acl = acl,
            Err(e) => self.without_acl(&e),
        }
        let names = match names {
            Ok(names) => names,
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return,
            Err(e) => return self.miss(&e),
        };
        for name in names {
            let is_copied = |prefix: &&[u8]| !name.to_bytes().starts_with(prefix);
            if !NOT_COPIED.iter().all(is_copied) {
                continue;
            }
            match xattr::get(from, &name) {
                Ok(Some(value)) => drop(self.attributes.insert(name, value)),
                Ok(None) => {}
                Err(e) => self.miss(&e),
            }
        }
    }

    /// Removes the rights of group and others: the group's bits may be the mask of an ACL that gives the group less, and some
    /// users less than all others.
    fn without_acl(&mut self, error: &io::Error) {
        self.mode &= !0o077;
        self.miss(error);
    }

    fn miss(&mut self, error: &io::Error) {
        self.unknown = error.raw_os_error();
    }

    /// The rights that `File::create` would give to a new file there, which has the owner of `own`: by the default ACL of the
    /// directory, or else by the umask.
    pub(super) fn of_new_file(target: &TargetName, own: &InodeStat) -> io::Result<Self> {
        let default_acl = xattr::get(Target::Fd(target.dir()), DEFAULT_ACL).or_else(|_| {
            let path = dir::proc_path(target.dir());
            xattr::get(Target::Path(&path), DEFAULT_ACL)
        })?;
        let (mode, acl) = match default_acl {
            Some(acl) => acl::inherit(acl, NEW_FILE_MODE),
            None => (NEW_FILE_MODE & !credentials::umask(), None),
        };
        let mut rights = Rights::without_attributes(own, mode);
        rights.acl = acl;
        Ok(rights)
    }

    /// The same with an explicit mode and without an ACL.
    pub(super) fn with_mode(mut self, mode: Option<u32>) -> Self {
        if let Some(mode) = mode {
            self.mode = mode;
            self.acl = None;
        }
        self
    }

    /// What could not be read.
    pub(super) fn unknown(&self) -> Loss {
        self.unknown.map(io::Error::from_raw_os_error)
    }

    /// Copies the extended attributes that are not as in `done`.
    pub(super) fn copy_attributes(&self, done: Option<&Rights>, file: &File) -> Loss {
        let none = BTreeMap::new();
        let done = done.map_or(&none, |done| &done.attributes);
        let mut loss = None;
        for (name, value) in &self.attributes {
            if done.get(name) != Some(value) {
                if let Err(e) = xattr::set(file.as_fd(), name, value) {
                    loss = Some(e);
                }
            }
        }
        for name in done
            .keys()
            .filter(|&name| !self.attributes.contains_key(name))
        {
            let _ = xattr::remove(file.as_fd(), name);
        }
        loss
    }

    pub(super) fn has_same_owner(&self, other: &Rights) -> bool {
        (self.uid, self.gid) == (other.uid, other.gid)
    }

    pub(super) fn has_same_access(&self, other: &Rights) -> bool {
        self.has_same_owner(other) && (self.mode, &self.acl) == (other.mode, &other.acl)
    }

    /// Gives the file the owner and the group, as far as this process may. `own` is what the file has, and then what it
    /// has got.
    pub(super) fn copy_owner(&self, file: &File, own: &mut InodeStat) -> io::Result<Loss> {
        let mut loss = None;
        let before = *own;
        if before.uid != self.uid {
            if let Err(e) = fchown(file, Some(self.uid), None) {
                loss = Some(e);
            }
        }
        if before.gid != self.gid {
            if let Err(e) = fchown(file, None, Some(self.gid)) {
                loss = Some(e);
            }
        }
        if !self.is_owner(&before) {
            *own = dir::stat(file.as_fd())?;
        }
        Ok(loss)
    }

    fn is_owner(&self, of: &InodeStat) -> bool {
        (of.uid, of.gid) == (self.uid, self.gid)
    }

    /// The set-user-ID and set-group-ID bits for a file of that owner: a program of another user must not become one of
    /// this user.
    pub(super) fn set_id(&self, own: &InodeStat) -> u32 {
        if self.is_owner(own) {
            self.mode & SET_ID
        } else {
            0
        }
    }

    /// Gives the file the ACL and the mode, but for [`set_id`](Rights::set_id). To be called last: from here on others may
    /// have access. `own` is as for [`copy_owner`](Rights::copy_owner).
    pub(super) fn copy_access(
        &self,
        file: &File,
        own: &mut InodeStat,
    ) -> Result<Loss, (&'static str, io::Error)> {
        let remove_acl = || xattr::remove(file.as_fd(), ACL).map_err(|e| ("fremovexattr", e));
        let stat = || dir::stat(file.as_fd()).map_err(|e| ("fstat", e));
        let has_group = own.gid == self.gid;
        let (mut mode, mut loss) = (self.mode & !SET_ID, None);
        match &self.acl {
            Some(acl) => {
                let mut acl = acl.clone();
                if !has_group {
                    mode = mode & !0o007 | acl::narrow(&mut acl);
                }
                if let Err(e) = xattr::set(file.as_fd(), ACL, &acl) {
                    // Users and groups that the ACL names count as the group or as others then.
                    mode = with_others(mode, acl::least_access(&acl));
                    remove_acl()?;
                    loss = Some(e);
                }
            }
            None => {
                remove_acl()?;
                if !has_group {
                    // Access of the old group must not become access of another one, and its members count as others now.
                    mode = with_others(mode, mode >> 3 & mode & 0o007);
                }
            }
        }
        // The mode follows the ACL.
        *own = stat()?;
        if own.permissions() != mode {
            let set = file.set_permissions(Permissions::from_mode(mode));
            set.map_err(|e| ("fchmod", e))?;
            *own = stat()?;
        }
        Ok(loss)
    }
}

/// The mode with these permissions for the group and for all others.
fn with_others(mode: u32, permissions: u32) -> u32 {
    mode & !0o077 | permissions << 3 | permissions
}

/// Why an attribute could not be copied; of several reasons the last.
pub(super) type Loss = Option<io::Error>;

/// What File::create passes to open(2).
const NEW_FILE_MODE: u32 = 0o666;

/// The value of `system.posix_acl_access`: a version, then entries of tag, permissions and id, all little-endian
/// (linux/posix_acl_xattr.h).
mod acl {
    const HEADER: usize = 4;
    const ENTRY: usize = 8;
    const USER_OBJ: u16 = 0x01;
    const GROUP_OBJ: u16 = 0x04;
    const GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;

    fn permissions(entry: &[u8]) -> u16 {
        u16::from_le_bytes([entry[2], entry[3]]) & 7
    }

    fn set(entry: &mut [u8], permissions: u16) {
        entry[2..4].copy_from_slice(&permissions.to_le_bytes());
    }

    fn tag(entry: &[u8]) -> u16 {
        u16::from_le_bytes([entry[0], entry[1]])
    }

    fn find(acl: &[u8], wanted: u16) -> Option<u16> {
        let mut entries = acl.get(HEADER..)?.chunks_exact(ENTRY);
        entries.find(|entry| tag(entry) == wanted).map(permissions)
    }

    /// What each user and each group may do, but for the owner: the least that an entry gives, less what the mask takes
    /// away.
    pub(super) fn least_access(acl: &[u8]) -> u32 {
        let mask = find(acl, MASK).unwrap_or(7);
        let entries = acl.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY);
        let given = entries.filter_map(|entry| match tag(entry) {
            USER_OBJ | MASK => None,
            OTHER => Some(permissions(entry)),
            _ => Some(permissions(entry) & mask),
        });
        given.fold(7, |least, permissions| least & u32::from(permissions))
    }

    /// Changes the ACL for a file with another owning group: that group gets no more than all others and each named
    /// group, and all others no more than the group before. Returns what all others get.
    pub(super) fn narrow(acl: &mut [u8]) -> u32 {
        let group = find(acl, GROUP_OBJ).unwrap_or(0) & find(acl, MASK).unwrap_or(7);
        let other = group & find(acl, OTHER).unwrap_or(0);
        let entries = acl.get_mut(HEADER..).unwrap_or_default();
        let named = entries
            .chunks_exact(ENTRY)
            .filter(|entry| tag(entry) == GROUP);
        let named = named.fold(7, |least, entry| least & permissions(entry));
        for entry in entries.chunks_exact_mut(ENTRY) {
            match tag(entry) {
                GROUP_OBJ => set(entry, other & named),
                OTHER => set(entry, other),
                _ => {}
            }
        }
        u32::from(other)
    }

    /// The mode and the ACL of a new file in a directory with this default ACL: fs/posix_acl.c,
    /// `posix_acl_create_masq`.
    pub(super) fn inherit(mut acl: Vec<u8>, mode: u32) -> (u32, Option<Vec<u8>>) {
        let has_mask = find(&acl, MASK).is_some();
        let mut is_plain = true;
        let mut given = 0;
        for entry in acl
            .get_mut(HEADER..)
            .unwrap_or_default()
            .chunks_exact_mut(ENTRY)
        {
            let shift = match tag(entry) {
                USER_OBJ => 6,
                GROUP_OBJ if !has_mask => 3,
                MASK => 3,
                OTHER => 0,
                _ => {
                    is_plain = false;
                    continue;
                }
            };
            is_plain &= tag(entry) != MASK;
            let permissions = permissions(entry) & (mode >> shift) as u16 & 7;
            set(entry, permissions);
            given |= u32::from(permissions) << shift;
        }
        (given, (!is_plain).then_some(acl))
    }
}

#[cfg(test)]
mod tests {
    use super::acl;

    fn acl_of(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend([0xff; 4]);
        }
        bytes
    }

    #[test]
    fn another_group_gets_the_least_and_the_old_one_no_more_than_before() {
        let mut acl = acl_of(&[(1, 6), (2, 6), (4, 7), (8, 6), (0x10, 4), (0x20, 7)]);
        assert_eq!(acl::least_access(&acl), 4);
        assert_eq!(acl::narrow(&mut acl), 4);
        let narrowed = [(1, 6), (2, 6), (4, 4), (8, 6), (0x10, 4), (0x20, 4)];
        assert_eq!(acl, acl_of(&narrowed));
        // A named user or group that is denied what all others may do.
        for tag in [2, 8] {
            let mut acl = acl_of(&[(1, 6), (tag, 0), (4, 6), (0x10, 6), (0x20, 4)]);
            assert_eq!(acl::least_access(&acl), 0);
            assert_eq!(acl::narrow(&mut acl), 4);
            let group = if tag == 8 { 0 } else { 4 };
            let narrowed = [(1, 6), (tag, 0), (4, group), (0x10, 6), (0x20, 4)];
            assert_eq!(acl, acl_of(&narrowed));
        }
    }

    #[test]
    fn a_default_acl_is_limited_by_the_mode() {
        let plain = acl_of(&[(1, 7), (4, 5), (0x20, 5)]);
        assert_eq!(acl::inherit(plain, 0o666), (0o644, None));
        let named = acl_of(&[(1, 7), (2, 7), (4, 5), (0x10, 7), (0x20, 0)]);
        let (mode, acl) = acl::inherit(named, 0o666);
        let inherited = acl_of(&[(1, 6), (2, 7), (4, 5), (0x10, 6), (0x20, 0)]);
        assert_eq!((mode, acl), (0o660, Some(inherited)));
    }
}
