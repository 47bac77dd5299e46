//! Requests for ASGI applications, on their way between nginx's event loop and Python's: no thread of their own.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use burrow_abi::{
    burrow_body, burrow_head, burrow_outcome, LoopIo, RuntimeApi, Submission, BURROW_FAILED,
    BURROW_UNAVAILABLE, GONE,
};

use super::event_loop;
use super::exchange::{borrow, Exchange};
use crate::embedded::{self, Entry};

/// What an exchange keeps while Python's event loop serves it.
pub struct OnLoop {
    /// What the loop waits for.
    waits: u32,
    _entry: Entry,
}

impl OnLoop {
    pub fn new(entry: Entry) -> Self {
        OnLoop { waits: 0, _entry: entry }
    }

    pub fn wait_for(&mut self, event: u32) {
        self.waits |= event;
    }

    /// Tells the loop, if it waits for that. Under the exchange's lock.
    pub fn tell(&mut self, exchange: &Exchange, event: u32) {
        let told = event & (self.waits | GONE);
        self.waits &= !event;
        if let Some(runtime) = embedded::running().filter(|_| told != 0) {
            let pointer = std::ptr::from_ref(exchange).cast_mut().cast();
            // SAFETY: the application's record is this runtime's; the exchange is not finished.
            unsafe { (runtime.wake)(exchange.app().runtime(runtime), pointer, told) };
        }
    }
}

/// Gives requests to Python's event loop.
pub fn submit(exchanges: Vec<Arc<Exchange>>) {
    if exchanges.is_empty() {
        return;
    }
    let Some(runtime) = embedded::running() else {
        return exchanges.iter().for_each(|exchange| exchange.finish(BURROW_FAILED));
    };
    let submissions: Vec<_> =
        exchanges.into_iter().filter_map(|exchange| submission(runtime, exchange)).collect();
    // SAFETY: what they point at lives until `finish`.
    unsafe { (runtime.submit)(submissions.as_ptr(), submissions.len()) };
}

/// Gives a count of the exchange to the loop. None where there is nothing to serve.
fn submission(runtime: &'static RuntimeApi, exchange: Arc<Exchange>) -> Option<Submission> {
    let Some(entry) = embedded::enter() else {
        exchange.finish(BURROW_UNAVAILABLE);
        return None;
    };
    if !exchange.enter_loop(entry) {
        return None;
    }
    let app = exchange.app().runtime(runtime);
    let request = std::ptr::from_ref(exchange.request());
    Some(Submission { app, request, io: &IO, exchange: Arc::into_raw(exchange).cast_mut().cast() })
}

/// What the runtime calls for this server. The `exchange` is the count that `submission` gave it.
static IO: LoopIo = LoopIo { read, send, finish, flush: event_loop::wake };

unsafe extern "C" fn read(exchange: *mut c_void, buf: *mut c_char, len: usize) -> isize {
    // SAFETY: the loop's count is good until `finish`; the runtime gives `len` bytes.
    unsafe { borrow(exchange).try_read(buf.cast(), len) }.unwrap_or(-2)
}

unsafe extern "C" fn send(
    exchange: *mut c_void,
    head: *const burrow_head,
    body: *const burrow_body,
    flags: u32,
) -> c_int {
    // SAFETY: as above; the runtime vouches for the rest.
    unsafe {
        let exchange = borrow(exchange);
        match exchange.send(head.as_ref(), &*body, flags) {
            false => -1,
            true => exchange.is_full().into(),
        }
    }
}

unsafe extern "C" fn finish(exchange: *mut c_void, outcome: burrow_outcome) {
    // SAFETY: the count that `submission` gave away.
    unsafe { Arc::from_raw(exchange.cast::<Exchange>()) }.leave_loop(outcome);
}
