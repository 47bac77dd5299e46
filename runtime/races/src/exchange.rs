//! The client of a request: sends its body as it is asked for, and takes what it gets.

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::{Condvar, Mutex};

use burrow_abi::{burrow_body, burrow_head, burrow_io, burrow_outcome, LoopIo};

pub static IO: burrow_io = burrow_io { read: Some(read), send: Some(send) };
pub static LOOP_IO: LoopIo = LoopIo { read, send, finish, flush };

pub struct Exchange {
    /// What the request is called; no other has it at the same time.
    pub id: String,
    state: Mutex<State>,
    finished: Condvar,
}

struct State {
    /// What is left of it.
    body: &'static [u8],
    outcome: Option<burrow_outcome>,
}

impl Exchange {
    /// Boxed, that it stays where the runtime finds it.
    pub fn new(body: &'static [u8]) -> Box<Exchange> {
        let state = Mutex::new(State { body, outcome: None });
        let mut exchange = Box::new(Exchange { id: String::new(), state, finished: Condvar::new() });
        exchange.id = format!("{:p}", exchange.pointer());
        exchange
    }

    pub fn pointer(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Whether it was not finished yet, and so `work` was done.
    pub fn unless_finished(&self, work: impl FnOnce()) -> bool {
        let state = self.state.lock().unwrap();
        let is_open = state.outcome.is_none();
        if is_open {
            work();
        }
        is_open
    }

    /// What became of it.
    pub fn wait(&self) -> burrow_outcome {
        let state = self.state.lock().unwrap();
        let state = self.finished.wait_while(state, |state| state.outcome.is_none()).unwrap();
        state.outcome.expect("waited for")
    }
}

/// # Safety
/// It is an exchange's, which is there as long.
unsafe fn of<'a>(exchange: *mut c_void) -> &'a Exchange {
    // SAFETY: the caller vouches.
    unsafe { &*exchange.cast() }
}

unsafe extern "C" fn read(exchange: *mut c_void, buffer: *mut c_char, length: usize) -> isize {
    // SAFETY: the interface: the exchange, and so many writable bytes.
    let (exchange, space) = unsafe { (of(exchange), std::slice::from_raw_parts_mut(buffer.cast(), length)) };
    let body = &mut exchange.state.lock().unwrap().body;
    let (now, left) = body.split_at(body.len().min(length));
    space[..now.len()].copy_from_slice(now);
    *body = left;
    now.len() as isize
}

unsafe extern "C" fn send(
    _exchange: *mut c_void,
    _head: *const burrow_head,
    body: *const burrow_body,
    _flags: u32,
) -> c_int {
    // SAFETY: the interface: it is there for the call, and its descriptor is the receiver's.
    unsafe {
        if (*body).fd >= 0 {
            drop(OwnedFd::from_raw_fd((*body).fd));
        }
    }
    0
}

unsafe extern "C" fn finish(exchange: *mut c_void, outcome: burrow_outcome) {
    // SAFETY: the interface. Whoever waits may free it once the lock is given back.
    let exchange = unsafe { of(exchange) };
    let mut state = exchange.state.lock().unwrap();
    state.outcome = Some(outcome);
    exchange.finished.notify_one();
}

unsafe extern "C" fn flush() {}
