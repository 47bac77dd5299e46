//! One request as the application's side sees it (`burrow_io` of c/shim.h), over a connection.

use std::ffi::{c_char, c_int, c_void};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Mutex;

use burrow_abi::{
    burrow_body, burrow_head, burrow_io, burrow_outcome, burrow_request, burrow_str, BURROW_DONE,
    BURROW_FLUSH, BURROW_GONE, BURROW_LAST,
};
use burrow_daemon::frame::{self, File, BODY_MAX};

use super::incoming::Body;
use super::outgoing::Sender;
use super::{log, worker};

pub static IO: burrow_io = burrow_io { read: Some(read), send: Some(send) };

/// Threads of the application may read and send at the same time.
#[repr(C)]
pub struct Exchange<'a> {
    /// For log lines, so it comes first.
    pub request: &'a burrow_request,
    slot: usize,
    body: Mutex<Body<'a>>,
    sender: Mutex<Sender<'a>>,
    /// The page says that the thread is free.
    done: AtomicBool,
}

impl<'a> Exchange<'a> {
    pub fn new(request: &'a burrow_request, slot: usize, body: Body<'a>, sender: Sender<'a>) -> Exchange<'a> {
        let (body, sender) = (Mutex::new(body), Mutex::new(sender));
        Exchange { request, slot, body, sender, done: AtomicBool::new(false) }
    }

    /// As the functions below get it.
    pub fn pointer(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Answers that the application must not be run.
    pub fn forbid(&self) -> io::Result<burrow_outcome> {
        let head = burrow_head {
            status: 403,
            reason: burrow_str::new(b"Forbidden"),
            headers: std::ptr::null(),
            n_headers: 0,
            content_length: 0,
        };
        if worker().requests.answer(self.slot) {
            // SAFETY: a literal.
            unsafe { self.sender.lock().unwrap().send(Some(&head), &[], frame::LAST)? };
        }
        Ok(BURROW_DONE)
    }

    /// Says in the page that the thread is free, if that was not said yet.
    fn done(&self) {
        if !self.done.swap(true, Relaxed) {
            worker().page.done(self.slot);
        }
    }

    /// Tells the server how it ended. An error where the connection is of no further use.
    pub fn finish(&self, outcome: burrow_outcome) -> io::Result<()> {
        self.done();
        match outcome {
            _ if !worker().requests.answer(self.slot) => return Err(ErrorKind::TimedOut.into()),
            BURROW_DONE => {}
            BURROW_GONE => return Err(ErrorKind::ConnectionReset.into()),
            outcome => self.sender.lock().unwrap().abort(outcome)?,
        }
        self.body.lock().unwrap().discard()
    }
}

/// Whether the time of a request was up before its call could be found. For its thread, once it can be.
///
/// # Safety
/// `exchange` is what `serve` was given.
pub unsafe fn is_late(exchange: *mut c_void) -> bool {
    // SAFETY: the caller's word.
    worker().requests.is_late(unsafe { of(exchange) }.slot)
}

/// # Safety
/// `exchange` is what `serve` was given, which ends after this returns.
unsafe fn of<'a>(exchange: *mut c_void) -> &'a Exchange<'a> {
    // SAFETY: the caller's word.
    unsafe { &*exchange.cast() }
}

unsafe extern "C" fn read(exchange: *mut c_void, buffer: *mut c_char, length: usize) -> isize {
    // SAFETY: c/shim.h: the exchange, and so many writable bytes.
    let (exchange, space) = unsafe { (of(exchange), std::slice::from_raw_parts_mut(buffer.cast(), length)) };
    let read = exchange.body.lock().unwrap().read(space);
    read.map_or_else(|error| complain(&error) as isize, |count| count as isize)
}

unsafe extern "C" fn send(
    exchange: *mut c_void,
    head: *const burrow_head,
    body: *const burrow_body,
    flags: u32,
) -> c_int {
    // SAFETY: c/shim.h: all of them are valid for the length of the call; the descriptor is ours.
    let sent = unsafe {
        let (exchange, head, body) = (of(exchange), head.as_ref(), &*body);
        let descriptor = (body.fd >= 0).then(|| OwnedFd::from_raw_fd(body.fd));
        if !worker().requests.answer(exchange.slot) {
            return -1;
        }
        if flags & BURROW_LAST != 0 && body.fd < 0 && body.len <= BODY_MAX {
            // Before the server has the answer and looks for a free thread for its next request.
            exchange.done();
        }
        let mut sender = exchange.sender.lock().unwrap();
        let flags = frame_flags(flags);
        if let Some(descriptor) = descriptor {
            let file = File { offset: body.offset as u64, length: body.len as u64 };
            sender.send_file(head, (file, descriptor.as_fd()), flags)
        } else if body.len == 0 {
            sender.send(head, &[], flags)
        } else {
            sender.send(head, std::slice::from_raw_parts(body.data.cast(), body.len), flags)
        }
    };
    sent.map_or_else(|error| complain(&error), |()| 0)
}

/// The flags of a frame for those of `send`.
pub fn frame_flags(flags: u32) -> u8 {
    let flag = |ours, theirs| if flags & ours != 0 { theirs } else { 0 };
    flag(BURROW_LAST, frame::LAST) | flag(BURROW_FLUSH, frame::FLUSH)
}

/// Logs what is no everyday end of a connection. -1, as the functions above return it.
pub fn complain(error: &io::Error) -> c_int {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {}
        // What has interrupted it says more.
        ErrorKind::Interrupted => {}
        ErrorKind::WouldBlock => log::error("the server did not go on with a request within socket-timeout"),
        _ => log::error(&format!("a request cannot go on: {error}")),
    }
    -1
}
