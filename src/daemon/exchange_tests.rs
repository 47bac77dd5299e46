//! Exchanges between a client and workers that are threads here.

use std::ffi::{c_char, c_int, c_void};
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{mpsc, Arc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use burrow_abi::*;
use burrow_daemon::frame::{self, Header, Hello, Kind, FLUSH, HEADER, LAST};
use burrow_daemon::page::Writer;
use burrow_daemon::{head, request};
use nix::sys::socket::{sendmsg, ControlMessage, MsgFlags};

use super::{serve, Group};
use crate::embedded;
use crate::settings::process_group::ProcessGroup;
use crate::settings::{AppKey, Instance};

/// The client: sends a body, gets an answer.
struct Client {
    body: Vec<u8>,
    /// Bytes at a time; in between there is nothing for a moment.
    piece: usize,
    pauses: bool,
    socket: UnixStream,
    status: u32,
    got: Vec<u8>,
    is_whole: bool,
    flushes: u32,
}

unsafe fn client<'a>(exchange: *mut c_void) -> &'a mut Client {
    // SAFETY: the tests pass one.
    unsafe { &mut *exchange.cast::<Client>() }
}

unsafe extern "C" fn read(exchange: *mut c_void, buf: *mut c_char, len: usize) -> isize {
    // SAFETY: see `client`.
    let client = unsafe { client(exchange) };
    client.pauses = !client.pauses;
    if client.pauses && !client.body.is_empty() {
        return -2;
    }
    let length = client.piece.min(client.body.len()).min(len);
    let rest = client.body.split_off(length);
    // SAFETY: there is room for len bytes.
    unsafe { buf.copy_from_nonoverlapping(client.body.as_ptr().cast(), length) };
    client.body = rest;
    length as isize
}

unsafe extern "C" fn send(
    exchange: *mut c_void,
    head: *const burrow_head,
    body: *const burrow_body,
    flags: u32,
) -> c_int {
    // SAFETY: as c/shim.h says.
    let (client, head, body) = unsafe { (client(exchange), head.as_ref(), &*body) };
    if let Some(head) = head {
        assert_eq!(client.status, 0);
        client.status = head.status;
    }
    if body.fd >= 0 {
        // SAFETY: the receiver's own.
        let mut file = unsafe { File::from_raw_fd(body.fd) };
        file.read_to_end(&mut client.got).unwrap();
    } else if body.len > 0 {
        // SAFETY: as c/shim.h says.
        client.got.extend_from_slice(unsafe { std::slice::from_raw_parts(body.data.cast(), body.len) });
    }
    client.is_whole |= flags & BURROW_LAST != 0;
    client.flushes += u32::from(flags & BURROW_FLUSH != 0);
    0
}

unsafe extern "C" fn descriptor(exchange: *mut c_void) -> c_int {
    // SAFETY: see `client`.
    unsafe { client(exchange) }.socket.as_raw_fd()
}

impl Client {
    /// One that sends this body, and its other end.
    fn new(body: &[u8]) -> (Client, UnixStream) {
        let (socket, mut other) = UnixStream::pair().unwrap();
        other.write_all(b"readable").unwrap();
        let (body, got) = (body.to_vec(), Vec::new());
        (
            Client {
                body,
                piece: 50_000,
                pauses: false,
                socket,
                status: 0,
                got,
                is_whole: false,
                flushes: 0,
            },
            other,
        )
    }

    fn ask(&mut self, group: &Arc<Group>) -> burrow_outcome {
        let key =
            AppKey { target: b"/app.wsgi", callable: b"", process_group: b"shop", group: b"", copies: 0 };
        let app = embedded::App::new(key, Arc::new(embedded::Group::new(b"")));
        let flags = if self.body.is_empty() { BURROW_NO_BODY } else { 0 };
        let request = burrow_request { flags, content_length: -1, ..Default::default() };
        let io = burrow_io { read: None, send: Some(send) };
        let client = burrow_client { read: Some(read), descriptor: Some(descriptor), suspend: None };
        // SAFETY: all of them live longer than the call.
        unsafe { serve(group, &app, &request, &io, &client, std::ptr::from_mut(self).cast(), None) }
    }
}

/// A group that listens.
fn group(options: &[(&'static str, &'static str)]) -> (Arc<Group>, UnixListener, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let group = ProcessGroup::new("shop", options.iter().copied()).unwrap();
    let group = Group::new(&group, &Instance { timeout: Duration::from_secs(1), ..Instance::default() });
    let path = folder.path().join("shop.sock");
    let listener = UnixListener::bind(&path).unwrap();
    group.socket.set(path).unwrap();
    (Arc::new(group), listener, folder)
}

/// A worker's side of a connection.
struct Worker<'a> {
    page: &'a Writer,
    slot: u32,
    link: UnixStream,
}

