//! ASGI 3: requests that an event loop serves.

use std::ffi::{c_int, c_void};

use burrow_abi::{
    burrow_request, slice, RuntimeApp, Submission, BURROW_FAILED, BURROW_LOG_ERR, BURROW_RELOADING, UNKNOWN,
};

use crate::app::App;
use crate::host;

/// See [`burrow_abi::RuntimeApi::interface`].
pub unsafe extern "C" fn interface(app: *const RuntimeApp, request: *const burrow_request) -> c_int {
    // SAFETY: the application was made by `app::open`; the request is there for the call.
    let (app, request) = unsafe { (&*app.cast::<App>(), &*request) };
    if request.flags & BURROW_RELOADING != 0 && app.may_have_changed(request.script_modified) {
        return UNKNOWN;
    }
    app.interface()
}

/// See [`burrow_abi::RuntimeApi::submit`].
pub unsafe extern "C" fn submit(submitted: *const Submission, count: usize) {
    // SAFETY: as many as it says.
    for each in unsafe { slice(submitted, count) } {
        host::log(each.exchange, BURROW_LOG_ERR, b"burrow: ASGI applications cannot be served yet");
        // SAFETY: the host's functions, as the interface says.
        unsafe { ((*each.io).finish)(each.exchange, BURROW_FAILED) };
    }
}

/// See [`burrow_abi::RuntimeApi::wake`].
pub unsafe extern "C" fn wake(_app: *mut RuntimeApp, _exchange: *mut c_void, _events: u32) {}

/// See [`burrow_abi::RuntimeApi::retire`].
pub unsafe extern "C" fn retire(_grace: u32) {}
