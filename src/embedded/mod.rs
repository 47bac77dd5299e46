//! Applications that run in the server's own worker processes.

mod app;
mod ffi;
pub mod log;
mod process;

use std::ffi::c_void;

use burrow_abi::{
    burrow_io, burrow_outcome, burrow_request, RuntimeApi, BURROW_FAILED, BURROW_LOG_INFO, BURROW_UNAVAILABLE,
};

pub use app::{App, Group};
pub use process::{
    connections, enter, park_after_stop, retire, running, start, stop, threads, with_signals_blocked, Entry,
    Server,
};

/// Runs one request to its end on the calling thread; see [`with_runtime`].
///
/// # Safety
/// `request` and `io` are as c/shim.h says, and `exchange` is what the functions of `io` expect.
pub unsafe fn serve(
    app: &App,
    request: &burrow_request,
    io: &burrow_io,
    exchange: *mut c_void,
) -> burrow_outcome {
    let served = with_runtime(exchange, |runtime| {
        // SAFETY: the application's record is this runtime's; the rest is the caller's word.
        unsafe { (runtime.serve)(app.runtime(runtime), request, io, exchange) }
    });
    served.unwrap_or_else(|outcome| outcome)
}

/// Until the result is dropped this thread may stay attached to an interpreter between requests.
pub fn stay_attached() -> Option<impl Drop> {
    struct Stay(&'static RuntimeApi);
    impl Drop for Stay {
        fn drop(&mut self) {
            // SAFETY: always callable.
            unsafe { (self.0.stay_attached)(0) };
        }
    }
    process::running().map(|runtime| {
        // SAFETY: as above.
        unsafe { (runtime.stay_attached)(1) };
        Stay(runtime)
    })
}

/// Enters the runtime, once Python is up; else says what becomes of a request. Does not return when the process
/// has stopped Python meanwhile: the thread may hold what Python still knows.
pub fn with_runtime<T>(
    exchange: *mut c_void,
    work: impl FnOnce(&'static RuntimeApi) -> T,
) -> Result<T, burrow_outcome> {
    let Some(_entry) = process::enter() else {
        return Err(BURROW_UNAVAILABLE);
    };
    let Some(runtime) = process::runtime() else {
        log::report(
            exchange,
            BURROW_LOG_INFO,
            "there is no Python in this process: see what it logged at its start",
        );
        return Err(BURROW_FAILED);
    };
    let result = work(runtime);
    park_after_stop();
    Ok(result)
}
