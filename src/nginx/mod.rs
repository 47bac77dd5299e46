//! nginx: requests cross from its event loop to application threads, answers and log lines go back.
//! The functions of `c/shim.h` that do so; all of them are called on the event loop.

mod answer;
mod block;
mod event_loop;
mod exchange;
mod on_loop;
mod question;
mod queue;
mod turn;

use crate::embedded::App;
pub use answer::{Answer, ANSWER_HIGH, PIECE_COST};
use block::Block;
use burrow_abi::{burrow_app, burrow_chunk, burrow_loop_ops, burrow_question, burrow_request, burrow_str};
use exchange::Exchange;
use question::Question;
use std::ffi::{c_int, c_void};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

/// What C holds of an exchange is one count of its `Arc`.
///
/// # Safety
/// `exchange` came from `burrow_exchange_create` and was not released.
unsafe fn exchange<'a>(exchange: *mut Exchange) -> &'a Exchange {
    // SAFETY: the caller vouches for it.
    unsafe { &*exchange }
}

#[no_mangle]
unsafe extern "C" fn burrow_loop_open(ops: *const burrow_loop_ops) -> c_int {
    // SAFETY: the shim passes a table.
    match event_loop::open(unsafe { *ops }) {
        Ok(fd) => fd,
        Err(error) => {
            // SAFETY: this thread's errno.
            unsafe { *libc::__errno_location() = error.raw_os_error().unwrap_or(libc::EALREADY) };
            -1
        }
    }
}

#[no_mangle]
extern "C" fn burrow_loop_drain() {
    event_loop::drain();
}

#[no_mangle]
extern "C" fn burrow_loop_close() {
    event_loop::drain();
}

#[no_mangle]
unsafe extern "C" fn burrow_exchange_create(
    app: *mut burrow_app,
    request: *const burrow_request,
    server_request: *mut c_void,
) -> *mut Exchange {
    // SAFETY: an application lives as long as its settings, those as long as the configuration that
    // the request came with, and that as long as the process; the shim vouches for the request.
    let exchange = unsafe { Exchange::new(App::from_c(app), &*request, None, server_request) };
    Arc::into_raw(exchange).cast_mut()
}

#[no_mangle]
unsafe extern "C" fn burrow_exchange_ask(
    script: *mut burrow_app,
    question: *const burrow_question,
    request: *const burrow_request,
    server_request: *mut c_void,
) -> *mut Exchange {
    // SAFETY: as above; the shim vouches for the question.
    let exchange = unsafe {
        let question = Question::new(&*question);
        Exchange::new(App::from_c(script), &*request, Some(question), server_request)
    };
    Arc::into_raw(exchange).cast_mut()
}

#[no_mangle]
unsafe extern "C" fn burrow_exchange_body(to: *mut Exchange, data: burrow_str) -> usize {
    // SAFETY: the shim vouches for both.
    unsafe { exchange(to).add_body(data.bytes()) }
}

#[no_mangle]
unsafe extern "C" fn burrow_exchange_body_file(
    to: *mut Exchange,
    fd: c_int,
    offset: i64,
    len: usize,
) -> c_int {
    // SAFETY: the shim passes an open descriptor.
    match unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned() {
        Ok(file) => {
            // SAFETY: the shim vouches for the exchange.
            unsafe { exchange(to) }.add_body_file(file, offset, len);
            0
        }
        // `errno` is as the system call left it.
        Err(_) => -1,
    }
}

#[no_mangle]
unsafe extern "C" fn burrow_exchange_body_end(of: *mut Exchange, whole: c_int) {
    // SAFETY: the shim vouches for the exchange.
    unsafe { exchange(of) }.end_body(whole != 0);
}

#[no_mangle]
unsafe extern "C" fn burrow_exchange_submit(submitted: *mut Exchange) {
    // SAFETY: the shim vouches for the exchange; this makes a count of its own.
    turn::submit(unsafe { exchange::borrow(submitted.cast()) });
}

#[no_mangle]
extern "C" fn burrow_loop_hand_over() {
    turn::hand_over();
}

#[no_mangle]
unsafe extern "C" fn burrow_exchange_sent(of: *mut Exchange, chunks: usize, bytes: usize) {
    // SAFETY: the shim vouches for the exchange.
    unsafe { exchange(of) }.sent(chunks, bytes);
}

#[no_mangle]
unsafe extern "C" fn burrow_exchange_release(released: *mut Exchange) {
    // SAFETY: the shim gives up its count.
    unsafe { Arc::from_raw(released) }.release();
}

#[no_mangle]
unsafe extern "C" fn burrow_chunk_free(chunk: *mut burrow_chunk) {
    if let Some(chunk) = NonNull::new(chunk) {
        // SAFETY: the shim got it from `respond` and gives it back once.
        drop(unsafe { Block::from_raw(chunk) });
    }
}
