//! Requests between a client and an event loop that are threads here.

use std::ffi::{c_char, c_int, c_void};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::mpsc::{channel, Receiver, Sender, TryRecvError};
use std::sync::Mutex;
use std::thread;

use burrow_abi::*;

use super::pump;

/// What httpd's side of a request is: a socket, and what `burrow_serve` is called with.
#[repr(C)]
struct Server {
    host: *mut c_void,
    socket: UnixStream,
    wakes: Mutex<Sender<u32>>,
    submitted: Mutex<Sender<Submitted>>,
}

/// The loop's side of it.
struct Submitted(*mut c_void, &'static LoopIo, Receiver<u32>);

// SAFETY: the loop's functions may be called on any thread.
unsafe impl Send for Submitted {}

unsafe fn server<'a>(exchange: *mut c_void) -> &'a Server {
    // SAFETY: the tests pass one.
    unsafe { &*exchange.cast::<Server>() }
}

unsafe extern "C" fn read(exchange: *mut c_void, buf: *mut c_char, len: usize) -> isize {
    // SAFETY: see `server`; there is room for that much.
    let (mut socket, into) =
        unsafe { (&server(exchange).socket, std::slice::from_raw_parts_mut(buf.cast(), len)) };
    match socket.read(into) {
        Ok(count) => count as isize,
        Err(error) if error.kind() == ErrorKind::WouldBlock => -2,
        Err(_) => -1,
    }
}

unsafe extern "C" fn send(
    exchange: *mut c_void,
    _head: *const burrow_head,
    body: *const burrow_body,
    _flags: u32,
) -> c_int {
    // SAFETY: as c/shim.h says.
    let (socket, mut data) =
        unsafe { (&server(exchange).socket, slice((*body).data.cast::<u8>(), (*body).len)) };
    while !data.is_empty() {
        let flags = libc::MSG_NOSIGNAL;
        // SAFETY: the data is there.
        match unsafe { libc::send(socket.as_raw_fd(), data.as_ptr().cast(), data.len(), flags) } {
            ..0 if std::io::Error::last_os_error().kind() == ErrorKind::WouldBlock => {
                let mut room = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
                // SAFETY: one of them.
                unsafe { libc::poll(&mut room, 1, -1) };
            }
            ..0 => return -1,
            count => data = &data[count as usize..],
        }
    }
    0
}

unsafe extern "C" fn descriptor(exchange: *mut c_void) -> c_int {
    // SAFETY: see `server`.
    unsafe { server(exchange) }.socket.as_raw_fd()
}

unsafe extern "C" fn submit(submissions: *const Submission, _count: usize) {
    // SAFETY: the pump submits one.
    let Submission { exchange, io, .. } = unsafe { &*submissions };
    let (wakes, receiver) = channel();
    // SAFETY: see `server`; the pump's table is a static.
    let (server, io) = unsafe { (server(*exchange), &**io) };
    *server.wakes.lock().unwrap() = wakes;
    server.submitted.lock().unwrap().send(Submitted(*exchange, io, receiver)).unwrap();
}

unsafe extern "C" fn wake(_app: *mut RuntimeApp, exchange: *mut c_void, events: u32) {
    // SAFETY: see `server`.
    unsafe { server(exchange) }.wakes.lock().unwrap().send(events).unwrap();
}

impl Submitted {
    /// As a loop does behind what it does at a time.
    fn flushed<T>(&self, done: T) -> T {
        // SAFETY: no precondition.
        unsafe { (self.1.flush)() };
        done
    }

    /// Waits for what comes; None: the client is gone.
    fn read(&self, most: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; most];
        loop {
            // SAFETY: there is room for that much.
            match unsafe { self.flushed((self.1.read)(self.0, bytes.as_mut_ptr().cast(), most)) } {
                -2 => assert_ne!(self.2.recv().unwrap() & (READABLE | GONE), 0),
                -1 => return None,
                count => {
                    bytes.truncate(count as usize);
                    return Some(bytes);
                }
            }
        }
    }

    fn send(&self, status: u32, data: &[u8], flags: u32) -> c_int {
        let head = burrow_head { status, content_length: -1, ..Default::default() };
        let head = if status > 0 { &head } else { ptr::null() };
        let body = burrow_body { data: data.as_ptr().cast(), len: data.len(), fd: -1, offset: 0 };
        // SAFETY: both are there.
        unsafe { self.flushed((self.1.send)(self.0, head, &body, flags)) }
    }

    fn finish(self, outcome: burrow_outcome) {
        // SAFETY: once.
        unsafe { (self.1.finish)(self.0, outcome) };
        self.flushed(());
    }
}