impl<'a> Worker<'a> {
    fn accept(page: &'a Writer, listener: &UnixListener, slot: u32) -> Self {
        let link = listener.accept().unwrap().0;
        page.open(slot as usize);
        Worker { page, slot, link }
    }

    fn greeting(page: &'a Writer, listener: &UnixListener, slot: u32) -> Self {
        let mut worker = Self::accept(page, listener, slot);
        let descriptors = page.descriptors().map(|descriptor| descriptor.as_raw_fd());
        worker.say_with(Kind::Hello, 0, &Hello { slot }.bytes(), &descriptors);
        worker
    }

    fn say_with(&mut self, kind: Kind, flags: u8, payload: &[u8], descriptors: &[i32]) {
        let header = Header { kind, flags, length: payload.len() }.bytes();
        let slices = [IoSlice::new(&header), IoSlice::new(payload)];
        let rights = [ControlMessage::ScmRights(descriptors)];
        sendmsg::<()>(self.link.as_raw_fd(), &slices, &rights, MsgFlags::empty(), None).unwrap();
    }

    fn say(&mut self, kind: Kind, flags: u8, payload: &[u8]) {
        let header = Header { kind, flags, length: payload.len() }.bytes();
        self.link.write_all(&[&header, payload].concat()).unwrap();
    }

    fn head(&mut self, content_length: i64) {
        let mut payload = Vec::new();
        let head = burrow_head { status: 200, content_length, ..Default::default() };
        // SAFETY: it has no strings.
        unsafe { head::write(&head, &mut payload) };
        self.say(Kind::Head, 0, &payload);
    }

    fn frame(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut header = [0; HEADER];
        self.link.read_exact(&mut header).ok()?;
        let header = Header::read(&header).unwrap();
        let mut payload = vec![0; header.length];
        self.link.read_exact(&mut payload).unwrap();
        Some((header, payload))
    }

    /// Takes a request, without its body. None at the end of the connection.
    fn take(&mut self) -> Option<()> {
        let (header, payload) = self.frame()?;
        assert_eq!(header.kind, Kind::Request);
        request::read(&payload, &mut Vec::new()).expect("a request");
        self.page.take(self.slot as usize, 0, b"GET", b"/");
        Some(())
    }

    fn answer(&mut self, body: &[u8]) {
        self.head(body.len() as i64);
        self.say(Kind::Body, LAST, body);
        self.page.done(self.slot as usize);
    }
}

/// Runs a worker.
fn worker(
    listener: UnixListener,
    run: impl FnOnce(&Writer, &UnixListener) + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let page = Writer::new(1).unwrap();
        run(&page, &listener);
    })
}

#[test]
fn connections_are_used_again() {
    let (group, listener, _folder) = group(&[]);
    let worker = worker(listener, |page, listener| {
        let mut worker = Worker::greeting(page, listener, 0);
        for body in [&b"one"[..], b"two"] {
            worker.take().unwrap();
            worker.answer(body);
        }
        assert!(worker.frame().is_none());
    });
    for expected in [&b"one"[..], b"two"] {
        let (mut client, _other) = Client::new(b"");
        assert_eq!(client.ask(&group), BURROW_DONE);
        assert_eq!((client.status, &client.got[..], client.is_whole), (200, expected, true));
    }
    group.links.close();
    worker.join().unwrap();
}

#[test]
fn bodies_go_both_ways_at_once() {
    let (group, listener, _folder) = group(&[]);
    let worker = worker(listener, |page, listener| {
        let mut worker = Worker::greeting(page, listener, 0);
        worker.take().unwrap();
        worker.head(-1);
        loop {
            let (header, payload) = worker.frame().unwrap();
            worker.say(Kind::Body, header.flags & LAST, &payload);
            if header.flags & LAST != 0 {
                break;
            }
        }
    });
    let body: Vec<u8> = (0..3_000_000u32).map(|number| number as u8).collect();
    let (mut client, _other) = Client::new(&body);
    assert_eq!(client.ask(&group), BURROW_DONE);
    assert!(client.got == body && client.is_whole);
    worker.join().unwrap();
}

