//! Applications that run in the server's own worker processes.

mod app;
mod ffi;
pub mod log;
mod process;

use std::ffi::c_void;

use burrow_abi::{
    burrow_io, burrow_outcome, burrow_request, BURROW_FAILED, BURROW_LOG_INFO, BURROW_UNAVAILABLE,
};

pub use app::{App, Group};
pub use process::{park_after_stop, start, stop, with_signals_blocked, Server};

/// Runs one request to its end on the calling thread; waits until Python is up. Does not return when the
/// process has stopped Python meanwhile: the thread may hold what Python still knows.
///
/// # Safety
/// `request` and `io` are as c/shim.h says, and `exchange` is what the functions of `io` expect.
pub unsafe fn serve(
    app: &App,
    request: &burrow_request,
    io: &burrow_io,
    exchange: *mut c_void,
) -> burrow_outcome {
    let Some(_entry) = process::enter() else {
        return BURROW_UNAVAILABLE;
    };
    let Some(runtime) = process::runtime() else {
        log::report(
            exchange,
            BURROW_LOG_INFO,
            "there is no Python in this process: see what it logged at its start",
        );
        return BURROW_FAILED;
    };
    // SAFETY: the application's record is this runtime's; the rest is the caller's word.
    let outcome = unsafe { (runtime.serve)(app.runtime(runtime), request, io, exchange) };
    park_after_stop();
    outcome
}
