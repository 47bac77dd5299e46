//! `burrow_manager_*` of c/shim.h, for the one master that a process can be.

use super::Master;
use crate::{python, settings};
use burrow_abi::burrow_settings;
use nix::unistd::Pid;
use std::{
    ffi::{c_char, c_int, c_uint},
    os::fd::BorrowedFd,
    path::PathBuf,
    ptr,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

/// Outlives reloads, since the servers' modules are never unloaded.
static MASTER: Mutex<Option<Master>> = Mutex::new(None);

fn master() -> MutexGuard<'static, Option<Master>> {
    MASTER.lock().expect("nothing panics while it holds the lock")
}

/// This server instance, as the names of its sockets have it; also in processes that the master forks. None where
/// it has no manager.
pub fn instance() -> Option<String> {
    master().as_ref().map(|master| master.instance().to_owned())
}

/// Whether this process has outlived its master: there will be no manager any more.
pub fn is_orphan() -> bool {
    master().as_ref().is_some_and(Master::is_gone)
}

/// The command that was installed with this module: `PREFIX/lib/burrow/MODULE.so`, `PREFIX/bin/burrow`.
fn binary() -> PathBuf {
    let module = python::own_file();
    module.ancestors().nth(3).unwrap_or(&module).join("bin/burrow")
}

/// # Safety
/// c/shim.h: `settings` are not destroyed, `log_fd` is open, `started` can be written.
#[no_mangle]
pub unsafe extern "C" fn burrow_manager_configure(
    settings: *mut burrow_settings,
    log_fd: c_int,
    started: *mut libc::pid_t,
) -> *const c_char {
    // SAFETY: the caller's promise.
    let (settings, log) = unsafe { (settings::from_c(settings), BorrowedFd::borrow_raw(log_fd)) };
    let mut master = master();
    let configured = master.get_or_insert_with(|| Master::new(settings.server(), binary()));
    let configured = configured.configure(settings, log);
    let (pid, message) = match configured {
        Ok(pid) => (pid, ptr::null()),
        Err(error) => (None, settings.keep(error.to_string())),
    };
    // SAFETY: the caller's promise.
    unsafe { *started = pid.map_or(0, Pid::as_raw) };
    message
}

#[no_mangle]
pub extern "C" fn burrow_manager_died() {
    if let Some(master) = master().as_mut() {
        master.child_died();
    }
}

#[no_mangle]
pub extern "C" fn burrow_manager_restarts() {
    if let Some(master) = master().as_mut() {
        master.restarts();
    }
}

#[no_mangle]
pub extern "C" fn burrow_manager_stop(timeout_ms: c_uint) {
    if let Some(master) = master().as_mut() {
        master.stop(Duration::from_millis(timeout_ms.into()));
    }
}

#[no_mangle]
pub extern "C" fn burrow_manager_is_gone() -> c_int {
    is_orphan().into()
}

#[no_mangle]
pub extern "C" fn burrow_manager_detach() {
    if let Some(master) = master().as_mut() {
        master.detach();
    }
}
