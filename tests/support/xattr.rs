//! Extended attributes and ACLs, in the form of the kernel.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Tags of `linux/posix_acl.h`.
pub const USER_OBJ: u16 = 1;
pub const USER: u16 = 2;
pub const GROUP_OBJ: u16 = 4;
pub const MASK: u16 = 0x10;
pub const OTHER: u16 = 0x20;

/// The value of `system.posix_acl_access`: entries of tag, permissions, id (of USER only).
pub fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for &(tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        let id = if tag == USER { id } else { u32::MAX };
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let name = CString::new(name).expect("no NUL");
    let (start, len) = (value.as_ptr().cast(), value.len());
    // SAFETY: two C strings and `len` bytes.
    match unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), start, len, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn get_xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let name = CString::new(name).expect("no NUL");
    let mut value = vec![0; 4096];
    let (start, room) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: two C strings, and at most `room` bytes are written.
    let n = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), start, room) };
    value.truncate(usize::try_from(n).ok()?);
    Some(value)
}
