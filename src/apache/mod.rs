//! Requests on httpd that an application's event loop answers, see [`serve`].

mod exchange;
mod parking;
mod pump;
pub mod seats;
pub mod suspended;

use std::ffi::c_void;

use burrow_abi::{burrow_client, burrow_io, burrow_outcome, burrow_request, ASGI, ON_LOOP};

use crate::embedded::{with_runtime, App};
use seats::Seat;

pub(crate) use exchange::log;

/// Runs one request to its end in this process: the application on the calling thread, or on its event loop.
///
/// # Safety
/// `request`, `io` and `client` are as c/shim.h says, and `exchange` is what their functions expect.
pub unsafe fn serve(
    app: &App,
    request: &burrow_request,
    io: &burrow_io,
    client: &burrow_client,
    exchange: *mut c_void,
    seat: Option<Seat>,
) -> burrow_outcome {
    let served = with_runtime(exchange, |runtime| {
        let app = app.runtime(runtime);
        // SAFETY: the application's record is this runtime's; the rest is the caller's word.
        unsafe {
            if (runtime.interface)(app, request) != ASGI {
                let outcome = (runtime.serve)(app, request, io, exchange);
                if outcome != ON_LOOP {
                    return outcome;
                }
            }
            pump::serve(runtime, app, request, io, client, exchange, seat)
        }
    });
    served.unwrap_or_else(|outcome| outcome)
}

#[cfg(test)]
mod tests;