#[test]
fn what_no_thread_has_taken_is_sent_again() {
    let (group, listener, _folder) = group(&[]);
    let body = vec![7; 150_000]; // as much as a socket holds that nobody reads, and more than one frame
    let expected = body.clone();
    let worker = worker(listener, move |page, listener| {
        drop(Worker::accept(page, listener, 0)); // as when a worker dies before its HELLO
        drop(Worker::greeting(page, listener, 1));
        let mut read = Worker::greeting(page, listener, 2);
        read.frame().unwrap();
        drop(read);
        let mut worker = Worker::greeting(page, listener, 3);
        worker.take().unwrap();
        let mut got = Vec::new();
        while got.len() < expected.len() {
            got.extend(worker.frame().unwrap().1);
        }
        assert_eq!(got, expected);
        worker.answer(b"four");
    });
    let (mut client, _other) = Client::new(&body);
    assert_eq!(client.ask(&group), BURROW_DONE);
    assert_eq!(client.got, b"four");
    worker.join().unwrap();
}

#[test]
fn what_was_taken_is_not() {
    let (group, listener, _folder) = group(&[]);
    let worker = worker(listener, |page, listener| {
        for slot in 0..2 {
            let mut worker = Worker::greeting(page, listener, slot);
            worker.take().unwrap();
            if slot == 1 {
                worker.head(10);
                worker.say(Kind::Body, 0, b"half");
            }
        }
    });
    let (mut client, _other) = Client::new(b"");
    assert_eq!((client.ask(&group), client.status), (BURROW_DIED, 0));
    let (mut client, _other) = Client::new(b"");
    assert_eq!(client.ask(&group), BURROW_ABORTED);
    assert_eq!((&client.got[..], client.is_whole), (&b"half"[..], false));
    worker.join().unwrap();
}

#[test]
fn what_no_worker_may_say() {
    let (group, listener, _folder) = group(&[]);
    let worker = worker(listener, |page, listener| {
        let mut garbage = Worker::accept(page, listener, 0);
        garbage.link.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let mut liar = Worker::greeting(page, listener, 0);
        liar.take().unwrap();
        liar.head(3);
        liar.say(Kind::Body, LAST, b"four");
        assert!(liar.frame().is_none(), "the connection is closed");
    });
    let (mut client, _other) = Client::new(b"");
    assert_eq!(client.ask(&group), BURROW_DIED);
    let (mut client, _other) = Client::new(b"");
    assert_eq!(client.ask(&group), BURROW_ABORTED);
    assert!(client.got.is_empty());
    worker.join().unwrap();
}

#[test]
fn time_limits() {
    let (group, listener, _folder) = group(&[("queue-timeout", "1"), ("socket-timeout", "1")]);
    let began = Instant::now();
    let (mut client, _other) = Client::new(b"");
    assert_eq!(client.ask(&group), BURROW_TIMEOUT, "nobody accepts");
    assert!(began.elapsed() >= Duration::from_secs(1));
    let silent = worker(listener, |page, listener| {
        drop(listener.accept().unwrap());
        let mut worker = Worker::greeting(page, listener, 0);
        worker.take().unwrap();
        assert!(worker.frame().is_none(), "the connection is closed");
    });
    let (mut client, _other) = Client::new(b"");
    assert_eq!(client.ask(&group), BURROW_TIMEOUT, "nothing is said");
    assert!(began.elapsed() >= Duration::from_secs(2));
    silent.join().unwrap();
}

#[test]
fn nobody_listens() {
    let (group, listener, folder) = group(&[("connect-timeout", "1")]);
    drop(listener);
    let (mut client, _other) = Client::new(b"");
    assert_eq!(client.ask(&group), BURROW_UNAVAILABLE);
    let path = folder.path().join("shop.sock");
    let late = thread::spawn(move || {
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let page = Writer::new(1).unwrap();
        let mut worker = Worker::greeting(&page, &listener, 0);
        worker.take().unwrap();
        worker.answer(b"late");
    });
    let (mut client, _other) = Client::new(b"");
    assert_eq!(client.ask(&group), BURROW_DONE);
    late.join().unwrap();
}

