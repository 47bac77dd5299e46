//! nginx's requests for process groups: the functions of `c/shim.h`, all of them called on its event loop.

use std::cell::RefCell;
use std::ffi::{c_int, c_uchar, c_void};
use std::os::fd::IntoRawFd;
use std::ptr;
use std::slice;

use burrow_abi::{
    burrow_app, burrow_body, burrow_cause, burrow_group_options, burrow_next, burrow_part, burrow_part_kind,
    burrow_request, burrow_str, BURROW_CLOSED, BURROW_DIED, BURROW_FRAME_HEADER, BURROW_FRAME_MAX,
    BURROW_FULL, BURROW_OVERDUE, BURROW_PART_ABORT, BURROW_PART_BAD, BURROW_PART_BODY, BURROW_PART_END,
    BURROW_PART_HEAD, BURROW_PART_MORE, BURROW_PART_TRAILERS, BURROW_UNAVAILABLE,
};
use burrow_daemon::frame::{self, Header, Kind};
use burrow_daemon::{memory, page};
use nix::errno::Errno;

use super::ending::{Cause, Next};
use super::incoming::{Part, NO_WORKER};
use super::pool::Pool;
use super::relay::{Handle, Relay, Workers};
use crate::embedded::App;

const _: () = assert!(frame::HEADER == BURROW_FRAME_HEADER as usize);
const _: () = assert!(frame::BODY_MAX == BURROW_FRAME_MAX as usize);

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_group_open(
    app: *const burrow_app,
    options: *mut burrow_group_options,
) -> *const Workers {
    memory::keep_freed();
    // SAFETY: c/shim.h.
    let app = unsafe { App::from_c(app.cast_mut()) };
    let group = app.daemon().expect("the settings were checked").clone();
    let socket = group.socket().map(|path| path.as_os_str().as_encoded_bytes());
    // SAFETY: c/shim.h.
    unsafe {
        *options = burrow_group_options {
            socket: socket.map_or(burrow_str::NONE, burrow_str::new),
            connect_timeout: group.connect_timeout.as_millis() as u64,
            queue_timeout: group.queue_timeout.map_or(0, |timeout| timeout.as_millis() as u64),
            socket_timeout: group.socket_timeout.as_millis() as u64,
            response_buffer_size: group.response_buffer_size as usize,
            send_buffer_size: group.send_buffer_size,
            receive_buffer_size: group.receive_buffer_size,
        }
    };
    let pool = RefCell::new(Pool::new(group.processes, group.threads));
    Box::leak(Box::new(Workers { group, pool, space: RefCell::default() }))
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_group_forget(group: *const Workers, connection: *mut c_void) {
    // SAFETY: made by burrow_group_open, for ever.
    let pool = unsafe { &(*group).pool };
    pool.borrow_mut().remove(|handle| *handle == connection);
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_relay_create(
    group: *const Workers,
    app: *const burrow_app,
    request: *const burrow_request,
) -> *mut Relay {
    // SAFETY: the group is there for ever; c/shim.h for the rest.
    let relay = unsafe { Relay::new(&*group, App::from_c(app.cast_mut()), &*request) };
    relay.map_or(ptr::null_mut(), |relay| Box::into_raw(Box::new(relay)))
}

/// # Safety
/// c/shim.h; not used again.
#[no_mangle]
unsafe extern "C" fn burrow_relay_destroy(relay: *mut Relay) {
    // SAFETY: made by burrow_relay_create from a Box.
    drop(unsafe { Box::from_raw(relay) });
}

/// # Safety
/// As [`burrow_relay_destroy`], but that it may be used again.
unsafe fn relay<'a>(relay: *mut Relay) -> &'a mut Relay {
    // SAFETY: made by burrow_relay_create; only the event loop has it.
    unsafe { &mut *relay }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_relay_frame(of: *const Relay) -> burrow_str {
    // SAFETY: c/shim.h.
    burrow_str::new(unsafe { relay(of.cast_mut()) }.frame())
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_frame_header(length: usize, last: c_int, header: *mut c_uchar) {
    let flags = if last != 0 { frame::LAST } else { 0 };
    let bytes = Header { kind: Kind::Body, flags, length }.bytes();
    // SAFETY: c/shim.h: so many bytes.
    unsafe { header.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_frame_retired(header: *mut c_uchar) {
    let bytes = Header { kind: Kind::Body, flags: frame::RETIRED, length: 0 }.bytes();
    // SAFETY: c/shim.h: so many bytes.
    unsafe { header.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_relay_keep(by: *mut Relay, data: burrow_str) {
    // SAFETY: c/shim.h.
    unsafe { relay(by).keep(data.bytes()) }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_relay_kept(by: *const Relay) -> burrow_str {
    // SAFETY: c/shim.h.
    burrow_str::new(unsafe { relay(by.cast_mut()) }.kept())
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_relay_take(by: *mut Relay) -> Handle {
    // SAFETY: c/shim.h.
    unsafe { relay(by) }.take().unwrap_or(ptr::null_mut())
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_relay_connect(by: *mut Relay, connection: Handle) {
    // SAFETY: c/shim.h.
    unsafe { relay(by) }.connect(connection);
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_relay_is_near(of: *const Relay) -> c_int {
    // SAFETY: c/shim.h.
    unsafe { relay(of.cast_mut()) }.is_near().into()
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_relay_release(by: *mut Relay, sent: c_int, rest: burrow_str) -> c_int {
    // SAFETY: c/shim.h.
    unsafe { relay(by).release(sent != 0, rest.bytes()) }.into()
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_relay_receive(
    by: *mut Relay,
    fd: c_int,
    buf: *mut c_void,
    len: usize,
    more: *mut c_int,
) -> isize {
    // SAFETY: c/shim.h: room for so many bytes.
    let buf = unsafe { slice::from_raw_parts_mut(buf.cast(), len) };
    // SAFETY: c/shim.h.
    match unsafe { relay(by) }.receive(fd, buf) {
        Ok((length, is_more)) => {
            // SAFETY: c/shim.h.
            unsafe { *more = is_more.into() };
            length as isize
        }
        Err(error) => {
            Errno::set(error);
            -1
        }
    }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_relay_read(
    by: *mut Relay,
    bytes: *mut burrow_str,
    to: *mut burrow_part,
) -> burrow_part_kind {
    // SAFETY: c/shim.h.
    let (mut left, to) = unsafe { ((*bytes).bytes(), &mut *to) };
    // SAFETY: c/shim.h.
    let part = unsafe { relay(by) }.read(&mut left);
    // SAFETY: c/shim.h.
    unsafe { *bytes = burrow_str::new(left) };
    match part {
        Ok(Part::More(length)) => {
            to.len = length;
            BURROW_PART_MORE
        }
        Ok(Part::Head(head)) => {
            to.head = head;
            BURROW_PART_HEAD
        }
        Ok(Part::Body(data, flush)) => {
            to.body = burrow_body { data: data.as_ptr().cast(), len: data.len(), fd: -1, offset: 0 };
            to.flush = flush.into();
            BURROW_PART_BODY
        }
        Ok(Part::File(descriptor, range)) => {
            let (len, offset) = (range.length as usize, range.offset as i64);
            to.body = burrow_body { data: ptr::null(), len, fd: descriptor.into_raw_fd(), offset };
            to.flush = 0;
            BURROW_PART_BODY
        }
        Ok(Part::Trailers(head)) => {
            to.head = head;
            BURROW_PART_TRAILERS
        }
        Ok(Part::End) => BURROW_PART_END,
        Ok(Part::Abort(outcome)) => {
            to.outcome = outcome;
            to.why = match outcome {
                BURROW_UNAVAILABLE => burrow_str::new(NO_WORKER.as_bytes()),
                _ => burrow_str::NONE,
            };
            BURROW_PART_ABORT
        }
        Ok(Part::Hello(..)) => unreachable!("the relay has dealt with it"),
        Err(why) => {
            to.why = burrow_str::new(why.as_bytes());
            BURROW_PART_BAD
        }
    }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_relay_end(by: *mut Relay, cause: burrow_cause, fd: c_int) -> burrow_next {
    // SAFETY: c/shim.h.
    let relay = unsafe { relay(by) };
    let (next, why) = match cause {
        BURROW_CLOSED => relay.end(Cause::Closed, fd),
        BURROW_OVERDUE => relay.end(Cause::Queue, fd),
        BURROW_FULL => {
            (Next::Answer(BURROW_UNAVAILABLE), "its queue has been full (listen-backlog) for connect-timeout")
        }
        _ => (Next::Answer(BURROW_UNAVAILABLE), "it has no processes that could be reached"),
    };
    let (repeat, outcome) = match next {
        Next::Repeat => (1, BURROW_DIED),
        Next::Answer(outcome) => (0, outcome),
    };
    burrow_next { repeat, outcome, why: burrow_str::new(why.as_bytes()) }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_relay_taken(by: *const Relay) -> i64 {
    // SAFETY: c/shim.h.
    let since = unsafe { relay(by.cast_mut()) }.taken_since();
    since.map_or(-1, |since| (page::now() - since) / 1000)
}
