//! Shared objects, dlopen(3).

use std::mem::MaybeUninit;

/// Keeps the shared object that contains the address loaded until the process ends, also after dlclose(3)
/// (`RTLD_NODELETE`). Does nothing for an executable, and where objects are never unloaded (static programs, musl).
///
/// To be called without a lock: it waits for other threads that load objects, whose constructors may take locks.
pub(crate) fn keep_loaded(address: usize) {
    if cfg!(any(not(target_env = "gnu"), target_feature = "crt-static")) {
        return;
    }
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    let address = std::ptr::without_provenance::<libc::c_void>(address);
    // SAFETY: dladdr(3) compares the address, and writes one struct.
    if unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
        return;
    }
    // SAFETY: zeroed is a valid struct already, and the call filled it.
    let name = unsafe { info.assume_init() }.dli_fname;
    if !name.is_null() {
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        // SAFETY: the name is a C string of the loader. With RTLD_NOLOAD nothing is loaded; for a program it is null.
        unsafe { libc::dlopen(name, flags) };
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;
    use std::ffi::CStr;

    /// Loads a library that nothing else uses and unloads it. True if it is still there; `None` without the library.
    fn stays(library: &CStr, symbol: &CStr, hold: impl Fn(usize)) -> Option<bool> {
        // SAFETY: a library of the C library, without constructors.
        let loaded = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW) };
        if loaded.is_null() {
            return None;
        }
        // SAFETY: the handle is valid, and the symbol is only looked at.
        let address = unsafe { libc::dlsym(loaded, symbol.as_ptr()) };
        if address.is_null() {
            return None;
        }
        hold(address.addr());
        // SAFETY: no code of it is running.
        unsafe { libc::dlclose(loaded) };
        let mappings = std::fs::read_to_string("/proc/self/maps").unwrap();
        Some(mappings.contains(library.to_str().unwrap()))
    }

    #[test]
    #[cfg_attr(miri, ignore = "loads a library")]
    fn an_object_that_is_kept_is_not_unloaded() {
        let kept = stays(c"libthread_db.so.1", c"td_init", keep_loaded);
        assert!(kept.unwrap_or(true));
        let other = stays(c"libBrokenLocale.so.1", c"__ctype_get_mb_cur_max", |_| ());
        assert!(!other.unwrap_or(false));
    }
}
