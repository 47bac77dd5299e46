//! WebSockets hold threads of httpd's: some are kept for everybody else.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burrow_abi::{burrow_outcome, burrow_request, BURROW_LOG_WARN, BURROW_UNAVAILABLE, BURROW_UPGRADE};

use crate::embedded::{log, threads};

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The thread of one WebSocket.
pub struct Seat(());

impl Drop for Seat {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Relaxed);
    }
}

/// How many of a process's threads WebSockets may hold.
fn most(threads: usize) -> usize {
    threads - threads / 4
}

/// A seat for a WebSocket's handshake; any other request needs none.
pub fn take(request: &burrow_request, exchange: *mut c_void) -> Result<Option<Seat>, burrow_outcome> {
    if request.flags & BURROW_UPGRADE == 0 {
        return Ok(None);
    }
    let (most, seat) = (most(threads()), Seat(()));
    if TAKEN.fetch_add(1, Relaxed) < most {
        return Ok(Some(seat));
    }
    let why = format!(
        "{most} WebSockets hold threads of this process already; ThreadsPerChild and MaxRequestWorkers say \
         how many there are"
    );
    log::report(exchange, BURROW_LOG_WARN, &why);
    Err(BURROW_UNAVAILABLE)
}

#[cfg(test)]
mod tests {
    use super::most;

    #[test]
    fn a_quarter_of_the_threads_is_for_everybody_else() {
        assert_eq!([1, 2, 4, 8, 25].map(most), [1, 2, 3, 6, 19]);
    }
}
