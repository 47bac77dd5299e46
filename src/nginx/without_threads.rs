//! `wsgi_threads 0`: applications that run on nginx's event loop itself, which waits for them.

use super::event_loop;
use super::exchange::Exchange;
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    /// Those that have come in this turn of the event loop, which alone looks at it.
    static SUBMITTED: RefCell<Vec<Arc<Exchange>>> = const { RefCell::new(Vec::new()) };
}

/// Takes a request whose application has no threads.
pub fn take(exchange: &Arc<Exchange>) -> bool {
    let takes = exchange.runs_on_event_loop();
    if takes {
        SUBMITTED.with_borrow_mut(|submitted| submitted.push(exchange.clone()));
    }
    takes
}

/// Serves those that were taken; each one's answer leaves before the next is served.
pub fn serve_taken() {
    for exchange in SUBMITTED.take() {
        exchange.serve();
        event_loop::handle_queued();
    }
}
