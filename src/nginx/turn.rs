//! What comes in one turn of nginx's event loop: handed over at its end, all of it together.

use super::exchange::Exchange;
use super::queue::Group;
use super::{event_loop, on_loop};
use crate::embedded;
use burrow_abi::ASGI;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So many requests are served before their answers are sent.
const TOGETHER: usize = 8;
/// None is begun while an answer has waited for longer.
const DELAY: Duration = Duration::from_micros(100);

// Only the event loop looks at these.
thread_local! {
    static SUBMITTED: RefCell<Vec<Arc<Exchange>>> = const { RefCell::new(Vec::new()) };
    /// The threads of each application group.
    static GROUPS: RefCell<HashMap<Box<[u8]>, &'static Group>> = RefCell::default();
}

fn group(name: &[u8]) -> &'static Group {
    GROUPS.with_borrow_mut(|groups| match groups.get(name) {
        Some(group) => group,
        None => {
            let group: &Group = Box::leak(Box::default());
            groups.insert(name.into(), group);
            group
        }
    })
}

/// Keeps a request until the end of the turn.
pub fn submit(exchange: Arc<Exchange>) {
    SUBMITTED.with_borrow_mut(|submitted| submitted.push(exchange));
}

/// Gives what was submitted to those who serve it. A script is looked at once for all of its requests: now that
/// they are there, so that none of them gets what was replaced before it was sent.
pub fn hand_over() {
    let mut submitted = SUBMITTED.take();
    submitted.retain(|exchange| !exchange.is_released());
    let (mut here, mut on_loops) = (Vec::new(), Vec::new());
    for alike in submitted.chunk_by(|a, b| ptr::eq(a.app(), b.app()) && a.reloads() == b.reloads()) {
        let first = &alike[0];
        let app = first.app();
        if first.reloads() {
            let modified = app.modified_now();
            // SAFETY: not handed over yet.
            alike.iter().for_each(|exchange| unsafe { exchange.set_script_modified(modified) });
        }
        let on_loop = embedded::running().is_some_and(|runtime| {
            // SAFETY: the application's record is this runtime's.
            unsafe { (runtime.interface)(app.runtime(runtime), first.request()) == ASGI }
        });
        if first.runs_on_event_loop() && !on_loop {
            here.extend_from_slice(alike);
            continue;
        }
        // SAFETY: not handed over yet, and not released.
        alike.iter().for_each(|exchange| unsafe { exchange.keep() });
        if on_loop {
            on_loops.extend_from_slice(alike);
        } else {
            group(app.group()).submit(alike);
        }
    }
    on_loop::submit(on_loops);
    serve(here);
}

/// Serves requests here, some of them before any answer is sent: Python is entered once, and what it touches stays
/// in the processor's caches, as then does what sending touches.
fn serve(exchanges: Vec<Arc<Exchange>>) {
    let mut exchanges = exchanges.iter().peekable();
    while exchanges.peek().is_some() {
        let begun = Instant::now();
        let attached = embedded::stay_attached();
        for exchange in exchanges.by_ref().take(TOGETHER) {
            exchange.serve_here();
            if begun.elapsed() > DELAY {
                break;
            }
        }
        drop(attached);
        event_loop::handle_queued();
    }
}