#[test]
fn the_time_to_connect_counts_as_queueing() {
    let (group, listener, _folder) = group(&[("connect-timeout", "60"), ("queue-timeout", "1")]);
    drop(listener);
    let (mut client, _other) = Client::new(b"");
    assert_eq!(client.ask(&group), BURROW_TIMEOUT);
}

#[test]
fn a_client_that_leaves_is_noticed() {
    let (group, listener, _folder) = group(&[("socket-timeout", "60")]);
    let worker = worker(listener, |page, listener| {
        let mut worker = Worker::greeting(page, listener, 0);
        worker.take().unwrap();
        assert!(worker.frame().is_none(), "the connection is closed");
    });
    let (mut client, other) = Client::new(b"");
    drop(other);
    assert_eq!(client.ask(&group), BURROW_GONE);
    worker.join().unwrap();
}

#[test]
fn an_end_can_be_a_frame_of_its_own() {
    let (group, listener, _folder) = group(&[]);
    let worker = worker(listener, |page, listener| {
        let mut worker = Worker::greeting(page, listener, 0);
        worker.take().unwrap();
        worker.head(-1);
        worker.say(Kind::Body, 0, b"all");
        worker.say(Kind::Body, LAST, b"");
    });
    let (mut client, _other) = Client::new(b"");
    assert_eq!(client.ask(&group), BURROW_DONE);
    assert_eq!((&client.got[..], client.is_whole), (&b"all"[..], true));
    worker.join().unwrap();
}

#[test]
fn what_there_is_leaves_when_nothing_follows() {
    let (group, listener, _folder) = group(&[]);
    let worker = worker(listener, |page, listener| {
        let mut worker = Worker::greeting(page, listener, 0);
        worker.take().unwrap();
        worker.head(-1);
        worker.say(Kind::Body, FLUSH, b"soon ");
        thread::sleep(Duration::from_millis(100));
        worker.say(Kind::Body, LAST, b"late");
    });
    let (mut client, _other) = Client::new(b"");
    assert_eq!(client.ask(&group), BURROW_DONE);
    assert_eq!((&client.got[..], client.flushes), (&b"soon late"[..], 1));
    worker.join().unwrap();
}

#[test]
fn files_are_passed_on() {
    let (group, listener, _folder) = group(&[]);
    let worker = worker(listener, |page, listener| {
        let mut worker = Worker::greeting(page, listener, 0);
        worker.take().unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"content").unwrap();
        let reader = File::open(file.path()).unwrap();
        worker.head(7);
        let range = frame::File { offset: 0, length: 7 }.bytes();
        worker.say_with(Kind::File, LAST, &range, &[reader.as_raw_fd()]);
        page.done(0);
        worker.take().unwrap();
        worker.say(Kind::Abort, 0, &[BURROW_UNAVAILABLE as u8]);
    });
    let (mut client, _other) = Client::new(b"");
    assert_eq!((client.ask(&group), &client.got[..]), (BURROW_DONE, &b"content"[..]));
    let (mut client, _other) = Client::new(b"");
    assert_eq!(client.ask(&group), BURROW_UNAVAILABLE, "on the same connection");
    worker.join().unwrap();
}

#[test]
fn a_draining_worker_gets_no_more_and_is_let_go() {
    let (group, listener, _folder) = group(&[]);
    let (drains, drained) = mpsc::channel();
    let worker = worker(listener, move |page, listener| {
        let mut worker = Worker::greeting(page, listener, 0);
        worker.take().unwrap();
        worker.answer(b"one");
        page.drain();
        drains.send(()).unwrap();
        assert!(worker.frame().is_none(), "the idle connection is closed");
        let fresh = Writer::new(1).unwrap();
        let mut worker = Worker::greeting(&fresh, listener, 0);
        worker.take().unwrap();
        worker.say(Kind::GoAway, 0, b"");
        worker.answer(b"two");
        assert!(worker.frame().is_none(), "and what said GOAWAY as well");
    });
    let (mut client, _other) = Client::new(b"");
    assert_eq!((client.ask(&group), &client.got[..]), (BURROW_DONE, &b"one"[..]));
    drained.recv().unwrap();
    let (mut client, _other) = Client::new(b"");
    assert_eq!((client.ask(&group), &client.got[..]), (BURROW_DONE, &b"two"[..]));
    worker.join().unwrap();
}
