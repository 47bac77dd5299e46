//! Finding and starting the Python that runs embedded applications.

pub mod load;
pub mod locate;

use std::ffi::{c_void, CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use locate::Installation;

/// The Python of a configuration that names none.
pub const DEFAULT_HOME: &str = "/usr";

/// Where the runtimes lie: `runtime/` beside the server module, `../lib/burrow/runtime/` from the command.
pub fn runtime_dir() -> PathBuf {
    let own = own_file();
    let dir = own.parent().unwrap_or(Path::new("/"));
    let beside = dir.join("runtime");
    let from_command = dir.join("../lib/burrow/runtime");
    if !beside.is_dir() && from_command.is_dir() {
        from_command
    } else {
        beside
    }
}

/// The file that this code was loaded from.
pub(crate) fn own_file() -> PathBuf {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let address = own_file as fn() -> PathBuf as *const c_void;
    // SAFETY: `info` is writable; the name, where set, is a string of the loader's that stays as long as
    // this code is loaded.
    let name = unsafe {
        libc::dladdr(address, info.as_mut_ptr());
        let name = info.assume_init().dli_fname;
        (!name.is_null()).then(|| CStr::from_ptr(name))
    };
    // For a program the name is argv[0], which need not be a path.
    name.map(|name| PathBuf::from(OsStr::from_bytes(name.to_bytes())))
        .filter(|path| path.is_absolute())
        .map(|path| path.canonicalize().unwrap_or(path))
        .or_else(|| std::env::current_exe().ok())
        .unwrap_or_default()
}