/// Serves a request of a client that is a closure by an application that is another one.
fn serve(client: impl FnOnce(UnixStream) + Send, app: impl FnOnce(Submitted) + Send) -> burrow_outcome {
    let (socket, other) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    let (submitted, requests) = channel();
    let connection = socket.try_clone().unwrap();
    let mut server = Server {
        host: ptr::null_mut(),
        socket,
        wakes: Mutex::new(channel().0),
        submitted: Mutex::new(submitted),
    };
    let io = burrow_io { read: None, send: Some(send) };
    let functions = burrow_client { read: Some(read), descriptor: Some(descriptor), suspend: None };
    let runtime: &RuntimeApi = Box::leak(Box::new(RuntimeApi { submit, wake, ..unused::RUNTIME }));
    thread::scope(|scope| {
        scope.spawn(|| client(other));
        scope.spawn(move || app(requests.recv().unwrap()));
        let (request, exchange) = (burrow_request::default(), ptr::from_mut(&mut server).cast());
        // SAFETY: all of them live longer than the call.
        let outcome =
            unsafe { pump::serve(runtime, ptr::null_mut(), &request, &io, &functions, exchange, None) };
        connection.shutdown(Shutdown::Both).unwrap();
        outcome
    })
}

/// What the pump does not call.
mod unused {
    use super::*;

    unsafe extern "C" fn start(_: *const HostApi, _: *const PythonConfig) -> *const c_char {
        unreachable!()
    }
    unsafe extern "C" fn app(
        _: burrow_str,
        _: burrow_str,
        _: burrow_str,
        _: u32,
        _: c_int,
    ) -> *mut RuntimeApp {
        unreachable!()
    }
    unsafe extern "C" fn load(_: *mut RuntimeApp) -> c_int {
        unreachable!()
    }
    unsafe extern "C" fn serve(
        _: *mut RuntimeApp,
        _: *const burrow_request,
        _: *const burrow_io,
        _: *mut c_void,
    ) -> burrow_outcome {
        unreachable!()
    }
    unsafe extern "C" fn stay_attached(_: c_int) {}
    unsafe extern "C" fn interface(_: *const RuntimeApp, _: *const burrow_request) -> c_int {
        unreachable!()
    }
    unsafe extern "C" fn submit(_: *const Submission, _: usize) {}
    unsafe extern "C" fn wake(_: *mut RuntimeApp, _: *mut c_void, _: u32) {}
    unsafe extern "C" fn retire(_: u32) {}
    unsafe extern "C" fn ask(
        _: *mut RuntimeApp,
        _: *const burrow_question,
        _: *const burrow_request,
        _: *mut c_void,
    ) -> burrow_verdict {
        unreachable!()
    }
    unsafe extern "C" fn stop(_: burrow_str) {}

    pub const RUNTIME: RuntimeApi = RuntimeApi {
        abi_version: ABI_VERSION,
        start,
        app,
        load,
        serve,
        stay_attached,
        interface,
        submit,
        wake,
        retire,
        ask,
        stop,
    };
}

