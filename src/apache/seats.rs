//! WebSockets hold threads of httpd's, or at least connections: some are kept for everybody else.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burrow_abi::{burrow_outcome, burrow_request, BURROW_LOG_WARN, BURROW_UNAVAILABLE, BURROW_UPGRADE};

use crate::daemon::client::Client;
use crate::embedded::{connections, log, threads};

/// How many WebSockets hold a thread, and how many hold none.
static ON_THREADS: AtomicUsize = AtomicUsize::new(0);
static SUSPENDED: AtomicUsize = AtomicUsize::new(0);

/// What one WebSocket holds.
pub struct Seat(&'static AtomicUsize);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// How many of a process's threads, or connections, WebSockets may hold. mpm_event takes connections as long
/// as it has idle threads for them: with so many WebSockets it does until a quarter of the threads is busy.
fn most(all: usize) -> usize {
    all - all / 4
}

/// A seat for a WebSocket's handshake; any other request needs none.
pub fn take(request: &burrow_request, client: &Client) -> Result<Option<Seat>, burrow_outcome> {
    if request.flags & BURROW_UPGRADE == 0 {
        return Ok(None);
    }
    let (seat, most, what, cure) = match client.can_suspend() {
        true => (Seat(&SUSPENDED), most(connections()), "are open in", "AsyncRequestWorkerFactor, "),
        false => (Seat(&ON_THREADS), most(threads()), "hold threads of", ""),
    };
    if seat.0.fetch_add(1, Relaxed) < most {
        return Ok(Some(seat));
    }
    let why = format!(
        "{most} WebSockets {what} this process already; {cure}ThreadsPerChild and MaxRequestWorkers say how \
         many there can be"
    );
    log::report(client.exchange(), BURROW_LOG_WARN, &why);
    Err(BURROW_UNAVAILABLE)
}

#[cfg(test)]
mod tests {
    use super::most;

    #[test]
    fn a_quarter_of_the_threads_is_for_everybody_else() {
        assert_eq!([0, 1, 2, 4, 8, 25].map(most), [0, 1, 2, 3, 6, 19]);
    }
}
