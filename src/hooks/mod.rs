//! Hooks: scripts that the server asks about a request, on the thread that serves it. The functions of
//! `c/shim.h`; nginx asks through its queues, see [`crate::nginx`].

use std::ffi::{c_char, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use burrow_abi::{
    burrow_app, burrow_question, burrow_request, burrow_settings, burrow_str, burrow_verdict, BURROW_FAILURE,
};

use crate::embedded::{with_runtime, App};
use crate::settings;

/// Asks a script; waits until Python is up. Whatever goes wrong is a failure.
///
/// # Safety
/// `question` and `request` are as c/shim.h says; log lines are bound to `exchange`.
pub unsafe fn ask(
    script: &App,
    question: &burrow_question,
    request: &burrow_request,
    exchange: *mut c_void,
) -> burrow_verdict {
    let asked = with_runtime(exchange, |runtime| {
        // SAFETY: the script's record is this runtime's; the rest is the caller's word.
        unsafe { (runtime.ask)(script.runtime(runtime), question, request, exchange) }
    });
    asked.unwrap_or(BURROW_FAILURE)
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_script_find(
    settings: *mut burrow_settings,
    target: burrow_str,
    application_group: burrow_str,
    threads: c_uint,
    error: *mut *const c_char,
) -> *mut burrow_app {
    // SAFETY: c/shim.h.
    let (settings, target, group) =
        unsafe { (settings::from_c(settings), target.bytes(), application_group.bytes()) };
    match settings.script(target, group, threads as usize) {
        // The settings keep the script.
        Ok(script) => Arc::as_ptr(&script).cast_mut().cast(),
        Err(message) => {
            // SAFETY: c/shim.h.
            unsafe { *error = settings.keep(message) };
            ptr::null_mut()
        }
    }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_ask(
    script: *mut burrow_app,
    question: *const burrow_question,
    request: *const burrow_request,
    exchange: *mut c_void,
) -> burrow_verdict {
    // SAFETY: c/shim.h.
    unsafe { ask(App::from_c(script), &*question, &*request, exchange) }
}