#[test]
fn bytes_go_both_ways_at_once() {
    let size = 3_000_000;
    let outcome = serve(
        |mut socket| {
            let mut reader = socket.try_clone().unwrap();
            let sender = thread::spawn(move || {
                socket.write_all(&vec![7; size]).unwrap();
                socket.shutdown(Shutdown::Write).unwrap();
            });
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            sender.join().unwrap();
            assert_eq!(got, [b"begin".to_vec(), vec![7; size]].concat());
        },
        |request| {
            request.send(101, b"begin", 0);
            loop {
                let piece = request.read(10_000).unwrap();
                if piece.is_empty() {
                    break;
                }
                if request.send(0, &piece, 0) == 1 {
                    while request.2.recv().unwrap() & WRITABLE == 0 {}
                }
            }
            request.finish(BURROW_DONE);
        },
    );
    assert_eq!(outcome, BURROW_DONE);
}

#[test]
fn the_body_waits_until_it_is_asked_for_and_then_for_its_reader() {
    let (asked, may_check) = channel();
    let outcome = serve(
        move |mut socket| {
            socket.write_all(&[1; 1000]).unwrap();
            socket.set_nonblocking(true).unwrap();
            may_check.recv().unwrap();
            let mut sent = 1000;
            // A reader that has stopped is sent what is buffered on the way, and no more.
            while let Ok(count) = socket.write(&[1; 100_000]) {
                sent += count;
                assert!(sent < 4_000_000);
                thread::yield_now();
            }
        },
        move |request| {
            assert_eq!(request.read(1000).unwrap().len(), 1000);
            asked.send(()).unwrap();
            request.send(200, b"", BURROW_FLUSH);
            while request.2.recv().unwrap() & GONE == 0 {}
            request.finish(BURROW_DONE);
        },
    );
    assert_eq!(outcome, BURROW_GONE);
}

#[test]
fn a_reader_is_told_where_there_is_something() {
    let (got, seen) = channel();
    let outcome = serve(
        move |mut socket| {
            for _ in 0..20 {
                socket.read_exact(&mut [0]).unwrap();
                got.send(()).unwrap();
            }
            socket.read_exact(&mut [0]).unwrap();
            socket.write_all(b"late").unwrap();
            socket.read_to_end(&mut Vec::new()).unwrap();
        },
        move |request| {
            let mut bytes = [0; 9];
            // SAFETY: there is room for so much.
            let mut read =
                || unsafe { request.flushed((request.1.read)(request.0, bytes.as_mut_ptr().cast(), 9)) };
            let before = read();
            for _ in 0..20 {
                request.send(0, b"a", BURROW_FLUSH);
                seen.recv().unwrap();
            }
            let told = request.2.try_recv();
            request.send(0, b"b", BURROW_FLUSH);
            request.2.recv().unwrap();
            let after = read();
            request.finish(BURROW_DONE);
            assert_eq!((before, told, after), (-2, Err(TryRecvError::Empty), 4));
        },
    );
    assert_eq!(outcome, BURROW_DONE);
}

#[test]
fn a_client_that_leaves_is_noticed_while_nothing_is_exchanged() {
    let outcome = serve(drop, |request| {
        assert_eq!(request.2.recv().unwrap(), GONE);
        assert_eq!(request.send(200, b"late", BURROW_FLUSH), -1);
        assert_eq!(request.read(9), None);
        request.finish(BURROW_FAILED);
    });
    assert_eq!(outcome, BURROW_GONE);
}

#[test]
fn who_is_far_ahead_of_the_client_is_told_to_wait() {
    let (full, may_read) = channel();
    let outcome = serve(
        move |mut socket| {
            may_read.recv().unwrap();
            let mut got = Vec::new();
            socket.read_to_end(&mut got).unwrap();
            assert!(got.iter().all(|&byte| byte == 5));
        },
        move |request| {
            let mut sent = 0;
            while request.send(u32::from(sent == 0) * 200, &[5; 10_000], BURROW_FLUSH) == 0 {
                sent += 10_000;
                thread::yield_now();
                assert!(sent < 4_000_000, "the socket's buffer and ours are full by now");
            }
            full.send(()).unwrap();
            assert_eq!(request.2.recv().unwrap(), WRITABLE);
            assert_eq!(request.send(0, &[5; 10], BURROW_LAST), 0);
            request.finish(BURROW_DONE);
        },
    );
    assert_eq!(outcome, BURROW_DONE);
}
